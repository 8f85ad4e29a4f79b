//! Writes a tar stream entry by entry: ustar headers, with PAX records for what does not fit in them.
//!
//! The counterpart of [`super::entries`]; opens no file but to read attributes. Memory does not depend on sizes.
//! Source: POSIX.1-2024 pax, "pax Extended Header"; the GNU tar manual, "PAX Format, Version 1.0".

use std::io::{self, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};

use super::entries::{Entry, Extent, Kind};
use crate::stage::emulation::note::{self, Note};
use crate::sys;

const BLOCK: usize = 512;
/// Holes below this are written as zeros.
const WORTH: u64 = 64 << 10;
/// Pieces above this are written as one.
const EXTENTS: usize = 10_000;
/// Attributes of the store, not of the file.
const HIDDEN: [&[u8]; 3] = [
    b"user.overlay.",
    b"user.fuseoverlayfs.",
    b"user.containers.",
];

/// The writer of one archive.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes the header; `entry.size` bytes (or those of its extents) have to follow.
    ///
    /// # Errors
    /// The output's.
    pub fn header(&mut self, entry: &Entry) -> io::Result<()> {
        let mut records = Vec::new();
        let mut name = entry.path.clone();
        let mut size = if entry.kind == Kind::File {
            entry.size
        } else {
            0
        };
        let mut map = Vec::new();
        if let Some(extents) = &entry.extents {
            map = sparse_map(extents);
            record(&mut records, b"GNU.sparse.major", b"1");
            record(&mut records, b"GNU.sparse.minor", b"0");
            record(&mut records, b"GNU.sparse.name", &entry.path);
            record(
                &mut records,
                b"GNU.sparse.realsize",
                entry.size.to_string().as_bytes(),
            );
            name = b"GNUSparseFile.0/sparse".to_vec();
            size = map.len() as u64 + extents.iter().map(|extent| extent.length).sum::<u64>();
        } else if name.len() > 100 || !name.is_ascii() {
            record(&mut records, b"path", &name);
        }
        if entry.link.len() > 100 || !entry.link.is_ascii() {
            record(&mut records, b"linkpath", &entry.link);
        }
        for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
            if id > 0o777_7777 {
                record(&mut records, key, id.to_string().as_bytes());
            }
        }
        if size >= 1 << 33 {
            record(&mut records, b"size", size.to_string().as_bytes());
        }
        let (seconds, nanoseconds) = entry.mtime;
        if nanoseconds != 0 || !(0..1 << 33).contains(&seconds) {
            record(
                &mut records,
                b"mtime",
                mtime(seconds, nanoseconds).as_bytes(),
            );
        }
        for (key, value) in &entry.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &key[..]].concat(), value);
        }
        if !records.is_empty() {
            let extended = Entry {
                path: b"PaxHeaders/entry".to_vec(),
                mode: 0o644,
                ..Entry::default()
            };
            self.block(&extended, &extended.path, records.len() as u64, b'x')?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let kind = match entry.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::CharDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
            Kind::Other => return Err(io::ErrorKind::InvalidInput.into()),
        };
        self.block(entry, &name, size, kind)?;
        self.out.write_all(&map)
    }

    fn block(&mut self, entry: &Entry, name: &[u8], size: u64, kind: u8) -> io::Result<()> {
        let mut header = [0_u8; BLOCK];
        let short = |text: &[u8]| text.len().min(100);
        header[..short(name)].copy_from_slice(&name[..short(name)]);
        octal(&mut header[100..108], u64::from(entry.mode & 0o7777));
        octal(&mut header[108..116], entry.uid.min(0o777_7777));
        octal(&mut header[116..124], entry.gid.min(0o777_7777));
        octal(&mut header[124..136], size.min((1 << 33) - 1));
        octal(
            &mut header[136..148],
            u64::try_from(entry.mtime.0).unwrap_or(0).min((1 << 33) - 1),
        );
        header[148..156].fill(b' ');
        header[156] = kind;
        header[157..157 + short(&entry.link)].copy_from_slice(&entry.link[..short(&entry.link)]);
        header[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut header[329..337], entry.device.0);
        octal(&mut header[337..345], entry.device.1);
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        octal(&mut header[148..155], sum);
        header[155] = b' ';
        self.out.write_all(&header)
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        let rest = length.next_multiple_of(BLOCK as u64) - length;
        let zeros = [0_u8; BLOCK];
        self.out
            .write_all(&zeros[..usize::try_from(rest).unwrap_or(0)])
    }

    /// Writes a file's header and content. One that shrinks meanwhile is filled up with zeros.
    ///
    /// # Errors
    /// The output's, the file's.
    pub fn file(&mut self, entry: &Entry, content: &std::fs::File) -> io::Result<()> {
        self.header(entry)?;
        let whole = [Extent {
            offset: 0,
            length: entry.size,
        }];
        let extents = entry.extents.as_deref().unwrap_or(&whole);
        let mut buffer = vec![0_u8; 128 << 10];
        let mut total = 0;
        for extent in extents {
            let mut done = 0;
            while done < extent.length {
                let most = usize::try_from(extent.length - done)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                let mut count = content.read_at(&mut buffer[..most], extent.offset + done)?;
                if count == 0 {
                    count = most;
                    buffer[..most].fill(0);
                }
                self.out.write_all(&buffer[..count])?;
                done += count as u64;
            }
            total += extent.length;
        }
        self.pad(total)
    }

    /// Writes the `size` bytes that [`Writer::header`] announced.
    ///
    /// # Errors
    /// The output's, the input's; `UnexpectedEof` when that is shorter.
    pub fn content(&mut self, input: impl io::Read, size: u64) -> io::Result<()> {
        let count = io::copy(&mut input.take(size), &mut self.out)?;
        if count < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.pad(size)
    }

    /// Ends the archive and gives the output back.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(&text.as_bytes()[text.len() - digits..]);
}

/// `LENGTH KEY=VALUE\n`, the length being that of all of it.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn mtime(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        let (seconds, nanoseconds) = (-(seconds + 1), 1_000_000_000 - nanoseconds);
        format!("-{seconds}.{nanoseconds:09}")
    } else {
        format!("{seconds}.{nanoseconds:09}")
    }
}

fn sparse_map(extents: &[Extent]) -> Vec<u8> {
    let mut map = format!("{}\n", extents.len());
    for extent in extents {
        map.push_str(&format!("{}\n{}\n", extent.offset, extent.length));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// What the file behind `fd`, an `O_PATH` descriptor, is in an archive. `None` for a socket.
/// With it comes the open file, where there is content.
///
/// # Errors
/// The system's.
pub fn describe(
    fd: BorrowedFd<'_>,
    path: &[u8],
) -> sys::Result<Option<(Entry, Option<std::fs::File>)>> {
    let failed = |call: &'static str| {
        let shown = String::from_utf8_lossy(path).into_owned();
        move |errno| sys::Error::new(format!("{call}({shown:?})"), errno)
    };
    let stat = rustix::fs::fstat(fd).map_err(failed("fstat"))?;
    let mut entry = Entry {
        path: path.to_vec(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid.into(),
        gid: stat.st_gid.into(),
        mtime: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        ..Entry::default()
    };
    let mut file = None;
    entry.kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Socket | FileType::Unknown => return Ok(None),
    };
    match entry.kind {
        Kind::File => {
            // The very file that was looked at, whatever its name stands for by now.
            let opened = reopen(fd, OFlags::RDONLY).map_err(failed("open"))?;
            entry.size = u64::try_from(stat.st_size).unwrap_or(0);
            let opened = std::fs::File::from(opened);
            entry.extents = extents(&opened, &stat);
            file = Some(opened);
        }
        Kind::Directory if !path.ends_with(b"/") => entry.path.push(b'/'),
        Kind::Symlink => {
            entry.link = rustix::fs::readlinkat(fd, c"", Vec::new())
                .map_err(failed("readlinkat"))?
                .into_bytes();
        }
        Kind::CharDevice | Kind::BlockDevice => {
            entry.device = (
                rustix::fs::major(stat.st_rdev).into(),
                rustix::fs::minor(stat.st_rdev).into(),
            );
        }
        Kind::Directory | Kind::Fifo | Kind::HardLink | Kind::Other => {}
    }
    if matches!(entry.kind, Kind::File | Kind::Directory) {
        attributes(fd, &mut entry);
    }
    if entry.kind != Kind::File {
        file = None;
    }
    Ok(Some((entry, file)))
}

/// Opens what an `O_PATH` descriptor stands for.
///
/// # Errors
/// open(2); `ENOENT` without `/proc`.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty())
}

fn attributes(fd: BorrowedFd<'_>, entry: &mut Entry) {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut names = vec![0_u8; 65_536];
    // A file system without attributes has none.
    let listed = rustix::fs::listxattr(&*path, &mut names[..]).unwrap_or(0);
    for name in names[..listed].split(|byte| *byte == 0) {
        if !name.starts_with(b"user.") && name != b"security.capability" {
            continue;
        }
        let mut value = vec![0_u8; 65_536];
        let Ok(length) = rustix::fs::getxattr(&*path, name, &mut value[..]) else {
            continue;
        };
        value.truncate(length);
        if name == note::NAME.as_bytes() {
            if let Some(note) = Note::parse(&value) {
                noted(note, entry);
            }
        } else if !HIDDEN.iter().any(|prefix| name.starts_with(prefix)) {
            entry.xattrs.push((name.to_vec(), value));
        }
    }
}

/// What is remembered of a file where only one id is mapped: its owner, and the device that it stands for.
pub fn noted(note: Note, entry: &mut Entry) {
    (entry.uid, entry.gid) = (note.uid.into(), note.gid.into());
    if let (Some(device), Kind::File) = (note.device, entry.kind) {
        entry.kind = if device.is_block {
            Kind::BlockDevice
        } else {
            Kind::CharDevice
        };
        entry.device = (device.number.0.into(), device.number.1.into());
        (entry.size, entry.extents) = (0, None);
    }
}

/// Where a file has data, when it has holes that are worth it.
fn extents(file: &std::fs::File, stat: &Stat) -> Option<Vec<Extent>> {
    let size = u64::try_from(stat.st_size).ok()?;
    let stored = u64::try_from(stat.st_blocks).ok()? * BLOCK as u64;
    if stored + WORTH > size {
        return None;
    }
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file.as_fd(), SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = rustix::fs::seek(file.as_fd(), SeekFrom::Hole(start))
            .ok()?
            .min(size);
        if end <= start || found.len() == EXTENTS {
            return None;
        }
        found.push(Extent {
            offset: start,
            length: end - start,
        });
        at = end;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::entries::Reader;

    #[test]
    fn what_is_written_is_read_again() {
        let long = vec![b'n'; 300];
        let entries = [
            Entry {
                path: b"plain".to_vec(),
                mode: 0o4755,
                uid: 5,
                gid: 6,
                mtime: (7, 0),
                ..Entry::default()
            },
            Entry {
                path: long.clone(),
                mtime: (-3, 500_000_000),
                uid: 1 << 30,
                ..Entry::default()
            },
            Entry {
                path: "ä".into(),
                kind: Kind::Symlink,
                link: long,
                ..Entry::default()
            },
            Entry {
                path: b"d/".to_vec(),
                kind: Kind::Directory,
                xattrs: vec![(b"user.a".to_vec(), b"1\n=\0".to_vec())],
                ..Entry::default()
            },
            Entry {
                path: b"dev".to_vec(),
                kind: Kind::CharDevice,
                device: (300, 70_000),
                ..Entry::default()
            },
        ];
        let mut writer = Writer::new(Vec::new());
        for entry in &entries {
            writer.header(entry).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(&bytes[..]);
        let mut read = Entry::default();
        for entry in &entries {
            assert!(reader.next(&mut read).unwrap());
            assert_eq!(format!("{read:?}"), format!("{entry:?}"));
        }
        assert!(!reader.next(&mut read).unwrap());
    }

    #[test]
    fn holes_are_kept_and_cost_nothing() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(b"middle", 1 << 29).unwrap();
        file.flush().unwrap();
        let (entry, content) = describe(file.as_fd(), b"f").unwrap().unwrap();
        let mut writer = Writer::new(Vec::new());
        writer.file(&entry, &content.unwrap()).unwrap();
        let bytes = writer.finish().unwrap();
        assert!(bytes.len() < 1 << 20);
        let mut reader = Reader::new(&bytes[..]);
        let mut read = Entry::default();
        assert!(reader.next(&mut read).unwrap());
        assert_eq!((read.path.as_slice(), read.size), (&b"f"[..], 1 << 30));
        assert_eq!(read.extents, entry.extents);
    }
}
