//! Every path that `rl` owns. Nobody else joins path strings below these two directories.
//!
//! ```text
//! $RL_ROOT | --root | $XDG_DATA_HOME/rl | ~/.local/share/rl        persistent; /var/tmp/rl-UID where that is unfit
//! ├── images/            an OCI image layout: oci-layout, index.json, blobs/sha256/HEX
//! ├── squash/HEX.sqsh   a whole image as one file, HEX from its id; for stores that are shared
//! ├── layers/HEX/        one unpacked layer, HEX from its DiffID
//! │   ├── fs/            the tree
//! │   ├── owners         with one id, whose its links are
//! │   └── layer.json     version, how ownership is kept, size, compressed digest
//! ├── containers/ID/     container.json · state.json · upper/ work/ merged/ · hosts hostname resolv.conf · lock
//! ├── names/NAME         symbolic link to a container's id: the name is claimed by making it
//! ├── volumes/NAME/      _data/ · volume.json
//! ├── networks/NAME.json a named network; lock
//! ├── cache/             what a probe found out; may be deleted at any time
//! ├── ids                the id map that the files here were made with
//! ├── owners             `kept` or `noted`: whether this file system keeps files of others; where that was not sure
//! └── tmp/               everything is built here, fsynced, and renamed into place
//!
//! $RL_RUNTIME_DIR | $XDG_RUNTIME_DIR/rl | /tmp/rl-UID               this boot
//! └── ID/                sockets and pid files of a running container
//! ```

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::error::Fail;

mod unfit;

/// What a file system does with files of subordinate ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owners {
    /// Keeps them.
    Kept,
    /// Refuses them: whose a file is is noted beside it.
    Noted,
}

const OWNERS: &str = "owners";
const IDS: &str = "ids";

/// The persistent directory of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
    instead: Option<Fail>,
}

impl Store {
    /// The store at `root`, or at the place the environment names (see the module's drawing).
    ///
    /// Where nobody has named one, and nothing could be run from the usual place, it is one on a disk of this machine. That is
    /// decided by the place alone, so that every command finds the same.
    ///
    /// # Errors
    /// When no directory can be named.
    pub fn locate(root: Option<PathBuf>) -> Result<Self> {
        if let Some(root) = root.or_else(|| absolute_variable("RL_ROOT")) {
            let root = std::path::absolute(&root)
                .with_context(|| format!("finding `{}`", root.display()))?;
            return Ok(Self::at(root));
        }
        let usual = data_home().map(|home| home.join("rl"));
        let unfit = match &usual {
            Ok(usual) => unfit::why(usual),
            Err(error) => crate::error::find(error).cloned(),
        };
        let local = PathBuf::from(format!(
            "/var/tmp/rl-{}",
            rustix::process::geteuid().as_raw()
        ));
        match (usual, unfit) {
            (Ok(usual), None) => Ok(Self::at(usual)),
            (_, Some(instead)) if unfit::why(&local).is_none() => Ok(Self {
                root: local,
                instead: Some(instead),
            }),
            (usual, _) => Ok(Self::at(usual?)),
        }
    }

    /// Why this is not the usual place; none where it is, or somebody has chosen it.
    #[must_use]
    pub fn instead(&self) -> Option<&Fail> {
        self.instead.as_ref()
    }

    /// The store whose directory is exactly `root`.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self {
            root,
            instead: None,
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The OCI image layout.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// What its file system does with files of other owners than the user, where that has been tried.
    #[must_use]
    pub fn owners(&self) -> Option<Owners> {
        match std::fs::read(self.root.join(OWNERS)).ok()?.as_slice() {
            b"kept\n" => Some(Owners::Kept),
            b"noted\n" => Some(Owners::Noted),
            _ => None,
        }
    }

    /// Whether that has to be tried: the file system is one that machines share, or a program serves it.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.owners().is_none() && unfit::is_doubtful(&self.root)
    }

    /// Remembers what was found, as long as the store exists.
    ///
    /// # Errors
    /// The system's.
    pub fn set_owners(&self, owners: Owners) -> Result<()> {
        let text: &[u8] = match owners {
            Owners::Kept => b"kept\n",
            Owners::Noted => b"noted\n",
        };
        let path = self.root.join(OWNERS);
        crate::sys::fs::write_atomically(&path, &self.root.join("owners.new"), text)
            .with_context(|| format!("writing `{}`", path.display()))
    }

    /// The id map that its files were made with, as it was written down.
    #[must_use]
    pub fn ids(&self) -> Option<Vec<u8>> {
        std::fs::read(self.root.join(IDS)).ok()
    }

    /// Writes that down.
    ///
    /// # Errors
    /// The system's.
    pub fn set_ids(&self, text: &[u8]) -> Result<()> {
        let path = self.root.join(IDS);
        crate::sys::fs::write_atomically(&path, &self.root.join("ids.new"), text)
            .with_context(|| format!("writing `{}`", path.display()))
    }

    /// All unpacked layers.
    #[must_use]
    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// All images that are one file.
    #[must_use]
    pub fn squash(&self) -> PathBuf {
        self.root.join("squash")
    }

    /// The file of the image with this id in hexadecimal.
    #[must_use]
    pub fn squash_of(&self, id: &str) -> PathBuf {
        self.squash().join(format!("{id}.sqsh"))
    }

    /// All containers.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// The directory of the container with this full id.
    #[must_use]
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// All claimed names.
    #[must_use]
    pub fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// All volumes.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// The tree of the volume `name`.
    #[must_use]
    pub fn volume_data(&self, name: &str) -> PathBuf {
        self.volumes().join(name).join("_data")
    }

    /// All named networks.
    #[must_use]
    pub fn networks(&self) -> PathBuf {
        self.root.join("networks")
    }

    /// Where things are built before they are renamed into place.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Makes `directory`, which is one of this store's, and all above it.
    ///
    /// The store itself is closed to other users: a setuid program in a layer would be one of the user's.
    ///
    /// # Errors
    /// The system's, with the path and, for a full or read-only disk, a way out.
    pub fn make(&self, directory: &Path) -> Result<()> {
        if self.instead.is_some() {
            self.check_owner()?;
        }
        let made = || -> std::io::Result<()> {
            if !self.root.is_dir() {
                if let Some(parent) = self.root.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                match std::fs::DirBuilder::new().mode(0o700).create(&self.root) {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    done => done?,
                }
            }
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(directory)
        };
        made().map_err(|error| {
            anyhow::Error::from(error).context(
                Fail::system(format!(
                    "cannot make the directory `{}`",
                    directory.display()
                ))
                .hint("name another place for images and containers with --root DIR or RL_ROOT"),
            )
        })
    }
}

impl Store {
    /// In a directory that is open to all, somebody may have been there first.
    fn check_owner(&self) -> Result<()> {
        let root = &self.root;
        if std::fs::symlink_metadata(root).is_err()
            || is_private(root, rustix::process::geteuid().as_raw())
        {
            return Ok(());
        }
        Err(
            Fail::denied(format!("`{}` is not yours alone", root.display()))
                .hint("name another place for images and containers with --root DIR or RL_ROOT")
                .code("RL-F01")
                .into(),
        )
    }
}

/// The directory for sockets, made and checked: owned by the user and closed to others.
///
/// # Errors
/// When no candidate can be made, or one belongs to somebody else.
pub fn runtime_dir() -> Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let candidates = [
        absolute_variable("RL_RUNTIME_DIR"),
        // A stale variable of another login (su, batch systems) names a directory that is not ours.
        absolute_variable("XDG_RUNTIME_DIR")
            .filter(|dir| is_private(dir, uid))
            .map(|dir| dir.join("rl")),
    ];
    let fallback = std::env::temp_dir().join(format!("rl-{uid}"));
    let dir = candidates.into_iter().flatten().next().unwrap_or(fallback);
    match std::fs::DirBuilder::new()
        .recursive(false)
        .mode(0o700)
        .create(&dir)
    {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(anyhow::Error::from(error).context(
                Fail::system(format!(
                    "cannot make the runtime directory `{}`",
                    dir.display()
                ))
                .hint("name one of your own with RL_RUNTIME_DIR")
                .code("RL-R01"),
            ));
        }
    }
    if !is_private(&dir, uid) {
        return Err(Fail::denied(format!("the runtime directory `{}` is not yours alone", dir.display()))
            .hint(format!("remove it or `chmod 700` it if it is yours, or name another with RL_RUNTIME_DIR (you are uid {uid})"))
            .code("RL-R01")
            .into());
    }
    Ok(dir)
}

/// The socket of the monitor that keeps the container with this id. Short: a path has 107 bytes (unix(7)).
///
/// # Errors
/// As [`runtime_dir`].
pub fn monitor_socket(id: &str) -> Result<PathBuf> {
    Ok(runtime_dir()?.join(id.get(..16).unwrap_or(id)))
}

/// The socket of the process that emulates root for the container with this id, where programs of `exec` are handed over.
///
/// # Errors
/// As [`runtime_dir`].
pub fn emulation_socket(id: &str) -> Result<PathBuf> {
    Ok(runtime_dir()?.join(format!("{}{EMULATION}", id.get(..16).unwrap_or(id))))
}

/// The end of the name of [`emulation_socket`].
const EMULATION: &str = ".root";
/// The end of the name of [`ids_link`].
pub const IDS_LINK: &str = ".ids";

/// The link of a container that runs, for starts beside it (`idmap::living`), in the runtime directory `dir`.
#[must_use]
pub fn ids_link(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{}{IDS_LINK}", id.get(..16).unwrap_or(id)))
}

/// All that a container may have in the runtime directory.
///
/// # Errors
/// As [`runtime_dir`].
pub fn of_container(id: &str) -> Result<[PathBuf; 3]> {
    let dir = runtime_dir()?;
    let short = id.get(..16).unwrap_or(id);
    let named = |end: &str| dir.join(format!("{short}{end}"));
    Ok([named(""), named(EMULATION), named(IDS_LINK)])
}

/// The socket of the process that serves the named networks of this store, and the lock that whoever starts or ends
/// it holds.
///
/// # Errors
/// As [`runtime_dir`].
pub fn network_socket(store: &Store) -> Result<(PathBuf, PathBuf)> {
    use sha2::Digest as _;
    use std::os::unix::ffi::OsStrExt as _;
    let digest = sha2::Sha256::digest(store.root().as_os_str().as_bytes());
    let name: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let dir = runtime_dir()?;
    Ok((
        dir.join(format!("net.{name}")),
        dir.join(format!("net.{name}.lock")),
    ))
}

/// Owned by `uid`, a real directory, and closed to everybody else.
fn is_private(dir: &Path, uid: u32) -> bool {
    std::fs::symlink_metadata(dir)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == uid && meta.mode() & 0o077 == 0)
}

/// The user's home directory: `HOME`, else the one in `/etc/passwd`.
#[must_use]
pub fn home() -> Option<PathBuf> {
    absolute_variable("HOME").or_else(|| {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?; // absent in small containers
        let line = passwd
            .lines()
            .find(|line| line.split(':').nth(2) == Some(&uid))?;
        line.split(':')
            .nth(5)
            .filter(|home| home.starts_with('/'))
            .map(PathBuf::from)
    })
}

fn data_home() -> Result<PathBuf> {
    below_home("XDG_DATA_HOME", ".local/share").ok_or_else(|| {
        Fail::usage(
            "cannot find your home directory: HOME is not set and /etc/passwd does not list you",
        )
        .hint("set HOME, or name a place for images and containers with --root DIR or RL_ROOT")
        .code("RL-S05")
        .into()
    })
}

/// Where the user's configuration files are: `$XDG_CONFIG_HOME`, else `~/.config`.
#[must_use]
pub fn config_home() -> Option<PathBuf> {
    below_home("XDG_CONFIG_HOME", ".config")
}

/// Source: XDG Base Directory Specification, which has relative paths ignored.
fn below_home(variable: &str, usual: &str) -> Option<PathBuf> {
    absolute_variable(variable).or_else(|| Some(home()?.join(usual)))
}

fn absolute_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}
