//! Instructions of `rl import --change`, in a Dockerfile's words: `CMD`, `ENTRYPOINT`, `ENV`, `EXPOSE`,
//! `LABEL`, `STOPSIGNAL`, `USER`, `VOLUME`, `WORKDIR`. Pure.

use super::config::{Empty, RunConfig};
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
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_owned()),
        _ => {
            return Err(wrong("this instruction is not known here").hint(
                "known are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR",
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
        ] {
            apply(&mut config, line).unwrap();
        }
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
        ] {
            assert!(apply(&mut RunConfig::default(), bad).is_err(), "{bad}");
        }
    }
}
