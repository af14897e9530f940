//! Random access to sealed datasets: a record is found by its id in an index, and read out of its one frame.

use super::{
    Settings, StoreError,
    sealed::{IndexLine, Sealed, SealedFile},
};
use crate::domain::EpisodeId;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// A longer line is no line of an index.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// Largest window that a sealed frame may ask for, as a power of two: what readers accept by default.
pub const MAX_WINDOW_LOG: u32 = 27;

/// The lines of an index in order, one in memory at a time. At its end the checksum is held against `sealed.json`'s.
pub struct IndexLines {
    path: PathBuf,
    input: BufReader<File>,
    sha256: Sha256,
    expected: String,
    line: Vec<u8>,
    number: u64,
}

impl IndexLines {
    /// The index of a file of the sealed dataset in `dir`.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(dir: &Path, file: &SealedFile) -> Result<Self, StoreError> {
        let path = Sealed::data(dir).join(file.index());
        let input = File::open(&path).map_err(|e| StoreError::io("read", &path, &e))?;
        let input = BufReader::with_capacity(256 << 10, input);
        Ok(IndexLines { path, input, sha256: Sha256::new(), expected: file.index_sha256.clone(), line: Vec::new(), number: 0 })
    }

    /// Reads the next line into `self.line`; false at the end.
    fn advance(&mut self) -> Result<bool, StoreError> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.input).take(MAX_LINE_BYTES).read_until(b'\n', &mut self.line);
        read.map_err(|e| StoreError::io("read", &self.path, &e))?;
        if self.line.is_empty() {
            let found = format!("{:x}", self.sha256.finalize_reset());
            return if found == self.expected { Ok(false) } else { Err(self.damaged("its checksum is not the one in sealed.json")) };
        }
        self.sha256.update(&self.line);
        Ok(true)
    }

    fn parse(&self) -> Result<IndexLine, StoreError> {
        serde_json::from_slice(&self.line).map_err(|e| self.damaged(&format!("no line of an index: {e}")))
    }

    fn damaged(&self, problem: &str) -> StoreError {
        StoreError::damaged(&self.path, format!("line {}", self.number), problem)
    }
}

impl Iterator for IndexLines {
    type Item = Result<IndexLine, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance() {
            Ok(true) => Some(self.parse()),
            Ok(false) => None,
            Err(e) => Some(Err(e)),
        }
    }
}

/// Where the attempts of an episode lie in the sealed dataset in `dir`, in the order of its files.
///
/// # Errors
/// Where an index cannot be read or is damaged.
pub fn attempts<'s>(dir: &Path, sealed: &'s Sealed, episode: &EpisodeId) -> Result<Vec<(&'s SealedFile, IndexLine)>, StoreError> {
    // Ids need no escape in JSON, and `id` is the first key: few lines are parsed.
    let wanted = format!("{{\"id\":\"{episode}.");
    let mut found = Vec::new();
    for file in &sealed.files {
        let mut lines = IndexLines::open(dir, file)?;
        while lines.advance()? {
            if lines.line.starts_with(wanted.as_bytes()) {
                found.push((file, lines.parse()?));
            }
        }
    }
    Ok(found)
}

/// The record at a place that an index names, line feed included, checked against its digest. Reads one frame, up to the end of
/// the record, and holds the record alone.
///
/// # Errors
/// Names the file and the offset where the frame is damaged or the record is another than it was.
pub fn read(dir: &Path, file: &SealedFile, line: &IndexLine) -> Result<Vec<u8>, StoreError> {
    let path = Sealed::data(dir).join(&file.file);
    let damaged = |problem: String| StoreError::damaged(&path, format!("byte {}", line.frame_offset), problem);
    let limit = Settings::default().max_record_bytes;
    if line.len > limit {
        return Err(damaged(format!("a record of {} bytes is over the limit of {limit}", line.len)));
    }
    let mut input = File::open(&path).map_err(|e| StoreError::io("read", &path, &e))?;
    input.seek(SeekFrom::Start(line.frame_offset)).map_err(|e| StoreError::io("read", &path, &e))?;
    let record = decode(input.take(line.frame_len), line).map_err(|e| damaged(format!("the frame cannot be read: {e}")))?;
    if format!("{:x}", Sha256::digest(&record)) != line.digest {
        return Err(damaged(format!("the record of {} is not the one that the index knows", line.id)));
    }
    Ok(record)
}

fn decode(frame: impl Read, line: &IndexLine) -> io::Result<Vec<u8>> {
    let mut content = zstd::Decoder::new(frame)?.single_frame();
    content.window_log_max(MAX_WINDOW_LOG)?;
    let skipped = io::copy(&mut (&mut content).take(line.offset), &mut io::sink())?;
    let mut record = Vec::new();
    content.take(line.len).read_to_end(&mut record)?;
    if skipped < line.offset || (record.len() as u64) < line.len {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before the record does"));
    }
    Ok(record)
}
