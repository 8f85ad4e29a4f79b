//! `rl system check`: what is wrong is named, what can be repaired is, and nothing of the user's is lost.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};

use crate::life::{monitor, pid, state};
use crate::support::host::Need;
use crate::support::{Home, Output, wait_for};

/// As if it had been there for a while: what is new may be in the making.
fn age(path: &Path) {
    let old = SystemTime::now() - Duration::from_secs(100);
    if let Ok(file) = std::fs::File::open(path) {
        file.set_modified(old).unwrap();
    }
}

fn dir(home: &Home, name: &str) -> PathBuf {
    let id = std::fs::read_link(home.store().join("names").join(name)).unwrap();
    home.store().join("containers").join(id)
}

/// It is found, repaired, and then all is well.
#[track_caller]
fn mended(home: &Home, says: &str) -> Output {
    home.rl("system check").fails(1).stdout_has(says);
    let output = home.rl("system check --repair").ok();
    output.stdout_has(says).stdout_has("repaired:");
    home.rl("system check").says("nothing is wrong");
    output
}

#[test]
fn a_store_without_anything_and_one_at_work_are_clean() {
    needs!(Need::Ours);
    let home = Home::new();
    home.rl("system check").says("nothing is wrong");
    home.load_busybox();
    home.rl("create --name made busybox true").ok();
    home.rl("create --rm --name gone busybox true").ok();
    home.rl("run -d --network none --name runs busybox sleep 1000")
        .ok();
    let mut front = home
        .rl("run --rm --network none busybox sh -c")
        .arg("echo up; sleep 1000")
        .spawn();
    front.wait_for_stdout("up");
    for _ in 0..3 {
        home.rl("system check").says("nothing is wrong");
        home.rl("system check --repair --quick")
            .says("nothing is wrong");
    }
    home.rl("start gone").ok();
    assert_eq!(state(&home, "runs")["status"], "running");
    home.rl("rm -f runs made").ok();
}

#[test]
fn what_killed_commands_leave_is_found_and_removed() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let tmp = home.store().join("tmp");
    let id = "f".repeat(64);
    for litter in [
        format!("{id}.new"),
        format!("{id}.removed"),
        "dead".to_owned(),
    ] {
        std::fs::create_dir_all(tmp.join(&litter).join("deep")).unwrap();
        age(&tmp.join(&litter));
    }
    for note in [format!("{id}.container"), "dead.lock".to_owned()] {
        std::fs::write(tmp.join(&note), "").unwrap();
        age(&tmp.join(&note));
    }
    mended(&home, "left by a command that was killed");
    // What is not ours is named, and stays.
    std::fs::write(tmp.join("letter"), "dear").unwrap();
    age(&tmp.join("letter"));
    home.rl("system check --repair")
        .fails(1)
        .stdout_has("nothing that rl has made");
    assert!(tmp.join("letter").exists());
    std::fs::remove_file(tmp.join("letter")).unwrap();
}

#[test]
fn a_dead_socket_is_removed_and_a_living_one_is_not() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --network none --name c busybox sleep 1000")
        .ok();
    let runtime = home
        .program("sh")
        .arg("-c")
        .arg("echo ${RL_RUNTIME_DIR:-$XDG_RUNTIME_DIR/rl}")
        .ok();
    let dead = Path::new(runtime.text()).join("0123456789abcdef");
    drop(UnixListener::bind(&dead).unwrap());
    // A socket cannot be opened, so its time is set by name.
    home.program("touch")
        .args(["-d", "2001-01-01"])
        .arg(&dead)
        .ok();
    mended(&home, "nobody listens on the socket");
    assert!(!dead.exists());
    home.rl("kill c").ok();
    home.rl("wait c").says("137");
    home.rl("rm c").ok();
}

#[test]
fn a_damaged_state_is_set_aside_and_the_container_goes_on() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run --network none --name c busybox sh -c")
        .arg("test -e /mine && echo kept; echo >/mine")
        .ok();
    for damage in ["", "{", "\0\0"] {
        std::fs::write(dir(&home, "c").join("state.json"), damage).unwrap();
        mended(&home, "container `c`");
        assert_eq!(
            std::fs::read_to_string(dir(&home, "c").join("state.json.damaged")).unwrap(),
            damage
        );
        home.rl("start -a c").ok().stdout_has("kept");
    }
    // Nothing of a container is guessed.
    std::fs::write(dir(&home, "c").join("container.json"), "{").unwrap();
    home.rl("system check --repair")
        .fails(1)
        .stdout_has("container.json")
        .stdout_has("rl rm -f");
    home.rl("rm -f c").ok();
    home.rl("system check").says("nothing is wrong");
}

#[test]
fn what_is_written_down_becomes_true_and_names_lead_somewhere() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run -d --network none --name c busybox sleep 1000")
        .ok();
    let process = pid(&home, "c").unwrap();
    kill(monitor(&home, "c").unwrap(), Signal::SIGKILL).unwrap();
    wait_for("the container to end", || {
        kill(process, None).is_err().then_some(())
    });
    mended(&home, "written down as running");
    assert_eq!(state(&home, "c")["status"], "exited");
    let names = home.store().join("names");
    std::fs::remove_file(names.join("c")).unwrap();
    mended(&home, "no name leads to it");
    home.rl("rm c").says("c");
    symlink("f".repeat(64), names.join("ghost")).unwrap();
    home.program("touch")
        .args(["-h", "-d", "2001-01-01"])
        .arg(names.join("ghost"))
        .ok();
    mended(&home, "leads to no container");
}

#[test]
fn a_damaged_image_is_named() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("create --name c busybox true").ok();
    let blobs = home.store().join("images/blobs/sha256");
    let mut sizes: Vec<(u64, PathBuf)> = std::fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.metadata().unwrap().len(), path))
        .collect();
    sizes.sort();
    let largest = sizes.last().unwrap().1.clone();
    let whole = std::fs::read(&largest).unwrap();
    let mut broken = whole.clone();
    broken[whole.len() / 2] ^= 1;
    std::fs::write(&largest, &broken).unwrap();
    home.rl("system check")
        .fails(1)
        .stdout_has(&largest.display().to_string());
    std::fs::write(&largest, &whole).unwrap();
    let layer = std::fs::read_dir(home.store().join("layers"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let aside = home.store().join("aside");
    std::fs::rename(&layer, &aside).unwrap();
    home.rl("system check --quick")
        .fails(1)
        .stdout_has("container `c`: 1 layers of its image are missing")
        .stdout_has("is missing");
    assert!(
        home.rl("system check --json")
            .fails(1)
            .json()
            .as_array()
            .unwrap()
            .len()
            >= 2
    );
    std::fs::rename(&aside, &layer).unwrap();
    home.rl("system check").says("nothing is wrong");
    home.rl("rm c").ok();
}
