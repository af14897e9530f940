//! How many tokens the next prompt will have, before it is sent.

use crate::domain::{Message, transcript::Usage};

/// Bytes of text a token, low on purpose: an estimate of the next prompt should err to the high side.
/// Qwen3's and DeepSeek's vocabularies give 3.2 to 4.1 bytes a token on code and tool output.
const BYTES_PER_TOKEN: u64 = 3;
/// Template overhead of a message (role header, end mark), tokens.
const PER_MESSAGE: u64 = 8;

/// The endpoint's own count of the last prompt and reply, plus an estimate of what came since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    counted: u64,
    since: u64,
}

impl Context {
    /// Before the first turn all is estimate. `tools` is the schemas' text.
    #[must_use]
    pub fn new(messages: &[Message], tools: &str) -> Self {
        Context { counted: 0, since: messages.iter().map(estimate).sum::<u64>() + tools.len() as u64 / BYTES_PER_TOKEN }
    }

    /// A reply came. An endpoint that reports no usage leaves the estimate standing.
    pub fn replied(&mut self, usage: Usage, reply: &Message) {
        if usage.prompt_tokens > 0 {
            self.counted = usage.prompt_tokens + usage.completion_tokens;
            self.since = 0;
        } else {
            self.since += estimate(reply);
        }
    }

    pub fn added(&mut self, message: &Message) {
        self.since += estimate(message);
    }

    /// Tokens of the next prompt.
    #[must_use]
    pub fn next_prompt(&self) -> u64 {
        self.counted + self.since
    }
}

fn estimate(message: &Message) -> u64 {
    let calls: usize = message.tool_calls.iter().map(|c| c.function.name.len() + c.function.arguments.len()).sum();
    (message.content.len() + message.reasoning_content.len() + calls) as u64 / BYTES_PER_TOKEN + PER_MESSAGE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Role;

    #[test]
    fn the_endpoints_count_replaces_the_estimate() {
        let prompt = Message::new(Role::User, "x".repeat(300));
        let mut context = Context::new(std::slice::from_ref(&prompt), "");
        assert_eq!(context.next_prompt(), 108);
        context.replied(Usage { prompt_tokens: 70, completion_tokens: 5, ..Usage::default() }, &prompt);
        assert_eq!(context.next_prompt(), 75);
        context.added(&prompt);
        assert_eq!(context.next_prompt(), 75 + 108);
    }

    #[test]
    fn without_usage_the_estimate_grows() {
        let message = Message::new(Role::User, "x".repeat(30));
        let mut context = Context::new(std::slice::from_ref(&message), "");
        context.replied(Usage::default(), &message);
        assert_eq!(context.next_prompt(), 36);
    }
}
