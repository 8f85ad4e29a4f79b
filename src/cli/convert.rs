//! `rl image convert`: an image as one file that is run where it lies.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::image::{self, PullOptions};
use super::job::{Request, Work};
use super::registry::RegistryFlags;
use super::run::Pull;
use crate::container::{emit, events::Event};
use crate::error::Fail;
use crate::idmap::{self, Available};
use crate::image::layer::Ids;
use crate::image::platform::Platform;
use crate::image::save::NewFile;
use crate::image::squash::write::Compression;
use crate::image::store::StoredImage;
use crate::paths::Store;
use crate::spec::UserNs;
use crate::stage::Job;
use crate::stage::parent::{self, Aids};

/// The flags of `rl image convert`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConvertArgs {
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

    /// The image
    pub image: String,

    /// The new file; one that is there is replaced when the new one is whole
    pub file: PathBuf,
}

/// `--compression`.
pub fn compression(text: &str) -> Result<Compression, String> {
    match text {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        _ => Err("known are gzip and zstd".to_owned()),
    }
}

/// `rl image convert`.
///
/// # Errors
/// The pull's; the system's.
pub fn convert(args: &ConvertArgs, store: &Store) -> Result<u8> {
    if args.file.exists() && !args.file.is_file() {
        let shown = args.file.display();
        return Err(Fail::usage(format!("`{shown}` is there, and is no regular file")).into());
    }
    let options = PullOptions {
        platform: args.platform.as_deref().map(Platform::parse).transpose()?,
        settings: args.registry.settings()?,
        quiet: args.quiet,
        ..PullOptions::default()
    };
    let image = image::obtain(store, &args.image, args.pull, &options)?;
    squash(store, &image, args.compression, &args.file)?;
    let id = image.id.to_string();
    emit(store, &Event::image("save", &id, &id));
    Ok(0)
}

/// Writes `image` as a squashfs with its configuration; what is at `path` is replaced when it is whole.
///
/// # Errors
/// The system's.
pub fn squash(
    store: &Store,
    image: &StoredImage,
    compression: Compression,
    path: &Path,
) -> Result<()> {
    let layers = image.config.rootfs.diff_ids.iter().rev();
    let trees: Result<Vec<PathBuf>> = layers
        .map(|diff_id| {
            Ok(store
                .root()
                .join(crate::image::layer_dir(&diff_id.to_string())?))
        })
        .collect();
    let work = Work::Squash {
        trees: trees?,
        compression,
        config: String::from_utf8(image.raw_config.clone()).context("reading the configuration")?,
    };
    let file = NewFile::create(path)?;
    write(store, work, &file).with_context(|| format!("writing `{}`", path.display()))?;
    file.keep()
}

fn write(store: &Store, work: Work, file: &NewFile) -> Result<()> {
    let available = Available::of(store);
    let (plan, _) = idmap::plan(&UserNs::Auto, &available)?;
    let request = Request {
        store: store.root().to_owned(),
        ids: if plan.is_mapped() {
            Ids::Mapped
        } else {
            Ids::Single
        },
        quiet: true,
        work,
    };
    let job = Job::Image {
        request: serde_json::to_string(&request).context("asking for work")?,
    };
    let out = file.file().try_clone().context("handing the file on")?;
    let aids = Aids {
        stdio: [None, Some(out.into())],
        ..Aids::default()
    };
    let helpers = available.helpers.as_ref().ok();
    parent::job_with(job, "convert", &plan, helpers, aids, || Ok(()))?;
    Ok(())
}
