//! One HTTP request and its answer: connections, time limits, redirects.
//!
//! Knows nothing of images. Whom TLS trusts is in `trust`, which way out in `proxy`; what went wrong on the
//! way is told in words in `trouble`.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ureq::http::{Method, Request, Response, Uri};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, AsSendBody as _, Body, RequestExt as _, SendBody};

use super::proxy::{self, Proxies};
use super::trouble::{self, Trouble};
use super::trust::{self, Tls};
use crate::error::Fail;
use crate::image::resolver::{Resolver, is_localhost};

/// A connection, with name look-up, proxy and TLS, must stand within this.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// After an upload: object stores put a large blob together before they answer.
const COMMIT_LIMIT: Duration = Duration::from_secs(300);
/// A server must say something within this.
pub const IDLE_LIMIT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: u32 = 5;

/// What is asked of a server.
#[derive(Debug, Clone, Default)]
pub struct Question<'q> {
    /// GET by default.
    pub method: Method,
    /// Header fields that go wherever redirects lead.
    pub headers: Vec<(&'static str, String)>,
    /// `Authorization`, which goes to the first server only.
    pub authorization: Option<String>,
    /// What is sent along.
    pub content: Content<'q>,
}

/// What a request brings to a server.
#[derive(Debug, Clone, Default)]
pub enum Content<'q> {
    /// Nothing, as with every GET, HEAD and DELETE.
    #[default]
    None,
    /// A form with secrets, which follows no redirect.
    Form(String),
    /// All of this.
    Bytes(&'q [u8]),
    /// A part of a file, which can be sent again.
    Part(Part<'q>),
}

/// A part of a file.
#[derive(Clone, Copy)]
pub struct Part<'q> {
    /// Read without moving its position.
    pub file: &'q File,
    /// Where the part begins.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Told how many bytes went out, each time some did.
    pub sent: &'q (dyn Fn(u64) + Sync),
}

impl std::fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part({} bytes from {})", self.length, self.offset)
    }
}

/// A [`Part`] on its way.
struct Sending<'q>(Part<'q>);

impl Read for Sending<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.0.length).unwrap_or(usize::MAX);
        let end = buffer.len().min(most);
        let count = self.0.file.read_at(&mut buffer[..end], self.0.offset)?;
        if count == 0 && end > 0 {
            // Nobody of ours shortens a file of the store.
            return Err(std::io::Error::other(Fail::corrupt(
                "a file of the store became shorter while it was sent",
            )));
        }
        self.0.offset += count as u64;
        self.0.length -= count as u64;
        (self.0.sent)(count as u64);
        Ok(count)
    }
}

/// Connections to one registry and wherever it sends us. Shared by threads.
#[derive(Debug)]
pub struct Transport {
    /// `host[:port]` as the user says it: the name of the directories in `certs.d`.
    registry: String,
    /// The user said that neither TLS nor its certificates matter for this registry.
    insecure: bool,
    proxies: Proxies,
    /// In place of those directories.
    cert_dir: Option<PathBuf>,
    agents: Mutex<HashMap<(Tls, Option<String>), Agent>>,
    resolver: Resolver,
}

impl Transport {
    /// No connection is made yet.
    #[must_use]
    pub fn new(
        registry: &str,
        insecure: bool,
        proxies: Proxies,
        cert_dir: Option<PathBuf>,
    ) -> Self {
        Self {
            registry: registry.to_owned(),
            insecure,
            proxies,
            cert_dir,
            agents: Mutex::default(),
            resolver: Resolver::default(),
        }
    }

    /// Whether plain HTTP to `uri` is acceptable on behalf of this registry.
    #[must_use]
    pub fn may_be_plain(&self, uri: &Uri) -> bool {
        // A foreign registry has no business with our own machine's ports.
        let own = self.registry.parse::<Uri>().ok();
        let at_home = own.is_some_and(|own| is_loopback(&own));
        self.insecure || (at_home && is_loopback(uri))
    }

    /// Whether the server at `uri` speaks TLS, by trying. Certificates do not matter here.
    ///
    /// # Errors
    /// When there is no server.
    pub fn speaks_tls(&self, uri: &Uri) -> Result<bool, Trouble> {
        match self.one(uri, &Question::default(), Some(Tls::Unverified)) {
            Ok(_) => Ok(true),
            Err(trouble) if trouble.not_tls => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }

    /// Asks, and follows redirects. Every status but those of redirects is an answer.
    ///
    /// # Errors
    /// When no answer came, or a redirect leads where it must not.
    pub fn ask(&self, uri: &Uri, question: &Question<'_>) -> Result<Answer, Trouble> {
        let mut at = uri.clone();
        let mut question = question.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.one(&at, &question, None)?;
            let location = response.headers().get("location");
            let (true, Some(location)) = (response.status().is_redirection(), location) else {
                return Ok(Answer {
                    moved: origin(&at) != origin(uri),
                    uri: at,
                    response,
                });
            };
            if matches!(question.content, Content::Form(_)) {
                return Err(Trouble::lasting(bad_redirect(&at, "a form with a secret")));
            }
            // The others would turn it into a GET. Source: RFC 9110, section 15.4.
            if !matches!(question.method, Method::GET | Method::HEAD)
                && !matches!(response.status().as_u16(), 307 | 308)
            {
                let what = format!("an upload by status {}", response.status().as_u16());
                return Err(Trouble::lasting(bad_redirect(&at, &what)));
            }
            let next = location
                .to_str()
                .ok()
                .and_then(|location| join(&at, location))
                .ok_or_else(|| Trouble::lasting(bad_redirect(&at, "an address that is none")))?;
            if next.scheme_str() != Some("https") && !self.may_be_plain(&next) {
                return Err(Trouble::lasting(
                    bad_redirect(&at, &format!("plain HTTP at `{}`", host_of(&next)))
                        .code("RL-I03"),
                ));
            }
            // Never to another server, and not back again either.
            if origin(&next) != origin(&at) {
                question.authorization = None;
            }
            at = next;
        }
        Err(Trouble::lasting(Fail::network(format!(
            "`{}` redirects more than {MAX_REDIRECTS} times",
            host_of(uri)
        ))))
    }

    fn one(
        &self,
        uri: &Uri,
        question: &Question<'_>,
        tls: Option<Tls>,
    ) -> Result<Response<Body>, Trouble> {
        let encrypted = uri.scheme_str() == Some("https");
        let tls = tls.unwrap_or(match (encrypted, self.insecure) {
            (false, _) => Tls::Off,
            (true, false) => Tls::Verified,
            (true, true) => Tls::Unverified,
        });
        let proxy = self.proxies.for_uri(uri);
        let agent = self.agent(tls, proxy).map_err(Trouble::lasting)?;
        let explain = |error| trouble::explain(error, uri, &self.registry, proxy);
        let mut request = Request::builder()
            .method(question.method.clone())
            .uri(uri.clone());
        for (name, value) in &question.headers {
            request = request.header(*name, value);
        }
        if let Some(authorization) = &question.authorization {
            request = request.header("authorization", authorization);
        }
        let run = |request: ureq::http::request::Builder, body: SendBody<'_>| {
            let request = request.body(body).map_err(|error| explain(error.into()))?;
            let limit = match question.content {
                Content::None | Content::Form(_) => IDLE_LIMIT,
                Content::Bytes(_) | Content::Part(_) => COMMIT_LIMIT,
            };
            request
                .with_agent(&agent)
                .configure()
                .timeout_recv_response(Some(limit))
                .build()
                .run()
                .map_err(explain)
        };
        match &question.content {
            Content::None => run(request, SendBody::none()),
            Content::Form(form) => {
                let mut form = form.as_str();
                run(
                    request.header("content-type", "application/x-www-form-urlencoded"),
                    form.as_body(),
                )
            }
            Content::Bytes(bytes) => {
                let mut bytes = *bytes;
                run(request, bytes.as_body())
            }
            Content::Part(part) => {
                let length = part.length;
                let mut sending = Sending(*part);
                run(
                    request.header("content-length", length),
                    SendBody::from_reader(&mut sending),
                )
            }
        }
    }

    fn agent(&self, tls: Tls, proxy: Option<&str>) -> Result<Agent, Fail> {
        let key = (tls, proxy.map(str::to_owned));
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let proxy = match proxy {
            None => None,
            Some(text) => Some(proxy::parse(text)?),
        };
        let dirs = match &self.cert_dir {
            Some(dir) => vec![dir.clone()],
            None => trust::certificate_dirs(&self.registry),
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("rl/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .proxy(proxy)
            .tls_config(trust::config(tls, &dirs)?)
            .timeout_resolve(Some(CONNECT_LIMIT))
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_recv_response(Some(IDLE_LIMIT))
            .timeout_per_read(Some(IDLE_LIMIT))
            .timeout_per_write(Some(IDLE_LIMIT))
            .max_idle_connections_per_host(8)
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::new(), self.resolver.clone());
        agents.insert(key, agent.clone());
        Ok(agent)
    }
}

/// An answer and where it came from.
#[derive(Debug)]
pub struct Answer {
    /// Status, header fields and body.
    pub response: Response<Body>,
    /// The server that answered in the end.
    pub uri: Uri,
    /// Another server than the one that was asked.
    pub moved: bool,
}

fn bad_redirect(from: &Uri, whither: &str) -> Fail {
    Fail::network(format!("`{}` redirects to {whither}", host_of(from)))
}

/// `host[:port]`
#[must_use]
pub fn host_of(uri: &Uri) -> String {
    uri.authority().map_or_else(
        || uri.to_string(),
        |authority| {
            // Without user and password, should a redirect have brought them.
            let text = authority.as_str();
            text.rsplit_once('@')
                .map_or(text, |(_, host)| host)
                .to_owned()
        },
    )
}

/// Scheme, host and port: what is the same server.
fn origin(uri: &Uri) -> (Option<String>, Option<String>, u16) {
    let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
        Some("http") => 80,
        _ => 443,
    });
    (
        uri.scheme_str().map(str::to_ascii_lowercase),
        uri.host().map(str::to_ascii_lowercase),
        port,
    )
}

/// Whether the host is this machine, by its name alone.
#[must_use]
pub fn is_loopback(uri: &Uri) -> bool {
    let Some(host) = uri.host() else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => is_localhost(host),
    }
}

/// Where `location` leads from `base`. Source: RFC 3986, section 5.2; paths are not tidied.
#[must_use]
pub fn join(base: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let text = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{scheme}://{authority}{dir}/{location}")
    };
    let uri: Uri = text.parse().ok()?;
    uri.host()?;
    matches!(uri.scheme_str(), Some("http" | "https")).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn redirects_are_joined_to_where_they_come_from() {
        let base = uri("https://a.org:5000/v2/x/blobs/1?q");
        for (location, expected) in [
            ("https://b.org/y?z=1", Some("https://b.org/y?z=1")),
            ("//b.org/y", Some("https://b.org/y")),
            ("/y", Some("https://a.org:5000/y")),
            ("y", Some("https://a.org:5000/v2/x/blobs/y")),
            ("?y", Some("https://a.org:5000/v2/x/blobs/1?y")),
            ("http:///y", None),
            ("https://b org/", None),
        ] {
            let joined = join(&base, location).map(|uri| uri.to_string());
            assert_eq!(joined.as_deref(), expected, "{location}");
        }
        assert_eq!(
            origin(&uri("https://A.org/x")),
            origin(&uri("https://a.org:443/"))
        );
        assert_ne!(
            origin(&uri("http://a.org/")),
            origin(&uri("https://a.org/"))
        );
    }

    #[test]
    fn plain_http_is_for_this_machine_and_for_whom_the_user_named() {
        for (registry, insecure, target, expected) in [
            ("localhost:5000", false, "http://localhost:5000/", true),
            ("127.1.2.3", false, "http://[::1]:9/", true),
            ("[::1]:5000", false, "http://127.0.0.1/", true),
            ("localhost", false, "http://x.org/", false),
            ("x.org", false, "http://x.org/", false),
            ("x.org", false, "http://localhost/", false),
            ("x.org", true, "http://x.org/", true),
            ("localhost.x.org", false, "http://localhost.x.org/", false),
        ] {
            let transport = Transport::new(registry, insecure, Proxies::default(), None);
            assert_eq!(
                transport.may_be_plain(&uri(target)),
                expected,
                "{registry} {target}"
            );
        }
    }
}
