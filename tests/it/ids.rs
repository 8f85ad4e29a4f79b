//! User and group ids: the ladder from ranges to one id, and `--userns`.

use std::os::unix::fs::MetadataExt as _;

use crate::support::host::{Need, range};
use crate::support::image::{Image, Layer};
use crate::support::{Home, wait_for};

fn map(output: &crate::support::Output) -> Vec<Vec<u32>> {
    output
        .lines()
        .iter()
        .map(|line| {
            line.split_whitespace()
                .map(|word| word.parse().unwrap())
                .collect()
        })
        .collect()
}

#[test]
fn root_inside_is_the_user_and_the_rest_their_range() {
    needs!(Need::Ranges);
    let home = Home::with_busybox();
    let (first, count) = range().unwrap();
    let output = home.rl("run --rm busybox cat /proc/self/uid_map").ok();
    assert_eq!(
        map(&output),
        [
            vec![0, nix::unistd::getuid().as_raw(), 1],
            vec![1, first, count]
        ]
    );
    let output = home.rl("run --rm busybox cat /proc/self/gid_map").ok();
    assert_eq!(map(&output)[0], [0, nix::unistd::getgid().as_raw(), 1]);
    assert_eq!(map(&output)[1][2], count);
}

/// Who is root there may trace whom it sees there.
#[test]
fn only_programs_are_in_its_user_namespace() {
    needs!(Need::Ranges);
    let home = Home::with_busybox();
    let script = "own=$(readlink /proc/self/ns/user)
        for process in /proc/[0-9]*; do
            [ \"$(readlink $process/ns/user)\" = \"$own\" ] && cat $process/comm
        done; true";
    let output = home
        .rl("run --rm --network none --pid host --privileged busybox sh -c")
        .arg(script)
        .ok();
    assert_eq!(output.lines(), ["sh"]);
}

/// A container that runs by itself, by its first process's number.
fn detached(home: &Home, name: &str) -> String {
    home.rl(&format!(
        "run -d --network none --name {name} busybox sleep 1000"
    ))
    .ok();
    pid_of(home, name)
}

fn pid_of(home: &Home, name: &str) -> String {
    let pid = home.rl("inspect -f {{.State.Pid}}").arg(name).ok();
    pid.text().trim().to_owned()
}

/// What starts beside them have of the containers of this home.
fn links(home: &Home) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(home.path().join("run/rl")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.extension() == Some("ids".as_ref()))
        .collect()
}

/// The user namespace of a process, and the one that this was made in.
fn namespaces(home: &Home, pid: &str) -> (String, String) {
    let seen = home
        .program("lsns")
        .args(["-n", "-t", "user", "-o", "NS,PNS", "-p", pid])
        .ok();
    let text = seen.text();
    let mut words = text.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn who_starts_beside_a_container_has_the_same_ids_without_the_helpers() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    let entries = || links(&home).len();
    let first = detached(&home, "a");
    let (own, shared) = namespaces(&home, &first);
    let maps = |pid: &str| {
        ["uid_map", "gid_map", "setgroups"]
            .map(|file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap())
    };
    let second = detached(&home, "b");
    let (others, its) = namespaces(&home, &second);
    assert_eq!(its, shared);
    assert_ne!(others, own);
    assert_eq!(maps(&second), maps(&first));
    home.rl("exec b sh -c")
        .arg("touch /x && chown 1000:1000 /x")
        .ok();
    let (range, _) = range().unwrap();
    let meta = std::fs::metadata(format!("/proc/{second}/root/x")).unwrap();
    assert_eq!(meta.uid(), range + 999);
    // It outlives the one that it came from.
    home.rl("rm -f a").ok();
    let (_, its) = namespaces(&home, &detached(&home, "c"));
    assert_eq!(its, shared);
    home.rl("run --rm --network none busybox cat /proc/self/setgroups")
        .says("allow");
    assert_eq!(entries(), 2);
    home.rl("restart -t 0 b").ok();
    assert_eq!(namespaces(&home, &pid_of(&home, "b")).1, shared);
    // The last one takes it along.
    home.rl("rm -f b c").ok();
    assert_eq!(entries(), 0);
}

#[test]
fn other_ids_and_other_limits_are_not_shared() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    let (_, shared) = namespaces(&home, &detached(&home, "a"));
    home.rl("run -d --network none --name kept --userns keep-id busybox sleep 1000")
        .ok();
    assert_ne!(namespaces(&home, &pid_of(&home, "kept")).1, shared);
    home.rl("exec kept id -u")
        .says(&nix::unistd::getuid().to_string());
    // The kernel keeps this limit with the namespace, for all that is below it.
    home.program("bash")
        .arg("-c")
        .arg("ulimit -Su $(( $(ulimit -Hu | sed s/unlimited/100000/) - 1 )); \"$0\" run -d --network none --name limited busybox sleep 1000")
        .arg(crate::support::rl_binary())
        .ok();
    assert_ne!(namespaces(&home, &pid_of(&home, "limited")).1, shared);
    home.rl("rm -f a kept limited").ok();
}

/// Those that have theirs from one place are strangers all the same, to one who sees them and is root.
#[test]
fn who_shares_where_the_ids_are_from_has_no_rights_over_the_other() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    for name in ["a", "b"] {
        let free = "--network none --pid host --privileged";
        home.rl(&format!("run -d {free} --name {name} busybox sleep 1000"))
            .ok();
    }
    for (from, to) in [("a", "b"), ("b", "a")] {
        let pid = pid_of(&home, to);
        let script = format!(
            "for entry in ns/user ns/mnt root cwd exe; do readlink /proc/{pid}/$entry && echo $entry; done
             nsenter -t {pid} -U true && echo entered
             cat /proc/{pid}/environ && echo environ
             test -d /proc/{pid} && echo seen"
        );
        home.rl(&format!("exec --privileged {from} sh -c"))
            .arg(&script)
            .says("seen");
    }
    let [first, second] = ["a", "b"].map(|name| namespaces(&home, &pid_of(&home, name)));
    assert_eq!(first.1, second.1);
    home.rl("rm -f a b").ok();
}

#[test]
fn an_entry_that_leads_to_other_ids_is_not_believed() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    detached(&home, "a");
    let right = std::fs::read_link(&links(&home)[0]).unwrap();
    let (_, ids) = right.to_str().unwrap().split_once(' ').unwrap();
    home.rl("rm -f a").ok();
    home.rl("run -d --network none --name kept --userns keep-id busybox sleep 1000")
        .ok();
    let wrong = &links(&home)[0];
    std::fs::remove_file(wrong).unwrap();
    let pid = pid_of(&home, "kept");
    std::os::unix::fs::symlink(format!("{pid} {ids}"), wrong).unwrap();
    let output = home
        .rl("run --rm --network none busybox cat /proc/self/uid_map")
        .ok();
    let (first, count) = range().unwrap();
    let own = nix::unistd::getuid().as_raw();
    assert_eq!(map(&output), [vec![0, own, 1], vec![1, first, count]]);
    assert_eq!(output.stderr, "");
    home.rl("rm -f kept").ok();
}

#[test]
fn what_a_killed_one_leaves_goes_with_the_next_start() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    let pid = detached(&home, "a");
    let monitor = crate::life::monitor(&home, "a").unwrap();
    nix::sys::signal::kill(monitor, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_for("the end of the container", || {
        (!std::fs::exists(format!("/proc/{pid}")).unwrap()).then_some(())
    });
    assert_eq!(links(&home).len(), 1);
    home.rl("run --rm --network none busybox true").ok();
    assert_eq!(links(&home).len(), 0);
}

#[test]
fn files_of_the_image_belong_to_whom_the_image_says() {
    needs!(Need::Ranges);
    let home = Home::new();
    let layer = Layer::new()
        .owned("theirs", 1000, 2000, "x")
        .owned("far", 65_534, 65_534, "y");
    home.load(&Image::on_busybox(vec![layer]), "owned:latest");
    home.rl("run --rm owned stat -c %u:%g /theirs /far /etc")
        .says("1000:2000\n65534:65534\n0:0");
    home.rl("run --rm -u 1000 owned sh -c")
        .arg("echo more >> /theirs && cat /theirs; echo z 2>/dev/null >> /far || echo refused")
        .says("xmore\nrefused");
}

#[test]
fn ownership_can_be_changed_inside() {
    needs!(Need::Ranges);
    let home = Home::with_busybox();
    let shared = home.dir("shared");
    let (first, _) = range().unwrap();
    home.rl("run --rm -v")
        .arg(format!("{}:/data", shared.display()))
        .args([
            "busybox",
            "sh",
            "-c",
            "touch /data/f && chown 5:6 /data/f && stat -c %u:%g /data/f && chmod 4755 /data/f",
        ])
        .says("5:6");
    assert_eq!(
        std::fs::metadata(shared.join("f")).unwrap().uid(),
        first + 4
    );
}

#[test]
fn keep_id_keeps_the_users_own_ids() {
    needs!(Need::Ranges);
    let home = Home::with_busybox();
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let shared = home.dir("shared");
    home.rl("run --rm --userns keep-id -v")
        .arg(format!("{}:/data", shared.display()))
        .args([
            "busybox",
            "sh",
            "-c",
            "echo $(id -u):$(id -g); touch /data/f; stat -c %u:%g /data/f",
        ])
        .says(&format!("{uid}:{gid}\n{uid}:{gid}"));
    assert_eq!(
        std::fs::metadata(shared.join("f")).unwrap().uid(),
        uid.as_raw()
    );
    home.rl("run --rm --userns keep-id -u root busybox id -u")
        .says("0");
}

#[test]
fn keep_id_takes_other_ids_inside() {
    needs!(Need::Ranges);
    let home = Home::with_busybox();
    home.rl("run --rm --userns keep-id:uid=200,gid=210 busybox sh -c")
        .arg("echo $(id -u):$(id -g)")
        .says("200:210");
}

#[test]
fn keep_id_goes_with_fuse_overlayfs() {
    needs!(
        Need::Ours,
        Need::Ranges,
        Need::Program("fuse-overlayfs"),
        Need::Writable("/dev/fuse")
    );
    let mut home = Home::with_busybox();
    home.set("RL_STORAGE_DRIVER", "fuse-overlayfs");
    home.rl("run --rm --userns keep-id:uid=1000,gid=1001 busybox sh -c")
        .arg("id -un; echo x >~/x && cat ~/x")
        .says("app\nx");
}

#[test]
fn an_unknown_userns_is_refused() {
    let home = Home::with_busybox();
    home.rl("run --rm --userns sideways busybox true")
        .fails(125)
        .stderr_has("sideways");
}

#[test]
fn without_the_helpers_one_id_is_left_and_that_is_said() {
    needs!(Need::Ours, Need::Ranges);
    let mut home = Home::new();
    home.without_programs(&["newuidmap", "newgidmap"]);
    home.load_busybox();
    let output = home.rl("run --rm busybox cat /proc/self/uid_map").ok();
    assert_eq!(map(&output), [[0, nix::unistd::getuid().as_raw(), 1]]);
    output.stderr_has("newuidmap");
    assert!(output.stderr.lines().count() <= 3, "{output:?}");
}

/// Run as the user rl-nosub by scripts/test.
mod no_ranges {
    use super::*;

    #[test]
    fn no_ranges_means_one_id_and_one_line_that_says_so() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        let output = home
            .rl("run --rm busybox sh -c")
            .arg("cat /proc/self/uid_map /proc/self/setgroups")
            .ok();
        assert_eq!(
            output.text().split_whitespace().collect::<Vec<_>>(),
            ["0", &nix::unistd::getuid().to_string(), "1", "deny"]
        );
        output.stderr_has("/etc/subuid");
        let first = output
            .stderr
            .lines()
            .filter(|line| line.starts_with("rl:"))
            .count();
        assert_eq!(first, 1, "{output:?}");
    }

    #[test]
    fn no_ranges_is_said_once_by_a_run_that_pulls_and_not_by_rmi() {
        needs!(Need::Ours, Need::NoRanges, Need::Registry);
        let home = Home::new();
        let image = format!("{}/busybox", crate::support::registry::plain());
        let output = home
            .rl("run --rm --network none")
            .arg(&image)
            .arg("true")
            .ok();
        assert_eq!(
            output.stderr.matches("/etc/subuid").count(),
            1,
            "{output:?}"
        );
        let output = home.rl("rmi").arg(&image).ok();
        assert!(!output.stderr.contains("/etc/subuid"), "{output:?}");
    }

    #[test]
    fn no_ranges_and_alpine_still_runs() {
        needs!(Need::Ours, Need::NoRanges, Need::Alpine);
        let home = Home::with_alpine();
        home.rl("run --rm alpine apk --version")
            .ok()
            .stdout_has("apk-tools");
        home.rl("run --rm alpine id -u").says("0");
        home.rl("run --rm alpine sh -c")
            .arg("stat -c %u /etc/passwd; echo x > /root/x; cat /root/x")
            .says("0\nx");
    }

    #[test]
    fn no_ranges_and_a_registry_image_with_other_owners_is_unpacked() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::new();
        let layer = Layer::new().owned("theirs", 1000, 2000, "x");
        home.load(&Image::on_busybox(vec![layer]), "owned:latest");
        home.rl("run --rm owned cat /theirs").says("x");
    }

    #[test]
    fn no_ranges_and_another_user_is_the_one_that_there_is() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        let show = "id -u; id -g; stat -c %u:%g /etc/passwd; echo x >/tmp/x && cat /tmp/x";
        for (user, ids) in [
            ("1000", "1000\n1001\n1000:1001\nx"),
            ("app", "1000\n1001\n1000:1001\nx"),
            ("70000:5", "70000\n5\n70000:5\nx"),
        ] {
            home.rl(&format!("run --rm -u {user} busybox sh -c"))
                .arg(show)
                .ok()
                .stdout_is(ids)
                .stderr_has("other owners inside the container are not kept apart");
        }
        home.rl("run --rm -u nobody-knows busybox true")
            .fails(125)
            .stderr_has("no user `nobody-knows`");
        home.rl("run --rm --userns keep-id:uid=7,gid=8 -u 1000 busybox id")
            .fails(125)
            .stderr_has("only one user id is available, 7");
    }

    #[test]
    fn no_ranges_and_an_image_with_a_user_is_run_and_worked_on() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::new();
        let layer = Layer::new().owned("theirs", 1000, 2000, "x");
        let image = Image::on_busybox(vec![layer]).config(serde_json::json!({"User": "app"}));
        home.load(&image, "app:latest");
        home.rl("run -d --name c app sh -c")
            .arg("echo new >/new; sleep 1000")
            .ok();
        wait_for("the program's file", || {
            home.rl("exec c cat /new")
                .run()
                .stdout
                .starts_with("new")
                .then_some(())
        });
        home.rl("exec c id -u").says("1000");
        home.rl("exec -u root c id -u")
            .fails(125)
            .stderr_has("only one user id is available, 1000")
            .stderr_has("rl run -u 0");
        let mine = home.file("mine", "mine");
        home.rl("cp").arg(&mine).arg("c:/mine").ok();
        home.rl("stop -t 0 c").ok();
        home.rl("cp").arg(&mine).arg("c:/more").ok();
        home.rl("diff c")
            .ok()
            .stdout_has("A /new")
            .stdout_has("A /more");
        home.rl("export c -o c.tar").ok();
        home.sh("tar --numeric-owner -tvf c.tar theirs etc/passwd new | awk '{ print $2 }'")
            .says("0/0\n0/0\n1000/2000");
        home.rl("commit c made").ok();
        home.rl("start c").ok();
        home.rl("exec c cat /mine /more").says("minemine");
        home.rl("rm -f c").ok();
        home.rl("run --rm made sh -c")
            .arg("id -un; cat /new /mine")
            .says("app\nnew\nmine");
    }

    #[test]
    fn no_ranges_and_another_user_goes_with_every_driver() {
        needs!(
            Need::Ours,
            Need::NoRanges,
            Need::Program("fuse-overlayfs"),
            Need::Writable("/dev/fuse")
        );
        for driver in ["overlay", "fuse-overlayfs", "copy"] {
            let mut home = Home::with_busybox();
            home.set("RL_STORAGE_DRIVER", driver);
            home.rl("run -d --name c -u app busybox sleep 1000").ok();
            let mine = home.file("mine", "mine");
            home.rl("cp").arg(&mine).arg("c:/home/app/mine").ok();
            home.rl("exec c sh -c")
                .arg("id -un; cat ~/mine && rm ~/mine && echo && echo x >~/x && cat ~/x")
                .says("app\nmine\nx");
            home.rl("rm -f c").ok();
        }
    }

    #[test]
    fn no_ranges_and_exit_codes_and_volumes_are_as_ever() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        let shared = home.dir("shared");
        home.rl("run --rm -v")
            .arg(format!("{}:/data", shared.display()))
            .args(["busybox", "sh", "-c", "echo x > /data/f; exit 9"])
            .fails(9);
        assert_eq!(
            std::fs::metadata(shared.join("f")).unwrap().uid(),
            nix::unistd::getuid().as_raw()
        );
    }
}
