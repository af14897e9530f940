//! What `docker save` writes: `manifest.json`, configurations, and layers as archives of their own or, of newer daemons, as blobs.

use super::files::{Files, Found, broken, bytes, parsed};
use super::{ImageError, Offer};
use serde::Deserialize;

/// What Docker writes, and no other, into its archives.
pub const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// # Errors
/// `ImagePull` where a file is missing or broken, which is named.
pub fn images(files: &dyn Files) -> Result<Vec<Found>, ImageError> {
    let saved: Vec<Saved> = parsed(files, MANIFEST)?;
    if saved.is_empty() {
        return Err(broken(format!("{MANIFEST} names no image")));
    }
    saved
        .into_iter()
        .map(|image| {
            let offer = Offer { config: bytes(files, &image.config)?, digest: String::new() };
            Ok(Found { names: image.repo_tags.unwrap_or_default(), offer, layers: image.layers.unwrap_or_default() })
        })
        .collect()
}
