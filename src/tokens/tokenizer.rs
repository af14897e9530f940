//! Text to token ids, exactly as the model's own tokenizer does it: Qwen3's is built in, others are read from a file.

use super::{
    added::{Added, AddedToken, Part},
    hf,
    split::Splitter,
    tiktoken,
    vocab::{Vocab, VocabError},
};
use sha2::{Digest, Sha256};
use std::{
    borrow::Cow,
    fmt::Write as _,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Largest tokenizer file that is read, bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Ids of the added tokens of Qwen3 are those after its ranks, in this order.
pub(super) const QWEN3_ADDED: [&str; 26] = [
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

/// Why a tokenizer file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("cannot read the tokenizer {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is no tokenizer: {why}; give a Hugging Face tokenizer.json or a tiktoken file (lines of base64 and rank)")]
    Format { path: PathBuf, why: String },
    #[error("the tokenizer {path} is of a kind that is not supported: {what}; supported are byte-level BPE vocabularies")]
    Unsupported { path: PathBuf, what: String },
}

/// What a file says, before its path is put to it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Flaw {
    #[error("{0}")]
    Format(String),
    #[error("{0}")]
    Unsupported(String),
}

impl From<VocabError> for Flaw {
    fn from(error: VocabError) -> Self {
        match error {
            VocabError::MissingByte(_) => Flaw::Unsupported(error.to_string()),
            _ => Flaw::Format(error.to_string()),
        }
    }
}

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

/// An exact tokenizer. Cheap to share, safe from many threads at once, linear (times log) in any text.
pub struct Tokenizer {
    name: String,
    digest: String,
    parts: Parts,
    /// The special tokens that part the turns of a chat.
    control: Added,
}

/// Special tokens that part turns in ChatML; where a tokenizer has one of them, its others mean nothing to a chat.
const CHAT_ML: [&str; 3] = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];

impl Tokenizer {
    /// Qwen3's, from 0.6B to 235B, Instruct-2507 and Coder included; built in.
    #[must_use]
    pub fn qwen3() -> Arc<Tokenizer> {
        static QWEN3: LazyLock<Arc<Tokenizer>> =
            LazyLock::new(|| Arc::new(Tokenizer::new("qwen3".into(), &[], qwen3_parts(Vocab::qwen3()))));
        Arc::clone(&QWEN3)
    }

    /// Reads a Hugging Face `tokenizer.json` (byte-level BPE) or a tiktoken file.
    /// A tiktoken file says neither its split pattern nor its special tokens: they are known by the number of ranks for Qwen,
    /// `cl100k_base` and `o200k_base`, else `cl100k_base`'s pattern is assumed, and the name says so.
    ///
    /// # Errors
    /// Where the file cannot be read, or is of a kind that is not supported (Unigram, WordPiece, SentencePiece-style BPE,
    /// patterns with look-around of their own, normalizers other than Unicode's).
    pub fn load(path: &Path) -> Result<Arc<Tokenizer>, TokenizerError> {
        let read = |source| TokenizerError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > MAX_FILE_BYTES {
            let why = format!("it has {bytes} bytes, at most {MAX_FILE_BYTES} are read");
            return Err(TokenizerError::Format { path: path.to_owned(), why });
        }
        let data = std::fs::read(path).map_err(read)?;
        let mut name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        let is_json = data.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let parts = if is_json { hf::parse(&data) } else { tiktoken::parse(&data, &mut name) };
        match parts {
            Ok(parts) => Ok(Arc::new(Tokenizer::new(name, &data, parts))),
            Err(Flaw::Format(why)) => Err(TokenizerError::Format { path: path.to_owned(), why }),
            Err(Flaw::Unsupported(what)) => Err(TokenizerError::Unsupported { path: path.to_owned(), what }),
        }
    }

    /// `source`: the file, where there is one; else the digest is of what is built in.
    fn new(name: String, source: &[u8], parts: Parts) -> Tokenizer {
        let mut hasher = Sha256::new();
        hasher.update(source);
        if source.is_empty() {
            for id in 0..parts.vocab.ids() {
                let token = parts.vocab.token(id);
                hasher.update((token.len() as u32).to_le_bytes());
                hasher.update(token);
            }
            parts.added.tokens().iter().for_each(|token| hasher.update(&token.content));
        }
        let digest = hasher.finalize().iter().fold("sha256:".to_owned(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let control = control(&parts);
        Tokenizer { name, digest, parts, control }
    }

    /// `qwen3`, or the name of the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `sha256:` and the digest of the file; of the built-in one, of its vocabulary and added tokens.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The bytes of a token of the vocabulary; empty where the id is not in use or of an added token.
    #[must_use]
    pub fn token(&self, id: u32) -> &[u8] {
        if id < self.parts.vocab.ids() { self.parts.vocab.token(id) } else { &[] }
    }

    /// Whether a token that parts turns, such as `<|im_end|>`, stands in the text literally. `<think>` and `<tool_call>` part none.
    #[must_use]
    pub fn has_control(&self, text: &str) -> bool {
        self.control.is_in(text)
    }

    /// A file that does not say its split pattern, which was guessed.
    #[must_use]
    pub fn is_assumed(&self) -> bool {
        self.name.ends_with(tiktoken::ASSUMED)
    }

    /// Whether both make the same tokens of any text, whatever files they came from.
    #[must_use]
    pub fn is_same(&self, other: &Tokenizer) -> bool {
        let (a, b) = (&self.parts, &other.parts);
        let added = |parts: &Parts| -> Vec<(u32, String)> {
            let mut added: Vec<_> = parts.added.tokens().iter().map(|token| (token.id, token.content.clone())).collect();
            added.sort();
            added
        };
        let simple = |parts: &Parts| parts.added_normalized.tokens().is_empty() && matches!(parts.splitters.as_slice(), [Splitter::Qwen]);
        self.digest == other.digest
            || simple(a) && simple(b) && a.normalization == b.normalization && added(a) == added(b) && a.vocab.has_tokens_of(&b.vocab)
    }

    /// Number of tokens. Added tokens in the text are recognised; none is put before or after it.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        let mut count = 0;
        self.each(text, &mut |_| count += 1);
        count
    }

    /// Tokens of the text, and those of them that do not lie wholly in its first `header` bytes. The header must be its own normal form.
    #[must_use]
    pub fn count_after(&self, text: &str, header: usize) -> (u64, u64) {
        let (mut count, mut inside, mut end) = (0, 0, 0);
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
        let added = || self.parts.added.tokens().iter().chain(self.parts.added_normalized.tokens());
        match self.token(id).len() {
            0 => added().find(|token| token.id == id).map_or(0, |token| token.content.len()),
            len => len,
        }
    }

    /// Ids of the text, as [`Tokenizer::count`] counts them.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 1);
        self.each(text, &mut |id| ids.push(id));
        ids
    }

    fn each(&self, text: &str, push: &mut impl FnMut(u32)) {
        self.parts.added.split(text, |part, _| match part {
            Part::Token(id) => push(id),
            Part::Text(text) => {
                let text = self.normalize(text);
                self.parts.added_normalized.split(&text, |part, _| match part {
                    Part::Token(id) => push(id),
                    Part::Text(text) => self.split(text, push),
                });
            }
        });
    }

    /// Calls `each` with every token in order and the bytes of the text that it stands for.
    pub fn spans(&self, text: &str, mut each: impl FnMut(u32, Range<usize>)) {
        self.parts.added.split(text, |part, at| match part {
            Part::Token(id) => each(id, at),
            Part::Text(part) => {
                let normal = self.normalize(part);
                let origins = if normal == part { None } else { Some(self.origins(part)) };
                let origin = |inside: Range<usize>| match &origins {
                    None => at.start + inside.start..at.start + inside.end,
                    Some(of) => at.start + of[inside.start].0 as usize..at.start + of[inside.end - 1].1 as usize,
                };
                self.parts.added_normalized.split(&normal, |part, inside| match part {
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

    /// Tokens of the text, and those of them that lie in each of these ranges of its bytes, which follow each other; a token in two of
    /// them counts in the first. A range's tokens go from the one that holds its
    /// first character to the one that holds its last, as `transformers` marks what an assistant said. A range behind the end of
    /// the text ends the marking.
    #[must_use]
    pub fn tokens_inside(&self, text: &str, ranges: &[Range<usize>]) -> (u64, Vec<u64>) {
        let mut tokens: Vec<(u32, u32)> = Vec::with_capacity(text.len() / 4 + 1);
        self.spans(text, |_, at| tokens.push((at.start as u32, at.end as u32)));
        let holding = |byte: usize| {
            let at = tokens.partition_point(|(_, end)| *end as usize <= byte);
            (at < tokens.len() && tokens[at].0 as usize <= byte).then_some(at)
        };
        let (mut inside, mut from) = (vec![0; ranges.len()], 0);
        for (range, inside) in ranges.iter().zip(&mut inside) {
            let Some(first) = holding(range.start) else { break };
            let last_char = text[..range.end].char_indices().next_back().map_or(0, |(at, _)| at);
            // No token there, or the very first: transformers marks all that follows.
            let end = holding(last_char).filter(|last| *last > 0).map_or(tokens.len(), |last| last + 1);
            let first = first.max(from);
            *inside = end.saturating_sub(first) as u64;
            from = from.max(end);
        }
        (tokens.len() as u64, inside)
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
        match self.parts.normalization {
            Normalization::None => text.chars().for_each(|c| put(c, 0)),
            Normalization::Nfc => text.nfc().for_each(|(c, change)| put(c, change)),
            Normalization::Nfd => text.nfd().for_each(|(c, change)| put(c, change)),
            Normalization::Nfkc => text.nfkc().for_each(|(c, change)| put(c, change)),
            Normalization::Nfkd => text.nfkd().for_each(|(c, change)| put(c, change)),
        }
        origins
    }

    fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.parts.normalization {
            Normalization::None => Cow::Borrowed(text),
            Normalization::Nfc => nfc(text),
            _ if text.is_ascii() => Cow::Borrowed(text),
            Normalization::Nfd => Cow::Owned(text.nfd().map(|(c, _)| c).collect()),
            Normalization::Nfkc => Cow::Owned(text.nfkc().map(|(c, _)| c).collect()),
            Normalization::Nfkd => Cow::Owned(text.nfkd().map(|(c, _)| c).collect()),
        }
    }

    fn split(&self, text: &str, push: &mut impl FnMut(u32)) {
        let vocab = &self.parts.vocab;
        match self.parts.splitters.as_slice() {
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

fn control(parts: &Parts) -> Added {
    let all = || parts.added.tokens().iter().chain(parts.added_normalized.tokens());
    let is_chat_ml = |token: &&AddedToken| CHAT_ML.contains(&token.content.as_str());
    let has_chat_ml = all().any(|token| token.content == CHAT_ML[0]);
    let tokens = all().filter(|token| if has_chat_ml { is_chat_ml(token) } else { token.special }).cloned().collect();
    Added::new(tokens).unwrap_or_else(|e| unreachable!("a part of what was built: {e}"))
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
    if text.bytes().all(|byte| byte < 0xcc) || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.nfc().map(|(c, _)| c).collect())
}
