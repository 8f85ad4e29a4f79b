//! The verbs on images: pull, load, import, tag, rmi; and how `run` gets its image.
//!
//! Lists are in [`super::images`], descriptions in [`super::inspect`].

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::config::{Blobs, Config};
use super::job::{self, Pulled, Work};
use super::output;
use super::progress::say;
use super::prompt;
use super::registry::{RegistryFlags, Settings};
use super::run::Pull;
use super::shared;
use super::transport::Transport;
use crate::container::emit;
use crate::container::events::Event;
use crate::error::{self, Fail, Kind};
use crate::image::platform::Platform;
use crate::image::reference::{Digest, Reference};
use crate::image::registries::{Meaning, Registries, ShortNameMode};
use crate::image::store::{Images, StoredImage};
use crate::paths::Store;

/// The flags of `rl pull`.
#[derive(Debug, Clone, clap::Args)]
pub struct PullArgs {
    /// Transfer so many layers at the same time, 1 to 32
    #[arg(long, value_name = "NUMBER", default_value = "3", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub parallel: u8,

    /// Choose the platform, as OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,

    /// Print the names only
    #[arg(short, long)]
    pub quiet: bool,

    /// Whether layers also stay as they were transferred: keep, or drop to save space [default: keep, or what config.toml says]
    #[arg(long, value_enum, value_name = "WHETHER", hide_possible_values = true)]
    pub blobs: Option<Blobs>,

    #[command(flatten)]
    pub registry: RegistryFlags,

    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// The flags of `rl load`.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    /// Read this file or directory instead of standard input
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// The flags of `rl import`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// Apply a Dockerfile instruction: CMD, ENTRYPOINT, ENV, … (can be repeated)
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,

    /// Note something in the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,

    /// What the programs in it are made for, as OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,

    /// The tar of a root file system; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: String,

    /// The image's name
    #[arg(value_name = "NAME")]
    pub reference: Option<String>,
}

/// The words of `rl tag`.
#[derive(Debug, Clone, clap::Args)]
pub struct TagArgs {
    /// An image
    #[arg(value_name = "IMAGE")]
    pub source: String,

    /// One more name for it
    #[arg(value_name = "NAME")]
    pub target: String,
}

/// The flags of `rl rmi`.
#[derive(Debug, Clone, clap::Args)]
pub struct RemoveArgs {
    /// Remove images with several names, and those that containers use
    #[arg(short, long)]
    pub force: bool,

    /// Accepted for docker's sake: parents are not kept as images here
    #[arg(long, hide = true)]
    pub no_prune: bool,

    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// What a pull needs to know beside the name.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// For which platform.
    pub platform: Option<Platform>,
    /// How to talk to its registry.
    pub settings: Settings,
    /// Show no progress.
    pub quiet: bool,
    /// What becomes of layers as they are transferred; `config.toml` says otherwise.
    pub blobs: Option<Blobs>,
}

/// `rl pull`: prints the full name of each image.
pub fn pull(args: &PullArgs, store: &Store) -> Result<u8> {
    let options = PullOptions {
        platform: args.platform.as_deref().map(Platform::parse).transpose()?,
        settings: Settings {
            parallel: Some(args.parallel),
            ..args.registry.settings()?
        },
        quiet: args.quiet,
        blobs: args.blobs,
    };
    // All names are read before anything is fetched.
    let names = args
        .images
        .iter()
        .map(|name| match Transport::parse_source(name)? {
            Some(source) => Ok(Err(source)),
            None => meant(name, options.quiet).map(Ok),
        })
        .collect::<Result<Vec<_>>>()?;
    for candidates in names {
        let candidates = match candidates {
            Ok(candidates) => candidates,
            Err(source) => {
                let id = load_one(store, &source, options.quiet)?;
                output::print(&id.to_string())?;
                continue;
            }
        };
        let before: Vec<Option<StoredImage>> = candidates
            .iter()
            .map(|name| Images::open(store).find(&name.to_string(), None))
            .collect::<Result<_>>()?;
        let (place, pulled) = fetch_one_of(store, &candidates, &options)?;
        let (reference, before) = (&candidates[place], &before[place]);
        if !options.quiet {
            let name = reference.familiar();
            let is_new = before.as_ref().is_none_or(|before| before.id != pulled.id);
            say(&format!("Digest: {}", pulled.digest));
            say(&if is_new {
                format!("Status: Downloaded newer image for {name}")
            } else {
                format!("Status: Image is up to date for {name}")
            });
        }
        if options.platform.is_none()
            && let Some(image) = Images::open(store).find(&pulled.id.to_string(), None)?
        {
            say_of_platform(&image, &reference.familiar());
        }
        output::print(&reference.to_string())?;
    }
    Ok(0)
}

/// Says before anything is started that the programs of an image are another machine's. That they are is what the image
/// says; some are labelled wrongly, so it is no reason to stop.
pub fn say_of_platform(image: &StoredImage, name: &str) {
    let made_for = image.config.platform();
    if !made_for.is_executable_here() {
        say(&format!(
            "rl: `{name}` is for {made_for}, this machine is {}, and no qemu-user is registered here: its programs may not run (rl explain RL-I02)",
            Platform::host()
        ));
    }
}

/// What the user means by `name`: where it could be at several registries, the user is asked.
fn meant(name: &str, quiet: bool) -> Result<Vec<Reference>> {
    match Registries::load()?.meaning(name)? {
        Meaning::One(only) => Ok(vec![only]),
        Meaning::Alias(only, file) => {
            if !quiet && only != Reference::parse(name)? {
                let file = file.display();
                say(&format!(
                    "`{name}` stands for {only}, by the alias in {file}"
                ));
            }
            Ok(vec![only])
        }
        Meaning::Several(all, ShortNameMode::Disabled) => Ok(all),
        Meaning::Several(mut all, mode) if prompt::can_ask() => {
            say(&format!("`{name}` could be:"));
            for (number, candidate) in all.iter().enumerate() {
                say(&format!("  {}  {candidate}", number + 1));
            }
            let answer = prompt::line("Which one? ")?;
            let chosen = answer.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
            match chosen.filter(|chosen| *chosen < all.len()) {
                Some(chosen) => Ok(vec![all.swap_remove(chosen)]),
                None => Err(Fail::usage(format!("`{answer}` is none of them"))
                    .hint(
                        format!("write the full name; short-name-mode is {mode:?}").to_lowercase(),
                    )
                    .code("RL-I01")
                    .into()),
            }
        }
        Meaning::Several(all, ShortNameMode::Permissive) => Ok(all),
        Meaning::Several(all, ShortNameMode::Enforcing) => {
            let names: Vec<String> = all.iter().map(ToString::to_string).collect();
            Err(Fail::usage(format!(
                "`{name}` could be {}, and there is no terminal to ask at",
                names.join(" or ")
            ))
            .hint("write the full name, or give it an alias in registries.conf")
            .code("RL-I01")
            .into())
        }
    }
}

/// The first candidate that can be had, by its place in the list.
fn fetch_one_of(
    store: &Store,
    candidates: &[Reference],
    options: &PullOptions,
) -> Result<(usize, Pulled)> {
    let mut place = 0;
    loop {
        match fetch(store, &candidates[place], options) {
            Err(error) if place + 1 < candidates.len() => {
                say(&error::report(&error));
                place += 1;
            }
            Err(error) => return Err(error),
            Ok(pulled) => return Ok((place, pulled)),
        }
    }
}

fn fetch(store: &Store, reference: &Reference, options: &PullOptions) -> Result<Pulled> {
    let name = reference.familiar();
    let blobs = match options.blobs {
        Some(blobs) => blobs,
        None => Config::load()?.blobs(),
    };
    let work = Work::Pull {
        reference: reference.clone(),
        platform: options.platform.clone(),
        settings: options.settings.clone(),
        drops_blobs: blobs == Blobs::Drop,
    };
    let pulled: Pulled = job::ask(store, &name, options.quiet, work)?;
    emit(store, &Event::image("pull", &pulled.id.to_string(), &name));
    Ok(pulled)
}

/// The image that `run` asks for, from here or from its registry.
///
/// # Errors
/// `NotFound` for `--pull=never`; the pull's.
pub fn obtain(store: &Store, name: &str, when: Pull, options: &PullOptions) -> Result<StoredImage> {
    let images = Images::open(store);
    if let Some(source) = Transport::parse_source(name)? {
        let id = load_one(store, &source, options.quiet)?.to_string();
        return images.find(&id, None)?.ok_or_else(|| no_image(&id).into());
    }
    let here = images
        .find(name, options.platform.as_ref())?
        .filter(|image| image.layers_present);
    match (when, here) {
        (Pull::Never | Pull::Missing, Some(image)) => Ok(image),
        (Pull::Never, None) => match from_additional(store, name, options)? {
            Some(image) => Ok(image),
            None => Err(Fail::not_found(format!("no image `{name}` here"))
                .hint(format!(
                    "`rl images` lists what is here; `rl pull {name}` fetches it"
                ))
                .into()),
        },
        (Pull::Missing, None) => match from_additional(store, name, options)? {
            Some(image) => Ok(image),
            None => fresh(store, name, options),
        },
        // An image that is named by its id belongs to no registry.
        (Pull::Always | Pull::Newer, Some(image)) if is_id_of(name, &image.id) => Ok(image),
        (Pull::Always, _) | (Pull::Newer, None) => fresh(store, name, options),
        (Pull::Newer, Some(image)) => match fresh(store, name, options) {
            Err(error) if error::kind(&error) == Kind::Network => Ok(image),
            other => other,
        },
    }
}

/// Loads the image from an additional store, for what needs its files and not one file.
fn from_additional(
    store: &Store,
    name: &str,
    options: &PullOptions,
) -> Result<Option<StoredImage>> {
    let Some((shared, image)) = shared::find(name, options.platform.as_ref())? else {
        return Ok(None);
    };
    let Some(full) = image.names.first() else {
        return Ok(None); // a layout's images are asked for by name
    };
    let path = shared.store().images();
    if !options.quiet {
        say(&format!(
            "loading `{}` from {}",
            full.familiar(),
            path.display()
        ));
    }
    load_from(store, Some(&path), Some(full.to_string()), options.quiet)?;
    Images::open(store).find(&image.id.to_string(), None)
}

fn is_id_of(name: &str, id: &Digest) -> bool {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    id.hex().starts_with(hex)
}

fn fresh(store: &Store, name: &str, options: &PullOptions) -> Result<StoredImage> {
    let (_, pulled) = fetch_one_of(store, &meant(name, options.quiet)?, options)?;
    Images::open(store)
        .find(&pulled.id.to_string(), None)?
        .ok_or_else(|| {
            Fail::conflict(format!("`{name}` was removed as soon as it was here"))
                .hint("another `rl rmi` is at work: try again")
                .into()
        })
}

/// `rl load`.
pub fn load(args: &LoadArgs, store: &Store) -> Result<u8> {
    let text = args.input.as_deref().and_then(Path::to_str);
    let (path, wanted) = match text.map(Transport::parse_source).transpose()?.flatten() {
        Some(source) => (Some(source.path), source.name),
        None => (args.input.clone(), None),
    };
    for (id, names) in load_from(store, path.as_deref(), wanted, args.quiet)? {
        if names.is_empty() {
            output::print(&format!("Loaded image ID: {id}"))?;
        }
        for name in names {
            output::print(&format!("Loaded image: {}", name.familiar()))?;
        }
    }
    Ok(0)
}

/// Loads the images of a file or directory; returns their ids and names.
fn load_from(
    store: &Store,
    path: Option<&Path>,
    wanted: Option<String>,
    quiet: bool,
) -> Result<Vec<(Digest, Vec<Reference>)>> {
    let work = Work::Load {
        input: readable(path, "rl load -i FILE")?,
        wanted,
    };
    let loaded: Vec<(Digest, Vec<Reference>)> = job::ask(store, "load", quiet, work)?;
    for (id, names) in &loaded {
        let name = names
            .first()
            .map_or_else(|| id.to_string(), Reference::familiar);
        emit(store, &Event::image("load", &id.to_string(), &name));
    }
    Ok(loaded)
}

/// The one image that `source` means.
fn load_one(store: &Store, source: &Transport, quiet: bool) -> Result<Digest> {
    let mut loaded = load_from(store, Some(&source.path), source.name.clone(), quiet)?;
    match (loaded.pop(), loaded.len()) {
        (Some((id, _)), 0) => Ok(id),
        _ => Err(Fail::usage(format!(
            "there are several images in `{}`",
            source.path.display()
        ))
        .hint("put the name of one behind it: PATH:NAME; `rl load -i` loads all")
        .into()),
    }
}

/// `rl import`: prints the new image's id.
pub fn import(args: &ImportArgs, store: &Store) -> Result<u8> {
    if args.file.starts_with("http://") || args.file.starts_with("https://") {
        return Err(
            Fail::unsupported("importing from a web address is not supported")
                .hint(format!("curl -L {} | rl import - NAME", args.file))
                .into(),
        );
    }
    let file = (args.file != "-").then(|| Path::new(&args.file));
    let work = Work::Import {
        input: readable(file, "rl import FILE NAME")?,
        reference: args
            .reference
            .as_deref()
            .map(Reference::parse)
            .transpose()?,
        changes: args.change.clone(),
        message: args.message.clone(),
        platform: args.platform.as_deref().map(Platform::parse).transpose()?,
    };
    let id: Digest = job::ask(store, "import", args.quiet, work)?;
    emit(
        store,
        &Event::image(
            "import",
            &id.to_string(),
            args.reference.as_deref().unwrap_or_default(),
        ),
    );
    output::print(&id.to_string())?;
    Ok(0)
}

/// The absolute path of a file that can be opened; none for standard input, which must not be a terminal.
fn readable(path: Option<&Path>, instead: &str) -> Result<Option<PathBuf>> {
    let Some(path) = path else {
        if io::stdin().is_terminal() {
            return Err(Fail::usage("standard input is a terminal, not an archive")
                .hint(format!("give a file ({instead}) or pipe one in"))
                .into());
        }
        return Ok(None);
    };
    if let Err(error) = std::fs::File::open(path) {
        let kind = if error.kind() == io::ErrorKind::NotFound {
            Kind::NotFound
        } else {
            Kind::Usage
        };
        let what = format!("cannot read `{}`: {error}", path.display());
        return Err(Fail::new(kind, what).into());
    }
    Ok(Some(std::path::absolute(path)?))
}

/// `rl tag`.
pub fn tag(args: &TagArgs, store: &Store) -> Result<u8> {
    let target = Reference::parse(&args.target)?;
    if target.digest.is_some() {
        return Err(Fail::usage(format!(
            "`{}` has a digest, which is not a name to give",
            args.target
        ))
        .into());
    }
    let images = Images::open(store);
    let image = images
        .find(&args.source, None)?
        .ok_or_else(|| no_image(&args.source))?;
    images.tag(&image.id, &target)?;
    emit(
        store,
        &Event::image("tag", &image.id.to_string(), &target.familiar()),
    );
    Ok(0)
}

/// The words of `rl untag`.
#[derive(Debug, Clone, clap::Args)]
pub struct UntagArgs {
    /// An image
    #[arg(value_name = "IMAGE")]
    pub image: String,

    /// The names to take away; all where none are given
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// `rl untag`: the image stays, if need be without a name.
pub fn untag(args: &UntagArgs, store: &Store) -> Result<u8> {
    let names = args
        .names
        .iter()
        .map(|name| Reference::parse(name))
        .collect::<Result<Vec<_>, _>>()?;
    for name in Images::open(store).untag(&args.image, &names)? {
        emit(store, &Event::image("untag", &name, &name));
    }
    Ok(0)
}

/// The error for an image that is not here.
pub fn no_image(name: &str) -> Fail {
    Fail::not_found(format!("no image `{name}` here")).hint("`rl images` lists what is here")
}

/// An image that others have put where it is stays there.
fn not_ours(name: &str, error: anyhow::Error) -> anyhow::Error {
    if error::kind(&error) != Kind::NotFound {
        return error;
    }
    match shared::find(name, None) {
        Ok(Some((shared, _))) => {
            let dir = shared.store().root().display().to_string();
            Fail::denied(format!(
                "image `{name}` is in the additional store `{dir}`, which is only read"
            ))
            .hint(format!(
                "who keeps that removes it with: rl --root {dir} rmi {name}"
            ))
            .into()
        }
        Ok(None) | Err(_) => error,
    }
}

/// `rl rmi`: goes on after a failure, which is reported at the end.
pub fn remove(args: &RemoveArgs, store: &Store) -> Result<u8> {
    let mut failures = Vec::new();
    for image in &args.images {
        let work = Work::Remove {
            image: image.clone(),
            force: args.force,
        };
        let removed = job::ask::<Vec<String>>(store, image, true, work);
        match removed.map_err(|error| not_ours(image, error)) {
            Ok(lines) => {
                for line in lines {
                    let action = if line.starts_with("Untagged") {
                        "untag"
                    } else {
                        "delete"
                    };
                    let name = line
                        .split_once(": ")
                        .map_or(line.as_str(), |(_, name)| name);
                    emit(store, &Event::image(action, name, name));
                    output::print(&line)?;
                }
            }
            // Docker's meaning of --force: what is gone already is fine.
            Err(error) if args.force && error::kind(&error) == Kind::NotFound => {}
            Err(error) => failures.push(error),
        }
    }
    all_of(failures)
}

/// Reports all but the last failure and returns that one.
pub fn all_of(mut failures: Vec<anyhow::Error>) -> Result<u8> {
    let Some(last) = failures.pop() else {
        return Ok(0);
    };
    for failure in failures {
        say(&error::report(&failure));
    }
    Err(last)
}
