//! `rl doctor` and `rl explain`: what was found out about this machine, and what the codes mean.
//!
//! Prints only; `crate::doctor` finds out.

use std::fmt::Write as _;

use anyhow::Result;

use super::{inspect, output};
use crate::doctor::{self, Check, Report, Status};
use crate::error::{self, Fail};
use crate::paths::Store;

/// The flags of `rl doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// Print as JSON
    #[arg(long)]
    pub json: bool,

    /// Print a file for an administrator instead: apparmor-profile
    #[arg(long, value_name = "WHAT", conflicts_with = "json")]
    pub emit: Option<Emit>,
}

/// What `--emit` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Emit {
    /// A profile that lets this very file have user namespaces, for /etc/apparmor.d
    ApparmorProfile,
}

/// The words of `rl explain`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExplainArgs {
    /// A code out of a message, such as RL-S01
    #[arg(value_name = "CODE")]
    pub code: String,
}

/// `rl doctor`: 125 when containers cannot run here.
pub fn doctor(args: &DoctorArgs, store: &Store) -> Result<u8> {
    if let Some(Emit::ApparmorProfile) = args.emit {
        output::write_all(&doctor::apparmor_profile())?;
        return Ok(0);
    }
    let report = doctor::run(store);
    if args.json {
        output::print(&inspect::pretty(&serde_json::to_value(&report)?)?)?;
    } else {
        output::write_all(&text(&report, Paint::for_stdout()))?;
    }
    Ok(match report.status() {
        Status::Works | Status::Less => 0,
        Status::Missing => 125,
    })
}

/// `rl explain CODE`.
pub fn explain(args: &ExplainArgs) -> Result<u8> {
    let Some(page) = doctor::explain(&args.code) else {
        return Err(
            Fail::not_found(format!("no message has the code `{}`", args.code))
                .hint(format!(
                    "there are {}",
                    doctor::near_codes(&args.code).join(" ")
                ))
                .into(),
        );
    };
    output::print(page)?;
    Ok(0)
}

/// A failure together with what was found to be wrong with this machine. What the machine's trouble is counts for more than
/// what was guessed from the failure alone.
#[must_use]
pub fn report(error: &anyhow::Error, check: &Check) -> String {
    let mut fail = error::flatten(error);
    let is_guessed = fail.code.as_deref() != Some(check.code.as_str());
    if is_guessed || fail.hints.is_empty() {
        fail.hints = check.you_can.clone();
        let admin = check.admin_can.iter();
        fail.hints
            .extend(admin.map(|line| format!("your administrator: {line}")));
    }
    fail.code = Some(check.code.clone());
    let cause = check.cause.as_deref().unwrap_or_default();
    error::report_found(&fail, &format!("{}: {}: {cause}", check.title, check.found))
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paint {
    Coloured,
    Plain,
}

impl Paint {
    fn for_stdout() -> Self {
        if output::has_colour(&std::io::stdout()) {
            Paint::Coloured
        } else {
            Paint::Plain
        }
    }

    /// `text` in the colour of `status`; the width does not change.
    fn status(self, status: Status, text: &str) -> String {
        let colour = match status {
            Status::Works => 32,
            Status::Less => 33,
            Status::Missing => 31,
        };
        self.sgr(colour, text)
    }

    fn bold(self, text: &str) -> String {
        self.sgr(1, text)
    }

    fn sgr(self, code: u8, text: &str) -> String {
        match self {
            Paint::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
            Paint::Plain => text.to_owned(),
        }
    }
}

/// The report for people: a line for what works, more for what does not.
fn text(report: &Report, paint: Paint) -> String {
    let mut text = String::new();
    let width = report
        .checks()
        .map(|check| check.title.chars().count())
        .max()
        .unwrap_or(0);
    for axis in &report.axes {
        if !text.is_empty() {
            text.push('\n');
        }
        line(&mut text, &paint.bold(&axis.name));
        for check in &axis.checks {
            one(&mut text, check, width, paint);
        }
    }
    if !report.modes.is_empty() {
        text.push('\n');
        line(&mut text, &paint.bold("so a container has"));
    }
    for mode in &report.modes {
        line(
            &mut text,
            &format!("        {:<17} {}", mode.what, mode.chosen),
        );
        if let Some(second) = &mode.runner_up {
            let second = format!("not {}: {}", second.name, second.because);
            line(&mut text, &format!("        {:<17} {second}", ""));
        }
    }
    text.push('\n');
    let less = report
        .checks()
        .filter(|check| check.status == Status::Less)
        .count();
    let last = match report.status() {
        Status::Works => "containers run here, with everything".to_owned(),
        Status::Less => format!(
            "containers run here; {less} {} above could be better",
            if less == 1 { "thing" } else { "things" }
        ),
        Status::Missing => "containers cannot run here".to_owned(),
    };
    line(&mut text, &paint.status(report.status(), &last));
    text
}

fn one(text: &mut String, check: &Check, width: usize, paint: Paint) {
    let word = match check.status {
        Status::Works => "ok  ",
        Status::Less => "less",
        Status::Missing => "no  ",
    };
    let code = if check.status == Status::Works {
        String::new()
    } else {
        format!("  ({})", check.code)
    };
    let word = paint.status(check.status, word);
    line(
        text,
        &format!("  {word}  {:width$}  {}{code}", check.title, check.found),
    );
    if check.status == Status::Works {
        return;
    }
    let mut labelled = |label: &str, lines: &mut dyn Iterator<Item = &str>| {
        for (position, remedy) in lines.enumerate() {
            let label = if position == 0 { label } else { "" };
            let remedy = remedy.replace('\n', "\n                        ");
            line(text, &format!("        {label:<16}{remedy}"));
        }
    };
    labelled("why:", &mut check.cause.as_deref().into_iter());
    labelled(
        "rl does:",
        &mut std::iter::once(check.rl_does.as_str()).filter(|does| !does.is_empty()),
    );
    labelled("you can:", &mut check.you_can.iter().map(String::as_str));
    labelled(
        "your admin can:",
        &mut check.admin_can.iter().map(String::as_str),
    );
}

fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Axis;

    fn check(status: Status) -> Check {
        let is_less = status != Status::Works;
        Check {
            axis: "ids".to_owned(),
            code: "RL-S01".to_owned(),
            title: "ranges of ids".to_owned(),
            status,
            found: if is_less { "none" } else { "65536 from 100000" }.to_owned(),
            cause: is_less.then(|| "/etc/subuid does not list you".to_owned()),
            you_can: Vec::new(),
            admin_can: vec![
                "usermod --add-subuids …".to_owned(),
                "usermod --add-subgids …".to_owned(),
            ],
            rl_does: "runs with one id".to_owned(),
        }
    }

    #[test]
    fn what_works_is_one_line_and_what_does_not_has_remedies() {
        let report = Report {
            axes: vec![Axis {
                name: "ids".to_owned(),
                checks: vec![check(Status::Works), check(Status::Less)],
            }],
            modes: vec![doctor::Mode {
                what: "ids".to_owned(),
                chosen: "one id".to_owned(),
                runner_up: Some(doctor::RunnerUp {
                    name: "ranges".to_owned(),
                    because: "nobody has set ids aside".to_owned(),
                }),
            }],
        };
        expect_test::expect![[r#"
            ids
              ok    ranges of ids  65536 from 100000
              less  ranges of ids  none  (RL-S01)
                    why:            /etc/subuid does not list you
                    rl does:        runs with one id
                    your admin can: usermod --add-subuids …
                                    usermod --add-subgids …

            so a container has
                    ids               one id
                                      not ranges: nobody has set ids aside

            containers run here; 1 thing above could be better
        "#]]
        .assert_eq(&text(&report, Paint::Plain));
        assert!(text(&report, Paint::Coloured).contains("\x1b[33mless\x1b[0m"));
    }
}
