//! A process that goes into a container which a `config.json` describes: `rl runtime exec`.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::super::init::Host;
use super::super::program::{self, Program};
use super::super::{ToHost, Visit, confine, join};
use super::init;
use crate::spec::oci::Oci;
use crate::sys;
use crate::sys::fs::Root;

/// Becomes the program; returns only what went wrong.
///
/// # Errors
/// As for pid 1.
pub fn run(host: &mut Host, visit: &Visit, oci: &Oci) -> Result<()> {
    let spec = &visit.spec;
    // Where setns(2) has put us: the root of the container's mount namespace.
    let root = Root::open_trusted(Path::new("/"))?;
    let terminal = if spec.process.tty {
        let (master, terminal) = program::new_terminal(&root)?;
        if let Some(size) = oci.console_size {
            use std::os::fd::AsFd as _;
            sys::tty::set_size(terminal.as_fd(), size.height, size.width);
        }
        host.say(&ToHost::Console, Some(&master))?;
        Some(terminal)
    } else {
        None
    };
    join::enter_cwd(&root, &spec.process.cwd)?;
    let home = init::home(&root, oci.user.uid);
    drop(root);
    let env = init::environment(&spec.process, &home);
    let program = Program::find(spec, &env)?;
    program.check()?;
    init::session(terminal.as_ref())?;
    init::own_streams(oci.user.uid);
    drop(terminal);
    init::treat(oci)?;
    if let Some(list) = oci.affinity.as_ref().and_then(|one| one.after.as_deref())
        && let Some(processors) = crate::cgroup::limits::numbers(list)
    {
        sys::schedule::set_affinity(None, &processors)
            .context("process.execCPUAffinity.final: setting it")?;
    }
    confine::limits(&spec.confinement)?;
    // Also where pid 1 is tied to its command: this one has a command of its own, which may have left already.
    init::become_program(host, spec, oci, &program, false).map(drop)
}
