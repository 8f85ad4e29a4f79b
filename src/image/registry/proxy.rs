//! Ways out: which proxy leads to which server, as the environment says.

use std::net::IpAddr;

use ureq::Proxy;
use ureq::http::Uri;

use super::transport::is_loopback;
use crate::error::Fail;

/// Proxies as the environment has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// Hosts that are reached directly, separated by commas.
    pub none: String,
}

impl Proxies {
    /// From `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in small letters or capitals.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name: &str| {
            [name.to_owned(), name.to_ascii_uppercase()]
                .iter()
                .filter_map(|name| std::env::var(name).ok()) // what is not text is no proxy
                .find(|value| !value.is_empty())
        };
        let all = variable("all_proxy");
        Self {
            http: variable("http_proxy").or_else(|| all.clone()),
            https: variable("https_proxy").or(all),
            none: variable("no_proxy").unwrap_or_default(),
        }
    }

    /// The proxy on the way to `uri`; none for this machine itself.
    #[must_use]
    pub fn for_uri(&self, uri: &Uri) -> Option<&str> {
        let (proxy, default_port) = match uri.scheme_str() {
            Some("http") => (&self.http, 80),
            _ => (&self.https, 443),
        };
        let host = uri.host()?;
        let port = uri.port_u16().unwrap_or(default_port);
        if is_loopback(uri) || is_listed(&self.none, host, port) {
            return None;
        }
        proxy.as_deref()
    }
}

/// `no_proxy` as Go reads it: `*`, addresses, networks, names with all below them, `.below-only`, `:port`.
fn is_listed(list: &str, host: &str, port: u16) -> bool {
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .trim_end_matches('.')
        .to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok();
    list.split(',').map(str::trim).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        if entry.is_empty() {
            return false;
        }
        if entry == "*" {
            return true;
        }
        if let Some((network, bits)) = entry.split_once('/') {
            return match (network.parse(), bits.parse(), address) {
                (Ok(network), Ok(bits), Some(address)) => is_in(address, network, bits),
                _ => false,
            };
        }
        let bare = entry.trim_start_matches('[').trim_end_matches(']');
        if let Ok(listed) = bare.parse::<IpAddr>() {
            return address == Some(listed);
        }
        let (name, wanted) = match entry.rsplit_once(':') {
            Some((name, wanted)) => (name, wanted.parse::<u16>().ok()),
            None => (entry.as_str(), Some(port)),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let matches = match name.strip_prefix("*.").or_else(|| name.strip_prefix('.')) {
            Some(above) => host
                .strip_suffix(above)
                .is_some_and(|rest| rest.ends_with('.')),
            None => {
                host == name
                    || host
                        .strip_suffix(name)
                        .is_some_and(|rest| rest.ends_with('.'))
            }
        };
        matches && wanted == Some(port)
    })
}

fn is_in(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

/// Reads the address of a proxy.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] for SOCKS, [`crate::error::Kind::Usage`] for what is none.
pub fn parse(text: &str) -> Result<Proxy, Fail> {
    let shown = without_login(text);
    if text.starts_with("socks") {
        return Err(Fail::unsupported(format!(
            "the proxy `{shown}` speaks SOCKS, which `rl` does not"
        ))
        .hint("set https_proxy to an HTTP proxy, or unset it")
        .code("RL-N06"));
    }
    Proxy::new(text).map_err(|_| {
        Fail::usage(format!("`{shown}` is not the address of a proxy"))
            .hint("https_proxy and http_proxy are written as http://HOST:PORT")
            .code("RL-N06")
    })
}

/// For messages: the address without user and password.
#[must_use]
pub fn without_login(proxy: &str) -> String {
    match proxy.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            if scheme.is_empty() {
                host.to_owned()
            } else {
                format!("{scheme}://{host}")
            }
        }
        None => proxy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        for (list, host, expected) in [
            ("", "x.org", false),
            ("*", "x.org", true),
            ("x.org", "x.org", true),
            ("x.org", "a.x.org", true),
            ("x.org", "ax.org", false),
            (".x.org", "x.org", false),
            (".x.org", "a.x.org", true),
            ("*.x.org", "a.x.org", true),
            ("y.org, X.org", "x.org", true),
            ("x.org:443", "x.org", true),
            ("x.org:80", "x.org", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.0.0.0/33", "10.1.2.3", false),
            ("0.0.0.0/0", "11.1.2.3", true),
            ("fd00::/8", "[fd00::1]", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.10", false),
        ] {
            assert_eq!(is_listed(list, host, 443), expected, "{list} {host}");
        }
        let proxies = Proxies {
            https: Some("http://proxy:3128".to_owned()),
            ..Proxies::default()
        };
        assert_eq!(
            proxies.for_uri(&uri("https://x.org/")),
            Some("http://proxy:3128")
        );
        assert_eq!(proxies.for_uri(&uri("http://x.org/")), None);
        assert_eq!(proxies.for_uri(&uri("https://localhost:5000/")), None);
        assert_eq!(without_login("http://me:secret@proxy:1"), "http://proxy:1");
    }
}
