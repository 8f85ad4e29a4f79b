//! The verbs on `rl` and on this machine: version, info, completion.
//!
//! What the machine can do is found out elsewhere; this prints it.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::images::readable;
use super::output;
use crate::container::measure::Machine;
use crate::container::{describe, emulation};
use crate::doctor::{self, Report, Status};
use crate::idmap::{self, Available, How};
use crate::image::platform::Platform;
use crate::image::store::Images;
use crate::net::{self, Chosen};
use crate::paths::Store;
use crate::spec::{Network, UserNs};

/// The flags of `rl version` and `rl info`.
#[derive(Debug, Clone, clap::Args)]
pub struct FormatArgs {
    /// Print as a Go template, or `json`
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Print as JSON
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
}

impl FormatArgs {
    fn format(&self) -> Option<&str> {
        if self.json {
            Some("json")
        } else {
            self.format.as_deref()
        }
    }
}

/// The words of `rl completion`.
#[derive(Debug, Clone, clap::Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: clap_complete::Shell,
}

/// `rl version`.
pub fn version(args: &FormatArgs) -> Result<u8> {
    let platform = Platform::host();
    let kernel = kernel();
    let side = |name: &str| {
        json!({
            "Version": env!("CARGO_PKG_VERSION"),
            "Os": platform.os,
            "Arch": platform.architecture,
            "KernelVersion": kernel,
            "Name": name,
        })
    };
    // Scripts ask docker for `.Server.Version`; there is no server, and nothing older than this file.
    let data = json!({"Client": side("rl"), "Server": side("rl")});
    let mut out = output::stdout();
    match args.format() {
        Some(format) => output::object(&mut out, &data, format)?,
        None => writeln!(
            out,
            "rl {}\n OS/Arch:  {}/{}\n Kernel:   {kernel}\n Daemon:   none needed",
            env!("CARGO_PKG_VERSION"),
            platform.os,
            platform.architecture,
        )?,
    }
    out.flush()?;
    Ok(0)
}

fn kernel() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// `rl info`.
pub fn info(args: &FormatArgs, store: &Store) -> Result<u8> {
    let data = facts(store)?;
    let mut out = output::stdout();
    match args.format() {
        Some(format) => output::object(&mut out, &data, format)?,
        None => {
            for (label, value) in summary(&data) {
                writeln!(out, "{label:<18}{value}")?;
            }
        }
    }
    out.flush()?;
    Ok(0)
}

/// What docker's `info` calls by these names, and what only `rl` has, under `Rootless`.
fn facts(store: &Store) -> Result<Value> {
    let host = Platform::host();
    let uname = rustix::system::uname();
    let info = rustix::system::sysinfo();
    let memory = info.totalram.saturating_mul(u64::from(info.mem_unit));
    let images = readable(&Images::open(store))?;
    let containers = count(&store.containers());
    Ok(json!({
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Name": uname.nodename().to_string_lossy(),
        "KernelVersion": uname.release().to_string_lossy(),
        "OperatingSystem": operating_system(),
        "OSType": host.os,
        "Architecture": uname.machine().to_string_lossy(),
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": memory,
        "DockerRootDir": store.root(),
        "Containers": containers,
        "Images": images.len(),
        "Driver": driver(&doctor::run(store)),
        "CgroupVersion": if is_cgroup_v2() { "2" } else { "1" },
        "SecurityOptions": security_options(),
        "EffectiveLimits": effective_limits(),
        "Rootless": rootless(store)?,
    }))
}

/// How this machine serves a rootless user: what `run` would choose now.
fn rootless(store: &Store) -> Result<Value> {
    let available = Available::of(store);
    let (plan, _) = idmap::plan(&UserNs::Auto, &available)?;
    let ids = match plan.how {
        How::Helpers => "ranges, by newuidmap and newgidmap",
        How::Single => "one id",
        How::Identity => "all ids, as root",
    };
    let (network, _) = net::choose(&Network::Auto, &[], &[])?;
    let helper = match &network {
        Chosen::Pasta { program, .. } | Chosen::Slirp { program, .. } => {
            program.display().to_string()
        }
        Chosen::Host => "none: the host's network".to_owned(),
        Chosen::None | Chosen::Joined | Chosen::Named { .. } => "none".to_owned(),
    };
    Ok(json!({
        "Uid": rustix::process::getuid().as_raw(),
        "Ids": ids,
        "RootEmulation": if emulation::is_automatic(&plan) { "basic" } else { "off" },
        "EmulationModes": emulation::modes(&plan),
        "IdCount": plan.uids.iter().map(|extent| u64::from(extent.count)).sum::<u64>(),
        "NetworkHelper": helper,
    }))
}

/// What bounds this process, and so all that it starts in its group.
fn effective_limits() -> Value {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let bounds = Machine::look().bounds(own, "");
    bounds.map_or(Value::Null, |(group, limits)| {
        describe::limits(&group, &limits)
    })
}

/// What root file systems are made with here.
fn driver(report: &Report) -> &'static str {
    let works = |code: &str| {
        report
            .checks()
            .any(|check| check.code == code && check.status == Status::Works)
    };
    if works("RL-F03") {
        "overlay"
    } else if works("RL-F04") {
        "fuse-overlayfs"
    } else {
        "copy"
    }
}

fn security_options() -> Vec<&'static str> {
    let mut options = vec!["name=seccomp,profile=builtin", "name=rootless"];
    if is_cgroup_v2() {
        options.push("name=cgroupns");
    }
    if super::run::has_selinux() {
        options.push("name=selinux");
    }
    options
}

fn is_cgroup_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn count(dir: &std::path::Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count) // before the first container there is none
}

/// `PRETTY_NAME` of os-release(5).
fn operating_system() -> String {
    let text = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok()) // small systems have neither
        .unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(
            || "Linux".to_owned(),
            |name| name.trim_matches('"').to_owned(),
        )
}

/// A line for each fact: label and text.
fn summary(data: &Value) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for (key, value) in data.as_object().into_iter().flatten() {
        if key == "EffectiveLimits" {
            lines.extend(bounds(value));
        } else if let Some(inner) = value.as_object() {
            lines.extend(inner.iter().map(|(key, value)| (label(key), shown(value))));
        } else if key == "MemTotal" {
            let bytes = value.as_u64().unwrap_or_default();
            lines.push((label(key), output::binary_size(bytes)));
        } else {
            lines.push((label(key), shown(value)));
        }
    }
    lines
}

/// A line for each bound, with the group that sets it.
fn bounds(limits: &Value) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let mut add = |label: &str, bound: &Value, text: fn(u64) -> String| {
        if let (Some(value), Some(group)) = (bound["Value"].as_u64(), bound["SetBy"].as_str()) {
            lines.push((format!("{label}:"), format!("{}, by {group}", text(value))));
        }
    };
    add("Memory limit", &limits["Memory"], output::binary_size);
    add(
        "Memory slows at",
        &limits["MemoryHigh"],
        output::binary_size,
    );
    add("Swap limit", &limits["MemorySwapOnly"], output::binary_size);
    add("CPU limit", &limits["NanoCpus"], |nanos| {
        super::stats::processors(nanos / 1_000_000)
    });
    add("Process limit", &limits["PidsLimit"], |count| {
        count.to_string()
    });
    for (size, bound) in limits["HugePages"].as_object().into_iter().flatten() {
        add(&format!("{size} pages"), bound, output::binary_size);
    }
    lines
}

fn label(key: &str) -> String {
    let words = match key {
        "ServerVersion" => "Version",
        "OperatingSystem" => "Operating system",
        "KernelVersion" => "Kernel",
        "OSType" => "OS type",
        "NCPU" => "CPUs",
        "MemTotal" => "Memory",
        "DockerRootDir" => "Store",
        "IdCount" => "Id count",
        "CgroupVersion" => "Cgroup version",
        "SecurityOptions" => "Security",
        "NetworkHelper" => "Network",
        other => other,
    };
    format!("{words}:")
}

fn shown(value: &Value) -> String {
    if let Some(items) = value.as_array() {
        let words: Vec<String> = items.iter().map(shown).collect();
        return words.join(" ");
    }
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// The words of `rl generate man`.
#[derive(Debug, Clone, clap::Args)]
pub struct ManArgs {
    /// The directory; it is made where it is missing
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// `rl generate man DIR`: one page for each command, `rl-run.1` and its kin.
pub fn man(args: &ManArgs) -> Result<u8> {
    let doing = || format!("writing manual pages into `{}`", args.dir.display());
    std::fs::create_dir_all(&args.dir).with_context(doing)?;
    let command = <super::Cli as clap::CommandFactory>::command();
    clap_mangen::generate_to(command, &args.dir).with_context(doing)?;
    Ok(0)
}

/// `rl completion`: a script for the shell.
pub fn completion(args: &CompletionArgs) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut <super::Cli as clap::CommandFactory>::command(),
        "rl",
        &mut script,
    );
    let mut out = output::stdout();
    out.write_all(&script).context("writing the script")?;
    out.flush()?;
    Ok(0)
}
