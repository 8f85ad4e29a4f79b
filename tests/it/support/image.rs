//! Small images made in memory, in the formats that other tools write. Nothing binary is committed.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::Digest as _;

/// `sha256:…` of these bytes.
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in sha2::Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// These bytes, compressed.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// One layer, as a tar.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl Layer {
    pub fn new() -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        tar.mode(tar::HeaderMode::Deterministic);
        Self { tar }
    }

    /// A header with any name at all, also one that no honest tool writes.
    fn header(kind: tar::EntryType, path: &str, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        let name = &mut header.as_old_mut().name;
        assert!(path.len() < name.len(), "`{path}` is too long");
        name[..path.len()].copy_from_slice(path.as_bytes());
        header
    }

    fn append(mut self, mut header: tar::Header, link: Option<&str>, bytes: &[u8]) -> Self {
        if let Some(link) = link {
            let name = &mut header.as_old_mut().linkname;
            name[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        self.tar.append(&header, bytes).unwrap();
        self
    }

    pub fn file(self, path: &str, mode: u32, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let header = Self::header(tar::EntryType::Regular, path, mode, bytes.len());
        self.append(header, None, bytes)
    }

    /// A file of somebody else than root.
    pub fn owned(self, path: &str, uid: u64, gid: u64, bytes: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, path, 0o644, bytes.len());
        header.set_uid(uid);
        header.set_gid(gid);
        self.append(header, None, bytes.as_bytes())
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        let header = Self::header(tar::EntryType::Directory, path, mode, 0);
        self.append(header, None, &[])
    }

    /// An extended header (pax) for the next entry, of records such as `9 a=b c\n`.
    pub fn extended(self, records: &str) -> Self {
        let header = Self::header(tar::EntryType::XHeader, "PaxHeader", 0o644, records.len());
        self.append(header, None, records.as_bytes())
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        let header = Self::header(tar::EntryType::Symlink, path, 0o777, 0);
        self.append(header, Some(target), &[])
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        let header = Self::header(tar::EntryType::Link, path, 0o644, 0);
        self.append(header, Some(target), &[])
    }

    pub fn device(self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = Self::header(tar::EntryType::Char, path, 0o666, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.append(header, None, &[])
    }

    /// The host's static BusyBox with all its names, a root and an ordinary user.
    pub fn with_busybox(self) -> Self {
        let program = super::host::find("busybox").expect("busybox is one of the tests' packages");
        let program = std::fs::read(program).unwrap();
        let mut layer = self
            .dir("bin", 0o755)
            .dir("etc", 0o755)
            .dir("root", 0o700)
            .dir("tmp", 0o1777)
            .dir("home", 0o755)
            .dir("home/app", 0o755)
            .file(
                "etc/passwd",
                0o644,
                "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
            )
            .file(
                "etc/group",
                0o644,
                "root:x:0:\napp:x:1001:\nextra:x:2000:app\n",
            )
            .file("bin/busybox", 0o755, program);
        for name in APPLETS.split_whitespace() {
            layer = layer.symlink(&format!("bin/{name}"), "busybox");
        }
        layer
    }

    pub fn finish(self) -> Vec<u8> {
        self.tar.into_inner().unwrap()
    }
}

const APPLETS: &str = "sh ash cat chmod chown chgrp cp cut date dd df echo egrep env expr false find free \
    grep gzip head hostname id ip kill killall link ln ls md5sum mkdir mkfifo mknod mktemp mount mv nc \
    nslookup od ping pidof printf ps pwd readlink realpath rm rmdir sed seq setsid sha256sum sleep sort \
    stat stty su sync tail tar tee test timeout top touch tr true truncate tty umount uname uniq unshare \
    uptime usleep vi wc wget which whoami xargs yes dnsdomainname nproc ifconfig route setpriv nsenter";

/// A whole image: layers, lowest first, and a configuration.
#[derive(Debug)]
pub struct Image {
    pub layers: Vec<Vec<u8>>,
    /// `config` of the image configuration: `Env`, `Cmd`, …
    pub config: Value,
}

/// How the layers of an OCI layout are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
    Zstd,
    /// gzip in members that can be fetched one by one, and a footer that is an empty member.
    EStargz,
    /// zstd in frames of that kind, and tables in frames that a reader skips.
    ZstdChunked,
}

/// A frame that readers of zstd pass over. Source: RFC 8878, section 3.1.2.
fn skippable(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [
        &0x184D_2A50_u32.to_le_bytes()[..],
        &length.to_le_bytes(),
        content,
    ]
    .concat()
}

impl Compression {
    fn apply(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip => gzip(bytes),
            Self::Zstd => zstd::encode_all(bytes, 1).unwrap(),
            Self::EStargz => {
                let mut all: Vec<u8> = bytes.chunks(5 * 512).flat_map(gzip).collect();
                let toc = format!("{:016x}STARGZ", all.len() / 2);
                let mut footer = flate2::GzBuilder::new()
                    .extra([&b"SG\x16\0"[..], toc.as_bytes()].concat())
                    .write(Vec::new(), flate2::Compression::none());
                footer.flush().unwrap();
                all.extend(footer.finish().unwrap());
                all
            }
            Self::ZstdChunked => {
                let frames = bytes
                    .chunks(5 * 512)
                    .map(|part| zstd::encode_all(part, 1).unwrap());
                let mut all: Vec<u8> = frames.flatten().collect();
                let table = zstd::encode_all(&br#"{"version":1,"entries":[]}"#[..], 1).unwrap();
                all.extend(skippable(&table));
                all.extend(skippable(&[0; 56]));
                all
            }
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip | Self::EStargz => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd | Self::ZstdChunked => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

impl Image {
    /// BusyBox alone.
    pub fn busybox() -> Self {
        Self::on_busybox(vec![])
    }

    /// BusyBox and these layers above it.
    pub fn on_busybox(above: Vec<Layer>) -> Self {
        let mut layers = vec![Layer::new().with_busybox().finish()];
        layers.extend(above.into_iter().map(Layer::finish));
        Self {
            layers,
            config: json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"] }),
        }
    }

    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// The image configuration as bytes.
    pub fn configuration(&self, architecture: &str) -> Vec<u8> {
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| digest(layer)).collect();
        let history: Vec<_> = self
            .layers
            .iter()
            .map(|_| json!({ "created": "2023-11-14T22:13:20Z", "created_by": "test" }))
            .collect();
        let configuration = json!({
            "created": "2023-11-14T22:13:20Z",
            "architecture": architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        });
        serde_json::to_vec(&configuration).unwrap()
    }

    /// As `docker save` writes it.
    pub fn docker_archive(&self, name: &str) -> Vec<u8> {
        let configuration = self.configuration(architecture());
        let config_name = format!("{}.json", &digest(&configuration)[7..]);
        let mut archive = Layer::new().file(&config_name, 0o644, &configuration);
        let mut names = Vec::new();
        for layer in &self.layers {
            let name = format!("{}.tar", &digest(layer)[7..]);
            archive = archive.file(&name, 0o644, layer);
            names.push(name);
        }
        let manifest =
            json!([{ "Config": config_name, "RepoTags": [name], "Layers": names }]).to_string();
        archive.file("manifest.json", 0o644, manifest).finish()
    }

    /// An OCI image layout in `directory` with this image under `tag`.
    pub fn oci_layout(&self, directory: &Path, tag: &str, compression: Compression) {
        std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        std::fs::write(
            directory.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        let mut descriptor = self.manifest(directory, architecture(), compression);
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
    }

    /// Adds the blobs of this image to the layout; returns the descriptor of its manifest.
    pub fn manifest(&self, layout: &Path, architecture: &str, compression: Compression) -> Value {
        let configuration = self.configuration(architecture);
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| blob(layout, compression.media_type(), &compression.apply(layer)))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob(layout, "application/vnd.oci.image.config.v1+json", &configuration),
            "layers": layers,
        });
        let mut descriptor = blob(
            layout,
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().as_bytes(),
        );
        descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
        descriptor
    }

    /// As an archive of an OCI layout, named `name` inside.
    pub fn oci_archive(&self, home: &super::Home, name: &str) -> PathBuf {
        let layout = home.dir("oci-archive.d");
        self.oci_layout(&layout, name, Compression::Gzip);
        let archive = home.path().join("oci-archive.tar");
        home.program("tar")
            .args(["-C"])
            .arg(&layout)
            .arg("-cf")
            .arg(&archive)
            .args(["oci-layout", "index.json", "blobs"])
            .ok();
        archive
    }
}

/// Writes a blob into a layout; returns its descriptor.
pub fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let digest = digest(bytes);
    std::fs::write(layout.join("blobs/sha256").join(&digest[7..]), bytes).unwrap();
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

/// This machine's architecture as OCI names it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The path of a docker-archive with `busybox:latest`; made once for all tests.
pub fn busybox() -> PathBuf {
    let directory =
        std::env::var_os("RL_TEST_HOMES").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = directory.join("busybox.tar");
    if !path.exists() {
        // Whoever comes first wins; the content is the same.
        let mut file = tempfile::NamedTempFile::new_in(&directory).unwrap();
        file.write_all(&Image::busybox().docker_archive("busybox:latest"))
            .unwrap();
        file.persist(&path).unwrap();
    }
    path
}

impl super::Home {
    /// Loads an image under `name`.
    #[track_caller]
    pub fn load(&self, image: &Image, name: &str) {
        let path = self.file("image.tar", image.docker_archive(name));
        self.rl("load -q -i").arg(&path).ok();
        std::fs::remove_file(path).unwrap();
    }
}
