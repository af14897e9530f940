//! Chat templates in native code: a conversation to the text that a model is trained on, turn by turn.

use super::{
    Tokenizer,
    pyjson::{self, PyJsonError},
};
use crate::domain::{Message, Role};
use serde::{Deserialize, Serialize};
use std::{fmt, ops::Range, str::FromStr, sync::Arc};

/// A model family by its official chat template.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    /// Qwen3-30B-A3B-Instruct-2507 and its sisters: `reasoning_content` is not rendered.
    #[default]
    #[serde(rename = "qwen3-instruct-2507")]
    Qwen3Instruct2507,
    /// The hybrid models of April 2025: reasoning is rendered after the last query of the user.
    #[serde(rename = "qwen3")]
    Qwen3,
}

impl Target {
    pub const ALL: [Target; 2] = [Target::Qwen3Instruct2507, Target::Qwen3];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Target::Qwen3Instruct2507 => "qwen3-instruct-2507",
            Target::Qwen3 => "qwen3",
        }
    }

    /// The one that the target is trained with.
    #[must_use]
    pub fn tokenizer(self) -> Arc<Tokenizer> {
        Tokenizer::qwen3()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Target {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Target::ALL.into_iter().find(|target| target.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no target; there are {}", Target::ALL.map(Target::as_str).join(", ")))
    }
}

/// Why a conversation cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("a conversation has at least one message, this has none")]
    NoMessages,
    #[error("the template {template} refuses it: {why}")]
    Refused { template: String, why: String },
    #[error("`tools` is not a JSON array of schemas: {0}")]
    Tools(#[from] PyJsonError),
}

/// A stretch of the text from one `<|im_start|>` to the next.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn<'t> {
    /// `Tool` for a run of tool messages, which the template shows as one turn of the user.
    pub role: Role,
    /// The messages that it is made of; none for a system turn which holds only the tools.
    pub messages: Range<usize>,
    pub text: &'t str,
    /// Bytes of `text` before what the model itself says; all of it where the model says nothing.
    pub header: usize,
}

/// Text of the whole conversation. `tools`: a JSON array in a string, empty for none.
///
/// # Errors
/// Where there is no message, or `tools` is no JSON array.
pub fn render(target: Target, messages: &[Message], tools: &str) -> Result<String, TemplateError> {
    let mut text = String::new();
    turns(target, messages, tools, |turn| text.push_str(turn.text))?;
    Ok(text)
}

/// What the template does not show of the model's reasoning: lost with this target.
pub fn unseen_reasoning(target: Target, messages: &[Message]) -> impl Iterator<Item = &str> {
    let seen_from = match target {
        Target::Qwen3Instruct2507 => messages.len(),
        Target::Qwen3 => last_query(messages) + 1,
    };
    let replies = messages[..seen_from.min(messages.len())].iter().filter(|message| message.role == Role::Assistant);
    replies.map(|message| message.reasoning_content.as_str()).filter(|reasoning| !reasoning.is_empty())
}

/// Calls `each` with every turn in order; their texts together are the conversation.
///
/// # Errors
/// As [`render`].
pub fn turns(target: Target, messages: &[Message], tools: &str, mut each: impl FnMut(Turn<'_>)) -> Result<(), TemplateError> {
    let first = messages.first().ok_or(TemplateError::NoMessages)?;
    let tools = if tools.is_empty() { Vec::new() } else { pyjson::array_members(tools)? };
    let last_query = last_query(messages);
    let mut text = String::new();
    let mut at = usize::from(first.role == Role::System);
    if at > 0 || !tools.is_empty() {
        system(&messages[..at], &tools, &mut text);
        each(Turn { role: Role::System, messages: 0..at, text: &text, header: text.len() });
    }
    while let Some(message) = messages.get(at) {
        text.clear();
        let start = at;
        at += 1;
        let mut header = None;
        match message.role {
            Role::System | Role::User => push(&mut text, &[OPEN, message.role.as_str(), "\n", &message.content, CLOSE]),
            Role::Assistant => {
                push(&mut text, &[OPEN, "assistant\n"]);
                header = Some(text.len());
                match target {
                    Target::Qwen3 if start > last_query => thoughts(message, at == messages.len(), &mut text),
                    Target::Qwen3 | Target::Qwen3Instruct2507 => text.push_str(&message.content),
                }
                calls(message, &mut text);
                text.push_str(CLOSE);
            }
            Role::Tool => {
                at = start + messages[start..].iter().take_while(|message| message.role == Role::Tool).count();
                push(&mut text, &[OPEN, "user"]);
                for answer in &messages[start..at] {
                    push(&mut text, &["\n", RESPONSE, "\n", &answer.content, "\n", RESPONSE_END]);
                }
                text.push_str(CLOSE);
            }
        }
        each(Turn { role: message.role, messages: start..at, text: &text, header: header.unwrap_or(text.len()) });
    }
    Ok(())
}

const OPEN: &str = "<|im_start|>";
const CLOSE: &str = "<|im_end|>\n";
const RESPONSE: &str = "<tool_response>";
const RESPONSE_END: &str = "</tool_response>";

fn push(text: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| text.push_str(part));
}

fn system(message: &[Message], tools: &[String], text: &mut String) {
    push(text, &[OPEN, "system\n"]);
    message.iter().for_each(|message| text.push_str(&message.content));
    if !tools.is_empty() {
        text.push_str(if message.is_empty() { "" } else { "\n\n" });
        text.push_str(
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
             You are provided with function signatures within <tools></tools> XML tags:\n<tools>",
        );
        tools.iter().for_each(|tool| push(text, &["\n", tool]));
        text.push_str(
            "\n</tools>\n\nFor each function call, return a json object with function name and arguments \
             within <tool_call></tool_call> XML tags:\n<tool_call>\n\
             {\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>",
        );
    }
    text.push_str(CLOSE);
}

/// Index of the last message in which the user asks and does not answer a call; without one, of the last message.
fn last_query(messages: &[Message]) -> usize {
    let is_answer = |content: &str| content.starts_with(RESPONSE) && content.ends_with(RESPONSE_END);
    let is_query = |message: &Message| message.role == Role::User && !is_answer(&message.content);
    messages.iter().rposition(is_query).unwrap_or(messages.len().saturating_sub(1))
}

/// Reasoning and content of a message after the last query.
fn thoughts(message: &Message, is_last: bool, text: &mut String) {
    if is_last || !message.reasoning_content.is_empty() {
        let reasoning = message.reasoning_content.trim_matches('\n');
        push(text, &["<think>\n", reasoning, "\n</think>\n\n", message.content.trim_start_matches('\n')]);
    } else {
        text.push_str(&message.content);
    }
}

fn calls(message: &Message, text: &mut String) {
    for (at, call) in message.tool_calls.iter().enumerate() {
        text.push_str(if at > 0 || !message.content.is_empty() { "\n" } else { "" });
        let (name, arguments) = (&call.function.name, &call.function.arguments);
        push(text, &["<tool_call>\n{\"name\": \"", name, "\", \"arguments\": ", arguments, "}\n</tool_call>"]);
    }
}
