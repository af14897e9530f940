//! Names in a diff, quoted in the manner of C as git does it.

/// The name as it stands in a diff: as it is, or in quotes where a byte of it is not plain.
pub fn quote(name: &[u8]) -> String {
    let plain = |&b: &u8| (b' '..0x7f).contains(&b) && b != b'"' && b != b'\\';
    if name.iter().all(plain) {
        return name.iter().map(|&b| b as char).collect();
    }
    let mut out = String::from("\"");
    for b in name {
        match b {
            b if plain(b) => out.push(*b as char),
            b'"' | b'\\' => out.extend(['\\', *b as char]),
            7..=13 => out.extend(['\\', LETTERS[usize::from(b - 7)] as char]),
            b => out.push_str(&format!("\\{b:03o}")),
        }
    }
    out.push('"');
    out
}

/// For bytes 7 to 13.
const LETTERS: &[u8; 7] = b"abtnvfr";

/// The quoted name at the beginning of `text`, which begins with its quote; none where it has no end or an unknown escape.
pub fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = text.strip_prefix(b"\"")?.iter().copied();
    let mut out = Vec::new();
    loop {
        match bytes.next()? {
            b'"' => return Some(out),
            b'\\' => match bytes.next()? {
                b @ (b'"' | b'\\') => out.push(b),
                first @ b'0'..=b'3' => {
                    let mut octal = u32::from(first - b'0');
                    for _ in 0..2 {
                        octal = octal * 8 + char::from(bytes.next()?).to_digit(8)?;
                    }
                    out.push(octal as u8);
                }
                letter => out.push(7 + LETTERS.iter().position(|&l| l == letter)? as u8),
            },
            b => out.push(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_git_does_it_and_back() {
        assert_eq!(quote(b"a/with space"), "a/with space");
        assert_eq!(quote("a/n\u{e4}\"\\\t\n\u{1}\u{7f}".as_bytes()), r#""a/n\303\244\"\\\t\n\001\177""#);
        let all: Vec<u8> = (1..=255).collect();
        assert_eq!(unquote(quote(&all).as_bytes()), Some(all));
        assert_eq!(unquote(br#""a" "b""#), Some(b"a".to_vec()));
        assert_eq!((unquote(b"\"a"), unquote(br#""\x""#)), (None, None));
    }
}
