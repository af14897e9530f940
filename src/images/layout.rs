//! An OCI image layout: `index.json`, manifests and blobs by their digests.

use super::files::{Files, Found, broken, bytes, parsed};
use super::{ImageError, Offer, digest};
use serde::Deserialize;
use std::collections::HashMap;

/// Indexes one in another.
const DEPTH_MAX: usize = 4;
/// Images of one layout.
const IMAGES_MAX: usize = 10_000;
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// The images of a layout that are for this machine.
///
/// # Errors
/// `ImagePull` where a file is missing, broken or has another digest than its name, or no image is for this machine.
pub fn images(files: &dyn Files) -> Result<Vec<Found>, ImageError> {
    if !files.has("index.json") {
        return Err(broken("there is no manifest.json and no index.json in it: it is no image; is it a root directory (--rootfs)?"));
    }
    let index: Index = parsed(files, "index.json")?;
    let mut found = Vec::new();
    collect(files, &index, &[], DEPTH_MAX, &mut found)?;
    if found.is_empty() {
        return Err(broken(format!("index.json names no image for linux/{}", super::architecture())));
    }
    Ok(found)
}

fn collect(files: &dyn Files, index: &Index, names: &[String], depth: usize, found: &mut Vec<Found>) -> Result<(), ImageError> {
    if depth == 0 {
        return Err(broken(format!("index.json has more than {DEPTH_MAX} indexes one in another")));
    }
    for descriptor in index.manifests.iter().filter(|descriptor| descriptor.is_for_us()) {
        let own = descriptor.names();
        let names = if own.is_empty() { names.to_vec() } else { own };
        let blob = descriptor.read(files)?;
        let told = |error: serde_json::Error| broken(format!("{}: {error}", descriptor.digest));
        if descriptor.is_index() {
            collect(files, &serde_json::from_slice(&blob).map_err(told)?, &names, depth - 1, found)?;
            continue;
        }
        let manifest: Manifest = serde_json::from_slice(&blob).map_err(told)?;
        let layers = manifest.layers.iter().map(Descriptor::path).collect::<Result<_, _>>()?;
        let offer = Offer { config: manifest.config.read(files)?, digest: String::new() };
        found.push(Found { names, offer, layers });
        if found.len() > IMAGES_MAX {
            return Err(broken(format!("the layout has more than {IMAGES_MAX} images")));
        }
    }
    Ok(())
}

impl Descriptor {
    fn is_index(&self) -> bool {
        self.media_type.contains("image.index") || self.media_type.contains("manifest.list")
    }

    /// What is an image at all, and names no other machine. Attestations are of the platform unknown.
    fn is_for_us(&self) -> bool {
        let image = self.is_index() || self.media_type.is_empty() || self.media_type.contains("manifest");
        let ours = |platform: &Platform| {
            (platform.os.is_empty() || platform.os == "linux")
                && (platform.architecture.is_empty() || platform.architecture == super::architecture())
        };
        image && self.platform.as_ref().is_none_or(ours)
    }

    /// Full names, where the annotations give any; tools also write a mere tag there.
    fn names(&self) -> Vec<String> {
        let annotations = self.annotations.as_ref();
        let of = |name: &&str| annotations.and_then(|annotations| annotations.get(*name)).cloned();
        NAMES.iter().find_map(of).into_iter().collect()
    }

    fn path(&self) -> Result<String, ImageError> {
        let digits = digest::digits(&self.digest).ok_or_else(|| broken(format!("{:?} is no SHA-256 digest", self.digest)))?;
        Ok(format!("blobs/sha256/{digits}"))
    }

    fn read(&self, files: &dyn Files) -> Result<Vec<u8>, ImageError> {
        let blob = bytes(files, &self.path()?)?;
        let is = digest::of(&blob);
        if is == self.digest { Ok(blob) } else { Err(broken(format!("the blob {} has the digest {is}", self.digest))) }
    }
}
