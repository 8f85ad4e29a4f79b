//! Talks to registries: fetches manifests and blobs, says who we are, tries again when it is worth it.
//!
//! Nothing is stored or unpacked here, and only manifests are checked against their digest: a blob is handed
//! out as a stream, and whoever reads it hashes it.
//!
//! Source: OCI distribution specification, "Pull"; docker's token authentication specification.

mod access;
mod body;
mod file;
mod listing;
mod proxy;
mod token;
mod transport;
mod trouble;
mod trust;
mod upload;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ureq::http::{HeaderMap, StatusCode, Uri};

use super::auth;
use super::manifest::{ACCEPTED, Descriptor, MAX_DOCUMENT};
use super::reference::{DOCKER_HUB, Digest, Reference};
use super::registries::Registries;
use crate::error::Fail;
use access::Access;
use body::read_all;
use token::{Challenge, Pass};
use transport::{Answer, Content, Question, Transport};
use trouble::{codes, told};

pub use body::{BlobBody, BlobStream, is_resumable};
pub use proxy::Proxies;
pub use upload::{Blob, Uploaded};

/// Where docker.io really is.
const DOCKER_HUB_API: &str = "registry-1.docker.io";
/// Most bytes that are read of an error or a token.
const MAX_SMALL: u64 = 64 << 10;

/// What a client needs to know of its user.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Registries (`host[:port]`, or `*`) that may speak plain HTTP or have any certificate.
    pub insecure: Vec<String>,
    /// Files with logins, see [`auth::files`].
    pub auth_files: Vec<PathBuf>,
    /// Helpers in place of those files, see [`auth::find_in`].
    pub helpers: Vec<String>,
    /// The directory with certificates, in place of the usual ones.
    pub cert_dir: Option<PathBuf>,
    /// A login that was given with the command, in place of those in files.
    pub login: Option<auth::Login>,
    /// Ways out.
    pub proxies: Proxies,
    /// How long to try.
    pub patience: Patience,
    /// Mirrors and other places.
    pub registries: Registries,
    /// Blobs that are fetched or sent at the same time.
    pub parallel: usize,
}

impl ClientOptions {
    /// As the environment says: `RL_INSECURE_REGISTRIES`, the usual files of logins and registries, the usual proxies.
    ///
    /// # Errors
    /// Those of [`Registries::load`].
    pub fn from_environment() -> Result<Self> {
        let insecure = std::env::var("RL_INSECURE_REGISTRIES").unwrap_or_default(); // none are named
        let registries = Registries::load()?;
        Ok(Self {
            insecure: insecure
                .split([',', ' '])
                .filter(|registry| !registry.is_empty())
                .map(str::to_ascii_lowercase)
                .collect(),
            auth_files: auth::files(),
            helpers: registries.credential_helpers().to_vec(),
            cert_dir: None,
            login: None,
            proxies: Proxies::from_environment(),
            patience: Patience::default(),
            registries,
            parallel: super::pull::PARALLEL,
        })
    }
}

/// How often and how long a request is tried again: after lost connections, and the statuses 429, 500, 502,
/// 503 and 504.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Requests in all.
    pub attempts: u32,
    /// Before the second attempt; doubled before each further one.
    pub first_pause: Duration,
    /// No attempt begins later than this.
    pub total: Duration,
    /// How long a server may send next to nothing of a blob.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_pause: Duration::from_millis(500),
            total: Duration::from_secs(90),
            idle: transport::IDLE_LIMIT,
        }
    }
}

/// What is left of the patience for one call.
struct Hurry {
    attempts: u32,
    pause: Duration,
    until: Instant,
}

impl Hurry {
    fn new(patience: Patience) -> Self {
        Self {
            attempts: patience.attempts.saturating_sub(1),
            pause: patience.first_pause,
            until: Instant::now() + patience.total,
        }
    }

    /// Sleeps before the next attempt; false when there is none.
    fn wait(&mut self, asked_for: Option<Duration>) -> bool {
        use std::hash::{BuildHasher as _, Hasher as _};
        // Up to half as long again, so that a thousand ranks do not come back in step.
        let random = std::hash::RandomState::new().build_hasher().finish();
        let jitter = self
            .pause
            .mul_f64(f64::from(u8::try_from(random & 0xff).unwrap_or(0)) / 512.0);
        let pause = (self.pause + jitter).max(asked_for.unwrap_or_default());
        if self.attempts == 0 || Instant::now() + pause > self.until {
            return false;
        }
        self.attempts -= 1;
        self.pause *= 2;
        std::thread::sleep(pause);
        true
    }
}

/// What is meant at a registry.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// What the tag stands for now.
    Tag(&'a str),
    /// This content.
    Digest(&'a Digest),
}

impl<'a> Wanted<'a> {
    /// The digest, else the tag.
    #[must_use]
    pub fn of(reference: &'a Reference) -> Self {
        match (&reference.digest, &reference.tag) {
            (Some(digest), _) => Wanted::Digest(digest),
            (None, Some(tag)) => Wanted::Tag(tag),
            (None, None) => Wanted::Tag(super::reference::DEFAULT_TAG),
        }
    }

    fn path(self) -> String {
        match self {
            Wanted::Tag(tag) => tag.to_owned(),
            Wanted::Digest(digest) => digest.to_string(),
        }
    }

    fn suffix(self) -> String {
        match self {
            Wanted::Tag(tag) => format!(":{tag}"),
            Wanted::Digest(digest) => format!("@{digest}"),
        }
    }
}

/// A manifest or an index as it came.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// At most 4 MiB.
    pub bytes: Vec<u8>,
    /// `Content-Type`, which may say nothing useful; [`super::manifest::parse`] copes.
    pub media_type: Option<String>,
    /// Of the bytes, computed here.
    pub digest: Digest,
}

/// One registry. Shared by threads, which share its connections and tokens.
#[derive(Debug)]
pub struct Client {
    /// As in [`Reference::registry`].
    registry: String,
    /// The server that has the API, with its port.
    host: String,
    auth_files: Vec<PathBuf>,
    helpers: Vec<String>,
    login: Option<auth::Login>,
    patience: Patience,
    parallel: usize,
    transport: Transport,
    /// `https` or `http`, once it is known.
    scheme: Mutex<Option<&'static str>>,
    /// By what they allow, see [`Access::scope`]. Locked while a token is fetched, so that all threads wait for the same one.
    passes: Mutex<HashMap<String, Shown>>,
    notes: Mutex<Vec<String>>,
}

/// A pass and whose it is: the file with the login, or nobody's.
#[derive(Debug, Clone)]
struct Shown {
    pass: Pass,
    source: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is whole after every statement, even if some thread has panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// A client for `registry` as in [`Reference::registry`]. No connection is made yet.
    ///
    /// # Errors
    /// [`crate::error::Kind::Usage`] when `registry` cannot be the name of a server.
    pub fn new(registry: &str, options: ClientOptions) -> Result<Self> {
        let host = if registry == DOCKER_HUB {
            DOCKER_HUB_API
        } else {
            registry
        };
        if format!("https://{host}/").parse::<Uri>().is_err() {
            return Err(Fail::usage(format!(
                "`{}` is not a host or host:port",
                registry.escape_debug()
            ))
            .into());
        }
        let insecure = options
            .insecure
            .iter()
            .any(|named| named == "*" || named.eq_ignore_ascii_case(registry));
        Ok(Self {
            registry: registry.to_owned(),
            host: host.to_owned(),
            auth_files: options.auth_files,
            helpers: options.helpers,
            login: options.login,
            patience: options.patience,
            parallel: options.parallel,
            transport: Transport::new(registry, insecure, options.proxies, options.cert_dir),
            scheme: Mutex::new(None),
            passes: Mutex::default(),
            notes: Mutex::default(),
        })
    }

    /// As many blobs may be fetched or sent at the same time.
    #[must_use]
    pub fn parallel(&self) -> usize {
        self.parallel
    }

    /// What the user should know although it worked, such as a login that was refused. Empties the list.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.notes))
    }

    /// Fetches a manifest or an index.
    ///
    /// # Errors
    /// [`crate::error::Kind`] `NotFound`, `Denied`, `Network`, or `Corrupt` when the bytes are not those of
    /// the digest.
    pub fn manifest(&self, repository: &str, wanted: Wanted<'_>) -> Result<Fetched> {
        let name = format!("{repository}{}", wanted.suffix());
        let asked = format!("the manifest of `{name}`");
        let path = format!("{repository}/manifests/{}", wanted.path());
        let question = Question {
            headers: vec![("accept", ACCEPTED.join(", "))],
            ..Question::default()
        };
        let mut hurry = Hurry::new(self.patience);
        loop {
            let answer = self
                .fetch(Access::Pull(repository), &path, &question, &mut hurry)
                .with_context(|| format!("getting {asked}"))?;
            if answer.response.status() != StatusCode::OK {
                return Err(self
                    .refusal(answer, Access::Pull(repository), &asked, Some(wanted))
                    .into());
            }
            let host = transport::host_of(&answer.uri);
            let media_type = header(answer.response.headers(), "content-type");
            let body = answer.response.into_body();
            let bytes = match read_all(body, MAX_DOCUMENT, &host, hurry.until) {
                Ok(bytes) => bytes,
                Err(error) if is_resumable(&error) && hurry.wait(None) => continue,
                Err(error) => {
                    return Err(Fail::network(format!("getting {asked}: {error}")).into());
                }
            };
            let digest = Digest::of(&bytes);
            if let Wanted::Digest(expected) = wanted
                && digest != *expected
            {
                return Err(Fail::corrupt(format!(
                    "`{host}` delivers something else than {asked}: its digest is {digest}"
                ))
                .into());
            }
            return Ok(Fetched {
                bytes,
                media_type,
                digest,
            });
        }
    }

    /// Begins to fetch a blob at `offset`, which is less than its size.
    ///
    /// # Errors
    /// [`crate::error::Kind`] `NotFound`, `Denied`, `Network`, or `Corrupt` when the server has another size.
    /// Later errors come from the stream: see [`is_resumable`].
    pub fn blob(&self, repository: &str, blob: &Descriptor, offset: u64) -> Result<BlobStream> {
        let asked = format!("blob {} of `{repository}`", blob.digest);
        let path = format!("{repository}/blobs/{}", blob.digest);
        let mut question = Question::default();
        if offset > 0 {
            question.headers.push(("range", format!("bytes={offset}-")));
        }
        let mut hurry = Hurry::new(self.patience);
        let answer = self
            .fetch(Access::Pull(repository), &path, &question, &mut hurry)
            .with_context(|| format!("getting {asked}"))?;
        let host = transport::host_of(&answer.uri);
        let begins = match answer.response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT if offset > 0 => {
                let range = header(answer.response.headers(), "content-range").unwrap_or_default();
                if range_start(&range) != Some(offset) {
                    return Err(Fail::corrupt(format!(
                        "`{host}` resumes {asked} at `{}` instead of {offset}",
                        range.escape_debug()
                    ))
                    .into());
                }
                offset
            }
            _ => {
                let access = Access::Pull(repository);
                return Err(self.refusal(answer, access, &asked, None).into());
            }
        };
        let remaining = blob.size.saturating_sub(begins);
        let body = answer.response.into_body();
        if let Some(length) = body.content_length()
            && length != remaining
        {
            return Err(Fail::corrupt(format!(
                "`{host}` has {length} bytes of {asked} where there must be {remaining}"
            ))
            .into());
        }
        Ok(BlobStream {
            offset: begins,
            body: BlobBody::new(body, remaining, host, self.patience.idle),
        })
    }

    /// Asks for `path` of the API, showing a pass when one is wanted. Any status is an answer.
    fn fetch(
        &self,
        access: Access<'_>,
        path: &str,
        question: &Question<'_>,
        hurry: &mut Hurry,
    ) -> Result<Answer> {
        let text = format!("{}://{}/v2/{path}", self.scheme()?, self.host);
        let uri: Uri = text
            .parse()
            .map_err(|_| Fail::usage(format!("`{}` is not an address", text.escape_debug())))?;
        self.fetch_at(access, &uri, question, hurry)
    }

    /// As [`Client::fetch`], where the registry itself said to what address.
    fn fetch_at(
        &self,
        access: Access<'_>,
        uri: &Uri,
        question: &Question<'_>,
        hurry: &mut Hurry,
    ) -> Result<Answer> {
        let mut question = question.clone();
        question.authorization = lock(&self.passes)
            .get(&access.scope())
            .filter(|shown| shown.pass.is_fresh())
            .map(|shown| shown.pass.header.clone());
        // Twice: the pass at hand may have been withdrawn.
        for _ in 0..2 {
            let answer = self.patiently(uri, &question, hurry)?;
            if answer.response.status() != StatusCode::UNAUTHORIZED || answer.moved {
                return Ok(answer);
            }
            let fields = answer.response.headers().get_all("www-authenticate");
            let Some(challenge) =
                Challenge::best(fields.iter().filter_map(|field| field.to_str().ok()))
            else {
                return Ok(answer);
            };
            let refused = question.authorization.as_deref();
            match self.authorize(access, &challenge, refused, hurry)? {
                Some(header) => question.authorization = Some(header),
                None => return Ok(answer),
            }
        }
        self.patiently(uri, &question, hurry).map_err(Into::into)
    }

    /// Asks until there is an answer that will not change by asking again, or patience ends.
    fn patiently(
        &self,
        uri: &Uri,
        question: &Question<'_>,
        hurry: &mut Hurry,
    ) -> Result<Answer, Fail> {
        // How much of a blob arrived must be asked first: see `upload`.
        let once = matches!(question.content, Content::Part(_));
        loop {
            match self.transport.ask(uri, question) {
                Ok(answer) if once => return Ok(answer),
                Ok(answer) => {
                    let pause = match answer.response.status().as_u16() {
                        429 | 503 => retry_after(answer.response.headers()),
                        500 | 502 | 504 => None,
                        _ => return Ok(answer),
                    };
                    if !hurry.wait(pause) {
                        return Ok(answer);
                    }
                }
                Err(trouble) if trouble.again && !once && hurry.wait(None) => {}
                Err(trouble) => return Err(trouble.fail),
            }
        }
    }

    /// `https`, unless this registry may speak plain HTTP and does.
    fn scheme(&self) -> Result<&'static str, Fail> {
        let mut scheme = lock(&self.scheme);
        if let Some(known) = *scheme {
            return Ok(known);
        }
        let address = format!("https://{}/v2/", self.host);
        let uri: Uri = address
            .parse()
            .map_err(|_| Fail::usage(format!("`{address}` is not an address")))?;
        let found = if self.transport.may_be_plain(&uri) {
            match self.transport.speaks_tls(&uri) {
                Ok(true) => "https",
                Ok(false) => "http",
                // Nobody at port 443: perhaps at 80.
                Err(_) if uri.port().is_none() => "http",
                Err(trouble) => return Err(trouble.fail),
            }
        } else {
            "https"
        };
        *scheme = Some(found);
        Ok(found)
    }

    fn note(&self, text: String) {
        let mut notes = lock(&self.notes);
        if !notes.contains(&text) {
            notes.push(text);
        }
    }

    /// What a status other than success means.
    fn refusal(
        &self,
        answer: Answer,
        access: Access<'_>,
        asked: &str,
        wanted: Option<Wanted<'_>>,
    ) -> Fail {
        let status = answer.response.status();
        let host = transport::host_of(&answer.uri);
        let pause = retry_after(answer.response.headers());
        let until = Instant::now() + Duration::from_secs(10);
        let body = answer.response.into_body();
        let bytes = read_all(body, MAX_SMALL, &host, until).unwrap_or_default(); // the status says enough
        let told = told(status, &bytes);
        let source = lock(&self.passes)
            .get(&access.scope())
            .and_then(|shown| shown.source.clone());
        let registry = &self.registry;
        let repository = access.repository();
        match status.as_u16() {
            401 | 403 if !answer.moved => {
                let fail = Fail::denied(match &source {
                    _ if !matches!(access, Access::Pull(_)) => {
                        format!("{registry} does not let us {asked} ({told})")
                    }
                    None => format!(
                        "{registry} has no public image `{repository}`: it does not exist, or needs a login ({told})"
                    ),
                    Some(_) => format!("{registry} does not let us have {asked} ({told})"),
                });
                self.login_hints(fail, source.as_deref())
            }
            404 if !answer.moved && matches!(access, Access::Pull(_)) => {
                let unknown_name = codes(&bytes).iter().any(|code| code == "NAME_UNKNOWN");
                let what = match wanted {
                    _ if unknown_name => format!("image `{repository}`"),
                    None => asked.to_owned(),
                    Some(Wanted::Tag(tag)) => format!("tag `{tag}` of `{repository}`"),
                    Some(Wanted::Digest(digest)) => format!("`{repository}@{digest}`"),
                };
                Fail::not_found(format!("{registry} has no {what}"))
                    .hint("check the spelling of name and tag")
                    .code("RL-I03")
            }
            429 => {
                let fail = Fail::network(format!("{registry} has had too many requests ({told})"));
                let fail = match pause {
                    Some(pause) => fail.hint(format!("try again in {} s", pause.as_secs())),
                    None => fail.hint("try again later"),
                };
                self.login_hints(fail, None)
            }
            416 => Fail::corrupt(format!("`{host}` has less of {asked} than it should")),
            _ if !matches!(access, Access::Pull(_)) => {
                Fail::network(format!("`{host}` answers {told} when we {asked}")).code("RL-I03")
            }
            _ => Fail::network(format!("`{host}` answers {told} when asked for {asked}"))
                .code("RL-I03"),
        }
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// Seconds or a date. Source: RFC 9110, section 10.2.3.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = header(headers, "retry-after")?;
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    let seconds = date.timestamp().as_second() - jiff::Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// `bytes 5-9/10` → 5. Source: RFC 9110, section 14.4.
fn range_start(text: &str) -> Option<u64> {
    let range = text.trim().strip_prefix("bytes")?.trim_start();
    range.split_once('-')?.0.parse().ok()
}
