//! The small languages that flag values are written in: sizes, durations, lists, variables.
//!
//! Pure text to value; no I/O.

use crate::error::Fail;

/// A boolean as Go's `strconv.ParseBool` reads it, which is what docker's `--rm=1` goes through.
///
/// # Errors
/// A sentence for the user.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("give true or false".to_owned()),
    }
}

/// A size in bytes, written as docker takes it: `64m`, `1g`, `1.5GiB`, `1024`; units are powers of 1024.
/// Source: docker's go-units, `RAMInBytes`.
///
/// # Errors
/// A sentence for the user.
pub fn size(text: &str) -> Result<u64, String> {
    let refused = || "give a size such as 512k, 64m, 1g or a number of bytes".to_owned();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let unit = unit.strip_suffix('i').unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(refused()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 {
        return Err(refused());
    }
    let whole: u64 = whole.parse().map_err(|_| refused())?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| refused())?);
    let fraction: u128 = match fraction {
        "" => 0,
        digits => digits.parse().map_err(|_| refused())?,
    };
    let bytes = (u128::from(whole) << shift) + (fraction << shift) / scale;
    u64::try_from(bytes).map_err(|_| "this is more than a computer can have".to_owned())
}

/// Seconds, written as `+30d`, `-1h30m`, `90s` or a plain number.
///
/// # Errors
/// A sentence for the user.
pub fn duration_s(text: &str) -> Result<i64, String> {
    let refused = || "give a duration such as +30d, -1h30m or 90s".to_owned();
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    if rest.is_empty() {
        return Err(refused());
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let number: i64 = rest[..digits].parse().map_err(|_| refused())?;
        rest = &rest[digits..];
        let seconds = match rest.chars().next() {
            None | Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            Some('w') => 604_800,
            Some(_) => return Err(refused()),
        };
        rest = rest.get(1..).unwrap_or_default();
        total = number
            .checked_mul(seconds)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(refused)?;
    }
    Ok(sign * total)
}

/// The fields of one comma-separated line, `"…"` protecting commas, as Go's `encoding/csv` reads
/// `--mount`.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for a quote that is not closed or stands in a bare field.
pub fn comma_fields(text: &str) -> Result<Vec<String>, Fail> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let mut field = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            loop {
                let Some(end) = rest.find('"') else {
                    return Err(Fail::usage(format!(
                        "`{text}` has a quote that is not closed"
                    )));
                };
                field.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                // Two quotes stand for one.
                let Some(more) = rest.strip_prefix('"') else {
                    break;
                };
                field.push('"');
                rest = more;
            }
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(Fail::usage(format!(
                    "`{text}` has text after a closing quote"
                )));
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            field.push_str(&rest[..end]);
            rest = &rest[end..];
            if field.contains('"') {
                return Err(
                    Fail::usage(format!("`{text}` has a quote inside a bare field"))
                        .hint("put the quotes round the whole KEY=VALUE"),
                );
            }
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

/// `KEY=VALUE`, or `KEY` alone with an empty value.
///
/// # Errors
/// [`crate::error::Kind::Usage`] when there is no key.
pub fn key_value(flag: &str, text: &str) -> Result<(String, String), Fail> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.trim().is_empty() {
        return Err(Fail::usage(format!(
            "{flag} `{text}` has no name before the `=`"
        )));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// One line of an `--env-file` or `--label-file`: a name, and a value when there is one.
pub type Line = (String, Option<String>);

/// The lines of a file in docker's format: `#` starts a comment line, values are taken as they are,
/// quotes included.
///
/// # Errors
/// [`crate::error::Kind::Usage`] with the number of the line.
pub fn file_lines(path: &str, text: &str) -> Result<Vec<Line>, Fail> {
    let mut lines = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| Fail::usage(format!("`{path}` line {}: {what}", number + 1));
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line.trim_end(), None),
        };
        if name.is_empty() {
            return Err(wrong("no name before the `=`"));
        }
        if name.contains(char::is_whitespace) {
            return Err(wrong(&format!("the name `{name}` contains white space")));
        }
        lines.push((name.to_owned(), value));
    }
    Ok(lines)
}

/// An absolute path without `.`, `..`, double or trailing slashes; lexical, as Go's `path.Clean`.
#[must_use]
pub fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether `text` matches a pattern of `*`, `?` and plain characters. A `*` does not cross a `/`
/// (Go's `path.Match`, without its character classes).
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut pattern_rest = pattern.chars();
    match pattern_rest.next() {
        None => text.is_empty(),
        Some('*') => {
            let ends = text
                .char_indices()
                .take_while(|(_, c)| *c != '/')
                .map(|(at, c)| at + c.len_utf8());
            std::iter::once(0)
                .chain(ends)
                .any(|at| glob(pattern_rest.as_str(), &text[at..]))
        }
        Some(wanted) => {
            let mut text_rest = text.chars();
            text_rest
                .next()
                .is_some_and(|c| c == wanted || (wanted == '?' && c != '/'))
                && glob(pattern_rest.as_str(), text_rest.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_go_units() {
        for (text, bytes) in [
            ("1024", Some(1024)),
            ("64m", Some(64 << 20)),
            ("1g", Some(1 << 30)),
            ("1GiB", Some(1 << 30)),
            ("1.5k", Some(1536)),
            ("10 kb", Some(10 << 10)),
            ("32b", Some(32)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1x", None),
            ("1.2.3", None),
            ("99999999999p", None),
        ] {
            assert_eq!(size(text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn durations_have_signs_and_units() {
        for (text, seconds) in [
            ("+30d", Some(30 * 86_400)),
            ("-1h30m", Some(-5400)),
            ("90s", Some(90)),
            ("90", Some(90)),
            ("1w", Some(604_800)),
            ("", None),
            ("-", None),
            ("1y", None),
            ("d", None),
            ("1é", None),
            ("99999999999999999999d", None),
            ("9999999999999999d", None),
        ] {
            assert_eq!(duration_s(text).ok(), seconds, "{text}");
        }
    }

    #[test]
    fn commas_can_be_quoted() {
        for (text, fields) in [
            ("a,b=c", Some(vec!["a", "b=c"])),
            (
                r#"type=bind,"source=/a,b",x"#,
                Some(vec!["type=bind", "source=/a,b", "x"]),
            ),
            (r#""a""b""#, Some(vec![r#"a"b"#])),
            ("a,", Some(vec!["a", ""])),
            (r#""a"#, None),
            (r#""a"b"#, None),
            (r#"a="b,c""#, None),
        ] {
            let fields = fields.map(|list| list.iter().map(|s| (*s).to_owned()).collect());
            assert_eq!(comma_fields(text).ok(), fields, "{text}");
        }
    }

    #[test]
    fn files_of_variables_keep_values_as_they_are() {
        let text = "\u{feff}# comment\n\n  A=1\nB=\"x # y\" \nC\nD=\n  # more\nE=a=b\r\n";
        let lines = file_lines("f", text).expect("fine");
        let shown: Vec<String> = lines.iter().map(|line| format!("{line:?}")).collect();
        assert_eq!(
            shown,
            [
                r#"("A", Some("1"))"#,
                r#"("B", Some("\"x # y\" "))"#,
                r#"("C", None)"#,
                r#"("D", Some(""))"#,
                r#"("E", Some("a=b"))"#,
            ]
        );
        for (text, message) in [
            ("A=1\n=x", "`f` line 2: no name before the `=`"),
            ("A B=1", "`f` line 1: the name `A B` contains white space"),
        ] {
            assert_eq!(file_lines("f", text).expect_err("refused").message, message);
        }
    }

    #[test]
    fn patterns_stay_within_a_part_of_a_path() {
        for (pattern, text, matches) in [
            ("/proc/*", "/proc/kcore", true),
            ("/proc/*", "/proc/a/b", false),
            ("/proc/k?ore", "/proc/kcore", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b", "a", false),
            ("", "", true),
            ("*", "ä", true),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn paths_are_cleaned_without_looking() {
        for (path, clean) in [("/a//b/", "/a/b"), ("/../a/./b/..", "/a"), ("/", "/")] {
            assert_eq!(clean_path(path), clean);
        }
    }
}
