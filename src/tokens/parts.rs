//! Our own tokenizer of byte-level BPE: added tokens, normalization, splitting, merging.

use super::{
    added::{Added, AddedToken, Part},
    split::Splitter,
    vocab::Vocab,
};
use std::{borrow::Cow, ops::Range};
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Ids of the added tokens of Qwen3 are those after its ranks, in this order.
const QWEN3_ADDED: [&str; 26] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
];

/// Unicode normalization of the text between added tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Normalization {
    None,
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

/// The parts of a tokenizer, in the order in which text meets them.
pub(super) struct Parts {
    /// Looked for in the text as it is.
    pub added: Added,
    pub normalization: Normalization,
    /// Looked for in normalized text.
    pub added_normalized: Added,
    pub splitters: Vec<Splitter>,
    pub vocab: Vocab,
}

impl Parts {
    /// Whether both are known to make the same tokens of any text.
    pub fn is_same(&self, other: &Parts) -> bool {
        let added = |parts: &Parts| -> Vec<(u32, String)> {
            let mut added: Vec<_> = parts.added.tokens().iter().map(|token| (token.id, token.content.clone())).collect();
            added.sort();
            added
        };
        let simple = |parts: &Parts| parts.added_normalized.tokens().is_empty() && matches!(parts.splitters.as_slice(), [Splitter::Qwen]);
        simple(self)
            && simple(other)
            && self.normalization == other.normalization
            && added(self) == added(other)
            && self.vocab.has_tokens_of(&other.vocab)
    }

    pub fn token(&self, id: u32) -> &[u8] {
        if id < self.vocab.ids() { self.vocab.token(id) } else { &[] }
    }

    pub fn count_after(&self, text: &str, header: usize) -> (u64, u64) {
        let (mut count, mut inside, mut end) = (0, 0, 0);
        if header >= text.len() {
            self.each(text, &mut |_| count += 1);
            return (count, 0);
        }
        self.each(text, &mut |id| {
            count += 1;
            if end < header {
                end += self.len(id);
                inside += u64::from(end <= header);
            }
        });
        (count, count - inside)
    }

    /// Bytes of text that a token stands for.
    fn len(&self, id: u32) -> usize {
        let added = || self.added.tokens().iter().chain(self.added_normalized.tokens());
        match self.token(id).len() {
            0 => added().find(|token| token.id == id).map_or(0, |token| token.content.len()),
            len => len,
        }
    }

    pub fn each(&self, text: &str, push: &mut impl FnMut(u32)) {
        self.added.split(text, |part, _| match part {
            Part::Token(id) => push(id),
            Part::Text(text) => {
                let text = self.normalize(text);
                self.added_normalized.split(&text, |part, _| match part {
                    Part::Token(id) => push(id),
                    Part::Text(text) => self.split(text, push),
                });
            }
        });
    }

    pub fn spans(&self, text: &str, mut each: impl FnMut(u32, Range<usize>)) {
        self.added.split(text, |part, at| match part {
            Part::Token(id) => each(id, at),
            Part::Text(part) => {
                let normal = self.normalize(part);
                let origins = if normal == part { None } else { Some(self.origins(part)) };
                let origin = |inside: Range<usize>| match &origins {
                    None => at.start + inside.start..at.start + inside.end,
                    Some(of) => at.start + of[inside.start].0 as usize..at.start + of[inside.end - 1].1 as usize,
                };
                self.added_normalized.split(&normal, |part, inside| match part {
                    Part::Token(id) => each(id, origin(inside)),
                    Part::Text(text) => {
                        let mut from = inside.start;
                        self.split(text, &mut |id| {
                            let to = from + self.token(id).len();
                            each(id, origin(from..to));
                            from = to;
                        });
                    }
                });
            }
        });
    }

    /// For each byte of the normalized text, the bytes of the text that its character was made of.
    fn origins(&self, text: &str) -> Vec<(u32, u32)> {
        let (mut origins, mut from, mut to) = (Vec::with_capacity(text.len()), 0, 0);
        let mut chars = text.chars().map(char::len_utf8);
        let mut put = |c: char, change: isize| {
            // Above 0 the character is new and belongs to the one before; below, it took the place of more than one.
            if change <= 0 {
                from = to;
                to += chars.by_ref().take(1 + change.unsigned_abs()).sum::<usize>();
            }
            origins.extend(std::iter::repeat_n((from as u32, to as u32), c.len_utf8()));
        };
        match self.normalization {
            Normalization::None => text.chars().for_each(|c| put(c, 0)),
            Normalization::Nfc => text.nfc().for_each(|(c, change)| put(c, change)),
            Normalization::Nfd => text.nfd().for_each(|(c, change)| put(c, change)),
            Normalization::Nfkc => text.nfkc().for_each(|(c, change)| put(c, change)),
            Normalization::Nfkd => text.nfkd().for_each(|(c, change)| put(c, change)),
        }
        origins
    }

    fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.normalization {
            Normalization::None => Cow::Borrowed(text),
            Normalization::Nfc => nfc(text),
            _ if text.is_ascii() => Cow::Borrowed(text),
            Normalization::Nfd => Cow::Owned(text.nfd().map(|(c, _)| c).collect()),
            Normalization::Nfkc => Cow::Owned(text.nfkc().map(|(c, _)| c).collect()),
            Normalization::Nfkd => Cow::Owned(text.nfkd().map(|(c, _)| c).collect()),
        }
    }

    fn split(&self, text: &str, push: &mut impl FnMut(u32)) {
        let vocab = &self.vocab;
        match self.splitters.as_slice() {
            [] => vocab.encode(text.as_bytes(), push),
            [only] => only.split(text, |piece| vocab.encode(piece.as_bytes(), push)),
            [first, rest @ ..] => {
                let mut pieces = Vec::new();
                first.split(text, |piece| pieces.push(piece));
                for splitter in rest {
                    let mut finer = Vec::with_capacity(pieces.len());
                    pieces.iter().for_each(|piece| splitter.split(piece, |piece| finer.push(piece)));
                    pieces = finer;
                }
                pieces.iter().for_each(|piece| vocab.encode(piece.as_bytes(), push));
            }
        }
    }
}

/// Qwen3's tokenizer around its vocabulary.
pub(super) fn qwen3_parts(vocab: Vocab) -> Parts {
    let first = vocab.ids();
    let tokens = QWEN3_ADDED.iter().zip(first..).map(|(content, id)| AddedToken::new(id, content)).collect();
    let added = |tokens| Added::new(tokens).unwrap_or_else(|e| unreachable!("26 short texts: {e}"));
    Parts {
        added: added(tokens),
        normalization: Normalization::Nfc,
        added_normalized: added(Vec::new()),
        splitters: vec![Splitter::Qwen],
        vocab,
    }
}

/// Below U+0300, whose first byte is 0xCC, every text is its own NFC.
fn nfc(text: &str) -> Cow<'_, str> {
    // By blocks, which the compiler looks at as a whole.
    let is_plain = |block: &[u8]| block.iter().fold(0, |most, byte| most.max(*byte)) < 0xcc;
    if text.as_bytes().chunks(64).all(is_plain) || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.nfc().map(|(c, _)| c).collect())
}
