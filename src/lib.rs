//! `rl`: rootless, daemonless containers for one user.
//!
//! The modules, lowest first; each imports only what stands above it in this list (docs/architecture.md).

#[allow(unsafe_code, reason = "the one place for it")]
mod sys;

/// A build with glibc has its own, which is good.
#[cfg(target_env = "musl")]
#[global_allocator]
static MEMORY: sys::memory::Memory = sys::memory::Memory;

mod error;

mod idmap;

mod cgroup;

mod net;

mod paths;
mod spec;

mod stage;

mod image;
/// For `scripts/fuzz` alone.
#[cfg(fuzzing)]
pub use image::fuzz;

mod container;

mod doctor;

mod cli;
mod oci;

use std::process::ExitCode;

/// Whether this program was called by a name that runtimes have.
fn is_runtime() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&name).file_name();
    name.and_then(|name| name.to_str())
        .is_some_and(|name| oci::NAMES.contains(&name))
}

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
        Some(stage::parent::JOIN) => stage::join::main(descriptor()),
        Some(stage::emulation::EMULATION) => stage::emulation::main(descriptor()),
        Some(stage::parent::JOB) => stage::job::main(
            descriptor(),
            stage::job::Crafts {
                image: cli::job::work,
                unsquash: container::files::unsquash,
            },
        ),
        Some(doctor::PROBE) => doctor::probe(&std::env::args().skip(2).collect::<Vec<_>>()),
        Some(stage::fuse::SQUASH) => {
            image::squash::serve::main(&std::env::args().skip(2).collect::<Vec<_>>())
        }
        Some(container::monitor::MONITOR) => {
            container::monitor::main(&std::env::args().skip(2).collect::<Vec<_>>())
        }
        Some(net::doors::DOORS) => net::doors::main(&std::env::args().skip(2).collect::<Vec<_>>()),
        Some(net::named::server::NETWORK) => {
            net::named::server::main(&std::env::args().skip(2).collect::<Vec<_>>())
        }
        Some(container::health::HEALTH) => {
            container::health::main(&std::env::args().skip(2).collect::<Vec<_>>())
        }
        Some(oci::WORD) => oci::main(&std::env::args_os().skip(2).collect::<Vec<_>>()),
        _ if is_runtime() => oci::main(&std::env::args_os().skip(1).collect::<Vec<_>>()),
        _ => cli::main(&std::env::args_os().collect::<Vec<_>>()),
    }
}
