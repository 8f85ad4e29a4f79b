//! `rl events`: what happens, while it happens.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::{output, times};
use crate::container::events::{self, FILTERS, Filters, Item, Query};
use crate::error::Fail;
use crate::paths::Store;

/// The flags of `rl events`.
#[derive(Debug, Clone, clap::Args)]
pub struct EventsArgs {
    /// Show only some: container=NAME, event=NAME, image=NAME, label=KEY[=VALUE], type=TYPE, volume=NAME (can be repeated)
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,

    /// Print as a Go template, or `json`
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Show what has happened since then too: 10m, 2025-01-31T12:00:00Z, seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = times::moment)]
    pub since: Option<Timestamp>,

    /// End then, or show only what happened before
    #[arg(long, value_name = "TIME", value_parser = times::moment)]
    pub until: Option<Timestamp>,
}

/// `rl events`.
pub fn events(args: &EventsArgs, store: &Store) -> Result<u8> {
    let mut filters = Filters::default();
    for filter in &args.filter {
        let (key, value) = filter.split_once('=').unwrap_or((filter, ""));
        if value.is_empty() || !filters.add(key, value) {
            return Err(Fail::usage(format!("--filter `{filter}` is not known"))
                .hint(format!("as KEY=VALUE; keys: {}", FILTERS.join(" ")))
                .into());
        }
    }
    let stdout = io::stdout();
    let query = Query {
        since: args.since,
        until: args.until,
        follow: args.until.is_none_or(|until| until > Timestamp::now()),
        sink: Some(stdout.as_fd()),
        filters,
    };
    let format = args
        .format
        .as_deref()
        .map(|format| format.replace("\\t", "\t").replace("\\n", "\n"));
    let zone = TimeZone::system();
    let mut out = output::stdout();
    events::read(store, &query, &mut |item| {
        match (item, &format) {
            (Item::Pause, _) => out.flush()?,
            (Item::Event(event), None) => writeln!(out, "{}", line(&event, &zone))?,
            (Item::Event(event), Some(format)) => {
                output::object(&mut out, &with_gos_names(event), format)?;
            }
        }
        Ok(())
    })?;
    Ok(0)
}

/// Docker's templates know some fields under their names in Go.
fn with_gos_names(mut event: Value) -> Value {
    if let Some(fields) = event.as_object_mut() {
        for (json, go) in [
            ("status", "Status"),
            ("id", "ID"),
            ("from", "From"),
            ("scope", "Scope"),
            ("time", "Time"),
            ("timeNano", "TimeNano"),
        ] {
            if let Some(value) = fields.get(json).cloned() {
                fields.insert(go.to_owned(), value);
            }
        }
    }
    event
}

/// `TIME container start ID (image=alpine, name=web)`. Source: docker/cli, `command/system/events.go`.
fn line(event: &Value, zone: &TimeZone) -> String {
    let text = |pointer| {
        event
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let time = event
        .get("timeNano")
        .and_then(Value::as_i64)
        .and_then(|time| Timestamp::from_nanosecond(time.into()).ok())
        .unwrap_or_default();
    let time = time.to_zoned(zone.clone());
    let offset = match time.offset().seconds() {
        0 => "Z".to_owned(),
        _ => time.strftime("%:z").to_string(),
    };
    let mut line = format!(
        "{}{offset} {} {} {}",
        time.strftime("%Y-%m-%dT%H:%M:%S.%9f"),
        text("/Type"),
        text("/Action"),
        text("/Actor/ID")
    );
    let attributes = event
        .pointer("/Actor/Attributes")
        .and_then(Value::as_object);
    let attributes: std::collections::BTreeMap<_, _> = attributes.into_iter().flatten().collect();
    if !attributes.is_empty() {
        let words: Vec<String> = attributes
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        line.push_str(&format!(" ({})", words.join(", ")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_as_dockers() {
        let event = serde_json::json!({
            "Type": "container", "Action": "die", "timeNano": 1_700_000_000_000_000_005_i64,
            "Actor": {"ID": "abc", "Attributes": {"name": "web", "exitCode": "0"}},
        });
        assert_eq!(
            line(&event, &TimeZone::UTC),
            "2023-11-14T22:13:20.000000005Z container die abc (exitCode=0, name=web)"
        );
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert!(line(&event, &zone).starts_with("2023-11-15T00:13:20.000000005+02:00 "));
    }
}
