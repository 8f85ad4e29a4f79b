//! Image layouts: OCI's in an archive or a directory, and the flat directories of `skopeo copy … dir:`.
//!
//! ```text
//! oci-layout index.json blobs/sha256/HEX     OCI image specification, image-layout.md
//! version manifest.json HEX …                containers/image, directory transport
//! ```

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::OFlags;

use super::{LINKS, Loaded, allowed};
use crate::error::Fail;
use crate::image::ingest::Progress;
use crate::image::layer::Ids;
use crate::image::manifest::{self, Descriptor, Document, MAX_DOCUMENT};
use crate::image::platform::Platform;
use crate::image::policy::Origin;
use crate::image::pull::{self, Source};
use crate::image::reference::{Digest, Reference};
use crate::image::store::add::{Blobs, NewImage};
use crate::image::store::{Images, REF_NAME};
use crate::paths::Store;
use crate::sys::fs::Root;

/// How docker's and containerd's archives name an image in full.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Where a layout is read from.
pub trait Layout: Source {
    /// A small file of it.
    ///
    /// # Errors
    /// `Corrupt` when it is missing or large.
    fn read(&self, name: &str) -> Result<Vec<u8>>;
}

/// What loading needs beside the layout.
pub struct Bringing<'b> {
    /// Where to.
    pub store: &'b Store,
    /// Only the image that is called so in the layout.
    pub wanted: Option<&'b str>,
    /// How ownership is kept.
    pub ids: Ids,
    /// Hears of it.
    pub progress: &'b dyn Progress,
    /// Where the layout is, without links; none for a pipe.
    pub path: Option<PathBuf>,
}

impl Bringing<'_> {
    /// Whether an image with this `ref.name`, or these names, is meant.
    pub fn wants(&self, ref_name: Option<&str>, names: &[Reference]) -> bool {
        let Some(wanted) = self.wanted else {
            return true;
        };
        ref_name == Some(wanted)
            || Reference::parse(wanted).is_ok_and(|wanted| names.contains(&wanted))
    }

    /// What was loaded, if it is anything.
    pub fn found(&self, loaded: Vec<Loaded>) -> Result<Vec<Loaded>> {
        match (loaded.is_empty(), self.wanted) {
            (false, _) => Ok(loaded),
            (true, None) => Err(Fail::corrupt("there is no image in it").into()),
            (true, Some(wanted)) => {
                Err(Fail::not_found(format!("there is no image `{wanted}` in it")).into())
            }
        }
    }

    /// Brings one image into the store.
    pub fn finish(
        &self,
        new: &NewImage<'_>,
        blobs: &dyn Source,
        names: &[Reference],
    ) -> Result<Loaded> {
        let image = pull::bring(self.store, new, blobs, self.ids, self.progress)?;
        let images = Images::open(self.store);
        for name in names.iter().skip(1) {
            images.tag(&image.id, name)?;
        }
        Ok(Loaded {
            names: names.to_vec(),
            id: image.id,
        })
    }
}

/// Loads the images of an OCI layout.
pub fn load_oci(layout: &dyn Layout, bringing: &Bringing<'_>) -> Result<Vec<Loaded>> {
    let index: manifest::Index = manifest::read(&layout.read("index.json")?, "index.json")?;
    let mut loaded: Vec<Loaded> = Vec::new();
    for entry in &index.manifests {
        let names: Vec<Reference> = entry_name(entry).into_iter().collect();
        let ref_name = entry.annotations.get(REF_NAME).map(String::as_str);
        if !bringing.wants(ref_name, &names) {
            continue;
        }
        let mut entry = entry.clone();
        let mut depth = 0;
        let (bytes, manifest) = loop {
            let bytes = checked(layout, &entry)?;
            match manifest::parse(&bytes, Some(&entry.media_type))? {
                Document::Manifest(manifest) => break (bytes, manifest),
                Document::Index(inner) if depth < LINKS => {
                    depth += 1;
                    entry = inner.choose(&Platform::host())?.clone();
                }
                Document::Index(_) => {
                    return Err(Fail::corrupt("its indexes lead in a circle").into());
                }
            }
        };
        let config_bytes = checked(layout, &manifest.config)?;
        let media_type = match manifest.media_type.as_deref() {
            Some(said) => said,
            None if entry.media_type.is_empty() => manifest::OCI_MANIFEST,
            None => &entry.media_type,
        };
        let new = NewImage {
            manifest: &bytes,
            media_type,
            config: &config_bytes,
            name: names.first(),
            pulled: None,
            blobs: Blobs::Keep,
        };
        let image = bringing.finish(&new, layout, &names)?;
        match loaded.iter_mut().find(|known| known.id == image.id) {
            Some(known) => known.names.extend(image.names),
            None => loaded.push(image),
        }
    }
    bringing.found(loaded)
}

/// A manifest or configuration, with its digest checked.
fn checked(layout: &dyn Layout, wanted: &Descriptor) -> Result<Vec<u8>> {
    let bytes = layout.read(&format!("blobs/sha256/{}", wanted.digest.hex()))?;
    if Digest::of(&bytes) != wanted.digest {
        return Err(
            Fail::corrupt(format!("its content {} is damaged", wanted.digest))
                .hint("fetch or save it again")
                .into(),
        );
    }
    Ok(bytes)
}

/// The name in an OCI layout: in full where containerd or docker wrote it. `ref.name` is often a bare
/// tag, which names nothing.
fn entry_name(entry: &Descriptor) -> Option<Reference> {
    let text = match entry.annotations.get(CONTAINERD_NAME) {
        Some(text) => text,
        None => entry.annotations.get(REF_NAME).filter(|text| {
            let version = text.trim_start_matches('v');
            text.contains(['/', ':'])
                || !(*text == "latest" || version.starts_with(|first: char| first.is_ascii_digit()))
        })?,
    };
    Reference::parse(text).ok() // other tools take names that no registry would
}

/// A layout in a directory; no link in it leads out of it.
struct Directory {
    root: Root,
    /// Blobs are beside the manifest.
    flat: bool,
}

impl Directory {
    fn open(&self, name: &str) -> Result<File> {
        // A pipe with nobody at the other end must not keep us waiting.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = File::from(self.root.open(Path::new(name), flags)?);
        if !file.metadata()?.is_file() {
            return Err(Fail::corrupt(format!("`{name}` in it is no file")).into());
        }
        Ok(file)
    }

    fn place(&self, digest: &Digest) -> String {
        if self.flat {
            digest.hex().to_owned()
        } else {
            format!("blobs/sha256/{}", digest.hex())
        }
    }
}

impl Source for Directory {
    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.open(&self.place(&layer.digest))?))
    }
}

impl Layout for Directory {
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.open(name)?;
        file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(
                Fail::corrupt(format!("`{name}` has more than {MAX_DOCUMENT} bytes")).into(),
            );
        }
        Ok(bytes)
    }
}

/// Loads the images of a directory.
pub fn load_directory(dir: OwnedFd, bringing: &Bringing<'_>) -> Result<Vec<Loaded>> {
    let mut layout = Directory {
        root: Root::from_fd(dir),
        flat: false,
    };
    let path = bringing.path.clone().unwrap_or_default();
    if layout.open("oci-layout").is_ok() {
        allowed(&Origin::Oci(path))?;
        return load_oci(&layout, bringing);
    }
    layout.flat = true;
    if layout.open("manifest.json").is_err() {
        return Err(Fail::usage(
            "it is no image: there is neither oci-layout nor manifest.json in it",
        )
        .hint("a directory with a root file system is run by `rl run --rootfs DIR`")
        .into());
    }
    allowed(&Origin::Directory(path))?;
    let bytes = layout.read("manifest.json")?;
    let Document::Manifest(manifest) = manifest::parse(&bytes, None)? else {
        return Err(Fail::unsupported("it is an index of several images")
            .hint("copy the one for this machine: skopeo copy without --all")
            .into());
    };
    let config = layout.read(manifest.config.digest.hex())?;
    if Digest::of(&config) != manifest.config.digest {
        return Err(Fail::corrupt("the image's configuration is damaged")
            .hint("fetch or save it again")
            .into());
    }
    let new = NewImage {
        manifest: &bytes,
        media_type: manifest.kind(),
        config: &config,
        name: None,
        pulled: None,
        blobs: Blobs::Keep,
    };
    Ok(vec![bringing.finish(&new, &layout, &[])?])
}
