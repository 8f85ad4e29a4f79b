//! An image's layers as one squashfs file: `rl image convert`. Runs in the job, as root of a user namespace, so that owners
//! are what they are inside.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::diff::Known;
use super::tree::Dir;
use crate::image::entries::{Entry, Kind};
use crate::image::pack;
use crate::image::squash::write::{Compression, Node, Writer};

/// Writes the merged `trees`, the topmost first, into the empty file `out`, with the image's configuration behind it.
///
/// # Errors
/// The system's.
pub fn squash(
    trees: &[PathBuf],
    out: &File,
    compression: Compression,
    config: &[u8],
) -> Result<()> {
    let owners = trees.iter().filter_map(|tree| tree.parent());
    let owners: Vec<PathBuf> = owners.map(Path::to_owned).collect();
    let mut walk = Walk {
        writer: Writer::new(out, compression)?,
        links: HashMap::new(),
        known: Known::of(&owners)?,
    };
    let root = Dir::open(trees)?;
    let number = walk.writer.number();
    let children = walk.below(&root, number, b"")?;
    let top = root.top().context("an image without layers")?;
    let (entry, _) = pack::describe(top, b"")?.context("the root is no directory")?;
    let beyond = walk.writer.beyond();
    let node = walk.writer.directory(&entry, number, beyond, &children)?;
    walk.writer.finish(node, entry.mtime.0, config)
}

struct Walk<'f> {
    writer: Writer<'f>,
    /// Files with several names, by device and inode.
    links: HashMap<(u64, u64), Node>,
    known: Known,
}

impl Walk<'_> {
    /// Writes all that is in `dir`, which has this number.
    fn below(&mut self, dir: &Dir, number: u32, at: &[u8]) -> Result<Vec<(Vec<u8>, Node)>> {
        let mut children = Vec::new();
        for name in dir.names()? {
            let Some((fd, _, inner)) = dir.find(&name)? else {
                continue;
            };
            let path = if at.is_empty() {
                name.clone()
            } else {
                [at, b"/", &name].concat()
            };
            let node = self
                .one(&fd, inner, number, &path)
                .with_context(|| format!("packing `/{}`", String::from_utf8_lossy(&path)))?;
            children.extend(node.map(|node| (name, node)));
        }
        Ok(children)
    }

    /// `None` for a socket, which is nothing without its program.
    fn one(
        &mut self,
        fd: &OwnedFd,
        inner: Option<Dir>,
        parent: u32,
        path: &[u8],
    ) -> Result<Option<Node>> {
        let Some((mut entry, content)) = pack::describe(fd.as_fd(), path)? else {
            return Ok(None);
        };
        self.known.correct(fd, &mut entry)?;
        if let Some(inner) = inner {
            let number = self.writer.number();
            let children = self.below(&inner, number, path)?;
            return Ok(Some(
                self.writer.directory(&entry, number, parent, &children)?,
            ));
        }
        let stat = rustix::fs::fstat(fd).context("looking at a file")?;
        let key = (stat.st_dev, stat.st_ino);
        if let Some(node) = self.links.get(&key) {
            return Ok(Some(*node));
        }
        let links = u32::try_from(stat.st_nlink).unwrap_or(u32::MAX);
        let node = self.write(&entry, content, links)?;
        if links > 1 {
            self.links.insert(key, node);
        }
        Ok(Some(node))
    }

    fn write(&mut self, entry: &Entry, content: Option<File>, links: u32) -> Result<Node> {
        match (entry.kind, content) {
            (Kind::File, Some(mut content)) => self.writer.file(entry, &mut content, links),
            _ => self.writer.special(entry, links),
        }
    }
}
