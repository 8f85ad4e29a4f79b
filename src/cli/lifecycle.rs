//! `create start stop restart kill rm wait attach`: docker's words for what happens to containers.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::image::all_of;
use super::output;
use super::progress::say;
use super::run::resources::{ResourceArgs, resources};
use super::run::{RunArgs, another_name, life, made};
use crate::cgroup;
use crate::container::events::Event;
use crate::container::group;
use crate::container::lifecycle::{self, Force, Start, Volumes};
use crate::container::record::{self, Record};
use crate::container::state::Status;
use crate::container::watch::{self, Left, Watch};
use crate::container::{self, RunOptions};
use crate::error::Fail;
use crate::idmap::{self, Available};
use crate::paths::Store;
use crate::spec::UserNs;
use crate::sys;

/// Containers by name or id.
#[derive(Debug, clap::Args)]
pub struct Names {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `rl start`.
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    /// Show its output and pass signals on
    #[arg(short, long)]
    pub attach: bool,

    /// Pass on what is typed
    #[arg(short, long)]
    pub interactive: bool,

    /// Keys that leave a container that has a terminal
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,

    /// Which
    #[command(flatten)]
    pub names: Names,
}

/// `rl stop` and `rl restart`.
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// Send this signal first
    #[arg(short, long, value_name = "SIGNAL")]
    pub signal: Option<String>,

    /// Kill it after so many seconds; -1 waits for ever
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    pub time: Option<i64>,

    /// Which
    #[command(flatten)]
    pub names: Names,
}

/// `rl kill`.
#[derive(Debug, clap::Args)]
pub struct KillArgs {
    /// Which signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: String,

    /// Which
    #[command(flatten)]
    pub names: Names,
}

/// `rl update`.
#[derive(Debug, clap::Args)]
pub struct UpdateArgs {
    /// How much they get.
    #[command(flatten)]
    pub resources: ResourceArgs,

    /// Start them again when they end: no, on-failure, on-failure:N, always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<String>,

    /// Which
    #[command(flatten)]
    pub names: Names,
}

/// `rl rm`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// Kill it first when it runs
    #[arg(short, long)]
    pub force: bool,

    /// Remove its anonymous volumes too
    #[arg(short, long)]
    pub volumes: bool,

    /// Which
    #[command(flatten)]
    pub names: Names,
}

/// `rl attach`.
#[derive(Debug, clap::Args)]
pub struct AttachArgs {
    /// Keys that leave a container that has a terminal
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,

    /// Do not pass on what is typed
    #[arg(long)]
    pub no_stdin: bool,

    /// Pass signals on to the program
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub sig_proxy: bool,

    /// Which
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

fn announce(line: &str) {
    say(&format!("rl: {line}"));
}

/// What earlier commands could not finish because they were killed.
fn sweep(store: &Store) {
    cgroup::life::sweep(cgroup::life::LITTER);
    if !record::wants_sweep(store) {
        return;
    }
    let available = Available::of(store);
    // Where ids cannot be mapped, the next command may do better.
    if let Ok((plan, _)) = idmap::plan(&UserNs::Auto, &available) {
        record::sweep(store, &plan, available.helpers.as_ref().ok());
    }
}

/// `rl run` of what has a monitor: with `-d` prints the id, else shows the output until the program ends.
///
/// # Errors
/// What keeps it from starting.
pub fn run(args: &RunArgs, store: &Store) -> Result<u8> {
    sweep(store);
    let mut spec = made(args, store)?;
    spec.detached = true;
    let options = RunOptions {
        cidfile: args.cidfile.clone(),
        pidfile: None,
        sig_proxy: args.sig_proxy,
        another_name: another_name(args),
    };
    let keys = life::detach_keys(args.detach_keys.as_deref())?;
    let how = Watch {
        tty: spec.process.tty,
        input: spec.process.interactive,
        sig_proxy: args.sig_proxy,
        detach_keys: keys,
    };
    let (id, name) = (spec.id.clone(), spec.name.clone());
    let (record, lock) = container::create(store, spec, &options, &mut announce)?;
    let (here, there) = UnixStream::pair().context("making a socket pair")?;
    let watcher = (!args.detach).then_some(&there);
    let started = lifecycle::start_locked(&record, &lock, watcher, &mut announce);
    drop((lock, there));
    if let Err(error) = started {
        // Docker leaves a container that never ran; its name would be in the way of the next try.
        lifecycle::remove(&record, Force::Yes, Volumes::Remove)
            .with_context(|| format!("removing `{name}`, which did not start"))?;
        return Err(error);
    }
    if let Some(path) = &args.pidfile {
        let pid = record
            .state()?
            .process
            .map(|process| process.pid)
            .unwrap_or_default();
        container::write_new(path, &pid.to_string())?;
    }
    if args.detach {
        output::print(&id)?;
        return Ok(0);
    }
    left(watch::watch(&record, here, &how)?)
}

fn left(left: Left) -> Result<u8> {
    match left {
        Left::Ended(code) => Ok(code),
        Left::Detached => Ok(0),
    }
}

/// `rl create`.
///
/// # Errors
/// What is wrong with it.
pub fn create(args: &RunArgs, store: &Store) -> Result<u8> {
    sweep(store);
    let mut spec = made(args, store)?;
    spec.detached = true;
    let id = spec.id.clone();
    let options = RunOptions {
        cidfile: args.cidfile.clone(),
        pidfile: None,
        sig_proxy: false,
        another_name: another_name(args),
    };
    drop(container::create(store, spec, &options, &mut announce)?);
    output::print(&id)?;
    Ok(0)
}

/// `rl start`.
///
/// # Errors
/// Of the containers that do not start.
pub fn start(args: &StartArgs, store: &Store) -> Result<u8> {
    if args.attach || args.interactive {
        let [name] = args.names.containers.as_slice() else {
            return Err(Fail::usage("-a and -i take one container")
                .hint("start the others without them")
                .into());
        };
        return start_and_watch(args, name, store);
    }
    each(&args.names, store, |record, name| {
        lifecycle::start(record, None, &mut announce)?;
        output::print(name)
    })
}

fn start_and_watch(args: &StartArgs, name: &str, store: &Store) -> Result<u8> {
    let record = Record::find(store, name)?;
    let spec = record.spec()?;
    let how = Watch {
        tty: spec.process.tty,
        input: args.interactive && spec.process.interactive,
        sig_proxy: true,
        detach_keys: life::detach_keys(args.detach_keys.as_deref())?,
    };
    let (here, there) = UnixStream::pair().context("making a socket pair")?;
    let started = lifecycle::start(&record, Some(&there), &mut announce)?;
    drop(there);
    let stream = if started == Start::Running {
        watch::connect(&record, name)?
    } else {
        here
    };
    left(watch::watch(&record, stream, &how)?)
}

/// `rl stop`.
///
/// # Errors
/// Of the containers that cannot be stopped.
pub fn stop(args: &StopArgs, store: &Store) -> Result<u8> {
    let signal = args.signal.as_deref().map(signal).transpose()?;
    each(&args.names, store, |record, name| {
        lifecycle::stop(record, signal, timeout(args, record)?)?;
        output::print(name)
    })
}

/// `rl restart`.
///
/// # Errors
/// Of the containers that cannot be restarted.
pub fn restart(args: &StopArgs, store: &Store) -> Result<u8> {
    let signal = args.signal.as_deref().map(signal).transpose()?;
    each(&args.names, store, |record, name| {
        lifecycle::stop(record, signal, timeout(args, record)?)?;
        lifecycle::start(record, None, &mut announce)?;
        container::emit(store, &Event::container("restart", &record.spec()?));
        output::print(name)
    })
}

fn timeout(args: &StopArgs, record: &Record) -> Result<Option<Duration>> {
    let seconds = match args.time {
        Some(seconds) => seconds,
        None => i64::from(record.spec()?.stop_timeout_s),
    };
    Ok(u64::try_from(seconds).ok().map(Duration::from_secs))
}

fn signal(text: &str) -> Result<i32, Fail> {
    sys::signal::number(text).ok_or_else(|| {
        Fail::usage(format!("`{text}` is not a signal"))
            .hint("give a name such as SIGINT, or a number from 1 to 64")
    })
}

/// `rl kill`.
///
/// # Errors
/// Of the containers that do not run.
pub fn kill(args: &KillArgs, store: &Store) -> Result<u8> {
    let signal = signal(&args.signal)?;
    each(&args.names, store, |record, name| {
        lifecycle::kill(record, signal)?;
        output::print(name)
    })
}

/// `rl rm`.
///
/// # Errors
/// Of the containers that cannot be removed.
pub fn remove(args: &RemoveArgs, store: &Store) -> Result<u8> {
    let force = if args.force { Force::Yes } else { Force::No };
    let volumes = if args.volumes {
        Volumes::Remove
    } else {
        Volumes::Keep
    };
    sweep(store);
    let mut failures = Vec::new();
    for name in &args.names.containers {
        let removed = match Record::find(store, name) {
            // Docker's -f is content when there is nothing to remove.
            Err(error)
                if args.force && crate::error::kind(&error) == crate::error::Kind::NotFound =>
            {
                continue;
            }
            found => found.and_then(|record| lifecycle::remove(&record, force, volumes)),
        };
        match removed {
            Ok(()) => output::print(name)?,
            Err(error) => failures.push(error),
        }
    }
    all_of(failures)
}

/// `rl pause`.
///
/// # Errors
/// Of the containers that do not run, or can have no group.
pub fn pause(args: &Names, store: &Store) -> Result<u8> {
    each(args, store, |record, name| {
        group::pause(record)?;
        output::print(name)
    })
}

/// `rl unpause`.
///
/// # Errors
/// Of the containers that are not paused.
pub fn unpause(args: &Names, store: &Store) -> Result<u8> {
    each(args, store, |record, name| {
        group::unpause(record)?;
        output::print(name)
    })
}

/// `rl update`.
///
/// # Errors
/// What makes no sense; of the containers that cannot have it.
pub fn update(args: &UpdateArgs, store: &Store) -> Result<u8> {
    let change = resources(&args.resources)?;
    let restart = args.restart.as_deref().map(life::restart).transpose()?;
    if change.is_empty() && restart.is_none() {
        return Err(Fail::usage("nothing to change is named")
            .hint("such as rl update --memory 1g NAME")
            .into());
    }
    each(&args.names, store, |record, name| {
        group::update(record, &change, restart, &mut announce)?;
        output::print(name)
    })
}

/// `rl wait`.
///
/// # Errors
/// Of the containers that are not there.
pub fn wait(args: &Names, store: &Store) -> Result<u8> {
    each(args, store, |record, _| {
        let code = lifecycle::wait(record)?;
        output::print(&code.to_string())
    })
}

/// `rl attach`.
///
/// # Errors
/// When it does not run, or has no monitor.
pub fn attach(args: &AttachArgs, store: &Store) -> Result<u8> {
    let record = Record::find(store, &args.container)?;
    let spec = record.spec()?;
    if record.state()?.status != Status::Running {
        let name = &spec.name;
        return Err(Fail::conflict(format!("container `{name}` is not running"))
            .hint(format!("start it and attach: rl start -a {name}"))
            .into());
    }
    let input = !args.no_stdin && spec.process.interactive;
    life::check_terminal(spec.process.tty, input)?;
    let how = Watch {
        tty: spec.process.tty,
        input,
        sig_proxy: args.sig_proxy,
        detach_keys: life::detach_keys(args.detach_keys.as_deref())?,
    };
    let stream = watch::connect(&record, &spec.name)?;
    left(watch::watch(&record, stream, &how)?)
}

/// Does it to each, in order; what failed is reported when all have had their turn.
fn each(
    names: &Names,
    store: &Store,
    mut act: impl FnMut(&Record, &str) -> Result<()>,
) -> Result<u8> {
    let mut failures = Vec::new();
    for name in &names.containers {
        if let Err(error) = Record::find(store, name).and_then(|record| act(&record, name)) {
            failures.push(error);
        }
    }
    all_of(failures)
}
