//! What the containers of a store need of its images, so that none of it is removed under them.
//!
//! Reads only.

use anyhow::{Context as _, Result};

use crate::image::store::Usage;
use crate::paths::Store;
use crate::spec::{ContainerSpec, MountSource, Rootfs};

/// One entry for each container, and for each image that it mounts. A container that is being made or removed meanwhile may be missing.
///
/// # Errors
/// When the directory of containers cannot be read.
pub fn all(store: &Store) -> Result<Vec<Usage>> {
    let dir = store.containers();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("reading `{}`", dir.display()));
        }
    };
    let mut usages = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading `{}`", dir.display()))?
            .path()
            .join("container.json");
        // A container without a readable description cannot be started again: it needs nothing.
        let Some(spec) = std::fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice::<ContainerSpec>(&text).ok())
        else {
            continue;
        };
        let name = spec.name;
        let needs = |image: String, files| Usage {
            container: name.clone(),
            image,
            diff_ids: match files {
                Rootfs::Layers { diff_ids } => diff_ids,
                Rootfs::Directory { .. } | Rootfs::Squash { .. } | Rootfs::Host => Vec::new(),
            },
        };
        let own = spec.image.map(|image| image.id).unwrap_or_default();
        usages.push(needs(own, spec.rootfs));
        for mount in spec.mounts {
            if let MountSource::Image { image, files, .. } = mount.source {
                usages.push(needs(image.id, files));
            }
        }
    }
    Ok(usages)
}
