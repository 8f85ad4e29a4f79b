//! `rl` where runc is expected: `rl runtime …`, or called `runc`, `crun` or `rl-runtime`.
//!
//! The front end only: a `config.json` becomes a [`crate::spec::ContainerSpec`], and `stage::exact` does what it says.
//! Commands, flags, exit codes and JSON are runc's; docs/runtime.md.

mod config;
mod devices;
mod exec;
mod groups;
mod lifecycle;
mod netdev;
mod owner;
mod processes;
mod show;
mod state;
mod templates;
mod translate;
mod update;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::error::{self, Fail, Kind};
use crate::stage::exact::parent::has_right;
use groups::Maker;

/// The names that make this program a runtime.
pub const NAMES: [&str; 3] = ["rl-runtime", "runc", "crun"];

/// The word after the program's name that does.
pub const WORD: &str = "runtime";

#[derive(Debug, Parser)]
#[command(
    name = "rl runtime",
    about = "Run OCI bundles as runc does",
    disable_version_flag = true,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
struct Cli {
    /// Write debug lines (accepted; errors and warnings say all there is)
    #[arg(long, global = true)]
    debug: bool,
    /// Write the log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The log's format: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: String,
    /// Keep the containers' state in this directory
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Program for checkpoints, which are not supported
    #[arg(long, value_name = "FILE", hide = true)]
    criu: Option<String>,
    /// Ask systemd for control groups; `cgroupsPath` is slice:prefix:name then
    #[arg(long)]
    systemd_cgroup: bool,
    /// Who makes control groups: cgroupfs, systemd or disabled
    #[arg(long, value_name = "WHO")]
    cgroup_manager: Option<String>,
    /// Do without a control group where none is allowed: true, false or auto
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    rootless: String,
    /// Print the version
    #[arg(short = 'v', long, short_alias = 'V')]
    version: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a container, up to its start
    Create(lifecycle::CreateArgs),
    /// Start the program of a container that was made
    Start {
        /// The container's id
        id: String,
    },
    /// Make a container and start it
    Run(lifecycle::RunArgs),
    /// Print the state of a container
    State {
        /// The container's id
        id: String,
    },
    /// Send a signal to a container's first process
    Kill {
        /// To all processes of the container
        #[arg(short, long)]
        all: bool,
        /// The container's id
        id: String,
        /// Its name or number
        #[arg(default_value = "SIGTERM")]
        signal: String,
    },
    /// Remove containers
    Delete {
        /// Kill them first; what is not there is no error
        #[arg(short, long)]
        force: bool,
        /// The containers' ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Run another program in a container
    Exec(exec::ExecArgs),
    /// List containers
    #[command(visible_alias = "ls")]
    List {
        /// table or json
        #[arg(short, long, default_value = "table")]
        format: String,
        /// Only ids
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show a container's processes
    Ps {
        /// table or json
        #[arg(short, long, default_value = "table")]
        format: String,
        /// The container's id
        id: String,
        /// Options of ps
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Stop all processes of a container for a while
    Pause {
        /// The container's id
        id: String,
    },
    /// Let them go on
    Resume {
        /// The container's id
        id: String,
    },
    /// Change limits
    Update(update::UpdateArgs),
    /// Print figures of a container
    Events {
        /// Once
        #[arg(long)]
        stats: bool,
        /// Time between two lines
        #[arg(long, default_value = "5s")]
        interval: String,
        /// The container's id
        id: String,
    },
    /// Write a configuration to begin with
    Spec {
        /// The bundle's directory
        #[arg(short, long, value_name = "DIR")]
        bundle: Option<PathBuf>,
        /// For who is not root
        #[arg(long)]
        rootless: bool,
    },
    /// Print what a configuration can ask for
    Features,
}

/// What holds for every command.
#[derive(Debug, Clone)]
pub struct Global {
    root: PathBuf,
    /// Who makes groups.
    pub maker: Maker,
    /// No group where none is allowed.
    pub tolerant: bool,
    /// The caller's terminal is the container's, where no socket is named.
    pub attended: bool,
    log: Option<PathBuf>,
    json: bool,
}

impl Global {
    /// The containers.
    #[must_use]
    pub fn store(&self) -> state::Store {
        state::Store::at(self.root.clone())
    }

    /// Says something that stops nothing.
    pub fn warn(&self, line: &str) {
        self.write("warning", line);
    }

    fn write(&self, level: &str, message: &str) {
        let time = crate::container::state::now();
        let line = if self.json {
            format!(
                "{}\n",
                serde_json::json!({"level": level, "msg": message, "time": time})
            )
        } else {
            let text = message.replace('\\', "\\\\").replace('"', "\\\"");
            format!("time=\"{time}\" level={level} msg=\"{text}\"\n")
        };
        let Some(path) = &self.log else {
            if level != "error" {
                let _ = std::io::stderr().write_all(line.as_bytes()); // nobody listens
            }
            return;
        };
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        // A log that cannot be written must not hide what it was about.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// The whole of it: `words` are behind the program's name.
#[must_use]
pub fn main(words: &[OsString]) -> ExitCode {
    let name = OsString::from("rl runtime");
    let cli = match Cli::try_parse_from([&[name], words].concat()) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // nobody listens
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    if cli.version {
        let text = format!(
            "rl-runtime version {}\nspec: {}\n",
            env!("CARGO_PKG_VERSION"),
            templates::SPEC
        );
        return match print(&text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let failure = match &cli.verb {
        // As runc: a program's own code cannot be told from 1 otherwise.
        Some(Verb::Exec(_)) => 255,
        _ => 1,
    };
    let global = match global(&cli) {
        Ok(global) => global,
        Err(fail) => return tell(&fail.into(), None, failure),
    };
    let Some(verb) = cli.verb else {
        return ExitCode::FAILURE;
    };
    match act(&verb, &global) {
        Ok(code) => ExitCode::from(code),
        Err(error) => tell(&error, Some(&global), failure),
    }
}

/// Says what went wrong to the log and to the caller.
fn tell(error: &anyhow::Error, global: Option<&Global>, code: u8) -> ExitCode {
    let mut fail = error::flatten(error);
    // What starts runtimes looks for these words, to choose between the codes 126 and 127.
    let words = match fail.kind {
        Kind::CommandNotFound => Some("executable file not found in $PATH"),
        Kind::NotExecutable => Some("permission denied"),
        Kind::Usage
        | Kind::NotFound
        | Kind::Conflict
        | Kind::Denied
        | Kind::Unsupported
        | Kind::Network
        | Kind::Corrupt
        | Kind::System => None,
    };
    if let Some(words) = words.filter(|words| !fail.message.contains(words)) {
        fail.message = format!("{words}: {}", fail.message);
    }
    if let Some(global) = global {
        global.write("error", &fail.message);
    }
    let text = format!("{}\n", error::report(&fail.into()));
    let _ = std::io::stderr().write_all(text.as_bytes()); // nobody listens
    ExitCode::from(code)
}

fn global(cli: &Cli) -> Result<Global, Fail> {
    let json = match cli.log_format.as_str() {
        "text" => false,
        "json" => true,
        other => {
            return Err(Fail::usage(format!(
                "invalid log-format `{other}`: text or json"
            )));
        }
    };
    let maker = match cli.cgroup_manager.as_deref() {
        None if cli.systemd_cgroup => Maker::Systemd,
        None | Some("cgroupfs") => Maker::Files,
        Some("systemd") => Maker::Systemd,
        Some("disabled") => Maker::Nobody,
        Some(other) => {
            return Err(Fail::usage(format!(
                "--cgroup-manager: `{other}` is not one of cgroupfs, systemd, disabled"
            )));
        }
    };
    let tolerant = match cli.rootless.as_str() {
        "true" => true,
        "false" => false,
        "auto" | "" => !is_real_root(),
        other => {
            return Err(Fail::usage(format!(
                "--rootless: `{other}` is not one of true, false, auto"
            )));
        }
    };
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(Global {
        root: cli.root.as_deref().map_or_else(default_root, absolute),
        maker,
        tolerant,
        attended: false,
        log: cli.log.as_deref().map(absolute),
        json,
    })
}

/// Whether this is the first user namespace, where root is root.
fn has_all_ids() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|text| {
        let words: Vec<&str> = text.split_whitespace().collect();
        words == ["0", "0", "4294967295"]
    })
}

/// Whether this process is root of the machine, not of a user namespace.
fn is_real_root() -> bool {
    rustix::process::geteuid().is_root() && has_all_ids()
}

/// As runc's: the runtime directory of a user, also of one who is root of a user namespace.
fn default_root() -> PathBuf {
    let own = is_real_root();
    let dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !own && !dir.is_empty());
    match dir {
        Some(dir) => PathBuf::from(dir).join("rl-runtime"),
        None if own => PathBuf::from("/run/rl-runtime"),
        None => PathBuf::from(format!(
            "/tmp/rl-runtime-{}",
            rustix::process::geteuid().as_raw()
        )),
    }
}

/// What of this machine decides whether a configuration can be had.
fn rights() -> config::Rights {
    /// `CAP_SYS_ADMIN` of linux/capability.h.
    const SYS_ADMIN: u8 = 21;
    let says = |path: &str| std::fs::read_to_string(path).unwrap_or_default(); // not there: not enforced
    config::Rights {
        admin: has_right(SYS_ADMIN),
        apparmor: says("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
    }
}

fn act(verb: &Verb, global: &Global) -> Result<u8> {
    match verb {
        Verb::Create(lifecycle::CreateArgs { id, .. })
        | Verb::Run(lifecycle::RunArgs {
            create: lifecycle::CreateArgs { id, .. },
            ..
        }) => owner::makes(&global.root, id)?,
        Verb::Start { id }
        | Verb::State { id }
        | Verb::Kill { id, .. }
        | Verb::Exec(exec::ExecArgs { id, .. })
        | Verb::Ps { id, .. }
        | Verb::Pause { id }
        | Verb::Resume { id }
        | Verb::Update(update::UpdateArgs { id, .. })
        | Verb::Events { id, .. } => owner::touches(&global.root, Some(id))?,
        Verb::List { .. } => owner::touches(&global.root, None)?,
        // Each of several, below.
        Verb::Delete { .. } | Verb::Spec { .. } | Verb::Features => {}
    }
    match verb {
        Verb::Create(args) => lifecycle::create(args, global)?,
        Verb::Start { id } => lifecycle::start(id, global)?,
        Verb::Run(args) => return lifecycle::run(args, global),
        Verb::State { id } => show::state(id, global)?,
        Verb::Kill { all, id, signal } => lifecycle::kill(id, signal, *all, global)?,
        Verb::Delete { force, ids } => {
            for id in ids {
                owner::touches(&global.root, Some(id))?;
                lifecycle::delete(id, *force, global)?;
            }
        }
        Verb::Exec(args) => return exec::exec(args, global),
        Verb::List { format, quiet } => show::list(format, *quiet, global)?,
        Verb::Ps {
            format,
            id,
            options,
        } => show::ps(id, format, options, global)?,
        Verb::Pause { id } => lifecycle::freeze(id, true, global)?,
        Verb::Resume { id } => lifecycle::freeze(id, false, global)?,
        Verb::Update(args) => update::update(args, global)?,
        Verb::Events {
            stats,
            interval,
            id,
        } => show::events(id, *stats, seconds(interval)?, global)?,
        Verb::Spec { bundle, rootless } => templates::spec(bundle.as_deref(), *rootless)?,
        Verb::Features => templates::features()?,
    }
    Ok(0)
}

/// A duration as Go writes it: `5s`, `500ms`, `1m`.
fn seconds(text: &str) -> Result<Duration, Fail> {
    let wrong = || {
        Fail::usage(format!(
            "--interval: `{text}` is no time such as 5s or 500ms"
        ))
    };
    let at = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .ok_or_else(wrong)?;
    let number: f64 = text[..at].parse().map_err(|_| wrong())?;
    let factor = match &text[at..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|_| wrong())
}

/// Writes to standard output.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("writing to standard output")
}
