//! The login: runtime directory, D-Bus, whether containers outlive it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::parse::Tool;
use super::{Check, Host, Status};
use crate::container::logout;

const AXIS: &str = "session";

/// The axis `session`.
pub fn checks(host: &Host) -> Vec<Check> {
    vec![runtime(host), dbus(host), linger(host)]
}

fn runtime(host: &Host) -> Check {
    let check = Check::works(
        AXIS,
        "RL-R01",
        "runtime directory",
        "",
        "keeps sockets there",
    );
    let fallback = "keeps sockets in a private directory below /tmp";
    let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) else {
        return Check {
            found: "XDG_RUNTIME_DIR is not set".to_owned(),
            ..check
        }
        .because(
            Status::Less,
            "this is no login session (su, sudo, cron, a batch job)",
            fallback,
        )
        .you("log in by ssh or `machinectl shell`, or set RL_RUNTIME_DIR");
    };
    let shown = dir.display();
    let wrong = match std::fs::symlink_metadata(&dir) {
        Err(error) => Some(format!("{shown}: {error}")),
        Ok(meta) if !meta.is_dir() => Some(format!("{shown} is no directory")),
        Ok(meta) if meta.uid() != host.uid => {
            Some(format!("{shown} belongs to uid {}", meta.uid()))
        }
        Ok(meta) if meta.mode() & 0o077 != 0 => Some(format!(
            "{shown} is open to others: mode {:o}",
            meta.mode() & 0o777
        )),
        Ok(_) => None,
    };
    match wrong {
        None => Check {
            found: shown.to_string(),
            ..check
        },
        Some(wrong) => Check {
            found: wrong,
            ..check
        }
        .because(
            Status::Less,
            "XDG_RUNTIME_DIR is left over from another login",
            fallback,
        )
        .you("unset XDG_RUNTIME_DIR, or log in anew"),
    }
}

/// The socket of the user's D-Bus.
pub fn bus(uid: u32) -> Option<PathBuf> {
    let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    let named = address
        .split([';', ','])
        .find_map(|part| part.strip_prefix("unix:path="))
        .map(PathBuf::from);
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("bus"));
    let usual = PathBuf::from(format!("/run/user/{uid}/bus"));
    [named, runtime, Some(usual)]
        .into_iter()
        .flatten()
        .find(|path| path.exists())
}

fn dbus(host: &Host) -> Check {
    let check = Check::works(
        AXIS,
        "RL-R02",
        "D-Bus of the user",
        "",
        "asks systemd for groups over it",
    );
    if let Some(path) = bus(host.uid) {
        return Check {
            found: path.display().to_string(),
            ..check
        };
    }
    let check = Check {
        found: format!("no socket in /run/user/{}", host.uid),
        ..check
    }
    .because(
        Status::Less,
        "the user's systemd or its bus does not run",
        "uses the group it is in where that is ours, else sets no limits",
    );
    let check = if Path::new("/run/systemd/system").exists() {
        check.admin(format!("loginctl enable-linger {}", host.user))
    } else {
        check.you("nothing is needed as long as no limits are")
    };
    check.admin(host.install(Tool::Dbus))
}

fn linger(host: &Host) -> Check {
    let check = Check::works(
        AXIS,
        "RL-R03",
        "after logout",
        "",
        "leaves containers running when you log out",
    );
    if !Path::new("/run/systemd/system").exists() {
        return Check {
            found: "no systemd that ends sessions".to_owned(),
            ..check
        };
    }
    if logout::lingers(&host.user) {
        return Check {
            found: "lingering is on".to_owned(),
            ..check
        };
    }
    Check {
        found: "lingering is off".to_owned(),
        ..check
    }
    .because(
        Status::Less,
        "your systemd ends with your last login, and may take containers along",
        "runs them while you are logged in",
    )
    .you("loginctl enable-linger")
    .admin(format!("loginctl enable-linger {}", host.user))
}
