//! The guest: who does what in it, from which kind of login.

use crate::support::{Output, Run, source};

/// What every script begins with. Waiting is done in the guest: each look from here would cost a command over ssh.
const PRELUDE: &str = r#"
export PATH=/srv:/usr/bin:/usr/sbin
wait_for() { local i; for i in {1..1000}; do if "$@"; then return; fi; sleep 0.1; done; echo "waited in vain for: $*" >&2; return 1; }
is() { [[ $("${@:2}") == "$1" ]]; }
not() { if "$@"; then echo "succeeded: $*" >&2; return 1; fi; } # `set -e` passes over `!`
"#;

/// What root does for `via: "hand"`: hands a group with all controllers to dev, without any systemd, and puts the script into it.
const BY_HAND: &str = r#"
cd /sys/fs/cgroup
mkdir -p "hand/$$"
for group in . hand; do echo '+cpu +cpuset +io +memory +pids' >$group/cgroup.subtree_control; done
for group in hand "hand/$$"; do chown dev $group $group/cgroup.procs $group/cgroup.subtree_control $group/cgroup.threads; done
echo $$ >"hand/$$/cgroup.procs"
cd /home/dev
exec setpriv --reuid dev --regid dev --init-groups --inh-caps=-all env -i HOME=/home/dev USER=dev LOGNAME=dev bash -euc "$1"
"#;

/// A user of the guest and a kind of login; see `scripts/vm`. One more is `hand`.
#[derive(Debug, Clone, Copy)]
pub struct Login {
    pub user: &'static str,
    pub via: &'static str,
}

/// Has subordinate ids and lingers.
pub const DEV: Login = Login::ssh("dev");
/// As [`DEV`], but does not linger; each command is a login of its own.
pub const VISITOR: Login = Login::ssh("visitor");
/// As [`DEV`] in a group that was handed over by hand, without systemd.
pub const HAND: Login = Login {
    user: "dev",
    via: "hand",
};
/// The administrator, who only prepares.
pub const ROOT: Login = Login::ssh("root");

impl Login {
    pub const fn ssh(user: &'static str) -> Self {
        Self { user, via: "ssh" }
    }

    /// A bash script; a command that fails ends it.
    pub fn sh(self, script: &str) -> Run {
        self.with(&[], script)
    }

    fn with(self, options: &[&str], script: &str) -> Run {
        let script = format!("{PRELUDE}{script}");
        let by_hand = self.via == "hand";
        let (user, via) = if by_hand {
            ("root", "ssh")
        } else {
            (self.user, self.via)
        };
        let run = vm("exec")
            .args(["--user", user, "--via", via])
            .args(options)
            .args(["--", "timeout", "--kill-after=5", "400", "bash", "-euc"]);
        if by_hand {
            run.args([BY_HAND, "hand"]).arg(script)
        } else {
            run.arg(script)
        }
    }
}

/// `scripts/vm` with a subcommand.
pub fn vm(subcommand: &str) -> Run {
    Run::new(source().join("scripts/vm")).arg(subcommand)
}

/// A store of its own for one test, with the image `busybox`. What runs in it is removed at the end.
#[derive(Debug)]
pub struct Store {
    pub login: Login,
    pub root: String,
}

impl Store {
    pub fn new(login: Login, name: &str) -> Self {
        let store = Self {
            login,
            root: format!("/home/{}/{name}", login.user),
        };
        store.sh("rl import /srv/busybox.tar busybox").ok();
        store
    }

    /// The same store, seen from another kind of login.
    pub fn sh_via(&self, via: &'static str, script: &str) -> Run {
        self.sh_with(Login { via, ..self.login }, &[], script)
    }

    /// A script in which `rl` uses this store.
    pub fn sh(&self, script: &str) -> Run {
        self.sh_with(self.login, &[], script)
    }

    /// The same, in a session that begins and ends with it.
    pub fn sh_alone(&self, script: &str) -> Run {
        self.sh_with(self.login, &["--alone"], script)
    }

    /// The same, on a terminal.
    pub fn sh_on_terminal(&self, script: &str) -> Run {
        self.sh_with(self.login, &["--tty"], script)
    }

    fn sh_with(&self, login: Login, options: &[&str], script: &str) -> Run {
        login.with(options, &format!("export RL_ROOT={}\n{script}", self.root))
    }

    /// `NAME STATE` of every container, sorted.
    pub fn states(&self) -> Output {
        self.sh("rl ps -a --format '{{.Names}} {{.State}}' | sort")
            .ok()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let removed = self
            .sh("rl ps -aq | xargs --no-run-if-empty rl rm -f")
            .run();
        if !removed.status.success() {
            eprintln!("{}: {}", self.root, removed.stderr);
        }
    }
}

/// What root has changed in the machine; undone at the end, whatever happened.
#[derive(Debug)]
pub struct Made(&'static str);

impl Made {
    pub fn new(make: &str, undo: &'static str) -> Self {
        // Before it is made, so that half of it is undone, too.
        let made = Self(undo);
        ROOT.sh(make).ok();
        made
    }

    /// A directory of dev's on a real NFS server of this version, with its root squashed: `/mnt/nfs/dev`.
    pub fn nfs(version: &str) -> Self {
        Self::new(
            &format!(
                "mkdir -p /export/dev /mnt/nfs; chown dev: /export/dev
                 echo '/export *(rw,sync,no_subtree_check,fsid=1,insecure,root_squash)' >/etc/exports
                 systemctl start nfs-server; exportfs -ra
                 mount -t nfs -o vers={version} 127.0.0.1:/export /mnt/nfs"
            ),
            "umount -l /mnt/nfs; systemctl stop nfs-server; rm -rf /export",
        )
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let output = ROOT.sh(self.0).run();
        if !output.status.success() {
            eprintln!("{}: {}", self.0, output.stderr);
        }
    }
}
