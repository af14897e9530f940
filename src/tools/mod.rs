//! What the model calls: schemas, validation, routing to toolbox operations, observations, and the two call formats.
//!
//! `Message -> calls -> plan -> (toolbox) -> observe -> answer`, all pure.

pub mod builtin;
pub mod inline;
pub mod observe;
pub mod route;
pub mod spec;
pub mod text;
pub mod validate;

pub use inline::Malformed;
pub use observe::Observed;
pub use route::Plan;
pub use spec::{SpecError, Toolset};

use crate::domain::{Message, Role, ToolCall};
use serde::{Deserialize, Serialize};

/// How the model writes its calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallFormat {
    /// The API's own tool calls.
    #[default]
    Native,
    /// `<function=name>` blocks in the reply's text, for models without native calls.
    Inline,
}

/// Limits of single calls; the descriptions that the model reads state them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// Seconds that a command may run where the call sets none. 180.
    pub command_timeout_s: u64,
    /// Most seconds that a call may ask for. 600.
    pub max_command_timeout_s: u64,
    /// Bytes of output in one observation; the middle of longer output is cut. 30,000.
    pub output_bytes: usize,
    /// Bytes of one call's arguments. 1 MiB.
    pub arguments_bytes: usize,
    /// Matches or paths that one search shows. 200.
    pub search_results: u64,
    /// Calls of one reply that are run; those past it are answered, not run. 32.
    pub calls_per_turn: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            command_timeout_s: 180,
            max_command_timeout_s: 600,
            output_bytes: 30_000,
            arguments_bytes: 1 << 20,
            search_results: 200,
            calls_per_turn: 32,
        }
    }
}

/// Answer to the call that ends the episode.
pub const SUBMITTED: &str = "Submitted.";
/// Answer to a call that follows it in the same reply.
pub const AFTER_SUBMIT: &str = "[not run: the work was already submitted]";

impl Toolset {
    /// The calls of a reply in their order, as the toolset's format has them. `turn` makes the ids of inline calls unique.
    #[must_use]
    pub fn calls(&self, reply: &Message, turn: u32) -> Vec<Result<ToolCall, Malformed>> {
        let mut calls = match self.format {
            CallFormat::Native => reply.tool_calls.iter().cloned().map(Ok).collect(),
            CallFormat::Inline => inline::parse(&reply.content, turn, self),
        };
        let max = self.bounds.calls_per_turn;
        for call in calls.iter_mut().skip(max) {
            if let Ok(extra) = call {
                let message = format!("error: not run: one reply may make {max} calls. Make this call again in the next reply.");
                *call = Err(Malformed { call: extra.clone(), unclosed: false, message });
            }
        }
        calls
    }

    /// An observation as the message that the model gets. Inline observations have the form that Qwen3's chat template gives to
    /// tool messages, so that both formats train alike and the template keeps the reasoning of earlier turns.
    #[must_use]
    pub fn answer(&self, call: &ToolCall, content: &str) -> Message {
        match self.format {
            CallFormat::Native => Message::tool(&call.id, content),
            CallFormat::Inline => Message::new(Role::User, format!("<tool_response>\n{content}\n</tool_response>")),
        }
    }
}
