//! Machines that give less, of those that only root of a whole machine can make; the others are in `tests/it/machines`.

use crate::guest::{DEV, Made, Store};

#[test]
fn without_user_namespaces_nothing_runs_and_the_line_for_the_administrator_is_there() {
    let store = Store::new(DEV, "switched-off");
    let made = Made::new(
        "sysctl -q kernel.unprivileged_userns_clone=0",
        "sysctl -q kernel.unprivileged_userns_clone=1",
    );
    let output = store.sh("rl run --rm busybox true").run().code(125);
    output.stderr_has("RL-U02");
    output.stderr_has("kernel.unprivileged_userns_clone=1");
    drop(made);
    store
        .sh("rl run --rm --network none busybox echo back")
        .ok()
        .stdout_is("back");
}

#[test]
fn without_the_module_for_overlays_fuse_stands_in() {
    let store = Store::new(DEV, "no-overlay");
    let _made = Made::new(
        "echo 'install overlay /bin/false' >/etc/modprobe.d/no.conf; modprobe -r overlay || true; ! grep -q overlay /proc/filesystems",
        "rm /etc/modprobe.d/no.conf; modprobe overlay",
    );
    let output = store
        .sh("rl run --rm --network none busybox sh -c 'echo new >/new; cat /new'")
        .ok();
    output.stdout_is("new");
    output.stderr_has("using fuse-overlayfs (rl explain RL-F03)");
}

#[test]
fn without_the_module_for_tun_the_hosts_network_is_used_unless_another_is_asked_for() {
    let store = Store::new(DEV, "no-tun");
    let _made = Made::new(
        "echo 'install tun /bin/false' >/etc/modprobe.d/no.conf; modprobe -r tun; ! grep -qw tun /proc/misc",
        "rm /etc/modprobe.d/no.conf; modprobe tun",
    );
    let output = store.sh("rl run --rm busybox echo hi").ok();
    output.stdout_is("hi");
    output.stderr_has("using the host's network");
    let output = store
        .sh("rl run --rm --network pasta busybox true")
        .run()
        .code(125);
    output.stderr_has("RL-N01");
}

#[test]
fn where_the_processes_of_others_are_hidden_all_works() {
    let store = Store::new(DEV, "hidden");
    let _made = Made::new(
        "mount -o remount,hidepid=2 /proc",
        "mount -o remount,hidepid=0 /proc",
    );
    store
        .sh("rl run -d --name c busybox sleep 1000 >/dev/null
             rl exec c echo inside
             rl ps --format '{{.Names}} {{.State}}'
             rl stats --no-stream --format '{{.Name}}'
             rl stop -t 0 c
             rl ps -a --format '{{.State}}'")
        .ok()
        .stdout_is("inside\nc running\nc\nc\nexited");
}

#[test]
fn a_home_on_nfs_is_told_of_and_the_store_is_put_elsewhere() {
    let _made = Made::nfs("4.2");
    let output = DEV
        .sh("export HOME=/mnt/nfs/dev; unset XDG_DATA_HOME RL_ROOT
             rl import /srv/busybox.tar busybox >/dev/null
             rl run --rm --network none busybox echo hi
             ls -A $HOME; rl system reset --force; test ! -e /var/tmp/rl-$(id -u)")
        .ok();
    output.stdout_is("hi");
    output.stderr_has("is on NFS");
    output.stderr_has("/var/tmp/rl-");
    output.stderr_has("RL-F01");
}

/// The administrator's line was carried out in the guest (`image/customize`), so that all others have pasta.
#[test]
fn where_a_profile_of_apparmor_forbids_pasta_slirp4netns_goes_first() {
    const LINE: &str = "ln -s /etc/apparmor.d/usr.bin.passt /etc/apparmor.d/disable/ && apparmor_parser -R /etc/apparmor.d/usr.bin.passt";
    let store = Store::new(DEV, "no-pasta");
    let made = Made::new(
        "rm /etc/apparmor.d/disable/usr.bin.passt && apparmor_parser -r /etc/apparmor.d/usr.bin.passt",
        LINE,
    );
    let output = store.sh("rl run --rm busybox ip -o -4 addr show tap0").ok();
    output.stdout_has("10.0.2.100").stderr_is_empty();
    let output = store
        .sh("rl run --rm --network pasta busybox true")
        .run()
        .code(125);
    output.stderr_has("RL-N02").stderr_has(LINE);
    drop(made);
    let output = store.sh("rl run --rm busybox ls /sys/class/net").ok();
    output.stdout_has("eth0").stderr_is_empty();
}

#[test]
fn a_quota_of_bytes_or_files_is_named_and_nothing_is_lost() {
    let _made = Made::new(
        "truncate -s 256M /var/tmp/quota.img; mkfs.ext4 -q -F -O quota -E quotatype=usrquota /var/tmp/quota.img
         mkdir -p /mnt/quota; mount -o loop,usrquota /var/tmp/quota.img /mnt/quota; chmod 1777 /mnt/quota
         setquota -u dev 16384 16384 600 600 /mnt/quota",
        "umount -l /mnt/quota; rm /var/tmp/quota.img",
    );
    let output = DEV
        .sh(r#"export RL_ROOT=/mnt/quota/store
             rl import /srv/busybox.tar busybox >/dev/null 2>&1
             cd "$(mktemp -d)"; truncate -s 1M one; for n in {1..30}; do cp one big.$n; head -c 1M /dev/urandom >big.$n; done; tar cf big.tar --owner=0 --group=0 big.*
             mkdir many; (cd many; touch {1..900}); tar cf many.tar --owner=0 --group=0 many
             for what in big many; do rl import $what.tar $what || echo "exit code $?"; done
             rl images --format '{{.Repository}}'
             rl run --rm --network none busybox sh -c 'dd if=/dev/zero of=/f bs=1M count=30 2>/dev/null || echo full'
             rl run --name c --network none busybox echo hi
             rl system check >/dev/null && echo whole
             rl system reset --force; cd /; rm -rf "$OLDPWD""#)
        .ok();
    output.stdout_is("exit code 125\nexit code 125\nbusybox\nfull\nhi\nwhole");
    output
        .stderr_has("your quota is used up")
        .stderr_has("RL-F05");
    assert!(!output.stderr.contains("disk is nearly full"), "{output:?}");
}

/// What Ubuntu's restriction does to a program without a profile: the namespace is made, and no right in it is given.
#[test]
fn a_profile_of_apparmor_that_takes_all_capabilities_is_named() {
    let store = Store::new(DEV, "apparmor");
    let _made = Made::new(
        r"printf 'profile rl /srv/rl flags=(attach_disconnected,mediate_deleted) {\n  /{,**} rwlkm,\n  network,\n  unix,\n  signal,\n  ptrace,\n  dbus,\n  mount,\n  umount,\n  pivot_root,\n  /** ux,\n  audit deny capability,\n}\n' >/tmp/rl-taken.profile
          apparmor_parser -r /tmp/rl-taken.profile",
        "apparmor_parser -R /tmp/rl-taken.profile",
    );
    let output = store
        .sh("rl run --rm --network none busybox true")
        .run()
        .code(125);
    output.stderr_has("RL-U0");
    output.stderr_has("to fix:");
}
