//! `rl network`: docker's words for named networks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::image::all_of;
use super::output::{self, Columns, Row};
use super::run::networks::address;
use super::run::values::key_value;
use crate::container::events::Event;
use crate::container::record::Record;
use crate::container::{self, networks};
use crate::error::{self, Fail};
use crate::net::named::client;
use crate::net::named::config::{self, Config, Wanted};
use crate::net::named::subnet::Cidr;
use crate::net::named::{Endpoint, Present};
use crate::paths::Store;
use crate::spec::{Joined, Network};

/// The flags of `rl network create`.
#[derive(Debug, Clone, clap::Args)]
pub struct CreateArgs {
    /// The kind of network: bridge
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    pub driver: String,

    /// The bridge's own address (can be repeated)
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Vec<String>,

    /// Let nothing in or out
    #[arg(long)]
    pub internal: bool,

    /// Give out addresses of this range only (can be repeated)
    #[arg(long, value_name = "RANGE")]
    pub ip_range: Vec<String>,

    /// Give IPv6 addresses too
    #[arg(long)]
    pub ipv6: bool,

    /// Set a label (can be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,

    /// Set an option: mtu=BYTES (can be repeated)
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub opt: Vec<String>,

    /// The range of addresses, such as 10.5.0.0/16; one for IPv4, one for IPv6 (can be repeated)
    #[arg(long, value_name = "RANGE")]
    pub subnet: Vec<String>,

    /// Its name
    #[arg(value_name = "NETWORK")]
    pub name: String,
}

/// The flags of `rl network ls`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    /// Show only some: driver, id, label, name, scope, type, dangling (KEY=VALUE, can be repeated)
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
}

/// The flags of `rl network inspect`.
#[derive(Debug, Clone, clap::Args)]
pub struct InspectArgs {
    /// Print as a Go template, or `json`
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Names or ids
    #[arg(value_name = "NETWORK", required = true)]
    pub names: Vec<String>,
}

/// The flags of `rl network rm`.
#[derive(Debug, Clone, clap::Args)]
pub struct RemoveArgs {
    /// One that is not there is no error
    #[arg(short, long)]
    pub force: bool,

    /// Names or ids
    #[arg(value_name = "NETWORK", required = true)]
    pub names: Vec<String>,
}

/// The flags of `rl network prune`.
#[derive(Debug, Clone, clap::Args)]
pub struct PruneArgs {
    /// Only some: label=KEY[=VALUE], label!=KEY[=VALUE] (can be repeated)
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,

    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// The flags of `rl network connect`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectArgs {
    /// Add a name that others on the network find it by (can be repeated)
    #[arg(long, value_name = "NAME")]
    pub alias: Vec<String>,

    /// Its IPv4 address there
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,

    /// Its IPv6 address there
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,

    /// The network
    #[arg(value_name = "NETWORK")]
    pub network: String,

    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// The words of `rl network disconnect`.
#[derive(Debug, Clone, clap::Args)]
pub struct DisconnectArgs {
    /// Accepted for docker's sake
    #[arg(short, long, hide = true)]
    pub force: bool,

    /// The network
    #[arg(value_name = "NETWORK")]
    pub network: String,

    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `rl network create`.
pub fn create(args: &CreateArgs, store: &Store) -> Result<u8> {
    if args.driver != "bridge" {
        return Err(Fail::unsupported(format!(
            "--driver `{}`: there are bridges only",
            args.driver
        ))
        .hint("leave it out")
        .into());
    }
    let ranges = |flag: &str, texts: &[String]| -> Result<Vec<Cidr>, Fail> {
        let read = |text: &String| {
            Cidr::parse(text).ok_or_else(|| {
                Fail::usage(format!("{flag} `{text}` is not a range of addresses"))
                    .hint("give one such as 10.5.0.0/16 or fd00:5::/64")
            })
        };
        texts.iter().map(read).collect()
    };
    let mut mtu = None;
    let mut options = BTreeMap::new();
    for text in &args.opt {
        let (key, value) = key_value("--opt", text)?;
        if !matches!(key.as_str(), "mtu" | "com.docker.network.driver.mtu") {
            return Err(Fail::unsupported(format!("--opt `{key}` is not known"))
                .hint("known: mtu=BYTES")
                .into());
        }
        let number = value
            .parse()
            .ok()
            .filter(|mtu| (1280..=65_535).contains(mtu));
        mtu = Some(number.ok_or_else(|| {
            Fail::usage(format!("--opt `{text}`: give a number from 1280 to 65535"))
        })?);
        options.insert(key, value);
    }
    let mut labels = BTreeMap::new();
    for text in &args.label {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        labels.insert(key.to_owned(), value.to_owned());
    }
    let wanted = Wanted {
        name: args.name.clone(),
        subnets: ranges("--subnet", &args.subnet)?,
        gateways: args
            .gateway
            .iter()
            .map(|text| address("--gateway", text))
            .collect::<Result<_, _>>()?,
        ranges: ranges("--ip-range", &args.ip_range)?,
        ipv6: args.ipv6,
        internal: args.internal,
        labels,
        options,
        mtu,
    };
    // Without it another free range is chosen, at worst one that hides hosts of the local network.
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let config = config::create(store, &wanted, &config::host_routes(&routes))?;
    container::emit(store, &Event::network("create", &config.name, &config.id));
    output::print(&config.id)?;
    Ok(0)
}

const COLUMNS: Columns = Columns {
    heads: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    shown: &["ID", "Name", "Driver", "Scope"],
};

/// `rl network ls`.
pub fn list(args: &ListArgs, store: &Store) -> Result<u8> {
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text, LIST))
        .collect::<Result<Vec<_>, _>>()?;
    let used = if filters.iter().any(|filter| filter.key == "dangling") {
        used(store)?
    } else {
        BTreeSet::new()
    };
    let all = all(store)?;
    let kept: Vec<&Config> = all
        .iter()
        .filter(|one| Filter::keep(&filters, one, &used))
        .collect();
    let id = |one: &Config| {
        if args.no_trunc {
            one.id.clone()
        } else {
            one.id.chars().take(12).collect()
        }
    };
    let mut out = output::stdout();
    if args.quiet && args.format.is_none() {
        for one in kept {
            writeln!(out, "{}", id(one))?;
        }
    } else {
        let rows: Vec<Row> = kept.into_iter().map(|one| row(one, &id(one))).collect();
        output::list(&mut out, &rows, &COLUMNS, args.format.as_deref())?;
    }
    out.flush()?;
    Ok(0)
}

/// Those that can be read; the others are named.
fn all(store: &Store) -> Result<Vec<Config>> {
    let (found, damaged) = config::all(store)?;
    for line in damaged {
        super::progress::say(&format!("rl: {line}"));
    }
    Ok(found)
}

fn row(one: &Config, id: &str) -> Row {
    let labels: Vec<String> = one
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let fields = [
        ("ID", id.to_owned()),
        ("Name", one.name.clone()),
        ("Driver", "bridge".to_owned()),
        ("Scope", "local".to_owned()),
        ("IPv6", one.subnet(false).is_some().to_string()),
        ("Internal", one.internal.to_string()),
        ("Labels", labels.join(",")),
        ("CreatedAt", one.created.clone()),
    ];
    fields
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect()
}

/// The names of networks that containers have, running or not.
fn used(store: &Store) -> Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    for record in Record::all(store)? {
        // One that is damaged, or removed just now, needs none.
        if let Ok(spec) = record.spec()
            && let Network::Named { networks } = spec.network
        {
            used.extend(networks.into_iter().map(|one| one.network));
        }
    }
    Ok(used)
}

const LIST: &[&str] = &["driver", "id", "label", "name", "scope", "type", "dangling"];
const PRUNE: &[&str] = &["label", "label!"];

/// One `--filter`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    key: String,
    value: String,
}

impl Filter {
    fn parse(text: &str, known: &[&str]) -> Result<Self, Fail> {
        let parts = text.split_once('=');
        let (key, value) =
            parts.ok_or_else(|| Fail::usage(format!("--filter `{text}` is not KEY=VALUE")))?;
        if !known.contains(&key) {
            return Err(
                Fail::usage(format!("--filter `{text}`: unknown key `{key}`"))
                    .hint(format!("known: {}", known.join(", "))),
            );
        }
        if key == "dangling" && !matches!(value, "true" | "false" | "1" | "0") {
            return Err(Fail::usage(format!(
                "--filter `{text}`: give true or false"
            )));
        }
        if key == "type" && !matches!(value, "custom" | "builtin") {
            return Err(Fail::usage(format!(
                "--filter `{text}`: give custom or builtin"
            )));
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }

    /// Several values of one key are alternatives, but every label must fit. Source: moby, `daemon/network/filter.go`.
    fn keep(filters: &[Self], one: &Config, used: &BTreeSet<String>) -> bool {
        filters.iter().all(|filter| {
            if filter.key.starts_with("label") {
                return filter.keeps(one, used);
            }
            let same = filters.iter().filter(|other| other.key == filter.key);
            same.into_iter().any(|other| other.keeps(one, used))
        })
    }

    fn keeps(&self, one: &Config, used: &BTreeSet<String>) -> bool {
        let value = self.value.as_str();
        match self.key.as_str() {
            "driver" => value == "bridge",
            "id" => one.id.contains(value),
            "name" => one.name.contains(value),
            "scope" => value == "local",
            "type" => value == "custom",
            "dangling" => matches!(value, "true" | "1") != used.contains(&one.name),
            key => {
                let (name, content) = match value.split_once('=') {
                    Some((name, content)) => (name, Some(content)),
                    None => (value, None),
                };
                let has = one.labels.get(name);
                let fits = has.is_some_and(|has| content.is_none_or(|content| content == has));
                fits != key.ends_with('!')
            }
        }
    }
}

/// `rl network inspect`.
pub fn inspect(args: &InspectArgs, store: &Store) -> Result<u8> {
    let present = client::present(store)?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in &args.names {
        match config::find(store, name) {
            Ok(config) => found.push(describe(&config, &present)),
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

/// The object of `docker network inspect`. Source: moby, `api/types/network`.
fn describe(config: &Config, present: &[Present]) -> Value {
    let ranges: Vec<Value> = config
        .subnets
        .iter()
        .map(|one| {
            let mut range = Map::new();
            range.insert("Subnet".to_owned(), json!(one.subnet));
            if let Some(part) = one.range {
                range.insert("IPRange".to_owned(), json!(part));
            }
            range.insert("Gateway".to_owned(), json!(one.gateway));
            Value::Object(range)
        })
        .collect();
    let mut containers = Map::new();
    for container in present {
        let mut places = container.endpoints.iter();
        if let Some(place) = places.find(|one| one.network_id == config.id) {
            containers.insert(container.id.clone(), member(&container.name, place));
        }
    }
    json!({
        "Name": config.name,
        "Id": config.id,
        "Created": config.created,
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": true,
        "EnableIPv6": config.subnet(false).is_some(),
        "IPAM": {"Driver": "default", "Options": {}, "Config": ranges},
        "Internal": config.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": containers,
        "Options": config.options,
        "Labels": config.labels,
    })
}

fn member(name: &str, place: &Endpoint) -> Value {
    let four = place.ip.map(|(ip, length)| format!("{ip}/{length}"));
    let six = place.ip6.map(|(ip, length)| format!("{ip}/{length}"));
    json!({
        "Name": name,
        "EndpointID": "",
        "MacAddress": place.mac_text(),
        "IPv4Address": four.unwrap_or_default(),
        "IPv6Address": six.unwrap_or_default(),
    })
}

/// `rl network rm`.
pub fn remove(args: &RemoveArgs, store: &Store) -> Result<u8> {
    let mut failures = Vec::new();
    let mut out = output::stdout();
    for name in &args.names {
        match remove_one(name, store) {
            Ok(()) => writeln!(out, "{name}")?,
            Err(error) if args.force && error::kind(&error) == error::Kind::NotFound => {}
            Err(error) => failures.push(error),
        }
    }
    out.flush()?;
    all_of(failures)
}

fn remove_one(name: &str, store: &Store) -> Result<()> {
    let config = config::find(store, name)?;
    let present = client::present(store)?;
    let users: Vec<&str> = present
        .iter()
        .filter(|one| one.endpoints.iter().any(|at| at.network_id == config.id))
        .map(|one| one.name.as_str())
        .collect();
    if let Some(first) = users.first() {
        return Err(Fail::conflict(format!(
            "network `{}` is in use by {}",
            config.name,
            users.join(", ")
        ))
        .hint(format!(
            "stop them, or take them off it: rl network disconnect {} {first}",
            config.name
        ))
        .into());
    }
    if config::remove(store, &config.name)? {
        container::emit(store, &Event::network("destroy", &config.name, &config.id));
    }
    Ok(())
}

/// `rl network prune`: removes what no container has, running or not.
pub fn prune(args: &PruneArgs, store: &Store) -> Result<u8> {
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text, PRUNE))
        .collect::<Result<Vec<_>, _>>()?;
    let question =
        "WARNING! This will remove all custom networks not used by at least one container.";
    if !args.force && !super::container::agreed(question)? {
        return Ok(0);
    }
    let used = used(store)?;
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for one in all(store)? {
        if used.contains(&one.name) || !Filter::keep(&filters, &one, &used) {
            continue;
        }
        match remove_one(&one.name, store) {
            Ok(()) => removed.push(one.name),
            Err(error) => failures.push(error),
        }
    }
    let mut out = output::stdout();
    if !removed.is_empty() {
        writeln!(out, "Deleted Networks:")?;
        for name in removed {
            writeln!(out, "{name}")?;
        }
        writeln!(out)?;
    }
    out.flush()?;
    drop(out);
    all_of(failures)
}

/// `rl network connect`.
pub fn connect(args: &ConnectArgs, store: &Store) -> Result<u8> {
    let joined = Joined {
        network: args.network.clone(),
        aliases: args.alias.clone(),
        ip: args
            .ip
            .as_deref()
            .map(|text| address("--ip", text))
            .transpose()?,
        ip6: args
            .ip6
            .as_deref()
            .map(|text| address("--ip6", text))
            .transpose()?,
        mac: None,
    };
    networks::connect(&Record::find(store, &args.container)?, &joined)?;
    Ok(0)
}

/// `rl network disconnect`.
pub fn disconnect(args: &DisconnectArgs, store: &Store) -> Result<u8> {
    networks::disconnect(&Record::find(store, &args.container)?, &args.network)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_dockers() {
        let config = Config {
            version: 1,
            name: "front".to_owned(),
            id: "abc".repeat(20),
            created: String::new(),
            subnets: Vec::new(),
            internal: false,
            labels: BTreeMap::from([("team".to_owned(), "red".to_owned())]),
            options: BTreeMap::new(),
            mtu: 1500,
        };
        let used = BTreeSet::from(["front".to_owned()]);
        for (texts, kept) in [
            ("name=ron", true),
            ("name=back", false),
            ("name=back name=front", true),
            ("id=abcabc", true),
            ("label=team", true),
            ("label=team=blue", false),
            ("label=team label=other", false),
            ("dangling=true", false),
            ("dangling=false", true),
            ("driver=host", false),
            ("type=custom", true),
        ] {
            let filters: Vec<Filter> = texts
                .split(' ')
                .map(|text| Filter::parse(text, LIST).unwrap())
                .collect();
            assert_eq!(Filter::keep(&filters, &config, &used), kept, "{texts}");
        }
        for bad in ["colour=red", "name", "dangling=perhaps", "type=x"] {
            assert!(Filter::parse(bad, LIST).is_err(), "{bad}");
        }
    }
}
