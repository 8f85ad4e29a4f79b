//! `rl push`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::image::no_image;
use super::images::readable;
use super::output;
use super::progress::{self, Verb, say};
use super::registry::RegistryFlags;
use super::transport::Transport;
use crate::container::emit;
use crate::container::events::Event;
use crate::error::Fail;
use crate::image::manifest::Format;
use crate::image::push::{self, Outgoing, PushRequest};
use crate::image::reference::{Digest, Reference};
use crate::image::store::{Images, StoredImage};
use crate::paths::Store;

/// The flags of `rl push`.
#[derive(Debug, Clone, clap::Args)]
pub struct PushArgs {
    /// Push all tags of a name
    #[arg(short, long)]
    pub all_tags: bool,

    /// Write the digest of the pushed manifest to this file
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,

    /// Use this format of manifest: oci or v2s2 (default: the image's own)
    #[arg(short, long, value_name = "FORMAT", value_parser = format)]
    pub format: Option<Format>,

    /// Transfer so many layers at the same time, 1 to 32
    #[arg(long, value_name = "NUMBER", default_value = "3", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub parallel: u8,

    /// Print the name only
    #[arg(short, long)]
    pub quiet: bool,

    #[command(flatten)]
    pub registry: RegistryFlags,

    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,

    /// Where to, when not under the image's own name; oci:, oci-archive:, docker-archive: and dir: name a path
    #[arg(value_name = "DESTINATION")]
    pub destination: Option<String>,
}

/// `oci`, `v2s2`, `docker`.
pub fn format(text: &str) -> Result<Format, String> {
    match text {
        "oci" => Ok(Format::Oci),
        "v2s2" | "docker" => Ok(Format::Docker),
        _ => Err("known are oci and v2s2".to_owned()),
    }
}

/// `rl push`: prints the digest as docker does, or with `--quiet` the full name.
pub fn push(args: &PushArgs, store: &Store) -> Result<u8> {
    let mut settings = args.registry.settings()?;
    settings.parallel = Some(args.parallel);
    let images = Images::open(store);
    let elsewhere = args.destination.as_deref().map(Transport::parse);
    if let Some(target) = elsewhere.transpose()?.flatten() {
        let saved = super::save::push_to(store, &args.image, &target, args.format)?;
        let id = saved.image.id.to_string();
        emit(store, &Event::image("push", &id, &args.image));
        let digest = Outgoing::of(&images, &saved.image, args.format)?.digest();
        note_digest(args, &digest)?;
        output::print(&digest.to_string())?;
        return Ok(0);
    }
    let pairs = match (args.all_tags, &args.destination) {
        (true, Some(_)) => {
            return Err(Fail::usage("--all-tags and a destination exclude each other").into());
        }
        (true, None) => all_tags(&images, &args.image)?,
        (false, destination) => {
            let image = super::save::find(store, &args.image)?;
            let text = destination.as_deref().unwrap_or(&args.image);
            let target = Reference::parse(text).map_err(|fail| match destination {
                Some(_) => fail,
                None => fail.hint("rl push IMAGE DESTINATION"),
            })?;
            vec![(image, target)]
        }
    };
    for (image, target) in pairs {
        if !args.quiet {
            let place = Reference {
                tag: None,
                ..target.clone()
            };
            say(&format!("The push refers to repository [{place}]"));
        }
        let request = PushRequest {
            client: settings.client(&target.to_string())?,
            target,
            format: args.format,
        };
        let display = progress::display(Verb::Push, args.quiet);
        let clients = |name: &Reference| args.registry.settings()?.client(&name.to_string());
        let pushed = push::push(&images, &image, &request, &clients, display.as_ref())?;
        drop(display);
        let target = request.target;
        images.note_pushed(&target, &image.manifest_digest, &pushed.digest)?;
        emit(
            store,
            &Event::image("push", &image.id.to_string(), &target.familiar()),
        );
        note_digest(args, &pushed.digest)?;
        if args.quiet {
            output::print(&target.to_string())?;
        } else {
            let tag = target.tag.as_deref().unwrap_or("-");
            output::print(&format!(
                "{tag}: digest: {} size: {}",
                pushed.digest, pushed.size
            ))?;
        }
    }
    Ok(0)
}

fn note_digest(args: &PushArgs, digest: &Digest) -> Result<()> {
    match &args.digestfile {
        None => Ok(()),
        Some(file) => std::fs::write(file, digest.to_string())
            .with_context(|| format!("writing `{}`", file.display())),
    }
}

fn all_tags(images: &Images, text: &str) -> Result<Vec<(StoredImage, Reference)>> {
    let wanted = Reference::parse(text)?;
    let last = text.rsplit('/').next().unwrap_or(text);
    if last.contains([':', '@']) {
        return Err(Fail::usage("--all-tags takes a name without a tag").into());
    }
    let mut found = Vec::new();
    for image in readable(images)? {
        for name in &image.names {
            if (&name.registry, &name.repository) == (&wanted.registry, &wanted.repository) {
                found.push((image.clone(), name.clone()));
            }
        }
    }
    if found.is_empty() {
        return Err(no_image(text).into());
    }
    Ok(found)
}
