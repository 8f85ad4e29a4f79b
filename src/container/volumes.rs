//! Volumes: directories that outlive containers, `volumes/NAME/` with `_data/` and `volume.json`.
//!
//! Mounting them is the stage's.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::events::Event;
use super::record::{self, Record};
use super::{disk_error, emit, new_id, state};
use crate::error::{self, Fail, Kind};
use crate::idmap::Plan;
use crate::idmap::newuidmap::Helpers;
use crate::paths::Store;
use crate::spec::{ContainerSpec, MountSource};
use crate::sys;

/// The version of `volume.json`.
const VERSION: u32 = 1;

/// A volume, as `volume.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Of this file.
    version: u32,
    /// Its name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// The user's.
    pub labels: BTreeMap<String, String>,
    /// Nobody chose its name.
    pub anonymous: bool,
}

impl Volume {
    /// One that is made now.
    #[must_use]
    pub fn new(name: &str, labels: BTreeMap<String, String>, anonymous: bool) -> Self {
        Self {
            version: VERSION,
            name: name.to_owned(),
            created: state::now(),
            labels,
            anonymous,
        }
    }
}

/// The directories of the volumes that the spec names, made where they are missing. The container is on record:
/// from here on nobody removes them.
///
/// # Errors
/// The system's, with the path.
pub fn make_all(store: &Store, spec: &ContainerSpec) -> Result<Vec<(String, PathBuf)>> {
    let mut volumes = Vec::new();
    for mount in &spec.mounts {
        if let MountSource::Volume { volume, labels, .. } = &mount.source {
            // One of another container's, too: --volumes-from.
            let anonymous = is_of(volume, &spec.id) || is_made_up(volume);
            make(store, &Volume::new(volume, labels.clone(), anonymous))?;
            volumes.push((volume.clone(), store.volume_data(volume)));
        }
    }
    Ok(volumes)
}

/// Whether a container made this volume for itself.
fn is_of(volume: &str, id: &str) -> bool {
    volume.starts_with(id)
}

/// Makes a volume; one of that name stays as it is. Whether it was made.
///
/// # Errors
/// The system's, with the path; nothing is left then.
pub fn make(store: &Store, volume: &Volume) -> Result<bool> {
    store.make(&store.volumes())?;
    let _lock = lock(store, Access::Make)?;
    let path = store.volumes().join(&volume.name);
    // Somebody may take what is old and half made for litter, and then it is made once more.
    for _ in 0..3 {
        if store.volume_data(&volume.name).is_dir() {
            return Ok(false);
        }
        let aside = store.tmp().join(format!("{}.new", new_id()?));
        let data = aside.join("_data");
        store.make(&data)?;
        let text = serde_json::to_vec(volume).context("writing volume.json")?;
        let file = aside.join("volume.json");
        let made = rustix::fs::chmod(&data, rustix::fs::Mode::from_raw_mode(0o755))
            .map_err(std::io::Error::from)
            .and_then(|()| sys::fs::write_atomically(&file, &aside.join("volume.json.new"), &text))
            .and_then(|()| std::fs::rename(&aside, &path));
        let Err(error) = made else {
            emit(store, &Event::volume("create", &volume.name));
            return Ok(true);
        };
        let _ = std::fs::remove_dir_all(&aside); // the next sweep tries again
        // Another command may have been quicker.
        let again = [
            std::io::ErrorKind::NotFound,
            std::io::ErrorKind::DirectoryNotEmpty,
            std::io::ErrorKind::AlreadyExists,
        ];
        if !again.contains(&error.kind()) {
            return Err(disk_error(error, &file));
        }
    }
    if store.volume_data(&volume.name).is_dir() {
        return Ok(false);
    }
    Err(
        Fail::conflict(format!("`{}` is in the way", path.display()))
            .hint("it is no volume: move it elsewhere")
            .into(),
    )
}

/// What a lock is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Make,
    Remove,
}

/// The lock of `volumes/`: nobody takes one away between a container's record and its look for the directory.
fn lock(store: &Store, access: Access) -> Result<File> {
    let dir = store.volumes();
    let locked = File::open(&dir).and_then(|file| {
        match access {
            Access::Make => file.lock_shared()?,
            Access::Remove => file.lock()?,
        }
        Ok(file)
    });
    locked.with_context(|| format!("locking `{}`", dir.display()))
}

/// All volumes by name, and a line for each that cannot be read.
///
/// # Errors
/// When the directory cannot be read.
pub fn all(store: &Store) -> Result<(Vec<Volume>, Vec<String>)> {
    let dir = store.volumes();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(error) => return Err(error).with_context(|| format!("reading `{}`", dir.display())),
    };
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for entry in entries {
        let entry = entry.with_context(|| format!("reading `{}`", dir.display()))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue; // no volume has such a name
        };
        match find(store, &name) {
            Ok(volume) => found.push(volume),
            // Removed meanwhile, or not a volume.
            Err(error) if error::kind(&error) == Kind::NotFound => {}
            Err(error) => damaged.push(format!("{error:#}")),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((found, damaged))
}

/// The volume of that name.
///
/// # Errors
/// `NotFound`; `Corrupt` when its description cannot be understood.
pub fn find(store: &Store, name: &str) -> Result<Volume> {
    let dir = store.volumes().join(name);
    if !crate::spec::is_name(name) || !store.volume_data(name).is_dir() {
        return Err(Fail::not_found(format!("no volume `{name}`"))
            .hint("rl volume ls lists them")
            .into());
    }
    let path = dir.join("volume.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        // Of a version that wrote none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let created = std::fs::metadata(&dir)
                .and_then(|meta| meta.modified())
                .ok()
                .and_then(|time| jiff::Timestamp::try_from(time).ok());
            let mut volume = Volume::new(name, BTreeMap::new(), is_made_up(name));
            if let Some(created) = created {
                volume.created = created.to_string();
            }
            return Ok(volume);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("reading `{}`", path.display()));
        }
    };
    let volume: Volume = serde_json::from_slice(&text).map_err(|error| {
        Fail::corrupt(format!("`{}` is damaged: {error}", path.display()))
            .hint("remove that file: the volume loses its labels and keeps its content")
    })?;
    if volume.version > VERSION {
        return Err(
            Fail::corrupt(format!("`{}` was written by a newer rl", path.display()))
                .hint("use that one")
                .into(),
        );
    }
    Ok(volume)
}

/// `ID-POSITION`: a container's.
fn is_made_up(name: &str) -> bool {
    name.len() > 65
        && name.as_bytes()[64] == b'-'
        && name.bytes().take(64).all(|byte| byte.is_ascii_hexdigit())
}

/// Who has each volume: names of containers, running or not.
#[derive(Debug)]
pub struct Users {
    of: BTreeMap<String, Vec<String>>,
    /// Containers of which nobody knows what they have.
    damaged: Vec<String>,
}

impl Users {
    /// Those of all containers but `except`.
    ///
    /// # Errors
    /// When the directory of containers cannot be read.
    pub fn look(store: &Store, except: Option<&str>) -> Result<Self> {
        let mut users = Self {
            of: BTreeMap::new(),
            damaged: Vec::new(),
        };
        for record in Record::all(store)? {
            if except == Some(record.id.as_str()) {
                continue;
            }
            match record.spec() {
                Ok(spec) => {
                    for mount in spec.mounts {
                        if let MountSource::Volume { volume, .. } = mount.source {
                            users.of.entry(volume).or_default().push(spec.name.clone());
                        }
                    }
                }
                Err(error) if error::kind(&error) == Kind::NotFound => {}
                Err(_) => users.damaged.push(record.id.chars().take(12).collect()),
            }
        }
        Ok(users)
    }

    /// The containers that have this volume.
    #[must_use]
    pub fn of(&self, volume: &str) -> &[String] {
        self.of.get(volume).map_or(&[], Vec::as_slice)
    }

    /// Why it must stay.
    ///
    /// # Errors
    /// `Conflict` when it is, or may be, in use.
    fn check(&self, volume: &str) -> Result<(), Fail> {
        let names = self.of(volume);
        if !names.is_empty() {
            return Err(Fail::conflict(format!(
                "volume `{volume}` is in use by {}",
                names.join(", ")
            ))
            .hint(format!("remove them first: rl rm {}", names.join(" "))));
        }
        if let Some(id) = self.damaged.first() {
            return Err(Fail::conflict(format!(
                "volume `{volume}` may be in use: the description of container {id} is damaged"
            ))
            .hint(format!("remove that container: rl rm -f {id}")));
        }
        Ok(())
    }
}

/// Removes a volume that no container but `except` has.
///
/// # Errors
/// `NotFound`; `Conflict` when it is in use; the system's, with the path that stays.
pub fn remove(
    store: &Store,
    name: &str,
    except: Option<&str>,
    plan: &Plan,
    helpers: Option<&Helpers>,
) -> Result<()> {
    // The description may be damaged, but not the name: it must not lead elsewhere.
    if let Err(error) = find(store, name)
        && error::kind(&error) == Kind::NotFound
    {
        return Err(error);
    }
    store.make(&store.tmp())?;
    let aside = store.tmp().join(format!("{}.removed", new_id()?));
    let lock = lock(store, Access::Remove)?;
    Users::look(store, except)?.check(name)?;
    let path = store.volumes().join(name);
    // Others see all of it or nothing. What is killed from here on is finished by the next sweep.
    match std::fs::rename(&path, &aside) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Fail::not_found(format!("no volume `{name}`")).into());
        }
        done => done.with_context(|| format!("removing `{}`", path.display()))?,
    }
    drop(lock);
    emit(store, &Event::volume("destroy", name));
    record::remove_dir(&aside, plan, helpers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_and_what_is_no_name_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().to_owned());
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let first = Volume::new("v", labels, false);
        assert!(make(&store, &first).unwrap());
        assert!(!make(&store, &Volume::new("v", BTreeMap::new(), true)).unwrap());
        assert_eq!(find(&store, "v").unwrap(), first);
        for bad in ["..", "v/../v", "", "w"] {
            assert!(find(&store, bad).is_err(), "{bad}");
        }
        std::fs::write(dir.path().join("volumes/v/volume.json"), "{").unwrap();
        let (found, damaged) = all(&store).unwrap();
        assert_eq!((found.len(), damaged.len()), (0, 1));
        std::fs::remove_file(dir.path().join("volumes/v/volume.json")).unwrap();
        assert!(!find(&store, "v").unwrap().anonymous);
        assert!(is_made_up(&format!("{}-0", "a".repeat(64))));
        assert!(!is_made_up(&format!("{}-0", "g".repeat(64))));
    }
}
