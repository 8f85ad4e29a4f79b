//! openat2(2) one name at a time, for kernels and outer filters that do not have it.
//!
//! It keeps the promises of `RESOLVE_IN_ROOT` and `RESOLVE_BENEATH`: each step opens one name, never through a link, below a
//! directory that was reached the same way; `..` goes back to the directory that we came from, not to what the kernel takes for
//! the parent by then; what a link says is walked from the root that was given. A directory that somebody moves meanwhile leads
//! to where it is, and no further up than it was found.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How many links are followed for one path; the kernel follows as many.
const LINKS: u32 = 40;

/// What openat2(2) with these flags would open. Knows `IN_ROOT`, `BENEATH`, `NO_SYMLINKS` and `NO_MAGICLINKS`.
///
/// # Errors
/// As openat2(2); `EOPNOTSUPP` for other ways to resolve.
pub fn open(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let known = ResolveFlags::IN_ROOT
        | ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS;
    if resolve.is_empty() {
        return rustix::fs::openat(root, path, flags | OFlags::CLOEXEC, mode);
    }
    if !(resolve - known).is_empty() {
        return Err(Errno::OPNOTSUPP);
    }
    let text = path.as_os_str().as_bytes();
    if text.is_empty() {
        return Err(Errno::NOENT);
    }
    if text.starts_with(b"/") && resolve.contains(ResolveFlags::BENEATH) {
        return Err(Errno::XDEV);
    }
    Walk {
        above: vec![directory(root, OsStr::new("."))?],
        todo: names(text),
        links: LINKS,
        flags: flags | OFlags::CLOEXEC,
        mode,
        resolve,
    }
    .run()
}

struct Walk {
    /// The way here: the root first, where we stand last. Never empty.
    above: Vec<OwnedFd>,
    todo: VecDeque<OsString>,
    links: u32,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
}

/// The names of a path; a slash at the end asks for a directory, as `.` does.
fn names(path: &[u8]) -> VecDeque<OsString> {
    let mut names: VecDeque<OsString> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect();
    if path.ends_with(b"/") || names.is_empty() {
        names.push_back(".".into());
    }
    names
}

fn directory(at: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

impl Walk {
    fn here(&self) -> BorrowedFd<'_> {
        self.above.last().expect("the root stays").as_fd()
    }

    fn run(mut self) -> Result<OwnedFd, Errno> {
        while let Some(name) = self.todo.pop_front() {
            let is_last = self.todo.is_empty();
            match name.as_bytes() {
                b"." => {
                    // Search permission is asked for, as by the kernel.
                    directory(self.here(), OsStr::new("."))?;
                }
                b".." if self.above.len() > 1 => {
                    self.above.pop();
                }
                b".." if self.resolve.contains(ResolveFlags::BENEATH) => return Err(Errno::XDEV),
                b".." => {}
                _ if is_last => match self.last(&name)? {
                    Some(opened) => return Ok(opened),
                    None => continue,
                },
                _ => self.enter(&name)?,
            }
        }
        // It ends at a directory on the way: `.`, `..`, the root.
        if self.flags.contains(OFlags::CREATE) {
            return Err(if self.flags.contains(OFlags::EXCL) {
                Errno::EXIST
            } else {
                Errno::ISDIR
            });
        }
        rustix::fs::openat(self.here(), ".", self.flags, Mode::empty())
    }

    /// Goes into the directory, or the link, `name`.
    fn enter(&mut self, name: &OsStr) -> Result<(), Errno> {
        match directory(self.here(), name) {
            Ok(next) => self.above.push(next),
            // What O_DIRECTORY says of a link is ENOTDIR, of one that O_NOFOLLOW meets ELOOP.
            Err(errno @ (Errno::NOTDIR | Errno::LOOP)) => {
                let link = self.link(name)?.ok_or(errno)?;
                self.follow(&link)?;
            }
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    /// Opens what the path ends with; none when that is a link, which is followed now.
    fn last(&mut self, name: &OsStr) -> Result<Option<OwnedFd>, Errno> {
        let follow = !self.flags.contains(OFlags::NOFOLLOW)
            && !self.flags.contains(OFlags::CREATE | OFlags::EXCL);
        if follow && let Some(link) = self.link(name)? {
            self.follow(&link)?;
            return Ok(None);
        }
        // Between the look and this somebody may have put a link there: it is not followed.
        rustix::fs::openat(self.here(), name, self.flags | OFlags::NOFOLLOW, self.mode).map(Some)
    }

    /// What the link `name` says; none when it is no link, or not there.
    fn link(&self, name: &OsStr) -> Result<Option<OsString>, Errno> {
        let stat = match rustix::fs::statat(self.here(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        if self.resolve.contains(ResolveFlags::NO_SYMLINKS) {
            return Err(Errno::LOOP);
        }
        let text = rustix::fs::readlinkat(self.here(), name, Vec::new())?;
        Ok(Some(OsStr::from_bytes(text.to_bytes()).to_owned()))
    }

    fn follow(&mut self, link: &OsStr) -> Result<(), Errno> {
        if self.links == 0 {
            return Err(Errno::LOOP);
        }
        self.links -= 1;
        let text = link.as_bytes();
        // The kernel's own links of /proc (`exe`, `fd/3`, `ns/net`) do not mean what they say.
        let is_proc = || {
            rustix::fs::fstatfs(self.here())
                .is_ok_and(|fs| fs.f_type == rustix::fs::PROC_SUPER_MAGIC)
        };
        if (text.starts_with(b"/") || text.contains(&b':')) && is_proc() {
            return Err(Errno::LOOP);
        }
        if text.starts_with(b"/") {
            if self.resolve.contains(ResolveFlags::BENEATH) {
                return Err(Errno::XDEV);
            }
            self.above.truncate(1);
        }
        let mut todo = names(text);
        // `link/` and `link` differ in the end of the path only.
        todo.append(&mut self.todo);
        self.todo = todo;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
    const BELOW: ResolveFlags = ResolveFlags::BENEATH
        .union(ResolveFlags::NO_SYMLINKS)
        .union(ResolveFlags::NO_MAGICLINKS);

    /// Device, inode and type, or the errno: what two ways to resolve have to agree on.
    fn seen(opened: Result<OwnedFd, Errno>) -> Result<(u64, u64, u32), Errno> {
        let meta = std::fs::File::from(opened?).metadata().unwrap();
        Ok((meta.dev(), meta.ino(), meta.mode() & 0o170_000))
    }

    #[test]
    fn it_opens_what_the_kernel_opens() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::create_dir(inside.join("closed")).unwrap();
        std::fs::write(inside.join("a/file"), "x").unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        for (link, text) in [
            ("up", "../../../secret"),
            ("absolute", "/a/file"),
            ("outside", "/secret"),
            ("a/back", "../a/b"),
            ("a/b/top", "/"),
            ("chain", "a/back/../file"),
            ("circle", "circle"),
            ("slash", "a/b/"),
            ("file/", "a/file/"),
            ("dangling", "nothing/here"),
            ("proc", "/proc/self/exe"),
        ] {
            symlink(text, inside.join(link.trim_end_matches('/'))).unwrap();
        }
        let paths = [
            ".",
            "/",
            "..",
            "../secret",
            "/../../secret",
            "a",
            "a/",
            "a/b/..",
            "a/file",
            "a/file/",
            "a/file/x",
            "up",
            "absolute",
            "outside",
            "a/back",
            "a/back/",
            "a/back/../file",
            "a/b/top",
            "a/b/top/a",
            "chain",
            "circle",
            "circle/x",
            "slash",
            "slash/",
            "file",
            "dangling",
            "dangling/x",
            "nothing",
            "nothing/x",
            "a//b",
            "./a/./b/.",
            "proc",
            "",
        ];
        let ways = [
            OFlags::PATH,
            OFlags::PATH | OFlags::DIRECTORY,
            OFlags::PATH | OFlags::NOFOLLOW,
            OFlags::RDONLY | OFlags::NONBLOCK,
            OFlags::RDONLY | OFlags::NOFOLLOW,
        ];
        let root = directory(rustix::fs::CWD, inside.as_os_str()).unwrap();
        let mut compared = 0;
        for path in paths.map(Path::new) {
            for flags in ways {
                for resolve in [IN_ROOT, BELOW] {
                    let kernel = rustix::fs::openat2(
                        &root,
                        path,
                        flags | OFlags::CLOEXEC,
                        Mode::empty(),
                        resolve,
                    );
                    if matches!(kernel, Err(Errno::NOSYS | Errno::PERM)) {
                        continue; // nothing to compare with
                    }
                    let ours = open(root.as_fd(), path, flags, Mode::empty(), resolve);
                    assert_eq!(seen(ours), seen(kernel), "{path:?} {flags:?} {resolve:?}");
                    compared += 1;
                }
            }
        }
        assert!(compared == 0 || compared == paths.len() * ways.len() * 2);
    }

    #[test]
    fn files_are_made_inside_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir_all(inside.join("a")).unwrap();
        symlink("/../../made", inside.join("link")).unwrap();
        let root = directory(rustix::fs::CWD, inside.as_os_str()).unwrap();
        let make = |path: &str, more: OFlags| {
            let flags = OFlags::CREATE | OFlags::WRONLY | more;
            open(
                root.as_fd(),
                Path::new(path),
                flags,
                Mode::from_raw_mode(0o640),
                IN_ROOT,
            )
        };
        make("link", OFlags::empty()).unwrap();
        assert!(inside.join("made").is_file() && !dir.path().join("made").exists());
        assert_eq!(make("link", OFlags::EXCL).unwrap_err(), Errno::EXIST);
        assert_eq!(make("a", OFlags::empty()).unwrap_err(), Errno::ISDIR);
        make("../a/new", OFlags::EXCL).unwrap();
        assert!(inside.join("a/new").is_file());
    }

    #[test]
    fn the_kernels_links_of_proc_are_not_followed() {
        let root = directory(rustix::fs::CWD, OsStr::new("/")).unwrap();
        let look = |path: &str| {
            seen(open(
                root.as_fd(),
                Path::new(path),
                OFlags::PATH,
                Mode::empty(),
                IN_ROOT,
            ))
        };
        for path in [
            "/proc/self/exe",
            "/proc/self/root/etc",
            "/proc/self/fd/0",
            "/proc/self/ns/net",
        ] {
            assert_eq!(look(path).unwrap_err(), Errno::LOOP, "{path}");
        }
        assert!(look("/proc/self/status").is_ok());
    }
}
