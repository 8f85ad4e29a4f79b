//! `rl exec`: its flags, and what becomes of them.

use std::path::PathBuf;

use anyhow::Result;

use super::run::{environment, life, settled, variables};
use crate::container::exec::{self, Command};
use crate::container::record::Record;
use crate::error::Fail;
use crate::paths::Store;

/// The flags of `rl exec`, as typed.
#[derive(Debug, Clone, clap::Args)]
pub struct ExecArgs {
    /// Let it run in the background
    #[arg(short, long)]
    pub detach: bool,

    /// Keys that leave a program that has a terminal
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,

    /// Set a variable; NAME alone takes yours (can be repeated)
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,

    /// Read variables from a file (can be repeated)
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,

    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,

    /// Pass this many descriptors on, from 3 upwards
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub preserve_fds: u32,

    /// Give all capabilities, filter no system calls
    #[arg(long)]
    pub privileged: bool,

    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,

    /// Run as USER or USER:GROUP, names or numbers
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,

    /// Set the working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,

    /// The container, and the program and its arguments
    #[arg(value_names = ["CONTAINER", "COMMAND"], num_args = 1.., required = true, trailing_var_arg = true)]
    pub words: Vec<String>,
}

/// `rl exec`: the exit code is the program's.
///
/// # Errors
/// What kept the program from starting.
pub fn exec(args: &ExecArgs, store: &Store) -> Result<u8> {
    let (container, words) = args
        .words
        .split_first()
        .filter(|(_, words)| words.first().is_some_and(|word| !word.is_empty()))
        .ok_or_else(|| {
            Fail::usage("no command given").hint("name the program: rl exec CONTAINER COMMAND…")
        })?;
    if let Some(text) = words.iter().find(|text| text.contains('\0')) {
        let shown = text.escape_debug();
        return Err(Fail::usage(format!("`{shown}` contains a NUL byte")).into());
    }
    if let Some(directory) = args
        .workdir
        .as_deref()
        .filter(|text| !text.starts_with('/'))
    {
        let message = format!("-w `{directory}` is not an absolute path");
        return Err(Fail::usage(message).into());
    }
    if !args.detach {
        life::check_terminal(args.tty, args.interactive)?;
    }
    let record = Record::find(store, container)?;
    let spec = record.spec()?;
    let own = variables(&args.env_file, &args.env, &environment()?)?;
    let command = Command {
        words: words.to_vec(),
        env: settled([spec.process.env.clone(), own].concat()),
        cwd: args.workdir.clone(),
        user: args.user.clone(),
        tty: args.tty,
        interactive: args.interactive,
        detached: args.detach,
        privileged: args.privileged,
        preserve_fds: args.preserve_fds,
        detach_keys: life::detach_keys(args.detach_keys.as_deref())?,
    };
    exec::run(&record, spec, command)
}
