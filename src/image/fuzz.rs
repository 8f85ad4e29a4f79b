//! What must hold for any bytes that come from outside: a layer's tar, a manifest, a reference, and what a registry says of who
//! may have what. Asked by `scripts/fuzz` (cargo-fuzz) without an end, and by a test with bytes that change at random.

#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a finding is a panic, as fuzzers want it"
)]

use std::path::{Path, PathBuf};

use super::config::ImageConfig;
use super::entries::{Entry, Reader};
use super::layer::{self, Ids};
use super::manifest::{self, Document, Format};
use super::platform::Platform;
use super::policy::Policy;
use super::reference::{Digest, Reference};
use super::signature::{Key, Signature};
use crate::sys::fs::Root;

/// Makes all headers' checksums right, so that what is behind them is reached.
#[must_use]
pub fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for header in bytes.as_chunks_mut::<512>().0 {
        if &header[257..262] != b"ustar" {
            continue;
        }
        let rest = header[..148].iter().chain(&header[156..]);
        let sum: u32 = rest.map(|byte| u32::from(*byte)).sum::<u32>() + 256;
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}

/// Reading ends, and gives no name that no file can have.
pub fn tar(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let mut entry = Entry::default();
    let mut entries = 0_usize;
    while matches!(reader.next(&mut entry), Ok(true)) {
        entries += 1;
        assert!(entries <= bytes.len(), "more entries than bytes");
        assert!(!entry.path.contains(&0), "NUL in a name");
        assert!(!entry.link.contains(&0), "NUL in a link");
        let mut length = 0_usize;
        while let Ok(chunk) = reader.chunk() {
            let count = chunk.len();
            if count == 0 {
                break;
            }
            length += count;
            assert!(length <= bytes.len(), "more content than bytes");
            reader.consume(count);
        }
    }
}

/// Unpacking changes nothing outside of its directory. `place` is an empty directory of ours.
pub fn unpack(bytes: &[u8], place: &Path) {
    let fs = place.join("fs");
    let secret = place.join("secret");
    std::fs::create_dir(&fs).expect("the place is empty");
    std::fs::write(&secret, "secret").expect("it is ours");
    let root = Root::open_trusted(&fs).expect("it was just made");
    let _ = layer::unpack(bytes, &root, Ids::Single); // that it ends is enough
    let meta = std::fs::metadata(&secret).expect("it is still there");
    assert_eq!(
        std::os::unix::fs::MetadataExt::nlink(&meta),
        1,
        "it was linked to"
    );
    assert_eq!(
        std::fs::read(&secret).expect("it is still there"),
        b"secret"
    );
    let beside = std::fs::read_dir(place).expect("it is ours").count();
    assert_eq!(beside, 2, "something came out");
}

/// What is taken for a manifest says the same when it is written in other words.
pub fn manifest(bytes: &[u8]) {
    for kind in [None, Some(manifest::OCI_MANIFEST), Some("text/html")] {
        match manifest::parse(bytes, kind) {
            Err(fail) => assert!(!fail.message.is_empty()),
            Ok(Document::Index(index)) => {
                assert!(index.manifests.len() <= manifest::MAX_ENTRIES);
                let _ = index.choose(&Platform::host()); // there may be none
            }
            Ok(Document::Manifest(manifest)) => {
                assert!(manifest.layers.len() <= manifest::MAX_LAYERS);
                let _ = ImageConfig::parse(bytes, &manifest);
                for format in [Format::Oci, Format::Docker] {
                    let Ok(converted) = manifest.converted(format) else {
                        continue; // zstd has no word in docker's
                    };
                    let text = serde_json::to_vec(&converted).expect("it is plain data");
                    let again = manifest::parse(&text, None);
                    let Ok(Document::Manifest(again)) = again else {
                        panic!("converted, it is no manifest: {again:?}");
                    };
                    assert_eq!(again.layers.len(), manifest.layers.len());
                    assert_eq!(again.config.digest, manifest.config.digest);
                }
            }
        }
    }
}

/// A name that is taken comes back the same from each of its forms.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = Digest::parse(text);
    let _ = Platform::parse(text);
    let Ok(reference) = Reference::parse(text) else {
        return;
    };
    for form in [reference.to_string(), reference.familiar()] {
        let again = Reference::parse(&form).expect("it is a name of ours");
        assert_eq!(again, reference, "{form}");
    }
    for part in [&reference.registry, &reference.repository] {
        assert!(!part.is_empty() && !part.contains(['\0', '\n', ' ', '@', '?', '#', '\\']));
        assert!(part.split('/').all(|word| !matches!(word, "" | "." | "..")));
    }
}

/// Nothing that is said of permission makes anything but a decision.
pub fn trust(bytes: &[u8]) {
    let _ = Policy::parse(Path::new("/p"), bytes);
    let key = Key::parse(bytes);
    let stored = [&b"\0sigstore-json\n"[..], bytes].concat();
    if let Ok(Some(signature)) = Signature::parse_stored(&stored) {
        assert!(signature.verify(&[]).is_err(), "nobody's key made it");
        if let Ok(key) = key {
            assert!(signature.verify(&[key]).is_err());
        }
    }
}

/// An empty directory that is removed when this is dropped; in memory where there is some.
#[derive(Debug)]
pub struct Place(PathBuf);

impl Place {
    /// A new one.
    ///
    /// # Panics
    /// When none can be made.
    #[must_use]
    pub fn new() -> Self {
        use std::hash::{BuildHasher as _, Hasher as _};
        let shm = Path::new("/dev/shm");
        let above = if shm.is_dir() {
            shm.to_owned()
        } else {
            std::env::temp_dir()
        };
        let random = std::hash::RandomState::new().build_hasher().finish();
        let path = above.join(format!("rl-fuzz-{random:016x}"));
        std::fs::create_dir(&path).expect("a new name");
        Self(path)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        use std::os::fd::AsFd as _;
        let above = self.0.parent().unwrap_or(Path::new("/"));
        let name = self.0.file_name().unwrap_or_default();
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        if let Ok(above) = crate::sys::fs::open_trusted(above, flags) {
            let _ = crate::sys::fs::remove_tree(above.as_fd(), name); // in memory, and small
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tar::{Builder, EntryType, Header};

    /// Numbers that come again with the same seed, so that a finding does.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 16).unwrap() % end.max(1)
        }
    }

    /// Bytes with which parsers have had trouble.
    const WORDS: [&[u8]; 14] = [
        b"\0",
        b"../",
        b"/",
        b"\xff\xff\xff\xff",
        b"\x80\0\0\0\0\0\0\0",
        b"77777777777",
        b"-1",
        b"\"",
        b"{}",
        b"null",
        b"sha256:",
        b"@",
        b"18446744073709551615",
        b".wh.",
    ];

    /// One of the seeds, changed in some places.
    fn changed(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len());
            match random.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
                1 if !bytes.is_empty() => bytes[at] = random.below(256).to_le_bytes()[0],
                2 => {
                    let word = WORDS[random.below(WORDS.len())];
                    let end = (at + word.len()).min(bytes.len());
                    bytes.splice(at..end, word.iter().copied());
                }
                3 => {
                    let word = WORDS[random.below(WORDS.len())];
                    bytes.splice(at..at, word.iter().copied());
                }
                4 => bytes.truncate(at.max(1)),
                _ => {
                    let other = &seeds[random.below(seeds.len())];
                    let from = random.below(other.len());
                    bytes.extend_from_slice(&other[from..]);
                }
            }
        }
        bytes
    }

    fn tars() -> Vec<Vec<u8>> {
        let mut seeds = Vec::new();
        let kinds = [
            (EntryType::Directory, "d", ""),
            (EntryType::Regular, "d/f", ""),
            (EntryType::Link, "d/hard", "d/f"),
            (EntryType::Symlink, "d/up", "../../secret"),
            (EntryType::Regular, "d/up", ""),
            (EntryType::Regular, "d/.wh.f", ""),
            (EntryType::Regular, "d/.wh..wh..opq", ""),
            (EntryType::Link, "out", "../secret"),
            (EntryType::Fifo, "pipe", ""),
            (EntryType::Char, "null", ""),
        ];
        let mut builder = Builder::new(Vec::new());
        for (kind, name, link) in kinds {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            let content: &[u8] = if kind == EntryType::Regular {
                b"content"
            } else {
                b""
            };
            header.set_size(content.len() as u64);
            header.set_mode(0o6755);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        seeds.push(builder.into_inner().unwrap());
        let mut builder = Builder::new(Vec::new());
        let records = [
            ("path", &b"long/../../name"[..]),
            ("linkpath", b"../secret"),
            ("size", b"516"),
            ("mtime", b"-1.5"),
            ("uid", b"70000"),
            ("SCHILY.xattr.user.x", b"y"),
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", b"1048576"),
        ];
        for end in [6, records.len()] {
            builder
                .append_pax_extensions(records[..end].to_vec())
                .unwrap();
            let mut header = Header::new_ustar();
            header.set_path("file").unwrap();
            let mut content = b"1\n512\n4\n".to_vec();
            content.resize(516, 0);
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, &content[..]).unwrap();
        }
        seeds.push(builder.into_inner().unwrap());
        // GNU's long names.
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(1);
        let deep = "deep/".repeat(40) + "file";
        builder.append_data(&mut header, deep, &b"x"[..]).unwrap();
        seeds.push(builder.into_inner().unwrap());
        seeds
    }

    fn manifests() -> Vec<Vec<u8>> {
        let digest = Digest::of(b"x").to_string();
        let layer = |kind: &str| json!({"mediaType": kind, "digest": digest, "size": 7});
        let platform = json!({"os": "linux", "architecture": "amd64", "variant": "v2"});
        let mut entry = layer(manifest::OCI_MANIFEST);
        entry["platform"] = platform;
        [
            json!({
                "schemaVersion": 2, "mediaType": manifest::OCI_MANIFEST,
                "config": layer(manifest::OCI_CONFIG),
                "layers": [layer("application/vnd.oci.image.layer.v1.tar+gzip"), layer("application/vnd.oci.image.layer.v1.tar+zstd")],
                "annotations": {"a": "b"},
            }),
            json!({
                "schemaVersion": 2, "mediaType": manifest::DOCKER_MANIFEST,
                "config": layer(manifest::DOCKER_CONFIG),
                "layers": [layer("application/vnd.docker.image.rootfs.diff.tar.gzip")],
            }),
            json!({"schemaVersion": 2, "mediaType": manifest::OCI_INDEX, "manifests": [entry]}),
            json!({
                "architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"], "Cmd": null},
                "rootfs": {"type": "layers", "diff_ids": [digest]}, "history": [{"created_by": "x"}],
            }),
        ]
        .iter()
        .map(|value| value.to_string().into_bytes())
        .collect()
    }

    fn names() -> Vec<Vec<u8>> {
        [
            "alpine",
            "docker.io/library/alpine:3",
            "localhost:5000/a/b__c/d-e.f:v1",
            "[::1]:5000/x",
            "quay.io/x@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "linux/arm64/v8",
        ]
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect()
    }

    fn policies() -> Vec<Vec<u8>> {
        let key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
        let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": {"a": [
            {"type": "sigstoreSigned", "keyData": "eA==", "signedIdentity": {"type": "matchRepository"}},
        ]}}});
        let stored = json!({
            "mimeType": super::super::signature::PAYLOAD, "payload": "e30=",
            "annotations": {super::super::signature::ANNOTATION: "e30="},
        });
        vec![
            key.as_bytes().to_vec(),
            policy.to_string().into_bytes(),
            stored.to_string().into_bytes(),
        ]
    }

    /// `RL_TEST_ROUNDS` times a thousand, or a few thousand.
    #[test]
    fn bytes_that_change_at_random_are_survived() {
        let asked = std::env::var("RL_TEST_ROUNDS").ok();
        let rounds = asked.and_then(|text| text.parse().ok()).unwrap_or(3) * 1000;
        let (tars, manifests, names, policies) = (tars(), manifests(), names(), policies());
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for round in 0..rounds {
            let bytes = changed(&tars, &mut random);
            let bytes = if round % 4 == 0 {
                bytes
            } else {
                summed(&bytes)
            };
            tar(&bytes);
            if round % 8 == 1 {
                unpack(&bytes, Place::new().path());
            }
            manifest(&changed(&manifests, &mut random));
            reference(&changed(&names, &mut random));
            trust(&changed(&policies, &mut random));
        }
    }

    /// Where `scripts/fuzz` begins: `RL_FUZZ_SEEDS` is the directory.
    #[test]
    fn the_seeds_are_written() {
        let Some(dir) = std::env::var_os("RL_FUZZ_SEEDS").map(PathBuf::from) else {
            return;
        };
        for (target, seeds) in [
            ("tar", tars()),
            ("unpack", tars()),
            ("manifest", manifests()),
            ("reference", names()),
            ("trust", policies()),
        ] {
            let dir = dir.join(target);
            std::fs::create_dir_all(&dir).unwrap();
            for (number, seed) in seeds.iter().enumerate() {
                std::fs::write(dir.join(format!("seed-{number}")), seed).unwrap();
            }
        }
    }

    /// The seeds are good: what is changed at random begins inside.
    #[test]
    fn unchanged_they_are_what_they_should_be() {
        for bytes in tars() {
            let mut reader = Reader::new(&bytes[..]);
            let mut entry = Entry::default();
            let mut entries = 0;
            while reader.next(&mut entry).unwrap() {
                entries += 1;
            }
            assert!(entries > 0);
            unpack(&bytes, Place::new().path());
        }
        for bytes in &manifests()[..3] {
            assert!(manifest::parse(bytes, None).is_ok());
        }
        for name in &names()[..5] {
            assert!(
                Reference::parse(std::str::from_utf8(name).unwrap()).is_ok(),
                "{name:?}"
            );
        }
    }
}
