//! zstd's seekable format: a skippable frame at the end of a file says how long each frame is, compressed and not.
//!
//! <https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md>

use std::io;

const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// Frame count, descriptor, magic number.
const FOOTER_BYTES: u32 = 9;
const ENTRY_BYTES: u32 = 8;

/// Lengths of the frames so far.
#[derive(Debug, Default)]
pub struct SeekTable(Vec<(u32, u32)>);

impl SeekTable {
    /// # Errors
    /// Where the frame is too long for the format: 4 GiB.
    pub fn push(&mut self, compressed: u64, raw: u64) -> io::Result<()> {
        let long = |_| io::Error::new(io::ErrorKind::FileTooLarge, "a frame over 4 GiB has no place in a seek table");
        self.0.push((u32::try_from(compressed).map_err(long)?, u32::try_from(raw).map_err(long)?));
        Ok(())
    }

    /// The skippable frame. A shard is far from the 500 million frames that one can hold.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let count = self.0.len() as u32;
        let entries = self.0.iter().flat_map(|(compressed, raw)| [*compressed, *raw]);
        let mut frame: Vec<u8> = [SKIPPABLE_MAGIC, ENTRY_BYTES * count + FOOTER_BYTES]
            .into_iter()
            .chain(entries)
            .chain([count])
            .flat_map(u32::to_le_bytes)
            .collect();
        // Descriptor: no checksums, which the frames have themselves.
        frame.push(0);
        frame.extend(SEEKABLE_MAGIC.to_le_bytes());
        frame
    }
}
