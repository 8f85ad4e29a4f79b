//! `rl stats`: what containers use, again and again.
//!
//! What is measured, and how, is `container::measure`'s; here it becomes docker's columns.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;

use super::output::{self, Columns, Row};
use super::ps::say_damaged;
use crate::cgroup::account::Stall;
use crate::container::measure::{Sample, Sampler, Subject};
use crate::container::record::Record;
use crate::container::view::{self, Seen};
use crate::error::{self, Kind};
use crate::paths::Store;

/// The flags of `rl stats`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatsArgs {
    /// Show all containers, not only those that run
    #[arg(short, long)]
    pub all: bool,

    /// Print as a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Look again after so many seconds
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: Duration,

    /// Print once, and end
    #[arg(long)]
    pub no_stream: bool,

    /// Do not shorten ids
    #[arg(long)]
    pub no_trunc: bool,

    /// Containers; all that run without any
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// How long two looks lie apart before the first figures are shown. `/proc` counts in hundredths of a second.
const FIRST: Duration = Duration::from_millis(500);
/// What is shown where nothing is known, as in docker.
pub const UNKNOWN: &str = "--";

const COLUMNS: Columns = Columns {
    heads: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
        ("CPUPressure", "CPU PSI"),
        ("MemPressure", "MEM PSI"),
        ("IOPressure", "IO PSI"),
        ("MemWithCache", "MEM + CACHE"),
        ("MemLimitBy", "MEM LIMIT BY"),
        ("CPULimit", "CPU LIMIT"),
        ("CPUThrottled", "CPU THROTTLED"),
        ("PIDsLimit", "PIDS LIMIT"),
        ("OOMKills", "OOM KILLS"),
    ],
    shown: &[
        "ID",
        "Name",
        "CPUPerc",
        "MemUsage",
        "MemPerc",
        "NetIO",
        "BlockIO",
        "PIDs",
        "CPUPressure",
        "MemPressure",
        "IOPressure",
    ],
};

/// `rl stats`.
pub fn stats(args: &StatsArgs, store: &Store) -> Result<u8> {
    let mut choice = Choice::new(args.all, &args.containers, store)?;
    let mut sampler = Sampler::new();
    // A mistake in the template is said before anything is waited for.
    let nothing: Row = COLUMNS
        .heads
        .iter()
        .map(|(field, _)| ((*field).to_owned(), UNKNOWN.into()))
        .collect();
    let format = args.format.as_deref();
    output::list(&mut std::io::sink(), &[nothing], &COLUMNS, format)?;
    sampler.look(choice.containers(store)?)?;
    std::thread::sleep(FIRST.min(args.interval));
    let stdout = std::io::stdout();
    let redraws = !args.no_stream
        && args.format.as_deref().map(str::trim) != Some("json")
        && output::is_live(&stdout);
    loop {
        let containers = choice.containers(store)?;
        if choice.is_over() {
            return Ok(0);
        }
        let samples = sampler.look(containers)?;
        let rows: Vec<Row> = samples
            .iter()
            .map(|sample| row(sample, &choice, args.no_trunc))
            .collect();
        let mut out = output::stdout();
        if redraws {
            let mut text = Vec::new();
            output::list(&mut text, &rows, &COLUMNS, args.format.as_deref())?;
            out.write_all(redrawn(&String::from_utf8_lossy(&text), size(&stdout)).as_bytes())?;
        } else {
            output::list(&mut out, &rows, &COLUMNS, args.format.as_deref())?;
        }
        out.flush()?;
        drop(out);
        if args.no_stream {
            return Ok(0);
        }
        std::thread::sleep(args.interval);
    }
}

/// Seconds, fractions too.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    match seconds {
        Some(seconds) if (0.1..=86_400.0).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err("it is a number of seconds from 0.1 to 86400".to_owned()),
    }
}

/// Which containers are looked at.
#[derive(Debug)]
struct Choice {
    all: bool,
    /// The word of the user's and what it named, if there were words.
    named: Vec<(String, Record)>,
    are_named: bool,
    has_said_damage: bool,
}

impl Choice {
    fn new(all: bool, words: &[String], store: &Store) -> Result<Self> {
        let named: Result<Vec<_>> = words
            .iter()
            .map(|word| Ok((word.clone(), Record::find(store, word)?)))
            .collect();
        Ok(Self {
            all,
            named: named?,
            are_named: !words.is_empty(),
            has_said_damage: false,
        })
    }

    /// They come and go.
    fn containers(&mut self, store: &Store) -> Result<Vec<Subject>> {
        if !self.are_named {
            return running(store, self.all, &mut self.has_said_damage);
        }
        let mut found = Vec::new();
        let mut kept = Vec::new();
        for (word, record) in std::mem::take(&mut self.named) {
            match Seen::look(&record) {
                Ok(seen) => {
                    found.push(Subject::from(&seen));
                    kept.push((word, record));
                }
                // It was removed while we watched.
                Err(error) if error::kind(&error) == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.named = kept;
        Ok(found)
    }

    /// All that were named are gone.
    fn is_over(&self) -> bool {
        self.are_named && self.named.is_empty()
    }

    fn word<'a>(&'a self, id: &'a str) -> &'a str {
        let named = self.named.iter().find(|(_, record)| record.id == id);
        named.map_or(id.get(..12).unwrap_or(id), |(word, _)| word)
    }
}

/// Those of the store that run, or all of them.
pub fn running(store: &Store, all: bool, has_said_damage: &mut bool) -> Result<Vec<Subject>> {
    let view = view::all(store)?;
    if !std::mem::replace(has_said_damage, true) {
        say_damaged(&view.damaged);
    }
    let found = view.seen.iter().filter(|seen| all || seen.is_running());
    Ok(found.map(Subject::from).collect())
}

fn row(sample: &Sample, choice: &Choice, whole: bool) -> Row {
    let id = sample.subject.id.as_str();
    let reading = sample.reading.as_ref();
    let limits = reading.map(|reading| &reading.limits);
    let pressure = reading.map(|reading| reading.pressure).unwrap_or_default();
    let memory = reading.and_then(|reading| reading.memory);
    let limit = reading.map(|_| output::binary_size(sample.memory_limit));
    let bound = limits.map(|limits| match &limits.memory {
        Some(bound) if bound.value <= sample.memory_limit => bound.group.display().to_string(),
        _ => "host".to_owned(),
    });
    let cells = [
        ("Container", Some(choice.word(id).to_owned())),
        (
            "ID",
            Some(
                if whole {
                    id
                } else {
                    id.get(..12).unwrap_or(id)
                }
                .to_owned(),
            ),
        ),
        ("Name", Some(sample.subject.name.clone())),
        ("CPUPerc", sample.cpu().map(percent)),
        (
            "MemUsage",
            Some(format!(
                "{} / {}",
                memory.map_or(UNKNOWN.to_owned(), |memory| output::binary_size(
                    memory.used()
                )),
                limit.as_deref().unwrap_or(UNKNOWN),
            )),
        ),
        ("MemPerc", sample.memory_share().map(percent)),
        (
            "NetIO",
            reading
                .and_then(|reading| reading.traffic)
                .map(|traffic| pair(traffic.received, traffic.sent)),
        ),
        (
            "BlockIO",
            reading
                .and_then(|reading| reading.io)
                .map(|io| pair(io.read, io.written)),
        ),
        (
            "PIDs",
            reading
                .and_then(|reading| reading.pids)
                .map(|pids| pids.to_string()),
        ),
        ("CPUPressure", pressure.cpu.map(stall)),
        ("MemPressure", pressure.memory.map(stall)),
        ("IOPressure", pressure.io.map(stall)),
        (
            "MemWithCache",
            memory
                .filter(|memory| memory.cache.is_some())
                .map(|memory| output::binary_size(memory.charged)),
        ),
        ("MemLimitBy", bound),
        (
            "CPULimit",
            limits
                .and_then(|limits| limits.cpu.as_ref())
                .map(|bound| processors(bound.value.millis())),
        ),
        (
            "CPUThrottled",
            reading
                .and_then(|reading| reading.throttled_us)
                .map(|us| format!("{}.{:02}s", us / 1_000_000, us / 10_000 % 100)),
        ),
        (
            "PIDsLimit",
            limits
                .and_then(|limits| limits.pids.as_ref())
                .map(|bound| bound.value.to_string()),
        ),
        (
            "OOMKills",
            reading
                .and_then(|reading| reading.events)
                .map(|events| events.oom_kill.to_string()),
        ),
    ];
    let cells = cells.into_iter().map(|(field, text)| {
        let text = text.unwrap_or_else(|| UNKNOWN.to_owned());
        (field.to_owned(), text.into())
    });
    cells.collect()
}

/// Hundredths of a percent, as docker prints them.
#[must_use]
pub fn percent(hundredths: u64) -> String {
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// The last ten seconds, at least one task.
#[must_use]
pub fn stall(stall: Stall) -> String {
    percent(u64::from(stall.some))
}

/// Thousandths of a processor.
#[must_use]
pub fn processors(millis: u64) -> String {
    format!("{}.{:02}", millis / 1000, millis % 1000 / 10)
}

/// `1.2kB / 0B`.
#[must_use]
pub fn pair(first: u64, second: u64) -> String {
    format!("{} / {}", output::size(first), output::size(second))
}

/// Rows and columns of the terminal; what a terminal without a size has.
fn size(terminal: &impl std::os::fd::AsFd) -> (usize, usize) {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        Ok(_) | Err(_) => (24, 80),
    }
}

/// From the upper left corner over what stood there. What is too much for the screen is cut, or the corner would
/// move away from the first line.
fn redrawn(text: &str, (rows, columns): (usize, usize)) -> String {
    let mut screen = "\u{1b}[H".to_owned();
    for line in text.lines().take(rows.saturating_sub(1)) {
        screen.extend(line.chars().take(columns));
        screen.push_str("\u{1b}[K\n");
    }
    screen.push_str("\u{1b}[J");
    screen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::account::{Bound, Io, Limits, Memory, Pressure, Traffic};
    use crate::container::measure::Reading;
    use crate::container::view::tests::seen;

    fn sample(reading: Option<Reading>) -> Sample {
        let before = reading.clone().map(|mut before| {
            before.at -= Duration::from_secs(10);
            before.cpu_us = Some(1);
            before
        });
        Sample {
            subject: Subject::from(&seen(|_, _| {})),
            before,
            memory_limit: 1 << 30,
            reading,
        }
    }

    fn reading() -> Reading {
        let stall = |some| Some(Stall { some, full: None });
        Reading {
            at: std::time::Instant::now(),
            group: None,
            cpu_us: Some(15_004_001),
            throttled_us: Some(2_345_678),
            memory: Some(Memory {
                charged: 300 << 20,
                cache: Some(200 << 20),
                inactive_cache: 44 << 20,
                anonymous: 100 << 20,
            }),
            pids: Some(7),
            io: Some(Io {
                read: 1_200_000,
                written: 0,
            }),
            traffic: Some(Traffic {
                received: 1500,
                sent: 20,
            }),
            events: None,
            pressure: Pressure {
                cpu: stall(1234),
                memory: stall(0),
                io: None,
            },
            limits: Limits {
                memory: Some(Bound {
                    value: 1 << 30,
                    group: "/sys/fs/cgroup/job".into(),
                }),
                ..Limits::default()
            },
        }
    }

    fn printed(sample: &Sample, format: Option<&str>) -> String {
        let choice = Choice {
            all: false,
            named: Vec::new(),
            are_named: false,
            has_said_damage: false,
        };
        let mut out = Vec::new();
        output::list(&mut out, &[row(sample, &choice, false)], &COLUMNS, format).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table_is_dockers_with_pressures() {
        expect_test::expect![[r#"
            CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O       BLOCK I/O    PIDS      CPU PSI   MEM PSI   IO PSI
            a1a1a1a1a1a1   web       150.04%   256MiB / 1GiB       25.00%    1.5kB / 20B   1.2MB / 0B   7         12.34%    0.00%     --
        "#]]
        .assert_eq(&printed(&sample(Some(reading())), None));
    }

    #[test]
    fn what_is_not_known_is_no_number() {
        let text = printed(&sample(None), Some("json"));
        let row: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (field, value) in row.as_object().unwrap() {
            let expected = match field.as_str() {
                "Container" | "ID" => "a1a1a1a1a1a1",
                "Name" => "web",
                "MemUsage" => "-- / --",
                _ => "--",
            };
            assert_eq!(value, expected, "{field}");
        }
    }

    #[test]
    fn fields_beyond_dockers_say_what_bounds() {
        let format =
            "{{.MemWithCache}} {{.MemLimitBy}} {{.CPULimit}} {{.CPUThrottled}} {{.OOMKills}}";
        assert_eq!(
            printed(&sample(Some(reading())), Some(format)),
            "300MiB /sys/fs/cgroup/job -- 2.34s --\n"
        );
        let mut free = sample(Some(reading()));
        free.reading.as_mut().unwrap().limits = Limits::default();
        assert_eq!(printed(&free, Some("{{.MemLimitBy}}")), "host\n");
    }

    #[test]
    fn a_screen_is_drawn_from_its_corner_and_never_scrolls() {
        assert_eq!(
            redrawn("abcdef\nb\nc\nd\n", (3, 4)),
            "\u{1b}[Habcd\u{1b}[K\nb\u{1b}[K\n\u{1b}[J"
        );
    }

    #[test]
    fn an_interval_is_some_seconds() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "nan", "1e9", "x", ""] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
