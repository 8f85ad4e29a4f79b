//! Reads a command line: docker's rules for flags, the verbs people wait for alone, and what is wrong said in one line.

use std::ffi::OsString;

use clap::error::{ContextKind, ErrorKind};
use clap::{ArgAction, Args as _, CommandFactory as _, FromArgMatches as _};

use super::{Cli, Shared, exec, images, inspect, lifecycle, logs, output, ps, run, stats};
use crate::error::Fail;

/// What a command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Work.
    Cli(Box<Cli>),
    /// `--help`: this text.
    Text(String),
}

/// Reads a command line, `rl` itself being the first word.
///
/// # Errors
/// Clap's, for what cannot be read.
pub fn parse(words: &[OsString]) -> Result<Parsed, clap::Error> {
    match alone(words) {
        Some(cli) => Ok(Parsed::Cli(Box::new(cli))),
        None => parse_in_tree(words),
    }
}

/// How a verb takes its flags.
type Augment = fn(clap::Command) -> clap::Command;

/// Verbs that people and scripts wait for.
const ALONE: [(&str, Augment); 13] = [
    ("create", run::RunArgs::augment_args),
    ("exec", exec::ExecArgs::augment_args),
    ("images", images::ListArgs::augment_args),
    ("inspect", inspect::InspectArgs::augment_args),
    ("kill", lifecycle::KillArgs::augment_args),
    ("logs", logs::LogsArgs::augment_args),
    ("ps", ps::ListArgs::augment_args),
    ("rm", lifecycle::RemoveArgs::augment_args),
    ("run", run::RunArgs::augment_args),
    ("start", lifecycle::StartArgs::augment_args),
    ("stats", stats::StatsArgs::augment_args),
    ("stop", lifecycle::StopArgs::augment_args),
    ("wait", lifecycle::Names::augment_args),
];

/// The command line, when it is right and its verb one of `ALONE`, read without the other verbs: to build the whole tree
/// takes longer than all else that a command does before it acts.
fn alone(words: &[OsString]) -> Option<Cli> {
    let at = match words.get(1)?.to_str()? {
        "--root" => 3,
        word if word.starts_with("--root=") => 2,
        _ => 1,
    };
    let word = words.get(at)?.to_str()?;
    let (verb, augment) = ALONE.into_iter().find(|(verb, _)| *verb == word)?;
    let verb = dockers_rules(augment(clap::Command::new(verb)).disable_help_flag(true));
    let root = Shared::augment_args(clap::Command::new("rl")).subcommand(verb);
    // Once in a process: to give its thousand pieces back one by one takes a sixth of the time that reading takes.
    let root = Box::leak(Box::new(root));
    let matches = root.try_get_matches_from_mut(words).ok()?;
    Cli::from_arg_matches(&matches).ok()
}

fn parse_in_tree(words: &[OsString]) -> Result<Parsed, clap::Error> {
    let parsed = command()
        .try_get_matches_from(words)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Ok(Parsed::Cli(Box::new(cli))),
        Err(error) if is_text(error.kind()) => {
            // The plain tree says `--rm`, where the other one would say `--rm[=<RM>]`.
            let plain = Cli::command().try_get_matches_from(words).err();
            let text = plain
                .filter(|error| is_text(error.kind()))
                .unwrap_or(error)
                .render();
            let coloured = output::has_colour(&std::io::stdout());
            Ok(Parsed::Text(if coloured {
                text.ansi().to_string()
            } else {
                text.to_string()
            }))
        }
        Err(error) => Err(error),
    }
}

fn is_text(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// Clap's message in the house's words: one line, what was meant, where to look.
pub(super) fn usage(error: &clap::Error, words: &[OsString]) -> anyhow::Error {
    let text = error
        .render()
        .to_string()
        .replace('\'', "`")
        .replace("[=<BOOL>]", "")
        .replace("[=<", " <")
        .replace(">]`", ">`");
    let mut lines = text.lines().map(str::trim);
    let first = lines.next().unwrap_or_default();
    let mut message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    let mut tips = Vec::new();
    for line in
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
    {
        match line.strip_prefix("tip: ") {
            // `--` would only make it the image's name.
            Some(tip) if tip.contains("use `-- ") => {}
            Some(tip) => tips.push(match tip.split_once(" exist") {
                // Of several the last is the most similar.
                Some((what, list)) if what.contains("similar") => {
                    let nearest = list.rsplit([',', ':']).next().unwrap_or(list);
                    format!("did you mean {}?", nearest.trim())
                }
                Some(_) | None => format!("{tip}?"),
            }),
            None if line.is_empty() => {}
            None => {
                message.push(' ');
                message.push_str(line);
            }
        }
    }
    let of = |kind: ContextKind| error.get(kind).map(ToString::to_string);
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(flag) = of(ContextKind::InvalidArg).filter(|word| word.starts_with('-'))
    {
        message = format!("unknown flag `{flag}`");
    }
    if let Some(verb) = of(ContextKind::InvalidSubcommand) {
        message = format!("no command `{verb}`");
    }
    tips.push(format!("{} --help", verb_of(words)));
    tips.into_iter()
        .fold(Fail::usage(message), Fail::hint)
        .into()
}

/// `rl image ls`, out of the words of a command line.
fn verb_of(words: &[OsString]) -> String {
    let root = Cli::command();
    let mut tree = &root;
    let mut verb = "rl".to_owned();
    for word in words.iter().skip(1).filter_map(|word| word.to_str()) {
        let Some(next) = tree.find_subcommand(word) else {
            continue;
        };
        verb.push(' ');
        verb.push_str(word);
        if next.get_subcommands().next().is_none() {
            break;
        }
        tree = next;
    }
    verb
}

/// The whole tree, with docker's rules for flags: the last of several wins, `--flag=false` is allowed
/// for every switch, and a value may start with a hyphen.
#[must_use]
pub fn command() -> clap::Command {
    dockers_rules(Cli::command())
}

fn dockers_rules(command: clap::Command) -> clap::Command {
    let command = command.args_override_self(true).mut_args(|arg| {
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            arg.action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .default_value("false")
                .value_name("BOOL")
                .value_parser(run::values::boolean)
                .hide_default_value(true)
                .hide_possible_values(true)
        } else if arg.get_action().takes_values() && !arg.is_positional() {
            arg.allow_hyphen_values(true)
        } else {
            arg
        }
    });
    command.mut_subcommands(dockers_rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
        match parse(&words) {
            Ok(parsed) => format!("{parsed:?}"),
            Err(error) => crate::error::report(&usage(&error, &words)),
        }
    }

    #[test]
    fn the_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn usage_errors_are_one_line_and_a_way_out() {
        expect_test::expect![[r#"
            rl: unknown flag `--nam`
                to fix:  did you mean `--name`?
                         rl run --help"#]]
        .assert_eq(&refused("rl run --nam x alpine"));
        expect_test::expect![[r#"
            rl: unknown flag `--memori`
                to fix:  did you mean `--memory`?
                         rl run --help"#]]
        .assert_eq(&refused("rl run --memori 1g alpine"));
        expect_test::expect![[r#"
            rl: no command `runn`
                to fix:  did you mean `run`?
                         rl --help"#]]
        .assert_eq(&refused("rl runn alpine"));
        expect_test::expect![[r#"
            rl: invalid value `x` for `--shm-size <SIZE>`: give a size such as 512k, 64m, 1g or a number of bytes
                to fix:  rl run --help"#]].assert_eq(&refused("rl run --shm-size x alpine"));
        expect_test::expect![[r#"
            rl: invalid value `perhaps` for `--rm`: give true or false
                to fix:  rl run --help"#]]
        .assert_eq(&refused("rl run --rm=perhaps alpine"));
        expect_test::expect![[r#"
            rl: invalid value `sometimes` for `--pull <WHEN>` [possible values: always, missing, never, newer]
                to fix:  rl run --help"#]].assert_eq(&refused("rl run --pull sometimes alpine"));
        expect_test::expect![[r#"
            rl: the following required arguments were not provided: <NAME>
                to fix:  rl tag --help"#]]
        .assert_eq(&refused("rl tag a"));
        expect_test::expect![[r#"
            rl: the following required arguments were not provided: <IMAGE>...
                to fix:  rl image rm --help"#]]
        .assert_eq(&refused("rl image rm"));
    }

    #[test]
    fn a_verb_alone_is_read_as_in_the_tree() {
        for line in [
            "create --name a -e A=1 alpine",
            "exec -it a sh -c true",
            "images -q",
            "inspect a b",
            "kill -s TERM a",
            "logs -f --tail=3 a",
            "ps -a --filter name=x",
            "rm -f a",
            "run --rm=false -it -h host -p 80:80 alpine sh -c --help",
            "--root /x run alpine",
            "--root=/x ps",
            "start -a a",
            "stats --no-stream",
            "stop -t -1 a b",
            "wait a",
        ] {
            let words: Vec<OsString> = format!("rl {line}").split(' ').map(Into::into).collect();
            let alone = alone(&words).map(|cli| format!("{cli:?}"));
            let Ok(Parsed::Cli(in_tree)) = parse_in_tree(&words) else {
                panic!("{line}");
            };
            assert_eq!(alone, Some(format!("{in_tree:?}")), "{line}");
        }
        for line in ["run --help", "ps --nothing", "rm", "--help"] {
            let words: Vec<OsString> = format!("rl {line}").split(' ').map(Into::into).collect();
            assert!(alone(&words).is_none(), "{line}");
        }
    }

    #[test]
    fn help_is_text_and_no_error() {
        for line in [
            "rl",
            "rl --help",
            "rl run --help",
            "rl image",
            "rl image ls --help",
        ] {
            let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
            assert!(matches!(parse(&words), Ok(Parsed::Text(_))), "{line}");
        }
    }
}
