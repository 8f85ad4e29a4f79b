//! The table of machines that give less, and what becomes of each command there. Data, and its picture for the manual.
//!
//! `tests/it/machines` makes the rows of [`HOST`] with `scripts/as-user`.

/// What is tried on every machine, in this order: name, and a shell line that uses the image `busybox`.
pub const COMMANDS: [(&str, &str); 9] = [
    ("pull", "pull_image"),
    ("run", "rl run --rm busybox echo hi"),
    ("run -u 1000", "rl run --rm -u 1000 busybox id -u"),
    ("run -d", "rl run -d --name c busybox sleep 1000"),
    ("exec", "rl exec c echo hi"),
    ("stats", "rl stats --no-stream --format '{{.Name}}' c"),
    ("pause", "rl pause c && rl unpause c"),
    (
        "--network pasta",
        "rl run --rm --network pasta busybox true",
    ),
    (
        "./FILE",
        "rl image convert busybox $DIR/b.sqsh && rl run --rm $DIR/b.sqsh echo hi",
    ),
];

/// What a command that works prints; anything where nothing is said here.
pub const SAYS: [(&str, &str); 5] = [
    ("./FILE", "hi"),
    ("run", "hi"),
    ("run -u 1000", "1000"),
    ("exec", "hi"),
    ("stats", "c"),
];

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// All of it, and `rl` says nothing.
    Works,
    /// It works, and `rl` says in these lines what it had to give up; `…` stands for anything.
    Less(&'static [&'static str]),
    /// It does not, and the message has this code.
    Code(&'static str),
    /// It cannot be tried: there is no container.
    Nothing,
}

use Cell::{Code, Less, Nothing};

/// One machine.
#[derive(Debug)]
pub struct Row {
    /// The name of its test.
    pub name: &'static str,
    /// What is missing, for the manual.
    pub missing: &'static str,
    /// Options of `scripts/as-user`.
    pub made: &'static [&'static str],
    /// A line of the user's before all, in a shell that stands in `$DIR`; `outer` is put before the shell of the commands.
    pub before: &'static str,
    /// What is not [`Cell::Works`].
    pub cells: &'static [(&'static str, Cell)],
}

impl Row {
    /// What becomes of this command.
    pub fn cell(&self, command: &str) -> Cell {
        let found = self.cells.iter().find(|(name, _)| *name == command);
        found.map_or(Cell::Works, |(_, cell)| *cell)
    }
}

macro_rules! one_id {
    ($why:literal, $code:literal) => {
        concat!($why, ": running with one id; other owners and users inside are emulated: they can be set, and nothing comes of it (rl explain ", $code, ")")
    };
}
macro_rules! one_user {
    ($why:literal, $code:literal) => {
        concat!($why, ": running with one id, which is user 1000 inside; other owners inside the container are not kept apart (rl explain ", $code, ")")
    };
}
macro_rules! noted {
    ($why:literal, $code:literal) => {
        concat!(
            $why,
            ": other owners than you are noted, not set (rl explain ",
            $code,
            ")"
        )
    };
}

const NO_RANGES: &str = one_id!(
    "no range of subordinate ids for `rl-nosub` in /etc/subuid",
    "RL-S01"
);
const NO_RANGES_USER: &str = one_user!(
    "no range of subordinate ids for `rl-nosub` in /etc/subuid",
    "RL-S01"
);
const NO_RANGES_PULL: &str = noted!(
    "no range of subordinate ids for `rl-nosub` in /etc/subuid",
    "RL-S01"
);
const NO_HELPER: &str = one_id!("newuidmap is not installed", "RL-S02");
const NO_HELPER_USER: &str = one_user!("newuidmap is not installed", "RL-S02");
const NO_HELPER_PULL: &str = noted!("newuidmap is not installed", "RL-S02");
const NO_POWER: &str = one_id!(
    "this process has no_new_privs set, so newuidmap gains no rights",
    "RL-S03"
);
const NO_POWER_USER: &str = one_user!(
    "this process has no_new_privs set, so newuidmap gains no rights",
    "RL-S03"
);
const NO_POWER_PULL: &str = noted!(
    "this process has no_new_privs set, so newuidmap gains no rights",
    "RL-S03"
);
const REFUSED: &str = one_id!(
    "newuidmap fails: write to uid_map failed: Invalid argument",
    "RL-S03"
);
const REFUSED_USER: &str = one_user!(
    "newuidmap fails: write to uid_map failed: Invalid argument",
    "RL-S03"
);
const REFUSED_PULL: &str = noted!(
    "newuidmap fails: write to uid_map failed: Invalid argument",
    "RL-S03"
);
const OUTER_ONE: &str = one_id!(
    "what this runs in has one user or group id itself",
    "RL-S01"
);
const OUTER_ONE_USER: &str = one_user!(
    "what this runs in has one user or group id itself",
    "RL-S01"
);
const OUTER_ONE_PULL: &str = noted!(
    "what this runs in has one user or group id itself",
    "RL-S01"
);
const OUTER: &str = "started by root, who has no ranges in /etc/subuid and /etc/subgid: running with all ids as they are";
const OUTER_PULL: &str =
    "started by root, who has no ranges in /etc/subuid and /etc/subgid: owners are set as they are";
const NO_TUN: &str =
    "a network of its own needs /dev/net/tun: …: using the host's network (rl explain RL-N01)";
const NO_UPLINK: &str = "no network helper: neither pasta nor slirp4netns is installed: using the host's network (rl explain RL-N02)";
const NO_PROC: &str = "mounting proc on `/proc`: the kernel refuses a new /proc: parts of the one here are hidden, as in another container: …: sharing the processes of what this runs in (rl explain RL-K01)";

macro_rules! every_run {
    ($pull:expr, $run:expr, $user:expr) => {
        &[
            ("pull", Less(&[$pull])),
            ("run", Less(&[$run])),
            ("./FILE", Less(&[$run])),
            ("run -u 1000", Less(&[$user])),
            ("run -d", Less(&[$run])),
            ("--network pasta", Less(&[$run])),
        ]
    };
}

macro_rules! nothing_runs {
    ($code:literal) => {
        &[
            ("pull", Code($code)),
            ("run", Code($code)),
            ("./FILE", Code($code)),
            ("run -u 1000", Code($code)),
            ("run -d", Code($code)),
            ("exec", Nothing),
            ("stats", Nothing),
            ("pause", Nothing),
            ("--network pasta", Code($code)),
        ]
    };
}

macro_rules! nothing_fits {
    () => {
        &[
            ("pull", Code("RL-F05")),
            ("run", Nothing),
            ("./FILE", Nothing),
            ("run -u 1000", Nothing),
            ("run -d", Nothing),
            ("exec", Nothing),
            ("stats", Nothing),
            ("pause", Nothing),
            ("--network pasta", Nothing),
        ]
    };
}

/// Machines made of this one.
pub const HOST: &[Row] = &[
    Row {
        name: "nothing_is_missing",
        missing: "nothing",
        made: &[],
        before: "",
        cells: &[],
    },
    Row {
        name: "without_ranges",
        missing: "subordinate ids",
        made: &["--no-ids"],
        before: "",
        cells: every_run!(NO_RANGES_PULL, NO_RANGES, NO_RANGES_USER),
    },
    Row {
        name: "no_newuidmap",
        missing: "`newuidmap` and `newgidmap`",
        made: &[
            "--hide",
            "/usr/bin/newuidmap",
            "--hide",
            "/usr/bin/newgidmap",
        ],
        before: "",
        cells: every_run!(NO_HELPER_PULL, NO_HELPER, NO_HELPER_USER),
    },
    Row {
        name: "ranges_that_overlap",
        missing: "sense in `/etc/subuid`: of two ranges that overlap the second is passed over",
        made: &[
            "--prepare",
            "awk -F: '{ print } $1 == \"rl-test\" { print $1 \":\" $2 + 9 \":9\" }' /etc/subuid >subuid && mount --bind subuid /etc/subuid",
        ],
        before: "",
        cells: &[],
    },
    Row {
        name: "more_ranges_than_the_kernel_takes",
        missing: "sense in `/etc/subuid`: more ranges than the kernel takes in one map (340)",
        made: &[
            "--prepare",
            "seq 1 400 | awk '{ print \"rl-test:\" 300000 + 2 * $1 \":1\" }' | cat /etc/subuid - >subuid && chmod 644 subuid && mount --bind subuid /etc/subuid",
        ],
        before: "",
        cells: every_run!(REFUSED_PULL, REFUSED, REFUSED_USER),
    },
    Row {
        name: "neither_ranges_nor_any_helper",
        missing: "subordinate ids and every helper program",
        made: &["--no-ids", "--no-helpers"],
        before: "",
        cells: &[
            ("pull", Less(&[NO_HELPER_PULL])),
            ("run", Less(&[NO_HELPER, NO_UPLINK])),
            ("./FILE", Less(&[NO_HELPER, NO_UPLINK])),
            ("run -u 1000", Less(&[NO_HELPER_USER, NO_UPLINK])),
            ("run -d", Less(&[NO_HELPER, NO_UPLINK])),
            ("--network pasta", Code("RL-N02")),
        ],
    },
    Row {
        name: "no_new_privs",
        missing: "the right to gain rights (`no_new_privs`)",
        made: &[],
        before: "outer='setpriv --no-new-privs'",
        cells: every_run!(NO_POWER_PULL, NO_POWER, NO_POWER_USER),
    },
    Row {
        name: "no_dev_fuse",
        missing: "`/dev/fuse`",
        made: &["--hide", "/dev/fuse"],
        before: "",
        cells: &[("./FILE", Less(&[UNPACKED]))],
    },
    Row {
        name: "no_dev_net_tun",
        missing: "`/dev/net/tun`",
        made: &["--hide", "/dev/net/tun"],
        before: "",
        cells: &[
            ("run", Less(&[NO_TUN])),
            ("./FILE", Less(&[NO_TUN])),
            ("run -u 1000", Less(&[NO_TUN])),
            ("run -d", Less(&[NO_TUN])),
            ("--network pasta", Code("RL-N01")),
        ],
    },
    Row {
        name: "no_overlay",
        missing: "an overlay for the store (it lies on one)",
        made: &["--prepare", ON_OVERLAY],
        before: "",
        cells: &[
            ("run", Less(&[NO_OVERLAY_FUSE])),
            ("run -u 1000", Less(&[NO_OVERLAY_FUSE])),
            ("run -d", Less(&[NO_OVERLAY_FUSE])),
            ("--network pasta", Less(&[NO_OVERLAY_FUSE])),
        ],
    },
    Row {
        name: "neither_overlay_nor_fuse",
        missing: "that, and `/dev/fuse`",
        made: &["--hide", "/dev/fuse", "--prepare", ON_OVERLAY],
        before: "",
        cells: &[
            ("run", Less(&[NO_OVERLAY_COPY])),
            ("./FILE", Less(&[UNPACKED])),
            ("run -u 1000", Less(&[NO_OVERLAY_COPY])),
            ("run -d", Less(&[NO_OVERLAY_COPY])),
            ("--network pasta", Less(&[NO_OVERLAY_COPY])),
        ],
    },
    Row {
        name: "no_runtime_directory",
        missing: "`XDG_RUNTIME_DIR`",
        made: &["--no-runtime-dir"],
        before: "",
        cells: &[],
    },
    Row {
        name: "a_runtime_directory_that_is_gone",
        missing: "`/run/user`, which `XDG_RUNTIME_DIR` names",
        made: &["--hide", "/run/user"],
        before: "",
        cells: &[],
    },
    Row {
        name: "no_control_groups",
        missing: "control groups of version 2 (a mix with version 1)",
        made: &["--no-cgroup"],
        before: "",
        cells: &[("pause", Code("RL-C01"))],
    },
    Row {
        name: "an_unwritable_home",
        missing: "a `HOME` that can be written to",
        made: &["--no-ids"],
        before: "unset RL_ROOT; HOME=/proc/nowhere; \"$RL\" system reset -f >/dev/null 2>&1",
        cells: &[
            (
                "pull",
                Less(&[
                    "`/proc/nowhere/.local/share/rl` cannot be made: `/proc` is not yours to write to: keeping images and containers in `/var/tmp/rl-…` (rl explain RL-F05)",
                    NO_RANGES_PULL,
                ]),
            ),
            ("run", Less(&[NO_RANGES])),
            ("./FILE", Less(&[NO_RANGES])),
            ("run -u 1000", Less(&[NO_RANGES_USER])),
            ("run -d", Less(&[NO_RANGES])),
            ("--network pasta", Less(&[NO_RANGES])),
        ],
    },
    Row {
        name: "a_home_mounted_noexec",
        missing: "a home from which programs can be run (`noexec`)",
        made: &[
            "--prepare",
            "mkdir home; mount -t tmpfs -o noexec,mode=777 tmpfs home",
        ],
        before: "unset RL_ROOT; HOME=$DIR/home",
        cells: &[],
    },
    Row {
        name: "a_store_mounted_noexec_without_overlay_and_fuse",
        missing: "that, an overlay, and `/dev/fuse`",
        made: &[
            "--hide",
            "/dev/fuse",
            "--prepare",
            "mkdir lower upper work store; mount -t overlay -o noexec,lowerdir=lower,upperdir=upper,workdir=work overlay store; chown \"$AS_USER\" store; chmod 700 store",
        ],
        before: "",
        cells: &[
            ("run", Code("RL-F02")),
            ("./FILE", Code("RL-F02")),
            ("run -u 1000", Code("RL-F02")),
            ("run -d", Code("RL-F02")),
            ("exec", Nothing),
            ("stats", Nothing),
            ("pause", Nothing),
            ("--network pasta", Code("RL-F02")),
        ],
    },
    Row {
        name: "a_store_mounted_nosuid_and_nodev",
        missing: "set-user-id programs in the store (`nosuid`, `nodev`)",
        made: &[
            "--prepare",
            "mkdir store; mount -t tmpfs -o nosuid,nodev,mode=700 tmpfs store; chown \"$AS_USER\" store",
        ],
        before: "",
        cells: &[],
    },
    Row {
        name: "a_full_disk",
        missing: "room on the disk",
        made: &[
            "--prepare",
            "mkdir store; mount -t tmpfs -o size=800k,mode=700 tmpfs store; chown \"$AS_USER\" store",
        ],
        before: "",
        cells: nothing_fits!(),
    },
    Row {
        name: "no_inodes",
        missing: "room for files (inodes)",
        made: &[
            "--prepare",
            "mkdir store; mount -t tmpfs -o nr_inodes=60,mode=700 tmpfs store; chown \"$AS_USER\" store",
        ],
        before: "",
        cells: nothing_fits!(),
    },
    Row {
        name: "a_user_without_a_name",
        missing: "an entry in `/etc/passwd`, and `HOME`",
        made: &["--uid", "54321"],
        before: "unset RL_ROOT HOME; \"$RL\" system reset -f >/dev/null 2>&1",
        cells: &[
            (
                "pull",
                Less(&[
                    "cannot find your home directory: HOME is not set and /etc/passwd does not list you: keeping images and containers in `/var/tmp/rl-54321` (rl explain RL-S05)",
                    noted!(
                        "no range of subordinate ids for `54321` in /etc/subuid",
                        "RL-S01"
                    ),
                ]),
            ),
            (
                "run",
                Less(&[one_id!(
                    "no range of subordinate ids for `54321` in /etc/subuid",
                    "RL-S01"
                )]),
            ),
            (
                "./FILE",
                Less(&[one_id!(
                    "no range of subordinate ids for `54321` in /etc/subuid",
                    "RL-S01"
                )]),
            ),
            (
                "run -u 1000",
                Less(&[one_user!(
                    "no range of subordinate ids for `54321` in /etc/subuid",
                    "RL-S01"
                )]),
            ),
            (
                "run -d",
                Less(&[one_id!(
                    "no range of subordinate ids for `54321` in /etc/subuid",
                    "RL-S01"
                )]),
            ),
            (
                "--network pasta",
                Less(&[one_id!(
                    "no range of subordinate ids for `54321` in /etc/subuid",
                    "RL-S01"
                )]),
            ),
        ],
    },
    Row {
        name: "an_id_above_65535_and_thirty_groups",
        missing: "an id below 65536 (and 30 supplementary groups)",
        made: &["--uid", "4200000", "--groups", "30"],
        before: "",
        cells: every_run!(
            noted!(
                "no range of subordinate ids for `4200000` in /etc/subuid",
                "RL-S01"
            ),
            one_id!(
                "no range of subordinate ids for `4200000` in /etc/subuid",
                "RL-S01"
            ),
            one_user!(
                "no range of subordinate ids for `4200000` in /etc/subuid",
                "RL-S01"
            )
        ),
    },
    Row {
        name: "thirty_groups",
        missing: "nothing, but 30 supplementary groups",
        made: &["--groups", "30"],
        before: "",
        cells: &[],
    },
    Row {
        name: "a_closed_umask",
        missing: "rights for others (`umask 077`)",
        made: &[],
        before: "umask 077",
        cells: &[],
    },
    Row {
        name: "a_read_only_sys",
        missing: "a `/sys` that can be written to",
        made: &[
            "--no-cgroup",
            "--prepare",
            "mount --rbind /sys /sys; mount -o remount,bind,ro /sys",
        ],
        before: "",
        cells: &[("pause", Code("RL-C01"))],
    },
    Row {
        name: "no_user_namespaces_left",
        missing: "user namespaces (`user.max_user_namespaces=0`)",
        made: &["--most", "user=0"],
        before: "",
        cells: nothing_runs!("RL-U03"),
    },
    Row {
        name: "no_mount_namespaces_left",
        missing: "mount namespaces (`user.max_mnt_namespaces=0`)",
        made: &["--most", "mnt=0"],
        before: "",
        cells: nothing_runs!("RL-U03"),
    },
    Row {
        name: "no_network_namespaces_left",
        missing: "network namespaces (`user.max_net_namespaces=0`)",
        made: &["--most", "net=0"],
        before: "",
        cells: &[
            ("run", Less(&[NO_NET])),
            ("./FILE", Less(&[NO_NET])),
            ("run -u 1000", Less(&[NO_NET])),
            ("run -d", Less(&[NO_NET])),
            ("--network pasta", Code("RL-U03")),
        ],
    },
    Row {
        name: "a_kernel_without_user_namespaces",
        missing: "user namespaces (as a kernel without them answers: EINVAL)",
        made: &["--refuse", "userns=EINVAL"],
        before: "",
        cells: nothing_runs!("RL-U01"),
    },
    Row {
        name: "an_outer_filter_that_forbids_user_namespaces",
        missing: "user namespaces (an outer filter answers EPERM)",
        made: &["--refuse", "userns=EPERM"],
        before: "",
        cells: nothing_runs!("RL-U05"),
    },
    Row {
        name: "an_outer_filter_that_hides_user_namespaces",
        missing: "user namespaces (an outer filter answers ENOSYS)",
        made: &["--refuse", "userns"],
        before: "",
        cells: nothing_runs!("RL-U05"),
    },
    Row {
        name: "no_openat2",
        missing: "`openat2`",
        made: &["--refuse", "openat2"],
        before: "",
        cells: &[],
    },
    Row {
        name: "no_openat2_by_eperm",
        missing: "`openat2` (EPERM)",
        made: &["--refuse", "openat2=EPERM"],
        before: "",
        cells: &[],
    },
    Row {
        name: "no_fsopen",
        missing: "`fsopen`",
        made: &["--refuse", "fsopen"],
        before: "",
        cells: &[],
    },
    Row {
        name: "no_mount_setattr",
        missing: "`mount_setattr`",
        made: &["--refuse", "mount_setattr"],
        before: "",
        cells: &[],
    },
    Row {
        name: "no_clone3",
        missing: "`clone3`",
        made: &["--refuse", "clone3"],
        before: "",
        cells: &[],
    },
    Row {
        name: "no_close_range",
        missing: "`close_range`",
        made: &["--refuse", "close_range"],
        before: "",
        cells: &[],
    },
    Row {
        name: "no_pidfd_open",
        missing: "`pidfd_open`",
        made: &["--refuse", "pidfd_open"],
        before: "",
        cells: &[
            ("run -d", Code("RL-K06")),
            ("exec", Nothing),
            ("stats", Nothing),
            ("pause", Nothing),
        ],
    },
    Row {
        name: "none_of_the_newer_calls",
        missing: "all calls since Linux 5.2 but `pidfd_open`",
        made: &[
            "--refuse",
            "openat2,open_tree,move_mount,fsopen,fsconfig,fsmount,mount_setattr,clone3,close_range",
        ],
        before: "",
        cells: &[],
    },
    Row {
        name: "inside_bubblewrap",
        missing: "what bubblewrap takes: `no_new_privs`, devices, parts of `/proc`",
        made: &[],
        before: "outer='bwrap --dev-bind / / --unshare-pid --proc /proc --dev /dev --die-with-parent'",
        cells: &[
            ("pull", Less(&[NO_POWER_PULL])),
            ("run", Less(&[NO_POWER, NO_TUN])),
            ("./FILE", Less(&[NO_POWER, NO_TUN, UNPACKED])),
            ("run -u 1000", Less(&[NO_POWER_USER, NO_TUN])),
            ("run -d", Less(&[NO_POWER, NO_TUN])),
            ("--network pasta", Code("RL-N01")),
        ],
    },
    Row {
        name: "inside_unshare",
        missing: "all ids but one (inside `unshare --map-root-user`)",
        made: &[],
        before: "outer='unshare --map-root-user --mount --pid --fork --mount-proc'",
        cells: every_run!(OUTER_ONE_PULL, OUTER_ONE, OUTER_ONE_USER),
    },
    Row {
        name: "inside_podman",
        missing: "what podman takes, with `--security-opt seccomp=unconfined`: devices, parts of `/proc`",
        made: &[],
        before: "outer=$(in_podman '--security-opt seccomp=unconfined')",
        cells: PODMAN,
    },
    Row {
        name: "inside_podman_as_it_comes",
        missing: "what podman takes: that, and the host name",
        made: &[],
        before: "outer=$(in_podman)",
        cells: &[
            ("pull", Less(&[OUTER_PULL])),
            ("run", Less(&[OUTER, NO_TUN, NO_PROC, NO_NAME])),
            ("./FILE", Less(&[OUTER, NO_TUN, NO_PROC, NO_NAME, UNPACKED])),
            ("run -u 1000", Less(&[OUTER, NO_TUN, NO_PROC, NO_NAME])),
            ("run -d", Less(&[OUTER, NO_TUN, NO_PROC, NO_NAME])),
            ("pause", Code("RL-C03")),
            ("--network pasta", Code("RL-N01")),
        ],
    },
];

const PODMAN: &[(&str, Cell)] = &[
    ("pull", Less(&[OUTER_PULL])),
    ("run", Less(&[OUTER, NO_TUN, NO_PROC])),
    ("./FILE", Less(&[OUTER, NO_TUN, NO_PROC, UNPACKED])),
    ("run -u 1000", Less(&[OUTER, NO_TUN, NO_PROC])),
    ("run -d", Less(&[OUTER, NO_TUN, NO_PROC])),
    ("pause", Code("RL-C03")),
    ("--network pasta", Code("RL-N01")),
];

const ON_OVERLAY: &str = "mkdir lower upper work store; mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay store; chown \"$AS_USER\" store; chmod 700 store";
const NO_OVERLAY_FUSE: &str =
    "the kernel mounts no overlay here (…): using fuse-overlayfs (rl explain RL-F03)";
const UNPACKED: &str = "cannot mount `…`: …: unpacking it for this container, which takes time and space (rl explain RL-F04)";
const NO_OVERLAY_COPY: &str = "no overlay can be mounted (…): copying the image, which takes time and space (rl explain RL-F03)";
const NO_NAME: &str = "the host name cannot be set, for an outer container forbids it: …: keeping that of this machine (rl explain RL-U05)";
const NO_NET: &str = "the kernel allows no more network namespaces (user.max_net_namespaces): using the host's network (rl explain RL-U03)";

/// What the manual shows.
pub fn page() -> String {
    let mut text = PAGE.to_owned();
    let mut lines: Vec<&str> = Vec::new();
    text += "\n## The machines\n\n| what is missing |";
    for (name, _) in COMMANDS {
        text += &format!(" `{name}` |");
    }
    text += &format!("\n|{}\n", " --- |".repeat(COMMANDS.len() + 1));
    for row in HOST {
        text += &format!("| {} |", row.missing);
        for (command, _) in COMMANDS {
            let cell = match row.cell(command) {
                Cell::Works => "works".to_owned(),
                Nothing => "–".to_owned(),
                Code(code) => code.to_owned(),
                Less(said) => {
                    let number = |line: &&'static str| {
                        let at = lines.iter().position(|known| known == line);
                        let at = at.unwrap_or_else(|| {
                            lines.push(line);
                            lines.len() - 1
                        });
                        format!("[{}]", at + 1)
                    };
                    said.iter().map(number).collect::<Vec<_>>().join(" ")
                }
            };
            text += &format!(" {cell} |");
        }
        text.push('\n');
    }
    text += "\n## The lines\n\n";
    for (position, line) in lines.iter().enumerate() {
        text += &format!("{}. `{}`\n", position + 1, line.replace('`', "'"));
    }
    text
}

const PAGE: &str = "# Machines that give less

Made from the table of `tests/it/machines/table.rs`, each row of which is a test; do not edit (`UPDATE_EXPECT=1` writes it).

*works*: all of it, and nothing is said. A number: it works, and `rl` says what it gave up, in the line of that number below. A code: it
does not, and the message names the code (`rl explain CODE`). –: there is no container to try it on.

What only root of a whole machine can take away is in `tests/vm/machines.rs`, in a virtual machine: user namespaces switched off (`RL-U02`, with the line for the
administrator), the modules `overlay` (fuse-overlayfs stands in) and `tun` (the host's network), the processes of others (`hidepid=2`: all works), a home on NFS (the store is put
elsewhere), all capabilities by a profile of AppArmor's (a code and a remedy); `tests/vm/nfs.rs` has a store on NFS.
";
