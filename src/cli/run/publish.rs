//! `-p` and `--expose`: docker's words for ports to the spec's. Pure text to value.
//!
//! Which port of the host is free is not asked here. Source of the syntax: docker's go-connections,
//! `nat.ParsePortSpec`.

use std::net::IpAddr;

use crate::error::Fail;
use crate::spec::{HostPort, Port, Publish};

/// What all `-p` ask for, a range taken apart.
pub fn all(list: &[String]) -> Result<Vec<Publish>, Fail> {
    let mut all: Vec<Publish> = Vec::new();
    for text in list {
        for one in published(text)? {
            // The same words twice mean the same, as in docker.
            if one.host == HostPort::Any || !all.contains(&one) {
                all.push(one);
            }
        }
    }
    Ok(all)
}

/// What all `--expose` name.
pub fn exposed(list: &[String]) -> Result<Vec<Port>, Fail> {
    let mut all = Vec::new();
    for text in list {
        let wrong = |why: &Fail| Fail::usage(format!("--expose `{text}`: {}", why.message));
        let ports = ports(text).map_err(|why| {
            let mut fail = wrong(&why);
            fail.kind = why.kind;
            fail
        })?;
        all.extend(ports);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// `[[ADDRESS:][HOST]:]CONTAINER[/PROTOCOL]`.
fn published(text: &str) -> Result<Vec<Publish>, Fail> {
    let wrong = |why: String| {
        Fail::usage(format!("-p `{text}`: {why}")).hint(
            "give [[ADDRESS:][HOST_PORT]:]CONTAINER_PORT[/tcp|udp], such as 8080:80, 127.0.0.1::53/udp or [::1]:8000-8010:80-90",
        )
    };
    let (rest, container) = text
        .rsplit_once(':')
        .map_or((None, text), |(rest, container)| (Some(rest), container));
    let ports = ports(container).map_err(|fail| Fail {
        message: format!("-p `{text}`: {}", fail.message),
        ..fail
    })?;
    // The address may have colons of its own; the host's port has none.
    let (address, host) = match rest {
        None => (None, ""),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, rest),
            Some((address, host)) => (Some(address), host),
        },
    };
    let address = match address {
        None | Some("") => None,
        Some(address) => {
            let bare = address
                .strip_prefix('[')
                .and_then(|address| address.strip_suffix(']'));
            let address: IpAddr = bare
                .unwrap_or(address)
                .parse()
                .map_err(|_| wrong(format!("`{address}` is not an IP address")))?;
            Some(address)
        }
    };
    let Some((first, last)) = range(host).map_err(|()| {
        wrong(format!(
            "`{host}` is no port or range of ports from 1 to 65535"
        ))
    })?
    else {
        let any = |port| Publish {
            address,
            host: HostPort::Any,
            port,
        };
        return Ok(ports.into_iter().map(any).collect());
    };
    let hosts = usize::from(last - first) + 1;
    if hosts != ports.len() {
        let [port] = ports[..] else {
            return Err(wrong(format!(
                "{hosts} ports of the host cannot lead to {} of the container",
                ports.len()
            )));
        };
        return Ok(vec![Publish {
            address,
            host: HostPort::Among { first, last },
            port,
        }]);
    }
    let pairs = (first..=last).zip(ports);
    Ok(pairs
        .map(|(host, port)| Publish {
            address,
            host: HostPort::Fixed { port: host },
            port,
        })
        .collect())
}

/// `80`, `80-90/udp`.
fn ports(text: &str) -> Result<Vec<Port>, Fail> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let Ok(Some((first, last))) = range(numbers) else {
        return Err(Fail::usage(format!(
            "`{numbers}` is no port or range of ports from 1 to 65535"
        )));
    };
    (first..=last)
        .map(|number| format!("{number}/{protocol}").parse())
        .collect()
}

/// `80`, `80-90`; nothing and `0` leave it open.
fn range(text: &str) -> Result<Option<(u16, u16)>, ()> {
    let number = |text: &str| -> Result<u16, ()> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            text.parse().map_err(|_| ())
        } else {
            Err(())
        }
    };
    if text.is_empty() {
        return Ok(None);
    }
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    match (first, last) {
        (0, 0) => Ok(None),
        (0, _) => Err(()),
        (first, last) if first <= last => Ok(Some((first, last))),
        (_, _) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::table;
    use super::*;

    #[test]
    fn ports_are_published_in_dockers_words() {
        let show = |one: &Publish| {
            let address = one.address.map_or("*".to_owned(), |ip| ip.to_string());
            let host = match one.host {
                HostPort::Any => "any".to_owned(),
                HostPort::Fixed { port } => port.to_string(),
                HostPort::Among { first, last } => format!("{first}..{last}"),
            };
            format!("{address} {host}>{}", one.port)
        };
        for (text, expected) in [
            ("80", "* any>80/tcp"),
            ("0:80", "* any>80/tcp"),
            ("8080:80", "* 8080>80/tcp"),
            ("127.0.0.1::53/udp", "127.0.0.1 any>53/udp"),
            ("[::1]:8080:80/TCP", "::1 8080>80/tcp"),
            ("::1:8080:80", "::1 8080>80/tcp"),
            ("0.0.0.0:1-2:3-4", "0.0.0.0 1>3/tcp, 0.0.0.0 2>4/tcp"),
            ("9000-9005:80", "* 9000..9005>80/tcp"),
            ("80-81", "* any>80/tcp, * any>81/tcp"),
            (
                "",
                "error: -p ``: `` is no port or range of ports from 1 to 65535",
            ),
            (
                "8080:",
                "error: -p `8080:`: `` is no port or range of ports from 1 to 65535",
            ),
            (
                "x:80",
                "error: -p `x:80`: `x` is no port or range of ports from 1 to 65535",
            ),
            (
                "70000:80",
                "error: -p `70000:80`: `70000` is no port or range of ports from 1 to 65535",
            ),
            (
                "+80:80",
                "error: -p `+80:80`: `+80` is no port or range of ports from 1 to 65535",
            ),
            (
                "1:0",
                "error: -p `1:0`: `0` is no port or range of ports from 1 to 65535",
            ),
            (
                "9-8:2-1",
                "error: -p `9-8:2-1`: `2-1` is no port or range of ports from 1 to 65535",
            ),
            (
                "1-3:1-2",
                "error: -p `1-3:1-2`: 3 ports of the host cannot lead to 2 of the container",
            ),
            (
                "host:1:2",
                "error: -p `host:1:2`: `host` is not an IP address",
            ),
            (
                "1:2/icmp",
                "error: -p `1:2/icmp`: port `2/icmp`: `icmp` is no protocol",
            ),
            (
                "1:2/sctp",
                "error: -p `1:2/sctp`: port `2/sctp`: no helper carries SCTP without root",
            ),
        ] {
            let got = match published(text) {
                Ok(list) => list.iter().map(show).collect::<Vec<_>>().join(", "),
                Err(fail) => format!("error: {}", fail.message),
            };
            assert_eq!(got, expected, "for {text}");
        }
    }

    #[test]
    fn a_port_of_the_host_is_given_once() {
        table(
            |spec| spec.publish.len(),
            &[
                ("-p 80:80 -p 80:80", "1"),
                ("-p 80 -p 80", "2"),
                ("-p 80:80 -p 80:80/udp", "2"),
                (
                    "--network container:x -p 80",
                    "error: -p and --network container:… exclude each other",
                ),
            ],
        );
        let collide = |one: &str, other: &str| {
            let one = published(one).expect(one)[0];
            one.collides_with(&published(other).expect(other)[0])
        };
        assert!(collide("80:80", "80:81").is_some());
        assert!(collide("127.0.0.1:80:80", "80:81").is_some());
        assert!(collide("127.0.0.1:80:80", "0.0.0.0:80:81").is_some());
        assert!(collide("127.0.0.1:80:80", "127.0.0.2:80:81").is_none());
        assert!(collide("127.0.0.1:80:80", "[::]:80:81").is_none());
        assert!(collide("80:80", "80:80/udp").is_none());
    }

    #[test]
    fn ports_are_exposed_one_by_one() {
        table(
            |spec| {
                spec.expose
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            },
            &[
                (
                    "--expose 81-82/udp --expose 80 --expose 80",
                    r#"["80/tcp", "81/udp", "82/udp"]"#,
                ),
                (
                    "--expose x",
                    "error: --expose `x`: `x` is no port or range of ports from 1 to 65535",
                ),
            ],
        );
    }
}
