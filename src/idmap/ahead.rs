//! Ids that are mapped while the rest of a start is prepared: the two helpers take longest of all that a start waits for.
//! Beside a container that has a user namespace to share, there is nothing to wait for at all ([`super::living`]).

use std::ffi::CString;

use anyhow::Result;
use rustix::process::Pid;

use super::living::{Entry, Neighbours, Place};
use super::newuidmap::{self, Helpers, Helping};
use super::{How, Plan, as_they_are, lines};
use crate::sys;
use crate::sys::guide::Guide;
use crate::sys::process::{Child, Sealed};

/// A user namespace with ids, or in which the helpers are at work.
#[derive(Debug)]
pub struct Ahead {
    // The helpers end first: nobody is mapped behind their back.
    helping: Option<[Helping; 2]>,
    guide: Guide,
    /// The container's own is made below that one, with the same ids.
    below: bool,
    place: Option<Place>,
}

impl Ahead {
    /// Has the helpers begin, or finds them spared. With `lasting`, for a container that may live long, what they map is kept
    /// apart from its own user namespace, so that starts beside it may have theirs from there; so it is while others start.
    ///
    /// `None` where the plan needs no helpers; and where it fails, for the start itself, which makes its namespaces then, says why.
    #[must_use]
    pub fn begin(plan: &Plan, helpers: Option<&Helpers>, lasting: bool) -> Option<Self> {
        let helpers = helpers.filter(|_| plan.how == How::Helpers)?;
        let place = Place::of(plan);
        let neighbours = place.as_ref().map_or(Neighbours::None, Place::look);
        if let Neighbours::Share(namespace) = neighbours {
            return Some(Self {
                helping: None,
                guide: Guide::send_to(namespace).ok()?,
                below: true,
                place,
            });
        }
        let guide = Guide::send().ok()?;
        let helping = Helping::both(helpers, guide.pid(), plan).ok()?;
        Some(Self {
            helping: Some(helping),
            guide,
            below: lasting || matches!(neighbours, Neighbours::Start),
            place,
        })
    }

    /// Clones what is started in this namespace and the other new ones. With `loopback`, that interface is brought up
    /// there meanwhile, where the kernel can.
    ///
    /// # Errors
    /// `ESRCH` when the guide was killed: nobody knows what it has cloned. Of all else nothing is left, and it can be done anew.
    pub fn spawn_sealed(
        &mut self,
        sealed: &Sealed<'_>,
        plan: &Plan,
        loopback: bool,
    ) -> Result<Child> {
        if self.below
            && let Some(helping) = self.helping.take()
        {
            newuidmap::finish(helping)?;
        }
        let child = self.guide.spawn_sealed(sealed, self.below)?;
        if self.below
            && let Err(error) = self.map_below(&child, plan)
        {
            child.kill();
            child.wait()?;
            return Err(error);
        }
        if loopback {
            self.guide.raise_loopback(&child);
        }
        Ok(child)
    }

    /// Gives the container's own namespace all ids of the guide's.
    fn map_below(&mut self, child: &Child, plan: &Plan) -> Result<()> {
        let pid = child.pid.as_raw_nonzero();
        let file = |name, extents| -> Result<(CString, String)> {
            Ok((
                CString::new(format!("/proc/{pid}/{name}"))?,
                lines(&as_they_are(extents)),
            ))
        };
        let files = [file("uid_map", &plan.uids)?, file("gid_map", &plan.gids)?];
        self.guide.write(&files)?;
        // What another container has left to us is looked at, not believed.
        if Plan::of(pid.get())? != *plan {
            return Err(sys::Error::new("uid_map", rustix::io::Errno::PERM).into());
        }
        Ok(())
    }

    /// Waits until the ids are there, for the container `id` and its first process. The guide is gone then. What comes back is
    /// kept for as long as that runs.
    ///
    /// # Errors
    /// RL-S03 when a helper refuses.
    pub fn finish(mut self, id: &str, pid: Pid) -> Result<Option<Entry>> {
        if let Some(helping) = self.helping.take() {
            newuidmap::finish(helping)?;
        }
        Ok(self.place.as_ref().and_then(|place| place.enter(id, pid)))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Of a start that failed: they end by themselves, and soon.
        if let Some(helping) = self.helping.take() {
            let _ = Helping::finish_all(helping); // there is something worse to tell
        }
    }
}
