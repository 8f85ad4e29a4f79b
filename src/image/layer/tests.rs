use super::whiteouts::{OVERLAY_OPAQUE, OVERLAY_WHITEOUT};
use super::*;
use crate::stage::emulation::side::Key;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use tar::{Builder, EntryType, Header};

/// One entry of a test's archive: type, name, link, content, mode.
struct Item(EntryType, &'static str, &'static str, &'static str, u32);

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Link;
const SYM: EntryType = EntryType::Symlink;

fn header(kind: EntryType, name: &str, link: &str, size: usize, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    // Straight into the fields: the crate's own setters refuse `..` and absolute names.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_cksum();
    header
}

fn archive(items: &[Item]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for Item(kind, name, link, content, mode) in items {
        let header = header(*kind, name, link, content.len(), *mode);
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A directory with a `secret` beside the layer's root `fs`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("fs")).unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join("fs").join(name)
    }

    fn unpack(&self, tar: &[u8]) -> Result<Report> {
        let root = Root::open_trusted(&self.path("")).unwrap();
        unpack(tar, &root, Ids::Single).map(|(report, _)| report)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| error.to_string())
    }

    fn xattr(&self, name: &str, key: &str) -> Option<String> {
        let mut value = vec![0; 256];
        let length = rustix::fs::lgetxattr(self.path(name), key, &mut value[..]).ok()?;
        value.truncate(length);
        Some(String::from_utf8(value).unwrap())
    }

    fn untouched(&self) {
        assert_eq!(
            std::fs::read_to_string(self.0.path().join("secret")).unwrap(),
            "secret"
        );
        let beside: Vec<_> = std::fs::read_dir(self.0.path()).unwrap().collect();
        assert_eq!(beside.len(), 2, "{beside:?}");
        let links = std::fs::metadata(self.0.path().join("secret"))
            .unwrap()
            .nlink();
        assert_eq!(links, 1);
    }
}

#[test]
fn a_hostile_layer_touches_nothing_outside() {
    let secret = "../secret";
    // Each case, and whether it is refused.
    let cases: &[(&str, &[Item], bool)] = &[
        (
            "dotdot",
            &[Item(FILE, "../secret", "", "evil", 0o644)],
            false,
        ),
        (
            "absolute",
            &[Item(FILE, "/../../secret", "", "evil", 0o644)],
            false,
        ),
        (
            "dotdot in the middle",
            &[Item(FILE, "a/../../../secret", "", "evil", 0o644)],
            false,
        ),
        (
            "through a link",
            &[
                Item(SYM, "out", "..", "", 0o777),
                Item(FILE, "out/secret", "", "evil", 0o644),
            ],
            false,
        ),
        (
            "through an absolute link",
            &[
                Item(SYM, "out", "/..", "", 0o777),
                Item(FILE, "out/secret", "", "evil", 0o644),
            ],
            false,
        ),
        (
            "over a link",
            &[
                Item(SYM, "s", secret, "", 0o777),
                Item(FILE, "s", "", "evil", 0o644),
            ],
            false,
        ),
        (
            "a directory over a link",
            &[
                Item(SYM, "s", "..", "", 0o777),
                Item(DIR, "s", "", "", 0o700),
                Item(FILE, "s/secret", "", "evil", 0o644),
            ],
            false,
        ),
        ("hard link out", &[Item(LINK, "h", secret, "", 0o644)], true),
        (
            "hard link through a link",
            &[
                Item(SYM, "out", "..", "", 0o777),
                Item(LINK, "h", "out/secret", "", 0o644),
            ],
            true,
        ),
        (
            "hard link to a link, then written",
            &[
                Item(SYM, "s", secret, "", 0o777),
                Item(LINK, "h", "s", "", 0o644),
                Item(FILE, "h", "", "evil", 0o644),
            ],
            false,
        ),
        (
            "hard link to the root",
            &[Item(LINK, "h", "/", "", 0o644)],
            true,
        ),
        (
            "a file as root",
            &[Item(FILE, ".", "", "evil", 0o644)],
            true,
        ),
        ("a link as root", &[Item(SYM, "/", "..", "", 0o777)], true),
        (
            "whiteout of dotdot",
            &[Item(FILE, ".wh...", "", "", 0o644)],
            true,
        ),
        (
            "whiteout of nothing",
            &[Item(FILE, "a/.wh.", "", "", 0o644)],
            true,
        ),
        (
            "whiteout through a link",
            &[
                Item(SYM, "out", "..", "", 0o777),
                Item(FILE, "out/.wh.secret", "", "", 0o644),
            ],
            false,
        ),
        (
            "opaque through a link",
            &[
                Item(SYM, "out", "../..", "", 0o777),
                Item(FILE, "out/.wh..wh..opq", "", "", 0o644),
            ],
            false,
        ),
        (
            "links in a circle",
            &[
                Item(SYM, "a", "b", "", 0),
                Item(SYM, "b", "a", "", 0),
                Item(FILE, "a/x", "", "", 0),
            ],
            true,
        ),
        (
            "below a file",
            &[
                Item(FILE, "a", "", "x", 0o644),
                Item(FILE, "a/b", "", "x", 0o644),
            ],
            true,
        ),
        ("an empty link", &[Item(SYM, "a", "", "", 0o777)], true),
    ];
    for (name, items, refused) in cases {
        let place = Place::new();
        let done = place.unpack(&archive(items));
        assert_eq!(done.is_err(), *refused, "{name}: {done:?}");
        place.untouched();
    }
}

#[test]
fn the_last_of_entries_with_one_name_stays() {
    let place = Place::new();
    place
        .unpack(&archive(&[
            Item(FILE, "a", "", "old", 0o644),
            Item(FILE, "a", "", "new", 0o600),
            Item(DIR, "d", "", "", 0o755),
            Item(FILE, "d/kept", "", "kept", 0o644),
            Item(DIR, "d/", "", "", 0o700),
            Item(FILE, "e/f", "", "gone", 0o644),
            Item(FILE, "e", "", "file", 0o644),
            Item(FILE, "g", "", "file", 0o644),
            Item(FILE, "./g2/../h", "", "clean", 0o644),
        ]))
        .unwrap();
    assert_eq!(place.read("a"), "new");
    assert_eq!(place.read("d/kept"), "kept");
    assert_eq!(place.path("d").metadata().unwrap().mode() & 0o7777, 0o700);
    assert_eq!(place.read("e"), "file");
    assert_eq!(place.read("h"), "clean");
}

#[test]
fn a_stale_directory_is_never_written_to() {
    let place = Place::new();
    place
        .unpack(&archive(&[
            Item(FILE, "d/one", "", "1", 0o644),
            Item(FILE, "real/x", "", "1", 0o644),
            Item(SYM, "d", "real", "", 0o777),
            Item(FILE, "d/two", "", "2", 0o644),
        ]))
        .unwrap();
    assert_eq!(place.read("real/two"), "2");
    assert!(!place.path("real/one").exists());
}

#[test]
fn links_to_nowhere_get_their_target_inside() {
    let place = Place::new();
    place
        .unpack(&archive(&[
            Item(SYM, "var/run", "/run/inner", "", 0o777),
            Item(FILE, "var/run/x", "", "x", 0o644),
        ]))
        .unwrap();
    assert_eq!(place.read("run/inner/x"), "x");
}

#[test]
fn whiteouts_hide_only_what_lies_below() {
    let place = Place::new();
    place
        .unpack(&archive(&[
            Item(FILE, "etc/.wh.gone", "", "", 0o644),
            Item(FILE, "kept", "", "kept", 0o644),
            Item(FILE, ".wh.kept", "", "", 0o644),
            Item(FILE, ".wh.file", "", "", 0o644),
            Item(FILE, "file", "", "new", 0o644),
            Item(FILE, ".wh.dir", "", "", 0o644),
            Item(DIR, "dir", "", "", 0o755),
            Item(DIR, "dir2", "", "", 0o755),
            Item(FILE, ".wh.dir2", "", "", 0o644),
            Item(FILE, ".wh.dir3", "", "", 0o644),
            Item(FILE, "dir3/x", "", "x", 0o644),
            Item(DIR, "opaque", "", "", 0o755),
            Item(FILE, "opaque/.wh..wh..opq", "", "", 0o644),
            Item(FILE, ".wh..wh.plnk", "", "", 0o644),
        ]))
        .unwrap();
    let gone = place.path("etc/gone").symlink_metadata().unwrap();
    let hidden = gone.file_type().is_char_device() && gone.rdev() == 0
        || place.xattr("etc/gone", OVERLAY_WHITEOUT).is_some();
    assert!(hidden);
    assert_eq!(place.read("kept"), "kept");
    assert_eq!(place.read("file"), "new");
    assert_eq!(place.read("dir3/x"), "x");
    for dir in ["dir", "dir2", "dir3", "opaque"] {
        assert_eq!(
            place.xattr(dir, OVERLAY_OPAQUE).as_deref(),
            Some("y"),
            "{dir}"
        );
    }
    assert_eq!(place.xattr("etc", OVERLAY_OPAQUE), None);
    assert!(!place.path(".wh..wh.plnk").exists());
}

#[test]
fn modes_times_and_owners_are_kept() {
    let place = Place::new();
    let mut builder = Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("mtime", &b"1234567890.123456789"[..]),
            ("SCHILY.xattr.user.mine", b"a=b\nc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.containers.override_stat", b"0:0:0777"),
        ])
        .unwrap();
    let mut owned = header(FILE, "d/file", "", 1, 0o4750);
    owned.set_uid(1000);
    owned.set_gid(50);
    owned.set_cksum();
    builder.append(&owned, &b"x"[..]).unwrap();
    builder
        .append(&header(DIR, "d", "", 0, 0o1777), &b""[..])
        .unwrap();
    builder
        .append(&header(SYM, "d/l", "/nowhere", 0, 0o777), &b""[..])
        .unwrap();
    builder
        .append(&header(EntryType::Fifo, "d/p", "", 0, 0o622), &b""[..])
        .unwrap();
    let report = place.unpack(&builder.into_inner().unwrap()).unwrap();
    let file = place.path("d/file").metadata().unwrap();
    assert_eq!(file.mode() & 0o7777, 0o4750);
    assert_eq!(
        (file.mtime(), file.mtime_nsec()),
        (1_234_567_890, 123_456_789)
    );
    assert_eq!(
        place.xattr("d/file", OVERRIDE).as_deref(),
        Some("1000:50:4750:file")
    );
    assert_eq!(
        place.xattr("d/file", "user.mine").as_deref(),
        Some("a=b\nc")
    );
    assert_eq!(place.xattr("d/file", OVERLAY_OPAQUE), None);
    for name in ["d", "d/l", "d/p"] {
        let mtime = place.path(name).symlink_metadata().unwrap().mtime();
        assert_eq!(mtime, 1_000_000_000, "{name}");
    }
    assert_eq!(place.path("d").metadata().unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(place.path("d/p").metadata().unwrap().mode() & 0o7777, 0o622);
    assert_eq!(
        (report.entries, report.bytes, report.skipped_xattrs),
        (4, 1, 2)
    );
}

#[test]
fn devices_and_owners_of_links_are_remembered() {
    let place = Place::new();
    let mut null = header(EntryType::Char, "dev/null", "", 0, 0o666);
    null.set_device_major(1).unwrap();
    null.set_device_minor(3).unwrap();
    null.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&null, &b""[..]).unwrap();
    let mut link = header(SYM, "dev/link", "nowhere", 0, 0o777);
    link.set_uid(7);
    link.set_cksum();
    builder.append(&link, &b""[..]).unwrap();
    let root = Root::open_trusted(&place.path("")).unwrap();
    let tar = builder.into_inner().unwrap();
    let (report, side) = unpack(&tar[..], &root, Ids::Single).unwrap();
    assert_eq!((report.skipped_devices, report.lost_owners), (0, 0));
    let null = place.path("dev/null").metadata().unwrap();
    assert!(null.is_file() && null.len() == 0 && null.mode() & 0o7777 == 0o666);
    let note = place.xattr("dev/null", OVERRIDE);
    assert_eq!(note.as_deref(), Some("0:0:0666:char-1-3"));
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let opened = rustix::fs::open(place.path("dev/link"), flags, Mode::empty()).unwrap();
    let found = side.find(Key::of(opened.as_fd(), None).unwrap()).unwrap();
    assert_eq!((found.uid, found.gid), (7, 0));
}

#[test]
fn damaged_archives_are_refused() {
    let whole = archive(&[Item(FILE, "a", "", "content", 0o644)]);
    let mut checksum = whole.clone();
    checksum[0] = b'b';
    let mut huge = header(FILE, "a", "", 0, 0o644);
    huge.as_old_mut().size = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff";
    huge.set_cksum();
    let mut nul = Builder::new(Vec::new());
    nul.append_pax_extensions([("path", &b"a\0b"[..])]).unwrap();
    nul.append(&header(FILE, "a", "", 0, 0o644), &b""[..])
        .unwrap();
    let mut long = Builder::new(Vec::new());
    long.append_pax_extensions([("path", "x/".repeat(3000).as_bytes())])
        .unwrap();
    long.append(&header(FILE, "a", "", 0, 0o644), &b""[..])
        .unwrap();
    for (name, tar) in [
        ("in the data", whole[..515].to_vec()),
        ("in the header", whole[..100].to_vec()),
        ("checksum", checksum),
        ("enormous size", huge.as_bytes().to_vec()),
        ("NUL in a name", nul.into_inner().unwrap()),
        ("a name too long", long.into_inner().unwrap()),
        ("no tar at all", b"hello".repeat(300)),
    ] {
        let place = Place::new();
        let error = place.unpack(&tar).expect_err(name);
        assert_eq!(
            crate::error::kind(&error),
            crate::error::Kind::Corrupt,
            "{name}: {error:#}"
        );
        place.untouched();
    }
    assert_eq!(Place::new().unpack(&[]).unwrap(), Report::default());
}

#[test]
fn an_unmapped_owner_is_named() {
    let place = Place::new();
    let mut owned = header(FILE, "far", "", 0, 0o644);
    owned.set_uid(5_000_000_000);
    owned.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&owned, &b""[..]).unwrap();
    let root = Root::open_trusted(&place.path("")).unwrap();
    let error =
        unpack(&builder.into_inner().unwrap()[..], &root, Ids::Mapped).expect_err("refused");
    let fail = crate::error::find(&error).unwrap();
    assert_eq!(fail.code.as_deref(), Some("RL-S04"));
    assert!(
        fail.message.contains("`/far`") && fail.message.contains("5000000000"),
        "{fail}"
    );
}

#[test]
fn sparse_files_have_their_holes() {
    let place = Place::new();
    let map = "2\n0\n4\n1048576\n3\n";
    let mut data = map.as_bytes().to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"headend");
    let mut builder = Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("GNU.sparse.major", &b"1"[..]),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", b"1048579"),
        ])
        .unwrap();
    builder
        .append(
            &header(FILE, "GNUSparseFile.0/sparse", "", data.len(), 0o644),
            &data[..],
        )
        .unwrap();
    builder
        .append(&header(FILE, "after", "", 2, 0o644), &b"ok"[..])
        .unwrap();
    place.unpack(&builder.into_inner().unwrap()).unwrap();
    let content = std::fs::read(place.path("sparse")).unwrap();
    assert_eq!(content.len(), 1_048_579);
    assert_eq!(&content[..4], b"head");
    assert_eq!(&content[1_048_576..], b"end");
    assert_eq!(place.read("after"), "ok");
}
