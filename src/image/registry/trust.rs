//! Whom TLS trusts.
//!
//! Certificates that are in the system's store or `SSL_CERT_FILE`, and for one registry those in
//! `certs.d/HOST[:PORT]/*.crt` where podman and docker look (containers-certs.d(5)), or in the place that the user names. All of it is read at
//! the first HTTPS connection that needs it, not before.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::error::Fail;

/// Whether and how connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tls {
    /// Not at all.
    Off,
    /// By a server whose certificate is good.
    Verified,
    /// By whatever server is there.
    Unverified,
}

/// How TLS is done with a registry whose own certificates are in `dirs`.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for a certificate that cannot be used, with its path.
pub fn config(tls: Tls, dirs: &[PathBuf]) -> Result<TlsConfig, Fail> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
    let builder = match tls {
        Tls::Off => return Ok(builder.build()),
        Tls::Unverified => builder.disable_verification(true),
        Tls::Verified => {
            let mut trusted = system_certificates()?;
            for dir in dirs {
                trusted.extend(own_certificates(dir)?);
            }
            if trusted.is_empty() {
                return Err(Fail::unsupported(
                    "this machine has no certificates to check registries with",
                )
                .hint("ask your administrator for the package `ca-certificates`")
                .hint("or name a file of your own with SSL_CERT_FILE")
                .code("RL-I03"));
            }
            builder.root_certs(RootCerts::new_with_certs(&trusted))
        }
    };
    let mut client = None;
    for dir in dirs {
        client = match client {
            None => client_certificate(dir)?,
            found => found,
        };
    }
    Ok(builder.client_cert(client).build())
}

/// The bundles of the distributions: one file is read in 1 ms, their directories of links in 3.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn system_certificates() -> Result<Vec<Certificate<'static>>, Fail> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    certificates_of(
        variable("SSL_CERT_FILE").as_deref(),
        variable("SSL_CERT_DIR").as_deref(),
    )
}

fn certificates_of(
    file: Option<&Path>,
    dir: Option<&Path>,
) -> Result<Vec<Certificate<'static>>, Fail> {
    let bundle = BUNDLES.iter().map(Path::new).find(|path| path.is_file());
    let loaded = match (file, dir, bundle) {
        (None, None, Some(bundle)) => {
            rustls_native_certs::load_certs_from_paths(Some(bundle), None)
        }
        (None, None, None) => rustls_native_certs::load_native_certs(),
        (file, dir, _) => rustls_native_certs::load_certs_from_paths(file, dir),
    };
    // A file that the user named must be there, even if others are.
    let missing = file.filter(|file| !file.is_file());
    let empty = file.or(dir).filter(|_| loaded.certs.is_empty());
    if let Some(own) = missing.or(empty) {
        let why = loaded.errors.first().map(ToString::to_string);
        return Err(Fail::usage(format!(
            "SSL_CERT_FILE or SSL_CERT_DIR is `{}`, where no certificate can be read: {}",
            own.display(),
            why.unwrap_or_else(|| "there is none".to_owned())
        ))
        .code("RL-I03"));
    }
    Ok(loaded
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect())
}

/// Where podman and docker look, the user's own first.
#[must_use]
pub fn certificate_dirs(registry: &str) -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| home.join(".config")));
    config
        .map(|config| config.join("containers/certs.d"))
        .into_iter()
        .chain([
            PathBuf::from("/etc/containers/certs.d"),
            PathBuf::from("/etc/docker/certs.d"),
        ])
        .map(|dir| dir.join(registry))
        .collect()
}

fn files_ending(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new(); // the usual case: nobody made it
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == ending)
        })
        .collect();
    files.sort();
    files
}

fn bad_certificate(path: &Path, why: &str) -> Fail {
    Fail::usage(format!(
        "cannot use the certificate `{}`: {why}",
        path.display()
    ))
    .hint("it must be a PEM file, `-----BEGIN CERTIFICATE-----`")
    .code("RL-I03")
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Fail> {
    let bytes = std::fs::read(path).map_err(|error| bad_certificate(path, &error.to_string()))?;
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(&bytes) {
        match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(bad_certificate(path, &error.to_string())),
        }
    }
    if certificates.is_empty() {
        return Err(bad_certificate(path, "there is none in it"));
    }
    Ok(certificates)
}

fn own_certificates(dir: &Path) -> Result<Vec<Certificate<'static>>, Fail> {
    let mut certificates = Vec::new();
    for path in files_ending(dir, "crt") {
        certificates.extend(read_certificates(&path)?);
    }
    Ok(certificates)
}

/// `NAME.cert` with `NAME.key`: who we are to the registry's TLS.
fn client_certificate(dir: &Path) -> Result<Option<ClientCert>, Fail> {
    let Some(path) = files_ending(dir, "cert").into_iter().next() else {
        return Ok(None);
    };
    let key_path = path.with_extension("key");
    let bytes =
        std::fs::read(&key_path).map_err(|error| bad_certificate(&key_path, &error.to_string()))?;
    let key = PrivateKey::from_pem(&bytes)
        .map_err(|error| bad_certificate(&key_path, &error.to_string()))?;
    let certificates = read_certificates(&path)?;
    check_pair(&certificates, &bytes).map_err(|error| {
        Fail::usage(format!(
            "cannot use the certificate `{}` with the key `{}`: {error}",
            path.display(),
            key_path.display()
        ))
        .hint("they must belong together, and the certificate be of X.509 version 3")
        .code("RL-I03")
    })?;
    Ok(Some(ClientCert::new_with_certs(&certificates, key)))
}

/// Whether TLS can be spoken with them: ureq takes for granted that it can, and would panic.
fn check_pair(certificates: &[Certificate<'_>], key: &[u8]) -> Result<(), rustls::Error> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = certificates
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der().to_vec()))
        .collect();
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_client_auth_cert(chain, key)
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_certificates_is_read_and_a_broken_one_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            own_certificates(&dir.path().join("none"))
                .unwrap()
                .is_empty()
        );
        std::fs::write(dir.path().join("ca.crt"), "no certificate").unwrap();
        std::fs::write(dir.path().join("README"), "x").unwrap();
        let fail = own_certificates(dir.path()).expect_err("broken");
        assert!(fail.message.contains("ca.crt"), "{fail}");
    }

    #[test]
    fn a_certificate_file_that_the_user_named_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing.pem");
        for (file, dir) in [
            (Some(&*missing), None),
            (Some(&*missing), Some(Path::new("/etc/ssl/certs"))),
            (None, Some(dir.path())),
        ] {
            let fail = certificates_of(file, dir).expect_err("nothing there");
            assert!(fail.message.contains("SSL_CERT"), "{fail}");
        }
    }
}
