//! What goes out of the store: a name, an image with its last one, or all there is.
//!
//! What images share stays while another one needs it: see `image::unused`.

use anyhow::Result;
use rustix::io::Errno;

use super::index::{meant, names_match, set_name};
use super::{Images, REF_NAME, Usage, remove_file, short};
use crate::error::Fail;
use crate::image::manifest::Descriptor;
use crate::image::reference::{Digest, Reference};
use crate::sys;

/// Everything below the store's root.
const STORED: [&str; 13] = [
    "owners",
    "ids",
    "squash",
    "containers",
    "names",
    "volumes",
    "networks",
    "layers",
    "images",
    "manifests",
    "tmp",
    "events.jsonl",
    "events.jsonl.1",
];

/// Whether to remove what others may still want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// `--force`.
    Yes,
    /// Rather refuse.
    No,
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name, in docker's short form.
    Untagged(String),
    /// An image.
    Deleted(Digest),
}

impl Images {
    /// Removes a name, and the image with its last one, as docker does. `used` lists all containers.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when an id stands for several names, or a container needs the image.
    pub fn remove(&self, text: &str, force: Force, used: &[Usage]) -> Result<Vec<Removed>> {
        let lock = self.lock()?;
        let mut index = self.read_index()?;
        let Some(entry) = self.entry(&index, text)?.cloned() else {
            return Err(Fail::not_found(format!("no image `{text}`"))
                .hint("`rl images` lists them")
                .into());
        };
        let text = &*meant(&index, text);
        // A damaged image must be removable: its manifest may be unreadable.
        let image = self.read_image(&index, &entry).ok();
        let same = |other: &Descriptor| {
            other.digest == entry.digest
                || image
                    .as_ref()
                    .is_some_and(|image| self.id_of(other).is_ok_and(|id| id == image.id))
        };
        let all: Vec<Descriptor> = index
            .manifests
            .iter()
            .filter(|other| same(other))
            .cloned()
            .collect();
        let by_name = names_match(&entry, text);
        let goes: Vec<&Descriptor> = if by_name {
            all.iter()
                .filter(|other| names_match(other, text))
                .collect()
        } else {
            all.iter().collect()
        };
        let named = |entries: &[&Descriptor]| {
            entries
                .iter()
                .filter_map(|entry| entry.annotations.get(REF_NAME).cloned())
                .collect::<Vec<_>>()
        };
        if !by_name && named(&goes).len() > 1 && force == Force::No {
            return Err(Fail::conflict(format!(
                "image `{text}` has several names: {}",
                named(&goes)
                    .iter()
                    .map(|name| short(name))
                    .collect::<Vec<_>>()
                    .join(", ")
            ))
            .hint("remove them one by one, or all with --force")
            .into());
        }
        let last = goes.len() == all.len();
        if last
            && force == Force::No
            && let Some(image) = &image
            && let Some(user) = used.iter().find(|user| user.image == image.id.to_string())
        {
            return Err(Fail::conflict(format!(
                "image `{text}` is used by the container `{}`",
                user.container
            ))
            .hint(format!(
                "remove that first with `rl rm {}`, or use --force",
                user.container
            ))
            .into());
        }

        let mut removed: Vec<Removed> = named(&goes)
            .iter()
            .map(|name| Removed::Untagged(short(name)))
            .collect();
        let goes: Vec<Descriptor> = goes.into_iter().cloned().collect();
        index.manifests.retain(|other| !goes.contains(other));
        self.write_index(&index)?;
        if last {
            let litter = self.remove_unused(&index, &all, image.as_ref(), used)?;
            removed.push(Removed::Deleted(match image {
                Some(image) => image.id,
                None => entry.digest,
            }));
            drop(lock);
            drop(litter); // deleting a large tree takes time; nobody needs to wait for it
        }
        Ok(removed)
    }

    /// Takes names away from the image that `text` means, all where none are given; the image stays. Returns them
    /// in docker's short form.
    ///
    /// # Errors
    /// `NotFound` when there is no such image, or it does not have a name.
    pub fn untag(&self, text: &str, names: &[Reference]) -> Result<Vec<String>> {
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        let Some(entry) = self.entry(&index, text)?.cloned() else {
            return Err(Fail::not_found(format!("no image `{text}`"))
                .hint("`rl images` lists them")
                .into());
        };
        let id = self.id_of(&entry)?;
        let mut gone = Vec::new();
        let mut kept = entry.clone();
        for other in std::mem::take(&mut index.manifests) {
            let same = self.id_of(&other).is_ok_and(|other| other == id);
            let name = other.annotations.get(REF_NAME).cloned();
            match name.filter(|_| same) {
                Some(name)
                    if names.is_empty() || names.iter().any(|given| given.to_string() == name) =>
                {
                    kept = other;
                    gone.push(name);
                }
                Some(_) | None => index.manifests.push(other),
            }
        }
        if let Some(missing) = names.iter().find(|name| !gone.contains(&name.to_string())) {
            return Err(Fail::not_found(format!(
                "the image `{text}` does not have the name `{}`",
                missing.familiar()
            ))
            .into());
        }
        let listed = |entry: &Descriptor| self.id_of(entry).is_ok_and(|other| other == id);
        if !index.manifests.iter().any(listed) {
            set_name(&mut index, kept, None);
        }
        self.write_index(&index)?;
        Ok(gone.iter().map(|name| short(name)).collect())
    }

    /// Removes all that `rl` keeps below its directory, and nothing else that may be there. Containers are gone already.
    ///
    /// # Errors
    /// `Conflict` when another command is at work; the system's.
    pub fn reset(&self) -> Result<()> {
        let root = self.store.root();
        if !root.exists() {
            return Ok(());
        }
        let lock = self.lock()?;
        if crate::image::scratch::is_busy(&self.store)? {
            return Err(
                Fail::conflict("another `rl` is fetching or removing images")
                    .hint("try again when it is done")
                    .into(),
            );
        }
        // The list of images first: what is left by a crash is then litter, and no image.
        remove_file(&self.index_path())?;
        // Where a program or a server keeps the files, an open one holds its directory: the lock lies in one.
        let in_use: Vec<_> = STORED
            .iter()
            .map(|name| root.join(name))
            .filter_map(|path| remove_file(&path).err().map(|error| (path, error)))
            .collect();
        drop(lock);
        for (path, error) in in_use {
            if sys::errno_of(&error) != Some(Errno::NOTEMPTY) {
                return Err(error);
            }
            match remove_file(&path) {
                // It goes when the server has heard that the lock is closed. The directory is as good as empty.
                Err(error) if sys::errno_of(&error) == Some(Errno::NOTEMPTY) => {}
                other => other?,
            }
        }
        Ok(())
    }
}
