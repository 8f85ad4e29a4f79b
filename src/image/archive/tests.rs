use super::*;
use crate::error::{Kind as FailKind, kind};
use crate::image::ingest::Silent;
use crate::image::store::Usage;
use crate::image::store::remove::{Force, Removed};
use serde_json::json;
use std::io::Write as _;

/// A store with nothing in it.
struct Home(tempfile::TempDir, Store);

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("rl"));
        Self(dir, store)
    }

    fn file(&self, content: &[u8]) -> File {
        let mut file = tempfile::tempfile_in(self.0.path()).unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    fn load(&self, content: &[u8]) -> Result<Vec<Loaded>> {
        load(&self.1, self.file(content), None, Ids::Single, &Silent)
    }

    fn import(&self, content: &[u8], options: &ImportOptions) -> Result<Digest> {
        import(&self.1, self.file(content), options, Ids::Single, &Silent)
    }

    fn images(&self) -> Images {
        Images::open(&self.1)
    }

    /// Nothing half-made is left.
    fn is_tidy(&self) {
        let litter: Vec<_> = std::fs::read_dir(self.1.tmp()).unwrap().collect();
        assert!(litter.is_empty(), "{litter:?}");
    }
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn config_of(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|tar| Digest::of(tar).to_string())
        .collect();
    json!({
        "architecture": Platform::host().architecture, "os": "linux",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

/// Two layers, the second a link to the first as old dockers wrote it, two names.
fn docker_archive() -> Vec<u8> {
    let layer = tar_of(&[("etc/name", b"one")]);
    let upper = tar_of(&[("etc/other", b"two")]);
    let config = config_of(&[&layer, &upper, &layer]);
    let manifest = json!([{
        "Config": "c.json", "RepoTags": ["one:1", "two:2"],
        "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"],
    }]);
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in [
        ("a/layer.tar", &layer[..]),
        ("b/layer.tar", &gzip(&upper)),
        ("c.json", &config),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
    }
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder
        .append_link(&mut link, "c/layer.tar", "../a/layer.tar")
        .unwrap();
    let text = manifest.to_string();
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    builder
        .append_data(&mut header, "manifest.json", text.as_bytes())
        .unwrap();
    builder.into_inner().unwrap()
}

fn oci_archive(name: &str, layer_blob: &[u8]) -> Vec<u8> {
    let layer = tar_of(&[("bin/x", b"x")]);
    let config = config_of(&[&layer]);
    let blob = gzip(&layer);
    let manifest = manifest_of(
        &config,
        vec![layer_descriptor(
            Digest::of(&blob),
            blob.len() as u64,
            Packing::Gzip,
        )],
    )
    .unwrap();
    let mut entry = descriptor(
        manifest::OCI_MANIFEST,
        Digest::of(&manifest),
        manifest.len() as u64,
    );
    entry
        .annotations
        .insert(crate::image::store::REF_NAME.to_owned(), name.to_owned());
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let path = |content: &[u8]| format!("blobs/sha256/{}", Digest::of(content).hex());
    tar_of(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json", index.as_bytes()),
        (&path(&manifest), &manifest),
        (&path(&config), &config),
        (&path(&blob), layer_blob),
    ])
}

fn good_oci_archive(name: &str) -> Vec<u8> {
    oci_archive(name, &gzip(&tar_of(&[("bin/x", b"x")])))
}

#[test]
fn a_docker_archive_is_loaded_compressed_or_not() {
    let plain = docker_archive();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for archive in [plain.clone(), gzip(&plain), zstd] {
        let home = Home::new();
        let loaded = home.load(&archive).unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].names.len(), 2);
        let image = home.images().find("two:2", None).unwrap().unwrap();
        assert_eq!(image.id, loaded[0].id);
        assert_eq!(image.names.len(), 2);
        assert!(image.layers_present);
        assert_eq!(home.images().size_unpacked(&image).unwrap(), 9);
        let upper = home.images().layer_dir(&image.config.rootfs.diff_ids[1]);
        assert_eq!(std::fs::read(upper.join("fs/etc/other")).unwrap(), b"two");
        home.is_tidy();
    }
}

#[test]
fn an_oci_archive_is_loaded_under_its_full_name() {
    for (name, found) in [
        ("docker.io/library/a:1", Some("a:1")),
        ("a:1", Some("a:1")),
        ("a", Some("a")),
        ("latest", None),
        ("v3.2", None),
    ] {
        let home = Home::new();
        let loaded = home.load(&good_oci_archive(name)).unwrap();
        let names: Vec<String> = loaded[0].names.iter().map(Reference::familiar).collect();
        match found {
            Some(found) => assert!(home.images().find(found, None).unwrap().is_some()),
            None => assert!(names.is_empty(), "{names:?}"),
        }
        let id = loaded[0].id.hex();
        assert!(home.images().find(&id[..12], None).unwrap().is_some());
        home.is_tidy();
    }
}

#[test]
fn what_is_no_archive_of_images_is_refused_and_leaves_nothing() {
    let docker = docker_archive();
    let lost = tar_of(&[("manifest.json", br#"[{"Config":"gone.json","Layers":[]}]"#)]);
    let damaged = oci_archive("a:1", &gzip(&tar_of(&[("bin/x", b"y")])));
    let mut flipped = gzip(&docker);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    for (name, content, expected, say) in [
        ("empty", Vec::new(), FailKind::Usage, "empty"),
        ("text", b"hello".repeat(1000), FailKind::Usage, "no tar"),
        (
            "a root",
            tar_of(&[("bin/sh", b"x")]),
            FailKind::Usage,
            "manifest.json",
        ),
        (
            "truncated",
            docker[..docker.len() / 3].to_vec(),
            FailKind::Corrupt,
            "damaged",
        ),
        (
            "truncated gzip",
            gzip(&docker)[..600].to_vec(),
            FailKind::Corrupt,
            "decompress",
        ),
        ("flipped gzip", flipped, FailKind::Corrupt, ""),
        ("lost config", lost, FailKind::Corrupt, "gone.json"),
        ("wrong layer", damaged, FailKind::Corrupt, "digest"),
    ] {
        let home = Home::new();
        let error = home.load(&content).expect_err(name);
        let text = crate::error::report(&error);
        assert_eq!(kind(&error), expected, "{name}: {text}");
        assert!(text.contains(say), "{name}: {text}");
        home.is_tidy();
        assert!(home.images().list().unwrap().0.is_empty());
    }
}

#[test]
fn a_root_file_system_becomes_an_image() {
    let tar = tar_of(&[("etc/os-release", b"ID=x")]);
    let home = Home::new();
    let options = ImportOptions {
        reference: Some(Reference::parse("mine").unwrap()),
        changes: vec!["CMD [\"/x\"]".to_owned(), "ENV A=1".to_owned()],
        message: Some("by hand".to_owned()),
        platform: None,
    };
    let id = home.import(&gzip(&tar), &options).unwrap();
    let image = home.images().find("mine", None).unwrap().unwrap();
    assert_eq!(image.id, id);
    assert_eq!(image.config.rootfs.diff_ids, [Digest::of(&tar)]);
    assert_eq!(
        image.config.config.cmd.as_deref(),
        Some(&["/x".to_owned()][..])
    );
    assert_eq!(image.config.history[0].comment.as_deref(), Some("by hand"));
    assert!(image.manifest.layers[0].media_type.ends_with("+gzip"));
    assert!(image.layers_present);
    // The same again, plain: the layer is there, the image is another.
    home.import(&tar, &options).unwrap();
    assert_eq!(home.images().list().unwrap().0.len(), 2);
    home.is_tidy();
}

#[test]
fn imports_of_wrong_things_fail_and_leave_nothing() {
    let tar = tar_of(&[("a", &[7; 5000])]);
    for (name, content) in [
        ("empty", Vec::new()),
        ("text", b"hello".repeat(500)),
        ("truncated", tar[..1000].to_vec()),
        ("truncated gzip", gzip(&tar)[..40].to_vec()),
    ] {
        let home = Home::new();
        let error = home
            .import(&content, &ImportOptions::default())
            .expect_err(name);
        assert_ne!(kind(&error), FailKind::System, "{name}: {error:#}");
        home.is_tidy();
        assert_eq!(
            std::fs::read_dir(home.1.layers()).unwrap().count(),
            0,
            "{name}"
        );
    }
}

#[test]
fn images_are_found_tagged_and_removed_as_in_docker() {
    let home = Home::new();
    let images = home.images();
    let id = home.load(&docker_archive()).unwrap().remove(0).id;
    let other = home
        .load(&good_oci_archive("other:1"))
        .unwrap()
        .remove(0)
        .id;
    images
        .tag(&id, &Reference::parse("three").unwrap())
        .unwrap();
    assert_eq!(images.list().unwrap().0.len(), 2);
    let image = images.find("three", None).unwrap().unwrap();
    assert_eq!(image.names.len(), 3);
    let by_digest = format!("one@{}", image.manifest_digest);
    assert!(images.find(&by_digest, None).unwrap().is_some());
    assert!(images.find("elsewhere", None).unwrap().is_none());
    let foreign = Platform::parse("linux/s390x").unwrap();
    assert!(images.find("three", Some(&foreign)).unwrap().is_none());

    // A name that moves to another image leaves the first without it.
    images
        .tag(&other, &Reference::parse("three").unwrap())
        .unwrap();
    assert_eq!(images.find("three", None).unwrap().unwrap().id, other);
    assert_eq!(images.find("one:1", None).unwrap().unwrap().names.len(), 2);

    let error = images
        .remove(id.hex(), Force::No, &[])
        .expect_err("two names");
    assert_eq!(kind(&error), FailKind::Conflict);
    let user = Usage {
        container: "web".to_owned(),
        image: id.to_string(),
        diff_ids: vec![image.config.rootfs.diff_ids[0].to_string()],
    };
    let removed = images
        .remove("one:1", Force::No, std::slice::from_ref(&user))
        .unwrap();
    assert_eq!(removed, [Removed::Untagged("one:1".to_owned())]);
    let error = images
        .remove("two:2", Force::No, std::slice::from_ref(&user))
        .expect_err("used");
    assert!(error.to_string().contains("web"), "{error}");
    let removed = images.remove("two:2", Force::Yes, &[user]).unwrap();
    assert_eq!(removed.len(), 2);
    assert!(images.layer_dir(&image.config.rootfs.diff_ids[0]).exists());
    assert!(!images.layer_dir(&image.config.rootfs.diff_ids[1]).exists());
    images.remove(other.hex(), Force::Yes, &[]).unwrap();
    assert!(images.list().unwrap().0.is_empty());
    let blobs = home.1.images().join("blobs/sha256");
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
    home.is_tidy();
}

#[test]
fn a_damaged_store_says_what_to_do_and_can_be_cleaned() {
    let home = Home::new();
    let images = home.images();
    home.load(&good_oci_archive("a:1")).unwrap();
    let image = images.find("a:1", None).unwrap().unwrap();
    let config = images.blob_path(&image.id);
    std::fs::write(&config, "{}").unwrap();
    let error = images.find("a:1", None).expect_err("damaged");
    let report = crate::error::report(&error);
    assert!(
        report.contains(config.to_str().unwrap()) && report.contains("rl rmi"),
        "{report}"
    );
    images.remove("a:1", Force::No, &[]).unwrap();
    assert!(images.list().unwrap().0.is_empty());

    // The layer stayed, for a damaged image does not say which it had; loading again is enough.
    home.load(&good_oci_archive("a:1")).unwrap();
    let layer = images
        .layer_dir(&image.config.rootfs.diff_ids[0])
        .join("layer.json");
    std::fs::write(&layer, r#"{"version": 99}"#).unwrap();
    let error = images.size_unpacked(&image).expect_err("newer");
    assert!(crate::error::report(&error).contains("newer"));

    std::fs::write(home.1.images().join("index.json"), "{").unwrap();
    let error = images.list().expect_err("damaged");
    assert_eq!(kind(&error), FailKind::Corrupt);
    assert!(crate::error::report(&error).contains("index.json"));
}

#[test]
fn a_layer_that_vanished_is_unpacked_from_its_blob() {
    let home = Home::new();
    home.load(&good_oci_archive("a:1")).unwrap();
    let image = home.images().find("a:1", None).unwrap().unwrap();
    let layer = home.images().layer_dir(&image.config.rootfs.diff_ids[0]);
    std::fs::remove_dir_all(&layer).unwrap();
    // The archive's own copy is damaged now, so what comes is the stored blob.
    home.load(&oci_archive("a:1", b"nothing")).unwrap();
    assert!(layer.join("fs/bin/x").exists());
    // Both damaged: the error is the source's, and nothing is kept.
    std::fs::remove_dir_all(&layer).unwrap();
    std::fs::write(
        home.images().blob_path(&image.manifest.layers[0].digest),
        "x",
    )
    .unwrap();
    home.load(&oci_archive("a:1", b"nothing"))
        .expect_err("damaged");
    assert!(!layer.exists());
    home.load(&good_oci_archive("a:1")).unwrap();
    assert!(layer.join("fs/bin/x").exists());
    home.is_tidy();
}
