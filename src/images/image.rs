//! What is kept of an image.

use super::{ImageError, digest};
use crate::domain::Kind;
use serde::{Deserialize, Serialize};
use std::fs::File;

/// A present image. For as long as the value lives nothing of it is removed, by whatever process.
#[derive(Debug)]
pub struct Image {
    /// `sha256:` and the digest of its configuration, as Docker numbers images.
    pub id: String,
    /// `name@sha256:...` as its registry knows it, else the id.
    pub digest: String,
    /// Names of its layers' directories in [`super::Store::layers`], the lowest first; at least one. Each once: of a layer that an
    /// image has more than once only the topmost counts.
    pub layers: Vec<String>,
    /// Bytes of its layers, shared ones included.
    pub bytes: u64,
    /// Variables that its processes begin with.
    pub env: Vec<(String, String)>,
    /// `USER[:GROUP]`, names or numbers; empty: root.
    pub user: String,
    /// Where its processes begin; empty: `/`.
    pub workdir: String,
    pub(super) _hold: File,
}

/// An image as its source offers it.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Configuration, the JSON text whose SHA-256 is the image's id.
    pub config: Vec<u8>,
    /// `name@sha256:...` where a registry gave one, else empty.
    pub digest: String,
}

/// An image's file in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub id: String,
    /// Whole digests of its layers, the lowest first.
    pub diff_ids: Vec<String>,
    pub bytes: u64,
    pub env: Vec<(String, String)>,
    pub user: String,
    pub workdir: String,
}

/// Digits of a diff id that name its layer's directory.
const LAYER_DIGITS: usize = 24;
/// Diff id of the layer without files, as every builder has it: of an archive that ends where it begins.
pub const EMPTY_LAYER: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
/// Docker makes no image with more.
const LAYERS_MAX: usize = 127;

/// The directory's name of a layer.
#[must_use]
pub fn layer_name(diff_id: &str) -> String {
    digest::digits(diff_id).unwrap_or_default().chars().take(LAYER_DIGITS).collect()
}

/// A name as Docker shows it: with its tag, and without the registry and the owner that it adds by itself.
#[must_use]
pub fn canonical(name: &str) -> String {
    if digest::digits(name).is_some() || name.contains('@') {
        return name.to_owned();
    }
    let hub = ["docker.io/", "index.docker.io/"].iter().find_map(|hub| name.strip_prefix(hub));
    let short = hub.unwrap_or(name);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let tagged = short.rsplit('/').next().unwrap_or_default().contains(':');
    if tagged { short.to_owned() } else { format!("{short}:latest") }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    config: Option<Process>,
    rootfs: Rootfs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Process {
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
}

#[derive(Deserialize)]
struct Rootfs {
    /// Docker writes null where there are none.
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

/// All diff ids of a configuration, in the order of its archives, and what will be kept of it; its bytes are not known yet.
///
/// # Errors
/// `ImagePull` where it is none.
pub fn read_config(config: &[u8]) -> Result<(Vec<String>, Kept), ImageError> {
    let wrong = |what: String| ImageError { kind: Kind::ImagePull, message: format!("the image's configuration is broken: {what}") };
    let read: Config = serde_json::from_slice(config).map_err(|error| wrong(error.to_string()))?;
    let all = read.rootfs.diff_ids.unwrap_or_default();
    if all.len() > LAYERS_MAX {
        return Err(wrong(format!("it has {} layers, more than {LAYERS_MAX}", all.len())));
    }
    if let Some(bad) = all.iter().find(|id| digest::digits(id).is_none()) {
        return Err(wrong(format!("{bad:?} is no SHA-256 digest")));
    }
    let process = read.config.unwrap_or_default();
    let pair = |text: String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let env = process.env.unwrap_or_default().into_iter().filter_map(pair).collect();
    let topmost = |(at, id): (usize, &String)| (!all[at + 1..].contains(id)).then(|| id.clone());
    let mut diff_ids: Vec<String> = all.iter().enumerate().filter_map(topmost).collect();
    if diff_ids.is_empty() {
        diff_ids.push(EMPTY_LAYER.to_owned());
    }
    let kept = Kept {
        id: digest::of(config),
        diff_ids,
        bytes: 0,
        env,
        user: process.user.unwrap_or_default(),
        workdir: process.working_dir.unwrap_or_default(),
    };
    Ok((all, kept))
}
