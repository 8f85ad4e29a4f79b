//! Containers of the same user that run with the same ids, and what a start has from them.
//!
//! ```text
//! the user's own namespace
//! └── mapped by the helpers, nobody in it      what is shared: it lives as long as one of these
//!     ├── of one container                     0..65536 as they are above
//!     └── of another                           written by ourselves: no helper is needed
//! ```
//!
//! Each container that runs has an entry in the runtime directory: a link ([`paths::ids_link`]) to the number of its pid 1, the text of
//! its maps, and the limits that the kernel keeps with a user namespace. An entry is a hint and no more: whose process
//! it is, the kernel says, and what comes of it is looked at in the end. Source: user_namespaces(7), `NS_GET_PARENT` in
//! ioctl_nsfs(2); `set_userns_rlimit_max()` in the kernel's `kernel/user_namespace.c`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Resource};

use super::{Extent, Plan, lines};
use crate::paths;
use crate::sys;

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

/// Where they are to be found, and what they must have in common with a start.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    text: String,
}

impl Place {
    /// For starts with this plan. `None` without a runtime directory: whoever needs one says why.
    pub(super) fn of(plan: &Plan) -> Option<Self> {
        Some(Self {
            dir: paths::runtime_dir().ok()?,
            text: text(plan),
        })
    }

    /// Looks for them. Entries of those that have ended go.
    pub(super) fn look(&self) -> Neighbours {
        look_in(&self.dir, &self.text)
    }

    /// Makes the entry of the container `id`. `None` where that cannot be: nobody needs it.
    pub(super) fn enter(&self, id: &str, pid: Pid) -> Option<Entry> {
        let path = paths::ids_link(&self.dir, id);
        let target = format!("{} {}", pid.as_raw_nonzero(), self.text);
        let make = || std::os::unix::fs::symlink(&target, &path);
        let made = make().or_else(|_| {
            let _ = std::fs::remove_file(&path); // of a monitor that was killed
            make()
        });
        made.ok()?;
        Some(Entry { path })
    }
}

fn look_in(dir: &Path, wanted: &str) -> Neighbours {
    let mut found = Neighbours::None;
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let links = files.filter(|file| {
        file.file_name()
            .as_bytes()
            .ends_with(paths::IDS_LINK.as_bytes())
    });
    for link in links.take(MOST) {
        let path = link.path();
        let target = std::fs::read_link(&path).unwrap_or_default();
        let Some((pid, text)) = target.to_str().and_then(|text| text.split_once(' ')) else {
            continue;
        };
        if text != wanted {
            continue;
        }
        match shared(pid) {
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

/// What the container with this pid 1 shares. `None`: its user namespace was made in ours.
///
/// # Errors
/// It has ended.
fn shared(pid: &str) -> sys::Result<Option<OwnedFd>> {
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
        let entry = |name: &str, text: &str| {
            let path = dir.path().join(name).with_extension("ids");
            std::os::unix::fs::symlink(text, &path).unwrap();
            path
        };
        let links = [
            entry("ended", "4294967295 0 1 2"),
            entry("not-below-us", "1 0 1 2"),
            entry("others", "2 0 1 3"),
            entry("no-entry", "2"),
        ];
        assert!(matches!(look_in(dir.path(), "0 1 2"), Neighbours::None));
        let is_there = links.map(|path| path.is_symlink());
        assert_eq!(is_there, [false, false, true, true]);
    }

    #[test]
    fn one_whose_namespace_was_made_in_ours_shares_none_and_starts_only_at_first() {
        let guide = crate::sys::guide::Guide::send().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guide.ids");
        let pid = guide.pid().as_raw_nonzero();
        std::os::unix::fs::symlink(format!("{pid} 0 1 2"), &path).unwrap();
        assert!(matches!(look_in(dir.path(), "0 1 2"), Neighbours::Start));
        let long_ago = rustix::fs::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        rustix::fs::utimensat(
            rustix::fs::CWD,
            &path,
            &rustix::fs::Timestamps {
                last_access: long_ago,
                last_modification: long_ago,
            },
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
        assert!(matches!(look_in(dir.path(), "0 1 2"), Neighbours::None));
    }
}
