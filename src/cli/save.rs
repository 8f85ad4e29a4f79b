//! `rl save`, and `rl push` to what is no registry.

use std::io::{self, BufWriter, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::image::{self, PullOptions, no_image};
use super::progress::say;
use super::registry::Settings;
use super::run::Pull;
use super::shared;
use super::transport::Transport;
use crate::container::{emit, events::Event};
use crate::error::Fail;
use crate::image::dropped::Restored;
use crate::image::manifest::Format;
use crate::image::reference::Reference;
use crate::image::save::{self, Form, NewFile, Saved};
use crate::image::store::{Images, StoredImage};
use crate::paths::Store;

/// Bytes that are written to an archive at once.
const BUFFER: usize = 256 << 10;

/// The flags of `rl save`.
#[derive(Debug, Clone, clap::Args)]
pub struct SaveArgs {
    /// Write docker-archive, oci-archive, oci-dir or docker-dir
    #[arg(long, value_name = "FORMAT", default_value = "docker-archive", value_parser = form)]
    pub format: Form,

    /// Accepted for podman's sake: an archive holds as many images as are named
    #[arg(short, long, hide = true)]
    pub multi_image_archive: bool,

    /// Write to this file or directory instead of standard output
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,

    /// Accepted for podman's sake: nothing is said anyway
    #[arg(short, long, hide = true)]
    pub quiet: bool,

    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

fn form(text: &str) -> Result<Form, String> {
    match text {
        "docker-archive" => Ok(Form::DockerArchive),
        "oci-archive" => Ok(Form::OciArchive),
        "oci-dir" => Ok(Form::OciDir),
        "docker-dir" => Ok(Form::DockerDir),
        _ => Err("known are docker-archive, oci-archive, oci-dir and docker-dir".to_owned()),
    }
}

/// `rl save`.
pub fn save(args: &SaveArgs, store: &Store) -> Result<u8> {
    let mut saved: Vec<Saved> = Vec::new();
    for text in &args.images {
        let image = find(store, text)?;
        // Those that were said; an image that was named by its id has none there, as in docker.
        let named = Reference::parse(text).ok();
        let names = image
            .names
            .iter()
            .filter(|name| Some(*name) == named.as_ref());
        let names: Vec<Reference> = names.cloned().collect();
        match saved.iter_mut().find(|known| known.image.id == image.id) {
            Some(known) => known.names.extend(names),
            None => saved.push(Saved {
                image,
                names,
                label: None,
            }),
        }
    }
    // Podman's meaning of docker-dir; the archives and layouts keep the image's own manifest.
    let format = (args.format == Form::DockerDir).then_some(Format::Docker);
    write(store, &saved, args.format, format, args.output.as_deref())?;
    for one in &saved {
        let id = one.image.id.to_string();
        emit(store, &Event::image("save", &id, &id));
    }
    Ok(0)
}

/// An image of this store; one of an additional store is loaded from there.
///
/// # Errors
/// `NotFound`; those of the load.
pub fn find(store: &Store, name: &str) -> Result<StoredImage> {
    if let Some(image) = Images::open(store).find(name, None)? {
        return Ok(image);
    }
    if shared::find(name, None)?.is_none() {
        return Err(no_image(name).into());
    }
    image::obtain(store, name, Pull::Never, &PullOptions::default())
}

/// Writes images of `store`; blobs that were dropped come from their registries meanwhile.
///
/// # Errors
/// `Usage` when there is no place for them; those of [`save::archive`], and the registries'.
pub fn write(
    store: &Store,
    saved: &[Saved],
    form: Form,
    format: Option<Format>,
    output: Option<&Path>,
) -> Result<()> {
    let images = &Images::open(store);
    let clients = |name: &Reference| Settings::default().client(&name.to_string());
    let mut tell = |line: &str| say(&format!("rl: {line}"));
    let restored = saved
        .iter()
        .map(|one| Restored::new(images, &one.image, &clients, &mut tell));
    let _restored = restored.collect::<Result<Vec<_>>>()?;
    let doing = || match output {
        Some(path) => format!("saving to `{}`", path.display()),
        None => "saving to standard output".to_owned(),
    };
    match (form, output) {
        (Form::OciDir | Form::DockerDir, Some(dir)) => {
            save::directory(images, saved, form, format, dir).with_context(doing)
        }
        (Form::OciDir | Form::DockerDir, None) => {
            Err(Fail::usage("a directory cannot go to standard output")
                .hint("name it with -o")
                .into())
        }
        (Form::DockerArchive | Form::OciArchive, None) => {
            if io::stdout().is_terminal() {
                return Err(Fail::usage("standard output is a terminal, not a file")
                    .hint("rl save -o FILE IMAGE, or pipe it on")
                    .into());
            }
            let out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
            save::archive(images, saved, form, format, out).with_context(doing)
        }
        (Form::DockerArchive | Form::OciArchive, Some(path)) => {
            if path.is_dir() {
                return Err(Fail::usage(format!("`{}` is a directory", path.display()))
                    .hint("name a file, or use --format oci-dir")
                    .into());
            }
            let file = NewFile::create(path)?;
            let out = BufWriter::with_capacity(BUFFER, file.file());
            save::archive(images, saved, form, format, out).with_context(doing)?;
            file.keep()
        }
    }
}

/// `rl push IMAGE oci:…` and the like.
///
/// # Errors
/// As `rl save`'s: those of [`save::archive`], and the registries'.
pub fn push_to(
    store: &Store,
    image: &str,
    target: &Transport,
    format: Option<Format>,
) -> Result<Saved> {
    let found = find(store, image)?;
    let named = target.name.as_deref().map(Reference::parse);
    let saved = Saved {
        names: match (&target.form, named) {
            (Form::DockerArchive, Some(name)) => vec![name?],
            (_, Some(_)) => Vec::new(),
            (_, None) => Reference::parse(image)
                .ok()
                .filter(|name| found.names.contains(name))
                .into_iter()
                .collect(),
        },
        image: found,
        label: target
            .name
            .clone()
            .filter(|_| target.form != Form::DockerArchive),
    };
    let path = Some(&*target.path);
    write(
        store,
        std::slice::from_ref(&saved),
        target.form,
        format,
        path,
    )?;
    Ok(saved)
}
