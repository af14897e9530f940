//! Shards: `STREAM-NNNNN.jsonl.zst`, one frame a trajectory, appended, synced, rolled over at a size.

use super::{
    StoreError,
    fact::{Location, Stream},
    files::{self, AppendFile, Disk},
    frame,
    run_dir::Layout,
    state::Shard,
};
use crate::domain::Trajectory;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// The shard that holds a record.
#[must_use]
pub fn path(layout: &Layout, location: &Location) -> PathBuf {
    layout.shards().join(location.stream.file(location.shard))
}

/// Reads the record at a place that the journal names.
///
/// # Errors
/// Names the file and the offset where the frame or the record cannot be read.
pub fn read_at(layout: &Layout, location: &Location, max_record_bytes: u64) -> Result<Trajectory, StoreError> {
    let path = path(layout, location);
    let damaged = |problem: String| StoreError::damaged(&path, format!("byte {}", location.offset), problem);
    if location.len > max_record_bytes {
        return Err(damaged(format!("a frame of {} bytes is over the limit of {max_record_bytes}", location.len)));
    }
    let mut frame = vec![0; location.len as usize];
    let read = File::open(&path).and_then(|file| file.read_exact_at(&mut frame, location.offset));
    read.map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => damaged("the file ends before the frame does".into()),
        _ => StoreError::io("read", &path, &e),
    })?;
    let record = frame::decompress(&frame, max_record_bytes).map_err(|e| damaged(format!("the frame cannot be read: {e}")))?;
    Trajectory::parse(&record).map_err(|e| damaged(format!("the record cannot be read: {e}")))
}

/// The live shard of a stream: committed bytes, and behind them frames that wait for the journal.
pub struct LiveShard {
    pub stream: Stream,
    pub number: u32,
    file: AppendFile,
    digest: Sha256,
    pending: Sha256,
    committed: u64,
    /// Content bytes, uncommitted ones included.
    raw_bytes: u64,
    pending_raw_bytes: u64,
}

impl LiveShard {
    /// Opens a shard at its committed length: what lies behind was never committed and is cut off.
    ///
    /// # Errors
    /// Where the file is shorter than what was committed to it.
    pub fn open(layout: &Layout, disk: &Disk, stream: Stream, number: u32, committed: Shard) -> Result<Self, StoreError> {
        let path = layout.shards().join(stream.file(number));
        let mut file = AppendFile::open(&path, disk)?;
        check_length(&path, file.len(), committed.bytes)?;
        if file.len() > committed.bytes {
            file.cut(committed.bytes)?;
        }
        let digest = prefix_digest(&path, committed.bytes)?;
        let pending = digest.clone();
        let raw_bytes = committed.raw_bytes;
        Ok(LiveShard { stream, number, file, digest, pending, committed: committed.bytes, raw_bytes, pending_raw_bytes: raw_bytes })
    }

    /// Bytes in the file, uncommitted ones included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.file.len()
    }

    /// Whether a record of this length would take the shard over its size; an empty shard has room for any.
    #[must_use]
    pub fn is_full(&self, raw_bytes: u64, shard_bytes: u64) -> bool {
        self.bytes() > 0 && self.pending_raw_bytes + raw_bytes > shard_bytes
    }

    /// # Errors
    /// Where the file cannot be written; [`Self::roll_back`] then.
    pub fn append(&mut self, frame: &[u8], raw_bytes: u64) -> Result<Location, StoreError> {
        let offset = self.file.append(frame)?;
        self.pending.update(frame);
        self.pending_raw_bytes += raw_bytes;
        Ok(Location { stream: self.stream, shard: self.number, offset, len: frame.len() as u64 })
    }

    /// # Errors
    /// Where the file cannot be written; [`Self::roll_back`] then.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.file.sync()
    }

    /// The journal holds all that was appended.
    pub fn committed(&mut self) {
        self.committed = self.file.len();
        self.raw_bytes = self.pending_raw_bytes;
        self.digest.clone_from(&self.pending);
    }

    /// Takes back what the journal does not hold.
    ///
    /// # Errors
    /// Where the file cannot be cut.
    pub fn roll_back(&mut self) -> Result<(), StoreError> {
        self.pending.clone_from(&self.digest);
        self.pending_raw_bytes = self.raw_bytes;
        self.file.cut(self.committed)
    }

    /// Nothing in the file waits for the journal.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        !self.file.is_ragged(self.committed)
    }

    /// SHA-256 of the committed bytes.
    #[must_use]
    pub fn sha256(&self) -> String {
        format!("{:x}", self.digest.clone().finalize())
    }
}

fn check_length(path: &Path, found: u64, committed: u64) -> Result<(), StoreError> {
    if found >= committed {
        return Ok(());
    }
    let problem = format!("the journal knows {committed} bytes, the file has only {found}");
    Err(StoreError::damaged(path, format!("byte {found}"), problem))
}

/// SHA-256 over the first `len` bytes of a file, hexadecimal.
///
/// # Errors
/// Where the file cannot be read or is shorter.
pub fn prefix_sha256(path: &Path, len: u64) -> Result<String, StoreError> {
    prefix_digest(path, len).map(|digest| format!("{:x}", digest.finalize()))
}

/// The same, to be gone on with.
///
/// # Errors
/// Where the file cannot be read or is shorter.
fn prefix_digest(path: &Path, len: u64) -> Result<Sha256, StoreError> {
    let fail = |e: io::Error| StoreError::io("read", path, &e);
    let mut file = File::open(path).map_err(fail)?.take(len);
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 256 << 10];
    let mut found = 0;
    loop {
        match file.read(&mut chunk).map_err(fail)? {
            0 => break,
            n => {
                digest.update(&chunk[..n]);
                found += n as u64;
            }
        }
    }
    check_length(path, found, len)?;
    Ok(digest)
}

/// Removes or cuts what a crash left in `shards/` beyond what the journal knows.
///
/// # Errors
/// Where a shard is missing or shorter than what was committed to it.
pub fn tidy(layout: &Layout, disk: &Disk, known: &std::collections::BTreeMap<(Stream, u32), Shard>) -> Result<(), StoreError> {
    let dir = layout.shards();
    for ((stream, number), shard) in known {
        let path = dir.join(stream.file(*number));
        let found = match fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(StoreError::io("read", &path, &e)),
        };
        check_length(&path, found, shard.bytes)?;
        if found > shard.bytes {
            AppendFile::open(&path, disk)?.cut(shard.bytes)?;
        }
    }
    let entries = fs::read_dir(&dir).map_err(|e| StoreError::io("read", &dir, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| StoreError::io("read", &dir, &e))?;
        let shard = entry.file_name().to_str().and_then(Stream::parse);
        if shard.is_some_and(|shard| !known.contains_key(&shard)) {
            files::remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}
