//! A network namespace that is there already: another container's, or one that a file names.
//!
//! Only who has all rights in the user namespace that owns it may enter it (setns(2)). So the container shares that
//! user namespace, unless it is our own.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::Fail;
use crate::idmap::Plan;
use crate::sys;

/// A network namespace to join.
#[derive(Debug)]
pub struct Target {
    /// It.
    pub net: OwnedFd,
    /// The user namespace that owns it, and the ids there. `None`: it is ours, and we have the rights.
    pub owner: Option<(OwnedFd, Plan)>,
}

impl Target {
    /// The one that the file `path` leads to; `None` when it is the one that we are in. `what` is its name in messages.
    ///
    /// # Errors
    /// `Denied`, with the reason, when it may not be entered; `Usage` when the file is none.
    pub fn open(path: &Path, what: &str) -> Result<Option<Self>> {
        let net = sys::fs::open_trusted(path, OFlags::RDONLY).map_err(|error| {
            let fail = match error.errno {
                Errno::NOENT | Errno::NOTDIR => Fail::not_found(format!("{what} does not exist")),
                Errno::ACCESS | Errno::PERM => Fail::denied(format!("{what} cannot be opened"))
                    .hint("a process of another user's, or one with more rights, is not yours to look at"),
                _ => Fail::system(format!("{what} cannot be opened")),
            };
            anyhow::Error::from(error).context(fail)
        })?;
        if sys::namespace::kind(net.as_fd()).ok() != Some(libc::CLONE_NEWNET) {
            return Err(Fail::usage(format!("{what} is no network namespace"))
                .hint("name a file such as /proc/PID/ns/net, or one that `ip netns add` has made")
                .into());
        }
        if is_ours(&net, "net")? {
            return Ok(None);
        }
        let owner = sys::namespace::owner(net.as_fd()).map_err(|error| {
            anyhow::Error::from(error).context(denied(what, "a user namespace outside of yours"))
        })?;
        if is_ours(&owner, "user")? {
            let rights = rustix::thread::capabilities(None).context("looking at our own rights")?;
            if !rights
                .effective
                .contains(rustix::thread::CapabilitySet::SYS_ADMIN)
            {
                return Err(denied(what, "the host's own user namespace").into());
            }
            return Ok(Some(Self { net, owner: None }));
        }
        let plan = look(&owner, &net, what)?;
        Ok(Some(Self {
            net,
            owner: Some((owner, plan)),
        }))
    }
}

fn denied(what: &str, owner: &str) -> Fail {
    Fail::denied(format!(
        "{what} belongs to {owner}: the kernel lets only its root enter (EPERM)"
    ))
    .hint("one that you have made yourself works: unshare --user --map-root-user --net, then ns:/proc/PID/ns/net")
    .code("RL-N11")
}

fn is_ours(namespace: &OwnedFd, kind: &str) -> Result<bool> {
    let path = format!("/proc/self/ns/{kind}");
    let ours = rustix::fs::stat(path.as_str()).with_context(|| format!("looking at {path}"))?;
    let theirs = rustix::fs::fstat(namespace).context("looking at a namespace")?;
    Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
}

/// The ids of the user namespace `owner`, seen on a process that goes there, and into `net`: so it is known that both may be entered.
fn look(owner: &OwnedFd, net: &OwnedFd, what: &str) -> Result<Plan> {
    use sys::process::{self, setns};
    use sys::socket::Channel;
    let (mut here, mut there) = Channel::pair().context("making a socket pair")?;
    let Some(child) = process::fork()? else {
        drop(here);
        // Container root has all rights over a process in its user namespace, but not over this memory.
        let entered =
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
                .map_err(|errno| sys::Error::new("prctl(PR_SET_DUMPABLE)", errno))
                .and_then(|()| setns(owner.as_fd(), libc::CLONE_NEWUSER))
                .and_then(|()| setns(net.as_fd(), libc::CLONE_NEWNET));
        let text = entered.map_or_else(|error| error.to_string(), |()| String::new());
        let _ = there.send(text.as_bytes(), None); // the silence says it
        let _ = there.receive(); // stays until it has been looked at
        process::exit_now(0)
    };
    drop(there);
    let answer = here.receive();
    let plan = Plan::of(child.pid.as_raw_nonzero().get());
    drop(here);
    child.wait()?;
    match answer.context("entering a user namespace")? {
        Some((text, _)) if text.is_empty() => plan,
        Some((text, _)) => Err(anyhow::anyhow!("{}", String::from_utf8_lossy(&text))
            .context(denied(what, "another user's user namespace"))),
        None => Err(Fail::system(format!("{what} could not be looked at")).into()),
    }
}
