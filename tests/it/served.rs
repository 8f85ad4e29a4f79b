//! A store on a file system that a program serves and that keeps nobody else's files: as NFS and sshfs are for homes.

use std::path::PathBuf;

use crate::support::Home;
use crate::support::host::Need;
use crate::support::image::{Image, Layer};

/// bindfs over a directory of the home's, until this is dropped.
struct Served {
    at: PathBuf,
}

impl Served {
    fn new(home: &Home, options: &[&str]) -> Self {
        let (real, at) = (home.dir("real"), home.dir("served"));
        home.program("bindfs")
            .args(["--no-allow-other"])
            .args(options)
            .arg(real)
            .arg(&at)
            .ok();
        Self { at }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let left = std::process::Command::new("fusermount")
            .arg("-uz")
            .arg(&self.at)
            .status();
        assert!(left.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Busybox with a file that is another's.
fn image() -> Image {
    Image::on_busybox(vec![Layer::new().owned("etc/theirs", 33, 44, "theirs")])
}

fn a_life(options: &[&str], says: &str) {
    needs!(
        Need::Ours,
        Need::Program("bindfs"),
        Need::Program("fuse-overlayfs"),
        Need::Writable("/dev/fuse")
    );
    let mut home = Home::new();
    let served = Served::new(&home, options);
    home.set("RL_ROOT", served.at.join("store"));
    home.load(&image(), "theirs");
    let output = home
        .rl("run --rm --network none theirs sh -c")
        .arg("cat /etc/theirs; echo; echo new > /etc/mine; cat /etc/mine; id -u")
        .ok();
    output.stderr_has(says);
    output.stdout_has("theirs\nnew\n0\n");
    home.rl("run -d --name c --network none theirs sleep 1000")
        .ok();
    home.rl("exec c sh -c").arg("echo more > /etc/more").ok();
    home.rl("commit c kept").ok();
    home.rl("rm -f c").ok();
    home.rl("run --rm --network none kept cat /etc/more")
        .says("more");
    home.rl("system check").says("nothing is wrong");
    home.rl("system reset --force").ok();
    let left: Vec<_> = std::fs::read_dir(home.path().join("real/store"))
        .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect())
        .unwrap_or_default();
    let left: Vec<_> = left.iter().filter(|name| *name != "images").collect();
    assert!(left.is_empty(), "{left:?}");
    drop(served);
}

#[test]
fn a_store_that_keeps_no_foreign_owners_works_with_one_id() {
    needs!(Need::Ranges);
    a_life(&["--chown-ignore"], "RL-F01");
}

#[test]
fn a_store_without_attributes_works_as_well() {
    needs!(Need::Ranges);
    a_life(&["--chown-ignore", "--xattr-none"], "RL-F01");
}

#[test]
fn no_ranges_and_a_served_store_works_as_well() {
    needs!(Need::NoRanges);
    a_life(&["--chown-deny", "--xattr-none"], "RL-S01");
}
