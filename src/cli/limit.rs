//! `rl limit`: host programs under limits, what `cgcreate`, `cgexec` and `cgclassify` do for root.

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;

use anyhow::Result;

use super::output::{self, Columns, Row};
use super::progress::say;
use super::run::resources::{self, ResourceArgs};
use super::stats::{UNKNOWN, processors};
use crate::cgroup::account;
use crate::cgroup::limits::check::Host;
use crate::cgroup::limits::{self, Setting};
use crate::cgroup::named::{self, Named};
use crate::container::measure::Subject;
use crate::error::{Fail, Kind};
use crate::spec::is_name;

/// The words of `rl limit`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LimitArgs {
    /// What else.
    #[command(subcommand)]
    pub verb: Option<Verb>,

    /// Run the program in this named group
    #[arg(long = "in", value_name = "NAME")]
    pub within: Option<String>,

    /// Move a running process, into the group NAME or a new one with these limits (can be repeated)
    #[arg(long, value_name = "PID")]
    pub pid: Vec<i32>,

    /// How much it gets.
    #[command(flatten)]
    pub resources: ResourceArgs,

    /// The named group that is made, or that gets these limits
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// The program and its arguments
    #[arg(value_name = "PROGRAM", last = true)]
    pub program: Vec<OsString>,
}

/// The verbs of `rl limit`.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Verb {
    /// List named groups
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Remove named groups
    #[command(alias = "remove")]
    Rm(RemoveArgs),
}

/// The flags of `rl limit ls`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    /// Print as a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Print names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// The words of `rl limit rm`.
#[derive(Debug, Clone, clap::Args)]
pub struct RemoveArgs {
    /// Kill what runs in it
    #[arg(short, long)]
    pub force: bool,

    /// Names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

const COLUMNS: Columns = Columns {
    heads: &[
        ("Name", "NAME"),
        ("Processes", "PROCESSES"),
        ("Memory", "MEMORY"),
        ("MemoryLimit", "MEMORY LIMIT"),
        ("CPULimit", "CPU LIMIT"),
        ("PIDsLimit", "PIDS LIMIT"),
        ("Cgroup", "CGROUP"),
    ],
    shown: &[
        "Name",
        "Processes",
        "Memory",
        "MemoryLimit",
        "CPULimit",
        "PIDsLimit",
        "Cgroup",
    ],
};

/// `rl limit`.
pub fn limit(args: &LimitArgs) -> Result<u8> {
    named::sweep_all();
    match &args.verb {
        Some(Verb::Ls(args)) => return list(args),
        Some(Verb::Rm(args)) => return remove(args),
        None => {}
    }
    for name in args.name.iter().chain(&args.within) {
        check_name(name)?;
    }
    let resources = resources::resources(&args.resources)?;
    let asked = limits::first_flag(&resources);
    if let Some(flag) = asked {
        for notice in limits::check::check(&resources, &Host::read())? {
            say(&format!("rl: {notice}"));
        }
        if args.within.is_some() {
            return Err(Fail::usage(format!(
                "--in and {flag} exclude each other: the group has its limits"
            ))
            .hint("to change them: rl limit NAME --memory …")
            .into());
        }
    }
    let settings = limits::settings(&resources)?;
    match (&args.name, &args.within, args.program.as_slice()) {
        (None, Some(_) | None, []) if args.pid.is_empty() => Err(Fail::usage("no program given")
            .hint("rl limit --memory 4G --cpus 2 -- make -j8")
            .hint("rl limit --help")
            .into()),
        (Some(name), ..) if args.within.is_some() || !args.program.is_empty() => {
            let fail = Fail::usage(format!("`{name}` and a program exclude each other"))
                .hint(format!("to make the group: rl limit {name} --memory 4G"))
                .hint(format!("to run in it: rl limit --in {name} -- PROGRAM"));
            Err(fail.into())
        }
        (_, _, [_, ..]) | (_, Some(_), _) if !args.pid.is_empty() => Err(Fail::usage(
            "--pid moves what runs already: leave the program and --in out",
        )
        .hint("into a named group: rl limit --pid PID NAME")
        .into()),
        (_, Some(name), [program, words @ ..]) => {
            named::enter(&named::find(name)?, me())?;
            Err(execute(program, words))
        }
        (None, None, [program, words @ ..]) => {
            named::single(me(), needs(asked)?, &settings)?;
            Err(execute(program, words))
        }
        (name, ..) if !args.pid.is_empty() => {
            classify(&args.pid, name.as_deref(), asked, &settings)
        }
        (Some(name), ..) => {
            named::set(name, needs(asked)?, &settings)?;
            output::print(name)?;
            Ok(0)
        }
        (None, ..) => Err(Fail::usage("no program given").into()),
    }
}

/// The words that may not name a group are verbs, too.
fn check_name(name: &str) -> Result<(), Fail> {
    if is_name(name) && name.len() <= 128 {
        return Ok(());
    }
    Err(Fail::usage(format!("`{name}` cannot name a group"))
        .hint("letters, digits, `_`, `.` and `-`, the first one a letter or digit"))
}

fn needs(asked: Option<&'static str>) -> Result<&'static str, Fail> {
    asked.ok_or_else(|| {
        Fail::usage("no limit given").hint("such as --memory 4G, --cpus 2 or --pids 100")
    })
}

fn me() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Moves processes that run already.
fn classify(
    pids: &[i32],
    name: Option<&str>,
    asked: Option<&'static str>,
    settings: &[Setting],
) -> Result<u8> {
    for pid in pids {
        if *pid < 1 {
            return Err(Fail::usage(format!("--pid `{pid}` is no process")).into());
        }
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            return Err(Fail::not_found(format!("there is no process {pid}")).into());
        }
    }
    let group = match name {
        Some(name) if asked.is_some() => Some(named::set(name, needs(asked)?, settings)?),
        Some(name) => Some(named::find(name)?),
        None => None,
    };
    let mut group = group;
    for pid in pids {
        match &group {
            Some(group) => named::enter(group, *pid)?,
            None => group = Some(named::single(*pid, needs(asked)?, settings)?),
        }
    }
    Ok(0)
}

/// Becomes the program: its exit code, signals and streams are its own.
fn execute(program: &OsString, words: &[OsString]) -> anyhow::Error {
    let error = std::process::Command::new(program).args(words).exec();
    let shown = program.to_string_lossy();
    if error.kind() == ErrorKind::NotFound {
        return Fail::new(Kind::CommandNotFound, format!("`{shown}` was not found")).into();
    }
    anyhow::Error::from(error).context(Fail::new(
        Kind::NotExecutable,
        format!("`{shown}` cannot be executed"),
    ))
}

fn list(args: &ListArgs) -> Result<u8> {
    let groups = named::list();
    let mut out = output::stdout();
    if args.quiet {
        for group in groups {
            writeln!(out, "{}", group.name)?;
        }
    } else {
        let rows: Vec<Row> = groups.iter().map(row).collect();
        output::list(&mut out, &rows, &COLUMNS, args.format.as_deref())?;
    }
    out.flush()?;
    Ok(0)
}

/// The named groups as `rl top --cgroup` measures them.
#[must_use]
pub fn subjects() -> Vec<Subject> {
    let subject = |one: Named| Subject {
        id: one.path.display().to_string(),
        name: format!("limit:{}", one.name),
        process: None,
        group: Some(one.path),
        paused: false,
    };
    named::list().into_iter().map(subject).collect()
}

/// Its own limits: what bounds it from above is `stats`' and `info`'s.
fn row(named: &Named) -> Row {
    let usage = account::usage(&named.path);
    // The group's parent is the top: only its own bounds are found.
    let limits = account::limits(&named.path, &named.path);
    let unlimited = || "-".to_owned();
    let cells = [
        ("Name", named.name.clone()),
        ("Processes", count(named)),
        (
            "Memory",
            usage.memory.map_or(UNKNOWN.to_owned(), |memory| {
                output::binary_size(memory.used())
            }),
        ),
        (
            "MemoryLimit",
            limits
                .memory
                .map_or_else(unlimited, |bound| output::binary_size(bound.value)),
        ),
        (
            "CPULimit",
            limits
                .cpu
                .map_or_else(unlimited, |bound| processors(bound.value.millis())),
        ),
        (
            "PIDsLimit",
            limits
                .pids
                .map_or_else(unlimited, |bound| bound.value.to_string()),
        ),
        ("Cgroup", named.path.display().to_string()),
    ];
    let cells = cells.into_iter();
    cells
        .map(|(field, text)| (field.to_owned(), text.into()))
        .collect()
}

/// How many processes are in it and below.
fn count(named: &Named) -> String {
    fn all(group: &crate::cgroup::Group) -> Option<usize> {
        let own = group.processes().ok()?.len();
        Some(own + group.children().iter().filter_map(all).sum::<usize>())
    }
    let group = crate::cgroup::Group::open(&named.path).ok();
    group
        .and_then(|group| all(&group))
        .map_or(UNKNOWN.to_owned(), |count| count.to_string())
}

fn remove(args: &RemoveArgs) -> Result<u8> {
    let mut failures = Vec::new();
    for name in &args.names {
        match check_name(name)
            .map_err(Into::into)
            .and_then(|()| named::remove(name, args.force))
        {
            Ok(()) => output::print(name)?,
            Err(error) => failures.push(error),
        }
    }
    super::image::all_of(failures)
}
