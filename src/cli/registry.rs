//! What commands that talk to registries have in common, and `rl search` and `rl image ls-remote`.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::output::{self, Columns, Row};
use super::prompt;
use super::run::values::boolean;
use crate::error::Fail;
use crate::image::auth::Login;
use crate::image::reference::{DOCKER_HUB, Reference};
use crate::image::registries::Registries;
use crate::image::registry::{Client, ClientOptions};

/// The flags of every command that talks to a registry.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RegistryFlags {
    /// Verify the registry's certificate (default: true)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub tls_verify: Option<bool>,

    /// Read logins from this file only
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,

    /// Take certificates for the registry from this directory: *.crt, *.cert and *.key
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,

    /// Log in for this command as USER:PASSWORD; without PASSWORD it is asked for
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub creds: Option<String>,
}

/// [`RegistryFlags`], read once; goes to jobs, too.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Settings {
    /// `--tls-verify`.
    pub tls_verify: Option<bool>,
    /// `--authfile`, absolute.
    pub auth_file: Option<PathBuf>,
    /// `--creds`.
    pub login: Option<Login>,
    /// `--cert-dir`, absolute.
    pub cert_dir: Option<PathBuf>,
    /// `--parallel`.
    pub parallel: Option<u8>,
}

/// `--cert-dir`, made absolute.
///
/// # Errors
/// `Usage` when there is no such directory.
pub fn cert_dir(dir: Option<&PathBuf>) -> Result<Option<PathBuf>> {
    let Some(dir) = dir.map(std::path::absolute).transpose()? else {
        return Ok(None);
    };
    match std::fs::read_dir(&dir) {
        Ok(_) => Ok(Some(dir)),
        Err(error) => Err(Fail::usage(format!("--cert-dir `{}`: {error}", dir.display())).into()),
    }
}

impl RegistryFlags {
    /// Reads them; may ask for a password.
    ///
    /// # Errors
    /// `Usage`.
    pub fn settings(&self) -> Result<Settings> {
        let auth_file = self
            .authfile
            .as_ref()
            .map(std::path::absolute)
            .transpose()?;
        if let Some(file) = &auth_file
            && let Err(error) = std::fs::metadata(file)
        {
            return Err(Fail::usage(format!("--authfile `{}`: {error}", file.display())).into());
        }
        let login = match &self.creds {
            None => None,
            Some(creds) => Some(login(creds)?),
        };
        Ok(Settings {
            tls_verify: self.tls_verify,
            auth_file,
            login,
            cert_dir: cert_dir(self.cert_dir.as_ref())?,
            parallel: None,
        })
    }
}

fn login(creds: &str) -> Result<Login> {
    let (user, password) = match creds.split_once(':') {
        Some((user, password)) => (user, password.to_owned()),
        None if prompt::can_ask() => (creds, prompt::secret("Password: ")?),
        None => {
            return Err(
                Fail::usage("--creds has no password, and there is no terminal to ask at")
                    .hint("--creds USER:PASSWORD, or `rl login` before")
                    .into(),
            );
        }
    };
    if user.is_empty() {
        return Err(Fail::usage("--creds has no user name").into());
    }
    Ok(Login::Password {
        user: user.to_owned(),
        password,
    })
}

impl Settings {
    /// What a client is told for `name`, an image or a registry alone, and for its mirrors.
    ///
    /// # Errors
    /// Those of [`ClientOptions::from_environment`].
    pub fn client(&self, name: &str) -> Result<ClientOptions> {
        let mut client = ClientOptions::from_environment()?;
        let registry = name.split('/').next().unwrap_or(name).to_owned();
        match self.tls_verify {
            None if client.registries.is_insecure(name) => client.insecure.push(registry),
            None => {}
            Some(false) => client.insecure.push(registry),
            // Asked for by name: what the environment and files allow does not count.
            Some(true) => {
                client.insecure.clear();
                client.registries.verify_all();
            }
        }
        if let Some(file) = &self.auth_file {
            client.auth_files = vec![file.clone()];
            client.helpers.clear();
        }
        client.login.clone_from(&self.login);
        client.cert_dir.clone_from(&self.cert_dir);
        if let Some(parallel) = self.parallel {
            client.parallel = parallel.into();
        }
        Ok(client)
    }
}

/// The flags of `rl image ls-remote`.
#[derive(Debug, Clone, clap::Args)]
pub struct TagsArgs {
    #[command(flatten)]
    pub registry: RegistryFlags,

    /// An image's name; a tag in it means nothing
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// `rl image ls-remote`: one tag a line.
pub fn tags(args: &TagsArgs) -> Result<u8> {
    let name = Reference::parse(&args.name)?;
    let settings = args.registry.settings()?;
    let client = Client::new(&name.registry, settings.client(&name.registry)?)?;
    let tags = client.tags(&name.repository);
    tell(&client);
    let mut text = tags?.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    output::write_all(&text)?;
    Ok(0)
}

/// Notes of a client, for people.
fn tell(client: &Client) {
    for note in client.take_notes() {
        super::progress::say(&note);
    }
}

/// The flags of `rl search`.
#[derive(Debug, Clone, clap::Args)]
pub struct SearchArgs {
    #[command(flatten)]
    pub registry: RegistryFlags,

    /// Show only some: is-official=BOOL, stars=N (can be repeated)
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,

    /// Print as a Go template, `table TEMPLATE`, or `json`
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,

    /// Show so many results at most
    #[arg(long, value_name = "NUMBER", default_value_t = 25)]
    pub limit: usize,

    /// Do not shorten descriptions
    #[arg(long)]
    pub no_trunc: bool,

    /// A part of a name, perhaps with the registry before it: host:5000/part
    #[arg(value_name = "TERM")]
    pub term: String,
}

const FOUND: Columns = Columns {
    heads: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
    ],
    shown: &["Name", "Description", "StarCount", "IsOfficial"],
};

/// `rl search`.
pub fn search(args: &SearchArgs) -> Result<u8> {
    let mut official = None;
    let mut stars = 0;
    for filter in &args.filter {
        let wrong = |why: &str| Fail::usage(format!("--filter `{filter}`: {why}"));
        match filter.split_once('=') {
            Some(("is-official", value)) => {
                official = Some(boolean(value).map_err(|why| wrong(&why.to_string()))?);
            }
            Some(("stars", value)) => {
                stars = value.parse().map_err(|_| wrong("stars is a number"))?;
            }
            Some(_) | None => {
                return Err(wrong("unknown key")
                    .hint("known: is-official, stars")
                    .into());
            }
        }
    }
    let configured = Registries::load()?;
    let (places, term) = match args.term.split_once('/') {
        Some((host, term)) if host.contains(['.', ':']) || host == "localhost" => {
            (vec![host.to_owned()], term)
        }
        Some(_) | None if configured.search().is_empty() => {
            (vec![DOCKER_HUB.to_owned()], args.term.as_str())
        }
        Some(_) | None => (configured.search().to_vec(), args.term.as_str()),
    };
    let settings = args.registry.settings()?;
    let mut all = Vec::new();
    for registry in &places {
        let client = Client::new(registry, settings.client(registry)?)?;
        let found = client.search(term, args.limit);
        tell(&client);
        all.extend(found?.into_iter().map(|found| (registry, found)));
    }
    let rows: Vec<Row> = all
        .into_iter()
        .filter(|(_, found)| official.is_none_or(|wanted| found.is_official == wanted))
        .filter(|(_, found)| found.star_count >= stars)
        .map(|(registry, found)| {
            let mut row = Row::new();
            let name = if registry == DOCKER_HUB {
                found.name
            } else {
                format!("{registry}/{}", found.name)
            };
            let mut description = found.description.replace(['\n', '\r', '\t'], " ");
            if !args.no_trunc && description.chars().count() > 45 {
                description = description.chars().take(44).chain(['…']).collect();
            }
            row.insert("Name".to_owned(), name.into());
            row.insert("Description".to_owned(), description.into());
            row.insert("StarCount".to_owned(), found.star_count.into());
            let mark = if found.is_official { "[OK]" } else { "" };
            row.insert("IsOfficial".to_owned(), mark.into());
            row
        })
        .collect();
    let mut out = output::stdout();
    output::list(&mut out, &rows, &FOUND, args.format.as_deref())?;
    std::io::Write::flush(&mut out)?;
    Ok(0)
}
