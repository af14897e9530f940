//! The chat completions protocol in its dialects: OpenAI's, DeepSeek's, vLLM's and SGLang's.

mod calls;
mod delta;
mod events;
mod reply;
mod request;
mod stream;

pub use reply::{Broken, Reply, error_text, read};
pub use request::{Body, Envelope, Whole};
pub use stream::{Fold, Heard};
