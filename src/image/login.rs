//! Writes and removes logins, in the files and credential helpers that [`super::auth`] reads.
//!
//! A file is replaced as a whole, under a lock on its directory; what others wrote into it stays as it is.
//! It is readable for its owner alone.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use serde::Serialize as _;
use serde_json::{Map, Value, json};

use super::auth::{self, Login, MAX_FILE, normal, run_helper, server_of};
use super::reference::DOCKER_HUB;
use crate::error::Fail;

/// Links that are followed from the name of a file to the file.
const LINKS: usize = 8;

/// Stores `login` for `key`: `host[:port]`, or `host[:port]/path` for repositories below it. Returns where, for
/// people.
///
/// It goes to the first of `files` that has a login for the key or a credential helper, else into `default`.
///
/// # Errors
/// `Usage` for a broken file; `Denied` when a helper refuses; the system's.
pub fn store(files: &[PathBuf], default: &Path, key: &str, login: &Login) -> Result<String> {
    let mut target = default;
    for file in files {
        if let Some(content) = read(file)?
            && (!places(&content, key).is_empty() || helper_of(&content, key).is_some())
        {
            target = file;
            break;
        }
    }
    let mut helper = None;
    change(target, |content| {
        helper = helper_of(content, key);
        if let Some(helper) = &helper {
            tell(helper, target, key, login)?;
            // An entry in the file would be believed before the helper is asked.
            forget(content, key);
            return Ok(());
        }
        for old in places(content, key) {
            auths(content, target)?.remove(&old);
        }
        let name = if key == DOCKER_HUB && is_dockers(target) {
            server_of(key)
        } else {
            key
        };
        auths(content, target)?.insert(name.to_owned(), entry(login));
        Ok(())
    })?;
    Ok(match helper {
        Some(helper) => format!("`docker-credential-{helper}`"),
        None => target.display().to_string(),
    })
}

/// As [`store`], but in the first of `helpers` that takes it: `credential-helpers` of registries.conf, of which
/// [`auth::FILES`] stands for the files. No helpers at all are the files alone.
///
/// # Errors
/// As [`store`]; that of the last helper when none takes it.
pub fn store_in(
    helpers: &[String],
    files: &[PathBuf],
    default: &Path,
    key: &str,
    login: &Login,
) -> Result<String> {
    let mut last = None;
    for helper in helpers {
        if helper == auth::FILES {
            return store(files, default, key, login);
        }
        // Helpers know servers, not what is below them.
        if key.contains('/') {
            continue;
        }
        match tell(helper, Path::new(auth::HELPERS_PLACE), key, login) {
            Ok(()) => return Ok(format!("`docker-credential-{helper}`")),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error),
        None => store(files, default, key, login),
    }
}

/// As [`remove`], in the helpers, too.
///
/// # Errors
/// As [`remove`].
pub fn remove_in(helpers: &[String], files: &[PathBuf], key: Option<&str>) -> Result<Vec<String>> {
    let place = Path::new(auth::HELPERS_PLACE);
    let mut removed = remove(files, key)?;
    for helper in helpers.iter().filter(|helper| *helper != auth::FILES) {
        let keys = match key {
            Some(key) => vec![key.to_owned()],
            None => listed(helper, place)?,
        };
        for key in keys.iter().filter(|key| !key.contains('/')) {
            if erase(helper, place, key)? {
                removed.push(format!("`docker-credential-{helper}`"));
            }
        }
    }
    removed.dedup();
    Ok(removed)
}

/// Removes the login for `key`, or all where none is given, from `files` and their helpers. Returns the places
/// where there was one, for people.
///
/// # Errors
/// As [`store`].
pub fn remove(files: &[PathBuf], key: Option<&str>) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for file in files {
        let Some(content) = read(file)? else { continue };
        let keys: Vec<String> = match key {
            Some(key) => vec![key.to_owned()],
            None => all_keys(&content, file)?,
        };
        let mut in_file = false;
        for key in &keys {
            if let Some(helper) = helper_of(&content, key)
                && erase(&helper, file, key)?
            {
                removed.push(format!("`docker-credential-{helper}`"));
            }
            in_file |= !places(&content, key).is_empty();
        }
        if in_file {
            change(file, |content| {
                for key in &keys {
                    forget(content, key);
                }
                Ok(())
            })?;
            removed.push(file.display().to_string());
        }
    }
    removed.dedup();
    Ok(removed)
}

/// Where a login goes that has no better place: podman's file that outlives a reboot.
///
/// # Errors
/// `Usage` when there is no home directory.
pub fn default_file() -> Result<PathBuf> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("REGISTRY_AUTH_FILE")
        .or_else(|| {
            let config = variable("XDG_CONFIG_HOME")
                .or_else(|| variable("HOME").map(|home| home.join(".config")))?;
            Some(config.join("containers/auth.json"))
        })
        .ok_or_else(|| {
            Fail::usage("there is no place for logins: HOME is not set")
                .hint("name a file with --authfile")
                .into()
        })
}

fn is_dockers(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == "config.json")
}

fn entry(login: &Login) -> Value {
    match login {
        Login::Password { user, password } => {
            let both = format!("{user}:{password}");
            json!({ "auth": base64::prelude::BASE64_STANDARD.encode(both) })
        }
        Login::IdentityToken(token) => json!({ "identitytoken": token }),
    }
}

fn broken(file: &Path, why: &str) -> Fail {
    Fail::usage(format!("`{}`: {why}", file.display()))
        .hint("repair or remove the file")
        .code("RL-I03")
}

/// `None` when there is no such file.
fn read(file: &Path) -> Result<Option<Map<String, Value>>> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(broken(file, &error.to_string()).into()),
    };
    if bytes.len() > MAX_FILE {
        return Err(broken(file, "it is too large").into());
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Some(Map::new()));
    }
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| broken(file, &format!("line {}: {error}", error.line())))?;
    Ok(Some(value))
}

fn auths<'c>(
    content: &'c mut Map<String, Value>,
    file: &Path,
) -> Result<&'c mut Map<String, Value>> {
    let auths = content.entry("auths").or_insert(Value::Null);
    if auths.is_null() {
        *auths = Value::Object(Map::new());
    }
    auths
        .as_object_mut()
        .ok_or_else(|| broken(file, "`auths` is no object").into())
}

/// The keys in the file that stand for `key` and have a login.
fn places(content: &Map<String, Value>, key: &str) -> Vec<String> {
    let auths = content.get("auths").and_then(Value::as_object);
    auths
        .into_iter()
        .flatten()
        .filter(|(name, value)| {
            normal(name) == key && value.as_object().is_some_and(|entry| !entry.is_empty())
        })
        .map(|(name, _)| name.clone())
        .collect()
}

fn forget(content: &mut Map<String, Value>, key: &str) {
    if let Some(auths) = content.get_mut("auths").and_then(Value::as_object_mut) {
        auths.retain(|name, _| normal(name) != key);
    }
}

fn helper_of(content: &Map<String, Value>, key: &str) -> Option<String> {
    let own = content.get("credHelpers").and_then(Value::as_object);
    let own = own
        .into_iter()
        .flatten()
        .find(|(name, _)| normal(name) == key)
        .and_then(|(_, helper)| helper.as_str());
    let helper = own.or_else(|| content.get("credsStore").and_then(Value::as_str))?;
    (!helper.is_empty()).then(|| helper.to_owned())
}

/// Every registry that the file or its helper for all has a login for.
fn all_keys(content: &Map<String, Value>, file: &Path) -> Result<Vec<String>> {
    let names = |field: &str| {
        let object = content.get(field).and_then(Value::as_object);
        object.into_iter().flatten().map(|(name, _)| normal(name))
    };
    let mut keys: Vec<String> = names("auths").chain(names("credHelpers")).collect();
    if let Some(helper) = content.get("credsStore").and_then(Value::as_str)
        && !helper.is_empty()
    {
        keys.extend(listed(helper, file)?);
    }
    keys.sort();
    keys.dedup();
    Ok(keys)
}

/// Every registry that a helper has a login for.
fn listed(helper: &str, file: &Path) -> Result<Vec<String>> {
    let place = file.display().to_string();
    let listed = run_helper(helper, &place, "list", b"")?.map_err(Fail::denied)?;
    let listed: Map<String, Value> = serde_json::from_str(&listed).unwrap_or_default(); // it has none
    Ok(listed.iter().map(|(name, _)| normal(name)).collect())
}

fn tell(helper: &str, file: &Path, key: &str, login: &Login) -> Result<()> {
    let (user, secret) = match login {
        Login::Password { user, password } => (user.as_str(), password),
        Login::IdentityToken(token) => ("<token>", token),
    };
    let request = json!({ "ServerURL": server_of(key), "Username": user, "Secret": secret });
    let place = file.display().to_string();
    run_helper(helper, &place, "store", request.to_string().as_bytes())?.map_err(|why| {
        Fail::denied(format!("the login was not stored: {why}"))
            .hint(format!("repair the helper, or take it out of `{place}`"))
            .code("RL-I03")
    })?;
    Ok(())
}

/// Whether there was one.
fn erase(helper: &str, file: &Path, key: &str) -> Result<bool> {
    let place = file.display().to_string();
    let server = server_of(key).as_bytes();
    match run_helper(helper, &place, "get", server)? {
        Ok(_) => {}
        Err(why) if why.contains("credentials not found") => return Ok(false),
        Err(why) => return Err(Fail::denied(why).code("RL-I03").into()),
    }
    run_helper(helper, &place, "erase", server)?.map_err(|why| Fail::denied(why).code("RL-I03"))?;
    Ok(true)
}

/// Reads the file, lets `edit` change it, and puts the new one in its place.
fn change(file: &Path, edit: impl FnOnce(&mut Map<String, Value>) -> Result<()>) -> Result<()> {
    let file = &behind_links(file);
    let failed = || format!("writing the logins to `{}`", file.display());
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .with_context(failed)?;
    // The directory, for the file itself is replaced; gone with the descriptor.
    let lock = File::open(parent).with_context(failed)?;
    lock.lock().with_context(failed)?;
    let before = read(file)?;
    let mut content = before.clone().unwrap_or_default();
    edit(&mut content)?;
    if before.as_ref() == Some(&content) || (before.is_none() && content.is_empty()) {
        return Ok(());
    }
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, format);
    content.serialize(&mut serializer).with_context(failed)?;
    text.push(b'\n');
    let mut aside = OsString::from(".");
    aside.push(file.file_name().unwrap_or_default());
    aside.push(".rl-new");
    let aside = parent.join(aside);
    let written = (|| {
        let mut new = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        // One that a killed command left may have another mode.
        new.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        new.write_all(&text)?;
        new.sync_all()?;
        std::fs::rename(&aside, file)?;
        lock.sync_all()
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&aside); // the first error is the one that matters
    }
    written.with_context(failed)
}

/// People keep such files elsewhere and link to them: the link stays.
fn behind_links(file: &Path) -> PathBuf {
    let mut file = file.to_owned();
    for _ in 0..LINKS {
        let Ok(target) = std::fs::read_link(&file) else {
            break;
        };
        file = match file.parent() {
            Some(parent) => parent.join(target),
            None => target,
        };
    }
    file
}

/// What the user types for a registry, as a key: without scheme and trailing slash, the hub under one name.
///
/// # Errors
/// `Usage` for what cannot be a registry.
pub fn key(text: &str) -> Result<String> {
    let bare = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text)
        .trim_end_matches('/');
    let (host, path) = match bare.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (bare, String::new()),
    };
    let key = auth::normal(&format!("{}{path}", host.to_ascii_lowercase()));
    if host.is_empty()
        || key
            .chars()
            .any(|letter| letter.is_whitespace() || letter == '@')
    {
        return Err(Fail::usage(format!(
            "`{}` is not a host or host:port",
            text.escape_debug()
        ))
        .into());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::auth::{Found, find};

    fn login(user: &str) -> Login {
        Login::Password {
            user: user.to_owned(),
            password: "pass:word".to_owned(),
        }
    }

    fn who(files: &[PathBuf], registry: &str) -> Option<Login> {
        match find(files, registry, "x").unwrap() {
            Found::Login(found) => Some(found.login),
            Found::Nothing | Found::OutOfReach(_) => None,
        }
    }

    #[test]
    fn a_login_is_written_closed_and_what_others_wrote_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/auth.json");
        let files = [file.clone()];
        store(&[], &file, "a.example:5000", &login("me")).unwrap();
        assert_eq!(who(&files, "a.example:5000"), Some(login("me")));
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(
            &file,
            r#"{"z": {"b": 1, "a": 2.50}, "auths": {"b.example": {"auth": "eDp5", "email": "e"}}}"#,
        )
        .unwrap();
        store(&files, &file, "a.example:5000", &login("you")).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        for part in ["\"z\"", "2.5", "\"email\"", "eDp5"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.find("\"b\"") < text.find("\"a\""), "{text}");
        assert_eq!(remove(&files, Some("a.example:5000")).unwrap().len(), 1);
        assert_eq!(who(&files, "a.example:5000"), None);
        assert!(who(&files, "b.example").is_some());
        assert!(remove(&files, Some("a.example:5000")).unwrap().is_empty());
        assert_eq!(remove(&files, None).unwrap().len(), 1);
        assert_eq!(who(&files, "b.example"), None);
    }

    #[test]
    fn a_renewed_login_is_the_one_that_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("runtime.json");
        let docker = dir.path().join("config.json");
        std::fs::write(
            &docker,
            r#"{"auths": {"https://index.docker.io/v1/": {"auth": "eDp5"}}}"#,
        )
        .unwrap();
        let files = [first.clone(), dir.path().join("auth.json"), docker.clone()];
        let place = store(&files, &files[1], "docker.io", &login("me")).unwrap();
        assert_eq!(place, docker.display().to_string());
        assert_eq!(who(&files, "docker.io"), Some(login("me")));
        let text = std::fs::read_to_string(&docker).unwrap();
        assert_eq!(text.matches("index.docker.io").count(), 1, "{text}");
        // Nothing known of it: the default.
        store(&files, &files[1], "other.example", &login("me")).unwrap();
        assert!(files[1].exists() && !first.exists());
    }

    #[test]
    fn a_link_to_the_file_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real.json");
        let link = dir.path().join("auth.json");
        std::os::unix::fs::symlink("real.json", &link).unwrap();
        store(&[], &link, "a.example", &login("me")).unwrap();
        assert!(real.is_file() && link.is_symlink());
    }

    #[test]
    fn a_broken_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        for text in ["{\"auths\": {", "[]", "{\"auths\": []}"] {
            std::fs::write(&file, text).unwrap();
            assert!(
                store(&[], &file, "a.example", &login("me")).is_err(),
                "{text}"
            );
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
    }

    #[test]
    fn many_at_once_lose_no_login() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        std::thread::scope(|scope| {
            for number in 0..16 {
                let file = &file;
                scope.spawn(move || {
                    store(&[], file, &format!("r{number}.example"), &login("me")).unwrap();
                });
            }
        });
        for number in 0..16 {
            assert!(who(std::slice::from_ref(&file), &format!("r{number}.example")).is_some());
        }
    }

    #[test]
    fn registries_are_typed_in_many_ways() {
        for (text, expected) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("Quay.io", "quay.io"),
            ("https://r.example:5000/", "r.example:5000"),
            ("quay.io/me/", "quay.io/me"),
        ] {
            assert_eq!(key(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "https://", "a b", "u@h"] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }
}
