//! Tiktoken files: lines of a token in base64 and its rank.

use super::{
    added::{Added, AddedToken},
    parts::{Normalization, Parts, qwen3_parts},
    split::Splitter,
    tokenizer::Flaw,
    vocab::Vocab,
};

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const CL100K_ADDED: &[(u32, &str)] = &[
    (100_257, "<|endoftext|>"),
    (100_258, "<|fim_prefix|>"),
    (100_259, "<|fim_middle|>"),
    (100_260, "<|fim_suffix|>"),
    (100_276, "<|endofprompt|>"),
];

/// What is said of a file whose pattern is not known.
pub(super) const ASSUMED: &str = " (split pattern of cl100k_base assumed, no special tokens)";

const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const O200K_ADDED: &[(u32, &str)] = &[(199_999, "<|endoftext|>"), (200_018, "<|endofprompt|>")];

/// The file's tokenizer; `name` gets what had to be assumed.
pub(super) fn parse(data: &[u8], name: &mut String) -> Result<Parts, Flaw> {
    let mut tokens = Vec::new();
    for (number, line) in data.split(|byte| *byte == b'\n').enumerate() {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let Some(first) = words.next() else { continue };
        let rank = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse::<u32>().ok());
        let (Some(token), Some(rank), None) = (base64(first), rank, words.next()) else {
            return Err(Flaw::Format(format!("line {} is not base64 and a rank", number + 1)));
        };
        tokens.push((rank, token));
    }
    tokens.sort();
    if let Some(pair) = tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Flaw::Format(format!("two lines have the rank {}", pair[0].0)));
    }
    let vocab = Vocab::from_ranks(tokens.iter().map(|(rank, token)| (*rank, token.as_slice())))?;
    let (pattern, added) = match tokens.len() {
        151_643 => return Ok(qwen3_parts(vocab)),
        100_256 => (CL100K, CL100K_ADDED),
        199_998 => (O200K, O200K_ADDED),
        _ => {
            name.push_str(ASSUMED);
            (CL100K, &[][..])
        }
    };
    let set = |tokens: &[(u32, &str)]| {
        Added::new(tokens.iter().map(|(id, content)| AddedToken { special: true, ..AddedToken::new(*id, content) }).collect())
    };
    let flaw = |e: aho_corasick::BuildError| Flaw::Format(e.to_string());
    Ok(Parts {
        added: set(added).map_err(flaw)?,
        normalization: Normalization::None,
        added_normalized: set(&[]).map_err(flaw)?,
        splitters: vec![Splitter::new(pattern).map_err(|e| Flaw::Unsupported(e.to_string()))?],
        vocab,
    })
}

/// Standard alphabet; padding at the end is optional.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0);
    for &c in text {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    (held < 6).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_any_length() {
        assert_eq!(base64(b"IQ==").unwrap(), b"!");
        assert_eq!(base64(b"aGk=").unwrap(), b"hi");
        assert_eq!(base64(b"4pyT/w").unwrap(), [0xe2, 0x9c, 0x93, 0xff]);
        assert!(base64(b"a").is_none() && base64(b"a-b_").is_none());
    }

    #[test]
    fn a_bad_line_is_named() {
        let flaw = parse(b"IQ== 0\n\nIg== one\n", &mut String::new()).err().unwrap();
        assert_eq!(flaw.to_string(), "line 3 is not base64 and a rank");
        let flaw = parse(b"IQ== 0\nIg== 0\n", &mut String::new()).err().unwrap();
        assert_eq!(flaw.to_string(), "two lines have the rank 0");
    }
}
