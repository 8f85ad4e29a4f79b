//! Capabilities, system calls, hidden paths, limits and kernel parameters: flags to the spec.
//!
//! Says what is confined, never how: that is `stage::confine`.

use std::collections::BTreeMap;
use std::path::Path;

use super::values::{boolean, glob};
use super::{Environment, RunArgs};
use crate::error::Fail;
use crate::spec::{Confinement, Namespace, Namespaces, Network, RootEmulation, Seccomp, is_of_ipc};
use crate::stage::confine;

pub fn confinement(
    args: &RunArgs,
    environment: &Environment<'_>,
    namespaces: &Namespaces,
    network: &Network,
) -> Result<Confinement, Fail> {
    let mut confinement = Confinement {
        privileged: args.privileged,
        capabilities: confine::resolve(
            &words(&args.cap_add),
            &words(&args.cap_drop),
            args.privileged,
        )?,
        oom_score_adj: args.oom_score_adj,
        root_emulation: root_emulation(args.root_emulation.as_deref())?,
        sysctls: sysctls(args, namespaces, network)?,
        ..Confinement::default()
    };
    if args.privileged {
        confinement.seccomp = Seccomp::Unconfined;
    } else {
        confinement.masked_paths = environment.masked_paths.clone();
        confinement.read_only_paths = confine::DEFAULT_READ_ONLY_PATHS.map(str::to_owned).to_vec();
    }
    if let Some(score) = args.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return Err(Fail::usage(format!(
            "--oom-score-adj {score} is not in -1000…1000"
        )));
    }
    for text in &args.ulimit {
        let limit = confine::parse_ulimit(text)?;
        confinement.rlimits.retain(|known| known.name != limit.name);
        confinement.rlimits.push(limit);
    }
    for option in &args.security_opt {
        security_option(&mut confinement, option, environment).map_err(|fail| Fail {
            message: format!("--security-opt `{option}`: {}", fail.message),
            ..fail
        })?;
    }
    Ok(confinement)
}

fn root_emulation(text: Option<&str>) -> Result<RootEmulation, Fail> {
    match text {
        None | Some("auto") => Ok(RootEmulation::Auto),
        Some("basic") => Ok(RootEmulation::Basic),
        Some("full") => Ok(RootEmulation::Full),
        Some("off") => Ok(RootEmulation::Off),
        Some(other) => Err(
            Fail::usage(format!("--root-emulation `{other}` is not known"))
                .hint("known are auto, basic, full and off"),
        ),
    }
}

/// `--cap-add A,B` as podman takes it.
fn words(list: &[String]) -> Vec<String> {
    list.iter()
        .flat_map(|text| text.split(','))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn security_option(
    confinement: &mut Confinement,
    option: &str,
    environment: &Environment<'_>,
) -> Result<(), Fail> {
    // Docker's old separator is still read.
    let (key, value) = option
        .split_once(['=', ':'])
        .map_or((option, None), |(key, value)| (key, Some(value)));
    let given = || {
        value
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Fail::usage(format!("`{key}` needs a value")))
    };
    match key {
        "no-new-privileges" => {
            confinement.no_new_privileges = value.map_or(Ok(true), boolean).map_err(Fail::usage)?;
        }
        "seccomp" => {
            confinement.seccomp = match given()? {
                "unconfined" => Seccomp::Unconfined,
                "builtin" | "default" => Seccomp::Default,
                path => seccomp_profile(path, environment)?,
            };
        }
        "mask" => {
            let paths = path_list(given()?)?;
            confinement.masked_paths.extend(paths);
        }
        "unmask" => match given()? {
            "ALL" | "all" => {
                confinement.masked_paths.clear();
                confinement.read_only_paths.clear();
            }
            value => {
                for pattern in path_list(value)? {
                    let keep = |path: &String| !glob(&pattern, path);
                    confinement.masked_paths.retain(keep);
                    confinement.read_only_paths.retain(keep);
                }
            }
        },
        "systempaths" => match given()? {
            "unconfined" => {
                confinement.masked_paths.clear();
                confinement.read_only_paths.clear();
            }
            _ => return Err(Fail::usage("only `systempaths=unconfined` is known")),
        },
        // No profile is loaded for containers, which is what these two ask for.
        "apparmor" => match given()? {
            "unconfined" | "docker-default" => {}
            _ => {
                return Err(Fail::unsupported("only root can load an AppArmor profile")
                    .hint("leave it out, or `apparmor=unconfined`"));
            }
        },
        "label" => {
            let value = given()?;
            if value != "disable" && environment.selinux {
                return Err(
                    Fail::unsupported("SELinux labels of containers are not supported")
                        .hint("leave it out, or `label=disable`"),
                );
            }
        }
        _ => {
            return Err(Fail::usage("not known").hint(
                "known: no-new-privileges, seccomp=unconfined|FILE, mask=PATH, unmask=PATH|ALL, \
                 systempaths=unconfined, apparmor=unconfined, label=disable",
            ));
        }
    }
    Ok(())
}

fn seccomp_profile(path: &str, environment: &Environment<'_>) -> Result<Seccomp, Fail> {
    let json = environment.text("seccomp", Path::new(path))?;
    let profile: serde_json::Value = serde_json::from_str(&json)
        .map_err(|error| Fail::usage(format!("`{path}` is not JSON: {error}")))?;
    if profile.get("defaultAction").is_none() {
        return Err(Fail::usage(format!("`{path}` has no `defaultAction`"))
            .hint("a profile in docker's format is needed"));
    }
    Ok(Seccomp::Profile { json })
}

fn path_list(value: &str) -> Result<Vec<String>, Fail> {
    value
        .split(':')
        .map(|path| {
            if path.starts_with('/') {
                Ok(path.to_owned())
            } else {
                Err(Fail::usage(format!("`{path}` is not an absolute path")))
            }
        })
        .collect()
}

/// Only those that a namespace has for itself; docker's and runc's list.
fn sysctls(
    args: &RunArgs,
    namespaces: &Namespaces,
    network: &Network,
) -> Result<BTreeMap<String, String>, Fail> {
    let mut sysctls = BTreeMap::new();
    for text in &args.sysctl {
        let wrong = |why: &str| Fail::usage(format!("--sysctl `{text}`: {why}"));
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| wrong("give NAME=VALUE"))?;
        // `net/ipv4/conf/eth0.1/…` is how sysctl(8) writes names with dots in a part.
        let dotted = if name.contains('/') {
            name.replace('/', ".")
        } else {
            name.to_owned()
        };
        if dotted.starts_with("net.") {
            if *network == Network::Host {
                return Err(wrong("with --network host it would be the host's"));
            }
        } else if is_of_ipc(&dotted) {
            if namespaces.ipc == Namespace::Host {
                return Err(wrong("with --ipc host it would be the host's"));
            }
        } else if dotted == "kernel.hostname" || dotted == "kernel.domainname" {
            return Err(wrong("use --hostname or --domainname"));
        } else {
            return Err(wrong("no namespace has this parameter for itself").hint(
                "containers can set net.*, fs.mqueue.*, kernel.msg*, kernel.sem and kernel.shm*",
            ));
        }
        sysctls.insert(name.to_owned(), value.to_owned());
    }
    Ok(sysctls)
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::{table, translate};

    #[test]
    fn root_is_emulated_as_the_flag_says() {
        table(
            |spec| spec.confinement.root_emulation,
            &[
                ("", "Auto"),
                ("--root-emulation auto", "Auto"),
                ("--root-emulation=basic --privileged", "Basic"),
                ("--root-emulation=full", "Full"),
                ("--root-emulation off", "Off"),
                (
                    "--root-emulation more",
                    "error: --root-emulation `more` is not known",
                ),
            ],
        );
    }

    #[test]
    fn confinement_follows_the_flags() {
        table(
            |spec| {
                let c = spec.confinement;
                (
                    c.no_new_privileges,
                    c.seccomp,
                    c.masked_paths.len() > 5,
                    c.read_only_paths.len() > 2,
                )
            },
            &[
                ("", "(false, Default, true, true)"),
                ("--privileged", "(false, Unconfined, false, false)"),
                (
                    "--security-opt no-new-privileges",
                    "(true, Default, true, true)",
                ),
                (
                    "--security-opt no-new-privileges:true",
                    "(true, Default, true, true)",
                ),
                (
                    "--security-opt no-new-privileges=false",
                    "(false, Default, true, true)",
                ),
                (
                    "--security-opt seccomp=unconfined",
                    "(false, Unconfined, true, true)",
                ),
                (
                    "--security-opt seccomp=seccomp.json",
                    r#"(false, Profile { json: "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}" }, true, true)"#,
                ),
                (
                    "--security-opt systempaths=unconfined",
                    "(false, Default, false, false)",
                ),
                (
                    "--security-opt unmask=ALL",
                    "(false, Default, false, false)",
                ),
                (
                    "--security-opt label=disable --security-opt apparmor=unconfined",
                    "(false, Default, true, true)",
                ),
                (
                    "--security-opt seccomp=other.json",
                    "error: --security-opt `seccomp=other.json`: `other.json` has no `defaultAction`",
                ),
                (
                    "--security-opt seccomp=none",
                    "error: --security-opt `seccomp=none`: seccomp: cannot read `none`: no such file",
                ),
                (
                    "--security-opt apparmor=mine",
                    "error: --security-opt `apparmor=mine`: only root can load an AppArmor profile",
                ),
                (
                    "--security-opt what",
                    "error: --security-opt `what`: not known",
                ),
                (
                    "--security-opt mask=x",
                    "error: --security-opt `mask=x`: `x` is not an absolute path",
                ),
                (
                    "--oom-score-adj -2000",
                    "error: --oom-score-adj -2000 is not in -1000…1000",
                ),
            ],
        );
        let unmasked = translate("--security-opt unmask=/proc/* alpine").expect("fine");
        assert!(
            !unmasked
                .confinement
                .masked_paths
                .iter()
                .any(|path| path.starts_with("/proc/")),
            "{:?}",
            unmasked.confinement.masked_paths
        );
    }

    #[test]
    fn only_namespaced_kernel_parameters_can_be_set() {
        table(
            |spec| spec.confinement.sysctls,
            &[
                (
                    "--sysctl net.ipv4.ip_forward=1",
                    r#"{"net.ipv4.ip_forward": "1"}"#,
                ),
                ("--sysctl kernel.sem=1~2", r#"{"kernel.sem": "1 2"}"#),
                (
                    "--sysctl net.x=1 --network host",
                    "error: --sysctl `net.x=1`: with --network host it would be the host's",
                ),
                (
                    "--sysctl vm.swappiness=1",
                    "error: --sysctl `vm.swappiness=1`: no namespace has this parameter for itself",
                ),
                ("--sysctl net.x", "error: --sysctl `net.x`: give NAME=VALUE"),
            ],
        );
    }
}
