//! Text as bytes: lines, numbering, line ends and encodings, for files of any content.

/// How much of a file is looked at to call it binary, bytes.
const BINARY_PROBE: usize = 8 << 10;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A NUL byte near its beginning.
pub fn is_binary(content: &[u8]) -> bool {
    memchr::memchr(0, &content[..content.len().min(BINARY_PROBE)]).is_some()
}

/// Lines with their ends; the last may have none.
pub fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.split_inclusive(|&b| b == b'\n')
}

/// One line as `cat -n` shows it, always ended.
pub fn push_numbered(out: &mut Vec<u8>, number: usize, line: &[u8]) {
    out.extend_from_slice(format!("{number:6}\t").as_bytes());
    out.extend_from_slice(line);
    if line.last() != Some(&b'\n') {
        out.push(b'\n');
    }
}

/// 1-based line of a byte offset.
pub fn line_at(content: &[u8], offset: usize) -> usize {
    1 + memchr::memchr_iter(b'\n', &content[..offset.min(content.len())]).count()
}

/// Offsets at which `needle` occurs, overlapping ones too.
pub fn occurrences(content: &[u8], needle: &[u8]) -> Vec<usize> {
    let finder = memchr::memmem::Finder::new(needle);
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = content.get(from..).and_then(|rest| finder.find(rest)) {
        found.push(from + at);
        from += at + 1;
    }
    found
}

/// Whether most line ends are CRLF.
pub fn is_crlf(content: &[u8]) -> bool {
    let line_feeds = memchr::memchr_iter(b'\n', content);
    let (crlf, lf) =
        line_feeds.fold((0, 0), |(crlf, lf), at| if at > 0 && content[at - 1] == b'\r' { (crlf + 1, lf) } else { (crlf, lf + 1) });
    crlf > lf
}

/// Every line end as CRLF, those that are already included.
pub fn to_crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 16);
    for (i, &b) in text.iter().enumerate() {
        if b == b'\n' && (i == 0 || text[i - 1] != b'\r') {
            out.push(b'\r');
        }
        out.push(b);
    }
    out
}

/// Length of a byte order mark at the beginning.
pub fn bom_len(content: &[u8]) -> usize {
    if content.starts_with(BOM) { BOM.len() } else { 0 }
}

/// `text` in the encoding of `content`: UTF-8, or Latin-1 where the content is evidently some single-byte encoding.
///
/// # Errors
/// The first character that Latin-1 does not have.
pub fn encode_like(content: &[u8], text: &str) -> Result<Vec<u8>, char> {
    if text.is_ascii() || !is_single_byte(content) {
        return Ok(text.as_bytes().to_vec());
    }
    text.chars().map(|c| u8::try_from(c).map_err(|_| c)).collect()
}

/// More bytes that cannot be UTF-8 than characters that are.
fn is_single_byte(content: &[u8]) -> bool {
    let (mut valid, mut invalid) = (0, 0);
    for chunk in content.utf8_chunks() {
        valid += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        invalid += usize::from(!chunk.invalid().is_empty());
    }
    invalid > valid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_judged_by_the_majority() {
        assert!(is_crlf(b"a\r\nb\r\nc\n"));
        assert!(!is_crlf(b"a\r\nb\n"));
        assert!(!is_crlf(b"a"));
        assert_eq!(to_crlf(b"a\nb\r\n\n"), b"a\r\nb\r\n\r\n");
    }

    #[test]
    fn occurrences_overlap() {
        assert_eq!(occurrences(b"aaa", b"aa"), [0, 1]);
        assert_eq!(occurrences(b"abc", b"x"), Vec::<usize>::new());
        assert_eq!((line_at(b"a\nb\nc", 0), line_at(b"a\nb\nc", 2), line_at(b"a\nb\nc", 99)), (1, 2, 3));
    }

    #[test]
    fn text_takes_the_encoding_of_its_file() {
        assert_eq!(encode_like(b"caf\xe9", "\u{fc}"), Ok(vec![0xfc]));
        assert_eq!(encode_like(b"caf\xe9", "\u{2192}"), Err('\u{2192}'));
        assert_eq!(encode_like("caf\u{e9} \u{2192}".as_bytes(), "\u{fc}"), Ok("\u{fc}".as_bytes().to_vec()));
        // One broken byte among UTF-8 text does not make it Latin-1.
        assert_eq!(encode_like(b"\xc3\xa9\xc3\xa9 \xff", "\u{fc}"), Ok("\u{fc}".as_bytes().to_vec()));
    }
}
