//! A move as the body of a chat completion, and the error bodies.

use super::{
    chance::Digest,
    conversation::{CUT, Conversation},
    pairing::Seal,
    policy::{Call, Move, Sent},
    wire::Message,
};
use serde_json::{Map, Value, json};

/// Stands for half a surrogate pair, which no Rust string can hold.
pub const LONE_SURROGATE: char = '\u{f8ff}';

/// Tokens, estimated as a quarter of the bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    pub prompt: u64,
    /// Of the prompt: what an earlier request had already.
    pub cached: u64,
    pub completion: u64,
    /// Of the completion.
    pub reasoning: u64,
}

fn tokens(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
}

impl Tokens {
    #[must_use]
    pub fn of_prompt(messages: &[Message], tools: Option<&str>) -> Self {
        let bytes = |messages: &[Message]| messages.iter().map(size).sum::<usize>();
        let tools = tools.map_or(0, str::len);
        let last = messages.iter().rposition(|m| m.role == "assistant");
        let cached = last.map_or(0, |at| tokens(bytes(&messages[..at]) + tools));
        Tokens { prompt: tokens(bytes(messages) + tools), cached, ..Tokens::default() }
    }
}

/// Bytes of a message that count as tokens.
pub fn size(message: &Message) -> usize {
    let calls = message.tool_calls.iter().map(|c| c.function.name.len() + c.function.arguments.len());
    message.text().len() + message.reasoning_content.as_ref().map_or(0, String::len) + calls.sum::<usize>()
}

/// What a reply is made of besides the move.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Number of the request.
    pub number: u64,
    pub model: &'a str,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// Digest of the prompt.
    pub prompt: Digest,
    /// With `reasoning_content`.
    pub reasoning: bool,
    /// Cut by length in the middle of its call.
    pub cut: bool,
}

/// Body of the completion; sets the completion's tokens.
#[must_use]
pub fn completion(reply: Move, talk: &Conversation<'_>, frame: &Frame<'_>, tokens: &mut Tokens) -> Value {
    let mut message = if talk.tools.inline { inline(reply, frame) } else { native(reply, frame) };
    if frame.reasoning {
        let thought = format!("This is turn {} of the task. The next step follows from what was seen.", talk.turn + 1);
        message.insert("reasoning_content".into(), thought.into());
    }
    let calls = message.get("tool_calls");
    let finish = if frame.cut { "length" } else { calls.map_or("stop", |_| "tool_calls") };
    let bytes = |value: Option<&Value>| value.and_then(Value::as_str).map_or(0, str::len);
    tokens.reasoning = self::tokens(bytes(message.get("reasoning_content")));
    let said = bytes(message.get("content")) + calls.and_then(Value::as_array).into_iter().flatten().map(call_size).sum::<usize>();
    tokens.completion = self::tokens(said) + tokens.reasoning;
    json!({
        "id": format!("chatcmpl-{:08x}", frame.number),
        "object": "chat.completion",
        "created": frame.created,
        "model": frame.model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": tokens.prompt,
            "completion_tokens": tokens.completion,
            "total_tokens": tokens.prompt + tokens.completion,
            "prompt_tokens_details": {"cached_tokens": tokens.cached},
            "prompt_cache_hit_tokens": tokens.cached,
            "prompt_cache_miss_tokens": tokens.prompt.saturating_sub(tokens.cached),
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
        },
    })
}

/// JSON as it goes out.
#[must_use]
pub fn encode(body: &Value) -> Vec<u8> {
    let text = body.to_string();
    if text.contains(LONE_SURROGATE) { text.replace(LONE_SURROGATE, "\\ud800").into_bytes() } else { text.into_bytes() }
}

fn call_size(call: &Value) -> usize {
    let function = &call["function"];
    let text = |key: &str| function[key].as_str().map_or(0, str::len);
    text("name") + text("arguments")
}

fn half(text: &str) -> &str {
    let mut at = text.len() / 2;
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    &text[..at]
}

fn native(reply: Move, frame: &Frame<'_>) -> Map<String, Value> {
    let seal = Seal::new(frame.prompt, &reply.say, reply.calls.iter().map(|c| (c.name.as_str(), c.text())));
    let last = reply.calls.len().saturating_sub(1);
    let cut_text = frame.cut && reply.calls.is_empty();
    let content = if cut_text { half(&reply.say) } else { &reply.say };
    let mut message = Map::from_iter([("role".into(), json!("assistant")), ("content".into(), json!(content))]);
    let call = |(at, call): (usize, Call)| {
        let mut function = Map::from_iter([("name".to_owned(), json!(call.name))]);
        let arguments = match call.arguments {
            Sent::Usual(text) if frame.cut && at == last => Some(json!(half(&text))),
            Sent::Usual(text) => Some(json!(text)),
            Sent::Odd(value) => Some(value),
            Sent::Absent => None,
        };
        function.extend(arguments.map(|a| ("arguments".to_owned(), a)));
        let id = match call.id {
            Sent::Usual(_) if frame.cut => Some(format!("{CUT}{:08x}_{at}", frame.number)),
            Sent::Usual(_) if reply.exact => Some(seal.id(at)),
            Sent::Usual(_) => Some(format!("call_{:08x}_{at}", frame.number)),
            Sent::Odd(id) => Some(id),
            Sent::Absent => None,
        };
        let id = id.map(|id| ("id".to_owned(), json!(id)));
        Value::Object(id.into_iter().chain([("type".to_owned(), json!("function")), ("function".to_owned(), function.into())]).collect())
    };
    if !reply.calls.is_empty() {
        message.insert("tool_calls".into(), reply.calls.into_iter().enumerate().map(call).collect());
    }
    message
}

fn inline(reply: Move, frame: &Frame<'_>) -> Map<String, Value> {
    let calls: String = reply.calls.iter().map(|call| format!("\n\n{}", xml(call))).collect();
    let sealed = reply.exact && !frame.cut && !calls.is_empty();
    let text = format!("{}{calls}", reply.say);
    let reference = if sealed { Seal::new(frame.prompt, &text, std::iter::empty()).reference() } else { String::new() };
    let text = format!("{}{reference}{calls}", reply.say);
    let content = if frame.cut { half(&text) } else { &text };
    Map::from_iter([("role".into(), json!("assistant")), ("content".into(), json!(content))])
}

/// `<function=name>` with its parameters, those of several lines between newlines of their own; arguments that are no
/// object stand as they are.
fn xml(call: &Call) -> String {
    let object = match &call.arguments {
        Sent::Usual(text) => serde_json::from_str::<Map<String, Value>>(text).map_err(|_| text.clone()),
        Sent::Odd(Value::Object(map)) => Ok(map.clone()),
        _ => Ok(Map::new()),
    };
    let parameter = |(key, value): (&String, &Value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let edge = if value.contains('\n') { "\n" } else { "" };
        format!("<parameter={key}>{edge}{value}{edge}</parameter>\n")
    };
    let inside = object.map_or_else(|raw| raw + "\n", |map| map.iter().map(parameter).collect());
    format!("<function={}>\n{inside}</function>", call.name)
}

/// An error body as OpenAI sends it.
#[must_use]
pub fn error(message: &str, kind: &str, code: Option<&str>) -> Vec<u8> {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::server::toolset::{Toolset, Want};

    fn frame(cut: bool) -> Frame<'static> {
        Frame { number: 7, model: "m", created: 1, prompt: Digest::default(), reasoning: true, cut }
    }

    fn body(tools: &Toolset, reply: Move, cut: bool) -> (Value, Tokens) {
        let mut tokens = Tokens::default();
        (completion(reply, &Conversation::new(&[], tools), &frame(cut), &mut tokens), tokens)
    }

    fn replace(tools: &Toolset) -> Move {
        Move::say("Now.").with(tools.call(&Want::Replace { path: "/f".into(), old: " a\n".into(), new: "é < b\n\n".into() }))
    }

    #[test]
    fn an_inline_call_keeps_every_space() {
        let (body, _) = body(&Toolset::inline(""), replace(&Toolset::inline("")), false);
        let choice = &body["choices"][0];
        let content = choice["message"]["content"].as_str().unwrap();
        let call = "\n\n<function=str_replace_editor>\n<parameter=command>str_replace</parameter>\n<parameter=path>/f</parameter>\n\
                    <parameter=old_str>\n a\n\n</parameter>\n<parameter=new_str>\né < b\n\n\n</parameter>\n</function>";
        assert!(content.starts_with("Now. [ref ") && content.ends_with(call), "{content}");
        assert_eq!(choice["finish_reason"], "stop");
    }

    #[test]
    fn a_cut_reply_ends_within_its_call() {
        let native = Toolset::scale_swe(false);
        let (whole, _) = body(&native, replace(&native), false);
        let (cut, tokens) = body(&native, replace(&native), true);
        let arguments = |body: &Value| body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"].as_str().unwrap().to_owned();
        assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
        assert_eq!(cut["choices"][0]["finish_reason"], "length");
        let (whole, cut_text) = (arguments(&whole), arguments(&cut));
        assert!(whole.starts_with(&cut_text) && cut_text.len() <= whole.len() / 2 && !cut_text.is_empty());
        assert_eq!(cut["usage"]["completion_tokens"], tokens.completion);
        assert!(tokens.reasoning > 0 && tokens.completion > tokens.reasoning);
        let (cut, _) = body(&Toolset::inline(""), replace(&Toolset::inline("")), true);
        assert!(!cut["choices"][0]["message"]["content"].as_str().unwrap().contains("</function>"));
    }

    #[test]
    fn the_cached_part_is_the_request_before() {
        let message = |role: &str, bytes: usize| Message { role: role.into(), content: Some("x".repeat(bytes)), ..Message::default() };
        let first = [message("system", 40), message("user", 80)];
        assert_eq!(Tokens::of_prompt(&first, Some("[  ]")), Tokens { prompt: 31, ..Tokens::default() });
        let second = [message("system", 40), message("user", 80), message("assistant", 8), message("user", 8)];
        assert_eq!(Tokens::of_prompt(&second, Some("[  ]")), Tokens { prompt: 35, cached: 31, ..Tokens::default() });
    }
}
