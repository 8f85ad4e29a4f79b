//! The list of images: which of them a name, a digest or the beginning of an id means, and how one gets a name.
//!
//! Two names of one image are two entries; an image without a name has one of its own.

use anyhow::{Context as _, Result};

use super::{Images, PULLED, REF_NAME, name_of};
use crate::error::Fail;
use crate::image::manifest::{Descriptor, Index};
use crate::image::reference::{Digest, Reference, is_short};
use crate::image::registries::{Meaning, Registries};

/// The shortest prefix of an id that names an image.
const SHORTEST_ID: usize = 4;

impl Images {
    /// Gives the image with this id one more name. An image that had the name before loses it.
    ///
    /// # Errors
    /// `NotFound` when no image has the id; the system's.
    pub fn tag(&self, id: &Digest, name: &Reference) -> Result<()> {
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        let Some(entry) = self.entry_by_id(&index, id.hex())? else {
            return Err(Fail::not_found(format!("no image `{id}`"))
                .hint("`rl images` lists them")
                .into());
        };
        let entry = entry.clone();
        set_name(&mut index, entry, Some(name));
        self.write_index(&index)
    }

    /// Notes that the registry of `name` has the image that is listed under it, as content `digest`.
    ///
    /// # Errors
    /// The system's.
    pub fn note_pushed(&self, name: &Reference, manifest: &Digest, digest: &Digest) -> Result<()> {
        let _lock = self.lock()?;
        let mut index = self.read_index()?;
        let text = name.to_string();
        let mut entries = index.manifests.iter_mut();
        let entry = entries.find(|entry| {
            entry.digest == *manifest && entry.annotations.get(REF_NAME) == Some(&text)
        });
        match entry {
            // It was pushed under a name that it does not have here.
            None => Ok(()),
            Some(entry) => {
                entry
                    .annotations
                    .insert(PULLED.to_owned(), digest.to_string());
                self.write_index(&index)
            }
        }
    }

    pub(super) fn write_index(&self, index: &Index) -> Result<()> {
        let path = self.index_path();
        let text = serde_json::to_vec_pretty(index).context("writing the list of images")?;
        crate::image::reserve::write(&path, &self.aside(), &text)
            .with_context(|| format!("writing `{}`", path.display()))
    }

    /// The entry that `text` means.
    pub(super) fn entry<'i>(&self, index: &'i Index, text: &str) -> Result<Option<&'i Descriptor>> {
        let text = &meant(index, text);
        let mut entries = index.manifests.iter();
        if let Some(entry) = entries.find(|entry| names_match(entry, text)) {
            return Ok(Some(entry));
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = hex
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if !is_hex || !(SHORTEST_ID..=64).contains(&hex.len()) {
            return Ok(None);
        }
        self.entry_by_id(index, hex)
    }

    /// The entry of the one image whose id begins with `hex`.
    fn entry_by_id<'i>(&self, index: &'i Index, hex: &str) -> Result<Option<&'i Descriptor>> {
        let mut found: Option<(&Descriptor, Digest)> = None;
        for entry in &index.manifests {
            // A damaged image is found by its manifest's digest, so that it can be removed.
            let id = self.id_of(entry).unwrap_or_else(|_| entry.digest.clone());
            if !id.hex().starts_with(hex) && entry.digest.hex() != hex {
                continue;
            }
            match &found {
                Some((_, other)) if *other != id => {
                    return Err(Fail::usage(format!(
                        "`{hex}` is the beginning of several image ids"
                    ))
                    .hint("give more digits; `rl images --no-trunc` shows them")
                    .into());
                }
                Some(_) => {}
                None => found = Some((entry, id)),
            }
        }
        Ok(found.map(|(entry, _)| entry))
    }

    pub(super) fn id_of(&self, entry: &Descriptor) -> Result<Digest> {
        Ok(self.read_manifest(entry)?.config.digest)
    }
}

/// Whether `text` is a name of this entry: the same tag, or the same repository and digest.
pub(super) fn names_match(entry: &Descriptor, text: &str) -> bool {
    let (Some(name), Ok(wanted)) = (name_of(entry), Reference::parse(text)) else {
        return false;
    };
    if (&name.registry, &name.repository) != (&wanted.registry, &wanted.repository) {
        return false;
    }
    match &wanted.digest {
        None => name.digest.is_none() && name.tag == wanted.tag,
        Some(digest) => {
            entry.digest == *digest
                || name.digest.as_ref() == Some(digest)
                || entry.annotations.get(PULLED) == Some(&digest.to_string())
        }
    }
}

/// The name of an image that is here for a short one that is not: by an alias, or of a registry that is searched.
pub(super) fn meant(index: &Index, text: &str) -> String {
    let is_here = |text: &str| {
        let mut entries = index.manifests.iter();
        entries.any(|entry| names_match(entry, text))
    };
    if is_here(text) || !is_short(text) {
        return text.to_owned();
    }
    // Only a pull needs to know that the files with the answer are broken.
    let meaning = Registries::load()
        .ok()
        .and_then(|registries| registries.meaning(text).ok());
    meaning
        .map(Meaning::candidates)
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .find(|name| is_here(name))
        .unwrap_or_else(|| text.to_owned())
}

/// Lists `entry` under `name` alone. Another image that had the name stays, nameless if it was its last;
/// the nameless entry of this one goes.
pub(super) fn set_name(index: &mut Index, mut entry: Descriptor, name: Option<&Reference>) {
    entry.annotations.remove(REF_NAME);
    // A digest says which content is meant; a tag beside it says nothing.
    let text = name.map(|name| match &name.digest {
        Some(_) => Reference {
            tag: None,
            ..name.clone()
        }
        .to_string(),
        None => name.to_string(),
    });
    if let Some(text) = &text {
        let lost: Vec<Descriptor> = index
            .manifests
            .extract_if(.., |other| other.annotations.get(REF_NAME) == Some(text))
            .collect();
        for mut other in lost {
            let named = index
                .manifests
                .iter()
                .any(|kept| kept.digest == other.digest);
            if other.digest != entry.digest && !named {
                other.annotations.remove(REF_NAME);
                index.manifests.push(other);
            }
        }
        entry.annotations.insert(REF_NAME.to_owned(), text.clone());
    }
    let named = index
        .manifests
        .iter()
        .any(|other| other.digest == entry.digest && other.annotations.contains_key(REF_NAME));
    if text.is_none() && named {
        return;
    }
    index
        .manifests
        .retain(|other| other.digest != entry.digest || other.annotations.contains_key(REF_NAME));
    index.manifests.push(entry);
}
