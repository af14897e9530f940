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
use crate::toolbox::protocol::{MAX_BLOB, MAX_HEADER};
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

impl Bounds {
    /// # Errors
    /// The setting that cannot hold, and what it may be.
    pub fn check(&self) -> Result<(), String> {
        let Bounds { command_timeout_s: usual, max_command_timeout_s: most, output_bytes, arguments_bytes, .. } = *self;
        if usual == 0 || usual > most {
            return Err(format!("command_timeout_s = {usual} must be from 1 to max_command_timeout_s = {most}"));
        }
        if most > 86_400 {
            return Err(format!("max_command_timeout_s = {most} must be at most 86400, one day"));
        }
        // Twice the output must fit in a frame's blob, an edit's arguments in its header.
        if !(1000..=MAX_BLOB / 4).contains(&output_bytes) {
            return Err(format!("output_bytes = {output_bytes} must be from 1000 to {}", MAX_BLOB / 4));
        }
        if !(1000..=MAX_HEADER / 2).contains(&arguments_bytes) {
            return Err(format!("arguments_bytes = {arguments_bytes} must be from 1000 to {}", MAX_HEADER / 2));
        }
        if self.search_results == 0 || self.calls_per_turn == 0 {
            return Err("search_results and calls_per_turn must be at least 1".to_owned());
        }
        Ok(())
    }
}

/// Answer to the call that ends the episode.
pub const SUBMITTED: &str = "Submitted.";
/// Answer to a call that follows it in the same reply.
pub const AFTER_SUBMIT: &str = "[not run: the work was already submitted]";

impl Toolset {
    /// The calls of a reply in their order, as the toolset's format has them. `turn` makes the ids of inline calls unique.
    #[must_use]
    pub fn calls(&self, reply: Message, turn: u32) -> Vec<Result<ToolCall, Malformed>> {
        let mut calls: Vec<_> = match self.format {
            CallFormat::Native => reply.tool_calls.into_iter().map(Ok).collect(),
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
    pub fn answer(&self, call: &ToolCall, content: String) -> Message {
        match self.format {
            CallFormat::Native => Message::tool(&call.id, content),
            CallFormat::Inline => Message::new(Role::User, format!("<tool_response>\n{content}\n</tool_response>")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolset(format: CallFormat, calls_per_turn: usize) -> Toolset {
        let bounds = Bounds { calls_per_turn, ..Bounds::default() };
        Toolset::parse(builtin::schemas("sweroll").unwrap().iter().copied(), format, bounds).unwrap()
    }

    #[test]
    fn calls_past_the_limit_of_a_reply_are_told_and_keep_their_ids() {
        let native = Message {
            tool_calls: (0..3).map(|n| ToolCall::new(format!("c{n}"), "submit", "{}")).collect(),
            ..Message::new(Role::Assistant, "")
        };
        let inline = Message::new(Role::Assistant, "<function=submit>\n</function>\n".repeat(3));
        for (format, reply, last) in [(CallFormat::Native, native, "c2"), (CallFormat::Inline, inline, "inline_7_2")] {
            let calls = toolset(format, 2).calls(reply, 7);
            assert!(calls[0].is_ok() && calls[1].is_ok());
            let refused = calls[2].as_ref().unwrap_err();
            assert!(refused.call.id == last && !refused.unclosed && refused.message.contains("2 calls"), "{refused:?}");
        }
    }

    #[test]
    fn each_format_has_its_own_calls_and_answers() {
        let written =
            Message { tool_calls: vec![ToolCall::new("c", "submit", "{}")], ..Message::new(Role::Assistant, "<function=bash></function>") };
        let (native, inline) = (toolset(CallFormat::Native, 9), toolset(CallFormat::Inline, 9));
        let call = |toolset: &Toolset| toolset.calls(written.clone(), 0).remove(0).unwrap();
        assert_eq!((call(&native).function.name.as_str(), call(&inline).function.name.as_str()), ("submit", "bash"));
        assert_eq!(native.answer(&call(&native), "x".into()), Message::tool("c", "x"));
        assert_eq!(inline.answer(&call(&inline), "x\n".into()), Message::new(Role::User, "<tool_response>\nx\n\n</tool_response>"));
        assert!(native.sent().starts_with("[{") && inline.sent().is_empty());
    }
}
