//! A store on a real NFS server, over version 3, which knows no attributes, and 4.2, which does. Root is squashed there.

use crate::guest::{DEV, ROOT};

/// The server's directory mounted at `/mnt/nfs`, until this is dropped.
struct Mounted;

impl Mounted {
    fn new(version: &str) -> Self {
        let mounted = Self;
        ROOT.sh(&format!(
            "mkdir -p /export/dev /mnt/nfs; chown dev: /export/dev
             echo '/export *(rw,sync,no_subtree_check,fsid=1,insecure,root_squash)' >/etc/exports
             systemctl start nfs-server; exportfs -ra
             mount -t nfs -o vers={version} 127.0.0.1:/export /mnt/nfs"
        ))
        .ok();
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let undone = ROOT
            .sh("umount -l /mnt/nfs; systemctl stop nfs-server; rm -rf /export")
            .run();
        if !undone.status.success() {
            eprintln!("{}", undone.stderr);
        }
    }
}

/// A life with all that touches files, and what stays afterwards.
const LIFE: &str = r#"
export RL_ROOT=/mnt/nfs/dev/store
work=$(mktemp -d) && cd "$work"
mkdir -p root/etc && tar -xf /srv/busybox.tar -C root && echo theirs >root/etc/theirs
tar -C root --owner=33 --group=44 -cf theirs.tar .
rl import theirs.tar theirs >/dev/null
cat "$RL_ROOT/owners"
rl run --rm theirs sh -c 'cat /etc/theirs; echo new >/etc/new; cat /etc/new; id -u'
rl run --rm --root-emulation=full theirs sh -c 'touch /x; chown 5:6 /x; stat -c %u:%g /x /etc/theirs'
rl run -d --name c theirs sleep 1000 >/dev/null
rl exec c sh -c 'echo more >/etc/more'
rl commit c kept >/dev/null
rl rm -f c >/dev/null
rl run --rm kept cat /etc/more
rl system check
rl system reset --force
find "$RL_ROOT" -type f ! -name '.nfs*' 2>/dev/null | wc -l
rm -rf "$work"
"#;

fn lives(version: &str) {
    let _mounted = Mounted::new(version);
    let output = DEV.sh(LIFE).ok();
    output.stderr_has("keeps no files of other owners");
    output.stdout_is("noted\ntheirs\nnew\n0\n5:6\n33:44\nmore\nnothing is wrong\n0");
}

#[test]
fn a_store_on_nfs_4_works_with_one_id() {
    lives("4.2");
}

#[test]
fn a_store_on_nfs_3_works_with_one_id() {
    lives("3");
}
