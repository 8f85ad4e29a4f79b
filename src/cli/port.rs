//! `rl port`: which ports of the host lead to a container. Prints what `state.json` has; opens nothing.

use std::io::Write as _;

use anyhow::Result;

use super::output;
use crate::container::record::Record;
use crate::container::view::Seen;
use crate::error::Fail;
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
    for one in ports {
        match wanted {
            Some(_) => writeln!(out, "{}", one.host)?,
            None => writeln!(out, "{} -> {}", one.port, one.host)?,
        }
    }
    out.flush()?;
    Ok(0)
}
