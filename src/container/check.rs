//! Whether all that a store has beside its images is whole and true: containers, names, leftovers, sockets. Its images are
//! seen to by `image::verify`.
//!
//! Looks, and repairs on request what can be repaired without losing anything of the user's. What somebody is at work
//! in is never a finding. Prints nothing.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;

use super::record::{self, Record};
use super::state::{State, Status};
use crate::cgroup::life;
use crate::idmap::{self, Available};
use crate::image::list::Lists;
use crate::image::reference::Digest;
use crate::image::verify::{Finding, How, REPAIR, said};
use crate::image::{partial, scratch};
use crate::paths::{self, Store};
use crate::spec::{ContainerSpec, Rootfs, UserNs};
use crate::sys;

/// What is younger may be in the making: nobody has locked it yet.
const YOUNG: Duration = Duration::from_secs(2);

/// The container that stands on this tree, if one does: one that runs, or that somebody is at work with now.
#[must_use]
pub fn standing_on(store: &Store, diff_id: &Digest) -> Option<String> {
    let text = diff_id.to_string();
    let records = Record::all(store).ok()?;
    records.iter().find_map(|record| {
        let spec = record.spec().ok()?;
        let Rootfs::Layers { diff_ids } = &spec.rootfs else {
            return None;
        };
        let runs = || {
            record
                .state()
                .is_ok_and(|state| matches!(state.status, Status::Running | Status::Restarting))
        };
        let is_held = || matches!(record.try_lock(), Ok(None));
        (diff_ids.contains(&text) && (is_held() || runs())).then_some(spec.name)
    })
}

/// Looks at everything.
///
/// # Errors
/// When the store cannot be read at all.
pub fn all(store: &Store, how: How) -> Result<Vec<Finding>> {
    let mut check = Check {
        store,
        how,
        findings: Vec::new(),
    };
    check.containers()?;
    check.names();
    check.leftovers();
    if how.repairs {
        // Groups take no space and belong to no store: no finding, as for every command that sweeps.
        life::sweep(life::IDLE);
    }
    check.sockets();
    check.mounts();
    check.lists();
    check.ids();
    Ok(check.findings)
}

struct Check<'a> {
    store: &'a Store,
    how: How,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn find(&mut self, problem: String, remedy: impl Into<String>) {
        self.findings.push(Finding::new(problem, remedy));
    }

    /// As [`Check::find`], for what can be repaired; what resists is said.
    fn mend(&mut self, problem: String, does: &str, repair: impl FnOnce() -> Result<()>) {
        self.findings
            .push(Finding::mend(self.how, problem, does, repair));
    }

    fn containers(&mut self) -> Result<()> {
        let mut records = Record::all(self.store)?;
        records.sort_by(|a, b| a.id.cmp(&b.id));
        for record in records {
            // Whoever holds it changes it now, and one that is gone is nobody's concern.
            let lock = match record.try_lock() {
                Ok(lock) => lock,
                Err(_) if !record.dir().exists() => continue,
                Err(error) => {
                    let id = short(&record.id);
                    let remedy = format!("remove it with what it has written: rl rm -f {id}");
                    self.find(format!("container {id}: {}", said(&error)), remedy);
                    continue;
                }
            };
            let spec = record.spec();
            let spec = match spec {
                Ok(spec) => spec,
                Err(error) => {
                    let id = short(&record.id);
                    let remedy = format!(
                        "keep what it has written (`{}`), then: rl rm -f {id}",
                        record.dir().join("upper").display()
                    );
                    self.find(format!("container {id}: {}", said(&error)), remedy);
                    continue;
                }
            };
            self.state(&record, &spec, lock.is_some());
            let link = self.store.names().join(&spec.name);
            match std::fs::read_link(&link) {
                Ok(id) if id.to_str() == Some(&record.id) => {}
                Ok(_) => self.find(
                    format!(
                        "container {}: its name `{}` leads to another one",
                        short(&record.id),
                        spec.name
                    ),
                    format!("give it another name: rl rename {} NAME", short(&record.id)),
                ),
                Err(_) => self.mend(
                    format!("container `{}`: no name leads to it", spec.name),
                    "its name is claimed again",
                    || std::os::unix::fs::symlink(&record.id, &link).context("claiming the name"),
                ),
            }
        }
        Ok(())
    }

    /// `is_free`: we hold its lock, so nobody writes it.
    fn state(&mut self, record: &Record, spec: &ContainerSpec, is_free: bool) {
        let name = &spec.name;
        let state = match State::read(&record.dir()) {
            Ok(state) => state,
            Err(error) if is_free && !said(&error).contains("has version") => {
                return self.mend(
                    format!("container `{name}`: {}", said(&error)),
                    "it counts as ended, the damaged file is set aside as state.json.damaged",
                    || set_aside(record),
                );
            }
            Err(error) => {
                return self.find(
                    format!("container `{name}`: {}", said(&error)),
                    format!("stop it, or remove it: rl rm -f {name}"),
                );
            }
        };
        let settled = state.clone().settled();
        if settled != state && is_free {
            self.mend(
                format!(
                    "container `{name}`: it is written down as {}, and does not run",
                    state.status.word()
                ),
                "its end is written down",
                || {
                    settled.write(&record.dir())?;
                    // We hold the lock: whoever listened there is dead.
                    if let Ok(path) = paths::monitor_socket(&record.id) {
                        let _ = std::fs::remove_file(path);
                    }
                    Ok(())
                },
            );
        } else if is_free && settled.status == Status::Running {
            self.find(
                format!("container `{name}`: its program runs, and nobody waits for it"),
                format!("rl rm -f {name}"),
            );
        }
    }

    /// Whose the files are: the damaged layers are found by `image::verify`.
    fn ids(&mut self) {
        let available = Available::of(self.store);
        if let Some(fail) = idmap::changed::look(self.store, &available) {
            let store = self.store;
            self.mend(fail.message, "the new ones count from now on", || {
                idmap::changed::note(store, &available)
            });
        }
    }

    /// Names that lead nowhere.
    fn names(&mut self) {
        for entry in entries(&self.store.names()) {
            let Ok(id) = std::fs::read_link(&entry) else {
                self.find(
                    format!("`{}` is no container's name", entry.display()),
                    "move it away",
                );
                continue;
            };
            let mut making = id.clone().into_os_string();
            making.push(".new");
            let is_claimed = self.store.containers().join(&id).exists()
                || self.store.tmp().join(making).exists();
            if !is_claimed && !is_young(&entry) {
                self.mend(
                    format!("the name `{}` leads to no container", file_name(&entry)),
                    "it is given up",
                    || std::fs::remove_file(&entry).context("removing the name"),
                );
            }
        }
    }

    /// What killed commands have left under `tmp/`.
    fn leftovers(&mut self) {
        let litter = |store: &Store| -> Vec<PathBuf> {
            let all = entries(&store.tmp());
            all.into_iter()
                .filter(|path| is_litter(store, path))
                .collect()
        };
        let before = litter(self.store);
        if self.how.repairs {
            // What is too young to be called litter, too: the locks say whether somebody is at work there.
            let _ = scratch::sweep(self.store); // what stays is found below
            let available = Available::of(self.store);
            if let Ok((plan, _)) = idmap::plan(&UserNs::Auto, &available) {
                record::sweep(self.store, &plan, available.helpers.as_ref().ok());
            }
        }
        for path in before {
            let problem = format!("`{}` was left by a command that was killed", path.display());
            self.findings.push(if !path.exists() {
                Finding {
                    problem,
                    remedy: "it is removed".to_owned(),
                    repaired: true,
                }
            } else if is_ours(&path) {
                Finding {
                    problem,
                    remedy: REPAIR.to_owned(),
                    repaired: false,
                }
            } else {
                let problem = format!("`{}` is nothing that rl has made", path.display());
                Finding {
                    problem,
                    remedy: "move it away".to_owned(),
                    repaired: false,
                }
            });
        }
    }

    /// Sockets that nobody listens on.
    fn sockets(&mut self) {
        let Ok(dir) = paths::runtime_dir() else {
            return; // without one there are no sockets; `rl doctor` says why
        };
        for path in entries(&dir) {
            let name = file_name(&path);
            let is_socket = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
            if is_socket && !is_young(&path) && UnixStream::connect(&path).is_err_and(refused) {
                self.mend(
                    format!("nobody listens on the socket `{}`", path.display()),
                    "it is removed",
                    || std::fs::remove_file(&path).context("removing the socket"),
                );
            }
        }
    }

    /// Everything that is mounted for a container is mounted where only it sees it.
    fn mounts(&mut self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        // As the kernel writes it: without links.
        let Ok(opened) = sys::fs::open_trusted(self.store.root(), OFlags::PATH) else {
            return;
        };
        let Ok(root) = std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())) else {
            return;
        };
        for target in table.lines().filter_map(|line| line.split(' ').nth(4)) {
            let target = Path::new(target);
            if target.starts_with(&root) && target != root {
                self.find(
                    format!("something is mounted on `{}`", target.display()),
                    format!("umount {}", target.display()),
                );
            }
        }
    }

    /// Lists of images.
    fn lists(&mut self) {
        match Lists::open(self.store).each() {
            Ok(lists) => {
                for error in lists.into_iter().filter_map(|(_, list)| list.err()) {
                    self.find(said(&error), "remove the file, and make the list again");
                }
            }
            Err(error) => self.find(said(&error), "see what is wrong with the disk"),
        }
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// What is in a directory, in order; nothing where there is none.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn is_young(path: &Path) -> bool {
    let made = std::fs::symlink_metadata(path).and_then(|meta| meta.modified());
    made.ok()
        .and_then(|time| time.elapsed().ok())
        .is_none_or(|age| age < YOUNG)
}

/// Whether the name is one of those under which work is done in `tmp/`.
fn is_ours(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    matches!(ending, Some("lock" | "new" | "removed" | "container"))
        || partial::is_part(&file_name(path))
        || path
            .with_file_name(format!("{}.lock", file_name(path)))
            .exists()
}

/// Whether nobody is at work in this entry of `tmp/`.
fn is_litter(store: &Store, path: &Path) -> bool {
    let name = file_name(path);
    let is_held = |lock: &Path| File::open(lock).is_ok_and(|lock| lock.try_lock().is_err());
    if is_young(path) || !path.exists() {
        return false;
    }
    if let Some(id) = name.strip_suffix(".container") {
        let waits = |record: &Record| {
            let is_new = record
                .state()
                .is_ok_and(|state| state.status == Status::Created);
            is_new && record.spec().is_ok_and(|spec| spec.detached)
        };
        let record = Record::find(store, id);
        return !record.is_ok_and(|record| is_held(&record.dir().join("lock")) || waits(&record));
    }
    if name.ends_with(".new") || name.ends_with(".removed") {
        return !is_held(&path.join("lock"));
    }
    if name.ends_with(".lock") {
        return !is_held(path);
    }
    if partial::is_part(&name) {
        return partial::is_old(path) && !is_held(path);
    }
    let lock = path.with_file_name(format!("{name}.lock"));
    !is_held(&lock)
}

/// Begins the state anew: an ended container, whose layer and log are what they were.
fn set_aside(record: &Record) -> Result<()> {
    let path = record.dir().join("state.json");
    match std::fs::rename(&path, record.dir().join("state.json.damaged")) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        done => done.context("setting the damaged file aside")?,
    }
    let mut state = State::new();
    state.status = Status::Exited;
    state.exit_code = 137;
    state.error = Some("its state.json was damaged".to_owned());
    state.write(&record.dir())
}
