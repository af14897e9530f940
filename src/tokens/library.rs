//! The `tokenizers` library, for those files of Hugging Face that are no byte-level BPE: Unigram, WordPiece, SentencePiece's BPE.

use super::{
    added::{Added, AddedToken},
    tokenizer::Flaw,
};
use std::ops::Range;
use tokenizers::{Encoding, Model, ModelWrapper, Tokenizer};

/// The library's tokenizer, without truncation, padding and the special tokens of its post-processor: those are the chat template's.
pub(super) struct Library {
    tokenizer: Tokenizer,
    /// What the library looks for itself; here to be named.
    pub added: Added,
}

impl Library {
    pub fn parse(data: &[u8]) -> Result<Self, Flaw> {
        let flaw = |e: &dyn std::fmt::Display| Flaw::Unsupported(format!("the `tokenizers` library refuses it: {e}"));
        let mut tokenizer = Tokenizer::from_bytes(data).map_err(|e| flaw(&e))?;
        tokenizer.with_padding(None).with_truncation(None).map_err(|e| flaw(&e))?;
        encodes_all(tokenizer.get_model()).map_err(|e| flaw(&e))?;
        let tokens = tokenizer.get_added_tokens_decoder().into_iter().map(|(id, token)| AddedToken {
            id,
            content: token.content,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            special: token.special,
        });
        let added = Added::new(tokens.collect()).map_err(|e| flaw(&e))?;
        Ok(Library { tokenizer, added })
    }

    pub fn token(&self, id: u32) -> Vec<u8> {
        let is_added = self.added.tokens().iter().any(|token| token.id == id);
        let token = if is_added { None } else { self.tokenizer.get_model().id_to_token(id) };
        token.map_or_else(Vec::new, String::into_bytes)
    }

    pub fn each(&self, text: &str, push: &mut impl FnMut(u32)) {
        ours(self.tokenizer.encode_fast(text, false)).get_ids().iter().for_each(|id| push(*id));
    }

    pub fn count_after(&self, text: &str, header: usize) -> (u64, u64) {
        let encoding = ours(self.tokenizer.encode(text, false));
        let inside = encoding.get_offsets().iter().take_while(|(_, end)| *end <= header).count();
        (encoding.len() as u64, (encoding.len() - inside) as u64)
    }

    pub fn spans(&self, text: &str, mut each: impl FnMut(u32, Range<usize>)) {
        let encoding = ours(self.tokenizer.encode(text, false));
        encoding.get_ids().iter().zip(encoding.get_offsets()).for_each(|(id, (start, end))| each(*id, *start..*end));
    }
}

/// An error is a token that is not in the vocabulary where none stands for the unknown: [`encodes_all`] refused such a file.
fn ours(encoding: tokenizers::Result<Encoding>) -> Encoding {
    encoding.unwrap_or_default()
}

/// Whether the model has tokens for any text, and always the same ones.
fn encodes_all(model: &ModelWrapper) -> Result<(), String> {
    if let ModelWrapper::BPE(bpe) = model {
        if bpe.dropout.is_some_and(|p| p > 0.0) {
            return Err("its merges are left to chance (dropout)".into());
        }
        if let Some(token) = bpe.unk_token.as_ref().filter(|token| model.token_to_id(token).is_none()) {
            return Err(format!("the vocabulary lacks its unknown token {token:?}"));
        }
    }
    // Planes 15 and 16 hold more characters than vocabularies have tokens.
    let unknown = ('\u{f0000}'..).map(String::from).find(|c| model.token_to_id(c).is_none());
    unknown.map_or(Ok(()), |c| model.tokenize(&c).map(drop).map_err(|e| e.to_string()))
}
