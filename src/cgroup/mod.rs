//! cgroup v2: groups of processes.

pub mod account;
