//! Getting inside; one file for each process.

pub mod confine;
pub mod seccomp;
