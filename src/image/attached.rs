//! Where the signatures of a registry's image are, and getting them: `registries.d`, read as podman reads it.
//!
//! ```text
//! ~/.config/containers/registries.d if it exists, else /etc/containers/registries.d: *.yaml
//! default-docker: SECTION
//! docker: { SCOPE: SECTION }                 the closest scope counts
//! SECTION: use-sigstore-attachments: true    beside the image: the tag sha256-HEX.sig of its repository
//!          lookaside: URL                    in URL/REPOSITORY@sha256=HEX/signature-1, -2, …; file, http, https
//! ```
//!
//! Nothing that is got is checked here. Source: containers-registries.d(5).

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::ingest;
use super::manifest::{self, Descriptor};
use super::policy::scopes;
use super::pull::{Registry, Source as _};
use super::reference::{Digest, Reference};
use super::registry::{Client, Wanted};
use super::signature::{ANNOTATION, MAX_PAYLOAD, PAYLOAD, Signature};
use crate::error::{Fail, Kind, kind};

/// More than any such file has.
const MAX_FILE: usize = 4 << 20;
/// More signatures than any image has.
const MAX_SIGNATURES: usize = 100;

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Section {
    #[serde(alias = "sigstore")]
    lookaside: Option<String>,
    #[serde(alias = "sigstore-staging", rename = "lookaside-staging")]
    _lookaside_staging: Option<String>,
    use_sigstore_attachments: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Content {
    default_docker: Option<Section>,
    docker: Option<BTreeMap<String, Section>>,
}

/// All files of `registries.d` together.
#[derive(Debug, Default)]
struct Places {
    default: Option<Section>,
    scopes: BTreeMap<String, Section>,
}

impl Places {
    fn load() -> Result<Self> {
        let own = std::env::var_os("HOME")
            .map(|home| PathBuf::from(home).join(".config/containers/registries.d"))
            .filter(|dir| dir.is_dir());
        let dir = own.unwrap_or_else(|| PathBuf::from("/etc/containers/registries.d"));
        let mut places = Self::default();
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(places),
            entries => entries.with_context(|| format!("reading `{}`", dir.display()))?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "yaml") {
                files.push(path);
            }
        }
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| broken(&file, &error.to_string()))?;
            places.merge(&file, &text)?;
        }
        Ok(places)
    }

    fn merge(&mut self, file: &Path, text: &str) -> Result<(), Fail> {
        if text.len() > MAX_FILE {
            return Err(broken(file, "it is too large"));
        }
        let content: Option<Content> = serde_saphyr::from_str(text)
            .map_err(|error| broken(file, error.to_string().lines().next().unwrap_or_default()))?;
        let content = content.unwrap_or_default();
        if content.default_docker.is_some() && self.default.is_some() {
            return Err(broken(file, "`default-docker` stands in another file, too"));
        }
        self.default = self.default.take().or(content.default_docker);
        for (scope, section) in content.docker.into_iter().flatten() {
            if self.scopes.insert(scope.clone(), section).is_some() {
                return Err(broken(
                    file,
                    &format!("`{scope}` stands in another file, too"),
                ));
            }
        }
        Ok(())
    }

    /// The one section that counts.
    fn of(&self, name: &Reference) -> Section {
        let found = scopes(name)
            .iter()
            .filter(|scope| !scope.starts_with("*."))
            .find_map(|scope| self.scopes.get(scope));
        match found.or(self.default.as_ref()) {
            Some(section) => section.clone(),
            None => Section {
                lookaside: usual(),
                ..Section::default()
            },
        }
    }
}

/// Where signatures are when no file says it.
fn usual() -> Option<String> {
    // Root of a user namespace is the user (user_namespaces(7)).
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let dir = if map.split_ascii_whitespace().take(2).eq(["0", "0"]) {
        PathBuf::from("/var/lib/containers/sigstore")
    } else {
        PathBuf::from(std::env::var_os("HOME")?).join(".local/share/containers/sigstore")
    };
    Some(format!("file://{}", dir.display()))
}

fn broken(file: &Path, why: &str) -> Fail {
    Fail::usage(format!(
        "cannot read where signatures are: `{}`: {why}",
        file.display()
    ))
    .hint("repair the file: containers-registries.d(5)")
}

/// The signatures of the image with this manifest, wherever `name` has them. `client` and `repository` are the place that the image
/// comes from, which may be a mirror.
///
/// # Errors
/// `Usage` for a broken file; the network's.
pub fn signatures(
    client: &Client,
    repository: &str,
    name: &Reference,
    manifest: &Digest,
) -> Result<Vec<Signature>> {
    let section = Places::load()?.of(name);
    let mut found = Vec::new();
    if let Some(base) = &section.lookaside {
        let base = base.trim_end_matches('/');
        let place = format!("{base}/{}@sha256={}", name.repository, manifest.hex());
        for number in 1..=MAX_SIGNATURES {
            let url = format!("{place}/signature-{number}");
            let Some(bytes) = fetch(client, &url)
                .with_context(|| format!("looking for signatures of `{}`", name.familiar()))?
            else {
                break;
            };
            match Signature::parse_stored(&bytes) {
                Ok(signature) => found.extend(signature),
                Err(why) => {
                    return Err(Fail::corrupt(format!("the signature `{url}`: {why}")).into());
                }
            }
        }
    }
    if section.use_sigstore_attachments == Some(true) {
        found.extend(
            attachments(client, repository, manifest)
                .with_context(|| format!("looking for signatures of `{}`", name.familiar()))?,
        );
    }
    found.truncate(MAX_SIGNATURES);
    Ok(found)
}

/// `None` when there is no such file.
fn fetch(client: &Client, url: &str) -> Result<Option<Vec<u8>>> {
    let Some(path) = url.strip_prefix("file://") else {
        return client.small_file(url, MAX_PAYLOAD);
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("opening `{path}`")),
    };
    let mut bytes = Vec::new();
    file.take(MAX_PAYLOAD).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// What lies beside the image under the tag `sha256-HEX.sig`, as cosign puts it there.
fn attachments(client: &Client, repository: &str, manifest: &Digest) -> Result<Vec<Signature>> {
    #[derive(Deserialize)]
    struct Attached {
        layers: Vec<Descriptor>,
    }
    let tag = format!("sha256-{}.sig", manifest.hex());
    let fetched = match client.manifest(repository, Wanted::Tag(&tag)) {
        Ok(fetched) => fetched,
        Err(error) if kind(&error) == Kind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let attached: Attached = manifest::read(&fetched.bytes, "the list of signatures")?;
    let registry = Registry { client, repository };
    let mut found = Vec::new();
    for layer in attached.layers.iter().take(MAX_SIGNATURES) {
        let Some(signature) = layer.annotations.get(ANNOTATION) else {
            continue;
        };
        if layer.media_type != PAYLOAD {
            continue;
        }
        if layer.size > MAX_PAYLOAD {
            return Err(Fail::corrupt(format!(
                "a signature claims {} bytes, more than {MAX_PAYLOAD}",
                layer.size
            ))
            .into());
        }
        let mut payload = Vec::new();
        registry
            .blob(layer)?
            .take(MAX_PAYLOAD)
            .read_to_end(&mut payload)
            .map_err(ingest::read_failed)?;
        found.push(Signature {
            payload,
            signature: signature.clone(),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(texts: &[&str]) -> Result<Places, Fail> {
        let mut places = Places::default();
        for text in texts {
            places.merge(Path::new("/x.yaml"), text)?;
        }
        Ok(places)
    }

    #[test]
    fn the_closest_section_alone_counts() {
        let places = places(&[
            "default-docker:\n  lookaside: https://default\n",
            "docker:\n  h.io:5000:\n    use-sigstore-attachments: true\n  h.io:5000/a/b:\n    sigstore: file:///x\n",
            "# nothing\n",
        ])
        .unwrap();
        for (name, lookaside, attached) in [
            ("alpine", Some("https://default"), None),
            ("h.io:5000/x", None, Some(true)),
            ("h.io:5000/a/b:1", Some("file:///x"), None),
            ("h.io:5000/a/bc", None, Some(true)),
        ] {
            let section = places.of(&Reference::parse(name).unwrap());
            assert_eq!(section.lookaside.as_deref(), lookaside, "{name}");
            assert_eq!(section.use_sigstore_attachments, attached, "{name}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_an_error() {
        for texts in [
            &["default-docker: {}\n", "default-docker: {}\n"][..],
            &["docker:\n  a: {}\n", "docker:\n  a: {}\n"],
            &["docker:\n  a: {}\n  a: {}\n"],
            &["docker:\n  a:\n    lookaside: [1]\n"],
            &["docker: 1\n"],
            &["other: {}\n"],
        ] {
            assert!(places(texts).is_err(), "{texts:?}");
        }
    }
}
