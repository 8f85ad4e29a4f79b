//! `rl cp`: files into a container, out of it, and between two; also while the container is hostile.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use crate::support::host::{Need, find};
use crate::support::{Home, wait_for};

const TREE: &str = "mkdir -p /d/sub; echo hi >/d/f; chown 5:6 /d/f; chmod 4750 /d/f; ln -s /etc/passwd /d/link; \
     ln /d/f /d/sub/hard; echo x >/d/s; truncate -s 200M /d/sparse; mkfifo /d/fifo; touch /ready; sleep 1000";

fn run_tree(home: &Home, options: &str) {
    home.rl(&format!(
        "run -d --name c --network none {options} busybox sh -c"
    ))
    .arg(TREE)
    .ok();
    ready(home, "c");
}

fn ready(home: &Home, name: &str) {
    wait_for("the container's files", || {
        let looked = home
            .rl(&format!("exec {name} test -e /ready"))
            .run()
            .status
            .success();
        looked.then_some(())
    });
}

fn drivers() -> Vec<&'static str> {
    let mut drivers = vec!["auto", "copy"];
    if find("fuse-overlayfs").is_some() && Need::Writable("/dev/fuse").check().is_ok() {
        drivers.push("fuse-overlayfs");
    }
    drivers
}

#[test]
fn a_tree_comes_out_as_it_is_and_belongs_to_the_user() {
    needs!(Need::Ours, Need::Ranges);
    for driver in drivers() {
        let mut home = Home::with_busybox();
        home.set("RL_STORAGE_DRIVER", driver);
        run_tree(&home, "");
        for state in ["running", "stopped"] {
            let out = home.path().join(state);
            home.rl("cp c:/d").arg(&out).ok();
            let file = out.join("f").symlink_metadata().unwrap();
            assert_eq!(std::fs::read_to_string(out.join("f")).unwrap(), "hi\n");
            // No setuid bit of a container's gives others the user's rights.
            assert_eq!(file.mode() & 0o7777, 0o750, "{driver} {state}");
            assert_eq!(file.uid(), nix::unistd::getuid().as_raw());
            // A fresh fuse-overlayfs knows of one name of a file until it has met the others.
            if driver != "fuse-overlayfs" || state == "running" {
                let hard = out.join("sub/hard").symlink_metadata().unwrap();
                assert_eq!(file.ino(), hard.ino(), "{driver} {state}");
            }
            let link = std::fs::read_link(out.join("link")).unwrap();
            assert_eq!(link.to_str(), Some("/etc/passwd"));
            let sparse = out.join("sparse").symlink_metadata().unwrap();
            assert_eq!(sparse.len(), 200 << 20);
            // fuse-overlayfs does not tell where holes are.
            assert!(
                driver == "fuse-overlayfs" || sparse.blocks() < 2048,
                "{driver} {state}: holes are filled"
            );
            let listed = home
                .sh("\"$RL\" cp c:d - | tar -tv --numeric-owner")
                .env("RL", crate::support::rl_binary())
                .ok();
            listed.stdout_has("-rwsr-x--- 5/6").stdout_has("d/sub/hard");
            if state == "running" {
                home.rl("stop -t 0 c").ok();
            }
        }
        home.rl("rm -f c").ok();
    }
}

#[test]
fn destinations_are_chosen_as_docker_does() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    run_tree(&home, "");
    let tree = home.dir("t");
    std::fs::write(tree.join("a"), "a").unwrap();
    let file = home.file("file", "content");
    let (tree, file) = (tree.to_str().unwrap(), file.to_str().unwrap());
    let content = format!("{tree}/.");
    let slash = format!("{file}/");
    for (from, to, look) in [
        (file, "c:/new", "/new"),
        (file, "c:/tmp", "/tmp/file"),
        (file, "c:tmp/", "/tmp/file"),
        (file, "c:/d/link", "/etc/passwd"), // a link at the end is followed, inside
        (file, "c:/etc/hosts", "/etc/hosts"), // mounted: written in place
        (tree, "c:/fresh", "/fresh/a"),
        (tree, "c:/fresh/", "/fresh/t/a"),
        (tree, "c:/fresh", "/fresh/t/a"),
        (&content, "c:/d", "/d/a"),
    ] {
        home.rl("cp").args([from, to]).ok();
        home.rl("exec c test -f").arg(look).ok();
    }
    home.rl("exec c cat /etc/passwd").says("content");
    for (from, to, message) in [
        (file, "c:/no/such", "there is no directory `c:/no`"),
        (file, "c:/nodir/", "there is no directory `c:/nodir/`"),
        (file, "c:/new/", "`c:/new/` is not a directory"),
        (file, "c:/d/sub/../../d", ""),
        (tree, "c:/new", "is a file"),
        (&slash, "c:/tmp", "is not a directory"),
        ("/no/such/file", "c:/tmp", "there is no `/no/such/file`"),
        ("c:/nothing", "here", "there is no `c:/nothing`"),
        (file, "other", "neither end"),
        (file, "nobody:/x", "nobody"),
        (file, "c:", "names no path"),
        ("-", "c:/new", "is not a directory"),
    ] {
        let copy = home.rl("cp").args([from, to]).stdin("");
        if message.is_empty() {
            copy.ok();
        } else {
            copy.fails(125).stderr_has(message);
        }
    }
    // A directory stays one, and a file too.
    home.rl("exec c mkdir -p /mixed/file /other").ok();
    home.rl("cp")
        .args([file, "c:/mixed"])
        .fails(125)
        .stderr_has("is a directory");
    home.rl("exec c touch /other/t").ok();
    home.rl("cp")
        .args([tree, "c:/other"])
        .fails(125)
        .stderr_has("is no directory");
    home.rl("rm -f c").ok();
}

#[test]
fn files_inside_are_roots_unless_owners_are_kept() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    run_tree(&home, "");
    let file = home.file("file", "x");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let link = home.path().join("link");
    symlink(&file, &link).unwrap();
    home.rl("cp").arg(&file).arg("c:/root-s").ok();
    home.rl("cp -a").arg(&file).arg("c:/kept").ok();
    home.rl("cp").arg(&link).arg("c:/as-link").ok();
    home.rl("cp -L").arg(&link).arg("c:/as-file").ok();
    let me = nix::unistd::getuid();
    home.rl("exec c stat -c")
        .args(["%u %a %F", "/root-s", "/kept", "/as-file"])
        .says(&format!(
            "0 640 regular file\n{me} 640 regular file\n0 640 regular file"
        ));
    home.rl("exec c readlink /as-link")
        .says(file.to_str().unwrap());
    // Through standard input: owners only with --archive, and links on the way are the container's.
    home.rl("exec c ln -s /tmp /way").ok();
    let script = "tar -c --owner=7 --group=8 --transform 's,^,way/,' file | \"$RL\" cp -a - c:/";
    home.sh(script)
        .cwd(home.path())
        .env("RL", crate::support::rl_binary())
        .ok();
    home.rl("exec c stat -c %u:%g /tmp/file").says("7:8");
    home.rl("rm -f c").ok();
}

#[test]
fn stopped_created_and_read_only_containers_have_their_volumes() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let data = home.dir("data");
    let file = home.file("file", "x");
    let volume = format!("{}:/v", data.display());
    home.rl("create --name k -v")
        .arg(&volume)
        .arg("busybox")
        .ok();
    home.rl("create --name ro --read-only -v")
        .arg(&volume)
        .arg("busybox")
        .ok();
    home.rl("cp").arg(&file).arg("k:/v/one").ok();
    home.rl("cp").arg(&file).arg("ro:/v/two").ok();
    assert!(data.join("one").exists() && data.join("two").exists());
    home.rl("cp")
        .arg(&file)
        .arg("ro:/x")
        .fails(125)
        .stderr_has("read-only");
    home.rl("cp").arg(&file).arg("k:/in-the-root").ok();
    home.rl("cp k:/in-the-root k:/v/three")
        .fails(125)
        .stderr_has("does not run");
    home.rl("cp k:/in-the-root ro:/v/three").ok();
    home.rl("run -d --name r --read-only --network none busybox sleep 1000")
        .ok();
    home.rl("cp")
        .arg(&file)
        .arg("r:/x")
        .fails(125)
        .stderr_has("read-only");
    home.rl("cp k:/in-the-root r:/dev/shm/y").ok();
    home.rl("exec r cat /dev/shm/y").says("x");
    home.rl("rm -f r").ok();
}

#[test]
fn no_ranges_and_files_are_still_copied() {
    needs!(Need::Ours, Need::NoRanges);
    for driver in drivers() {
        let mut home = Home::with_busybox();
        home.set("RL_STORAGE_DRIVER", driver);
        let file = home.file("file", "through");
        home.rl("run -d --name c --network none busybox sh -c")
            .arg("touch /ready; sleep 1000")
            .ok();
        ready(&home, "c");
        home.rl("cp").arg(&file).arg("c:/x").ok();
        home.rl("exec c cat /x").says("through");
        home.rl("stop -t 0 c").ok();
        home.rl("cp c:/x back").cwd(home.path()).ok();
        assert_eq!(std::fs::read(home.path().join("back")).unwrap(), b"through");
        home.rl("commit -q c i:1").ok();
        home.rl("run --rm --network none i:1 cat /x")
            .says("through");
        home.rl("rm -f c").ok();
    }
}

/// The container swaps a directory for a link to the host's, for one that leads up, and (privileged) mounts over it,
/// all the time while it is copied from and to.
#[test]
fn a_hostile_container_leads_no_copy_out_of_itself() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let canary = home.dir("canary");
    std::fs::write(canary.join("file"), "of the host").unwrap();
    let payload = home.dir("payload");
    std::fs::write(payload.join("file"), "payload").unwrap();
    let host = canary.to_str().unwrap();
    let up = format!("../../../../../../../../../..{host}");
    let swap = "cd /w; touch /ready; while :; do mv d e; ln -s \"$0\" d; rm d; mv e d; mv d e; ln -s \"$1\" d; rm d; mv e d; done";
    let mount = "cd /w; mkdir o; echo inner >o/file; touch /ready; while :; do mount --bind o d; umount d; \
         mount --bind /proc d; umount d; done";
    for (name, option, script) in [("s", "", swap), ("m", "--privileged", mount)] {
        home.rl(&format!(
            "run -d --name {name} --network none {option} busybox sh -c"
        ))
        .arg(format!("mkdir -p /w/d; echo inner >/w/d/file; {script}"))
        .args([host, &up])
        .ok();
        ready(&home, name);
        let rounds = if name == "s" { 40 } else { 15 };
        let (mut read, mut written) = (0, 0);
        for round in 0..rounds {
            let out = home.path().join(format!("out-{name}-{round}"));
            for path in ["/w/d", "/w/d/.", "/w/d/file"] {
                let copied = home.rl("cp").arg(format!("{name}:{path}")).arg(&out).run();
                read += u32::from(copied.status.success());
                for file in [out.join("file"), out.clone(), out.join("d/file")] {
                    // What is a link stays one; it is not followed here either.
                    let regular = file.symlink_metadata().is_ok_and(|meta| meta.is_file());
                    let content = std::fs::read_to_string(&file).unwrap_or_default();
                    let through = out.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
                    assert!(through || !regular || content != "of the host", "{file:?}");
                }
                // A directory may deny entry.
                home.sh("[ -L \"$OUT\" ] || chmod -R u+rwX \"$OUT\" 2>/dev/null; rm -rf \"$OUT\"")
                    .env("OUT", &out)
                    .ok();
            }
            let into = home
                .rl("cp")
                .arg(format!("{}/.", payload.display()))
                .arg(format!("{name}:/w/d"))
                .run();
            let file = home
                .rl("cp")
                .arg(payload.join("file"))
                .arg(format!("{name}:/w/d/file"))
                .run();
            written += u32::from(into.status.success()) + u32::from(file.status.success());
        }
        assert!(
            read > 0 && written > 0,
            "{name}: {read} read, {written} written"
        );
        let names: Vec<_> = std::fs::read_dir(&canary)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["file"], "{name}");
        assert_eq!(
            std::fs::read_to_string(canary.join("file")).unwrap(),
            "of the host"
        );
        home.rl("rm -f -t 0").arg(name).run();
        home.rl("rm -f").arg(name).ok();
    }
}
