//! The container's file system: what is mounted where, decided as data by [`ops`], done by [`execute`].
//!
//! Every target is resolved inside the new root by descriptors (`sys::fs::Root`), so a link in an image leads
//! nowhere else. Source of the default mounts and nodes: OCI runtime specification, config-linux.md.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use super::{Driver, Order, RootPlan, SquashFile};
use crate::error::Fail;
use crate::spec::{ContainerSpec, Device, Mount, MountSource, Namespace, Network, Shm};
use crate::sys;
use crate::sys::fs::Root;
use crate::sys::mount::{Parameter, Recursive};

const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// One step. Paths are inside the container unless they say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A new file system on a directory.
    New {
        /// `proc`, `tmpfs`, …
        kind: &'static str,
        /// Its parameters: `key=value` or `key`.
        data: Vec<String>,
        /// Restrictions.
        attributes: MountAttrFlags,
        /// The directory.
        target: String,
        /// What the image has at the target is copied in.
        copy_up: bool,
    },
    /// A file or directory of the host.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// Where it appears; made when it is not there.
        target: String,
        /// Restrictions.
        attributes: MountAttrFlags,
        /// Mounts below come along.
        recursive: Recursive,
        /// How it propagates.
        propagation: MountPropagationFlags,
        /// A source that is not there is passed over.
        optional: bool,
    },
    /// Copies what the image has at `target` into an empty directory of the host.
    Fill {
        /// Absolute path on the host.
        volume: PathBuf,
        /// The directory in the image.
        target: String,
    },
    /// A symbolic link; what is there already stays.
    Link {
        /// Its path.
        target: String,
        /// What it says.
        text: &'static str,
    },
    /// A kernel setting of the container's own namespaces.
    Sysctl {
        /// `net.ipv4.ip_forward`.
        name: String,
        /// What is written.
        value: String,
    },
    /// The same, where the kernel allows it.
    SoftSysctl {
        /// `net.ipv4.ping_group_range`.
        name: String,
        /// What is written.
        value: String,
    },
    /// Hides a file or directory, if there is one.
    Mask {
        /// Its path.
        target: String,
    },
    /// Takes writing away from a path, if there is one, and all below it.
    Protect {
        /// Its path.
        target: String,
    },
    /// Takes writing away from the root mount.
    ProtectRoot,
}

/// The nodes that every container has, all the host's. Source: config-linux.md, "Default Devices".
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links in `/dev`.
const LINKS: [(&str, &str); 6] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// All steps, in order.
#[must_use]
pub fn ops(order: &Order) -> Vec<Op> {
    let spec = &order.spec;
    let own: Vec<&str> = spec
        .mounts
        .iter()
        .map(|mount| mount.target.trim_end_matches('/'))
        .collect();
    let mut ops = Vec::new();
    let mut add = |target: &str, op: Op| {
        if !own.contains(&target) {
            ops.push(op);
        }
    };
    let new = |kind, data: &[&str], attributes, target: &str| Op::New {
        kind,
        data: data.iter().map(|&word| word.to_owned()).collect(),
        attributes,
        target: target.to_owned(),
        copy_up: false,
    };

    let strict = NOSUID | NODEV | NOEXEC;
    let foreign_pid = spec.namespaces.pid != Namespace::Private;
    add(
        "/proc",
        if foreign_pid {
            host_tree("/proc", strict)
        } else {
            new("proc", &[], strict, "/proc")
        },
    );

    let strict_time = NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    add(
        "/dev",
        new("tmpfs", &["mode=755", "size=65536k"], strict_time, "/dev"),
    );
    let pts: &[&str] = if order.has_tty_group {
        &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    } else {
        &["newinstance", "ptmxmode=0666", "mode=0620"]
    };
    let bound_dev = own.contains(&"/dev");
    if !bound_dev {
        add("/dev/pts", new("devpts", pts, NOSUID | NOEXEC, "/dev/pts"));
        match spec.namespaces.shm {
            Shm::Private => {
                let size = format!("size={}", spec.shm_size);
                add(
                    "/dev/shm",
                    new("tmpfs", &["mode=1777", &size], strict, "/dev/shm"),
                );
            }
            Shm::Host => add("/dev/shm", host_tree("/dev/shm", strict)),
            Shm::None => {}
        }
        add(
            "/dev/mqueue",
            match spec.namespaces.ipc {
                Namespace::Private => new("mqueue", &[], strict, "/dev/mqueue"),
                Namespace::Host | Namespace::Container(_) | Namespace::Path(_) => {
                    host_tree("/dev/mqueue", strict)
                }
            },
        );
    }

    // A new sysfs shows the network namespace that is current, and only its owner may mount it.
    let own_net = !matches!(spec.network, Network::Host);
    let read_only = if spec.confinement.privileged {
        MountAttrFlags::empty()
    } else {
        RDONLY
    };
    add(
        "/sys",
        if own_net && !order.outer_sys {
            new("sysfs", &[], strict | read_only, "/sys")
        } else {
            host_tree("/sys", strict | read_only)
        },
    );
    if spec.namespaces.cgroup == Namespace::Private && !own.contains(&"/sys") {
        add(
            "/sys/fs/cgroup",
            new("cgroup2", &[], strict | read_only, "/sys/fs/cgroup"),
        );
    }

    if !bound_dev {
        for node in NODES {
            let path = format!("/dev/{node}");
            add(
                &path,
                device(&Device {
                    host: path.clone().into(),
                    target: path.clone(),
                    access: "rwm".to_owned(),
                }),
            );
        }
        for (target, text) in LINKS {
            add(
                target,
                Op::Link {
                    target: target.to_owned(),
                    text,
                },
            );
        }
    }

    for (source, target) in &order.etc {
        let source = source.clone();
        add(
            target,
            Op::Bind {
                source,
                target: target.clone(),
                attributes: MountAttrFlags::empty(),
                recursive: Recursive::No,
                propagation: MountPropagationFlags::PRIVATE,
                optional: false,
            },
        );
    }

    // Outer directories first, so that one mount does not hide another.
    let mut mounts: Vec<&Mount> = spec.mounts.iter().collect();
    mounts.sort_by_key(|mount| mount.target.trim_end_matches('/').matches('/').count());
    for mount in mounts {
        ops.extend(user_mount(mount, &order.volumes));
    }
    ops.extend(spec.devices.iter().map(device));

    for (name, value) in &order.soft_sysctls {
        ops.push(Op::SoftSysctl {
            name: name.clone(),
            value: value.clone(),
        });
    }
    for (name, value) in &spec.confinement.sysctls {
        ops.push(Op::Sysctl {
            name: name.clone(),
            value: value.clone(),
        });
    }
    for path in &spec.confinement.read_only_paths {
        ops.push(Op::Protect {
            target: path.clone(),
        });
    }
    for path in &spec.confinement.masked_paths {
        ops.push(Op::Mask {
            target: path.clone(),
        });
    }
    ops
}

/// Puts the files of [`Order::drop_ins`] where the image has a directory for them. A root that takes none is good without.
///
/// # Errors
/// Those of `notice`.
pub fn add_drop_ins(
    order: &Order,
    root: &Root,
    mut notice: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    for (source, target) in &order.drop_ins {
        let directory = Path::new(target).parent().unwrap_or(Path::new("/"));
        if root
            .open(directory, OFlags::PATH | OFlags::DIRECTORY)
            .is_err()
        {
            continue; // the image has no use for it
        }
        let bind = Op::Bind {
            source: source.clone(),
            target: target.clone(),
            attributes: RDONLY,
            recursive: Recursive::No,
            propagation: MountPropagationFlags::PRIVATE,
            optional: false,
        };
        let Err(error) = execute(&[bind], root) else {
            continue;
        };
        // Where no file can be made, as in the host's own directories, nothing is installed either.
        if !matches!(
            sys::errno_of(&error),
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS)
        ) {
            notice(format!(
                "`{target}` cannot be put into the container: {error:#}"
            ))?;
        }
    }
    Ok(())
}

fn host_tree(path: &str, attributes: MountAttrFlags) -> Op {
    Op::Bind {
        source: path.into(),
        target: path.to_owned(),
        attributes,
        recursive: Recursive::Yes,
        propagation: MountPropagationFlags::DOWNSTREAM,
        optional: true,
    }
}

fn device(device: &Device) -> Op {
    let read_only = if device.access.contains('w') {
        MountAttrFlags::empty()
    } else {
        RDONLY
    };
    Op::Bind {
        source: device.host.clone(),
        target: device.target.clone(),
        attributes: read_only | NOSUID | NOEXEC,
        recursive: Recursive::Yes,
        propagation: MountPropagationFlags::PRIVATE,
        optional: false,
    }
}

fn user_mount(mount: &Mount, volumes: &[(String, PathBuf)]) -> Vec<Op> {
    let mut attributes = if mount.read_only {
        RDONLY
    } else {
        MountAttrFlags::empty()
    };
    let mut propagation = MountPropagationFlags::PRIVATE;
    for option in &mount.options {
        match option.as_str() {
            "nosuid" => attributes |= NOSUID,
            "nodev" => attributes |= NODEV,
            "noexec" => attributes |= NOEXEC,
            "noatime" => attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME,
            "strictatime" => attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            "nodiratime" => attributes |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            "slave" | "rslave" => propagation = MountPropagationFlags::DOWNSTREAM,
            "shared" | "rshared" => propagation = MountPropagationFlags::SHARED,
            // Front ends let nothing else pass but what needs no act here: rw, bind, private, z, …
            _ => {}
        }
    }
    let bind = |source: &Path, recursive| Op::Bind {
        source: source.to_owned(),
        target: mount.target.clone(),
        attributes,
        recursive,
        propagation,
        optional: false,
    };
    match &mount.source {
        MountSource::Bind {
            path,
            recursive: true,
        } => vec![bind(path, Recursive::Yes)],
        MountSource::Bind {
            path,
            recursive: false,
        } => vec![bind(path, Recursive::No)],
        MountSource::Volume { volume, copy_up } => {
            let Some((_, path)) = volumes.iter().find(|(name, _)| name == volume) else {
                return Vec::new();
            };
            let mut ops = Vec::new();
            if *copy_up {
                ops.push(Op::Fill {
                    volume: path.clone(),
                    target: mount.target.clone(),
                });
            }
            ops.push(bind(path, Recursive::Yes));
            ops
        }
        MountSource::Tmpfs { data, copy_up } => vec![Op::New {
            kind: "tmpfs",
            data: data.clone(),
            attributes,
            target: mount.target.clone(),
            copy_up: *copy_up,
        }],
    }
}

/// The steps for what the user has mounted from outside: directories, files and volumes of the host.
#[must_use]
pub fn volumes(spec: &ContainerSpec, volumes: &[(String, PathBuf)]) -> Vec<Op> {
    let outside = |mount: &&Mount| !matches!(mount.source, MountSource::Tmpfs { .. });
    spec.mounts
        .iter()
        .filter(outside)
        .flat_map(|mount| user_mount(mount, volumes))
        .collect()
}

/// Does the steps inside `root`.
///
/// # Errors
/// The first step that fails, with what it was for.
pub fn execute(ops: &[Op], root: &Root) -> Result<()> {
    for op in ops {
        act(op, root).with_context(|| describe(op))?;
    }
    Ok(())
}

fn describe(op: &Op) -> String {
    match op {
        Op::New { kind, target, .. } => format!("mounting {kind} on `{target}`"),
        Op::Bind { source, target, .. } if source.as_os_str() == target.as_str() => {
            format!("mounting `{target}`")
        }
        Op::Bind { source, target, .. } => format!("mounting `{}` on `{target}`", source.display()),
        Op::Fill { target, .. } => format!("filling the volume of `{target}`"),
        Op::Link { target, .. } => format!("making the link `{target}`"),
        Op::Sysctl { name, value } | Op::SoftSysctl { name, value } => {
            format!("setting the sysctl `{name}` to `{value}`")
        }
        Op::Mask { target } => format!("hiding `{target}`"),
        Op::Protect { target } => format!("protecting `{target}`"),
        Op::ProtectRoot => "making the root file system read-only".to_owned(),
    }
}

fn act(op: &Op, root: &Root) -> Result<()> {
    match op {
        Op::New {
            kind,
            data,
            attributes,
            target,
            copy_up,
        } => {
            let at = directory(root, target)?;
            let below = match copy_up {
                true => Some(open_readable(root, target)?),
                false => None,
            };
            let mount = new_mount(kind, data, *attributes, &at)?;
            if let Some(below) = below {
                sys::fs::copy_tree(below.as_fd(), root_of(&mount)?.as_fd())?;
            }
        }
        Op::Bind {
            source,
            target,
            attributes,
            recursive,
            propagation,
            optional,
        } => {
            let mut mount = match sys::mount::clone_trusted(source, *recursive) {
                Err(error) if *optional && error.errno == Errno::NOENT => return Ok(()),
                Err(error) => return Err(refused_source(source, error)),
                Ok(mount) => mount,
            };
            if *propagation != MountPropagationFlags::DOWNSTREAM {
                mount.set_propagation(*propagation)?;
            }
            if !attributes.is_empty() {
                mount.set(*attributes, *recursive)?;
            }
            let at = match mount.file_type()? {
                FileType::Directory => directory(root, target)?,
                FileType::RegularFile
                | FileType::Symlink
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => root.make_file(Path::new(target))?,
            };
            mount.attach(at.as_fd())?;
        }
        Op::Fill { volume, target } => {
            let into = sys::fs::open_trusted(volume, OFlags::RDONLY | OFlags::DIRECTORY)?;
            if let Ok(from) = open_readable(root, target)
                && sys::fs::is_empty(into.as_fd())?
            {
                sys::fs::copy_tree(from.as_fd(), into.as_fd())?;
            }
        }
        Op::Link { target, text } => {
            if let Some((parent, name)) = root.open_parent(Path::new(target))? {
                match rustix::fs::symlinkat(*text, &parent, name) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => {
                        return Err(sys::Error::new(
                            format!("symlinkat({text:?}, {target:?})"),
                            errno,
                        )
                        .into());
                    }
                }
            }
        }
        Op::Sysctl { name, value } => write_sysctl(root, name, value)?,
        // An older kernel has other rules; what needs it says so itself.
        Op::SoftSysctl { name, value } => drop(write_sysctl(root, name, value)),
        Op::Mask { target } => mask(root, target)?,
        Op::Protect { target } => {
            let fd = match root.open(Path::new(target), OFlags::PATH) {
                Err(error)
                    if matches!(error.errno, Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) =>
                {
                    return Ok(());
                }
                fd => fd?,
            };
            let mut mount = sys::mount::clone_fd(fd.as_fd(), Recursive::Yes)?;
            mount.set(RDONLY, Recursive::Yes)?;
            mount.attach(fd.as_fd())?;
        }
        Op::ProtectRoot => sys::mount::set_attributes(root.as_fd(), RDONLY, Recursive::No)?,
    }
    Ok(())
}

fn refused_source(source: &Path, error: sys::Error) -> anyhow::Error {
    let shown = source.display();
    let fail = match error.errno {
        Errno::NOENT => Fail::usage(format!("`{shown}` does not exist on the host"))
            .hint(format!("make it first: mkdir -p {shown}")),
        Errno::ACCESS => Fail::denied(format!("you may not reach `{shown}` on the host"))
            .hint("a volume's source needs search permission on every directory above it"),
        errno => Fail::system(format!("cannot mount `{shown}` ({errno})")),
    };
    anyhow::Error::from(error).context(fail)
}

fn write_sysctl(root: &Root, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let doing = || {
        Fail::unsupported("the kernel refuses it in a container")
            .hint("what belongs to its own namespaces can be set: net.*, kernel.msg*, kernel.shm*, kernel.sem, fs.mqueue.*, kernel.domainname")
    };
    let fd = root
        .open(Path::new(&path), OFlags::WRONLY)
        .with_context(doing)?;
    rustix::io::write(&fd, value.as_bytes()).with_context(doing)?;
    Ok(())
}

fn mask(root: &Root, target: &str) -> Result<()> {
    let fd = match root.open(Path::new(target), OFlags::PATH) {
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {
            return Ok(());
        }
        fd => fd?,
    };
    let stat = rustix::fs::fstat(&fd).context("looking at it")?;
    let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        sys::mount::new(
            "tmpfs",
            &[
                Parameter::Text("size", "0"),
                Parameter::Text("nr_inodes", "1"),
                Parameter::Text("mode", "755"),
            ],
            NOSUID | NODEV | NOEXEC | RDONLY,
        )?
    } else {
        sys::mount::clone_trusted(Path::new("/dev/null"), Recursive::No)?
    };
    cover.attach(fd.as_fd())?;
    Ok(())
}

fn new_mount(
    kind: &str,
    data: &[String],
    attributes: MountAttrFlags,
    at: &OwnedFd,
) -> Result<OwnedFd> {
    let parameters: Vec<Parameter<'_>> = data
        .iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => Parameter::Text(key, value),
            None => Parameter::Flag(word),
        })
        .collect();
    let made = sys::mount::new(kind, &parameters, attributes);
    match made.and_then(|mount| mount.attach(at.as_fd())) {
        Ok(mount) => Ok(mount),
        Err(error) if kind == "proc" && error.errno == Errno::PERM => Err(anyhow::Error::from(error).context(
            Fail::unsupported("the kernel refuses a new /proc: parts of the one here are hidden, as in another container")
                .hint("run the outer container with its /proc unmasked (docker: --security-opt systempaths=unconfined)")
                .hint("or share the outer processes: --pid host")
                .code("RL-K01"),
        )),
        Err(error) if kind == "sysfs" && error.errno == Errno::PERM => Err(anyhow::Error::from(error).context(
            Fail::unsupported("the kernel refuses a new /sys: parts of the one here are hidden, as in another container")
                .hint("run the outer container with its /sys unmasked (docker: --security-opt systempaths=unconfined)")
                .code("RL-K02"),
        )),
        Err(error) => Err(error.into()),
    }
}

fn directory(root: &Root, target: &str) -> sys::Result<OwnedFd> {
    root.make_dir_all(Path::new(target), Mode::from_raw_mode(0o755))
}

fn open_readable(root: &Root, target: &str) -> sys::Result<OwnedFd> {
    root.open(Path::new(target), OFlags::RDONLY | OFlags::DIRECTORY)
}

/// The root directory of a mount, for reading and writing.
fn root_of(mount: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(mount, ".", flags, Mode::empty()).context("opening the new file system")
}

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
            if let Some(squash) = squash {
                let shared = share(&squash.mount)?;
                ask(Need::Squash(squash))?;
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
    let at = directory(root, name)?;
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
    mount.set(RDONLY, Recursive::Yes)?;
    mount.attach(at.as_fd())?;
    Ok(())
}

/// The file that `path` names inside `root`, as text; empty when there is none.
///
/// # Errors
/// When it is no regular file, or larger than 4 MiB.
pub fn read_text(root: &Root, path: &str) -> Result<String> {
    let content = root
        .read(Path::new(path), 4 << 20)
        .with_context(|| format!("reading the container's {path}"))?;
    Ok(String::from_utf8_lossy(&content.unwrap_or_default()).into_owned())
}

/// Binds the terminal over `/dev/console`.
///
/// # Errors
/// The kernel's.
pub fn bind_console(root: &Root, terminal: BorrowedFd<'_>) -> Result<()> {
    let target = root.make_file(Path::new("/dev/console"))?;
    sys::mount::clone_fd(terminal, Recursive::No)?.attach(target.as_fd())?;
    Ok(())
}
