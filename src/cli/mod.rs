//! The command line: one clap tree, and which function each verb calls.
//!
//! Only `cli` prints. Parsing never acts.

mod autostart;
mod check;
mod commit;
mod config;
mod container;
mod convert;
mod copy;
mod doctor;
mod events;
mod exec;
mod files;
mod history;
mod image;
mod images;
mod inspect;
pub mod job;
mod lifecycle;
mod limit;
mod login;
mod logs;
mod manifest;
mod network;
mod output;
mod port;
mod progress;
mod prompt;
mod ps;
mod push;
mod registry;
pub mod run;
mod save;
mod screen;
mod shared;
mod space;
mod stats;
mod system;
mod template;
mod times;
mod transport;
mod volume;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::{ContextKind, ErrorKind};
use clap::{ArgAction, Args as _, CommandFactory as _, FromArgMatches as _};

use crate::error::{self, Fail};
use crate::paths::Store;

/// 128 + SIGPIPE: what a program that is killed by a closed pipe leaves.
const CLOSED_PIPE: u8 = 141;

/// Containers without root and without a daemon
#[derive(Debug, clap::Parser)]
#[command(
    name = "rl",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What every verb has.
    #[command(flatten)]
    pub shared: Shared,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags before the verb.
#[derive(Debug, clap::Args)]
pub struct Shared {
    /// Keep images and containers below this directory
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// The verbs.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a program in a new container
    #[command(
        disable_help_flag = true,
        override_usage = "rl run [OPTIONS] IMAGE [COMMAND…]\n       rl run [OPTIONS] --rootfs DIR [COMMAND…]"
    )]
    Run(Box<run::RunArgs>),
    /// Make a container without starting it
    #[command(
        disable_help_flag = true,
        override_usage = "rl create [OPTIONS] IMAGE [COMMAND…]"
    )]
    Create(Box<run::RunArgs>),
    /// Start containers
    Start(lifecycle::StartArgs),
    /// Ask containers to end, and kill those that do not
    Stop(lifecycle::StopArgs),
    /// Stop containers and start them again
    Restart(lifecycle::StopArgs),
    /// Send a signal to containers
    Kill(lifecycle::KillArgs),
    /// Stop all processes of containers where they stand
    Pause(lifecycle::Names),
    /// Let paused containers go on
    Unpause(lifecycle::Names),
    /// Change what containers get, while they run and for later starts
    Update(Box<lifecycle::UpdateArgs>),
    /// Remove containers
    Rm(lifecycle::RemoveArgs),
    /// Wait until containers end, and print their exit codes
    Wait(lifecycle::Names),
    /// Watch a running container and type into it
    Attach(lifecycle::AttachArgs),
    /// Show what a container has said
    Logs(logs::LogsArgs),
    /// Show what happens, while it happens
    Events(events::EventsArgs),
    /// Run a program in a running container
    #[command(override_usage = "rl exec [OPTIONS] CONTAINER COMMAND…")]
    Exec(exec::ExecArgs),
    /// List what a container has changed: A added, C changed, D deleted
    Diff(files::DiffArgs),
    /// Write the whole tree of a container as a tar
    Export(files::ExportArgs),
    /// Copy files between a container and the host
    #[command(
        override_usage = "rl cp [OPTIONS] CONTAINER:SRC DEST|-\n       rl cp [OPTIONS] SRC|- CONTAINER:DEST"
    )]
    Cp(copy::CopyArgs),
    /// Make an image from what a container has changed
    Commit(commit::CommitArgs),
    /// Fetch images from their registries
    Pull(image::PullArgs),
    /// Bring an image to a registry
    Push(push::PushArgs),
    /// Log in to a registry
    Login(login::LoginArgs),
    /// Forget the login for a registry
    Logout(login::LogoutArgs),
    /// Search a registry for images
    Search(registry::SearchArgs),
    /// List images
    Images(images::ListArgs),
    /// Remove images
    Rmi(image::RemoveArgs),
    /// Load images from an archive or a directory: docker's or OCI's, compressed or not
    Load(image::LoadArgs),
    /// Write images into an archive or a directory
    Save(save::SaveArgs),
    /// Make an image from the tar of a root file system
    Import(image::ImportArgs),
    /// Give an image one more name
    Tag(image::TagArgs),
    /// Take names away from an image
    Untag(image::UntagArgs),
    /// Show how an image came about
    History(history::HistoryArgs),
    /// Show everything about containers and images
    Inspect(inspect::InspectArgs),
    /// List containers
    Ps(ps::ListArgs),
    /// Show the processes of a container
    Top(container::TopArgs),
    /// Show which ports of the host lead to a container
    Port(port::PortArgs),
    /// Show what containers use, while they run
    Stats(stats::StatsArgs),
    /// Run programs of the host under limits, and make groups for them
    #[command(
        override_usage = "rl limit LIMITS -- PROGRAM…\n       rl limit NAME LIMITS\n       rl limit --in NAME -- PROGRAM…\n       rl limit --pid PID [NAME] [LIMITS]\n       rl limit ls | rm"
    )]
    Limit(Box<limit::LimitArgs>),
    /// Give a container another name
    Rename(container::RenameArgs),
    /// Check whether a container is well
    #[command(subcommand, arg_required_else_help = true)]
    Healthcheck(HealthCommand),
    /// Work with containers
    #[command(subcommand, arg_required_else_help = true)]
    Container(ContainerCommand),
    /// Work with images
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageCommand),
    /// Work with lists of images, one for each platform
    #[command(subcommand, arg_required_else_help = true)]
    Manifest(ManifestCommand),
    /// Work with named networks, on which containers find each other
    #[command(subcommand, arg_required_else_help = true)]
    Network(NetworkCommand),
    /// Work with volumes, which outlive containers
    #[command(subcommand, arg_required_else_help = true)]
    Volume(VolumeCommand),
    /// Show the version
    Version(system::FormatArgs),
    /// Show what `rl` has and uses here
    Info(system::FormatArgs),
    /// Find out what this machine allows, and what would help
    Doctor(doctor::DoctorArgs),
    /// Run OCI bundles as runc does
    #[command(disable_help_flag = true)]
    Runtime {
        /// Its commands and flags: rl runtime --help
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "WORD"
        )]
        words: Vec<std::ffi::OsString>,
    },
    /// Explain the code of a message
    Explain(doctor::ExplainArgs),
    /// Print a completion script for a shell
    Completion(system::CompletionArgs),
    /// Work with all that rl has
    #[command(subcommand, arg_required_else_help = true)]
    System(SystemCommand),
    /// Make files for other programs
    #[command(subcommand, arg_required_else_help = true)]
    Generate(GenerateCommand),
}

/// The verbs of `rl healthcheck`.
#[derive(Debug, clap::Subcommand)]
pub enum HealthCommand {
    /// Check now; the exit code is 0 when it is well, else 1
    Run(container::HealthArgs),
}

/// The verbs of `rl system`.
#[derive(Debug, clap::Subcommand)]
pub enum SystemCommand {
    /// Look whether all that rl has is whole; the exit code is 1 when it is not
    Check(check::CheckArgs),
    /// Show what the disk is used for
    Df(space::DfArgs),
    /// Remove containers that do not run, and images that nobody uses
    Prune(space::PruneArgs),
    /// Remove everything: containers, images and volumes
    Reset(space::ResetArgs),
    /// Start the containers that are to run always, or unless they were stopped
    Autostart(autostart::AutostartArgs),
}

/// The verbs of `rl generate`.
#[derive(Debug, clap::Subcommand)]
pub enum GenerateCommand {
    /// Write a manual page for every command into a directory
    Man(system::ManArgs),
    /// Print a systemd unit that starts a container at every boot
    Systemd(autostart::SystemdArgs),
}

/// The verbs of `rl container`.
#[derive(Debug, clap::Subcommand)]
pub enum ContainerCommand {
    /// List containers
    #[command(alias = "list", alias = "ps")]
    Ls(ps::ListArgs),
    /// Show everything about containers
    Inspect(inspect::InspectArgs),
    /// Show the processes of a container
    Top(container::TopArgs),
    /// Show which ports of the host lead to a container
    Port(port::PortArgs),
    /// Show what containers use, while they run
    Stats(stats::StatsArgs),
    /// Give a container another name
    Rename(container::RenameArgs),
    /// Copy files between a container and the host
    Cp(copy::CopyArgs),
    /// Make an image from what a container has changed
    Commit(commit::CommitArgs),
    /// Stop all processes of containers where they stand
    Pause(lifecycle::Names),
    /// Let paused containers go on
    Unpause(lifecycle::Names),
    /// Change what containers get, while they run and for later starts
    Update(Box<lifecycle::UpdateArgs>),
    /// Remove all containers that do not run
    Prune(container::PruneArgs),
}

/// The verbs of `rl network`.
#[derive(Debug, clap::Subcommand)]
pub enum NetworkCommand {
    /// Make a network
    Create(network::CreateArgs),
    /// List networks
    #[command(alias = "list")]
    Ls(network::ListArgs),
    /// Show everything about networks
    Inspect(network::InspectArgs),
    /// Remove networks
    #[command(alias = "remove")]
    Rm(network::RemoveArgs),
    /// Remove all networks that no container has
    Prune(network::PruneArgs),
    /// Put a container on one more network
    Connect(network::ConnectArgs),
    /// Take a container off a network
    Disconnect(network::DisconnectArgs),
}

/// The verbs of `rl volume`.
#[derive(Debug, clap::Subcommand)]
pub enum VolumeCommand {
    /// Make a volume; one of that name stays as it is
    Create(volume::CreateArgs),
    /// List volumes
    #[command(alias = "list")]
    Ls(volume::ListArgs),
    /// Show everything about volumes
    Inspect(volume::InspectArgs),
    /// Remove volumes that no container has
    #[command(alias = "remove")]
    Rm(volume::RemoveArgs),
    /// Remove all volumes without a name that no container has
    Prune(volume::PruneArgs),
}

/// The verbs of `rl manifest`.
#[derive(Debug, clap::Subcommand)]
pub enum ManifestCommand {
    /// Make a list
    Create(manifest::CreateArgs),
    /// Add images to a list
    Add(manifest::AddArgs),
    /// Say something else of an image in a list
    Annotate(manifest::AnnotateArgs),
    /// Take an image out of a list
    Remove(manifest::TakeArgs),
    /// Show a list, or what a registry has under a name
    Inspect(manifest::InspectArgs),
    /// Bring a list with its images to a registry
    Push(manifest::PushArgs),
    /// Remove lists; their images stay
    Rm(manifest::Names),
    /// Say by the exit code whether there is such a list: 0 or 1
    Exists(manifest::ExistsArgs),
    /// List the lists
    #[command(alias = "list")]
    Ls,
}

/// The verbs of `rl image`.
#[derive(Debug, clap::Subcommand)]
pub enum ImageCommand {
    /// List images
    #[command(alias = "list")]
    Ls(images::ListArgs),
    /// Remove images
    #[command(alias = "remove")]
    Rm(image::RemoveArgs),
    /// Fetch images from their registries
    Pull(image::PullArgs),
    /// Bring an image to a registry
    Push(push::PushArgs),
    /// List the tags that a registry has of an image
    LsRemote(registry::TagsArgs),
    /// Load images from an archive or a directory: docker's or OCI's, compressed or not
    Load(image::LoadArgs),
    /// Write images into an archive or a directory
    Save(save::SaveArgs),
    /// Make an image from the tar of a root file system
    Import(image::ImportArgs),
    /// Write an image as one squashfs file, to be run where it lies: rl run ./FILE
    Convert(convert::ConvertArgs),
    /// Put images into a directory that many users run them from
    Share(shared::ShareArgs),
    /// Show everything about an image
    Inspect(inspect::InspectArgs),
    /// Give an image one more name
    Tag(image::TagArgs),
    /// Take names away from an image
    Untag(image::UntagArgs),
    /// Show how an image came about
    History(history::HistoryArgs),
    /// Remove images that have no name, or that no container uses
    Prune(space::ImagePruneArgs),
}

/// The command: reads `words`, the first being `rl` itself, acts, and reports what went wrong, once.
#[must_use]
pub fn main(words: &[OsString]) -> ExitCode {
    let result = match words.get(1).and_then(|word| word.to_str()) {
        // Before the tree is built: scripts ask this often.
        Some("--version" | "-V" | "-v") => version(),
        _ => parse(words)
            .map_err(|error| usage(&error, words))
            .and_then(|parsed| match parsed {
                Parsed::Cli(cli) => dispatch(&cli),
                Parsed::Text(text) => output::write_all(&text).map(|()| 0),
            }),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) if output::is_closed(&error) => ExitCode::from(CLOSED_PIPE),
        Err(error) => {
            progress::say(&explained(&error, words));
            ExitCode::from(error::kind(&error).exit_code())
        }
    }
}

/// What went wrong, with what this machine has to do with it. A failed `doctor` has said that itself.
fn explained(error: &anyhow::Error, words: &[OsString]) -> String {
    let store = match parse(words) {
        Ok(Parsed::Cli(cli)) => Store::locate(cli.shared.root).ok(),
        Ok(Parsed::Text(_)) | Err(_) => None,
    };
    let found = store.and_then(|store| crate::doctor::look_again(&error::flatten(error), &store));
    match found {
        Some(check) => doctor::report(error, &check),
        None => error::report(error),
    }
}

fn version() -> Result<u8> {
    output::print(concat!("rl version ", env!("CARGO_PKG_VERSION")))?;
    Ok(0)
}

fn dispatch(cli: &Cli) -> Result<u8> {
    use Command as C;
    use ContainerCommand as N;
    use ImageCommand as I;
    use ManifestCommand as M;
    use NetworkCommand as W;
    use VolumeCommand as V;
    use inspect::Kind;
    let store = || {
        let store = Store::locate(cli.shared.root.clone())?;
        // Once, when it is about to be made.
        if let Some(why) = store.instead().filter(|_| !store.root().exists()) {
            let code = why.code.as_deref().unwrap_or_default();
            let root = store.root().display();
            progress::say(&format!(
                "rl: {}: keeping images and containers in `{root}` (rl explain {code})",
                why.message
            ));
        }
        anyhow::Ok(store)
    };
    match &cli.command {
        C::Run(args) => run::run(args, &store()?),
        C::System(SystemCommand::Df(args)) => space::df(args, &store()?),
        C::System(SystemCommand::Prune(args)) => space::prune(args, &store()?),
        C::System(SystemCommand::Reset(args)) => space::reset(args, &store()?),
        C::Image(I::Prune(args)) => space::prune_images(args, &store()?),
        C::Untag(args) | C::Image(I::Untag(args)) => image::untag(args, &store()?),
        C::History(args) | C::Image(I::History(args)) => history::history(args, &store()?),
        C::System(SystemCommand::Autostart(args)) => autostart::autostart(args, &store()?),
        C::System(SystemCommand::Check(args)) => check::check(args, &store()?),
        C::Healthcheck(HealthCommand::Run(args)) => container::check_health(args, &store()?),
        C::Generate(GenerateCommand::Man(args)) => system::man(args),
        C::Generate(GenerateCommand::Systemd(args)) => autostart::systemd(args, &store()?),
        C::Create(args) => lifecycle::create(args, &store()?),
        C::Start(args) => lifecycle::start(args, &store()?),
        C::Stop(args) => lifecycle::stop(args, &store()?),
        C::Restart(args) => lifecycle::restart(args, &store()?),
        C::Kill(args) => lifecycle::kill(args, &store()?),
        C::Rm(args) => lifecycle::remove(args, &store()?),
        C::Pause(args) | C::Container(N::Pause(args)) => lifecycle::pause(args, &store()?),
        C::Unpause(args) | C::Container(N::Unpause(args)) => lifecycle::unpause(args, &store()?),
        C::Update(args) | C::Container(N::Update(args)) => lifecycle::update(args, &store()?),
        C::Wait(args) => lifecycle::wait(args, &store()?),
        C::Attach(args) => lifecycle::attach(args, &store()?),
        C::Logs(args) => logs::logs(args, &store()?),
        C::Events(args) => events::events(args, &store()?),
        C::Exec(args) => exec::exec(args, &store()?),
        C::Diff(args) => files::diff(args, &store()?),
        C::Export(args) => files::export(args, &store()?),
        C::Cp(args) | C::Container(N::Cp(args)) => copy::copy(args, &store()?),
        C::Commit(args) | C::Container(N::Commit(args)) => commit::commit(args, &store()?),
        C::Pull(args) | C::Image(I::Pull(args)) => image::pull(args, &store()?),
        C::Push(args) | C::Image(I::Push(args)) => push::push(args, &store()?),
        C::Login(args) => login::login(args),
        C::Logout(args) => login::logout(args),
        C::Search(args) => registry::search(args),
        C::Image(I::LsRemote(args)) => registry::tags(args),
        C::Images(args) | C::Image(I::Ls(args)) => images::list(args, &store()?),
        C::Rmi(args) | C::Image(I::Rm(args)) => image::remove(args, &store()?),
        C::Load(args) | C::Image(I::Load(args)) => image::load(args, &store()?),
        C::Save(args) | C::Image(I::Save(args)) => save::save(args, &store()?),
        C::Import(args) | C::Image(I::Import(args)) => image::import(args, &store()?),
        C::Image(I::Convert(args)) => convert::convert(args, &store()?),
        C::Image(I::Share(args)) => shared::share(args, &store()?),
        C::Tag(args) | C::Image(I::Tag(args)) => image::tag(args, &store()?),
        C::Inspect(args) => inspect::inspect(args, None, &store()?),
        C::Image(I::Inspect(args)) => inspect::inspect(args, Some(Kind::Image), &store()?),
        C::Container(N::Inspect(args)) => inspect::inspect(args, Some(Kind::Container), &store()?),
        C::Ps(args) | C::Container(N::Ls(args)) => ps::list(args, &store()?),
        C::Top(args) | C::Container(N::Top(args)) => container::top(args, &store()?),
        C::Port(args) | C::Container(N::Port(args)) => port::port(args, &store()?),
        C::Stats(args) | C::Container(N::Stats(args)) => stats::stats(args, &store()?),
        C::Limit(args) => limit::limit(args),
        C::Rename(args) | C::Container(N::Rename(args)) => container::rename(args, &store()?),
        C::Container(N::Prune(args)) => container::prune(args, &store()?),
        C::Manifest(M::Create(args)) => manifest::create(args, &store()?),
        C::Manifest(M::Add(args)) => manifest::add(args, &store()?),
        C::Manifest(M::Annotate(args)) => manifest::annotate(args, &store()?),
        C::Manifest(M::Remove(args)) => manifest::take(args, &store()?),
        C::Manifest(M::Inspect(args)) => manifest::inspect(args, &store()?),
        C::Manifest(M::Push(args)) => manifest::push(args, &store()?),
        C::Manifest(M::Rm(args)) => manifest::remove(args, &store()?),
        C::Manifest(M::Exists(args)) => manifest::exists(args, &store()?),
        C::Manifest(M::Ls) => manifest::ls(&store()?),
        C::Network(W::Create(args)) => network::create(args, &store()?),
        C::Network(W::Ls(args)) => network::list(args, &store()?),
        C::Network(W::Inspect(args)) => network::inspect(args, &store()?),
        C::Network(W::Rm(args)) => network::remove(args, &store()?),
        C::Network(W::Prune(args)) => network::prune(args, &store()?),
        C::Network(W::Connect(args)) => network::connect(args, &store()?),
        C::Network(W::Disconnect(args)) => network::disconnect(args, &store()?),
        C::Volume(V::Create(args)) => volume::create(args, &store()?),
        C::Volume(V::Ls(args)) => volume::list(args, &store()?),
        C::Volume(V::Inspect(args)) => volume::inspect(args, &store()?),
        C::Volume(V::Rm(args)) => volume::remove(args, &store()?),
        C::Volume(V::Prune(args)) => volume::prune(args, &store()?),
        C::Version(args) => system::version(args),
        C::Info(args) => system::info(args, &store()?),
        C::Doctor(args) => doctor::doctor(args, &store()?),
        // Where it is the first word, another front end has it (lib.rs).
        C::Runtime { .. } => Err(Fail::usage("`runtime` must be the first word")
            .hint("its state is kept elsewhere: rl runtime --root DIR …")
            .into()),
        C::Explain(args) => doctor::explain(args),
        C::Completion(args) => system::completion(args),
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Work.
    Cli(Box<Cli>),
    /// `--help`: this text.
    Text(String),
}

/// Reads a command line, `rl` itself being the first word.
///
/// # Errors
/// Clap's, for what cannot be read.
pub fn parse(words: &[OsString]) -> Result<Parsed, clap::Error> {
    match alone(words) {
        Some(cli) => Ok(Parsed::Cli(Box::new(cli))),
        None => parse_in_tree(words),
    }
}

/// How a verb takes its flags.
type Augment = fn(clap::Command) -> clap::Command;

/// Verbs that people and scripts wait for.
const ALONE: [(&str, Augment); 13] = [
    ("create", run::RunArgs::augment_args),
    ("exec", exec::ExecArgs::augment_args),
    ("images", images::ListArgs::augment_args),
    ("inspect", inspect::InspectArgs::augment_args),
    ("kill", lifecycle::KillArgs::augment_args),
    ("logs", logs::LogsArgs::augment_args),
    ("ps", ps::ListArgs::augment_args),
    ("rm", lifecycle::RemoveArgs::augment_args),
    ("run", run::RunArgs::augment_args),
    ("start", lifecycle::StartArgs::augment_args),
    ("stats", stats::StatsArgs::augment_args),
    ("stop", lifecycle::StopArgs::augment_args),
    ("wait", lifecycle::Names::augment_args),
];

/// The command line, when it is right and its verb one of `ALONE`, read without the other verbs: to build the whole tree
/// takes longer than all else that a command does before it acts.
fn alone(words: &[OsString]) -> Option<Cli> {
    let at = match words.get(1)?.to_str()? {
        "--root" => 3,
        word if word.starts_with("--root=") => 2,
        _ => 1,
    };
    let word = words.get(at)?.to_str()?;
    let (verb, augment) = ALONE.into_iter().find(|(verb, _)| *verb == word)?;
    let verb = dockers_rules(augment(clap::Command::new(verb)).disable_help_flag(true));
    let root = Shared::augment_args(clap::Command::new("rl")).subcommand(verb);
    let matches = root.try_get_matches_from(words).ok()?;
    Cli::from_arg_matches(&matches).ok()
}

fn parse_in_tree(words: &[OsString]) -> Result<Parsed, clap::Error> {
    let parsed = command()
        .try_get_matches_from(words)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Ok(Parsed::Cli(Box::new(cli))),
        Err(error) if is_text(error.kind()) => {
            // The plain tree says `--rm`, where the other one would say `--rm[=<RM>]`.
            let plain = Cli::command().try_get_matches_from(words).err();
            let text = plain
                .filter(|error| is_text(error.kind()))
                .unwrap_or(error)
                .render();
            let coloured = output::has_colour(&std::io::stdout());
            Ok(Parsed::Text(if coloured {
                text.ansi().to_string()
            } else {
                text.to_string()
            }))
        }
        Err(error) => Err(error),
    }
}

fn is_text(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// Clap's message in the house's words: one line, what was meant, where to look.
fn usage(error: &clap::Error, words: &[OsString]) -> anyhow::Error {
    let text = error
        .render()
        .to_string()
        .replace('\'', "`")
        .replace("[=<BOOL>]", "")
        .replace("[=<", " <")
        .replace(">]`", ">`");
    let mut lines = text.lines().map(str::trim);
    let first = lines.next().unwrap_or_default();
    let mut message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    let mut tips = Vec::new();
    for line in
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
    {
        match line.strip_prefix("tip: ") {
            // `--` would only make it the image's name.
            Some(tip) if tip.contains("use `-- ") => {}
            Some(tip) => tips.push(match tip.split_once(" exist") {
                // Of several the last is the most similar.
                Some((what, list)) if what.contains("similar") => {
                    let nearest = list.rsplit([',', ':']).next().unwrap_or(list);
                    format!("did you mean {}?", nearest.trim())
                }
                Some(_) | None => format!("{tip}?"),
            }),
            None if line.is_empty() => {}
            None => {
                message.push(' ');
                message.push_str(line);
            }
        }
    }
    let of = |kind: ContextKind| error.get(kind).map(ToString::to_string);
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(flag) = of(ContextKind::InvalidArg).filter(|word| word.starts_with('-'))
    {
        message = format!("unknown flag `{flag}`");
    }
    if let Some(verb) = of(ContextKind::InvalidSubcommand) {
        message = format!("no command `{verb}`");
    }
    tips.push(format!("{} --help", verb_of(words)));
    tips.into_iter()
        .fold(Fail::usage(message), Fail::hint)
        .into()
}

/// `rl image ls`, out of the words of a command line.
fn verb_of(words: &[OsString]) -> String {
    let root = Cli::command();
    let mut tree = &root;
    let mut verb = "rl".to_owned();
    for word in words.iter().skip(1).filter_map(|word| word.to_str()) {
        let Some(next) = tree.find_subcommand(word) else {
            continue;
        };
        verb.push(' ');
        verb.push_str(word);
        if next.get_subcommands().next().is_none() {
            break;
        }
        tree = next;
    }
    verb
}

/// The whole tree, with docker's rules for flags: the last of several wins, `--flag=false` is allowed
/// for every switch, and a value may start with a hyphen.
#[must_use]
pub fn command() -> clap::Command {
    dockers_rules(Cli::command())
}

fn dockers_rules(command: clap::Command) -> clap::Command {
    let command = command.args_override_self(true).mut_args(|arg| {
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            arg.action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .default_value("false")
                .value_name("BOOL")
                .value_parser(run::values::boolean)
                .hide_default_value(true)
                .hide_possible_values(true)
        } else if arg.get_action().takes_values() && !arg.is_positional() {
            arg.allow_hyphen_values(true)
        } else {
            arg
        }
    });
    command.mut_subcommands(dockers_rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
        match parse(&words) {
            Ok(parsed) => format!("{parsed:?}"),
            Err(error) => error::report(&usage(&error, &words)),
        }
    }

    #[test]
    fn the_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn usage_errors_are_one_line_and_a_way_out() {
        expect_test::expect![[r#"
            rl: unknown flag `--nam`
                to fix:  did you mean `--name`?
                         rl run --help"#]]
        .assert_eq(&refused("rl run --nam x alpine"));
        expect_test::expect![[r#"
            rl: unknown flag `--memori`
                to fix:  did you mean `--memory`?
                         rl run --help"#]]
        .assert_eq(&refused("rl run --memori 1g alpine"));
        expect_test::expect![[r#"
            rl: no command `runn`
                to fix:  did you mean `run`?
                         rl --help"#]]
        .assert_eq(&refused("rl runn alpine"));
        expect_test::expect![[r#"
            rl: invalid value `x` for `--shm-size <SIZE>`: give a size such as 512k, 64m, 1g or a number of bytes
                to fix:  rl run --help"#]].assert_eq(&refused("rl run --shm-size x alpine"));
        expect_test::expect![[r#"
            rl: invalid value `perhaps` for `--rm`: give true or false
                to fix:  rl run --help"#]]
        .assert_eq(&refused("rl run --rm=perhaps alpine"));
        expect_test::expect![[r#"
            rl: invalid value `sometimes` for `--pull <WHEN>` [possible values: always, missing, never, newer]
                to fix:  rl run --help"#]].assert_eq(&refused("rl run --pull sometimes alpine"));
        expect_test::expect![[r#"
            rl: the following required arguments were not provided: <NAME>
                to fix:  rl tag --help"#]]
        .assert_eq(&refused("rl tag a"));
        expect_test::expect![[r#"
            rl: the following required arguments were not provided: <IMAGE>...
                to fix:  rl image rm --help"#]]
        .assert_eq(&refused("rl image rm"));
    }

    #[test]
    fn a_verb_alone_is_read_as_in_the_tree() {
        for line in [
            "create --name a -e A=1 alpine",
            "exec -it a sh -c true",
            "images -q",
            "inspect a b",
            "kill -s TERM a",
            "logs -f --tail=3 a",
            "ps -a --filter name=x",
            "rm -f a",
            "run --rm=false -it -h host -p 80:80 alpine sh -c --help",
            "--root /x run alpine",
            "--root=/x ps",
            "start -a a",
            "stats --no-stream",
            "stop -t -1 a b",
            "wait a",
        ] {
            let words: Vec<OsString> = format!("rl {line}").split(' ').map(Into::into).collect();
            let alone = alone(&words).map(|cli| format!("{cli:?}"));
            let Ok(Parsed::Cli(in_tree)) = parse_in_tree(&words) else {
                panic!("{line}");
            };
            assert_eq!(alone, Some(format!("{in_tree:?}")), "{line}");
        }
        for line in ["run --help", "ps --nothing", "rm", "--help"] {
            let words: Vec<OsString> = format!("rl {line}").split(' ').map(Into::into).collect();
            assert!(alone(&words).is_none(), "{line}");
        }
    }

    #[test]
    fn help_is_text_and_no_error() {
        for line in [
            "rl",
            "rl --help",
            "rl run --help",
            "rl image",
            "rl image ls --help",
        ] {
            let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
            assert!(matches!(parse(&words), Ok(Parsed::Text(_))), "{line}");
        }
    }
}
