//! What an image says of the containers made from it, and how it fills what the user left open.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ContainerSpec, Health, Mount, MountSource, Port};

/// What an image's configuration says of the containers made from it.
/// Source: OCI image specification, config.md; docker's additions are kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// `Env`.
    pub env: Vec<String>,
    /// `Entrypoint`.
    pub entrypoint: Option<Vec<String>>,
    /// `Cmd`.
    pub command: Option<Vec<String>>,
    /// `User`.
    pub user: String,
    /// `WorkingDir`.
    pub cwd: String,
    /// `Volumes`: paths inside that get a volume of their own.
    pub volumes: Vec<String>,
    /// `StopSignal`.
    pub stop_signal: Option<String>,
    /// `Labels`.
    pub labels: BTreeMap<String, String>,
    /// `ExposedPorts`: `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// `Healthcheck`, when there is one.
    pub health: Option<Health>,
}

impl ContainerSpec {
    /// Takes from the image what the user left open, as docker does it.
    ///
    /// `Env` goes before the user's own; `Cmd` is dropped when the user gave an entry point.
    pub fn inherit(&mut self, image: &ImageDefaults) {
        let process = &mut self.process;
        if process.entrypoint.is_none() {
            process.entrypoint.clone_from(&image.entrypoint);
            if process.command.is_none() {
                process.command.clone_from(&image.command);
            }
        }
        let mut env = image.env.clone();
        env.append(&mut process.env);
        process.env = env;
        if process.user.is_empty() {
            process.user.clone_from(&image.user);
        }
        if process.cwd.is_empty() {
            process.cwd.clone_from(&image.cwd);
        }
        if self.stop_signal.is_empty() {
            self.stop_signal = image.stop_signal.clone().unwrap_or_default();
        }
        self.inherit_health(image.health.as_ref());
        for (key, value) in &image.labels {
            self.labels
                .entry(key.clone())
                .or_insert_with(|| value.clone());
        }
        // An image may name protocols that no helper carries; EXPOSE promises nothing.
        let exposed = image
            .exposed_ports
            .iter()
            .filter_map(|text| text.parse::<Port>().ok());
        self.expose.extend(exposed);
        self.expose.sort_unstable();
        self.expose.dedup();
        for target in &image.volumes {
            if self
                .mounts
                .iter()
                .any(|mount| mount.target.trim_end_matches('/') == target.trim_end_matches('/'))
            {
                continue;
            }
            let volume = MountSource::volume("");
            self.mounts.push(Mount::new(target.clone(), volume));
        }
    }

    fn inherit_health(&mut self, image: Option<&Health>) {
        let image = image.filter(|image| !image.none);
        if self.health.is_none() {
            self.health = image.cloned();
        }
        if let Some(health) = &mut self.health {
            health.fill(image.unwrap_or(&Health::default()));
        }
        self.health = self.health.take().filter(|health| !health.none);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::spec;

    fn words(text: &str) -> Option<Vec<String>> {
        Some(text.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn the_image_fills_what_the_user_left_open() {
        let image = ImageDefaults {
            env: vec!["A=image".to_owned()],
            entrypoint: words("/entry"),
            command: words("default args"),
            user: "app".to_owned(),
            ..ImageDefaults::default()
        };
        for (entrypoint, command, args) in [
            (None, None, "/entry default args"),
            (None, words("mine"), "/entry mine"),
            (words("/other"), None, "/other"),
            (words("/other"), words("mine"), "/other mine"),
            (words(""), words("mine"), "mine"),
        ] {
            let mut spec = spec();
            spec.process.entrypoint = entrypoint;
            spec.process.command = command;
            spec.process.env = vec!["A=mine".to_owned()];
            spec.inherit(&image);
            assert_eq!(spec.process.args().join(" "), args);
            assert_eq!(spec.process.env, ["A=image", "A=mine"]);
            assert_eq!(spec.process.user, "app");
        }
    }

    #[test]
    fn a_health_check_is_the_users_then_the_images_then_dockers() {
        let image = Health {
            command: vec!["image".to_owned()],
            timeout_ns: 7,
            ..Health::default()
        };
        let own = |command: &str, none| Health {
            command: words(command).unwrap_or_default(),
            none,
            interval_ns: 9,
            ..Health::default()
        };
        for (user, image, command) in [
            (None, None, None),
            (None, Some(&image), Some("image")),
            (Some(own("mine", false)), Some(&image), Some("mine")),
            (Some(own("", false)), Some(&image), Some("image")),
            (Some(own("", true)), Some(&image), None),
        ] {
            let mut spec = spec();
            let interval = user.as_ref().map_or(30_000_000_000, |_| 9);
            spec.health = user;
            spec.inherit_health(image);
            assert_eq!(
                spec.health
                    .as_ref()
                    .map(|health| health.command.join(" "))
                    .as_deref(),
                command
            );
            if let Some(health) = spec.health {
                let rest = (
                    health.interval_ns,
                    health.timeout_ns,
                    health.start_interval_ns,
                    health.retries,
                );
                assert_eq!(rest, (interval, 7, 5_000_000_000, 3));
            }
        }
        let mut nothing = spec();
        nothing.health = Some(own("", false));
        nothing.inherit_health(None);
        assert!(nothing.check().expect_err("refused").hints[0].contains("--health-cmd"));
    }
}
