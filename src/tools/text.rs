//! Bytes of a sandbox as text for a model: bounded, printable, cut with a mark.

use std::borrow::Cow;
use std::fmt::Write;

/// A cut moves to the end of a line where one is at most this many bytes away.
const SNAP: usize = 200;
/// Longest operating-system command (window titles, links) that is taken for one, bytes.
const MAX_OSC: usize = 4096;

/// Whether colour and cursor sequences are dropped or marked like other control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ansi {
    Strip,
    Mark,
}

/// Text of which the middle may be missing: the first bytes, the last bytes, and how many there were between them.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    pub head: &'a [u8],
    pub tail: &'a [u8],
    pub dropped: u64,
}

impl<'a> Output<'a> {
    #[must_use]
    pub fn whole(bytes: &'a [u8]) -> Self {
        Output { head: bytes, tail: &[], dropped: 0 }
    }

    /// At most `max` bytes of text and the mark of the cut, and whether there was one.
    #[must_use]
    pub fn shape(self, max: usize, ansi: Ansi) -> (String, bool) {
        let Output { head, tail, dropped } = self.trim(max.saturating_mul(4).max(64));
        if dropped == 0 {
            let whole = if tail.is_empty() { clean(head, ansi) } else { clean(&[head, tail].concat(), ansi) };
            if whole.len() <= max {
                return (whole, false);
            }
            let front = front(&whole, max / 2);
            let back = back(&whole[front.len()..], max - front.len());
            return (joined(front, back, (whole.len() - front.len() - back.len()) as u64), true);
        }
        let (head, tail) = (clean(head, ansi), clean(tail, ansi));
        let front = if head.len() > max / 2 { front(&head, max / 2) } else { &head };
        let back = if tail.len() > max - max / 2 { back(&tail, max - max / 2) } else { &tail };
        let cut = dropped + (head.len() - front.len()) as u64 + (tail.len() - back.len()) as u64;
        (joined(front, back, cut), true)
    }

    /// Bounds the work before any of it is done, and takes half characters off the edges of a gap.
    fn trim(self, max: usize) -> Self {
        let (mut head, mut tail, mut dropped) = (self.head, self.tail, self.dropped);
        if head.len() + tail.len() > 2 * max {
            let all = head.len() + tail.len();
            if tail.is_empty() {
                tail = &head[head.len() / 2..];
                head = &head[..head.len() / 2];
            }
            head = &head[..head.len().min(max)];
            tail = &tail[tail.len().saturating_sub(max)..];
            dropped += (all - head.len() - tail.len()) as u64;
        }
        if dropped > 0 {
            let kept = head.len() + tail.len();
            head = &head[..head.len() - half_character(head)];
            let continuation = tail.iter().take(3).take_while(|b| **b & 0xc0 == 0x80).count();
            tail = &tail[continuation..];
            dropped += (kept - head.len() - tail.len()) as u64;
        }
        Output { head, tail, dropped }
    }
}

/// Bytes at the end that begin a character without ending it.
fn half_character(bytes: &[u8]) -> usize {
    let Some(back) = bytes.iter().rev().take(3).position(|b| b & 0xc0 != 0x80) else { return 0 };
    let (lead, have) = (bytes[bytes.len() - 1 - back], back + 1);
    let wants = match lead {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return 0,
    };
    if have < wants { have } else { 0 }
}

/// The first bytes, up to the end of a line where one is near.
fn front(text: &str, max: usize) -> &str {
    let text = &text[..text.floor_char_boundary(max)];
    match text.rfind('\n') {
        Some(at) if text.len() - at <= SNAP => &text[..=at],
        _ => text,
    }
}

/// The last bytes, from the beginning of a line where one is near.
fn back(text: &str, max: usize) -> &str {
    let text = &text[text.ceil_char_boundary(text.len().saturating_sub(max))..];
    match text.find('\n') {
        Some(at) if at < SNAP && at + 1 < text.len() => &text[at + 1..],
        _ => text,
    }
}

fn joined(front: &str, back: &str, cut: u64) -> String {
    let line_end = if front.is_empty() || front.ends_with('\n') { "" } else { "\n" };
    format!("{front}{line_end}[... {cut} bytes cut ...]\n{back}")
}

/// Text with every byte that is not printable marked: `\xNN` for bytes that are not UTF-8 and for control characters
/// (`\r` for a lone carriage return). Line ends `\r\n` become `\n`.
#[must_use]
pub fn clean(bytes: &[u8], ansi: Ansi) -> String {
    let stripped = match ansi {
        Ansi::Strip if bytes.contains(&0x1b) => Cow::Owned(strip_ansi(bytes)),
        _ => Cow::Borrowed(bytes),
    };
    let mut text = String::with_capacity(stripped.len());
    // The check of a whole text is several times faster than going through its chunks.
    if let Ok(valid) = std::str::from_utf8(&stripped) {
        push_printable(&mut text, valid);
        return text;
    }
    for chunk in stripped.utf8_chunks() {
        push_printable(&mut text, chunk.valid());
        chunk.invalid().iter().for_each(|byte| mark(&mut text, *byte));
    }
    text
}

/// Bytes.
const BLOCK: usize = 64;

fn push_printable(text: &mut String, mut rest: &str) {
    // Control characters, of which those above ASCII begin with 0xc2 as others do.
    let suspect = |byte: u8| (byte < 0x20 && byte != b'\n' && byte != b'\t') || byte == 0x7f || byte == 0xc2;
    // Blocks are looked at as a whole, which the compiler does many bytes at a time.
    let first = |bytes: &[u8]| {
        let plain = bytes.chunks(BLOCK).take_while(|block| !block.iter().fold(false, |any, byte| any | suspect(*byte))).count() * BLOCK;
        bytes.get(plain..)?.iter().position(|byte| suspect(*byte)).map(|at| plain + at)
    };
    while let Some(at) = first(rest.as_bytes()) {
        let (plain, from) = rest.split_at(at);
        text.push_str(plain);
        let mut chars = from.chars();
        match chars.next() {
            Some('\r') if chars.as_str().starts_with('\n') => {}
            Some('\r') => text.push_str("\\r"),
            Some(c) if c.is_ascii_control() => mark(text, c as u8),
            Some(c) if c.is_control() => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            other => text.extend(other),
        }
        rest = chars.as_str();
    }
    text.push_str(rest);
}

fn mark(text: &mut String, byte: u8) {
    let _ = write!(text, "\\x{byte:02x}");
}

fn strip_ansi(bytes: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at] == 0x1b).then(|| escape_length(&bytes[at..])).flatten() {
            Some(length) => at += length,
            None => {
                kept.push(bytes[at]);
                at += 1;
            }
        }
    }
    kept
}

/// Bytes of the escape sequence at the beginning (ECMA-48: control sequence, operating-system command, two-character escape);
/// none where it is not whole.
fn escape_length(bytes: &[u8]) -> Option<usize> {
    let run = |from: usize, class: std::ops::RangeInclusive<u8>| bytes[from..].iter().take_while(|b| class.contains(b)).count();
    let ends = |at: usize, class: std::ops::RangeInclusive<u8>| bytes.get(at).filter(|b| class.contains(b)).map(|_| at + 1);
    match bytes.get(1)? {
        b'[' => {
            let parameters = 2 + run(2, 0x30..=0x3f);
            ends(parameters + run(parameters, 0x20..=0x2f), 0x40..=0x7e)
        }
        b']' => {
            let window = &bytes[..bytes.len().min(MAX_OSC)];
            let end = 2 + window[2..].iter().position(|b| matches!(b, 0x07 | 0x1b | b'\n'))?;
            match (window[end], window.get(end + 1)) {
                (0x07, _) => Some(end + 1),
                (0x1b, Some(b'\\')) => Some(end + 2),
                _ => None,
            }
        }
        _ => ends(1 + run(1, 0x20..=0x2f), 0x30..=0x7e),
    }
}

/// At most `max` bytes, with dots where there was more.
#[must_use]
pub fn clip(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max { text.into() } else { format!("{}...", &text[..text.floor_char_boundary(max)]).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unprintable_bytes_are_marked() {
        assert_eq!(clean(b"a\0b\xff\xc3\xa9\x07\tz\n", Ansi::Mark), "a\\x00b\\xffé\\x07\tz\n");
        assert_eq!(clean(b"1%\r2%\r\nend\x7f\xc2\x85", Ansi::Mark), "1%\\r2%\nend\\x7f\\u0085");
        assert_eq!(clean(b"\xe2\x82", Ansi::Mark), "\\xe2\\x82");
    }

    #[test]
    fn colour_goes_and_broken_sequences_stay_visible() {
        assert_eq!(clean(b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07ok\x1b]8;;x\x1b\\link\x1b(B", Ansi::Strip), "red oklink");
        assert_eq!(clean(b"\x1b[31", Ansi::Strip), "\\x1b[31");
        assert_eq!(clean(b"\x1b[31mred", Ansi::Mark), "\\x1b[31mred");
    }

    #[test]
    fn a_cut_keeps_whole_lines_and_counts_what_is_gone() {
        let text: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        let (shaped, cut) = Output::whole(text.as_bytes()).shape(1000, Ansi::Mark);
        assert!(cut && shaped.starts_with("line 0\n") && shaped.ends_with("line 999\n"));
        let (mark, lost) = shaped.lines().find_map(|l| Some((l, l.strip_prefix("[... ")?.split(' ').next()?))).unwrap();
        assert_eq!(lost.parse::<usize>().unwrap(), text.len() - (shaped.len() - mark.len() - 1));
        assert!(shaped.lines().all(|l| l.starts_with("line ") || l == mark));
    }

    #[test]
    fn a_gap_does_not_leave_half_characters() {
        let (head, tail) = ("aé".as_bytes(), "éb".as_bytes());
        let (shaped, cut) = Output { head: &head[..2], tail: &tail[1..], dropped: 7 }.shape(100, Ansi::Strip);
        assert_eq!((shaped.as_str(), cut), ("a\n[... 9 bytes cut ...]\nb", true));
    }
}
