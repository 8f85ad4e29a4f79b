//! The image store.

pub mod entries;
pub mod layer;
