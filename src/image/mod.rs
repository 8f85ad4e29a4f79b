//! The image store.

pub mod archive;
pub mod changes;
pub mod config;
pub mod entries;
pub mod ingest;
pub mod layer;
pub mod manifest;
pub mod platform;
pub mod pull;
pub mod reference;
pub mod scratch;
pub mod store;
