//! `diff export`: the files of a container as a whole. The work is done by a job with the container's ids.

use std::io::IsTerminal as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::job::{Request, Work};
use super::output;
use crate::container::diff::Place;
use crate::container::emit;
use crate::container::events::Event;
use crate::container::record::Record;
use crate::error::Fail;
use crate::idmap::{self, Available};
use crate::image::layer::Ids;
use crate::paths::Store;
use crate::stage::Job;
use crate::stage::parent::{self, Aids};

/// `rl diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// Name or id
    pub container: String,
}

/// `rl export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Name or id
    pub container: String,
}

/// Has `work` done by a process with the ids of the container; its standard output is `out` or ours.
fn ask(record: &Record, title: &str, work: Work, out: Option<OwnedFd>) -> Result<String> {
    let available = Available::of(record.store());
    let (plan, _) = idmap::plan(&record.spec()?.userns, &available)?;
    let ids = if plan.is_mapped() {
        Ids::Mapped
    } else {
        Ids::Single
    };
    let request = Request {
        store: record.store().root().to_owned(),
        ids,
        quiet: true,
        work,
    };
    let job = Job::Image {
        request: serde_json::to_string(&request).context("asking for work")?,
    };
    let aids = Aids {
        stdio: [None, out],
        ..Aids::default()
    };
    let helpers = available.helpers.as_ref().ok();
    parent::job_with(job, title, &plan, helpers, aids, || Ok(()))
        .map_err(|error| record.or_gone(error))
}

/// `rl diff`.
///
/// # Errors
/// When there is no such container, or it has no layers.
pub fn diff(args: &DiffArgs, store: &Store) -> Result<u8> {
    let record = Record::find(store, &args.container)?;
    let place = Place::of(&record)?;
    ask(&record, "diff", Work::Diff { place }, None)?;
    Ok(0)
}

/// `rl export`.
///
/// # Errors
/// When there is no such container; the system's.
pub fn export(args: &ExportArgs, store: &Store) -> Result<u8> {
    let record = Record::find(store, &args.container)?;
    let place = Place::of(&record)?;
    let work = Work::Export { place };
    let Some(path) = &args.output else {
        if std::io::stdout().is_terminal() {
            return Err(
                Fail::usage("standard output is a terminal, not a place for an archive")
                    .hint(format!("rl export -o FILE {}", args.container))
                    .into(),
            );
        }
        ask(&record, "export", work, None)?;
        tell(&record, store);
        return Ok(0);
    };
    let file =
        std::fs::File::create(path).map_err(|error| crate::container::disk_error(error, path))?;
    if let Err(error) = ask(&record, "export", work, Some(file.into())) {
        let _ = std::fs::remove_file(path); // half an archive is none
        return Err(error);
    }
    tell(&record, store);
    Ok(0)
}

/// Tells those who watch `rl events` of an export.
fn tell(record: &Record, store: &Store) {
    if let Ok(spec) = record.spec() {
        emit(store, &Event::container("export", &spec));
    }
}

/// Standard output of a job.
///
/// # Errors
/// The output's.
pub fn answer(work: impl FnOnce(&mut dyn std::io::Write) -> Result<()>) -> Result<()> {
    let mut out = output::stdout();
    work(&mut out)?;
    Ok(std::io::Write::flush(&mut out)?)
}
