//! Hugging Face's `tokenizer.json`, as far as it is byte-level BPE.

use super::{
    added::{Added, AddedToken},
    parts::{Normalization, Parts},
    split::Splitter,
    tokenizer::Flaw,
    vocab::Vocab,
};
use serde::Deserialize;
use std::collections::HashMap;

/// What the `ByteLevel` pre-tokenizer splits by, where it is told to.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<FileToken>,
    normalizer: Option<Normalizer>,
    pre_tokenizer: Option<PreTokenizer>,
    model: Model,
}

#[derive(Deserialize)]
struct FileToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Normalizer {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    normalizers: Vec<Normalizer>,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    Sequence {
        pretokenizers: Vec<PreTokenizer>,
    },
    Split {
        pattern: Pattern,
        behavior: String,
        #[serde(default)]
        invert: bool,
    },
    Digits {
        individual_digits: bool,
    },
    ByteLevel {
        add_prefix_space: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    #[serde(untagged)]
    Other {
        #[serde(rename = "type")]
        kind: String,
    },
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(String),
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    vocab: serde_json::Value,
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

pub(super) fn parse(data: &[u8]) -> Result<Parts, Flaw> {
    let file: File = serde_json::from_slice(data).map_err(|e| Flaw::Format(e.to_string()))?;
    let mut splitters = Vec::new();
    let byte_level = match file.pre_tokenizer {
        Some(step) => pre_tokenizer(step, &mut splitters)?,
        None => false,
    };
    if !byte_level {
        return unsupported("no ByteLevel pre-tokenizer (a SentencePiece-style vocabulary)");
    }
    if file.added_tokens.iter().any(|token| token.single_word) {
        return unsupported("an added token with single_word");
    }
    let normalization = file.normalizer.map_or(Ok(Normalization::None), normalization)?;
    let vocab = vocab(file.model, &file.added_tokens)?;
    let set = |normalized: bool| {
        let of_kind = file.added_tokens.iter().filter(|token| token.normalized == normalized);
        let token =
            |t: &FileToken| AddedToken { id: t.id, content: t.content.clone(), lstrip: t.lstrip, rstrip: t.rstrip, special: t.special };
        let tokens = of_kind.map(token);
        Added::new(tokens.collect()).map_err(|e| Flaw::Unsupported(format!("its added tokens: {e}")))
    };
    Ok(Parts { added: set(false)?, normalization, added_normalized: set(true)?, splitters, vocab })
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, Flaw> {
    Err(Flaw::Unsupported(what.into()))
}

fn normalization(normalizer: Normalizer) -> Result<Normalization, Flaw> {
    match (normalizer.kind.as_str(), normalizer.normalizers.len()) {
        ("NFC", _) => Ok(Normalization::Nfc),
        ("NFD", _) => Ok(Normalization::Nfd),
        ("NFKC", _) => Ok(Normalization::Nfkc),
        ("NFKD", _) => Ok(Normalization::Nfkd),
        ("Sequence", 0) => Ok(Normalization::None),
        ("Sequence", 1) => normalizer.normalizers.into_iter().next().map_or(Ok(Normalization::None), normalization),
        (kind, _) => unsupported(format!("the normalizer {kind}")),
    }
}

/// Adds the step's splitters; whether it makes the text byte-level.
fn pre_tokenizer(step: PreTokenizer, splitters: &mut Vec<Splitter>) -> Result<bool, Flaw> {
    let mut byte_level = false;
    let mut push = |pattern: &str| -> Result<(), Flaw> {
        splitters.push(Splitter::new(pattern).map_err(|e| Flaw::Unsupported(e.to_string()))?);
        Ok(())
    };
    match step {
        PreTokenizer::Sequence { pretokenizers } => {
            for step in pretokenizers {
                if byte_level {
                    return unsupported("a pre-tokenizer after ByteLevel");
                }
                byte_level = pre_tokenizer(step, splitters)?;
            }
        }
        PreTokenizer::Split { pattern, behavior, invert } => {
            if behavior != "Isolated" || invert {
                return unsupported(format!("a Split with behavior {behavior} and invert {invert}"));
            }
            match pattern {
                Pattern::Regex(pattern) => push(&pattern)?,
                Pattern::String(text) => push(&regex::escape(&text))?,
            }
        }
        PreTokenizer::Digits { individual_digits } => push(if individual_digits { r"\p{N}" } else { r"\p{N}+" })?,
        PreTokenizer::ByteLevel { add_prefix_space: true, .. } => return unsupported("ByteLevel with add_prefix_space"),
        PreTokenizer::ByteLevel { use_regex, .. } => {
            if use_regex {
                push(GPT2)?;
            }
            byte_level = true;
        }
        PreTokenizer::Other { kind } => return unsupported(format!("the pre-tokenizer {kind}")),
    }
    Ok(byte_level)
}

fn vocab(model: Model, added: &[FileToken]) -> Result<Vocab, Flaw> {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    match &model {
        Model { kind: Some(kind), .. } if kind != "BPE" => return unsupported(format!("the model {kind}")),
        Model { byte_fallback: true, .. } => return unsupported("BPE with byte_fallback (a SentencePiece vocabulary)"),
        Model { dropout: Some(p), .. } if *p > 0.0 => return unsupported("BPE with dropout"),
        _ if given(&model.continuing_subword_prefix) || given(&model.end_of_word_suffix) => {
            return unsupported("BPE with a subword prefix or suffix");
        }
        _ => {}
    }
    let serde_json::Value::Object(entries) = model.vocab else { return Err(Flaw::Format("model.vocab is no object".into())) };
    let bytes = ByteAlphabet::new();
    let is_added: std::collections::HashSet<&str> = added.iter().map(|token| token.content.as_str()).collect();
    let mut tokens = Vec::with_capacity(entries.len());
    for (text, id) in &entries {
        if is_added.contains(text.as_str()) {
            continue;
        }
        let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
            return Err(Flaw::Format(format!("the id of the token {text:?} is {id}")));
        };
        tokens.push((id, bytes.decode(text)?));
    }
    tokens.sort();
    if let Some(pair) = tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Flaw::Format(format!("two tokens have the id {}", pair[0].0)));
    }
    let mut merges = Vec::with_capacity(model.merges.len());
    for merge in model.merges {
        let (left, right) = match &merge {
            Merge::Pair(left, right) => (left.as_str(), right.as_str()),
            Merge::Line(line) => line.split_once(' ').ok_or_else(|| Flaw::Format(format!("the merge {line:?} is not two tokens")))?,
        };
        merges.push((bytes.decode(left)?, bytes.decode(right)?));
    }
    Ok(Vocab::from_merges(tokens.iter().map(|(id, token)| (*id, token.as_slice())), merges, model.ignore_merges)?)
}

/// The printable characters by which byte-level vocabularies write bytes.
struct ByteAlphabet(HashMap<char, u8>);

impl ByteAlphabet {
    /// A byte that Latin-1 prints is itself; the others follow from U+0100 on.
    fn new() -> Self {
        let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let own = (0..=255).filter(printable).map(|byte| (char::from(byte), byte));
        let others = (0..=255).filter(|byte| !printable(byte)).zip('\u{100}'..).map(|(byte, c)| (c, byte));
        ByteAlphabet(own.chain(others).collect())
    }

    fn decode(&self, text: &str) -> Result<Vec<u8>, Flaw> {
        let byte = |c| self.0.get(&c).copied().ok_or_else(|| Flaw::Unsupported(format!("the token {text:?} is not byte-level")));
        text.chars().map(byte).collect()
    }
}
