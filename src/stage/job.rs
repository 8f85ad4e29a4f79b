//! Work on files as root of a user namespace: the process behind pulls, loads and removals.
//!
//! It is started as a container is (see [`super`]), keeps the host's network and processes, and may start
//! threads: nothing is forked here.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{Gid, OFlags, Uid};
use rustix::io::Errno;

use super::init::Host;
use super::{Job, SquashFile, ToHost, ToStage};
use crate::error::{self, Fail};
use crate::paths::Owners;
use crate::sys;

/// What this module knows nothing of.
#[derive(Debug, Clone, Copy)]
pub struct Crafts {
    /// [`Job::Image`]: the request, and a descriptor that came with it.
    pub image: fn(&str, Option<OwnedFd>) -> Result<String>,
    /// [`Job::Unsquash`]: the file, the directory, and whether owners are noted.
    pub unsquash: fn(&SquashFile, &Path, bool) -> Result<()>,
}

/// Does one job and leaves.
pub fn main(fd: RawFd, crafts: Crafts) -> ! {
    let Ok(mut host) = Host::from_inherited(fd) else {
        sys::process::exit_now(125)
    };
    let answer = match run(&mut host, crafts) {
        Ok(text) => ToHost::Done(text),
        Err(error) => ToHost::Failed(error::flatten(&error)),
    };
    let _ = host.say(&answer, None); // nobody left to tell
    sys::process::exit_now(0)
}

fn run(host: &mut Host, crafts: Crafts) -> Result<String> {
    let (ToStage::Work(job), root) = host.hear_with_fd()? else {
        return Err(Fail::system("no work").into());
    };
    host.wait_mapped()?;
    match sys::process::become_ids(0, 0) {
        // The one id of a container's namespace that was joined need not be root's; its rights are whole as they are.
        Err(error) if error.errno == Errno::INVAL => {}
        done => done?,
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match *job {
        Job::Remove { paths } => {
            for path in &paths {
                remove(path)?;
            }
            Ok(String::new())
        }
        Job::Flatten { lowers, into } => {
            flatten(&lowers, &into)?;
            Ok(String::new())
        }
        Job::Owners { directory } => {
            let owners = if can_give_away(&directory)? {
                Owners::Kept
            } else {
                Owners::Noted
            };
            serde_json::to_string(&owners).context("writing an answer")
        }
        Job::Unsquash {
            squash,
            into,
            notes_owners,
        } => {
            (crafts.unsquash)(&squash, &into, notes_owners)?;
            Ok(String::new())
        }
        Job::Image { request } => (crafts.image)(&request, root),
    }
}

/// Copies these trees, the lowest first, into one.
///
/// # Errors
/// The system's, with the tree.
pub fn flatten(lowers: &[PathBuf], into: &Path) -> Result<()> {
    let target = sys::fs::open_trusted(into, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for lower in lowers {
        let source = sys::fs::open_trusted(lower, OFlags::RDONLY | OFlags::DIRECTORY)?;
        sys::fs::copy_layer(source.as_fd(), target.as_fd())
            .with_context(|| format!("copying `{}`", lower.display()))?;
    }
    Ok(())
}

/// Whether a file in this directory can be another's: made, given to id 1, looked at, removed.
fn can_give_away(directory: &Path) -> Result<bool> {
    let name = directory.join(format!("owners.{}", std::process::id()));
    let file =
        std::fs::File::create_new(&name).with_context(|| format!("making `{}`", name.display()))?;
    let (uid, gid) = (Uid::from_raw(1), Gid::from_raw(1));
    let given =
        rustix::fs::fchown(&file, Some(uid), Some(gid)).and_then(|()| rustix::fs::fstat(&file));
    let removed = std::fs::remove_file(&name);
    let answer = match given {
        // Some servers say yes and do nothing.
        Ok(stat) => (stat.st_uid, stat.st_gid) == (1, 1),
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL) => false,
        Err(errno) => return Err(sys::Error::new("fchown(1, 1)", errno).into()),
    };
    removed.with_context(|| format!("removing `{}`", name.display()))?;
    Ok(answer)
}

/// Removes the tree at `path`.
///
/// # Errors
/// With the entry that stays.
pub fn remove(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let parent = sys::fs::open_trusted(parent, OFlags::PATH | OFlags::DIRECTORY)?;
    sys::fs::remove_tree(parent.as_fd(), OsStr::new(name))
        .with_context(|| format!("removing `{}`", path.display()))
}
