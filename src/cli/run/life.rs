//! `--restart`, `--log-driver`, `--log-opt`, `--detach-keys`: what concerns a container's life. Pure.

use crate::container::watch::parse_keys;
use crate::error::Fail;
use crate::spec::{Log, Restart};

/// The keys that leave a terminal when none are named: docker's.
pub const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

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
