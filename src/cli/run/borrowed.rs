//! `--volumes-from`: the mounts of another container, at the same places.

use anyhow::Result;

use crate::container::record::Record;
use crate::error::Fail;
use crate::paths::Store;
use crate::spec::{ContainerSpec, Mount, MountSource};

/// Adds what the containers of `words` have, each `CONTAINER[:OPTIONS]`. Of several at one place the last counts, and the
/// spec's own before all, as in docker. The containers need not run.
///
/// # Errors
/// `Usage` for options that make no sense; when there is no such container.
pub fn volumes(spec: &mut ContainerSpec, words: &[String], store: &Store) -> Result<()> {
    let mut borrowed: Vec<Mount> = Vec::new();
    for text in words {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        let read_only = access(text, name, options)?;
        let theirs = Record::find(store, name)?.spec()?;
        for mut mount in theirs.mounts {
            match mount.source {
                MountSource::Bind { .. } | MountSource::Volume { .. } => {}
                // Memory is nobody else's, and an image is no volume.
                MountSource::Image { .. } | MountSource::Tmpfs { .. } => continue,
            }
            mount.read_only = read_only.unwrap_or(mount.read_only);
            borrowed.retain(|known| known.target != mount.target);
            borrowed.push(mount);
        }
    }
    borrowed.retain(|mount| spec.mounts.iter().all(|own| own.target != mount.target));
    // First, so that one's own may lie below them.
    borrowed.append(&mut spec.mounts);
    spec.mounts = borrowed;
    Ok(())
}

/// Whether all of it is read-only, where the user says so.
fn access(text: &str, name: &str, options: &str) -> Result<Option<bool>, Fail> {
    let wrong = |why: &str| Fail::usage(format!("--volumes-from `{text}`: {why}"));
    if name.is_empty() {
        return Err(wrong("no container is named").hint("--volumes-from CONTAINER[:ro]"));
    }
    let mut access = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let read_only = match option {
            "ro" => true,
            "rw" => false,
            // Labels stay what the other container has made them.
            "z" | "Z" => continue,
            other => {
                return Err(wrong(&format!("unknown option `{other}`")).hint("known: ro, rw, z, Z"));
            }
        };
        if access.is_some_and(|before| before != read_only) {
            return Err(wrong("`ro` and `rw` exclude each other"));
        }
        access = Some(read_only);
    }
    Ok(access)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_say_whether_it_is_read_only() {
        let read = |options| access("c", "c", options).map_err(|fail| fail.message);
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("ro,z"), Ok(Some(true)));
        assert_eq!(read("rw"), Ok(Some(false)));
        assert!(read("ro,rw").is_err_and(|why| why.contains("exclude")));
        assert!(read("O").is_err_and(|why| why.contains("unknown option `O`")));
        assert!(access(":ro", "", "ro").is_err());
    }
}
