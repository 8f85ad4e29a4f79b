//! `-v`, `--mount`, `--tmpfs`, `--device`, and what stands under `/dev`, `/proc` and `/sys`.

use std::os::unix::fs::MetadataExt as _;

use crate::support::Home;
use crate::support::host::Need;
use crate::support::image::{Image, Layer};

#[test]
fn a_bind_mount_shows_and_changes_the_hosts_directory() {
    let home = Home::with_busybox();
    let shared = home.dir("shared");
    home.file("shared/in", "from the host");
    home.rl("run --rm -v")
        .arg(format!("{}:/data", shared.display()))
        .args([
            "busybox",
            "sh",
            "-c",
            "cat /data/in; echo from inside > /data/out",
        ])
        .says("from the host");
    assert_eq!(
        std::fs::read_to_string(shared.join("out")).unwrap(),
        "from inside\n"
    );
    let owner = std::fs::metadata(shared.join("out")).unwrap().uid();
    assert_eq!(
        owner,
        nix::unistd::getuid().as_raw(),
        "root inside is the user outside"
    );
}

#[test]
fn a_read_only_bind_mount_refuses_writes() {
    let home = Home::with_busybox();
    let shared = home.dir("shared");
    for form in [
        format!("-v={}:/data:ro", shared.display()),
        format!(
            "--mount=type=bind,source={},target=/data,readonly",
            shared.display()
        ),
        format!(
            "--mount=type=bind,src={},dst=/data,ro=true",
            shared.display()
        ),
    ] {
        home.rl("run --rm")
            .arg(&form)
            .args(["busybox", "sh", "-c", "echo x > /data/file || echo refused"])
            .says("refused");
    }
    assert_eq!(std::fs::read_dir(shared).unwrap().count(), 0);
}

#[test]
fn a_read_only_bind_mount_cannot_be_made_writable_from_inside() {
    let home = Home::with_busybox();
    let shared = home.dir("shared");
    for privileged in ["--cap-add=SYS_ADMIN", "--privileged"] {
        home.rl("run --rm").arg(privileged).arg("-v").arg(format!("{}:/data:ro", shared.display()))
            .args(["busybox", "sh", "-c", "mount -o remount,rw,bind /data 2>/dev/null; umount /data 2>/dev/null; echo x > /data/file"])
            .run();
        assert_eq!(
            std::fs::read_dir(&shared).unwrap().count(),
            0,
            "{privileged}"
        );
    }
}

#[test]
fn a_single_file_can_be_bound() {
    let home = Home::with_busybox();
    let file = home.file("file", "content");
    home.rl("run --rm -v")
        .arg(format!("{}:/etc/new/place.conf:ro", file.display()))
        .args(["busybox", "cat", "/etc/new/place.conf"])
        .says("content");
    home.rl("run --rm -v")
        .arg(format!("{}:/etc/passwd:ro", file.display()))
        .args(["busybox", "cat", "/etc/passwd"])
        .says("content");
}

#[test]
fn a_relative_source_is_below_the_working_directory() {
    let home = Home::with_busybox();
    home.file("here/file", "relative");
    home.rl("run --rm -v ./here:/data busybox cat /data/file")
        .cwd(home.path())
        .says("relative");
}

#[test]
fn a_volume_by_name_keeps_what_was_written() {
    let home = Home::with_busybox();
    home.rl("run --rm -v kept:/data busybox sh -c")
        .arg("echo kept > /data/file")
        .ok();
    home.rl("run --rm -v kept:/elsewhere busybox cat /elsewhere/file")
        .says("kept");
    home.rl("run --rm --mount type=volume,source=kept,target=/m busybox cat /m/file")
        .says("kept");
}

#[test]
fn a_layer_over_a_directory_takes_what_is_written() {
    let home = Home::with_busybox();
    let shared = home.dir("shared");
    home.file("shared/file", "below");
    let write = "cat /x/file; echo above >/x/file; touch /x/new; rm -f /x/gone; ls /x";
    let over = format!("{}:/x:O", shared.display());
    home.file("shared/gone", "");
    home.rl("run --rm --network none -v")
        .args([over.as_str(), "busybox", "sh", "-c", write])
        .says("belowfile\nnew");
    assert_eq!(
        std::fs::read_to_string(shared.join("file")).unwrap(),
        "below"
    );
    assert!(shared.join("gone").exists() && !shared.join("new").exists());
    // Every start begins with what is below.
    home.rl("create --name again --network none -v")
        .args([over.as_str(), "busybox", "sh", "-c", write])
        .ok();
    for _ in 0..2 {
        home.rl("start -a again").says("belowfile\nnew");
    }
    // A volume, too: it is filled from the image and otherwise left alone.
    home.rl("run --rm --network none -v etc:/etc:O busybox sh -c")
        .arg("grep -c root /etc/passwd; echo mine >/etc/mine")
        .says("1");
    home.rl("run --rm --network none -v etc:/v:ro busybox sh -c")
        .arg("grep -c root /v/passwd; ls /v/mine")
        .fails(1)
        .stdout_is("1");
    let file = shared.join("file");
    home.rl("run --rm -v")
        .args([&format!("{}:/x:O", file.display()), "busybox", "true"])
        .fails(125);
}

#[test]
fn a_layer_of_the_users_own_stays() {
    let home = Home::with_busybox();
    let (shared, upper, work) = (home.dir("shared"), home.dir("upper"), home.dir("work"));
    home.file("shared/file", "below");
    let over = format!(
        "{}:/x:O,upperdir={},workdir={}",
        shared.display(),
        upper.display(),
        work.display()
    );
    for expected in ["file", "file\nnew"] {
        home.rl("run --rm --network none -v")
            .args([over.as_str(), "busybox", "sh", "-c"])
            .arg("ls /x; touch /x/new")
            .says(expected);
    }
    assert!(upper.join("new").exists() && !shared.join("new").exists());
}

#[test]
fn where_the_kernel_mounts_no_overlay_layers_over_directories_are_made_otherwise_or_refused() {
    needs!(Need::Ours); // RL_STORAGE_DRIVER is ours
    let home = Home::with_busybox();
    let shared = home.dir("shared");
    home.file("shared/file", "below");
    home.dir("upper");
    home.dir("work");
    let over = format!("{}:/x:O", shared.display());
    let own = format!("{over},upperdir=upper,workdir=work");
    for over in [&over, &own] {
        home.rl("run --rm --network none -v")
            .args([over.as_str(), "busybox", "sh", "-c"])
            .arg("touch /x/new; ls /x")
            .cwd(home.path())
            .env("RL_STORAGE_DRIVER", "fuse-overlayfs")
            .says("file\nnew");
    }
    home.rl("run --rm --network none -v")
        .args([over.as_str(), "busybox", "true"])
        .env("RL_STORAGE_DRIVER", "copy")
        .fails(125)
        .stderr_has("no layer can be laid over");
    for driver in ["fuse-overlayfs", "copy"] {
        for (access, written) in [("rw", "written"), ("ro", "refused")] {
            home.rl("run --rm --network none --mount")
                .arg(format!("type=image,source=busybox,target=/i,{access}"))
                .args(["busybox", "sh", "-c"])
                .arg("ls /i/bin/busybox; echo x 2>/dev/null >/i/x && echo written || echo refused")
                .env("RL_STORAGE_DRIVER", driver)
                .says(&format!("/i/bin/busybox\n{written}"));
        }
    }
    assert_eq!(std::fs::read_dir(shared).unwrap().count(), 1);
}

#[test]
fn an_image_is_mounted_in_a_container_of_another() {
    needs!(Need::Ours); // Debian 12's podman knows no subpath, and pulls none
    let home = Home::with_busybox();
    let lower = Layer::new()
        .dir("data", 0o755)
        .file("data/file", 0o644, "lower")
        .file("data/gone", 0o644, "gone")
        .symlink("out", "/etc");
    let upper = Layer::new()
        .file("data/file", 0o644, "upper")
        .file("data/.wh.gone", 0o644, "");
    let data = Image {
        layers: vec![lower.finish(), upper.finish()],
        config: serde_json::json!({}),
    };
    home.load(&data, "data");
    home.rl("run --rm --network none --mount type=image,source=data,target=/i busybox sh -c")
        .arg("ls /i/data; cat /i/data/file; echo x 2>/dev/null >/i/x || echo refused")
        .says("file\nupperrefused");
    for _ in 0..2 {
        home.rl("run --rm --network none --mount type=image,source=data,target=/i,rw=true busybox sh -c")
            .arg("ls /i; echo x >/i/x")
            .says("data\nout");
    }
    home.rl("run --rm --network none --mount type=image,source=data,target=/i,subpath=data busybox cat /i/file")
        .says("upper");
    for path in ["out", "missing", "data/file/x"] {
        home.rl("run --rm --network none --mount")
            .arg(format!(
                "type=image,source=data,target=/i,image-subpath={path}"
            ))
            .args(["busybox", "true"])
            .fails(125)
            .stderr_has(&format!("there is no `{path}`"));
    }
    // A file with a squashfs will do.
    home.rl("image convert data data.sqsh")
        .cwd(home.path())
        .ok();
    home.rl("run --rm --network none --mount type=image,source=./data.sqsh,target=/i busybox cat /i/data/file")
        .cwd(home.path())
        .says("upper");
    // What is mounted is kept, with or without a name.
    home.rl("create --name has --network none --mount type=image,source=data,target=/i busybox cat /i/data/file")
        .ok();
    home.rl("rmi data").fails(125).stderr_has("has");
    home.rl("rmi -f data").ok();
    home.rl("image prune -f").ok();
    home.rl("start -a has").says("upper");
    home.rl("cp has:/i/data/file -").ok().stdout_has("upper");
    home.rl("rm has").ok();
    home.rl("image prune -f").ok();
    home.rl("run --rm --pull never --mount type=image,source=data,target=/i busybox true")
        .fails(125)
        .stderr_has("no image `data` here");
}

#[test]
fn a_part_of_a_volume_is_mounted_and_nothing_outside_of_it() {
    needs!(Need::Ours); // as above
    let home = Home::with_busybox();
    home.file("secret", "outside");
    let out = home.path().join("secret").display().to_string();
    home.rl("run --rm --network none --mount type=volume,source=v,target=/v,volume-label=a=b,volume-label=c busybox sh -c")
        .arg(format!("mkdir -p /v/sub/in; echo x >/v/sub/in/file; ln -s sub/in /v/short; ln -s {out} /v/out; ln -s ../../../../../../../../../../{out} /v/out2; ln -s /sub /v/absolute"))
        .ok();
    home.rl("volume inspect -f {{.Labels.a}} v").says("b");
    for (path, expected) in [
        ("sub/in", "file"),
        ("/sub", "in"),
        ("short", "file"),
        ("absolute", "in"),
    ] {
        home.rl("run --rm --network none --mount")
            .arg(format!("source=v,target=/p,volume-subpath={path}"))
            .args(["busybox", "ls", "/p"])
            .says(expected);
    }
    home.rl(
        "run --rm --network none --mount source=v,target=/p,subpath=sub/in/file busybox cat /p",
    )
    .says("x");
    for path in ["out", "out2", "sub/missing"] {
        home.rl("run --rm --network none --mount")
            .arg(format!("source=v,target=/p,subpath={path}"))
            .args(["busybox", "ls", "/p"])
            .fails(125)
            .stderr_has(&format!("there is no `{path}`"));
    }
}

#[test]
fn files_are_given_to_the_containers_user() {
    let home = Home::with_busybox();
    let shared = home.dir("shared/below");
    home.file("shared/below/file", "x");
    let shared = shared.parent().unwrap();
    for mount in [
        format!("-v={}:/x:U", shared.display()),
        format!("-v={}:/x:U,ro", shared.display()),
        format!(
            "--mount=type=bind,source={},target=/x,U=true",
            shared.display()
        ),
        "-v=some:/x:U".to_owned(),
    ] {
        let listing = home
            .rl("run --rm --network none -u 5:6")
            .args([mount.as_str(), "busybox", "sh", "-c"])
            .arg("find /x -exec stat -c %u:%g {} + | sort -u")
            .ok();
        assert_eq!(listing.text().trim(), "5:6", "{mount}");
        // They come back in the same way.
        home.rl("run --rm --network none")
            .args([mount.as_str(), "busybox", "true"])
            .ok();
    }
    let own = nix::unistd::getuid().as_raw();
    assert_eq!(std::fs::metadata(shared).unwrap().uid(), own);
}

#[test]
fn files_that_are_not_ours_are_not_given_away_nor_is_home() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run --rm -v /etc:/x:U busybox true")
        .fails(125)
        .stderr_has("not all of `/etc` can be given to user 0:0");
    home.rl("run --rm -v")
        .args([
            &format!("{}:/x:U", home.path().display()),
            "busybox",
            "true",
        ])
        .env("HOME", home.path())
        .fails(125)
        .stderr_has("would change the owner of all that is in");
    // Over a layer only that is given away.
    let shared = home.dir("shared");
    home.rl("run --rm --network none -u 5:6 -v")
        .arg(format!("{}:/x:U,O", shared.display()))
        .args(["busybox", "stat", "-c", "%u:%g", "/x"])
        .says("5:6");
    let own = nix::unistd::getuid().as_raw();
    assert_eq!(std::fs::metadata(shared).unwrap().uid(), own);
}

#[test]
fn no_ranges_layers_over_directories_and_own_files_work_with_one_id() {
    let home = Home::with_busybox();
    let shared = home.dir("shared");
    home.file("shared/file", "x");
    home.rl("run --rm --network none -v")
        .arg(format!("{}:/x:U,O", shared.display()))
        .args(["busybox", "sh", "-c", "ls /x; echo y >/x/new"])
        .says("file");
    assert!(!shared.join("new").exists());
    home.rl("run --rm --network none --mount type=image,source=busybox,target=/i,rw busybox sh -c")
        .arg("echo x >/i/x; cat /i/x")
        .says("x");
    home.rl("run --rm --network none -v")
        .arg(format!("{}:/x:U", shared.display()))
        .args(["busybox", "cat", "/x/file"])
        .says("x");
}

#[test]
fn what_is_mounted_below_a_read_only_bind_is_read_only_or_not_as_one_says() {
    needs!(Need::Ours); // podman has no such key
    let home = Home::with_busybox();
    for (word, top, below) in [
        ("enabled", "ro", "ro"),
        ("readonly", "ro", "ro"),
        ("writable", "ro", "rw"),
    ] {
        let table = home
            .rl("run --rm --network none --mount")
            .arg(format!(
                "type=bind,source=/dev,target=/d,readonly,bind-recursive={word}"
            ))
            .args(["busybox", "cat", "/proc/self/mounts"])
            .ok();
        for (path, access) in [("/d", top), ("/d/shm", below)] {
            let line = table
                .lines()
                .into_iter()
                .find(|line| line.split(' ').nth(1) == Some(path))
                .map(str::to_owned);
            let line = line.unwrap_or_else(|| panic!("{path} is not mounted"));
            let options = line.split(' ').nth(3).unwrap();
            assert!(
                options.split(',').any(|option| option == access),
                "{word}: {line}"
            );
        }
    }
}

#[test]
fn a_new_volume_starts_with_what_the_image_has_there() {
    let home = Home::with_busybox();
    home.rl("run --rm -v etc:/etc busybox sh -c")
        .arg("grep -c root /etc/passwd; echo mine > /etc/mine")
        .says("1");
    home.rl("run --rm -v etc:/v busybox sh -c")
        .arg("grep -c root /v/passwd; cat /v/mine")
        .says("1\nmine");
}

#[test]
fn an_image_can_ask_for_volumes() {
    let home = Home::new();
    let layer = Layer::new()
        .dir("data", 0o755)
        .file("data/file", 0o644, "of the image");
    let config = serde_json::json!({ "Env": ["PATH=/bin"], "Volumes": { "/data": {} } });
    home.load(&Image::on_busybox(vec![layer]).config(config), "vol:latest");
    home.rl("run --rm vol sh -c")
        .arg("cat /data/file; grep -c ' /data ' /proc/self/mounts")
        .says("of the image1");
}

#[test]
fn a_tmpfs_hides_what_the_image_has_there() {
    needs!(Need::Ours); // podman copies it in, docker does not
    let home = Home::with_busybox();
    home.rl("run --rm --tmpfs /home busybox ls -A /home")
        .says("");
    home.rl("run --rm --tmpfs /home:tmpcopyup busybox ls -A /home")
        .says("app");
}

#[test]
fn a_tmpfs_obeys_its_options() {
    let home = Home::with_busybox();
    home.rl("run --rm --tmpfs /t:size=1m,mode=1777 busybox sh -c")
        .arg("stat -c %a /t; dd if=/dev/zero of=/t/big bs=64k count=32 2>/dev/null || echo full")
        .says("1777\nfull");
    home.rl("run --rm --mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0700 busybox sh -c")
        .arg("stat -c %a /t; grep ' /t ' /proc/self/mounts | cut -d' ' -f3")
        .says("700\ntmpfs");
}

#[test]
fn the_size_of_shared_memory_can_be_set() {
    let home = Home::with_busybox();
    home.rl("run --rm --shm-size 2m busybox sh -c")
        .arg("df -k /dev/shm | tail -n 1 | sed -E 's/ +/ /g' | cut -d' ' -f2")
        .says("2048");
    home.rl("run --rm busybox sh -c")
        .arg("df -k /dev/shm | tail -n 1 | sed -E 's/ +/ /g' | cut -d' ' -f2")
        .ok()
        .stdout_has("6");
}

#[test]
fn mounts_lie_over_each_other_by_path_and_not_by_order() {
    let home = Home::with_busybox();
    let (outer, inner) = (home.dir("outer"), home.dir("inner"));
    std::fs::create_dir(outer.join("in")).unwrap();
    home.file("inner/file", "inner");
    home.rl("run --rm")
        .arg("-v")
        .arg(format!("{}:/a/in", inner.display()))
        .arg("-v")
        .arg(format!("{}:/a", outer.display()))
        .args(["busybox", "cat", "/a/in/file"])
        .says("inner");
}

#[test]
fn the_standard_devices_are_there_and_no_others() {
    let home = Home::with_busybox();
    home.rl("run --rm busybox sh -c")
        .arg("for d in null zero full random urandom tty; do [ -c /dev/$d ] || echo no $d; done; \
              head -c 4 /dev/zero | od -An -tx1; echo x > /dev/null; head -c 8 /dev/urandom | wc -c; \
              echo x 2>/dev/null > /dev/full || echo full; \
              for l in stdin stdout stderr fd; do readlink /dev/$l; done; [ -d /dev/pts ] && [ -d /dev/shm ] && [ -d /dev/mqueue ] && echo dirs; readlink /dev/ptmx; \
              stat -c %a /dev/shm")
        .says(" 00 00 00 00\n8\nfull\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n/proc/self/fd\ndirs\npts/ptmx\n1777");
    home.rl("run --rm busybox sh -c")
        .arg("ls -d /dev/kmsg /dev/mem /dev/sda /dev/vda /dev/fuse /dev/kvm 2>/dev/null | wc -l")
        .says("0");
}

#[test]
fn a_device_can_be_given() {
    needs!(Need::Writable("/dev/fuse"));
    let home = Home::with_busybox();
    home.rl("run --rm --device /dev/fuse busybox sh -c")
        .arg("[ -c /dev/fuse ] && echo there")
        .says("there");
    home.rl("run --rm --device /dev/fuse:/dev/other busybox sh -c")
        .arg("[ -c /dev/other ] && echo there")
        .says("there");
    home.rl("run --rm --device /dev/no-such busybox true")
        .fails(125)
        .stderr_has("/dev/no-such");
}

#[test]
fn proc_and_sys_are_masked_and_read_only_where_they_could_hurt() {
    let home = Home::with_busybox();
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list"] {
        home.rl("run --rm busybox sh -c")
            .arg(format!("[ ! -e {path} ] || cat {path} 2>/dev/null | wc -c"))
            .ok()
            .stdout_has(if std::path::Path::new(path).exists() {
                "0"
            } else {
                ""
            });
    }
    home.rl("run --rm busybox sh -c")
        .arg("ls -A /proc/scsi /sys/firmware /proc/acpi 2>/dev/null | grep -v : | wc -w")
        .says("0");
    for path in [
        "/proc/sys/kernel/panic",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
    ] {
        home.rl("run --rm busybox sh -c")
            .arg(format!("echo 0 2>/dev/null > {path} && echo written; true"))
            .ok()
            .stdout_is("");
    }
    home.rl("run --rm busybox sh -c")
        .arg("touch /sys/x 2>/dev/null || echo refused")
        .says("refused");
    home.rl("run --rm --security-opt unmask=ALL busybox sh -c")
        .arg("[ $(ls /proc/irq | wc -l) -gt 0 ] && grep -c ' /proc/kcore ' /proc/self/mounts")
        .run()
        .stdout_is("0");
}

#[test]
fn nothing_of_the_hosts_mounts_is_seen() {
    let home = Home::with_busybox();
    let output = home.rl("run --rm busybox cat /proc/self/mountinfo").ok();
    for line in output.lines() {
        let point = line.split(' ').nth(4).unwrap();
        let known = [
            "/",
            "/proc",
            "/sys",
            "/dev",
            "/etc",
            "/run/.containerenv",
            "/run/secrets",
        ];
        assert!(
            known.iter().any(|known| point == *known
                || (point.starts_with(&format!("{known}/")) && *known != "/")),
            "{line}\n{output:?}"
        );
    }
}

/// The image decides what `/dev`, `/etc` and the rest are. A symbolic link to a place of the host must
/// lead to nothing there.
#[test]
fn links_in_the_image_do_not_lead_to_the_host() {
    let home = Home::new();
    let target = home.dir("target");
    std::fs::create_dir(target.join("sub")).unwrap();
    let path = target.to_str().unwrap();
    let before = listing(&target);
    let (busybox, to) = (|| Layer::new().with_busybox().finish(), path);
    let config = serde_json::json!({ "Env": ["PATH=/bin"] });
    for (name, link) in [
        ("dev", "dev"),
        ("proc", "proc"),
        ("sys", "sys"),
        ("work", "work"),
        ("vol", "vol"),
        ("run", "run"),
    ] {
        let layer = Layer::new().symlink(link, to).finish();
        let image = Image {
            layers: vec![busybox(), layer],
            config: config.clone(),
        };
        let name = format!("link-{name}:latest");
        home.load(&image, &name);
        home.rl("run --rm -w /work/sub/new -v data:/vol/sub/made --tmpfs /run/sub/tmpfs")
            .args([
                &name,
                "/bin/sh",
                "-c",
                "echo x > /work/sub/new/file; echo x > /dev/file; true",
            ])
            .run();
        assert_eq!(
            before,
            listing(&target),
            "the host was written through /{link}"
        );
    }
    // /etc/hosts and its kin are made by the engine.
    let layer = Layer::new()
        .dir("bin", 0o755)
        .symlink("etc", to)
        .file(
            "bin/busybox",
            0o755,
            std::fs::read(crate::support::host::find("busybox").unwrap()).unwrap(),
        )
        .symlink("bin/sh", "busybox")
        .finish();
    home.load(
        &Image {
            layers: vec![layer],
            config,
        },
        "link-etc:latest",
    );
    home.rl("run --rm link-etc /bin/sh -c")
        .arg("echo x > /etc/file; true")
        .run();
    assert_eq!(
        before,
        listing(&target),
        "the host was written through /etc"
    );
}

#[test]
fn links_of_a_root_directory_do_not_lead_to_the_host() {
    let home = Home::new();
    let target = home.dir("target");
    std::fs::create_dir(target.join("sub")).unwrap();
    let before = listing(&target);
    for link in ["dev", "proc", "sys", "work", "vol", "etc"] {
        let root = home.dir(&format!("root-{link}"));
        home.file(
            "layer.tar",
            Layer::new()
                .dir("bin", 0o755)
                .file(
                    "bin/sh",
                    0o755,
                    std::fs::read(crate::support::host::find("busybox").unwrap()).unwrap(),
                )
                .finish(),
        );
        home.program("tar")
            .arg("-xf")
            .arg(home.path().join("layer.tar"))
            .arg("-C")
            .arg(&root)
            .ok();
        std::os::unix::fs::symlink(&target, root.join(link)).unwrap();
        home.rl("run --rm -w /work/sub/new --tmpfs /vol/sub/made --rootfs")
            .arg(&root)
            .args(["/bin/sh", "-c", "true"])
            .run();
        assert_eq!(
            before,
            listing(&target),
            "the host was written through /{link}"
        );
    }
}

fn listing(directory: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            found.extend(listing(&entry.path()));
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn mounts_made_inside_are_not_seen_outside() {
    let home = Home::with_busybox();
    let shared = home.dir("shared");
    home.rl("run --rm --cap-add SYS_ADMIN -v")
        .arg(format!("{}:/data", shared.display()))
        .args(["busybox", "sh", "-c", "mount -t tmpfs t /data 2>/dev/null; touch /data/x; grep -c shared: /proc/self/mountinfo"])
        .run()
        .stdout_is("0");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*shared.to_string_lossy()), "{mounts}");
}

#[test]
fn propagation_can_be_asked_for() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let shared = home.dir("shared");
    let source = format!("{}:/data:rslave", shared.display());
    home.rl("run --rm -v")
        .arg(source)
        .args(["busybox", "grep", " /data ", "/proc/self/mountinfo"])
        .ok()
        .stdout_has("master:");
}
