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
