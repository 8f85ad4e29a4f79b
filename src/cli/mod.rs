//! The command line: one clap tree, and which function each verb calls.
//!
//! Only `cli` prints. Parsing never acts.

pub mod output;
pub mod run;
pub mod template;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, CommandFactory as _, FromArgMatches as _};

/// Containers without root and without a daemon
#[derive(Debug, clap::Parser)]
#[command(name = "rl", version, args_override_self = true)]
pub struct Cli {
    /// Keep images and containers below this directory
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a program in a new container
    #[command(
        disable_help_flag = true,
        override_usage = "rl run [OPTIONS] IMAGE [COMMAND…]"
    )]
    Run(Box<run::RunArgs>),
}

/// Reads a command line, `rl` itself being the first word.
///
/// # Errors
/// Clap's, which is also how `--help` and `--version` arrive.
pub fn parse(words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches_from(words)?;
    Cli::from_arg_matches(&matches)
}

/// The whole tree, with docker's rules for flags: the last of several wins, `--flag=false` is allowed
/// for every switch, and a value may start with a hyphen.
#[must_use]
pub fn command() -> clap::Command {
    dockers_rules(Cli::command())
}

fn dockers_rules(command: clap::Command) -> clap::Command {
    let command = command
        .args_override_self(true)
        .mut_args(|arg| match arg.get_action() {
            ArgAction::SetTrue => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .default_value("false")
                .value_parser(run::values::boolean)
                .hide_default_value(true)
                .hide_possible_values(true),
            ArgAction::Set | ArgAction::Append if !arg.is_positional() => {
                arg.allow_hyphen_values(true)
            }
            _ => arg,
        });
    command.mut_subcommands(dockers_rules)
}
