//! The chat completions protocol in its dialects: OpenAI's, DeepSeek's, vLLM's and SGLang's.

mod calls;
mod reply;
mod request;

pub use reply::{Broken, Reply, error_text, read};
pub use request::{Body, Envelope};
