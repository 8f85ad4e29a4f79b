//! `--http-proxy`: the caller's proxies for the program inside. Pure text to value.

use std::net::IpAddr;

use super::spec::Environment;

/// The caller's variables, podman's list of names.
pub fn variables(environment: &Environment<'_>) -> Vec<String> {
    let names = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy"];
    let names = names
        .into_iter()
        .flat_map(|name| [name.to_owned(), name.to_ascii_uppercase()]);
    names
        .filter_map(|name| {
            let value = environment
                .variable(&name)
                .filter(|value| !value.is_empty())?;
            Some(format!("{name}={value}"))
        })
        .collect()
}

/// One line for each proxy that listens on the host's loopback, which is another one inside.
pub fn unreachable(environment: &Environment<'_>) -> Vec<String> {
    let passed = variables(environment);
    let lines = passed.iter().filter_map(|entry| {
        let (name, value) = entry.split_once('=')?;
        let host = host(value)?;
        let is_loopback = host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        (is_loopback && !name.eq_ignore_ascii_case("no_proxy")).then(|| {
            format!("{name} leads to `{host}`, which is the container itself inside: --network host shares yours, --http-proxy=false passes none")
        })
    });
    lines.collect()
}

/// The host of `http://user:word@host:3128/`.
fn host(url: &str) -> Option<&str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next()?;
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    match authority.strip_prefix('[') {
        Some(six) => six.split(']').next(),
        None => authority.split(':').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::environment;
    use super::*;

    #[test]
    fn proxies_are_taken_along_and_those_on_loopback_named() {
        let mut world = environment();
        let set = [
            ("http_proxy", "http://me:x@127.0.0.1:3128/"),
            ("HTTPS_PROXY", "http://[::1]:3128"),
            ("ftp_proxy", "proxy.example:3128"),
            ("NO_PROXY", "localhost"),
            ("https_proxy", ""),
        ];
        world.variables = set
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
        assert_eq!(
            variables(&world),
            [
                "http_proxy=http://me:x@127.0.0.1:3128/",
                "HTTPS_PROXY=http://[::1]:3128",
                "ftp_proxy=proxy.example:3128",
                "NO_PROXY=localhost"
            ]
        );
        let lines = unreachable(&world);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("http_proxy leads to `127.0.0.1`"));
        assert!(lines[1].starts_with("HTTPS_PROXY leads to `::1`"));
        assert_eq!(host("localhost"), Some("localhost"));
    }
}
