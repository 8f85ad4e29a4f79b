//! Blobs and trees that nothing needs: what of an image goes with it, and what interrupted commands have left.
//!
//! Part of the store ([`super::store`]), whose lock holds off whoever lists an image meanwhile. Fetching one does not hold it:
//! then its parts vanish before it is listed, which [`Images::add`] notices.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use super::manifest::{Descriptor, Index};
use super::reference::Digest;
use super::scratch::{self, Scratch};
use super::space::{Part, Space};
use super::store::{Images, StoredImage, Usage, remove_file};

impl Images {
    /// All parts that are here and that neither an image nor a container of `used` needs. Where an image is damaged, what
    /// it needs is unknown, and nothing counts as unused.
    ///
    /// # Errors
    /// `Corrupt` when the list of images is damaged; the system's.
    pub fn unused(&self, used: &[Usage]) -> Result<BTreeSet<Part>> {
        let mut parts: BTreeSet<Part> = Space::of(&self.store)?.into_parts().collect();
        self.keep_needed(&mut parts, &self.read_index()?, used);
        Ok(parts)
    }

    /// Removes what [`Images::unused`] finds, and returns it; nothing while another command is at work in the store, for that
    /// may be fetching an image.
    ///
    /// # Errors
    /// As there.
    pub fn remove_all_unused(&self, used: &[Usage]) -> Result<BTreeSet<Part>> {
        let lock = self.lock()?;
        if scratch::is_busy(&self.store)? {
            return Ok(BTreeSet::new());
        }
        let parts = self.unused(used)?;
        let litter = self.take_away(&parts)?;
        drop(lock);
        drop(litter); // deleting a large tree takes time; nobody needs to wait for it
        Ok(parts)
    }

    /// Removes the parts of `gone` that neither another image nor a container needs. Trees are moved
    /// aside; they vanish with what is returned.
    pub(super) fn remove_unused(
        &self,
        index: &Index,
        gone: &[Descriptor],
        image: Option<&StoredImage>,
        used: &[Usage],
    ) -> Result<Option<Scratch>> {
        let mut parts: BTreeSet<Part> = BTreeSet::new();
        for entry in gone {
            parts.insert(Part::Blob(entry.digest.clone()));
            if let Ok(manifest) = self.read_manifest(entry) {
                parts.insert(Part::Blob(manifest.config.digest.clone()));
                let layers = manifest.layers.iter();
                parts.extend(layers.map(|layer| Part::Blob(layer.digest.clone())));
            }
        }
        if let Some(image) = image
            && index
                .manifests
                .iter()
                .all(|other| other.digest != image.manifest_digest)
        {
            remove_file(&self.store.squash_of(image.id.hex()))?;
        }
        let trees = image.map(|image| &image.config.rootfs.diff_ids);
        parts.extend(trees.into_iter().flatten().cloned().map(Part::Tree));
        if !self.keep_needed(&mut parts, index, used) {
            // The list is shorter by these, whatever another image needs.
            let own = gone.iter().map(|entry| &entry.digest);
            let own = own.filter(|own| index.manifests.iter().all(|other| other.digest != **own));
            parts.extend(own.cloned().map(Part::Blob));
        }
        self.take_away(&parts)
    }

    /// Takes from `parts` what an image of the list or a container needs; everything, and false, where an image is damaged.
    fn keep_needed(&self, parts: &mut BTreeSet<Part>, index: &Index, used: &[Usage]) -> bool {
        for entry in &index.manifests {
            let Ok(image) = self.read_image(index, entry) else {
                parts.clear();
                return false;
            };
            parts.remove(&Part::Blob(image.manifest_digest));
            parts.remove(&Part::Blob(image.id));
            for layer in image.manifest.layers {
                parts.remove(&Part::Blob(layer.digest));
            }
            for diff_id in image.config.rootfs.diff_ids {
                parts.remove(&Part::Tree(diff_id));
            }
        }
        for text in used.iter().flat_map(|user| &user.diff_ids) {
            if let Ok(diff_id) = Digest::parse(text) {
                parts.remove(&Part::Tree(diff_id));
            }
        }
        true
    }

    fn take_away(&self, parts: &BTreeSet<Part>) -> Result<Option<Scratch>> {
        let mut aside = None;
        for part in parts {
            let diff_id = match part {
                Part::Blob(digest) => {
                    remove_file(&self.blob_path(digest))?;
                    continue;
                }
                Part::Tree(diff_id) => diff_id,
            };
            let scratch = match aside.take() {
                Some(scratch) => scratch,
                None => Scratch::unique(&self.store, "removed")?,
            };
            let from = self.layer_dir(diff_id);
            match std::fs::rename(&from, scratch.path().join(diff_id.hex())) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                done => done.with_context(|| format!("removing `{}`", from.display()))?,
            }
            aside = Some(scratch);
        }
        Ok(aside)
    }
}
