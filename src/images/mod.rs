//! Images without a daemon: fetched or imported, their layers unpacked once into a store that all images share.
//!
//! ```text
//! STORE/format                 what wrote it, and whose owners its files have
//! STORE/layers/XXXX/fs         one layer's tree, as an overlay takes it; XXXX: 24 digits of its diff id
//! STORE/layers/XXXX/layer.json its whole diff id, its bytes
//! STORE/images/ID.json         an image: its layers, environment, user
//! STORE/names.json             name -> ID
//! STORE/lock                   held while names, images and layers come and go
//! STORE/downloads/             layers as registries send them, for whoever goes on with them
//! STORE/tmp/                   what is being fetched or unpacked; swept when its process is dead
//! ```

pub mod add;
pub mod archive;
mod compression;
pub mod daemon;
mod digest;
pub mod directory;
pub mod files;
pub mod ids;
mod image;
pub mod keep;
pub mod layout;
pub mod lock;
mod members;
pub mod pull;
pub mod registry;
pub mod store;
mod tree;
pub mod unpack;
pub mod userns;

pub use ids::Ids;
pub use image::{Image, Offer};
pub use store::Store;

use crate::domain::{Failure, Kind};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Directory of the store; none: `/var/lib/sweroll/images` for root, else `$XDG_DATA_HOME/sweroll/images`.
    pub dir: Option<PathBuf>,
    /// First of the 65,536 user and group numbers that stand for those of images and sandboxes, where sweroll runs as root;
    /// no user of the host may have one of them. Of a store it cannot be changed.
    pub first_id: u32,
    /// Whether a run fetches what the store does not have, as `sweroll images pull` does.
    pub fetch: bool,
    pub unpack: unpack::Limits,
    pub pull: registry::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { dir: None, first_id: 0x6000_0000, fetch: true, unpack: unpack::Limits::default(), pull: registry::Settings::default() }
    }
}

/// This machine's architecture in Go's words, which images use.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// What went wrong with an image: where, and the mend.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    pub kind: Kind,
    pub message: String,
}

impl ImageError {
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::new(self.kind, self.message.clone())
    }
}
