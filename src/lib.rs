//! `rl`: rootless, daemonless containers for one user.
//!
//! The modules, lowest first; each imports only what stands above it in this list (docs/architecture.md).

#[allow(unsafe_code, reason = "the one place for it")]
mod sys;

mod error;

mod paths;
mod spec;

mod stage;

mod image;

mod container;

mod doctor;

mod cli;

use std::process::ExitCode;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
