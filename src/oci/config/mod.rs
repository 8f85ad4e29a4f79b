//! `config.json`: read and checked, every error with the field it is about.
//!
//! What is a type of the waist's already ([`crate::spec::oci`]) is read as that. Source: OCI runtime specification 1.2.

pub mod linux;
pub mod process;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::error::Fail;
use crate::spec::oci::{self, Hooks, IdMapping, Kind};
use linux::{Linux, check_map, check_namespaces};
use process::Process;

/// A `config.json` as it stands on disk.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Config {
    pub oci_version: Option<String>,
    pub root: Option<Root>,
    pub process: Option<Process>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub mounts: Option<Vec<Mount>>,
    pub hooks: Option<Hooks>,
    pub annotations: Option<BTreeMap<String, String>>,
    pub linux: Option<Linux>,
}

/// `root`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Root {
    pub path: String,
    pub readonly: bool,
}

/// One entry of `mounts`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Mount {
    pub destination: String,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub source: Option<String>,
    pub options: Option<Vec<String>>,
    pub uid_mappings: Option<Vec<IdMapping>>,
    pub gid_mappings: Option<Vec<IdMapping>>,
}

/// The largest configuration that is read, in bytes.
const MOST: u64 = 64 << 20;

/// Reads a file of JSON.
///
/// # Errors
/// That it is not there, too large, or no such thing: with the field, or line and column.
pub fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    use std::io::Read as _;
    let shown = path.display();
    let file = std::fs::File::open(path)
        .map_err(|error| Fail::not_found(format!("open {shown}: {}", plain(&error))))?;
    let mut text = String::new();
    file.take(MOST + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {shown}"))?;
    if text.len() as u64 > MOST {
        return Err(Fail::usage(format!("{shown} is larger than {MOST} bytes")).into());
    }
    parse(&text).map_err(|fail| anyhow::Error::from(fail).context(format!("{shown}")))
}

/// An error of the operating system in its own words, which those who start runtimes look for.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

/// The same, out of text.
///
/// # Errors
/// [`crate::error::Kind::Usage`] with the field.
pub fn parse<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Fail> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let why = error.into_inner();
        if path == "." || path == "?" {
            Fail::usage(why.to_string())
        } else {
            Fail::usage(format!("{path}: {why}"))
        }
    })?;
    reader
        .end()
        .map_err(|error| Fail::usage(format!("after the end: {error}")))?;
    Ok(parsed)
}

fn wrong(field: impl std::fmt::Display, why: impl std::fmt::Display) -> Fail {
    Fail::usage(format!("{field}: {why}"))
}

/// What of the machine and the caller decides whether a configuration can be had.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// The caller may do what root may: no user namespace is needed.
    pub admin: bool,
    /// The kernel enforces AppArmor profiles.
    pub apparmor: bool,
}

impl Config {
    /// The kinds of namespaces that are listed, and the part of it that is Linux'.
    #[must_use]
    pub fn linux(&self) -> Linux {
        self.linux.clone().unwrap_or_default()
    }

    /// Everything that can be known before anything is made.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self, bundle: &Path, rights: Rights) -> Result<(), Fail> {
        version(self.oci_version.as_deref().unwrap_or_default())?;
        let root = self
            .root
            .as_ref()
            .filter(|root| !root.path.is_empty())
            .ok_or_else(|| wrong("root.path", "must be set"))?;
        let path = bundle.join(&root.path);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                return Err(wrong(
                    "root.path",
                    format!("`{}` is no directory", path.display()),
                ));
            }
            Err(error) => {
                return Err(wrong(
                    "root.path",
                    format!("`{}`: {}", path.display(), plain(&error)),
                ));
            }
        }
        let linux = self.linux();
        let namespaces = linux.namespaces.as_deref().unwrap_or_default();
        check_namespaces(namespaces, &linux, rights)?;
        let has = |kind| namespaces.iter().any(|one| one.kind == kind);
        let process = self
            .process
            .as_ref()
            .ok_or_else(|| wrong("process", "must be set"))?;
        process.check("process", &linux, rights)?;
        for (field, text) in [
            ("hostname", &self.hostname),
            ("domainname", &self.domainname),
        ] {
            let Some(text) = text.as_ref().filter(|text| !text.is_empty()) else {
                continue;
            };
            if !has(Kind::Uts) {
                return Err(wrong(field, "needs a uts namespace in linux.namespaces"));
            }
            if text.len() > 64 {
                return Err(wrong(field, "must not have more than 64 bytes"));
            }
        }
        for (at, mount) in self.mounts.iter().flatten().enumerate() {
            mount.check(&format!("mounts[{at}]"))?;
        }
        if let Some(hooks) = &self.hooks {
            check_hooks(hooks)?;
        }
        if !has(Kind::Mount)
            && (self.mounts.iter().flatten().next().is_some()
                || linux.masked_paths.iter().flatten().next().is_some()
                || linux.readonly_paths.iter().flatten().next().is_some()
                || root.readonly)
        {
            return Err(wrong(
                "linux.namespaces",
                "without a mount namespace nothing can be mounted, masked or made read-only: it would be on the host",
            ));
        }
        linux.check(&has)
    }
}

fn version(text: &str) -> Result<(), Fail> {
    if text.is_empty() {
        return Err(wrong("ociVersion", "must be set"));
    }
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers.as_slice() {
        [Some(1), Some(_), Some(_)] => Ok(()),
        [Some(_), Some(_), Some(_)] => Err(wrong(
            "ociVersion",
            format!("`{text}` is not a version 1 of the specification"),
        )),
        _ => Err(wrong(
            "ociVersion",
            format!("`{text}` is no version such as 1.2.0"),
        )),
    }
}

impl Mount {
    fn check(&self, field: &str) -> Result<(), Fail> {
        if self.destination.is_empty() {
            return Err(wrong(format!("{field}.destination"), "must be set"));
        }
        for (name, text) in [
            ("destination", Some(&self.destination)),
            ("source", self.source.as_ref()),
        ] {
            if text.is_some_and(|text| text.contains('\0')) {
                return Err(wrong(format!("{field}.{name}"), "has a NUL byte"));
            }
        }
        let options = oci::Options::parse(self.options.as_deref().unwrap_or_default());
        let kind = self.kind.as_deref().unwrap_or_default();
        let source = self.source.as_deref().unwrap_or_default();
        if (options.bind.is_some() || kind == "bind") && source.is_empty() {
            return Err(wrong(
                format!("{field}.source"),
                "must be set for a bind mount",
            ));
        }
        if options.bind.is_none() && !options.remount && (kind.is_empty() || kind == "none") {
            return Err(wrong(
                format!("{field}.type"),
                "must be set where the options have no bind",
            ));
        }
        let (uids, gids) = (
            self.uid_mappings.as_deref().unwrap_or_default(),
            self.gid_mappings.as_deref().unwrap_or_default(),
        );
        check_map(uids, &format!("{field}.uidMappings"))?;
        check_map(gids, &format!("{field}.gidMappings"))?;
        if uids.is_empty() != gids.is_empty() {
            let name = if uids.is_empty() {
                "uidMappings"
            } else {
                "gidMappings"
            };
            return Err(wrong(
                format!("{field}.{name}"),
                "must be set where the other one is",
            ));
        }
        Ok(())
    }
}

fn check_hooks(hooks: &Hooks) -> Result<(), Fail> {
    for (kind, list) in [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ] {
        for (at, hook) in list.iter().enumerate() {
            let field = format!("hooks.{kind}[{at}]");
            if !hook.path.starts_with('/') {
                let why = format!("`{}` is not an absolute path", hook.path);
                return Err(wrong(format!("{field}.path"), why));
            }
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                return Err(wrong(format!("{field}.timeout"), "must be above 0"));
            }
            let words = hook.args.iter().chain(&hook.env);
            if words.chain([&hook.path]).any(|word| word.contains('\0')) {
                return Err(wrong(field, "has a NUL byte"));
            }
        }
    }
    Ok(())
}

/// Where the bundle is, without links that may change.
///
/// # Errors
/// When it is no directory.
pub fn bundle(given: &Path) -> Result<PathBuf> {
    let fd = crate::sys::fs::open_trusted(
        given,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
    )
    .with_context(|| {
        Fail::not_found(format!("the bundle `{}` is no directory", given.display()))
    })?;
    rustix::process::fchdir(fd).context("entering the bundle")?;
    std::env::current_dir().context("finding the bundle")
}
