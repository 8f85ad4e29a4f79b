//! `rl login` and `rl logout`.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::output;
use super::progress::say;
use super::prompt;
use super::registry::Settings;
use super::run::values::boolean;
use crate::error::{self, Fail, Kind};
use crate::image::auth::{self, Found, Login};
use crate::image::login as logins;
use crate::image::reference::DOCKER_HUB;
use crate::image::registries::Registries;
use crate::image::registry::Client;

/// Longest password that is read, in bytes; tokens have some thousands.
const MAX_PASSWORD: u64 = 64 << 10;

/// The flags of `rl login`.
#[derive(Debug, Clone, clap::Args)]
pub struct LoginArgs {
    /// Keep the login in this file
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,

    /// Take certificates for the registry from this directory: *.crt, *.cert and *.key
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,

    /// Print who is logged in, and do nothing else
    #[arg(long)]
    pub get_login: bool,

    /// The password; everybody on this machine can read it, so better use --password-stdin
    #[arg(short, long, value_name = "PASSWORD")]
    pub password: Option<String>,

    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,

    /// Verify the registry's certificate (default: true)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub tls_verify: Option<bool>,

    /// The user's name
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,

    /// The registry, or registry/path for repositories below it; docker.io where none is named
    #[arg(value_name = "REGISTRY")]
    pub registry: Option<String>,
}

/// The flags of `rl logout`.
#[derive(Debug, Clone, clap::Args)]
pub struct LogoutArgs {
    /// Forget all logins
    #[arg(short, long)]
    pub all: bool,

    /// Forget what this file has
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,

    /// The registry; docker.io where none is named
    #[arg(value_name = "REGISTRY")]
    pub registry: Option<String>,
}

/// `rl login`: the registry must know the login before it is kept.
pub fn login(args: &LoginArgs) -> Result<u8> {
    let key = logins::key(args.registry.as_deref().unwrap_or(DOCKER_HUB))?;
    let (registry, path) = key.split_once('/').unwrap_or((&key, ""));
    let files = files(args.authfile.clone())?;
    let helpers = helpers(args.authfile.as_ref())?;
    let cert_dir = super::registry::cert_dir(args.cert_dir.as_ref())?;
    let existing = match auth::find_in(&helpers, &files, registry, path)? {
        Found::Login(found) => Some(found),
        Found::Nothing => None,
        Found::OutOfReach(why) => {
            say(&why);
            None
        }
    };
    if args.get_login {
        let Some(found) = existing else {
            return Err(Fail::not_found(format!("not logged in to {key}")).into());
        };
        output::print(match &found.login {
            Login::Password { user, .. } => user,
            Login::IdentityToken(_) => "<token>",
        })?;
        return Ok(0);
    }
    let settings = |login: Login| Settings {
        tls_verify: args.tls_verify,
        auth_file: None,
        login: Some(login),
        cert_dir: cert_dir.clone(),
        parallel: None,
    };
    let check = |login: &Login| {
        Client::new(registry, settings(login.clone()).client(registry)?)?
            .check_login()
            .with_context(|| format!("logging in to {registry}"))
    };
    let asks = args.password.is_none() && !args.password_stdin;
    if asks
        && args.username.is_none()
        && let Some(found) = &existing
    {
        match check(&found.login) {
            Ok(()) => {
                say(&format!("The login from {} is good", found.source));
                output::print("Login Succeeded")?;
                return Ok(0);
            }
            Err(error) if error::kind(&error) == Kind::Denied && prompt::can_ask() => {
                say(&format!("The login from {} is refused", found.source));
            }
            Err(error) => return Err(error),
        }
    }
    let login = ask(args, existing.map(|found| found.login).as_ref())?;
    check(&login)?;
    let default = match &args.authfile {
        Some(_) => files[0].clone(),
        None => logins::default_file()?,
    };
    let place = logins::store_in(&helpers, &files, &default, &key, &login)?;
    say(&format!("The login is kept in {place}"));
    output::print("Login Succeeded")?;
    Ok(0)
}

/// `credential-helpers` of registries.conf, which a named file stands for.
fn helpers(only: Option<&PathBuf>) -> Result<Vec<String>> {
    Ok(match only {
        Some(_) => Vec::new(),
        None => Registries::load()?.credential_helpers().to_vec(),
    })
}

/// The files that count; at least one where `only` is given.
fn files(only: Option<PathBuf>) -> Result<Vec<PathBuf>> {
    Ok(match only {
        Some(only) => vec![std::path::absolute(only)?],
        None => auth::files(),
    })
}

fn ask(args: &LoginArgs, existing: Option<&Login>) -> Result<Login> {
    let interactive = || {
        if prompt::can_ask() {
            return Ok(());
        }
        Err(
            Fail::usage("there is no terminal to ask for user name and password")
                .hint("rl login -u NAME --password-stdin REGISTRY < FILE"),
        )
    };
    if args.password_stdin && args.password.is_some() {
        return Err(Fail::usage("--password and --password-stdin exclude each other").into());
    }
    let user = match (&args.username, existing) {
        (Some(user), _) => user.clone(),
        (None, _) if args.password_stdin => {
            return Err(Fail::usage("--password-stdin needs --username").into());
        }
        (None, Some(Login::Password { user, .. })) => {
            interactive()?;
            let typed = prompt::line(&format!("Username ({user}): "))?;
            if typed.is_empty() {
                user.clone()
            } else {
                typed
            }
        }
        (None, Some(Login::IdentityToken(_)) | None) => {
            interactive()?;
            prompt::line("Username: ")?
        }
    };
    if user.is_empty() || user.contains(':') {
        return Err(Fail::usage("a user name is not empty and has no colon").into());
    }
    let password = match &args.password {
        Some(password) => {
            say("--password shows the password to everybody on this machine: use --password-stdin");
            password.clone()
        }
        None if args.password_stdin => {
            let mut text = String::new();
            let mut input = std::io::stdin().lock().take(MAX_PASSWORD + 1);
            input
                .read_to_string(&mut text)
                .context("reading the password")?;
            if text.len() as u64 > MAX_PASSWORD {
                return Err(Fail::usage("that is too long for a password").into());
            }
            // One end of line, as docker has it.
            let text = text.strip_suffix('\n').unwrap_or(&text);
            text.strip_suffix('\r').unwrap_or(text).to_owned()
        }
        None => {
            interactive()?;
            prompt::secret("Password: ")?
        }
    };
    if password.is_empty() {
        return Err(Fail::usage("the password is empty").into());
    }
    Ok(Login::Password { user, password })
}

/// `rl logout`: wherever the login is kept.
pub fn logout(args: &LogoutArgs) -> Result<u8> {
    if args.all && args.registry.is_some() {
        return Err(Fail::usage("--all and a registry exclude each other").into());
    }
    let key = match (&args.registry, args.all) {
        (_, true) => None,
        (registry, false) => Some(logins::key(registry.as_deref().unwrap_or(DOCKER_HUB))?),
    };
    let helpers = helpers(args.authfile.as_ref())?;
    let files = files(args.authfile.clone())?;
    let removed = logins::remove_in(&helpers, &files, key.as_deref())?;
    let what = key.unwrap_or_else(|| "all registries".to_owned());
    if removed.is_empty() && !args.all {
        return Err(Fail::not_found(format!("not logged in to {what}")).into());
    }
    for place in removed {
        say(&format!("Removed from {place}"));
    }
    output::print(&format!("Removed login credentials for {what}"))?;
    Ok(0)
}
