//! Images of others: the additional stores of `config.toml`, and `rl image share`, which fills one.
//!
//! Such a store is read and never written; no lock is taken there. See [`crate::image::shared`].

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::config::Config;
use super::convert::{self, compression};
use super::image::{self, PullOptions};
use super::progress::say;
use super::registry::RegistryFlags;
use super::run::Pull;
use super::{output, save};
use crate::error;
use crate::image::platform::Platform;
use crate::image::save::{Form, Saved};
use crate::image::shared::Shared;
use crate::image::squash::write::Compression;
use crate::image::store::{Images, StoredImage};
use crate::image::verify;
use crate::paths::Store;

/// The flags of `rl image share`.
#[derive(Debug, Clone, clap::Args)]
pub struct ShareArgs {
    /// Pack with zstd or gzip; old readers know only gzip
    #[arg(long, value_name = "NAME", default_value = "zstd", value_parser = compression)]
    pub compression: Compression,

    /// For this platform, as os/arch[/variant]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,

    /// When to ask the registry: always, missing, never or newer
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pub pull: Pull,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,

    #[command(flatten)]
    pub registry: RegistryFlags,

    /// The images, and the directory
    #[arg(value_names = ["IMAGE", "DIR"], num_args = 2.., required = true)]
    pub words: Vec<String>,
}

/// `rl image share`: prints the full name of each image.
///
/// # Errors
/// The pull's; the system's.
pub fn share(args: &ShareArgs, store: &Store) -> Result<u8> {
    let (dir, names) = args.words.split_last().context("no directory given")?;
    let options = PullOptions {
        platform: args.platform.as_deref().map(Platform::parse).transpose()?,
        settings: args.registry.settings()?,
        quiet: args.quiet,
        ..PullOptions::default()
    };
    // Others are to read it, whatever the user's umask is.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let shared = Shared::create(&std::path::absolute(dir)?)?;
    let _lock = shared.lock()?;
    for name in names {
        let image = image::obtain(store, name, args.pull, &options)?;
        let file = shared.squash(&image.id);
        if !file.exists() {
            convert::squash(store, &image, args.compression, &file)?;
        }
        let id = image.id.to_string();
        let named = crate::image::reference::Reference::parse(name).ok();
        let names: Vec<_> = match named.filter(|named| image.names.contains(named)) {
            Some(named) => vec![named],
            None => image.names.clone(),
        };
        let shown = names.first().map_or(id, ToString::to_string);
        let saved = Saved {
            image,
            names,
            label: None,
        };
        let layout = shared.store().images();
        save::write(store, &[saved], Form::OciDir, None, Some(&layout))?;
        output::print(&shown)?;
    }
    Ok(0)
}

/// The additional stores that can be read, in their order; the user is told of the others.
///
/// # Errors
/// Those of `config.toml`.
pub fn stores() -> Result<Vec<Shared>> {
    let config = Config::load()?;
    let usable = config.additional_stores().iter().filter_map(|dir| {
        let shared = Shared::at(dir);
        match shared.look() {
            Ok(()) => Some(shared),
            Err(error) => {
                let why = verify::said(&error);
                say(&format!(
                    "rl: additional store `{}`: {why}: going on without it",
                    dir.display()
                ));
                None
            }
        }
    });
    Ok(usable.collect())
}

/// The image `name` of an additional store.
///
/// # Errors
/// Those of `config.toml`; a damaged store is told of and passed over.
pub fn find(name: &str, platform: Option<&Platform>) -> Result<Option<(Shared, StoredImage)>> {
    for shared in stores()? {
        match shared.images().find(name, platform) {
            Ok(Some(image)) => return Ok(Some((shared, image))),
            Ok(None) => {}
            Err(error) if error::kind(&error) == error::Kind::Corrupt => {
                let dir = shared.store().root().display();
                let why = verify::said(&error);
                say(&format!(
                    "rl: additional store `{dir}`: {why}: going on without it"
                ));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The image `name`, of this store or of an additional one, and where it is.
///
/// # Errors
/// As [`Images::find`] and [`find`].
pub fn find_anywhere(store: &Store, name: &str) -> Result<Option<(Images, StoredImage)>> {
    let images = Images::open(store);
    if let Some(image) = images.find(name, None)? {
        return Ok(Some((images, image)));
    }
    let found = find(name, None)?;
    Ok(found.map(|(shared, image)| (shared.images(), image)))
}

/// The file of an additional store that `run` takes as it is: the image is not in `store`, and the registry need not be asked.
///
/// # Errors
/// As [`find`] and [`Images::find`].
pub fn in_place(
    store: &Store,
    name: &str,
    when: Pull,
    platform: Option<&Platform>,
) -> Result<Option<(StoredImage, PathBuf)>> {
    if !matches!(when, Pull::Missing | Pull::Never)
        || Config::load()?.additional_stores().is_empty()
    {
        return Ok(None);
    }
    let own = Images::open(store).find(name, platform)?;
    if own.is_some_and(|image| image.layers_present) {
        return Ok(None);
    }
    let Some((shared, image)) = find(name, platform)? else {
        return Ok(None);
    };
    let file = shared.squash(&image.id);
    Ok(is_file(&file).then_some((image, file)))
}

fn is_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file())
}
