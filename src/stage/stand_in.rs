//! What stands in for a file system that pid 1 cannot mount: fuse-overlayfs, then a copy. The host's side of a start.

use std::path::PathBuf;

use anyhow::Result;

use super::parent::{Launch, Running};
use super::{Driver, RootPlan};
use crate::error::Fail;
use crate::sys;

pub(super) fn plan<'a>(launch: &'a Launch<'_>, which: Option<usize>) -> Result<&'a RootPlan> {
    let plan = launch.order.plan(which);
    plan.ok_or_else(|| Fail::system("pid 1 asked for what was not ordered").into())
}

/// What is left when the kernel mounts no overlay: fuse-overlayfs, then a copy.
pub(super) fn mount_otherwise(
    launch: &Launch<'_>,
    which: Option<usize>,
    running: &mut Running,
    why: &str,
    say: &mut dyn FnMut(&str),
    copy_root: &mut dyn FnMut(&RootPlan) -> Result<PathBuf>,
) -> Result<PathBuf> {
    let (plan, driver) = (plan(launch, which)?, launch.order.driver);
    let mut causes = vec![why.to_owned()];
    if driver != Driver::Copy {
        match super::fuse::overlay_of(plan, running.child.pid) {
            Ok((merged, child)) => {
                // Once is enough.
                let is_news = running.fuse.is_empty();
                running.fuse.push(child);
                if driver == Driver::Auto && is_news {
                    say(&format!(
                        "the kernel mounts no overlay here ({why}): using fuse-overlayfs (rl explain RL-F03)"
                    ));
                }
                return Ok(merged);
            }
            Err(error) if driver == Driver::FuseOverlayfs => return Err(error),
            Err(error) => causes.push(format!("{error:#}")),
        }
    }
    let below = which.and_then(|position| launch.order.layered[position].below.as_ref());
    if let Some(below) = below {
        return Err(Fail::unsupported(format!(
            "no layer can be laid over `{}` ({})",
            below.display(),
            causes.join("; ")
        ))
        .hint("`O` needs an overlay; mount the directory with `ro`, or a copy of it")
        .code("RL-F03")
        .into());
    }
    if driver == Driver::Auto {
        say(&format!(
            "no overlay can be mounted ({}): copying the image, which takes time and space (rl explain RL-F03)",
            causes.join("; ")
        ));
    }
    copied(running, plan, copy_root)
}

/// The copy of this root. It may take minutes, in which Ctrl-C must work.
pub(super) fn copied(
    running: &mut Running,
    plan: &RootPlan,
    copy_root: &mut dyn FnMut(&RootPlan) -> Result<PathBuf>,
) -> Result<PathBuf> {
    let held = running.signals.take().is_some();
    let path = copy_root(plan)?;
    if held {
        running.signals = Some(sys::signal::Queue::all()?);
    }
    Ok(path)
}
