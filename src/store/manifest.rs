//! `manifest.json`: each shard's committed rows, bytes, checksum and tokens, and what is sealed. Derived; the journal, the shards
//! and `data/sealed.json` can make it again.

use super::{
    StoreError,
    fact::Stream,
    files::{self, Disk},
    run_dir::Layout,
    sealed::Sealed,
    shard::prefix_sha256,
    state::{Shard, State},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the manifest; raised when a key changes its meaning or type.
pub const MANIFEST_FORMAT: u64 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u64,
    /// Empty where the directory is no run but what `merge` made.
    pub run: String,
    pub shards: Vec<ShardEntry>,
    /// The sealed dataset in `data/`; null where there is none. Format 1 knew none.
    #[serde(default)]
    pub sealed: Option<Sealed>,
}

/// One shard. All figures are of its committed part, which is the whole file once the run is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Name within `shards/`.
    pub file: String,
    pub stream: Stream,
    pub rows: u64,
    /// Compressed.
    pub bytes: u64,
    /// Before compression.
    pub raw_bytes: u64,
    /// Of the compressed bytes, hexadecimal.
    pub sha256: String,
    /// Of the rows that are counted.
    pub tokens: u64,
    pub loss_tokens: u64,
    /// Rows whose tokens are not counted yet.
    pub uncounted: u64,
}

/// Checksums of shards, by stream and number.
pub type Digests = BTreeMap<(Stream, u32), String>;

impl Manifest {
    /// Joins the state's figures with the shards' checksums; a shard without one is left out.
    #[must_use]
    pub fn new(run: &str, state: &State, digests: &Digests) -> Self {
        let shards = state.shards().iter().filter_map(|(key, shard)| digests.get(key).map(|sha256| ShardEntry::new(*key, shard, sha256)));
        Manifest { format: MANIFEST_FORMAT, run: run.to_owned(), shards: shards.collect(), sealed: None }
    }

    /// With the dataset that is sealed beside the run.
    #[must_use]
    pub fn with(self, sealed: Option<Sealed>) -> Self {
        Manifest { sealed, ..self }
    }

    /// None where there is no manifest that this sweroll can read.
    #[must_use]
    pub fn read(layout: &Layout) -> Option<Self> {
        let bytes = std::fs::read(layout.manifest()).ok()?;
        let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
        (manifest.format <= MANIFEST_FORMAT).then_some(manifest)
    }

    /// Replaces the file as a whole.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        files::replace(&layout.manifest(), disk, &super::json_line(self))
    }
}

/// Checksums of the shards that are wanted: out of the file where its figures are those of the state, else taken anew.
///
/// # Errors
/// Where a shard cannot be read.
pub fn digests(layout: &Layout, run: &str, state: &State, wanted: impl Fn(&(Stream, u32)) -> bool) -> Result<Digests, StoreError> {
    let old = Manifest::read(layout).filter(|m| m.run == run);
    let mut digests = Digests::new();
    for (key, shard) in state.shards().iter().filter(|(key, _)| wanted(key)) {
        let known = old.iter().flat_map(|m| &m.shards).find(|entry| **entry == ShardEntry::new(*key, shard, &entry.sha256));
        let sha256 = match known {
            Some(entry) => entry.sha256.clone(),
            None => prefix_sha256(&layout.shards().join(key.0.file(key.1)), shard.bytes)?,
        };
        digests.insert(*key, sha256);
    }
    Ok(digests)
}

impl ShardEntry {
    fn new((stream, number): (Stream, u32), shard: &Shard, sha256: &str) -> Self {
        ShardEntry {
            file: stream.file(number),
            stream,
            rows: shard.rows,
            bytes: shard.bytes,
            raw_bytes: shard.raw_bytes,
            sha256: sha256.to_owned(),
            tokens: shard.tokens,
            loss_tokens: shard.loss_tokens,
            uncounted: shard.uncounted,
        }
    }
}
