//! Files that hold a whole root file system: squashfs, alone or in a SIF file of Apptainer's. What they are is read here;
//! their files are served by another program (`stage::parent`).
//!
//! Sources: Linux, `fs/squashfs/squashfs_fs.h` (the superblock); the Go module sif, `pkg/sif` (header and descriptors);
//! Apptainer's `action_scripts.go` (what `apptainer run` executes).

pub mod read;
pub mod serve;
pub mod unpack;
pub mod write;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::config::ImageConfig;
use super::manifest::MAX_DOCUMENT;
use crate::error::Fail;
use crate::spec::ImageDefaults;

/// The bytes of a squashfs superblock.
const SUPERBLOCK: usize = 96;
/// The last bytes of a file that `rl image convert` has made. Before them is the length of the image's configuration, and before
/// that the configuration, all behind the file system, where no reader of squashfs looks.
const TAIL: &[u8; 8] = b"rl-image";
/// The bytes of a SIF header, and of one descriptor.
const HEADER: usize = 128;
const DESCRIPTOR: usize = 585;
/// A SIF file has 48 descriptors when it is made; more than this are a lie.
const MOST_DESCRIPTORS: u64 = 4096;
/// `DataPartition`, `FsSquash`, `FsExt3`, `PartPrimSys`.
const PARTITION: u32 = 0x4004;
const SQUASHFS: u32 = 1;
const EXT3: u32 = 2;
const PRIMARY: u32 = 2;

/// As `apptainer run`: the image's environment, then its run script with the words of the command line.
const RUN: &str = r#"for script in /.singularity.d/env/*.sh; do if [ -f "$script" ]; then . "$script"; fi; done
if [ -x /.singularity.d/runscript ]; then exec /.singularity.d/runscript "$@"; fi
if [ $# -gt 0 ]; then exec "$@"; fi
exec /bin/sh"#;

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A squashfs, from its first byte on.
    Plain,
    /// A SIF file with one in it.
    Sif,
}

/// A file that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Squash {
    /// Its kind.
    pub form: Form,
    /// Where the squashfs begins, in bytes.
    pub offset: u64,
    /// How it is packed, when only `squashfuse` reads that: see [`foreign`].
    pub foreign: Option<&'static str>,
    /// What the image says of containers, in a file of `rl image convert`.
    pub config: Option<Box<ImageConfig>>,
}

impl Squash {
    /// Looks at a file.
    ///
    /// # Errors
    /// `NotFound` and `Denied`; `Unsupported` for what is no squashfs or not one that can be read; `Corrupt` for one that is cut short.
    pub fn look(path: &Path) -> Result<Self> {
        let shown = path.display();
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.map_err(|error| {
            let kind = error.kind();
            let fail = if kind == io::ErrorKind::NotFound {
                Fail::not_found(format!("there is no file `{shown}`"))
                    .hint("an image of a registry is named without `/` or `.` before it")
            } else if kind == io::ErrorKind::PermissionDenied {
                Fail::denied(format!("you may not read `{shown}`"))
                    .hint(format!("its owner can let you: chmod a+r {shown}"))
                    .code("RL-I05")
            } else {
                Fail::system(format!("cannot read `{shown}`"))
            };
            anyhow::Error::from(error).context(fail)
        })?;
        if metadata.is_dir() {
            return Err(
                Fail::usage(format!("`{shown}` is a directory, not an image file"))
                    .hint(format!("to run in a directory: rl run --rootfs {shown}"))
                    .into(),
            );
        }
        if !metadata.is_file() {
            return Err(Fail::usage(format!("`{shown}` is no regular file")).into());
        }
        Self::read(&file, metadata.len()).with_context(|| format!("reading `{shown}`"))
    }

    /// As [`Squash::look`], of an open file of `length` bytes.
    fn read(file: &impl ReadAt, length: u64) -> Result<Self> {
        let mut start = [0_u8; HEADER];
        let known = usize::try_from(length).unwrap_or(HEADER).min(HEADER);
        file.read_at(&mut start[..known], 0)?;
        let squash = if start[32..].starts_with(b"SIF_MAGIC\0") {
            sif(file, length, &start)?
        } else if start.starts_with(b"hsqs") {
            let used = superblock(file, 0, length)?;
            Self {
                form: Form::Plain,
                offset: 0,
                foreign: foreign(u16::from_le_bytes([start[20], start[21]])),
                config: config(file, used, length)?,
            }
        } else {
            return Err(unknown(&start).into());
        };
        Ok(squash)
    }

    /// What a container of it runs.
    #[must_use]
    pub fn defaults(&self) -> ImageDefaults {
        if let Some(config) = &self.config {
            return config.defaults();
        }
        match self.form {
            Form::Plain => ImageDefaults {
                command: Some(vec!["/bin/sh".to_owned()]),
                ..ImageDefaults::default()
            },
            Form::Sif => ImageDefaults {
                entrypoint: Some(["/bin/sh", "-c", RUN, "run"].map(str::to_owned).to_vec()),
                ..ImageDefaults::default()
            },
        }
    }
}

/// Bytes at a place, all or none.
pub trait ReadAt {
    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof`.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }
}

fn unknown(start: &[u8]) -> Fail {
    let fail = Fail::unsupported("it is neither a squashfs nor a SIF file");
    if start.starts_with(b"sqsh") {
        return Fail::unsupported(
            "it is a squashfs of the big-endian kind, which Linux reads no more",
        )
        .hint("make it anew with mksquashfs 4.0 or later");
    }
    let packed: [&[u8]; 3] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], b"\xfd7zXZ"];
    if packed.iter().any(|magic| start.starts_with(magic)) {
        return fail
            .hint("an archive of `docker save` is read by: rl load -i FILE")
            .hint("a tar of a root file system is read by: rl import FILE NAME");
    }
    fail.hint("such files are made by `mksquashfs DIR FILE` and `apptainer build`")
}

/// The name of a compression that [`read`] does not know.
fn foreign(compression: u16) -> Option<&'static str> {
    match compression {
        1 | 6 => None,
        2 => Some("lzma"),
        3 => Some("lzo"),
        4 => Some("xz"),
        5 => Some("lz4"),
        _ => Some("something that is not known"),
    }
}

/// The configuration behind the file system, if there is one.
fn config(file: &impl ReadAt, used: u64, length: u64) -> Result<Option<Box<ImageConfig>>> {
    let mut end = [0_u8; 16];
    let Some(at) = length.checked_sub(16).filter(|at| *at >= used) else {
        return Ok(None);
    };
    file.read_at(&mut end, at)?;
    if &end[8..] != TAIL {
        return Ok(None);
    }
    let damaged = || Fail::corrupt("the image's configuration behind the squashfs is damaged");
    let size = number(&end, 0);
    let start = at.checked_sub(size).filter(|start| *start >= used);
    let (Some(start), true) = (start, size <= MAX_DOCUMENT) else {
        return Err(damaged().into());
    };
    let mut bytes = vec![0; usize::try_from(size)?];
    file.read_at(&mut bytes, start)?;
    let config = serde_json::from_slice(&bytes).map_err(|error| {
        anyhow::Error::from(error).context(damaged().hint("copy or convert it again"))
    })?;
    Ok(Some(config))
}

/// The bytes of the squashfs of version 4 between `offset` and `offset + length`, when all of them are there.
fn superblock(file: &impl ReadAt, offset: u64, length: u64) -> Result<u64> {
    let short = || Fail::corrupt("the squashfs is cut short").hint("copy or download it again");
    if length < SUPERBLOCK as u64 {
        return Err(short().into());
    }
    let mut block = [0_u8; SUPERBLOCK];
    file.read_at(&mut block, offset)?;
    if !block.starts_with(b"hsqs") {
        return Err(Fail::corrupt("there is no squashfs where the file says so").into());
    }
    let major = u16::from_le_bytes([block[28], block[29]]);
    if major != 4 {
        return Err(Fail::unsupported(format!(
            "it is a squashfs of version {major}, and only 4 can be read"
        ))
        .hint("make it anew with mksquashfs 4.0 or later")
        .into());
    }
    let used = number(&block, 40);
    if used < SUPERBLOCK as u64 || used > length {
        return Err(anyhow::Error::from(short())
            .context(format!("it should have {used} bytes, and has {length}")));
    }
    Ok(used)
}

/// The primary partition of a SIF file.
fn sif(file: &impl ReadAt, length: u64, header: &[u8; HEADER]) -> Result<Squash> {
    let damaged = |what: &str| Fail::corrupt(format!("the SIF file is damaged: {what}"));
    let (count, table) = (number(header, 88), number(header, 96));
    if count > MOST_DESCRIPTORS {
        return Err(damaged("it has too many descriptors").into());
    }
    let end = table.checked_add(count * DESCRIPTOR as u64);
    if end.is_none_or(|end| end > length) {
        return Err(damaged("its descriptors lie behind its end").into());
    }
    for index in 0..count {
        let mut one = [0_u8; DESCRIPTOR];
        file.read_at(&mut one, table + index * DESCRIPTOR as u64)?;
        let (used, extra) = (one[4] != 0, 201);
        if !used || short(&one, 0) != PARTITION || short(&one, extra + 4) != PRIMARY {
            continue;
        }
        match short(&one, extra) {
            SQUASHFS => {}
            EXT3 => {
                return Err(Fail::unsupported(
                    "its root file system is ext3, which only root can mount",
                )
                .hint("build it anew: apptainer build NEW.sif OLD.sif")
                .into());
            }
            5 | 6 => {
                return Err(Fail::unsupported("its root file system is encrypted")
                    .hint("build one that is not, with Apptainer and the key")
                    .into());
            }
            other => {
                return Err(Fail::unsupported(format!(
                    "its root file system is of a kind that is not known ({other})"
                ))
                .into());
            }
        }
        let (offset, size) = (number(&one, 17), number(&one, 25));
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(damaged("its root file system lies behind its end")
                .hint("copy or download it again")
                .into());
        }
        superblock(file, offset, size)?;
        let mut packing = [0_u8; 2];
        file.read_at(&mut packing, offset + 20)?;
        return Ok(Squash {
            form: Form::Sif,
            offset,
            foreign: foreign(u16::from_le_bytes(packing)),
            config: None,
        });
    }
    Err(Fail::unsupported("the SIF file has no root file system (no primary partition)").into())
}

/// Eight bytes, little-endian.
fn number(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0_u8; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

/// Four bytes, little-endian.
fn short(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0_u8; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl ReadAt for Vec<u8> {
        fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let found = from
                .checked_add(into.len())
                .and_then(|end| self.get(from..end));
            into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    fn plain() -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[..4].copy_from_slice(b"hsqs");
        bytes[28] = 4;
        bytes[40..48].copy_from_slice(&4096_u64.to_le_bytes());
        bytes
    }

    fn sif_of(kind: u32, part: u32) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + 2 * DESCRIPTOR];
        bytes[32..42].copy_from_slice(b"SIF_MAGIC\0");
        bytes[88..96].copy_from_slice(&2_u64.to_le_bytes());
        bytes[96..104].copy_from_slice(&(HEADER as u64).to_le_bytes());
        let start = bytes.len() as u64;
        let one = &mut bytes[HEADER + DESCRIPTOR..];
        one[..4].copy_from_slice(&PARTITION.to_le_bytes());
        one[4] = 1;
        one[17..25].copy_from_slice(&start.to_le_bytes());
        one[25..33].copy_from_slice(&4096_u64.to_le_bytes());
        one[201..205].copy_from_slice(&kind.to_le_bytes());
        one[205..209].copy_from_slice(&part.to_le_bytes());
        bytes.extend(plain());
        bytes
    }

    fn says(bytes: &Vec<u8>) -> String {
        let length = bytes.len() as u64;
        match Squash::read(bytes, length) {
            Ok(found) => format!("{:?} {}", found.form, found.offset),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn a_squashfs_is_found_alone_and_in_a_sif_file() {
        assert_eq!(says(&plain()), "Plain 0");
        assert_eq!(says(&sif_of(SQUASHFS, PRIMARY)), "Sif 1298");
    }

    #[test]
    fn what_cannot_be_run_is_told_apart() {
        let cut = |mut bytes: Vec<u8>| {
            bytes.truncate(bytes.len() - 1);
            bytes
        };
        let with = |at: usize, value: u8| {
            let mut bytes = plain();
            bytes[at] = value;
            bytes
        };
        for (bytes, expected) in [
            (Vec::new(), "neither a squashfs nor"),
            (b"hsqs".to_vec(), "cut short"),
            (cut(plain()), "should have 4096 bytes, and has 4095"),
            (with(28, 3), "version 3"),
            (with(0, b's'), "neither"),
            (sif_of(EXT3, PRIMARY), "ext3"),
            (sif_of(5, PRIMARY), "encrypted"),
            (sif_of(6, PRIMARY), "encrypted"),
            (sif_of(9, PRIMARY), "not known (9)"),
            (sif_of(SQUASHFS, 3), "no root file system"),
            (cut(sif_of(SQUASHFS, PRIMARY)), "behind its end"),
        ] {
            let said = says(&bytes);
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(changes in prop::collection::vec((0_usize..1500, any::<u8>()), 0..40), keep in 0_usize..6000) {
            let mut bytes = sif_of(SQUASHFS, PRIMARY);
            for (at, value) in changes {
                bytes[at] = value;
            }
            bytes.truncate(keep);
            let length = bytes.len() as u64;
            if let Ok(found) = Squash::read(&bytes, length) {
                prop_assert!(found.offset < length);
            }
        }
    }
}
