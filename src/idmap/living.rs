//! Containers of the same user that run with the same ids, and what a start has from them.
//!
//! ```text
//! the user's own namespace
//! └── mapped by the helpers, nobody in it      what is shared: it lives as long as one of these
//!     ├── of one container                     0..65536 as they are above
//!     └── of another                           written by ourselves: no helper is needed
//! ```
//!
//! Each container that runs has an entry in the runtime directory: a link with the number of its pid 1 for a name, which leads to
//! the text of its maps and of the limits that the kernel keeps with a user namespace. An entry is a hint and no more: whose process
//! it is, the kernel says, and what comes of it is looked at in the end. Source: user_namespaces(7), `NS_GET_PARENT` in
//! ioctl_nsfs(2); `set_userns_rlimit_max()` in the kernel's `kernel/user_namespace.c`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Resource};

use super::{Extent, Plan, lines};
use crate::paths;
use crate::sys;

/// Their directory, in the runtime directory.
const DIR: &str = "living";
/// So many entries are looked at.
const MOST: usize = 16;
/// What has started so lately may have been started together with this.
const TOGETHER: Duration = Duration::from_secs(1);

/// Who runs with the same ids.
#[derive(Debug)]
pub(super) enum Neighbours {
    /// One that shares this user namespace, with these ids in it.
    Share(OwnedFd),
    /// None that does, but somebody else starts now.
    Start,
    /// Nobody.
    None,
}

/// Looks for them. Entries of those that have ended go.
pub(super) fn look(plan: &Plan) -> Neighbours {
    match paths::runtime_dir() {
        Ok(dir) => look_in(&dir.join(DIR), &text(plan)),
        Err(_) => Neighbours::None, // whoever needs that directory says why
    }
}

fn look_in(dir: &Path, wanted: &str) -> Neighbours {
    let mut found = Neighbours::None;
    for entry in std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .take(MOST)
    {
        let path = entry.path();
        if !std::fs::read_link(&path).is_ok_and(|text| text == Path::new(wanted)) {
            continue;
        }
        match shared(&path) {
            Ok(Some(namespace)) => return Neighbours::Share(namespace),
            Ok(None) if is_young(&path) => found = Neighbours::Start,
            Ok(None) => {}
            Err(_) => {
                let _ = std::fs::remove_file(&path); // whoever else saw it was quicker
            }
        }
    }
    found
}

/// What the container of an entry shares. `None`: its user namespace was made in ours.
///
/// # Errors
/// It has ended.
fn shared(entry: &Path) -> sys::Result<Option<OwnedFd>> {
    let pid = entry.file_name().unwrap_or_default();
    let own = Path::new("/proc").join(pid).join("ns/user");
    let parent = sys::namespace::parent(sys::fs::open_trusted(&own, OFlags::RDONLY)?.as_fd())?;
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let ours = std::fs::metadata("/proc/self/ns/user").map(identity).ok();
    let its = std::fs::File::from(parent);
    let differs = its.metadata().map(identity).ok() != ours;
    Ok(differs.then(|| its.into()))
}

fn is_young(entry: &Path) -> bool {
    std::fs::symlink_metadata(entry)
        .and_then(|meta| meta.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < TOGETHER))
}

/// What two containers must have in common. The limits are those of whoever makes the namespace, and hold for all below it.
fn text(plan: &Plan) -> String {
    let ids = |extents: &[Extent]| lines(extents).replace('\n', ",");
    let limit = |resource| match rustix::process::getrlimit(resource).current {
        Some(most) => most.to_string(),
        None => "max".to_owned(),
    };
    let limits = [
        Resource::Nproc,
        Resource::Memlock,
        Resource::Sigpending,
        Resource::Msgqueue,
    ]
    .map(limit);
    format!(
        "{};{};{}",
        ids(&plan.uids),
        ids(&plan.gids),
        limits.join(",")
    )
}

/// The entry of a container that runs, until it is dropped.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
}

impl Entry {
    /// Makes one. `None` where that cannot be: nobody needs it.
    #[must_use]
    pub fn of(pid: Pid, plan: &Plan) -> Option<Self> {
        let dir = paths::runtime_dir().ok()?.join(DIR);
        let path = dir.join(pid.as_raw_nonzero().to_string());
        let make = || std::os::unix::fs::symlink(text(plan), &path);
        let made = make().or_else(|_| {
            // The first one; or one is left of a process with the same number.
            let _ = std::fs::create_dir(&dir);
            let _ = std::fs::remove_file(&path);
            make()
        });
        made.ok()?;
        Some(Self { path })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // whoever looked since may have been quicker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_have_ended_or_are_not_ours_lose_their_entries() {
        let dir = tempfile::tempdir().unwrap();
        let entry = |pid: u32, text: &str| {
            let path = dir.path().join(pid.to_string());
            std::os::unix::fs::symlink(text, &path).unwrap();
            path
        };
        let (ended, not_below, of_others) = (
            entry(u32::MAX, "0 1 2"),
            entry(1, "0 1 2"),
            entry(2, "0 1 3"),
        );
        assert!(matches!(look_in(dir.path(), "0 1 2"), Neighbours::None));
        let is_there = [ended, not_below, of_others].map(|path| path.is_symlink());
        assert_eq!(is_there, [false, false, true]);
    }

    #[test]
    fn one_whose_namespace_was_made_in_ours_shares_none_and_starts_only_at_first() {
        let guide = crate::sys::guide::Guide::send().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(guide.pid().as_raw_nonzero().to_string());
        std::os::unix::fs::symlink("0 1 2", &path).unwrap();
        assert!(matches!(look_in(dir.path(), "0 1 2"), Neighbours::Start));
        rustix::fs::utimensat(
            rustix::fs::CWD,
            &path,
            &rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec {
                    tv_sec: 1,
                    tv_nsec: 0,
                },
                last_modification: rustix::fs::Timespec {
                    tv_sec: 1,
                    tv_nsec: 0,
                },
            },
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
        assert!(matches!(look_in(dir.path(), "0 1 2"), Neighbours::None));
    }
}
