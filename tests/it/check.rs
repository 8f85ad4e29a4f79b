//! `rl system check`: what is wrong is named, what can be repaired is, and nothing of the user's is lost.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};

use crate::life::{monitor, pid, state};
use crate::support::host::Need;
use crate::support::image::{Compression, Image, Layer};
use crate::support::{Home, Output, registry, wait_for};

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
        .stdout_has("container c, image busybox:latest")
        .stdout_has("is missing");
    let found = home.rl("system check --json").fails(1).json();
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found[0]["Repaired"], false);
    std::fs::rename(&aside, &layer).unwrap();
    home.rl("system check").says("nothing is wrong");
    home.rl("rm c").ok();
}

/// The blobs of a store, the smallest first.
fn blobs(home: &Home) -> Vec<PathBuf> {
    let all = std::fs::read_dir(home.store().join("images/blobs/sha256")).unwrap();
    let mut all: Vec<PathBuf> = all.map(|entry| entry.unwrap().path()).collect();
    all.sort_by_key(|path| path.metadata().unwrap().len());
    all
}

#[test]
fn a_damaged_or_missing_blob_is_fetched_again() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let name = format!("{}/busybox", registry::plain());
    home.rl("pull -q").arg(&name).ok();
    let all = blobs(&home);
    assert_eq!(all.len(), 3, "manifest, configuration and layer");
    for path in &all {
        let whole = std::fs::read(path).unwrap();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        for content in [Some(&changed[..]), Some(&whole[1..]), None] {
            match content {
                Some(content) => std::fs::write(path, content).unwrap(),
                None => std::fs::remove_file(path).unwrap(),
            }
            mended(&home, &path.display().to_string()).stdout_has("it is fetched again");
            assert!(std::fs::read(path).unwrap() == whole);
        }
    }
    // Several at once, the manifest that names the others among them.
    for path in &all {
        std::fs::write(path, "nothing").unwrap();
    }
    home.rl("images")
        .ok()
        .stderr_has("is damaged")
        .stderr_has("skipped");
    mended(&home, "it is fetched again");
    home.rl("run --rm --pull never --network none")
        .arg(&name)
        .args(["echo", "well"])
        .says("well");
    // Where the registry does not have it, all stays as it is.
    let gone = registry::fresh_name(&home);
    let layout = home.dir("layout");
    Image::on_busybox(vec![Layer::new().file("only", 0o644, "here")]).oci_layout(
        &layout,
        "one",
        Compression::Gzip,
    );
    registry::push(&home, &layout, "one", &gone, &[]);
    home.rl("pull -q").arg(&gone).ok();
    let index = home.store().join("images/index.json");
    let elsewhere = std::fs::read_to_string(&index).unwrap();
    let elsewhere = elsewhere.replace(&gone, &format!("{gone}-not"));
    std::fs::write(&index, elsewhere).unwrap();
    let own = blobs(&home).into_iter().find(|path| !all.contains(path));
    let own = own.unwrap();
    std::fs::write(&own, "nothing").unwrap();
    home.rl("system check --repair")
        .fails(1)
        .stdout_has(&own.display().to_string())
        .stdout_has("to fix:");
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "nothing");
}

#[test]
fn what_was_never_at_a_registry_is_not_looked_for_there() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let largest = blobs(&home).pop().unwrap();
    let whole = std::fs::read(&largest).unwrap();
    std::fs::write(&largest, &whole[1..]).unwrap();
    home.rl("system check --repair")
        .fails(1)
        .stdout_has("make or load it again")
        .stdout_has("rl rmi busybox");
    // Its tree is whole, and it runs.
    home.rl("run --rm --network none busybox echo on")
        .says("on");
    std::fs::write(&largest, whole).unwrap();
    home.rl("system check").says("nothing is wrong");
}

#[test]
fn a_changed_tree_is_found_and_made_anew_when_nothing_stands_on_it() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let layers = std::fs::read_dir(home.store().join("layers")).unwrap();
    let layer = layers.last().unwrap().unwrap().path();
    let file = layer.join("fs/bin/busybox");
    assert!(file.exists(), "the only layer");
    let changes = [
        // One bit, and nothing that `ls -l` shows.
        "cp -p busybox b && printf x | dd of=busybox bs=1 seek=5000 conv=notrunc 2>&1 && touch -r b busybox && rm b",
        "rm busybox",
        "echo mine > added",
        "chmod 700 busybox",
        "touch busybox",
        "mv busybox b; mkdir busybox",
        "ln -sf busybax sh",
        "setfattr -n user.mine -v x busybox",
        "rm -r ../../fs",
        "rm ../../layer.json",
        "echo '{' > ../../layer.json",
    ];
    for change in changes {
        home.program("sh")
            .arg("-c")
            .arg(format!(
                "cd {}/fs/bin && {change} || [ $? = 1 ]",
                layer.display()
            ))
            .ok();
        home.rl("system check")
            .fails(1)
            .stdout_has("image busybox:latest: layer");
        mended(&home, "it is unpacked again");
        home.rl("run --rm --network none busybox echo on")
            .says("on");
    }
    home.rl("run -d --name c --network none busybox sleep 1000")
        .ok();
    std::fs::write(layer.join("fs/bin/mine"), "").unwrap();
    home.rl("system check --repair")
        .fails(1)
        .stdout_has("`/bin/mine` does not belong there")
        .stdout_has("rl stop c");
    home.rl("exec c echo on").says("on");
    home.rl("rm -f c").ok();
    mended(&home, "image busybox:latest: layer");
}

#[test]
fn layers_by_an_older_rl_are_whole_no_ranges() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let layer = Layer::new()
        .owned("etc/owned", 7, 8, "text")
        .owned("etc/roots", 0, 0, "text")
        .device("etc/device", 1, 3);
    home.load(&Image::on_busybox(vec![layer]), "old");
    home.rl("system check").says("nothing is wrong");
    let layers = std::fs::read_dir(home.store().join("layers")).unwrap();
    let layer = layers
        .map(|entry| entry.unwrap().path())
        .find(|layer| layer.join("fs/etc/owned").exists())
        .expect("the layer");
    let etc = |line: &str| {
        home.program("sh")
            .args(["-ec", line])
            .cwd(layer.join("fs/etc"))
            .ok()
    };
    let note = "getfattr --only-values -n user.containers.override_stat";
    etc(&format!("{note} owned")).stdout_is("7:8:0644:file");
    // It wrote no kind, noted root's files too, and left devices out.
    etc("setfattr -n user.containers.override_stat -v 7:8:0644 owned
         setfattr -n user.containers.override_stat -v 0:0:0644 roots; rm device");
    let described = layer.join("layer.json");
    let mut text = std::fs::read_to_string(&described).unwrap();
    assert!(text.contains("\"skipped_devices\":0"), "{text}");
    text = text.replace("\"skipped_devices\":0", "\"skipped_devices\":1");
    std::fs::write(&described, text).unwrap();
    home.rl("system check").says("nothing is wrong");
    // Another owner is damage, and so is another file that is missing.
    etc("setfattr -n user.containers.override_stat -v 7:9:0644 owned");
    mended(&home, "`/etc/owned` has other attributes");
    etc("rm roots");
    mended(&home, "`/etc/roots` is missing");
}

#[test]
fn what_is_of_no_image_is_found_and_can_be_pruned() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("create --name c busybox true").ok();
    let (store, mine) = (home.store(), "a".repeat(64));
    let leave = || {
        let blob = store.join("images/blobs/sha256").join(&mine);
        std::fs::write(&blob, "of nobody").unwrap();
        let layer = store.join("layers").join(&mine);
        std::fs::create_dir_all(layer.join("fs/deep")).unwrap();
        move || assert!(!blob.exists() && !layer.exists())
    };
    let gone = leave();
    mended(&home, "1 layers and 1 blobs are of no image");
    gone();
    let gone = leave();
    home.rl("image prune -f --filter until=1h").ok();
    home.rl("system check --quick").fails(1);
    home.rl("image prune -f")
        .ok()
        .stdout_has(&format!("deleted: sha256:{mine}"));
    gone();
    // What a removed image leaves for its containers is theirs.
    home.rl("rmi -f busybox").ok();
    home.rl("image prune -f").ok();
    home.rl("system check").says("nothing is wrong");
    home.rl("start -a c").ok();
    home.rl("rm c").ok();
    home.rl("system check").fails(1);
    // Whoever is at work may be about to list it.
    let lock = store.join("tmp/work.lock");
    let held = std::fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    home.rl("system check").says("nothing is wrong");
    home.rl("image prune -f").ok();
    drop(held);
    home.rl("image prune -f").ok().stdout_has("deleted:");
    home.rl("system check").says("nothing is wrong");
}

#[test]
fn a_damaged_image_does_not_stop_commands_about_others() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("tag busybox good:1").ok();
    home.rl("create --name c busybox true").ok();
    home.rl("commit -q c bad:1").ok();
    let id = home.rl("images -q --no-trunc bad").ok().text().to_owned();
    let config = id.trim().trim_start_matches("sha256:").to_owned();
    std::fs::write(home.store().join("images/blobs/sha256").join(config), "{").unwrap();
    for words in [
        "images",
        "system df",
        "info",
        "image prune -f",
        "system df -v",
    ] {
        home.rl(words)
            .ok()
            .stderr_has("rl: image bad:1")
            .stderr_has("is damaged: skipped");
    }
    home.rl("images --format {{.Repository}}")
        .ok()
        .stdout_has("good");
    home.rl("rmi bad:1").ok();
    home.rl("images").ok().stderr_is_empty();
}
