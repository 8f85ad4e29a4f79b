//! Whether all that a store has is whole and true: containers, names, leftovers, sockets, images.
//!
//! Looks, and repairs on request what can be repaired without losing anything of the user's. What somebody is at work
//! in is never a finding. Prints nothing.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::record::{self, Record};
use super::state::{State, Status};
use crate::cgroup::place;
use crate::error;
use crate::idmap::{self, Available};
use crate::image::list::Lists;
use crate::image::reference::Digest;
use crate::image::store::Images;
use crate::image::{partial, scratch};
use crate::paths::{self, Store};
use crate::spec::{ContainerSpec, Rootfs, UserNs};
use crate::sys;

/// What is younger may be in the making: nobody has locked it yet.
const YOUNG: Duration = Duration::from_secs(2);

/// How much to look at, and whether to touch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How {
    /// Files of images are not read: no digest is compared.
    pub is_quick: bool,
    /// Repair what can be.
    pub repairs: bool,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// What, and what is wrong with it.
    pub problem: String,
    /// What the user can do, or what `--repair` does.
    pub remedy: String,
    /// It was wrong, and is right now.
    pub repaired: bool,
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
        place::sweep(place::IDLE);
    }
    check.sockets();
    check.mounts();
    check.images();
    Ok(check.findings)
}

struct Check<'a> {
    store: &'a Store,
    how: How,
    findings: Vec<Finding>,
}

/// What `--repair` does, for the remedy.
const REPAIR: &str = "rl system check --repair";

impl Check<'_> {
    fn find(&mut self, problem: String, remedy: impl Into<String>) {
        self.findings.push(Finding {
            problem,
            remedy: remedy.into(),
            repaired: false,
        });
    }

    /// As [`Check::find`], for what can be repaired; what resists is said.
    fn mend(&mut self, problem: String, does: &str, repair: impl FnOnce() -> Result<()>) {
        let mut finding = Finding {
            problem,
            remedy: format!("{does}: {REPAIR}"),
            repaired: false,
        };
        if self.how.repairs {
            match repair() {
                Ok(()) => {
                    does.clone_into(&mut finding.remedy);
                    finding.repaired = true;
                }
                Err(error) => finding.problem = format!("{}; {error:#}", finding.problem),
            }
        }
        self.findings.push(finding);
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
            self.layers_of(&spec);
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
                || settled.write(&record.dir()),
            );
        } else if is_free && settled.status == Status::Running {
            self.find(
                format!("container `{name}`: its program runs, and nobody waits for it"),
                format!("rl rm -f {name}"),
            );
        }
    }

    fn layers_of(&mut self, spec: &ContainerSpec) {
        let Rootfs::Layers { diff_ids } = &spec.rootfs else {
            return;
        };
        let images = Images::open(self.store);
        let missing = diff_ids.iter().filter(|text| {
            Digest::parse(text).is_ok_and(|diff_id| !images.layer_dir(&diff_id).join("fs").is_dir())
        });
        let count = missing.count();
        if count > 0 {
            let image = spec.image.as_ref().map(|image| image.reference.as_str());
            self.find(
                format!(
                    "container `{}`: {count} layers of its image are missing",
                    spec.name
                ),
                format!(
                    "fetch the image again: rl pull {}",
                    image.unwrap_or("IMAGE")
                ),
            );
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
        if before.is_empty() {
            return;
        }
        if self.how.repairs {
            let _ = scratch::sweep(self.store); // what stays is found below
            let available = Available::probe();
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

    fn images(&mut self) {
        let images = Images::open(self.store);
        for (name, image) in match images.each() {
            Ok(each) => each,
            Err(error) => return self.find(said(&error), "pull or load the images again"),
        } {
            let image = match image {
                Ok(image) => image,
                Err(error) => {
                    self.find(
                        format!("image {name}: {}", said(&error)),
                        format!("rl rmi {name}, and fetch it again"),
                    );
                    continue;
                }
            };
            for diff_id in &image.config.rootfs.diff_ids {
                let problem = match images.layer(diff_id) {
                    Ok(Some(_)) if images.layer_dir(diff_id).join("fs").is_dir() => continue,
                    Ok(_) => format!("layer {} is missing", short(diff_id.hex())),
                    Err(error) => said(&error),
                };
                self.find(
                    format!("image {name}: {problem}"),
                    format!("rl pull {name}"),
                );
            }
        }
        match Lists::open(self.store).each() {
            Ok(lists) => {
                for error in lists.into_iter().filter_map(|(_, list)| list.err()) {
                    self.find(said(&error), "remove the file, and make the list again");
                }
            }
            Err(error) => self.find(said(&error), "see what is wrong with the disk"),
        }
        if self.how.is_quick {
            return;
        }
        for path in entries(&self.store.images().join("blobs/sha256")) {
            match digest_of(&path) {
                Ok(digest) if digest.hex() == file_name(&path) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {} // its image was removed meanwhile
                Ok(_) => self.find(
                    format!(
                        "`{}` is damaged: its content is not what its name says",
                        path.display()
                    ),
                    "remove the images that have it with `rl rmi`, and fetch them again",
                ),
                Err(error) => self.find(
                    format!("`{}` cannot be read: {error}", path.display()),
                    "see what is wrong with the disk",
                ),
            }
        }
    }
}

/// The first line of an error as the user would see it.
fn said(error: &anyhow::Error) -> String {
    let text = error::report(error);
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("rl: ").unwrap_or(line).to_owned()
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

fn digest_of(path: &Path) -> std::io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_sha256(hasher.finalize().into())),
            length => hasher.update(&buffer[..length]),
        }
    }
}
