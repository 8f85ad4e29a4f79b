//! `rl top --cgroup`: all containers and named groups and what they use, on the whole screen.
//!
//! One thread and one wait: for a key, a signal, or the time of the next look. The terminal is given back as it was
//! however this ends, but by SIGKILL.

use std::cmp::Ordering;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ratatui::backend::TermionBackend;
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};
use ratatui::{Frame, Terminal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::output::{binary_size, size};
use super::stats::{self, UNKNOWN, percent, processors};
use crate::cgroup::account::{self, Pressure};
use crate::container::measure::{Sample, Sampler};
use crate::error::Fail;
use crate::paths::Store;
use crate::sys::signal::Queue;
use crate::sys::tty::{self, Raw};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between the first two, so that the first figures come soon.
const FIRST: Duration = Duration::from_millis(300);
/// The other screen, without a cursor; and back.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// `rl top --cgroup`.
pub fn screen(store: &Store) -> Result<u8> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    if !tty::is_terminal(&stdin) || !super::output::is_live(&stdout) {
        return Err(Fail::usage("`rl top --cgroup` needs a terminal")
            .hint("rl stats --no-stream prints the same once")
            .into());
    }
    let signals = Queue::all()?;
    let guard = Guard::enter(stdin.as_fd())?;
    let mut terminal = Terminal::new(TermionBackend::new(io::stdout())).context(DRAWING)?;
    let mut sampler = Sampler::new();
    let mut view = View::default();
    let mut has_said_damage = true; // there is no place for it here
    let mut next = Instant::now();
    let mut looks = 0_u64;
    let code = loop {
        if next <= Instant::now() {
            let mut subjects = stats::running(store, false, &mut has_said_damage)?;
            subjects.extend(super::limit::subjects());
            let samples = sampler.look(subjects)?;
            view.take(samples, account::machine_pressure());
            looks += 1;
            next = Instant::now() + if looks == 1 { FIRST } else { INTERVAL };
        }
        // A new size is found out here.
        terminal.draw(|frame| view.draw(frame)).context(DRAWING)?;
        let mut fds = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::new(&signals, PollFlags::IN),
        ];
        let wait = Timespec::try_from(next.saturating_duration_since(Instant::now()))
            .context("waiting for the next look")?;
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("waiting for a key"),
        }
        let (has_key, has_signal) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if has_signal {
            let number = signals.wait()?.number;
            if [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT].contains(&number) {
                break u8::try_from(128 + number).unwrap_or(u8::MAX);
            }
        }
        if has_key {
            let mut bytes = [0; 64];
            let count = rustix::io::read(&stdin, &mut bytes).unwrap_or(0); // a terminal that has gone
            if count == 0 || !view.keys(&bytes[..count]) {
                break 0;
            }
        }
    };
    drop(terminal);
    drop(guard);
    Ok(code)
}

const DRAWING: &str = "drawing on the terminal";

/// The terminal is ours for as long as it lives.
struct Guard<'a> {
    _raw: Raw<'a>,
}

impl<'a> Guard<'a> {
    fn enter(terminal: std::os::fd::BorrowedFd<'a>) -> Result<Self> {
        let raw = Raw::enter(terminal)?;
        let undo = raw.undo();
        let before = std::panic::take_hook();
        // A release build runs no destructor when it panics.
        std::panic::set_hook(Box::new(move |info| {
            write(LEAVE);
            undo();
            before(info);
        }));
        write(ENTER);
        Ok(Self { _raw: raw })
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::panic::take_hook(); // what it would undo is undone now
        }
        write(LEAVE);
    }
}

fn write(text: &str) {
    let mut out = io::stdout().lock();
    // A terminal that has gone needs nothing.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// What the rows are sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Cpu,
    Memory,
    Network,
    Io,
    Pids,
    Stall,
    Name,
}

/// Keys, what they sort by, and the word at the lower edge.
const ORDERS: &[(u8, Order, &str)] = &[
    (b'c', Order::Cpu, "cpu"),
    (b'm', Order::Memory, "memory"),
    (b't', Order::Network, "traffic"),
    (b'i', Order::Io, "io"),
    (b'p', Order::Pids, "pids"),
    (b's', Order::Stall, "stall"),
    (b'n', Order::Name, "name"),
];

impl Order {
    /// Greatest first, what is not known last; names from A.
    fn compare(self, a: &Sample, b: &Sample) -> Ordering {
        let figure = |sample: &Sample| match self {
            Order::Cpu => sample.cpu(),
            Order::Memory => memory(sample),
            Order::Network => both(network(sample)),
            Order::Io => both(io_rates(sample)),
            Order::Pids => sample.reading.as_ref()?.pids,
            Order::Stall => {
                let pressure = sample.reading.as_ref()?.pressure;
                let stalls = [pressure.cpu, pressure.memory, pressure.io];
                stalls.iter().flatten().map(|stall| stall.some.into()).max()
            }
            Order::Name => None,
        };
        figure(b)
            .cmp(&figure(a))
            .then_with(|| a.subject.name.cmp(&b.subject.name))
    }
}

fn memory(sample: &Sample) -> Option<u64> {
    Some(sample.reading.as_ref()?.memory?.used())
}

/// Bytes received and sent in a second.
fn network(sample: &Sample) -> [Option<u64>; 2] {
    [
        sample.rate(|one| Some(one.traffic?.received)),
        sample.rate(|one| Some(one.traffic?.sent)),
    ]
}

/// Bytes read and written in a second.
fn io_rates(sample: &Sample) -> [Option<u64>; 2] {
    [
        sample.rate(|one| Some(one.io?.read)),
        sample.rate(|one| Some(one.io?.written)),
    ]
}

fn both(rates: [Option<u64>; 2]) -> Option<u64> {
    Some(rates[0]?.saturating_add(rates[1]?))
}

/// A column: its head, its width, how early it goes when the terminal is narrow (0: never), what stands in it.
type Column = (&'static str, u16, u8, fn(&Sample) -> Option<String>);

const COLUMNS: &[Column] = &[
    ("NAME", 16, 0, |one| {
        let mark = if one.subject.paused { " (paused)" } else { "" };
        Some(format!("{}{mark}", one.subject.name))
    }),
    ("CPU %", 8, 0, |one| one.cpu().map(percent)),
    ("CPUS", 6, 4, |one| {
        let limits = &one.reading.as_ref()?.limits;
        Some(processors(limits.cpu.as_ref()?.value.millis()))
    }),
    ("MEMORY", 9, 0, |one| memory(one).map(binary_size)),
    ("LIMIT", 9, 1, |one| {
        one.reading.as_ref()?;
        Some(binary_size(one.memory_limit))
    }),
    ("MEM %", 7, 3, |one| one.memory_share().map(percent)),
    ("RECV/S", 7, 6, |one| network(one)[0].map(size)),
    ("SENT/S", 7, 6, |one| network(one)[1].map(size)),
    ("READ/S", 7, 5, |one| io_rates(one)[0].map(size)),
    ("WRITE/S", 7, 5, |one| io_rates(one)[1].map(size)),
    ("PIDS", 5, 1, |one| {
        Some(one.reading.as_ref()?.pids?.to_string())
    }),
    ("CPU PSI", 7, 2, |one| {
        one.reading.as_ref()?.pressure.cpu.map(stats::stall)
    }),
    ("MEM PSI", 7, 2, |one| {
        one.reading.as_ref()?.pressure.memory.map(stats::stall)
    }),
    ("IO PSI", 7, 2, |one| {
        one.reading.as_ref()?.pressure.io.map(stats::stall)
    }),
];

/// Those that fit; the names get what is left.
fn fitting(width: u16) -> Vec<&'static Column> {
    let mut kept: Vec<&Column> = COLUMNS.iter().collect();
    let needed = |kept: &[&Column]| kept.iter().map(|column| column.1 + 1).sum::<u16>();
    for priority in (1..=6).rev() {
        if needed(&kept) <= width + 1 {
            break;
        }
        kept.retain(|column| column.2 != priority);
    }
    kept
}

/// What is shown.
#[derive(Debug, Default)]
struct View {
    samples: Vec<Sample>,
    machine: Pressure,
    order: Order,
    is_reversed: bool,
    /// The id of the chosen row, which stays chosen wherever it moves.
    chosen: Option<String>,
    table: TableState,
}

impl View {
    fn take(&mut self, samples: Vec<Sample>, machine: Pressure) {
        self.samples = samples;
        self.machine = machine;
        self.sort();
    }

    fn sort(&mut self) {
        let order = self.order;
        self.samples.sort_by(|a, b| order.compare(a, b));
        if self.is_reversed {
            self.samples.reverse();
        }
    }

    fn position(&self) -> Option<usize> {
        let id = self.chosen.as_ref()?;
        self.samples
            .iter()
            .position(|sample| &sample.subject.id == id)
    }

    /// What was typed; false when it ends.
    fn keys(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            bytes = rest;
            match first {
                // Ctrl-C and Ctrl-D
                b'q' | 3 | 4 => return false,
                b'r' => {
                    self.is_reversed = !self.is_reversed;
                    self.sort();
                }
                b'j' => self.choose(true),
                b'k' => self.choose(false),
                // Arrows, in both modes of a terminal.
                27 => match rest {
                    [b'[' | b'O', arrow @ (b'A' | b'B'), rest @ ..] => {
                        self.choose(*arrow == b'B');
                        bytes = rest;
                    }
                    // A key we do not know: all of its bytes.
                    _ => return true,
                },
                key => {
                    if let Some((_, order, _)) = ORDERS.iter().find(|one| one.0 == *key) {
                        self.order = *order;
                        self.is_reversed = false;
                        self.sort();
                    }
                }
            }
        }
        true
    }

    fn choose(&mut self, down: bool) {
        let last = self.samples.len().saturating_sub(1);
        let next = match self.position() {
            None => 0,
            Some(at) if down => (at + 1).min(last),
            Some(at) => at.saturating_sub(1),
        };
        self.chosen = self
            .samples
            .get(next)
            .map(|sample| sample.subject.id.clone());
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, body, detail, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(2),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let reversed = Style::new().add_modifier(Modifier::REVERSED);
        frame.render_widget(Paragraph::new(self.summary()).style(bold), head);

        let columns = fitting(body.width);
        let aligned = |at: usize, text: String| {
            let side = if at == 0 {
                Alignment::Left
            } else {
                Alignment::Right
            };
            Cell::from(Line::from(text).alignment(side))
        };
        let heads = columns
            .iter()
            .enumerate()
            .map(|(at, column)| aligned(at, column.0.to_owned()));
        let rows = self.samples.iter().map(|sample| {
            let cells = columns.iter().enumerate().map(|(at, column)| {
                aligned(at, column.3(sample).unwrap_or_else(|| UNKNOWN.to_owned()))
            });
            Row::new(cells)
        });
        let widths = columns.iter().enumerate().map(|(at, column)| match at {
            0 => Constraint::Min(column.1),
            _ => Constraint::Length(column.1),
        });
        let table = Table::new(rows, widths)
            .header(Row::new(heads).style(reversed))
            .row_highlight_style(reversed);
        let mut state = self.table;
        state.select(self.position());
        frame.render_stateful_widget(table, body, &mut state);
        self.table = state;

        let chosen = self.position().and_then(|at| self.samples.get(at));
        let lines = chosen.map_or_else(Vec::new, |sample| details(sample).map(Line::from).to_vec());
        frame.render_widget(Paragraph::new(lines), detail);
        frame.render_widget(Paragraph::new(self.help()), foot);
    }

    fn summary(&self) -> String {
        let stall = |stall: Option<account::Stall>| stall.map_or(UNKNOWN.to_owned(), stats::stall);
        let count = match self.samples.len() {
            1 => "1 runs".to_owned(),
            count => format!("{count} run"),
        };
        format!(
            "rl: {count}   pressure of the host: cpu {} memory {} io {}",
            stall(self.machine.cpu),
            stall(self.machine.memory),
            stall(self.machine.io)
        )
    }

    fn help(&self) -> Line<'static> {
        // What is at the end is cut first.
        let mut spans = vec![Span::raw("[q]uit [j]/[k] choose [r]everse  sort:")];
        for (key, order, word) in ORDERS {
            let mut style = Style::new();
            if *order == self.order {
                style = style.add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
            }
            let word = word.strip_prefix(char::from(*key)).unwrap_or(word);
            spans.push(Span::raw(" "));
            spans.push(Span::styled(format!("[{}]{word}", char::from(*key)), style));
        }
        Line::from(spans)
    }
}

/// What bounds the chosen one, and where it is.
fn details(sample: &Sample) -> [String; 2] {
    let Some(reading) = &sample.reading else {
        return [String::new(), String::new()];
    };
    let limits = &reading.limits;
    let mut bounds = Vec::new();
    if let Some(bound) = &limits.memory {
        let bytes = binary_size(bound.value);
        bounds.push(format!("memory {bytes} by {}", bound.group.display()));
    }
    if let Some(bound) = &limits.cpu {
        let cpus = processors(bound.value.millis());
        bounds.push(format!("cpus {cpus} by {}", bound.group.display()));
    }
    if let Some(bound) = &limits.pids {
        bounds.push(format!("pids {} by {}", bound.value, bound.group.display()));
    }
    if bounds.is_empty() {
        bounds.push("no limits but the host's".to_owned());
    }
    let mut facts = vec![match &reading.group {
        Some(group) => group.display().to_string(),
        None => "no group of its own: figures from its processes".to_owned(),
    }];
    if let Some(memory) = reading.memory.filter(|memory| memory.cache.is_some()) {
        facts.push(format!("with page cache {}", binary_size(memory.charged)));
    }
    if let Some(us) = reading.throttled_us {
        facts.push(format!("throttled {} s", us / 1_000_000));
    }
    if let Some(events) = reading.events {
        facts.push(format!("OOM kills {}", events.oom_kill));
    }
    [
        format!("{}: {}", sample.subject.name, bounds.join(", ")),
        facts.join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::account::{Bound, Limits, Memory, Stall};
    use crate::container::measure::{Reading, Subject};
    use ratatui::backend::TestBackend;

    fn sample(name: &str, cpu_us: u64, memory: Option<u64>) -> Sample {
        let stall = Some(Stall {
            some: 250,
            full: None,
        });
        let reading = Reading {
            at: Instant::now(),
            group: memory.map(|_| "/sys/fs/cgroup/job/rl-1".into()),
            cpu_us: Some(cpu_us),
            throttled_us: None,
            memory: memory.map(|bytes| Memory {
                charged: bytes,
                cache: Some(0),
                inactive_cache: 0,
                anonymous: bytes,
            }),
            pids: Some(2),
            io: None,
            traffic: None,
            events: None,
            pressure: Pressure {
                cpu: stall,
                ..Pressure::default()
            },
            limits: Limits {
                memory: memory.map(|_| Bound {
                    value: 1 << 30,
                    group: "/sys/fs/cgroup/job".into(),
                }),
                ..Limits::default()
            },
        };
        let mut before = reading.clone();
        before.cpu_us = Some(0);
        before.at -= Duration::from_secs(1);
        Sample {
            subject: Subject {
                id: name.to_owned(),
                name: name.to_owned(),
                process: None,
                group: None,
                paused: name == "alone",
            },
            reading: Some(reading),
            before: Some(before),
            memory_limit: 1 << 30,
        }
    }

    fn view() -> View {
        let mut view = View::default();
        view.take(
            vec![
                sample("web", 20_000, Some(512 << 20)),
                sample("db", 1_500_000, Some(256 << 20)),
                sample("alone", 0, None),
            ],
            Pressure::default(),
        );
        view
    }

    fn screen(view: &mut View, width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 8)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let lines = terminal.backend().to_string();
        let lines = lines.lines().map(|line| line.trim_matches('"').trim_end());
        lines.collect::<Vec<_>>().join("\n")
    }

    fn names(view: &View) -> String {
        let names = view.samples.iter().map(|sample| &*sample.subject.name);
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_screen_shows_rows_bounds_and_keys() {
        let mut view = view();
        assert!(view.keys(b"jj"));
        expect_test::expect![[r#"
            rl: 3 run   pressure of the host: cpu -- memory -- io --
            NAME                              CPU %   CPUS    MEMORY     LIMIT   MEM %  READ/S WRITE/S  PIDS CPU PSI MEM PSI  IO PSI
            db                              150.00%     --    256MiB      1GiB  25.00%      --      --     2   2.50%      --      --
            web                               2.00%     --    512MiB      1GiB  50.00%      --      --     2   2.50%      --      --
            alone (paused)                    0.00%     --        --      1GiB      --      --      --     2   2.50%      --      --
            web: memory 1GiB by /sys/fs/cgroup/job
            /sys/fs/cgroup/job/rl-1, with page cache 512MiB
            [q]uit [j]/[k] choose [r]everse  sort: [c]pu [m]emory [t]raffic [i]o [p]ids [s]tall [n]ame"#]].assert_eq(&screen(&mut view, 120));
    }

    #[test]
    fn a_narrow_screen_keeps_what_matters_most() {
        expect_test::expect![[r#"
            rl: 3 run   pressure of the host: cpu -- memory -- io --
            NAME                         CPU %    MEMORY     LIMIT  PIDS
            db                         150.00%    256MiB      1GiB     2
            web                          2.00%    512MiB      1GiB     2
            alone (paused)               0.00%        --      1GiB     2


            [q]uit [j]/[k] choose [r]everse  sort: [c]pu [m]emory [t]raf"#]]
        .assert_eq(&screen(&mut view(), 60));
        // Nothing is too small to be drawn.
        for width in [1, 5, 20] {
            screen(&mut view(), width);
        }
    }

    #[test]
    fn keys_sort_and_what_is_not_known_comes_last() {
        let mut view = view();
        for (keys, expected) in [
            ("c", "db web alone"),
            ("m", "web db alone"),
            ("r", "alone db web"),
            ("n", "alone db web"),
            ("i", "alone db web"),
            ("\u{1b}[15~c", "alone db web"),
            ("xyc", "db web alone"),
        ] {
            assert!(view.keys(keys.as_bytes()), "{keys}");
            assert_eq!(names(&view), expected, "{keys}");
        }
        for end in ["q", "mq", "\u{3}"] {
            assert!(!view.keys(end.as_bytes()));
        }
    }

    #[test]
    fn the_chosen_row_stays_chosen_when_it_moves_or_goes() {
        let mut view = view();
        view.keys(b"\x1b[B\x1bOB\x1b[A");
        assert_eq!(view.chosen.as_deref(), Some("db"));
        view.keys(b"n");
        assert_eq!(view.position(), Some(1));
        view.keys(b"jjjj");
        assert_eq!(view.chosen.as_deref(), Some("web"));
        view.take(Vec::new(), Pressure::default());
        assert_eq!(view.position(), None);
        view.keys(b"jk");
        screen(&mut view, 80);
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_says_anything() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let modes = || rustix::termios::tcgetattr(&pair.slave).unwrap().local_modes;
        let before = modes();
        let guard = Guard::enter(pair.slave.as_fd()).unwrap();
        assert_ne!(modes(), before);
        let panicked = std::panic::catch_unwind(|| panic!("as a test"));
        assert!(panicked.is_err());
        // No destructor has run, as in a release build.
        assert_eq!(modes(), before);
        drop(guard);
        assert_eq!(modes(), before);
    }

    proptest::proptest! {
        #[test]
        fn no_key_makes_it_panic(keys in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40), width in 1u16..200) {
            let mut view = view();
            view.keys(&keys);
            screen(&mut view, width);
        }
    }
}
