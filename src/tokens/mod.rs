//! Exact token counts: tokenizer, chat template, loss mask, and the parallel scan of shards.

mod added;
pub mod check;
mod classes;
pub mod feed;
mod generation;
mod hf;
pub mod jinja;
mod lately;
#[cfg(feature = "hf-tokenizers")]
mod library;
pub mod loss;
pub mod mask;
mod parts;
mod pyjson;
mod pymethods;
mod pyvalue;
pub mod report;
pub mod scan;
mod split;
pub mod template;
mod tiktoken;
mod tokenizer;
mod vocab;

pub use check::check;
pub use feed::{FeedError, FeedSettings, Source, feed, shards};
pub use jinja::ChatTemplate;
pub use loss::LossPolicy;
pub use mask::{ByRole, CountError, Counter, Counts, Template};
pub use report::{Report, ShardTokens};
pub use scan::{ScanSettings, scan};
pub use template::{Target, TemplateError};
pub use tokenizer::{Tokenizer, TokenizerError};

use serde::{Deserialize, Serialize};

/// How the trajectories of a run are counted and masked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub target: Target,
    pub loss: LossPolicy,
}
