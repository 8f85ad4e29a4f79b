//! Images: names, registries, archives, and the store they are kept in. Starts no container.
//!
//! ```text
//! reference platform manifest config     what images are, as pure data
//! auth login resolver registr{y,ies}           how they come over the network
//! pull archive                           from a registry, from a file → the store
//! policy attached signature              which of them may be had, and who says so
//! list                                   several images under one name
//! push save                              and out again
//! ingest → layer → entries               one layer: bytes, digests, tar, tree
//! store unused scratch partial           what is here, what of it nobody needs, what is being made, what broke off
//! verify                                 whether it is what its digests say
//! squash                                 a file that is run as it is
//! ```
//!
//! On disk (see [`store`], [`scratch`] and `paths`):
//!
//! ```text
//! images/{oci-layout,index.json,blobs/sha256/HEX,lock}   an OCI image layout; `reserve` beside it
//! layers/HEX/{fs/,layer.json}                            unpacked, HEX from the DiffID
//! tmp/NAME{.lock,/}                                      work; litter when nobody holds the lock
//! tmp/HEX.part                                           the beginning of a blob, see [`partial`]
//! ```

pub mod archive;
pub mod attached;
pub mod auth;
pub mod changes;
pub mod commit;
pub mod config;
pub mod dropped;
pub mod entries;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod ingest;
pub mod layer;
pub mod list;
pub mod login;
pub mod manifest;
pub mod pack;
pub mod parallel;
pub mod partial;
pub mod platform;
pub mod policy;
mod program;
pub mod pull;
pub mod push;
pub mod reference;
pub mod registries;
pub mod registry;
pub mod reserve;
pub mod resolver;
pub mod save;
pub mod scratch;
pub mod shared;
pub mod signature;
pub mod space;
pub mod squash;
pub mod store;
mod unused;
pub mod verify;

/// Where the tree of an unpacked layer is, relative to the store's root.
///
/// # Errors
/// When `diff_id` is no digest.
pub fn layer_dir(diff_id: &str) -> anyhow::Result<std::path::PathBuf> {
    let digest = reference::Digest::parse(diff_id)?;
    Ok(std::path::Path::new("layers").join(digest.hex()).join("fs"))
}
