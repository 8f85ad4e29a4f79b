//! `commit`: an image from what a container has changed.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::copy::pipe;
use super::job::{Request, Work};
use super::output;
use super::progress::say;
use super::run::settled;
use crate::container::diff::Place;
use crate::container::events::Event;
use crate::container::group::{self, Hold};
use crate::container::record::{Record, anonymous_volumes};
use crate::container::state::Status;
use crate::container::{emit, write_new};
use crate::error::Fail;
use crate::idmap::{self, Available, Plan};
use crate::image::changes;
use crate::image::commit::{CUT, Format, Recipe};
use crate::image::config::{Empty, Healthcheck, ImageConfig, RunConfig};
use crate::image::layer::Ids;
use crate::image::reference::{Digest, Reference};
use crate::image::squash::Squash;
use crate::image::store::Images;
use crate::paths::Store;
use crate::spec::{ContainerSpec, Health, MountSource, Rootfs, UserNs};
use crate::stage::Job;
use crate::stage::parent::{self, Aids};

/// `rl commit`.
#[derive(Debug, clap::Args)]
pub struct CommitArgs {
    /// Note who made the image
    #[arg(short, long, value_name = "TEXT")]
    pub author: Option<String>,

    /// Apply a Dockerfile instruction: CMD, ENTRYPOINT, ENV, … (can be repeated)
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,

    /// Describe the image as `oci` or `docker` does
    #[arg(short, long, value_name = "FORMAT", default_value = "oci")]
    pub format: String,

    /// Write the image's id to this file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,

    /// Note something in the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,

    /// Pause the container's processes meanwhile
    #[arg(
        short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set
    )]
    pub pause: bool,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,

    /// Put all files into one layer
    #[arg(short, long)]
    pub squash: bool,

    /// Name or id
    pub container: String,

    /// The image's name
    #[arg(value_name = "NAME")]
    pub image: Option<String>,
}

/// `rl commit`.
///
/// # Errors
/// When there is no such container, it has no layers, or a change is wrong; the system's.
pub fn commit(args: &CommitArgs, store: &Store) -> Result<u8> {
    let record = Record::find(store, &args.container)?;
    let spec = record.spec()?;
    let place = Place::of(&record)?;
    let reference = args.image.as_deref().map(Reference::parse).transpose()?;
    let format = match args.format.as_str() {
        "oci" => Format::Oci,
        "docker" => Format::Docker,
        other => {
            return Err(Fail::usage(format!("--format `{other}` is not known"))
                .hint("known are oci and docker")
                .into());
        }
    };
    let config = config(store, &spec)?;
    // Wrong ones are told of before the work.
    for change in &args.change {
        changes::apply(&mut config.clone(), change)?;
    }
    if !args.squash && !matches!(spec.rootfs, Rootfs::Layers { .. }) {
        return Err(
            Fail::unsupported("the container stands on no layers of an image")
                .hint("make an image of all its files: rl commit --squash")
                .into(),
        );
    }
    let recipe = Recipe {
        base: spec
            .image
            .as_ref()
            .filter(|_| !args.squash)
            .map(|image| image.id.clone()),
        config,
        changes: args.change.clone(),
        author: args.author.clone(),
        message: args.message.clone(),
        command: spec.process.args().join(" "),
        reference,
        format,
    };
    let held = if args.pause {
        held(&record, &spec.name)?
    } else {
        None
    };
    let squash = args.squash;
    let id = layer_to_image(&record, Work::Layer { place, squash }, recipe, args.quiet)
        .map_err(|error| record.or_gone(error))?;
    drop(held);
    if let Some(path) = &args.iidfile {
        write_id(path, &id)?;
    }
    let event = Event::container("commit", &spec);
    let event = event.with("comment", args.message.as_deref().unwrap_or_default());
    emit(store, &event.with("imageID", &id));
    output::print(&id.to_string())?;
    Ok(0)
}

/// Lets the container stand for as long as the answer lives.
fn held(record: &Record, name: &str) -> Result<Option<Hold>> {
    match group::hold(record, "rl commit --pause") {
        // It may have ended over it.
        Err(error) if record.state()?.status == Status::Running => {
            say(&format!(
                "rl: `{name}` goes on while it is read: what it writes meanwhile may be half in the image: {error:#}"
            ));
            Ok(None)
        }
        Err(_) => Ok(None),
        held => held,
    }
}

fn write_id(path: &std::path::Path, id: &Digest) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(crate::container::disk_error(error, path));
        }
        Ok(()) | Err(_) => {}
    }
    write_new(path, &id.to_string())
}

/// One job with the container's ids reads its files, another with the image store's makes the image.
fn layer_to_image(record: &Record, layer: Work, recipe: Recipe, quiet: bool) -> Result<Digest> {
    let available = Available::of(record.store());
    let helpers = available.helpers.as_ref().ok();
    let job = |plan: &Plan, work| -> Result<Job> {
        let request = Request {
            store: record.store().root().to_owned(),
            ids: if plan.is_mapped() {
                Ids::Mapped
            } else {
                Ids::Single
            },
            quiet,
            work,
        };
        Ok(Job::Image {
            request: serde_json::to_string(&request).context("asking for work")?,
        })
    };
    let (theirs, _) = idmap::plan(&record.spec()?.userns, &available)?;
    let (ours, _) = idmap::plan(&UserNs::Auto, &available)?;
    let (reader, writer) = pipe()?;
    let (layer, image) = (job(&theirs, layer)?, job(&ours, Work::Commit { recipe })?);
    let mut made = None;
    let to = Aids {
        stdio: [None, Some(writer)],
        ..Aids::default()
    };
    let from = Aids {
        stdio: [Some(reader), None],
        ..Aids::default()
    };
    let read = parent::job_with(layer, "commit", &theirs, helpers, to, || {
        let unattended = || Ok(());
        made = Some(parent::job_with(
            image, "commit", &ours, helpers, from, unattended,
        ));
        Ok(())
    });
    match (read, made) {
        // Who makes the image breaks the pipe of who reads the files; who reads ends the tar too early.
        (Err(read), Some(Err(made))) if format!("{made:#}").contains(CUT) => Err(read),
        (_, Some(Err(made))) => Err(made),
        (Err(read), _) => Err(read),
        (Ok(_), None) => Err(Fail::system("no image was made").into()),
        (Ok(_), Some(Ok(answer))) => {
            serde_json::from_str(&answer).context("reading a job's answer")
        }
    }
}

/// The image's configuration with the container's over it, as docker's `commit` has it.
fn config(store: &Store, spec: &ContainerSpec) -> Result<RunConfig> {
    let image = match &spec.image {
        Some(image) if !image.id.is_empty() => Images::open(store).find(&image.id, None)?,
        _ => None,
    };
    let image = match (&spec.rootfs, image) {
        (_, Some(image)) => Some(image.config),
        (Rootfs::Squash { path }, None) => Squash::look(path)?.config.map(|config| *config),
        (Rootfs::Layers { .. } | Rootfs::Directory { .. } | Rootfs::Host, None) => None,
    };
    let theirs = image.as_ref().map(ImageConfig::defaults);
    let mut config = image.map(|image| image.config).unwrap_or_default();
    let process = &spec.process;
    config.env = settled(process.env.clone());
    config.env.retain(|entry| entry.contains('='));
    config.entrypoint = process.entrypoint.clone().filter(|words| !words.is_empty());
    config.cmd = process.command.clone().filter(|words| !words.is_empty());
    config.user = process.user.clone();
    config.working_dir = process.cwd.clone();
    config.labels = spec.labels.clone();
    if spec.stop_signal != "SIGTERM" || config.stop_signal.is_some() {
        config.stop_signal = Some(spec.stop_signal.clone()).filter(|text| !text.is_empty());
    }
    let mut checked = theirs.and_then(|image| image.health);
    if let Some(health) = &mut checked {
        health.fill(&Health::default());
    }
    if spec.health != checked {
        config.healthcheck = Some(Healthcheck::of(spec.health.as_ref(), &config.shell));
        if spec.health.as_ref().map(|health| health.interval_ns) == Some(Health::NEVER) {
            say(
                "rl: an image cannot say --health-interval=disable: its containers are checked every 30 seconds",
            );
        }
    }
    let ports = spec.publish.iter().map(|publish| &publish.port);
    let ports = ports.chain(&spec.expose);
    config
        .exposed_ports
        .extend(ports.map(|port| (port.to_string(), Empty {})));
    let own = anonymous_volumes(spec);
    let anonymous = spec.mounts.iter().filter(
        |mount| matches!(&mount.source, MountSource::Volume { volume, .. } if own.contains(volume)),
    );
    config
        .volumes
        .extend(anonymous.map(|mount| (mount.target.clone(), Empty {})));
    Ok(config)
}
