//! How an archive is compressed, by its first bytes: names and media types lie.

use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufReader, ErrorKind, Read};

/// Archives are read in pieces of this size.
const BUFFER: usize = 256 << 10;
/// The largest window that a zstd frame may ask for, as a power of two: 128 MiB, what `zstd -d` takes by itself.
const WINDOW_LOG: u32 = 27;

/// Whether a file that begins so is compressed, by something that is read or not.
#[must_use]
pub fn is_compressed(head: &[u8]) -> bool {
    matches!(head, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0xfd, b'7', b'z', ..] | [b'B', b'Z', b'h', ..])
}

/// Uncompressed, whether by gzip, zstd or nothing.
///
/// # Errors
/// `InvalidData` for another compression.
pub fn plain<'a>(source: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut head = Vec::new();
    let mut source = source;
    source.by_ref().take(6).read_to_end(&mut head)?;
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(head.clone()).chain(source));
    match head[..] {
        [0x1f, 0x8b, ..] => Ok(Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(whole)))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(whole)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(unknown("xz")),
        [b'B', b'Z', b'h', ..] => Err(unknown("bzip2")),
        _ => Ok(Box::new(whole)),
    }
}

fn unknown(name: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("it is compressed by {name}; gzip, zstd and none are read"))
}
