//! The commands of the table as a script, and what they printed beside the table. Knows nothing of how a machine is made.

use super::table::{Cell, Row, SAYS};
use crate::support::Output;

/// What is tried, for any shell. `$PULL` makes the image, else the registry or the archive has it.
const INNER: &str = r#"
rl() { "$RL" "$@"; }
pull_image() {
  if [ -n "${PULL:-}" ]; then $PULL; elif [ -n "$REGISTRY" ]; then rl pull "$REGISTRY/busybox" && rl tag "$REGISTRY/busybox" busybox; else rl load -i "$ARCHIVE"; fi
}
try() {
  echo "@@ $1"; code=0
  eval "$2" >"$DIR/out" 2>"$DIR/err" </dev/null || code=$?
  sed 's/^/1 /' "$DIR/out"; sed 's/^/2 /' "$DIR/err"; echo "@= $code"
}
"#;

/// The script of a row.
pub fn inner(row: &Row, commands: &[(&str, &str)]) -> String {
    let tries: String = commands
        .iter()
        .filter(|(name, _)| row.cell(name) != Cell::Nothing)
        .map(|(name, line)| format!("try '{name}' \"{line}\"\n"))
        .collect();
    format!("{INNER}{tries}rl rm -fa >/dev/null 2>&1; rl system reset -f >/dev/null 2>&1; true\n")
}

/// Compares what was seen with the table.
pub fn check(row: &Row, commands: &[(&str, &str)], output: &Output) {
    let mut seen = output.stdout.split("@@ ").skip(1);
    for (command, _) in commands {
        let cell = row.cell(command);
        if cell == Cell::Nothing {
            continue;
        }
        let part = seen
            .next()
            .unwrap_or_else(|| output.wrong(&format!("`{command}` was not tried")));
        let wrong = |what: &str| output.wrong(&format!("{}: `{command}`: {what}", row.name));
        if !part.starts_with(&format!("{command}\n")) {
            wrong("was not tried");
        }
        let lines = |mark: &str| -> Vec<&str> {
            part.lines()
                .filter_map(|line| line.strip_prefix(mark))
                .collect()
        };
        let (out, err) = (lines("1 "), lines("2 "));
        let said: Vec<&str> = err
            .into_iter()
            .filter(|line| line.starts_with("rl: "))
            .collect();
        let code = part
            .lines()
            .find_map(|line| line.strip_prefix("@= "))
            .unwrap_or_default();
        match cell {
            Cell::Works | Cell::Less(_) => {
                if code != "0" {
                    wrong("failed");
                }
                let expected = SAYS.iter().find(|(name, _)| name == command);
                if expected.is_some_and(|(_, text)| out != [*text]) {
                    wrong(&format!("says {out:?}"));
                }
            }
            Cell::Code(expected) => {
                if code == "0" {
                    wrong("works");
                }
                if !part.contains(&format!("rl explain {expected}\n")) {
                    wrong(&format!("does not name {expected}"));
                }
            }
            Cell::Nothing => {}
        }
        let told: &[&str] = match cell {
            Cell::Less(told) => told,
            Cell::Works => &[],
            Cell::Code(_) | Cell::Nothing => continue,
        };
        for line in told {
            if !said.iter().any(|said| is_like(said, line)) {
                wrong(&format!("does not say `{line}`"));
            }
        }
        for line in said {
            if !told.iter().any(|told| is_like(line, told)) {
                wrong(&format!("says `{line}`"));
            }
        }
    }
}

/// Whether `line`, behind `rl: `, is `pattern`, in which `…` stands for anything.
fn is_like(line: &str, pattern: &str) -> bool {
    let mut rest = line.strip_prefix("rl: ").unwrap_or(line);
    let mut parts = pattern.split('…').peekable();
    let mut is_first = true;
    while let Some(part) = parts.next() {
        let found = if parts.peek().is_none() && rest.ends_with(part) {
            Some(rest.len() - part.len())
        } else {
            rest.find(part)
        };
        match found {
            Some(at) if at == 0 || !is_first => rest = &rest[at + part.len()..],
            _ => return false,
        }
        is_first = false;
    }
    rest.is_empty()
}
