//! The image store.

pub mod config;
pub mod manifest;
pub mod platform;
pub mod reference;
