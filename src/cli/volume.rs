//! `rl volume`: docker's words for volumes.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::container::Filter;
use super::image::all_of;
use super::output::{self, Columns, Row};
use super::progress::say;
use super::run::values::key_value;
use crate::container::volumes::{self, Users, Volume};
use crate::container::{new_id, record, view};
use crate::error::{self, Fail, Kind};
use crate::idmap::{self, Available};
use crate::paths::Store;
use crate::spec::{UserNs, is_name};

/// The flags of `rl volume create`.
#[derive(Debug, Clone, clap::Args)]
pub struct CreateArgs {
    /// The kind of volume: local
    #[arg(short, long, value_name = "DRIVER", default_value = "local")]
    pub driver: String,

    /// Set a label (can be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,

    /// Refused: a local volume has no options here
    #[arg(short, long, value_name = "KEY=VALUE", hide = true)]
    pub opt: Vec<String>,

    /// Its name; one is made up without it
    #[arg(value_name = "VOLUME")]
    pub name: Option<String>,
}

/// The flags of `rl volume ls`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    /// Show only some: dangling, driver, label, name (KEY=VALUE, can be repeated)
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,

    /// Print as a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Print names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// The flags of `rl volume inspect`.
#[derive(Debug, Clone, clap::Args)]
pub struct InspectArgs {
    /// Print as a Go template, or `json`
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Their names
    #[arg(value_name = "VOLUME", required = true)]
    pub names: Vec<String>,
}

/// The flags of `rl volume rm`.
#[derive(Debug, Clone, clap::Args)]
pub struct RemoveArgs {
    /// One that is not there is no error
    #[arg(short, long)]
    pub force: bool,

    /// Their names
    #[arg(value_name = "VOLUME", required = true)]
    pub names: Vec<String>,
}

/// The flags of `rl volume prune`.
#[derive(Debug, Clone, clap::Args)]
pub struct PruneArgs {
    /// Remove those with a name too
    #[arg(short, long)]
    pub all: bool,

    /// Only some: until=AGE or TIME, label=KEY[=VALUE], label!=KEY[=VALUE] (can be repeated)
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,

    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// `rl volume create`.
pub fn create(args: &CreateArgs, store: &Store) -> Result<u8> {
    if args.driver != "local" {
        return Err(Fail::unsupported(format!(
            "--driver `{}`: there are local volumes only",
            args.driver
        ))
        .hint("leave it out; to use a directory of the host, mount it: -v /DIR:/TARGET")
        .into());
    }
    if let Some(option) = args.opt.first() {
        return Err(Fail::unsupported(format!(
            "--opt `{option}`: a local volume is a plain directory here"
        ))
        .hint("to use another directory, mount it: -v /DIR:/TARGET")
        .into());
    }
    let labels = args
        .label
        .iter()
        .map(|text| key_value("--label", text))
        .collect::<Result<_, _>>()?;
    let name = match &args.name {
        Some(name) if is_name(name) => name.clone(),
        Some(name) => {
            return Err(Fail::usage(format!("`{name}` cannot name a volume"))
                .hint("letters, digits, and after the first one also _ . -")
                .into());
        }
        None => new_id()?,
    };
    volumes::make(store, &Volume::new(&name, labels, args.name.is_none()))?;
    output::print(&name)?;
    Ok(0)
}

const COLUMNS: Columns = Columns {
    heads: &[
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("CreatedAt", "CREATED AT"),
    ],
    shown: &["Driver", "Name"],
};

/// `rl volume ls`.
pub fn list(args: &ListArgs, store: &Store) -> Result<u8> {
    let filters = args
        .filter
        .iter()
        .map(|text| parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let users = Users::look(store, None)?;
    let mut kept = all(store)?;
    kept.retain(|one| keep(&filters, one, !users.of(&one.name).is_empty()));
    let mut out = output::stdout();
    if args.quiet && args.format.is_none() {
        for one in kept {
            writeln!(out, "{}", one.name)?;
        }
    } else {
        let rows: Vec<Row> = kept.iter().map(|one| row(one, &users, store)).collect();
        output::list(&mut out, &rows, &COLUMNS, args.format.as_deref())?;
    }
    out.flush()?;
    Ok(0)
}

/// Those that can be read; the others are named.
fn all(store: &Store) -> Result<Vec<Volume>> {
    let (found, damaged) = volumes::all(store)?;
    for line in damaged {
        say(&format!("rl: {line}"));
    }
    Ok(found)
}

fn row(one: &Volume, users: &Users, store: &Store) -> Row {
    let labels: Vec<String> = one
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let fields = [
        ("Driver", "local".to_owned()),
        ("Name", one.name.clone()),
        ("Scope", "local".to_owned()),
        (
            "Mountpoint",
            store.volume_data(&one.name).display().to_string(),
        ),
        ("Labels", labels.join(",")),
        ("Links", users.of(&one.name).len().to_string()),
        ("CreatedAt", one.created.clone()),
    ];
    fields
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect()
}

/// One `--filter` of `ls`: key and value.
fn parse(text: &str) -> Result<(String, String), Fail> {
    let parts = text.split_once('=');
    let (key, value) =
        parts.ok_or_else(|| Fail::usage(format!("--filter `{text}` is not KEY=VALUE")))?;
    if !matches!(key, "dangling" | "driver" | "label" | "label!" | "name") {
        return Err(
            Fail::usage(format!("--filter `{text}`: unknown key `{key}`"))
                .hint("known: dangling, driver, label, label!, name"),
        );
    }
    if key == "dangling" && !matches!(value, "true" | "false" | "1" | "0") {
        return Err(Fail::usage(format!(
            "--filter `{text}`: give true or false"
        )));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Several values of one key are alternatives, but every label must fit. Source: moby, `volume/service`.
fn keep(filters: &[(String, String)], one: &Volume, used: bool) -> bool {
    let fits = |(key, value): &(String, String)| match key.as_str() {
        "driver" => value == "local",
        "name" => one.name.contains(value),
        "dangling" => matches!(value.as_str(), "true" | "1") != used,
        key => {
            let (name, content) = match value.split_once('=') {
                Some((name, content)) => (name, Some(content)),
                None => (value.as_str(), None),
            };
            let has = one.labels.get(name);
            let fits = has.is_some_and(|has| content.is_none_or(|content| content == has));
            fits != key.ends_with('!')
        }
    };
    filters.iter().all(|filter| {
        let mut same = filters.iter().filter(|other| other.0 == filter.0);
        if filter.0.starts_with("label") {
            fits(filter)
        } else {
            same.any(fits)
        }
    })
}

/// `rl volume inspect`.
pub fn inspect(args: &InspectArgs, store: &Store) -> Result<u8> {
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in &args.names {
        match volumes::find(store, name) {
            Ok(volume) => found.push(describe(&volume, store)),
            Err(error) => failures.push(error),
        }
    }
    let mut out = output::stdout();
    match args.format.as_deref() {
        None => writeln!(out, "{}", super::inspect::pretty(&Value::Array(found))?)?,
        Some("json") => writeln!(out, "{}", Value::Array(found))?,
        Some(format) => {
            for value in &found {
                output::object(&mut out, value, format)?;
            }
        }
    }
    out.flush()?;
    all_of(failures)
}

/// The object of `docker volume inspect`. Source: moby, `api/types/volume`.
fn describe(volume: &Volume, store: &Store) -> Value {
    json!({
        "CreatedAt": volume.created,
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": store.volume_data(&volume.name),
        "Name": volume.name,
        "Options": BTreeMap::<String, String>::new(),
        "Scope": "local",
    })
}

/// `rl volume rm`.
pub fn remove(args: &RemoveArgs, store: &Store) -> Result<u8> {
    let available = Available::of(store);
    let (plan, _) = idmap::plan(&UserNs::Auto, &available)?;
    let helpers = available.helpers.as_ref().ok();
    // What a killed one has left.
    record::sweep(store, &plan, helpers);
    let mut failures = Vec::new();
    let mut out = output::stdout();
    for name in &args.names {
        match volumes::remove(store, name, None, &plan, helpers) {
            Ok(()) => writeln!(out, "{name}")?,
            Err(error) if args.force && error::kind(&error) == Kind::NotFound => {}
            Err(error) => failures.push(error),
        }
    }
    out.flush()?;
    drop(out);
    all_of(failures)
}

/// `rl volume prune`.
pub fn prune(args: &PruneArgs, store: &Store) -> Result<u8> {
    let filters = Filter::parse_all(&args.filter)?;
    let which = if args.all { "all" } else { "anonymous" };
    let warning =
        format!("This will remove {which} local volumes not used by at least one container.");
    if !super::space::agreed(args.force, &warning)? {
        return Ok(0);
    }
    let (removed, bytes, failures) = remove_unused(args.all, &filters, store)?;
    let mut out = output::stdout();
    super::space::report(&mut out, "Deleted Volumes:", &removed)?;
    writeln!(out, "Total reclaimed space: {}", output::size(bytes))?;
    out.flush()?;
    drop(out);
    all_of(failures)
}

/// Removes what no container has, running or not: the names, the bytes that are free now, what went wrong.
pub fn remove_unused(
    named: bool,
    filters: &[Filter],
    store: &Store,
) -> Result<(Vec<String>, u64, Vec<anyhow::Error>)> {
    let available = Available::of(store);
    let (plan, _) = idmap::plan(&UserNs::Auto, &available)?;
    let helpers = available.helpers.as_ref().ok();
    // What a killed one has left.
    record::sweep(store, &plan, helpers);
    let users = Users::look(store, None)?;
    let (mut removed, mut bytes, mut failures) = (Vec::new(), 0, Vec::new());
    for one in all(store)? {
        let created = one.created.parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let label = |key: &str| one.labels.get(key).map(String::as_str);
        let wanted = (named || one.anonymous)
            && users.of(&one.name).is_empty()
            && filters.iter().all(|filter| filter.fits(created, label));
        if !wanted {
            continue;
        }
        let size = view::bytes_below(&store.volume_data(&one.name));
        match volumes::remove(store, &one.name, None, &plan, helpers) {
            Ok(()) => {
                bytes += size;
                removed.push(one.name);
            }
            // Another command was quicker.
            Err(error) if error::kind(&error) == Kind::NotFound => {}
            Err(error) => failures.push(error),
        }
    }
    Ok((removed, bytes, failures))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_dockers() {
        let labels = BTreeMap::from([("team".to_owned(), "red".to_owned())]);
        let volume = Volume::new("cache-1", labels, false);
        for (texts, kept) in [
            ("name=cache", true),
            ("name=x name=1", true),
            ("name=x", false),
            ("label=team", true),
            ("label=team=red", true),
            ("label=team=blue", false),
            ("label=team label=other", false),
            ("label!=team", false),
            ("dangling=true", false),
            ("dangling=0", true),
            ("driver=local", true),
            ("driver=nfs", false),
        ] {
            let filters: Vec<_> = texts.split(' ').map(|text| parse(text).unwrap()).collect();
            assert_eq!(keep(&filters, &volume, true), kept, "{texts}");
        }
        for bad in ["colour=red", "name", "dangling=perhaps"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
