//! `--egress`: text to the spec.

use std::net::IpAddr;

use super::RunArgs;
use crate::error::Fail;
use crate::net::egress::FORBIDDEN;
use crate::spec::{Allowed, Confinement, Destination, Egress, Network, Protocol};

/// Reads `--egress`, and takes away what would undo it.
pub fn egress(
    args: &RunArgs,
    network: &Network,
    confinement: &mut Confinement,
) -> Result<Option<Egress>, Fail> {
    if args.egress.is_empty() {
        return Ok(None);
    }
    let mut egress = Egress::default();
    for text in &args.egress {
        let wrong = |why: &str| Fail::usage(format!("--egress `{text}`: {why}"));
        if text == "deny" {
            continue;
        }
        let list = text.strip_prefix("allow=").ok_or_else(|| {
            wrong("is not known").hint("known are deny and allow=HOST[:PORT][/tcp|udp][,…]")
        })?;
        for entry in list.split(',') {
            egress
                .allow
                .push(allowed(entry).map_err(|why| wrong(&why))?);
        }
    }
    refuse_network(network)?;
    if args.privileged {
        return Err(Fail::usage("--egress and --privileged exclude each other")
            .hint("a privileged program could take the rules away"));
    }
    let added = args.cap_add.iter().flat_map(|text| text.split(','));
    for word in added {
        let upper = word.to_ascii_uppercase();
        let name = format!("CAP_{}", upper.trim_start_matches("CAP_"));
        if upper == "ALL" || FORBIDDEN.contains(&name.as_str()) {
            return Err(
                Fail::usage(format!("--egress and --cap-add {word} exclude each other"))
                    .hint("with that capability a program could get round the rules"),
            );
        }
    }
    confinement
        .capabilities
        .retain(|capability| !FORBIDDEN.contains(&capability.as_str()));
    Ok(Some(egress))
}

fn refuse_network(network: &Network) -> Result<(), Fail> {
    let what = match network {
        Network::Host => "host: the rules would be the host's",
        Network::None => "none: there is no way out anyway",
        Network::Container { .. } | Network::Path { .. } => {
            "container: and ns:, whose rules are those of whoever made them"
        }
        Network::Pasta { options } => {
            let opens = |option: &&String| {
                let word = option.split('=').next().unwrap_or_default();
                ["-T", "-U", "--tcp-ns", "--udp-ns"].contains(&word)
            };
            match options.iter().find(opens) {
                Some(option) => {
                    return Err(Fail::usage(format!(
                        "--egress and pasta's `{option}` exclude each other"
                    ))
                    .hint("it leads from the container's loopback, which is not closed, to the host's"));
                }
                None => return Ok(()),
            }
        }
        Network::Auto | Network::Slirp4netns { .. } | Network::Named { .. } => return Ok(()),
    };
    Err(Fail::usage(format!(
        "--egress does not go with --network {what}"
    )))
}

/// `HOST[:PORT][/tcp|udp]`; HOST is a name, an address, `10.0.0.0/8`, `[::1]` or `[fd00::/8]`.
fn allowed(text: &str) -> Result<Allowed, String> {
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, "tcp")) => (rest, Some(Protocol::Tcp)),
        Some((rest, "udp")) => (rest, Some(Protocol::Udp)),
        Some(_) | None => (text, None),
    };
    let (host, port) = match rest.strip_prefix('[') {
        Some(inner) => {
            let (host, after) = inner.split_once(']').ok_or("the bracket is not closed")?;
            if !host.contains(':') {
                return Err(format!("`{host}` is no IPv6 address"));
            }
            let port = match after {
                "" => None,
                _ => Some(
                    after
                        .strip_prefix(':')
                        .ok_or("after the bracket comes :PORT")?,
                ),
            };
            (host, port)
        }
        None => match rest.split_once(':') {
            Some((_, more)) if more.contains(':') => {
                return Err(format!("an IPv6 address is written in brackets: [{rest}]"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    let port = match port {
        None => None,
        Some(text) => match text.parse() {
            Ok(0) | Err(_) => return Err(format!("`{text}` is no port")),
            Ok(port) => Some(port),
        },
    };
    Ok(Allowed {
        to: destination(host)?,
        port,
        protocol,
    })
}

fn destination(host: &str) -> Result<Destination, String> {
    let (address, length) = match host.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (host, None),
    };
    let whole = |address: &IpAddr| if address.is_ipv4() { 32 } else { 128 };
    match (address.parse::<IpAddr>(), length) {
        (Ok(address), None) => Ok(Destination::Network(address, whole(&address))),
        (Ok(address), Some(text)) => match text.parse::<u8>() {
            Ok(length) if length <= whole(&address) => Ok(Destination::Network(address, length)),
            Ok(_) | Err(_) => Err(format!("`/{text}` is no length of a network")),
        },
        (Err(_), Some(_)) => Err(format!("`{address}` is no address")),
        (Err(_), None) if is_name(host) => Ok(Destination::Name(host.to_owned())),
        (Err(_), None) => Err(format!("`{host}` is neither a name nor an address")),
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
    // What looks like an address and is none is a mistake.
    !text.is_empty()
        && text.bytes().all(is_plain)
        && text.bytes().any(|c| c.is_ascii_alphabetic())
        && !text.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_shown() {
        for (text, expected) in [
            ("example.org", "example.org"),
            ("example.org:443", "example.org:443"),
            ("example.org:443/tcp", "example.org:443/tcp"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.0/8:53/udp", "10.0.0.0/8:53/udp"),
            ("10.0.0.0/8/tcp", "10.0.0.0/8/tcp"),
            ("[::1]", "[::1]"),
            ("[fd00::/8]:80", "[fd00::/8]:80"),
            ("", "`` is neither a name nor an address"),
            ("::1", "an IPv6 address is written in brackets: [::1]"),
            ("[::1", "the bracket is not closed"),
            ("[x]", "`x` is no IPv6 address"),
            ("[::1]80", "after the bracket comes :PORT"),
            ("a:0", "`0` is no port"),
            ("a:http", "`http` is no port"),
            ("10.0.0.0/33", "`/33` is no length of a network"),
            ("a/8", "`a` is no address"),
            ("1.2.3", "`1.2.3` is neither a name nor an address"),
            ("a b", "`a b` is neither a name nor an address"),
        ] {
            let got = allowed(text).map_or_else(|why| why, |allowed| allowed.to_string());
            assert_eq!(got, expected, "{text}");
        }
    }
}
