//! The image store.

/// Where the tree of an unpacked layer is, relative to the store.
pub fn layer_dir(diff_id: &str) -> anyhow::Result<std::path::PathBuf> {
    Ok(format!("layers/{}/fs", diff_id.trim_start_matches("sha256:")).into())
}
