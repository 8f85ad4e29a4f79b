//! How pid 1 comes to be: which namespaces it gets, in which group it begins, and what the kernel says against it.
//!
//! Runs in the command or the monitor; nothing here talks to pid 1.

use anyhow::Result;
use rustix::io::Errno;

use super::parent::Launch;
use crate::cgroup::Group;
use crate::error::Fail;
use crate::idmap::ahead::Ahead;
use crate::spec::Namespace;
use crate::sys;
use crate::sys::process::{Child, Sealed};

/// Clones it; with the ids that are being mapped already, when they are still of use.
///
/// # Errors
/// The kernel's refusal, explained.
pub(super) fn pid1(
    mut sealed: Sealed<'_>,
    launch: &Launch<'_>,
    ids: Option<Ahead>,
) -> Result<(Child, Option<Ahead>)> {
    if let Some(ids) = ids
        && let Some(made) = ahead(&sealed, launch, ids)?
    {
        return Ok(made);
    }
    let child = match (self::sealed(&sealed), launch.group) {
        // KERNEL(5.7): no process could be born in another group before. This one waits for its order meanwhile.
        (Err(error), Some(group)) if sys::errno_of(&error) == Some(Errno::TOOBIG) => {
            sealed.cgroup = None;
            let child = self::sealed(&sealed)?;
            if let Err(error) = group.enter(child.pid.as_raw_nonzero().get()) {
                child.kill();
                child.wait()?;
                return Err(error.into());
            }
            child
        }
        (Err(error), Some(group)) => return Err(in_group(error, group)),
        (made, _) => made?,
    };
    Ok((child, None))
}

/// Where the ids are being mapped already. `None` when the kernel refuses: it does so in the other order, too, and that is
/// what gets explained.
fn ahead(
    sealed: &Sealed<'_>,
    launch: &Launch<'_>,
    mut ids: Ahead,
) -> Result<Option<(Child, Option<Ahead>)>> {
    match ids.spawn_sealed(sealed, launch.plan, launch.order.raise_loopback) {
        Ok(child) => Ok(Some((child, Some(ids)))),
        // Somebody has killed the guide, and it may have made a pid 1 that listens to the same socket.
        Err(error) if sys::errno_of(&error) == Some(Errno::SRCH) => {
            Err(error.context(Fail::system("a process of the start was killed")))
        }
        Err(_) => Ok(None),
    }
}

/// Whether it goes into a user namespace that is there, with the ids it has.
pub(super) fn shares_ids(launch: &Launch<'_>) -> bool {
    launch.target.is_some_and(|target| target.owner.is_some())
}

/// The namespaces that are made for it.
pub(super) fn flags(launch: &Launch<'_>) -> i32 {
    let namespaces = &launch.order.spec.namespaces;
    let mut flags = if shares_ids(launch) {
        0
    } else {
        libc::CLONE_NEWUSER | libc::CLONE_NEWNS
    };
    let cgroup = if launch.group.is_some() {
        0
    } else {
        libc::CLONE_NEWCGROUP
    };
    for (namespace, flag) in [
        (&namespaces.pid, libc::CLONE_NEWPID),
        (&namespaces.ipc, libc::CLONE_NEWIPC),
        (&namespaces.uts, libc::CLONE_NEWUTS),
        // A namespace made by the clone would begin at our own group.
        (&namespaces.cgroup, cgroup),
    ] {
        if *namespace == Namespace::Private {
            flags |= flag;
        }
    }
    if launch.network.is_private() {
        flags | libc::CLONE_NEWNET
    } else {
        flags
    }
}

/// The clone, with the kernel's refusals explained. Source: user_namespaces(7), namespaces(7), clone(2).
pub(super) fn sealed(sealed: &Sealed<'_>) -> Result<Child> {
    sys::process::spawn_sealed(sealed).map_err(|error| {
        let fail = match error.errno {
            Errno::NOSPC | Errno::USERS => Fail::unsupported("the kernel allows no more namespaces (this is not about disk space)")
                .hint("see /proc/sys/user/max_*_namespaces; your administrator can raise what is low there, such as: sysctl user.max_user_namespaces=28633")
                .code("RL-U03"),
            Errno::PERM | Errno::ACCESS => Fail::unsupported("the kernel refuses user namespaces to ordinary users")
                .hint("your administrator can allow them: sysctl kernel.unprivileged_userns_clone=1 (Debian), see rl doctor")
                .hint("inside another container: run that one with --security-opt seccomp=unconfined")
                .code("RL-U02"),
            Errno::INVAL | Errno::NOSYS => Fail::unsupported("this kernel has no user namespaces, or not all that containers need")
                .hint("Linux 5.3 or later with CONFIG_USER_NS is needed")
                .code("RL-U01"),
            errno => Fail::system(format!("starting a process in new namespaces ({errno})")),
        };
        anyhow::Error::from(error).context(fail)
    })
}

/// What the kernel says of a group that no process can be started in.
fn in_group(error: anyhow::Error, group: &Group) -> anyhow::Error {
    let path = group.path().display();
    let fail = match sys::errno_of(&error) {
        // The namespaces are refused by EPERM.
        Some(Errno::ACCESS) => Fail::denied(format!(
            "no process can be started in `{path}`: what lies between it and this process's group is not yours"
        ))
        .hint("choose a --cgroup-parent below your own group, or leave it out"),
        Some(Errno::BUSY | Errno::OPNOTSUPP) => {
            Fail::unsupported(format!("`{path}` takes no processes"))
                .hint("is it threaded? cat its cgroup.type")
        }
        Some(Errno::NODEV) => Fail::conflict(format!("the group `{path}` has vanished"))
            .hint("something else removes groups there: try again"),
        _ => return error,
    };
    error.context(fail)
}
