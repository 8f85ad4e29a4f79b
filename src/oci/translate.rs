//! From a checked `config.json` to the waist: one [`ContainerSpec`], and the [`Order`] for pid 1.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::config::linux::Linux;
use super::config::process::{Process, rlimit};
use super::config::{self, Config};
use crate::error::Fail;
use crate::spec::oci::{Kind, Listener, Mount, Oci, Options, Personality, Propagation};
use crate::spec::{
    self, Cgroup, Confinement, ContainerSpec, Log, Names, Namespaces, Network, Restart, Rlimit,
    RootEmulation, Rootfs, Seccomp, UserNs,
};
use crate::stage::seccomp::{self, Machine, Target};
use crate::stage::{Driver, Order, RootPlan, confine};

/// What `create` and `run` say beside the configuration.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The container's id.
    pub id: String,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Descriptors from 3 on that are passed through.
    pub preserve_fds: u32,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// [`Oci::tied`].
    pub tied: bool,
}

/// The whole container.
///
/// # Errors
/// A filter that cannot be made, and what the waist's own check finds.
pub fn container(config: &Config, asked: &Asked) -> Result<ContainerSpec> {
    let linux = config.linux();
    let root = config.root.clone().unwrap_or_default();
    let namespaces = linux.namespaces.clone().unwrap_or_default();
    let has = |kind| namespaces.iter().any(|one| one.kind == kind);
    let own = |kind| {
        if has(kind) {
            spec::Namespace::Private
        } else {
            spec::Namespace::Host
        }
    };
    let mut oci = Oci {
        version: config.oci_version.clone().unwrap_or_default(),
        bundle: asked.bundle.clone(),
        uid_mappings: linux.uid_mappings.clone().unwrap_or_default(),
        gid_mappings: linux.gid_mappings.clone().unwrap_or_default(),
        time_offsets: linux.time_offsets.clone().unwrap_or_default(),
        mounts: mounts(config, &asked.bundle),
        propagation: linux
            .rootfs_propagation
            .as_deref()
            .and_then(Propagation::parse),
        devices: linux.devices.clone().unwrap_or_default(),
        hooks: config.hooks.clone().unwrap_or_default(),
        seccomp_listener: listener(&linux)?,
        personality: linux.personality.as_ref().map(|one| Personality {
            domain: one.domain.clone(),
        }),
        net_devices: linux.net_devices.clone().unwrap_or_default(),
        no_pivot: asked.no_pivot,
        no_new_keyring: asked.no_new_keyring,
        tied: asked.tied,
        ..Oci::default()
    };
    let spec_namespaces = Namespaces {
        pid: own(Kind::Pid),
        ipc: own(Kind::Ipc),
        uts: own(Kind::Uts),
        cgroup: own(Kind::Cgroup),
        ..Namespaces::default()
    };
    oci.namespaces = namespaces.clone();
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mut spec = ContainerSpec {
        version: spec::VERSION,
        id: asked.id.clone(),
        name: asked.id.clone(),
        image: None,
        rootfs: Rootfs::Directory {
            path: asked.bundle.join(&root.path),
        },
        read_only: root.readonly,
        process: spec::Process::default(),
        init: false,
        hostname: filled(&config.hostname),
        domainname: filled(&config.domainname),
        mounts: Vec::new(),
        devices: Vec::new(),
        namespaces: spec_namespaces,
        userns: UserNs::Auto,
        network: if has(Kind::Network) {
            Network::None
        } else {
            Network::Host
        },
        publish: Vec::new(),
        publish_all: false,
        expose: Vec::new(),
        egress: None,
        names: Names::default(),
        confinement: Confinement {
            root_emulation: RootEmulation::Off,
            masked_paths: linux.masked_paths.clone().unwrap_or_default(),
            read_only_paths: linux.readonly_paths.clone().unwrap_or_default(),
            sysctls: linux.sysctl.clone().unwrap_or_default(),
            seccomp: linux
                .seccomp
                .as_ref()
                .map_or(Seccomp::Unconfined, |text| Seccomp::Profile {
                    json: text.get().to_owned(),
                }),
            ..Confinement::default()
        },
        shm_size: 0,
        annotations: config.annotations.clone().unwrap_or_default(),
        labels: std::collections::BTreeMap::new(),
        stop_signal: "SIGTERM".to_owned(),
        remove: false,
        detached: true,
        restart: Restart::No,
        stop_timeout_s: 10,
        log: Log::default(),
        health: None,
        timeout_s: None,
        cgroup: Cgroup::default(),
        oci: Some(Box::new(oci)),
    };
    let process = config.process.clone().unwrap_or_default();
    process_into(&process, asked.preserve_fds, &mut spec);
    spec.check()?;
    check_filter(&spec)?;
    Ok(spec)
}

/// Puts a program into the container: its own, or one that joins it.
pub fn process_into(process: &Process, preserve_fds: u32, spec: &mut ContainerSpec) {
    spec.process = spec::Process {
        entrypoint: None,
        command: Some(process.args.clone().unwrap_or_default()),
        env: process.env.clone().unwrap_or_default(),
        cwd: process.cwd.clone(),
        user: String::new(),
        groups: Vec::new(),
        tty: process.terminal,
        interactive: true,
        preserve_fds,
        umask: process.user.umask.unwrap_or(0o022),
    };
    let known = |names: &[String]| -> Vec<String> {
        let is_known = |name: &&String| confine::CAPABILITIES.contains(&name.as_str());
        names.iter().filter(is_known).cloned().collect()
    };
    let mut sets = process.capabilities.clone().unwrap_or_default();
    for names in [
        &mut sets.bounding,
        &mut sets.effective,
        &mut sets.permitted,
        &mut sets.inheritable,
        &mut sets.ambient,
    ] {
        *names = known(names);
    }
    let confinement = &mut spec.confinement;
    confinement.capabilities = sets.bounding.clone();
    confinement.capabilities.sort_unstable();
    confinement.capability_sets = Some(sets);
    confinement.no_new_privileges = process.no_new_privileges;
    confinement.oom_score_adj = process.oom_score_adj;
    confinement.rlimits = process
        .rlimits
        .iter()
        .flatten()
        .filter_map(|limit| {
            Some(Rlimit {
                name: rlimit(&limit.kind)?.to_owned(),
                soft: limit.soft,
                hard: limit.hard,
            })
        })
        .collect();
    if let Some(oci) = &mut spec.oci {
        oci.user = process.user.clone();
        oci.console_size = process.console_size.filter(|_| process.terminal);
        oci.apparmor = process
            .apparmor_profile
            .clone()
            .filter(|name| !name.is_empty());
        oci.scheduler.clone_from(&process.scheduler);
        oci.io_priority.clone_from(&process.io_priority);
        oci.affinity.clone_from(&process.exec_cpu_affinity);
    }
}

/// Compiles the filter once, so that a wrong one is an error of `create`.
///
/// # Errors
/// With the field.
pub fn check_filter(spec: &ContainerSpec) -> Result<(), Fail> {
    let Seccomp::Profile { json } = &spec.confinement.seccomp else {
        return Ok(());
    };
    let answered = spec
        .oci
        .as_ref()
        .is_some_and(|oci| oci.seccomp_listener.is_some());
    let release = rustix::system::uname();
    let target = Target {
        machine: Machine::HERE,
        capabilities: &spec.confinement.capabilities,
        kernel: confine::kernel_version(&release.release().to_string_lossy()),
        answered: true,
    };
    let filter = seccomp::compile(json, &target).map_err(|mut fail| {
        fail.message = format!("linux.seccomp: {}", fail.message);
        fail
    })?;
    match (filter.notifies, answered) {
        (true, false) => Err(Fail::usage(
            "linux.seccomp.listenerPath: must be set where SCMP_ACT_NOTIFY is used",
        )),
        (false, true) => Err(Fail::usage(
            "linux.seccomp.listenerPath: must not be set where SCMP_ACT_NOTIFY is not used",
        )),
        (true, true) | (false, false) => Ok(()),
    }
}

fn listener(linux: &Linux) -> Result<Option<Listener>, Fail> {
    let told = linux.seccomp_listener()?;
    let path = told.listener_path.filter(|path| !path.is_empty());
    let metadata = told.listener_metadata.unwrap_or_default();
    let Some(path) = path.map(PathBuf::from) else {
        if metadata.is_empty() {
            return Ok(None);
        }
        return Err(Fail::usage(
            "linux.seccomp.listenerMetadata: needs linux.seccomp.listenerPath",
        ));
    };
    if !path.is_absolute() {
        return Err(Fail::usage(format!(
            "linux.seccomp.listenerPath: `{}` is not an absolute path",
            path.display()
        )));
    }
    Ok(Some(Listener { path, metadata }))
}

fn mounts(config: &Config, bundle: &Path) -> Vec<Mount> {
    let translate = |given: &config::Mount| {
        let mut options = Options::parse(given.options.as_deref().unwrap_or_default());
        let mut kind = given.kind.clone().unwrap_or_default();
        if kind == "bind" && options.bind.is_none() {
            options.bind = Some(false);
        }
        let mut source = given.source.clone().unwrap_or_default();
        if options.bind.is_some() {
            "bind".clone_into(&mut kind);
            source = bundle.join(source).to_string_lossy().into_owned();
        }
        let uid_mappings = given.uid_mappings.clone().unwrap_or_default();
        if !uid_mappings.is_empty() && options.idmap.is_none() {
            options.idmap = Some(false);
        }
        // A relative destination is one below the root (config.md).
        let target = Path::new("/").join(&given.destination);
        Mount {
            target: target.to_string_lossy().into_owned(),
            kind,
            source,
            options,
            uid_mappings,
            gid_mappings: given.gid_mappings.clone().unwrap_or_default(),
        }
    };
    config.mounts.iter().flatten().map(translate).collect()
}

/// What pid 1 is told.
#[must_use]
pub fn order(spec: &ContainerSpec) -> Order {
    let oci = spec.oci.as_deref().cloned().unwrap_or_default();
    let path = match &spec.rootfs {
        Rootfs::Directory { path } => path.clone(),
        Rootfs::Layers { .. } | Rootfs::Squash { .. } | Rootfs::Host => PathBuf::new(),
    };
    Order {
        spec: spec.clone(),
        root: RootPlan::Directory { path },
        driver: Driver::Auto,
        become_ids: oci.namespace(Kind::User).map(|_| (0, 0)),
        only_ids: None,
        emulation: None,
        memory: None,
        has_tty_group: false,
        etc: Vec::new(),
        drop_ins: Vec::new(),
        volumes: Vec::new(),
        layered: Vec::new(),
        raise_loopback: oci.makes(Kind::Network),
        ahead: None,
        egress: None,
        soft_sysctls: Vec::new(),
        wait_for_network: false,
        own_group: false,
        outer_sys: false,
    }
}
