//! Everything that is known of a container, in the JSON of docker's API.
//!
//! Field names and their order are docker's (moby, `api/types/container`): scripts read them. What `rl` does not
//! have is there with docker's zero value.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::measure::Machine;
use super::state::Status;
use super::view::Seen;
use crate::cgroup::account::{Bound, Limits};
use crate::net::named::Endpoint;
use crate::spec::{
    ContainerSpec, Egress, Health, HostPort, Joined, Mount, MountSource, Namespace, Network,
    Restart, Rlimit, Rootfs, Seccomp, Shm, UserNs,
};
use crate::stage::confine;

/// Docker's time for what has not happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The whole object of `docker inspect`. `sizes`: bytes written, and bytes with the image's.
#[must_use]
pub fn container(seen: &Seen, sizes: Option<(u64, u64)>) -> Value {
    let (spec, state, dir) = (&seen.spec, &seen.state, seen.record.dir());
    let args = spec.process.args();
    let inside = |name: &str| dir.join(name).display().to_string();
    let log = if spec.log.none || !spec.detached {
        String::new()
    } else {
        inside("log")
    };
    let mut value = json!({
        "Id": spec.id,
        "Created": state.created,
        "Path": args.first().map_or("", String::as_str),
        "Args": args.get(1..).unwrap_or_default(),
        "State": running_state(seen),
        "Image": spec.image.as_ref().map_or("", |image| image.id.as_str()),
        "ResolvConfPath": inside("resolv.conf"),
        "HostnamePath": inside("hostname"),
        "HostsPath": inside("hosts"),
        "LogPath": log,
        "Name": format!("/{}", spec.name),
        "RestartCount": state.restarts,
        "Driver": driver(&spec.rootfs),
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(seen),
        "GraphDriver": {"Data": {
            "MergedDir": inside("merged"),
            "UpperDir": inside("upper"),
            "WorkDir": inside("work"),
        }, "Name": driver(&spec.rootfs)},
    });
    if let Some(object) = value.as_object_mut() {
        if let Some((written, whole)) = sizes {
            object.insert("SizeRw".to_owned(), json!(written));
            object.insert("SizeRootFs".to_owned(), json!(whole));
        }
        let mounts = spec.mounts.iter().map(|mount| mount_point(seen, mount));
        object.insert("Mounts".to_owned(), mounts.collect());
        object.insert("Config".to_owned(), config(seen));
        object.insert("NetworkSettings".to_owned(), network_settings(seen));
        // Ours: a bound of a batch job counts, too.
        object.insert("EffectiveLimits".to_owned(), effective_limits(seen));
        if let Some(rule) = &seen.spec.cgroup.rule {
            object.insert("LimitsRule".to_owned(), json!(rule));
        }
    }
    value
}

/// What bounds a running container; null for one that does not run, or where version 2 is not mounted.
fn effective_limits(seen: &Seen) -> Value {
    let process = seen.state.process.as_ref().filter(|_| seen.is_running());
    let bounds = process.and_then(|process| Machine::look().bounds(process.pid, &seen.spec.id));
    bounds.map_or(Value::Null, |(group, limits)| self::limits(&group, &limits))
}

/// Bounds and which groups set them; null where there is none.
#[must_use]
pub fn limits(group: &Path, limits: &Limits) -> Value {
    let bound = |bound: &Option<Bound<u64>>| {
        bound
            .as_ref()
            .map(|bound| json!({"Value": bound.value, "SetBy": bound.group}))
    };
    let cpu = limits.cpu.as_ref().map(|bound| Bound {
        value: bound.value.millis().saturating_mul(1_000_000),
        group: bound.group.clone(),
    });
    let pages: Map<String, Value> = limits
        .huge_pages
        .iter()
        .map(|(size, one)| (size.clone(), json!(bound(&Some(one.clone())))))
        .collect();
    json!({
        "Cgroup": group,
        "Memory": bound(&limits.memory),
        "MemoryHigh": bound(&limits.memory_high),
        "MemorySwapOnly": bound(&limits.swap),
        "NanoCpus": bound(&cpu),
        "CpusetCpus": limits.cpus,
        "PidsLimit": bound(&limits.pids),
        "HugePages": pages,
    })
}

fn driver(rootfs: &Rootfs) -> &'static str {
    match rootfs {
        Rootfs::Layers { .. } | Rootfs::Squash { .. } | Rootfs::Host => "overlay",
        Rootfs::Directory { .. } => "directory",
    }
}

fn running_state(seen: &Seen) -> Value {
    let state = &seen.state;
    // Docker: a container between two starts counts as running, too.
    let is_up = matches!(state.status, Status::Running | Status::Restarting);
    let pid = state
        .process
        .as_ref()
        .filter(|_| seen.is_running())
        .map_or(0, |process| process.pid);
    let mut value = json!({
        "Status": seen.status(),
        "Running": is_up,
        "Paused": seen.paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": false,
        "Pid": pid,
        "ExitCode": if seen.is_running() { 0 } else { state.exit_code },
        "Error": state.error.clone().unwrap_or_default(),
        "StartedAt": state.started.as_deref().unwrap_or(NEVER),
        "FinishedAt": state.finished.as_deref().unwrap_or(NEVER),
    });
    if let (Some(health), Some(object)) = (&seen.health, value.as_object_mut()) {
        object.insert("Health".to_owned(), json!(health));
    }
    value
}

fn host_config(seen: &Seen) -> Value {
    let spec = &seen.spec;
    let confinement = &spec.confinement;
    let (added, dropped) = capabilities(spec);
    let mut security = Vec::new();
    if confinement.no_new_privileges {
        security.push("no-new-privileges".to_owned());
    }
    match &confinement.seccomp {
        Seccomp::Default => {}
        Seccomp::Unconfined if confinement.privileged => {}
        Seccomp::Unconfined => security.push("seccomp=unconfined".to_owned()),
        Seccomp::Profile { json } => security.push(format!("seccomp={json}")),
    }
    let mut value = Map::new();
    let mut add = |fields: Value| {
        if let Value::Object(fields) = fields {
            value.extend(fields);
        }
    };
    add(json!({
        "Binds": or_null(&binds(spec)),
        "ContainerIDFile": "",
        "LogConfig": log_config(spec),
        "NetworkMode": seen.network(),
        "Egress": spec.egress.as_ref().map(egress),
        "PortBindings": port_bindings(spec),
        "RestartPolicy": restart_policy(spec.restart),
        "AutoRemove": spec.remove,
        "VolumeDriver": "",
        "VolumesFrom": null,
        "ConsoleSize": [0, 0],
        "Annotations": spec.annotations,
        "CapAdd": or_null(&added),
        "CapDrop": or_null(&dropped),
        "CgroupnsMode": namespace(&spec.namespaces.cgroup, "private"),
        "Dns": spec.names.dns,
        "DnsOptions": spec.names.options,
        "DnsSearch": spec.names.search,
        "ExtraHosts": or_null(&spec.names.hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect::<Vec<_>>()),
        "GroupAdd": or_null(&spec.process.groups),
    }));
    add(json!({
        "IpcMode": match spec.namespaces.shm {
            Shm::None => "none".to_owned(),
            Shm::Host => "host".to_owned(),
            Shm::Private => namespace(&spec.namespaces.ipc, "private"),
        },
        "Cgroup": "",
        "Links": null,
        "OomScoreAdj": confinement.oom_score_adj.unwrap_or(0),
        "PidMode": namespace(&spec.namespaces.pid, ""),
        "Privileged": confinement.privileged,
        "PublishAllPorts": spec.publish_all,
        "ReadonlyRootfs": spec.read_only,
        "SecurityOpt": or_null(&security),
        "Tmpfs": tmpfs(spec),
        "UTSMode": namespace(&spec.namespaces.uts, ""),
        "UsernsMode": match spec.userns {
            UserNs::Auto => "",
            UserNs::KeepId { .. } => "keep-id",
            UserNs::NoMap => "nomap",
            UserNs::Host => "host",
        },
        "RootEmulation": confinement.root_emulation,
        "ShmSize": spec.shm_size,
        "Sysctls": confinement.sysctls,
        "Runtime": "rl",
        "Isolation": "",
    }));
    let r = &spec.cgroup.resources;
    // Docker's default: as much swap as memory.
    let both = r.memory.unwrap_or(0).saturating_mul(2);
    add(json!({
        "CpuShares": r.cpu_shares.unwrap_or(0),
        "Memory": r.memory.unwrap_or(0),
        "NanoCpus": r.nano_cpus.unwrap_or(0),
        "CgroupParent": spec.cgroup.parent.as_deref().unwrap_or_default(),
        "BlkioWeight": r.blkio_weight.unwrap_or(0),
        "BlkioWeightDevice": per_device(&r.blkio_weight_device, "Weight"),
        "BlkioDeviceReadBps": per_device(&r.device_read_bps, "Rate"),
        "BlkioDeviceWriteBps": per_device(&r.device_write_bps, "Rate"),
        "BlkioDeviceReadIOps": per_device(&r.device_read_iops, "Rate"),
        "BlkioDeviceWriteIOps": per_device(&r.device_write_iops, "Rate"),
        "CpuPeriod": r.cpu_period.unwrap_or(0),
        "CpuQuota": r.cpu_quota.unwrap_or(0),
        "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0,
        "CpusetCpus": r.cpuset_cpus.as_deref().unwrap_or_default(),
        "CpusetMems": r.cpuset_mems.as_deref().unwrap_or_default(),
        "Devices": devices(spec),
        "DeviceCgroupRules": null, "DeviceRequests": null,
        "MemoryReservation": r.memory_reservation.unwrap_or(0),
        "MemorySwap": r.memory_swap.unwrap_or_else(|| i64::try_from(both).unwrap_or(i64::MAX)),
        "MemorySwappiness": null, "OomKillDisable": null, "PidsLimit": r.pids,
        "Ulimits": or_null(&confinement.rlimits.iter().map(ulimit).collect::<Vec<_>>()),
        "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
        "MaskedPaths": or_null(&confinement.masked_paths),
        "ReadonlyPaths": or_null(&confinement.read_only_paths),
        "Init": spec.init,
    }));
    Value::Object(value)
}

/// Docker's `ThrottleDevice` and `WeightDevice`.
fn per_device<T: serde::Serialize>(list: &[(std::path::PathBuf, T)], what: &str) -> Value {
    let one = |(path, number): &(std::path::PathBuf, T)| json!({"Path": path, what: number});
    or_null(&list.iter().map(one).collect::<Vec<_>>())
}

/// Go writes a list that was never made as `null`.
fn or_null<T: serde::Serialize>(list: &[T]) -> Value {
    if list.is_empty() {
        Value::Null
    } else {
        json!(list)
    }
}

/// What the user has added to docker's default set, and taken from it.
fn capabilities(spec: &ContainerSpec) -> (Vec<String>, Vec<String>) {
    let has = &spec.confinement.capabilities;
    // --privileged says it all.
    if spec.confinement.privileged {
        return (Vec::new(), Vec::new());
    }
    let default = confine::DEFAULT_CAPABILITIES;
    let added = has.iter().filter(|name| !default.contains(&name.as_str()));
    let dropped = default
        .iter()
        .filter(|name| !has.iter().any(|one| one == *name));
    (
        added.cloned().collect(),
        dropped.map(|name| (*name).to_owned()).collect(),
    )
}

fn binds(spec: &ContainerSpec) -> Vec<String> {
    let binds = spec.mounts.iter().filter_map(|mount| {
        let source = match &mount.source {
            MountSource::Bind { path, .. } => path.display().to_string(),
            MountSource::Volume { volume, .. } => volume.clone(),
            MountSource::Image { .. } | MountSource::Tmpfs { .. } => return None,
        };
        let access = if mount.read_only { "ro" } else { "rw" };
        Some(format!("{source}:{}:{access}", mount.target))
    });
    binds.collect()
}

fn tmpfs(spec: &ContainerSpec) -> Value {
    let mounts = spec.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Tmpfs { data, .. } => {
            let mut options = mount.options.clone();
            if mount.read_only {
                options.push("ro".to_owned());
            }
            options.extend(data.iter().cloned());
            Some((mount.target.clone(), Value::from(options.join(","))))
        }
        MountSource::Bind { .. } | MountSource::Volume { .. } | MountSource::Image { .. } => None,
    });
    Value::Object(mounts.collect())
}

fn log_config(spec: &ContainerSpec) -> Value {
    let mut options = Map::new();
    if let Some(size) = spec.log.max_size {
        options.insert("max-size".to_owned(), json!(size.to_string()));
    }
    if let Some(files) = spec.log.max_files {
        options.insert("max-file".to_owned(), json!(files.to_string()));
    }
    let kind = if spec.log.none { "none" } else { "json-file" };
    json!({"Type": kind, "Config": options})
}

fn restart_policy(policy: Restart) -> Value {
    let (name, most) = match policy {
        Restart::No => ("no", 0),
        Restart::OnFailure { most } => ("on-failure", most),
        Restart::Always => ("always", 0),
        Restart::UnlessStopped => ("unless-stopped", 0),
    };
    json!({"Name": name, "MaximumRetryCount": most})
}

fn namespace(namespace: &Namespace, private: &str) -> String {
    match namespace {
        Namespace::Private => private.to_owned(),
        Namespace::Host => "host".to_owned(),
        Namespace::Container(name) => format!("container:{name}"),
        Namespace::Path(path) => format!("ns:{}", path.display()),
    }
}

fn devices(spec: &ContainerSpec) -> Value {
    let devices = spec.devices.iter().map(|device| {
        json!({
            "PathOnHost": device.host,
            "PathInContainer": device.target,
            "CgroupPermissions": device.access,
        })
    });
    devices.collect()
}

fn ulimit(limit: &Rlimit) -> Value {
    // Docker writes "unlimited" as -1.
    let number = |bound: u64| i64::try_from(bound).unwrap_or(-1);
    json!({"Name": limit.name, "Hard": number(limit.hard), "Soft": number(limit.soft)})
}

fn mount_point(seen: &Seen, mount: &Mount) -> Value {
    let mode = if mount.read_only { "ro" } else { "" };
    let propagation = mount
        .options
        .iter()
        .find(|option| {
            option.trim_start_matches('r').ends_with("shared")
                || option.ends_with("slave")
                || option.ends_with("private")
        })
        .map(String::as_str);
    match &mount.source {
        MountSource::Bind { path, .. } => json!({
            "Type": "bind",
            "Source": path,
            "Destination": mount.target,
            "Mode": mode,
            "RW": !mount.read_only,
            "Propagation": propagation.unwrap_or("rprivate"),
        }),
        MountSource::Volume { volume, .. } => json!({
            "Type": "volume",
            "Name": volume,
            "Source": seen.record.store().volume_data(volume),
            "Destination": mount.target,
            "Driver": "local",
            "Mode": mode,
            "RW": !mount.read_only,
            "Propagation": "",
        }),
        MountSource::Image { image, subpath, .. } => json!({
            "Type": "image",
            "Source": image.reference,
            "SubPath": subpath,
            "Destination": mount.target,
            "Mode": mode,
            "RW": !mount.read_only,
            "Propagation": "",
        }),
        MountSource::Tmpfs { .. } => json!({
            "Type": "tmpfs",
            "Source": "",
            "Destination": mount.target,
            "Mode": mode,
            "RW": !mount.read_only,
            "Propagation": "",
        }),
    }
}

fn config(seen: &Seen) -> Value {
    let spec = &seen.spec;
    let process = &spec.process;
    let hostname = spec
        .hostname
        .clone()
        .unwrap_or_else(|| spec.id.chars().take(12).collect());
    let volumes: Map<String, Value> = spec
        .mounts
        .iter()
        .filter(|mount| matches!(mount.source, MountSource::Volume { .. }))
        .map(|mount| (mount.target.clone(), json!({})))
        .collect();
    let mut value = json!({
        "Hostname": hostname,
        "Domainname": spec.domainname.clone().unwrap_or_default(),
        "User": process.user,
        "AttachStdin": process.interactive && !spec.detached,
        "AttachStdout": !spec.detached,
        "AttachStderr": !spec.detached,
        "Tty": process.tty,
        "OpenStdin": process.interactive,
        "StdinOnce": process.interactive && !spec.detached,
        "Env": process.env,
        "Cmd": process.command,
    });
    let Some(object) = value.as_object_mut() else {
        return value;
    };
    let mut add = |key: &str, field: Value| {
        object.insert(key.to_owned(), field);
    };
    if let Some(check) = &spec.health {
        let test = match check.command.as_slice() {
            [shell, flag, line] if shell == "/bin/sh" && flag == "-c" => {
                vec!["CMD-SHELL".to_owned(), line.clone()]
            }
            words => std::iter::once("CMD".to_owned())
                .chain(words.iter().cloned())
                .collect(),
        };
        add(
            "Healthcheck",
            json!({
                "Test": test,
                "Interval": if check.interval_ns == Health::NEVER { 0 } else { check.interval_ns },
                "Timeout": check.timeout_ns,
                "StartPeriod": check.start_period_ns,
                "StartInterval": check.start_interval_ns,
                "Retries": check.retries,
            }),
        );
    }
    add("Image", json!(seen.image()));
    let exposed: Map<String, Value> = seen
        .exposed()
        .iter()
        .map(|port| (port.to_string(), json!({})))
        .collect();
    if !exposed.is_empty() {
        add("ExposedPorts", Value::Object(exposed));
    }
    add(
        "Volumes",
        if volumes.is_empty() {
            Value::Null
        } else {
            Value::Object(volumes)
        },
    );
    add("WorkingDir", json!(process.cwd));
    add("Entrypoint", json!(process.entrypoint));
    add("OnBuild", Value::Null);
    add("Labels", json!(spec.labels));
    if !spec.stop_signal.is_empty() {
        add("StopSignal", json!(spec.stop_signal));
    }
    add("StopTimeout", json!(spec.stop_timeout_s));
    value
}

/// `{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`: what was asked for.
fn port_bindings(spec: &ContainerSpec) -> Value {
    let mut bindings = Map::new();
    for one in &spec.publish {
        let host = match one.host {
            HostPort::Any => String::new(),
            HostPort::Fixed { port } => port.to_string(),
            HostPort::Among { first, last } => format!("{first}-{last}"),
        };
        let address = one.address.map_or_else(String::new, |ip| ip.to_string());
        let list = bindings
            .entry(one.port.to_string())
            .or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(json!({"HostIp": address, "HostPort": host}));
        }
    }
    Value::Object(bindings)
}

/// The same shape for what leads to it now; `null` for a port that is only served.
fn ports(seen: &Seen) -> Value {
    let mut ports = Map::new();
    if seen.is_running() {
        for port in seen.exposed() {
            ports.insert(port.to_string(), Value::Null);
        }
    }
    for mapping in seen.ports() {
        let list = ports.entry(mapping.port.to_string()).or_insert(Value::Null);
        let binding = json!({
            "HostIp": mapping.host.ip().to_string(),
            "HostPort": mapping.host.port().to_string(),
        });
        if let Value::Array(list) = list {
            list.push(binding);
        } else {
            *list = json!([binding]);
        }
    }
    Value::Object(ports)
}

fn network_settings(seen: &Seen) -> Value {
    let key = seen
        .state
        .process
        .as_ref()
        .filter(|_| seen.is_running())
        .map(|process| format!("/proc/{}/ns/net", process.pid))
        .unwrap_or_default();
    let mut networks = Map::new();
    let name = seen.network();
    if let Network::Named { networks: all } = &seen.spec.network {
        // Where it is is known to the process that serves networks; without it, it is nowhere.
        let places = if seen.is_running() {
            super::networks::endpoints(seen.record.store(), &seen.spec).unwrap_or_default()
        } else {
            Vec::new()
        };
        for joined in all {
            let place = places.iter().find(|one| one.network == joined.network);
            networks.insert(joined.network.clone(), endpoint(seen, joined, place));
        }
    } else if !name.contains(':') {
        networks.insert(
            name,
            json!({
                "IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": "", "DriverOpts": null,
                "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0,
                "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null,
            }),
        );
    }
    json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": key,
        "Ports": ports(seen),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": "",
        "Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "MacAddress": "",
        "Networks": networks,
    })
}

/// One network of a container. Source: moby, `api/types/network`, `EndpointSettings`.
fn endpoint(seen: &Seen, joined: &Joined, place: Option<&Endpoint>) -> Value {
    let ipam = match (joined.ip, joined.ip6) {
        (None, None) => Value::Null,
        (ip, ip6) => {
            let mut fields = Map::new();
            if let Some(ip) = ip {
                fields.insert("IPv4Address".to_owned(), json!(ip));
            }
            if let Some(ip) = ip6 {
                fields.insert("IPv6Address".to_owned(), json!(ip));
            }
            Value::Object(fields)
        }
    };
    let gateway = |is_v4: bool| {
        let mut gateways = place.into_iter().flat_map(|one| &one.gateways);
        let found = gateways.find(|one| one.is_ipv4() == is_v4);
        found.map(ToString::to_string).unwrap_or_default()
    };
    let four = place.and_then(|one| one.ip);
    let six = place.and_then(|one| one.ip6);
    let short: String = seen.spec.id.chars().take(12).collect();
    let names: Vec<&str> = std::iter::once(seen.spec.name.as_str())
        .chain(joined.aliases.iter().map(String::as_str))
        .chain([short.as_str()])
        .collect();
    json!({
        "IPAMConfig": ipam,
        "Links": null,
        "Aliases": or_null(&joined.aliases),
        "MacAddress": place.map(Endpoint::mac_text).unwrap_or_default(),
        "DriverOpts": null,
        "NetworkID": place.map_or("", |one| one.network_id.as_str()),
        "EndpointID": "",
        "Gateway": gateway(true),
        "IPAddress": four.map(|(ip, _)| ip.to_string()).unwrap_or_default(),
        "IPPrefixLen": four.map_or(0, |(_, length)| length),
        "IPv6Gateway": gateway(false),
        "GlobalIPv6Address": six.map(|(ip, _)| ip.to_string()).unwrap_or_default(),
        "GlobalIPv6PrefixLen": six.map_or(0, |(_, length)| length),
        "DNSNames": names,
    })
}

/// `--egress` as it was said, or would be.
fn egress(egress: &Egress) -> Vec<String> {
    match &egress.allow[..] {
        [] => vec!["deny".to_owned()],
        all => all.iter().map(|one| format!("allow={one}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::view::tests::seen;

    fn has(value: &Value, at: &str, names: &str) {
        let object = value.pointer(at).and_then(Value::as_object);
        for name in names.split_whitespace() {
            assert!(
                object.is_some_and(|object| object.contains_key(name)),
                "{at} has no {name}"
            );
        }
    }

    #[test]
    fn the_fields_are_dockers() {
        let value = container(&seen(|_, _| {}), Some((1, 2)));
        has(
            &value,
            "",
            "Id Created Path Args State Image ResolvConfPath HostnamePath HostsPath LogPath Name RestartCount \
             Driver Platform MountLabel ProcessLabel AppArmorProfile ExecIDs HostConfig GraphDriver SizeRw \
             SizeRootFs Mounts Config NetworkSettings",
        );
        has(
            &value,
            "/State",
            "Status Running Paused Restarting OOMKilled Dead Pid ExitCode Error StartedAt FinishedAt",
        );
        has(
            &value,
            "/HostConfig",
            "Binds ContainerIDFile LogConfig NetworkMode PortBindings RestartPolicy AutoRemove VolumeDriver \
             VolumesFrom CapAdd CapDrop CgroupnsMode Dns DnsOptions DnsSearch ExtraHosts GroupAdd IpcMode Cgroup \
             Links OomScoreAdj PidMode Privileged PublishAllPorts ReadonlyRootfs SecurityOpt Tmpfs UTSMode \
             UsernsMode ShmSize Sysctls Runtime CpuShares Memory NanoCpus CpusetCpus Devices MemorySwap \
             PidsLimit Ulimits MaskedPaths ReadonlyPaths Init",
        );
        has(
            &value,
            "/Config",
            "Hostname Domainname User AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce Env Cmd Image \
             Volumes WorkingDir Entrypoint OnBuild Labels StopTimeout",
        );
        has(
            &value,
            "/NetworkSettings",
            "Bridge SandboxID SandboxKey Ports Gateway IPAddress IPPrefixLen MacAddress Networks",
        );
    }

    #[test]
    fn what_the_user_gave_is_found_again() {
        let value = container(
            &seen(|spec, state| {
                spec["restart"] = json!({"policy": "on-failure", "most": 3});
                spec["detached"] = json!(true);
                spec["log"] = json!({"none": false, "max_size": 1024, "max_files": 2});
                spec["health"] = json!({"command": ["/bin/sh", "-c", "true"], "interval_ns": 1, "timeout_ns": 2,
                    "start_period_ns": 3, "retries": 4});
                spec["confinement"]["capabilities"] = json!(["CAP_CHOWN", "CAP_SYS_ADMIN"]);
                state.status = Status::Exited;
                state.exit_code = 3;
            }),
            None,
        );
        for (at, expected) in [
            ("/Name", json!("/web")),
            ("/Path", json!("sleep")),
            ("/Args", json!(["100"])),
            ("/State/Status", json!("exited")),
            ("/State/ExitCode", json!(3)),
            ("/State/StartedAt", json!(NEVER)),
            ("/State/Health/Status", json!("healthy")),
            (
                "/HostConfig/Binds",
                json!(["vol:/data:rw", "/home/u/src:/src:ro"]),
            ),
            (
                "/HostConfig/RestartPolicy",
                json!({"Name": "on-failure", "MaximumRetryCount": 3}),
            ),
            (
                "/HostConfig/LogConfig",
                json!({"Type": "json-file", "Config": {"max-size": "1024", "max-file": "2"}}),
            ),
            ("/HostConfig/CapAdd", json!(["CAP_SYS_ADMIN"])),
            ("/HostConfig/CapDrop/0", json!("CAP_AUDIT_WRITE")),
            ("/HostConfig/NetworkMode", json!("none")),
            ("/Config/Hostname", json!("a1a1a1a1a1a1")),
            ("/Config/Healthcheck/Test", json!(["CMD-SHELL", "true"])),
            ("/Config/Volumes", json!({"/data": {}})),
            ("/Mounts/0/Type", json!("volume")),
            ("/Mounts/0/Source", json!("/nowhere/volumes/vol/_data")),
            ("/Mounts/1/RW", json!(false)),
        ] {
            assert_eq!(value.pointer(at), Some(&expected), "{at}");
        }
    }
}
