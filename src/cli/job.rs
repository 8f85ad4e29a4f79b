//! Image work that needs the user's ids: what is asked of a job, and what the job does.
//!
//! The command makes a [`Request`]; [`work`] answers it, in another process that is root of a user
//! namespace. Both are here so that they cannot disagree. The display belongs to the job.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::progress::{self, Verb, say};
use super::registry::Settings;
use super::{copy, files};
use crate::container::copy::receive::{Owners, Shape};
use crate::container::copy::send::LastLink;
use crate::container::copy::{Mounted, Mounting};
use crate::container::diff::{self, Place};
use crate::container::{self, check, convert, usage};
use crate::image::archive::{self, ImportOptions};
use crate::image::commit::{self, Recipe};
use crate::image::ingest::Progress;
use crate::image::layer::{Ids, disk_full};
use crate::image::platform::Platform;
use crate::image::pull::{self, PullRequest};
use crate::image::reference::{Digest, Reference};
use crate::image::space::Part;
use crate::image::squash::write::Compression;
use crate::image::store::Images;
use crate::image::store::remove::{Force, Removed};
use crate::image::verify;
use crate::paths::Store;
use crate::{error, sys};

/// What is to be done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The store's directory.
    pub store: PathBuf,
    /// How ownership is kept.
    pub ids: Ids,
    /// Show no progress.
    pub quiet: bool,
    /// The work.
    pub work: Work,
}

/// The kinds of work.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Answered by [`Pulled`].
    Pull {
        /// Which image.
        reference: Reference,
        /// For which platform; this machine's when none is given.
        platform: Option<Platform>,
        /// How to talk to its registry.
        settings: Settings,
        /// Remove the layers as they were transferred.
        drops_blobs: bool,
    },
    /// Answered by ids and names.
    Load {
        /// The archive or directory; standard input when none is given.
        input: Option<PathBuf>,
        /// Which of its images; all when none is given.
        wanted: Option<String>,
    },
    /// Answered by the new image's id.
    Import {
        /// The tar; standard input when none is given.
        input: Option<PathBuf>,
        /// The image's name.
        reference: Option<Reference>,
        /// `--change`.
        changes: Vec<String>,
        /// `--message`.
        message: Option<String>,
        /// `--platform`.
        platform: Option<Platform>,
    },
    /// Writes `A /path` and so on to standard output.
    Diff {
        /// Whose files.
        place: Place,
    },
    /// Writes a tar to standard output.
    Export {
        /// Whose files.
        place: Place,
    },
    /// Writes a container's changes, or all of its files, as a tar that [`commit::end`] marks to standard output.
    Layer {
        /// Whose files.
        place: Place,
        /// All of them.
        squash: bool,
    },
    /// Writes an image as a squashfs to standard output, an empty file.
    Squash {
        /// Its trees, the topmost first.
        trees: Vec<PathBuf>,
        /// How blocks are packed.
        compression: Compression,
        /// Its configuration, which goes behind the file system.
        config: String,
    },
    /// Makes an image of such a tar from standard input; answered by its id.
    Commit {
        /// What beside the layer.
        recipe: Recipe,
    },
    /// Writes files as a tar to standard output; answered by [`crate::container::copy::send::Sent`].
    Send {
        /// What has to be mounted for it.
        mounting: Option<Mounting>,
        /// The container, for messages.
        container: String,
        /// What is sent.
        path: PathBuf,
        /// Whether the last name may be a link.
        links: LastLink,
        /// What the archive calls it.
        name: Vec<u8>,
        /// Directories in which owners of links may be noted.
        owners: Vec<PathBuf>,
    },
    /// Makes files of a tar from standard input; answered by [`crate::container::copy::receive::Received`].
    Receive {
        /// What has to be mounted for it.
        mounting: Option<Mounting>,
        /// The container, for messages.
        container: String,
        /// Where they go.
        path: PathBuf,
        /// What comes.
        shape: Shape,
        /// Whose they are then.
        owners: Owners,
    },
    /// Removes all that `rl` keeps; answered by nothing.
    Reset,
    /// Looks whether images are whole; answered by a list of [`verify::Finding`].
    Verify {
        /// How much, and whether to repair.
        how: verify::How,
    },
    /// Removes what no image and no container needs; answered by a list of lines for standard output.
    Unused,
    /// Answered by a list of lines for standard output.
    Remove {
        /// A name or id.
        image: String,
        /// `--force`.
        force: bool,
    },
}

/// What came of a pull.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pulled {
    /// The image's id.
    pub id: Digest,
    /// What the registry calls this content.
    pub digest: Digest,
}

/// Has `work` done by a process with the user's ids and returns the answer. `title` is for `ps`.
///
/// # Errors
/// The work's.
pub fn ask<T: for<'de> Deserialize<'de>>(
    store: &Store,
    title: &str,
    quiet: bool,
    work: Work,
) -> Result<T> {
    // Whose the files are makes no difference to their removal.
    let concerns_owners = !matches!(
        work,
        Work::Remove { .. } | Work::Reset | Work::Verify { .. } | Work::Unused
    );
    let request = |ids| {
        let request = Request {
            store: store.root().to_owned(),
            ids,
            quiet,
            work,
        };
        serde_json::to_string(&request).context("asking for image work")
    };
    let answer = container::image_work(store, title, request, &mut |line| {
        if concerns_owners {
            say(&format!("rl: {line}"));
        }
    })?;
    serde_json::from_str(&answer).context("reading a job's answer")
}

/// Answers a [`Request`], as JSON both. Runs as root of a user namespace, with threads of its own.
///
/// # Errors
/// The work's; a request that is not one of ours.
pub fn work(request: &str, root: Option<OwnedFd>) -> Result<String> {
    let Request {
        store,
        ids,
        quiet,
        work,
    } = serde_json::from_str(request).context("reading a job's request")?;
    let store = Store::at(store);
    answer(&store, ids, quiet, work, root).map_err(|error| {
        let errno = sys::errno_of(&error);
        let full = errno.filter(|errno| matches!(*errno, Errno::NOSPC | Errno::DQUOT));
        let place = sys::fs::open_trusted(store.root(), OFlags::PATH);
        match (full, place) {
            // Wherever it was met, the remedy is the same.
            (Some(errno), Ok(place)) if error::find(&error).is_none() => {
                let shown = store.root().display().to_string();
                error.context(disk_full(place.as_fd(), &shown, errno))
            }
            _ => error,
        }
    })
}

fn answer(
    store: &Store,
    ids: Ids,
    quiet: bool,
    work: Work,
    root: Option<OwnedFd>,
) -> Result<String> {
    let answer = match work {
        Work::Pull {
            reference,
            platform,
            settings,
            drops_blobs,
        } => {
            let display = progress::display(Verb::Pull, quiet);
            let request = PullRequest {
                client: settings.client(&reference.to_string())?,
                reference,
                platform,
                ids,
                drops_blobs,
            };
            let pulled = pull(store, &request, display.as_ref())?;
            serde_json::to_string(&pulled)
        }
        Work::Load { input, wanted } => {
            let display = progress::display(Verb::Load, quiet);
            let loaded = archive::load(
                store,
                open(input)?,
                wanted.as_deref(),
                ids,
                display.as_ref(),
            )
            .context("loading images")?;
            let loaded: Vec<(Digest, Vec<Reference>)> = loaded
                .into_iter()
                .map(|image| (image.id, image.names))
                .collect();
            serde_json::to_string(&loaded)
        }
        Work::Import {
            input,
            reference,
            changes,
            message,
            platform,
        } => {
            let display = progress::display(Verb::Import, quiet);
            let options = ImportOptions {
                reference,
                changes,
                message,
                platform,
            };
            let id = archive::import(store, open(input)?, &options, ids, display.as_ref())?;
            serde_json::to_string(&id)
        }
        Work::Diff { place } => {
            place.with(true, |place| files::answer(|out| diff::print(place, out)))?;
            serde_json::to_string(&())
        }
        Work::Export { place } => {
            place.with(false, |place| files::answer(|out| diff::export(place, out)))?;
            serde_json::to_string(&())
        }
        Work::Layer { place, squash } => {
            place.with(!squash, |place| {
                files::answer(|out| {
                    if squash {
                        diff::export(place, &mut *out)?;
                    } else {
                        diff::layer(place, &mut *out)?;
                    }
                    Ok(commit::end(out)?)
                })
            })?;
            serde_json::to_string(&())
        }
        Work::Squash {
            trees,
            compression,
            config,
        } => {
            let out = std::io::stdout().as_fd().try_clone_to_owned();
            let out = std::fs::File::from(out.context("taking standard output")?);
            convert::squash(&trees, &out, compression, config.as_bytes())?;
            serde_json::to_string(&())
        }
        Work::Commit { recipe } => {
            let display = progress::display(Verb::Import, quiet);
            let id = commit::commit(store, open(None)?, &recipe, ids, display.as_ref())?;
            serde_json::to_string(&id)
        }
        Work::Send {
            mounting,
            container,
            path,
            links,
            name,
            owners,
        } => {
            let mounted = Mounted::new(mounting.as_ref(), root, ids)?;
            let sent = mounted.with(container, |view| {
                copy::send_here(view, &path, links, &name, &owners)
            });
            serde_json::to_string(&sent?)
        }
        Work::Receive {
            mounting,
            container,
            path,
            shape,
            owners,
        } => {
            let mounted = Mounted::new(mounting.as_ref(), root, ids)?;
            let received = mounted.with(container, |view| {
                copy::receive_here(view, &path, &shape, owners)
            });
            serde_json::to_string(&received?)
        }
        Work::Reset => {
            Images::open(store).reset()?;
            serde_json::to_string(&())
        }
        Work::Verify { how } => {
            let findings = verify::images(&verify::Asked {
                store,
                how,
                ids,
                used: &usage::all(store)?,
                standing: &|diff_id| check::standing_on(store, diff_id),
                client: &|reference| Settings::default().client(&reference.to_string()),
            })?;
            serde_json::to_string(&findings)
        }
        Work::Unused => {
            let parts = Images::open(store).remove_all_unused(&usage::all(store)?)?;
            let trees = parts.into_iter().filter_map(|part| match part {
                Part::Tree(digest) => Some(format!("deleted: {digest}")),
                Part::Blob(_) => None,
            });
            serde_json::to_string(&trees.collect::<Vec<_>>())
        }
        Work::Remove { image, force } => {
            let force = if force { Force::Yes } else { Force::No };
            let removed = Images::open(store).remove(&image, force, &usage::all(store)?)?;
            let lines: Vec<String> = removed
                .into_iter()
                .map(|removed| match removed {
                    Removed::Untagged(name) => format!("Untagged: {name}"),
                    Removed::Deleted(id) => format!("Deleted: {id}"),
                })
                .collect();
            serde_json::to_string(&lines)
        }
    };
    answer.context("answering a job's request")
}

fn pull(store: &Store, request: &PullRequest, progress: &dyn Progress) -> Result<Pulled> {
    let image = pull::pull(store, request, progress)?;
    let name = request.reference.familiar_name();
    let known = image
        .repo_digests
        .iter()
        .find(|known| known.familiar_name() == name)
        .and_then(|known| known.digest.clone());
    Ok(Pulled {
        digest: known.unwrap_or(image.manifest_digest),
        id: image.id,
    })
}

fn open(path: Option<PathBuf>) -> Result<std::fs::File> {
    match path {
        Some(path) => {
            std::fs::File::open(&path).with_context(|| format!("opening `{}`", path.display()))
        }
        None => {
            let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned();
            Ok(std::fs::File::from(stdin.context("taking standard input")?))
        }
    }
}
