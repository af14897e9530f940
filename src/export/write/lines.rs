//! JSON Lines in zstd frames that any reader of zstd takes.

use std::io;
use zstd::{bulk::Compressor, stream::raw::CParameter};

/// The largest window that every reader allows without being asked.
const MAX_WINDOW_LOG: u32 = 27;

/// Compresses blocks of lines, each to a frame: checksummed, its content's size in its header.
pub struct Encoder(Compressor<'static>);

impl Encoder {
    /// # Errors
    /// Where the level is none of zstd's, or there is no memory.
    pub fn new(level: i32) -> io::Result<Self> {
        let mut compressor = Compressor::new(level)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
        compressor.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
        compressor.set_parameter(CParameter::WindowLog(MAX_WINDOW_LOG))?;
        Ok(Encoder(compressor))
    }

    /// # Errors
    /// Where there is no memory.
    pub fn encode(&mut self, lines: &[u8]) -> io::Result<Vec<u8>> {
        self.0.compress(lines)
    }
}
