//! The root file system, and other trees that are layers as it is: overlays, or what stands in for them.
//!
//! What is mounted inside the root is `rootfs`'s.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use super::rootfs::{self, Op};
use super::{Driver, Layered, RootPlan, SquashFile};
use crate::error::Fail;
use crate::sys;
use crate::sys::fs::Root;
use crate::sys::mount::{Parameter, Recursive};

/// What this process cannot mount by itself.
#[derive(Debug, Clone, Copy)]
pub enum Need<'a> {
    /// A squash file, on its directory.
    Squash(&'a SquashFile),
    /// The root, for the kernel will not mount the overlay.
    Root {
        /// The call and the answer.
        why: &'a str,
    },
}

/// Mounts the root file system, as the plan says, and returns its root directory.
///
/// `ask` is called for what another has to mount; it returns where that is.
///
/// # Errors
/// The kernel's, with the directory.
pub fn mount_root(
    plan: &RootPlan,
    driver: Driver,
    notices: &mut Vec<String>,
    mut ask: impl FnMut(Need<'_>) -> Result<PathBuf>,
) -> Result<Root> {
    match plan {
        RootPlan::Directory { path } => directory_root(path),
        RootPlan::Host { dir } => host_root(dir, notices),
        RootPlan::Overlay {
            base,
            lowers,
            upper,
            work,
            merged,
            squash,
        } => {
            rustix::process::chdir(base)
                .with_context(|| format!("entering `{}`", base.display()))?;
            // A copy has all of its files.
            if let Some(squash) = squash
                && driver != Driver::Copy
            {
                let shared = share(&squash.mount)?;
                let path = ask(Need::Squash(squash))?;
                if path != squash.mount {
                    return directory_root(&path);
                }
                sys::mount::make_private(shared.as_fd())?;
            }
            let why = match driver {
                Driver::FuseOverlayfs | Driver::Copy => "RL_STORAGE_DRIVER says so".to_owned(),
                Driver::Auto | Driver::Overlay => match overlay(lowers, upper, work, merged) {
                    Ok(fd) => return Ok(Root::from_fd(fd)),
                    // These are not about overlays: a layer is missing, the disk is full.
                    Err(error)
                        if driver == Driver::Overlay
                            || matches!(
                                error.errno,
                                Errno::NOENT | Errno::NOSPC | Errno::DQUOT | Errno::IO
                            ) =>
                    {
                        return Err(error.into());
                    }
                    Err(error) => error.to_string(),
                },
            };
            let shared = share(merged)?;
            let path = ask(Need::Root { why: &why })?;
            if path == *merged {
                // pivot_root(2) takes no root that is shared, nor one on a shared mount.
                sys::mount::make_private(shared.as_fd())?;
                Ok(Root::open_trusted(merged)?)
            } else {
                // A copy is a plain directory, which pivot_root does not take.
                directory_root(&path)
            }
        }
    }
}

/// Mounts one that is not the root, inside which it will be shown: see [`place`]. `ask` is as in [`mount_root`].
///
/// # Errors
/// The kernel's, with the directory.
pub fn mount_layered(
    layered: &Layered,
    root: &Root,
    driver: Driver,
    ask: impl FnMut(Need<'_>) -> Result<PathBuf>,
) -> Result<()> {
    let RootPlan::Overlay {
        base,
        lowers,
        upper,
        work,
        merged,
        ..
    } = &layered.plan
    else {
        return Err(Fail::system("these are no layers").into());
    };
    rustix::process::chdir(base).with_context(|| format!("entering `{}`", base.display()))?;
    let here = sys::fs::open_trusted(Path::new("."), OFlags::PATH | OFlags::DIRECTORY)?;
    sys::fs::remove_tree(here.as_fd(), layered.fresh.as_os_str())
        .context("removing what the last start wrote")?;
    for path in lowers.iter().chain([upper, work, merged]) {
        // Layers are there; what is not yet is our own.
        if path.starts_with(&layered.fresh) {
            std::fs::create_dir_all(path)
                .with_context(|| format!("making `{}`", path.display()))?;
        }
    }
    if let (Some(below), [lower]) = (&layered.below, &lowers[..]) {
        show_below(layered, below, lower, root)?;
    }
    let mounted = mount_root(&layered.plan, driver, &mut Vec::new(), ask);
    let mounted = mounted.map_err(|error| match &layered.below {
        Some(below) => refused_layer(below, error),
        None => error,
    })?;
    let failed = || format!("looking at `{}`", merged.display());
    let there = rustix::fs::stat(merged).with_context(failed)?;
    let it = rustix::fs::fstat(&mounted).with_context(failed)?;
    if (there.st_dev, there.st_ino) != (it.st_dev, it.st_ino) {
        // A copy, which is elsewhere.
        sys::mount::clone_fd(mounted.as_fd(), Recursive::No)?.attach_trusted(merged)?;
    }
    Ok(())
}

/// Mounts the directory `below` at the lower one of an overlay, where its path is short and plain.
fn show_below(layered: &Layered, below: &Path, lower: &Path, root: &Root) -> Result<()> {
    let shown = below.display();
    let stat = std::fs::metadata(below).with_context(|| format!("looking at `{shown}`"))?;
    if !stat.is_dir() {
        return Err(Fail::usage(format!("`{shown}` is not a directory"))
            .hint("`O` lays a layer over directories only; a file can be mounted with `ro`")
            .into());
    }
    if layered.copy_up {
        let fill = Op::Fill {
            volume: below.to_owned(),
            target: layered.target.clone(),
        };
        rootfs::execute(&[fill], root)?;
    }
    let mut mount = sys::mount::clone_trusted(below, Recursive::Yes)
        .map_err(|error| rootfs::refused_source(below, error))?;
    mount.set_propagation(MountPropagationFlags::PRIVATE)?;
    mount.attach_trusted(lower)?;
    Ok(())
}

fn refused_layer(below: &Path, error: anyhow::Error) -> anyhow::Error {
    let shown = below.display();
    let fail = match sys::errno_of(&error) {
        // `ovl_lower_dir()` and `clone_private_mount()` in the kernel.
        Some(Errno::INVAL) => Fail::unsupported(format!(
            "no layer can be laid over `{shown}`: something else is mounted below it"
        ))
        .hint("name a directory below that has no mounts in it"),
        Some(Errno::LOOP) => Fail::unsupported(format!(
            "no layer can be laid over `{shown}`: rl's own files, or the `upperdir`, are in it"
        ))
        .hint("keep rl's files elsewhere: --root DIR"),
        _ => return error,
    };
    error.context(fail)
}

/// Where [`mount_layered`] has mounted it, as an absolute path.
#[must_use]
pub fn place(layered: &Layered) -> PathBuf {
    match &layered.plan {
        RootPlan::Overlay { base, merged, .. } => base.join(merged),
        RootPlan::Directory { path } | RootPlan::Host { dir: path } => path.clone(),
    }
}

/// Makes `merged` a mount that a copy of this mount namespace can mount on for us.
fn share(merged: &Path) -> sys::Result<OwnedFd> {
    let mut mount = sys::mount::clone_trusted(merged, Recursive::No)?;
    mount.set_propagation(MountPropagationFlags::PRIVATE)?;
    mount.set_propagation(MountPropagationFlags::SHARED)?;
    mount.attach_trusted(merged)
}

/// A mount of its own for a plain directory: pivot_root(2) takes nothing else.
fn directory_root(path: &Path) -> Result<Root> {
    let failed = || format!("using `{}` as the root file system", path.display());
    let mount = sys::mount::clone_trusted(path, Recursive::Yes).with_context(failed)?;
    Ok(Root::from_fd(
        mount.attach_trusted(path).with_context(failed)?,
    ))
}

fn overlay(lowers: &[PathBuf], upper: &Path, work: &Path, merged: &Path) -> sys::Result<OwnedFd> {
    // Without user.* attributes the kernel mounts it and then fails to rename directories (tmpfs before Linux 6.6).
    let mut nothing = [0_u8; 0];
    if let Err(Errno::OPNOTSUPP) =
        rustix::fs::getxattr(upper, "user.overlay.opaque", &mut nothing[..])
    {
        return Err(sys::Error::new(
            format!("getxattr({upper:?}, \"user.overlay.opaque\")"),
            Errno::OPNOTSUPP,
        ));
    }
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let layers: Vec<String> = lowers.iter().rev().map(|lower| text(lower)).collect();
    let (upper_text, work_text) = (text(upper), text(work));
    let mut parameters: Vec<Parameter<'_>> = layers
        .iter()
        .map(|layer| Parameter::Text("lowerdir+", layer))
        .collect();
    parameters.extend([
        Parameter::Text("upperdir", &upper_text),
        Parameter::Text("workdir", &work_text),
        Parameter::Flag("userxattr"),
    ]);
    let made = sys::mount::new("overlay", &parameters, MountAttrFlags::empty());
    match made.and_then(|mount| mount.attach_trusted(merged)) {
        Ok(mount) => Ok(mount),
        // KERNEL(6.5): `lowerdir+` is unknown before.
        Err(error) if matches!(error.errno, Errno::INVAL | Errno::NOSYS) => {
            let escape = |path: &str| {
                path.replace('\\', "\\\\")
                    .replace(',', "\\,")
                    .replace(':', "\\:")
            };
            let lower = layers
                .iter()
                .map(|layer| escape(layer))
                .collect::<Vec<_>>()
                .join(":");
            let options = format!(
                "lowerdir={lower},upperdir={},workdir={},userxattr",
                escape(&upper_text),
                escape(&work_text)
            );
            sys::mount::overlay_by_string(merged, &options)?;
            sys::fs::open_trusted(merged, OFlags::PATH | OFlags::DIRECTORY)
        }
        Err(error) => Err(error),
    }
}

/// The host's directories that `rl run host` shows. Home, `/tmp` and `/run` are fresh.
const HOST_DIRS: [&str; 12] = [
    "bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt", "srv", "var", "nix",
];

/// Directories that exist in the writable layer from the start, so that the user owns them inside: the
/// host's own belong to a root that is not mapped.
const HOST_WRITABLE: [&str; 21] = [
    "etc",
    "opt",
    "srv",
    "usr",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/share",
    "usr/local",
    "usr/local/bin",
    "usr/local/sbin",
    "usr/local/lib",
    "usr/local/share",
    "usr/local/include",
    "var",
    "var/lib",
    "var/cache",
    "var/log",
    "var/tmp",
    "var/spool",
    "var/opt",
];

/// A root of one overlay for each of the host's top directories. The kernel refuses one over all of `/` whose
/// upper lies below it.
fn host_root(dir: &Path, notices: &mut Vec<String>) -> Result<Root> {
    let root_dir = dir.join("root");
    let made = |path: &Path| {
        std::fs::create_dir_all(path).with_context(|| format!("making `{}`", path.display()))
    };
    for name in ["dev", "proc", "sys", "run", "root", "home", "mnt", "media"] {
        made(&root_dir.join(name))?;
    }
    for name in ["tmp", "run/lock"] {
        made(&root_dir.join(name))?;
        rustix::fs::chmod(root_dir.join(name), Mode::from_raw_mode(0o1777))
            .context("opening /tmp to all")?;
    }
    rustix::fs::chmod(root_dir.join("root"), Mode::from_raw_mode(0o700))
        .context("closing /root")?;
    let root = directory_root(&root_dir)?;
    // The kernel takes 255 bytes for a path, and unescapes them: relative ones are short and plain.
    rustix::process::chdir(dir).with_context(|| format!("entering `{}`", dir.display()))?;
    for name in HOST_DIRS {
        let host = Path::new("/").join(name);
        let Ok(meta) = std::fs::symlink_metadata(&host) else {
            continue;
        };
        if meta.is_symlink() {
            let text = std::fs::read_link(&host)
                .with_context(|| format!("reading the link `{}`", host.display()))?;
            match rustix::fs::symlinkat(&text, &root, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(sys::Error::new(format!("symlinkat({name:?})"), errno).into());
                }
            }
        } else if meta.is_dir() {
            host_directory(dir, name, &host, &root, notices)?;
        }
    }
    Ok(root)
}

fn host_directory(
    dir: &Path,
    name: &str,
    host: &Path,
    root: &Root,
    notices: &mut Vec<String>,
) -> Result<()> {
    let (upper, work) = (Path::new("upper").join(name), Path::new("work").join(name));
    for path in [&upper, &work] {
        std::fs::create_dir_all(path).with_context(|| format!("making `{}`", path.display()))?;
    }
    for path in HOST_WRITABLE
        .iter()
        .filter(|path| Path::new(path).starts_with(name))
    {
        if Path::new("/")
            .join(path)
            .symlink_metadata()
            .is_ok_and(|meta| meta.is_dir())
        {
            std::fs::create_dir_all(Path::new("upper").join(path))
                .with_context(|| format!("making `{path}`"))?;
        }
    }
    let at = rootfs::directory(root, name)?;
    // A store below this very directory cannot be its upper.
    if dir.starts_with(host) {
        notices.push(format!(
            "the host's `{}` is shown read-only: rl's own files are in it",
            host.display()
        ));
        return show_read_only(host, &at);
    }
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (lower, upper, work) = (text(host), text(&upper), text(&work));
    let modern = [
        Parameter::Text("lowerdir+", &lower),
        Parameter::Text("upperdir", &upper),
        Parameter::Text("workdir", &work),
        Parameter::Flag("userxattr"),
    ];
    let classic = [
        Parameter::Text("lowerdir", &lower),
        Parameter::Text("upperdir", &upper),
        Parameter::Text("workdir", &work),
        Parameter::Flag("userxattr"),
    ];
    let lay = |parameters: &[Parameter<'_>]| {
        let made = sys::mount::new("overlay", parameters, MountAttrFlags::empty());
        made.and_then(|mount| mount.attach(at.as_fd()))
    };
    // KERNEL(6.5): `lowerdir+` is unknown before.
    match lay(&modern).or_else(|_| lay(&classic)) {
        Ok(_) => Ok(()),
        // Mounts of the host below it cannot be left out in a user namespace, and an overlay cannot take them in.
        Err(error) if error.errno == Errno::INVAL => {
            notices.push(format!(
                "the host's `{}` is shown read-only: something is mounted below it",
                host.display()
            ));
            show_read_only(host, &at)
        }
        Err(error) => Err(anyhow::Error::from(error).context(
            Fail::unsupported(format!(
                "cannot lay a private layer over the host's `{}`",
                host.display()
            ))
            .hint("this kernel refuses overlay mounts in user namespaces: rl doctor")
            .code("RL-F03"),
        )),
    }
}

fn show_read_only(host: &Path, at: &OwnedFd) -> Result<()> {
    let mut mount = sys::mount::clone_trusted(host, Recursive::Yes)
        .with_context(|| format!("showing `{}`", host.display()))?;
    mount.set(MountAttrFlags::MOUNT_ATTR_RDONLY, Recursive::Yes)?;
    mount.attach(at.as_fd())?;
    Ok(())
}
