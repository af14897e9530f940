//! Frame headers and seek tables of the zstd seekable format, read from bytes. Pure.

/// Largest window that readers take without being told to: 2^27 bytes.
pub(super) const MAX_WINDOW: u64 = 1 << 27;

const FRAME_MAGIC: u32 = 0xFD2F_B528;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const SKIPPABLE_HEADER: u64 = 8;
pub(super) const FOOTER: u64 = 9;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Memory that a reader needs, bytes.
    pub window: u64,
    pub content: Option<u64>,
    pub checksum: bool,
    pub dictionary: bool,
}

impl Header {
    /// None where the bytes do not begin a zstd frame.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        if word(frame, 0)? != FRAME_MAGIC {
            return None;
        }
        let descriptor = *frame.get(4)?;
        let single_segment = descriptor & 0x20 != 0;
        let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let content_bytes = match (descriptor >> 6, single_segment) {
            (0, false) => 0,
            (0, true) => 1,
            (flag, _) => 1 << flag,
        };
        let dictionary_at = 5 + usize::from(!single_segment);
        let content_at = dictionary_at + dictionary_bytes;
        let field = frame.get(content_at..content_at + content_bytes)?;
        let number = field.iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        let content = match content_bytes {
            0 => None,
            // Two bytes begin where one ends.
            2 => Some(number + 256),
            _ => Some(number),
        };
        let window = match content {
            Some(content) if single_segment => content,
            _ => {
                let byte = u64::from(*frame.get(5)?);
                let base = 1_u64 << (10 + (byte >> 3));
                base + base / 8 * (byte & 7)
            }
        };
        let dictionary = frame.get(dictionary_at..content_at)?.iter().any(|byte| *byte != 0);
        Some(Header { window, content, checksum: descriptor & 4 != 0, dictionary })
    }
}

/// One frame by the seek table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seek {
    /// Compressed, and before compression.
    pub bytes: u32,
    pub raw_bytes: u32,
    /// Low half of the content's XXH64, as at the end of the frame.
    pub checksum: Option<u32>,
}

/// Length of the whole skippable frame of a table with these entries.
pub(super) fn len_of(table: &[Seek]) -> u64 {
    let entry = if table.first().is_some_and(|seek| seek.checksum.is_some()) { 12 } else { 8 };
    SKIPPABLE_HEADER + table.len() as u64 * entry + FOOTER
}

/// Length of the whole skippable frame of the table, by the last bytes of the file.
///
/// # Errors
/// Where they are no footer of a seek table.
pub(super) fn table_len(footer: &[u8]) -> Result<u64, String> {
    if footer.len() as u64 != FOOTER || word(footer, 5) != Some(SEEKABLE_MAGIC) {
        return Err("the file does not end in a seek table".into());
    }
    if footer[4] & 0x7C != 0 {
        return Err(format!("the seek table's descriptor {:#04x} has bits that must be 0", footer[4]));
    }
    let frames = u64::from(word(footer, 0).unwrap_or(0));
    Ok(SKIPPABLE_HEADER + frames * entry_len(footer[4]) + FOOTER)
}

fn entry_len(descriptor: u8) -> u64 {
    if descriptor & 0x80 != 0 { 12 } else { 8 }
}

/// The entries of a whole skippable frame, [`table_len`] bytes.
///
/// # Errors
/// Where it is no seek table.
pub(super) fn table(frame: &[u8]) -> Result<Vec<Seek>, String> {
    let footer = frame.len().checked_sub(FOOTER as usize).map(|at| &frame[at..]).unwrap_or_default();
    if table_len(footer)? != frame.len() as u64 {
        return Err("the seek table is cut off".into());
    }
    if word(frame, 0) != Some(SKIPPABLE_MAGIC) {
        return Err("the seek table is in no skippable frame".into());
    }
    if word(frame, 4).map(u64::from) != Some(frame.len() as u64 - SKIPPABLE_HEADER) {
        return Err("the seek table's frame is of another length than it says".into());
    }
    let body = &frame[SKIPPABLE_HEADER as usize..frame.len() - FOOTER as usize];
    let entry = |bytes: &[u8]| Some(Seek { bytes: word(bytes, 0)?, raw_bytes: word(bytes, 4)?, checksum: word(bytes, 8) });
    Ok(body.chunks_exact(entry_len(footer[4]) as usize).filter_map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zstd::{bulk::Compressor, stream::raw::CParameter};

    #[test]
    fn headers_say_what_zstd_was_told() {
        for (len, checksum, window_log) in [(10, true, 20), (300, false, 20), (70_000, true, 20), (3 << 20, true, 20), (3 << 20, true, 27)]
        {
            let mut compressor = Compressor::new(3).unwrap();
            compressor.set_parameter(CParameter::ChecksumFlag(checksum)).unwrap();
            compressor.set_parameter(CParameter::WindowLog(window_log)).unwrap();
            let frame = compressor.compress(&vec![b'x'; len]).unwrap();
            let header = Header::parse(&frame).unwrap();
            let window = if len as u64 > 1 << window_log { 1 << window_log } else { len as u64 };
            assert_eq!(header, Header { window, content: Some(len as u64), checksum, dictionary: false });
        }
        assert_eq!(Header::parse(b"\x5e\x2a\x4d\x18\x00\x00\x00\x00"), None);
        assert_eq!(Header::parse(&[0x28, 0xb5, 0x2f, 0xfd]), None);
        // Window byte 0x09: 2^11 and an eighth of it.
        assert_eq!(Header::parse(&[0x28, 0xb5, 0x2f, 0xfd, 0, 9]).map(|h| (h.window, h.content)), Some((2048 + 256, None)));
        let with_dictionary = [0x28, 0xb5, 0x2f, 0xfd, 0x21, 7, 3];
        assert_eq!(Header::parse(&with_dictionary).map(|h| (h.content, h.dictionary)), Some((Some(3), true)));
    }

    #[test]
    fn tables_are_read_and_refused() {
        let mut frame = Vec::new();
        for n in [SKIPPABLE_MAGIC, 2 * 12 + 9, 5, 6, 7, 8, 9, 10, 2] {
            frame.extend(n.to_le_bytes());
        }
        frame.push(0x80);
        frame.extend(SEEKABLE_MAGIC.to_le_bytes());
        let seeks = [Seek { bytes: 5, raw_bytes: 6, checksum: Some(7) }, Seek { bytes: 8, raw_bytes: 9, checksum: Some(10) }];
        assert_eq!(table_len(&frame[frame.len() - 9..]), Ok(frame.len() as u64));
        assert_eq!(table(&frame), Ok(seeks.to_vec()));
        for (at, byte) in [(0, 0), (4, 1), (frame.len() - 1, 0), (frame.len() - 5, 0x84), (frame.len() - 9, 3)] {
            let mut damaged = frame.clone();
            damaged[at] = byte;
            assert!(table(&damaged).is_err(), "{at}");
        }
        assert!(table(&frame[1..]).is_err() && table(&[]).is_err());
    }
}
