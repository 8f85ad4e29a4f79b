//! Where there is one id, and the program's user is not root, the one id is that user.
//!
//! Decided when a container is made, from the files of its image; from then on it is as `--userns keep-id:uid=…,gid=…`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{FileType, OFlags};

use super::tree::Dir;
use crate::idmap::{self, Available};
use crate::image::{layer_dir, pack};
use crate::paths::Store;
use crate::spec::{ContainerSpec, RootEmulation, Rootfs, UserNs};
use crate::stage::{rootfs, user};
use crate::sys::fs::Root;

/// As `rootfs::read_text` has it: the longest file of users that is read, in bytes.
const LONGEST: u64 = 4 << 20;

/// Makes the program's user the one that the container has, where there is one id and the user did not choose how ids are mapped.
/// A user that cannot be found is left to the start, which says so.
///
/// # Errors
/// The system's, for files of the image.
pub fn settle(store: &Store, spec: &mut ContainerSpec) -> Result<()> {
    let wanted = spec.process.user.split(':').next().unwrap_or_default();
    // In full, it is emulated.
    let full = spec.confinement.root_emulation == RootEmulation::Full;
    if full
        || !matches!(spec.userns, UserNs::Auto | UserNs::Host)
        || matches!(wanted, "" | "0" | "root")
    {
        return Ok(());
    }
    let (plan, _) = idmap::plan(&spec.userns, &Available::of(store))?;
    if plan.is_mapped() {
        return Ok(());
    }
    let (passwd, group) = match &spec.rootfs {
        Rootfs::Layers { diff_ids } => {
            let trees = diff_ids.iter().rev();
            let trees = trees.map(|diff_id| Ok(store.root().join(layer_dir(diff_id)?)));
            let root = Dir::open(&trees.collect::<Result<Vec<_>>>()?)?;
            // What cannot be read here may be readable for who starts the container.
            let read = |name: &[u8]| of_layers(&root, name).unwrap_or_default();
            (read(b"passwd"), read(b"group"))
        }
        Rootfs::Directory { path } => of_directory(path)?,
        // Its files are seen only when it is mounted.
        Rootfs::Squash { .. } => return Ok(()),
        Rootfs::Host => of_directory(Path::new("/"))?,
    };
    if let Ok(found) = user::resolve(&spec.process.user, &passwd, &group)
        && found.uid != 0
    {
        spec.userns = UserNs::KeepId {
            uid: Some(found.uid),
            gid: Some(found.gid),
        };
    }
    Ok(())
}

fn of_directory(path: &Path) -> Result<(String, String)> {
    let root = Root::open_trusted(path)?;
    let read = |path| rootfs::read_text(&root, path).unwrap_or_default(); // as above
    Ok((read("/etc/passwd"), read("/etc/group")))
}

/// A file of `/etc`; empty when it is none, and no link is followed.
fn of_layers(root: &Dir, name: &[u8]) -> Result<String> {
    let Some((_, _, Some(etc))) = root.find(b"etc")? else {
        return Ok(String::new());
    };
    let Some((file, stat, _)) = etc.find(name)? else {
        return Ok(String::new());
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(String::new());
    }
    let shown = String::from_utf8_lossy(name);
    let doing = || format!("reading the image's /etc/{shown}");
    let opened = pack::reopen(std::os::fd::AsFd::as_fd(&file), OFlags::RDONLY);
    let mut text = Vec::new();
    File::from(opened.with_context(doing)?)
        .take(LONGEST)
        .read_to_end(&mut text)
        .with_context(doing)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
