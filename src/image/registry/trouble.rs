//! What can go wrong between us and a server, in words, with a way out.

use std::io::ErrorKind;

use serde::Deserialize;
use ureq::Timeout;
use ureq::http::{StatusCode, Uri};

use super::proxy::without_login;
use super::transport::{CONNECT_LIMIT, IDLE_LIMIT, host_of};
use super::trust::certificate_dirs;
use crate::error::Fail;

/// Why there is no answer.
#[derive(Debug)]
pub struct Trouble {
    /// For the user.
    pub fail: Fail,
    /// It may work when tried again.
    pub again: bool,
    /// The server is there, but does not speak TLS.
    pub not_tls: bool,
}

impl Trouble {
    /// Trying again will not help.
    #[must_use]
    pub fn lasting(fail: Fail) -> Self {
        Self {
            fail,
            again: false,
            not_tls: false,
        }
    }

    /// Trying again may help.
    #[must_use]
    pub fn passing(fail: Fail) -> Self {
        Self {
            again: true,
            ..Self::lasting(fail)
        }
    }
}

/// Says in words what went wrong on the way to `uri`.
#[must_use]
pub fn explain(error: ureq::Error, uri: &Uri, registry: &str, proxy: Option<&str>) -> Trouble {
    let host = host_of(uri);
    let whom = match proxy {
        None => format!("`{host}`"),
        Some(proxy) => format!("the proxy `{}` to `{host}`", without_login(proxy)),
    };
    if let ureq::Error::Rustls(error) = &error {
        return explain_tls(error, &host, registry);
    }
    if let ureq::Error::Io(error) = &error {
        return explain_io(error, uri, registry, proxy, &whom);
    }
    if let ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) = error {
        let limit = CONNECT_LIMIT.as_secs();
        // Where packets vanish, they vanish again: the user should know soon.
        return Trouble::lasting(no_route(&whom, &format!("no connection within {limit} s")));
    }
    if let ureq::Error::Timeout(_) = error {
        let limit = IDLE_LIMIT.as_secs();
        return Trouble::passing(
            Fail::network(format!("{whom} did not answer within {limit} s")).code("RL-N06"),
        );
    }
    if let ureq::Error::ConnectProxyFailed(why) = &error {
        return Trouble::lasting(
            Fail::network(format!("{whom} does not let us through: {why}"))
                .hint("check https_proxy and no_proxy")
                .code("RL-N06"),
        );
    }
    let text = error.to_string();
    if let ureq::Error::Other(inner) = error
        && let Ok(fail) = inner.downcast::<Fail>()
    {
        return Trouble::lasting(*fail); // the resolver's
    }
    Trouble::lasting(Fail::network(format!("{whom}: {text}")))
}

fn explain_io(
    error: &std::io::Error,
    uri: &Uri,
    registry: &str,
    proxy: Option<&str>,
    whom: &str,
) -> Trouble {
    if let Some(tls) = rustls_error(error) {
        return explain_tls(tls, &host_of(uri), registry);
    }
    let kind = error.kind();
    if kind == ErrorKind::ConnectionRefused {
        return Trouble::lasting(
            Fail::network(format!("{whom} refuses the connection"))
                .hint(match proxy {
                    None => "is the registry running, and is the port right?",
                    Some(_) => "check https_proxy and no_proxy",
                })
                .code("RL-N06"),
        );
    }
    if matches!(
        kind,
        ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable
    ) {
        return Trouble::lasting(no_route(whom, &format!("there is no route ({error})")));
    }
    Trouble {
        // With TLS a plain server may just hang up on what it takes for nonsense.
        not_tls: is_hang_up(kind) && uri.scheme_str() == Some("https"),
        again: is_passing(error),
        fail: Fail::network(format!("{whom} broke the connection off: {error}")).code("RL-N06"),
    }
}

fn no_route(whom: &str, what: &str) -> Fail {
    Fail::network(format!("cannot reach {whom}: {what}"))
        .hint("check the network of this machine, and https_proxy when it needs a proxy")
        .hint("a compute node without network? pull on the login node: the store is shared")
        .code("RL-N06")
}

fn explain_tls(error: &rustls::Error, host: &str, registry: &str) -> Trouble {
    use rustls::{CertificateError as Bad, Error};
    let trust = format!(
        "put the certificate of its authority into {}/ca.crt, or name it with SSL_CERT_FILE",
        certificate_dirs(registry)
            .first()
            .map_or_else(String::new, |dir| dir.display().to_string())
    );
    // What HTTP answers to TLS is no TLS record.
    if matches!(error, Error::InvalidMessage(_)) {
        return Trouble {
            fail: Fail::network(format!("`{host}` answers plain HTTP, not HTTPS"))
                .hint(format!(
                    "if you trust the network to it: --tls-verify=false, or RL_INSECURE_REGISTRIES={registry}"
                ))
                .code("RL-I03"),
            again: false,
            not_tls: true,
        };
    }
    if let Error::AlertReceived(
        rustls::AlertDescription::BadCertificate | rustls::AlertDescription::CertificateRequired,
    ) = error
    {
        let dir = certificate_dirs(registry);
        let dir = dir
            .first()
            .map_or_else(String::new, |dir| dir.display().to_string());
        return Trouble::lasting(
            Fail::denied(format!("`{host}` wants a client certificate that it knows"))
                .hint(format!("put it into {dir}: client.cert with client.key"))
                .code("RL-I03"),
        );
    }
    let Error::InvalidCertificate(bad) = error else {
        return Trouble::lasting(
            Fail::network(format!("no TLS connection to `{host}`: {error}")).code("RL-I03"),
        );
    };
    let fail = if *bad == Bad::UnknownIssuer {
        Fail::network(format!(
            "the certificate of `{host}` is from an unknown authority"
        ))
        .hint(trust)
    } else if matches!(
        bad,
        Bad::Expired
            | Bad::ExpiredContext { .. }
            | Bad::NotValidYet
            | Bad::NotValidYetContext { .. }
    ) {
        Fail::network(format!("the certificate of `{host}` is out of date: {bad}"))
            .hint("check this machine's clock; else the registry needs a new certificate")
    } else if matches!(
        bad,
        Bad::NotValidForName | Bad::NotValidForNameContext { .. }
    ) {
        Fail::network(format!(
            "the certificate of `{host}` is for another name: {bad}"
        ))
        .hint("use the name that the certificate is for")
    } else if bad.to_string().contains("CaUsedAsEndEntity") {
        Fail::network(format!(
            "the certificate of `{host}` is an authority's, which may only sign others"
        ))
        .hint("make one that is no authority's: openssl req -x509 … -addext basicConstraints=critical,CA:FALSE")
        .hint("for a test: --tls-verify=false")
    } else {
        Fail::network(format!("the certificate of `{host}` is not good: {bad}")).hint(trust)
    };
    Trouble::lasting(fail.code("RL-I03"))
}

fn is_hang_up(kind: ErrorKind) -> bool {
    kind == ErrorKind::UnexpectedEof
        || kind == ErrorKind::ConnectionReset
        || kind == ErrorKind::ConnectionAborted
        || kind == ErrorKind::BrokenPipe
}

/// Whether an error while reading a body is the network's, so that the rest can be asked for again.
#[must_use]
pub fn is_passing(error: &std::io::Error) -> bool {
    is_hang_up(error.kind()) || error.kind() == ErrorKind::TimedOut
}

fn rustls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// A registry's errors. Source: OCI distribution specification, "Error codes".
#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<OneError>,
    /// What token servers say.
    #[serde(default)]
    details: Option<String>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

fn errors(bytes: &[u8]) -> Errors {
    // Proxies and load balancers answer with web pages, which are of no use here.
    serde_json::from_slice(bytes).unwrap_or(Errors {
        errors: Vec::new(),
        details: None,
    })
}

/// The codes in a registry's answer, such as `NAME_UNKNOWN`.
#[must_use]
pub fn codes(bytes: &[u8]) -> Vec<String> {
    let errors = errors(bytes).errors.into_iter();
    errors.filter_map(|error| error.code).collect()
}

/// `404 Not Found: manifest unknown`
#[must_use]
pub fn told(status: StatusCode, bytes: &[u8]) -> String {
    let errors = errors(bytes);
    let messages: Vec<String> = errors
        .errors
        .into_iter()
        .filter_map(|error| error.message.or(error.code))
        .chain(errors.details)
        .filter(|message| !message.is_empty())
        .map(|message| {
            let message = message.trim().trim_end_matches('.');
            message.chars().take(200).collect::<String>()
        })
        .take(3)
        .collect();
    let messages: String = messages.join("; ").escape_debug().to_string();
    if messages.is_empty() {
        status.to_string()
    } else {
        format!("{status}: {messages}")
    }
}
