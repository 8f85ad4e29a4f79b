//! `rl images`: which images are here.
//!
//! Reads the store and prints; changes nothing.

use std::io::Write as _;

use anyhow::Result;
use jiff::Timestamp;

use super::output::{self, Columns, Row};
use super::progress::say;
use super::run::values::glob;
use super::shared;
use crate::error::Fail;
use crate::image::reference::Reference;
use crate::image::store::{Images, StoredImage};
use crate::image::verify;
use crate::paths::Store;

/// The flags of `rl images`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    /// Accepted for docker's sake: there are no hidden images here
    #[arg(short, long, hide = true)]
    pub all: bool,

    /// Show digests
    #[arg(long)]
    pub digests: bool,

    /// Show only some: reference=PATTERN, dangling=BOOL, label=KEY[=VALUE], before=IMAGE, since=IMAGE,
    /// readonly=BOOL (can be repeated)
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,

    /// Print as a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Do not shorten ids
    #[arg(long)]
    pub no_trunc: bool,

    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,

    /// Only images of this name
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

const HEADS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
    ("ReadOnly", "R/O"),
];
const COLUMNS: Columns = Columns {
    heads: HEADS,
    shown: &["Repository", "Tag", "ID", "CreatedSince", "Size"],
};
const WITH_DIGESTS: Columns = Columns {
    heads: HEADS,
    shown: &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"],
};

/// All images; of those that cannot be read, one line each for the user.
///
/// # Errors
/// When the list itself is damaged.
pub fn readable(images: &Images) -> Result<Vec<StoredImage>> {
    let (readable, damaged) = images.list()?;
    for (name, error) in damaged {
        say(&format!(
            "rl: image {name}: {}: skipped",
            verify::said(&error)
        ));
    }
    Ok(readable)
}

/// `rl images`.
pub fn list(args: &ListArgs, store: &Store) -> Result<u8> {
    let images = Images::open(store);
    let mut all: Vec<Listed> = readable(&images)?
        .into_iter()
        .map(|image| {
            let size = images.size_unpacked(&image)?;
            Ok(Listed {
                image,
                size,
                is_ours: true,
            })
        })
        .collect::<Result<_>>()?;
    for shared in shared::stores()? {
        for image in readable(&shared.images())? {
            // What comes first is what `run` takes.
            if all.iter().all(|other| other.image.id != image.id) {
                all.push(Listed {
                    size: shared.size(&image),
                    image,
                    is_ours: false,
                });
            }
        }
    }
    // Newest first, as docker; the order of the store otherwise.
    all.sort_by_key(|listed| std::cmp::Reverse(created(&listed.image)));
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text, &images))
        .collect::<Result<Vec<_>>>()?;
    let named = args.name.as_deref().map(Named::parse);
    let now = Timestamp::now();
    let mut rows = Vec::new();
    let mut ids = Vec::new();
    for listed in &all {
        let image = &listed.image;
        let names = shown_names(image);
        let kept: Vec<&Name> = names
            .iter()
            .filter(|name| filters.iter().all(|filter| filter.keeps(listed, name)))
            .filter(|name| named.as_ref().is_none_or(|named| named.keeps(name)))
            .collect();
        if kept.is_empty() {
            continue;
        }
        let id = if args.no_trunc {
            image.id.to_string()
        } else {
            image.id.short().to_owned()
        };
        for name in kept {
            rows.push(row(name, &id, listed, now));
        }
        ids.push(id);
    }
    let mut out = output::stdout();
    if args.quiet && args.format.is_none() {
        for id in ids {
            writeln!(out, "{id}")?;
        }
    } else {
        let columns = if args.digests {
            &WITH_DIGESTS
        } else {
            &COLUMNS
        };
        output::list(&mut out, &rows, columns, args.format.as_deref())?;
    }
    out.flush()?;
    Ok(0)
}

/// An image of this store or of another one.
struct Listed {
    image: StoredImage,
    size: u64,
    is_ours: bool,
}

fn created(image: &StoredImage) -> Option<Timestamp> {
    image.created().parse().ok() // an image need not say when it was made
}

/// One row's name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    repository: Option<String>,
    tag: Option<String>,
    digest: Option<String>,
    reference: Option<Reference>,
}

/// What the first two columns show for each name of an image.
pub fn names_of(image: &StoredImage) -> Vec<(String, String)> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "<none>".to_owned());
    shown_names(image)
        .into_iter()
        .map(|name| (or_none(name.repository), or_none(name.tag)))
        .collect()
}

/// A row for each name; one for a digest without a name; one for none at all.
fn shown_names(image: &StoredImage) -> Vec<Name> {
    let digest_of = |repository: &str| {
        image
            .repo_digests
            .iter()
            .find(|known| known.familiar_name() == repository)
            .and_then(|known| known.digest.as_ref())
            .map(ToString::to_string)
    };
    let mut names: Vec<Name> = image
        .names
        .iter()
        .map(|name| {
            let repository = name.familiar_name();
            Name {
                digest: digest_of(&repository),
                repository: Some(repository),
                tag: name.tag.clone(),
                reference: Some(name.clone()),
            }
        })
        .collect();
    if names.is_empty() {
        names.extend(image.repo_digests.iter().map(|name| Name {
            repository: Some(name.familiar_name()),
            tag: None,
            digest: name.digest.as_ref().map(ToString::to_string),
            reference: Some(name.clone()),
        }));
    }
    if names.is_empty() {
        names.push(Name {
            repository: None,
            tag: None,
            digest: None,
            reference: None,
        });
    }
    names
}

fn row(name: &Name, id: &str, listed: &Listed, now: Timestamp) -> Row {
    let image = &listed.image;
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "<none>".to_owned());
    let size = output::size(listed.size);
    let fields = [
        ("Repository", or_none(&name.repository)),
        ("Tag", or_none(&name.tag)),
        ("ID", id.to_owned()),
        ("Digest", or_none(&name.digest)),
        ("CreatedSince", output::since(image.created(), now)),
        ("CreatedAt", output::moment(image.created())),
        ("Size", size.clone()),
        ("Containers", "N/A".to_owned()),
        ("SharedSize", "N/A".to_owned()),
        ("UniqueSize", "N/A".to_owned()),
        ("VirtualSize", size),
        ("ReadOnly", (!listed.is_ours).to_string()),
    ];
    fields
        .into_iter()
        .map(|(field, text)| (field.to_owned(), text.into()))
        .collect()
}

/// `rl images alpine`, `rl images alpine:3`: exactly this repository, and tag when given.
#[derive(Debug)]
enum Named {
    Exactly(String, Option<String>),
    Like(String),
}

impl Named {
    fn parse(text: &str) -> Self {
        let after_port = text.rfind('/').unwrap_or(0);
        let has_tag = text[after_port..].contains(':');
        match Reference::parse(text) {
            Ok(name) => Named::Exactly(name.familiar_name(), name.tag.clone().filter(|_| has_tag)),
            Err(_) => Named::Like(text.to_owned()),
        }
    }

    fn keeps(&self, name: &Name) -> bool {
        match self {
            Named::Exactly(repository, tag) => {
                name.repository.as_ref() == Some(repository) && (tag.is_none() || name.tag == *tag)
            }
            Named::Like(pattern) => is_like(pattern, name),
        }
    }
}

/// Docker's rule: the pattern fits the short name, with or without tag.
fn is_like(pattern: &str, name: &Name) -> bool {
    name.reference.as_ref().is_some_and(|reference| {
        glob(pattern, &reference.familiar()) || glob(pattern, &reference.familiar_name())
    })
}

/// One `--filter`.
#[derive(Debug)]
enum Filter {
    Reference(String),
    Dangling(bool),
    ReadOnly(bool),
    Label(String, Option<String>),
    Before(Option<Timestamp>),
    Since(Option<Timestamp>),
}

impl Filter {
    fn parse(text: &str, images: &Images) -> Result<Self> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(Fail::usage(format!("--filter `{text}` is not KEY=VALUE")).into());
        };
        let moment = || -> Result<Option<Timestamp>> {
            let image = images.find(value, None)?;
            Ok(created(
                &image.ok_or_else(|| super::image::no_image(value))?,
            ))
        };
        Ok(match key {
            "reference" => Filter::Reference(value.to_owned()),
            "dangling" => Filter::Dangling(
                super::run::values::boolean(value)
                    .map_err(|why| Fail::usage(format!("--filter `{text}`: {why}")))?,
            ),
            "readonly" => Filter::ReadOnly(
                super::run::values::boolean(value)
                    .map_err(|why| Fail::usage(format!("--filter `{text}`: {why}")))?,
            ),
            "label" => match value.split_once('=') {
                Some((label, value)) => Filter::Label(label.to_owned(), Some(value.to_owned())),
                None => Filter::Label(value.to_owned(), None),
            },
            "before" => Filter::Before(moment()?),
            "since" => Filter::Since(moment()?),
            _ => {
                return Err(
                    Fail::usage(format!("--filter `{text}`: unknown key `{key}`"))
                        .hint("known: reference, dangling, label, before, since, readonly")
                        .into(),
                );
            }
        })
    }

    fn keeps(&self, listed: &Listed, name: &Name) -> bool {
        let image = &listed.image;
        match self {
            Filter::ReadOnly(wanted) => listed.is_ours != *wanted,
            Filter::Reference(pattern) => is_like(pattern, name),
            Filter::Dangling(wanted) => name.tag.is_none() == *wanted,
            Filter::Label(label, value) => image
                .config
                .config
                .labels
                .get(label)
                .is_some_and(|has| value.as_ref().is_none_or(|value| value == has)),
            Filter::Before(moment) => created(image) < *moment,
            Filter::Since(moment) => created(image) > *moment,
        }
    }
}
