//! The texts that the checks read, as data. Pure; whatever a line holds, nothing here fails.

use std::path::{Path, PathBuf};

/// How packages are named and installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Debian, Ubuntu and theirs.
    Debian,
    /// Fedora, RHEL and theirs.
    Fedora,
    /// openSUSE and SLES.
    Suse,
    /// Arch and its.
    Arch,
    /// Alpine.
    Alpine,
    /// Not known.
    Other,
}

/// A program that `rl` can use, or what brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `newuidmap` and `newgidmap`.
    Uidmap,
    /// `pasta`.
    Pasta,
    /// `fuse-overlayfs`.
    FuseOverlayfs,
    /// The user's D-Bus.
    Dbus,
}

impl Family {
    /// Each of them.
    #[cfg(test)]
    pub const ALL: [Self; 6] = [
        Self::Debian,
        Self::Fedora,
        Self::Suse,
        Self::Arch,
        Self::Alpine,
        Self::Other,
    ];

    /// The command that installs `tool`, for an administrator.
    #[must_use]
    pub fn install(self, tool: Tool) -> String {
        let command = match self {
            Family::Debian => "apt-get install",
            Family::Fedora => "dnf install",
            Family::Suse => "zypper install",
            Family::Arch => "pacman -S",
            Family::Alpine => "apk add",
            Family::Other => "install the package",
        };
        let package = match (tool, self) {
            (Tool::Uidmap, Family::Debian) => "uidmap",
            (Tool::Uidmap, Family::Fedora) => "shadow-utils",
            (Tool::Uidmap, Family::Suse | Family::Arch) => "shadow",
            (Tool::Uidmap, Family::Alpine) => "shadow-uidmap",
            (Tool::Uidmap, Family::Other) => "with newuidmap (uidmap, shadow-utils or shadow)",
            (Tool::Pasta, _) => "passt",
            (Tool::FuseOverlayfs, _) => "fuse-overlayfs",
            (Tool::Dbus, Family::Debian) => "dbus-user-session",
            (Tool::Dbus, Family::Fedora) => "dbus-daemon",
            (Tool::Dbus, Family::Suse) => "dbus-1",
            (Tool::Dbus, Family::Arch | Family::Alpine | Family::Other) => "dbus",
        };
        format!("{command} {package}")
    }
}

/// The family and the pretty name. Source: os-release(5).
#[must_use]
pub fn os_release(text: &str) -> (Family, String) {
    let value = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches(['"', '\'']).to_owned())
    };
    let known = |id: &str| match id {
        "debian" | "ubuntu" => Some(Family::Debian),
        "fedora" | "rhel" | "centos" => Some(Family::Fedora),
        "suse" | "opensuse" | "sles" => Some(Family::Suse),
        "arch" => Some(Family::Arch),
        "alpine" => Some(Family::Alpine),
        _ => None,
    };
    let id = value("ID").unwrap_or_default();
    let like = value("ID_LIKE").unwrap_or_default();
    let family = known(&id).or_else(|| like.split_whitespace().find_map(known));
    let name = value("PRETTY_NAME")
        .or_else(|| value("NAME"))
        .filter(|name| !name.is_empty());
    (
        family.unwrap_or(Family::Other),
        name.unwrap_or_else(|| "an unnamed distribution".to_owned()),
    )
}

/// One mount. Source: proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine {
    /// Where in its file system the mount begins.
    pub root: String,
    /// Where it is.
    pub target: PathBuf,
    /// The file system's type.
    pub kind: String,
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
}

/// The mounts in the order they were made; lines of another shape are passed over.
#[must_use]
pub fn mountinfo(text: &str) -> Vec<MountLine> {
    let line = |line: &str| {
        let (own, rest) = line.split_once(" - ")?;
        let own: Vec<&str> = own.split(' ').collect();
        let mut rest = rest.split(' ');
        let kind = rest.next()?.to_owned();
        let options = own
            .get(5)?
            .split(',')
            .chain(rest.nth(1).unwrap_or_default().split(','));
        Some(MountLine {
            root: unescape(own.get(3)?),
            target: PathBuf::from(unescape(own.get(4)?)),
            kind,
            options: options.map(str::to_owned).collect(),
        })
    };
    text.lines().filter_map(line).collect()
}

/// `\040` and its like. Source: proc_pid_mountinfo(5).
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4);
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            Some(_) | None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// The mount that `path` lies on: the last made of those whose target is nearest.
#[must_use]
pub fn mount_of<'m>(mounts: &'m [MountLine], path: &Path) -> Option<&'m MountLine> {
    let depth = |line: &MountLine| line.target.components().count();
    mounts
        .iter()
        .filter(|line| path.starts_with(&line.target))
        .max_by_key(|line| depth(line))
}

/// What is mounted over parts of `path`, which stops the kernel from giving out a fresh one.
#[must_use]
pub fn mounted_below<'m>(mounts: &'m [MountLine], path: &Path) -> Vec<&'m MountLine> {
    let below = |line: &&MountLine| line.target != path && line.target.starts_with(path);
    // binfmt_misc hides nothing, and the kernel knows (mount_too_revealing looks at non-empty directories).
    mounts
        .iter()
        .filter(below)
        .filter(|line| line.kind != "autofs" && line.kind != "binfmt_misc")
        .collect()
}

/// The value behind `name:` in `/proc/PID/status`.
#[must_use]
pub fn status_field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim)
}

/// Which cgroups there are. Source: cgroups(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// Version 2 alone, and the directory of our own group.
    V2(PathBuf),
    /// Version 1 controllers, and version 2 beside them.
    Hybrid,
    /// Version 1 alone.
    V1,
    /// None are mounted.
    None,
}

/// What the mounts and `/proc/self/cgroup` say.
#[must_use]
pub fn cgroups(mounts: &[MountLine], own: &str) -> Cgroups {
    let v1 = mounts.iter().any(|line| line.kind == "cgroup");
    let v2 = mounts.iter().find(|line| line.kind == "cgroup2");
    match (v2, v1) {
        (Some(_), true) => Cgroups::Hybrid,
        (None, true) => Cgroups::V1,
        (None, false) => Cgroups::None,
        (Some(mount), false) => {
            let path = own
                .lines()
                .find_map(|line| line.strip_prefix("0::"))
                .unwrap_or("/");
            // A mount may show a part of the tree only, and the path goes up where a namespace begins lower.
            let path = path
                .strip_prefix(mount.root.trim_end_matches('/'))
                .unwrap_or(path);
            let inside = !path.split('/').any(|part| part == "..");
            let path = if inside {
                path.trim_start_matches('/')
            } else {
                ""
            };
            Cgroups::V2(mount.target.join(path))
        }
    }
}

/// The servers that a resolver configuration names. Source: resolv.conf(5).
#[must_use]
pub fn nameservers(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next().filter(|word| *word == "nameserver")?;
            words.next()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_known_by_its_id_or_by_what_it_is_like() {
        let cases = [
            (
                "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n",
                Family::Debian,
                "Debian GNU/Linux 12",
            ),
            (
                "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nNAME=Mint",
                Family::Debian,
                "Mint",
            ),
            (
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
                Family::Fedora,
                "an unnamed distribution",
            ),
            (
                "ID=opensuse-leap\nID_LIKE='suse opensuse'\nNAME=Leap",
                Family::Suse,
                "Leap",
            ),
            (
                "ID=alpine\nNAME=\"\"",
                Family::Alpine,
                "an unnamed distribution",
            ),
            ("", Family::Other, "an unnamed distribution"),
            ("ID\nID=\n=x\n\0", Family::Other, "an unnamed distribution"),
        ];
        for (text, family, name) in cases {
            assert_eq!(os_release(text), (family, name.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn mounts_are_found_by_path_whatever_they_are_called() {
        let text = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                    22 21 0:5 /@home /home\\040dir rw,noexec - btrfs /dev/sdb rw,subvol=/@home\n\
                    nonsense\n23 - x\n24 21 0:6 / /proc rw - proc proc rw\n25 24 0:7 / /proc/sys ro - proc proc rw\n\
                    26 24 0:8 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n";
        let mounts = mountinfo(text);
        assert_eq!(mounts.len(), 5);
        let home = mount_of(&mounts, Path::new("/home dir/alice")).unwrap();
        assert_eq!(
            (home.kind.as_str(), home.root.as_str()),
            ("btrfs", "/@home")
        );
        assert!(
            home.options.contains(&"noexec".to_owned())
                && home.options.contains(&"subvol=/@home".to_owned())
        );
        assert_eq!(mount_of(&mounts, Path::new("/home")).unwrap().kind, "ext4");
        let hidden = mounted_below(&mounts, Path::new("/proc"));
        assert_eq!(
            hidden
                .iter()
                .map(|line| line.target.to_str().unwrap())
                .collect::<Vec<_>>(),
            ["/proc/sys"]
        );
        for (escaped, plain) in [
            ("a\\134b", "a\\b"),
            ("\\", "\\"),
            ("\\9", "\\9"),
            ("\\0", "\\0"),
            ("é\\040", "é "),
        ] {
            assert_eq!(unescape(escaped), plain);
        }
    }

    #[test]
    fn our_own_cgroup_is_found_in_every_layout() {
        let v2 = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let part = "1 0 0:1 /user.slice /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let v1 = "2 0 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let in_v2 = |path: &str| Cgroups::V2(PathBuf::from(path));
        let cases = [
            (
                v2.to_owned(),
                "0::/user.slice/a.scope\n",
                in_v2("/sys/fs/cgroup/user.slice/a.scope"),
            ),
            (v2.to_owned(), "0::/\n", in_v2("/sys/fs/cgroup/")),
            (v2.to_owned(), "0::/../../x\n", in_v2("/sys/fs/cgroup/")),
            (v2.to_owned(), "", in_v2("/sys/fs/cgroup/")),
            (
                part.to_owned(),
                "0::/user.slice/a\n",
                in_v2("/sys/fs/cgroup/a"),
            ),
            (format!("{v2}{v1}"), "4:memory:/x\n0::/y\n", Cgroups::Hybrid),
            (v1.to_owned(), "4:memory:/x\n", Cgroups::V1),
            (String::new(), "0::/\n", Cgroups::None),
        ];
        for (mounts, own, expected) in cases {
            assert_eq!(cgroups(&mountinfo(&mounts), own), expected, "{mounts}{own}");
        }
    }

    #[test]
    fn fields_and_servers_are_read() {
        let status = "Name:\trl\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";
        assert_eq!(status_field(status, "Seccomp"), Some("2"));
        assert_eq!(status_field(status, "Nothing"), None);
        assert_eq!(
            nameservers("# x\nnameserver 1.1.1.1\n nameserver\t::1 \nnameserver\nsearch a\n"),
            ["1.1.1.1", "::1"]
        );
    }
}
