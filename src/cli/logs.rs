//! `rl logs`: what a container has said, its standard output and its standard error apart.

use std::io::{self, Write};
use std::os::fd::AsFd as _;

use anyhow::Result;
use jiff::Timestamp;

use super::progress::say;
use super::{output, times};
use crate::container::logs::{self, Entry, Item, Query, Stream};
use crate::container::record::Record;
use crate::error::Fail;
use crate::paths::Store;

/// The flags of `rl logs`.
#[derive(Debug, Clone, clap::Args)]
pub struct LogsArgs {
    /// Accepted for docker's sake: there are no further details here
    #[arg(long, hide = true)]
    pub details: bool,

    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,

    /// Show only what is not older: 10m, 2025-01-31T12:00:00Z, seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = times::moment)]
    pub since: Option<Timestamp>,

    /// Show only so many of the last lines, or `all`
    #[arg(short = 'n', long, value_name = "NUMBER", default_value = "all", value_parser = tail)]
    pub tail: Tail,

    /// Begin every line with its time
    #[arg(short, long)]
    pub timestamps: bool,

    /// Show only what is not newer
    #[arg(long, value_name = "TIME", value_parser = times::moment)]
    pub until: Option<Timestamp>,

    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `--tail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Everything.
    All,
    /// So many of the last.
    Last(u64),
}

fn tail(text: &str) -> Result<Tail, String> {
    match text.parse::<i64>() {
        Ok(number) => Ok(u64::try_from(number).map_or(Tail::All, Tail::Last)),
        Err(_) if text == "all" => Ok(Tail::All),
        Err(_) => Err("give a number of lines, or all".to_owned()),
    }
}

/// `rl logs`.
pub fn logs(args: &LogsArgs, store: &Store) -> Result<u8> {
    let record = Record::find(store, &args.container)?;
    if record.spec()?.log.none {
        return Err(
            Fail::usage(format!("container `{}` keeps no log", args.container))
                .hint("it was made with --log-driver none; make it with --log-driver json-file")
                .into(),
        );
    }
    let stdout = io::stdout();
    let query = Query {
        follow: args.follow,
        sink: Some(stdout.as_fd()),
        tail: match args.tail {
            Tail::All => None,
            Tail::Last(number) => Some(number),
        },
        since: args.since,
        until: args.until,
        stream: None,
    };
    let mut printer = Printer {
        stdout: output::stdout(),
        stderr: io::BufWriter::new(io::stderr()),
        last: Stream::Stdout,
        is_inside: [false; 2],
        timestamps: args.timestamps,
    };
    logs::read(&record.dir(), &query, &mut |item| printer.show(item))?;
    printer.flush()?;
    Ok(0)
}

struct Printer<O: Write, E: Write> {
    stdout: O,
    stderr: E,
    last: Stream,
    /// For each stream: its last record did not end its line.
    is_inside: [bool; 2],
    timestamps: bool,
}

impl<O: Write, E: Write> Printer<O, E> {
    fn show(&mut self, item: Item<'_>) -> Result<()> {
        match item {
            Item::Entry(entry) => self.entry(&entry),
            Item::Gap => {
                self.flush()?;
                say("rl: lines may be missing here: the log was rotated away before it was read");
                Ok(())
            }
            Item::Pause => self.flush(),
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        // On one terminal, both stay in order.
        if entry.stream != self.last {
            self.flush()?;
            self.last = entry.stream;
        }
        let out: &mut dyn Write = match entry.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let is_inside = &mut self.is_inside[entry.stream as usize];
        // Not in the middle of a long line.
        if self.timestamps && !*is_inside {
            write!(out, "{} ", entry.time)?;
        }
        *is_inside = !entry.text.ends_with('\n');
        Ok(out.write_all(entry.text.as_bytes())?)
    }

    fn flush(&mut self) -> Result<()> {
        self.stdout.flush()?;
        Ok(self.stderr.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_has_its_time_once() {
        let mut printer = Printer {
            stdout: Vec::new(),
            stderr: Vec::new(),
            last: Stream::Stdout,
            is_inside: [false; 2],
            timestamps: true,
        };
        for (stream, text) in [
            (Stream::Stdout, "a "),
            (Stream::Stderr, "error\n"),
            (Stream::Stdout, "b\n"),
            (Stream::Stdout, "c\n"),
        ] {
            let entry = Entry {
                text: text.into(),
                stream,
                time: "T".into(),
            };
            printer.entry(&entry).unwrap();
        }
        assert_eq!(printer.stdout, b"T a b\nT c\n");
        assert_eq!(printer.stderr, b"T error\n");
    }

    #[test]
    fn the_tail_is_a_number_or_all() {
        for (text, expected) in [
            ("all", Ok(Tail::All)),
            ("-1", Ok(Tail::All)),
            ("0", Ok(Tail::Last(0))),
            ("12", Ok(Tail::Last(12))),
            ("some", Err("give a number of lines, or all".to_owned())),
        ] {
            assert_eq!(tail(text), expected);
        }
    }
}
