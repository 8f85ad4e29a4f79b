//! Who we are to a registry: credentials that `podman login` and `docker login` left behind.
//!
//! The files are those of podman (containers-auth.json(5)) and docker (`config.json`); `login` writes them. Passwords may
//! be in the file itself or with a credential helper, a program called `docker-credential-NAME`; registries.conf may name
//! helpers in the place of the files.
//!
//! ```text
//! { "auths":       { "host[:port][/path]": { "auth": base64 of user:password, "identitytoken": … } },
//!   "credHelpers": { "host": "NAME" },         asked first
//!   "credsStore":  "NAME" }                    asked last
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::program;
use super::reference::DOCKER_HUB;
use crate::error::Fail;

/// A helper may have to ask the user to unlock a key ring.
const HELPER_LIMIT: Duration = Duration::from_secs(60);
/// More than any such file has.
pub(super) const MAX_FILE: usize = 4 << 20;
/// What docker calls its registry in these files.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// How to prove who we are. Debug output has no secrets.
#[derive(Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
pub enum Login {
    /// A name and its password, or an access token in its place.
    Password {
        /// Who.
        user: String,
        /// Secret.
        password: String,
    },
    /// An OAuth2 refresh token, which buys access tokens.
    IdentityToken(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Login::Password { user, .. } => write!(f, "Password({user})"),
            Login::IdentityToken(_) => f.write_str("IdentityToken"),
        }
    }
}

/// A login and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The login.
    pub login: Login,
    /// For messages: `/home/me/.docker/config.json, line 4`.
    pub source: String,
}

/// What the files say of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A login.
    Login(Credentials),
    /// Nothing: the user is anonymous.
    Nothing,
    /// There may be a login, but the helper that has it cannot be run. Says why.
    OutOfReach(String),
}

/// The files to look into, first come first served, as the environment names them.
#[must_use]
pub fn files() -> Vec<PathBuf> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| !path.as_os_str().is_empty())
    };
    // It stands for all others, as in podman.
    if let Some(only) = variable("REGISTRY_AUTH_FILE") {
        return vec![only];
    }
    let home = variable("HOME");
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let docker = variable("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
    [
        variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        config.map(|dir| dir.join("containers/auth.json")),
        docker.map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Looks for a login for `registry` (`docker.io`, `host:port`) that is good for `repository`.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for a broken file, with its line.
pub fn find(files: &[PathBuf], registry: &str, repository: &str) -> Result<Found> {
    let mut out_of_reach = None;
    for path in files {
        let Some(text) = read(path)? else {
            continue;
        };
        let file = AuthFile::parse(path, &text)?;
        match file.find(registry, repository)? {
            Found::Login(credentials) => return Ok(Found::Login(credentials)),
            Found::Nothing => {}
            Found::OutOfReach(why) => out_of_reach = Some(why),
        }
    }
    Ok(out_of_reach.map_or(Found::Nothing, Found::OutOfReach))
}

/// What stands for the files among the helpers of registries.conf.
pub const FILES: &str = "containers-auth.json";
/// Who names those helpers, for messages.
pub(super) const HELPERS_PLACE: &str = "credential-helpers in registries.conf";

/// As [`find`], wherever `helpers` says, in that order: `credential-helpers` of registries.conf, of which [`FILES`] stands
/// for the files. No helpers at all are the files alone.
///
/// # Errors
/// As [`find`].
pub fn find_in(
    helpers: &[String],
    files: &[PathBuf],
    registry: &str,
    repository: &str,
) -> Result<Found> {
    let mut out_of_reach = None;
    let default = [FILES.to_owned()];
    let helpers = if helpers.is_empty() {
        &default
    } else {
        helpers
    };
    for helper in helpers {
        let found = if helper == FILES {
            find(files, registry, repository)?
        } else {
            ask_helper(helper, registry, HELPERS_PLACE)?
        };
        match found {
            Found::Login(credentials) => return Ok(Found::Login(credentials)),
            Found::Nothing => {}
            Found::OutOfReach(why) => out_of_reach = Some(why),
        }
    }
    Ok(out_of_reach.map_or(Found::Nothing, Found::OutOfReach))
}

fn read(path: &Path) -> Result<Option<String>> {
    let failed = |why: String| {
        Fail::usage(format!(
            "cannot read the credentials in `{}`: {why}",
            path.display()
        ))
        .hint("repair or remove the file; `rl login` writes it anew")
        .code("RL-I03")
    };
    match std::fs::read(path) {
        Ok(bytes) if bytes.len() > MAX_FILE => Err(failed("it is too large".to_owned()).into()),
        Ok(bytes) => Ok(Some(
            String::from_utf8(bytes).map_err(|_| failed("it is not text".to_owned()))?,
        )),
        Err(error)
            if error.kind() == ErrorKind::NotFound || error.kind() == ErrorKind::NotADirectory =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(error.to_string()).into()),
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
}

struct AuthFile<'t> {
    path: &'t Path,
    text: &'t str,
    content: Content,
}

impl<'t> AuthFile<'t> {
    fn parse(path: &'t Path, text: &'t str) -> Result<Self, Fail> {
        let content = if text.trim().is_empty() {
            Content::default()
        } else {
            serde_json::from_str(text).map_err(|error| {
                Fail::usage(format!(
                    "`{}`, line {}: {error}",
                    path.display(),
                    error.line()
                ))
                .hint("repair or remove the file; `rl login` writes it anew")
                .code("RL-I03")
            })?
        };
        Ok(Self {
            path,
            text,
            content,
        })
    }

    fn find(&self, registry: &str, repository: &str) -> Result<Found, Fail> {
        let helpers = self.content.cred_helpers.as_ref();
        if let Some((key, helper)) = helpers
            .iter()
            .flat_map(|helpers| helpers.iter())
            .find(|(key, _)| normal(key) == registry)
        {
            return ask_helper(helper, registry, &self.place(key));
        }
        let auths = self.content.auths.as_ref();
        for scope in scopes(registry, repository) {
            let entries = auths.iter().flat_map(|auths| auths.iter());
            for (key, entry) in entries.filter(|(key, _)| normal(key) == scope) {
                if let Some(login) = self.login(key, entry)? {
                    return Ok(Found::Login(Credentials {
                        login,
                        source: self.place(key),
                    }));
                }
            }
        }
        match self.content.creds_store.as_deref() {
            None | Some("") => Ok(Found::Nothing),
            Some(helper) => ask_helper(helper, registry, &self.place("credsStore")),
        }
    }

    /// `None` for the empty entries that docker leaves when a helper has the secret.
    fn login(&self, key: &str, entry: &Entry) -> Result<Option<Login>, Fail> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&entry.identitytoken) {
            return Ok(Some(Login::IdentityToken(token)));
        }
        if let Some(auth) = given(&entry.auth) {
            let Some((user, password)) = decode(&auth) else {
                return Err(Fail::usage(format!(
                    "{}: `auth` of `{key}` is not the base64 text of USER:PASSWORD",
                    self.place(key)
                ))
                .hint("log in again with `rl login`")
                .code("RL-I03"));
            };
            return Ok(Some(Login::Password { user, password }));
        }
        Ok(match (given(&entry.username), given(&entry.password)) {
            (Some(user), Some(password)) => Some(Login::Password { user, password }),
            (Some(_) | None, _) => None,
        })
    }

    /// `FILE, line N`, where `key` stands.
    fn place(&self, key: &str) -> String {
        let quoted = format!("\"{key}\"");
        let line = self.text.lines().position(|line| line.contains(&quoted));
        match line {
            Some(line) => format!("{}, line {}", self.path.display(), line + 1),
            None => self.path.display().to_string(),
        }
    }
}

/// Asks a helper that is named at `place`.
fn ask_helper(helper: &str, registry: &str, place: &str) -> Result<Found, Fail> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Secret {
        username: String,
        secret: String,
    }
    let name = format!("docker-credential-{helper}");
    let out = match run_helper(helper, place, "get", server_of(registry).as_bytes())? {
        Ok(out) => out,
        // The helpers' own way to say "none" (docker-credential-helpers, credentials/error.go).
        Err(why) if why.contains("credentials not found") => return Ok(Found::Nothing),
        Err(why) => return Ok(Found::OutOfReach(why)),
    };
    let Ok(secret) = serde_json::from_str::<Secret>(&out) else {
        return Ok(Found::OutOfReach(format!(
            "`{name}` ({place}) did not answer with a user name and a secret"
        )));
    };
    let login = if secret.username == "<token>" {
        Login::IdentityToken(secret.secret)
    } else {
        Login::Password {
            user: secret.username,
            password: secret.secret,
        }
    };
    Ok(Found::Login(Credentials {
        login,
        source: format!("`{name}` ({place})"),
    }))
}

/// What a credential helper calls a registry.
pub(super) fn server_of(registry: &str) -> &str {
    if registry == DOCKER_HUB {
        HUB_KEY
    } else {
        registry
    }
}

/// Has `docker-credential-HELPER`, which is named at `place`, do `verb`; the inner error says why it did not.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for what is no name of a helper.
pub(super) fn run_helper(
    helper: &str,
    place: &str,
    verb: &str,
    input: &[u8],
) -> Result<Result<String, String>, Fail> {
    if helper.contains('/') {
        return Err(Fail::usage(format!(
            "{place}: `{helper}` is not the name of a credential helper"
        ))
        .code("RL-I03"));
    }
    let name = format!("docker-credential-{helper}");
    let mut command = Command::new(&name);
    let answer = match program::ask(command.arg(verb), input, HELPER_LIMIT) {
        Ok(answer) => answer,
        Err(error) => {
            let why = if error.kind() == ErrorKind::NotFound {
                "is not installed".to_owned()
            } else if error.kind() == ErrorKind::TimedOut {
                format!("did not answer within {} s", HELPER_LIMIT.as_secs())
            } else {
                format!("cannot be run: {error}")
            };
            return Ok(Err(format!("`{name}` ({place}) {why}")));
        }
    };
    let out = String::from_utf8_lossy(&answer.stdout).into_owned();
    if answer.status.success() {
        return Ok(Ok(out));
    }
    let err = String::from_utf8_lossy(&answer.stderr);
    let said = [out.trim(), err.trim()].join(" ");
    Ok(Err(format!(
        "`{name}` ({place}) failed: {}",
        said.trim().chars().take(200).collect::<String>()
    )))
}

/// The keys under which a login may stand, closest first: `host/a/b`, `host/a`, `host`.
fn scopes(registry: &str, repository: &str) -> Vec<String> {
    let full = format!("{registry}/{repository}");
    let mut scopes = vec![full.clone()];
    scopes.extend(
        full.rmatch_indices('/')
            .map(|(slash, _)| full[..slash].to_owned()),
    );
    scopes
}

/// A key as podman reads it: with a scheme only the host counts, without one the path does, too.
#[must_use]
pub fn normal(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let (host, path) = match bare {
        Some(bare) => (bare.split('/').next().unwrap_or(bare), None),
        None => match key.split_once('/') {
            Some((host, path)) => (host, Some(path.trim_end_matches('/'))),
            None => (key, None),
        },
    };
    let (host, is_hub) = match host {
        "index.docker.io" | "registry-1.docker.io" | DOCKER_HUB => (DOCKER_HUB, true),
        other => (other, false),
    };
    match path {
        Some("v1" | "v2") if is_hub => host.to_owned(),
        Some(path) if !path.is_empty() => format!("{host}/{path}"),
        Some(_) | None => host.to_owned(),
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let engine = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text = String::from_utf8(engine.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    // Docker cuts these off, too.
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(text: &str, registry: &str, repository: &str) -> Result<Found, Fail> {
        AuthFile::parse(Path::new("/h/auth.json"), text)?.find(registry, repository)
    }

    fn user(found: Found) -> Option<String> {
        match found {
            Found::Login(Credentials {
                login: Login::Password { user, .. },
                ..
            }) => Some(user),
            Found::Login(_) => Some("<token>".to_owned()),
            Found::Nothing | Found::OutOfReach(_) => None,
        }
    }

    #[test]
    fn the_closest_key_wins() {
        let entry = |user: &str| {
            let auth = base64::prelude::BASE64_STANDARD.encode(format!("{user}:secret:x"));
            serde_json::json!({ "auth": auth })
        };
        let text = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": entry("hub"),
            "quay.io": entry("host"),
            "quay.io/me": entry("path"),
            "quay.io/me/app": entry("repository"),
            "https://old.example/v2/": entry("old"),
            "port.example:5000": {"username": "plain", "password": "x"},
            "empty.example": {},
            "token.example": {"identitytoken": "t", "auth": "bWU6"},
        }})
        .to_string();
        for (registry, repository, expected) in [
            ("docker.io", "library/x", Some("hub")),
            ("quay.io", "other/app", Some("host")),
            ("quay.io", "me/other", Some("path")),
            ("quay.io", "me/app", Some("repository")),
            ("quay.io", "meme/app", Some("host")),
            ("old.example", "x", Some("old")),
            ("port.example:5000", "x", Some("plain")),
            ("port.example", "x", None),
            ("empty.example", "x", None),
            ("token.example", "x", Some("<token>")),
            ("other.example", "x", None),
        ] {
            let found = look(&text, registry, repository).unwrap();
            assert_eq!(user(found).as_deref(), expected, "{registry}/{repository}");
        }
    }

    #[test]
    fn a_login_says_where_it_was_found_and_hides_its_secret() {
        let text = "{\"auths\": {\n  \"a.example\": {},\n  \"b.example\": {\"auth\": \"bWU6c2VjcmV0\"}\n}}";
        let Found::Login(credentials) = look(text, "b.example", "x").unwrap() else {
            panic!("not found");
        };
        assert_eq!(credentials.source, "/h/auth.json, line 3");
        assert!(!format!("{credentials:?}").contains("secret"));
    }

    #[test]
    fn a_broken_file_is_an_error_with_its_line() {
        for (text, say) in [
            ("{\n \"auths\": {\n", "line 3"),
            ("{\n \"auths\": []\n}", "line 2"),
            ("{\"auths\": {\n\"h\": {\"auth\": \"*\"}}}", "line 2"),
            ("{\"auths\": {\n\"h\": {\"auth\": \"bWU=\"}}}", "line 2"),
            ("{\"credHelpers\": {\n\"h\": \"../x\"}}", "line 2"),
        ] {
            let fail = look(text, "h", "x").expect_err(say);
            assert!(
                fail.message.contains(say) && fail.message.contains("/h/auth.json"),
                "{fail}"
            );
        }
        assert_eq!(look("", "h", "x"), Ok(Found::Nothing));
        assert_eq!(
            look("{\"auths\": null, \"other\": 1}", "h", "x"),
            Ok(Found::Nothing)
        );
    }

    #[test]
    fn a_helper_that_is_not_there_is_no_error_yet() {
        let text = "{\"credsStore\": \"rl-test-missing\"}";
        let Found::OutOfReach(why) = look(text, "h", "x").unwrap() else {
            panic!("found");
        };
        assert!(
            why.contains("docker-credential-rl-test-missing") && why.contains("line 1"),
            "{why}"
        );
    }
}
