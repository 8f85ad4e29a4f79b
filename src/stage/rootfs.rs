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

use super::{Layered, Order, root};
use crate::error::Fail;
use crate::spec::{Device, Mount, MountSource, Namespace, Network, Shm};
use crate::sys;
use crate::sys::fs::Root;
use crate::sys::mount::{Detached, Parameter, Recursive};

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
        /// What of it: a path that does not leave it, empty for all.
        below: String,
        /// Where it appears; made when it is not there.
        target: String,
        /// Restrictions.
        attributes: MountAttrFlags,
        /// Whether they are for the mounts below, too.
        restricted: Recursive,
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
        if own_net {
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
                below: String::new(),
                target: target.clone(),
                attributes: MountAttrFlags::empty(),
                restricted: Recursive::No,
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
        ops.extend(user_mount(mount, &order.volumes, &order.layered));
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
            below: String::new(),
            target: target.clone(),
            attributes: RDONLY,
            restricted: Recursive::No,
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
        below: String::new(),
        target: path.to_owned(),
        attributes,
        restricted: Recursive::Yes,
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
        below: String::new(),
        target: device.target.clone(),
        attributes: read_only | NOSUID | NOEXEC,
        restricted: Recursive::Yes,
        recursive: Recursive::Yes,
        propagation: MountPropagationFlags::PRIVATE,
        optional: false,
    }
}

fn user_mount(mount: &Mount, volumes: &[(String, PathBuf)], layered: &[Layered]) -> Vec<Op> {
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
    let bind = |source: &Path, below: &str, recursive| Op::Bind {
        source: source.to_owned(),
        below: below.to_owned(),
        target: mount.target.clone(),
        attributes,
        restricted: recursive,
        recursive,
        propagation,
        optional: false,
    };
    if let Some(layered) = layered.iter().find(|one| one.target == mount.target) {
        let below = match &mount.source {
            MountSource::Volume { subpath, .. } | MountSource::Image { subpath, .. } => subpath,
            MountSource::Bind { .. } | MountSource::Tmpfs { .. } => "",
        };
        return vec![bind(&root::place(layered), below, Recursive::No)];
    }
    match &mount.source {
        MountSource::Bind {
            path,
            recursive,
            writable_below,
        } => {
            let recursive = match recursive {
                true => Recursive::Yes,
                false => Recursive::No,
            };
            let mut op = bind(path, "", recursive);
            if let (true, Op::Bind { restricted, .. }) = (*writable_below, &mut op) {
                *restricted = Recursive::No;
            }
            vec![op]
        }
        MountSource::Volume {
            volume,
            copy_up,
            subpath,
            labels: _,
        } => {
            let Some((_, path)) = volumes.iter().find(|(name, _)| name == volume) else {
                return Vec::new();
            };
            let mut ops = Vec::new();
            // A part of it is there already, or is missed.
            if *copy_up && subpath.is_empty() {
                ops.push(Op::Fill {
                    volume: path.clone(),
                    target: mount.target.clone(),
                });
            }
            ops.push(bind(path, subpath, Recursive::Yes));
            ops
        }
        // It is always layers.
        MountSource::Image { .. } => Vec::new(),
        MountSource::Tmpfs { data, copy_up } => vec![Op::New {
            kind: "tmpfs",
            data: data.clone(),
            attributes,
            target: mount.target.clone(),
            copy_up: *copy_up,
        }],
    }
}

/// The steps for what the user has mounted from outside: directories, files and volumes of the host, and images.
#[must_use]
pub fn volumes(mounts: &[Mount], volumes: &[(String, PathBuf)], layered: &[Layered]) -> Vec<Op> {
    let outside = |mount: &&Mount| !matches!(mount.source, MountSource::Tmpfs { .. });
    mounts
        .iter()
        .filter(outside)
        .flat_map(|mount| user_mount(mount, volumes, layered))
        .collect()
}

/// Gives all files of the mounts that ask for it to the container's user. Called before the host's paths are gone.
///
/// # Errors
/// With the first path that cannot be given away; what comes before it has been.
pub fn give_away(order: &Order, root: &Root, uid: u32, gid: u32) -> Result<()> {
    let wanted = |mount: &&Mount| mount.own;
    for mount in order.spec.mounts.iter().filter(wanted) {
        // Not through the mount, which may be read-only.
        let ops = user_mount(mount, &order.volumes, &order.layered);
        let (top, shown) = match ops.last() {
            Some(Op::Bind { source, below, .. }) => {
                let shown = match &mount.layer {
                    Some(_) => PathBuf::from(&mount.target),
                    None if below.is_empty() => source.clone(),
                    None => source.join(below),
                };
                (open_source(source, below, OFlags::PATH)?, shown)
            }
            _ => (
                root.open(Path::new(&mount.target), OFlags::PATH)?,
                PathBuf::from(&mount.target),
            ),
        };
        sys::tree::give_away(top.as_fd(), &shown, uid, gid).map_err(|error| {
            let fail = match error.errno {
                Errno::PERM | Errno::INVAL | Errno::OVERFLOW => Fail::denied(format!(
                    "not all of `{}` can be given to user {uid}:{gid} of the container, as `U` asks",
                    shown.display()
                ))
                .hint("what belongs to ids that are not yours, or are not mapped inside, keeps its owner: find it with ls -ln")
                .hint("leave `U` out; or a copy of it: cp -r"),
                _ => Fail::system(format!("giving `{}` to user {uid}:{gid}", shown.display())),
            };
            anyhow::Error::from(error).context(fail)
        })?;
    }
    Ok(())
}

/// What `below` names in the directory or file `source`; it does not lead out of it.
fn open_source(source: &Path, below: &str, flags: OFlags) -> Result<OwnedFd> {
    if below.is_empty() {
        return sys::fs::open_trusted(source, flags).map_err(|error| refused_source(source, error));
    }
    let whole = Root::open_trusted(source).map_err(|error| refused_source(source, error))?;
    whole.open(Path::new(below), flags).map_err(|error| {
        anyhow::Error::from(error).context(
            Fail::not_found(format!("there is no `{below}` in what is mounted"))
                .hint("a subpath has to be there before the container starts"),
        )
    })
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
            let mount = new_mount(kind, data, *attributes)?;
            let at = directory(root, target)?;
            if *copy_up {
                sys::fs::copy_tree(
                    open_readable(root, target)?.as_fd(),
                    root_of(&mount)?.as_fd(),
                )?;
            }
            mount.attach(at.as_fd())?;
        }
        Op::Bind {
            source,
            below,
            target,
            attributes,
            restricted,
            recursive,
            propagation,
            optional,
        } => {
            let cloned = if below.is_empty() {
                sys::mount::clone_trusted(source, *recursive)
            } else {
                let part = open_source(source, below, OFlags::PATH)?;
                sys::mount::clone_fd(part.as_fd(), *recursive)
            };
            let mount = match cloned {
                Err(error) if *optional && error.errno == Errno::NOENT => return Ok(()),
                Err(error) => return Err(refused_source(source, error)),
                Ok(mount) => mount,
            };
            if *propagation != MountPropagationFlags::DOWNSTREAM {
                mount.set_propagation(*propagation)?;
            }
            if !attributes.is_empty() {
                mount.set(*attributes, *restricted)?;
            }
            let stat = rustix::fs::fstat(&mount)
                .with_context(|| format!("looking at `{}`", source.display()))?;
            let at = match FileType::from_raw_mode(stat.st_mode) {
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
            let mount = sys::mount::clone_fd(fd.as_fd(), Recursive::Yes)?;
            mount.set(RDONLY, Recursive::Yes)?;
            mount.attach(fd.as_fd())?;
        }
        Op::ProtectRoot => sys::mount::set_attributes(root.as_fd(), RDONLY, Recursive::No)?,
    }
    Ok(())
}

/// What to say of a path of the host's that cannot be mounted.
pub fn refused_source(source: &Path, error: sys::Error) -> anyhow::Error {
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

fn new_mount(kind: &str, data: &[String], attributes: MountAttrFlags) -> Result<Detached> {
    let parameters: Vec<Parameter<'_>> = data
        .iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => Parameter::Text(key, value),
            None => Parameter::Flag(word),
        })
        .collect();
    match sys::mount::new(kind, &parameters, attributes) {
        Ok(mount) => Ok(mount),
        Err(error) if kind == "proc" && error.errno == Errno::PERM => Err(anyhow::Error::from(error).context(
            Fail::unsupported("the kernel refuses a new /proc: parts of the one here are hidden, as in another container")
                .hint("run the outer container with its /proc unmasked (docker: --security-opt systempaths=unconfined)")
                .hint("or share the outer processes: --pid host")
                .code("RL-K01"),
        )),
        Err(error) => Err(error.into()),
    }
}

/// A directory to mount on, made where it is missing.
///
/// # Errors
/// The system's.
pub fn directory(root: &Root, target: &str) -> sys::Result<OwnedFd> {
    root.make_dir_all(Path::new(target), Mode::from_raw_mode(0o755))
}

fn open_readable(root: &Root, target: &str) -> sys::Result<OwnedFd> {
    root.open(Path::new(target), OFlags::RDONLY | OFlags::DIRECTORY)
}

/// The root directory of a detached mount, for reading and writing.
fn root_of(mount: &Detached) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(mount, ".", flags, Mode::empty()).context("opening the new file system")
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
