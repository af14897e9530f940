//! Exact token counts: tokenizer, chat template, loss mask, and the parallel scan of shards.

mod added;
mod classes;
mod hf;
pub mod mask;
mod pyjson;
pub mod report;
pub mod scan;
mod split;
pub mod template;
mod tiktoken;
mod tokenizer;
mod vocab;

pub use mask::{ByRole, Counter, Counts};
pub use report::{Report, ShardTokens};
pub use scan::{ScanError, ScanSettings, Source, scan, shards};
pub use template::{Target, TemplateError};
pub use tokenizer::{Tokenizer, TokenizerError};
