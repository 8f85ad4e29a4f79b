//! What the disk is used for, and giving it back: `rl system df`, `prune` and `reset`, `rl image prune`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::container::{self, Filter};
use super::image::all_of;
use super::images::readable;
use super::job::{self, Work};
use super::output::{self, Columns, Row};
use super::progress::say;
use super::ps::say_damaged;
use super::{images, prompt, volume};
use crate::cgroup::life;
use crate::container::lifecycle::{self, Force, Volumes};
use crate::container::record::Record;
use crate::container::{emit, events::Event, usage, view};
use crate::error::{self, Fail, Kind};
use crate::image::partial;
use crate::image::space::{Part, Space};
use crate::image::store::{Images, StoredImage};
use crate::paths::Store;

/// The flags of `rl image prune`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImagePruneArgs {
    /// Remove all images that no container uses, not just those without a name
    #[arg(short, long)]
    pub all: bool,

    /// Only some: until=AGE or TIME, label=KEY[=VALUE], label!=KEY[=VALUE] (can be repeated)
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,

    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// The flags of `rl system prune`.
#[derive(Debug, Clone, clap::Args)]
pub struct PruneArgs {
    #[command(flatten)]
    pub images: ImagePruneArgs,

    /// Remove volumes without a name that no container has, too
    #[arg(long)]
    pub volumes: bool,
}

/// The flags of `rl system df`.
#[derive(Debug, Clone, clap::Args)]
pub struct DfArgs {
    /// Print as a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Show each image, container and volume
    #[arg(short, long)]
    pub verbose: bool,
}

/// The flags of `rl system reset`.
#[derive(Debug, Clone, clap::Args)]
pub struct ResetArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// Whether to go on; where nobody can be asked, the answer comes from standard input, as in docker.
pub fn agreed(force: bool, warning: &str) -> Result<bool> {
    if force {
        return Ok(true);
    }
    say(&format!("WARNING! {warning}"));
    prompt::yes("Are you sure you want to continue?")
}

/// `rl image prune`.
pub fn prune_images(args: &ImagePruneArgs, store: &Store) -> Result<u8> {
    let filters = Filter::parse_all(&args.filter)?;
    let warning = if args.all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all dangling images."
    };
    if !agreed(args.force, warning)? {
        return Ok(0);
    }
    let (lines, bytes, failures) = remove_images(args.all, &filters, store)?;
    let mut out = output::stdout();
    report(&mut out, "Deleted Images:", &lines)?;
    writeln!(out, "Total reclaimed space: {}", output::size(bytes))?;
    out.flush()?;
    drop(out);
    all_of(failures)
}

/// A list of what was removed, when there is any.
pub fn report(out: &mut dyn std::io::Write, head: &str, lines: &[String]) -> Result<()> {
    if !lines.is_empty() {
        writeln!(out, "{head}")?;
        for line in lines {
            writeln!(out, "{line}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// What was said, the bytes that are free now, and what went wrong.
fn remove_images(
    all: bool,
    filters: &[Filter],
    store: &Store,
) -> Result<(Vec<String>, u64, Vec<anyhow::Error>)> {
    let used = usage::all(store)?;
    let before = Space::of(store)?.total();
    let (mut lines, mut failures) = (Vec::new(), Vec::new());
    for image in readable(&Images::open(store))? {
        let nameless = image.names.is_empty() && image.repo_digests.is_empty();
        let id = image.id.to_string();
        let wanted = (all || nameless)
            && used.iter().all(|user| user.image != id)
            // An image without a time is older than any.
            && filters.iter().all(|filter| {
                let created = image.created().parse().unwrap_or(Timestamp::UNIX_EPOCH);
                filter.fits(created, |label| {
                    image.config.config.labels.get(label).map(String::as_str)
                })
            });
        if !wanted {
            continue;
        }
        // By name, so that a name given meanwhile keeps the image.
        let digests = image.repo_digests.iter();
        let by_digest = digests.filter(|_| image.names.is_empty());
        let mut names: Vec<String> = image
            .names
            .iter()
            .chain(by_digest)
            .map(ToString::to_string)
            .collect();
        if names.is_empty() {
            names.push(id);
        }
        for name in names {
            let work = Work::Remove {
                image: name.clone(),
                force: false,
            };
            match job::ask::<Vec<String>>(store, "prune", true, work) {
                Ok(said) => {
                    emit(store, &Event::image("delete", &image.id.to_string(), &name));
                    // Docker's words are small here, and large in `rmi`.
                    lines.extend(said.iter().map(|line| {
                        line.replacen("Untagged", "untagged", 1)
                            .replacen("Deleted", "deleted", 1)
                    }));
                }
                // Somebody was quicker, or uses it since.
                Err(error) if matches!(error::kind(&error), Kind::NotFound | Kind::Conflict) => {}
                Err(error) => failures.push(error),
            }
        }
    }
    // What a killed command has left is of no image, and has neither time nor label.
    if filters.is_empty() {
        let unused = job::ask::<Vec<String>>(store, "prune", true, Work::Unused);
        lines.extend(unused?);
    }
    let after = Space::of(store)?.total();
    // Nobody waits for them any more who asks for space.
    let parts = partial::sweep(store, true)?;
    Ok((lines, before.saturating_sub(after) + parts, failures))
}

/// `rl system prune`: containers that do not run, then volumes when that is wished, then images.
pub fn prune(args: &PruneArgs, store: &Store) -> Result<u8> {
    let (args, with_volumes) = (&args.images, args.volumes);
    let filters = Filter::parse_all(&args.filter)?;
    let what = if args.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    let volumes = if with_volumes {
        "  - all anonymous volumes not used by at least one container\n"
    } else {
        ""
    };
    let warning = format!("This will remove:\n  - all stopped containers\n{volumes}  - {what}\n");
    if !agreed(args.force, &warning)? {
        return Ok(0);
    }
    let (containers, bytes, mut failures) = container::remove_stopped(&filters, store)?;
    life::sweep(life::IDLE);
    let (volumes, of_volumes, failed) = if with_volumes {
        volume::remove_unused(false, &filters, store)?
    } else {
        Default::default()
    };
    failures.extend(failed);
    let (images, more, failed) = remove_images(args.all, &filters, store)?;
    failures.extend(failed);
    let bytes = bytes + of_volumes;
    let mut out = output::stdout();
    report(&mut out, "Deleted Containers:", &containers)?;
    report(&mut out, "Deleted Volumes:", &volumes)?;
    report(&mut out, "Deleted Images:", &images)?;
    writeln!(out, "Total reclaimed space: {}", output::size(bytes + more))?;
    out.flush()?;
    drop(out);
    all_of(failures)
}

/// `rl system reset`: everything of `rl` below its directory goes.
pub fn reset(args: &ResetArgs, store: &Store) -> Result<u8> {
    let warning = format!(
        "This will remove all containers, also those that run, all images and all volumes in {}.",
        store.root().display()
    );
    if !agreed(args.force, &warning)? {
        return Ok(0);
    }
    let mut failures = Vec::new();
    for record in Record::all(store)? {
        if let Err(error) = lifecycle::remove(&record, Force::Yes, Volumes::Remove) {
            failures.push(error);
        }
    }
    if !failures.is_empty() {
        return all_of(failures);
    }
    job::ask::<()>(store, "reset", true, Work::Reset).map_err(|error| foreign(store, error))?;
    // What is left is somebody else's.
    let _ = std::fs::remove_dir(store.root());
    Ok(0)
}

/// Not even root of the user's namespace may remove files of ids that are not there.
fn foreign(store: &Store, error: anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    if !text.contains("EACCES") && !text.contains("EPERM") {
        return error;
    }
    let root = store.root().display();
    error.context(
        Fail::denied(format!(
            "some files in `{root}` belong to ids that are not in your ranges now"
        ))
        .hint("ask your administrator to put the old lines of /etc/subuid and /etc/subgid back, and try again")
        .hint(format!("or to remove them: rm -rf {root}"))
        .code("RL-S10"),
    )
}

const KINDS: Columns = Columns {
    heads: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    shown: &["Type", "TotalCount", "Active", "Size", "Reclaimable"],
};
const IMAGES: Columns = Columns {
    heads: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("Containers", "CONTAINERS"),
    ],
    shown: &[
        "Repository",
        "Tag",
        "ID",
        "CreatedSince",
        "Size",
        "SharedSize",
        "UniqueSize",
        "Containers",
    ],
};
const CONTAINERS: Columns = Columns {
    heads: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Size", "SIZE"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
    ],
    shown: &["ID", "Image", "LocalVolumes", "Size", "Status", "Names"],
};
const VOLUMES: Columns = Columns {
    heads: &[
        ("Name", "VOLUME NAME"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
    ],
    shown: &["Name", "Links", "Size"],
};

/// All that `df` shows.
struct Usage {
    space: Space,
    images: Vec<(StoredImage, BTreeMap<Part, u64>, usize)>,
    containers: Vec<(view::Seen, u64)>,
    /// Name, containers, bytes.
    volumes: Vec<(String, usize, u64)>,
}

impl Usage {
    fn look(store: &Store) -> Result<Self> {
        let space = Space::of(store)?;
        let used = usage::all(store)?;
        let images = readable(&Images::open(store))?
            .into_iter()
            .map(|image| {
                let id = image.id.to_string();
                let users = used.iter().filter(|user| user.image == id).count();
                let parts = space.of_image(&image);
                (image, parts, users)
            })
            .collect();
        let view = view::all(store)?;
        say_damaged(&view.damaged);
        let mut volumes = Vec::new();
        for entry in std::fs::read_dir(store.volumes()).into_iter().flatten() {
            let name = entry.context("reading the volumes")?.file_name();
            let name = name.to_string_lossy().into_owned();
            let users = view.seen.iter();
            let users = users.filter(|seen| seen.mounts().contains(&name)).count();
            let bytes = view::bytes_below(&store.volume_data(&name));
            volumes.push((name, users, bytes));
        }
        volumes.sort();
        let containers = view
            .seen
            .into_iter()
            .map(|seen| {
                let bytes = seen.size_written();
                (seen, bytes)
            })
            .collect();
        Ok(Self {
            space,
            images,
            containers,
            volumes,
        })
    }

    /// How often each part is used by different images.
    fn shares(&self) -> BTreeMap<&Part, usize> {
        let mut shares = BTreeMap::new();
        for part in self.images.iter().flat_map(|(_, parts, _)| parts.keys()) {
            *shares.entry(part).or_insert(0) += 1;
        }
        shares
    }

    fn kinds(&self) -> Vec<Row> {
        let active = self.images.iter().filter(|(_, _, users)| *users > 0);
        let needed: BTreeMap<&Part, u64> = active
            .clone()
            .flat_map(|(_, parts, _)| parts.iter().map(|(part, bytes)| (part, *bytes)))
            .collect();
        let free = self.space.total() - needed.values().sum::<u64>();
        let images = kind(
            "Images",
            self.images.len(),
            active.count(),
            self.space.total(),
            free,
        );
        let runs = |seen: &view::Seen| seen.is_running();
        let all: u64 = self.containers.iter().map(|(_, bytes)| bytes).sum();
        let stopped = self.containers.iter().filter(|(seen, _)| !runs(seen));
        let free: u64 = stopped.clone().map(|(_, bytes)| bytes).sum();
        let running = self.containers.len() - stopped.count();
        let containers = kind("Containers", self.containers.len(), running, all, free);
        let all: u64 = self.volumes.iter().map(|(_, _, bytes)| bytes).sum();
        let unused = self.volumes.iter().filter(|(_, users, _)| *users == 0);
        let free: u64 = unused.clone().map(|(_, _, bytes)| bytes).sum();
        let active = self.volumes.len() - unused.count();
        let volumes = kind("Local Volumes", self.volumes.len(), active, all, free);
        vec![images, containers, volumes]
    }
}

fn kind(name: &str, total: usize, active: usize, size: u64, free: u64) -> Row {
    let percent = (free * 100).checked_div(size).unwrap_or(0);
    let fields = [
        ("Type", name.to_owned()),
        ("TotalCount", total.to_string()),
        ("Active", active.to_string()),
        ("Size", output::size(size)),
        (
            "Reclaimable",
            format!("{} ({percent}%)", output::size(free)),
        ),
    ];
    row(fields)
}

fn row<const N: usize>(fields: [(&str, String); N]) -> Row {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}

/// `rl system df`.
pub fn df(args: &DfArgs, store: &Store) -> Result<u8> {
    if args.verbose && args.format.is_some() {
        return Err(Fail::usage("--verbose and --format exclude each other").into());
    }
    let usage = Usage::look(store)?;
    let mut out = output::stdout();
    if !args.verbose {
        output::list(&mut out, &usage.kinds(), &KINDS, args.format.as_deref())?;
        out.flush()?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let shares = usage.shares();
    let mut rows = Vec::new();
    for (image, parts, users) in &usage.images {
        let size: u64 = parts.values().sum();
        let unique: u64 = parts
            .iter()
            .filter(|(part, _)| shares.get(part) == Some(&1))
            .map(|(_, bytes)| bytes)
            .sum();
        for (repository, tag) in images::names_of(image) {
            rows.push(row([
                ("Repository", repository),
                ("Tag", tag),
                ("ID", image.id.short().to_owned()),
                ("CreatedSince", output::since(image.created(), now)),
                ("Size", output::size(size)),
                ("SharedSize", output::size(size - unique)),
                ("UniqueSize", output::size(unique)),
                ("Containers", users.to_string()),
            ]));
        }
    }
    writeln!(out, "Images space usage:\n")?;
    output::list(&mut out, &rows, &IMAGES, None)?;
    let rows: Vec<Row> = usage
        .containers
        .iter()
        .map(|(seen, bytes)| {
            row([
                ("ID", seen.spec.id.chars().take(12).collect()),
                ("Image", seen.image()),
                ("LocalVolumes", seen.volumes().to_string()),
                ("Size", output::size(*bytes)),
                ("Status", seen.status().to_owned()),
                ("Names", seen.spec.name.clone()),
            ])
        })
        .collect();
    writeln!(out, "\nContainers space usage:\n")?;
    output::list(&mut out, &rows, &CONTAINERS, None)?;
    let rows: Vec<Row> = usage
        .volumes
        .iter()
        .map(|(name, users, bytes)| {
            row([
                ("Name", name.clone()),
                ("Links", users.to_string()),
                ("Size", output::size(*bytes)),
            ])
        })
        .collect();
    writeln!(out, "\nLocal Volumes space usage:\n")?;
    output::list(&mut out, &rows, &VOLUMES, None)?;
    let known: BTreeSet<&Part> = shares.keys().copied().collect();
    let of_images: u64 = known
        .iter()
        .filter_map(|part| usage.space.bytes(part))
        .sum();
    let rest = usage.space.total() - of_images;
    if rest > 0 {
        say(&format!(
            "{} belong to no image: left of a removal that was killed, or still used by containers",
            output::size(rest)
        ));
    }
    out.flush()?;
    Ok(0)
}
