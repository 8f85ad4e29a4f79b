//! What a clause of the table is, and the clauses of processes, roots and mounts; `oci` has the rest and runs them.

#![allow(
    clippy::semicolon_if_nothing_returned,
    reason = "a change is one expression in a row of a table"
)]

use serde_json::{Value, json};

/// What must come of it.
pub enum Then {
    /// This on standard output, and the code 0.
    Says(&'static str),
    /// This exit code.
    Ends(i32),
    /// An error of the runtime's that has these words (where it is ours).
    Fails(&'static str),
}
pub use Then::{Ends, Fails, Says};

/// Who can.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Everybody.
    All,
    /// Root only; why nobody else.
    Root(&'static str),
    /// Everybody but root; why not root.
    User(&'static str),
}
pub use Who::{All, Root, User};

pub struct Clause {
    /// Where the specification says it.
    pub clause: &'static str,
    pub name: &'static str,
    pub who: Who,
    /// Runtimes of Debian 12 that do not do it, or do it differently: runc 1.1.5, crun 1.8.1.
    pub not: &'static [&'static str],
    pub change: fn(&mut Value),
    pub script: &'static str,
    pub then: Then,
}

pub const NODE: &str = "the kernel lets nobody make nodes in a user namespace: the host's is bound";

pub fn push(list: &mut Value, item: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(item);
}

pub fn mount(config: &mut Value, mount: Value) {
    push(&mut config["mounts"], mount);
}

pub fn without(config: &mut Value, kind: &str) {
    let all = config["linux"]["namespaces"].as_array_mut().unwrap();
    all.retain(|one| one["type"] != kind);
}

pub fn caps(config: &mut Value, names: &Value) {
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

pub const PROCESS: &[Clause] = &[
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
        change: |c| c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 19}),
        script: "cut -d' ' -f19,41 /proc/self/stat",
        then: Says("19 3"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "scheduler: SCHED_FIFO",
        who: Root("the kernel wants CAP_SYS_NICE of the host: sched(7)"),
        not: &["runc", "crun"],
        change: |c| c["process"]["scheduler"] = json!({"policy": "SCHED_FIFO", "priority": 5}),
        script: "cut -d' ' -f40,41 /proc/self/stat",
        then: Says("5 1"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "scheduler: SCHED_DEADLINE",
        who: Root("the kernel wants CAP_SYS_NICE of the host: sched(7)"),
        not: &["runc", "crun"],
        change: |c| {
            c["process"]["scheduler"] = json!({"policy": "SCHED_DEADLINE", "runtime": 10_000_000, "deadline": 30_000_000, "period": 30_000_000});
            c["process"]["args"] = json!(["cut", "-d ", "-f41", "/proc/self/stat"]); // such a one may not fork
        },
        script: "",
        then: Says("6"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "apparmorProfile is refused where the kernel does not enforce it",
        who: All,
        not: &["runc", "crun"],
        change: |c| c["process"]["apparmorProfile"] = json!("x"),
        script: "true",
        then: Fails("process.apparmorProfile: this kernel does not enforce such"),
    },
    Clause {
        clause: "config.md#linux-process",
        name: "selinuxLabel is refused",
        who: All,
        not: &["runc", "crun"],
        change: |c| c["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0"),
        script: "true",
        then: Fails("process.selinuxLabel: labels of SELinux are not written"),
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

pub const ROOT_AND_NAMES: &[Clause] = &[
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

pub const MOUNTS: &[Clause] = &[
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
    Clause {
        clause: "config.md#posix-platform-mounts",
        name: "ridmap",
        who: Root("the kernel wants rights over the file system: mount_setattr(2)"),
        not: &["runc", "crun"],
        change: |c| {
            mount(
                c,
                json!({"destination": "/m", "type": "none", "source": "data", "options": ["rbind", "ridmap"],
            "uidMappings": [{"containerID": 0, "hostID": 4000, "size": 10}], "gidMappings": [{"containerID": 0, "hostID": 5000, "size": 10}]}),
            )
        },
        script: "stat -c %u:%g /m/file",
        then: Says("4000:5000"),
    },
];
