//! Named networks on disk: `networks/NAME.json`, built aside and renamed. What runs in them is `server`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::subnet::Cidr;
use crate::error::Fail;
use crate::paths::Store;
use crate::spec::is_name;
use crate::sys;

/// The version of the stored form.
const VERSION: u32 = 1;

/// Names that `--network` understands otherwise.
pub const RESERVED: [&str; 10] = [
    "auto",
    "default",
    "bridge",
    "private",
    "pasta",
    "slirp4netns",
    "host",
    "none",
    "container",
    "ns",
];

/// Bytes in a packet where the user says nothing: the most that IPv4 has, for nothing on the way is slower by it.
pub const MTU: u32 = 65_520;

/// One range of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The range.
    pub subnet: Cidr,
    /// The bridge's own address: name server and, unless the network is internal, the way out.
    pub gateway: IpAddr,
    /// Where addresses are given out; in the whole subnet when there is none.
    pub range: Option<Cidr>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// [`VERSION`].
    pub version: u32,
    /// Its name.
    pub name: String,
    /// 64 hexadecimal digits.
    pub id: String,
    /// RFC 3339.
    pub created: String,
    /// One for IPv4, and one for IPv6 where that was asked for.
    pub subnets: Vec<Subnet>,
    /// There is no way out.
    pub internal: bool,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--opt`, as given.
    pub options: BTreeMap<String, String>,
    /// Bytes in a packet.
    pub mtu: u32,
}

/// What a user asks for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The name.
    pub name: String,
    /// `--subnet`.
    pub subnets: Vec<Cidr>,
    /// `--gateway`.
    pub gateways: Vec<IpAddr>,
    /// `--ip-range`.
    pub ranges: Vec<Cidr>,
    /// `--ipv6`.
    pub ipv6: bool,
    /// `--internal`.
    pub internal: bool,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--opt`.
    pub options: BTreeMap<String, String>,
    /// Out of the options.
    pub mtu: Option<u32>,
}

impl Config {
    /// The subnet of IPv4, or of IPv6.
    #[must_use]
    pub fn subnet(&self, is_v4: bool) -> Option<&Subnet> {
        self.subnets
            .iter()
            .find(|one| one.gateway.is_ipv4() == is_v4)
    }

    /// Its bridge's name. 15 bytes are the most that the kernel takes.
    #[must_use]
    pub fn bridge(&self) -> String {
        let kind = if self.internal {
            crate::net::link::INTERNAL
        } else {
            crate::net::link::OPEN
        };
        format!("{kind}{}", self.id.get(..12).unwrap_or(&self.id))
    }
}

fn path(store: &Store, name: &str) -> PathBuf {
    store.networks().join(format!("{name}.json"))
}

/// The networks that are there, by name. The second value names files that cannot be understood.
///
/// # Errors
/// When the directory cannot be read.
pub fn all(store: &Store) -> Result<(Vec<Config>, Vec<String>)> {
    let dir = store.networks();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((Vec::new(), Vec::new()));
        }
        Err(error) => return Err(error).with_context(|| format!("reading `{}`", dir.display())),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?; // ours are text
            name.strip_suffix(".json").map(str::to_owned)
        })
        .collect();
    names.sort();
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for name in names {
        match read(store, &name) {
            Ok(Some(config)) => found.push(config),
            Ok(None) => {}
            Err(error) => damaged.push(format!("{error:#}")),
        }
    }
    Ok((found, damaged))
}

fn read(store: &Store, name: &str) -> Result<Option<Config>> {
    let path = path(store, name);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading `{}`", path.display())),
    };
    let config: Config = serde_json::from_slice(&text).map_err(|error| {
        Fail::corrupt(format!("`{}` is damaged: {error}", path.display()))
            .hint("remove that file, and make the network again")
    })?;
    if config.version != VERSION {
        return Err(Fail::corrupt(format!(
            "`{}` has version {}, this `rl` knows {VERSION}",
            path.display(),
            config.version
        ))
        .hint("it was written by a newer `rl`; use that one")
        .into());
    }
    Ok(Some(config))
}

/// The network that `text` means: its name, its id, or a unique beginning of that.
///
/// # Errors
/// `NotFound`; `Conflict` when several ids begin so.
pub fn find(store: &Store, text: &str) -> Result<Config> {
    if is_name(text)
        && let Some(config) = read(store, text)?
    {
        return Ok(config);
    }
    let (all, _) = all(store)?;
    let mut found = all
        .iter()
        .filter(|one| !text.is_empty() && one.id.starts_with(text));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(_), Some(_)) => Err(Fail::conflict(format!(
            "several networks have ids that begin with `{text}`"
        ))
        .hint("give more digits, or the name")
        .into()),
        (None, _) => {
            let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
            let fail = Fail::not_found(format!("no network `{text}`"));
            let fail = if is_name(text) {
                fail.hint(format!("make it: rl network create {text}"))
            } else {
                fail
            };
            Err(if names.is_empty() {
                fail
            } else {
                fail.hint(format!("there are: {}", names.join(", ")))
            }
            .into())
        }
    }
}

/// Held while networks are made or removed.
fn lock(store: &Store) -> Result<File> {
    store.make(&store.networks())?;
    let path = store.networks().join("lock");
    let locked = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|file| file.lock().map(|()| file));
    locked.with_context(|| format!("locking `{}`", path.display()))
}

/// Makes a network. `taken` are the ranges that the host itself uses.
///
/// # Errors
/// `Conflict` for a name or a range that is taken, `Usage` for what makes no sense.
pub fn create(store: &Store, wanted: &Wanted, taken: &[Cidr]) -> Result<Config> {
    let name = &wanted.name;
    if !is_name(name) {
        return Err(Fail::usage(format!("`{name}` cannot name a network"))
            .hint("letters, digits, `_`, `.` and `-`, the first one a letter or digit")
            .into());
    }
    if RESERVED.contains(&name.as_str()) {
        return Err(Fail::usage(format!(
            "`{name}` means something else to --network, so no network can have that name"
        ))
        .into());
    }
    let _lock = lock(store)?;
    if read(store, name)?.is_some() {
        return Err(
            Fail::conflict(format!("there is a network `{name}` already"))
                .hint(format!(
                    "choose another name, or remove it: rl network rm {name}"
                ))
                .into(),
        );
    }
    let (others, _) = all(store)?;
    let mut id = [0_u8; 32];
    sys::random(&mut id)?;
    let config = Config {
        version: VERSION,
        name: name.clone(),
        id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
        created: jiff::Timestamp::now().to_string(),
        subnets: subnets(wanted, &others, taken, &id)?,
        internal: wanted.internal,
        labels: wanted.labels.clone(),
        options: wanted.options.clone(),
        mtu: wanted.mtu.unwrap_or(MTU),
    };
    let text = serde_json::to_vec_pretty(&config).context("writing a network")?;
    let aside = store.networks().join(format!("{name}.new"));
    sys::fs::write_atomically(&path(store, name), &aside, &text)
        .with_context(|| format!("writing `{}`", path(store, name).display()))?;
    Ok(config)
}

/// Removes the network `name`; false when it was not there.
///
/// # Errors
/// The system's.
pub fn remove(store: &Store, name: &str) -> Result<bool> {
    let _lock = lock(store)?;
    let path = path(store, name);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("removing `{}`", path.display())),
    }
}

fn subnets(
    wanted: &Wanted,
    others: &[Config],
    taken: &[Cidr],
    id: &[u8],
) -> Result<Vec<Subnet>, Fail> {
    let mut chosen = wanted.subnets.clone();
    for is_v4 in [true, false] {
        let mut same = chosen.iter().filter(|one| one.base.is_ipv4() == is_v4);
        if let (Some(one), Some(two)) = (same.next(), same.next()) {
            return Err(Fail::usage(format!(
                "{one} and {two}: a network has one subnet of each kind"
            )));
        }
    }
    for one in &chosen {
        let (least, most) = if one.base.is_ipv4() {
            (1, 30)
        } else {
            (1, 126)
        };
        if !(least..=most).contains(&one.length) {
            return Err(Fail::usage(format!(
                "--subnet {one}: no room for a gateway and a container, or too much of it"
            )));
        }
        for other in others {
            if let Some(theirs) = other
                .subnets
                .iter()
                .find(|their| their.subnet.overlaps(*one))
            {
                return Err(Fail::conflict(format!(
                    "{one} overlaps with {} of the network `{}`",
                    theirs.subnet, other.name
                ))
                .hint("choose another --subnet, or none: then a free one is taken"));
            }
        }
    }
    let has = |chosen: &[Cidr], is_v4| chosen.iter().any(|one| one.base.is_ipv4() == is_v4);
    if !has(&chosen, true) {
        chosen.insert(0, free_subnet(others, taken)?);
    }
    if wanted.ipv6 && !has(&chosen, false) {
        // A unique local prefix (RFC 4193) out of the id.
        let text = format!(
            "fd{:02x}:{:02x}{:02x}:{:02x}{:02x}:{:02x}{:02x}::/64",
            id[0], id[1], id[2], id[3], id[4], id[5], id[6]
        );
        chosen.extend(Cidr::parse(&text));
    }
    let mut subnets: Vec<Subnet> = chosen
        .into_iter()
        .filter_map(|subnet| {
            Some(Subnet {
                subnet,
                gateway: subnet.nth(1)?,
                range: None,
            })
        })
        .collect();
    for gateway in &wanted.gateways {
        let mine = subnets.iter_mut().find(|one| one.subnet.is_host(*gateway));
        let mine = mine.ok_or_else(|| {
            Fail::usage(format!(
                "--gateway {gateway} is in no subnet of the network"
            ))
            .hint("give its --subnet too")
        })?;
        mine.gateway = *gateway;
    }
    for range in &wanted.ranges {
        let mine = subnets
            .iter_mut()
            .find(|one| one.subnet.contains(range.base) && one.subnet.length <= range.length);
        let mine = mine.ok_or_else(|| {
            Fail::usage(format!("--ip-range {range} is in no subnet of the network"))
                .hint("give its --subnet too")
        })?;
        mine.range = Some(*range);
    }
    Ok(subnets)
}

/// The first of podman's ranges that neither another network nor the host has.
fn free_subnet(others: &[Config], taken: &[Cidr]) -> Result<Cidr, Fail> {
    let theirs: BTreeSet<Cidr> = others
        .iter()
        .flat_map(|other| other.subnets.iter().map(|one| one.subnet))
        .chain(taken.iter().copied())
        .collect();
    (89..128_u8)
        .flat_map(|second| (0..=u8::MAX).map(move |third| (second, third)))
        .map(|(second, third)| Cidr {
            base: IpAddr::from([10, second, third, 0]),
            length: 24,
        })
        .find(|one| !theirs.iter().any(|their| their.overlaps(*one)))
        .ok_or_else(|| {
            Fail::conflict("no subnet is free from 10.89.0.0 to 10.127.255.0")
                .hint("give one: --subnet, or remove networks: rl network prune")
        })
}

/// The ranges that the host has routes to, out of the text of `/proc/net/route`.
#[must_use]
pub fn host_routes(text: &str) -> Vec<Cidr> {
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (base, mask) = (number(fields.get(1)?)?, number(fields.get(7)?)?);
            let length = u8::try_from(mask.leading_ones()).ok()?;
            (length > 0).then_some(Cidr {
                base: IpAddr::from(base.to_be_bytes()),
                length,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(subnets: &[&str], gateways: &[&str], ranges: &[&str]) -> Wanted {
        let all = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| Cidr::parse(text).unwrap())
                .collect()
        };
        Wanted {
            name: "net".to_owned(),
            subnets: all(subnets),
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            ranges: all(ranges),
            ..Wanted::default()
        }
    }

    #[test]
    fn subnets_are_checked_and_chosen() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().to_owned());
        let taken = [Cidr::parse("10.89.0.0/24").unwrap()];
        let show =
            |wanted: &Wanted| match subnets(wanted, &all(&store).unwrap().0, &taken, &[7; 32]) {
                Ok(subnets) => subnets
                    .iter()
                    .map(|one| format!("{} {}", one.subnet, one.gateway))
                    .collect::<Vec<_>>()
                    .join(", "),
                Err(fail) => fail.message,
            };
        assert_eq!(show(&wanted(&[], &[], &[])), "10.89.1.0/24 10.89.1.1");
        let six = Wanted {
            ipv6: true,
            ..wanted(&["10.5.0.0/16"], &["10.5.0.9"], &[])
        };
        assert_eq!(
            show(&six),
            "10.5.0.0/16 10.5.0.9, fd07:707:707:707::/64 fd07:707:707:707::1"
        );
        for (wanted, message) in [
            (
                wanted(&["10.1.0.0/16", "10.2.0.0/16"], &[], &[]),
                "10.1.0.0/16 and 10.2.0.0/16: a network has one subnet of each kind",
            ),
            (
                wanted(&["10.1.0.0/31"], &[], &[]),
                "--subnet 10.1.0.0/31: no room for a gateway and a container, or too much of it",
            ),
            (
                wanted(&["10.1.0.0/16"], &["10.2.0.1"], &[]),
                "--gateway 10.2.0.1 is in no subnet of the network",
            ),
            (
                wanted(&["10.1.0.0/16"], &[], &["10.0.0.0/8"]),
                "--ip-range 10.0.0.0/8 is in no subnet of the network",
            ),
        ] {
            assert_eq!(show(&wanted), message);
        }
        let made = create(&store, &wanted(&["10.7.0.0/24"], &[], &[]), &taken).unwrap();
        assert_eq!(find(&store, "net").unwrap(), made);
        assert_eq!(find(&store, &made.id[..6]).unwrap(), made);
        assert_eq!(
            show(&wanted(&["10.0.0.0/8"], &[], &[])),
            "10.0.0.0/8 overlaps with 10.7.0.0/24 of the network `net`"
        );
        assert!(create(&store, &wanted(&[], &[], &[]), &taken).is_err());
        assert!(remove(&store, "net").unwrap());
        assert!(!remove(&store, "net").unwrap());
        assert!(find(&store, "net").is_err());
    }

    #[test]
    fn the_hosts_routes_are_read() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t0000590A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nbroken\n";
        let shown: Vec<String> = host_routes(text).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.89.0.0/24"]);
    }
}
