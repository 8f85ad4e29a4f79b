//! What the file system of the store allows: overlays, programs, room.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::parse::{self, Tool};
use super::probe::{self, Outcome, Running};
use super::{Check, Host, Status};
use crate::idmap::find_program;
use crate::paths::Owners;

const AXIS: &str = "root file system";

/// A directory beside the store's that vanishes with this value.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes it, with what the overlay probe needs.
    pub fn make(near: &Path) -> std::io::Result<Self> {
        let path = near.join(format!(".rl-doctor-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        let scratch = Self { path };
        for name in ["lower/dir", "upper", "work", "merged"] {
            std::fs::create_dir_all(scratch.path.join(name))?;
        }
        std::fs::write(scratch.path.join("lower/file"), "x")?;
        Ok(scratch)
    }

    /// Tries an overlay in it.
    pub fn start_overlay(&self) -> Running {
        probe::start(&["overlay", &self.path.to_string_lossy()])
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return;
        };
        if let Ok(parent) = crate::sys::fs::open_trusted(parent, OFlags::PATH | OFlags::DIRECTORY) {
            use std::os::fd::AsFd as _;
            let _ = crate::sys::fs::remove_tree(parent.as_fd(), name); // litter of a few bytes at worst
        }
    }
}

/// The axis `root file system`.
pub fn checks(
    host: &Host,
    scratch: &std::io::Result<Scratch>,
    overlay: Option<Running>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    match (scratch, overlay) {
        (Ok(_), Some(running)) => checks.extend(self::overlay(host, &running.finish())),
        (Err(error), _) => {
            let found = format!("{}: {error}", host.store.display());
            checks.push(
                Check::works(AXIS, "RL-F05", "the store's directory", found, "")
                    .because(
                        Status::Missing,
                        "nothing can be written there",
                        "cannot keep images or containers",
                    )
                    .you("name another place: --root DIR or RL_ROOT"),
            );
        }
        (Ok(_), None) => {}
    }
    checks.push(fuse(host));
    checks.extend(mounted(host));
    if let Ok(fs) = rustix::fs::statvfs(&host.store) {
        let inodes = (fs.f_files > 0).then_some(fs.f_favail);
        checks.extend(space(fs.f_bavail.saturating_mul(fs.f_frsize), inodes));
    }
    checks
}

/// What the overlay probe found.
pub fn overlay(host: &Host, outcome: &Outcome) -> Vec<Check> {
    let check = Check::works(
        AXIS,
        "RL-F03",
        "overlay by the kernel",
        format!("mounted one in {}", host.store.display()),
        "shares unpacked layers between containers",
    );
    let Outcome::Fails { call, .. } = outcome else {
        return vec![check];
    };
    // Without a user namespace the question does not arise, and that was said.
    if call.starts_with("unshare(") || call.contains("/proc/self/") {
        return Vec::new();
    }
    let kind =
        parse::mount_of(&host.mounts, &host.store).map_or("unknown", |mount| mount.kind.as_str());
    let cause = match kind {
        "overlay" | "overlayfs" => "the store lies on an overlay already".to_owned(),
        "tmpfs" => "tmpfs has no user.* attributes before Linux 6.6".to_owned(),
        kind if is_network(kind) => format!("{kind} cannot hold the upper layer of an overlay"),
        kind => format!(
            "{kind} or this kernel refuses it in a user namespace (before Linux 5.11 every file system does)"
        ),
    };
    let does = if find_program("fuse-overlayfs").is_some() && fuse_opens().is_ok() {
        "uses fuse-overlayfs, which is slower"
    } else {
        "copies the whole image for each container"
    };
    vec![
        Check {
            found: call.clone(),
            ..check
        }
        .because(Status::Less, cause, does)
        .you("put the store on a local disk: --root DIR or RL_ROOT")
        .admin("a kernel of version 5.13 or later, and the module: modprobe overlay"),
    ]
}

fn fuse_opens() -> crate::sys::Result<()> {
    let path = "/dev/fuse";
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map(drop)
        .map_err(|errno| crate::sys::Error::new(format!("open({path:?})"), errno))
}

fn fuse(host: &Host) -> Check {
    let check = Check::works(
        AXIS,
        "RL-F04",
        "overlay by fuse",
        "",
        "falls back to it where the kernel's overlay is refused",
    );
    match (find_program("fuse-overlayfs"), fuse_opens()) {
        (Some(program), Ok(())) => Check {
            found: format!("{}, /dev/fuse opens", program.display()),
            ..check
        },
        (None, _) => Check {
            found: "fuse-overlayfs is not installed".to_owned(),
            ..check
        }
        .because(
            Status::Less,
            "the package is missing",
            "copies images where the kernel's overlay is refused",
        )
        .admin(host.install(Tool::FuseOverlayfs)),
        (Some(_), Err(error)) => Check {
            found: error.to_string(),
            ..check
        }
        .because(
            Status::Less,
            "the fuse module is not loaded, or its device is not for everybody",
            "copies images where the kernel's overlay is refused",
        )
        .admin("modprobe fuse && chmod 0666 /dev/fuse"),
    }
}

/// Types that several machines share. What is missing here fails the overlay probe anyway.
fn is_network(kind: &str) -> bool {
    const KINDS: [&str; 16] = [
        "9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2",
        "orangefs", "panfs", "smb3", "virtiofs", "vboxsf", "wekafs",
    ];
    KINDS.contains(&kind) || kind.starts_with("fuse.") || kind == "smbfs"
}

/// The type of the store's file system and how it is mounted.
pub fn mounted(host: &Host) -> Vec<Check> {
    let Some(mount) = parse::mount_of(&host.mounts, &host.store) else {
        return Vec::new();
    };
    let found = format!(
        "{} on {} for {}",
        mount.kind,
        mount.target.display(),
        host.store.display()
    );
    let check = Check::works(
        AXIS,
        "RL-F01",
        "file system of the store",
        found,
        "keeps images and containers there",
    );
    let lacks = match host.owners {
        Some(Owners::Noted) => Some(format!("it refuses files of other owners: {}", mount.kind)),
        Some(Owners::Kept) => None,
        None => is_network(&mount.kind)
            .then(|| format!("{} keeps no foreign owners and no upper layers", mount.kind)),
    };
    let mut checks = vec![if let Some(why) = lacks {
        check
            .because(
                Status::Less,
                why,
                "runs with one id, notes whose a file is, and serves or copies layers where it must",
            )
            .you("put the store on a local disk: --root DIR or RL_ROOT")
            .admin("a local directory for each user, such as /scratch/USER")
    } else {
        check
    }];
    let bad: Vec<&str> = ["noexec", "ro", "nodev", "nosuid"]
        .into_iter()
        .filter(|option| mount.options.iter().any(|have| have == option))
        .collect();
    let check = Check::works(
        AXIS,
        "RL-F02",
        "mount options",
        mount.options.join(","),
        "executes the images' programs from there",
    );
    let (status, does) = if bad.contains(&"ro") {
        (Status::Missing, "cannot keep an image")
    } else {
        (
            Status::Less,
            "runs programs through an overlay, which does not inherit it; copies of images it refuses to make there",
        )
    };
    checks.push(if bad.contains(&"noexec") || bad.contains(&"ro") {
        check
            .because(
                status,
                format!("{} is mounted {}", mount.target.display(), bad.join(",")),
                does,
            )
            .you("put the store elsewhere: --root DIR or RL_ROOT")
            .admin(format!(
                "mount -o remount,exec,rw {}",
                mount.target.display()
            ))
    } else {
        check
    });
    checks
}

/// Room: bytes, and inodes where the file system counts them.
pub fn space(bytes: u64, inodes: Option<u64>) -> Vec<Check> {
    let found = match inodes {
        Some(inodes) => format!("{} MiB, {inodes} files", bytes >> 20),
        None => format!("{} MiB", bytes >> 20),
    };
    let check = Check::works(
        AXIS,
        "RL-F05",
        "room",
        found,
        "unpacks images there: some 100 MiB and 10000 files each",
    );
    if bytes >= 2 << 30 && inodes.is_none_or(|inodes| inodes >= 100_000) {
        return vec![check];
    }
    let cause = if bytes < 2 << 30 {
        "the disk is nearly full"
    } else {
        "the file system has few files left to give"
    };
    vec![
        check
            .because(
                Status::Less,
                cause,
                "stops a pull that does not fit, and leaves nothing half-made",
            )
            .you("remove what is not needed: rl images, rl rmi")
            .you("put the store elsewhere: --root DIR or RL_ROOT"),
    ]
}
