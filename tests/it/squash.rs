//! `rl run ./FILE`: a squashfs, or a SIF file with one in it, is run where it lies. Both are made here by `mksquashfs`.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::machines::as_user;
use crate::support::host::Need;
use crate::support::{Home, image, rl_binary, wait_for};

/// What reads and writes squash files. `/dev/fuse` is what serves them.
const NEEDS: [Need; 4] = [
    Need::Ours,
    Need::Program("mksquashfs"),
    Need::Program("squashfuse"),
    Need::Writable("/dev/fuse"),
];

/// With `squashfuse`, and with our own reader where that is not installed.
fn with_both(home: &mut Home, mut check: impl FnMut(&mut Home)) {
    check(home);
    home.without_programs(&["squashfuse", "squashfuse_ll"]);
    check(home);
}

macro_rules! needs_squash {
    () => {
        needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    };
}

/// A squash file of busybox's image, everything root's but `/owned`, which is 5:6's.
fn squash(home: &Home) -> PathBuf {
    let file = home.path().join("box.sqsh");
    home.sh(
        "mkdir tree && cd tree && $RL create --name tree busybox && $RL export tree | tar x --no-same-owner && $RL rm tree && mkdir -p .singularity.d/env && \
         echo given > data && echo 'export FROM_ENV=sif' > .singularity.d/env/90-environment.sh && \
         printf '#!/bin/sh\\necho \"run $FROM_ENV: $*\"\\n' > .singularity.d/runscript && chmod 755 .singularity.d/runscript && \
         cd .. && echo theirs > owned && tar cf all.tar --owner=0 --group=0 -C tree . && \
         tar rf all.tar --owner=5 --group=6 --mode=640 owned && mksquashfs - box.sqsh -tar -quiet -no-progress < all.tar && \
         chmod 400 box.sqsh",
    )
    .ok();
    file
}

/// A SIF file: header, descriptors, and this squashfs as the primary partition, of the file system `kind`.
fn sif(home: &Home, squash: &Path, kind: u32) -> PathBuf {
    let content = std::fs::read(squash).unwrap();
    let start = 4096_u64;
    let mut bytes = vec![0_u8; 4096];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"#!/usr/bin/env run-singularity\n");
    put(32, b"SIF_MAGIC\0");
    put(42, b"01\0");
    put(88, &2_u64.to_le_bytes());
    put(96, &128_u64.to_le_bytes());
    // The first descriptor is a definition file's; the second the partition's.
    put(128, &0x4001_u32.to_le_bytes());
    put(132, &[1]);
    let one = 128 + 585;
    put(one, &0x4004_u32.to_le_bytes());
    put(one + 4, &[1]);
    put(one + 17, &start.to_le_bytes());
    put(one + 25, &(content.len() as u64).to_le_bytes());
    put(one + 201, &kind.to_le_bytes());
    put(one + 205, &2_u32.to_le_bytes());
    bytes.extend(content);
    home.file(&format!("tool-{kind}.sif"), bytes)
}

/// Programs of this home that serve a squash file.
fn servers(home: &Home) -> Vec<u32> {
    let store = home.store().display().to_string();
    let serves = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        (words.contains("squashfuse") || words.contains("rl:[squash]")) && words.contains(&store)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(serves)
        .collect()
}

fn gone(home: &Home) {
    wait_for("the server of the squash file to end", || {
        servers(home).is_empty().then_some(())
    });
}

#[test]
fn a_squash_file_is_run_where_it_lies_and_never_written() {
    needs_squash!();
    let mut home = Home::with_busybox();
    let file = squash(&home);
    let before = std::fs::read(&file).unwrap();
    with_both(&mut home, |home| {
        for driver in ["auto", "fuse-overlayfs"] {
            home.set("RL_STORAGE_DRIVER", driver);
            home.rl("run --rm ./box.sqsh sh -c")
            .arg("cat /data; echo new > /data; rm -r /.singularity.d; mkdir /d; echo x > /d/x; cat /data /d/x; ls -d /.singularity.d 2>/dev/null || echo gone")
            .says("given\nnew\nx\ngone");
            home.rl("run --rm")
                .arg(&file)
                .arg("cat")
                .arg("/data")
                .says("given");
            home.rl("run --rm --read-only ./box.sqsh touch /x")
                .fails(1)
                .stderr_has("Read-only");
        }
        home.unset("RL_STORAGE_DRIVER");
        home.rl("run --rm --userns keep-id ./box.sqsh cat /data")
            .says("given");
        home.rl("run --rm -i ./box.sqsh")
            .stdin("echo from the shell\n")
            .says("from the shell");
    });
    assert!(
        std::fs::read(&file).unwrap() == before,
        "the file was changed"
    );
    gone(&home);
}

#[test]
fn owners_and_modes_are_those_of_the_file() {
    needs!(Need::Ranges);
    needs_squash!();
    let mut home = Home::with_busybox();
    squash(&home);
    with_both(&mut home, |home| {
        home.rl("run --rm ./box.sqsh stat -c")
            .args(["%u:%g %a", "/owned", "/data"])
            .says("5:6 640\n0:0 644");
        home.rl("run --rm -u 7 ./box.sqsh cat /owned")
            .fails(1)
            .stderr_has("Permission denied");
        home.rl("run --rm -u 5 ./box.sqsh cat /owned")
            .says("theirs");
    });
}

#[test]
fn no_ranges_and_a_squash_file_is_run() {
    needs!(Need::NoRanges);
    needs_squash!();
    let mut home = Home::with_busybox();
    squash(&home);
    with_both(&mut home, |home| {
        home.rl("run --rm ./box.sqsh sh -c")
            .arg("echo new > /data; cat /data")
            .says("new");
    });
}

#[test]
fn a_sif_file_runs_as_apptainer_would_run_it() {
    needs_squash!();
    let home = Home::with_busybox();
    let file = squash(&home);
    let sif_file = sif(&home, &file, 1);
    home.rl("run --rm ./tool-1.sif").says("run sif: ");
    home.rl("run --rm")
        .arg(&sif_file)
        .args(["one", "two words"])
        .says("run sif: one two words");
    home.rl("run --rm --entrypoint cat ./tool-1.sif /data")
        .says("given");
}

#[test]
fn a_container_of_a_squash_file_is_one_like_others() {
    needs_squash!();
    let home = Home::with_busybox();
    squash(&home);
    home.rl("run --name c ./box.sqsh sh -c")
        .arg("echo kept >> /data")
        .ok();
    home.rl("start -a c").ok();
    home.rl("cp c:/data ./out").ok();
    let out = std::fs::read_to_string(home.path().join("out")).unwrap();
    assert_eq!(out, "given\nkept\nkept\n");
    home.rl("inspect --format {{.Config.Image}} c")
        .says("./box.sqsh");
    home.rl("commit c i").fails(125).stderr_has("--squash");
    home.rl("rm c").ok();
    home.rl("run -d --name d ./box.sqsh sleep 1000").ok();
    home.rl("exec d cat /data").says("given");
    assert_eq!(servers(&home).len(), 1);
    home.rl("rm -f d").ok();
    gone(&home);
    // A file that is gone is named at the next start.
    home.rl("create --name e ./box.sqsh").ok();
    std::fs::rename(home.path().join("box.sqsh"), home.path().join("elsewhere")).unwrap();
    home.rl("start e").fails(125).stderr_has("there is no file");
}

#[test]
fn a_killed_command_leaves_no_server_of_its_squash_file() {
    needs_squash!();
    let home = Home::with_busybox();
    squash(&home);
    let mut running = home
        .rl("run --rm ./box.sqsh sh -c")
        .arg("echo ready; sleep 1000")
        .spawn();
    running.wait_for_stdout("ready");
    assert_eq!(servers(&home).len(), 1);
    running.signal(Signal::SIGKILL);
    running.wait();
    gone(&home);
}

#[test]
fn what_cannot_be_run_is_refused_with_the_reason() {
    needs_squash!();
    let mut home = Home::with_busybox();
    let file = squash(&home);
    sif(&home, &file, 2);
    sif(&home, &file, 5);
    let content = std::fs::read(&file).unwrap();
    home.file("cut.sqsh", &content[..content.len() / 2]);
    home.file("text", "no file system");
    for (name, expected) in [
        ("./none.sqsh", "there is no file"),
        ("./tree", "rl run --rootfs"),
        ("./text", "neither a squashfs nor a SIF file"),
        ("./cut.sqsh", "cut short"),
        ("./tool-2.sif", "ext3"),
        ("./tool-5.sif", "encrypted"),
    ] {
        home.rl("run --rm")
            .arg(name)
            .fails(125)
            .stderr_has(expected);
        home.rl("create").arg(name).fails(125).stderr_has(expected);
    }
    home.without_programs(&["squashfuse", "squashfuse_ll"]);
    home.sh("mksquashfs tree xz.sqsh -comp xz -quiet -no-progress")
        .ok();
    home.rl("run --rm ./xz.sqsh true")
        .fails(125)
        .stderr_has("packed with xz")
        .stderr_has("RL-F06");
    home.rl("ps -aq").says("");
}

#[test]
fn a_damaged_squash_file_is_an_error_and_never_the_end_of_more() {
    needs_squash!();
    let mut home = Home::with_busybox();
    let file = squash(&home);
    let whole = std::fs::read(&file).unwrap();
    with_both(&mut home, |home| {
        // The tables at the end, then pieces all over; the superblock says the same as before.
        for (from, step) in [(whole.len() / 2, 1), (96, 977), (96, 61)] {
            let mut bytes = whole.clone();
            for at in (from..bytes.len()).step_by(step) {
                bytes[at] ^= 0x5a;
            }
            home.file("damaged.sqsh", bytes);
            let output = home
                .rl("run --rm ./damaged.sqsh sh -c")
                .arg("cat /data /bin/busybox > /dev/null")
                .run();
            assert!(!output.status.success(), "it cannot work");
        }
    });
    gone(&home);
    home.rl("ps -aq").says("");
}

/// An image with all that a file can be, and a configuration of its own.
fn varied(home: &Home) {
    home.sh(
        r#"printf 'set -e
            mkdir -p /d/deep/er /many; cd /d
            echo one >file; ln file again; ln -s ../nowhere link; mkfifo pipe
            chmod 4755 file; chmod 1777 deep; : >empty
            dd if=/dev/urandom of=noise bs=1000 count=400 2>/dev/null
            dd if=/dev/zero of=zeros bs=1024 count=300 2>/dev/null; echo end >>zeros
            dd if=/dev/urandom of=whole bs=131072 count=2 2>/dev/null
            i=0; while [ $i -lt 700 ]; do i=$((i+1)); echo $i >/many/a-name-of-some-length-$i; done
            touch -d "2001-02-03 04:05:06" file
            rm /bin/vi; ln -s gone "a name with a space"
        ' >script
        $RL create --name v --network none busybox sh /script >/dev/null
        $RL cp script v:/script && $RL start -a v
        $RL commit -q -c 'ENV GREETING=hello' -c 'WORKDIR /d' -c 'CMD ["sh", "-c", "echo $GREETING from $PWD"]' -c 'USER 0:0' v varied >/dev/null
        $RL rm v >/dev/null"#,
    )
    .ok();
}

/// Names, types, modes, owners, sizes, times, links and content, as a program inside sees them.
const LOOK: &str = r#"cd / && find . -xdev ! -path './proc*' ! -path './sys*' ! -path './dev*' ! -path './etc/hosts' ! -path './etc/host*' ! -path './etc/resolv.conf' \
    ! -name . -exec stat -c '%n %F %a %u:%g %s %h' {} + | sed '/ directory /s/ [0-9]* [0-9]*$//' | sort
    find . -xdev -type f ! -path './proc*' ! -path './sys*' ! -path './dev*' ! -path './etc/host*' ! -path './etc/resolv.conf' -exec stat -c '%n %Y' {} + | sort
    find d many bin -type f -exec md5sum {} + | sort; find d bin -type l -exec readlink {} + | sort"#;

#[test]
fn an_image_becomes_a_file_that_is_the_same_inside() {
    needs_squash!();
    let mut home = Home::with_busybox();
    varied(&home);
    let look = |home: &Home, image: &str| {
        home.rl("run --rm --network none -w /")
            .arg(image)
            .args(["sh", "-c", LOOK])
            .ok()
            .text()
            .to_owned()
    };
    let unpacked = look(&home, "varied");
    assert!(unpacked.contains("./d/file regular file 4755 0:0 4 2"));
    for compression in ["zstd", "gzip"] {
        home.rl("image convert --compression")
            .args([compression, "varied", "v.sqsh"])
            .ok();
        assert!(look(&home, "./v.sqsh") == unpacked, "{compression}");
        // The configuration came along.
        home.rl("run --rm --network none ./v.sqsh")
            .says("hello from /d");
        // Others read it as what it is.
        home.program("unsquashfs")
            .args(["-s", "v.sqsh"])
            .ok()
            .stdout_has(compression);
        home.sh("rm -rf out; unsquashfs -q -n -no-xattrs -d out v.sqsh && cat out/many/a-name-of-some-length-77")
            .says("77");
        let packed = home.path().join("v.sqsh").metadata().unwrap().len();
        assert!(packed < 2_500_000, "{packed}");
        home.sh(&format!("mv v.sqsh {compression}.sqsh")).ok();
    }
    // And so does our own reader, where squashfuse is not installed, also of what mksquashfs has made.
    home.sh("unsquashfs -q -n -no-xattrs -d other gzip.sqsh; mksquashfs other other.sqsh -quiet -no-progress -all-root -b 16k && \
             mksquashfs other plain.sqsh -quiet -no-progress -all-root -noI -noD -noF -no-fragments")
        .ok();
    home.without_programs(&["squashfuse", "squashfuse_ll"]);
    // Who unpacks as an ordinary user loses modes; the rest of the lines is about content and targets.
    let content = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("./"));
        lines.map(str::to_owned).collect()
    };
    for file in ["zstd", "gzip", "other", "plain"] {
        let seen = look(&home, &format!("./{file}.sqsh"));
        assert!(content(&seen).len() > 700);
        assert!(content(&seen) == content(&unpacked), "{file}");
        let is_ours = file == "zstd" || file == "gzip";
        assert!(!is_ours || seen == unpacked, "{file}");
        // What is unpacked for one container is no different.
        home.set("RL_STORAGE_DRIVER", "copy");
        let copied = look(&home, &format!("./{file}.sqsh"));
        home.unset("RL_STORAGE_DRIVER");
        assert!(copied == seen, "{file}");
    }
    gone(&home);
}

/// What is done with a squash file where none can be mounted. The store is at `$RL_ROOT`.
const WITHOUT_FUSE: &str = r#"
    cd "$DIR"; export HOME=$DIR RL_ROOT=$DIR/store
    $RL load -q -i "$ARCHIVE" >/dev/null
    $RL create --name t busybox >/dev/null; $RL export t | tar x --one-top-level=tree; $RL rm t >/dev/null
    dd if=/dev/zero of=tree/holes bs=1M seek=4096 count=0 2>/dev/null; echo end >>tree/holes
    mksquashfs tree box.sqsh -quiet -no-progress -all-root
    $RL run --name c --network none ./box.sqsh sh -c 'stat -c "%s %u" /holes; test $(stat -c %b /holes) -lt 100 && echo holes; echo kept >/new'
    $RL start -a c >/dev/null; $RL cp c:/new - | tar xO
    $RL export c | tar t | grep -c '^new$'
    $RL commit -q --squash c i >/dev/null && $RL run --rm --network none i cat /new
    $RL diff c || echo "exit code $?"
    $RL rm c
    $RL create --name d --network none ./box.sqsh >/dev/null; echo in >put; $RL cp put d:/; $RL cp d:/put - | tar xO; $RL rm d
    dd if=/dev/urandom of=box.sqsh bs=1k seek=20 count=200 conv=notrunc 2>/dev/null
    $RL run --rm --network none ./box.sqsh true || echo "exit code $?"
    $RL ps -aq; ls "$RL_ROOT"/containers; rm -rf tree; $RL system reset --force; rm -f box.sqsh put
"#;

#[test]
fn where_none_can_be_mounted_it_is_unpacked_for_the_container() {
    needs!(Need::Ours, Need::AsRoot, Need::Program("mksquashfs"));
    for (number, ids) in [&[][..], &["--no-ids"]].into_iter().enumerate() {
        let dir = std::env::temp_dir().join(format!("s.{}.{number}", std::process::id()));
        let output = as_user(&[ids, &["--hide", "/dev/fuse"]].concat(), &dir)
            .arg("env")
            .arg(format!("RL={}", rl_binary().display()))
            .arg(format!("ARCHIVE={}", image::busybox().display()))
            .args(["sh", "-c", WITHOUT_FUSE])
            .ok();
        let expected = "4294967300 0\nholes\nkept\n1\nkept\nexit code 125\nc\nin\nd\nexit code 125";
        output.stdout_is(expected);
        output.stderr_has(
            "unpacking it for this container, which takes time and space (rl explain RL-F04)",
        );
        output.stderr_has("/dev/fuse");
        output.stderr_has("damaged");
    }
}

#[test]
fn owners_and_attributes_are_kept_in_a_converted_file() {
    needs!(Need::Ranges);
    needs_squash!();
    let mut home = Home::with_busybox();
    home.sh(
        "$RL run --name o --network none busybox sh -c 'echo x >/his; chown 7:8 /his; chown 9 /home' && \
         $RL commit -q o owned && $RL rm o && $RL image convert owned o.sqsh",
    )
    .ok();
    with_both(&mut home, |home| {
        home.rl("run --rm --network none ./o.sqsh stat -c %u:%g /his /home")
            .says("7:8\n9:0");
    });
}

#[test]
fn no_ranges_and_an_image_is_converted() {
    needs!(Need::NoRanges);
    needs_squash!();
    let home = Home::with_busybox();
    home.rl("image convert busybox b.sqsh").ok();
    home.rl("run --rm --network none ./b.sqsh echo on")
        .says("on");
}

#[test]
fn a_conversion_that_fails_or_is_killed_leaves_nothing() {
    needs_squash!();
    let home = Home::with_busybox();
    home.file("old.sqsh", "mine");
    home.rl("image convert nosuch:1 old.sqsh --pull never")
        .fails(125)
        .stderr_has("no image");
    home.rl("image convert busybox /nosuch/dir/b.sqsh")
        .fails(125)
        .stderr_has("/nosuch/dir");
    home.rl("image convert busybox .")
        .fails(125)
        .stderr_has("no regular file");
    home.rl("image convert --compression lzma busybox b.sqsh")
        .fails(125)
        .stderr_has("gzip and zstd");
    let list = || {
        let dir = std::fs::read_dir(home.path()).unwrap();
        let mut names: Vec<_> = dir.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let all = list();
    for _ in 0..20 {
        let convert = home.rl("image convert busybox old.sqsh").spawn();
        convert.signal(Signal::SIGKILL);
        convert.wait();
        if std::fs::read(home.path().join("old.sqsh")).unwrap() != b"mine" {
            break;
        }
    }
    assert_eq!(list(), all);
    home.rl("image convert busybox old.sqsh").ok();
    home.rl("run --rm --network none ./old.sqsh echo on")
        .says("on");
    // The configuration is behind the file system, and damage to it is named.
    let file = home.path().join("old.sqsh");
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.len() - 40;
    bytes[end] = 0;
    std::fs::write(&file, bytes).unwrap();
    home.rl("run --rm --network none ./old.sqsh true")
        .fails(125)
        .stderr_has("configuration behind the squashfs is damaged");
}

#[test]
fn what_a_container_has_changed_over_a_squash_file_is_seen_and_packed() {
    needs_squash!();
    let mut home = Home::with_busybox();
    varied(&home);
    home.rl("image convert -q varied v.sqsh").ok();
    with_both(&mut home, |home| {
        home.rl("run --name c --network none -w / ./v.sqsh sh -c")
            .arg("echo new > /d/new; rm /d/noise; echo more >> /d/file; rm -r /many; mkdir /many")
            .ok();
        home.sh("$RL diff c | grep -v '^D /many/'")
            .says("C /d\nC /d/file\nA /d/new\nD /d/noise\nC /many");
        home.rl("commit c changed")
            .fails(125)
            .stderr_has("--squash");
        home.rl("commit -q --squash c changed").ok();
        home.rl("run --rm --network none changed sh -c")
            .arg("echo $GREETING")
            .says("hello");
        home.rl("run --rm --network none -w /d changed sh -c")
            .arg("cat new file; ls /many; ls noise 2>/dev/null; cmp /bin/busybox /bin/sh && stat -c %a:%h file again")
            .ok()
            .stdout_has("new\none\nmore\n");
        home.sh("$RL export c | tar t | grep -c '^many/'; $RL export c | tar x -O d/new")
            .says("1\nnew");
        // Of a running one, too; and a server is left by none of it.
        home.rl("start c").ok();
        home.rl("rm -f c").ok();
        home.rl("run -d --name r --network none ./v.sqsh sh -c")
            .arg("echo x > /x; sleep 1000")
            .ok();
        wait_for("the file", || {
            home.rl("diff r").ok().text().contains("A /x").then_some(())
        });
        home.rl("exec r cat /d/link /x").run();
        home.rl("rm -f r").ok();
        home.rl("rmi changed").ok();
        gone(home);
    });
}
