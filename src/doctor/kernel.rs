//! The kernel's version and features, and whether it gives namespaces to this user.

use super::probe::Outcome;
use super::{Check, Host, Status, parse, text};
use crate::stage::confine::kernel_version;

/// The knobs that every project's documentation names.
const USERNS_CLONE: &str = "/proc/sys/kernel/unprivileged_userns_clone";
const APPARMOR: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

/// What is missing before a version, newest last.
const FEATURES: [((u32, u32), &str); 8] = [
    ((5, 3), "clone3 and pidfds"),
    ((5, 6), "openat2 and time namespaces"),
    ((5, 11), "overlay mounts in user namespaces"),
    ((5, 12), "mount_setattr, for read-only binds of whole trees"),
    ((5, 13), "Landlock"),
    ((5, 14), "cgroup.kill"),
    (
        (6, 5),
        "overlays of many layers without long option strings",
    ),
    ((6, 6), "overlay uppers on tmpfs"),
];

/// The axis `kernel`.
pub fn kernel(host: &Host) -> Vec<Check> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut checks = version(&release, host);
    let seccomp = Check::works(
        "kernel",
        "RL-K06",
        "system call filter",
        "seccomp filters",
        "loads a filter in every container",
    );
    checks.push(match host.status_field("Seccomp") {
        Some(_) => seccomp,
        None => Check {
            found: "no seccomp".to_owned(),
            ..seccomp
        }
        .because(
            Status::Missing,
            "the kernel was built without CONFIG_SECCOMP",
            "refuses to run, except with --security-opt seccomp=unconfined",
        )
        .you("--security-opt seccomp=unconfined")
        .admin("a kernel with CONFIG_SECCOMP_FILTER=y"),
    });
    checks
}

/// What a kernel of this release has.
pub fn version(release: &str, host: &Host) -> Vec<Check> {
    let version = kernel_version(release);
    let machine = rustix::system::uname()
        .machine()
        .to_string_lossy()
        .into_owned();
    let missing: Vec<&str> = FEATURES
        .iter()
        .filter(|(since, _)| version < *since)
        .map(|(_, what)| *what)
        .collect();
    let found = format!("Linux {release}, {machine}, {}", host.distribution);
    let check = Check::works("kernel", "RL-K06", "version", found, "uses all it knows of");
    if missing.is_empty() {
        return vec![check];
    }
    let (status, does) = if version < (5, 6) {
        (
            Status::Missing,
            "refuses to run: it resolves no path without openat2",
        )
    } else {
        (Status::Less, "goes the older ways")
    };
    let cause = format!("this version lacks {}", missing.join("; "));
    vec![
        check
            .because(status, cause, does)
            .admin("a kernel of version 6.6 or later (a distribution may have added single features to an older one)"),
    ]
}

/// The axis `namespaces`; the outcomes are those of the probes `namespaces` and `proc`.
pub fn namespaces(host: &Host, tried: Outcome, proc: &Outcome) -> Vec<Check> {
    let mut checks = Vec::new();
    let user = Check::works(
        "namespaces",
        "RL-U01",
        "user namespace",
        "made one",
        "gives each container its own",
    );
    match tried {
        Outcome::Works(refused) => {
            checks.push(user);
            checks.push(others(&refused));
        }
        Outcome::Fails { errno, call } => {
            checks.push(refused(host, errno, &call));
            return checks;
        }
    }
    checks.push(limits());
    checks.push(fresh_proc(host, proc));
    checks
}

/// Which of the known causes a refusal has.
fn refused(host: &Host, errno: i32, call: &str) -> Check {
    refused_with(host, errno, call, &|path| {
        std::fs::read_to_string(path).ok()
    })
}

/// As [`refused`], with settings of the kernel read by `setting`.
pub fn refused_with(
    host: &Host,
    errno: i32,
    call: &str,
    setting: &dyn Fn(&str) -> Option<String>,
) -> Check {
    let no = |code: &str, cause: &str| {
        Check::works("namespaces", code, "user namespace", call, "").because(
            Status::Missing,
            cause,
            "cannot run a container: nothing replaces a user namespace",
        )
    };
    let is = |path: &str, value: &str| setting(path).is_some_and(|text| text.trim() == value);
    match errno {
        libc::ENOSPC | libc::EUSERS => {
            return no("RL-U03", "the limit on user namespaces is zero or used up, or they are nested 32 deep (the disk is not full)")
                .admin("echo user.max_user_namespaces=28633 > /etc/sysctl.d/99-rootless.conf && sysctl --system");
        }
        // A kernel has the call; what hides it is a filter.
        libc::ENOSYS if host.status_field("Seccomp") == Some("2") => {}
        libc::EINVAL | libc::ENOSYS => {
            return no(
                "RL-U01",
                "the kernel was built without user namespaces, or this is a chroot",
            )
            .you("outside of the chroot, if this is one")
            .admin("a kernel with CONFIG_USER_NS=y");
        }
        _ => {}
    }
    if is(USERNS_CLONE, "0") {
        return no("RL-U02", "kernel.unprivileged_userns_clone is 0")
            .admin("echo kernel.unprivileged_userns_clone=1 > /etc/sysctl.d/99-rootless.conf && sysctl --system");
    }
    if is(APPARMOR, "1") {
        return apparmor(no(
            "RL-U04",
            "AppArmor takes all rights away in user namespaces of programs it has no profile for",
        ));
    }
    let filtered = host.status_field("Seccomp") == Some("2");
    let cause = match (host.inside, filtered) {
        (Some(engine), _) => format!("{engine} confines the container that this runs in"),
        (None, true) => "a system call filter of the program that started this one".to_owned(),
        (None, false) => {
            "likely a security module, or a limit of the service that this runs in".to_owned()
        }
    };
    no("RL-U05", &cause)
        .you("start the outer container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined")
        .admin("look for `denied` in the kernel's log: dmesg, ausearch -m avc")
}

/// An AppArmor profile that lets this very file have user namespaces and nothing else that others have not. The text is for
/// `/etc/apparmor.d`. Source: apparmor.d(5), "flags=(unconfined)".
#[must_use]
pub fn apparmor_profile() -> String {
    profile_of(&std::fs::read_link("/proc/self/exe").unwrap_or_default())
}

fn profile_of(program: &std::path::Path) -> String {
    // What is special in a pattern, or ends the text, is quoted (apparmor.d(5), "Globbing").
    let mut path = String::new();
    for letter in program.to_string_lossy().chars() {
        if "\\\"*?[]{}^".contains(letter) {
            path.push('\\');
        }
        path.push(letter);
    }
    format!(
        "abi <abi/4.0>,\ninclude <tunables/global>\n\nprofile rl \"{path}\" flags=(unconfined) {{\n  userns,\n\n  include if exists <local/rl>\n}}\n"
    )
}

/// The remedy on Ubuntu 24.04.
fn apparmor(check: Check) -> Check {
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let path = program.display();
    check
        .admin(format!(
            "'{path}' doctor --emit apparmor-profile > /etc/apparmor.d/rl && apparmor_parser -r /etc/apparmor.d/rl"
        ))
        .admin("or, for all programs: echo kernel.apparmor_restrict_unprivileged_userns=0 > /etc/sysctl.d/99-rootless.conf && sysctl --system")
}

fn others(refused: &str) -> Check {
    let title = "other namespaces";
    if refused.is_empty() {
        let found = "mnt, pid, net, ipc, uts, cgroup, time";
        return Check::works(
            "namespaces",
            "RL-U03",
            title,
            found,
            "gives each container its own",
        );
    }
    let status = match refused {
        // Only --time-offset asks for it.
        "time" => Status::Less,
        _ => Status::Missing,
    };
    let limits: Vec<String> = refused
        .split(' ')
        .map(|name| format!("user.max_{name}_namespaces=28633"))
        .collect();
    let kernel = Check::works(
        "namespaces",
        "RL-U03",
        title,
        format!("refused: {refused}"),
        "",
    );
    if std::path::Path::new(APPARMOR).exists() && text(APPARMOR).trim() == "1" {
        let mut check = kernel.because(
            Status::Missing,
            "AppArmor takes all rights away in user namespaces of programs it has no profile for",
            "cannot run a container",
        );
        "RL-U04".clone_into(&mut check.code);
        return apparmor(check);
    }
    kernel
        .because(
            status,
            "the limit on namespaces of this kind is zero or used up, or the kernel lacks it",
            "refuses a container that needs one",
        )
        .you("share the host's: --network host, --ipc host, --uts host, --pid host")
        .admin(format!("sysctl -w {}", limits.join(" ")))
}

/// Limits that are not zero and yet soon reached.
fn limits() -> Check {
    let kinds = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];
    let low: Vec<String> = kinds
        .iter()
        .filter_map(|kind| {
            let most: u64 = text(&format!("/proc/sys/user/max_{kind}_namespaces"))
                .trim()
                .parse()
                .ok()?;
            (most < 100).then(|| format!("user.max_{kind}_namespaces={most}"))
        })
        .collect();
    let check = Check::works(
        "namespaces",
        "RL-U03",
        "limits",
        "user.max_*_namespaces are above 100",
        "needs one of each kind for a container",
    );
    if low.is_empty() {
        return check;
    }
    let raised: Vec<String> = low
        .iter()
        .filter_map(|limit| Some(format!("{}=28633", limit.split_once('=')?.0)))
        .collect();
    Check {
        found: low.join(" "),
        ..check
    }
    .because(
        Status::Less,
        "few containers can run at once",
        "runs as many as there is room for",
    )
    .admin(format!("sysctl -w {}", raised.join(" ")))
}

fn fresh_proc(host: &Host, outcome: &Outcome) -> Check {
    let check = Check::works(
        "namespaces",
        "RL-K01",
        "/proc of its own",
        "mounted one",
        "gives each container its own",
    );
    let Outcome::Fails { call, .. } = outcome else {
        return check;
    };
    let hidden = parse::mounted_below(&host.mounts, std::path::Path::new("/proc"));
    let hidden: Vec<String> = hidden
        .iter()
        .map(|line| line.target.display().to_string())
        .collect();
    let cause = if hidden.is_empty() {
        "the kernel refuses a new /proc here".to_owned()
    } else {
        format!(
            "parts of /proc are hidden, and a new one would show them: {}",
            hidden.join(", ")
        )
    };
    Check {
        found: call.clone(),
        ..check
    }
    .because(
        Status::Less,
        cause,
        "shares the processes of what this runs in, and says so",
    )
    .you("start the outer container with --security-opt systempaths=unconfined")
    .you("--pid host")
}

/// The axis `namespaces` once more, by the probe `sys`: nothing where something else kept it from being tried.
pub fn fresh_sys(host: &Host, outcome: &Outcome) -> Option<Check> {
    let check = Check::works(
        "namespaces",
        "RL-K02",
        "/sys of its own",
        "mounted one",
        "gives each container with a network of its own one",
    );
    let Outcome::Fails { call, .. } = outcome else {
        return Some(check);
    };
    if !call.contains("sysfs") {
        return None;
    }
    let hidden = parse::mounted_below(&host.mounts, std::path::Path::new("/sys"));
    let hidden: Vec<String> = hidden
        .iter()
        .map(|line| line.target.display().to_string())
        .collect();
    let check = Check {
        found: call.clone(),
        ..check
    }
    .because(
        Status::Less,
        format!(
            "parts of /sys are hidden, and a new one would show them: {}",
            hidden.join(", ")
        ),
        "shows the /sys that is here, read-only, and says so",
    );
    Some(check.you("start the outer container with --security-opt systempaths=unconfined"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_for_one_file() {
        expect_test::expect![[r#"
            abi <abi/4.0>,
            include <tunables/global>

            profile rl "/home/al ice/\{x\}/rl" flags=(unconfined) {
              userns,

              include if exists <local/rl>
            }
        "#]]
        .assert_eq(&profile_of(std::path::Path::new("/home/al ice/{x}/rl")));
    }
}
