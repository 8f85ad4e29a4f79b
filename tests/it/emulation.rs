//! `--root-emulation`: what root only appears to do, where the ids for it are missing.

use crate::support::Home;
use crate::support::host::Need;
use crate::support::image::{Image, Layer, digest, gzip};

/// A profile that allows all but chown(2), which it answers with `EACCES`.
const NO_CHOWN: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": [
    {"names": ["chown", "lchown", "fchown", "fchownat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;

#[test]
fn with_ranges_it_is_off_and_can_be_had_for_ids_beyond_them() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    let script =
        "touch /x; chown 5:6 /x; stat -c %u:%g /x; chown 3000000000 /x; echo $?; stat -c %u:%g /x";
    home.rl("run --rm busybox sh -c")
        .arg(script)
        .ok()
        .stdout_is("5:6\n1\n5:6")
        .stderr_has("Invalid argument");
    home.rl("run --rm --root-emulation=basic busybox sh -c")
        .arg(script)
        .says("5:6\n0\n5:6");
    home.rl("run --rm --root-emulation=more busybox true")
        .fails(125)
        .stderr_has("known are auto, basic, full and off");
}

/// Run as the user rl-nosub by scripts/test.
mod no_ranges {
    use super::*;

    #[test]
    fn no_ranges_and_calls_for_other_ids_appear_to_succeed() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        let script = "touch /x && chown 5:6 /x && chgrp 7 /x && chmod 6755 /x && stat -c '%u:%g %a' /x \
            && su app -c 'id -u' && mknod /d b 8 1 && mkfifo /f && test -p /f && test ! -e /d \
            && setpriv --nnp true; chown 0:0 /nowhere 2>/dev/null || echo no file";
        let expected = "0:0 6755\n0\nno file";
        for options in [
            "",
            "--security-opt seccomp=unconfined",
            "--privileged",
            "--security-opt no-new-privileges",
            "--init",
        ] {
            home.rl(&format!("run --rm {options} busybox sh -c"))
                .arg(script)
                .ok()
                .stdout_is(expected)
                .stderr_has("owners and users inside are emulated");
        }
    }

    #[test]
    fn no_ranges_and_what_is_refused_on_purpose_stays_refused() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        let profile = home.file("no-chown.json", NO_CHOWN);
        let change = "touch /x; chown 5 /x";
        home.rl("run --rm --root-emulation off busybox sh -c")
            .arg(change)
            .fails(1)
            .stderr_has("Invalid argument")
            .stderr_has("not kept apart");
        home.rl("run --rm --cap-drop CHOWN busybox sh -c")
            .arg(change)
            .fails(1)
            .stderr_has("Invalid argument");
        home.rl("run --rm --security-opt")
            .arg(format!("seccomp={}", profile.display()))
            .args(["busybox", "sh", "-c", change])
            .fails(1)
            .stderr_has("Permission denied");
        // Who is not root inside is none that root could be emulated for.
        home.rl("run --rm --userns keep-id:uid=7,gid=8 busybox sh -c")
            .arg("id -u; touch /tmp/x; chown 5 /tmp/x")
            .fails(1)
            .stdout_is("7")
            .stderr_has("Invalid argument");
    }

    #[test]
    fn no_ranges_and_an_exec_is_as_its_container() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        let change = "touch /x; chown 5 /x && echo changed";
        for (mode, code) in [("auto", 0), ("off", 1)] {
            home.rl(&format!(
                "run -d --name {mode} --root-emulation {mode} busybox sleep 1000"
            ))
            .ok();
            for privileged in ["", "--privileged"] {
                home.rl(&format!("exec {privileged} {mode} sh -c"))
                    .arg(change)
                    .run()
                    .code(code);
            }
            home.rl(&format!(
                "inspect {mode} --format {{{{.HostConfig.RootEmulation}}}}"
            ))
            .says(mode);
            home.rl(&format!("rm -f {mode}")).ok();
        }
        let info = home.rl("info --format json").ok().json();
        assert_eq!(info["Rootless"]["RootEmulation"], "basic");
    }

    #[test]
    fn no_ranges_and_files_of_others_go_through_cp_commit_save_and_load() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::new();
        let layer = Layer::new().owned("theirs", 1000, 2000, "x");
        home.load(&Image::on_busybox(vec![layer]), "owned:latest");
        home.rl("run --name c owned sh -c")
            .arg("chown 3:4 /theirs /etc; cp -a /theirs /copy; chmod 4711 /copy; mkdir /d; chown app:app /d; echo y >/d/new")
            .ok();
        let file = home.file("mine", "mine");
        home.rl("cp -a").arg(&file).arg("c:/d/mine").ok();
        home.rl("cp c:/d/new -").ok();
        home.rl("start -a c").ok();
        home.rl("commit c made").ok();
        home.rl("save -o made.tar made").ok();
        home.rl("rmi -f made").ok();
        home.rl("load -i made.tar").ok();
        home.rl("run --rm made sh -c")
            .arg("cat /theirs /copy /d/new; echo; cat /d/mine; echo; stat -c %a /copy; stat -c %u:%g /theirs")
            .says("xxy\n\nmine\n4711\n0:0");
        // What the image says of owners is still there for those who can keep it.
        home.rl("export c -o c.tar").ok();
        let listed = home.sh("tar --numeric-owner -tvf c.tar theirs").ok();
        listed.stdout_has("1000/2000");
    }

    #[test]
    fn no_ranges_and_a_root_that_takes_no_file_is_run_without_a_word_more() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::new();
        let busybox = crate::support::host::find("busybox").expect("one of the tests' packages");
        let root = home.dir("root");
        for directory in ["bin", "dev", "proc", "sys", "etc/apt/apt.conf.d"] {
            home.dir(&format!("root/{directory}"));
        }
        std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
        let output = home
            .rl("run --rm --network none --rootfs")
            .arg(&root)
            .args(["/bin/busybox", "ls", "/etc/apt/apt.conf.d"])
            .ok();
        output.stdout_is("00rl-root-emulation");
        assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
        let shown = root.join("etc/apt/apt.conf.d/00rl-root-emulation");
        assert_eq!(std::fs::read(shown).unwrap(), b"", "a place to mount on");
        // The host's directories are root's.
        let output = home.rl("run --rm --network none host true").ok();
        assert!(!output.stderr.contains("apt.conf"), "{output:?}");
    }

    /// As `abuild` makes them: two archives, the first without its end.
    fn apk() -> Vec<u8> {
        let data = gzip(
            &Layer::new()
                .dir("var", 0o755)
                .dir("var/lib", 0o755)
                .extended("68 APK-TOOLS.checksum.SHA1=11f6ad8ec52a2984abaafd7c3b516503785c2072\n")
                .owned("var/lib/theirs", 405, 100, "x")
                .finish(),
        );
        let info = format!(
            "pkgname = owned\npkgver = 1-r0\npkgdesc = x\nurl = x\nsize = 1\narch = noarch\nlicense = x\ndatahash = {}\n",
            digest(&data).trim_start_matches("sha256:")
        );
        let mut control = Layer::new()
            .file(".PKGINFO", 0o644, info)
            .file(".pre-install", 0o755, "#!/bin/sh\naddgroup -S owned && adduser -S -D -G owned owned\n")
            .file(
                ".post-install",
                0o755,
                "#!/bin/sh\nset -e\nchown owned:owned /var/lib/theirs\nchmod 2750 /var/lib/theirs\nsu -s /bin/sh owned -c true\n",
            )
            .finish();
        control.truncate(control.len() - 1024);
        let mut package = gzip(&control);
        package.extend(data);
        package
    }

    #[test]
    fn no_ranges_and_alpine_installs_a_package_that_makes_a_user() {
        needs!(Need::Ours, Need::NoRanges, Need::Alpine);
        let home = Home::with_alpine();
        let package = home.file("owned-1-r0.apk", apk());
        let install = "apk add --quiet --allow-untrusted --no-network --repositories-file /dev/null /owned-1-r0.apk && \
            apk info -e owned; id -un owned; stat -c '%U %a' /var/lib/theirs";
        let volume = format!("{}:/owned-1-r0.apk", package.display());
        home.rl("run --rm -v")
            .args([&volume, "alpine", "sh", "-c", install])
            .says("owned\nowned\nroot 2750");
        home.rl("run --rm --root-emulation=off -v")
            .args([&volume, "alpine", "sh", "-c", install])
            .ok()
            .stderr_has("Invalid argument");
    }
}
