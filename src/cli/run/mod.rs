//! `rl run`: its flags, and what becomes of them.
//!
//! The flags are docker's, with docker's meanings; [`mod@spec`] turns them into a container spec without
//! touching the machine. Nothing here knows how a container is started.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the comments of flags are their help, where brackets say what may be left out"
)]

mod borrowed;
mod confinement;
mod egress;
pub mod life;
mod long_mounts;
mod mounts;
mod names;
mod namespaces;
pub mod networks;
mod proxy;
mod publish;
pub mod resources;
mod rules;
mod spec;
pub mod values;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use spec::{Environment, spec, variables};

use super::config::Blobs;
use super::image::{self, PullOptions};
use super::progress::say;
use super::registry::RegistryFlags;
use super::shared;
use crate::container::{self, RunOptions};
use crate::image::platform::Platform;
use crate::image::squash::Squash;
use crate::image::store::StoredImage;
use crate::net::named;
use crate::paths::Store;
use crate::spec::{ContainerSpec, Image, ImageDefaults, MountSource, Network, Rootfs};
use crate::stage::confine;
use values::{boolean, size};

/// `rl run`: the exit code is the program's.
pub fn run(args: &RunArgs, store: &Store) -> Result<u8> {
    // Without --rm it stays, with its log: that takes a monitor.
    if !args.detach {
        life::check_terminal(args.tty, args.interactive)?;
    }
    if args.detach || !args.rm {
        return super::lifecycle::run(args, store);
    }
    let spec = made(args, store)?;
    let options = RunOptions {
        cidfile: args.cidfile.clone(),
        pidfile: args.pidfile.clone(),
        sig_proxy: args.sig_proxy,
        another_name: another_name(args),
    };
    container::run(store, spec, &options, &mut |line| {
        say(&format!("rl: {line}"));
    })
}

/// Who makes up another name when the one that was made up is taken.
pub fn another_name(args: &RunArgs) -> Option<fn() -> String> {
    args.name.is_none().then_some(names::generate)
}

/// The container that the flags and the image describe.
///
/// # Errors
/// What is wrong with the flags; what keeps the image from coming.
pub fn made(args: &RunArgs, store: &Store) -> Result<ContainerSpec> {
    let environment = environment()?;
    let mut spec = spec(args, &environment)?;
    if let Network::Named { networks } = &mut spec.network {
        // Before an image is fetched for nothing.
        for one in networks {
            one.network = named::config::find(store, &one.network)?.name;
        }
    }
    if args.http_proxy && spec.network != Network::Host {
        for line in proxy::unreachable(&environment) {
            say(&format!("rl: {line}"));
        }
    }
    // The image's own volumes come where nothing else is.
    borrowed::volumes(&mut spec, &args.volumes_from, store)?;
    take_image(&mut spec, args, store)?;
    take_mounted(&mut spec, args, store)?;
    rules::apply(&mut spec)?;
    spec.process.env = settled(std::mem::take(&mut spec.process.env));
    Ok(spec)
}

/// The world as it is.
///
/// # Errors
/// When the working directory is gone.
pub fn environment() -> Result<Environment<'static>> {
    Ok(Environment {
        variables: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        cwd: working_directory(),
        selinux: has_selinux(),
        masked_paths: confine::default_masked_paths(),
        id: container::new_id()?,
        name: names::generate(),
        read: &|path| std::fs::read(path),
        look: &|path| std::fs::metadata(path).map(|_| ()),
    })
}

/// Where relative paths begin. A directory that has been removed meanwhile keeps nobody from running what needs
/// none; a relative path is then one below a name that does not exist.
fn working_directory() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/proc/self/cwd (removed)"))
}

/// Whether SELinux is at work on this machine.
#[must_use]
pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Gets the image, and lets the spec inherit what the user left open.
fn take_image(spec: &mut ContainerSpec, args: &RunArgs, store: &Store) -> Result<()> {
    let defaults = match (&mut spec.rootfs, &mut spec.image) {
        (rootfs @ Rootfs::Layers { .. }, Some(wanted)) => {
            let image = find_files(wanted, rootfs, args, store)?;
            image::say_of_platform(&image, &wanted.reference);
            image.config.defaults()
        }
        // The host's own programs are there to be used by hand.
        (Rootfs::Host, _) => ImageDefaults {
            command: Some(vec!["/bin/sh".to_owned()]),
            ..ImageDefaults::default()
        },
        (Rootfs::Squash { path }, _) => Squash::look(path)?.defaults(),
        (Rootfs::Layers { .. } | Rootfs::Directory { .. }, _) => ImageDefaults::default(),
    };
    spec.inherit(&defaults);
    Ok(())
}

/// Gets the images that are mounted.
fn take_mounted(spec: &mut ContainerSpec, args: &RunArgs, store: &Store) -> Result<()> {
    for mount in &mut spec.mounts {
        match &mut mount.source {
            MountSource::Image {
                image,
                files: files @ Rootfs::Layers { .. },
                ..
            } => {
                find_files(image, files, args, store)?;
            }
            MountSource::Image {
                files: Rootfs::Squash { path },
                ..
            } => {
                // What is no squashfs is said before anything is made.
                Squash::look(path)?;
            }
            MountSource::Image { .. }
            | MountSource::Bind { .. }
            | MountSource::Volume { .. }
            | MountSource::Tmpfs { .. } => {}
        }
    }
    Ok(())
}

/// Gets an image; `files` are then its layers, or its file in an additional store.
fn find_files(
    wanted: &mut Image,
    files: &mut Rootfs,
    args: &RunArgs,
    store: &Store,
) -> Result<StoredImage> {
    let options = PullOptions {
        platform: args.platform.as_deref().map(Platform::parse).transpose()?,
        settings: args.registry.settings()?,
        quiet: args.quiet,
        blobs: args.blobs,
    };
    let platform = options.platform.as_ref();
    let in_place = shared::in_place(store, &wanted.reference, args.pull, platform)?;
    let image = match in_place {
        Some((image, path)) => {
            *files = Rootfs::Squash { path };
            image
        }
        None => {
            let image = image::obtain(store, &wanted.reference, args.pull, &options)?;
            let diff_ids = image.config.rootfs.diff_ids.iter();
            *files = Rootfs::Layers {
                diff_ids: diff_ids.map(ToString::to_string).collect(),
            };
            image
        }
    };
    wanted.id = image.id.to_string();
    Ok(image)
}

/// One entry for each variable, the last one given; an entry without `=` takes the variable away.
#[must_use]
pub fn settled(env: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(env.len());
    for entry in env {
        let name = entry
            .split_once('=')
            .map_or(entry.as_str(), |(name, _)| name);
        let position = kept.iter().position(|known| {
            known
                .split_once('=')
                .is_some_and(|(known, _)| known == name)
        });
        match (position, entry.contains('=')) {
            (Some(position), true) => kept[position] = entry,
            (Some(position), false) => {
                kept.remove(position);
            }
            (None, true) => kept.push(entry),
            (None, false) => {}
        }
    }
    kept
}

/// When an image is asked for at its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Pull {
    /// Before every run
    Always,
    /// When it is not here
    #[default]
    Missing,
    /// Not at all
    Never,
    /// When the registry has a newer one
    Newer,
}

/// The flags of `rl run`, as typed.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Add a name to /etc/hosts, as HOST:ADDRESS; `host-gateway` is the host (can be repeated)
    #[arg(long, value_name = "HOST:ADDRESS")]
    pub add_host: Vec<String>,

    /// Add an annotation (can be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,

    /// Give a capability (can be repeated)
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,

    /// Take a capability away (can be repeated)
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,

    /// Whether a fetched image's layers also stay as they were transferred: keep, or drop to save space
    #[arg(long, value_enum, value_name = "WHETHER", hide_possible_values = true)]
    pub blobs: Option<Blobs>,

    /// Cgroup namespace: host or private
    #[arg(long, value_name = "MODE")]
    pub cgroupns: Option<String>,

    /// Where its control group stands: a slice of systemd's, or a path below /sys/fs/cgroup
    #[arg(long, value_name = "PARENT")]
    pub cgroup_parent: Option<String>,

    /// Whether it has a control group of its own: enabled, inherit (or disabled), split or no-conmon
    #[arg(long, value_name = "MODE")]
    pub cgroups: Option<String>,

    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub detach: bool,

    /// Keys that leave a container that has a terminal
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,

    /// Where output is kept: json-file or none
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,

    /// Set an option of the log, such as max-size=10m or max-file=3 (can be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub log_opt: Vec<String>,

    /// Start it again when it ends: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<String>,

    /// Kill it when it does not stop within so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u32>,

    /// Kill it after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,

    /// Write the container's id to a file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,

    /// Bring in a device of the host, as HOST[:CONTAINER[:rwm]] (can be repeated)
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,

    /// Ask this name server; `none` keeps the image's resolv.conf (can be repeated)
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,

    /// Set an option of resolv.conf (can be repeated)
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,

    /// Search names in this domain (can be repeated)
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,

    /// Set the NIS domain name
    #[arg(long, value_name = "NAME")]
    pub domainname: Option<String>,

    /// Let nothing out but to some: deny, or allow=HOST[:PORT][/tcp|udp][,…] (can be repeated)
    #[arg(long, value_name = "RULE")]
    pub egress: Vec<String>,

    /// Replace the entry point of the image; JSON makes several words
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,

    /// Set a variable; NAME alone takes yours (can be repeated)
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,

    /// Read variables from a file (can be repeated)
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,

    /// Say that the container serves a port, as PORT[-PORT][/tcp|udp]; see -P (can be repeated)
    #[arg(long, value_name = "PORT")]
    pub expose: Vec<String>,

    /// Add a supplementary group; `keep-groups` keeps yours (can be repeated)
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,

    /// Find out by this command whether the program works: a line for a shell, a JSON list of words, or none
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,

    /// Wait so long between two checks, such as 30s; `disable` leaves them to `rl healthcheck run`
    #[arg(long, value_name = "TIME")]
    pub health_interval: Option<String>,

    /// So many failures in a row make it unhealthy
    #[arg(long, value_name = "COUNT")]
    pub health_retries: Option<i64>,

    /// Wait so long between two checks in the start period
    #[arg(long, value_name = "TIME")]
    pub health_start_interval: Option<String>,

    /// Failures do not count for so long after the start
    #[arg(long, value_name = "TIME")]
    pub health_start_period: Option<String>,

    /// Kill a check that takes longer
    #[arg(long, value_name = "TIME")]
    pub health_timeout: Option<String>,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,

    /// Set the host name
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,

    /// Pass your proxy variables on: http_proxy, https_proxy, ftp_proxy, no_proxy, in capitals too (default: true)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = boolean, action = clap::ArgAction::Set, hide_default_value = true)]
    pub http_proxy: bool,

    /// Run a small init as pid 1 that reaps zombies and forwards signals
    #[arg(long)]
    pub init: bool,

    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,

    /// The IPv4 address on the named network
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,

    /// The IPv6 address on the named network
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,

    /// IPC namespace: private, shareable, none or host
    #[arg(long, value_name = "MODE")]
    pub ipc: Option<String>,

    /// Set a label (can be repeated)
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,

    /// Read labels from a file (can be repeated)
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,

    /// The hardware address on the named network
    #[arg(long, value_name = "ADDRESS")]
    pub mac_address: Option<String>,

    /// Mount, as type=bind|volume|tmpfs|image,source=…,target=…[,readonly] (can be repeated)
    #[arg(long, value_name = "MOUNT")]
    pub mount: Vec<String>,

    /// Name the container
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Network: auto, pasta[:…], slirp4netns[:…], host, none, container:NAME, ns:PATH, or named networks as
    /// NAME[,NAME…] or NAME:ip=…,alias=… (can be repeated)
    #[arg(long, alias = "net", value_name = "NETWORK")]
    pub network: Vec<String>,

    /// Add a name that others on the named networks find the container by (can be repeated)
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,

    /// Check no health, whatever the image says
    #[arg(long)]
    pub no_healthcheck: bool,

    /// Leave /etc/hosts as the image has it
    #[arg(long)]
    pub no_hosts: bool,

    /// Make the container a more (1000) or less (-1000) likely victim when memory runs out
    #[arg(long, value_name = "NUMBER")]
    pub oom_score_adj: Option<i32>,

    /// PID namespace: private or host
    #[arg(long, value_name = "MODE")]
    pub pid: Option<String>,

    /// Write the host's pid of the container's first process to a file
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,

    /// Choose the platform of an image, as OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,

    /// Pass this many descriptors on, from 3 upwards
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub preserve_fds: u32,

    /// Give all capabilities, filter no system calls, hide nothing
    #[arg(long)]
    pub privileged: bool,

    /// Publish a port, as [[ADDRESS:][HOST_PORT]:]CONTAINER_PORT[/tcp|udp], ports or ranges (can be repeated)
    #[arg(short, long, value_name = "PORT")]
    pub publish: Vec<String>,

    /// Publish every port of --expose and the image's EXPOSE on a free port of the host
    #[arg(short = 'P', long)]
    pub publish_all: bool,

    /// When to ask the registry for the image
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub pull: Pull,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,

    /// How much it gets.
    #[command(flatten)]
    pub resources: resources::ResourceArgs,

    /// Make the root file system read-only
    #[arg(long)]
    pub read_only: bool,

    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,

    /// What appears to succeed although the ids for it are missing: auto (default), basic (changes of owner, user and
    /// groups, device nodes), full (the same, and all of it is remembered) or off
    #[arg(long, value_name = "MODE")]
    pub root_emulation: Option<String>,

    /// Use a directory as the root file system: the first word is its path, not an image
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub rootfs: Option<String>,

    /// Confine more or less: no-new-privileges, seccomp=FILE|unconfined, mask=…, unmask=…,
    /// systempaths=unconfined, apparmor=…, label=… (can be repeated)
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,

    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub shm_size: Option<u64>,

    /// Forward the signals that `rl` gets (default: true)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = boolean, action = clap::ArgAction::Set, hide_default_value = true)]
    pub sig_proxy: bool,

    /// The signal that asks the container to stop
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,

    /// Set a kernel parameter of the container's namespaces (can be repeated)
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,

    /// Put the container's clocks ahead or back, as boottime=+30d,monotonic=-90s (can be repeated)
    #[arg(long, value_name = "CLOCK=DURATION")]
    pub time_offset: Vec<String>,

    #[command(flatten)]
    pub registry: RegistryFlags,

    /// Mount memory, as TARGET[:OPTIONS] (can be repeated)
    #[arg(long, value_name = "MOUNT")]
    pub tmpfs: Vec<String>,

    /// Give the container a terminal
    #[arg(short, long)]
    pub tty: bool,

    /// Set a resource limit, as NAME=SOFT[:HARD] (can be repeated)
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,

    /// Set the umask, in octal
    #[arg(long, value_name = "MASK")]
    pub umask: Option<String>,

    /// Run as USER[:GROUP], names or numbers
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,

    /// Id mapping: auto, keep-id[:uid=…,gid=…], nomap or host
    #[arg(long, value_name = "MODE")]
    pub userns: Option<String>,

    /// UTS namespace: private or host
    #[arg(long, value_name = "MODE")]
    pub uts: Option<String>,

    /// Mount a directory or a volume, as [SOURCE:]TARGET[:OPTIONS] (can be repeated)
    #[arg(short, long, value_name = "VOLUME")]
    pub volume: Vec<String>,

    /// Mount what another container has, as CONTAINER[:ro|rw] (can be repeated)
    #[arg(long, value_name = "CONTAINER")]
    pub volumes_from: Vec<String>,

    /// Set the working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,

    /// The image, and the program and its arguments
    #[arg(value_names = ["IMAGE", "COMMAND"], num_args = 1.., trailing_var_arg = true)]
    pub words: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_there_once_or_taken_away() {
        let env = ["A=1", "B=2", "C=3", "A=4", "B", "NONE", "D=x=y"];
        let env = env.map(str::to_owned).to_vec();
        assert_eq!(settled(env), ["A=4", "C=3", "D=x=y"]);
    }
}
