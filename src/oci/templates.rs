//! `spec` and `features`: a configuration to begin with, and what can be asked for.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::print;
use crate::error::Fail;
use crate::spec::oci::{Kind, Options};
use crate::stage::confine::{CAPABILITIES, DEFAULT_MASKED_PATHS, DEFAULT_READ_ONLY_PATHS};

/// The specification that is followed.
pub const SPEC: &str = "1.2.0";

/// `spec`: writes `config.json` into a bundle.
///
/// # Errors
/// One is there already; the system's.
pub fn spec(bundle: Option<&Path>, rootless: bool) -> Result<()> {
    let path = bundle.unwrap_or(Path::new(".")).join("config.json");
    if path.exists() {
        return Err(
            Fail::conflict(format!("File {} exists. Remove it first", path.display())).into(),
        );
    }
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(&template(rootless), &mut writer).context("writing JSON")?;
    text.push(b'\n');
    std::fs::write(&path, text).with_context(|| format!("writing `{}`", path.display()))
}

fn template(rootless: bool) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let strict = |rest: &[&'static str]| {
        let mut all: Vec<&'static str> = vec!["nosuid", "noexec", "nodev"];
        all.extend(rest);
        all
    };
    let pts = [
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    let mut pts: Vec<&str> = pts.to_vec();
    if !rootless {
        pts.push("gid=5");
    }
    let sys = if rootless {
        json!({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]})
    } else {
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": strict(&["ro"])})
    };
    let mut kinds = vec!["pid"];
    if !rootless {
        kinds.push("network");
    }
    kinds.extend(["ipc", "uts", "mount", "cgroup"]);
    if rootless {
        kinds.push("user");
    }
    let namespaces: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind})).collect();
    let mut linux = json!({
        "namespaces": namespaces,
        "maskedPaths": DEFAULT_MASKED_PATHS,
        "readonlyPaths": DEFAULT_READ_ONLY_PATHS,
    });
    if rootless {
        let own = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        linux["uidMappings"] = own(rustix::process::geteuid().as_raw());
        linux["gidMappings"] = own(rustix::process::getegid().as_raw());
    } else {
        linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    }
    json!({
        "ociVersion": SPEC,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "rl",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": strict(&["mode=1777", "size=65536k"])},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": strict(&[])},
            sys,
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": strict(&["relatime", "ro"])},
        ],
        "linux": linux,
    })
}

/// `features`. Source: the specification's features.md and features-linux.md.
///
/// # Errors
/// Standard output's.
pub fn features() -> Result<()> {
    let namespaces: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    let flags = [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    let all = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": Options::known(),
        "linux": {
            "namespaces": namespaces,
            "capabilities": CAPABILITIES.to_vec(),
            "cgroup": {"v1": false, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
                "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
                "archs": crate::stage::seccomp::known_architectures(),
                "knownFlags": flags,
                "supportedFlags": flags,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {},
        "potentiallyUnsafeConfigAnnotations": [],
    });
    print(&format!(
        "{}\n",
        serde_json::to_string_pretty(&all).context("writing JSON")?
    ))
}
