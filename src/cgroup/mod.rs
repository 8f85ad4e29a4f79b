//! Control groups, version 2: one group is one directory, and what can be done to it.
//!
//! [`place`] finds where a container's group may stand, [`life`] makes and leaves it, [`limits`] says what is written
//! into it. Every file is reached through the directory's descriptor, so that a group that vanished is never taken for
//! a later one of the same name. Source: the kernel's `Documentation/admin-guide/cgroup-v2.rst`, cgroups(7).

pub mod account;
pub mod controllers;
pub mod devices;
pub mod exact;
pub mod life;
pub mod limits;
pub mod named;
pub mod place;
pub mod scope;
pub mod slice;
pub mod systemd;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::Fail;
use crate::sys;

/// Where the tree is mounted.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// The group for our own processes, beside those of containers: a group that hands controllers down may have no
/// processes itself.
pub const SELF: &str = "rl-self";

/// How long the kernel may take to freeze or kill a group. Only a process that hangs in the kernel takes as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// No file of a group is longer: `cgroup.procs` of ten thousand processes has some 80 KB.
const MOST: u64 = 16 << 20;

/// The directory name of a container's own group.
#[must_use]
pub fn name(id: &str) -> String {
    format!("rl-{id}")
}

/// The id in the name of a container's group or scope.
#[must_use]
pub fn id_of(name: &str) -> Option<&str> {
    let id = name.strip_prefix("rl-")?;
    let id = id.strip_suffix(".scope").unwrap_or(id);
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (id.len() == 64 && id.bytes().all(is_hex)).then_some(id)
}

/// Whether the tree is one of version 2 alone.
#[must_use]
pub fn is_v2() -> bool {
    /// Source: statfs(2).
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    #[allow(
        clippy::unnecessary_cast,
        reason = "the field's type depends on the architecture"
    )]
    rustix::fs::statfs(MOUNT).is_ok_and(|stat| stat.f_type as i64 == CGROUP2_SUPER_MAGIC)
}

/// The group that a process is in, as a directory of the host; `None` where the tree is not of version 2, or the
/// group lies outside of what can be seen.
#[must_use]
pub fn of_process(pid: &str) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    is_v2().then(|| path_in(&text)).flatten()
}

/// Out of `/proc/PID/cgroup`. Source: cgroups(7): a group above our cgroup namespace begins with `/..`.
fn path_in(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let inside = path.starts_with('/') && !path.split('/').any(|part| part == "..");
    inside.then(|| Path::new(MOUNT).join(path.trim_start_matches('/')))
}

/// One group.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    dir: OwnedFd,
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Group {
    /// The group with this directory.
    ///
    /// # Errors
    /// `ENOENT` when it has vanished.
    pub fn open(path: &Path) -> sys::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(Self {
            dir: sys::fs::open_trusted(path, flags)?,
            path: path.to_owned(),
        })
    }

    /// Makes a group below this one.
    ///
    /// # Errors
    /// `EEXIST`, `EACCES`, and `EAGAIN` for the limits `cgroup.max.*` of a group above.
    pub fn create(&self, name: &str) -> sys::Result<Self> {
        let path = self.path.join(name);
        rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o755))
            .map_err(|errno| sys::Error::new(format!("mkdir({:?})", path.display()), errno))?;
        Self::open(&path)
    }

    /// Its directory on the host.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of it.
    ///
    /// # Errors
    /// `ENOENT` when the file does not exist, be it for a controller that is missing; `ENODEV` when the group has
    /// vanished.
    pub fn open_file(&self, file: &str, flags: OFlags) -> sys::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.dir, file, flags, Mode::empty())
            .map_err(|errno| self.error("open", file, errno))
    }

    fn error(&self, call: &str, file: &str, errno: Errno) -> sys::Error {
        sys::Error::new(
            format!("{call}({:?})", self.path.join(file).display()),
            errno,
        )
    }

    /// The text of a file, without white space at its ends.
    ///
    /// # Errors
    /// As [`Group::open_file`].
    pub fn read(&self, file: &str) -> sys::Result<String> {
        use std::io::Read as _;
        let open = std::fs::File::from(self.open_file(file, OFlags::RDONLY)?);
        let mut text = String::new();
        open.take(MOST).read_to_string(&mut text).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::ILSEQ);
            self.error("read", file, errno)
        })?;
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// Whether it has this file: the controller is handed down to it.
    #[must_use]
    pub fn has(&self, file: &str) -> bool {
        rustix::fs::accessat(
            &self.dir,
            file,
            rustix::fs::Access::EXISTS,
            AtFlags::empty(),
        )
        .is_ok()
    }

    /// The number behind `key` in a file of lines `KEY NUMBER`.
    #[must_use]
    pub fn keyed(&self, file: &str, key: &str) -> Option<u64> {
        keyed(&self.read(file).ok()?, key)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` for what makes no sense to it, `EBUSY` for what other groups are in the way of.
    pub fn write(&self, file: &str, text: &str) -> sys::Result<()> {
        let open = self.open_file(file, OFlags::WRONLY)?;
        // One call: the kernel takes each write for a whole.
        rustix::io::retry_on_intr(|| rustix::io::write(&open, text.as_bytes()))
            .map(|_| ())
            .map_err(|errno| self.error("write", file, errno))
    }

    /// The processes in it, not in groups below. Those of other pid namespaces than ours cannot be named.
    ///
    /// # Errors
    /// When it has vanished.
    pub fn processes(&self) -> sys::Result<Vec<i32>> {
        let text = self.read("cgroup.procs")?;
        let numbers = text.lines().filter_map(|line| line.parse().ok());
        Ok(numbers.filter(|pid| *pid > 0).collect())
    }

    /// Moves a process with all its threads into it.
    ///
    /// # Errors
    /// `ESRCH` when it is gone, `EACCES` when the common ancestor is not ours, `EBUSY` when the group hands
    /// controllers down.
    pub fn enter(&self, pid: i32) -> sys::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Stops every process in it and below, and returns when all of them stand.
    ///
    /// # Errors
    /// When one does not stop in time: the group runs again then.
    pub fn freeze(&self) -> Result<()> {
        self.write("cgroup.freeze", "1")?;
        let done = self.wait("frozen", 1).and_then(|all| {
            if all {
                return Ok(());
            }
            let seconds = PATIENCE.as_secs();
            Err(Fail::system(format!(
                "a process in `{}` did not stop within {seconds} seconds",
                self.path.display()
            ))
            .hint("it hangs in the kernel, on a disk or a file server: see the state D in rl top")
            .into())
        });
        if done.is_err() {
            self.write("cgroup.freeze", "0")?;
        }
        done
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it has vanished.
    pub fn thaw(&self) -> Result<()> {
        self.write("cgroup.freeze", "0")?;
        // A group above may be frozen still: then there is nothing to wait for.
        Ok(())
    }

    /// Whether it was frozen, itself and not only with a group above.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.read("cgroup.freeze").is_ok_and(|text| text == "1")
    }

    /// Whether a living process is in it or below.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        self.keyed("cgroup.events", "populated") == Some(1)
    }

    /// Kills every process in it and below, frozen ones too, and returns when they have ended.
    ///
    /// # Errors
    /// When one does not end in time.
    pub fn kill(&self) -> Result<()> {
        match self.write("cgroup.kill", "1") {
            Ok(()) => {}
            Err(error) if is_gone(error.errno) && !self.is_there() => return Ok(()),
            // KERNEL(5.14): there is no such file before. A frozen group forks no more while it is killed.
            Err(error) if error.errno == Errno::NOENT => self.kill_one_by_one()?,
            Err(error) => return Err(error.into()),
        }
        if self.wait("populated", 0)? {
            return Ok(());
        }
        Err(Fail::system(format!(
            "a process in `{}` did not end within {} seconds of SIGKILL",
            self.path.display(),
            PATIENCE.as_secs()
        ))
        .hint("it hangs in the kernel, on a disk or a file server")
        .into())
    }

    fn kill_one_by_one(&self) -> Result<()> {
        self.write("cgroup.freeze", "1")?;
        for child in self.children() {
            child.kill_one_by_one()?;
        }
        for pid in self.processes()? {
            let pid = rustix::process::Pid::from_raw(pid);
            let pidfd = pid.and_then(|pid| {
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
            });
            if let Some(pidfd) = pidfd {
                sys::process::signal_pidfd(&pidfd, libc::SIGKILL)?;
            }
        }
        Ok(self.write("cgroup.freeze", "0")?)
    }

    fn is_there(&self) -> bool {
        self.has("cgroup.procs")
    }

    /// The groups directly below; none when it has vanished.
    #[must_use]
    pub fn children(&self) -> Vec<Self> {
        let Ok(dir) = rustix::fs::Dir::read_from(&self.dir) else {
            return Vec::new();
        };
        let names = dir.flatten().filter(|entry| {
            entry.file_type() == rustix::fs::FileType::Directory
                && ![&b"."[..], b".."].contains(&entry.file_name().to_bytes())
        });
        names
            .filter_map(|entry| {
                let name = entry.file_name().to_str().ok()?;
                Self::open(&self.path.join(name)).ok() // one that has gone meanwhile
            })
            .collect()
    }

    /// Removes it with all groups below; what still lives in it is killed. One that has vanished is no error.
    ///
    /// # Errors
    /// When a process does not end, or the directory is not ours.
    pub fn remove(self) -> Result<()> {
        let removed = rustix::fs::rmdir(&self.path);
        match removed {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(errno) => return Err(self.error("rmdir", "", errno).into()),
        }
        if self.is_populated() {
            self.kill()?;
        }
        for child in self.children() {
            child.remove()?;
        }
        match rustix::fs::rmdir(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error("rmdir", "", errno)).context("removing a cgroup"),
        }
    }

    /// Waits until `cgroup.events` has `key` at `value`, or the group has vanished; false when it takes too long.
    /// Source: cgroup-v2.rst: a change of the file is an exceptional condition for poll(2).
    fn wait(&self, key: &str, value: u64) -> Result<bool> {
        let file = match self.open_file("cgroup.events", OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if is_gone(error.errno) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let until = Instant::now() + PATIENCE;
        // The kernel holds a notice back for 10 ms after another one, and drops it when the group is removed meanwhile: who
        // waits for the notice alone waits for ever. So it is looked again, twice as late each time.
        let mut again = Duration::from_millis(20);
        let mut buffer = [0_u8; 128];
        loop {
            // Reading comes first and rearms the notice: no change is missed.
            let length = match rustix::io::pread(&file, &mut buffer, 0) {
                Ok(length) => length,
                Err(errno) if is_gone(errno) => return Ok(true),
                Err(errno) => return Err(self.error("read", "cgroup.events", errno).into()),
            };
            let text = String::from_utf8_lossy(&buffer[..length]);
            if keyed(&text, key) == Some(value) {
                return Ok(true);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let left = left.min(again);
            again = (again * 2).min(PATIENCE);
            let mut fds = [PollFd::new(&file, PollFlags::PRI)];
            let timeout = rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(sys::Error::new("poll(cgroup.events)", errno).into()),
            }
        }
    }
}

/// What the kernel answers where a group has vanished.
#[must_use]
pub fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NODEV)
}

/// The number behind `key` in lines `KEY NUMBER`.
#[must_use]
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_containers_are_known_by_their_names() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(id_of(&name(&id)), Some(id.as_str()));
        assert_eq!(id_of(&format!("rl-{id}.scope")), Some(id.as_str()));
        for other in ["rl-self", "rl-", &id, "rl-ABCD", "user.slice"] {
            assert_eq!(id_of(other), None, "{other}");
        }
    }

    #[test]
    fn the_group_of_a_process_is_found_where_it_can_be_seen() {
        for (text, path) in [
            (
                "0::/user.slice/a.scope\n",
                Some("/sys/fs/cgroup/user.slice/a.scope"),
            ),
            ("0::/\n", Some("/sys/fs/cgroup/")),
            ("4:memory:/x\n0::/y\n", Some("/sys/fs/cgroup/y")),
            ("0::/y (deleted)\n", Some("/sys/fs/cgroup/y")),
            ("0::/../x\n", None),
            ("4:memory:/x\n", None),
            ("", None),
        ] {
            assert_eq!(path_in(text), path.map(PathBuf::from), "{text}");
        }
    }

    #[test]
    fn numbers_stand_behind_their_keys() {
        let text = "oom 3\noom_kill 12\nmax max\n";
        assert_eq!(keyed(text, "oom_kill"), Some(12));
        assert_eq!(keyed(text, "max"), None);
        assert_eq!(keyed(text, "oom_"), None);
    }
}
