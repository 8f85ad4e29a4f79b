//! An image's own configuration: what it was made for, how, and what its containers inherit. Pure data.
//!
//! Fields that nobody here knows are tolerated and dropped: the digest is over the bytes, which the store keeps.
//!
//! Sources: OCI image specification, config.md; docker's image specification v1.2 for what only docker has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::{Manifest, null_is_empty, read};
use super::platform::Platform;
use super::reference::Digest;
use crate::error::Fail;
use crate::spec::{Health, ImageDefaults};

/// What an image says of itself and of the containers made from it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// As in [`Platform`].
    #[serde(default)]
    pub architecture: String,
    /// As in [`Platform`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// As in [`Platform`].
    #[serde(default)]
    pub os: String,
    /// Windows builds only.
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// What containers get when nothing else is said.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub config: RunConfig,
    /// The layers by their content.
    pub rootfs: RootFs,
    /// How the layers came about, oldest first; may be missing.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<History>,
}

/// The part of [`ImageConfig`] that a container inherits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `name`, `uid`, `name:group`, `uid:gid`
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// `80/tcp` → nothing.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// First words of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command, or its arguments where there is an entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Path → nothing.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub volumes: BTreeMap<String, Empty>,
    /// Absolute path.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Notes.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM`, `15`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Docker: seconds until a container that is stopped is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u64>,
    /// Docker: is it well?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker: instructions for images built on this one.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub on_build: Vec<String>,
    /// Docker: what runs `RUN` and `CMD` lines that are text.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub shell: Vec<String>,
    /// Windows: the command is quoted already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
}

/// `{}`: the value in docker's sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

/// Docker's `HEALTHCHECK`. Times in nanoseconds; 0 stands for docker's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]`, `["CMD-SHELL", "text"]`; empty inherits.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// Longest for one check.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// Failures do not count before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// Between two checks in the start period.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u64,
}

impl Healthcheck {
    /// What an image says for a container to have this one. Docker's defaults are left out, and so is
    /// [`Health::NEVER`], for which it has no word.
    #[must_use]
    pub fn of(health: Option<&Health>, shell: &[String]) -> Self {
        let words = |kind: &str, rest: &[String]| -> Vec<String> {
            std::iter::once(kind.to_owned())
                .chain(rest.iter().cloned())
                .collect()
        };
        let Some(health) = health else {
            return Self {
                test: words("NONE", &[]),
                ..Self::default()
            };
        };
        let test = match health.command.split_last() {
            Some((line, _)) if shell_line(shell, line) == health.command => {
                words("CMD-SHELL", std::slice::from_ref(line))
            }
            _ => words("CMD", &health.command),
        };
        let mut defaults = Health::default();
        defaults.fill(&Health::default());
        let own = |time: u64, default: u64| {
            let is_said = time != default && time != Health::NEVER;
            if is_said { time } else { 0 }
        };
        Self {
            test,
            interval: own(health.interval_ns, defaults.interval_ns),
            timeout: own(health.timeout_ns, defaults.timeout_ns),
            start_period: own(health.start_period_ns, defaults.start_period_ns),
            start_interval: own(health.start_interval_ns, defaults.start_interval_ns),
            retries: own(health.retries.into(), defaults.retries.into()),
        }
    }

    /// What a container does of it; a line runs in the image's own shell.
    fn health(&self, shell: &[String]) -> Option<Health> {
        let (kind, words) = self.test.split_first()?;
        let command = match kind.as_str() {
            "CMD" => words.to_vec(),
            "CMD-SHELL" => shell_line(shell, &words.join(" ")),
            // `NONE`; docker runs nothing either for a word that it does not know.
            _ => return None,
        };
        Some(Health {
            command,
            none: false,
            interval_ns: self.interval,
            timeout_ns: self.timeout,
            start_period_ns: self.start_period,
            start_interval_ns: self.start_interval,
            retries: u32::try_from(self.retries).unwrap_or(u32::MAX),
        })
    }
}

/// The words that run a line in a shell; `/bin/sh` where none is named.
#[must_use]
pub fn shell_line(shell: &[String], line: &str) -> Vec<String> {
    let mut words = if shell.is_empty() {
        vec!["/bin/sh".to_owned(), "-c".to_owned()]
    } else {
        shell.to_vec()
    };
    words.push(line.to_owned());
    words
}

/// The layers by the digests of their unpacked tars.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Lowest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub diff_ids: Vec<Digest>,
}

/// One step of how an image came about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The step made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads the configuration of the image that `manifest` describes.
    ///
    /// # Errors
    /// [`crate::error::Kind::Corrupt`] when it is none, or has not one `diff_id` for each layer.
    pub fn parse(bytes: &[u8], manifest: &Manifest) -> Result<Self, Fail> {
        let config: Self = read(bytes, "the image's configuration")?;
        if config.rootfs.kind != "layers" {
            return Err(Fail::corrupt(format!(
                "the image's configuration has a root file system of the unknown type `{}`",
                config.rootfs.kind.escape_debug()
            )));
        }
        let (has, says) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if has != says {
            return Err(Fail::corrupt(format!(
                "the image has {has} layers, but its configuration says {says}"
            )));
        }
        Ok(config)
    }

    /// What the image was made for.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform::of(&self.os, &self.architecture, self.variant.as_deref()).normal()
    }

    /// What a container takes from the image.
    #[must_use]
    pub fn defaults(&self) -> ImageDefaults {
        let config = &self.config;
        ImageDefaults {
            env: config.env.clone(),
            entrypoint: config.entrypoint.clone(),
            command: config.cmd.clone(),
            user: config.user.clone(),
            cwd: config.working_dir.clone(),
            volumes: config.volumes.keys().cloned().collect(),
            stop_signal: config.stop_signal.clone().filter(|text| !text.is_empty()),
            labels: config.labels.clone(),
            exposed_ports: config.exposed_ports.keys().cloned().collect(),
            health: config
                .healthcheck
                .as_ref()
                .and_then(|check| check.health(&config.shell)),
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest;
    use serde_json::{Value, json};

    fn manifest() -> Manifest {
        let digest = Digest::of(b"").to_string();
        let value = json!({
            "schemaVersion": 2,
            "config": {"mediaType": manifest::OCI_CONFIG, "digest": digest, "size": 1},
            "layers": [{"mediaType": manifest::OCI_LAYER, "digest": digest, "size": 1}],
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_docker_configuration_is_read_whole() {
        let bytes = json!({
            "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
            "unknown": [1], "container_config": {"Cmd": null},
            "config": {
                "Hostname": "", "User": "app", "Env": ["A=b"], "Cmd": ["sh"], "Entrypoint": null,
                "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}}, "Labels": null,
                "OnBuild": null, "Shell": ["/bin/bash", "-c"], "ArgsEscaped": true, "StopSignal": "",
                "WorkingDir": "/srv",
                "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000},
            },
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"").to_string()]},
            "history": [{"created_by": "ADD x"}, {"created_by": "CMD sh", "empty_layer": true}],
        });
        let manifest = manifest();
        let config = ImageConfig::parse(bytes.to_string().as_bytes(), &manifest).unwrap();
        let defaults = config.defaults();
        assert_eq!(defaults.volumes, ["/data"]);
        assert_eq!(defaults.exposed_ports, ["80/tcp"]);
        assert_eq!(defaults.command, Some(vec!["sh".to_owned()]));
        assert_eq!(defaults.stop_signal, None);
        assert_eq!(defaults.health.unwrap().command, ["true"]);
        assert_eq!(config.platform().to_string(), "linux/amd64");
        assert_eq!(
            config.config.healthcheck.as_ref().unwrap().interval,
            1_000_000_000
        );
        let again = serde_json::to_vec(&config).unwrap();
        assert_eq!(ImageConfig::parse(&again, &manifest).unwrap(), config);

        let none = {
            let mut none = bytes.clone();
            none["rootfs"]["diff_ids"] = json!([]);
            none
        };
        let fail = ImageConfig::parse(none.to_string().as_bytes(), &manifest).expect_err("counts");
        assert!(
            fail.message.contains("1 layers") && fail.message.contains("says 0"),
            "{fail}"
        );
        let mut no_config = bytes;
        no_config["config"] = Value::Null;
        assert!(ImageConfig::parse(no_config.to_string().as_bytes(), &manifest).is_ok());
    }
}
