//! Exact token counts: tokenizer, chat template, loss mask, and the parallel scan of shards.

mod added;
mod classes;
mod hf;
mod split;
mod tiktoken;
mod tokenizer;
mod vocab;

pub use tokenizer::{Tokenizer, TokenizerError};
