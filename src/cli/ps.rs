//! `rl ps`: which containers are here, and what they do.
//!
//! Reads the store and prints; changes nothing.

use std::io::Write as _;
use std::net::IpAddr;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::output::{self, Columns, Row};
use super::progress::say;
use crate::container::state::Status;
use crate::container::view::{self, Filters, Seen};
use crate::error;
use crate::image::store::Images;
use crate::paths::Store;
use crate::spec::Port;

/// The flags of `rl ps`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    /// Show all containers, not only those that run
    #[arg(short, long)]
    pub all: bool,

    /// Show only some: id, name, label, status, exited, ancestor, before, since, volume, network, health (KEY=VALUE, can be repeated)
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,

    /// Print as a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Show the last N that were made, whatever they do
    #[arg(short = 'n', long, value_name = "N", default_value_t = -1, hide_default_value = true)]
    pub last: i64,

    /// Show the one that was made last
    #[arg(short, long)]
    pub latest: bool,

    /// Do not shorten ids and commands
    #[arg(long)]
    pub no_trunc: bool,

    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,

    /// Show what they have written, and their size with the image's
    #[arg(short, long)]
    pub size: bool,
}

const HEADS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Label", "LABEL"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];
const COLUMNS: Columns = Columns {
    heads: HEADS,
    shown: &[
        "ID",
        "Image",
        "Command",
        "RunningFor",
        "Status",
        "Ports",
        "Names",
    ],
};
const WITH_SIZES: Columns = Columns {
    heads: HEADS,
    shown: &[
        "ID",
        "Image",
        "Command",
        "RunningFor",
        "Status",
        "Ports",
        "Names",
        "Size",
    ],
};

/// `rl ps`: what cannot be read is named, and the others are listed.
pub fn list(args: &ListArgs, store: &Store) -> Result<u8> {
    let filters = Filters::parse(&args.filter, store)?;
    // The end of the program frees it sooner than we could, one by one.
    let view = std::mem::ManuallyDrop::new(view::all(store)?);
    say_damaged(&view.damaged);
    let last = if args.latest { 1 } else { args.last };
    let limit = usize::try_from(last).ok().filter(|last| *last > 0);
    let shows_stopped = args.all || limit.is_some() || filters.names_status;
    let kept = view
        .seen
        .iter()
        .filter(|seen| {
            shows_stopped || matches!(seen.state.status, Status::Running | Status::Restarting)
        })
        .filter(|seen| filters.keep(seen))
        .take(limit.unwrap_or(usize::MAX));
    let mut out = output::stdout();
    if args.quiet && args.format.is_none() {
        for seen in kept {
            writeln!(out, "{}", shown_id(seen, args.no_trunc))?;
        }
    } else {
        let format = args.format.as_deref().map(with_labels);
        let asks = |field: &str| format.as_ref().is_some_and(|text| text.contains(field));
        let shape = Shape {
            no_trunc: args.no_trunc,
            sizes: (args.size || asks(".Size")).then(|| Images::open(store)),
            label: asks(".Label \"") || asks(".Label `"),
            now: Timestamp::now(),
        };
        let rows =
            std::mem::ManuallyDrop::new(kept.map(|seen| shape.row(seen)).collect::<Vec<Row>>());
        let columns = if args.size { &WITH_SIZES } else { &COLUMNS };
        output::list(&mut out, &rows, columns, format.as_deref())?;
    }
    out.flush()?;
    Ok(0)
}

fn shown_id(seen: &Seen, whole: bool) -> &str {
    let id = seen.spec.id.as_str();
    if whole {
        id
    } else {
        id.get(..12).unwrap_or(id)
    }
}

/// Docker's `.Label "x"` is a call of a method, which data cannot have: it becomes a function over the labels.
fn with_labels(format: &str) -> String {
    let mut text = format.to_owned();
    for quote in ['"', '`'] {
        for object in ["$", ""] {
            let call = format!("{object}.Label {quote}");
            let function = format!("label {object}.Label\u{0} {quote}");
            text = text.replace(&call, &function);
        }
    }
    text.replace('\0', "")
}

#[derive(Debug)]
struct Shape {
    no_trunc: bool,
    sizes: Option<Images>,
    label: bool,
    now: Timestamp,
}

impl Shape {
    fn row(&self, seen: &Seen) -> Row {
        let spec = &seen.spec;
        let labels: Vec<String> = spec
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let shorten = |text: &str, most: usize| {
            if self.no_trunc {
                text.to_owned()
            } else {
                ellipsis(text, most)
            }
        };
        let mounts: Vec<String> = seen
            .mounts()
            .iter()
            .map(|mount| shorten(mount, 15))
            .collect();
        let size = self.sizes.as_ref().map_or_else(
            || "0B".to_owned(),
            |images| {
                let written = seen.size_written();
                match seen.size_image(images) {
                    0 => output::size(written),
                    image => format!(
                        "{} (virtual {})",
                        output::size(written),
                        output::size(written + image)
                    ),
                }
            },
        );
        let command = command(&spec.process.args());
        let fields = [
            ("ID", shown_id(seen, self.no_trunc).to_owned()),
            ("Image", seen.image()),
            ("Command", quoted(&shorten(&command, 20))),
            ("RunningFor", output::since(&seen.state.created, self.now)),
            ("CreatedAt", output::moment(&seen.state.created)),
            ("Status", status(seen, self.now)),
            ("State", seen.status().to_owned()),
            ("Ports", ports(seen)),
            ("Names", spec.name.clone()),
            ("Size", size),
            ("Labels", labels.join(",")),
            ("Mounts", mounts.join(",")),
            ("LocalVolumes", seen.volumes().to_string()),
            ("Networks", seen.network()),
        ];
        let mut row: Row = fields
            .into_iter()
            .map(|(field, text)| (field.to_owned(), text.into()))
            .collect();
        if self.label {
            let labels: Map<String, Value> = spec
                .labels
                .iter()
                .map(|(key, value)| (key.clone(), value.as_str().into()))
                .collect();
            row.insert("Label".to_owned(), Value::Object(labels));
        }
        row
    }
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`: published ports and those that are only served. Runs of ports that are the same
/// on both sides are one entry. Source: docker's cli, `DisplayablePorts`.
fn ports(seen: &Seen) -> String {
    if !seen.is_running() {
        return String::new();
    }
    let mappings = seen.ports();
    let bare = seen
        .exposed()
        .into_iter()
        .filter(|port| mappings.iter().all(|mapping| mapping.port != *port));
    let mut same: Vec<(Port, Option<IpAddr>)> = bare.map(|port| (port, None)).collect();
    let mut others = Vec::new();
    for mapping in &mappings {
        if mapping.host.port() == mapping.port.number {
            same.push((mapping.port, Some(mapping.host.ip())));
        } else {
            others.push(format!("{}->{}", mapping.host, mapping.port));
        }
    }
    same.sort_unstable();
    let mut runs: Vec<(Port, u16, Option<IpAddr>)> = Vec::new();
    for (port, address) in same {
        let run = runs.iter_mut().rfind(|(first, last, at)| {
            first.protocol == port.protocol
                && *at == address
                && last.checked_add(1) == Some(port.number)
        });
        match run {
            Some((_, last, _)) => *last = port.number,
            None => runs.push((port, port.number, address)),
        }
    }
    let mut all: Vec<String> = runs
        .into_iter()
        .map(|(first, last, address)| {
            let range = if first.number == last {
                last.to_string()
            } else {
                format!("{}-{last}", first.number)
            };
            let protocol = first.protocol.word();
            match address {
                None => format!("{range}/{protocol}"),
                Some(IpAddr::V4(at)) => format!("{at}:{range}->{range}/{protocol}"),
                Some(IpAddr::V6(at)) => format!("[{at}]:{range}->{range}/{protocol}"),
            }
        })
        .collect();
    all.append(&mut others);
    all.join(", ")
}

/// Program and arguments, those with spaces in single quotes. Source: moby, `argsAsString`.
fn command(args: &[String]) -> String {
    let mut words = args.iter();
    let mut line = words.next().cloned().unwrap_or_default();
    for word in words {
        line.push(' ');
        if word.contains(' ') {
            line.push_str(&format!("'{word}'"));
        } else {
            line.push_str(word);
        }
    }
    line
}

/// As Go quotes text: nothing in it can steer the terminal.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn ellipsis(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// `Up 5 minutes (healthy)`. Source: moby, `container.State.String`.
fn status(seen: &Seen, now: Timestamp) -> String {
    let state = &seen.state;
    let ago = |then: &Option<String>| {
        then.as_ref()
            .map(|then| format!(" {}", output::since(then, now)))
            .unwrap_or_default()
    };
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Exited => format!("Exited ({}){}", state.exit_code, ago(&state.finished)),
        Status::Restarting => format!("Restarting ({}){}", state.exit_code, ago(&state.finished)),
        Status::Running => {
            let up = ago(&state.started);
            let health = match seen.health.as_ref().map(|health| health.status.as_str()) {
                None | Some("none") => String::new(),
                Some("starting") => " (health: starting)".to_owned(),
                Some(word) => format!(" ({word})"),
            };
            let health = if seen.paused {
                " (Paused)".to_owned()
            } else {
                health
            };
            format!("Up{}{health}", up.trim_end_matches(" ago"))
        }
    }
}

/// One line for each container that could not be read, for commands that go on without it.
pub fn say_damaged(damaged: &[(String, anyhow::Error)]) {
    for (id, error) in damaged {
        let id: String = id.chars().take(12).collect();
        let line = error::report(error);
        let line = line.lines().next().unwrap_or_default();
        let line = line.strip_prefix("rl: ").unwrap_or(line);
        say(&format!("rl: container {id}: {line}: skipped"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::view::tests::seen;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_status_is_in_dockers_words() {
        let now = at("2024-09-06T22:30:07Z");
        let started = Some("2024-09-06T22:25:07Z".to_owned());
        for (kind, code, healthy, expected) in [
            (Status::Created, 0, false, "Created"),
            (Status::Running, 0, false, "Up 5 minutes"),
            (Status::Running, 0, true, "Up 5 minutes (healthy)"),
            (Status::Exited, 137, true, "Exited (137) 5 minutes ago"),
            (Status::Restarting, 1, false, "Restarting (1) 5 minutes ago"),
        ] {
            let one = seen(|spec, state| {
                state.status = kind;
                state.exit_code = code;
                state.started.clone_from(&started);
                state.finished.clone_from(&started);
                if healthy {
                    spec["health"] = serde_json::json!({"command": ["x"], "interval_ns": 1, "timeout_ns": 2,
                        "start_period_ns": 3, "retries": 4});
                }
            });
            assert_eq!(status(&one, now), expected);
        }
        // Nobody saw its end.
        let lost = seen(|_, state| {
            state.status = Status::Exited;
            state.exit_code = 137;
        });
        assert_eq!(status(&lost, now), "Exited (137)");
    }

    #[test]
    fn commands_are_quoted_and_cut_as_docker_does() {
        let words = |text: &str| -> Vec<String> { text.split('|').map(str::to_owned).collect() };
        let shown = |text: &str| quoted(&ellipsis(&command(&words(text)), 20));
        for (args, expected) in [
            ("sh", r#""sh""#),
            ("sleep|100", r#""sleep 100""#),
            (
                "/bin/sh|-c|while true; do sleep 1; done",
                r#""/bin/sh -c 'while t…""#,
            ),
            ("echo|a\u{1b}[1m\n\"", r#""echo a\u001b[1m\n\"""#),
            ("12345678901234567890", r#""12345678901234567890""#),
        ] {
            assert_eq!(shown(args), expected);
        }
    }

    #[test]
    fn ports_are_listed_as_docker_does() {
        let bound = |address: Option<&str>, host: u16, port: &str| crate::spec::Bound {
            address: address.map(|text| text.parse().unwrap()),
            host,
            port: port.parse().unwrap(),
        };
        let mut one = seen(|_, state| {
            state.status = Status::Running;
            state.ports = vec![
                bound(None, 8080, "80/tcp"),
                bound(Some("127.0.0.1"), 7000, "7000/udp"),
                bound(Some("127.0.0.1"), 7001, "7001/udp"),
                bound(Some("::1"), 7000, "7000/tcp"),
            ];
        });
        one.spec.expose = vec!["80/tcp".parse().unwrap(), "443/tcp".parse().unwrap()];
        assert_eq!(
            ports(&one),
            "443/tcp, [::1]:7000->7000/tcp, 127.0.0.1:7000-7001->7000-7001/udp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        one.state.status = Status::Exited;
        assert_eq!(ports(&one), "");
    }

    fn printed(format: Option<&str>) -> String {
        let format = format.map(with_labels);
        let shape = Shape {
            no_trunc: false,
            sizes: None,
            label: format.as_ref().is_some_and(|text| text.contains(".Label ")),
            now: at("2024-09-06T22:30:07Z"),
        };
        let rows = [shape.row(&seen(|_, _| {}))];
        let mut out = Vec::new();
        output::list(&mut out, &rows, &COLUMNS, format.as_deref()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table_is_dockers() {
        assert_eq!(
            printed(None),
            "CONTAINER ID   IMAGE     COMMAND       CREATED          STATUS    PORTS     NAMES\n\
             a1a1a1a1a1a1   alpine    \"sleep 100\"   10 minutes ago   Created             web\n"
        );
        for (format, expected) in [
            ("{{.Names}} {{.State}} {{.LocalVolumes}}", "web created 1\n"),
            (
                "{{.Labels}}|{{.Mounts}}|{{.Networks}}",
                "app=x,empty=|vol,/home/u/src|none\n",
            ),
            (r#"{{.Label "app"}}|{{.Label "nope"}}"#, "x|\n"),
            (r#"{{if .Label "app"}}has{{end}}"#, "has\n"),
            (
                r#"{{range $i := split .Names ","}}{{$.Label "app"}}{{end}}"#,
                "x\n",
            ),
            (
                r#"table {{.Names}}\t{{.Label "com.example.the_app"}}"#,
                "NAMES     the app\nweb       \n",
            ),
        ] {
            assert_eq!(printed(Some(format)), expected, "{format}");
        }
        let json: Value = serde_json::from_str(&printed(Some("json"))).unwrap();
        assert_eq!(json["CreatedAt"], "2024-09-06 22:20:07 +0000 UTC");
        assert_eq!(json.as_object().unwrap().len(), 14);
    }
}
