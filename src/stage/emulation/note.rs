//! What is remembered of a file, as text: the attribute that containers/storage and fuse-overlayfs know, too.
//!
//! Pure. `UID:GID:MODE[:TYPE]`, the mode octal, the type `file`, `dir`, `symlink`, `pipe`, `socket`, `char-MAJOR-MINOR` or
//! `block-MAJOR-MINOR`. Of a note, owner and device count here; the mode is the file's own, which every program can set.
//! Source: containers/storage, `pkg/idtools/idtools.go`; fuse-overlayfs(1), `xattr_permissions`.

use rustix::fs::FileType;

/// The attribute's name.
pub const NAME: &str = "user.containers.override_stat";

/// The longest that is read, in bytes; all that are written are shorter.
pub const LONGEST: usize = 128;

/// What a file appears to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Note {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The device that an empty file stands for.
    pub device: Option<Device>,
}

/// A device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// A block device, or else a character device.
    pub is_block: bool,
    /// Major and minor number.
    pub number: (u32, u32),
}

impl Device {
    /// Its kind.
    #[must_use]
    pub fn file_type(self) -> FileType {
        if self.is_block {
            FileType::BlockDevice
        } else {
            FileType::CharacterDevice
        }
    }
}

impl Note {
    /// Reads one; `None` for what is none.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(text).ok()?.split(':');
        let uid = parts.next()?.parse().ok()?;
        let gid = parts.next()?.parse().ok()?;
        Some(Self {
            uid,
            gid,
            device: parts.nth(1).and_then(device),
        })
    }

    /// The text, for a file with these permission bits.
    #[must_use]
    pub fn text(self, kind: FileType, mode: u32) -> String {
        let kind = match (self.device, kind) {
            (Some(device), _) => {
                let kind = if device.is_block { "block" } else { "char" };
                let (major, minor) = device.number;
                format!("{kind}-{major}-{minor}")
            }
            (None, FileType::Directory) => "dir".to_owned(),
            (None, FileType::Symlink) => "symlink".to_owned(),
            (None, FileType::Fifo) => "pipe".to_owned(),
            (None, FileType::Socket) => "socket".to_owned(),
            (
                None,
                FileType::RegularFile
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown,
            ) => "file".to_owned(),
        };
        format!("{}:{}:{:04o}:{kind}", self.uid, self.gid, mode & 0o7777)
    }

    /// Whether it says only what every file is without one.
    #[must_use]
    pub fn is_plain(self) -> bool {
        self == Self::default()
    }
}

fn device(text: &str) -> Option<Device> {
    let mut parts = text.split('-');
    let is_block = match parts.next()? {
        "block" => true,
        "char" => false,
        _ => return None,
    };
    let number = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(Device { is_block, number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_what_others_write_and_read() {
        let note = |uid, gid, device| Note { uid, gid, device };
        let disk = Device {
            is_block: true,
            number: (8, 1),
        };
        let null = Device {
            is_block: false,
            number: (1, 3),
        };
        let cases = [
            ("1:2:0644", Some(note(1, 2, None))),
            ("1000:2000:04755:file", Some(note(1000, 2000, None))),
            ("0:6:0660:block-8-1", Some(note(0, 6, Some(disk)))),
            ("0:0:0666:char-1-3", Some(note(0, 0, Some(null)))),
            ("4294967294:0:0:dir", Some(note(u32::MAX - 1, 0, None))),
            ("1:2", Some(note(1, 2, None))),
            ("", None),
            ("x:y:z", None),
            ("-1:0:0644", None),
            ("1:4294967296:0644", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Note::parse(text.as_bytes()), expected, "{text}");
        }
        let written = [
            (note(1, 2, None), FileType::RegularFile, "1:2:4711:file"),
            (
                note(0, 6, Some(disk)),
                FileType::RegularFile,
                "0:6:4711:block-8-1",
            ),
            (note(7, 0, None), FileType::Directory, "7:0:4711:dir"),
            (note(7, 0, None), FileType::Symlink, "7:0:4711:symlink"),
        ];
        for (note, kind, expected) in written {
            let text = note.text(kind, 0o104_711);
            assert_eq!(text, expected);
            assert_eq!(Note::parse(text.as_bytes()), Some(note));
        }
    }
}
