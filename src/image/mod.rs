//! The image store.

pub mod config;
pub mod entries;
pub mod layer;
pub mod manifest;
pub mod platform;
pub mod reference;
