//! The command line: one clap tree, and which function each verb calls. `parse` reads it.
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
mod parse;
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

use crate::error::{self, Fail};
use crate::paths::Store;

use self::parse::usage;
pub use self::parse::{Parsed, parse};

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
