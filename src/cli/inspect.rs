//! `rl inspect`: everything that is known of a thing, in docker's JSON.
//!
//! Containers and images. What a container looks like is `container::describe`'s.

use std::io::Write as _;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::output;
use super::shared;
use crate::container::describe;
use crate::container::record::Record;
use crate::container::view::Seen;
use crate::error::{self, Fail};
use crate::image::store::{Images, StoredImage};
use crate::paths::Store;

/// The flags of `rl inspect`.
#[derive(Debug, Clone, clap::Args)]
pub struct InspectArgs {
    /// Print as a Go template, or `json`
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Show what containers have written, and their size with the image's
    #[arg(short, long)]
    pub size: bool,

    /// The kind of the things: container or image; both, in this order, without it
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,

    /// Names or ids
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// What can be inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
}

impl Kind {
    fn parse(text: &str) -> Result<Self, Fail> {
        match text {
            "container" => Ok(Kind::Container),
            "image" => Ok(Kind::Image),
            _ => Err(Fail::usage(format!("--type `{text}` cannot be inspected"))
                .hint("known: container, image")),
        }
    }
}

/// `rl inspect`: prints what is found, and then says what is not. `only`: what the verb stands for.
pub fn inspect(args: &InspectArgs, only: Option<Kind>, store: &Store) -> Result<u8> {
    let kind = match args.kind.as_deref().filter(|text| !text.is_empty()) {
        None => only,
        Some(text) => match (Kind::parse(text)?, only) {
            (kind, Some(only)) if kind != only => {
                return Err(
                    Fail::usage(format!("--type `{text}` is not of this command"))
                        .hint("rl inspect shows both kinds")
                        .into(),
                );
            }
            (kind, _) => Some(kind),
        },
    };
    let images = Images::open(store);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in &args.names {
        match look(name, kind, args.size, store, &images) {
            Ok(value) => found.push(value),
            Err(error) => failures.push(error),
        }
    }
    let mut out = output::stdout();
    match args.format.as_deref() {
        None => writeln!(out, "{}", pretty(&Value::Array(found))?)?,
        Some("json") => writeln!(out, "{}", Value::Array(found))?,
        Some(format) => {
            for value in &found {
                output::object(&mut out, value, format)?;
            }
        }
    }
    out.flush()?;
    super::image::all_of(failures)
}

fn look(
    name: &str,
    kind: Option<Kind>,
    size: bool,
    store: &Store,
    images: &Images,
) -> Result<Value> {
    let missing = if kind == Some(Kind::Image) {
        None
    } else {
        // Docker's names begin with a slash.
        match Record::find(store, name.strip_prefix('/').unwrap_or(name)) {
            Ok(record) => {
                let seen = Seen::look(&record)?;
                let sizes = size.then(|| {
                    let written = seen.size_written();
                    (written, written + seen.size_image(images))
                });
                return Ok(describe::container(&seen, sizes));
            }
            Err(error) if error::kind(&error) == error::Kind::NotFound => Some(error),
            Err(error) => return Err(error),
        }
    };
    let image = match kind {
        Some(Kind::Container) => None,
        Some(Kind::Image) => shared::find_anywhere(store, name)?,
        // What cannot name an image may be a container's name with a mistake in it.
        None => shared::find_anywhere(store, name).ok().flatten(),
    };
    match (image, missing, kind) {
        (Some((images, image)), ..) => Ok(describe_image(&image, images.size_unpacked(&image)?)),
        (None, Some(error), Some(Kind::Container)) => Err(error),
        (None, Some(error), _) => Err(neither(name, &error)),
        (None, None, _) => Err(super::image::no_image(name).into()),
    }
}

/// Keeps the near name that the search for a container has found.
fn neither(name: &str, error: &anyhow::Error) -> anyhow::Error {
    let fail = Fail::not_found(format!("no container or image `{name}`"));
    let hints = error.downcast_ref::<Fail>().map(|fail| fail.hints.clone());
    hints
        .unwrap_or_default()
        .into_iter()
        .fold(fail, Fail::hint)
        .hint("`rl images` lists the images")
        .into()
}

/// JSON with docker's indentation of four.
pub fn pretty(value: &Value) -> Result<String> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(value, &mut serializer)?;
    Ok(String::from_utf8(text)?)
}

/// An image as docker's API describes it. Source: moby, `api/types/image`.
fn describe_image(image: &StoredImage, size: u64) -> Value {
    let config = &image.config;
    let list = |references: &[crate::image::reference::Reference]| -> Vec<String> {
        references
            .iter()
            .map(|reference| reference.familiar())
            .collect()
    };
    let comment = config
        .history
        .last()
        .and_then(|step| step.comment.clone())
        .unwrap_or_default();
    let mut value = json!({
        "Id": image.id,
        "RepoTags": list(&image.names),
        "RepoDigests": list(&image.repo_digests),
        "Parent": "",
        "Comment": comment,
        "Created": image.created(),
        "DockerVersion": "",
        "Author": config.author.clone().unwrap_or_default(),
        "Config": run_config(image),
        "Architecture": config.architecture,
    });
    let mut add = |key: &str, field: Value| {
        if let Some(object) = value.as_object_mut() {
            object.insert(key.to_owned(), field);
        }
    };
    if let Some(variant) = &config.variant {
        add("Variant", json!(variant));
    }
    add("Os", json!(config.os));
    add("Size", json!(size));
    add("VirtualSize", json!(size));
    add("GraphDriver", json!({"Data": null, "Name": "overlay"}));
    add(
        "RootFS",
        json!({"Type": "layers", "Layers": config.rootfs.diff_ids}),
    );
    add("Metadata", json!({"LastTagTime": "0001-01-01T00:00:00Z"}));
    value
}

fn run_config(image: &StoredImage) -> Value {
    let run = &image.config.config;
    let or_null = |is_empty: bool, value: Value| if is_empty { Value::Null } else { value };
    let mut fields = Map::new();
    let mut add = |key: &str, value: Value| {
        fields.insert(key.to_owned(), value);
    };
    add("Hostname", json!(""));
    add("Domainname", json!(""));
    add("User", json!(run.user));
    for key in ["AttachStdin", "AttachStdout", "AttachStderr"] {
        add(key, json!(false));
    }
    if !run.exposed_ports.is_empty() {
        add("ExposedPorts", json!(run.exposed_ports));
    }
    for key in ["Tty", "OpenStdin", "StdinOnce"] {
        add(key, json!(false));
    }
    add("Env", or_null(run.env.is_empty(), json!(run.env)));
    add("Cmd", json!(run.cmd));
    if let Some(check) = &run.healthcheck {
        add("Healthcheck", json!(check));
    }
    add("Image", json!(""));
    add(
        "Volumes",
        or_null(run.volumes.is_empty(), json!(run.volumes)),
    );
    add("WorkingDir", json!(run.working_dir));
    add("Entrypoint", json!(run.entrypoint));
    add(
        "OnBuild",
        or_null(run.on_build.is_empty(), json!(run.on_build)),
    );
    add("Labels", or_null(run.labels.is_empty(), json!(run.labels)));
    if let Some(signal) = &run.stop_signal {
        add("StopSignal", json!(signal));
    }
    if let Some(seconds) = run.stop_timeout {
        add("StopTimeout", json!(seconds));
    }
    if !run.shell.is_empty() {
        add("Shell", json!(run.shell));
    }
    Value::Object(fields)
}
