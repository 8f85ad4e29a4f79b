//! What happened in a store, in order, for whoever asks or waits.
//!
//! ```text
//! events.jsonl      {"status":"start","id":…,"from":…,"Type":"container","Action":"start",
//!                    "Actor":{"ID":…,"Attributes":{…}},"scope":"local","time":…,"timeNano":…}
//! events.jsonl.1    the 16 MiB before that
//! ```
//!
//! Every command appends for itself; nobody serves. An event that cannot be noted never stops what it tells of.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::disk_error;
use super::follow::{Identity, Lines, Watch, Woken};
use crate::paths::Store;
use crate::spec::ContainerSpec;

/// When a file is that long, the next one is begun.
const LIMIT: u64 = 16 << 20;
/// How long the lock of the file is waited for. Somebody who was stopped (Ctrl-Z) may hold it.
const PATIENCE_MS: u32 = 100;

/// What sort of thing it happened to. Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A named network.
    Network,
    /// A volume.
    Volume,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Container => "container",
            Kind::Image => "image",
            Kind::Network => "network",
            Kind::Volume => "volume",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// To what sort of thing.
    pub kind: Kind,
    /// Docker's word, such as `die`, or `exec_start: sh -c true`.
    pub action: String,
    /// Full id of a container or image, else a name.
    pub id: String,
    /// Docker's attributes: `name`, `image`, `exitCode`, `signal`, labels.
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// An event of a container, with its name, image and labels.
    #[must_use]
    pub fn container(action: impl Into<String>, spec: &ContainerSpec) -> Self {
        let mut attributes = spec.labels.clone();
        let image = spec.image.as_ref().map(|image| image.reference.clone());
        attributes.insert("image".to_owned(), image.unwrap_or_default());
        attributes.insert("name".to_owned(), spec.name.clone());
        Self {
            kind: Kind::Container,
            action: action.into(),
            id: spec.id.clone(),
            attributes,
        }
    }

    /// An event of an image: its id, and the name that was used.
    #[must_use]
    pub fn image(action: impl Into<String>, id: &str, name: &str) -> Self {
        Self {
            kind: Kind::Image,
            action: action.into(),
            id: id.to_owned(),
            attributes: BTreeMap::from([("name".to_owned(), name.to_owned())]),
        }
    }

    /// An event of a named network.
    #[must_use]
    pub fn network(action: impl Into<String>, name: &str, id: &str) -> Self {
        let attributes = [("name", name), ("type", "bridge")];
        Self {
            kind: Kind::Network,
            action: action.into(),
            id: id.to_owned(),
            attributes: attributes
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    /// An event of a volume.
    #[must_use]
    pub fn volume(action: impl Into<String>, name: &str) -> Self {
        Self {
            kind: Kind::Volume,
            action: action.into(),
            id: name.to_owned(),
            attributes: BTreeMap::from([("driver".to_owned(), "local".to_owned())]),
        }
    }

    /// Adds an attribute, such as `exitCode`.
    #[must_use]
    pub fn with(mut self, key: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.attributes.insert(key.to_owned(), value.to_string());
        self
    }

    /// As it is stored. Source: moby, `api/types/events`.
    fn to_json(&self, now: Timestamp) -> Value {
        let mut fields = serde_json::Map::new();
        if matches!(self.kind, Kind::Container | Kind::Image) {
            fields.insert("status".to_owned(), json!(self.action));
            fields.insert("id".to_owned(), json!(self.id));
        }
        if self.kind == Kind::Container {
            fields.insert("from".to_owned(), json!(self.attributes.get("image")));
        }
        fields.insert("Type".to_owned(), json!(self.kind.word()));
        fields.insert("Action".to_owned(), json!(self.action));
        fields.insert(
            "Actor".to_owned(),
            json!({"ID": self.id, "Attributes": self.attributes}),
        );
        fields.insert("scope".to_owned(), json!("local"));
        fields.insert("time".to_owned(), json!(now.as_second()));
        let nanoseconds = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
        fields.insert("timeNano".to_owned(), json!(nanoseconds));
        Value::Object(fields)
    }
}

fn path(store: &Store) -> PathBuf {
    store.root().join("events.jsonl")
}

fn older(store: &Store) -> PathBuf {
    store.root().join("events.jsonl.1")
}

/// Notes an event, now.
///
/// # Errors
/// The system's: worth a notice, never a reason to stop.
pub fn emit(store: &Store, event: &Event) -> Result<()> {
    emit_limited(store, event, LIMIT)
}

fn emit_limited(store: &Store, event: &Event, limit: u64) -> Result<()> {
    let path = path(store);
    append(store, event, limit).map_err(|error| disk_error(error, &path))
}

fn append(store: &Store, event: &Event, limit: u64) -> io::Result<()> {
    let path = path(store);
    for _ in 0..PATIENCE_MS {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)?;
        let is_locked = lock(&file);
        // Renamed meanwhile: its readers have gone on to the next one.
        if Identity::at(&path)? != Some(Identity::of(&file)?) {
            continue;
        }
        let size = file.metadata()?.len();
        if is_locked && size >= limit {
            std::fs::rename(&path, older(store))?;
            continue;
        }
        // The clock under the lock: the file is in order.
        let mut line = event.to_json(Timestamp::now()).to_string().into_bytes();
        line.push(b'\n');
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1)?;
        }
        if last != *b"\n" {
            // Somebody was killed in the middle of a line.
            line.insert(0, b'\n');
        }
        let written = file.write_all(&line);
        if written.is_err() && is_locked {
            let _ = file.set_len(size); // the next one ends the torn line otherwise
        }
        return written;
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Waits a little. Without the lock the line is still whole: it is one write(2) with O_APPEND.
fn lock(file: &File) -> bool {
    for round in 0..PATIENCE_MS {
        if file.try_lock().is_ok() {
            return true;
        }
        if round > 10 {
            std::thread::sleep(Duration::from_millis(1));
        } else {
            std::thread::yield_now();
        }
    }
    false
}

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct Query<'a> {
    /// What has happened already is shown from then on.
    pub since: Option<Timestamp>,
    /// Nothing newer. Also ends the waiting.
    pub until: Option<Timestamp>,
    /// Wait for new ones.
    pub follow: bool,
    /// With `follow`: end when nobody reads this pipe any more.
    pub sink: Option<BorrowedFd<'a>>,
    /// Which of them.
    pub filters: Filters,
}

/// `--filter`: for each key one of its values must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<&'static str, Vec<String>>);

/// The keys that [`Filters::add`] takes.
pub const FILTERS: [&str; 7] = [
    "container",
    "event",
    "image",
    "label",
    "network",
    "type",
    "volume",
];

impl Filters {
    /// Adds `key=value`; false for a key that is not one of [`FILTERS`].
    #[must_use]
    pub fn add(&mut self, key: &str, value: &str) -> bool {
        let Some(key) = FILTERS.into_iter().find(|known| *known == key) else {
            return false;
        };
        self.0.entry(key).or_default().push(value.to_owned());
        true
    }

    /// Whether an event fits.
    #[must_use]
    pub fn keep(&self, event: &Value) -> bool {
        self.0.iter().all(|(key, values)| {
            values.iter().any(|value| match *key {
                "container" => is_of(event, "container", value),
                "network" => is_of(event, "network", value),
                "volume" => is_of(event, "volume", value),
                "event" => {
                    let action = text(event, "/Action");
                    let word = action.split(':').next().unwrap_or_default();
                    action == value || word == value
                }
                "image" => is_of_image(event, value),
                "label" => has_label(event, value),
                _ => text(event, "/Type") == value,
            })
        })
    }
}

fn text<'a>(event: &'a Value, pointer: &str) -> &'a str {
    event
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn is_of(event: &Value, kind: &str, value: &str) -> bool {
    text(event, "/Type") == kind
        && !value.is_empty()
        && (text(event, "/Actor/ID").starts_with(value)
            || text(event, "/Actor/Attributes/name") == value)
}

/// `alpine` stands for every tag of it.
fn is_of_image(event: &Value, value: &str) -> bool {
    let fits = |name: &str| {
        name == value
            || name
                .strip_prefix(value)
                .is_some_and(|rest| rest.starts_with([':', '@']))
    };
    match text(event, "/Type") {
        "container" => fits(text(event, "/Actor/Attributes/image")),
        "image" => {
            let id = text(event, "/Actor/ID");
            fits(text(event, "/Actor/Attributes/name"))
                || id == value
                || (value.len() >= 4
                    && id
                        .strip_prefix("sha256:")
                        .is_some_and(|id| id.starts_with(value)))
        }
        _ => false,
    }
}

fn has_label(event: &Value, value: &str) -> bool {
    let (key, wanted) = match value.split_once('=') {
        Some((key, wanted)) => (key, Some(wanted)),
        None => (value, None),
    };
    let label = event
        .pointer("/Actor/Attributes")
        .and_then(|attributes| attributes.get(key))
        .and_then(Value::as_str);
    label.is_some_and(|label| wanted.is_none_or(|wanted| wanted == label))
}

/// What a reader comes upon.
#[derive(Debug)]
pub enum Item {
    /// An event in docker's JSON.
    Event(Value),
    /// There is no more for now; what was collected should be shown.
    Pause,
}

/// Reads the events of a store: those since `since` or up to `until` when one is given, and with `follow`
/// those that happen from now on.
///
/// # Errors
/// The system's; what `out` returns.
pub fn read(
    store: &Store,
    query: &Query<'_>,
    out: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let watch = if query.follow {
        store.make(store.root())?;
        Some(Watch::new(store.root(), query.sink)?)
    } else {
        None
    };
    let mut current = begin(store, query).with_context(|| reading(store))?;
    loop {
        while drain(store, query, &mut current, out)? {}
        out(Item::Pause)?;
        let Some(watch) = &watch else { return Ok(()) };
        match watch.wait(query.until)? {
            Woken::Changed => {}
            // What happened before the time was written before it, or nearly.
            Woken::Closed | Woken::Late | Woken::Ended => return Ok(()),
        }
    }
}

fn reading(store: &Store) -> String {
    format!("reading `{}`", path(store).display())
}

fn open(path: &std::path::Path) -> io::Result<Option<Lines>> {
    match File::open(path) {
        Ok(file) => Ok(Some(Lines::new(file, 0))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn begin(store: &Store, query: &Query<'_>) -> io::Result<Option<Lines>> {
    if query.since.is_none() && query.until.is_none() {
        let Ok(file) = File::open(path(store)) else {
            return Ok(None);
        };
        let end = file.metadata()?.len();
        return Ok(Some(Lines::new(file, end)));
    }
    let Some(old) = open(&older(store))? else {
        return open(&path(store));
    };
    let last = Timestamp::try_from(old.file().metadata()?.modified()?);
    match (query.since, last) {
        (Some(since), Ok(last)) if last < since => open(&path(store)),
        _ => Ok(Some(old)),
    }
}

/// Gives out the rest of a file, and goes to the next one if there is one: true then.
fn drain(
    store: &Store,
    query: &Query<'_>,
    current: &mut Option<Lines>,
    out: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<bool> {
    let Some(lines) = current else {
        *current = open(&path(store)).with_context(|| reading(store))?;
        return Ok(current.is_some());
    };
    give(query, lines, out).with_context(|| reading(store))?;
    let me = Identity::of(lines.file())?;
    let (newest, old) = (Identity::at(&path(store))?, Identity::at(&older(store))?);
    if newest.is_none() || newest == Some(me) {
        return Ok(false);
    }
    // It was renamed, and nobody adds to it any more. Twice renamed it has no name.
    let next = if old == Some(me) || old.is_none() {
        open(&path(store))
    } else {
        open(&older(store))
    };
    let Some(next) = next.with_context(|| reading(store))? else {
        return Ok(false);
    };
    give(query, lines, out).with_context(|| reading(store))?;
    *current = Some(next);
    Ok(true)
}

fn give(
    query: &Query<'_>,
    lines: &mut Lines,
    out: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    while let Some(line) = lines.next_line()? {
        let Ok(event) = serde_json::from_slice::<Value>(line) else {
            // Torn by a kill or a full disk.
            continue;
        };
        let time = event
            .get("timeNano")
            .and_then(Value::as_i64)
            .and_then(|time| Timestamp::from_nanosecond(time.into()).ok());
        let is_in_time = query.since.is_none_or(|since| time >= Some(since))
            && query.until.is_none_or(|until| time <= Some(until));
        if is_in_time && query.filters.keep(&event) {
            out(Item::Event(event))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, id: &str, name: &str) -> Event {
        Event {
            kind: Kind::Container,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes: BTreeMap::from([
                ("image".to_owned(), "alpine:3".to_owned()),
                ("name".to_owned(), name.to_owned()),
                ("team".to_owned(), "red".to_owned()),
            ]),
        }
    }

    fn all(store: &Store, query: &Query<'_>) -> Vec<Value> {
        let mut events = Vec::new();
        read(store, query, &mut |item| {
            if let Item::Event(event) = item {
                events.push(event);
            }
            Ok(())
        })
        .unwrap();
        events
    }

    fn from_the_start() -> Query<'static> {
        Query {
            since: Some(Timestamp::UNIX_EPOCH),
            ..Query::default()
        }
    }

    #[test]
    fn an_event_has_dockers_shape() {
        let now = Timestamp::new(1_700_000_000, 5).unwrap();
        let event = event("die", "abc", "web").with("exitCode", &3);
        expect_test::expect![[r#"{"status":"die","id":"abc","from":"alpine:3","Type":"container","Action":"die","Actor":{"ID":"abc","Attributes":{"exitCode":"3","image":"alpine:3","name":"web","team":"red"}},"scope":"local","time":1700000000,"timeNano":1700000000000000005}"#]]
        .assert_eq(&event.to_json(now).to_string());
    }

    #[test]
    fn filters_of_one_key_are_alternatives_and_keys_add_up() {
        let now = Timestamp::UNIX_EPOCH;
        let container = event("health_status: healthy", "abcdef", "web").to_json(now);
        let image = Event::image("pull", "sha256:1234567", "alpine:3").to_json(now);
        for (filters, kept) in [
            (vec![], [true, true]),
            (vec!["container=web"], [true, false]),
            (vec!["container=abc"], [true, false]),
            (vec!["container=we"], [false, false]),
            (vec!["container=other", "container=web"], [true, false]),
            (vec!["container=web", "event=die"], [false, false]),
            (vec!["event=health_status"], [true, false]),
            (
                vec!["event=pull", "event=health_status: healthy"],
                [true, true],
            ),
            (vec!["image=alpine"], [true, true]),
            (vec!["image=alpin"], [false, false]),
            (vec!["image=12345"], [false, true]),
            (vec!["type=image"], [false, true]),
            (vec!["label=team"], [true, false]),
            (vec!["label=team=red"], [true, false]),
            (vec!["label=team=blue"], [false, false]),
        ] {
            let mut read = Filters::default();
            for filter in &filters {
                let (key, value) = filter.split_once('=').unwrap();
                assert!(read.add(key, value));
            }
            assert_eq!(
                [read.keep(&container), read.keep(&image)],
                kept,
                "{filters:?}"
            );
        }
        assert!(!Filters::default().add("colour", "red"));
    }

    #[test]
    fn a_torn_line_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().to_owned());
        std::fs::write(path(&store), "{\"status\":\"torn").unwrap();
        emit(&store, &event("start", "a", "web")).unwrap();
        emit(&store, &event("die", "a", "web")).unwrap();
        let events = all(&store, &from_the_start());
        let actions: Vec<&str> = events.iter().map(|event| text(event, "/Action")).collect();
        assert_eq!(actions, ["start", "die"]);
    }

    #[test]
    fn without_a_time_only_new_events_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().to_owned());
        emit(&store, &event("start", "a", "web")).unwrap();
        assert_eq!(all(&store, &Query::default()).len(), 0);
        let now = Timestamp::now();
        emit(&store, &event("die", "a", "web")).unwrap();
        for (since, until, count) in [
            (Some(now), None, 1),
            (None, Some(now), 1),
            (Some(now), Some(now), 0),
        ] {
            let query = Query {
                since,
                until,
                ..Query::default()
            };
            assert_eq!(all(&store, &query).len(), count);
        }
    }

    #[test]
    fn many_writers_and_a_follower_lose_nothing_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().to_owned());
        let until = Timestamp::now() + jiff::SignedDuration::from_secs(60);
        let query = Query {
            follow: true,
            until: Some(until),
            ..Query::default()
        };
        let mut seen = BTreeMap::<String, Vec<u32>>::new();
        let mut left = 4 * 500;
        let begin = std::sync::Barrier::new(5);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (begin, store) = (&begin, &store);
                scope.spawn(move || {
                    begin.wait();
                    for number in 0..500 {
                        let event =
                            event("start", &format!("{writer}"), "web").with("number", &number);
                        emit_limited(store, &event, 400_000).unwrap();
                    }
                });
            }
            let mut is_first = true;
            let result = read(&store, &query, &mut |item| {
                match item {
                    Item::Pause if std::mem::take(&mut is_first) => {
                        begin.wait();
                    }
                    Item::Pause => {}
                    Item::Event(event) => {
                        let number = text(&event, "/Actor/Attributes/number").parse()?;
                        seen.entry(text(&event, "/Actor/ID").to_owned())
                            .or_default()
                            .push(number);
                        left -= 1;
                    }
                }
                // The only way out before the time.
                anyhow::ensure!(left > 0, "all there");
                Ok(())
            });
            assert_eq!(result.unwrap_err().root_cause().to_string(), "all there");
        });
        assert!(older(&store).exists());
        for numbers in seen.values() {
            assert_eq!(*numbers, (0..500).collect::<Vec<_>>());
        }
    }
}
