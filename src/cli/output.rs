//! What lists look like: docker's tables, `--format`, JSON, sizes and ages.
//!
//! Text goes where the caller says; nothing here asks the machine.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::{Map, Value};
use tabwriter::TabWriter;

use super::template::{Format, Over};

/// One row of a list: field → what is shown.
pub type Row = Map<String, Value>;

/// A kind of list: its fields with the heads of their columns, and the columns shown by default.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Field and head, as in `("ID", "IMAGE ID")`.
    pub heads: &'static [(&'static str, &'static str)],
    /// Fields, in order.
    pub shown: &'static [&'static str],
}

/// Prints `rows` as docker prints them for this `--format`: none, `table`, `table TEMPLATE`, `json`, or a
/// template for each row.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for a mistake in the template; what writing says.
pub fn list(
    out: &mut dyn Write,
    rows: &[Row],
    columns: &Columns,
    format: Option<&str>,
) -> Result<()> {
    let format = format.unwrap_or("table").trim();
    if format == "json" {
        for row in rows {
            // Docker's own order: by name.
            let sorted: std::collections::BTreeMap<_, _> = row.iter().collect();
            writeln!(out, "{}", serde_json::to_string(&sorted)?)?;
        }
        return Ok(());
    }
    let Some(wanted) = format.strip_prefix("table").filter(|rest| {
        rest.is_empty() || rest.starts_with([' ', '\t', '{']) || rest.starts_with("\\t")
    }) else {
        let template = Format::parse(&unescape(format), Over::Data)?;
        for row in rows {
            writeln!(out, "{}", template.fill(&Value::Object(row.clone()))?)?;
        }
        return Ok(());
    };
    let source = unescape(wanted.trim());
    if source.is_empty() {
        return whole_table(out, rows, columns);
    }
    let heads: Row = columns
        .heads
        .iter()
        .map(|(field, head)| ((*field).to_owned(), Value::from(*head)))
        .collect();
    let mut table = table(out);
    let header = Format::parse(&source, Over::Headers)?.fill(&Value::Object(heads))?;
    writeln!(table, "{header}")?;
    let template = Format::parse(&source, Over::Data)?;
    for row in rows {
        writeln!(table, "{}", template.fill(&Value::Object(row.clone()))?)?;
    }
    Ok(table.flush()?)
}

/// The table as it comes, without a template: a thousand rows are no reason to wait.
fn whole_table(out: &mut dyn Write, rows: &[Row], columns: &Columns) -> Result<()> {
    let mut table = table(out);
    let mut line = String::new();
    let head_of = |field: &str| columns.heads.iter().find(|(name, _)| *name == field);
    for field in columns.shown {
        line += head_of(field).map_or("", |(_, head)| head);
        line.push('\t');
    }
    line.pop();
    writeln!(table, "{line}")?;
    for row in rows {
        line.clear();
        for field in columns.shown {
            match row.get(*field) {
                Some(Value::String(text)) => line += text,
                Some(other) => line += &other.to_string(),
                None => {}
            }
            line.push('\t');
        }
        line.pop();
        writeln!(table, "{line}")?;
    }
    Ok(table.flush()?)
}

/// Prints one object for `--format`: `json`, or a template.
///
/// # Errors
/// As [`list`].
pub fn object(out: &mut dyn Write, data: &Value, format: &str) -> Result<()> {
    let source = if format == "json" {
        "{{json .}}"
    } else {
        format
    };
    let text = Format::parse(source, Over::Data)?.fill(data)?;
    Ok(writeln!(out, "{text}")?)
}

/// Docker's table: columns at least ten wide, three spaces apart.
fn table(out: &mut dyn Write) -> TabWriter<&mut dyn Write> {
    TabWriter::new(out).minwidth(7).padding(3)
}

/// Docker lets `\t` and `\n` be typed in a format.
fn unescape(format: &str) -> String {
    format.replace("\\t", "\t").replace("\\n", "\n")
}

/// A size as docker prints it: three digits, powers of 1000. Source: go-units, `HumanSizeWithPrecision`.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn size(bytes: u64) -> String {
    let mut number = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // 999.5 would be shown as 1000.
    while number >= 999.5 {
        let Some(next) = units.next() else { break };
        number /= 1000.0;
        unit = next;
    }
    let digits = match number {
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{number:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

/// A size in powers of 1024 and four digits, as docker prints memory. Source: go-units, `BytesSize`.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "four digits are shown")]
pub fn binary_size(bytes: u64) -> String {
    let mut number = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while number >= 1024.0 {
        let Some(next) = units.next() else { break };
        number /= 1024.0;
        unit = next;
    }
    let digits = match number {
        n if n < 10.0 => 3,
        n if n < 100.0 => 2,
        n if n < 1000.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

/// How long `seconds` are, in docker's words. Source: go-units, `HumanDuration`.
#[must_use]
pub fn duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// `2 hours ago`; `N/A` for a time that is not known.
#[must_use]
pub fn since(then: &str, now: jiff::Timestamp) -> String {
    match then.parse::<jiff::Timestamp>() {
        Ok(then) => format!("{} ago", duration(now.as_second() - then.as_second())),
        Err(_) => "N/A".to_owned(),
    }
}

/// An RFC 3339 time as docker's tables print it: `2024-09-06 22:20:07 +0000 UTC`.
#[must_use]
pub fn moment(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
        Err(_) => "N/A".to_owned(),
    }
}

/// Whether text on this stream may have colours (NO_COLOR, no-color.org).
#[must_use]
pub fn has_colour(stream: &impl io::IsTerminal) -> bool {
    is_live(stream) && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether the cursor can move on this stream.
#[must_use]
pub fn is_live(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// Standard output. A reader that has gone away (`rl images | head -1`) becomes [`Closed`], which the
/// command line turns into a quiet end.
#[derive(Debug)]
pub struct Stdout(io::StdoutLock<'static>);

/// Nobody reads standard output any more.
#[derive(Debug, Clone, Copy)]
pub struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for Closed {}

/// Standard output, to be flushed by the caller.
#[must_use]
pub fn stdout() -> io::BufWriter<Stdout> {
    io::BufWriter::new(Stdout(io::stdout().lock()))
}

/// Writes one line of data.
///
/// # Errors
/// What writing says.
pub fn print(text: &str) -> Result<()> {
    let mut out = stdout();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Writes text of several lines.
///
/// # Errors
/// What writing says.
pub fn write_all(text: &str) -> Result<()> {
    let mut out = stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|error| closed(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(|error| closed(&error))
    }
}

fn closed(error: &io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return io::Error::new(io::ErrorKind::BrokenPipe, Closed);
    }
    io::Error::new(error.kind(), format!("writing to standard output: {error}"))
}

/// Whether this error only says that nobody reads any more.
#[must_use]
pub fn is_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .is_some_and(|inner| inner.is::<Closed>())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COLUMNS: Columns = Columns {
        heads: &[
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("ID", "IMAGE ID"),
            ("Size", "SIZE"),
        ],
        shown: &["Repository", "Tag", "ID"],
    };

    fn printed(format: Option<&str>) -> String {
        let row = |name: &str, tag: &str| {
            json!({"Repository": name, "Tag": tag, "ID": "91ef0af61f39", "Size": "7.8MB"})
                .as_object()
                .cloned()
                .unwrap_or_default()
        };
        let rows = [
            row("alpine", "latest"),
            row("registry.example/a/long/name", "3"),
        ];
        let mut out = Vec::new();
        match list(&mut out, &rows, &COLUMNS, format) {
            Ok(()) => String::from_utf8(out).expect("text"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn tables_look_as_dockers_do() {
        let table = "\
REPOSITORY                     TAG       IMAGE ID
alpine                         latest    91ef0af61f39
registry.example/a/long/name   3         91ef0af61f39
";
        assert_eq!(printed(None), table);
        assert_eq!(printed(Some("table")), table);
        assert_eq!(
            printed(Some(r"table {{.Tag}}\t{{upper .Size}}")),
            "TAG       SIZE\nlatest    7.8MB\n3         7.8MB\n"
        );
    }

    #[test]
    fn rows_can_be_json_or_templates() {
        assert_eq!(
            printed(Some("json")).lines().next(),
            Some(r#"{"ID":"91ef0af61f39","Repository":"alpine","Size":"7.8MB","Tag":"latest"}"#)
        );
        assert_eq!(
            printed(Some(r"{{.Tag}}\t{{.ID}}")),
            "latest\t91ef0af61f39\n3\t91ef0af61f39\n"
        );
        assert_eq!(
            printed(Some("{{.Nope}}")),
            "--format `{{.Nope}}`, column 3: no field `Nope`"
        );
        assert_eq!(
            printed(Some("table {{.Nope}}")),
            "--format `{{.Nope}}`, column 3: no field `Nope`"
        );
    }

    #[test]
    fn sizes_and_ages_are_in_dockers_words() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (7_797_760, "7.8MB"),
            (138_400_000, "138MB"),
            (999_999, "1MB"),
            (1_020_000_000, "1.02GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (bytes, text) in [
            (0, "0B"),
            (1000, "1000B"),
            (8 << 30, "8GiB"),
            (33_226_752, "31.69MiB"),
            (129_499_136, "123.5MiB"),
            (1_048_575_000, "1000MiB"),
        ] {
            assert_eq!(binary_size(bytes), text);
        }
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3 * 86_400, "3 days"),
            (20 * 86_400, "2 weeks"),
            (90 * 86_400, "3 months"),
            (1000 * 86_400, "2 years"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
        let now: jiff::Timestamp = "2024-09-07T00:20:07Z".parse().expect("a time");
        assert_eq!(since("2024-09-06T22:20:07.5Z", now), "2 hours ago");
        assert_eq!(since("", now), "N/A");
        assert_eq!(
            moment("2024-09-06T22:20:07.516789Z"),
            "2024-09-06 22:20:07 +0000 UTC"
        );
    }
}
