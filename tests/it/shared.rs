//! Additional stores: `rl image share` fills one, `additional_stores` of `config.toml` names it, and it is only read.

use std::path::{Path, PathBuf};

use crate::support::Home;
use crate::support::host::Need;

/// Somebody's home with the image `busybox` in the shared directory `srv`, which nobody can write to.
fn shared() -> (Home, PathBuf) {
    let keeper = Home::with_busybox();
    let dir = keeper.path().join("srv");
    keeper
        .rl("image share -q busybox srv")
        .says("docker.io/library/busybox:latest");
    closed(&keeper, true);
    (keeper, dir)
}

fn closed(keeper: &Home, yes: bool) {
    let mode = if yes { "a-w" } else { "u+w" };
    keeper.sh(&format!("chmod -R {mode} srv")).ok();
}

/// A home that knows of `dir`.
fn reader(dir: &Path) -> Home {
    let home = Home::new();
    configure(
        &home,
        &format!("additional_stores = [{:?}]\n", dir.display().to_string()),
    );
    home
}

fn configure(home: &Home, text: &str) {
    home.file("home/.config/rl/config.toml", text);
}

/// All files with size and time.
fn listing(dir: &Path) -> String {
    let output = std::process::Command::new("find")
        .arg(dir)
        .args(["-printf", "%p %s %T@ %m\n"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn an_image_of_an_additional_store_is_run_where_it_lies() {
    needs!(Need::Ours, Need::Writable("/dev/fuse"));
    let (keeper, dir) = shared();
    let before = listing(&dir);
    let home = reader(&dir);
    for pull in ["missing", "never"] {
        home.rl("run --rm --network none --pull")
            .args([
                pull,
                "busybox",
                "sh",
                "-c",
                "id -u; echo new > /bin/x; cat /bin/x",
            ])
            .says("0\nnew");
    }
    // Nothing was unpacked, and there is nothing of it in the user's own store.
    assert!(!home.store().join("layers").exists());
    let id = keeper
        .rl("image inspect -f {{.Id}} busybox")
        .ok()
        .text()
        .trim()
        .to_owned();
    home.rl("image inspect -f {{.Id}} busybox").says(&id);
    home.rl("history -q --no-trunc busybox")
        .ok()
        .stdout_has(&id);
    home.rl("images --format")
        .arg("{{.Repository}} {{.ReadOnly}}")
        .says("busybox true");
    home.rl("images -q --filter readonly=false").says("");
    home.rl("images -q --no-trunc --filter readonly=true")
        .says(&id);
    // A container stays, starts again, and says what it is made of.
    home.rl("run --name kept --network none busybox sh -c")
        .arg("echo x >> /log; cat /log")
        .says("x");
    home.rl("start -a kept").says("x\nx");
    home.rl("inspect -f {{.Image}} kept").says(&id);
    home.rl("diff kept").says("A /log");
    home.rl("rm kept").ok();
    home.rl("rmi busybox")
        .fails(125)
        .stderr_has("is in the additional store")
        .stderr_has("rl --root");
    home.rl("image prune -af").ok();
    home.rl("system check").ok();
    assert_eq!(listing(&dir), before);
    closed(&keeper, false);
}

#[test]
fn what_needs_layers_has_them_from_the_additional_store() {
    needs!(Need::Ours);
    let (keeper, dir) = shared();
    let home = reader(&dir);
    // What is not one file there, as skopeo leaves it, is loaded and unpacked.
    closed(&keeper, false);
    keeper.sh("rm -r srv/squash").ok();
    home.rl("run --rm --network none --pull never busybox echo here")
        .ok()
        .stdout_is("here")
        .stderr_has("loading `busybox:latest` from");
    home.rl("images --format {{.ReadOnly}}").says("false");
    let other = reader(&dir);
    other.rl("save -o box.tar busybox").ok();
    let third = Home::new();
    third.rl("load -i").arg(other.path().join("box.tar")).ok();
    let id = |home: &Home| home.rl("images -q --no-trunc").ok().text().to_owned();
    assert_eq!(id(&third), id(&keeper));
}

#[test]
fn skopeo_reads_and_writes_an_additional_store() {
    needs!(Need::Ours, Need::Program("skopeo"));
    let (keeper, dir) = shared();
    closed(&keeper, false);
    let name = "docker.io/library/busybox:latest";
    keeper
        .program("skopeo")
        .args(["inspect", "--format", "{{.Name}}{{.Os}}"])
        .arg(format!("oci:{}:{name}", dir.join("images").display()))
        .says("linux");
    std::fs::create_dir_all(keeper.path().join("other")).unwrap();
    keeper
        .program("skopeo")
        .args(["copy", "--quiet"])
        .arg(format!("oci:{}:{name}", dir.join("images").display()))
        .arg(format!(
            "oci:{}:example.org/box:1",
            keeper.path().join("other/images").display()
        ))
        .ok();
    let home = reader(&keeper.path().join("other"));
    home.rl("run --rm --network none example.org/box:1 echo by skopeo")
        .says("by skopeo");
}

#[test]
fn ones_own_image_comes_first_and_a_missing_store_is_told_of() {
    needs!(Need::Ours, Need::Writable("/dev/fuse"));
    let (keeper, dir) = shared();
    let home = reader(&dir);
    home.rl("create --name made busybox").ok();
    home.rl("cp")
        .arg(home.file("mark", "own"))
        .arg("made:/mark")
        .ok();
    // Of a file there are no layers to put one on: the user's own image has them.
    home.rl("commit made busybox").fails(125);
    home.rl("rm made").ok();
    home.rl("load -i")
        .arg(crate::support::image::busybox())
        .ok();
    home.rl("create --name made busybox").ok();
    home.rl("cp")
        .arg(home.file("mark", "own"))
        .arg("made:/mark")
        .ok();
    home.rl("commit -q made busybox").ok();
    home.rl("run --rm --network none busybox cat /mark")
        .says("own");
    let gone = keeper.path().join("gone");
    configure(
        &home,
        &format!(
            "additional_stores = [{:?}, {:?}]\n",
            gone.display().to_string(),
            dir.display().to_string()
        ),
    );
    home.rl("rm made").ok();
    home.rl("rmi busybox").ok();
    home.rl("run --rm --network none busybox echo there")
        .ok()
        .stdout_is("there")
        .stderr_has("gone`: reading")
        .stderr_has("going on without it");
    // One damaged list is no reason to stop.
    closed(&keeper, false);
    keeper.file("gone/images/index.json", "{");
    home.rl("run --rm --network none busybox echo there")
        .ok()
        .stdout_is("there")
        .stderr_has("is damaged");
    for (text, expected) in [
        (
            "additional_stores = ['srv']",
            "config.toml:1:23: additional_stores: `srv` is no absolute path",
        ),
        ("additional_stories = []", "unknown field"),
    ] {
        configure(&home, text);
        home.rl("run --rm busybox true")
            .fails(125)
            .stderr_has(expected);
        home.rl("images").fails(125).stderr_has(expected);
    }
}

#[test]
fn a_shared_store_is_kept_by_its_keeper() {
    needs!(Need::Ours, Need::Writable("/dev/fuse"));
    let (keeper, dir) = shared();
    closed(&keeper, false);
    // Others can read it whatever the umask was.
    keeper.rl("tag busybox example.org/two:2").ok();
    keeper
        .sh("umask 077; $RL image share -q example.org/two:2 busybox new")
        .ok()
        .stdout_is("example.org/two:2\ndocker.io/library/busybox:latest");
    let modes = keeper.sh("find new -printf '%y%m\\n' | sort -u").ok();
    assert_eq!(modes.lines(), ["d755", "f644"]);
    let new = keeper.path().join("new");
    let home = reader(&new);
    home.rl("run --rm --network none example.org/two:2 echo two")
        .says("two");
    // The last name of it takes its file with it.
    let rmi = |name: &str| keeper.rl("--root").arg(&new).args(["rmi", name]).ok();
    rmi("example.org/two:2");
    assert_eq!(std::fs::read_dir(new.join("squash")).unwrap().count(), 1);
    rmi("busybox");
    assert_eq!(std::fs::read_dir(new.join("squash")).unwrap().count(), 0);
    home.rl("images -q").says("");
    keeper.rl("--root").arg(&dir).args(["system", "check"]).ok();
    keeper.file("file", "x");
    keeper
        .rl("image share -q busybox file")
        .fails(125)
        .stderr_has("file");
    keeper.rl("image share busybox").fails(125);
}
