//! Times as docker takes them: `--since`, `--until`. Does not print.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A moment for clap, seen from now.
///
/// # Errors
/// With what can be given.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    parse(text, Timestamp::now(), &TimeZone::system()).ok_or_else(|| {
        "give a time such as 10m, 2h30m (ago), 2025-01-31T12:00:00Z, or seconds since 1970"
            .to_owned()
    })
}

/// Source: moby, `api/types/time`, `GetTimestamp`.
fn parse(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    if let Some(ago) = duration(text) {
        return now.checked_sub(ago).ok();
    }
    if let Some(time) = unix(text) {
        return Some(time);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    // `Z` without a full time is not for a local one.
    let text = text.strip_suffix('Z').unwrap_or(text);
    let time: DateTime = text.parse().ok()?;
    time.to_zoned(zone.clone())
        .ok()
        .map(|time| time.timestamp())
}

/// `1700000000.123456789`.
fn unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || !is_digits(seconds) || !is_digits(fraction) {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Timestamp::new(seconds.parse().ok()?, nanoseconds).ok()
}

/// Go's durations: `1h30m`, `1.5h`, `-10s`. Source: Go, `time.ParseDuration`.
pub fn duration(text: &str) -> Option<SignedDuration> {
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number * unit;
        rest = &rest[letters..];
    }
    SignedDuration::try_from_secs_f64(if is_negative { -seconds } else { seconds }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_docker_reads_them() {
        let now: Timestamp = "2025-01-31T12:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for (text, expected) in [
            ("10m", "2025-01-31T11:50:00Z"),
            ("2h30m", "2025-01-31T09:30:00Z"),
            ("1.5h", "2025-01-31T10:30:00Z"),
            ("-1m", "2025-01-31T12:01:00Z"),
            ("1136073600.000000001", "2006-01-01T00:00:00.000000001Z"),
            ("1136073600", "2006-01-01T00:00:00Z"),
            ("2025-01-31T12:00:00.5+02:00", "2025-01-31T10:00:00.5Z"),
            ("2025-01-31T12:00:00.25Z", "2025-01-31T12:00:00.25Z"),
            ("2025-01-31T12:00:00", "2025-01-31T11:00:00Z"),
            ("2025-01-31T12:00", "2025-01-31T11:00:00Z"),
            ("2025-01-31", "2025-01-30T23:00:00Z"),
            ("", "None"),
            ("10", "1970-01-01T00:00:10Z"),
            ("10x", "None"),
            ("yesterday", "None"),
            ("-", "None"),
            ("1.2.3", "None"),
        ] {
            let read = parse(text, now, &zone);
            let read = read.map_or("None".to_owned(), |time| time.to_string());
            assert_eq!(read, expected, "{text}");
        }
    }
}
