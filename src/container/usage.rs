//! What the containers of a store need of its images, so that none of it is removed under them.
//!
//! Reads only.

use anyhow::{Context as _, Result};

use crate::image::store::Usage;
use crate::paths::Store;
use crate::spec::{ContainerSpec, Rootfs};

/// One entry for each container. A container that is being made or removed meanwhile may be missing.
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
        usages.push(Usage {
            container: spec.name,
            image: spec.image.map(|image| image.id).unwrap_or_default(),
            diff_ids: match spec.rootfs {
                Rootfs::Layers { diff_ids } => diff_ids,
                Rootfs::Directory { .. } | Rootfs::Squash { .. } | Rootfs::Host => Vec::new(),
            },
        });
    }
    Ok(usages)
}
