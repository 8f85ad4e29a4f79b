//! Ids that are mapped while the rest of a start is prepared: the two helpers take longest of all that a start waits for.

use anyhow::Result;

use super::newuidmap::{self, Helpers, Helping};
use super::{How, Plan};
use crate::sys;
use crate::sys::guide::{Errands, Guide};
use crate::sys::process::{Child, Sealed};

/// A user namespace in which the helpers are at work.
#[derive(Debug)]
pub struct Ahead {
    // The helpers end first: nobody is mapped behind their back.
    helping: Option<[Helping; 2]>,
    guide: Guide,
}

impl Ahead {
    /// Has the helpers begin. `None` where the plan needs none; and where it fails, for the start itself, which makes its
    /// namespaces then, says why.
    #[must_use]
    pub fn begin(plan: &Plan, helpers: Option<&Helpers>) -> Option<Self> {
        let helpers = helpers.filter(|_| plan.how == How::Helpers)?;
        let guide = Guide::send().ok()?;
        let helping = Helping::both(helpers, guide.pid(), plan).ok()?;
        Some(Self {
            helping: Some(helping),
            guide,
        })
    }

    /// Clones what is started in this namespace and the other new ones. With `loopback`, that interface is brought up
    /// there meanwhile, where the kernel can.
    ///
    /// # Errors
    /// clone3(2)'s.
    pub fn spawn_sealed(&mut self, sealed: &Sealed<'_>, loopback: bool) -> sys::Result<Child> {
        let leave = self.helping.iter().flatten().all(Helping::has_ended);
        self.guide.spawn_sealed(sealed, Errands { loopback, leave })
    }

    /// Waits until the ids are there. The guide is gone then.
    ///
    /// # Errors
    /// RL-S03 when a helper refuses.
    pub fn finish(mut self) -> Result<()> {
        match self.helping.take() {
            Some(helping) => newuidmap::finish(helping),
            None => Ok(()),
        }
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
