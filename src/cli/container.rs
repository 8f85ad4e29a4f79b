//! `rl top`, `rl rename`, `rl healthcheck` and `rl container prune`.
//!
//! What a container looks like is `ps`'s and `inspect`'s; its life is `lifecycle`'s.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::output;
use super::ps::say_damaged;
use super::run::values::duration_s;
use crate::container;
use crate::container::events::Event;
use crate::container::health;
use crate::container::processes::{self, Process};
use crate::container::record::Record;
use crate::container::state::Status;
use crate::container::view::{self, Seen};
use crate::error::Fail;
use crate::idmap::{self, Available};
use crate::net::named;
use crate::paths::Store;
use crate::spec::is_name;

/// The words of `rl top`.
#[derive(Debug, Clone, clap::Args)]
pub struct TopArgs {
    /// Show all containers that run and what they use, on the whole screen: keys sort, q ends it
    #[arg(long, conflicts_with = "words")]
    pub cgroup: bool,

    /// Container, and options of ps(1): `-o pid,user,args`; `-ef` and `aux` show what is shown without them
    #[arg(
        value_names = ["CONTAINER", "PS-OPTIONS"],
        required_unless_present = "cgroup",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub words: Vec<String>,
}

/// The words of `rl rename`.
#[derive(Debug, Clone, clap::Args)]
pub struct RenameArgs {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,

    /// Its new name
    #[arg(value_name = "NEW-NAME")]
    pub name: String,
}

/// The words of `rl healthcheck run`.
#[derive(Debug, Clone, clap::Args)]
pub struct HealthArgs {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// The flags of `rl container prune`.
#[derive(Debug, Clone, clap::Args)]
pub struct PruneArgs {
    /// Only some: until=AGE or TIME, label=KEY[=VALUE], label!=KEY[=VALUE] (can be repeated)
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,

    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// Names of ps(1) for a column, its head, and what stands there.
type Column = (
    &'static [&'static str],
    &'static str,
    fn(&Process) -> String,
);

const TOP: &[Column] = &[
    (&["user", "uname", "uid"], "USER", |one| one.user.clone()),
    (&["pid"], "PID", |one| one.pid.to_string()),
    (&["hpid"], "HPID", |one| one.host_pid.to_string()),
    (&["ppid"], "PPID", |one| one.ppid.to_string()),
    (&["time", "cputime"], "TIME", |one| clock(one.cpu_s)),
    (&["args", "cmd", "command"], "CMD", |one| {
        one.command.clone()
    }),
    (&["stat", "state", "s"], "STAT", |one| one.state.to_string()),
    (&["rss"], "RSS", |one| one.rss_kib.to_string()),
    (&["comm", "ucmd"], "COMMAND", |one| one.name.clone()),
];
/// So many of [`TOP`] are shown when nothing else is asked for.
const TOP_SHOWN: usize = 6;

/// `rl top`.
pub fn top(args: &TopArgs, store: &Store) -> Result<u8> {
    if args.cgroup {
        return super::screen::screen(store);
    }
    let (name, options) = args
        .words
        .split_first()
        .ok_or_else(|| Fail::usage("no container given"))?;
    let columns = columns(options)?;
    let seen = Seen::look(&Record::find(store, name)?)?;
    let mut rows: Vec<Vec<String>> =
        vec![columns.iter().map(|column| column.1.to_owned()).collect()];
    for process in processes::list(&seen)? {
        rows.push(columns.iter().map(|column| column.2(&process)).collect());
    }
    let mut out = output::stdout();
    let mut table = tabwriter::TabWriter::new(&mut out).minwidth(7).padding(3);
    for row in rows {
        writeln!(table, "{}", row.join("\t").trim_end())?;
    }
    table.flush()?;
    drop(table);
    out.flush()?;
    Ok(0)
}

fn columns(options: &[String]) -> Result<Vec<&'static Column>, Fail> {
    let mut wanted = Vec::new();
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let list = match word.as_str() {
            // Docker's default, and what all of them mean here: every process.
            "aux" | "-aux" | "ax" | "-e" | "-A" | "-f" | "-ef" | "a" | "x" | "-a" | "-x" => {
                continue;
            }
            "-o" | "-eo" | "o" | "--format" => words
                .next()
                .map(String::as_str)
                .ok_or_else(|| Fail::usage(format!("`{word}` needs a list of columns")))?,
            word => word
                .strip_prefix("--format=")
                .or_else(|| word.strip_prefix("-eo"))
                .or_else(|| word.strip_prefix("-o"))
                .ok_or_else(|| {
                    Fail::usage(format!("option `{word}` of ps is not known here")).hint(
                        "-o LIST chooses the columns, as in: rl top CONTAINER -o pid,user,args",
                    )
                })?,
        };
        for name in list.split([',', ' ']).filter(|name| !name.is_empty()) {
            let found = TOP.iter().find(|column| column.0.contains(&name));
            wanted.push(found.ok_or_else(|| {
                let known: Vec<&str> = TOP.iter().map(|column| column.0[0]).collect();
                Fail::usage(format!("no column `{name}`"))
                    .hint(format!("columns: {}", known.join(" ")))
            })?);
        }
    }
    if wanted.is_empty() {
        wanted.extend(&TOP[..TOP_SHOWN]);
    }
    Ok(wanted)
}

fn clock(seconds: u64) -> String {
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// `rl rename`.
pub fn rename(args: &RenameArgs, store: &Store) -> Result<u8> {
    let name = args.name.strip_prefix('/').unwrap_or(&args.name);
    if !is_name(name) {
        return Err(Fail::usage(format!("`{name}` cannot name a container"))
            .hint("letters, digits, `_`, `.` and `-`, the first one a letter or digit")
            .into());
    }
    let record = Record::find(store, &args.container)?;
    let old = record.spec()?.name;
    if old == name {
        return Err(Fail::conflict(format!("the container is named `{name}` already")).into());
    }
    record.rename(name)?;
    named::client::rename(store, &record.id, name)?;
    let event = Event::container("rename", &record.spec()?);
    // Docker's names begin with a slash here.
    container::emit(store, &event.with("oldName", &format!("/{old}")));
    Ok(0)
}

/// `rl healthcheck run`: the exit code is 0 when the check finds it well, else 1.
pub fn check_health(args: &HealthArgs, store: &Store) -> Result<u8> {
    let answer = health::run(&Record::find(store, &args.container)?)?;
    if !answer.is_noted {
        super::progress::say(
            "rl: the container runs in the foreground of another command: this result is not noted",
        );
    }
    if answer.is_well {
        return Ok(0);
    }
    output::print(&answer.status)?;
    Ok(1)
}

/// `rl container prune`: removes what does not run. Who is at work in a container keeps it.
pub fn prune(args: &PruneArgs, store: &Store) -> Result<u8> {
    let filters = Filter::parse_all(&args.filter)?;
    if !super::space::agreed(args.force, "This will remove all stopped containers.")? {
        return Ok(0);
    }
    let (removed, bytes, failures) = remove_stopped(&filters, store)?;
    let mut out = output::stdout();
    if !removed.is_empty() {
        writeln!(out, "Deleted Containers:")?;
        for id in removed {
            writeln!(out, "{id}")?;
        }
        writeln!(out)?;
    }
    writeln!(out, "Total reclaimed space: {}", output::size(bytes))?;
    out.flush()?;
    drop(out);
    super::image::all_of(failures)
}

/// The ids of what was removed, the bytes that are free now, and what went wrong.
pub fn remove_stopped(
    filters: &[Filter],
    store: &Store,
) -> Result<(Vec<String>, u64, Vec<anyhow::Error>)> {
    let view = view::all(store)?;
    say_damaged(&view.damaged);
    let available = Available::of(store);
    let (mut removed, mut bytes, mut failures) = (Vec::new(), 0, Vec::new());
    for seen in &view.seen {
        if !filters.iter().all(|filter| filter.keeps(seen)) {
            continue;
        }
        match remove(seen, &available) {
            Ok(Some(size)) => {
                removed.push(seen.spec.id.clone());
                bytes += size;
            }
            Ok(None) => {}
            Err(error) => failures.push(error),
        }
    }
    Ok((removed, bytes, failures))
}

/// The bytes that are free now; none when somebody is at work in it.
fn remove(seen: &Seen, available: &Available) -> Result<Option<u64>> {
    let record = &seen.record;
    let is_stopped = |status| matches!(status, Status::Created | Status::Exited);
    if !is_stopped(seen.state.status) {
        return Ok(None);
    }
    let Some(lock) = record.try_lock()? else {
        return Ok(None);
    };
    // It may have been started and stopped by a monitor that is gone: what counts is what is true under the lock.
    if !is_stopped(record.state()?.status) {
        return Ok(None);
    }
    let bytes = seen.size_written();
    let (plan, _) = idmap::plan(&seen.spec.userns, available)?;
    record
        .remove(lock, &plan, available.helpers.as_ref().ok())
        .with_context(|| format!("removing container {}", seen.spec.name))?;
    Ok(Some(bytes))
}

/// One `--filter` of prune.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Made before.
    Until(Timestamp),
    /// A label, with any or this value.
    Label {
        /// Its name.
        key: String,
        /// Its value.
        value: Option<String>,
        /// It must be there, or must not.
        wanted: bool,
    },
}

impl Filter {
    /// All values of `--filter`.
    pub fn parse_all(texts: &[String]) -> Result<Vec<Self>> {
        let now = Timestamp::now();
        texts
            .iter()
            .map(|text| Self::parse(text, now).map_err(Into::into))
            .collect()
    }

    fn parse(text: &str, now: Timestamp) -> Result<Self, Fail> {
        let refused = || Fail::usage(format!("--filter `{text}` is not KEY=VALUE"));
        let (key, value) = text.split_once('=').ok_or_else(refused)?;
        match key {
            "until" => until(value, now).map(Filter::Until).ok_or_else(|| {
                Fail::usage(format!("--filter `{text}`: not a time"))
                    .hint("give an age such as 24h, or a time such as 2024-09-06T22:20:07Z")
            }),
            "label" | "label!" => {
                let (name, content) = match value.split_once('=') {
                    Some((name, content)) => (name, Some(content.to_owned())),
                    None => (value, None),
                };
                Ok(Filter::Label {
                    key: name.to_owned(),
                    value: content,
                    wanted: key == "label",
                })
            }
            _ => Err(
                Fail::usage(format!("--filter `{text}`: unknown key `{key}`"))
                    .hint("known: until, label, label!"),
            ),
        }
    }

    fn keeps(&self, seen: &Seen) -> bool {
        self.fits(seen.created, |label| {
            seen.spec.labels.get(label).map(String::as_str)
        })
    }

    /// Whether something that was made then and has these labels is meant.
    pub fn fits<'l>(&self, created: Timestamp, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        match self {
            Filter::Until(moment) => created < *moment,
            Filter::Label { key, value, wanted } => {
                let has = label(key);
                let fits = has.is_some_and(|has| value.as_ref().is_none_or(|value| value == has));
                fits == *wanted
            }
        }
    }
}

/// An age, seconds since 1970, a day or a moment (UTC).
fn until(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).ok();
    }
    if let Ok(seconds) = duration_s(text) {
        return Timestamp::from_second(now.as_second().checked_sub(seconds)?).ok();
    }
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        _ if text.ends_with('Z')
            || text.get(19..).is_some_and(|rest| rest.contains(['+', '-'])) =>
        {
            text.to_owned()
        }
        _ => format!("{text}Z"),
    };
    whole.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::view::tests::seen;

    #[test]
    fn ps_options_choose_columns() {
        let heads = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            match columns(&words) {
                Ok(columns) => columns
                    .iter()
                    .map(|column| column.1)
                    .collect::<Vec<_>>()
                    .join(" "),
                Err(fail) => fail.message,
            }
        };
        for (options, expected) in [
            ("", "USER PID HPID PPID TIME CMD"),
            ("aux", "USER PID HPID PPID TIME CMD"),
            ("-ef", "USER PID HPID PPID TIME CMD"),
            ("-o pid,comm", "PID COMMAND"),
            ("-eo pid -o rss", "PID RSS"),
            ("-opid", "PID"),
            ("-o", "`-o` needs a list of columns"),
            ("-o nope", "no column `nope`"),
            ("--forest", "option `--forest` of ps is not known here"),
        ] {
            assert_eq!(heads(options), expected, "{options}");
        }
        assert_eq!(clock(3_723), "01:02:03");
    }

    #[test]
    fn prune_filters_by_age_and_label() {
        let now: Timestamp = "2024-09-07T22:20:07Z".parse().unwrap();
        let one = seen(|_, _| {});
        for (filter, kept) in [
            ("until=1h", true),
            ("until=24h", false),
            ("until=23h59m", true),
            ("until=2024-09-07", true),
            ("until=2024-09-06T00:00:00", false),
            ("until=1725661208", true),
            ("label=app", true),
            ("label=app=y", false),
            ("label!=app", false),
            ("label!=other", true),
        ] {
            let parsed = Filter::parse(filter, now).unwrap();
            assert_eq!(parsed.keeps(&one), kept, "{filter}");
        }
        for bad in ["until=soon", "name=x", "label"] {
            assert!(Filter::parse(bad, now).is_err(), "{bad}");
        }
    }
}
