//! Tests in a virtual machine: what needs systemd, real logins, delegated cgroups, or a reboot.
//!
//! They run on the host and type in the guest (`scripts/vm`), most of them as its ordinary user. `scripts/test --vm` boots it once for all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(
    clippy::print_stderr,
    reason = "what a failed or skipped test has to say"
)]
#![allow(
    unreachable_pub,
    reason = "`pub` here is for the other files of this binary"
)]

#[path = "../it/support/mod.rs"]
#[macro_use]
#[allow(
    dead_code,
    unused_macros,
    reason = "shared with tests/it, which uses all of it"
)]
mod support;

mod alone;
mod general;
mod guest;
mod limits;
mod logins;
mod machines;
mod named;
mod nfs;
mod reboot;
mod runtime;
