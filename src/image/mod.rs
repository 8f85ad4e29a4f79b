//! The image store.

pub mod auth;
pub mod config;
pub mod manifest;
pub mod platform;
mod program;
pub mod reference;
pub mod registry;
pub mod resolver;
