//! The image store.

pub mod config;
pub mod manifest;
pub mod platform;
mod program;
pub mod reference;
pub mod resolver;
