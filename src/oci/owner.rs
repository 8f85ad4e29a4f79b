//! Whose a container is. What is kept of it says which process is killed, which group is removed and which programs run as
//! hooks: so root acts on a user's container with that user's rights (the daemon of Slurm clears away as root what users
//! started), and nobody else acts on it at all.

use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use super::is_real_root;
use crate::error::Fail;
use crate::sys;

/// The rights all come from the user id: no group is needed, and the one of a directory may be more than its owner has.
const NOBODY: u32 = 65534;

/// Before a container is made below `root`.
///
/// # Errors
/// `Denied` when another user could change what is kept there.
pub fn makes(root: &Path, id: &str) -> Result<()> {
    match stranger(&owners(root, Some(id))?, me()) {
        None => Ok(()),
        Some(uid) => Err(denied(root, uid)),
    }
}

/// Before anything is done with the container `id`, or with all below `root`.
///
/// # Errors
/// `Denied` for who is not root and not its owner.
pub fn touches(root: &Path, id: Option<&str>) -> Result<()> {
    let owners = owners(root, id)?;
    let Some(uid) = stranger(&owners, me()) else {
        return Ok(());
    };
    // Of two of them, one could lead us to what is the other's.
    if !is_real_root() || stranger(&owners, uid).is_some() {
        return Err(denied(root, uid));
    }
    let doing = || format!("becoming the user {uid}, whose containers are in {root:?}");
    sys::confine::setgroups(&[]).with_context(doing)?;
    sys::confine::setresgid(NOBODY).with_context(doing)?;
    sys::confine::setresuid(uid).with_context(doing)
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The first who is neither `own` nor root.
fn stranger(owners: &[u32], own: u32) -> Option<u32> {
    owners.iter().copied().find(|uid| *uid != own && *uid != 0)
}

/// Who can change where the container is kept: the owners of a link at `root`, of `root`, and of the container's directory.
fn owners(root: &Path, id: Option<&str>) -> Result<Vec<u32>> {
    let mut owners = Vec::new();
    let mut ask = |path: &Path, follow: bool| -> Result<()> {
        let found = if follow {
            rustix::fs::stat(path)
        } else {
            rustix::fs::lstat(path)
        };
        match found {
            // Inside a user namespace, the host's root has no number.
            Ok(meta) if meta.st_uid == NOBODY && !super::has_all_ids() => Ok(()),
            Ok(meta) => {
                owners.push(meta.st_uid);
                Ok(())
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(sys::Error::new(format!("stat({path:?})"), errno).into()),
        }
    };
    ask(root, false)?;
    ask(root, true)?;
    if let Some(id) = id
        && super::state::check_id(id).is_ok()
    {
        ask(&root.join(id), false)?;
    }
    Ok(owners)
}

fn denied(root: &Path, uid: u32) -> anyhow::Error {
    Fail::denied(format!(
        "the containers in `{}` are user {uid}'s, who can change what would be done with them",
        root.display()
    ))
    .hint("--root names another directory; sudo -u that user acts on those")
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_neither_oneself_nor_root() {
        assert_eq!(stranger(&[0, 1000], 1000), None);
        assert_eq!(stranger(&[0, 0], 0), None);
        assert_eq!(stranger(&[0, 1000], 0), Some(1000));
        assert_eq!(stranger(&[1001, 1000], 1000), Some(1001));
        assert_eq!(stranger(&[], 1000), None);
    }
}
