//! The image store.

pub mod archive;
pub mod changes;
pub mod config;
pub mod entries;
pub mod ingest;
pub mod layer;
pub mod manifest;
pub mod platform;
pub mod pull;
pub mod reference;
pub mod scratch;
pub mod store;

/// Where the tree of an unpacked layer is, relative to the store's root.
///
/// # Errors
/// When `diff_id` is no digest.
pub fn layer_dir(diff_id: &str) -> anyhow::Result<std::path::PathBuf> {
    let digest = reference::Digest::parse(diff_id)?;
    Ok(std::path::Path::new("layers").join(digest.hex()).join("fs"))
}
