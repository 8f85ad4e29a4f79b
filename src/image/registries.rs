//! What the machine and the user say of registries: mirrors, other places, insecure and blocked ones, and what
//! short names mean. Read as podman reads it; nothing is asked of the network.
//!
//! ```text
//! $CONTAINERS_REGISTRIES_CONF, else ~/.config/containers/registries.conf, else /etc/containers/registries.conf
//! then *.conf of /etc/containers/registries.conf.d, but not beside the user's own file
//! then *.conf of ~/.config/containers/registries.conf.d
//! then ~/.cache/containers/short-name-aliases.conf, which tools write
//! ```
//!
//! A later file wins: for one prefix, for one alias, for the list to search, the mode and the helpers as a whole.
//!
//! Source: containers-registries.conf(5), version 2; containers-registries.conf.d(5).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;

use super::reference::{Reference, is_short};
use crate::error::Fail;

/// More than any such file has.
const MAX_FILE: usize = 4 << 20;

/// What to do with a short name that could be at several registries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShortNameMode {
    /// Ask; where nobody can be asked, refuse.
    Enforcing,
    /// Ask; where nobody can be asked, try one after the other.
    #[default]
    Permissive,
    /// Try one after the other.
    Disabled,
}

/// For which pulls a mirror is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFrom {
    #[default]
    #[serde(alias = "")]
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<PullFrom>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Content {
    unqualified_search_registries: Option<Vec<String>>,
    short_name_mode: Option<String>,
    credential_helpers: Option<Vec<String>>,
    #[serde(default)]
    registry: Vec<Table>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// Version 1.
    registries: Option<toml::Table>,
}

/// All that is configured; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    search: Vec<String>,
    mode: ShortNameMode,
    helpers: Vec<String>,
    tables: Vec<Table>,
    aliases: BTreeMap<String, Alias>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Alias {
    name: String,
    file: PathBuf,
}

/// A server and the repository there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// As in [`Reference::registry`].
    pub registry: String,
    /// As in [`Reference::repository`].
    pub repository: String,
    /// It may speak plain HTTP or have any certificate.
    pub insecure: bool,
}

/// What a short name may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Just this.
    One(Reference),
    /// This, by the alias in the file.
    Alias(Reference, PathBuf),
    /// One of these, best first, at least two.
    Several(Vec<Reference>, ShortNameMode),
}

impl Registries {
    /// Reads the files that the environment names; those that do not exist say nothing.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] for a broken file.
    pub fn load() -> Result<Self> {
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let home = variable("HOME");
        let under = |xdg: &str, usual: &str| {
            variable(xdg)
                .filter(|path| path.is_absolute())
                .or_else(|| Some(home.as_ref()?.join(usual)))
                .map(|path| path.join("containers"))
        };
        let config = under("XDG_CONFIG_HOME", ".config");
        let named = variable("CONTAINERS_REGISTRIES_CONF");
        let own = config.as_ref().map(|dir| dir.join("registries.conf"));
        let mut registries = Self::default();
        let with_system = match (named, own.filter(|own| own.is_file())) {
            (Some(named), _) => {
                let text = read(&named)?.ok_or_else(|| broken(&named, "there is no such file"))?;
                registries.merge(&named, &text)?;
                true
            }
            (None, Some(own)) => {
                registries.merge_file(&own)?;
                false
            }
            (None, None) => {
                registries.merge_file(Path::new("/etc/containers/registries.conf"))?;
                true
            }
        };
        if with_system {
            registries.merge_dir(Path::new("/etc/containers/registries.conf.d"))?;
        }
        if let Some(config) = &config {
            registries.merge_dir(&config.join("registries.conf.d"))?;
        }
        if let Some(cache) = under("XDG_CACHE_HOME", ".cache") {
            registries.merge_file(&cache.join("short-name-aliases.conf"))?;
        }
        Ok(registries)
    }

    fn merge_file(&mut self, path: &Path) -> Result<(), Fail> {
        match read(path)? {
            Some(text) => self.merge(path, &text),
            None => Ok(()),
        }
    }

    fn merge_dir(&mut self, dir: &Path) -> Result<(), Fail> {
        let Ok(entries) = std::fs::read_dir(dir) else {
            return Ok(()); // the usual case: nobody made it
        };
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "conf"))
            .collect();
        files.sort();
        files.iter().try_for_each(|file| self.merge_file(file))
    }

    /// Takes in one file.
    fn merge(&mut self, path: &Path, text: &str) -> Result<(), Fail> {
        let content: Content = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| {
                text[..span.start.min(text.len())].matches('\n').count()
            });
            broken(path, &format!("line {}: {}", line + 1, error.message()))
        })?;
        if content.registries.is_some() {
            return Err(broken(
                path,
                "this is the old format (version 1), which cannot say what is needed",
            )
            .hint("write `unqualified-search-registries` and `[[registry]]`: containers-registries.conf(5)"));
        }
        if let Some(search) = content.unqualified_search_registries {
            if let Some(wrong) = search
                .iter()
                .find(|name| name.contains('/') || name.is_empty())
            {
                return Err(broken(
                    path,
                    &format!("`{wrong}` is not a host or host:port"),
                ));
            }
            self.search = search;
        }
        if let Some(helpers) = content.credential_helpers {
            self.helpers = helpers;
        }
        match content.short_name_mode.as_deref() {
            None => {}
            Some("") | Some("permissive") => self.mode = ShortNameMode::Permissive,
            Some("enforcing") => self.mode = ShortNameMode::Enforcing,
            Some("disabled") => self.mode = ShortNameMode::Disabled,
            Some(other) => {
                return Err(broken(
                    path,
                    &format!("short-name-mode `{other}` is not known"),
                ));
            }
        }
        for mut table in content.registry {
            table.check(path)?;
            self.tables.retain(|known| known.prefix != table.prefix);
            self.tables.push(table);
        }
        for (short, name) in content.aliases {
            if name.is_empty() {
                self.aliases.remove(&short);
                continue;
            }
            if Reference::parse(&name).is_err() || is_short(&name) {
                return Err(broken(
                    path,
                    &format!(
                        "the alias `{short}` must stand for a name with a registry, not `{name}`"
                    ),
                ));
            }
            let file = path.to_owned();
            self.aliases.insert(short, Alias { name, file });
        }
        Ok(())
    }

    /// The table for a name, if there is one.
    fn table(&self, name: &str) -> Option<(&Table, usize)> {
        self.tables
            .iter()
            .filter_map(|table| Some((table, matched(&table.prefix, name)?)))
            .max_by_key(|(table, _)| table.prefix.len())
    }

    /// Where the content of `reference` is to be had, in the order of asking; the last is the registry itself.
    ///
    /// # Errors
    /// [`crate::error::Kind::Denied`] when it is blocked.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, Fail> {
        let name = reference.to_string();
        let plain = Endpoint {
            registry: reference.registry.clone(),
            repository: reference.repository.clone(),
            insecure: false,
        };
        let Some((table, end)) = self.table(&name) else {
            return Ok(vec![plain]);
        };
        if table.blocked {
            return Err(Fail::denied(format!(
                "`{}` is blocked by registries.conf on this machine (prefix `{}`)",
                reference.familiar(),
                table.prefix
            ))
            .hint("/etc/containers/registries.conf, registries.conf.d and ~/.config/containers say what is")
            .code("RL-I04"));
        }
        let digest = reference.digest.is_some();
        let mut endpoints = Vec::new();
        for mirror in &table.mirror {
            let wanted = match mirror.pull_from_mirror {
                _ if table.mirror_by_digest_only => digest,
                None | Some(PullFrom::All) => true,
                Some(PullFrom::DigestOnly) => digest,
                Some(PullFrom::TagOnly) => !digest,
            };
            if wanted {
                endpoints.push(moved(reference, &mirror.location, end, mirror.insecure)?);
            }
        }
        endpoints.push(if table.location.is_empty() {
            Endpoint {
                insecure: table.insecure,
                ..plain
            }
        } else {
            moved(reference, &table.location, end, table.insecure)?
        });
        Ok(endpoints)
    }

    /// `credential-helpers`: where logins are looked for, see [`super::auth::find_in`].
    #[must_use]
    pub fn credential_helpers(&self) -> &[String] {
        &self.helpers
    }

    /// Whether what is named, a repository or a registry alone, may speak plain HTTP or have any certificate.
    #[must_use]
    pub fn is_insecure(&self, name: &str) -> bool {
        self.table(name).is_some_and(|(table, _)| table.insecure)
    }

    /// What an image's name means: a short one by its alias, else at the registries to search, else at docker.io.
    ///
    /// # Errors
    /// Those of [`Reference::parse`].
    pub fn meaning(&self, text: &str) -> Result<Meaning, Fail> {
        let own = Reference::parse(text)?;
        if !is_short(text) {
            return Ok(Meaning::One(own));
        }
        let end = text.find([':', '@']).unwrap_or(text.len());
        let (name, suffix) = text.split_at(end);
        if let Some(alias) = self.aliases.get(name) {
            let meant = Reference::parse(&format!("{}{suffix}", alias.name))?;
            return Ok(Meaning::Alias(meant, alias.file.clone()));
        }
        let mut all = self
            .search
            .iter()
            .map(|registry| Reference::parse(&format!("{registry}/{text}")))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(match (all.len(), all.pop()) {
            (1, Some(only)) => Meaning::One(only),
            (_, Some(last)) => {
                all.push(last);
                Meaning::Several(all, self.mode)
            }
            (_, None) => Meaning::One(own),
        })
    }

    /// From now on certificates matter everywhere.
    pub fn verify_all(&mut self) {
        for table in &mut self.tables {
            table.insecure = false;
            for mirror in &mut table.mirror {
                mirror.insecure = false;
            }
        }
    }

    /// The registries that are searched for short names.
    #[must_use]
    pub fn search(&self) -> &[String] {
        &self.search
    }
}

impl Meaning {
    /// All that it may be, best first.
    #[must_use]
    pub fn candidates(self) -> Vec<Reference> {
        match self {
            Meaning::One(only) | Meaning::Alias(only, _) => vec![only],
            Meaning::Several(all, _) => all,
        }
    }
}

impl Table {
    fn check(&mut self, path: &Path) -> Result<(), Fail> {
        if self.prefix.is_empty() {
            self.prefix.clone_from(&self.location);
        }
        for text in [&mut self.prefix, &mut self.location] {
            let bare = text.trim_end_matches('/');
            text.truncate(bare.len());
        }
        for mirror in &mut self.mirror {
            let bare = mirror.location.trim_end_matches('/');
            mirror.location.truncate(bare.len());
        }
        let Self { prefix, .. } = &*self;
        let wildcard = prefix.strip_prefix("*.");
        if prefix.is_empty() {
            return Err(broken(
                path,
                "a [[registry]] has neither prefix nor location",
            ));
        }
        if self.location.is_empty() && wildcard.is_none() {
            return Err(broken(
                path,
                &format!("the location of `{prefix}` is missing"),
            ));
        }
        if wildcard.unwrap_or(prefix).contains('*')
            || wildcard.is_some_and(|rest| rest.contains(['/', ':', '@']) || rest.is_empty())
        {
            return Err(broken(
                path,
                &format!("the prefix `{prefix}` is not of the form *.example.com"),
            ));
        }
        for mirror in &self.mirror {
            if mirror.location.is_empty() {
                return Err(broken(
                    path,
                    &format!("a mirror of `{prefix}` has no location"),
                ));
            }
            if self.mirror_by_digest_only && mirror.pull_from_mirror.is_some() {
                return Err(broken(
                    path,
                    &format!("`{prefix}` has both mirror-by-digest-only and pull-from-mirror"),
                ));
            }
        }
        for place in [prefix, &self.location]
            .into_iter()
            .chain(self.mirror.iter().map(|mirror| &mirror.location))
        {
            if place.contains("://") {
                return Err(broken(
                    path,
                    &format!(
                        "`{place}` has a scheme: write host[:port], and `insecure = true` for plain HTTP"
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// How much of `name`, a full one, the prefix stands for.
fn matched(prefix: &str, name: &str) -> Option<usize> {
    let ends = |end: usize| name[end..].is_empty() || name[end..].starts_with(['/', ':', '@']);
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = &name[..name.find(['/', ':', '@']).unwrap_or(name.len())];
        return (host.len() > domain.len() && host.ends_with(domain)).then_some(host.len());
    }
    (name.starts_with(prefix) && ends(prefix.len())).then_some(prefix.len())
}

/// `reference` with its first `end` bytes replaced by `location`.
fn moved(
    reference: &Reference,
    location: &str,
    end: usize,
    insecure: bool,
) -> Result<Endpoint, Fail> {
    let name = format!("{}/{}", reference.registry, reference.repository);
    // A prefix with a tag or digest covers all of the name.
    let rest = name.get(end..).unwrap_or_default();
    let moved = format!("{location}{rest}");
    match moved.split_once('/') {
        Some((registry, repository)) if !registry.is_empty() && !repository.is_empty() => {
            let end = repository.find([':', '@']).unwrap_or(repository.len());
            Ok(Endpoint {
                registry: registry.to_ascii_lowercase(),
                repository: repository[..end].to_owned(),
                insecure,
            })
        }
        Some(_) | None => Err(Fail::usage(format!(
            "registries.conf moves `{}` to `{moved}`, which is no image",
            reference.familiar()
        ))),
    }
}

fn broken(path: &Path, why: &str) -> Fail {
    Fail::usage(format!("`{}`: {why}", path.display()))
        .hint("repair the file; containers-registries.conf(5) describes it")
        .code("RL-I03")
}

fn read(path: &Path) -> Result<Option<String>, Fail> {
    match std::fs::read(path) {
        Ok(bytes) if bytes.len() > MAX_FILE => Err(broken(path, "it is too large")),
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| broken(path, "it is not text")),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(broken(path, &error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(texts: &[&str]) -> Registries {
        let mut registries = Registries::default();
        for text in texts {
            registries.merge(Path::new("/r.conf"), text).unwrap();
        }
        registries
    }

    /// `registry/repository`, with `!` where it may be insecure.
    fn asked(registries: &Registries, name: &str) -> Vec<String> {
        registries
            .endpoints(&Reference::parse(name).unwrap())
            .unwrap()
            .iter()
            .map(|end| {
                let mark = if end.insecure { "!" } else { "" };
                format!("{}/{}{mark}", end.registry, end.repository)
            })
            .collect()
    }

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_longest_prefix_decides_where_an_image_is_fetched() {
        let all = registries(&[r#"
            [[registry]]
            prefix = "example.com/foo"
            location = "internal.example.net/bar"
            [[registry.mirror]]
            location = "mirror-0.local/mirror-for-foo"
            [[registry.mirror]]
            location = "mirror-1.local:5000/mirrors/foo"
            insecure = true
            [[registry]]
            location = "example.com"
            insecure = true
            [[registry]]
            prefix = "example.com/foo/only:1"
            location = "special.local/x/y:1"
            [[registry]]
            prefix = "*.wild.org"
            [[registry.mirror]]
            location = "cache.local/wild"
            [[registry]]
            prefix = "*.moved.org"
            location = "new.org/old"
            [[registry]]
            prefix = "docker.io/library"
            location = "hub.local/library/"
        "#]);
        for (name, expected) in [
            (
                "example.com/foo/image:latest",
                &[
                    "mirror-0.local/mirror-for-foo/image",
                    "mirror-1.local:5000/mirrors/foo/image!",
                    "internal.example.net/bar/image",
                ][..],
            ),
            ("example.com/food/image", &["example.com/food/image!"]),
            ("example.com:5000/foo/x", &["example.com:5000/foo/x!"]),
            ("example.com/foo/only:1", &["special.local/x/y"]),
            ("example.com.evil.org/foo", &["example.com.evil.org/foo"]),
            ("a.b.wild.org/x", &["cache.local/wild/x", "a.b.wild.org/x"]),
            ("wild.org/x", &["wild.org/x"]),
            ("evilwild.org/x", &["evilwild.org/x"]),
            ("a.moved.org/x", &["new.org/old/x"]),
            ("alpine", &["hub.local/library/alpine"]),
            ("me/x", &["docker.io/me/x"]),
        ] {
            assert_eq!(asked(&all, name), expected, "{name}");
        }
        assert!(all.is_insecure("example.com"));
        assert!(!all.is_insecure("other.com"));
    }

    #[test]
    fn mirrors_may_be_for_digests_or_tags_only() {
        let all = registries(&[r#"
            [[registry]]
            location = "a.com"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "m.com"
            [[registry]]
            location = "b.com"
            [[registry.mirror]]
            location = "tags.com"
            pull-from-mirror = "tag-only"
            [[registry.mirror]]
            location = "digests.com"
            pull-from-mirror = "digest-only"
        "#]);
        assert_eq!(asked(&all, "a.com/x:1"), ["a.com/x"]);
        assert_eq!(asked(&all, &format!("a.com/x@{D}")), ["m.com/x", "a.com/x"]);
        assert_eq!(asked(&all, "b.com/x:1"), ["tags.com/x", "b.com/x"]);
        assert_eq!(
            asked(&all, &format!("b.com/x@{D}")),
            ["digests.com/x", "b.com/x"]
        );
    }

    #[test]
    fn what_is_blocked_is_refused() {
        let all = registries(&["[[registry]]\nlocation = \"bad.com/x\"\nblocked = true"]);
        let fail = all
            .endpoints(&Reference::parse("bad.com/x/y").unwrap())
            .expect_err("blocked");
        assert_eq!(fail.kind, crate::error::Kind::Denied);
        assert_eq!(asked(&all, "bad.com/xy"), ["bad.com/xy"]);
    }

    #[test]
    fn later_files_win_for_a_prefix_an_alias_and_the_search() {
        let all = registries(&[
            "unqualified-search-registries = [\"a.com\", \"b.com\"]\n[[registry]]\nlocation = \"x.com\"\ninsecure = true\n[aliases]\n\"one\" = \"q.com/one\"\n\"two\" = \"q.com/two\"",
            "short-name-mode = \"disabled\"\n[[registry]]\nlocation = \"x.com\"\n[aliases]\n\"one\" = \"\"\n\"two\" = \"r.com/zwei\"",
        ]);
        assert!(!all.is_insecure("x.com"));
        let meant = |text: &str| {
            let all = all.meaning(text).unwrap().candidates();
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(meant("one"), ["a.com/one:latest", "b.com/one:latest"]);
        assert_eq!(meant("two:3"), ["r.com/zwei:3"]);
        assert_eq!(meant(&format!("two@{D}")), [format!("r.com/zwei@{D}")]);
        assert_eq!(meant("q.com/one"), ["q.com/one:latest"]);
        assert_eq!(meant("docker.io/one"), ["docker.io/library/one:latest"]);
        assert!(matches!(
            all.meaning("one").unwrap(),
            Meaning::Several(_, ShortNameMode::Disabled)
        ));
        let none = Registries::default();
        assert_eq!(
            none.meaning("one").unwrap().candidates()[0].to_string(),
            "docker.io/library/one:latest"
        );
    }

    #[test]
    fn a_broken_file_is_named_with_its_line() {
        for (text, say) in [
            ("a = \n", "line 1"),
            ("\n\nshort-name-mode = 1", "line 3"),
            ("short-name-mode = \"x\"", "short-name-mode"),
            ("unqualified-search-registries = [\"a/b\"]", "a/b"),
            ("[[registry]]\n", "neither"),
            ("[[registry]]\nprefix = \"a.com\"", "missing"),
            (
                "[[registry]]\nprefix = \"a.*.com\"\nlocation = \"x\"",
                "form",
            ),
            ("[[registry]]\nprefix = \"*.a.com/x\"", "form"),
            ("[[registry]]\nlocation = \"https://a.com\"", "scheme"),
            (
                "[[registry]]\nlocation = \"a.com\"\n[[registry.mirror]]",
                "mirror",
            ),
            (
                "[[registry]]\nlocation = \"a.com\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"m\"\npull-from-mirror = \"all\"",
                "both",
            ),
            ("[aliases]\n\"x\" = \"y\"", "alias"),
            ("[registries.search]\nregistries = ['a.com']", "version 1"),
        ] {
            let fail = Registries::default()
                .merge(Path::new("/r.conf"), text)
                .expect_err(text);
            assert!(
                fail.message.contains(say) && fail.message.contains("/r.conf"),
                "{text}: {fail}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r#"(\[\[registry\]\]|prefix|location|=|"[*.a:/é]{0,6}"|\n| ){0,12}"#) {
            let _ = Registries::default().merge(Path::new("/r.conf"), &text);
        }
    }
}
