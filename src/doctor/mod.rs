//! What this machine lets an ordinary user do, what `rl` makes of it, and who can change it.
//!
//! Returns data; printing is the command line's. What can be tried is tried, in child processes
//! ([`mod@probe`]), for a setting says less than an attempt. Never asks the network.

mod again;
mod cgroups;
mod files;
mod ids;
mod kernel;
mod modes;
mod network;
mod pages;
mod parse;
mod probe;
mod session;

use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use again::look_again;
pub use kernel::apparmor_profile;
pub use modes::Mode;
#[cfg(test)]
pub use modes::RunnerUp;
pub use pages::{explain, near_codes};
pub use probe::{PROBE, probe};

use crate::idmap::{Plan, changed};
use crate::paths::{Owners, Store};
use parse::{Family, MountLine};

/// Everything that was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which they matter.
    pub axes: Vec<Axis>,
    /// What follows from it: how a container is run here. Empty where none can be.
    pub modes: Vec<Mode>,
}

impl Report {
    /// All checks of all axes.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.axes.iter().flat_map(|axis| &axis.checks)
    }

    /// The worst of all: whether containers run here at all.
    #[must_use]
    pub fn status(&self) -> Status {
        self.checks()
            .map(|check| check.status)
            .max()
            .unwrap_or(Status::Works)
    }
}

/// One side of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Axis {
    /// `kernel`, `namespaces`, `ids`, `root file system`, `cgroup`, `network`, `session`.
    pub name: String,
    /// Never empty.
    pub checks: Vec<Check>,
}

/// How well something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// All of it.
    Works,
    /// `rl` runs with less.
    Less,
    /// No container runs.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The axis it belongs to.
    pub axis: String,
    /// What `rl explain` knows it by.
    pub code: String,
    /// A few words.
    pub title: String,
    /// How well it goes.
    pub status: Status,
    /// What was seen.
    pub found: String,
    /// Why it is not [`Status::Works`].
    pub cause: Option<String>,
    /// What helps without root; one line each.
    pub you_can: Vec<String>,
    /// What an administrator can do; commands, one line each.
    pub admin_can: Vec<String>,
    /// What `rl` does as it is.
    pub rl_does: String,
}

impl Check {
    /// Something that works: what it is called, what was seen and what `rl` does with it.
    fn works(axis: &str, code: &str, title: &str, found: impl Into<String>, rl_does: &str) -> Self {
        Self {
            axis: axis.to_owned(),
            code: code.to_owned(),
            title: title.to_owned(),
            status: Status::Works,
            found: found.into(),
            cause: None,
            you_can: Vec::new(),
            admin_can: Vec::new(),
            rl_does: rl_does.to_owned(),
        }
    }

    /// The same, spoilt: how much, and why. A remedy has to follow.
    fn because(mut self, status: Status, cause: impl Into<String>, rl_does: &str) -> Self {
        self.status = status;
        self.cause = Some(cause.into());
        rl_does.clone_into(&mut self.rl_does);
        self
    }

    fn you(mut self, line: impl Into<String>) -> Self {
        self.you_can.push(line.into());
        self
    }

    fn admin(mut self, line: impl Into<String>) -> Self {
        self.admin_can.push(line.into());
        self
    }
}

/// What several checks look at, read once.
#[derive(Debug)]
struct Host {
    uid: u32,
    /// The user's name, or the number where there is none.
    user: String,
    family: Family,
    distribution: String,
    /// `/proc/self/status`.
    status: String,
    mounts: Vec<MountLine>,
    /// The store's directory, or the nearest above it that exists.
    store: PathBuf,
    /// What was found out of its file system.
    owners: Option<Owners>,
    /// The id map that its files were made with.
    ids: Option<Plan>,
    /// What runs `rl` in a box already: `docker`, `podman`, `kubernetes`.
    inside: Option<&'static str>,
}

impl Host {
    fn read(store: &Store) -> Self {
        let uid = rustix::process::getuid().as_raw();
        let release = text("/etc/os-release");
        let (family, distribution) = parse::os_release(&release);
        Self {
            uid,
            user: crate::idmap::ranges::user_names(uid)
                .into_iter()
                .next()
                .unwrap_or_else(|| uid.to_string()),
            family,
            distribution,
            status: text("/proc/self/status"),
            mounts: parse::mountinfo(&text("/proc/self/mountinfo")),
            store: nearest(store.root()),
            owners: store.owners(),
            ids: changed::noted(store),
            inside: inside(),
        }
    }

    /// A field of `/proc/self/status`.
    fn status_field(&self, name: &str) -> Option<&str> {
        parse::status_field(&self.status, name)
    }

    /// How an administrator installs what has `tool`.
    fn install(&self, tool: parse::Tool) -> String {
        self.family.install(tool)
    }
}

/// A small file of the system's; empty when it is not there.
fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `path`, or the first directory above it that exists, without links in it.
fn nearest(path: &Path) -> PathBuf {
    let found = path
        .ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"));
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    // A name to look up among the mounts; where it cannot be had, the one given serves.
    crate::sys::fs::open_trusted(found, flags)
        .ok()
        .and_then(|fd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok())
        .unwrap_or_else(|| found.to_owned())
}

fn inside() -> Option<&'static str> {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Some("kubernetes")
    } else if Path::new("/.dockerenv").exists() {
        Some("docker")
    } else if Path::new("/run/.containerenv").exists() {
        Some("podman")
    } else {
        None
    }
}

/// Looks at this machine, for a user whose images and containers are in `store`. Takes some tens of
/// milliseconds and leaves nothing behind.
#[must_use]
pub fn run(store: &Store) -> Report {
    let host = Host::read(store);
    // All children first: they run while the rest is looked at.
    let namespaces = probe::start(&["namespaces"]);
    let proc = probe::start(&["proc"]);
    let sys = probe::start(&["sys"]);
    let tools = network::start_tools();
    let ids = ids::start();
    let scratch = files::Scratch::make(&host.store);
    let overlay = scratch.as_ref().ok().map(files::Scratch::start_overlay);

    let axes = vec![
        ("kernel", kernel::kernel(&host)),
        ("namespaces", {
            let mut checks = kernel::namespaces(&host, namespaces.finish(), &proc.finish());
            checks.extend(kernel::fresh_sys(&host, &sys.finish()));
            checks
        }),
        ("ids", ids::checks(&host, ids)),
        ("root file system", files::checks(&host, &scratch, overlay)),
        ("cgroup", cgroups::checks(&host)),
        ("network", network::checks(&host, tools)),
        ("session", session::checks(&host)),
    ];
    let axes: Vec<Axis> = axes
        .into_iter()
        .map(|(name, checks)| Axis {
            name: name.to_owned(),
            checks,
        })
        .collect();
    Report {
        modes: modes::modes(&axes),
        axes,
    }
}

/// One axis alone, by its name; an unknown one has no checks.
fn axis(name: &str, store: &Store) -> Vec<Check> {
    let host = Host::read(store);
    match name {
        "kernel" => kernel::kernel(&host),
        "namespaces" => {
            let (tried, proc) = (probe::start(&["namespaces"]), probe::start(&["proc"]));
            kernel::namespaces(&host, tried.finish(), &proc.finish())
        }
        "ids" => ids::checks(&host, ids::start()),
        "root file system" => {
            let scratch = files::Scratch::make(&host.store);
            let overlay = scratch.as_ref().ok().map(files::Scratch::start_overlay);
            files::checks(&host, &scratch, overlay)
        }
        "cgroup" => cgroups::checks(&host),
        "network" => network::checks(&host, network::start_tools()),
        "session" => session::checks(&host),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every report must hold to, whatever the machine.
    fn sound(check: &Check) {
        assert!(explain(&check.code).is_some(), "no page for {}", check.code);
        assert!(
            !check.found.is_empty() && !check.rl_does.is_empty(),
            "{check:?}"
        );
        if check.status == Status::Works {
            assert_eq!(check.cause, None, "{check:?}");
        } else {
            assert!(
                check.cause.as_ref().is_some_and(|cause| !cause.is_empty()),
                "{check:?}"
            );
            assert!(
                !check.you_can.is_empty() || !check.admin_can.is_empty(),
                "{check:?}"
            );
        }
    }

    fn host(family: Family) -> Host {
        Host {
            uid: 1000,
            user: "alice".to_owned(),
            family,
            distribution: "Some Linux 1".to_owned(),
            status: "NoNewPrivs:\t1\nSeccomp:\t2\n".to_owned(),
            mounts: parse::mountinfo(
                "1 0 0:1 / / rw - nfs4 server:/ rw\n2 1 0:2 / /proc rw - proc proc rw\n3 2 0:3 / /proc/sys ro - proc proc rw\n\
                 4 1 0:4 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            ),
            store: PathBuf::from("/"),
            owners: None,
            ids: None,
            inside: Some("docker"),
        }
    }

    #[test]
    fn every_trouble_has_a_cause_a_remedy_and_a_page() {
        use probe::Outcome;
        for family in Family::ALL {
            let host = host(family);
            for errno in [1, 12, 13, 22, 28, 38, 87] {
                let fails = || Outcome::Fails {
                    errno,
                    call: "unshare(CLONE_NEWUSER)".to_owned(),
                };
                kernel::namespaces(&host, fails(), &fails())
                    .iter()
                    .for_each(sound);
                kernel::namespaces(&host, Outcome::Works("net".to_owned()), &fails())
                    .iter()
                    .for_each(sound);
                let refused = Outcome::Fails {
                    errno,
                    call: "fsmount(\"overlay\")".to_owned(),
                };
                let overlay = files::overlay(&host, &refused);
                assert_eq!(overlay.len(), 1);
                overlay.iter().for_each(sound);
                assert!(files::overlay(&host, &fails()).is_empty());
            }
            kernel::kernel(&host).iter().for_each(sound);
            kernel::version("3.10.0-el7", &host).iter().for_each(sound);
            cgroups::checks(&host).iter().for_each(sound);
            session::checks(&host).iter().for_each(sound);
            network::checks(&host, network::Tools::default())
                .iter()
                .for_each(sound);
            ids::no_ranges(&host, true, &[]).iter().for_each(sound);
            files::space(1 << 20, Some(10)).iter().for_each(sound);
            files::mounted(&host).iter().for_each(sound);
            ids::tried(
                &host,
                Err("newuidmap: write to uid_map failed: Operation not permitted".to_owned()),
            )
            .iter()
            .for_each(sound);
        }
    }

    /// Every failure that is known, fed to what judges it: the code, a part of the cause and a part of a remedy.
    #[test]
    fn every_known_failure_has_its_code_cause_and_remedy() {
        use probe::Outcome;
        let host = |status: &str, mount: &str, inside| Host {
            status: status.to_owned(),
            mounts: parse::mountinfo(&format!(
                "1 0 0:1 / / rw - {mount}\n2 1 0:2 / /proc rw - proc proc rw\n{}",
                "3 2 0:3 / /proc/sys ro - proc proc rw\n"
            )),
            inside,
            ..host(Family::Debian)
        };
        let plain = host("Seccomp:\t0\n", "ext4 /dev/vda rw", None);
        let filtered = host("Seccomp:\t2\n", "ext4 /dev/vda rw", None);
        let docker = host("Seccomp:\t2\n", "overlay overlay rw", Some("docker"));
        let nfs = host("Seccomp:\t0\n", "nfs4 server:/home rw", None);
        let noexec = host("Seccomp:\t0\n", "ext4 /dev/vda rw,noexec", None);
        let read_only = host("Seccomp:\t0\n", "ext4 /dev/vda ro", None);
        let fails = |errno: i32, call: &str| Outcome::Fails {
            errno,
            call: call.to_owned(),
        };
        let works = || Outcome::Works(String::new());
        let user = |host: &Host, errno| {
            kernel::namespaces(host, fails(errno, "unshare(CLONE_NEWUSER)"), &works())
        };
        let knobs = |knob: &str| {
            kernel::refused_with(&plain, 1, "unshare(CLONE_NEWUSER)", &|path| {
                path.ends_with(knob)
                    .then(|| if knob.ends_with("clone") { "0" } else { "1" }.to_owned())
            })
        };
        let helpers = |said: &str| ids::tried(&plain, Err(said.to_owned()));
        let cases: Vec<(Vec<Check>, &str, &str, &str)> = vec![
            (
                user(&plain, libc::EINVAL),
                "RL-U01",
                "without user namespaces",
                "CONFIG_USER_NS",
            ),
            (
                user(&plain, libc::ENOSYS),
                "RL-U01",
                "without user namespaces",
                "CONFIG_USER_NS",
            ),
            (
                vec![knobs("unprivileged_userns_clone")],
                "RL-U02",
                "unprivileged_userns_clone is 0",
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                user(&plain, libc::ENOSPC),
                "RL-U03",
                "the disk is not full",
                "user.max_user_namespaces=28633",
            ),
            (
                user(&plain, libc::EUSERS),
                "RL-U03",
                "nested 32 deep",
                "user.max_user_namespaces=28633",
            ),
            (
                kernel::namespaces(&plain, Outcome::Works("net".to_owned()), &works()),
                "RL-U03",
                "the limit on namespaces",
                "user.max_net_namespaces",
            ),
            (
                vec![knobs("apparmor_restrict_unprivileged_userns")],
                "RL-U04",
                "AppArmor",
                "doctor --emit apparmor-profile",
            ),
            (
                user(&docker, libc::EPERM),
                "RL-U05",
                "docker confines",
                "seccomp=unconfined",
            ),
            (
                user(&filtered, libc::EPERM),
                "RL-U05",
                "a system call filter",
                "seccomp=unconfined",
            ),
            (
                user(&filtered, libc::ENOSYS),
                "RL-U05",
                "a system call filter",
                "seccomp=unconfined",
            ),
            (
                user(&plain, libc::EACCES),
                "RL-U05",
                "a security module",
                "dmesg",
            ),
            (
                kernel::namespaces(
                    &docker,
                    works(),
                    &fails(libc::EPERM, "fsmount(\"proc\"): EPERM"),
                ),
                "RL-K01",
                "/proc/sys",
                "systempaths=unconfined",
            ),
            (
                kernel::version("5.4.0", &plain),
                "RL-K06",
                "openat2",
                "6.6 or later",
            ),
            (
                ids::no_ranges(
                    &plain,
                    true,
                    &["/etc/subuid: `a:1:9` contains your own id 2".to_owned()],
                ),
                "RL-S06",
                "the kernel refuses such a range",
                "correct the line",
            ),
            (
                ids::no_ranges(&plain, true, &[]),
                "RL-S01",
                "nobody has set ids aside",
                "usermod --add-subuids",
            ),
            (
                helpers("newuidmap: write to uid_map failed: Operation not permitted"),
                "RL-S03",
                "the helpers refuse",
                "apt-get install uidmap",
            ),
            (
                helpers("newuidmap: uid range [1-65537) -> [5-65541) not allowed"),
                "RL-S03",
                "is not yours",
                "/etc/subuid",
            ),
            (
                files::overlay(
                    &nfs,
                    &fails(libc::EINVAL, "fsconfig(\"overlay\", CREATE): EINVAL"),
                ),
                "RL-F03",
                "nfs4 cannot hold",
                "--root DIR",
            ),
            (
                files::overlay(
                    &docker,
                    &fails(libc::EINVAL, "fsconfig(\"overlay\", CREATE): EINVAL"),
                ),
                "RL-F03",
                "on an overlay already",
                "--root DIR",
            ),
            (
                files::overlay(
                    &plain,
                    &fails(libc::EPERM, "fsconfig(\"overlay\", CREATE): EPERM"),
                ),
                "RL-F03",
                "before Linux 5.11",
                "modprobe overlay",
            ),
            (
                files::mounted(&nfs),
                "RL-F01",
                "nfs4 keeps no foreign owners",
                "--root DIR",
            ),
            (
                files::mounted(&noexec),
                "RL-F02",
                "mounted noexec",
                "remount,exec",
            ),
            (
                files::mounted(&read_only),
                "RL-F02",
                "mounted ro",
                "remount,exec,rw",
            ),
            (
                files::space(1 << 20, Some(1_000_000)),
                "RL-F05",
                "the disk is nearly full",
                "rl rmi",
            ),
            (
                files::space(1 << 40, Some(10)),
                "RL-F05",
                "few files left",
                "rl rmi",
            ),
        ];
        for (checks, code, cause, remedy) in cases {
            let check = checks
                .iter()
                .find(|check| check.code == code && check.status != Status::Works)
                .unwrap_or_else(|| panic!("no {code} in {checks:?}"));
            sound(check);
            let said = check.cause.clone().unwrap_or_default();
            assert!(said.contains(cause), "{code}: {said}");
            let remedies = [&check.you_can[..], &check.admin_can[..]]
                .concat()
                .join("\n");
            assert!(remedies.contains(remedy), "{code}: {remedies}");
        }
    }

    /// What the specification of the messages lists and `rl` can meet; the pages of GPUs and MPI come with them.
    #[test]
    fn every_code_has_a_page() {
        let ranges = [
            ("U", 1..=5),
            ("S", 1..=10),
            ("F", 1..=7),
            ("R", 1..=3),
            ("C", 1..=5),
            ("N", 1..=9),
            ("K", 1..=7),
            ("I", 1..=5),
        ];
        for (letter, numbers) in ranges {
            for number in numbers {
                let code = format!("RL-{letter}{number:02}");
                assert!(explain(&code).is_some(), "no page for {code}");
            }
        }
    }

    #[test]
    fn a_report_is_plain_json() {
        let check = Check::works("ids", "RL-S01", "ranges", "65536", "uses them")
            .because(Status::Less, "none", "one id")
            .admin("usermod");
        let report = Report {
            axes: vec![Axis {
                name: "ids".to_owned(),
                checks: vec![check],
            }],
            modes: Vec::new(),
        };
        assert_eq!(report.status(), Status::Less);
        expect_test::expect![[r#"{"axes":[{"name":"ids","checks":[{"axis":"ids","code":"RL-S01","title":"ranges","status":"less","found":"65536","cause":"none","you_can":[],"admin_can":["usermod"],"rl_does":"one id"}]}],"modes":[]}"#]]
            .assert_eq(&serde_json::to_string(&report).unwrap());
    }
}
