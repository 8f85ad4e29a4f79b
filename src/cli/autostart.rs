//! `rl system autostart` and `rl generate systemd`: what was meant to run comes back after a reboot.
//!
//! There is no daemon that would do it: a unit of the user's systemd calls us.

use anyhow::Result;

use super::image::all_of;
use super::output;
use super::progress::say;
use crate::container::joined;
use crate::container::lifecycle::{self, Start};
use crate::container::record::Record;
use crate::error::Fail;
use crate::paths::Store;
use crate::spec::Restart;

/// `rl system autostart`.
#[derive(Debug, clap::Args)]
pub struct AutostartArgs {
    /// Print a systemd unit that does this at every boot, instead of doing it
    #[arg(long)]
    pub unit: bool,
}

/// `rl generate systemd`.
#[derive(Debug, clap::Args)]
pub struct SystemdArgs {
    /// Which
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// Starts every container that is to run always, or unless it was stopped.
///
/// # Errors
/// Of the containers that do not start.
pub fn autostart(args: &AutostartArgs, store: &Store) -> Result<u8> {
    if args.unit {
        output::write_all(&unit(
            "rl: containers that are to run always",
            &command(store, "system autostart")?,
            None,
        ))?;
        return Ok(0);
    }
    let mut failures = Vec::new();
    let mut all = Record::all(store)?;
    // Whose network is joined goes first.
    all.sort_by_cached_key(joined::depth);
    for record in all {
        match bring_back(&record) {
            Ok(Some(name)) => output::print(&name)?,
            Ok(None) => {}
            Err(error) => failures.push(error),
        }
    }
    all_of(failures)
}

/// Starts the container if it is meant to run and does not; its name when it was started.
fn bring_back(record: &Record) -> Result<Option<String>> {
    let spec = record.spec()?;
    let wanted = match spec.restart {
        Restart::Always => true,
        Restart::UnlessStopped => !record.state()?.stopped,
        Restart::No | Restart::OnFailure { .. } => false,
    };
    if !wanted {
        return Ok(None);
    }
    let started = lifecycle::start(record, None, &mut |line| {
        say(&format!("rl: {}: {line}", spec.name));
    })?;
    Ok((started == Start::Done).then_some(spec.name))
}

/// Prints a unit for one container.
///
/// # Errors
/// `NotFound`.
pub fn systemd(args: &SystemdArgs, store: &Store) -> Result<u8> {
    let name = Record::find(store, &args.container)?.spec()?.name;
    let start = command(store, &format!("start {name}"))?;
    let stop = command(store, &format!("stop {name}"))?;
    output::write_all(&unit(&format!("rl: container {name}"), &start, Some(&stop)))?;
    Ok(0)
}

/// This program with these words, as systemd.service(5) takes it.
fn command(store: &Store, words: &str) -> Result<String> {
    let exe = std::env::current_exe()?;
    let (Some(exe), Some(root)) = (exe.to_str(), store.root().to_str()) else {
        return Err(Fail::unsupported(
            "systemd units are UTF-8, the path of rl or of its store is not",
        )
        .into());
    };
    Ok(format!("{} --root {} {words}", quoted(exe), quoted(root)))
}

/// One word of a command line. Source: systemd.service(5), "Command lines".
fn quoted(text: &str) -> String {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte));
    if plain {
        return text.to_owned();
    }
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    format!("\"{escaped}\"")
}

fn unit(what: &str, start: &str, stop: Option<&str>) -> String {
    let stop = stop
        .map(|stop| format!("ExecStop={stop}\n"))
        .unwrap_or_default();
    format!(
        "# Save as ~/.config/systemd/user/NAME.service, then: systemctl --user enable --now NAME\n\
         # To start without a log-in: loginctl enable-linger\n\
         [Unit]\nDescription={what}\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={start}\n{stop}\n\
         [Install]\nWantedBy=default.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_systemd_are_quoted_where_they_must_be() {
        assert_eq!(quoted("/usr/bin/rl"), "/usr/bin/rl");
        assert_eq!(quoted("/home/a b/50%"), "\"/home/a b/50%%\"");
    }

    #[test]
    fn a_unit_starts_and_stops() {
        let text = unit("x", "/rl start a", Some("/rl stop a"));
        assert!(
            text.contains("ExecStart=/rl start a\nExecStop=/rl stop a\n"),
            "{text}"
        );
        assert!(!unit("x", "/rl", None).contains("ExecStop"));
    }
}
