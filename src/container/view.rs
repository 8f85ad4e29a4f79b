//! What the containers of a store look like from outside: the rows of `ps`, and which of them a filter keeps.
//!
//! Reads only, two small files for each container; `/proc` is asked only about those that claim to run.
//! Prints nothing and chooses no words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::Record;
use super::state::{State, Status};
use crate::error::Fail;
use crate::image::store::Images;
use crate::net::named;
use crate::paths::Store;
use crate::spec::{ContainerSpec, MountSource, Network, Port, Rootfs};

/// A container as it was when it was looked at.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Where it is.
    pub record: Record,
    /// What it is.
    pub spec: ContainerSpec,
    /// What it does.
    pub state: State,
    /// What its health check found; none without a check.
    pub health: Option<HealthState>,
    /// When it was made.
    pub created: Timestamp,
    /// It runs, and stands still.
    pub paused: bool,
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// The container's.
    pub port: Port,
    /// Where the host listens.
    pub host: SocketAddr,
}

/// `health.json`, which whoever runs the check writes: docker's `State.Health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthState {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// Failures in a row.
    #[serde(default)]
    pub failing_streak: u32,
    /// The last checks, as docker describes them.
    #[serde(default)]
    pub log: Vec<serde_json::Value>,
}

/// All that could be read, newest first, and what is wrong with the others.
#[derive(Debug, Default)]
pub struct View {
    /// The containers.
    pub seen: Vec<Seen>,
    /// Why a container could not be read, by id.
    pub damaged: Vec<(String, anyhow::Error)>,
}

/// Looks at all containers. One that is being made or removed meanwhile may be missing.
///
/// # Errors
/// When the directory of containers cannot be read.
pub fn all(store: &Store) -> Result<View> {
    let mut view = View::default();
    for record in Record::all(store)? {
        match Seen::look(&record) {
            Ok(seen) => view.seen.push(seen),
            Err(_) if is_gone(&record) => {}
            Err(error) => view.damaged.push((record.id, error)),
        }
    }
    view.seen
        .sort_by(|a, b| (b.created, &b.spec.id).cmp(&(a.created, &a.spec.id)));
    view.damaged.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(view)
}

/// Its directory went, or is not complete yet: nothing is damaged.
fn is_gone(record: &Record) -> bool {
    let dir = record.dir();
    if !dir.is_dir() {
        return true;
    }
    let is_locked = matches!(record.try_lock(), Ok(None));
    is_locked && !(dir.join("container.json").exists() && dir.join("state.json").exists())
}

impl Seen {
    /// Looks at one.
    ///
    /// # Errors
    /// `Corrupt` with the file that is damaged.
    pub fn look(record: &Record) -> Result<Self> {
        let spec = record.read_spec()?;
        let state = record.state()?;
        let created = state.created.parse().map_err(|_| {
            Fail::corrupt(format!(
                "`{}` is damaged: `{}` is no time",
                record.dir().join("state.json").display(),
                state.created
            ))
            .hint("remove the container: rl rm -f; its image and volumes stay")
        })?;
        let health = spec
            .health
            .is_some()
            .then(|| health(&record.dir(), state.status))
            .flatten();
        Ok(Self {
            record: record.clone(),
            paused: super::group::is_paused(&record.id, &state),
            spec,
            state,
            health,
            created,
        })
    }

    /// Docker's word for what it does.
    #[must_use]
    pub fn status(&self) -> &'static str {
        if self.paused {
            "paused"
        } else {
            self.state.status.word()
        }
    }

    /// Its program runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state.status == Status::Running
    }

    /// The image as the user named it; the directory of `--rootfs`.
    #[must_use]
    pub fn image(&self) -> String {
        match (&self.spec.image, &self.spec.rootfs) {
            (Some(image), _) => image.reference.clone(),
            (None, Rootfs::Directory { path }) => path.display().to_string(),
            (None, Rootfs::Layers { .. } | Rootfs::Squash { .. } | Rootfs::Host) => String::new(),
        }
    }

    /// The network's name, docker's `default` when the user named none.
    #[must_use]
    pub fn network(&self) -> String {
        network(&self.spec.network)
    }

    /// The ports of the host that lead to it now, by its own ports: one for each address family.
    #[must_use]
    pub fn ports(&self) -> Vec<Mapping> {
        if !self.is_running() {
            return Vec::new();
        }
        let mut all: Vec<Mapping> = Vec::new();
        for bound in &self.state.ports {
            let addresses = match bound.address {
                Some(address) => vec![address],
                None => vec![
                    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                ],
            };
            all.extend(addresses.into_iter().map(|address| Mapping {
                port: bound.port,
                host: SocketAddr::new(address, bound.host),
            }));
        }
        all.sort_unstable();
        all
    }

    /// The ports it serves while it runs, published or not.
    #[must_use]
    pub fn exposed(&self) -> Vec<Port> {
        let mut all = self.spec.expose.clone();
        all.extend(self.spec.publish.iter().map(|one| one.port));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Names of volumes and paths of the host that are mounted.
    #[must_use]
    pub fn mounts(&self) -> Vec<String> {
        let sources = self
            .spec
            .mounts
            .iter()
            .filter_map(|mount| match &mount.source {
                MountSource::Bind { path, .. } => Some(path.display().to_string()),
                MountSource::Volume { volume, .. } => Some(volume.clone()),
                MountSource::Image { image, .. } => Some(image.reference.clone()),
                MountSource::Tmpfs { .. } => None,
            });
        sources.collect()
    }

    /// How many of its mounts are volumes.
    #[must_use]
    pub fn volumes(&self) -> usize {
        let is_volume = |source: &MountSource| matches!(source, MountSource::Volume { .. });
        self.spec
            .mounts
            .iter()
            .filter(|mount| is_volume(&mount.source))
            .count()
    }

    /// Bytes in its writable layer, as far as the user may look into it.
    #[must_use]
    pub fn size_written(&self) -> u64 {
        written(&self.record)
    }

    /// Bytes of its image's layers; 0 when the image is gone.
    #[must_use]
    pub fn size_image(&self, images: &Images) -> u64 {
        let image = self
            .spec
            .image
            .as_ref()
            .filter(|image| !image.id.is_empty());
        image
            .and_then(|image| images.find(&image.id, None).ok().flatten())
            .and_then(|image| images.size_unpacked(&image).ok())
            .unwrap_or_default()
    }
}

/// Bytes in a container's writable layer, as far as the user may look into it: a directory that a subordinate
/// id has closed counts as empty.
#[must_use]
pub fn written(record: &Record) -> u64 {
    bytes_below(&record.dir().join("upper"))
}

/// Bytes in the files below `dir`, as far as the user may look.
#[must_use]
pub fn bytes_below(dir: &Path) -> u64 {
    let mut dirs: Vec<PathBuf> = vec![dir.to_owned()];
    let mut bytes = 0;
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => dirs.push(entry.path()),
                Ok(meta) if meta.is_file() => bytes += meta.len(),
                Ok(_) | Err(_) => {}
            }
        }
    }
    bytes
}

/// The name of a network as `--network` takes it.
#[must_use]
pub fn network(network: &Network) -> String {
    match network {
        Network::Auto => "default".to_owned(),
        Network::Pasta { .. } => "pasta".to_owned(),
        Network::Slirp4netns { .. } => "slirp4netns".to_owned(),
        Network::Host => "host".to_owned(),
        Network::None => "none".to_owned(),
        Network::Container { id } => format!("container:{id}"),
        Network::Path { path } => format!("ns:{}", path.display()),
        Network::Named { networks } => {
            let names: Vec<&str> = networks.iter().map(|one| one.network.as_str()).collect();
            names.join(",")
        }
    }
}

/// What the last check found. A check that has not reported yet is starting, as docker has it.
fn health(dir: &Path, status: Status) -> Option<HealthState> {
    let written = std::fs::read(dir.join("health.json"))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    written.or_else(|| {
        (status == Status::Running).then(|| HealthState {
            status: "starting".to_owned(),
            failing_streak: 0,
            log: Vec::new(),
        })
    })
}

/// All `--filter` of one command: several values of one key are alternatives, but every label must fit, and
/// every key must. Source: moby, `daemon/list.go`.
#[derive(Debug, Default)]
pub struct Filters {
    keys: Vec<(&'static str, Vec<Test>)>,
    /// `status=` brings the stopped ones too.
    pub names_status: bool,
}

#[derive(Debug)]
enum Test {
    Id(Pattern),
    Name(Pattern),
    Label(String, Option<String>),
    Status(&'static str),
    Exited(u8),
    Ancestor(Ancestor),
    Before(Timestamp, String),
    Since(Timestamp, String),
    Volume(String),
    Network(String),
    Health(&'static str),
}

#[derive(Debug)]
struct Ancestor {
    text: String,
    image: Option<(String, Vec<String>)>,
}

/// The keys that are known.
const KEYS: &[&str] = &[
    "id", "name", "label", "status", "exited", "ancestor", "before", "since", "volume", "network",
    "health",
];
const STATUSES: &[&str] = &[
    "created",
    "restarting",
    "running",
    "removing",
    "paused",
    "exited",
    "dead",
];
const HEALTHS: &[&str] = &["starting", "healthy", "unhealthy", "none"];

impl Filters {
    /// Reads `KEY=VALUE`s.
    ///
    /// # Errors
    /// `Usage` that names what is wrong, and `NotFound` for a container of `before` or `since`.
    pub fn parse(texts: &[String], store: &Store) -> Result<Self> {
        let mut filters = Self::default();
        for text in texts {
            let Some((key, value)) = text.split_once('=') else {
                return Err(Fail::usage(format!("--filter `{text}` is not KEY=VALUE")).into());
            };
            let Some(known) = KEYS.iter().find(|known| **known == key.trim()) else {
                return Err(
                    Fail::usage(format!("--filter `{text}`: unknown key `{key}`"))
                        .hint(format!("known: {}", KEYS.join(", ")))
                        .into(),
                );
            };
            let test = Test::parse(known, value, store)
                .with_context(|| Fail::usage(format!("--filter `{text}` is not understood")))?;
            filters.names_status |= *known == "status";
            match filters.keys.iter_mut().find(|(key, _)| key == known) {
                Some((_, tests)) => tests.push(test),
                None => filters.keys.push((known, vec![test])),
            }
        }
        Ok(filters)
    }

    /// Whether it stays in the list.
    #[must_use]
    pub fn keep(&self, seen: &Seen) -> bool {
        self.keys.iter().all(|(key, tests)| {
            if *key == "label" {
                tests.iter().all(|test| test.keeps(seen))
            } else {
                tests.iter().any(|test| test.keeps(seen))
            }
        })
    }
}

impl Test {
    fn parse(key: &str, value: &str, store: &Store) -> Result<Self> {
        let one_of = |known: &'static [&'static str]| {
            known
                .iter()
                .find(|word| **word == value)
                .copied()
                .ok_or_else(|| Fail::usage(format!("`{value}` is not one of {}", known.join(", "))))
        };
        let moment = || -> Result<(Timestamp, String)> {
            let seen = Seen::look(&Record::find(store, value)?)?;
            Ok((seen.created, seen.spec.id))
        };
        Ok(match key {
            "id" => Test::Id(Pattern::parse(value)?),
            "name" => Test::Name(Pattern::parse(value)?),
            "label" => match value.split_once('=') {
                Some((label, value)) => Test::Label(label.to_owned(), Some(value.to_owned())),
                None => Test::Label(value.to_owned(), None),
            },
            "status" => Test::Status(one_of(STATUSES)?),
            "exited" => Test::Exited(value.parse().map_err(|_| {
                Fail::usage(format!("`{value}` is not an exit code from 0 to 255"))
            })?),
            "ancestor" => Test::Ancestor(Ancestor::find(value, store)),
            "before" => moment().map(|(time, id)| Test::Before(time, id))?,
            "since" => moment().map(|(time, id)| Test::Since(time, id))?,
            "volume" => Test::Volume(value.to_owned()),
            // An id means its network; what there is none of may be a container's all the same.
            "network" => Test::Network(
                named::config::find(store, value).map_or_else(|_| value.to_owned(), |one| one.name),
            ),
            _ => Test::Health(one_of(HEALTHS)?),
        })
    }

    fn keeps(&self, seen: &Seen) -> bool {
        let spec = &seen.spec;
        match self {
            Test::Id(pattern) => pattern.is_in(&spec.id),
            // Docker's names begin with a slash for those who ask.
            Test::Name(pattern) => {
                pattern.is_in(&spec.name) || pattern.is_in(&format!("/{}", spec.name))
            }
            Test::Label(label, value) => spec
                .labels
                .get(label)
                .is_some_and(|has| value.as_ref().is_none_or(|value| value == has)),
            Test::Status(word) => seen.status() == *word,
            Test::Exited(code) => {
                seen.state.status == Status::Exited && seen.state.exit_code == *code
            }
            Test::Ancestor(ancestor) => ancestor.is_of(spec),
            Test::Before(time, id) => (seen.created, spec.id.as_str()) < (*time, id.as_str()),
            Test::Since(time, id) => (seen.created, spec.id.as_str()) > (*time, id.as_str()),
            Test::Volume(wanted) => {
                seen.mounts().contains(wanted)
                    || spec.mounts.iter().any(|mount| {
                        mount.target.trim_end_matches('/') == wanted.trim_end_matches('/')
                            && !matches!(mount.source, MountSource::Tmpfs { .. })
                    })
            }
            Test::Network(name) => match &seen.spec.network {
                Network::Named { networks } => networks.iter().any(|one| one.network == *name),
                Network::Auto
                | Network::Pasta { .. }
                | Network::Slirp4netns { .. }
                | Network::Host
                | Network::None
                | Network::Container { .. }
                | Network::Path { .. } => seen.network() == *name,
            },
            Test::Health(word) => {
                let status = seen.health.as_ref().map(|health| health.status.as_str());
                status.unwrap_or("none") == *word
            }
        }
    }
}

impl Ancestor {
    /// An image that is not here any more still fits by what the container remembers of it.
    fn find(text: &str, store: &Store) -> Self {
        let image = Images::open(store).find(text, None).ok().flatten();
        Self {
            text: text.to_owned(),
            image: image.map(|image| {
                let layers = image.config.rootfs.diff_ids.iter();
                (
                    image.id.to_string(),
                    layers.map(ToString::to_string).collect(),
                )
            }),
        }
    }

    /// Made from this image, or from one that stands on all of its layers.
    fn is_of(&self, spec: &ContainerSpec) -> bool {
        let Some(from) = &spec.image else {
            return false;
        };
        match (&self.image, &spec.rootfs) {
            (Some((id, _)), _) if *id == from.id => true,
            (Some((_, layers)), Rootfs::Layers { diff_ids }) => {
                !layers.is_empty() && diff_ids.starts_with(layers)
            }
            (Some(_), Rootfs::Directory { .. } | Rootfs::Squash { .. } | Rootfs::Host) => false,
            (None, _) => from.reference == self.text || from.id == self.text,
        }
    }
}

/// The small part of regular expressions that names need: `^ $ . * + ? |` and `\`. Matches anywhere unless
/// anchored, as docker's `name=` does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    alternatives: Vec<Alternative>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Alternative {
    from_start: bool,
    to_end: bool,
    /// Byte (`None`: any), fewest and most repetitions.
    pieces: Vec<(Option<u8>, usize, usize)>,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, Fail> {
        let refused = |what: &str| {
            Err(Fail::usage(format!("`{text}`: {what}"))
                .hint("patterns know ^ $ . * + ? | and \\; or give the plain name"))
        };
        let mut alternatives = Vec::new();
        let mut current = Alternative {
            from_start: false,
            to_end: false,
            pieces: Vec::new(),
        };
        let mut bytes = text.bytes().peekable();
        let mut is_first = true;
        while let Some(byte) = bytes.next() {
            let was_first = std::mem::replace(&mut is_first, false);
            match byte {
                b'^' if was_first => {
                    current.from_start = true;
                    continue;
                }
                b'$' if matches!(bytes.peek(), None | Some(b'|')) => {
                    current.to_end = true;
                    continue;
                }
                b'|' => {
                    let empty = Alternative {
                        from_start: false,
                        to_end: false,
                        pieces: Vec::new(),
                    };
                    alternatives.push(std::mem::replace(&mut current, empty));
                    is_first = true;
                    continue;
                }
                b'*' | b'+' | b'?' => match current.pieces.last_mut() {
                    Some((_, least, most)) => {
                        if byte != b'+' {
                            *least = 0;
                        }
                        if byte != b'?' {
                            *most = usize::MAX;
                        }
                    }
                    None => return refused("nothing to repeat"),
                },
                b'.' => current.pieces.push((None, 1, 1)),
                b'\\' => match bytes.next() {
                    Some(byte) if !byte.is_ascii_alphanumeric() => {
                        current.pieces.push((Some(byte), 1, 1));
                    }
                    Some(_) | None => return refused("this `\\` has no meaning here"),
                },
                b'(' | b')' | b'[' | b']' | b'{' | b'}' => {
                    return refused("groups and classes are not known here");
                }
                byte => current.pieces.push((Some(byte), 1, 1)),
            }
        }
        alternatives.push(current);
        Ok(Self { alternatives })
    }

    fn is_in(&self, text: &str) -> bool {
        self.alternatives.iter().any(|alternative| {
            let last = if alternative.from_start {
                0
            } else {
                text.len()
            };
            (0..=last).any(|at| {
                fits(
                    &alternative.pieces,
                    &text.as_bytes()[at..],
                    alternative.to_end,
                )
            })
        })
    }
}

fn fits(pieces: &[(Option<u8>, usize, usize)], text: &[u8], to_end: bool) -> bool {
    let Some(((wanted, least, most), rest)) = pieces.split_first() else {
        return !to_end || text.is_empty();
    };
    let run = text
        .iter()
        .take(*most)
        .take_while(|byte| wanted.is_none_or(|wanted| wanted == **byte))
        .count();
    (*least..=run).any(|taken| fits(rest, &text[taken..], to_end))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    #[test]
    fn patterns_are_the_part_of_regular_expressions_that_names_need() {
        for (pattern, text, expected) in [
            ("web", "my-web-1", true),
            ("^web", "my-web", false),
            ("^/web$", "/web", true),
            ("web$", "web-1", false),
            ("w.b", "web", true),
            ("^w.*1$", "web-11", true),
            ("^a|b$", "cb", true),
            ("^a|b$", "ba", false),
            ("we+b?$", "wee", true),
            ("a\\.b", "a.b", true),
            ("a\\.b", "axb", false),
            ("", "anything", true),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            assert_eq!(parsed.is_in(text), expected, "{pattern} {text}");
        }
        for bad in ["*", "[ab]", "a(b)", "\\d", "a\\"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    /// A container that nobody made, changed as a test wants it.
    pub fn seen(change: impl FnOnce(&mut serde_json::Value, &mut State)) -> Seen {
        let mut spec = spec();
        let mut state = State::new();
        state.created = "2024-09-06T22:20:07Z".to_owned();
        change(&mut spec, &mut state);
        let spec: ContainerSpec = serde_json::from_value(spec).unwrap();
        let store = Store::at("/nowhere".into());
        Seen {
            record: Record::at(&store, &spec.id),
            created: state.created.parse().unwrap(),
            health: spec.health.as_ref().map(|_| HealthState {
                status: "healthy".to_owned(),
                failing_streak: 0,
                log: Vec::new(),
            }),
            spec,
            state,
            paused: false,
        }
    }

    /// A description as it is stored.
    fn spec() -> serde_json::Value {
        serde_json::json!({
            "version": 1, "id": "a1".repeat(32), "name": "web",
            "image": {"reference": "alpine", "id": "sha256:00"},
            "rootfs": {"kind": "layers", "diff_ids": ["sha256:11", "sha256:22"]},
            "read_only": false,
            "process": {"entrypoint": null, "command": ["sleep", "100"], "env": ["A=1"], "cwd": "", "user": "",
                "groups": [], "tty": false, "interactive": false, "preserve_fds": 0, "umask": 18},
            "init": false, "hostname": null, "domainname": null,
            "mounts": [
                {"target": "/data", "source": {"kind": "volume", "volume": "vol", "copy_up": true},
                 "read_only": false, "options": []},
                {"target": "/src", "source": {"kind": "bind", "path": "/home/u/src", "recursive": true},
                 "read_only": true, "options": []}],
            "devices": [], "namespaces": crate::spec::Namespaces::default(),
            "userns": {"mode": "auto"}, "network": {"mode": "none"}, "names": crate::spec::Names::default(),
            "confinement": crate::spec::Confinement::default(), "shm_size": 67_108_864,
            "annotations": {}, "labels": {"app": "x", "empty": ""}, "stop_signal": "", "remove": false
        })
    }

    #[test]
    fn filters_have_dockers_meaning() {
        let store = Store::at("/nowhere".into());
        let one = seen(|_, state| {
            state.status = Status::Exited;
            state.exit_code = 3;
        });
        for (filters, kept) in [
            ("name=we", true),
            ("name=^/web$", true),
            ("name=other", false),
            ("name=other name=web", true),
            ("id=a1a1", true),
            ("id=^1a", false),
            ("label=app", true),
            ("label=app=x", true),
            ("label=app=y", false),
            ("label=app label=nope", false),
            ("label=empty=", true),
            ("status=exited", true),
            ("status=running", false),
            ("status=running status=exited", true),
            ("exited=3", true),
            ("exited=0", false),
            ("exited=3 name=other", false),
            ("ancestor=alpine", true),
            ("ancestor=debian", false),
            ("volume=vol", true),
            ("volume=/data", true),
            ("volume=/home/u/src", true),
            ("volume=/", false),
            ("network=none", true),
            ("network=host", false),
            ("health=none", true),
            ("health=healthy", false),
        ] {
            let texts: Vec<String> = filters.split(' ').map(str::to_owned).collect();
            let parsed = Filters::parse(&texts, &store).unwrap();
            assert_eq!(parsed.keep(&one), kept, "{filters}");
        }
        for bad in [
            "name",
            "nope=1",
            "status=up",
            "exited=256",
            "health=ok",
            "before=nobody",
        ] {
            assert!(Filters::parse(&[bad.to_owned()], &store).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_is_the_ancestor_of_what_stands_on_its_layers() {
        let one = seen(|_, _| {});
        for (layers, is_ancestor) in [
            (vec!["sha256:11"], true),
            (vec!["sha256:11", "sha256:22"], true),
            (vec!["sha256:22"], false),
            (vec![], false),
        ] {
            let ancestor = Ancestor {
                text: "base".to_owned(),
                image: Some((
                    "sha256:ff".to_owned(),
                    layers.iter().map(|layer| (*layer).to_owned()).collect(),
                )),
            };
            assert_eq!(ancestor.is_of(&one.spec), is_ancestor, "{layers:?}");
        }
    }
}
