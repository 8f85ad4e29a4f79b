//! Which images this user may have: `policy.json`, read as podman reads it.
//!
//! ```text
//! ~/.config/containers/policy.json, else /etc/containers/policy.json; without either all is accepted
//! { "default": [REQUIREMENT…], "transports": { "docker": { SCOPE: [REQUIREMENT…] } } }
//! ```
//!
//! The requirements of the closest scope count, all of them, and no others. What cannot be checked is refused. Nothing is
//! fetched here: whoever asks brings the signatures.
//!
//! Source: containers-policy.json(5).

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::reference::{Digest, Reference};
use super::signature::{Key, Signature};
use crate::error::Fail;

/// More than any such file has.
const MAX_FILE: usize = 4 << 20;

/// Where an image comes from, in the words of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin<'o> {
    /// `docker`: a registry, under the name that the user gave.
    Registry(&'o Reference),
    /// `docker-archive`, which has no scopes.
    DockerArchive,
    /// `oci-archive`: this file; none for a pipe.
    OciArchive(Option<PathBuf>),
    /// `oci`: this directory.
    Oci(PathBuf),
    /// `dir`: this directory.
    Directory(PathBuf),
    /// `tarball`: the tar of a root file system.
    Tarball,
}

impl Origin<'_> {
    fn transport(&self) -> &'static str {
        match self {
            Self::Registry(_) => "docker",
            Self::DockerArchive => "docker-archive",
            Self::OciArchive(_) => "oci-archive",
            Self::Oci(_) => "oci",
            Self::Directory(_) => "dir",
            Self::Tarball => "tarball",
        }
    }

    /// The closest first.
    fn scopes(&self) -> Vec<String> {
        match self {
            Self::Registry(name) => scopes(name),
            Self::DockerArchive | Self::Tarball | Self::OciArchive(None) => Vec::new(),
            Self::OciArchive(Some(path)) | Self::Oci(path) | Self::Directory(path) => path
                .ancestors()
                .filter(|above| above.parent().is_some())
                .map(|above| above.display().to_string())
                .collect(),
        }
    }
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self {
            Self::Registry(name) => return write!(f, "`{name}`"),
            Self::DockerArchive => return f.write_str("an archive of docker's"),
            Self::Tarball => return f.write_str("the tar of a root file system"),
            Self::OciArchive(None) => return f.write_str("an OCI archive"),
            Self::OciArchive(Some(path)) | Self::Oci(path) | Self::Directory(path) => path,
        };
        write!(f, "`{}:{}`", self.transport(), path.display())
    }
}

/// What `name` is called in policies and in registries.d: in full, its repository, what is above that, the registry, and the
/// domains that it is in.
#[must_use]
pub fn scopes(name: &Reference) -> Vec<String> {
    let repository = format!("{}/{}", name.registry, name.repository);
    let full = match (&name.digest, &name.tag) {
        (Some(digest), _) => format!("{repository}@{digest}"),
        (None, Some(tag)) => format!("{repository}:{tag}"),
        (None, None) => format!("{repository}:{}", super::reference::DEFAULT_TAG),
    };
    let above = repository.rmatch_indices('/').map(|(slash, _)| slash);
    let above: Vec<String> = above.map(|slash| repository[..slash].to_owned()).collect();
    let mut scopes = vec![full, repository];
    scopes.extend(above);
    let mut host = name.registry.split(':').next().unwrap_or_default();
    while let Some((_, domain)) = host.split_once('.') {
        scopes.push(format!("*.{domain}"));
        host = domain;
    }
    scopes
}

/// A JSON object in which no key is twice: one of two would be ignored in silence.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unique<V>(BTreeMap<String, V>);

impl<V> Default for Unique<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<V>, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if all.contains_key(&key) {
                        return Err(A::Error::custom(format!("`{key}` is there twice")));
                    }
                    all.insert(key, value);
                }
                Ok(Unique(all))
            }
        }
        deserializer.deserialize_map(Keys(PhantomData))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: Unique<Unique<Vec<Requirement>>>,
}

/// What an image must fulfil.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Requirement {
    /// Nothing.
    InsecureAcceptAnything {},
    /// What no image does.
    Reject {},
    /// A signature by GPG, which is not checked here.
    SignedBy {
        #[serde(rename = "keyType")]
        _key_type: String,
        #[serde(rename = "keyPath")]
        _key_path: Option<String>,
        #[serde(rename = "keyPaths")]
        _key_paths: Option<Vec<String>>,
        #[serde(rename = "keyData")]
        _key_data: Option<String>,
        #[serde(rename = "signedIdentity")]
        _signed_identity: Option<Identity>,
    },
    /// A signature by one of these keys.
    SigstoreSigned(Box<Sigstore>),
}

/// What `sigstoreSigned` says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sigstore {
    key_path: Option<PathBuf>,
    key_paths: Option<Vec<PathBuf>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    /// Certificates and logs, which are not checked here.
    fulcio: Option<serde_json::Value>,
    pki: Option<serde_json::Value>,
    rekor_public_key_path: Option<serde_json::Value>,
    rekor_public_key_paths: Option<serde_json::Value>,
    rekor_public_key_data: Option<serde_json::Value>,
    rekor_public_key_datas: Option<serde_json::Value>,
    signed_identity: Option<Identity>,
}

/// Whose name the signature must have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Identity {
    MatchExact {},
    #[default]
    #[serde(rename = "matchRepoDigestOrExact")]
    RepoDigestOrExact,
    MatchRepository {},
    #[serde(rename_all = "camelCase")]
    ExactReference {
        docker_reference: String,
    },
    #[serde(rename_all = "camelCase")]
    ExactRepository {
        docker_repository: String,
    },
    #[serde(rename = "remapIdentity", rename_all = "camelCase")]
    Remap {
        prefix: String,
        signed_prefix: String,
    },
}

impl Identity {
    /// Whether the name in a signature, `signed`, is good for the image that was asked for as `name`.
    fn accepts(&self, name: &Reference, signed: &str) -> bool {
        let Ok(signed) = Reference::parse(signed) else {
            return false;
        };
        let same = |name: &Reference| {
            (&name.registry, &name.repository) == (&signed.registry, &signed.repository)
        };
        let exact = |name: &Reference| {
            same(name) && name.digest.is_none() && signed.digest.is_none() && name.tag == signed.tag
        };
        let by_digest = |name: &Reference| match &name.digest {
            Some(_) => same(name),
            None => exact(name),
        };
        match self {
            Self::MatchExact {} => exact(name),
            Self::RepoDigestOrExact => by_digest(name),
            Self::MatchRepository {} => same(name),
            Self::ExactReference { docker_reference } => {
                Reference::parse(docker_reference).is_ok_and(|wanted| exact(&wanted))
            }
            Self::ExactRepository { docker_repository } => {
                Reference::parse(docker_repository).is_ok_and(|wanted| same(&wanted))
            }
            Self::Remap {
                prefix,
                signed_prefix,
            } => {
                let text = name.to_string();
                let Some(rest) = text
                    .strip_prefix(prefix.as_str())
                    .filter(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
                else {
                    return by_digest(name);
                };
                Reference::parse(&format!("{signed_prefix}{rest}"))
                    .is_ok_and(|mapped| by_digest(&mapped))
            }
        }
    }
}

/// The policy of this user on this machine.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    read: Option<(PathBuf, Content)>,
}

impl Policy {
    /// Reads the file that counts.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] for a broken one: it may have said no.
    pub fn load() -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        // podman has no XDG_CONFIG_HOME for this one.
        let own = variable("HOME").map(|home| home.join(".config/containers/policy.json"));
        let all = PathBuf::from("/etc/containers/policy.json");
        for path in own.into_iter().chain([all]) {
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                Err(error) => return Err(broken(&path, &error.to_string()).into()),
            };
            return Ok(Self::parse(&path, &bytes)?);
        }
        Ok(Self::default())
    }

    /// Reads the content of a policy.
    ///
    /// # Errors
    /// As [`Policy::load`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Fail> {
        if bytes.len() > MAX_FILE {
            return Err(broken(path, "it is too large"));
        }
        let content: Content = serde_json::from_slice(bytes)
            .map_err(|error| broken(path, &format!("line {}: {error}", error.line())))?;
        let scoped = content.transports.0.values();
        let mut lists = scoped.flat_map(|scopes| scopes.0.values());
        if lists.any(Vec::is_empty) || content.default.is_empty() {
            return Err(broken(path, "a list of requirements is empty"));
        }
        Ok(Self {
            read: Some((path.to_owned(), content)),
        })
    }

    /// Whether an image from `origin`, whose manifest has the digest `manifest`, may be used; `signatures` gets those that it
    /// has.
    ///
    /// # Errors
    /// [`crate::error::Kind::Denied`] when it may not; `Unsupported` for a requirement that cannot be checked here; those of
    /// `signatures`.
    pub fn check(
        &self,
        origin: &Origin<'_>,
        manifest: Option<&Digest>,
        signatures: &dyn Fn() -> Result<Vec<Signature>>,
    ) -> Result<()> {
        let Some((path, content)) = &self.read else {
            return Ok(());
        };
        let (requirements, place) = content.closest(origin);
        let place = format!("{}, {place}", path.display());
        for requirement in requirements {
            match requirement {
                Requirement::InsecureAcceptAnything {} => {}
                Requirement::Reject {} => {
                    return Err(Fail::denied(format!(
                        "{origin} is not allowed on this machine ({place})"
                    ))
                    .hint("policy.json says which images may be used: containers-policy.json(5)")
                    .code("RL-I04")
                    .into());
                }
                Requirement::SignedBy { .. } => {
                    return Err(Fail::unsupported(format!(
                        "{origin} must be signed with GPG (`signedBy` in {place}), which rl cannot check"
                    ))
                    .hint("podman and skopeo can: skopeo copy docker://… oci-archive:FILE, then rl load")
                    .hint("rl checks signatures of sigstore with a key: `sigstoreSigned`")
                    .code("RL-I04")
                    .into());
                }
                Requirement::SigstoreSigned(demanded) => {
                    let (Origin::Registry(name), Some(manifest)) = (origin, manifest) else {
                        return Err(Fail::unsupported(format!(
                            "{origin} must be signed ({place}), and rl reads signatures of registries only"
                        ))
                        .hint("pull the image from a registry that has its signature")
                        .code("RL-I04")
                        .into());
                    };
                    let keys = demanded.keys(&place)?;
                    let identity = demanded.signed_identity.clone().unwrap_or_default();
                    signed_by(&keys, &signatures()?, manifest, |signed| {
                        identity.accepts(name, signed)
                    })
                    .map_err(|why| {
                        Fail::denied(format!("the signature of {origin} is not good: {why}"))
                            .hint(format!("it is demanded by {place}"))
                            .code("RL-I04")
                    })?;
                }
            }
        }
        Ok(())
    }
}

impl Content {
    /// The requirements that count, and where they stand.
    fn closest(&self, origin: &Origin<'_>) -> (&[Requirement], String) {
        let transport = origin.transport();
        let Some(scopes) = self.transports.0.get(transport) else {
            return (&self.default, "`default`".to_owned());
        };
        for scope in origin.scopes() {
            if let Some(found) = scopes.0.get(&scope) {
                return (found, format!("`{transport}`, `{scope}`"));
            }
        }
        match scopes.0.get("") {
            Some(found) => (found, format!("`{transport}`, all others")),
            None => (&self.default, "`default`".to_owned()),
        }
    }
}

impl Sigstore {
    fn keys(&self, place: &str) -> Result<Vec<Key>, Fail> {
        let Self {
            key_path,
            key_paths,
            key_data,
            key_datas,
            fulcio,
            pki,
            rekor_public_key_path,
            rekor_public_key_paths,
            rekor_public_key_data,
            rekor_public_key_datas,
            signed_identity: _,
        } = self;
        let others = [
            fulcio,
            pki,
            rekor_public_key_path,
            rekor_public_key_paths,
            rekor_public_key_data,
            rekor_public_key_datas,
        ];
        if others.iter().any(|other| other.is_some()) {
            return Err(Fail::unsupported(format!(
                "{place} demands certificates or a log (`fulcio`, `pki`, `rekor…`), which rl cannot check"
            ))
            .hint("rl checks signatures with a key: `keyPath` or `keyData`")
            .code("RL-I04"));
        }
        let wrong = |why: &str| Fail::usage(format!("{place}: {why}"));
        let mut texts = Vec::new();
        for path in key_path.iter().chain(key_paths.iter().flatten()) {
            let text = std::fs::read(path)
                .map_err(|error| wrong(&format!("the key `{}`: {error}", path.display())))?;
            texts.push((format!("the key `{}`", path.display()), text));
        }
        for data in key_data.iter().chain(key_datas.iter().flatten()) {
            let text = base64::prelude::BASE64_STANDARD
                .decode(data)
                .map_err(|_| wrong("the key in `keyData` is no base64"))?;
            texts.push(("the key in `keyData`".to_owned(), text));
        }
        let fields = [
            key_path.is_some(),
            key_paths.is_some(),
            key_data.is_some(),
            key_datas.is_some(),
        ];
        if fields.iter().filter(|there| **there).count() != 1 || texts.is_empty() {
            return Err(wrong(
                "`sigstoreSigned` needs exactly one of keyPath, keyPaths, keyData and keyDatas",
            ));
        }
        texts
            .iter()
            .map(|(what, text)| Key::parse(text).map_err(|why| wrong(&format!("{what} {why}"))))
            .collect()
    }
}

/// Whether one of `signatures` is by one of `keys`, over `manifest`, and in a name that is accepted.
fn signed_by(
    keys: &[Key],
    signatures: &[Signature],
    manifest: &Digest,
    accepts: impl Fn(&str) -> bool,
) -> Result<(), String> {
    let mut reasons = Vec::new();
    for signature in signatures {
        let claim = match signature.verify(keys) {
            Ok(claim) => claim,
            Err(why) => {
                reasons.push(why);
                continue;
            }
        };
        if claim.manifest != manifest.to_string() {
            reasons.push(format!("it is for {}", claim.manifest.escape_debug()));
        } else if !accepts(&claim.reference) {
            reasons.push(format!(
                "it is for the name `{}`",
                claim.reference.escape_debug()
            ));
        } else {
            return Ok(());
        }
    }
    if reasons.is_empty() {
        return Err("there is none".to_owned());
    }
    reasons.truncate(3);
    Err(reasons.join("; "))
}

fn broken(path: &Path, why: &str) -> Fail {
    Fail::usage(format!(
        "cannot read which images are allowed: `{}`: {why}",
        path.display()
    ))
    .hint("repair the file: containers-policy.json(5); nothing is pulled or loaded without it")
    .code("RL-I04")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, kind};
    use serde_json::{Value, json};

    fn policy(content: &Value) -> Result<Policy, Fail> {
        Policy::parse(Path::new("/p.json"), content.to_string().as_bytes())
    }

    fn decide(policy: &Policy, origin: &Origin<'_>) -> Option<Kind> {
        let digest = Digest::of(b"x");
        let none = || Ok(Vec::new());
        let checked = policy.check(origin, Some(&digest), &none);
        checked.err().map(|error| kind(&error))
    }

    fn accept() -> Value {
        json!([{"type": "insecureAcceptAnything"}])
    }

    fn reject() -> Value {
        json!([{"type": "reject"}])
    }

    #[test]
    fn the_closest_scope_alone_decides() {
        let policy = policy(&json!({
            "default": reject(),
            "transports": {
                "docker": {
                    "": accept(),
                    "docker.io": reject(),
                    "docker.io/library/alpine": accept(),
                    "docker.io/library/alpine:bad": reject(),
                    "host:5000/a": reject(),
                    "*.example.com": reject(),
                    "ok.example.com": accept(),
                },
                "dir": {"/srv/images": accept()},
                "oci": {"": accept()},
            }
        }))
        .unwrap();
        for (name, accepted) in [
            ("alpine", true),
            ("alpine:bad", false),
            ("debian", false),
            ("docker.io/me/x", false),
            ("quay.io/x/y", true),
            ("host:5000/a/b/c:1", false),
            ("host:5000/ab", true),
            ("a.example.com/x", false),
            ("a.b.example.com:443/x", false),
            ("ok.example.com/x", true),
            ("example.com/x", true),
        ] {
            let name = Reference::parse(name).unwrap();
            let decided = decide(&policy, &Origin::Registry(&name));
            let expected = (!accepted).then_some(Kind::Denied);
            assert_eq!(decided, expected, "{name}");
        }
        for (origin, accepted) in [
            (Origin::Directory("/srv/images/a/b".into()), true),
            (Origin::Directory("/srv/imagesmore".into()), false),
            (Origin::Oci("/x".into()), true),
            (Origin::DockerArchive, false),
            (Origin::OciArchive(None), false),
            (Origin::Tarball, false),
        ] {
            let decided = decide(&policy, &origin);
            assert_eq!(decided.is_none(), accepted, "{origin}");
        }
        assert_eq!(decide(&Policy::default(), &Origin::Tarball), None);
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let key = json!({"type": "sigstoreSigned", "keyData": "eA==", "fulcio": {}});
        let gpg = json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"});
        for requirement in [key, gpg] {
            let policy = policy(&json!({ "default": [requirement] })).unwrap();
            let name = Reference::parse("a").unwrap();
            let decided = decide(&policy, &Origin::Registry(&name));
            assert_eq!(decided, Some(Kind::Unsupported));
        }
        // All of them must be fulfilled.
        let both = json!([{"type": "insecureAcceptAnything"}, {"type": "reject"}]);
        let policy = policy(&json!({ "default": both })).unwrap();
        assert_eq!(decide(&policy, &Origin::Tarball), Some(Kind::Denied));
    }

    #[test]
    fn a_broken_policy_is_no_policy() {
        for text in [
            "",
            "{}",
            r#"{"default": []}"#,
            r#"{"default": [{"type": "reject"}], "more": 1}"#,
            r#"{"default": [{"type": "other"}]}"#,
            r#"{"default": [{"type": "reject", "more": 1}]}"#,
            r#"{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}"#,
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {}, "docker": {}}}"#,
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {"a": []}}}"#,
            r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys", "identity": 1}]}"#,
        ] {
            let read = Policy::parse(Path::new("/p.json"), text.as_bytes());
            assert!(read.is_err(), "{text}");
        }
    }

    #[test]
    fn names_match_as_the_policy_says() {
        let identity = |value: Value| serde_json::from_value::<Identity>(value).unwrap();
        let by_digest = format!("h.io/a/b@{}", Digest::of(b"x"));
        let remap = json!({"type": "remapIdentity", "prefix": "h.io/a", "signedPrefix": "v.io"});
        for (value, name, signed, expected) in [
            (
                json!({"type": "matchExact"}),
                "h.io/a/b:1",
                "h.io/a/b:1",
                true,
            ),
            (
                json!({"type": "matchExact"}),
                "h.io/a/b:1",
                "h.io/a/b:2",
                false,
            ),
            (
                json!({"type": "matchExact"}),
                &by_digest,
                "h.io/a/b:1",
                false,
            ),
            (
                json!({"type": "matchRepoDigestOrExact"}),
                &by_digest,
                "h.io/a/b:1",
                true,
            ),
            (
                json!({"type": "matchRepoDigestOrExact"}),
                "h.io/a/b:1",
                "h.io/a/b:2",
                false,
            ),
            (
                json!({"type": "matchRepository"}),
                "h.io/a/b:1",
                "h.io/a/b:2",
                true,
            ),
            (
                json!({"type": "matchRepository"}),
                "h.io/a/b:1",
                "h.io/a/c:1",
                false,
            ),
            (
                json!({"type": "exactReference", "dockerReference": "v.io/x:1"}),
                "h.io/a/b:1",
                "v.io/x:1",
                true,
            ),
            (
                json!({"type": "exactRepository", "dockerRepository": "v.io/x"}),
                "h.io/a/b:1",
                "v.io/x:7",
                true,
            ),
            (remap.clone(), "h.io/a/b:1", "v.io/b:1", true),
            (remap.clone(), "h.io/a/b:1", "h.io/a/b:1", false),
            (remap.clone(), "h.io/ab/b:1", "h.io/ab/b:1", true),
            (remap, "q.io/b:1", "q.io/b:1", true),
        ] {
            let name = Reference::parse(name).unwrap();
            let found = identity(value.clone()).accepts(&name, signed);
            assert_eq!(found, expected, "{value} {name} {signed}");
        }
    }
}
