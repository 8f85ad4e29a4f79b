//! Instructions of `rl import --change` and `rl commit --change`, in a Dockerfile's words: `CMD`, `ENTRYPOINT`,
//! `ENV`, `EXPOSE`, `HEALTHCHECK`, `LABEL`, `ONBUILD`, `STOPSIGNAL`, `USER`, `VOLUME`, `WORKDIR`. Pure.

use super::config::{Empty, Healthcheck, RunConfig};
use crate::error::Fail;

/// Applies one instruction.
///
/// # Errors
/// [`crate::error::Kind::Usage`] that names the instruction.
pub fn apply(config: &mut RunConfig, line: &str) -> Result<(), Fail> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let wrong = |why: &str| Fail::usage(format!("change `{}`: {why}", line.escape_debug()));
    let word = word.to_ascii_uppercase();
    if rest.is_empty() && word != "CMD" && word != "ENTRYPOINT" {
        return Err(wrong("something must follow the instruction"));
    }
    match word.as_str() {
        "CMD" => config.cmd = command(rest),
        "ENTRYPOINT" => config.entrypoint = command(rest),
        "ENV" => {
            for (name, value) in pairs(rest).ok_or_else(|| wrong("write NAME=VALUE"))? {
                let prefix = format!("{name}=");
                config.env.retain(|other| !other.starts_with(&prefix));
                config.env.push(prefix + &value);
            }
        }
        "LABEL" => config
            .labels
            .extend(pairs(rest).ok_or_else(|| wrong("write NAME=VALUE"))?),
        "EXPOSE" => {
            for port in words(rest).ok_or_else(|| wrong("a quotation mark is missing"))? {
                let (number, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
                let (first, last) = number.split_once('-').unwrap_or((number, number));
                let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
                if !is_port(first) || !is_port(last) || !["tcp", "udp", "sctp"].contains(&protocol)
                {
                    return Err(wrong("ports are written as `80`, `80/udp` or `8000-8010`"));
                }
                config
                    .exposed_ports
                    .insert(format!("{number}/{protocol}"), Empty {});
            }
        }
        "VOLUME" => {
            let paths = match list(rest) {
                Some(paths) => paths,
                None => words(rest).ok_or_else(|| wrong("a quotation mark is missing"))?,
            };
            config
                .volumes
                .extend(paths.into_iter().map(|path| (path, Empty {})));
        }
        "USER" => config.user = rest.to_owned(),
        "WORKDIR" => {
            config.working_dir = if rest.starts_with('/') {
                rest.to_owned()
            } else {
                format!("{}/{rest}", config.working_dir.trim_end_matches('/'))
            };
        }
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest).map_err(|why| wrong(&why))?),
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_owned()),
        _ => {
            return Err(wrong("this instruction is not known here").hint(
                "known are CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR",
            ));
        }
    }
    Ok(())
}

/// `["a", "b"]`, or text for the shell.
fn command(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return None;
    }
    Some(list(text).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()]))
}

/// `NONE`, or `[--interval=30s …] CMD …`. Source: Dockerfile reference, HEALTHCHECK.
fn healthcheck(text: &str) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        let time = || duration(value).ok_or_else(|| format!("`{value}` is no time such as 30s"));
        match name {
            "interval" => check.interval = time()?,
            "timeout" => check.timeout = time()?,
            "start-period" => check.start_period = time()?,
            "start-interval" => check.start_interval = time()?,
            "retries" => {
                check.retries = value
                    .parse()
                    .map_err(|_| format!("`{value}` is no number"))?;
            }
            _ => return Err(format!("`--{name}` is not known")),
        }
        rest = after.trim_start();
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check.test = match (word.to_ascii_uppercase().as_str(), command) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("CMD", command) if !command.is_empty() => match list(command) {
            Some(words) => [vec!["CMD".to_owned()], words].concat(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        _ => return Err("write NONE or CMD and a command".to_owned()),
    };
    Ok(check)
}

/// `1h2m3.5s`, `500ms` in nanoseconds, as Go writes them.
fn duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let number: f64 = rest[..end].parse().ok()?; // the caller says what is wrong
        rest = &rest[end..];
        let (unit, factor) = [
            ("ns", 1.0),
            ("us", 1e3),
            ("ms", 1e6),
            ("s", 1e9),
            ("m", 6e10),
            ("h", 3.6e12),
        ]
        .into_iter()
        .find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += number * factor;
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in range"
    )]
    (!text.is_empty() && total < 9e18).then_some(total as u64)
}

fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok() // text that is no JSON list has its own meaning
}

/// `A=1 B="two words"`, or the old `A one value`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if !first.contains('=') {
        return (!rest.is_empty()).then(|| vec![(first.to_owned(), rest.trim().to_owned())]);
    }
    words(text)?
        .iter()
        .map(|word| {
            let (name, value) = word.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Words with quotation marks and backslashes as a Dockerfile has them; `None` for an open quotation.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (mark, Some(open)) if mark == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (space, None) if space.is_whitespace() => words.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_a_dockerfiles() {
        let mut config = RunConfig::default();
        for line in [
            "CMD [\"a\", \"b c\"]",
            "entrypoint exec \"$@\"",
            "ENV A=1 B=\"two words\" C=x\\ y",
            "ENV A one value",
            "EXPOSE 80 53/udp",
            "LABEL \"k\"='v w'",
            "VOLUME /a /b",
            "VOLUME [\"/c d\"]",
            "USER 1:2",
            "WORKDIR /x",
            "WORKDIR y",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=1m30s --retries=3 --timeout=500ms CMD [\"true\", \"x\"]",
        ] {
            apply(&mut config, line).unwrap();
        }
        assert_eq!(config.on_build, ["RUN make"]);
        let check = config.healthcheck.unwrap();
        assert_eq!(check.test, ["CMD", "true", "x"]);
        assert_eq!(
            (check.interval, check.timeout, check.retries),
            (90_000_000_000, 500_000_000, 3)
        );
        assert_eq!(healthcheck("CMD a b").unwrap().test, ["CMD-SHELL", "a b"]);
        assert_eq!(healthcheck("none").unwrap().test, ["NONE"]);
        assert_eq!(config.cmd.unwrap(), ["a", "b c"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "exec \"$@\""]);
        assert_eq!(config.env, ["B=two words", "C=x y", "A=one value"]);
        assert!(config.exposed_ports.keys().eq(["53/udp", "80/tcp"]));
        assert_eq!(config.labels["k"], "v w");
        assert!(config.volumes.keys().eq(["/a", "/b", "/c d"]));
        assert_eq!(
            (config.user.as_str(), config.working_dir.as_str()),
            ("1:2", "/x/y")
        );
        for bad in [
            "",
            "RUN x",
            "ENV",
            "ENV A=1 B",
            "EXPOSE x",
            "LABEL a=\"b",
            "EXPOSE 0",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --interval=5 CMD x",
            "HEALTHCHECK --what CMD x",
        ] {
            assert!(apply(&mut RunConfig::default(), bad).is_err(), "{bad}");
        }
    }
}
