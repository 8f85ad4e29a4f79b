//! The registries that `scripts/test` started, and one of our own that can be told to lie.

use std::path::Path;

use super::Home;

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: checked by needs!(Need::Registry)"))
}

/// Address of the registry without encryption: it has `busybox`, and `alpine` where there is one.
pub fn plain() -> String {
    variable("RL_TEST_REGISTRY")
}

/// Address of the one with TLS, whose authority is [`authority`]. It has `busybox`.
pub fn tls() -> String {
    variable("RL_TEST_REGISTRY_TLS")
}

/// The certificate of the authority that signed for [`tls`].
pub fn authority() -> String {
    variable("RL_TEST_REGISTRY_CA")
}

/// Address of the one that wants `user` and `secret`. It has `private/busybox`.
pub fn auth() -> String {
    variable("RL_TEST_REGISTRY_AUTH")
}

/// A name in the plain registry that no other test uses.
pub fn fresh_name(home: &Home) -> String {
    let unique = home
        .path()
        .file_name()
        .expect("it has one")
        .to_string_lossy();
    let unique: String = unique
        .to_lowercase()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    format!("{}/t{unique}", plain())
}

/// Copies `tag` of an OCI layout to `name` by skopeo.
#[track_caller]
pub fn push(home: &Home, layout: &Path, tag: &str, name: &str, options: &[&str]) {
    home.program("skopeo".into())
        .args(["copy", "--quiet", "--dest-tls-verify=false"])
        .args(options)
        .arg(format!("oci:{}:{tag}", layout.display()))
        .arg(format!("docker://{name}"))
        .ok();
}
