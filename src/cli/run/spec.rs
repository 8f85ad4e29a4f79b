//! Flags to container spec: pure but for what the [`Environment`] is asked.
//!
//! What the image decides (its variables, entry point, layers) is not known here yet: see
//! [`ContainerSpec::inherit`].

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::values::{duration_s, file_lines, key_value};
use super::{RunArgs, mounts};
use crate::error::Fail;
use crate::spec::{
    Confinement, ContainerSpec, Image, Names, Namespace, Namespaces, Network, Process, Rootfs,
    Seccomp, Shm, TimeOffsets, UserNs, VERSION, is_name,
};

mod confine {
    //! Stands in for `stage::confine` until it is here.

    use crate::error::Fail;
    use crate::spec::Rlimit;

    pub const MASKED_PATHS: &[&str] = &[
        "/proc/asound",
        "/proc/acpi",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/sys/firmware",
    ];
    pub const READ_ONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

    pub fn resolve(_add: &[String], _drop: &[String], _all: bool) -> Result<Vec<String>, Fail> {
        Ok(Vec::new())
    }

    pub fn parse_ulimit(text: &str) -> Result<Rlimit, Fail> {
        Err(Fail::usage(format!("--ulimit `{text}` is not known")))
    }
}

/// 64 MiB, docker's size of `/dev/shm`.
const SHM_SIZE: u64 = 64 << 20;

/// What translating flags may know of the world.
pub struct Environment<'a> {
    /// The caller's variables; those that are not UTF-8 are left out.
    pub variables: Vec<(String, String)>,
    /// The caller's working directory.
    pub cwd: PathBuf,
    /// Standard input is a terminal.
    pub stdin_is_terminal: bool,
    /// SELinux decides what containers may read here.
    pub selinux: bool,
    /// A fresh container id: 64 hexadecimal digits.
    pub id: String,
    /// A fresh name, for a container that the user did not name.
    pub name: String,
    /// Reads a file of the user's: env files, label files, seccomp profiles.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// Whether a path of the host can be seen.
    pub look: &'a dyn Fn(&Path) -> io::Result<()>,
}

impl std::fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("cwd", &self.cwd)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Environment<'_> {
    /// The absolute form of a host path that must be there.
    pub fn existing(&self, flag: &str, path: &str) -> Result<PathBuf, Fail> {
        let path = mounts::host_path(path, &self.cwd);
        match (self.look)(&path) {
            Ok(()) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = path.display();
                Err(Fail::not_found(format!("{flag}: `{text}` does not exist"))
                    .hint(format!("make it first: mkdir -p {text}")))
            }
            Err(error) => Err(Fail::denied(format!(
                "{flag}: `{}` cannot be looked at: {error}",
                path.display()
            ))),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn text(&self, flag: &str, path: &Path) -> Result<String, Fail> {
        let shown = path.display();
        let bytes = (self.read)(&self.cwd.join(path))
            .map_err(|error| Fail::usage(format!("{flag}: cannot read `{shown}`: {error}")))?;
        String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            Fail::usage(format!("{flag}: `{shown}` line {line} is not UTF-8 text"))
        })
    }
}

/// The container that these flags describe.
///
/// The image is not looked at: `rootfs` has no layers yet, and what the image would add is missing.
///
/// # Errors
/// [`crate::error::Kind::Usage`] and others, with the flag and what is wrong with it.
pub fn spec(args: &RunArgs, environment: &Environment<'_>) -> Result<ContainerSpec, Fail> {
    let (image, rootfs, command) = root(args, environment)?;
    if args.tty && args.interactive && !environment.stdin_is_terminal {
        return Err(Fail::usage("the input device is not a TTY")
            .hint("-t needs a terminal on standard input; in scripts and pipes use -i alone"));
    }
    let namespaces = namespaces(args)?;
    let network = network(args.network.as_deref())?;
    refuse_conflicts(args, &namespaces, &network)?;
    Ok(ContainerSpec {
        version: VERSION,
        id: environment.id.clone(),
        name: name(args, environment)?,
        image,
        rootfs,
        read_only: args.read_only,
        process: process(args, environment, command)?,
        init: args.init,
        hostname: args.hostname.clone(),
        domainname: args.domainname.clone(),
        mounts: all_mounts(args, environment)?,
        devices: args
            .device
            .iter()
            .map(|text| mounts::device(text, environment))
            .collect::<Result<_, _>>()?,
        userns: userns(args.userns.as_deref())?,
        names: names(args)?,
        confinement: confinement(args, environment, &namespaces, &network)?,
        namespaces,
        network,
        shm_size: args.shm_size.unwrap_or(SHM_SIZE),
        annotations: pairs("--annotation", &args.annotation)?,
        labels: labels(args, environment)?,
        stop_signal: args
            .stop_signal
            .as_deref()
            .map(signal)
            .transpose()?
            .unwrap_or_default(),
        remove: args.rm,
    })
}

/// The image or directory, and the words after it.
type Root = (Option<Image>, Rootfs, Option<Vec<String>>);

fn root(args: &RunArgs, environment: &Environment<'_>) -> Result<Root, Fail> {
    let words = args.words.clone();
    let (first, rest) = match args.rootfs.as_deref() {
        Some(directory) if !directory.is_empty() => (directory.to_owned(), words),
        _ => {
            let mut words = words.into_iter();
            let first = words
                .next()
                .filter(|word| !word.is_empty())
                .ok_or_else(|| {
                    Fail::usage("no image given")
                        .hint("rl run IMAGE [COMMAND…], such as: rl run alpine sh")
                })?;
            (first, words.collect())
        }
    };
    let command = (!rest.is_empty()).then_some(rest);
    if args.rootfs.is_some() {
        if first.ends_with(":O") || first.ends_with(":idmap") {
            return Err(Fail::unsupported(format!(
                "--rootfs `{first}`: the suffixes `:O` and `:idmap` are not supported"
            )));
        }
        let path = environment.existing("--rootfs", &first)?;
        return Ok((None, Rootfs::Directory { path }, command));
    }
    let rootfs = if first == "host" {
        Rootfs::Host
    } else {
        Rootfs::Layers {
            diff_ids: Vec::new(),
        }
    };
    let image = Image {
        reference: first,
        id: String::new(),
    };
    Ok((Some(image), rootfs, command))
}

fn name(args: &RunArgs, environment: &Environment<'_>) -> Result<String, Fail> {
    let Some(name) = &args.name else {
        return Ok(environment.name.clone());
    };
    let name = name.strip_prefix('/').unwrap_or(name);
    if !is_name(name) {
        return Err(Fail::usage(format!("`{name}` cannot name a container"))
            .hint("letters, digits, `_`, `.` and `-`, the first one a letter or digit"));
    }
    Ok(name.to_owned())
}

fn process(
    args: &RunArgs,
    environment: &Environment<'_>,
    command: Option<Vec<String>>,
) -> Result<Process, Fail> {
    if args.group_add.len() > 1 && args.group_add.iter().any(|group| group == "keep-groups") {
        return Err(Fail::usage(
            "--group-add keep-groups and other groups exclude each other",
        ));
    }
    let umask = match args.umask.as_deref() {
        None => 0o022,
        Some(text) => u32::from_str_radix(text, 8)
            .ok()
            .filter(|mask| *mask <= 0o777)
            .ok_or_else(|| {
                Fail::usage(format!("--umask `{text}` is not an octal number up to 777"))
            })?,
    };
    Ok(Process {
        entrypoint: args.entrypoint.as_deref().map(entrypoint).transpose()?,
        command,
        env: variables(args, environment)?,
        cwd: args.workdir.clone().unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
        groups: args.group_add.clone(),
        tty: args.tty,
        interactive: args.interactive,
        preserve_fds: args.preserve_fds,
        umask,
    })
}

/// One word, or several as a JSON list (podman's way); nothing clears the image's.
fn entrypoint(text: &str) -> Result<Vec<String>, Fail> {
    match text {
        "" => Ok(Vec::new()),
        json if json.starts_with('[') => serde_json::from_str(json).map_err(|error| {
            Fail::usage(format!(
                "--entrypoint `{json}` is not a JSON list of words: {error}"
            ))
        }),
        word => Ok(vec![word.to_owned()]),
    }
}

/// Files first, then `-e`, so that `-e` wins. An entry without `=` takes a variable of the image away,
/// as in docker when the caller has none of that name.
fn variables(args: &RunArgs, environment: &Environment<'_>) -> Result<Vec<String>, Fail> {
    let mut env = Vec::new();
    for path in &args.env_file {
        let text = environment.text("--env-file", path)?;
        for (name, value) in file_lines(&path.display().to_string(), &text)? {
            match value.as_deref().or_else(|| environment.variable(&name)) {
                Some(value) => env.push(format!("{name}={value}")),
                None => {}
            }
        }
    }
    for text in &args.env {
        match text.split_once('=') {
            Some(("", _)) => {
                return Err(Fail::usage(format!(
                    "-e `{text}` has no name before the `=`"
                )));
            }
            None if text.is_empty() => return Err(Fail::usage("-e needs a name")),
            Some(_) => env.push(text.clone()),
            None => match (text.strip_suffix('*'), environment.variable(text)) {
                (Some(start), _) => env.extend(
                    environment
                        .variables
                        .iter()
                        .filter(|(name, _)| name.starts_with(start))
                        .map(|(name, value)| format!("{name}={value}")),
                ),
                (None, Some(value)) => env.push(format!("{text}={value}")),
                (None, None) => env.push(text.clone()),
            },
        }
    }
    Ok(env)
}

fn all_mounts(
    args: &RunArgs,
    environment: &Environment<'_>,
) -> Result<Vec<crate::spec::Mount>, Fail> {
    let mut all = Vec::new();
    for text in &args.mount {
        all.push(mounts::mount(text, environment)?);
    }
    for text in &args.volume {
        all.push(mounts::volume(text, environment)?);
    }
    for text in &args.tmpfs {
        all.push(mounts::tmpfs(text)?);
    }
    mounts::refuse_duplicates(&all)?;
    // A mount over a parent would hide the child, so parents go first; otherwise the order stays.
    all.sort_by_key(|mount| mount.target.matches('/').count());
    Ok(all)
}

fn namespaces(args: &RunArgs) -> Result<Namespaces, Fail> {
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

fn userns(mode: Option<&str>) -> Result<UserNs, Fail> {
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

fn network(text: Option<&str>) -> Result<Network, Fail> {
    let text = text.unwrap_or_default();
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let options = || -> Vec<String> {
        rest.split(',')
            .filter(|option| !option.is_empty())
            .map(str::to_owned)
            .collect()
    };
    match (kind, rest) {
        ("" | "auto" | "bridge" | "default" | "private", "") => Ok(Network::Auto),
        ("pasta", _) => Ok(Network::Pasta { options: options() }),
        ("slirp4netns", _) => {
            let options = options();
            slirp_options(&options)?;
            Ok(Network::Slirp4netns { options })
        }
        ("host", "") => Ok(Network::Host),
        ("none", "") => Ok(Network::None),
        ("container", name) if !name.is_empty() => Ok(Network::Container { id: name.to_owned() }),
        ("ns", path) if path.starts_with('/') => Ok(Network::Path { path: PathBuf::from(path) }),
        _ => Err(Fail::usage(format!("no network `{text}`")).hint(
            "known: auto, pasta[:OPTIONS], slirp4netns[:OPTIONS], host, none, container:NAME, ns:/PATH",
        )),
    }
}

fn slirp_options(options: &[String]) -> Result<(), Fail> {
    for option in options {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let wrong = |why: &str| Fail::usage(format!("slirp4netns option `{option}`: {why}"));
        match key {
            "allow_host_loopback" | "enable_ipv6" if matches!(value, "true" | "false") => {}
            "allow_host_loopback" | "enable_ipv6" => return Err(wrong("give true or false")),
            "mtu" if value.parse::<u32>().is_ok() => {}
            "mtu" => return Err(wrong("give a number of bytes")),
            "cidr" | "outbound_addr" | "outbound_addr6" if !value.is_empty() => {}
            "cidr" | "outbound_addr" | "outbound_addr6" => return Err(wrong("give an address")),
            _ => {
                return Err(wrong("not known").hint(
                    "known: allow_host_loopback, enable_ipv6, mtu, cidr, outbound_addr, outbound_addr6",
                ));
            }
        }
    }
    Ok(())
}

fn names(args: &RunArgs) -> Result<Names, Fail> {
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

fn refuse_conflicts(
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

fn confinement(
    args: &RunArgs,
    environment: &Environment<'_>,
    namespaces: &Namespaces,
    network: &Network,
) -> Result<Confinement, Fail> {
    let list = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let mut confinement = Confinement {
        privileged: args.privileged,
        capabilities: confine::resolve(
            &words(&args.cap_add),
            &words(&args.cap_drop),
            args.privileged,
        )?,
        oom_score_adj: args.oom_score_adj,
        sysctls: sysctls(args, namespaces, network)?,
        ..Confinement::default()
    };
    if args.privileged {
        confinement.seccomp = Seccomp::Unconfined;
    } else {
        confinement.masked_paths = list(confine::MASKED_PATHS);
        confinement.read_only_paths = list(confine::READ_ONLY_PATHS);
    }
    if let Some(score) = args.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return Err(Fail::usage(format!(
            "--oom-score-adj {score} is not in -1000…1000"
        )));
    }
    for text in &args.ulimit {
        let limit = confine::parse_ulimit(text)?;
        confinement.rlimits.retain(|known| known.name != limit.name);
        confinement.rlimits.push(limit);
    }
    for option in &args.security_opt {
        security_option(&mut confinement, option, environment).map_err(|fail| Fail {
            message: format!("--security-opt `{option}`: {}", fail.message),
            ..fail
        })?;
    }
    Ok(confinement)
}

/// `--cap-add A,B` as podman takes it.
fn words(list: &[String]) -> Vec<String> {
    list.iter()
        .flat_map(|text| text.split(','))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn security_option(
    confinement: &mut Confinement,
    option: &str,
    environment: &Environment<'_>,
) -> Result<(), Fail> {
    // Docker's old separator is still read.
    let (key, value) = option
        .split_once(['=', ':'])
        .map_or((option, None), |(key, value)| (key, Some(value)));
    let given = || {
        value
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Fail::usage(format!("`{key}` needs a value")))
    };
    match key {
        "no-new-privileges" => {
            confinement.no_new_privileges = value
                .map_or(Ok(true), super::boolean)
                .map_err(Fail::usage)?;
        }
        "seccomp" => {
            confinement.seccomp = match given()? {
                "unconfined" => Seccomp::Unconfined,
                "builtin" | "default" => Seccomp::Default,
                path => seccomp_profile(path, environment)?,
            };
        }
        "mask" => {
            let paths = path_list(given()?)?;
            confinement.masked_paths.extend(paths);
        }
        "unmask" => match given()? {
            "ALL" | "all" => {
                confinement.masked_paths.clear();
                confinement.read_only_paths.clear();
            }
            value => {
                for pattern in path_list(value)? {
                    let keep = |path: &String| !super::values::glob(&pattern, path);
                    confinement.masked_paths.retain(keep);
                    confinement.read_only_paths.retain(keep);
                }
            }
        },
        "systempaths" => match given()? {
            "unconfined" => {
                confinement.masked_paths.clear();
                confinement.read_only_paths.clear();
            }
            _ => return Err(Fail::usage("only `systempaths=unconfined` is known")),
        },
        // No profile is loaded for containers, which is what these two ask for.
        "apparmor" => match given()? {
            "unconfined" | "docker-default" => {}
            _ => {
                return Err(Fail::unsupported("only root can load an AppArmor profile")
                    .hint("leave it out, or `apparmor=unconfined`"));
            }
        },
        "label" => {
            let value = given()?;
            if value != "disable" && environment.selinux {
                return Err(
                    Fail::unsupported("SELinux labels of containers are not supported")
                        .hint("leave it out, or `label=disable`"),
                );
            }
        }
        _ => {
            return Err(Fail::usage("not known").hint(
                "known: no-new-privileges, seccomp=unconfined|FILE, mask=PATH, unmask=PATH|ALL, \
                 systempaths=unconfined, apparmor=unconfined, label=disable",
            ));
        }
    }
    Ok(())
}

fn seccomp_profile(path: &str, environment: &Environment<'_>) -> Result<Seccomp, Fail> {
    let json = environment.text("seccomp", Path::new(path))?;
    let profile: serde_json::Value = serde_json::from_str(&json)
        .map_err(|error| Fail::usage(format!("`{path}` is not JSON: {error}")))?;
    if profile.get("defaultAction").is_none() {
        return Err(Fail::usage(format!("`{path}` has no `defaultAction`"))
            .hint("a profile in docker's format is needed"));
    }
    Ok(Seccomp::Profile { json })
}

fn path_list(value: &str) -> Result<Vec<String>, Fail> {
    value
        .split(':')
        .map(|path| {
            if path.starts_with('/') {
                Ok(path.to_owned())
            } else {
                Err(Fail::usage(format!("`{path}` is not an absolute path")))
            }
        })
        .collect()
}

/// Only those that a namespace has for itself; docker's and runc's list.
fn sysctls(
    args: &RunArgs,
    namespaces: &Namespaces,
    network: &Network,
) -> Result<BTreeMap<String, String>, Fail> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let mut sysctls = BTreeMap::new();
    for text in &args.sysctl {
        let wrong = |why: &str| Fail::usage(format!("--sysctl `{text}`: {why}"));
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| wrong("give NAME=VALUE"))?;
        // `net/ipv4/conf/eth0.1/…` is how sysctl(8) writes names with dots in a part.
        let dotted = if name.contains('/') {
            name.replace('/', ".")
        } else {
            name.to_owned()
        };
        if dotted.starts_with("net.") {
            if *network == Network::Host {
                return Err(wrong("with --network host it would be the host's"));
            }
        } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            if namespaces.ipc == Namespace::Host {
                return Err(wrong("with --ipc host it would be the host's"));
            }
        } else if dotted == "kernel.hostname" || dotted == "kernel.domainname" {
            return Err(wrong("use --hostname or --domainname"));
        } else {
            return Err(wrong("no namespace has this parameter for itself").hint(
                "containers can set net.*, fs.mqueue.*, kernel.msg*, kernel.sem and kernel.shm*",
            ));
        }
        sysctls.insert(name.to_owned(), value.to_owned());
    }
    Ok(sysctls)
}

fn pairs(flag: &str, list: &[String]) -> Result<BTreeMap<String, String>, Fail> {
    list.iter().map(|text| key_value(flag, text)).collect()
}

fn labels(args: &RunArgs, environment: &Environment<'_>) -> Result<BTreeMap<String, String>, Fail> {
    let mut labels = BTreeMap::new();
    for path in &args.label_file {
        let text = environment.text("--label-file", path)?;
        for (key, value) in file_lines(&path.display().to_string(), &text)? {
            labels.insert(key, value.unwrap_or_default());
        }
    }
    labels.extend(pairs("--label", &args.label)?);
    Ok(labels)
}

/// `SIGTERM`, `term`, `15` or `RTMIN+3`, written as the kernel's headers do, numbers as they are.
fn signal(text: &str) -> Result<String, Fail> {
    let refused = || {
        Fail::usage(format!("--stop-signal `{text}` is not a signal"))
            .hint("give a name such as SIGINT, or a number from 1 to 64")
    };
    if let Ok(number) = text.parse::<u8>() {
        return match number {
            1..=64 => Ok(number.to_string()),
            _ => Err(refused()),
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let full = format!("SIG{name}");
    let real_time =
        |offset: &str| offset.is_empty() || offset[1..].parse::<u8>().is_ok_and(|n| n <= 30);
    let is_real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(offset), _) => offset.is_empty() || offset.starts_with('+') && real_time(offset),
        (_, Some(offset)) => offset.is_empty() || offset.starts_with('-') && real_time(offset),
        (None, None) => false,
    };
    if is_real_time || full.parse::<nix::sys::signal::Signal>().is_ok() {
        return Ok(full);
    }
    Err(refused())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A world with `/have`, `/dev/fuse`, `/cwd` and a few files.
    pub fn environment() -> Environment<'static> {
        fn read(path: &Path) -> io::Result<Vec<u8>> {
            match path.to_str() {
                Some("/cwd/vars") => Ok(b"# c\nA=file\nHOME\nGONE\nB=2\n".to_vec()),
                Some("/cwd/labels") => Ok(b"a=file\nb\n".to_vec()),
                Some("/cwd/latin1") => Ok(b"A=1\nB=\xe9\n".to_vec()),
                Some("/cwd/seccomp.json") => Ok(br#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.to_vec()),
                Some("/cwd/other.json") => Ok(b"{}".to_vec()),
                _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
            }
        }
        fn look(path: &Path) -> io::Result<()> {
            match path.to_str() {
                Some("/closed") => Err(io::ErrorKind::PermissionDenied.into()),
                Some("/have" | "/" | "/cwd" | "/cwd/here" | "/dev/fuse") => Ok(()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
        Environment {
            variables: [("HOME", "/home/me"), ("LC_A", "1"), ("LC_B", "2")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            cwd: PathBuf::from("/cwd"),
            stdin_is_terminal: true,
            selinux: false,
            id: "0".repeat(64),
            name: "calm_curie".to_owned(),
            read: &read,
            look: &look,
        }
    }

    fn args(line: &str) -> RunArgs {
        let words = ["rl", "run"].into_iter().chain(line.split(' '));
        let words = words.map(|word| word.replace('~', " "));
        let cli = crate::cli::parse(words.map(Into::into).collect()).expect(line);
        let crate::cli::Command::Run(args) = cli.command else {
            panic!("{line} is another command")
        };
        *args
    }

    fn translate(line: &str) -> Result<ContainerSpec, Fail> {
        spec(&args(line), &environment())
    }

    /// Rows of flags and what one piece of the spec is, or the message.
    fn table<T: std::fmt::Debug>(piece: impl Fn(ContainerSpec) -> T, rows: &[(&str, &str)]) {
        for (flags, expected) in rows {
            let got = match translate(&format!("{flags} alpine").trim_start().to_owned()) {
                Ok(spec) => format!("{:?}", piece(spec)),
                Err(fail) => format!("error: {}", fail.message),
            };
            assert_eq!(got, *expected, "for {flags}");
        }
    }

    #[test]
    fn everything_after_the_image_belongs_to_the_command() {
        let spec = translate("-it --rm alpine ls --rm -e A --help").expect("fine");
        assert_eq!(spec.process.args(), ["ls", "--rm", "-e", "A", "--help"]);
        assert!(spec.process.tty && spec.process.interactive && spec.remove);
        assert_eq!(spec.image.expect("there").reference, "alpine");
        assert_eq!(spec.name, "calm_curie");
        assert_eq!(spec.shm_size, 64 << 20);
        assert_eq!(spec.process.umask, 0o22);
    }

    #[test]
    fn booleans_and_repeated_flags_are_read_as_docker_reads_them() {
        let args = args(
            "--rm=false -i=true --init --sig-proxy=false -eA=1 -v/a:/b --name a --name b alpine",
        );
        assert!(!args.rm && args.interactive && args.init && !args.sig_proxy);
        assert_eq!(args.name.as_deref(), Some("b"));
    }

    #[test]
    fn roots_are_images_directories_or_the_host() {
        let rootfs = |line: &str| match translate(line) {
            Ok(spec) => format!("{:?} {:?}", spec.rootfs, spec.process.args()),
            Err(fail) => fail.message,
        };
        assert_eq!(rootfs("host ls"), r#"Host ["ls"]"#);
        assert_eq!(rootfs("alpine"), r#"Layers { diff_ids: [] } []"#);
        assert_eq!(
            rootfs("--rootfs ./here ls"),
            r#"Directory { path: "/cwd/here" } ["ls"]"#
        );
        assert_eq!(
            rootfs("--rootfs=/have ls"),
            r#"Directory { path: "/have" } ["ls"]"#
        );
        assert_eq!(
            rootfs("--rootfs /none ls"),
            "--rootfs: `/none` does not exist"
        );
        assert_eq!(rootfs("--rm"), "no image given");
    }

    #[test]
    fn variables_come_from_files_flags_and_the_caller() {
        table(
            |spec| spec.process.env,
            &[
                ("-e A=1 -e B= -e HOME", r#"["A=1", "B=", "HOME=/home/me"]"#),
                ("-e GONE", r#"["GONE"]"#),
                ("-e LC_*", r#"["LC_A=1", "LC_B=2"]"#),
                (
                    "-e A=flag --env-file vars",
                    r#"["A=file", "HOME=/home/me", "B=2", "A=flag"]"#,
                ),
                ("-e =x", "error: -e `=x` has no name before the `=`"),
                (
                    "--env-file none",
                    "error: --env-file: cannot read `none`: no such file",
                ),
                (
                    "--env-file latin1",
                    "error: --env-file: `latin1` line 2 is not UTF-8 text",
                ),
            ],
        );
    }

    #[test]
    fn programs_and_users_are_taken_as_given() {
        table(
            |spec| {
                (
                    spec.process.entrypoint,
                    spec.process.user,
                    spec.process.cwd,
                    spec.process.umask,
                )
            },
            &[
                (
                    "--entrypoint /bin/x -u 1:2 -w /w --umask 077",
                    r#"(Some(["/bin/x"]), "1:2", "/w", 63)"#,
                ),
                ("--entrypoint=", r#"(Some([]), "", "", 18)"#),
                (
                    r#"--entrypoint ["a","b"]"#,
                    r#"(Some(["a", "b"]), "", "", 18)"#,
                ),
                (
                    "--umask 9",
                    "error: --umask `9` is not an octal number up to 777",
                ),
                (
                    "--group-add a --group-add keep-groups",
                    "error: --group-add keep-groups and other groups exclude each other",
                ),
                ("--name a/b", "error: `a/b` cannot name a container"),
            ],
        );
    }

    #[test]
    fn a_terminal_needs_a_terminal() {
        let pipe = || Environment {
            stdin_is_terminal: false,
            ..environment()
        };
        let fail = spec(&args("-it alpine"), &pipe()).expect_err("refused");
        assert_eq!(fail.message, "the input device is not a TTY");
        assert!(spec(&args("-t alpine"), &pipe()).is_ok());
        assert!(spec(&args("-i alpine"), &pipe()).is_ok());
    }

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
                (
                    "--network slirp4netns:port_handler=x",
                    "error: slirp4netns option `port_handler=x`: not known",
                ),
                ("--network container:web", r#"Container { id: "web" }"#),
                ("--network ns:/run/x", r#"Path { path: "/run/x" }"#),
                ("--network mine", "error: no network `mine`"),
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

    #[test]
    fn confinement_follows_the_flags() {
        table(
            |spec| {
                let c = spec.confinement;
                (
                    c.no_new_privileges,
                    c.seccomp,
                    c.masked_paths.len() > 5,
                    c.read_only_paths.len() > 2,
                )
            },
            &[
                ("", "(false, Default, true, true)"),
                ("--privileged", "(false, Unconfined, false, false)"),
                (
                    "--security-opt no-new-privileges",
                    "(true, Default, true, true)",
                ),
                (
                    "--security-opt no-new-privileges:true",
                    "(true, Default, true, true)",
                ),
                (
                    "--security-opt no-new-privileges=false",
                    "(false, Default, true, true)",
                ),
                (
                    "--security-opt seccomp=unconfined",
                    "(false, Unconfined, true, true)",
                ),
                (
                    "--security-opt seccomp=seccomp.json",
                    r#"(false, Profile { json: "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}" }, true, true)"#,
                ),
                (
                    "--security-opt systempaths=unconfined",
                    "(false, Default, false, false)",
                ),
                (
                    "--security-opt unmask=ALL",
                    "(false, Default, false, false)",
                ),
                (
                    "--security-opt label=disable --security-opt apparmor=unconfined",
                    "(false, Default, true, true)",
                ),
                (
                    "--security-opt seccomp=other.json",
                    "error: --security-opt `seccomp=other.json`: `other.json` has no `defaultAction`",
                ),
                (
                    "--security-opt seccomp=none",
                    "error: --security-opt `seccomp=none`: seccomp: cannot read `none`: no such file",
                ),
                (
                    "--security-opt apparmor=mine",
                    "error: --security-opt `apparmor=mine`: only root can load an AppArmor profile",
                ),
                (
                    "--security-opt what",
                    "error: --security-opt `what`: not known",
                ),
                (
                    "--security-opt mask=x",
                    "error: --security-opt `mask=x`: `x` is not an absolute path",
                ),
                (
                    "--oom-score-adj -2000",
                    "error: --oom-score-adj -2000 is not in -1000…1000",
                ),
            ],
        );
        let unmasked = translate("--security-opt unmask=/proc/* alpine").expect("fine");
        assert!(
            !unmasked
                .confinement
                .masked_paths
                .iter()
                .any(|path| path.starts_with("/proc/")),
            "{:?}",
            unmasked.confinement.masked_paths
        );
    }

    #[test]
    fn only_namespaced_kernel_parameters_can_be_set() {
        table(
            |spec| spec.confinement.sysctls,
            &[
                (
                    "--sysctl net.ipv4.ip_forward=1",
                    r#"{"net.ipv4.ip_forward": "1"}"#,
                ),
                ("--sysctl kernel.sem=1~2", r#"{"kernel.sem": "1 2"}"#),
                (
                    "--sysctl net.x=1 --network host",
                    "error: --sysctl `net.x=1`: with --network host it would be the host's",
                ),
                (
                    "--sysctl vm.swappiness=1",
                    "error: --sysctl `vm.swappiness=1`: no namespace has this parameter for itself",
                ),
                ("--sysctl net.x", "error: --sysctl `net.x`: give NAME=VALUE"),
            ],
        );
    }

    #[test]
    fn labels_come_from_files_and_flags() {
        table(
            |spec| (spec.labels, spec.annotations),
            &[
                (
                    "-l a=1 -l b --annotation x=y",
                    r#"({"a": "1", "b": ""}, {"x": "y"})"#,
                ),
                (
                    "-l a=flag --label-file labels",
                    r#"({"a": "flag", "b": ""}, {})"#,
                ),
                ("-l =x", "error: --label `=x` has no name before the `=`"),
            ],
        );
    }

    #[test]
    fn stop_signals_are_names_or_numbers() {
        table(
            |spec| spec.stop_signal,
            &[
                ("", r#""""#),
                ("--stop-signal int", r#""SIGINT""#),
                ("--stop-signal 9", r#""9""#),
                ("--stop-signal SIGRTMIN+3", r#""SIGRTMIN+3""#),
                (
                    "--stop-signal RTMIN3",
                    "error: --stop-signal `RTMIN3` is not a signal",
                ),
                (
                    "--stop-signal 99",
                    "error: --stop-signal `99` is not a signal",
                ),
                (
                    "--stop-signal WHAT",
                    "error: --stop-signal `WHAT` is not a signal",
                ),
            ],
        );
    }

    #[test]
    fn mounts_are_sorted_so_that_none_hides_another() {
        let line = "-v a:/x/y -v b:/x --tmpfs /z/z/z alpine";
        let targets: Vec<String> = translate(line)
            .expect("fine")
            .mounts
            .into_iter()
            .map(|mount| mount.target)
            .collect();
        assert_eq!(targets, ["/x", "/x/y", "/z/z/z"]);
        let fail = translate("-v a:/x --tmpfs /x/ alpine").expect_err("refused");
        assert_eq!(fail.message, "two mounts have the same target `/x`");
    }

    #[test]
    fn the_flags_of_docker_are_known_or_refused_by_name() {
        for flags in [
            "--memory 1g alpine",
            "-d alpine",
            "-p 80:80 alpine",
            "--what alpine",
        ] {
            let words = ["rl", "run"].into_iter().chain(flags.split(' '));
            assert!(
                crate::cli::parse(words.map(Into::into).collect()).is_err(),
                "{flags}"
            );
        }
    }
}
