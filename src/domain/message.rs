//! A conversation in OpenAI's form, every key always there: the form of the record.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::System, Role::User, Role::Assistant, Role::Tool];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// One message. Keys that a role does not use are empty, never null or absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Message {
    pub role: Role,
    pub content: String,
    pub reasoning_content: String,
    pub tool_calls: Vec<ToolCall>,
    /// Of a `tool` message: the call that it answers.
    pub tool_call_id: String,
    /// Trained on. False for all but the assistant's.
    pub loss: bool,
}

/// As it is read: what a record of version 1, or of others, does not have is given.
#[derive(Deserialize)]
struct Stored {
    role: Role,
    content: String,
    #[serde(default)]
    reasoning_content: String,
    #[serde(default)]
    tool_calls: Vec<ToolCall>,
    #[serde(default)]
    tool_call_id: String,
    loss: Option<bool>,
}

impl From<Stored> for Message {
    fn from(Stored { role, content, reasoning_content, tool_calls, tool_call_id, loss }: Stored) -> Self {
        let loss = loss.unwrap_or(true) && role == Role::Assistant;
        Message { role, content, reasoning_content, tool_calls, tool_call_id, loss }
    }
}

impl Message {
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Message {
            role,
            content: content.into(),
            reasoning_content: String::new(),
            tool_calls: Vec::new(),
            tool_call_id: String::new(),
            loss: role == Role::Assistant,
        }
    }

    #[must_use]
    pub fn tool(tool_call_id: impl Into<String>, content: impl Into<String>) -> Self {
        Message { tool_call_id: tool_call_id.into(), ..Message::new(Role::Tool, content) }
    }
}

/// A call as the model made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: Cow<'static, str>,
    pub function: FunctionCall,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    pub name: String,
    /// The exact text that the model sent: JSON when the model was well behaved.
    pub arguments: String,
}

fn function() -> Cow<'static, str> {
    "function".into()
}

impl ToolCall {
    #[must_use]
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        ToolCall { id: id.into(), kind: function(), function: FunctionCall { name: name.into(), arguments: arguments.into() } }
    }
}
