//! `exec`: another program in a container that is there.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::config;
use super::config::linux::Linux;
use super::config::process::Process;
use super::state::{Container, Status};
use super::{Global, lifecycle, state, translate};
use crate::cgroup::Group;
use crate::error::Fail;
use crate::spec::ContainerSpec;
use crate::spec::oci::{Capabilities, Oci};
use crate::stage::parent::{self, Inside};
use crate::stage::{Visit, confine};
use crate::sys;

/// Its flags, which are runc's.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ExecArgs {
    /// Send the terminal's other end to this socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Working directory inside
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Set a variable (can be repeated)
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Run as this user
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Add a supplementary group (can be repeated)
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Take everything from this file: the `process` of a configuration
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Return when the program runs
    #[arg(short, long)]
    detach: bool,
    /// Write the process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Label of SELinux
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Profile of AppArmor
    #[arg(long, value_name = "NAME")]
    apparmor: Option<String>,
    /// Gain no rights by executing files
    #[arg(long)]
    no_new_privs: bool,
    /// Add a capability (can be repeated)
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// Pass this many descriptors from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Count it in this group below the container's
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Also where the container is paused: it waits until it is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// The container's id
    pub id: String,
    /// The program and its words
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

/// Runs it; the exit code.
///
/// # Errors
/// A container that does not run; what keeps the program from running.
pub fn exec(args: &ExecArgs, global: &Global) -> Result<u8> {
    let container = global.store().open(&args.id)?;
    match container.status() {
        Status::Created | Status::Running => {}
        Status::Paused if args.ignore_paused => {}
        Status::Paused => {
            return Err(Fail::conflict(
                "cannot exec in a paused container (use --ignore-paused to override)",
            )
            .into());
        }
        Status::Stopped | Status::Creating => {
            return Err(Fail::conflict("cannot exec in a stopped container").into());
        }
    }
    let spec = program(args, &container)?;
    if spec.process.tty && args.console_socket.is_none() && args.detach {
        return Err(Fail::usage(
            "process.terminal: a socket for the terminal is needed: --console-socket",
        )
        .into());
    }
    let group = group(args, &container)?;
    let pid = container
        .record
        .process
        .as_ref()
        .map_or(0, |process| process.pid);
    let gone = || Fail::conflict("cannot exec in a stopped container");
    let _pidfd = container.open_process()?.ok_or_else(gone)?;
    let inside = Inside::of_any(pid)?;
    // It was the same process all the time.
    container.open_process()?.ok_or_else(gone)?;
    let oci = spec.oci.clone().unwrap_or_default();
    if let Some(list) = oci.affinity.as_ref().and_then(|one| one.initial.as_deref())
        && let Some(processors) = crate::cgroup::limits::numbers(list)
    {
        sys::schedule::set_affinity(None, &processors)
            .context("process.execCPUAffinity.initial: setting it")?;
    }
    let told = container.told(Status::Running, pid);
    let visit = Visit {
        spec,
        only_ids: None,
        emulation: None,
        detached: true,
    };
    let mut answer = |fd| lifecycle::tell_listener(oci.seccomp_listener.as_ref(), &fd, pid, &told);
    let (child, console) = parent::join_answered(
        visit,
        &inside,
        group.as_ref(),
        [None, None, None],
        &mut answer,
    )?;
    let finish = || -> Result<Option<std::os::fd::OwnedFd>> {
        lifecycle::write_pid_file(args.pid_file.as_deref(), &child)?;
        let (Some(path), Some(console)) = (&args.console_socket, &console) else {
            return Ok(console);
        };
        let stream = state::connect(path).context("--console-socket")?;
        sys::socket::send_with_fd(&stream, b"/dev/ptmx", console.as_fd())
            .context("--console-socket: sending the terminal")?;
        Ok(None)
    };
    match finish() {
        Err(error) => {
            child.kill();
            let _ = child.wait(); // it is gone either way
            Err(error)
        }
        Ok(_) if args.detach => Ok(0),
        Ok(console) => lifecycle::attend(&child, console),
    }
}

fn group(args: &ExecArgs, container: &Container) -> Result<Option<Group>> {
    let own = container.record.place.group();
    let Some(below) = &args.cgroup else {
        return Ok(own);
    };
    let own = own.ok_or_else(|| Fail::usage("--cgroup: the container has no control group"))?;
    let path = Path::new(below.trim_start_matches('/'));
    if path
        .components()
        .any(|part| !matches!(part, std::path::Component::Normal(_)))
        && !path.as_os_str().is_empty()
    {
        return Err(Fail::usage(format!(
            "--cgroup: `{below}` is no path below the container's"
        ))
        .into());
    }
    let group = Group::open(&own.path().join(path))
        .with_context(|| format!("--cgroup: opening `{below}`"))?;
    Ok(Some(group))
}

/// The container, with this program in place of its own.
fn program(args: &ExecArgs, container: &Container) -> Result<ContainerSpec> {
    let mut spec = container.record.spec.clone();
    // What the container's own program was treated like is not inherited.
    let mut oci = spec.oci.clone().unwrap_or_default();
    oci.console_size = None;
    spec.oci = Some(oci);
    if let Some(path) = &args.process {
        let process: Process = config::read(path).context("--process")?;
        process.check("process", &maps(&container.record.spec), super::rights())?;
        translate::process_into(&process, args.preserve_fds, &mut spec);
        if args.tty {
            spec.process.tty = true;
        }
        return Ok(spec);
    }
    if args.command.is_empty() {
        return Err(Fail::usage("process args cannot be empty")
            .hint("name a program, or a file with --process")
            .into());
    }
    spec.process.command = Some(args.command.clone());
    spec.process.tty = args.tty;
    spec.process.preserve_fds = args.preserve_fds;
    spec.process.env.extend(args.env.iter().cloned());
    if let Some(cwd) = &args.cwd {
        if !cwd.starts_with('/') {
            return Err(Fail::usage(format!("--cwd: `{cwd}` is not an absolute path")).into());
        }
        spec.process.cwd.clone_from(cwd);
    }
    let rights = super::rights();
    if args.apparmor.is_some() && !rights.apparmor {
        return Err(Fail::unsupported("--apparmor: this kernel does not enforce profiles").into());
    }
    if args
        .process_label
        .as_ref()
        .is_some_and(|label| !label.is_empty())
    {
        return Err(
            Fail::unsupported("--process-label: labels of SELinux are not supported").into(),
        );
    }
    if args.no_new_privs {
        spec.confinement.no_new_privileges = true;
    }
    let sets = spec.confinement.capability_sets.get_or_insert_default();
    for cap in &args.cap {
        add_capability(sets, cap)?;
    }
    spec.confinement.capabilities = sets.bounding.clone();
    spec.confinement.capabilities.sort_unstable();
    let oci = spec.oci.get_or_insert_default();
    if args.apparmor.is_some() {
        oci.apparmor.clone_from(&args.apparmor);
    }
    if let Some(user) = &args.user {
        take_user(oci, user)?;
    }
    oci.user.additional_gids.extend(&args.additional_gids);
    let process = Process {
        user: oci.user.clone(),
        args: spec.process.command.clone(),
        env: Some(spec.process.env.clone()),
        cwd: spec.process.cwd.clone(),
        ..Process::default()
    };
    process.check("process", &maps(&container.record.spec), rights)?;
    Ok(spec)
}

/// The part of a configuration that says which ids there are.
fn maps(spec: &ContainerSpec) -> Linux {
    let oci = spec.oci.as_deref().cloned().unwrap_or_default();
    Linux {
        uid_mappings: Some(oci.uid_mappings),
        gid_mappings: Some(oci.gid_mappings),
        ..Linux::default()
    }
}

fn take_user(oci: &mut Oci, text: &str) -> Result<(), Fail> {
    let number = |text: &str| {
        text.parse::<u32>()
            .map_err(|_| Fail::usage(format!("--user: `{text}` is no number")))
    };
    match text.split_once(':') {
        Some((user, group)) => {
            oci.user.uid = number(user)?;
            oci.user.gid = number(group)?;
        }
        None => oci.user.uid = number(text)?,
    }
    Ok(())
}

/// As runc does it: into all the sets that a program needs it in.
fn add_capability(sets: &mut Capabilities, name: &str) -> Result<(), Fail> {
    let upper = name.to_ascii_uppercase();
    let name = if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    };
    if !confine::CAPABILITIES.contains(&name.as_str()) {
        return Err(Fail::usage(format!(
            "--cap: there is no capability `{name}`"
        )));
    }
    for set in [
        &mut sets.bounding,
        &mut sets.effective,
        &mut sets.permitted,
        &mut sets.ambient,
        &mut sets.inheritable,
    ] {
        if !set.contains(&name) {
            set.push(name.clone());
        }
    }
    Ok(())
}
