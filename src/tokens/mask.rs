//! Counts of a conversation: all tokens, by role, and those that are trained on.

use super::{
    Tokenizer,
    template::{self, Target, TemplateError},
};
use crate::domain::{Message, Role, Trajectory};
use serde::{Deserialize, Serialize};
use std::{ops::AddAssign, sync::Arc};

/// Tokens by role; together they are all tokens. `tool` holds what runs of tool messages become.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByRole {
    pub system: u64,
    pub user: u64,
    pub assistant: u64,
    pub tool: u64,
}

impl ByRole {
    #[must_use]
    pub fn total(&self) -> u64 {
        self.system + self.user + self.assistant + self.tool
    }

    fn of(&mut self, role: Role) -> &mut u64 {
        match role {
            Role::System => &mut self.system,
            Role::User => &mut self.user,
            Role::Assistant => &mut self.assistant,
            Role::Tool => &mut self.tool,
        }
    }
}

impl AddAssign for ByRole {
    fn add_assign(&mut self, other: ByRole) {
        self.system += other.system;
        self.user += other.user;
        self.assistant += other.assistant;
        self.tool += other.tool;
    }
}

/// Tokens of one conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub total: u64,
    /// Trained on: of each assistant turn its text, its calls and its end, not its header.
    pub loss: u64,
    pub by_role: ByRole,
    /// The same turn by turn, in order.
    pub turns: Vec<TurnCount>,
    /// A message other than the system's holds an added token such as `<|im_end|>` literally, which a trainer takes for the real one.
    pub special_in_text: bool,
}

impl Counts {
    /// Responses of the model.
    #[must_use]
    pub fn responses(&self) -> u64 {
        self.turns.iter().filter(|turn| turn.role == Role::Assistant).count() as u64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnCount {
    pub role: Role,
    /// First message, and how many.
    pub first: usize,
    pub messages: usize,
    pub tokens: u64,
    pub loss: u64,
}

/// A tokenizer and a template: counts conversations. Cheap to clone and to share.
#[derive(Clone)]
pub struct Counter {
    pub target: Target,
    pub tokenizer: Arc<Tokenizer>,
}

impl Default for Counter {
    fn default() -> Self {
        Counter { target: Target::default(), tokenizer: Tokenizer::qwen3() }
    }
}

impl Counter {
    #[must_use]
    pub fn new(target: Target, tokenizer: Arc<Tokenizer>) -> Self {
        Counter { target, tokenizer }
    }

    /// Counts a conversation. `tools`: a JSON array in a string, empty for none.
    ///
    /// # Errors
    /// Where there is no message, or `tools` is no JSON array.
    pub fn count(&self, messages: &[Message], tools: &str) -> Result<Counts, TemplateError> {
        let mut counts = Counts {
            special_in_text: messages.iter().any(|message| message.role != Role::System && self.has_special(message)),
            ..Counts::default()
        };
        template::turns(self.target, messages, tools, |turn| {
            let (tokens, loss) = self.tokenizer.count_after(turn.text, turn.header);
            counts.total += tokens;
            counts.loss += loss;
            *counts.by_role.of(turn.role) += tokens;
            counts.turns.push(TurnCount { role: turn.role, first: turn.messages.start, messages: turn.messages.len(), tokens, loss });
        })?;
        Ok(counts)
    }

    /// Fills in `num_tokens` and `num_loss_tokens`.
    ///
    /// # Errors
    /// As [`Counter::count`]; the record is then as it was.
    pub fn fill(&self, trajectory: &mut Trajectory) -> Result<(), TemplateError> {
        let counts = self.count(&trajectory.messages, &trajectory.tools)?;
        trajectory.num_tokens = counts.total as i64;
        trajectory.num_loss_tokens = counts.loss as i64;
        Ok(())
    }

    fn has_special(&self, message: &Message) -> bool {
        let is_special = |text: &str| self.tokenizer.has_added(text);
        is_special(&message.content) || message.tool_calls.iter().any(|call| is_special(&call.function.arguments))
    }
}
