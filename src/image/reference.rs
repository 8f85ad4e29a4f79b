//! Names of images, `docker.io/library/alpine:3@sha256:…`, and digests. Pure text: nothing is looked up.
//!
//! A name is read as docker reads it (github.com/distribution/reference): the part before the first
//! slash is a registry when it has a dot or a colon or is `localhost`; otherwise the registry is
//! `docker.io`, and a lone word is under `library/` there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::Fail;

/// Where names without a registry live.
pub const DOCKER_HUB: &str = "docker.io";
const OFFICIAL: &str = "library/";
/// What is asked for when neither a tag nor a digest is given.
pub const DEFAULT_TAG: &str = "latest";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;
const MAX_REGISTRY: usize = 261; // a name of 255 bytes, a colon, a port
const MAX_TEXT: usize = 1024;

/// The SHA-256 of some bytes, written `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    /// Exactly 64 lower-case hexadecimal digits, so that it can be a file name.
    hex: String,
}

impl Digest {
    /// Reads `sha256:` and 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// [`crate::error::Kind::Unsupported`] for another algorithm, [`crate::error::Kind::Usage`] else.
    pub fn parse(text: &str) -> Result<Self, Fail> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(
                Fail::usage(format!("`{}` is not a digest", text.escape_debug()))
                    .hint("a digest is `sha256:` and 64 hexadecimal digits"),
            );
        };
        if algorithm != "sha256" {
            return Err(Fail::unsupported(format!(
                "digest algorithm `{}` is not known, only sha256 is",
                algorithm.escape_debug()
            )));
        }
        if !is_hex_64(hex) {
            return Err(
                Fail::usage(format!("`{}` is not a digest", text.escape_debug()))
                    .hint("a digest is `sha256:` and 64 hexadecimal digits in lower case"),
            );
        }
        Ok(Self {
            hex: hex.to_owned(),
        })
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_sha256(Sha256::digest(bytes).into())
    }

    /// The digest that a hasher came to.
    #[must_use]
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let hex = hash
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
            .collect();
        Self { hex }
    }

    /// The 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first 12 digits, docker's short id.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

impl FromStr for Digest {
    type Err = Fail;

    fn from_str(text: &str) -> Result<Self, Fail> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Digest {
    type Error = Fail;

    fn try_from(text: String) -> Result<Self, Fail> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// The full name of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    /// Host and perhaps port, in lower case; [`DOCKER_HUB`] for names without one.
    pub registry: String,
    /// Path at the registry: `library/alpine`.
    pub repository: String,
    /// `None` only where there is a digest.
    pub tag: Option<String>,
    /// Which content is meant, whatever the tag says.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Reads a name as docker does. A leading `docker://` is dropped.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] that says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, Fail> {
        let shown = || text.chars().take(80).collect::<String>();
        let wrong = |why: &str| {
            Fail::usage(format!(
                "`{}` is not an image name: {why}",
                shown().escape_debug()
            ))
        };
        let rest = text.strip_prefix("docker://").unwrap_or(text);
        if rest.is_empty() {
            return Err(wrong("it is empty"));
        }
        if rest.len() > MAX_TEXT {
            return Err(wrong("it is too long"));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (rest, None),
        };
        // A colon before the last slash belongs to a port.
        let name_from = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_from..].split_once(':') {
            Some((name, tag)) => (&rest[..name_from + name.len()], Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(wrong(&format!(
                "the tag `{}` must have 1 to {MAX_TAG} letters, digits, `_`, `.` or `-`, and begin with none of the last two",
                tag.escape_debug()
            )));
        }
        if is_hex_64(name) {
            return Err(
                wrong("64 hexadecimal digits are an id").hint("for content write NAME@sha256:…")
            );
        }
        let (registry, path) = split_registry(name);
        if !is_registry(&registry) {
            return Err(wrong(&format!(
                "`{}` is not a host or host:port",
                registry.escape_debug()
            )));
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(wrong("the repository must be in lower case").hint(format!(
                "did you mean `{}`?",
                shown()
                    .strip_prefix("docker://")
                    .unwrap_or(&shown())
                    .replacen(path, &path.to_lowercase(), 1)
            )));
        }
        let repository = if registry == DOCKER_HUB && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if let Some(component) = path.split('/').find(|component| !is_component(component)) {
            return Err(if component.is_empty() {
                wrong("a part between slashes is empty")
            } else {
                wrong(&format!(
                    "`{}` must be lower-case letters and digits, with single `.` or `_`, `__` or `-` between them",
                    component.escape_debug()
                ))
            });
        }
        if repository.len() > MAX_REPOSITORY {
            return Err(wrong(&format!(
                "the repository has more than {MAX_REPOSITORY} bytes"
            )));
        }
        Ok(Self {
            registry,
            repository,
            tag: match (tag, &digest) {
                (Some(tag), _) => Some(tag.to_owned()),
                (None, Some(_)) => None,
                (None, None) => Some(DEFAULT_TAG.to_owned()),
            },
            digest,
        })
    }

    /// What a registry is asked for: the digest, else the tag.
    #[must_use]
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Docker's short form: `alpine:latest`, `me/x:1`, `host:5000/x@sha256:…`.
    #[must_use]
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    /// The short form without tag and digest, as in the first column of `docker images`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        let full = || format!("{}/{}", self.registry, self.repository);
        if self.registry != DOCKER_HUB {
            return full();
        }
        let short = match self.repository.strip_prefix(OFFICIAL) {
            Some(word) if !word.contains('/') => word,
            Some(_) | None => &self.repository,
        };
        // `docker.io/my.dir/x` would come back as a registry `my.dir`.
        let (registry, path) = split_registry(short);
        if registry == DOCKER_HUB && path == short && !is_hex_64(short) {
            short.to_owned()
        } else {
            full()
        }
    }

    fn suffix(&self) -> String {
        let mut text = String::new();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = Fail;

    fn from_str(text: &str) -> Result<Self, Fail> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Reference {
    type Error = Fail;

    fn try_from(text: String) -> Result<Self, Fail> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

/// Whether `text` names no registry, so that something must say where the image is.
#[must_use]
pub fn is_short(text: &str) -> bool {
    let end = text.find('@').unwrap_or(text.len());
    let name = &text[..end];
    let bare = match name.rfind('/') {
        Some(_) => name,
        None => name.split(':').next().unwrap_or(name),
    };
    !text.starts_with("docker://") && split_registry(bare).1 == bare
}

/// Registry and path. Unlike docker, a first part in upper case without dot or port is no host name:
/// it is nearly always a misspelt repository.
fn split_registry(name: &str) -> (String, &str) {
    match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
            let host = first.to_ascii_lowercase();
            match host.as_str() {
                "index.docker.io" | "registry-1.docker.io" => (DOCKER_HUB.to_owned(), path),
                _ => (host, path),
            }
        }
        Some(_) | None => (DOCKER_HUB.to_owned(), name),
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn is_registry(text: &str) -> bool {
    if text.len() > MAX_REGISTRY {
        return false;
    }
    let (host_is_good, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port),
            None if rest.is_empty() => None,
            None => return false,
        };
        (address.parse::<std::net::Ipv6Addr>().is_ok(), port)
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        (host.split('.').all(is_label), port)
    };
    let port_is_good = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    host_is_good && port_is_good
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_word(*first)
        && is_word(*last)
        && bytes
            .split(|byte| is_word(*byte))
            .all(|between| match between {
                b"" | b"." | b"_" | b"__" => true,
                dashes => dashes.iter().all(|byte| *byte == b'-'),
            })
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && tag
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn is_hex_64(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_read_as_docker_reads_them() {
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("alpine:3", "docker.io/library/alpine:3", "alpine:3"),
            ("me/x", "docker.io/me/x:latest", "me/x:latest"),
            ("docker://me/x", "docker.io/me/x:latest", "me/x:latest"),
            (
                "docker.io/alpine",
                "docker.io/library/alpine:latest",
                "alpine:latest",
            ),
            (
                "index.docker.io/me/x",
                "docker.io/me/x:latest",
                "me/x:latest",
            ),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            (
                "localhost:5000",
                "docker.io/library/localhost:5000",
                "localhost:5000",
            ),
            ("host:5000/x", "host:5000/x:latest", "host:5000/x:latest"),
            ("[::1]:5000/x:1", "[::1]:5000/x:1", "[::1]:5000/x:1"),
            (
                "GHCR.io/a/b/c",
                "ghcr.io/a/b/c:latest",
                "ghcr.io/a/b/c:latest",
            ),
            (
                "a/b__c/d--e.f_g:V_1.2-x",
                "docker.io/a/b__c/d--e.f_g:V_1.2-x",
                "a/b__c/d--e.f_g:V_1.2-x",
            ),
            (
                "docker.io/my.dir/x:1",
                "docker.io/my.dir/x:1",
                "docker.io/my.dir/x:1",
            ),
            (
                "docker.io/localhost/x:1",
                "docker.io/localhost/x:1",
                "docker.io/localhost/x:1",
            ),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(Reference::parse(familiar).unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_the_default_tag() {
        let plain = Reference::parse(&format!("host:5000/x@{D}")).unwrap();
        assert_eq!(plain.tag, None);
        assert_eq!(plain.to_string(), format!("host:5000/x@{D}"));
        let both = Reference::parse(&format!("alpine:3@{D}")).unwrap();
        assert_eq!(both.familiar(), format!("alpine:3@{D}"));
        assert_eq!(both.selector(), D);
        assert_eq!(Digest::of(b"").to_string(), D);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long_path = "a/".repeat(128) + "b";
        let long_tag = format!("x:{}", "t".repeat(129));
        for (text, say) in [
            ("", "empty"),
            ("docker://", "empty"),
            ("Alpine", "lower case"),
            ("Me/x", "lower case"),
            ("a//b", "empty"),
            ("a/", "empty"),
            ("/a", "empty"),
            ("x:", "tag"),
            ("x:.t", "tag"),
            ("x:a b", "tag"),
            ("a..b/c/d", "host"),
            ("a___b", "lower-case letters"),
            ("-a", "lower-case letters"),
            ("ä", "lower-case letters"),
            ("host:0/x", "host"),
            ("host:65536/x", "host"),
            ("host:+5/x", "host"),
            ("[::1/x", "host"),
            ("[::g]:1/x", "host"),
            (&long_path, "255"),
            (&long_tag, "tag"),
            (&D[7..], "id"),
            ("x@sha256:12", "not a digest"),
            ("x@sha512:12", "sha512"),
            ("x@", "not a digest"),
        ] {
            let fail = Reference::parse(text).expect_err(text);
            assert!(fail.message.contains(say), "{text}: {fail}");
        }
        let fail = Reference::parse("docker.io/Me/App:Tag").expect_err("upper case");
        assert_eq!(fail.hints, ["did you mean `docker.io/me/app:Tag`?"]);
    }

    #[test]
    fn json_holds_names_and_digests_as_text() {
        let reference: Reference = serde_json::from_str("\"alpine\"").unwrap();
        assert_eq!(
            serde_json::to_string(&reference).unwrap(),
            "\"docker.io/library/alpine:latest\""
        );
        assert!(serde_json::from_str::<Digest>("\"sha256:../../x\"").is_err());
    }

    proptest! {
        #[test]
        fn whatever_parses_comes_back_the_same(
            text in r"(docker://)?([a-zA-Z0-9.-]{1,9}(:[0-9]{1,5})?/)?[a-z0-9._/-]{1,12}(:[a-zA-Z0-9._-]{1,9})?"
        ) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in r"\PC*") {
            let _ = Reference::parse(&text);
            let _ = Digest::parse(&text);
        }
    }
}
