//! The model behind an OpenAI-compatible endpoint.
//!
//! `endpoints` performs one completion: `pool` chooses the endpoint, `openai` asks it: `wire` writes the request and reads the reply, `transport` carries them, `retry`
//! says what follows from a failure, `limiter` when a request may go out, `price` what the reply cost.

pub mod endpoints;
pub mod limiter;
mod loopback;
pub mod openai;
pub mod pool;
pub mod price;
pub mod retry;
pub mod settings;
pub mod share;
mod transport;
#[doc(hidden)]
pub mod wire;

pub use endpoints::Endpoints;
pub use limiter::Limiter;
pub use openai::OpenAi;
pub use settings::Settings;

pub mod server;

use crate::domain::{Conversation, Failure, transcript::Response};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// One completion wanted. What is shared by all requests of a run (model, sampling, headers) is the adapter's own.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub messages: &'a Conversation,
    /// The tool schemas, a JSON array in a string; empty for inline calls.
    pub tools: &'a Arc<str>,
    /// Estimate of the request's tokens (prompt and reply), reserved from tokens a minute.
    pub estimate: u64,
    /// The same for all requests of an episode, so that they go to one endpoint, whose cache has their prefix.
    pub affinity: u64,
}

/// Why there is no completion.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The prompt is over the model's context: an exit reason, not a failure.
    #[error("the prompt is over the model's context: {0}")]
    ContextOverflow(String),
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// Port. An implementation retries within its policy, honours the run's shared limits and holds a permit only
/// while a request is in flight. The message of the reply keeps `tool_calls` exactly as sent; a reply without ids for its
/// calls gets ids.
pub trait ModelClient: Send + Sync {
    fn complete<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, ModelError>>;
}
