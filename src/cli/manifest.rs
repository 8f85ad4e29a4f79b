//! `rl manifest`: several images under one name, one for each platform.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::image::all_of;
use super::output;
use super::progress::{self, Verb};
use super::push::format;
use super::registry::{RegistryFlags, Settings};
use super::run::values::boolean;
use super::transport::Transport;
use crate::error::Fail;
use crate::image::list::{self, Changes, Entry, List, ListPush, Lists};
use crate::image::manifest::{self, Format};
use crate::image::reference::{Digest, Reference};
use crate::image::store::Images;
use crate::paths::Store;

/// The flags of `rl manifest create`.
#[derive(Debug, Clone, clap::Args)]
pub struct CreateArgs {
    /// Of an index at a registry, add all images
    #[arg(long)]
    pub all: bool,

    /// Add to the list if there is one of that name
    #[arg(short, long)]
    pub amend: bool,

    /// Note something on the list (can be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,

    #[command(flatten)]
    pub registry: RegistryFlags,

    /// The list's name
    #[arg(value_name = "LIST")]
    pub list: String,

    /// Images of this machine, or of a registry
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// What is said of an image in a list.
#[derive(Debug, Clone, clap::Args)]
pub struct EntryFlags {
    /// Note something on the image (can be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,

    /// The processor that the image is for, in place of what it says itself
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,

    /// Features of the processor that the image needs (can be repeated)
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    pub features: Vec<String>,

    /// The operating system that the image is for
    #[arg(long, value_name = "OS")]
    pub os: Option<String>,

    /// Features of the operating system that the image needs (can be repeated)
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    pub os_features: Vec<String>,

    /// The version of the operating system that the image is for
    #[arg(long, value_name = "VERSION")]
    pub os_version: Option<String>,

    /// The platform in one word: OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM", conflicts_with_all = ["os", "arch", "variant"])]
    pub platform: Option<String>,

    /// The variant of the processor, such as v7
    #[arg(long, value_name = "VARIANT")]
    pub variant: Option<String>,
}

/// The flags of `rl manifest add`.
#[derive(Debug, Clone, clap::Args)]
pub struct AddArgs {
    /// Of an index at a registry, add all images
    #[arg(long)]
    pub all: bool,

    #[command(flatten)]
    pub entry: EntryFlags,

    #[command(flatten)]
    pub registry: RegistryFlags,

    /// The list
    #[arg(value_name = "LIST")]
    pub list: String,

    /// Images of this machine, or of a registry; docker:// before the name asks the registry
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// The flags of `rl manifest annotate`.
#[derive(Debug, Clone, clap::Args)]
pub struct AnnotateArgs {
    #[command(flatten)]
    pub entry: EntryFlags,

    /// Note on the list itself
    #[arg(long)]
    pub index: bool,

    /// The list
    #[arg(value_name = "LIST")]
    pub list: String,

    /// Which of its images, by digest or name
    #[arg(value_name = "IMAGE", required_unless_present = "index")]
    pub image: Option<String>,
}

/// The flags of `rl manifest inspect`.
#[derive(Debug, Clone, clap::Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub registry: RegistryFlags,

    /// A list of this machine, or whatever a registry has under the name
    #[arg(value_name = "LIST")]
    pub list: String,
}

/// The flags of `rl manifest push`.
#[derive(Debug, Clone, clap::Args)]
pub struct PushArgs {
    /// Push the images of the list, too (default: true)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub all: Option<bool>,

    /// Write the digest of the pushed list to this file
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,

    /// Use this format for the list and its images: oci or v2s2 (default: the images' own)
    #[arg(short, long, value_name = "FORMAT", value_parser = format)]
    pub format: Option<Format>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,

    /// Remove the list when it is pushed
    #[arg(short = 'p', long, alias = "purge")]
    pub rm: bool,

    #[command(flatten)]
    pub registry: RegistryFlags,

    /// The list
    #[arg(value_name = "LIST")]
    pub list: String,

    /// Where to, when not under the list's own name
    #[arg(value_name = "DESTINATION")]
    pub destination: Option<String>,
}

/// Names of lists.
#[derive(Debug, Clone, clap::Args)]
pub struct Names {
    /// The lists
    #[arg(value_name = "LIST", required = true)]
    pub lists: Vec<String>,
}

/// The words of `rl manifest remove`.
#[derive(Debug, Clone, clap::Args)]
pub struct TakeArgs {
    /// The list
    #[arg(value_name = "LIST")]
    pub list: String,

    /// Which of its images, by digest or name
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// The words of `rl manifest exists`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExistsArgs {
    /// The list
    #[arg(value_name = "LIST")]
    pub list: String,
}

impl EntryFlags {
    fn changes(&self) -> Result<Changes> {
        let mut changes = Changes {
            annotations: pairs(&self.annotation)?,
            os: self.os.clone(),
            architecture: self.arch.clone(),
            variant: self.variant.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            features: self.features.clone(),
        };
        if let Some(text) = &self.platform {
            let platform = crate::image::platform::Platform::parse(text)?;
            changes.os = Some(platform.os);
            changes.architecture = Some(platform.architecture);
            changes.variant = platform.variant;
        }
        Ok(changes)
    }
}

fn pairs(words: &[String]) -> Result<std::collections::BTreeMap<String, String>> {
    let mut pairs = std::collections::BTreeMap::new();
    for word in words {
        let Some((key, value)) = word.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Fail::usage(format!("--annotation `{word}` is not KEY=VALUE")).into());
        };
        pairs.insert(key.to_owned(), value.to_owned());
    }
    Ok(pairs)
}

/// The entries that `text` means: an image of the store, else what a registry has.
fn gather(
    text: &str,
    all: bool,
    changes: &Changes,
    settings: &Settings,
    store: &Store,
) -> Result<Vec<Entry>> {
    let images = Images::open(store);
    let far = text.strip_prefix("docker://");
    if far.is_none()
        && let Some(place) = Transport::parse_source(text)?
    {
        return Err(Fail::unsupported(format!("`{text}` is not in the store"))
            .hint(format!(
                "load it first: rl load -i {}",
                place.path.display()
            ))
            .into());
    }
    let mut entries = match far {
        None if let Some(image) = images.find(text, None)? => vec![Entry::local(&images, &image)?],
        _ => {
            let name = Reference::parse(far.unwrap_or(text))?;
            let client = settings.client(&name.to_string())?;
            list::entries(&name, &client, all, changes)
                .with_context(|| format!("adding `{}`", name.familiar()))?
        }
    };
    for entry in &mut entries {
        if all {
            // What is said of one is not true of all.
            entry
                .descriptor
                .annotations
                .extend(changes.annotations.clone());
        } else {
            changes.apply(entry);
        }
    }
    Ok(entries)
}

/// `rl manifest create`: prints the list's id.
pub fn create(args: &CreateArgs, store: &Store) -> Result<u8> {
    let name = Reference::parse(&args.list)?;
    let settings = args.registry.settings()?;
    let annotations = pairs(&args.annotation)?;
    let mut entries = Vec::new();
    for image in &args.images {
        let none = Changes::default();
        entries.extend(gather(image, args.all, &none, &settings, store)?);
    }
    let list = Lists::open(store).change(&name, |known| {
        let mut list = match known {
            Some(_) if !args.amend => {
                return Err(Fail::conflict(format!(
                    "there is a manifest list `{}`",
                    name.familiar()
                ))
                .hint("add to it with --amend, or remove it: rl manifest rm")
                .into());
            }
            Some(list) => list,
            None => List::new(name.clone()),
        };
        for entry in entries {
            list.add(entry)?;
        }
        list.annotations.extend(annotations);
        Ok(list)
    })?;
    say_id(&list)
}

fn say_id(list: &List) -> Result<u8> {
    output::print(list.digest()?.hex())?;
    Ok(0)
}

fn existing(known: Option<List>, name: &Reference, store: &Store) -> Result<List> {
    match known {
        Some(list) => Ok(list),
        None => Lists::open(store).get(name), // has the words for it
    }
}

/// `rl manifest add`.
pub fn add(args: &AddArgs, store: &Store) -> Result<u8> {
    let name = Reference::parse(&args.list)?;
    let lists = Lists::open(store);
    lists.get(&name)?; // before a registry is asked
    let settings = args.registry.settings()?;
    let changes = args.entry.changes()?;
    let mut entries = Vec::new();
    for image in &args.images {
        entries.extend(gather(image, args.all, &changes, &settings, store)?);
    }
    let list = lists.change(&name, |known| {
        let mut list = existing(known, &name, store)?;
        for entry in entries {
            list.add(entry)?;
        }
        Ok(list)
    })?;
    say_id(&list)
}

/// Which entry `text` means, a digest or a name.
fn place(list: &List, text: &str, store: &Store) -> Result<usize> {
    let digest = match Digest::parse(text) {
        Ok(digest) => Some(digest),
        Err(_) => {
            let image = Images::open(store).find(text, None)?;
            image.map(|image| image.manifest_digest)
        }
    };
    let name = Reference::parse(text.strip_prefix("docker://").unwrap_or(text)).ok();
    let is_meant = |entry: &Entry| {
        Some(&entry.descriptor.digest) == digest.as_ref() || (name.is_some() && entry.from == name)
    };
    let mut found = (0..list.entries.len()).filter(|at| is_meant(&list.entries[*at]));
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(Fail::usage(format!(
            "`{text}` stands for several images of `{}`",
            list.name.familiar()
        ))
        .hint("give a digest; `rl manifest inspect` shows them")
        .into()),
        (Some(at), None) => Ok(at),
        (None, _) => Err(Fail::not_found(format!(
            "`{}` has no image `{text}`",
            list.name.familiar()
        ))
        .hint("`rl manifest inspect` shows what it has")
        .into()),
    }
}

/// `rl manifest annotate`.
pub fn annotate(args: &AnnotateArgs, store: &Store) -> Result<u8> {
    let name = Reference::parse(&args.list)?;
    let changes = args.entry.changes()?;
    let list = Lists::open(store).change(&name, |known| {
        let mut list = existing(known, &name, store)?;
        match &args.image {
            Some(image) => {
                let at = place(&list, image, store)?;
                changes.apply(&mut list.entries[at]);
            }
            None => list.annotations.extend(changes.annotations),
        }
        Ok(list)
    })?;
    say_id(&list)
}

/// `rl manifest remove`: takes an image out of a list.
pub fn take(args: &TakeArgs, store: &Store) -> Result<u8> {
    let name = Reference::parse(&args.list)?;
    let list = Lists::open(store).change(&name, |known| {
        let mut list = existing(known, &name, store)?;
        let at = place(&list, &args.image, store)?;
        list.entries.remove(at);
        Ok(list)
    })?;
    say_id(&list)
}

/// `rl manifest inspect`: the JSON of a list here, else of what the registry has.
pub fn inspect(args: &InspectArgs, store: &Store) -> Result<u8> {
    let far = args.list.strip_prefix("docker://");
    let name = Reference::parse(far.unwrap_or(&args.list))?;
    let known = match far {
        Some(_) => None,
        None => Lists::open(store).find(&name)?,
    };
    let value = match known {
        Some(list) => list.shown()?,
        None => {
            let client = args.registry.settings()?.client(&name.to_string())?;
            let (_, _, bytes) = list::remote(&name, &client)
                .with_context(|| format!("inspecting `{}`", name.familiar()))?;
            manifest::read(&bytes, "the manifest")?
        }
    };
    output::print(&serde_json::to_string_pretty(&value).context("printing the list")?)?;
    Ok(0)
}

/// `rl manifest push`: prints the digest.
pub fn push(args: &PushArgs, store: &Store) -> Result<u8> {
    let name = Reference::parse(&args.list)?;
    let lists = Lists::open(store);
    let list = lists.get(&name)?;
    let text = args.destination.as_deref().unwrap_or(&args.list);
    if Transport::parse(text)?.is_some() {
        return Err(
            Fail::unsupported(format!("`{text}`: a list goes to a registry only"))
                .hint("rl manifest push LIST docker://HOST/NAME")
                .into(),
        );
    }
    let target = Reference::parse(text.strip_prefix("docker://").unwrap_or(text))?;
    let settings = args.registry.settings()?;
    let client = |name: &Reference| {
        let mut client = settings.client(&name.to_string())?;
        if name.registry != target.registry {
            client.login = None; // --creds are for where the list goes
        }
        Ok(client)
    };
    let how = ListPush {
        target: &target,
        format: args.format,
        all: args.all.unwrap_or(true),
        client: &client,
    };
    let display = progress::display(Verb::Push, args.quiet);
    let pushed = list::push(store, &list, &how, display.as_ref())?;
    drop(display);
    if let Some(file) = &args.digestfile {
        std::fs::write(file, pushed.digest.to_string())
            .with_context(|| format!("writing `{}`", file.display()))?;
    }
    if args.rm {
        lists.remove(&name)?;
    }
    output::print(&pushed.digest.to_string())?;
    Ok(0)
}

/// `rl manifest rm`.
pub fn remove(args: &Names, store: &Store) -> Result<u8> {
    let lists = Lists::open(store);
    let mut failures = Vec::new();
    for text in &args.lists {
        let removed = Reference::parse(text)
            .map_err(Into::into)
            .and_then(|name| lists.remove(&name));
        match removed {
            Ok(()) => output::print(&format!("Deleted: {text}"))?,
            Err(error) => failures.push(error),
        }
    }
    all_of(failures)
}

/// `rl manifest exists`: the exit code says it.
pub fn exists(args: &ExistsArgs, store: &Store) -> Result<u8> {
    let name = Reference::parse(&args.list)?;
    Ok(u8::from(Lists::open(store).find(&name)?.is_none()))
}

/// `rl manifest ls`: a name a line.
pub fn ls(store: &Store) -> Result<u8> {
    let mut failures = Vec::new();
    for (_, list) in Lists::open(store).each()? {
        match list {
            Ok(list) => output::print(&list.name.familiar())?,
            Err(error) => failures.push(error),
        }
    }
    all_of(failures)
}
