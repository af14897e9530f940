//! zstd frames, one a record: written whole, read one by one with their places in the file.

use super::StoreError;
use std::{
    cell::RefCell,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};
use zstd::{
    bulk,
    stream::raw::{CParameter, Decoder, InBuffer, Operation, OutBuffer},
};

/// Compresses records, each to a frame of its own: checksummed, its content's size in its header.
pub struct FrameWriter(bulk::Compressor<'static>);

impl FrameWriter {
    /// # Errors
    /// Where the level is none of zstd's, or there is no memory.
    pub fn new(level: i32) -> io::Result<Self> {
        let mut compressor = bulk::Compressor::new(level)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
        Ok(FrameWriter(compressor))
    }

    /// # Errors
    /// Where there is no memory.
    pub fn frame(&mut self, record: &[u8]) -> io::Result<Vec<u8>> {
        self.0.compress(record)
    }
}

/// Where a frame lies in its file, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub offset: u64,
    pub len: u64,
}

const CHUNK_BYTES: usize = 128 << 10;

/// All frames of a file in order; holds one record at a time.
pub struct Frames {
    path: PathBuf,
    input: BufReader<File>,
    decoder: Decoder<'static>,
    offset: u64,
    max_record_bytes: u64,
    record: Vec<u8>,
    chunk: Vec<u8>,
}

impl Frames {
    /// # Errors
    /// Where the file cannot be opened.
    pub fn open(path: &Path, max_record_bytes: u64) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(|e| StoreError::io("read", path, &e))?;
        let decoder = Decoder::new().map_err(|e| StoreError::io("read", path, &e))?;
        let input = BufReader::with_capacity(CHUNK_BYTES, file);
        Ok(Frames { path: path.to_owned(), input, decoder, offset: 0, max_record_bytes, record: Vec::new(), chunk: vec![0; CHUNK_BYTES] })
    }

    /// The next record with the place of its frame; none at the end of the file. Frames without content are passed over.
    ///
    /// # Errors
    /// Names the file and the offset of a frame that is cut off, damaged or over the limit.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(Span, &[u8])>, StoreError> {
        loop {
            let start = self.offset;
            if !self.frame()? {
                return Ok(None);
            }
            if !self.record.is_empty() {
                return Ok(Some((Span { offset: start, len: self.offset - start }, &self.record)));
            }
        }
    }

    fn frame(&mut self) -> Result<bool, StoreError> {
        let start = self.offset;
        self.record.clear();
        self.decoder.reinit().map_err(|e| StoreError::io("read", &self.path, &e))?;
        let damaged = |problem: String| StoreError::damaged(&self.path, format!("byte {start}"), problem);
        loop {
            let input = self.input.fill_buf().map_err(|e| StoreError::io("read", &self.path, &e))?;
            let at_end = input.is_empty();
            if at_end && self.offset == start {
                return Ok(false);
            }
            let mut source = InBuffer::around(input);
            let mut target = OutBuffer::around(&mut self.chunk[..]);
            let hint = self.decoder.run(&mut source, &mut target).map_err(|e| damaged(format!("the frame cannot be read: {e}")))?;
            let (consumed, produced) = (source.pos(), target.pos());
            self.record.extend_from_slice(&self.chunk[..produced]);
            self.input.consume(consumed);
            self.offset += consumed as u64;
            if self.record.len() as u64 > self.max_record_bytes {
                return Err(damaged(format!("the record is over the limit of {} bytes", self.max_record_bytes)));
            }
            if hint == 0 {
                return Ok(true);
            }
            if at_end && produced == 0 {
                return Err(damaged("the frame breaks off at the end of the file".into()));
            }
        }
    }
}

thread_local!(static DECOMPRESSOR: RefCell<Option<bulk::Decompressor<'static>>> = const { RefCell::new(None) });

/// Decompresses one whole frame.
///
/// # Errors
/// Where it is damaged or over the limit.
pub fn decompress(frame: &[u8], max_record_bytes: u64) -> io::Result<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(frame).map_err(|_| io::Error::other("not a zstd frame"))?;
    match size {
        // Made once a thread: to make one costs more than a small frame.
        Some(size) if size <= max_record_bytes => DECOMPRESSOR.with_borrow_mut(|made| {
            let decompressor = match made {
                Some(made) => made,
                None => made.insert(bulk::Decompressor::new()?),
            };
            decompressor.decompress(frame, size as usize)
        }),
        Some(size) => Err(io::Error::other(format!("a record of {size} bytes is over the limit of {max_record_bytes}"))),
        None => Err(io::Error::other("the frame does not tell its size")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_with_their_places_and_damage_is_located() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.zst");
        let mut writer = FrameWriter::new(3).unwrap();
        let records = [b"one\n".to_vec(), vec![b'x'; 700_000], b"three\n".to_vec()];
        let mut bytes = Vec::new();
        let mut places = Vec::new();
        for record in &records {
            let frame = writer.frame(record).unwrap();
            places.push(Span { offset: bytes.len() as u64, len: frame.len() as u64 });
            assert_eq!(decompress(&frame, 1 << 20).unwrap(), *record);
            bytes.extend(frame);
        }
        std::fs::write(&path, &bytes).unwrap();
        let mut frames = Frames::open(&path, 1 << 20).unwrap();
        for (record, place) in records.iter().zip(&places) {
            assert_eq!(frames.next().unwrap().unwrap(), (*place, record.as_slice()));
        }
        assert!(frames.next().unwrap().is_none());

        let mut small = Frames::open(&path, 1000).unwrap();
        assert!(small.next().unwrap().is_some());
        assert!(small.next().unwrap_err().to_string().contains(&format!("byte {}", places[1].offset)));
        assert!(decompress(&bytes[places[1].offset as usize..][..places[1].len as usize], 1000).is_err());

        let last = places[2].offset as usize;
        for damaged in [bytes[..bytes.len() - 1].to_vec(), [&bytes[..last + 10], &[0xff], &bytes[last + 11..]].concat()] {
            std::fs::write(&path, &damaged).unwrap();
            let mut frames = Frames::open(&path, 1 << 20).unwrap();
            assert!(frames.next().unwrap().is_some() && frames.next().unwrap().is_some());
            let error = frames.next().unwrap_err().to_string();
            assert!(error.contains(&format!("byte {last}")) && error.contains("x.zst"), "{error}");
        }
    }
}
