//! What registries and image layouts hold as JSON: manifests and indexes. Pure data; the image's own
//! configuration is in `config`, what runs where in `platform`.
//!
//! Both families are read, OCI's and docker's (schema 2); they differ in media types only. Digests are
//! over bytes, so whoever calls [`parse`] keeps those: a value written out again may differ.
//!
//! Sources: OCI image specification (manifest.md, image-index.md);
//! docker's image manifest version 2, schema 2.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::platform::Platform;
use super::reference::Digest;
use crate::error::Fail;

/// `application/vnd.oci.image.manifest.v1+json`
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// `application/vnd.oci.image.index.v1+json`
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// `application/vnd.oci.image.config.v1+json`
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI's layer without compression; `+gzip` and `+zstd` may follow.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// `application/vnd.docker.distribution.manifest.v2+json`
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// `application/vnd.docker.distribution.manifest.list.v2+json`
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// `application/vnd.docker.container.image.v1+json`
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer without compression; `.gzip` and `.zstd` may follow.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// The kinds of document that a registry is asked for, best first.
pub const ACCEPTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// Most bytes of a manifest, an index or a configuration that are read; registries refuse more, too.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Most layers of an image; docker stops at 127.
pub const MAX_LAYERS: usize = 1000;
/// Most entries of an index.
pub const MAX_ENTRIES: usize = 1000;
/// Most bytes of one layer that make sense: 1 TiB.
pub const MAX_LAYER_BYTES: u64 = 1 << 40;

/// Points at content by its digest. Source: OCI image specification, descriptor.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What kind of content.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Of the content's bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Where else it may be had; only foreign layers have it, and `rl` follows none.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    /// In an index: what the image runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// In an index: what an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Notes.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`OCI_MANIFEST`] or [`DOCKER_MANIFEST`]; may be missing in OCI's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The image's configuration.
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
    /// Notes.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// The images of several platforms under one name; docker calls it a manifest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`OCI_INDEX`] or [`DOCKER_LIST`]; may be missing in OCI's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// One for each platform, and whatever else belongs to the image.
    pub manifests: Vec<Descriptor>,
    /// Notes.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// Which of the two families of media types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// OCI's.
    Oci,
    /// Docker's image manifest version 2, schema 2.
    Docker,
}

/// What a name at a registry leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Images of several platforms.
    Index(Index),
}

/// Reads a manifest or an index and checks its shape and numbers.
///
/// `content_type` is what the server said; it decides only where the document itself is silent.
///
/// # Errors
/// [`crate::error::Kind::Corrupt`] for what is no such document or contradicts itself,
/// [`crate::error::Kind::Unsupported`] for docker's schema 1 and for artifacts that are not images.
pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, Fail> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: Option<u32>,
        media_type: Option<String>,
        artifact_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
        fs_layers: Option<serde::de::IgnoredAny>,
    }
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(Fail::corrupt(format!(
            "the manifest has {} bytes, more than {MAX_DOCUMENT}",
            bytes.len()
        )));
    }
    let shape: Shape = read(bytes, "the manifest")?;
    let said = content_type.and_then(document_type);
    if shape.schema_version == Some(1) || shape.fs_layers.is_some() {
        return Err(Fail::unsupported(
            "the image is in docker's old format (manifest schema 1), which has no verifiable layers",
        )
        .hint("push it again with a current docker or podman, then pull that"));
    }
    if shape.schema_version != Some(2) {
        return Err(Fail::corrupt("the manifest has no `schemaVersion` 2"));
    }
    let own = match shape.media_type.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match document_type(text) {
            Some(kind) => Some(kind),
            None => return Err(not_an_image(text)),
        },
    };
    if let (Some(own), Some(said)) = (own, said)
        && own != said
    {
        return Err(Fail::corrupt(format!(
            "the registry calls the manifest {said}, the manifest itself says {own}"
        )));
    }
    let has_layers = shape.config.is_some() || shape.layers.is_some();
    // One text that is a manifest to one tool and an index to another is an attack (CVE-2021-41190).
    if shape.manifests.is_some() && has_layers {
        return Err(Fail::corrupt(
            "the manifest is both an image and an index of images",
        ));
    }
    let is_index = shape.manifests.is_some();
    if let Some(kind) = own.or(said)
        && is_index != (kind == DocumentType::Index)
    {
        return Err(Fail::corrupt(format!(
            "the manifest says it is {kind}, but does not have its fields"
        )));
    }
    if is_index {
        let index: Index = read(bytes, "the index")?;
        if index.manifests.len() > MAX_ENTRIES {
            return Err(Fail::corrupt(format!(
                "the index has {} entries, more than {MAX_ENTRIES}",
                index.manifests.len()
            )));
        }
        return Ok(Document::Index(index));
    }
    if !has_layers {
        return Err(Fail::corrupt("the manifest has neither layers nor images"));
    }
    let manifest: Box<Manifest> = read(bytes, "the manifest")?;
    manifest.check(shape.artifact_type.as_deref())?;
    Ok(Document::Manifest(manifest))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DocumentType {
    Manifest,
    Index,
}

impl fmt::Display for DocumentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DocumentType::Manifest => "an image",
            DocumentType::Index => "an index of images",
        })
    }
}

/// `None` for types that say nothing, such as `application/json`.
fn document_type(media_type: &str) -> Option<DocumentType> {
    match bare(media_type).as_str() {
        OCI_MANIFEST | DOCKER_MANIFEST => Some(DocumentType::Manifest),
        OCI_INDEX | DOCKER_LIST => Some(DocumentType::Index),
        _ => None,
    }
}

/// Without parameters such as `; charset=utf-8`.
fn bare(media_type: &str) -> String {
    let end = media_type.find(';').unwrap_or(media_type.len());
    media_type[..end].trim().to_ascii_lowercase()
}

fn not_an_image(what: &str) -> Fail {
    Fail::unsupported(format!(
        "it is not a container image but `{}`",
        what.escape_debug()
    ))
    .hint("tools such as `oras` or `helm` fetch artifacts that are not images")
}

/// Reads JSON; `what` names it in the error.
///
/// # Errors
/// [`crate::error::Kind::Corrupt`] with the place.
pub fn read<'b, T: Deserialize<'b>>(bytes: &'b [u8], what: &str) -> Result<T, Fail> {
    serde_json::from_slice(bytes)
        .map_err(|error| Fail::corrupt(format!("{what} cannot be read: {error}")))
}

impl Manifest {
    /// Its media type, also where it does not say.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self.media_type.as_deref() {
            None | Some("") => OCI_MANIFEST,
            Some(said) => said,
        }
    }

    /// The same image in the words of `format`: configuration and layers keep their bytes.
    ///
    /// # Errors
    /// [`crate::error::Kind::Unsupported`] for a zstd layer in docker's format, which has none.
    pub fn converted(&self, format: Format) -> Result<Self, Fail> {
        let mut converted = self.clone();
        let (kind, config) = match format {
            Format::Oci => (OCI_MANIFEST, OCI_CONFIG),
            Format::Docker => (DOCKER_MANIFEST, DOCKER_CONFIG),
        };
        converted.media_type = Some(kind.to_owned());
        config.clone_into(&mut converted.config.media_type);
        if format == Format::Docker {
            converted.annotations.clear(); // docker's has none
        }
        for layer in &mut converted.layers {
            layer.media_type = match (LayerCompression::of(layer)?, format) {
                (LayerCompression::None, Format::Oci) => OCI_LAYER.to_owned(),
                (LayerCompression::None, Format::Docker) => DOCKER_LAYER.to_owned(),
                (LayerCompression::Gzip, Format::Oci) => format!("{OCI_LAYER}+gzip"),
                (LayerCompression::Gzip, Format::Docker) => format!("{DOCKER_LAYER}.gzip"),
                (LayerCompression::Zstd, Format::Oci) => format!("{OCI_LAYER}+zstd"),
                (LayerCompression::Zstd, Format::Docker) => {
                    return Err(Fail::unsupported(format!(
                        "layer {} is packed with zstd, which docker's format does not have",
                        layer.digest
                    ))
                    .hint("use OCI's format: --format oci"));
                }
            };
            if format == Format::Docker {
                layer.annotations.clear();
            }
        }
        Ok(converted)
    }

    fn check(&self, artifact_type: Option<&str>) -> Result<(), Fail> {
        let docker = self.media_type.as_deref() == Some(DOCKER_MANIFEST);
        match bare(&self.config.media_type).as_str() {
            OCI_CONFIG | DOCKER_CONFIG => {}
            // Docker 1.10 and some old registries wrote these.
            "" | "application/octet-stream" | "application/json" if docker => {}
            "application/vnd.docker.plugin.v1+json" => {
                return Err(Fail::unsupported("it is a docker plugin, not an image"));
            }
            other => return Err(not_an_image(artifact_type.unwrap_or(other))),
        }
        if self.config.size > MAX_DOCUMENT {
            return Err(Fail::corrupt(format!(
                "the image's configuration claims {} bytes, more than {MAX_DOCUMENT}",
                self.config.size
            )));
        }
        if self.layers.len() > MAX_LAYERS {
            return Err(Fail::corrupt(format!(
                "the image has {} layers, more than {MAX_LAYERS}",
                self.layers.len()
            )));
        }
        for layer in &self.layers {
            LayerCompression::of(layer)?;
            if layer.size > MAX_LAYER_BYTES {
                return Err(Fail::corrupt(format!(
                    "layer {} claims {} bytes, more than {MAX_LAYER_BYTES}",
                    layer.digest, layer.size
                )));
            }
        }
        Ok(())
    }
}

/// How a layer's tar is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerCompression {
    /// A plain tar.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl LayerCompression {
    /// What the media type of `layer` says.
    ///
    /// # Errors
    /// [`crate::error::Kind::Unsupported`] for foreign and encrypted layers, and for what is no layer.
    pub fn of(layer: &Descriptor) -> Result<Self, Fail> {
        let media_type = bare(&layer.media_type);
        let unsupported = |what: &str| Fail::unsupported(format!("layer {} {what}", layer.digest));
        if media_type.contains("foreign") || media_type.contains("nondistributable") {
            return Err(
                unsupported("may not be distributed by registries (a foreign layer)").hint(
                    "images with such layers are for Windows, as a rule: choose another platform",
                ),
            );
        }
        if media_type.ends_with("+encrypted") {
            return Err(unsupported("is encrypted")
                .hint("decrypt the image first, with `skopeo copy --decryption-key`"));
        }
        let packing = media_type
            .strip_prefix(OCI_LAYER)
            .map(|rest| rest.replace('+', "."))
            .or_else(|| media_type.strip_prefix(DOCKER_LAYER).map(str::to_owned));
        match packing.as_deref() {
            Some("") => Ok(Self::None),
            Some(".gzip") => Ok(Self::Gzip),
            Some(".zstd") => Ok(Self::Zstd),
            Some(_) | None => Err(unsupported(&format!(
                "is of a kind that no image has: `{}`",
                layer.media_type.escape_debug()
            ))),
        }
    }
}

impl Index {
    /// The entry that suits `wanted` best; it is a manifest or, rarely, an index again.
    ///
    /// # Errors
    /// [`crate::error::Kind::NotFound`] that lists the platforms there are.
    pub fn choose(&self, wanted: &Platform) -> Result<&Descriptor, Fail> {
        let images: Vec<&Descriptor> = self
            .manifests
            .iter()
            .filter(|entry| entry.is_image())
            .collect();
        let ranked = images.iter().filter_map(|entry| {
            let rank = wanted.rank(entry.platform.as_ref()?)?;
            Some((rank, *entry))
        });
        // The first of equals, as docker has it.
        if let Some((_, entry)) = ranked.min_by_key(|(rank, _)| *rank) {
            return Ok(entry);
        }
        if let [only] = images.as_slice()
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let mut there: Vec<String> = images
            .iter()
            .filter_map(|entry| Some(entry.platform.as_ref()?.to_string()))
            .collect();
        there.dedup();
        let fail = Fail::not_found(format!("the image does not exist for {wanted}")).code("RL-I02");
        Err(if there.is_empty() {
            fail
        } else {
            fail.hint(format!(
                "choose one with --platform; there is {}",
                there.join(", ")
            ))
        })
    }
}

impl Descriptor {
    /// Whether an index's entry can be an image: neither an attestation nor another artifact.
    #[must_use]
    pub fn is_image(&self) -> bool {
        let unknown =
            |platform: &Platform| platform.os == "unknown" || platform.architecture == "unknown";
        document_type(&self.media_type).is_some()
            && self.artifact_type.is_none()
            && !self.platform.as_ref().is_some_and(unknown)
            && !self.annotations.contains_key("vnd.docker.reference.type")
    }
}

/// Go writes `null` for empty lists and maps.
///
/// # Errors
/// The deserializer's.
pub fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn descriptor(media_type: &str, size: i64) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(b"").to_string(), "size": size})
    }

    fn manifest() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, 10),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", 10)],
            "annotations": null,
        })
    }

    fn parse_value(value: &Value) -> Result<Document, Fail> {
        parse(value.to_string().as_bytes(), None)
    }

    fn with(mut value: Value, path: &str, new: Value) -> Value {
        match value.pointer_mut(path) {
            Some(place) => *place = new,
            None => {
                value[path.trim_start_matches('/')] = new;
            }
        }
        value
    }

    #[test]
    fn both_families_are_read() {
        let docker = json!({
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": descriptor(DOCKER_CONFIG, 10),
            "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", 10)],
        });
        for value in [manifest(), docker] {
            let Document::Manifest(manifest) = parse_value(&value).unwrap() else {
                panic!("not a manifest: {value}");
            };
            assert_eq!(manifest.layers[0].size, 10);
        }
        let silent = json!({"schemaVersion": 2, "manifests": []});
        for content_type in [None, Some("application/json"), Some(DOCKER_LIST)] {
            let document = parse(silent.to_string().as_bytes(), content_type).unwrap();
            assert!(matches!(document, Document::Index(_)));
        }
    }

    #[test]
    fn what_is_no_image_is_refused_by_name() {
        let layer = "/layers/0/mediaType";
        let many = Value::Array(vec![manifest()["layers"][0].clone(); MAX_LAYERS + 1]);
        for (value, kind, say) in [
            (
                json!({"schemaVersion": 1, "fsLayers": []}),
                Kind::Unsupported,
                "schema 1",
            ),
            (json!({}), Kind::Corrupt, "schemaVersion"),
            (json!([]), Kind::Corrupt, "cannot be read"),
            (json!({"schemaVersion": 2}), Kind::Corrupt, "neither"),
            (
                with(manifest(), "/manifests", json!([])),
                Kind::Corrupt,
                "both",
            ),
            (
                with(manifest(), "/mediaType", json!(OCI_INDEX)),
                Kind::Corrupt,
                "fields",
            ),
            (
                with(manifest(), "/mediaType", json!("x/y")),
                Kind::Unsupported,
                "x/y",
            ),
            (
                with(
                    manifest(),
                    "/config/mediaType",
                    json!("application/vnd.cncf.helm.config.v1+json"),
                ),
                Kind::Unsupported,
                "helm",
            ),
            (
                with(manifest(), "/config/size", json!(5 << 20)),
                Kind::Corrupt,
                "5242880",
            ),
            (
                with(manifest(), "/layers/0/size", json!(-1)),
                Kind::Corrupt,
                "-1",
            ),
            (
                with(manifest(), "/layers/0/size", json!(1_u64 << 41)),
                Kind::Corrupt,
                "claims",
            ),
            (
                with(manifest(), "/layers/0/digest", json!("sha512:00")),
                Kind::Corrupt,
                "sha512",
            ),
            (
                with(manifest(), "/layers", many),
                Kind::Corrupt,
                "1001 layers",
            ),
            (
                with(
                    manifest(),
                    layer,
                    json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
                ),
                Kind::Unsupported,
                "foreign",
            ),
            (
                with(
                    manifest(),
                    layer,
                    json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
                ),
                Kind::Unsupported,
                "foreign",
            ),
            (
                with(
                    manifest(),
                    layer,
                    json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
                ),
                Kind::Unsupported,
                "encrypted",
            ),
            (
                with(manifest(), layer, json!("text/plain")),
                Kind::Unsupported,
                "text/plain",
            ),
        ] {
            let fail = parse_value(&value).expect_err(say);
            assert!(fail.message.contains(say), "{say}: {fail}");
            assert_eq!(fail.kind, kind, "{fail}");
        }
        let bytes = manifest().to_string();
        assert!(parse(bytes.as_bytes(), Some("application/json; charset=utf-8")).is_ok());
        let fail = parse(bytes.as_bytes(), Some(DOCKER_LIST)).expect_err("contradiction");
        assert!(fail.message.contains("itself"), "{fail}");
        let big = vec![b' '; usize::try_from(MAX_DOCUMENT).unwrap() + 1];
        assert!(parse(&big, None).is_err());
    }

    #[test]
    fn the_compression_of_a_layer_is_in_its_media_type() {
        for (media_type, expected) in [
            (OCI_LAYER, LayerCompression::None),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                LayerCompression::Gzip,
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                LayerCompression::Zstd,
            ),
            (DOCKER_LAYER, LayerCompression::None),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                LayerCompression::Gzip,
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
                LayerCompression::Zstd,
            ),
        ] {
            let layer: Descriptor = serde_json::from_value(descriptor(media_type, 1)).unwrap();
            assert_eq!(
                LayerCompression::of(&layer).unwrap(),
                expected,
                "{media_type}"
            );
        }
    }

    #[test]
    fn the_best_platform_of_an_index_is_chosen() {
        let cases = [
            (
                "linux/amd64",
                "linux/arm64 linux/amd64 linux/386",
                Some("linux/amd64"),
            ),
            ("linux/amd64", "linux/amd64/v3 linux/amd64/v2", None),
            (
                "linux/amd64/v3",
                "linux/amd64 linux/amd64/v2 linux/amd64/v4",
                Some("linux/amd64/v2"),
            ),
            ("linux/amd64", "linux/386 windows/amd64", Some("linux/386")),
            (
                "linux/arm/v7",
                "linux/arm/v5 linux/arm/v6 linux/arm64/v8",
                Some("linux/arm/v6"),
            ),
            (
                "linux/arm/v6",
                "linux/arm/v7 linux/arm/v5",
                Some("linux/arm/v5"),
            ),
            ("linux/arm/v6", "linux/arm/v7", None),
            (
                "linux/arm64",
                "linux/arm/v7 linux/arm64/v8",
                Some("linux/arm64/v8"),
            ),
            (
                "linux/arm64",
                "linux/arm/v5 linux/arm/v7",
                Some("linux/arm/v7"),
            ),
            ("linux/s390x", "linux/amd64 unknown/unknown", None),
            (
                "linux/amd64",
                "unknown/unknown linux/amd64",
                Some("linux/amd64"),
            ),
        ];
        for (wanted, offered, expected) in cases {
            let manifests: Vec<Value> = offered
                .split(' ')
                .map(|text| {
                    let mut entry = descriptor(OCI_MANIFEST, 1);
                    let mut parts = text.split('/');
                    entry["platform"] = json!({"os": parts.next(), "architecture": parts.next()});
                    if let Some(variant) = parts.next() {
                        entry["platform"]["variant"] = json!(variant);
                    }
                    entry
                })
                .collect();
            let value = json!({"schemaVersion": 2, "manifests": manifests});
            let Document::Index(index) = parse_value(&value).unwrap() else {
                panic!("not an index");
            };
            let chosen = index.choose(&Platform::parse(wanted).unwrap());
            let chosen = chosen.map(|entry| entry.platform.clone().unwrap().to_string());
            match expected {
                Some(expected) => assert_eq!(chosen.as_deref(), Ok(expected), "{wanted}"),
                None => {
                    let fail = chosen.expect_err(wanted);
                    assert_eq!(fail.kind, Kind::NotFound);
                    assert!(!fail.hints.concat().contains("unknown"), "{fail:?}");
                }
            }
        }
    }

    #[test]
    fn a_lone_entry_without_a_platform_is_taken() {
        let value = json!({"schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST, 1)]});
        let Document::Index(index) = parse_value(&value).unwrap() else {
            panic!("not an index");
        };
        assert!(index.choose(&Platform::host()).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, None);
        }
    }
}
