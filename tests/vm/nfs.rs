//! A store on a real NFS server, over version 3, which knows no attributes, and 4.2, which does. Root is squashed there.

use crate::guest::{DEV, Made};

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
    let _made = Made::nfs(version);
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
