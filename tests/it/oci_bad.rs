//! Wrong configurations: each is refused with the field's name and the code 1, and leaves nothing.

#![allow(
    clippy::semicolon_if_nothing_returned,
    reason = "a change is one expression in a row of a table"
)]

use serde_json::{Value, json};

use crate::support::bundle::{Bundle, is_root, ours};
use crate::support::host::Need;

type Change = fn(&mut Value);

/// What is changed, and what the error begins with.
const WRONG: &[(Change, &str)] = &[
    (
        |c| drop(c.as_object_mut().unwrap().remove("ociVersion")),
        "ociVersion: must be set",
    ),
    (
        |c| c["ociVersion"] = json!("2.0.0"),
        "ociVersion: `2.0.0` is not a version 1",
    ),
    (
        |c| c["ociVersion"] = json!("x"),
        "ociVersion: `x` is no version",
    ),
    (
        |c| c["ociVersion"] = json!(1),
        "ociVersion: invalid type: integer `1`",
    ),
    (
        |c| drop(c.as_object_mut().unwrap().remove("root")),
        "root.path: must be set",
    ),
    (|c| c["root"]["path"] = json!("nosuch"), "root.path: `"),
    (
        |c| c["root"]["path"] = json!("config.json"),
        "is no directory",
    ),
    (
        |c| drop(c.as_object_mut().unwrap().remove("process")),
        "process: must be set",
    ),
    (
        |c| c["process"]["args"] = json!([]),
        "process.args: must not be empty",
    ),
    (
        |c| c["process"]["args"] = json!([1]),
        "process.args[0]: invalid type",
    ),
    (
        |c| c["process"]["args"] = json!([""]),
        "process.args[0]: must not be empty",
    ),
    (
        |c| c["process"]["args"] = json!(["a", "b\0"]),
        "process.args[1]: has a NUL byte",
    ),
    (
        |c| c["process"]["env"] = json!(["a=\0"]),
        "process.env[0]: has a NUL byte",
    ),
    (
        |c| c["process"]["cwd"] = json!("tmp"),
        "process.cwd: `tmp` is not an absolute path",
    ),
    (
        |c| drop(c["process"].as_object_mut().unwrap().remove("cwd")),
        "process.cwd: must be set",
    ),
    (
        |c| c["process"]["user"]["uid"] = json!(-1),
        "process.user.uid: invalid value: integer `-1`",
    ),
    (
        |c| c["process"]["user"]["uid"] = json!(4_294_967_295_u32),
        "process.user.uid: 4294967295",
    ),
    (
        |c| c["process"]["user"]["umask"] = json!(512),
        "process.user.umask: must not be above",
    ),
    (
        |c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
        "process.rlimits[0].type: there is no `RLIMIT_X`",
    ),
    (
        |c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
        "process.rlimits[0].soft: must not be above hard",
    ),
    (
        |c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]),
        "process.rlimits[1].type: `RLIMIT_CPU` is listed twice",
    ),
    (
        |c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_CPU", "soft": 1}]),
        "process.rlimits[0]: missing field `hard`",
    ),
    (
        |c| c["process"]["oomScoreAdj"] = json!(1001),
        "process.oomScoreAdj: must be from",
    ),
    (
        |c| c["process"]["capabilities"]["bounding"] = json!("x"),
        "process.capabilities.bounding: invalid type",
    ),
    (
        |c| c["process"]["scheduler"] = json!({"policy": "SCHED_X"}),
        "process.scheduler.policy: there is no `SCHED_X`",
    ),
    (
        |c| c["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 20}),
        "process.scheduler.nice: must be from -20 to 19",
    ),
    (
        |c| c["process"]["scheduler"] = json!({"policy": "SCHED_FIFO"}),
        "process.scheduler.priority: must be from 1 to 99",
    ),
    (
        |c| c["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "flags": ["X"]}),
        "process.scheduler.flags[0]: there is no `X`",
    ),
    (
        |c| c["process"]["ioPriority"] = json!({"class": "X"}),
        "process.ioPriority.class: there is no `X`",
    ),
    (
        |c| c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
        "process.ioPriority.priority: must be from 0 to 7",
    ),
    (
        |c| c["process"]["execCPUAffinity"] = json!({"initial": "x"}),
        "process.execCPUAffinity.initial: `x` is no list",
    ),
    (
        |c| c["process"]["apparmorProfile"] = json!("x"),
        "process.apparmorProfile: this kernel does not",
    ),
    (
        |c| c["process"]["selinuxLabel"] = json!("x"),
        "process.selinuxLabel: labels of SELinux are not written",
    ),
    (
        |c| c["hostname"] = json!("x".repeat(65)),
        "hostname: must not have more than 64 bytes",
    ),
    (
        |c| c["mounts"] = json!([{"type": "tmpfs"}]),
        "mounts[0].destination: must be set",
    ),
    (
        |c| c["mounts"] = json!([{"destination": "/m"}]),
        "mounts[0].type: must be set",
    ),
    (
        |c| c["mounts"] = json!([{"destination": "/m", "options": ["bind"]}]),
        "mounts[0].source: must be set",
    ),
    (
        |c| c["mounts"] = json!([{"destination": "/m", "type": "tmpfs", "options": "ro"}]),
        "mounts[0].options: invalid type",
    ),
    (
        |c| c["mounts"] = json!([{"destination": "/m", "source": "/", "options": ["bind"], "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}]),
        "mounts[0].gidMappings: must be set",
    ),
    (
        |c| c["mounts"] = json!([{"destination": "/", "source": "/tmp", "options": ["bind"]}]),
        "mounts[0]: mounting bind on `/`",
    ),
    (
        |c| c["hooks"] = json!({"prestart": [{"path": "true"}]}),
        "hooks.prestart[0].path: `true` is not an absolute path",
    ),
    (
        |c| c["hooks"] = json!({"poststop": [{"args": []}]}),
        "hooks.poststop[0]: missing field `path`",
    ),
    (
        |c| c["hooks"] = json!({"createRuntime": [{"path": "/bin/true", "timeout": 0}]}),
        "hooks.createRuntime[0].timeout: must be above 0",
    ),
    (
        |c| c["hooks"] = json!({"createRuntime": [{"path": "/no/such"}]}),
        "hooks.createRuntime[0]: `/no/such`",
    ),
    (
        |c| c["linux"]["namespaces"] = json!([{"type": "x"}]),
        "linux.namespaces[0].type: unknown variant `x`",
    ),
    (
        |c| {
            c["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(json!({"type": "pid"}))
        },
        "].type: `pid` is listed twice",
    ),
    (
        |c| c["linux"]["namespaces"][0]["path"] = json!("rel"),
        "linux.namespaces[0].path: `rel` is not absolute",
    ),
    (
        |c| c["linux"]["namespaces"][0]["path"] = json!("/no/such"),
        "linux.namespaces[0].path: `/no/such`: no such file",
    ),
    (
        |c| c["linux"]["namespaces"][0]["path"] = json!("/etc/passwd"),
        "linux.namespaces[0].path: `/etc/passwd` is no namespace",
    ),
    (
        |c| {
            c["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .retain(|one| one["type"] != "mount");
        },
        "linux.namespaces: without a mount namespace",
    ),
    (
        |c| map(c, json!([{"containerID": 0, "hostID": 1, "size": 0}])),
        "linux.uidMappings[0].size: must not be 0",
    ),
    (
        |c| map(c, json!([{"containerID": 0, "hostID": 1, "size": "1"}])),
        "linux.uidMappings[0].size: invalid type: string",
    ),
    (
        |c| map(c, json!([{"containerID": 0, "hostID": 1}])),
        "linux.uidMappings[0]: missing field `size`",
    ),
    (
        |c| {
            map(
                c,
                json!([{"containerID": 0, "hostID": 4_294_967_295_u32, "size": 2}]),
            )
        },
        "linux.uidMappings[0].hostID: the range goes beyond",
    ),
    (
        |c| {
            map(
                c,
                json!([{"containerID": 0, "hostID": 1, "size": 5}, {"containerID": 4, "hostID": 10, "size": 1}]),
            )
        },
        "linux.uidMappings[1]: overlaps",
    ),
    (|c| map(c, json!([])), "linux.uidMappings: must be set"),
    (
        |c| {
            map(c, json!([{"containerID": 0, "hostID": 1, "size": 1}]));
            c["process"]["user"]["uid"] = json!(3);
        },
        "process.user.uid: 3 is not mapped",
    ),
    (
        |c| c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1}}),
        "linux.timeOffsets.boottime: needs a new time namespace",
    ),
    (
        |c| c["linux"]["timeOffsets"] = json!({"x": {"secs": 1}}),
        "linux.timeOffsets.x: is not one of",
    ),
    (
        |c| c["linux"]["devices"] = json!([{"type": "x", "path": "/dev/x"}]),
        "linux.devices[0].type: `x` is not one of",
    ),
    (
        |c| c["linux"]["devices"] = json!([{"type": "c", "path": "x"}]),
        "linux.devices[0].path: `x` is not an absolute",
    ),
    (
        |c| c["linux"]["devices"] = json!([{"type": "c", "path": "/dev/x", "minor": 1}]),
        "linux.devices[0].major: must be set",
    ),
    (
        |c| c["linux"]["sysctl"] = json!({"vm.swappiness": "1"}),
        "linux.sysctl[vm.swappiness]: does not belong",
    ),
    (
        |c| c["linux"]["sysctl"] = json!({"net.nosuch": "1"}),
        "linux.sysctl[net.nosuch]: setting it",
    ),
    (
        |c| c["linux"]["sysctl"] = json!({"net/../kernel/panic": "1"}),
        "linux.sysctl[net/../kernel/panic]: is no name",
    ),
    (
        |c| c["linux"]["rootfsPropagation"] = json!("x"),
        "linux.rootfsPropagation: `x` is not one of",
    ),
    (
        |c| c["linux"]["maskedPaths"] = json!(["x"]),
        "linux.maskedPaths[0]: `x` is not an absolute",
    ),
    (
        |c| c["linux"]["readonlyPaths"] = json!(["/a", "x"]),
        "linux.readonlyPaths[1]: `x` is not an absolute",
    ),
    (
        |c| c["linux"]["mountLabel"] = json!("x"),
        "linux.mountLabel: labels of SELinux are not written",
    ),
    (
        |c| c["linux"]["personality"] = json!({"domain": "X"}),
        "linux.personality.domain: `X` is not one of",
    ),
    (
        |c| c["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["X"]}),
        "linux.personality.flags: none is supported",
    ),
    (
        |c| c["linux"]["seccomp"] = json!({"defaultAction": "X"}),
        "linux.seccomp: ",
    ),
    (
        |c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}),
        "linux.seccomp.listenerPath: must be set",
    ),
    (
        |c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "x"}),
        "linux.seccomp.listenerPath: `x` is not an absolute",
    ),
    (
        |c| c["linux"]["netDevices"] = json!({"nosuch0": {}}),
        "linux.netDevices[nosuch0]: moving it",
    ),
    (
        |c| c["linux"]["netDevices"] = json!({"a/b": {}}),
        "linux.netDevices[a/b]: `a/b` is no name",
    ),
    (
        |c| c["linux"]["cgroupsPath"] = json!("/a/../b"),
        "linux.cgroupsPath: `/a/../b` must not contain",
    ),
    (
        |c| c["linux"]["resources"] = json!({"devices": [{"allow": true, "type": "x"}]}),
        "linux.resources.devices[0].type: `x` is not one of",
    ),
    (
        |c| c["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rx"}]}),
        "linux.resources.devices[0].access: `rx` is not made of",
    ),
    (
        |c| c["linux"]["resources"] = json!({"memory": {"limit": -2}}),
        "linux.resources.memory.limit: must not be less than -1",
    ),
    (
        |c| c["linux"]["resources"] = json!({"memory": {"swap": 5}}),
        "linux.resources.memory.swap: needs",
    ),
    (
        |c| c["linux"]["resources"] = json!({"cpu": {"cpus": "x"}}),
        "linux.resources.cpu.cpus: `x` is no list",
    ),
    (
        |c| c["linux"]["resources"] = json!({"blockIO": {"weight": 5}}),
        "linux.resources.blockIO.weight: must be from",
    ),
    (
        |c| c["linux"]["resources"] = json!({"unified": {"a/b": "1"}}),
        "linux.resources.unified[a/b]: is no file",
    ),
    (
        |c| c["linux"]["resources"] = json!({"network": {"classID": 1}}),
        "linux.resources.network: there is no such limit",
    ),
];

/// Another map of user ids; root's base has no user namespace.
fn map(config: &mut Value, map: Value) {
    if is_root() {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 10}]);
    }
    config["linux"]["uidMappings"] = map;
}

#[test]
fn every_wrong_field_is_named_and_nothing_is_left() {
    needs!(Need::Program("busybox"), Need::Ours);
    if !is_root() {
        needs!(Need::Ranges);
    }
    let bundle = Bundle::new();
    let good = bundle.config.clone();
    let mut bundle = bundle;
    let mut wrong = Vec::new();
    for (at, (change, reason)) in WRONG.iter().enumerate() {
        bundle.config = good.clone();
        bundle.script("true");
        change(&mut bundle.config);
        let id = format!("wrong-{at}");
        bundle.write();
        let answer = bundle.call(&["create", &id]);
        let left = bundle.left();
        if answer.code() != 1 || !answer.stderr().contains(reason) || !left.is_empty() {
            wrong.push(format!("{reason}: left {left:?}: {}", answer.shown()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn bundles_and_ids_are_checked() {
    needs!(Need::Program("busybox"));
    let mut bundle = Bundle::new();
    bundle.script("true").write();
    for id in ["a/b", "..", ".", "", "a b", "/abs"] {
        bundle
            .call(&["create", id])
            .fails(1, "invalid container id");
    }
    bundle
        .call(&["create", "--bundle", "/no/such", "x"])
        .fails(1, "`/no/such`");
    std::fs::write(bundle.path("b/config.json"), "{\"ociVersion\": ").unwrap();
    bundle.call(&["create", "x"]).fails(1, "EOF while parsing");
    std::fs::write(bundle.path("b/config.json"), "[]").unwrap();
    bundle
        .call(&["create", "x"])
        .fails(1, "ociVersion: must be set");
    std::fs::remove_file(bundle.path("b/config.json")).unwrap();
    bundle
        .call(&["create", "x"])
        .fails(1, "no such file or directory");
    std::fs::remove_dir_all(bundle.path("b/rootfs")).unwrap();
    bundle.write();
    bundle.call(&["create", "x"]).fails(1, "root.path");
    assert!(bundle.left().is_empty(), "{:?}", bundle.left());
    if ours() {
        bundle.call(&["nosuch"]).fails(1, "");
        bundle.call(&["create"]).fails(1, "");
        bundle
            .call(&["--log-format", "x", "list"])
            .fails(1, "invalid log-format");
        std::fs::create_dir_all(bundle.path("state/broken")).unwrap();
        std::fs::write(bundle.path("state/broken/state.json"), "{").unwrap();
        bundle.call(&["state", "broken"]).fails(1, "is damaged");
        bundle.call(&["delete", "--force", "broken"]).ok();
        assert!(bundle.left().is_empty(), "{:?}", bundle.left());
    }
}
