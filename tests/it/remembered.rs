//! `--root-emulation=full`: what root sets with one id is remembered, and is what is seen later and elsewhere.

use crate::support::host::Need;
use crate::support::image::{Image, Layer};
use crate::support::{Home, wait_for};

/// Changes names in the memory of calls that are being judged, and tries ways out. The arguments are how many rounds, and
/// what is not to be reached.
const HOSTILE: &str = r#"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char path[4096];
static char *names[] = { "/tmp/mine", "/tmp/out", "/proc/self/root/tmp/mine", "/proc/1/root/../../../tmp/x",
    "/../../../../etc/passwd", "/proc/self/fd/0", "", "/tmp/loop", 0 };
static volatile int done;

static void *change(void *unused)
{
    (void)unused;
    for (unsigned i = 0; !done; i++) {
        char *name = names[i % 8];
        memcpy(path, name, strlen(name) + 1);
        if (i % 64 == 0)
            memset(path, 'x', sizeof path); /* without an end */
    }
    return 0;
}

int main(int count, char **words)
{
    int rounds = atoi(words[1]);
    struct stat st;
    (void)count;
    names[3] = words[2];
    symlink(words[2], "/tmp/out");
    symlink("/tmp/loop", "/tmp/loop");
    close(open("/tmp/mine", O_CREAT | O_WRONLY, 0600));
    pthread_t other;
    pthread_create(&other, 0, change, 0);
    for (int i = 0; i < rounds; i++) {
        (void)!chown(path, 5, 6);
        (void)!lchown(path, 7, 8);
        stat(path, &st);
        stat(path, (void *)8);
        fstatat(-5, path, &st, 0);
        fstat(-1, &st);
        (void)!fchown(0, 5, 6);
        fchownat(0, "", 5, 6, AT_EMPTY_PATH);
        fstatat(0, "", &st, AT_EMPTY_PATH);
        mknod(path, S_IFCHR | 0600, makedev(1, 3));
        syscall(SYS_getgroups, 65536, 8);
        syscall(SYS_setgroups, 1 << 30, path);
        syscall(SYS_setgroups, 65536, 8);
        syscall(SYS_openat2, -100, path, (void *)8, 24);
        syscall(SYS_listxattr, path, (void *)8, 1 << 20);
        close(open(path, O_CREAT | O_WRONLY, 0600));
    }
    done = 1;
    pthread_join(other, 0);
    /* What is still judged after all this. */
    if (chown("/tmp/mine", 11, 12) || stat("/tmp/mine", &st) || st.st_uid != 11 || st.st_gid != 12)
        return 1;
    puts("still judged");
    return 0;
}
"#;

/// Says who it is: effective user and group, real user. With an argument it becomes somebody and keeps what it needs for it,
/// gives that up, and tries to come back.
const IDS: &str = r#"
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **words)
{
    (void)words;
    if (count > 1) {
        unsigned header[2] = { 0x20080522, 0 }, none[6] = { 0 };
        prctl(PR_SET_KEEPCAPS, 1);
        int became = setresuid(7, 7, 7) || setresgid(5, 5, 5);
        syscall(SYS_capset, header, none);
        printf("%d %d\n", became, setresgid(0, 0, 0));
    }
    printf("%d %d %d\n", geteuid(), getegid(), getuid());
    return 0;
}
"#;

#[test]
fn with_ranges_full_is_as_basic_for_owners_are_real() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    let script = "touch /x; chown 5:6 /x; stat -c %u:%g /x; chown 3000000000 /x; stat -c %u:%g /x";
    home.rl("run --rm --root-emulation=full busybox sh -c")
        .arg(script)
        .says("5:6\n5:6");
}

/// Run as the user rl-nosub by scripts/test.
mod no_ranges {
    use super::*;

    fn full(home: &Home, options: &str, image: &str, script: &str) -> crate::support::Output {
        home.rl(&format!(
            "run --rm --network none --root-emulation=full {options} {image} sh -c"
        ))
        .arg(script)
        .ok()
    }

    #[test]
    fn no_ranges_and_owners_devices_and_links_are_remembered() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        let set = "touch /x && chown 5:6 /x && chmod 6755 /x && mkdir /d && chown 7 /d && ln -s x /l && chown -h 8:9 /l \
            && mkfifo /f && chown 10:11 /f && mknod /b b 8 1 && mknod /c c 1 3 && chown 0:12 /c && ln /x /x2 \
            && touch /back && chown 5:5 /back && chown 0:0 /back && mkdir /s && chown 0:13 /s && chmod 2775 /s && touch /s/heir \
            && mkdir /s/dir && echo done";
        let see = "stat -c '%n %u:%g %a %F' /x /x2 /d /l /f /b /c /back /s/heir /s/dir; stat -c %t:%T /b; stat -L -c %u:%g /l; \
            ls -ln / | grep -c ' 5  *6 '";
        let seen = "/x 5:6 6755 regular empty file\n/x2 5:6 6755 regular empty file\n/d 7:0 755 directory\n\
            /l 8:9 777 symbolic link\n/f 10:11 644 fifo\n/b 0:0 644 block special file\n/c 0:12 644 character special file\n\
            /back 0:0 644 regular empty file\n/s/heir 0:13 644 regular empty file\n/s/dir 0:13 2755 directory\n8:1\n5:6\n2";
        home.rl("run -d --name c --network none --root-emulation=full busybox sh -c")
            .arg(format!("[ -e /x ] || {{ {set}; }}; sleep 1000"))
            .ok()
            .stderr_has("emulated and remembered");
        wait_for("the files", || {
            home.rl("logs c").ok().stdout.contains("done").then_some(())
        });
        home.rl("exec c sh -c").arg(see).says(seen);
        home.rl("restart -t 0 c").ok();
        home.rl("exec c sh -c").arg(see).says(seen);
        home.rl("inspect c --format {{.HostConfig.RootEmulation}}")
            .says("full");
        // What was moved is the same file, what was made anew is another.
        home.rl("exec c sh -c")
            .arg("mv /l /m; ln -s y /l; rm /x; touch /x; stat -c %u:%g /m /l /x /x2")
            .says("8:9\n0:0\n0:0\n5:6");
        home.rl("rm -f c").ok();
    }

    #[test]
    fn no_ranges_and_who_becomes_somebody_is_it_and_so_are_its_children() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        let who = "id -u; id -g; sh -c 'id -u'; touch /tmp/f; mkdir /tmp/d; ln -s x /tmp/l; stat -c %U:%G /tmp/f /tmp/d /tmp/l; \
            chown 0 /tmp/f 2>/dev/null || echo refused; chgrp app /tmp/f && echo kept; mknod /tmp/n c 1 3 2>/dev/null || echo refused";
        let app = "1000\n1001\n1000\napp:app\napp:app\napp:app\nrefused\nkept\nrefused";
        full(
            &home,
            "",
            "busybox",
            &format!("su app -c '{}'", who.replace('\'', "\"")),
        )
        .stdout_is(app);
        full(&home, "-u app", "busybox", who).stdout_is(app);
        full(&home, "-u 33:44", "busybox", "id -u; id -g").stdout_is("33\n44");
        // One whose parents have ended long before it asks.
        full(
            &home,
            "",
            "busybox",
            "su app -c '(sleep 1; id -u >/tmp/late) &'; id -u; while ! [ -s /tmp/late ]; do sleep 0.1; done; cat /tmp/late",
        )
        .stdout_is("0\n1000");
        home.rl("run -d --name c --network none --root-emulation=full --init busybox sleep 1000")
            .ok();
        home.rl("exec -u app c id -u").says("1000");
        home.rl("exec c id -u").says("0");
        home.rl("exec -d -u app c sh -c")
            .arg("id -u >/tmp/there")
            .ok();
        wait_for("the detached program", || {
            let there = home.rl("exec c cat /tmp/there").run();
            (there.stdout.trim() == "1000").then_some(())
        });
        home.rl("rm -f c").ok();
    }

    #[test]
    fn no_ranges_and_a_tar_round_trip_keeps_owners() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::new();
        let layer = Layer::new()
            .owned("theirs", 1000, 2000, "x")
            .device("dev-null", 1, 3);
        home.load(&Image::on_busybox(vec![layer]), "owned:latest");
        full(
            &home,
            "",
            "owned",
            "ln -s theirs l; chown -h 3:4 l; chmod 4711 theirs; mkdir new; tar cf /t.tar theirs dev-null l && tar xf /t.tar -C /new && cp -a l new/copy \
             && stat -c '%n %u:%g %a %F' theirs new/*; tar cf - theirs | tar tvf - | cut -d' ' -f1,2",
        )
        .stdout_is(
            "theirs 1000:2000 4711 regular file\nnew/copy 3:4 777 symbolic link\nnew/dev-null 0:0 666 character special file\n\
             new/l 0:0 777 symbolic link\nnew/theirs 1000:2000 4711 regular file\n-rws--x--x app/extra",
        );
    }

    #[test]
    fn no_ranges_and_commit_export_cp_and_save_give_the_right_owners() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        home.rl("run --name c --network none --root-emulation=full busybox sh -c")
            .arg("mkdir /t; cd /t; touch f; chown 3:4 f; ln -s f l; chown -h 5:6 l; mkfifo p; chown 7 p; mknod d b 8 1; mkdir s; chown 8:9 s; ln f g")
            .ok();
        let expected = "brw-r--r-- 0/0 8,1 t/d\n-rw-r--r-- 3/4 0 t/f\nhrw-r--r-- 3/4 0 t/g\nlrwxrwxrwx 5/6 0 t/l\nprw-r--r-- 7/0 0 t/p\ndrwxr-xr-x 8/9 0 t/s/";
        let list = |home: &Home, tar: &str| {
            let listed = home
                .sh(&format!("tar --numeric-owner -tvf {tar} | sort -k6"))
                .ok();
            let lines = listed.lines().into_iter().filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let name = words.get(5)?.trim_start_matches("./");
                (name.starts_with("t/") && name != "t/")
                    .then(|| format!("{} {} {} {name}", words[0], words[1], words[2]))
            });
            lines.collect::<Vec<String>>().join("\n")
        };
        home.rl("export -o export.tar c").ok();
        assert_eq!(list(&home, "export.tar"), expected);
        home.sh("$RL cp c:/t - >cp.tar").ok();
        assert_eq!(list(&home, "cp.tar"), expected);
        home.rl("diff c").ok().stdout_has("A /t/l");
        home.rl("commit c made").ok();
        home.rl("save -o made.tar made").ok();
        home.sh("mkdir made && tar -xf made.tar -C made").ok();
        let layers = home
            .sh("for blob in made/blobs/sha256/*; do tar -tzf $blob 2>/dev/null | grep -q '^t/l$' && echo $blob; done; true")
            .ok();
        assert_eq!(list(&home, layers.text().trim()), expected);
        // The image that was made, as those see it who run it: from its own layer, and when it was loaded elsewhere.
        let see = "cd /t; stat -c '%n %u:%g %F' d f l p s; echo; chown -h 0:0 l; stat -c %u:%g l";
        let seen = "d 0:0 block special file\nf 3:4 regular empty file\nl 5:6 symbolic link\np 7:0 fifo\ns 8:9 directory\n\n0:0";
        full(&home, "", "made", see).stdout_is(seen);
        home.rl("rm c").ok();
        home.rl("rmi -f made").ok();
        home.rl("load -i made.tar").ok();
        full(&home, "", "made", see).stdout_is(seen);
    }

    #[test]
    fn no_ranges_and_set_id_programs_and_kept_capabilities_work() {
        needs!(Need::Ours, Need::NoRanges, Need::Program("cc"));
        let home = Home::with_busybox();
        let volume = compiled(&home, "ids", IDS);
        let script = "mkdir /s; cp /ids /s/id; chown 0:50 /s/id; chmod 6755 /s/id; \
            su app -c '/ids; /s/id; cp /s/id /tmp/id; stat -c %u:%a /tmp/id; chown app /s/id 2>/dev/null || echo refused'; \
            chown app /s/id; stat -c %u:%a /s/id; chmod 4755 /s/id; /s/id; /ids keep";
        full(&home, &volume, "busybox", script).stdout_is(
            "1000 1001 1000\n0 50 1000\n1000:755\nrefused\n1000:755\n1000 0 0\n0 -1\n7 5 7",
        );
        let options = format!("{volume} --security-opt no-new-privileges");
        full(
            &home,
            &options,
            "busybox",
            "cp /ids /id; chmod 4755 /id; su app -c /id",
        )
        .stdout_is("1000 1001 1000");
    }

    /// A volume with this program, compiled.
    fn compiled(home: &Home, name: &str, source: &str) -> String {
        let source = home.file(&format!("{name}.c"), source);
        let program = home.path().join(name);
        home.program("cc")
            .args([
                "-static",
                "-O1",
                "-pthread",
                "-D_GNU_SOURCE",
                "-include",
                "sys/sysmacros.h",
                "-o",
            ])
            .arg(&program)
            .arg(&source)
            .ok();
        format!("-v {}:/{name}:ro", program.display())
    }

    #[test]
    fn no_ranges_and_a_hostile_program_gains_nothing_and_stops_nothing() {
        needs!(Need::Ours, Need::NoRanges, Need::Program("cc"));
        let home = Home::with_busybox();
        let volume = compiled(&home, "hostile", HOSTILE);
        let secret = home.file("secret", "mine");
        let before = std::fs::metadata(&secret).unwrap();
        for options in ["", "--privileged"] {
            home.sh(&format!(
                "$RL run --rm -i --network none --root-emulation=full {options} {volume} busybox /hostile 3000 {} <secret",
                secret.display()
            ))
            .ok()
            .stdout_is("still judged");
        }
        // Neither a note nor a change of owner on a file of the host's, though its descriptor was there.
        let mut value = [0_u8; 64];
        let note = rustix::fs::getxattr(&secret, "user.containers.override_stat", &mut value[..]);
        assert_eq!(note, Err(rustix::io::Errno::NODATA));
        use std::os::unix::fs::MetadataExt as _;
        let after = std::fs::metadata(&secret).unwrap();
        assert_eq!((before.uid(), before.gid()), (after.uid(), after.gid()));
        assert_eq!(before.ctime_nsec(), after.ctime_nsec(), "it was changed");
    }

    #[test]
    fn no_ranges_and_programs_that_die_in_the_middle_of_a_call_leave_it_working() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        let script = "i=0; while [ $i -lt 40 ]; do (while :; do stat /bin/sh /etc /nowhere; touch /tmp/$i; chown 5 /tmp/$i; done) >/dev/null 2>&1 & \
            usleep 20000; kill -9 $!; i=$((i+1)); done; wait; touch /x; chown 5:6 /x; stat -c %u:%g /x";
        full(&home, "", "busybox", script).stdout_is("5:6");
        // A command that is killed takes the container with it, and the process that remembers, too.
        let mut running = home
            .rl("run --rm --name gone --network none --root-emulation=full busybox sh -c")
            .arg("echo here; while :; do stat / >/dev/null; done")
            .spawn();
        running.wait_for_stdout("here");
        running.signal(nix::sys::signal::Signal::SIGKILL);
        drop(running.wait());
        wait_for("its end", || emulations("gone").is_empty().then_some(()));
    }

    /// The processes that remember for the container of this name.
    fn emulations(name: &str) -> Vec<i32> {
        let title = format!("rl:[emulation] {name}");
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let first = words.split(|byte| *byte == 0).next()?;
            (first == title.as_bytes()).then_some(pid)
        });
        processes.collect()
    }

    #[test]
    fn no_ranges_and_without_the_process_that_remembers_the_container_ends() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        let kill = |name: &str| {
            let pid = wait_for("the process", || emulations(name).first().copied());
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        };
        let mut running = home
            .rl("run --rm --name front --network none --root-emulation=full busybox sh -c")
            .arg("echo here; sleep 1000")
            .spawn();
        running.wait_for_stdout("here");
        kill("front");
        running
            .wait()
            .code(137)
            .stderr_has("the process that emulates root has ended, and the container with it");
        home.rl("run -d --name back --network none --root-emulation=full busybox sh -c")
            .arg("touch /x; chown 5:6 /x; sleep 1000")
            .ok();
        wait_for("the file", || {
            let seen = home.rl("exec back stat -c %u:%g /x").run();
            (seen.stdout.trim() == "5:6").then_some(())
        });
        kill("back");
        home.rl("wait back").says("137");
        home.rl("inspect back --format {{.State.Error}}")
            .ok()
            .stdout_has("the process that emulates root has ended");
        home.rl("start back").ok();
        home.rl("exec back stat -c %u:%g /x").says("5:6");
        home.rl("rm -f back").ok();
        // A program that gives up over it ends with a code of its own, maybe before it is killed: not what counts.
        for round in 0..10 {
            let name = format!("quick{round}");
            home.rl(&format!(
                "run -d --name {name} --network none --root-emulation=full busybox sh -c"
            ))
            .arg("touch /x; while chown 5:6 /x; do :; done; exit 3")
            .ok();
            kill(&name);
            home.rl(&format!("wait {name}")).says("137");
        }
    }

    #[test]
    fn no_ranges_and_what_full_cannot_do_is_refused_with_a_reason() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        for (options, reason) in [
            ("--pid host", "with --pid"),
            ("--device /dev/fuse", "would wait for itself"),
            ("--ulimit locks=5", "tells who is who"),
            ("--userns keep-id:uid=5,gid=5", "the one id is not root's"),
        ] {
            home.rl(&format!(
                "run --rm --root-emulation=full {options} busybox true"
            ))
            .fails(125)
            .stderr_has(reason)
            .stderr_has("--root-emulation=basic is");
        }
        // A filter of the program's own cannot listen as well; all else of it works.
        full(
            &home,
            "--cap-drop CHOWN",
            "busybox",
            "touch /x; chown 5 /x 2>/dev/null || echo refused",
        )
        .stdout_is("refused");
        home.rl("run --rm --network none --root-emulation=full --privileged busybox sh -c")
            .arg("mkdir -p /r/bin; cp /bin/busybox /r/bin; chown 5:6 /r/bin/busybox; ln -s /bin /r/abs; chroot /r /bin/busybox stat -c %u:%g /abs/busybox; chroot /r /bin/busybox chown 7 ../../abs/busybox; stat -c %u:%g /r/bin/busybox /bin/busybox")
            .says("5:6\n7:6\n0:0");
    }

    #[test]
    fn no_ranges_and_volumes_and_tmpfs_remember_too() {
        needs!(Need::Ours, Need::NoRanges);
        let home = Home::with_busybox();
        let options = "-v data:/data --tmpfs /mem";
        let set = "touch /data/f /mem/f; chown 5:6 /data/f /mem/f; ln -s x /mem/l; chown -h 7:8 /mem/l; stat -c %u:%g /data/f /mem/f /mem/l";
        full(&home, options, "busybox", set).stdout_is("5:6\n5:6\n7:8");
        full(&home, options, "busybox", "stat -c %u:%g /data/f").stdout_is("5:6");
        // Without, nobody is told.
        home.rl("run --rm --network none -v data:/data busybox stat -c %u:%g /data/f")
            .says("0:0");
    }
}
