//! The request as it comes over the wire. What no policy reads is skipped, not kept.

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use serde_json::value::RawValue;
use std::fmt;

/// Body of a chat completion request.
#[derive(Debug, Deserialize)]
pub struct Body<'a> {
    #[serde(default)]
    pub model: String,
    pub messages: Vec<Message>,
    /// The schemas as sent.
    #[serde(borrow, default)]
    pub tools: Option<&'a RawValue>,
    #[serde(default)]
    pub stream: Option<bool>,
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
}

#[derive(Debug, Default, Deserialize)]
pub struct StreamOptions {
    /// The last chunk but the end is to tell the usage.
    #[serde(default)]
    pub include_usage: bool,
}

impl Body<'_> {
    /// How the reply is to be streamed; none: not at all.
    #[must_use]
    pub fn streaming(&self) -> Option<&StreamOptions> {
        const PLAIN: &StreamOptions = &StreamOptions { include_usage: false };
        (self.stream == Some(true)).then(|| self.stream_options.as_ref().unwrap_or(PLAIN))
    }
}

#[derive(Debug, Default, Deserialize)]
pub struct Message {
    pub role: String,
    /// None where it is null or absent.
    #[serde(default, deserialize_with = "text")]
    pub content: Option<String>,
    #[serde(default)]
    pub reasoning_content: Option<String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub tool_calls: Vec<ToolCall>,
    #[serde(default)]
    pub tool_call_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub struct ToolCall {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub function: Function,
}

#[derive(Debug, Default, Deserialize)]
pub struct Function {
    pub name: String,
    pub arguments: String,
}

impl Message {
    #[must_use]
    pub fn text(&self) -> &str {
        self.content.as_deref().unwrap_or_default()
    }
}

fn or_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ToolCall>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A string, null, or a list of text parts, which are joined.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Part {
        text: String,
    }
    struct Text;
    impl<'de> Visitor<'de> for Text {
        type Value = Option<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text, null, or a list of text parts")
        }
        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned()))
        }
        fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
            Ok(Some(text))
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, parts: A) -> Result<Self::Value, A::Error> {
            let parts = Vec::<Part>::deserialize(SeqAccessDeserializer::new(parts))?;
            Ok(Some(parts.into_iter().map(|p| p.text).collect()))
        }
    }
    from.deserialize_any(Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_in_three_forms() {
        let of = |json: &str| serde_json::from_str::<Message>(json).map(|m| m.content);
        assert_eq!(of(r#"{"role":"user","content":"a\nb"}"#).unwrap().as_deref(), Some("a\nb"));
        assert_eq!(of(r#"{"role":"user","content":null,"tool_calls":null}"#).unwrap(), None);
        assert_eq!(of(r#"{"role":"user"}"#).unwrap(), None);
        let parts = r#"{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#;
        assert_eq!(of(parts).unwrap().as_deref(), Some("ab"));
        assert!(of(r#"{"role":"user","content":3}"#).is_err());
    }

    #[test]
    fn arguments_are_a_string() {
        let call = r#"{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":{}}}]}"#;
        assert!(serde_json::from_str::<Message>(call).unwrap_err().to_string().contains("expected a string"));
    }
}
