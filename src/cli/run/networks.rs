//! `--network` and what goes with named networks: flags to the spec.
//!
//! Whether a network is there is not asked.

use std::path::PathBuf;

use super::RunArgs;
use crate::error::Fail;
use crate::spec::{Joined, Network, is_name};

pub fn network(args: &RunArgs) -> Result<Network, Fail> {
    let mut network = match args.network.as_slice() {
        [] => Network::Auto,
        [one] => mode(one)?.map_or_else(|| named(std::slice::from_ref(one)), Ok)?,
        several => {
            for text in several {
                if mode(text)?.is_some() {
                    return Err(Fail::usage(format!(
                        "--network `{text}` goes with no other network"
                    ))
                    .hint("several networks are several that `rl network ls` shows"));
                }
            }
            named(several)?
        }
    };
    own_place(args, &mut network)?;
    Ok(network)
}

/// The modes that are no names of networks.
fn mode(text: &str) -> Result<Option<Network>, Fail> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let options = || -> Vec<String> {
        rest.split(',')
            .filter(|option| !option.is_empty())
            .map(str::to_owned)
            .collect()
    };
    Ok(Some(match (kind, rest) {
        ("" | "auto" | "bridge" | "default" | "private", "") => Network::Auto,
        ("pasta", _) => Network::Pasta { options: options() },
        ("slirp4netns", _) => Network::Slirp4netns { options: options() },
        ("host", "") => Network::Host,
        ("none", "") => Network::None,
        ("container", name) if !name.is_empty() => Network::Container {
            id: name.to_owned(),
        },
        ("ns", path) if path.starts_with('/') => Network::Path {
            path: PathBuf::from(path),
        },
        ("auto" | "default" | "private" | "host" | "none" | "container" | "ns" | "", _) => {
            return Err(unknown(text));
        }
        _ => return Ok(None),
    }))
}

fn unknown(text: &str) -> Fail {
    Fail::usage(format!("no network `{text}`")).hint(
        "known: auto, pasta[:OPTIONS], slirp4netns[:OPTIONS], host, none, container:NAME, ns:/PATH, \
         and the networks that `rl network ls` shows",
    )
}

fn named(texts: &[String]) -> Result<Network, Fail> {
    let mut networks: Vec<Joined> = Vec::new();
    for text in texts {
        for joined in places(text)? {
            if networks.iter().any(|one| one.network == joined.network) {
                return Err(Fail::usage(format!(
                    "--network `{}` is given twice",
                    joined.network
                )));
            }
            networks.push(joined);
        }
    }
    Ok(Network::Named { networks })
}

/// `NAME[,NAME…]`; docker's `name=NAME,alias=…,ip=…`; podman's `NAME:alias=…,ip=…`.
fn places(text: &str) -> Result<Vec<Joined>, Fail> {
    let (names, options) = match text.split_once(':') {
        Some((name, options)) if !text.starts_with("name=") => (name, options),
        _ if text.starts_with("name=") => ("", text),
        _ => (text, ""),
    };
    let mut joined: Vec<Joined> = names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| Joined {
            network: name.to_owned(),
            ..Joined::default()
        })
        .collect();
    if joined.is_empty() {
        joined.push(Joined::default());
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let wrong = || {
            Fail::usage(format!(
                "--network `{text}`: option `{option}` is not known"
            ))
            .hint("known: name=, alias=, ip=, ip6=, mac-address=")
        };
        let [one] = joined.as_mut_slice() else {
            return Err(wrong());
        };
        let (key, value) = option.split_once('=').ok_or_else(wrong)?;
        match key {
            "name" => one.network = value.to_owned(),
            "alias" => one.aliases.push(value.to_owned()),
            "ip" => one.ip = Some(address("ip", value)?),
            "ip6" => one.ip6 = Some(address("ip6", value)?),
            "mac" | "mac-address" => one.mac = Some(mac(value)?),
            _ => return Err(wrong()),
        }
    }
    match joined.iter().find(|one| !is_name(&one.network)) {
        Some(_) => Err(unknown(text)),
        None => Ok(joined),
    }
}

/// `--ip`, `--ip6`, `--mac-address` and `--network-alias`, as docker has them.
fn own_place(args: &RunArgs, network: &mut Network) -> Result<(), Fail> {
    let given = [
        ("--ip", args.ip.is_some()),
        ("--ip6", args.ip6.is_some()),
        ("--mac-address", args.mac_address.is_some()),
        ("--network-alias", !args.network_alias.is_empty()),
    ];
    let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) else {
        return Ok(());
    };
    let Network::Named { networks } = network else {
        return Err(Fail::usage(format!("{flag} needs a named network"))
            .hint("make one, and name it: rl network create NAME; rl run --network NAME …"));
    };
    for one in networks.iter_mut() {
        one.aliases.extend(args.network_alias.iter().cloned());
    }
    let several = networks.len() > 1;
    let Some(one) = networks.first_mut() else {
        return Ok(());
    };
    if several && flag != "--network-alias" {
        return Err(
            Fail::usage(format!("{flag}: which of the networks is meant?"))
                .hint("say it there: --network NAME:ip=ADDRESS"),
        );
    }
    if let Some(text) = &args.ip {
        one.ip = Some(address("--ip", text)?);
    }
    if let Some(text) = &args.ip6 {
        one.ip6 = Some(address("--ip6", text)?);
    }
    if let Some(text) = &args.mac_address {
        one.mac = Some(mac(text)?);
    }
    Ok(())
}

/// Reads an address of one kind.
///
/// # Errors
/// `Usage`.
pub fn address<A: std::str::FromStr>(flag: &str, text: &str) -> Result<A, Fail> {
    text.parse()
        .map_err(|_| Fail::usage(format!("{flag} `{text}` is not an IP address of that kind")))
}

/// Reads a hardware address.
fn mac(text: &str) -> Result<[u8; 6], Fail> {
    let wrong = || {
        Fail::usage(format!("`{text}` is not a hardware address"))
            .hint("give six bytes such as 92:d0:c6:0a:29:33, the first one even")
    };
    let bytes: Vec<u8> = text
        .split([':', '-'])
        .map(|byte| u8::from_str_radix(byte, 16).map_err(|_| wrong()))
        .collect::<Result<_, _>>()?;
    let mac: [u8; 6] = bytes.try_into().map_err(|_| wrong())?;
    // The lowest bit of the first byte is a group's.
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(wrong());
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::table;

    #[test]
    fn networks_are_modes_or_names() {
        table(
            |spec| {
                let crate::spec::Network::Named { networks } = &spec.network else {
                    return format!("{:?}", spec.network);
                };
                let shown = networks.iter().map(|one| {
                    let ip = one.ip.map(|ip| format!("={ip}")).unwrap_or_default();
                    let mac = one.mac.map(|mac| format!("={mac:?}")).unwrap_or_default();
                    format!("{}{ip}{mac} {}", one.network, one.aliases.join("|"))
                });
                shown.collect::<Vec<_>>().join(", ")
            },
            &[
                ("", r#""Auto""#),
                ("--net mine", r#""mine ""#),
                ("--network a,b --network c", r#""a , b , c ""#),
                (
                    "--network a --ip 10.0.0.9 --network-alias x --network-alias y",
                    r#""a=10.0.0.9 x|y""#,
                ),
                (
                    "--network name=a,alias=x,ip=10.0.0.9 --network b:mac=02:00:00:00:00:01",
                    r#""a=10.0.0.9 x, b=[2, 0, 0, 0, 0, 1] ""#,
                ),
                ("--network a,a", "error: --network `a` is given twice"),
                (
                    "--network a --network host",
                    "error: --network `host` goes with no other network",
                ),
                (
                    "--network a,b --ip 10.0.0.9",
                    "error: --ip: which of the networks is meant?",
                ),
                ("--ip 10.0.0.9", "error: --ip needs a named network"),
                (
                    "--network host --network-alias x",
                    "error: --network-alias needs a named network",
                ),
                (
                    "--network a --ip fd00::1",
                    "error: --ip `fd00::1` is not an IP address of that kind",
                ),
                (
                    "--network a --mac-address 01:00:00:00:00:00",
                    "error: `01:00:00:00:00:00` is not a hardware address",
                ),
                (
                    "--network a:colour=red",
                    "error: --network `a:colour=red`: option `colour=red` is not known",
                ),
                ("--network /x", "error: no network `/x`"),
                ("--network container:", "error: no network `container:`"),
            ],
        );
    }
}
