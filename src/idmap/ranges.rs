//! The user's ranges of subordinate ids, as `/etc/subuid`, `/etc/subgid` or NSS have them, and which of their lines cannot be used.

use std::path::Path;
use std::process::{Command, Stdio};

/// A range that the administrator has set aside: first id and count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id on the host.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Range {
    pub(super) fn end(self) -> u64 {
        u64::from(self.first) + u64::from(self.count)
    }

    fn overlaps(self, other: Self) -> bool {
        u64::from(self.first) < other.end() && u64::from(other.first) < self.end()
    }
}

/// The names a user goes by: in `/etc/passwd`, else as the environment or `id` says (LDAP, SSSD).
#[must_use]
pub fn user_names(uid: u32) -> Vec<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default(); // absent in small containers
    let number = uid.to_string();
    let mut names: Vec<String> = passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == number).then(|| name.to_owned())
        })
        .collect();
    if names.is_empty() {
        let asked = Command::new("id").arg("-un").stderr(Stdio::null()).output();
        names.extend(
            asked
                .ok()
                .and_then(|output| String::from_utf8(output.stdout).ok())
                .map(|name| name.trim().to_owned()),
        );
        names.extend(std::env::var("USER").ok());
        names.retain(|name| !name.is_empty());
    }
    names
}

/// What the lines of `/etc/subuid` or `/etc/subgid` come to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Lines {
    /// Those of the user's that can be used.
    pub ranges: Vec<Range>,
    /// Those that cannot, and why.
    pub wrong: Vec<String>,
    /// Those of others that overlap the user's.
    pub shared: Vec<String>,
}

/// The user's ranges in `file`, by name or number; where it has none, what `getsubids` knows (NSS).
pub(super) fn read(file: &Path, names: &[String], ids: (u32, u32), group_flag: &str) -> Lines {
    let text = std::fs::read(file).unwrap_or_default(); // no file, no ranges: announced by the caller
    let mut lines = parse_ranges(&String::from_utf8_lossy(&text), names, ids);
    if lines.ranges.is_empty()
        && uses_nss_for_subids()
        && let Some(name) = names.first()
    {
        lines.ranges = ask_getsubids(name, group_flag);
    }
    lines
}

fn ask_getsubids(name: &str, group_flag: &str) -> Vec<Range> {
    let mut command = Command::new("getsubids");
    if !group_flag.is_empty() {
        command.arg(group_flag);
    }
    let Ok(output) = command.arg(name).stderr(Stdio::null()).output() else {
        return Vec::new();
    };
    // `0: alice 100000 65536`
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(2);
            Some(Range {
                first: fields.next()?.parse().ok()?,
                count: fields.next()?.parse().ok()?,
            })
        })
        .filter(|range| range.count > 0)
        .collect()
}

fn uses_nss_for_subids() -> bool {
    let text = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    text.lines()
        .any(|line| line.trim_start().starts_with("subid:"))
}

/// The ranges in the text of `/etc/subuid` that belong to one of `names` or to the number `uid`, who has the id `own` of this
/// kind. Lines that make no sense are passed over, as newuidmap(1) does, and so are those that the kernel refuses with
/// all others. Source: subuid(5).
#[must_use]
pub fn parse_ranges(text: &str, names: &[String], (uid, own): (u32, u32)) -> Lines {
    let number = uid.to_string();
    let is_mine = |owner: &str| owner == number || names.iter().any(|name| name == owner);
    let mut found = Lines::default();
    let mut others = Vec::new();
    for line in text.lines().map(str::trim) {
        let mut fields = line.split(':');
        let (owner, first, count) = (fields.next(), fields.next(), fields.next());
        let Some(owner) = owner.filter(|owner| !owner.is_empty() && !owner.starts_with('#')) else {
            continue;
        };
        let numbers = |word: Option<&str>| word.and_then(|word| word.trim().parse::<u32>().ok());
        let range = numbers(first).zip(numbers(count));
        let range = range.map(|(first, count)| Range { first, count });
        if !is_mine(owner) {
            others.extend(range.map(|range| (line, range)));
            continue;
        }
        match usable(range, own, &found.ranges) {
            Ok(Some(range)) => found.ranges.push(range),
            Ok(None) => {}
            Err(why) => found.wrong.push(format!("`{line}` {why}")),
        }
    }
    others.retain(|(_, range)| found.ranges.iter().any(|mine| mine.overlaps(*range)));
    found.shared = others.iter().map(|(line, _)| format!("`{line}`")).collect();
    found
}

/// The range, none where it is there already, or why the kernel or newuidmap would refuse it.
fn usable(range: Option<Range>, own: u32, known: &[Range]) -> Result<Option<Range>, String> {
    let Some(range) = range.filter(|range| range.count > 0) else {
        return Err("is not NAME:FIRST:COUNT".to_owned());
    };
    // The largest id there is stands for "no id".
    if range.end() >= u64::from(u32::MAX) {
        return Err("goes beyond the last id".to_owned());
    }
    if range.overlaps(Range {
        first: own,
        count: 1,
    }) {
        return Err(format!("contains your own id {own}"));
    }
    if known.contains(&range) {
        return Ok(None);
    }
    match known.iter().find(|other| other.overlaps(range)) {
        Some(other) => Err(format!(
            "overlaps your range {}:{}",
            other.first, other.count
        )),
        None => Ok(Some(range)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_number_and_nonsense_is_passed_over() {
        let names = ["alice".to_owned()];
        let text = "bob:1:2\nalice:100000:65536\n1000:300000:10\nalice:x:1\nalice:5\nalice:100000:65536\nalice:900:200\nalice:4294967000:1000\n\n";
        let found = parse_ranges(text, &names, (1000, 1000));
        assert_eq!(
            found.ranges,
            [
                Range {
                    first: 100_000,
                    count: 65536
                },
                Range {
                    first: 300_000,
                    count: 10
                }
            ]
        );
    }

    #[test]
    fn lines_that_cannot_be_used_are_named() {
        let names = ["alice".to_owned()];
        let lines = parse_ranges(
            "# bob\nalice:100000:65536\nalice:165535:9\nalice:900:200\nalice:4294967000:1000\nalice:5\nbob:165000:1000\neve:165536:9",
            &names,
            (7, 1000),
        );
        assert_eq!(lines.ranges.len(), 1);
        assert_eq!(
            lines.wrong,
            [
                "`alice:165535:9` overlaps your range 100000:65536",
                "`alice:900:200` contains your own id 1000",
                "`alice:4294967000:1000` goes beyond the last id",
                "`alice:5` is not NAME:FIRST:COUNT",
            ]
        );
        assert_eq!(lines.shared, ["`bob:165000:1000`"]);
    }
}
