//! Whether a container ends when its user logs out, and what would keep it.
//!
//! Nothing is asked over D-Bus: where its processes lie says who ends them. Source: loginctl(1), logind.conf(5),
//! user@.service(5); `manager_shall_kill` in systemd's `logind-core.c` for who is spared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::record::Record;
use crate::cgroup::place;
use crate::idmap;

/// Where logind keeps the users that linger.
const LINGER: &str = "var/lib/systemd/linger";
/// The users that are logged in, as logind sees them.
const USERS: &str = "run/systemd/users";
/// Where its configuration may be, the first before the others.
const CONFIG: [&str; 4] = ["etc", "run", "usr/local/lib", "usr/lib"];

/// Whether logind keeps this user's systemd without a login.
#[must_use]
pub fn lingers(user: &str) -> bool {
    Path::new("/").join(LINGER).join(user).exists()
}

/// Who ends a group's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The user's systemd, which ends with the last login.
    Manager,
    /// Logind, at the end of the session.
    Session,
}

/// The line about a container that has just been started and would end with the login; `None` where it would not.
#[must_use]
pub fn notice(record: &Record) -> Option<String> {
    if place::batch_job().is_some() {
        return None;
    }
    let state = record.state().ok()?;
    let processes = [state.owner, state.process];
    let groups = processes.into_iter().flatten().filter_map(|process| {
        std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).ok() // it has ended
    });
    let groups: Vec<String> = groups.collect();
    let name = record.spec().ok()?.name;
    line(Path::new("/"), &groups, &name, &idmap::ranges::user_names)
}

/// As [`notice`], of these `/proc/PID/cgroup`s. `names` are those that a uid goes by.
fn line(
    root: &Path,
    groups: &[String],
    container: &str,
    names: &dyn Fn(u32) -> Vec<String>,
) -> Option<String> {
    let (uid, by) = groups.iter().find_map(|text| login(text))?;
    if !root.join(USERS).join(uid.to_string()).exists() {
        return None; // no logind, or none that knows of this login
    }
    let names = names(uid);
    let lingers = names
        .iter()
        .any(|name| root.join(LINGER).join(name).exists());
    match by {
        By::Manager => (!lingers).then(|| {
            format!(
                "container `{container}` ends with your last logout, as your systemd does; what keeps both: \
                 loginctl enable-linger (rl explain RL-R03)"
            )
        }),
        By::Session => kills(root, &names).then(|| {
            let first = if lingers { "" } else { "`loginctl enable-linger`, then " };
            format!(
                "container `{container}` ends when you log out (KillUserProcesses=yes); to keep it: {first}`rl stop \
                 {container}` and `systemd-run --user --scope rl start {container}` (rl explain RL-R03)"
            )
        }),
    }
}

/// Whose login a group belongs to, and which of its parts ends it. Each hierarchy has a line in `/proc/PID/cgroup`;
/// systemd's own is version 2's or, before that, `name=systemd`.
fn login(text: &str) -> Option<(u32, By)> {
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        if !matches!(controllers, "" | "name=systemd") {
            return None;
        }
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let slice = parts.by_ref().find(|part| part.starts_with("user-"))?;
        let uid = slice.strip_prefix("user-")?.strip_suffix(".slice")?;
        let uid = uid.parse().ok()?;
        let unit = parts.next()?;
        if unit == format!("user@{uid}.service") {
            return Some((uid, By::Manager));
        }
        let is_session = unit.starts_with("session-") && unit.ends_with(".scope");
        is_session.then_some((uid, By::Session))
    })
}

/// Whether logind kills what this user leaves in a session.
fn kills(root: &Path, names: &[String]) -> bool {
    let mut main = String::new();
    let mut additions: BTreeMap<String, PathBuf> = BTreeMap::new();
    for dir in CONFIG.iter().rev() {
        let dir = root.join(dir).join("systemd");
        if let Ok(text) = std::fs::read_to_string(dir.join("logind.conf")) {
            main = text;
        }
        for entry in std::fs::read_dir(dir.join("logind.conf.d"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".conf") {
                additions.insert(name, entry.path()); // in place of one of this name further down
            }
        }
    }
    let mut rules = Rules::default();
    // The file as it is delivered has what systemd was built with, as a comment.
    let built: Vec<&str> = main
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .collect();
    rules.read(built.join("\n").as_str());
    rules.read(&main);
    for path in additions.values() {
        rules.read(&std::fs::read_to_string(path).unwrap_or_default()); // removed this moment
    }
    rules.hold(names)
}

/// What logind.conf(5) says of the processes that a user leaves.
#[derive(Debug, Default)]
struct Rules {
    kills: bool,
    only: Vec<String>,
    spared: Option<Vec<String>>,
}

impl Rules {
    fn read(&mut self, text: &str) {
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let value = value.trim();
            let words = || value.split_whitespace().map(str::to_owned);
            match key.trim() {
                "KillUserProcesses" => {
                    self.kills = ["1", "yes", "y", "true", "t", "on"].contains(&value);
                }
                "KillOnlyUsers" if value.is_empty() => self.only.clear(),
                "KillOnlyUsers" => self.only.extend(words()),
                "KillExcludeUsers" if value.is_empty() => self.spared = Some(Vec::new()),
                "KillExcludeUsers" => self.spared.get_or_insert_default().extend(words()),
                _ => {}
            }
        }
    }

    fn hold(&self, names: &[String]) -> bool {
        let root = ["root".to_owned()];
        let spared = self.spared.as_deref().unwrap_or(&root);
        if names.iter().any(|name| spared.contains(name)) {
            return false;
        }
        if self.only.is_empty() {
            return self.kills;
        }
        names.iter().any(|name| self.only.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = "0::/user.slice/user-1001.slice/session-4.scope\n";
    const SCOPE: &str =
        "0::/user.slice/user-1001.slice/user@1001.service/app.slice/rl-0.scope/rl-self\n";

    #[test]
    fn who_ends_a_group_is_in_its_path() {
        assert_eq!(login(SESSION), Some((1001, By::Session)));
        assert_eq!(login(SCOPE), Some((1001, By::Manager)));
        let hybrid = "4:memory:/user.slice/user-7.slice/session-1.scope\n1:name=systemd:/user.slice/user-7.slice/session-1.scope\n0::/\n";
        assert_eq!(login(hybrid), Some((7, By::Session)));
        for none in [
            "",
            "0::/\n",
            "0::/../../x\n",
            "0::/system.slice/cron.service\n",
            "0::/system.slice/slurmstepd.scope/job_1/step_0/user/task_0\n",
            "0::/user.slice/user-1001.slice\n",
            "0::/user.slice/user-1001.slice/user@1002.service/x.scope\n",
            "4:memory:/user.slice/user-7.slice/session-1.scope\n",
        ] {
            assert_eq!(login(none), None, "{none}");
        }
    }

    #[test]
    fn it_is_said_where_a_logout_ends_the_container_and_only_there() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        let put = |path: &str, text: &str| std::fs::write(at(path), text).unwrap();
        let said = |group: &str| {
            line(root.path(), &[group.to_owned()], "c", &|uid| {
                assert_eq!(uid, 1001);
                vec!["ann".to_owned()]
            })
        };
        assert_eq!((said(SESSION), said(SCOPE)), (None, None)); // no logind
        put("run/systemd/users/1001", "");
        assert_eq!(said(SESSION), None);
        let line = said(SCOPE).unwrap();
        assert!(
            line.contains("loginctl enable-linger") && !line.contains('\n'),
            "{line}"
        );

        // Built with it, then configured: each file before the next.
        put(
            "usr/lib/systemd/logind.conf",
            "[Login]\n#KillUserProcesses=yes\n#KillOnlyUsers=\n",
        );
        assert!(
            said(SESSION)
                .unwrap()
                .contains("`loginctl enable-linger`, then")
        );
        put("etc/systemd/logind.conf", "[Login]\nKillUserProcesses=no\n");
        assert_eq!(said(SESSION), None);
        put(
            "etc/systemd/logind.conf.d/5.conf",
            "KillOnlyUsers=bob ann\n",
        );
        assert!(said(SESSION).is_some());
        put(
            "usr/lib/systemd/logind.conf.d/7.conf",
            "KillExcludeUsers=ann\n",
        );
        assert_eq!(said(SESSION), None);
        put("etc/systemd/logind.conf.d/7.conf", "");
        assert!(said(SESSION).is_some());

        put("var/lib/systemd/linger/ann", "");
        assert_eq!(said(SCOPE), None);
        let line = said(SESSION).unwrap();
        assert!(
            line.contains("systemd-run --user --scope") && !line.contains("linger"),
            "{line}"
        );
    }
}
