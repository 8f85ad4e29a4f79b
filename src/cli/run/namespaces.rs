//! Namespaces, id mapping, network and names: flags to the spec.
//!
//! Pure text to value; what the machine can do is not asked.

use std::net::IpAddr;
use std::path::PathBuf;

use super::RunArgs;
use super::values::duration_s;
use crate::error::Fail;
use crate::spec::{Names, Namespace, Namespaces, Network, Shm, TimeOffsets, UserNs};

pub fn namespaces(args: &RunArgs) -> Result<Namespaces, Fail> {
    let ipc = args.ipc.as_deref().unwrap_or_default();
    let (ipc, shm) = match ipc {
        "none" => (Namespace::Private, Shm::None),
        "shareable" => (Namespace::Private, Shm::Private),
        "host" => (Namespace::Host, Shm::Host),
        mode => (namespace("--ipc", mode)?, Shm::Private),
    };
    Ok(Namespaces {
        pid: namespace("--pid", args.pid.as_deref().unwrap_or_default())?,
        ipc,
        shm,
        uts: namespace("--uts", args.uts.as_deref().unwrap_or_default())?,
        cgroup: namespace("--cgroupns", args.cgroupns.as_deref().unwrap_or_default())?,
        time: time_offsets(&args.time_offset)?,
    })
}

fn namespace(flag: &str, mode: &str) -> Result<Namespace, Fail> {
    let (kind, rest) = mode.split_once(':').unwrap_or((mode, ""));
    match (kind, rest) {
        ("" | "private", "") => Ok(Namespace::Private),
        ("host", "") => Ok(Namespace::Host),
        ("container", name) if !name.is_empty() => Ok(Namespace::Container(name.to_owned())),
        ("ns", path) if path.starts_with('/') => Ok(Namespace::Path(PathBuf::from(path))),
        _ => {
            let more = if flag == "--ipc" {
                ", shareable, none"
            } else {
                ""
            };
            Err(
                Fail::usage(format!("{flag} `{mode}` is not known")).hint(format!(
                    "known: private, host{more}, container:NAME, ns:/PATH"
                )),
            )
        }
    }
}

fn time_offsets(list: &[String]) -> Result<Option<TimeOffsets>, Fail> {
    if list.is_empty() {
        return Ok(None);
    }
    let mut offsets = TimeOffsets::default();
    for part in list.iter().flat_map(|text| text.split(',')) {
        let wrong = |why: &str| Fail::usage(format!("--time-offset `{part}`: {why}"));
        let (clock, duration) = part
            .split_once('=')
            .ok_or_else(|| wrong("give CLOCK=DURATION, such as boottime=+30d"))?;
        let seconds = duration_s(duration).map_err(|why| wrong(&why))?;
        match clock {
            "boottime" => offsets.boottime_s = seconds,
            "monotonic" => offsets.monotonic_s = seconds,
            "realtime" => {
                return Err(wrong(
                    "Linux cannot change the time of day for one container",
                ));
            }
            _ => return Err(wrong("the clock is boottime or monotonic")),
        }
    }
    Ok(Some(offsets))
}

pub fn userns(mode: Option<&str>) -> Result<UserNs, Fail> {
    let mode = mode.unwrap_or_default();
    let wrong = |why: String| {
        Fail::usage(format!("--userns `{mode}`: {why}"))
            .hint("known: auto, keep-id[:uid=N,gid=N], nomap, host")
    };
    let (kind, options) = mode.split_once(':').unwrap_or((mode, ""));
    match (kind, options) {
        ("" | "auto" | "private", "") => Ok(UserNs::Auto),
        ("nomap", "") => Ok(UserNs::NoMap),
        ("host", "") => Ok(UserNs::Host),
        ("keep-id", options) => {
            let (mut uid, mut gid) = (None, None);
            for option in options.split(',').filter(|option| !option.is_empty()) {
                let number = |text: &str| {
                    text.parse()
                        .map_err(|_| wrong(format!("`{text}` is not an id")))
                };
                match option.split_once('=') {
                    Some(("uid", text)) => uid = Some(number(text)?),
                    Some(("gid", text)) => gid = Some(number(text)?),
                    _ => return Err(wrong(format!("unknown option `{option}`"))),
                }
            }
            Ok(UserNs::KeepId { uid, gid })
        }
        _ => Err(wrong("not known".to_owned())),
    }
}

pub fn names(args: &RunArgs) -> Result<Names, Fail> {
    let mut dns = Vec::new();
    let keep_resolv_conf = args.dns.iter().any(|server| server == "none");
    if keep_resolv_conf && args.dns.len() > 1 {
        return Err(Fail::usage(
            "--dns none and other name servers exclude each other",
        ));
    }
    for server in args.dns.iter().filter(|server| *server != "none") {
        let address: IpAddr = server
            .parse()
            .map_err(|_| Fail::usage(format!("--dns `{server}` is not an IP address")))?;
        dns.push(address);
    }
    let mut hosts = Vec::new();
    for text in &args.add_host {
        hosts.extend(host_entries(text)?);
    }
    if args.no_hosts && !hosts.is_empty() {
        return Err(Fail::usage("--no-hosts and --add-host exclude each other"));
    }
    Ok(Names {
        hosts,
        dns,
        search: args.dns_search.clone(),
        options: args.dns_option.clone(),
        keep_hosts: args.no_hosts,
        keep_resolv_conf,
    })
}

/// `name:address`, `name=address`, and podman's `a;b:address`.
fn host_entries(text: &str) -> Result<Vec<(String, String)>, Fail> {
    let wrong = |why: String| Fail::usage(format!("--add-host `{text}`: {why}"));
    let (names, address) = text
        .split_once(['=', ':'])
        .filter(|(names, _)| !names.is_empty())
        .ok_or_else(|| wrong("give HOST:ADDRESS".to_owned()))?;
    let address = address
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'))
        .unwrap_or(address);
    if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
        return Err(wrong(format!(
            "`{address}` is not an IP address or `host-gateway`"
        )));
    }
    names
        .split(';')
        .map(|name| {
            if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(wrong(format!("`{name}` is not a host name")));
            }
            Ok((name.to_owned(), address.to_owned()))
        })
        .collect()
}

pub fn refuse_conflicts(
    args: &RunArgs,
    namespaces: &Namespaces,
    network: &Network,
) -> Result<(), Fail> {
    let conflict =
        |flag: &str, mode: &str| Err(Fail::usage(format!("{flag} and {mode} exclude each other")));
    let joined = matches!(network, Network::Container { .. });
    if joined && !(args.dns.is_empty() && args.dns_search.is_empty() && args.dns_option.is_empty())
    {
        return conflict("--dns", "--network container:…");
    }
    if joined && !args.add_host.is_empty() {
        return conflict("--add-host", "--network container:…");
    }
    if joined && args.hostname.is_some() {
        return conflict("--hostname", "--network container:…");
    }
    if joined && (args.publish_all || !args.publish.is_empty()) {
        return conflict("-p", "--network container:…");
    }
    if joined && !args.expose.is_empty() {
        return conflict("--expose", "--network container:…");
    }
    if namespaces.uts != Namespace::Private {
        if args.hostname.is_some() {
            return conflict("--hostname", "--uts host");
        }
        if args.domainname.is_some() {
            return conflict("--domainname", "--uts host");
        }
    }
    if namespaces.shm != Shm::Private && args.shm_size.is_some() {
        return conflict("--shm-size", "--ipc host or none");
    }
    if args.init && namespaces.pid != Namespace::Private {
        return conflict("--init", "--pid of another");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::table;

    #[test]
    fn namespaces_have_dockers_modes() {
        table(
            |spec| {
                let n = spec.namespaces;
                (n.pid, n.ipc, n.shm, n.uts, n.cgroup)
            },
            &[
                ("", "(Private, Private, Private, Private, Private)"),
                (
                    "--pid host --ipc=host --uts host --cgroupns host",
                    "(Host, Host, Host, Host, Host)",
                ),
                ("--ipc none", "(Private, Private, None, Private, Private)"),
                (
                    "--ipc shareable --pid container:web",
                    r#"(Container("web"), Private, Private, Private, Private)"#,
                ),
                (
                    "--pid ns:/proc/7/ns/pid",
                    r#"(Path("/proc/7/ns/pid"), Private, Private, Private, Private)"#,
                ),
                ("--pid none", "error: --pid `none` is not known"),
                ("--pid container:", "error: --pid `container:` is not known"),
                (
                    "--uts host -h a",
                    "error: --hostname and --uts host exclude each other",
                ),
                (
                    "--ipc host --shm-size 1m",
                    "error: --shm-size and --ipc host or none exclude each other",
                ),
            ],
        );
        table(
            |spec| {
                spec.namespaces
                    .time
                    .map(|time| (time.boottime_s, time.monotonic_s))
            },
            &[
                ("", "None"),
                (
                    "--time-offset boottime=+30d,monotonic=-1h30m",
                    "Some((2592000, -5400))",
                ),
                (
                    "--time-offset realtime=1d",
                    "error: --time-offset `realtime=1d`: Linux cannot change the time of day for one container",
                ),
                (
                    "--time-offset boottime",
                    "error: --time-offset `boottime`: give CLOCK=DURATION, such as boottime=+30d",
                ),
                (
                    "--time-offset boottime=x",
                    "error: --time-offset `boottime=x`: give a duration such as +30d, -1h30m or 90s",
                ),
            ],
        );
    }

    #[test]
    fn networks_are_named_as_in_docker_and_podman() {
        table(
            |spec| spec.network,
            &[
                ("", "Auto"),
                ("--net=bridge", "Auto"),
                ("--network host", "Host"),
                ("--net none", "None"),
                (
                    "--network pasta:-T,5432",
                    r#"Pasta { options: ["-T", "5432"] }"#,
                ),
                (
                    "--network slirp4netns:allow_host_loopback=true,mtu=1500",
                    r#"Slirp4netns { options: ["allow_host_loopback=true", "mtu=1500"] }"#,
                ),
                ("--network container:web", r#"Container { id: "web" }"#),
                ("--network ns:/run/x", r#"Path { path: "/run/x" }"#),
                (
                    "--network container:web --dns 1.1.1.1",
                    "error: --dns and --network container:… exclude each other",
                ),
            ],
        );
        table(
            |spec| spec.userns,
            &[
                ("", "Auto"),
                ("--userns host", "Host"),
                ("--userns nomap", "NoMap"),
                ("--userns keep-id", "KeepId { uid: None, gid: None }"),
                (
                    "--userns keep-id:uid=1,gid=2",
                    "KeepId { uid: Some(1), gid: Some(2) }",
                ),
                (
                    "--userns keep-id:uid=x",
                    "error: --userns `keep-id:uid=x`: `x` is not an id",
                ),
                ("--userns other", "error: --userns `other`: not known"),
            ],
        );
    }

    #[test]
    fn names_and_addresses_are_checked() {
        table(
            |spec| {
                (
                    spec.names.hosts,
                    spec.names.dns,
                    spec.names.keep_resolv_conf,
                )
            },
            &[
                (
                    "--add-host a:1.2.3.4 --dns 1.1.1.1",
                    r#"([("a", "1.2.3.4")], [1.1.1.1], false)"#,
                ),
                (
                    "--add-host a:::1 --add-host b=[::2]",
                    r#"([("a", "::1"), ("b", "::2")], [], false)"#,
                ),
                (
                    "--add-host a;b:host-gateway --dns none",
                    r#"([("a", "host-gateway"), ("b", "host-gateway")], [], true)"#,
                ),
                ("--add-host a", "error: --add-host `a`: give HOST:ADDRESS"),
                (
                    "--add-host a:b",
                    "error: --add-host `a:b`: `b` is not an IP address or `host-gateway`",
                ),
                ("--dns x", "error: --dns `x` is not an IP address"),
            ],
        );
    }
}
