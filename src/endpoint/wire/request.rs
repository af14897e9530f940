//! A request's body, written once from the conversation as it lies.

use crate::domain::{Message, Role, ToolCall};
use crate::endpoint::settings::SendReasoning;
use bytes::Bytes;
use serde::{Serialize, Serializer, ser::SerializeMap, ser::SerializeSeq};
use serde_json::{Map, Value, value::RawValue};

/// What a body is made of; all borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    pub model: &'a str,
    pub parameters: &'a Map<String, Value>,
    pub messages: &'a [Message],
    /// JSON array; empty: none.
    pub tools: &'a str,
    pub send_reasoning: SendReasoning,
    /// Name of the field in which thinking goes back.
    pub reasoning_field: &'static str,
}

/// The body as JSON; tools keep the order of their keys.
///
/// # Errors
/// Where `tools` is not JSON.
pub fn write(body: &Body<'_>) -> serde_json::Result<Bytes> {
    let texts: usize = body.messages.iter().map(|m| m.content.len() + m.reasoning_content.len() + 128).sum();
    let mut buffer = Vec::with_capacity(texts + texts / 8 + body.tools.len() + 1024);
    let tools = if body.tools.is_empty() { None } else { Some(serde_json::from_str(body.tools)?) };
    serde_json::to_writer(&mut buffer, &Whole { body, tools })?;
    Ok(buffer.into())
}

struct Whole<'a> {
    body: &'a Body<'a>,
    tools: Option<&'a RawValue>,
}

impl Serialize for Whole<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", self.body.model)?;
        map.serialize_entry("messages", &Messages(self.body))?;
        if let Some(tools) = self.tools {
            map.serialize_entry("tools", tools)?;
        }
        for (key, value) in self.body.parameters {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

struct Messages<'a>(&'a Body<'a>);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Body { messages, send_reasoning, reasoning_field, .. } = *self.0;
        let thinks = messages.iter().any(|m| !m.reasoning_content.is_empty());
        let last_user = messages.iter().rposition(|m| m.role == Role::User);
        let mut seq = serializer.serialize_seq(Some(messages.len()))?;
        for (at, message) in messages.iter().enumerate() {
            let with_reasoning = message.role == Role::Assistant
                && match send_reasoning {
                    SendReasoning::Auto => thinks && !message.tool_calls.is_empty() && Some(at) > last_user,
                    SendReasoning::Always => true,
                    SendReasoning::Never => false,
                };
            seq.serialize_element(&One { message, reasoning_field: with_reasoning.then_some(reasoning_field) })?;
        }
        seq.end()
    }
}

struct One<'a> {
    message: &'a Message,
    reasoning_field: Option<&'static str>,
}

impl Serialize for One<'_> {
    /// Empties are left out but for `content`: some hosts refuse a message without it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Message { role, content, reasoning_content, tool_calls, tool_call_id, loss: _ } = self.message;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("role", role)?;
        if !tool_call_id.is_empty() {
            map.serialize_entry("tool_call_id", tool_call_id)?;
        }
        map.serialize_entry("content", content)?;
        if let Some(field) = self.reasoning_field {
            map.serialize_entry(field, reasoning_content)?;
        }
        if !tool_calls.is_empty() {
            map.serialize_entry::<_, [ToolCall]>("tool_calls", tool_calls)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thinking(content: &str, reasoning: &str, call: Option<&str>) -> Message {
        Message {
            reasoning_content: reasoning.into(),
            tool_calls: call.map(|id| ToolCall::new(id, "bash", "{\"command\": \"ls\"}")).into_iter().collect(),
            ..Message::new(Role::Assistant, content)
        }
    }

    fn sent(messages: &[Message], tools: &str, send_reasoning: SendReasoning) -> String {
        let parameters = serde_json::from_str(r#"{"temperature":1.0,"max_tokens":9}"#).unwrap();
        let body = Body { model: "m", parameters: &parameters, messages, tools, send_reasoning, reasoning_field: "reasoning_content" };
        String::from_utf8(write(&body).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn the_body_to_the_byte() {
        let messages =
            [Message::new(Role::System, "s"), Message::new(Role::User, "u \"é\"\n"), thinking("", "", Some("c1")), Message::tool("c1", "")];
        let tools = r#"[{"type":"function","function":{"name":"bash","parameters":{"z":1,"a":2}}}]"#;
        let expected = concat!(
            r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"u \"é\"\n"},"#,
            r#"{"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function","function":{"name":"bash","arguments":"{\"command\": \"ls\"}"}}]},"#,
            r#"{"role":"tool","tool_call_id":"c1","content":""}],"#,
            r#""tools":[{"type":"function","function":{"name":"bash","parameters":{"z":1,"a":2}}}],"temperature":1.0,"max_tokens":9}"#,
        );
        assert_eq!(sent(&messages, tools, SendReasoning::Auto), expected);
        assert!(!sent(&messages, "", SendReasoning::Auto).contains("tools\":"));
    }

    #[test]
    fn thinking_goes_back_as_its_api_demands() {
        let messages = [
            Message::new(Role::User, "u"),
            thinking("a", "old", Some("c1")),
            Message::tool("c1", "o"),
            Message::new(Role::User, "reminder"),
            thinking("b", "", Some("c2")),
            Message::tool("c2", "o"),
            thinking("c", "new", None),
        ];
        let fields = |how| {
            let body: Value = serde_json::from_str(&sent(&messages, "", how)).unwrap();
            let of = |at: usize| body["messages"][at].get("reasoning_content").map(|r| r.as_str().unwrap().to_owned());
            [of(1), of(4), of(6)]
        };
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(fields(SendReasoning::Auto), [None, text(""), None]);
        assert_eq!(fields(SendReasoning::Always), [text("old"), text(""), text("new")]);
        assert_eq!(fields(SendReasoning::Never), [None, None, None]);
        let plain = [Message::new(Role::User, "u"), thinking("", "", Some("c1"))];
        assert!(!sent(&plain, "", SendReasoning::Auto).contains("reasoning"));
    }
}
