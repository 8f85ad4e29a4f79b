//! The clauses of the OCI runtime specification, as a table: what is changed in a plain configuration, what a program inside
//! sees of it then. docs/oci-conformance.md is made of the same table.
//!
//! Runs as an ordinary user, and by `scripts/test-oci` as root and against other runtimes (`RL_OCI_RUNTIME=crun`).

#![allow(
    clippy::semicolon_if_nothing_returned,
    reason = "a change is one expression in a row of a table"
)]

use serde_json::{Value, json};

use crate::support::bundle::{Bundle, is_root, ours, runtime};
use crate::support::host::Need;

/// What must come of it.
enum Then {
    /// This on standard output, and the code 0.
    Says(&'static str),
    /// This exit code.
    Ends(i32),
    /// An error of the runtime's that has these words (where it is ours).
    Fails(&'static str),
}
use Then::{Ends, Fails, Says};

/// Who can.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Everybody.
    All,
    /// Root only; why nobody else.
    Root(&'static str),
    /// Everybody but root; why not root.
    User(&'static str),
}
use Who::{All, Root, User};

struct Clause {
    /// Where the specification says it.
    clause: &'static str,
    name: &'static str,
    who: Who,
    /// Runtimes of Debian 12 that do not do it, or do it differently: runc 1.1.5, crun 1.8.1.
    not: &'static [&'static str],
    change: fn(&mut Value),
    script: &'static str,
    then: Then,
}

const NODE: &str = "the kernel lets nobody make nodes in a user namespace: the host's is bound";

fn push(list: &mut Value, item: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(item);
}

fn mount(config: &mut Value, mount: Value) {
    push(&mut config["mounts"], mount);
}

fn without(config: &mut Value, kind: &str) {
    let all = config["linux"]["namespaces"].as_array_mut().unwrap();
    all.retain(|one| one["type"] != kind);
}

fn caps(config: &mut Value, names: &Value) {
    for set in [
        "bounding",
        "effective",
        "permitted",
        "inheritable",
        "ambient",
    ] {
        config["process"]["capabilities"][set] = names.clone();
    }
}

const PROCESS: &[Clause] = &[
    Clause {
        clause: "config.md#process",
        name: "args and the exit code",
        who: All,
        not: &[],
        change: |_| {},
        script: "exit 7",
        then: Ends(7),
    },
    Clause {
        clause: "config.md#process",
        name: "env is what the program gets",
        who: All,
        not: &[],
        change: |c| c["process"]["env"] = json!(["PATH=/bin", "A=1 2", "B="]),
        script: "env | grep -E '^(A|B|container|HOSTNAME)' | sort",
        then: Says("A=1 2\nB="),
    },
    Clause {
        clause: "config.md#process",
        name: "cwd",
        who: All,
        not: &[],
        change: |c| c["process"]["cwd"] = json!("/tmp"),
        script: "pwd",
        then: Says("/tmp"),
    },
    Clause {
        clause: "config.md#process",
        name: "cwd that is not there is made",
        who: All,
        not: &[],
        change: |c| c["process"]["cwd"] = json!("/new/dir"),
        script: "pwd",
        then: Says("/new/dir"),
    },
    Clause {
        clause: "config.md#process",
        name: "a program that is not there",
        who: All,
        not: &[],
        change: |c| c["process"]["args"] = json!(["nosuch"]),
        script: "",
        then: Fails("executable file not found in $PATH"),
    },
    Clause {
        clause: "config.md#process",
        name: "a program that cannot be executed",
        who: All,
        not: &[],
        change: |c| c["process"]["args"] = json!(["/etc/passwd"]),
        script: "",
        then: Fails("permission denied"),
    },
    Clause {
        clause: "config.md#process",
        name: "a program by its path",
        who: All,
        not: &[],
        change: |c| c["process"]["args"] = json!(["/bin/echo", "x"]),
        script: "",
        then: Says("x"),
    },
    Clause {
        clause: "config.md#user",
        name: "uid, gid and additionalGids",
        who: All,
        not: &["runc"],
        change: |c| c["process"]["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [7, 8]}),
        script: "id -u; id -g; grep ^Groups /proc/self/status | tr -s '\\t ' ' '",
        then: Says("5\n6\nGroups: 7 8"),
    },
    Clause {
        clause: "config.md#user",
        name: "umask",
        who: All,
        not: &[],
        change: |c| c["process"]["user"]["umask"] = json!(0o077),
        script: "umask",
        then: Says("0077"),
    },
    Clause {
        clause: "config.md#user",
        name: "HOME is the user's where it is not given",
        who: All,
        not: &[],
        change: |c| c["process"]["user"] = json!({"uid": 5, "gid": 6}),
        script: "echo $HOME",
        then: Says("/home/app"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "capabilities of root",
        who: All,
        not: &[],
        change: |_| {},
        script: "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2",
        then: Says("0000000020000420\n0000000020000420\n0000000020000420"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "ambient capabilities of another user",
        who: All,
        not: &[],
        change: |c| {
            c["process"]["user"] = json!({"uid": 5, "gid": 6});
            caps(c, &json!(["CAP_NET_RAW"]));
        },
        script: "grep Cap /proc/self/status | cut -f2 | sort | uniq -c | tr -s ' '",
        then: Says("5 0000000000002000"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "no capabilities without the object",
        who: All,
        not: &[],
        change: |c| {
            c["process"].as_object_mut().unwrap().remove("capabilities");
        },
        script: "grep -E 'Cap(Prm|Bnd)' /proc/self/status | cut -f2",
        then: Says("0000000000000000\n0000000000000000"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "a capability that does not exist is warned of",
        who: All,
        not: &[],
        change: |c| {
            push(
                &mut c["process"]["capabilities"]["bounding"],
                json!("CAP_NOSUCH"),
            )
        },
        script: "echo on",
        then: Says("on"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "noNewPrivileges",
        who: All,
        not: &[],
        change: |_| {},
        script: "grep NoNewPrivs /proc/self/status | cut -f2",
        then: Says("1"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "noNewPrivileges off",
        who: All,
        not: &[],
        change: |c| c["process"]["noNewPrivileges"] = json!(false),
        script: "grep NoNewPrivs /proc/self/status | cut -f2",
        then: Says("0"),
    },
    Clause {
        clause: "config.md#posix-process",
        name: "rlimits",
        who: All,
        not: &[],
        change: |c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
        script: "ulimit -Sn; ulimit -Hn; ulimit -c",
        then: Says("50\n60\n0"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "oomScoreAdj",
        who: All,
        not: &[],
        change: |c| c["process"]["oomScoreAdj"] = json!(500),
        script: "cat /proc/self/oom_score_adj",
        then: Says("500"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "scheduler",
        who: All,
        not: &["runc", "crun"],
        change: |c| c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7}),
        script: "cut -d' ' -f19,41 /proc/self/stat",
        then: Says("7 3"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "ioPriority",
        who: All,
        not: &["runc", "crun"],
        change: |c| c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6}),
        script: "ionice",
        then: Says("best-effort: prio 6"),
    },
];

const ROOT_AND_NAMES: &[Clause] = &[
    Clause {
        clause: "config.md#root",
        name: "the root can be written to",
        who: All,
        not: &[],
        change: |_| {},
        script: "echo x >/file; cat /file",
        then: Says("x"),
    },
    Clause {
        clause: "config.md#root",
        name: "readonly",
        who: All,
        not: &[],
        change: |c| c["root"]["readonly"] = json!(true),
        script: "touch /file 2>&1 | grep -c Read-only",
        then: Says("1"),
    },
    Clause {
        clause: "config.md#root",
        name: "nothing of the host's root is left",
        who: All,
        not: &[],
        change: |_| {},
        script: "cut -d' ' -f5 /proc/self/mountinfo | grep -vE '^/($|proc|dev|sys)'; echo none",
        then: Says("none"),
    },
    Clause {
        clause: "config.md#hostname",
        name: "hostname",
        who: All,
        not: &[],
        change: |_| {},
        script: "hostname",
        then: Says("clause"),
    },
    Clause {
        clause: "config.md#domainname",
        name: "domainname",
        who: All,
        not: &["runc"],
        change: |c| c["domainname"] = json!("dom.example"),
        script: "cat /proc/sys/kernel/domainname",
        then: Says("dom.example"),
    },
    Clause {
        clause: "config.md",
        name: "unknown fields are passed over",
        who: All,
        not: &[],
        change: |c| {
            c["nosuch"] = json!({"a": 1});
            c["process"]["nosuch"] = json!(1);
        },
        script: "echo on",
        then: Says("on"),
    },
];

const MOUNTS: &[Clause] = &[
    Clause {
        clause: "config.md#mounts",
        name: "tmpfs with data",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "tmpfs", "source": "mem", "options": ["size=1m", "mode=700"]}),
            )
        },
        script: "stat -c %a /m; dd if=/dev/zero of=/m/x bs=1k count=2000 2>&1 | grep -c 'No space'; grep -c '^mem /m' /proc/mounts",
        then: Says("700\n1\n1"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "nosuid, nodev, noexec, ro",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "noexec", "ro"]}),
            )
        },
        script: "grep ' /m ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1-4",
        then: Says("ro,nosuid,nodev,noexec"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "noatime, nodiratime, strictatime",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "tmpfs", "source": "t", "options": ["noatime", "nodiratime"]}),
            );
            mount(
                c,
                json!({"destination": "/n", "type": "tmpfs", "source": "t", "options": ["strictatime"]}),
            );
        },
        script: "grep ' /m ' /proc/mounts | grep -c noatime,nodiratime; grep ' /n ' /proc/mounts | grep -cE 'relatime|noatime'; true",
        then: Says("1\n0"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "nosymfollow",
        who: All,
        not: &["runc", "crun"],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "tmpfs", "source": "t", "options": ["nosymfollow"]}),
            )
        },
        script: "ln -s /etc/passwd /m/l; cat /m/l 2>/dev/null || echo refused",
        then: Says("refused"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "bind of a directory",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "none", "source": "data", "options": ["bind"]}),
            )
        },
        script: "cat /m/file; echo new >/m/new; cat /m/new",
        then: Says("data\nnew"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "bind of a file, whose target is made",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/a/b/c", "type": "bind", "source": "data/file", "options": ["bind", "ro"]}),
            )
        },
        script: "cat /a/b/c; echo x 2>/dev/null >/a/b/c || echo refused",
        then: Says("data\nrefused"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "a bind mount is not read-only below without rro",
        who: All,
        not: &["runc", "crun"],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "none", "source": "data", "options": ["rbind"]}),
            );
            mount(
                c,
                json!({"destination": "/m/sub", "type": "tmpfs", "source": "t"}),
            );
            mount(
                c,
                json!({"destination": "/n", "type": "none", "source": "/proc", "options": ["rbind", "ro"]}),
            );
            mount(
                c,
                json!({"destination": "/m", "options": ["remount", "bind", "ro"], "type": "none", "source": "data"}),
            );
        },
        script: "touch /m/sub/x && echo below; touch /m/x 2>/dev/null || echo above",
        then: Says("below\nabove"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "rro, rnosuid, rnodev, rnoexec reach what is below",
        who: All,
        not: &["crun"],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "none", "source": "/dev", "options": ["rbind", "rro", "rnosuid", "rnodev", "rnoexec"]}),
            )
        },
        script: "grep ' /m' /proc/mounts | cut -d' ' -f4 | grep -vE '^ro,nosuid,nodev,noexec' | wc -l",
        then: Says("0"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "rnosymfollow",
        who: All,
        not: &["crun"],
        change: |c| {
            mount(
                c,
                json!({"destination": "/n", "type": "none", "source": "data", "options": ["rbind", "rnosymfollow"]}),
            )
        },
        script: "ln -s file /n/l; cat /n/l 2>/dev/null || echo refused",
        then: Says("refused"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "rnoatime, rnodiratime",
        who: Root(
            "the kernel locks the access times of the host's mounts in a user namespace: mount_namespaces(7)",
        ),
        not: &["crun"],
        change: |c| {
            mount(
                c,
                json!({"destination": "/n", "type": "none", "source": "data", "options": ["rbind", "rnoatime", "rnodiratime"]}),
            )
        },
        script: "grep ' /n ' /proc/mounts | cut -d' ' -f4 | grep -c noatime,nodiratime",
        then: Says("1"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "later mounts lie over earlier ones",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "tmpfs", "source": "one"}),
            );
            mount(
                c,
                json!({"destination": "/m/deep", "type": "tmpfs", "source": "two"}),
            );
            mount(
                c,
                json!({"destination": "/m", "type": "tmpfs", "source": "three"}),
            );
        },
        script: "ls /m | wc -l; grep -c ' /m' /proc/mounts",
        then: Says("0\n3"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "a link in the root does not lead out",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/link/x", "type": "tmpfs", "source": "t"}),
            )
        },
        script: "grep -c ' /target/x ' /proc/mounts; ls -d /target/x",
        then: Says("1\n/target/x"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "propagation: shared and slave",
        who: All,
        not: &["crun"],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "tmpfs", "source": "t", "options": ["shared"]}),
            );
            mount(
                c,
                json!({"destination": "/n", "type": "tmpfs", "source": "t", "options": ["rprivate"]}),
            );
        },
        script: "grep ' /m ' /proc/self/mountinfo | grep -c shared:; grep ' /n ' /proc/self/mountinfo | grep -c shared:; true",
        then: Says("1\n0"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "propagation: unbindable",
        who: All,
        not: &["crun"],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "tmpfs", "source": "t", "options": ["unbindable"]}),
            )
        },
        script: "grep ' /m ' /proc/self/mountinfo | grep -c unbindable",
        then: Says("1"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "tmpcopyup",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/etc", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]}),
            )
        },
        script: "grep -c ^root /etc/passwd; grep -c ' /etc tmpfs' /proc/mounts",
        then: Says("1\n1"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "mqueue, devpts, sysfs",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}),
            );
            mount(
                c,
                json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}),
            );
        },
        script: "grep -E '^[^ ]+ /(dev/(mqueue|pts)|sys) ' /proc/mounts | cut -d' ' -f3 | sort",
        then: Says("devpts\nmqueue\nsysfs"),
    },
    Clause {
        clause: "config-linux.md#control-groups",
        name: "cgroup",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}),
            )
        },
        script: "ls /sys/fs/cgroup/cgroup.procs; tail -n 1 /proc/self/cgroup",
        then: Says("/sys/fs/cgroup/cgroup.procs\n0::/"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "a source that is not there",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "none", "source": "/no/such", "options": ["bind"]}),
            )
        },
        script: "true",
        then: Fails("mounts[3]"),
    },
    Clause {
        clause: "config.md#mounts",
        name: "a file system that does not exist",
        who: All,
        not: &[],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "nosuch", "source": "x"}),
            )
        },
        script: "true",
        then: Fails("mounts[3]"),
    },
    Clause {
        clause: "config.md#posix-platform-mounts",
        name: "uidMappings of a mount",
        who: Root("the kernel wants rights over the file system: mount_setattr(2)"),
        not: &["runc", "crun"],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "none", "source": "data", "options": ["bind"],
            "uidMappings": [{"containerID": 0, "hostID": 4000, "size": 10}], "gidMappings": [{"containerID": 0, "hostID": 5000, "size": 10}]}),
            )
        },
        script: "stat -c %u:%g /m/file",
        then: Says("4000:5000"),
    },
];

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
