//! What is mounted beside the root file system. Data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Image, Rootfs};

/// What is mounted at one place inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container.
    pub target: String,
    /// What stands there.
    pub source: MountSource,
    /// Cannot be written through this mount.
    pub read_only: bool,
    /// Further restrictions and the propagation: `nosuid`, `nodev`, `noexec`, `rslave`, `rshared`, …
    pub options: Vec<String>,
    /// All of it goes to the container's user before the program starts.
    #[serde(default)]
    pub own: bool,
    /// What is written goes to a layer above the source, which stays as it is. Directories and volumes only.
    #[serde(default)]
    pub layer: Option<WritableLayer>,
}

impl Mount {
    /// A plain one: it can be written to, and nothing is restricted.
    #[must_use]
    pub fn new(target: String, source: MountSource) -> Self {
        Self {
            target,
            source,
            read_only: false,
            options: Vec::new(),
            own: false,
            layer: None,
        }
    }
}

/// Where what is written over a source is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WritableLayer {
    /// With the container; every start begins with an empty one.
    Fresh,
    /// In directories of the user's, on one file system: it stays. Absolute paths on the host.
    Kept {
        /// What was written.
        upper: PathBuf,
        /// overlayfs' own, empty.
        work: PathBuf,
    },
}

/// The kinds of mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// Absolute path on the host.
        path: PathBuf,
        /// Mounts below `path` come along.
        recursive: bool,
        /// Of a read-only mount, those below stay as they are.
        #[serde(default)]
        writable_below: bool,
    },
    /// A volume of `rl`'s; `volume` names a directory under `volumes/`.
    Volume {
        /// The volume's name; 64 hexadecimal digits for an anonymous one.
        volume: String,
        /// What the image has at the target is copied into an empty volume.
        copy_up: bool,
        /// Only what is at this path in it; empty for all.
        #[serde(default)]
        subpath: String,
        /// What it gets when it is made for this container.
        #[serde(default)]
        labels: BTreeMap<String, String>,
    },
    /// The files of another image. What is written, where that is allowed, is gone with the container's end.
    Image {
        /// Which, as the user wrote it, and as it was found.
        image: Image,
        /// Its files: layers, or a squash file of an additional store. No layers yet before it is found.
        files: Rootfs,
        /// Only what is at this path in it; empty for all.
        subpath: String,
    },
    /// Memory.
    Tmpfs {
        /// `size=`, `mode=` and the like, as tmpfs(5) takes them.
        data: Vec<String>,
        /// What the image has at the target is copied in.
        copy_up: bool,
    },
}

impl MountSource {
    /// A volume, anonymous where `name` is empty, that starts with what the image has.
    #[must_use]
    pub fn volume(name: &str) -> Self {
        Self::Volume {
            volume: name.to_owned(),
            copy_up: true,
            subpath: String::new(),
            labels: BTreeMap::new(),
        }
    }

    /// A file or directory of the host, with what is mounted below.
    #[must_use]
    pub fn bind(path: PathBuf) -> Self {
        Self::Bind {
            path,
            recursive: true,
            writable_below: false,
        }
    }
}
