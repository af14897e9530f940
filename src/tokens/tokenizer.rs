//! Text to token ids, exactly as the model's own tokenizer does it: Qwen3's is built in, others are read from a file.

#[cfg(feature = "hf-tokenizers")]
use super::library::Library;
use super::{
    added::{Added, AddedToken},
    hf,
    parts::{Parts, qwen3_parts},
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

/// Largest tokenizer file that is read, bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Why a tokenizer file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("cannot read the tokenizer {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is no tokenizer: {why}; give a Hugging Face tokenizer.json or a tiktoken file (lines of base64 and rank)")]
    Format { path: PathBuf, why: String },
    #[error("the tokenizer {path} is of a kind that is not supported: {what}")]
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

/// Who makes the tokens.
enum Engine {
    /// Our own code for byte-level BPE: linear (times log) in any text.
    Own(Box<Parts>),
    #[cfg(feature = "hf-tokenizers")]
    Library(Box<Library>),
}

/// An exact tokenizer. Cheap to share, safe from many threads at once.
pub struct Tokenizer {
    name: String,
    digest: String,
    engine: Engine,
    /// The special tokens that part the turns of a chat.
    control: Added,
}

/// Special tokens that part turns in ChatML; where a tokenizer has one of them, its others mean nothing to a chat.
const CHAT_ML: [&str; 3] = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];

impl Tokenizer {
    /// Qwen3's, from 0.6B to 235B, Instruct-2507 and Coder included; built in.
    #[must_use]
    pub fn qwen3() -> Arc<Tokenizer> {
        static QWEN3: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
            let parts = qwen3_parts(Vocab::qwen3());
            Arc::new(Tokenizer::new("qwen3".into(), digest_of(&parts), Engine::Own(Box::new(parts))))
        });
        Arc::clone(&QWEN3)
    }

    /// Reads a Hugging Face `tokenizer.json` or a tiktoken file. Byte-level BPE is our own code; any other kind of `tokenizer.json` is
    /// read with the feature `hf-tokenizers`.
    /// A tiktoken file says neither its split pattern nor its special tokens: they are known by the number of ranks for Qwen,
    /// `cl100k_base` and `o200k_base`, else `cl100k_base`'s pattern is assumed, and the name says so.
    ///
    /// # Errors
    /// Where the file cannot be read, or is of a kind that is not supported: without the feature `hf-tokenizers` Unigram, WordPiece,
    /// SentencePiece-style BPE, patterns with look-around of their own, normalizers other than Unicode's; with it what the library
    /// refuses, what leaves merges to chance, and what has no token for an unknown character.
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
        let engine = match if is_json { hf::parse(&data) } else { tiktoken::parse(&data, &mut name) } {
            Err(Flaw::Unsupported(what)) if is_json => other(&data, &what),
            parts => parts.map(|parts| Engine::Own(Box::new(parts))),
        };
        match engine {
            Ok(engine) => Ok(Arc::new(Tokenizer::new(name, hex(Sha256::new_with_prefix(&data)), engine))),
            Err(Flaw::Format(why)) => Err(TokenizerError::Format { path: path.to_owned(), why }),
            Err(Flaw::Unsupported(what)) => Err(TokenizerError::Unsupported { path: path.to_owned(), what }),
        }
    }

    fn new(name: String, digest: String, engine: Engine) -> Tokenizer {
        let control = match &engine {
            Engine::Own(parts) => control(parts.added.tokens().iter().chain(parts.added_normalized.tokens())),
            #[cfg(feature = "hf-tokenizers")]
            Engine::Library(library) => control(library.added.tokens().iter()),
        };
        Tokenizer { name, digest, engine, control }
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

    /// The bytes of a token of the vocabulary, of other vocabularies than byte-level ones as the file writes them; empty where the id
    /// is not in use or of an added token.
    #[must_use]
    pub fn token(&self, id: u32) -> Cow<'_, [u8]> {
        match &self.engine {
            Engine::Own(parts) => parts.token(id).into(),
            #[cfg(feature = "hf-tokenizers")]
            Engine::Library(library) => library.token(id).into(),
        }
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

    /// Whether both make the same tokens of any text, whatever files they came from; of two that are not byte-level, the same file.
    #[must_use]
    pub fn is_same(&self, other: &Tokenizer) -> bool {
        self.digest == other.digest
            || match (&self.engine, &other.engine) {
                (Engine::Own(a), Engine::Own(b)) => a.is_same(b),
                #[cfg(feature = "hf-tokenizers")]
                _ => false,
            }
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
        match &self.engine {
            Engine::Own(parts) => parts.count_after(text, header),
            #[cfg(feature = "hf-tokenizers")]
            Engine::Library(library) => library.count_after(text, header),
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
        match &self.engine {
            Engine::Own(parts) => parts.each(text, push),
            #[cfg(feature = "hf-tokenizers")]
            Engine::Library(library) => library.each(text, push),
        }
    }

    /// Calls `each` with every token in order and the bytes of the text that it stands for.
    pub fn spans(&self, text: &str, each: impl FnMut(u32, Range<usize>)) {
        match &self.engine {
            Engine::Own(parts) => parts.spans(text, each),
            #[cfg(feature = "hf-tokenizers")]
            Engine::Library(library) => library.spans(text, each),
        }
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
}

/// A `tokenizer.json` that our own code does not read, and why it does not.
#[cfg(feature = "hf-tokenizers")]
fn other(data: &[u8], _: &str) -> Result<Engine, Flaw> {
    Library::parse(data).map(|library| Engine::Library(Box::new(library)))
}

#[cfg(not(feature = "hf-tokenizers"))]
fn other(_: &[u8], what: &str) -> Result<Engine, Flaw> {
    let mend = "this build reads byte-level BPE vocabularies; for others build with `--features hf-tokenizers`";
    Err(Flaw::Unsupported(format!("{what}; {mend}")))
}

fn control<'t>(tokens: impl Iterator<Item = &'t AddedToken> + Clone) -> Added {
    let is_chat_ml = |token: &&AddedToken| CHAT_ML.contains(&token.content.as_str());
    let has_chat_ml = tokens.clone().any(|token| token.content == CHAT_ML[0]);
    let tokens = tokens.filter(|token| if has_chat_ml { is_chat_ml(token) } else { token.special }).cloned().collect();
    Added::new(tokens).unwrap_or_else(|e| unreachable!("a part of what was built: {e}"))
}

/// Of what is built in, which has no file.
fn digest_of(parts: &Parts) -> String {
    let mut hasher = Sha256::new();
    for id in 0..parts.vocab.ids() {
        let token = parts.vocab.token(id);
        hasher.update((token.len() as u32).to_le_bytes());
        hasher.update(token);
    }
    parts.added.tokens().iter().for_each(|token| hasher.update(&token.content));
    hex(hasher)
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().fold("sha256:".to_owned(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
