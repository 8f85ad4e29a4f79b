//! `kill -9` at any moment: nothing that was there is lost, and the next command works.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::host::Need;
use crate::support::image::{Compression, Image, Layer, digest};
use crate::support::{Home, registry, wait_for};

/// Different numbers every time, without a crate for it.
pub fn random(below: u64) -> u64 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    u64::from(nanos.wrapping_mul(2_654_435_761) >> 4) % below
}

/// `RL_TEST_ROUNDS`, or a few.
pub fn rounds(few: u64) -> u64 {
    std::env::var("RL_TEST_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(few)
}

/// Every blob is what its name says, and every unpacked layer is finished.
pub fn verify(home: &Home) {
    let blobs = home.store().join("images/blobs/sha256");
    for entry in std::fs::read_dir(blobs).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        // Being written when the command was killed; see `litter`.
        if !name.starts_with('.') {
            let bytes = std::fs::read(entry.path()).unwrap();
            assert_eq!(digest(&bytes), format!("sha256:{name}"));
        }
    }
    for entry in std::fs::read_dir(home.store().join("layers"))
        .into_iter()
        .flatten()
    {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert!(
                path.join("fs").is_dir() && path.join("layer.json").exists(),
                "{} is half-made",
                path.display()
            );
        }
    }
    if let Ok(index) = std::fs::read(home.store().join("images/index.json")) {
        let _: serde_json::Value = serde_json::from_slice(&index).unwrap();
    }
}

#[test]
fn a_pull_that_is_killed_can_be_repeated() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let name = format!("{}:big", registry::fresh_name(&home));
    let layout = home.dir("layout");
    let layers = (0..4)
        .map(|layer| {
            (0..60_u32).fold(Layer::new(), |tar, file| {
                let noise: Vec<u8> = (0..40_000_u32)
                    .map(|n| (n.wrapping_mul(2_654_435_761 + layer + file) >> 11).to_le_bytes()[0])
                    .collect();
                tar.file(&format!("f{layer}-{file}"), 0o644, noise)
            })
        })
        .collect();
    Image::on_busybox(layers).oci_layout(&layout, "big", Compression::Gzip);
    registry::push(&home, &layout, "big", &name, &[]);
    // How long it takes when nobody disturbs it.
    let undisturbed = Home::new();
    let started = std::time::Instant::now();
    undisturbed.rl("pull -q").arg(&name).ok();
    let whole = u64::try_from(started.elapsed().as_micros())
        .unwrap()
        .max(2000);

    home.load_busybox();
    let mut killed = 0;
    for round in 0..rounds(25) {
        let mut pull = home.rl("pull -q").arg(&name).spawn();
        std::thread::sleep(Duration::from_micros(random(whole)));
        if !pull.ended() {
            pull.signal(Signal::SIGKILL);
            killed += 1;
        }
        pull.wait();
        verify(&home);
        if round % 8 == 7 {
            home.rl("run --rm --network none busybox echo fine")
                .says("fine");
        }
        if home.rl("images -q").arg(&name).run().text() != "" {
            home.rl("rmi").arg(&name).ok();
        }
    }
    assert!(killed > 5, "only {killed} pulls were killed in time");
    home.rl("pull -q").arg(&name).ok();
    verify(&home);
    home.rl("run --rm --network none")
        .args([&name, "sh", "-c", "ls / | grep -c ^f"])
        .says("240");
    assert_eq!(
        litter(&home),
        "",
        "nothing that the killed ones left behind stays for ever"
    );
}

/// Files that no command will ever need again.
pub fn litter(home: &Home) -> String {
    let store = home.store();
    let find = format!(
        "cd {0} && find tmp images -mindepth 1 ! -name '*lock*' \\( -path 'tmp/*' -o -name '.*' \\)",
        store.display()
    );
    home.sh(&find).ok().text().to_owned()
}

/// Processes whose environment has this home in it.
pub fn processes(home: &Home) -> Vec<String> {
    let marker = format!("HOME={}", home.path().join("home").display());
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment)
                .split('\0')
                .any(|variable| variable == marker)
        })
        .map(|entry| std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default())
        .collect()
}

#[test]
fn a_killed_command_takes_its_container_along() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for options in ["", "--init", "--network none", "-i"] {
        let pid = home.path().join("pid");
        let _ = std::fs::remove_file(&pid); // of the round before
        let mut running = home
            .rl(&format!("run --rm {options} --pidfile"))
            .arg(&pid)
            .args(["busybox", "sh", "-c", "sleep 1000 & echo ready; sleep 1000"])
            .spawn();
        running.wait_for_stdout("ready");
        let pid = wait_for("the pid file", || {
            std::fs::read_to_string(&pid)
                .ok()
                .filter(|text| !text.trim().is_empty())
        });
        running.signal(Signal::SIGKILL);
        running.wait();
        wait_for("the container to end", || {
            (!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists()).then_some(())
        });
        wait_for("everything else to end", || {
            processes(&home).is_empty().then_some(())
        });
    }
    home.rl("run --rm --network none busybox echo fine")
        .says("fine");
}

#[test]
fn a_start_that_is_killed_leaves_nothing_running() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for _ in 0..40 {
        let running = home.rl("run --rm busybox sleep 1000").spawn();
        std::thread::sleep(Duration::from_micros(random(60_000)));
        running.signal(Signal::SIGKILL);
        running.wait();
    }
    wait_for("everything to end", || {
        processes(&home).is_empty().then_some(())
    });
    home.rl("run --rm busybox echo fine").says("fine");
    wait_for("what they left to go", || {
        home.rl("run --rm --network none busybox true").ok();
        let left = std::fs::read_dir(home.store().join("containers"))
            .into_iter()
            .flatten()
            .count();
        (left == 0).then_some(())
    });
}

#[test]
fn a_name_whose_container_was_never_described_is_given_up() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run --network none --name kept busybox true").ok();
    // What a kill leaves between the claim of a name and the container's place, and in the middle of a removal.
    let store = home.store();
    for (id, what) in [("made", "new"), ("removed", "removed")] {
        let half = store.join("tmp").join(format!("{id}.{what}"));
        std::fs::create_dir(&half).unwrap();
        std::fs::write(half.join("lock"), "").unwrap();
        // One that is new may be about to take its lock.
        let half = std::fs::File::open(&half).unwrap();
        half.set_modified(std::time::UNIX_EPOCH).unwrap();
        std::fs::write(store.join("tmp").join(format!("{id}.container")), "").unwrap();
        std::os::unix::fs::symlink(id, store.join("names").join(format!("name_of_{id}"))).unwrap();
    }
    home.rl("run --rm --network none busybox true").ok();
    let names: Vec<_> = std::fs::read_dir(store.join("names"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["kept"]);
}

/// Copies in and out, commits and execs, killed at any moment, of a container that runs and of one that does not.
#[test]
fn a_copy_a_commit_or_an_exec_that_is_killed_leaves_nothing() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let big = home.file("big", vec![7_u8; 8 << 20]);
    let fill = "head -c 20000000 /dev/urandom >/big; touch /ready; sleep 1000";
    home.rl("run -d --name c --network none busybox sh -c")
        .arg(fill)
        .ok();
    wait_for("the container's file", || {
        let looked = home.rl("exec c test -e /ready").run();
        looked.status.success().then_some(())
    });
    home.rl("create --name k busybox").ok();
    home.rl("cp").arg(&big).arg("k:/big").ok();
    let before = processes(&home).len();
    let mut hits = 0;
    for round in 0..24 {
        let name = if random(2) == 0 { "c" } else { "k" };
        let (command, most) = match round % 4 {
            0 => (
                home.rl("cp")
                    .arg(format!("{name}:/big"))
                    .arg(home.path().join("out")),
                120,
            ),
            1 => (home.rl("cp").arg(&big).arg(format!("{name}:/copy")), 120),
            2 => (home.rl(&format!("commit -q {name} made:{round}")), 900),
            _ => (home.rl("exec c sleep 1000"), 60),
        };
        let mut running = command.spawn();
        std::thread::sleep(Duration::from_millis(random(most)));
        if !running.ended() {
            hits += 1;
            running.signal(Signal::SIGKILL);
        }
        running.wait();
        wait_for("the end of all that worked for it", || {
            (processes(&home).len() <= before).then_some(())
        });
        verify(&home);
    }
    assert!(hits > 6, "only {hits} of 24 were killed");
    home.rl("cp").arg(&big).arg("k:/copy").ok();
    home.rl("cp k:/copy").arg(home.path().join("last")).ok();
    assert!(std::fs::read(home.path().join("last")).unwrap() == vec![7_u8; 8 << 20]);
    home.rl("commit -q k made:last").ok();
    home.rl("run --rm --network none made:last test -s /copy")
        .ok();
    home.rl("rm -f -t 0 c").run();
    home.rl("rm -f c k").ok();
    assert_eq!(litter(&home), "");
}
