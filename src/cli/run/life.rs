//! `--restart`, `--log-driver`, `--log-opt`, `--health-…`, `--detach-keys`, `-it`: what concerns a container's life.

use std::io::IsTerminal as _;

use jiff::SignedDuration;

use super::RunArgs;
use crate::cli::times::duration;
use crate::container::watch::parse_keys;
use crate::error::Fail;
use crate::image::config::shell_line;
use crate::spec::{Health, Log, Restart};

/// The keys that leave a terminal when none are named: docker's.
pub const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Refuses what is typed into a terminal inside where no terminal is outside, as docker does: its line editing and signals would
/// be lost, and what is piped in would be echoed.
pub fn check_terminal(tty: bool, input: bool) -> Result<(), Fail> {
    if tty && input && !std::io::stdin().is_terminal() {
        return Err(Fail::usage("the input device is not a TTY")
            .hint("-t needs a terminal on standard input; in scripts and pipes use -i alone"));
    }
    Ok(())
}

/// `no`, `on-failure[:N]`, `always`, `unless-stopped`.
pub fn restart(text: &str) -> Result<Restart, Fail> {
    let (policy, most) = match text.split_once(':') {
        Some((policy, most)) => (policy, Some(most)),
        None => (text, None),
    };
    let known = match (policy, most) {
        ("" | "no", None) => Some(Restart::No),
        ("always", None) => Some(Restart::Always),
        ("unless-stopped", None) => Some(Restart::UnlessStopped),
        ("on-failure", None) => Some(Restart::OnFailure { most: 0 }),
        ("on-failure", Some(most)) => most.parse().ok().map(|most| Restart::OnFailure { most }),
        _ => None,
    };
    known.ok_or_else(|| {
        Fail::usage(format!("--restart `{text}` is not known"))
            .hint("known are no, on-failure, on-failure:N, always and unless-stopped")
    })
}

/// The log, from `--log-driver` and `--log-opt`.
pub fn log(driver: Option<&str>, options: &[String]) -> Result<Log, Fail> {
    let mut log = Log::default();
    match driver {
        None | Some("json-file") => {}
        Some("none") => log.none = true,
        Some(other) => {
            return Err(Fail::usage(format!("--log-driver `{other}` is not known"))
                .hint("known are json-file and none"));
        }
    }
    for option in options {
        let refused = || Fail::usage(format!("--log-opt `{option}` makes no sense"));
        match option.split_once('=') {
            Some(("max-size", size)) => {
                log.max_size = Some(super::values::size(size).map_err(|_| {
                    refused().hint("a size is a number with k, m or g: max-size=10m")
                })?);
            }
            Some(("max-file", count)) => {
                let count = count.parse().ok().filter(|count| *count > 0);
                log.max_files =
                    Some(count.ok_or_else(|| refused().hint("max-file is a number from 1 on"))?);
            }
            Some(_) | None => return Err(refused().hint("known are max-size=SIZE and max-file=N")),
        }
    }
    if log.max_files.is_some_and(|count| count > 1) && log.max_size.is_none() {
        return Err(Fail::usage("--log-opt max-file needs max-size")
            .hint("say when a new file is begun: --log-opt max-size=10m"));
    }
    Ok(log)
}

/// The health check of the flags; what they leave open is the image's.
pub fn health(args: &RunArgs) -> Result<Option<Health>, Fail> {
    let times = [
        ("--health-interval", &args.health_interval),
        ("--health-timeout", &args.health_timeout),
        ("--health-start-period", &args.health_start_period),
        ("--health-start-interval", &args.health_start_interval),
    ];
    let command = args.health_cmd.as_deref();
    let says_how = command.is_some()
        || args.health_retries.is_some()
        || times.iter().any(|time| time.1.is_some());
    if args.no_healthcheck && says_how {
        return Err(Fail::usage(
            "--no-healthcheck and --health-… exclude each other",
        ));
    }
    if args.no_healthcheck || command.is_some_and(|text| text.eq_ignore_ascii_case("none")) {
        return Ok(Some(Health {
            none: true,
            ..Health::default()
        }));
    }
    if !says_how {
        return Ok(None);
    }
    let mut health = Health {
        command: command.map(health_words).transpose()?.unwrap_or_default(),
        ..Health::default()
    };
    if let Some(count) = args.health_retries {
        health.retries = u32::try_from(count).map_err(|_| {
            Fail::usage(format!("--health-retries {count} is no number of failures"))
                .hint("give one from 1 on")
        })?;
    }
    let mut read = times.into_iter().map(|(flag, text)| {
        let Some(text) = text else { return Ok(0) };
        if flag == "--health-interval" && text == "disable" {
            return Ok(Health::NEVER);
        }
        // Docker's least, and 0 for what is not said.
        duration_ns(text)
            .filter(|time| *time == 0 || *time >= 1_000_000)
            .ok_or_else(|| {
                Fail::usage(format!("{flag} `{text}` is no time of 1ms or more"))
                    .hint("give a number with a unit: 500ms, 30s, 1m30s")
            })
    });
    let mut next = || read.next().unwrap_or(Ok(0));
    (health.interval_ns, health.timeout_ns) = (next()?, next()?);
    (health.start_period_ns, health.start_interval_ns) = (next()?, next()?);
    Ok(Some(health))
}

/// A JSON list is words, as podman has it; all else is a line for the shell.
fn health_words(text: &str) -> Result<Vec<String>, Fail> {
    let Ok(words) = serde_json::from_str::<Vec<String>>(text) else {
        return Ok(if text.is_empty() {
            Vec::new()
        } else {
            shell_line(&[], text)
        });
    };
    let refused = || {
        Fail::usage(format!("--health-cmd `{text}` names no program"))
            .hint("[\"CMD\", \"program\", …]")
    };
    let (first, rest) = words.split_first().ok_or_else(refused)?;
    match first.as_str() {
        "CMD" if rest.is_empty() => Err(refused()),
        "CMD" => Ok(rest.to_vec()),
        "CMD-SHELL" => Ok(shell_line(&[], &rest.join(" "))),
        _ => Ok(words),
    }
}

/// Nanoseconds of a duration such as `1m30s`; a bare number is seconds.
fn duration_ns(text: &str) -> Option<u64> {
    let time = match text.parse() {
        Ok(seconds) => SignedDuration::from_secs(seconds),
        Err(_) => duration(text)?,
    };
    u64::try_from(time.as_nanos()).ok()
}

/// The keys of `--detach-keys`.
pub fn detach_keys(text: Option<&str>) -> Result<Vec<u8>, Fail> {
    let text = text.unwrap_or(DETACH_KEYS);
    parse_keys(text).ok_or_else(|| {
        Fail::usage(format!("--detach-keys `{text}` is not understood"))
            .hint("keys are letters or ctrl-LETTER, with commas between them: ctrl-p,ctrl-q")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_are_dockers() {
        for (text, policy) in [
            ("no", Some(Restart::No)),
            ("always", Some(Restart::Always)),
            ("unless-stopped", Some(Restart::UnlessStopped)),
            ("on-failure", Some(Restart::OnFailure { most: 0 })),
            ("on-failure:3", Some(Restart::OnFailure { most: 3 })),
            ("on-failure:x", None),
            ("always:3", None),
            ("sometimes", None),
        ] {
            assert_eq!(restart(text).ok(), policy, "{text}");
        }
    }

    #[test]
    fn times_are_gos() {
        for (text, nanoseconds) in [
            ("30s", Some(30_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("500ms", Some(500_000_000)),
            ("2", Some(2_000_000_000)),
            ("0s", Some(0)),
            ("", None),
            ("-1s", None),
            ("1x", None),
            ("9999999999999h", None),
        ] {
            assert_eq!(duration_ns(text), nanoseconds, "{text}");
        }
    }

    #[test]
    fn a_health_command_is_a_line_or_words() {
        for (text, words) in [
            (
                "curl -f localhost || exit 1",
                Some("/bin/sh|-c|curl -f localhost || exit 1"),
            ),
            (r#"["CMD","/bin/true","a b"]"#, Some("/bin/true|a b")),
            (r#"["CMD-SHELL","exit 1"]"#, Some("/bin/sh|-c|exit 1")),
            (r#"["true"]"#, Some("true")),
            (r#"["CMD"]"#, None),
            ("[]", None),
        ] {
            assert_eq!(
                health_words(text)
                    .ok()
                    .map(|words| words.join("|"))
                    .as_deref(),
                words,
                "{text}"
            );
        }
    }

    #[test]
    fn log_options_are_checked() {
        let show = |driver, options: &[&str]| {
            let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
            log(driver, &options).map_or_else(
                |fail| fail.message,
                |log| format!("{} {:?} {:?}", log.none, log.max_size, log.max_files),
            )
        };
        assert_eq!(show(None, &[]), "false None None");
        assert_eq!(show(Some("none"), &[]), "true None None");
        assert_eq!(
            show(None, &["max-size=1m", "max-file=3"]),
            "false Some(1048576) Some(3)"
        );
        assert_eq!(
            show(Some("journald"), &[]),
            "--log-driver `journald` is not known"
        );
        assert_eq!(
            show(None, &["max-file=3"]),
            "--log-opt max-file needs max-size"
        );
        assert_eq!(
            show(None, &["max-size=big"]),
            "--log-opt `max-size=big` makes no sense"
        );
    }
}
