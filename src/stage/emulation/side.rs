//! What is remembered of files that take no attributes: links, FIFOs, sockets, and all files of some file systems.
//!
//! A file is known by its inode's number and the time it was made, so that a number that is used again is another file.
//! On disk a line for each in the container's or layer's directory, the last of a file counts; only files of the root
//! file system are written down. [`Side::of`] reads what a container or a layer has, for those who copy its files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;

use super::note::Note;

/// The file's name in a directory of a container or a layer.
pub const FILE: &str = "owners";
/// No more files are remembered in this way.
const MOST: usize = 200_000;
/// No longer file is read or written, in bytes.
const LONGEST: u64 = 16 << 20;

/// Which file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// 0 for the root file system, whose own number changes with every start.
    device: u64,
    inode: u64,
    /// Nanoseconds since 1970; 0 where the file system does not keep it.
    born: i128,
}

impl Key {
    /// That of the file behind `fd`, which lies in the root file system when its device is `root`, or `root` is `None`.
    ///
    /// # Errors
    /// statx(2).
    pub fn of(fd: BorrowedFd<'_>, root: Option<u64>) -> rustix::io::Result<Self> {
        let mask = StatxFlags::INO | StatxFlags::BTIME;
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, mask)?;
        let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        let born = if stat.stx_mask & StatxFlags::BTIME.bits() == 0 {
            0
        } else {
            i128::from(stat.stx_btime.tv_sec) * 1_000_000_000 + i128::from(stat.stx_btime.tv_nsec)
        };
        Ok(Self {
            device: if root.is_none_or(|root| root == device) {
                0
            } else {
                device
            },
            inode: stat.stx_ino,
            born,
        })
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Side {
    known: HashMap<Key, Note>,
    /// Where they are written down, and how long that is.
    file: Option<(File, u64)>,
}

impl Side {
    /// What these files hold, each the `owners` of a directory; one that is not there holds nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn of<'a>(directories: impl IntoIterator<Item = &'a Path>) -> io::Result<Self> {
        let mut side = Self::default();
        for directory in directories {
            match File::open(directory.join(FILE)) {
                Ok(file) => side.read(&file)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(side)
    }

    /// Reads `file` as well, and writes to it from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn keep_in(&mut self, file: File) -> io::Result<()> {
        self.read(&file)?;
        let length = file.metadata()?.len();
        self.file = Some((file, length));
        Ok(())
    }

    /// Writes all of it into a directory that is not there for others yet; nothing when there is nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn write_to(&self, directory: &Path) -> io::Result<()> {
        if self.is_empty() {
            // Of a try before that broke off.
            return match std::fs::remove_file(directory.join(FILE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        let file = File::create(directory.join(FILE))?;
        let mut out = io::BufWriter::new(&file);
        for line in self.lines() {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        drop(out);
        file.sync_all()
    }

    fn read(&mut self, file: &File) -> io::Result<()> {
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text)?;
        for line in text.lines() {
            if let Some((key, note)) = parse(line) {
                self.put(key, note);
            }
        }
        Ok(())
    }

    fn put(&mut self, key: Key, note: Note) {
        if note.is_plain() {
            self.known.remove(&key);
        } else if self.known.len() < MOST {
            self.known.insert(key, note);
        }
    }

    /// Whether there is anything to find.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// All as lines, for another process: see [`Side::add_lines`].
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.known
            .iter()
            .map(|(key, note)| line(*key, *note))
            .collect()
    }

    /// Takes over what another has read.
    pub fn add_lines(&mut self, lines: &[String]) {
        for (key, note) in lines.iter().filter_map(|line| parse(line)) {
            self.put(key, note);
        }
    }

    /// What is known of it.
    #[must_use]
    pub fn find(&self, key: Key) -> Option<Note> {
        self.known.get(&key).copied()
    }

    /// Remembers it.
    ///
    /// # Errors
    /// `ENOSPC` when too many are known, or the disk is full.
    pub fn remember(&mut self, key: Key, note: Note) -> Result<(), Errno> {
        if self.known.get(&key).copied().unwrap_or_default() == note {
            return Ok(());
        }
        if self.known.len() >= MOST {
            return Err(Errno::NOSPC);
        }
        if let Some((file, length)) = &mut self.file
            && key.device == 0
        {
            let text = line(key, note) + "\n";
            let added = text.len() as u64;
            if *length + added > LONGEST {
                return Err(Errno::NOSPC);
            }
            file.write_all(text.as_bytes())
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            *length += added;
        }
        self.put(key, note);
        Ok(())
    }
}

fn line(key: Key, note: Note) -> String {
    let note = note.text(FileType::RegularFile, 0);
    format!("{} {} {note}", key.inode, key.born)
}

fn parse(line: &str) -> Option<(Key, Note)> {
    let mut words = line.split(' ');
    let key = Key {
        device: 0,
        inode: words.next()?.parse().ok()?,
        born: words.next()?.parse().ok()?,
    };
    Some((key, Note::parse(words.next()?.as_bytes())?))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_is_remembered_is_found_again_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW;
        let open = || rustix::fs::open(&link, flags, rustix::fs::Mode::empty()).unwrap();
        let key = Key::of(open().as_fd(), None).unwrap();
        let note = Note {
            uid: 5,
            gid: 6,
            device: None,
        };
        let file = || {
            let mut options = File::options();
            options.create(true).append(true).read(true);
            options.open(dir.path().join(FILE)).unwrap()
        };
        let mut side = Side::default();
        side.keep_in(file()).unwrap();
        side.remember(key, note).unwrap();
        assert_eq!(side.find(key), Some(note));

        let read = Side::of([dir.path(), Path::new("/nowhere")]).unwrap();
        let again = Key::of(open().as_fd(), None).unwrap();
        assert_eq!(read.find(again), Some(note));
        // Elsewhere than in the root file system it is another file.
        let elsewhere = Key::of(open().as_fd(), Some(0)).unwrap();
        assert_eq!(read.find(elsewhere), None);

        let mut later = Side::default();
        later.keep_in(file()).unwrap();
        later.remember(key, Note::default()).unwrap();
        assert!(Side::of([dir.path()]).unwrap().is_empty());
    }
}
