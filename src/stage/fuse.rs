//! File systems that a program serves: fuse-overlayfs where the kernel mounts no overlay, squashfuse for a squash file.
//!
//! Each goes into the container's user namespace and a copy of its mount namespace, but keeps the host's processes: nothing
//! inside can see or kill it. A shared mount connects the copy (`rootfs`, docs/design/003).

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;

use super::RootPlan;
use crate::error::Fail;
use crate::idmap::find_program;
use crate::sys;
use crate::sys::process::Child;
use crate::sys::tied::Tied;

/// The user and mount namespace of a container's first process.
struct Namespaces {
    user: OwnedFd,
    mount: OwnedFd,
}

impl Namespaces {
    fn of(pid: Pid) -> Result<Self> {
        let open = |kind: &str| {
            let path = format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero());
            sys::fs::open_trusted(Path::new(&path), OFlags::RDONLY)
        };
        Ok(Self {
            user: open("user")?,
            mount: open("mnt")?,
        })
    }

    fn both(&self) -> [BorrowedFd<'_>; 2] {
        [self.user.as_fd(), self.mount.as_fd()]
    }
}

/// fuse-overlayfs for the container whose first process is `pid`, and stands in `base`.
///
/// # Errors
/// As [`overlay_here`].
pub fn overlay_of(plan: &RootPlan, pid: Pid) -> Result<(PathBuf, Child)> {
    overlay(plan, pid, &Namespaces::of(pid)?.both())
}

/// squashfuse for that container.
///
/// # Errors
/// As [`squash_here`].
pub fn squash_of(plan: &RootPlan, pid: Pid) -> Result<Child> {
    squash(plan, pid, &Namespaces::of(pid)?.both())
}

/// fuse-overlayfs for this process, which has gone into `base`, and for as long as it lives.
///
/// # Errors
/// `Unsupported` when it is not installed or does not mount.
pub fn overlay_here(plan: &RootPlan) -> Result<(PathBuf, Child)> {
    overlay(plan, rustix::process::getpid(), &[])
}

/// fuse-overlayfs for the process `pid`, which stands in `base`.
fn overlay(plan: &RootPlan, pid: Pid, join: &[BorrowedFd<'_>]) -> Result<(PathBuf, Child)> {
    let program = find_program("fuse-overlayfs").ok_or_else(|| {
        Fail::unsupported("fuse-overlayfs is not installed")
            .hint("ask your administrator for the package `fuse-overlayfs`")
            .code("RL-F04")
    })?;
    let RootPlan::Overlay {
        base,
        lowers,
        upper,
        work,
        merged,
        ..
    } = plan
    else {
        return Err(Fail::system("this root has no layers").into());
    };
    // The kernel has left one of its own there before it refused, which nobody may enter.
    let _ = std::fs::remove_dir(base.join(work).join("work"));
    let pid = pid.as_raw_nonzero();
    // It stands in `base`. A path by way of it has nothing that fuse-overlayfs or libfuse take for a separator.
    let short = |path: &Path| match path.is_absolute() {
        true => path.display().to_string(),
        false => format!("/proc/{pid}/cwd/{}", path.display()),
    };
    // A user's own upper directory.
    for path in [upper, work].into_iter().filter(|path| path.is_absolute()) {
        if path.to_string_lossy().contains([',', ':', '\\']) {
            return Err(Fail::unsupported(format!(
                "fuse-overlayfs takes no `{}` for a directory to write to",
                path.display()
            ))
            .hint("name one without commas, colons and backslashes")
            .into());
        }
    }
    let lower = lowers
        .iter()
        .rev()
        .map(|path| short(path))
        .collect::<Vec<_>>()
        .join(":");
    // It takes a file system that knows no access lists, as NFS 4 is, for one that fails.
    let acls = lowers
        .iter()
        .chain([upper])
        .all(|path| sys::fs::has_access_lists(&base.join(path)));
    let options = format!(
        "lowerdir={lower},upperdir={},workdir={}{}",
        short(upper),
        short(work),
        if acls { "" } else { ",noacl" }
    );
    let target = base.join(merged);
    let words = [
        OsString::from("-f"),
        "-o".into(),
        options.into(),
        target.clone().into(),
    ];
    let child = serve(&program, &words, None, pid, join, &target)?;
    Ok((merged.clone(), child))
}

/// The squash file of this plan for this process, which has gone into `base`, and for as long as it lives.
///
/// # Errors
/// `Unsupported` when nothing is installed that reads it, or it does not mount.
pub fn squash_here(plan: &RootPlan) -> Result<Child> {
    squash(plan, rustix::process::getpid(), &[])
}

/// squashfuse for the process `pid`. It gets the file as a descriptor: the user opened it, whoever it is inside.
fn squash(plan: &RootPlan, pid: Pid, join: &[BorrowedFd<'_>]) -> Result<Child> {
    let RootPlan::Overlay {
        base,
        squash: Some(squash),
        ..
    } = plan
    else {
        return Err(Fail::system("this root is no squash file").into());
    };
    let program = SQUASHFUSE.iter().find_map(|name| find_program(name));
    let file = sys::fs::open_trusted(&squash.file, OFlags::RDONLY)
        .with_context(|| format!("opening `{}`", squash.file.display()))?;
    let options = format!("allow_other,default_permissions,offset={}", squash.offset);
    let target = base.join(&squash.mount);
    let words = [
        OsString::from("-f"),
        "-o".into(),
        options.into(),
        format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
        target.clone().into(),
    ];
    let own = [
        OsString::from(SQUASH),
        file.as_raw_fd().to_string().into(),
        squash.offset.to_string().into(),
        target.clone().into(),
    ];
    let pid = pid.as_raw_nonzero();
    let served = match &program {
        Some(program) => serve(program, &words, Some(&file), pid, join, &target),
        None => serve(Path::new(OURSELVES), &own, Some(&file), pid, join, &target),
    };
    served.map_err(|error| {
        let fail = Fail::unsupported(format!("cannot mount `{}`", squash.file.display()))
            .hint("is /dev/fuse there, and open to you? rl doctor")
            .hint(format!(
                "or unpack it: unsquashfs -d DIR -o {} {}; rl run --rootfs DIR",
                squash.offset,
                squash.file.display()
            ))
            .code("RL-F06");
        error.context(fail)
    })
}

/// The first word of our own process that serves one, where neither of them is installed: `image::squash::serve`.
pub const SQUASH: &str = "rl:[squash]";
const OURSELVES: &str = "/proc/self/exe";

/// Whether one of the programs is installed that read a squashfs of every kind.
#[must_use]
pub fn has_squashfuse() -> bool {
    SQUASHFUSE.iter().any(|name| find_program(name).is_some())
}

/// Programs that serve a squashfs, the quicker first.
const SQUASHFUSE: [&str; 2] = ["squashfuse_ll", "squashfuse"];

/// Starts such a program, and returns when `target` is mounted for the process `pid`.
fn serve(
    program: &Path,
    words: &[OsString],
    file: Option<&OwnedFd>,
    pid: std::num::NonZeroI32,
    join: &[BorrowedFd<'_>],
    target: &Path,
) -> Result<Child> {
    // All that these programs say of it is that they ended.
    let device = sys::fs::open_trusted(Path::new("/dev/fuse"), OFlags::RDWR).map_err(|error| {
        anyhow::Error::from(error).context(
            Fail::unsupported("nothing can be mounted by way of /dev/fuse")
                .hint("ask your administrator: modprobe fuse && chmod 0666 /dev/fuse")
                .code("RL-F04"),
        )
    })?;
    drop(device);
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).context("a path with a NUL byte");
    let path = c_string(program.as_os_str())?;
    let mut argv = vec![path.clone()];
    for word in words {
        argv.push(c_string(word)?);
    }
    let keep: Vec<BorrowedFd<'_>> = file.map(|file| file.as_fd()).into_iter().collect();
    let null = sys::fs::open_trusted(Path::new("/dev/null"), OFlags::RDWR)?;
    let before = mounts_at(pid.get(), target)?;
    let child = sys::tied::spawn(&Tied {
        program: &path,
        argv: &argv,
        env: &[c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        stdin: null.as_fd(),
        stdout: null.as_fd(),
        stderr: null.as_fd(),
        keep: &keep,
        join,
        own_mounts: !join.is_empty(),
    })?;
    let mounted = wait_mounted(pid.get(), target, &before, &child, program);
    if let Err(error) = mounted {
        child.kill();
        let _ = child.wait(); // it is gone either way
        return Err(error);
    }
    Ok(child)
}

/// A path as mountinfo writes it. Source: proc(5), and `seq_path()` in the kernel, which escapes these four.
fn in_mountinfo(path: &str) -> String {
    path.replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012")
}

/// The numbers of the mounts at `target` in the mount table of the process `pid`. Source: proc(5).
fn mounts_at(pid: i32, target: &Path) -> Result<Vec<String>> {
    let table = format!("/proc/{pid}/mountinfo");
    let wanted = in_mountinfo(&target.to_string_lossy());
    let text = std::fs::read_to_string(&table).with_context(|| format!("reading {table}"))?;
    Ok(text
        .lines()
        .map(|line| line.split(' '))
        .filter(|words| words.clone().nth(4) == Some(&wanted))
        .filter_map(|mut words| words.next().map(str::to_owned))
        .collect())
}

/// Waits until another mount than those of `before` shows in the container's mount table, or the process ends: the store
/// may itself be served by a program. Source: proc(5): a change of `mountinfo` is an exceptional condition for poll(2).
fn wait_mounted(
    pid: i32,
    target: &Path,
    before: &[String],
    child: &Child,
    program: &Path,
) -> Result<()> {
    let table = format!("/proc/{pid}/mountinfo");
    let file = sys::fs::open_trusted(Path::new(&table), OFlags::RDONLY)?;
    loop {
        let now = mounts_at(pid, target)?;
        if now.iter().any(|mount| !before.contains(mount)) {
            return Ok(());
        }
        let mut fds = [
            PollFd::new(&file, PollFlags::PRI),
            PollFd::new(&child.pidfd, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(sys::Error::new("poll(mountinfo)", errno).into()),
        }
        if !fds[1].revents().is_empty() {
            let exit = child.wait()?;
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            return Err(Fail::unsupported(format!("{name} ended ({exit:?})"))
                .code("RL-F04")
                .into());
        }
    }
}
