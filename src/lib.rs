//! `rl`: rootless, daemonless containers for one user.
//!
//! The modules, lowest first; each imports only what stands above it in this list (docs/architecture.md).

#[allow(unsafe_code, reason = "the one place for it")]
mod sys;

mod error;

mod idmap;

mod net;

mod paths;
mod spec;

mod stage;

mod image;

mod container;

mod doctor;

mod cli;

use std::process::ExitCode;

/// The program: a command for people, or one of the processes that it starts (docs/architecture.md).
#[must_use]
pub fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let role = words.next();
    let mut descriptor = || {
        words
            .next()
            .and_then(|word| word.to_str()?.parse().ok())
            .unwrap_or(-1)
    };
    match role.as_ref().and_then(|role| role.to_str()) {
        Some(stage::parent::INIT) => stage::init::main(descriptor()),
        Some(stage::parent::JOB) => stage::job::main(descriptor(), |_| Ok(String::new())),
        _ => try_it(),
    }
}

fn try_it() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut spec: spec::ContainerSpec =
        serde_json::from_str(&std::fs::read_to_string(&args[0]).unwrap()).unwrap();
    spec.id = container::new_id().unwrap();
    spec.name = spec.id[..12].to_owned();
    if args.len() > 1 {
        spec.process.command = Some(args[1..].to_vec());
    }
    let store = paths::Store::locate(None).unwrap();
    match container::run(
        &store,
        spec,
        &container::RunOptions {
            sig_proxy: true,
            ..Default::default()
        },
        &mut |line| eprintln!("rl: {line}"),
    ) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{}", error::report(&error));
            ExitCode::from(error::kind(&error).exit_code())
        }
    }
}
