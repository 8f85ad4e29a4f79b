//! `rl port`: which ports of the host lead to a container. Prints what `state.json` has, and says which
//! of them nobody can be reached by; opens nothing.

use std::io::Write as _;

use anyhow::Result;

use super::output;
use super::progress::say;
use crate::container::record::Record;
use crate::container::view::{Mapping, Seen};
use crate::error::Fail;
use crate::net::publish::{Heard, heard};
use crate::paths::Store;
use crate::spec::Port;

/// The words of `rl port`.
#[derive(Debug, Clone, clap::Args)]
pub struct PortArgs {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,

    /// Only this port of the container
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    pub port: Option<String>,
}

/// `rl port`.
///
/// # Errors
/// `NotFound` when the port that was named leads nowhere.
pub fn port(args: &PortArgs, store: &Store) -> Result<u8> {
    let seen = Seen::look(&Record::find(store, &args.container)?)?;
    let wanted: Option<Port> = args.port.as_deref().map(str::parse).transpose()?;
    let mut out = output::stdout();
    let mut ports = seen.ports();
    ports.retain(|one| wanted.is_none_or(|port| one.port == port));
    if let (Some(port), true) = (wanted, ports.is_empty()) {
        let fail = Fail::not_found(format!("no public port for `{port}` of {}", seen.spec.name));
        return Err(if seen.is_running() {
            fail.hint(format!(
                "see which ones there are: rl port {}",
                seen.spec.name
            ))
        } else {
            fail.hint("it does not run")
        }
        .into());
    }
    if let Some(process) = &seen.state.process {
        for line in unheard(process.pid, &ports) {
            say(&format!("rl: {line}"));
        }
    }
    for one in ports {
        match wanted {
            Some(_) => writeln!(out, "{}", one.host)?,
            None => writeln!(out, "{} -> {}", one.port, one.host)?,
        }
    }
    out.flush()?;
    Ok(0)
}

/// The ports on which nobody inside can hear what comes from outside, in words.
fn unheard(pid: i32, ports: &[Mapping]) -> Vec<String> {
    let mut inner: Vec<Port> = ports.iter().map(|one| one.port).collect();
    inner.sort_unstable();
    inner.dedup();
    let mut lines = Vec::new();
    for port in inner {
        lines.push(match heard(pid, port) {
            Heard::Yes | Heard::Unknown => continue,
            // With some versions of pasta it does, to this very machine.
            Heard::OnLoopback => format!(
                "{port} may not answer: the program inside listens on its own loopback only: have it listen on 0.0.0.0 or :: (rl explain RL-N07)"
            ),
            Heard::No => format!(
                "{port} does not answer: no program inside listens there now (rl explain RL-N07)"
            ),
        });
    }
    lines
}
