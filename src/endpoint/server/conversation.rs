//! A request as a policy sees it.

use super::{
    chance::Digest,
    toolset::Toolset,
    wire::{Message, ToolCall},
};

/// Begins the id of a call that was cut by length: it must not count as made.
pub const CUT: &str = "cut_";

#[derive(Debug)]
pub struct Conversation<'a> {
    pub messages: &'a [Message],
    pub tools: &'a Toolset,
    /// Replies so far.
    pub turn: usize,
}

impl<'a> Conversation<'a> {
    #[must_use]
    pub fn new(messages: &'a [Message], tools: &'a Toolset) -> Self {
        let turn = messages.iter().filter(|m| m.role == "assistant").count();
        Conversation { messages, tools, turn }
    }

    /// What the episode is about.
    #[must_use]
    pub fn prompt(&self) -> &'a str {
        self.messages.iter().find(|m| m.role == "user").map(Message::text).unwrap_or_default()
    }

    /// The same for all requests of an episode.
    #[must_use]
    pub fn key(&self) -> u64 {
        Digest::default().add(self.prompt()).value()
    }

    /// Replies whose calls came through whole.
    #[must_use]
    pub fn done(&self) -> usize {
        let whole = |call: &ToolCall| !call.id.starts_with(CUT) && call.function.arguments.trim_end().ends_with('}');
        let done = |m: &&Message| m.tool_calls.iter().any(whole) || (self.tools.inline && m.text().contains("</function>"));
        self.messages.iter().filter(|m| m.role == "assistant").filter(done).count()
    }

    /// What the tools answered, in order.
    pub fn observations(&self) -> impl Iterator<Item = &'a str> {
        let after = self.messages.iter().skip_while(|m| m.role != "assistant");
        after.filter(|m| m.role != "assistant").map(Message::text)
    }

    /// `mark` is in an observation.
    #[must_use]
    pub fn observed(&self, mark: &str) -> bool {
        self.observations().any(|text| text.contains(mark))
    }
}
