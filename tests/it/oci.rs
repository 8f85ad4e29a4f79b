//! The clauses of the OCI runtime specification, as a table: what is changed in a plain configuration, what a program inside
//! sees of it then. docs/oci-conformance.md is made of the same table.
//!
//! Runs as an ordinary user, and by `scripts/test-oci` as root and against other runtimes (`RL_OCI_RUNTIME=crun`).

#![allow(
    clippy::semicolon_if_nothing_returned,
    reason = "a change is one expression in a row of a table"
)]

use serde_json::json;

use crate::oci_clauses::{
    All, Clause, Ends, Fails, MOUNTS, NODE, PROCESS, ROOT_AND_NAMES, Root, Says, User, mount, push,
    without,
};
use crate::support::bundle::{Bundle, is_root, ours, runtime};
use crate::support::host::Need;

const NAMESPACES: &[Clause] = &[
    Clause {
        clause: "config-linux.md#namespaces",
        name: "pid",
        who: All,
        not: &[],
        change: |_| {},
        script: "echo $$",
        then: Says("1"),
    },
    Clause {
        clause: "config-linux.md#namespaces",
        name: "without pid the host's processes are there",
        who: All,
        not: &["crun"],
        change: |c| {
            without(c, "pid");
            c["mounts"][0] = json!({"destination": "/proc", "type": "none", "source": "/proc", "options": ["rbind"]});
        },
        script: "test $$ -gt 1 && echo many",
        then: Says("many"),
    },
    Clause {
        clause: "config-linux.md#namespaces",
        name: "network, with loopback up",
        who: All,
        not: &[],
        change: |_| {},
        script: "ip -o link | cut -d: -f2; ip -o -4 addr | grep -c 127.0.0.1",
        then: Says("lo\n1"),
    },
    Clause {
        clause: "config-linux.md#namespaces",
        name: "uts: without it the host name cannot be set",
        who: All,
        not: &[],
        change: |c| without(c, "uts"),
        script: "true",
        then: Fails("hostname: needs a uts namespace"),
    },
    Clause {
        clause: "config-linux.md#namespaces",
        name: "ipc",
        who: All,
        not: &[],
        change: |c| c["linux"]["sysctl"] = json!({"kernel.msgmax": "1234"}),
        script: "cat /proc/sys/kernel/msgmax",
        then: Says("1234"),
    },
    Clause {
        clause: "config-linux.md#namespaces",
        name: "cgroup",
        who: All,
        not: &[],
        change: |_| {},
        script: "tail -n 1 /proc/self/cgroup",
        then: Says("0::/"),
    },
    Clause {
        clause: "config-linux.md#user-namespace-mappings",
        name: "uidMappings and gidMappings",
        who: All,
        not: &[],
        change: |c| {
            if is_root() {
                push(&mut c["linux"]["namespaces"], json!({"type": "user"}));
                c["linux"]["uidMappings"] =
                    json!([{"containerID": 0, "hostID": 70000, "size": 20}]);
                c["linux"]["gidMappings"] =
                    json!([{"containerID": 0, "hostID": 80000, "size": 20}]);
            }
        },
        script: "tail -n 1 /proc/self/uid_map | tr -s ' ' | grep -cE '^ [01] [0-9]{4,} [0-9]+$'; id -u",
        then: Says("1\n0"),
    },
    Clause {
        clause: "config-linux.md#user-namespace-mappings",
        name: "no user namespace for who is not root",
        who: User("root needs none"),
        not: &["crun"],
        change: |c| {
            without(c, "user");
            c["linux"].as_object_mut().unwrap().remove("uidMappings");
            c["linux"].as_object_mut().unwrap().remove("gidMappings");
        },
        script: "true",
        then: Fails("linux.namespaces: a user namespace is needed"),
    },
    Clause {
        clause: "config-linux.md#offset-for-time-namespace",
        name: "timeOffsets",
        who: All,
        not: &["runc", "crun"],
        change: |c| {
            push(&mut c["linux"]["namespaces"], json!({"type": "time"}));
            c["linux"]["timeOffsets"] =
                json!({"boottime": {"secs": 1000000, "nanosecs": 5}, "monotonic": {"secs": 7}});
        },
        script: "test $(cut -d. -f1 /proc/uptime) -ge 1000000 && tr -s ' ' </proc/self/timens_offsets",
        then: Says("monotonic 7 0\nboottime 1000000 5"),
    },
];

const LINUX: &[Clause] = &[
    Clause {
        clause: "config-linux.md#default-devices",
        name: "nodes",
        who: All,
        not: &[],
        change: |_| {},
        script: "for n in null zero full random urandom tty; do test -c /dev/$n && echo -n $n' '; done; echo x >/dev/null; head -c 2 /dev/zero | wc -c",
        then: Says("null zero full random urandom tty 2"),
    },
    Clause {
        clause: "runtime-linux.md#dev-symbolic-links",
        name: "links",
        who: All,
        not: &[],
        change: |_| {},
        script: "cd /dev; for l in fd stdin stdout stderr ptmx; do readlink $l; done",
        then: Says("/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx"),
    },
    Clause {
        clause: "config-linux.md#devices",
        name: "a character device",
        who: All,
        not: &["crun"],
        change: |c| {
            c["linux"]["devices"] =
                json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}])
        },
        script: "stat -c %t:%T /dev/fuse",
        then: Says("a:e5"),
    },
    Clause {
        clause: "config-linux.md#devices",
        name: "fileMode, uid, gid",
        who: Root(NODE),
        not: &[],
        change: |c| c["linux"]["devices"] = json!([{"path": "/dev/own", "type": "c", "major": 1, "minor": 3, "fileMode": 416, "uid": 5, "gid": 6}]),
        script: "stat -c '%t:%T %a %u:%g' /dev/own",
        then: Says("1:3 640 5:6"),
    },
    Clause {
        clause: "config-linux.md#devices",
        name: "a fifo",
        who: Root("without rights a bind mount is tried by the others"),
        not: &["runc"],
        change: |c| {
            c["linux"]["devices"] = json!([{"path": "/dev/pipe", "type": "p", "fileMode": 384}])
        },
        script: "stat -c '%F %a' /dev/pipe",
        then: Says("fifo 600"),
    },
    Clause {
        clause: "config-linux.md#devices",
        name: "another device than the host's cannot be bound",
        who: User("root makes its own nodes"),
        not: &["runc", "crun"],
        change: |c| {
            c["linux"]["devices"] =
                json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 200}])
        },
        script: "true",
        then: Fails("linux.devices[0]"),
    },
    Clause {
        clause: "config-linux.md#sysctl",
        name: "sysctl",
        who: All,
        not: &[],
        change: |c| {
            c["linux"]["sysctl"] =
                json!({"net.ipv4.ip_forward": "1", "net.ipv4.ping_group_range": "0 0"})
        },
        script: "cat /proc/sys/net/ipv4/ip_forward",
        then: Says("1"),
    },
    Clause {
        clause: "config-linux.md#sysctl",
        name: "a setting of the host's is refused",
        who: All,
        not: &[],
        change: |c| c["linux"]["sysctl"] = json!({"kernel.panic": "1"}),
        script: "true",
        then: Fails("linux.sysctl[kernel.panic]"),
    },
    Clause {
        clause: "config-linux.md#masked-paths",
        name: "files and directories",
        who: All,
        not: &[],
        change: |c| c["linux"]["maskedPaths"] = json!(["/proc/meminfo", "/etc", "/no/such"]),
        script: "wc -c </proc/meminfo; ls /etc | wc -l",
        then: Says("0\n0"),
    },
    Clause {
        clause: "config-linux.md#readonly-paths",
        name: "readonlyPaths",
        who: All,
        not: &[],
        change: |c| c["linux"]["readonlyPaths"] = json!(["/etc", "/no/such"]),
        script: "touch /etc/x 2>&1 | grep -c Read-only; touch /x && echo rest",
        then: Says("1\nrest"),
    },
    Clause {
        clause: "config-linux.md#rootfs-mount-propagation",
        name: "private",
        who: All,
        not: &[],
        change: |c| c["linux"]["rootfsPropagation"] = json!("private"),
        script: "grep ' / / \\| / ' /proc/self/mountinfo | head -n 1 | grep -cE 'shared:|master:'; true",
        then: Says("0"),
    },
    Clause {
        clause: "config-linux.md#rootfs-mount-propagation",
        name: "shared",
        who: All,
        not: &["runc", "crun"],
        change: |c| c["linux"]["rootfsPropagation"] = json!("shared"),
        script: "awk '$5 == \"/\"' /proc/self/mountinfo | grep -c shared:",
        then: Says("1"),
    },
    Clause {
        clause: "config-linux.md#personality",
        name: "LINUX32",
        who: All,
        not: &["runc"],
        change: |c| c["linux"]["personality"] = json!({"domain": "LINUX32"}),
        script: "uname -m",
        then: Says("i686"),
    },
    Clause {
        clause: "config-linux.md#seccomp",
        name: "an error number for a call",
        who: All,
        not: &[],
        change: |c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}),
        script: "mkdir /x 2>&1 | grep -c 'No space'; grep ^Seccomp: /proc/self/status | cut -f2",
        then: Says("1\n2"),
    },
    Clause {
        clause: "config-linux.md#seccomp",
        name: "arguments",
        who: All,
        not: &[],
        change: |c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]}]}),
        script: "kill -12 999 2>&1 | grep -c 'No such process'; kill -10 999 2>&1 | grep -c 'not permitted'",
        then: Says("1\n1"),
    },
    Clause {
        clause: "config-linux.md#seccomp",
        name: "KILL_PROCESS",
        who: All,
        not: &[],
        change: |c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]}),
        script: "mkdir /x; echo $?",
        then: Says("159"),
    },
    Clause {
        clause: "config-linux.md#seccomp",
        name: "flags, LOG and TRACE",
        who: All,
        not: &["runc"],
        change: |c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [{"names": ["sync"], "action": "SCMP_ACT_LOG"}, {"names": ["mkdir"], "action": "SCMP_ACT_TRACE", "errnoRet": 5}]}),
        script: "mkdir /x 2>&1 | grep -c 'not implemented'",
        then: Says("1"),
    },
    Clause {
        clause: "config-linux.md#seccomp",
        name: "without noNewPrivileges too",
        who: All,
        not: &[],
        change: |c| {
            c["process"]["noNewPrivileges"] = json!(false);
            c["process"]["user"] = json!({"uid": 5, "gid": 6});
            c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
        },
        script: "grep -E '^Seccomp:' /proc/self/status | cut -f2; grep CapEff /proc/self/status | cut -f2",
        then: Says("2\n0000000000000000"),
    },
    Clause {
        clause: "config-linux.md#personality",
        name: "flags are refused: the specification defines none",
        who: All,
        not: &["runc", "crun"],
        change: |c| {
            c["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]})
        },
        script: "true",
        then: Fails("linux.personality.flags: none is supported"),
    },
    Clause {
        clause: "config-linux.md#mount-label",
        name: "mountLabel is refused",
        who: All,
        not: &["runc", "crun"],
        change: |c| c["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0"),
        script: "true",
        then: Fails("linux.mountLabel: labels of SELinux are not written"),
    },
    Clause {
        clause: "config-linux.md#intelrdt",
        name: "intelRdt is refused",
        who: All,
        not: &["runc", "crun"],
        change: |c| c["linux"]["intelRdt"] = json!({"closID": "x"}),
        script: "true",
        then: Fails("linux.intelRdt: is not supported"),
    },
];

const RESOURCES: &[Clause] = &[
    Clause {
        clause: "config-linux.md#unified",
        name: "unified",
        who: All,
        not: &["crun"],
        change: |c| c["linux"]["resources"] = json!({"unified": {"cgroup.max.depth": "5"}}),
        script: "mkdir -p /cg; mount -t cgroup2 none /cg 2>/dev/null; cat /sys/fs/cgroup/cgroup.max.depth",
        then: Says("5"),
    },
    Clause {
        clause: "config-linux.md#huge-page-limits",
        name: "hugepageLimits",
        who: All,
        not: &["crun"],
        change: |c| {
            c["linux"]["resources"] =
                json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]})
        },
        script: "cat /sys/fs/cgroup/hugetlb.2MB.max",
        then: Says("4194304"),
    },
    Clause {
        clause: "config-linux.md#control-groups",
        name: "a controller that is not there is no silent loss",
        who: All,
        not: &["crun"],
        change: |c| c["linux"]["resources"] = json!({"rdma": {"none": {"hcaHandles": 3}}}),
        script: "true",
        then: Fails("linux.resources.rdma"),
    },
    Clause {
        clause: "config-linux.md#allowed-device-list",
        name: "devices",
        who: Root(
            "the kernel takes such programs from root only, and who is not root can open no node that was not bound",
        ),
        not: &["crun"],
        change: |c| {
            c["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]});
            for set in ["bounding", "effective", "permitted"] {
                push(&mut c["process"]["capabilities"][set], json!("CAP_MKNOD"));
            }
        },
        script: "mknod /k c 10 229; mknod /m c 1 1; head -c 0 /k && echo read; head -c 1 /m 2>&1 | grep -c 'not permitted'; echo x >/dev/null && echo null",
        then: Says("read\n1\nnull"),
    },
];

const ALL_CLAUSES: &[&[Clause]] = &[
    PROCESS,
    ROOT_AND_NAMES,
    MOUNTS,
    NAMESPACES,
    LINUX,
    RESOURCES,
];

/// Runs every clause that holds for this user and this runtime; all that are wrong are told together.
fn check(clauses: &[Clause]) {
    needs!(Need::Program("busybox"));
    if !is_root() {
        needs!(Need::Ranges);
    }
    let mut wrong = Vec::new();
    for (at, clause) in clauses.iter().enumerate() {
        let holds = match clause.who {
            All => true,
            Root(_) => is_root(),
            User(_) => !is_root(),
        };
        if !holds || clause.not.contains(&runtime().as_str()) {
            continue;
        }
        let mut bundle = Bundle::new();
        let data = bundle.path("b/data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("file"), "data\n").unwrap();
        std::fs::create_dir(bundle.path("b/rootfs/target")).unwrap();
        std::os::unix::fs::symlink("/target", bundle.path("b/rootfs/link")).unwrap();
        if !clause.script.is_empty() {
            bundle.script(clause.script);
        }
        if std::ptr::eq(clauses, RESOURCES) {
            mount(
                &mut bundle.config,
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}),
            );
        }
        (clause.change)(&mut bundle.config);
        let answer = bundle.run(&format!("clause-{at}"));
        let right = match clause.then {
            Says(text) => answer.code() == 0 && answer.stdout() == text,
            Ends(code) => answer.code() == code,
            Fails(reason) => {
                answer.code() != 0
                    && (!ours() || (answer.code() == 1 && answer.stderr().contains(reason)))
            }
        };
        let left = bundle.left();
        if !right || !left.is_empty() {
            let shown = answer.shown();
            wrong.push(format!(
                "{}: {}: left {left:?}, {shown}",
                clause.clause, clause.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn the_process_is_as_the_specification_says() {
    check(PROCESS);
}

#[test]
fn root_and_names_are_as_the_specification_says() {
    check(ROOT_AND_NAMES);
}

#[test]
fn mounts_are_as_the_specification_says() {
    check(MOUNTS);
}

#[test]
fn namespaces_are_as_the_specification_says() {
    check(NAMESPACES);
}

#[test]
fn the_linux_part_is_as_the_specification_says() {
    check(LINUX);
}

#[test]
fn resources_are_as_the_specification_says() {
    needs!(Need::Controller("hugetlb"));
    check(RESOURCES);
}

/// The rows of the page, for each clause one.
fn page() -> String {
    let mut text = String::new();
    for clause in ALL_CLAUSES.iter().copied().flatten() {
        let (rootless, root) = match clause.who {
            All => ("yes".to_owned(), "yes".to_owned()),
            Root(why) => (format!("no: {why}"), "yes".to_owned()),
            User(why) => ("yes".to_owned(), format!("no: {why}")),
        };
        text += &format!(
            "| {} | {} | {rootless} | {root} |\n",
            clause.clause, clause.name
        );
    }
    text
}

#[test]
fn the_conformance_page_has_every_clause() {
    let path = crate::support::source().join("docs/oci-conformance.md");
    let text = std::fs::read_to_string(path).unwrap();
    let missing: Vec<String> = page()
        .lines()
        .filter(|line| !text.contains(*line))
        .map(str::to_owned)
        .collect();
    assert!(
        missing.is_empty(),
        "docs/oci-conformance.md has no such rows:\n{}",
        missing.join("\n")
    );
}
