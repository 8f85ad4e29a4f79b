//! `rl commit`: the image is what the container was.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::cgroups::group;
use crate::support::host::{Need, find};
use crate::support::{Home, Running, wait_for};

const CHANGES: &str = "echo new >/new; chown 5:6 /new; rm /etc/group; rm -r /home; mkdir /home; echo x >/home/y; \
     ln -s /nowhere /link; ln /new /home/hard; truncate -s 50M /sparse; chmod 700 /tmp";
const LOOK: &str = "cat /new; stat -c %u:%g /new; [ \"$0\" != auto ] || stat -c %h /new; ls /home; readlink /link; stat -c %s /sparse; \
     stat -c %a /tmp; test -e /etc/group || echo gone";
const SEEN: &str = "new\n5:6\n2\nhard\ny\n/nowhere\n52428800\n700\ngone";

#[test]
fn an_image_is_what_the_container_was() {
    needs!(Need::Ours, Need::Ranges);
    let mut drivers = vec!["auto", "copy"];
    if find("fuse-overlayfs").is_some() && Need::Writable("/dev/fuse").check().is_ok() {
        drivers.push("fuse-overlayfs");
    }
    for driver in drivers {
        let mut home = Home::with_busybox();
        home.set("RL_STORAGE_DRIVER", driver);
        home.rl("run --name c --network none -v /vol busybox sh -c")
            .arg(format!("{CHANGES}; echo secret >/vol/secret"))
            .ok();
        home.rl("diff c")
            .ok()
            .stdout_has("D /etc/group")
            .stdout_has("D /home/app")
            .stdout_lacks("A /bin");
        for (options, name) in [("", "i:1"), ("-s", "i:squashed"), ("-f docker", "i:docker")] {
            home.rl(&format!("commit -q {options} c {name}")).ok();
            home.rl(&format!("run --rm --network none {name} sh -c"))
                // The image has the link, but a copied root splits it, and a fresh fuse-overlayfs knows of one
                // name of a file until it has met the others.
                .args([LOOK, driver])
                .says(&if driver == "auto" {
                    SEEN.to_owned()
                } else {
                    SEEN.replace("2\nhard", "hard")
                });
            home.rl(&format!(
                "run --rm --network none {name} test ! -e /vol/secret"
            ))
            .says("");
        }
        // Once more over it: a container of the image has no changes, and its image is the same tree.
        home.rl("run --name again --network none i:1 true").ok();
        home.rl("diff again").says("");
        // A copied root is the container's own: what it deleted stays deleted when it starts again.
        home.rl("start -a c").run();
        home.rl("diff c").ok().stdout_has("D /etc/group");
    }
}

#[test]
fn the_containers_configuration_and_changes_are_the_images() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("create --name c --network none -e A=1 -w /tmp -u 0:0 --label l=v --stop-signal INT busybox sleep 5").ok();
    let file = home.path().join("id");
    let id = home
        .rl("commit -q -a me -m hello -c")
        .args([
            "CMD [\"true\"]",
            "-c",
            "ENV B=2",
            "-c",
            "ONBUILD RUN x",
            "-c",
            "HEALTHCHECK --interval=5s CMD true",
            "--iidfile",
        ])
        .arg(&file)
        .args(["c", "made:1"])
        .ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), id.text().trim());
    let image = &home.rl("inspect made:1").ok().json()[0];
    let config = &image["Config"];
    assert_eq!(config["Cmd"], serde_json::json!(["true"]));
    let env = config["Env"].as_array().unwrap();
    assert!(
        env.contains(&"A=1".into()) && env.contains(&"B=2".into()),
        "{env:?}"
    );
    assert_eq!(config["WorkingDir"], "/tmp");
    assert_eq!(config["Labels"]["l"], "v");
    assert_eq!(image["Author"], "me");
    home.rl("events --since 1h --until 0s")
        .ok()
        .stdout_has("commit");
    for (words, message) in [
        ("commit nobody", "nobody"),
        ("commit -f tar c", "--format `tar`"),
        ("commit -c RUN c", "change `RUN`"),
        ("commit c UPPER", "UPPER"),
    ] {
        home.rl(words).fails(125).stderr_has(message);
    }
}

/// Counts in its root and in a volume, and has something that takes a while to read. A count comes by a new name: whoever
/// looks finds the one before or this one, never an empty file.
const COUNT: &str = "dd if=/dev/urandom of=/middle bs=1M count=48 2>/dev/null; i=0; \
     while :; do i=$((i+1)); echo $i >/f; mv /f /first; sleep 0.02; echo $i >/s; mv /s /second; \
     echo $i >/c/n; mv /c/n /c/now; done";

/// `rl commit`, stopped while the container stands.
fn commit_under_way(home: &Home, group: &Path, name: &str) -> Running {
    let running = home.rl(&format!("commit -q c {name}")).spawn();
    wait_for("the container to stand", || is_frozen(group).then_some(()));
    running.signal(Signal::SIGSTOP);
    assert!(is_frozen(group), "it was read before it could be stopped");
    running
}

fn is_frozen(group: &Path) -> bool {
    std::fs::read_to_string(group.join("cgroup.freeze")).unwrap() == "1\n"
}

#[test]
fn a_container_stands_while_it_is_read_and_goes_on_whatever_happens() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let dir = home.dir("counted");
    home.rl("run -d --name c --network none -v")
        .arg(format!("{}:/c", dir.display()))
        .args(["busybox", "sh", "-c", COUNT])
        .ok();
    let file = dir.join("now");
    let now = || std::fs::read_to_string(&file).unwrap_or_default();
    let goes_on = |what: &str| {
        let before = now();
        wait_for(what, || (now() != before).then_some(()));
    };
    wait_for("the first count", || file.exists().then_some(()));
    let group = group(&home, "c");
    for (signal, what) in [
        (Signal::SIGCONT, "a count after the image"),
        (Signal::SIGKILL, "a count after kill -9"),
        (Signal::SIGINT, "a count after Ctrl-C"),
    ] {
        let commit = commit_under_way(&home, &group, "i:1");
        wait_for("the last process to stand", || {
            let events = std::fs::read_to_string(group.join("cgroup.events")).unwrap();
            events.contains("frozen 1").then_some(())
        });
        let before = now();
        home.rl("ps -a").ok(); // as long as that takes
        assert_eq!(now(), before);
        commit.signal(signal);
        commit.signal(Signal::SIGCONT);
        let done = commit.wait();
        if signal == Signal::SIGCONT {
            done.stderr_is_empty();
        }
        goes_on(what);
        assert!(!is_frozen(&group));
    }
    // Both from one moment: at most one step apart, though much is read between them.
    let read = "run --rm --network none i:1 sh -c";
    home.rl(read)
        .arg("case $(( $(cat /first) - $(cat /second) )) in 0 | 1) echo near ;; *) cat /first /second ;; esac")
        .says("near");
    home.rl("pause c").ok();
    home.rl("commit -q c i:2").ok();
    assert!(is_frozen(&group));
    home.rl("rm -f c").ok();
}

#[test]
fn what_was_checked_exposed_and_kept_outside_is_the_images() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let dir = home.dir("bound");
    home.rl("create --name c --network none --expose 53/udp -v /data -v named:/named --health-retries 7 --health-interval 5s -v")
        .arg(format!("{}:/bound", dir.display()))
        .args(["--health-cmd", "test -e /well", "busybox", "true"])
        .ok();
    home.rl("commit -q c i:1").ok();
    let config =
        |image: &str| home.rl(&format!("inspect {image}")).ok().json()[0]["Config"].clone();
    let first = config("i:1");
    assert_eq!(
        first["Healthcheck"],
        serde_json::json!({"Test": ["CMD-SHELL", "test -e /well"], "Interval": 5_000_000_000_u64, "Retries": 7})
    );
    assert_eq!(first["ExposedPorts"], serde_json::json!({"53/udp": {}}));
    assert_eq!(first["Volumes"], serde_json::json!({"/data": {}}));
    // What comes from the image goes into the next one as it was, and what was switched off stays off.
    home.rl("create --name same --network none i:1 true").ok();
    home.rl("commit -q same i:2").ok();
    assert_eq!(config("i:2"), first);
    home.rl("create --name off --network none --no-healthcheck i:1 true")
        .ok();
    home.rl("commit -q off i:3").ok();
    assert_eq!(
        config("i:3")["Healthcheck"],
        serde_json::json!({"Test": ["NONE"]})
    );
    home.rl("create --name never --network none --health-interval disable i:1 true")
        .ok();
    home.rl("commit -q never i:4")
        .ok()
        .stderr_has("every 30 seconds");
    home.rl("rm -f -v c same off never").ok();
}

#[test]
fn other_tools_read_a_committed_image() {
    needs!(Need::Ours, Need::Program("skopeo"));
    let home = Home::with_busybox();
    home.rl("run --name c --network none busybox sh -c")
        .arg("echo new >/new; rm /etc/group")
        .ok();
    home.rl("commit -q c peer:1").ok();
    let store = home.store().join("images");
    let from = format!("oci:{}:docker.io/library/peer:1", store.display());
    let path = home.path().join("archive");
    let archive = format!("oci-archive:{}", path.display());
    let seen = home.program("skopeo").args(["inspect", &from]).ok().json();
    assert_eq!(seen["Layers"].as_array().unwrap().len(), 2);
    // Copying checks every digest.
    home.program("skopeo")
        .args(["copy", "--quiet", &from, &archive])
        .ok();
    let again = Home::new();
    again.rl("load -i").arg(&path).ok();
    let id = again
        .rl("images -q --no-trunc")
        .ok()
        .text()
        .trim()
        .to_owned();
    again
        .rl("run --rm --network none")
        .arg(id)
        .args(["sh", "-c", "cat /new; ls /etc"])
        .ok()
        .stdout_has("new")
        .stdout_lacks("group");
}
