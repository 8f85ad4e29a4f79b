//! Whether a place can hold images and containers at all, seen from its file system. Nothing is made or changed.
//!
//! `noexec` is no reason against it: an overlay does not inherit it.

use std::path::Path;

use rustix::fs::{Access, StatVfsMountFlags};

use crate::error::Fail;

/// Why nothing could be run from the store at `path`. A store that is on a network file system already is a choice.
pub fn why(path: &Path) -> Option<Fail> {
    let there = path.ancestors().find(|path| path.is_dir())?;
    let shown = path.display();
    let flags = rustix::fs::statvfs(there).ok()?.f_flag;
    if flags.contains(StatVfsMountFlags::RDONLY)
        || rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK).is_err()
    {
        return Some(
            Fail::unsupported(format!(
                "`{shown}` cannot be made: `{}` is not yours to write to",
                there.display()
            ))
            .code("RL-F05"),
        );
    }
    let name = network(magic(there)?)?;
    (there != path).then(|| {
        Fail::unsupported(format!(
            "`{shown}` is on {name}, which keeps no owners and no layers of images"
        ))
        .code("RL-F01")
    })
}

/// Whether the file system of `path`, or of what it will be made in, may keep no files of other owners.
pub fn is_doubtful(path: &Path) -> bool {
    /// Programs serve all kinds of it.
    const FUSE: u64 = 0x6573_5546;
    path.ancestors()
        .find(|path| path.is_dir())
        .and_then(magic)
        .is_some_and(|magic| magic & 0xffff_ffff == FUSE || network(magic).is_some())
}

/// Source: statfs(2).
fn magic(directory: &Path) -> Option<u64> {
    let kind = rustix::fs::statfs(directory).ok()?.f_type;
    // The types of the field differ between processors.
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        reason = "a magic number is a bit pattern"
    )]
    Some(kind as u64)
}

/// The name of a file system that machines share, by its magic number. Source: statfs(2), and the kernel's sources of each.
fn network(magic: u64) -> Option<&'static str> {
    let names = [
        (0x6969, "NFS"),
        (0x0bd0_0bd0, "Lustre"),
        (0x4750_4653, "GPFS"),
        (0x1983_0326, "BeeGFS"),
        (0x5346_414f, "AFS"),
        (0x6b41_4653, "AFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "CIFS"),
        (0x517b, "SMB"),
        (0x00c3_6400, "Ceph"),
        (0x0102_1997, "9p"),
        (0x2003_0528, "OrangeFS"),
        (0xaad7_aaea, "PanFS"),
        (0x7461_636f, "OCFS2"),
    ];
    names
        .into_iter()
        .find(|(number, _)| *number == magic & 0xffff_ffff)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_the_network_are_known() {
        assert_eq!(network(0x6969), Some("NFS"));
        assert_eq!(network(0xffff_ffff_ff53_4d42), Some("CIFS")); // a signed field of 64 bits
        assert_eq!(network(0xef53), None); // ext4
    }

    #[test]
    fn a_place_is_judged_by_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(why(&dir.path().join("not/yet/there")), None);
        // Nobody can make anything in /proc, though root may seem to.
        if rustix::process::geteuid().is_root() {
            return;
        }
        let code = |path: &str| why(Path::new(path)).and_then(|fail| fail.code);
        assert_eq!(code("/proc/x").as_deref(), Some("RL-F05"));
    }
}
