//! A reply's body, read leniently: hosts differ in what they leave out, and each thing that the model said must survive.

use super::calls::{Call, Said, with_ids};
use crate::domain::{Conversation, Message, Role, transcript::Usage};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, value::RawValue};
use std::{
    borrow::{Borrow, Cow},
    collections::BTreeMap,
};

/// A completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub message: Message,
    pub model: String,
    pub finish_reason: String,
    pub usage: Usage,
    /// Keys of the message that are not the record's; `usage_missing` where the endpoint counted nothing.
    pub extra: Map<String, Value>,
    /// Name of the field that held the thinking.
    pub reasoning_field: Option<&'static str>,
}

/// Why a body is no completion.
#[derive(Debug, Clone, PartialEq)]
pub enum Broken {
    /// Not the JSON of a completion; the text says why.
    Unreadable(String),
    /// The host reports an error in a success.
    Error(Value),
}

type Fields<'a> = BTreeMap<Name<'a>, &'a RawValue>;

/// Of a field, as it lies in the body where it can.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Borrow<str> for Name<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(default, deserialize_with = "text")]
    model: String,
    #[serde(default, borrow, deserialize_with = "list")]
    choices: Vec<Choice<'a>>,
    #[serde(default, borrow)]
    usage: Option<&'a RawValue>,
    #[serde(default)]
    error: Value,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default, borrow)]
    message: Option<Fields<'a>>,
    #[serde(default, deserialize_with = "text")]
    finish_reason: String,
    #[serde(default)]
    error: Value,
}

/// Reads a completion. Its calls get an id where they have none, or one that `earlier` messages or another call has.
///
/// # Errors
/// See [`Broken`].
pub fn read(body: &[u8], earlier: &Conversation) -> Result<Reply, Broken> {
    let text = String::from_utf8_lossy(without_keep_alive(body));
    match parse(&text, earlier) {
        Err(Broken::Unreadable(_)) if text.contains("\\u") => parse(&whole_surrogates(&text), earlier),
        other => other,
    }
}

fn parse(text: &str, earlier: &Conversation) -> Result<Reply, Broken> {
    let whole: Whole<'_> = decode("the reply", text)?;
    let first = whole.choices.into_iter().next();
    let Some(Choice { message: Some(mut fields), finish_reason, error: Value::Null }) = first else {
        let within = first.map_or(Value::Null, |choice| choice.error);
        return Err(match [whole.error, within].into_iter().find(|e| !e.is_null()) {
            Some(error) => Broken::Error(error),
            None => Broken::Unreadable("the reply has no choices[0].message".to_owned()),
        });
    };

    let mut pieces = Pieces { model: whole.model, finish_reason, ..Pieces::default() };
    if let Some(raw) = fields.remove("content") {
        pieces.content = parts(raw)?;
    }
    for (name, text) in REASONING.into_iter().zip(&mut pieces.reasoning) {
        let raw = fields.get(name).filter(|raw| raw.get().starts_with('"'));
        *text = raw.map(|raw| decode(name, raw.get())).transpose()?;
        if text.is_some() {
            fields.remove(name);
        }
    }
    pieces.calls = match (fields.remove("tool_calls"), fields.remove("function_call")) {
        (Some(raw), _) if raw.get() != "null" && raw.get() != "[]" => {
            let calls: Vec<Call<'_>> = decode("tool_calls", raw.get())?;
            calls.into_iter().map(Said::try_from).collect::<Result<_, _>>()?
        }
        (_, Some(raw)) if raw.get() != "null" => vec![Call::without_id(decode("function_call", raw.get())?).try_into()?],
        _ => Vec::new(),
    };
    fields.remove("role");
    pieces.others = fields.into_iter().map(|(Name(key), raw)| (key.into_owned(), value(raw))).collect();
    Ok(pieces.reply(whole.usage.and_then(|raw| usage(raw.get())), earlier))
}

/// The fields that hold thinking; where both do, the last is taken.
pub(super) const REASONING: [&str; 2] = ["reasoning", "reasoning_content"];

/// What a message says, however it came.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pub content: Parts,
    /// Under the names of [`REASONING`].
    pub reasoning: [Option<String>; 2],
    pub calls: Vec<Said>,
    /// Fields that are not the record's.
    pub others: BTreeMap<String, Value>,
    pub model: String,
    pub finish_reason: String,
}

impl Pieces {
    pub fn reply(self, usage: Option<Usage>, earlier: &Conversation) -> Reply {
        let Parts { text: content, thinking, others } = self.content;
        let mut extra: Map<_, _> = others.map(|all| ("content".to_owned(), all)).into_iter().collect();
        let mut reasoning_field = None;
        let mut reasoning_content = thinking;
        for (name, text) in REASONING.into_iter().zip(self.reasoning) {
            let Some(text) = text else { continue };
            // A host that sends both sends the same twice.
            if !text.is_empty() {
                reasoning_content = text;
            }
            reasoning_field = Some(name);
        }
        extra.extend(self.others.into_iter().filter(|(_, value)| !is_empty(value)));
        let usage = usage.unwrap_or_else(|| {
            extra.insert("usage_missing".to_owned(), Value::Bool(true));
            Usage::default()
        });
        let message = Message { reasoning_content, tool_calls: with_ids(self.calls, earlier), ..Message::new(Role::Assistant, content) };
        Reply { message, model: self.model, finish_reason: self.finish_reason, usage, extra, reasoning_field }
    }
}

/// Blank lines and `: keep-alive` comments that came while the request waited.
fn without_keep_alive(mut body: &[u8]) -> &[u8] {
    loop {
        body = body.trim_ascii_start();
        if body.first() != Some(&b':') {
            return body;
        }
        body = body.iter().position(|b| *b == b'\n').map_or(&[], |end| &body[end..]);
    }
}

/// Puts the replacement character for each half of a surrogate pair that stands alone: a model can say it, and hosts escape
/// it, but no text can hold it.
pub(super) fn whole_surrogates(text: &str) -> String {
    let unit = |at: usize| -> Option<u16> {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut whole = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(at) = text[from..].find('\\').map(|n| from + n) {
        whole.push_str(&text[from..at]);
        let escape = match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                whole.push_str("\\ufffd");
                from = at + 6;
                continue;
            }
            // The backslash and the character that it escapes, which may be another backslash.
            _ => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
        whole.push_str(&text[at..at + escape]);
        from = at + escape;
    }
    whole.push_str(&text[from..]);
    whole
}

pub(super) fn decode<'a, T: Deserialize<'a>>(what: &str, json: &'a str) -> Result<T, Broken> {
    serde_json::from_str(json).map_err(|e| Broken::Unreadable(format!("{what} cannot be read: {e}")))
}

/// For what is only kept: the text itself where it cannot be held as a value.
pub(super) fn value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| Value::String(raw.get().to_owned()))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[derive(Debug, Default)]
pub(super) struct Parts {
    pub text: String,
    pub thinking: String,
    /// The whole content, where it has parts that are neither.
    pub others: Option<Value>,
}

/// Content as text, null, or a list of parts.
fn parts(raw: &RawValue) -> Result<Parts, Broken> {
    let mut parts = Parts::default();
    match decode("content", raw.get())? {
        Value::String(text) => parts.text = text,
        Value::Array(items) => {
            let understood = items.iter().filter(|item| parts.add(item)).count();
            parts.others = (understood < items.len()).then_some(Value::Array(items));
        }
        Value::Null => {}
        other => parts.others = Some(other),
    }
    Ok(parts)
}

impl Parts {
    /// False where the part is neither text nor thinking.
    pub fn add(&mut self, part: &Value) -> bool {
        let string = |key: &str| part.get(key).and_then(Value::as_str);
        match (string("type"), part.get("thinking")) {
            (Some("thinking"), Some(Value::String(text))) => self.thinking.push_str(text),
            (Some("thinking"), Some(Value::Array(inner))) => {
                inner.iter().filter_map(|part| part.get("text")?.as_str()).for_each(|text| self.thinking.push_str(text));
            }
            _ => match part.as_str().or_else(|| string("text")) {
                Some(text) => self.text.push_str(text),
                None => return false,
            },
        }
        true
    }
}

/// Counts in OpenAI's dialect and DeepSeek's; what is no number counts as not there.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Counts {
    #[serde(deserialize_with = "if_readable")]
    prompt_tokens: Option<f64>,
    #[serde(deserialize_with = "if_readable")]
    completion_tokens: Option<f64>,
    #[serde(deserialize_with = "if_readable")]
    reasoning_tokens: Option<f64>,
    #[serde(deserialize_with = "if_readable")]
    prompt_cache_hit_tokens: Option<f64>,
    #[serde(deserialize_with = "if_readable")]
    prompt_cache_miss_tokens: Option<f64>,
    #[serde(deserialize_with = "if_readable")]
    prompt_tokens_details: Option<Details>,
    #[serde(deserialize_with = "if_readable")]
    completion_tokens_details: Option<Details>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    #[serde(deserialize_with = "if_readable")]
    cached_tokens: Option<f64>,
    #[serde(deserialize_with = "if_readable")]
    reasoning_tokens: Option<f64>,
}

/// Tokens by the JSON of a `usage`. None where the endpoint counted nothing.
pub(super) fn usage(json: &str) -> Option<Usage> {
    let all: Counts = serde_json::from_str(json).ok()?;
    let count = |number: Option<f64>| number.filter(|n| *n >= 0.0).map(|n| n as u64);
    let cached =
        all.prompt_tokens_details.and_then(|of| count(of.cached_tokens)).or_else(|| count(all.prompt_cache_hit_tokens)).unwrap_or(0);
    let prompt = count(all.prompt_tokens).or_else(|| Some(cached + count(all.prompt_cache_miss_tokens)?));
    let completion = count(all.completion_tokens);
    if prompt.is_none() && completion.is_none() {
        return None;
    }
    let reasoning = all.completion_tokens_details.and_then(|of| count(of.reasoning_tokens)).or_else(|| count(all.reasoning_tokens));
    Some(Usage {
        prompt_tokens: prompt.unwrap_or(0),
        completion_tokens: completion.unwrap_or(0),
        cached_tokens: cached,
        reasoning_tokens: reasoning.unwrap_or(0),
    })
}

/// The message of an error's body of any shape, or the body itself.
pub fn error_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(64 << 10)]);
    let parsed: Option<Value> = serde_json::from_str(text.trim()).ok();
    parsed.as_ref().and_then(|v| said(v, 4)).unwrap_or(&text).to_owned()
}

/// The first text under the keys that hosts use, nested as they nest them.
fn said(value: &Value, depth: u8) -> Option<&str> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text),
        Value::Array(items) if depth > 0 => items.iter().find_map(|item| said(item, depth - 1)),
        Value::Object(map) if depth > 0 => {
            ["error", "message", "msg", "detail", "errors", "error_msg"].iter().find_map(|key| said(map.get(*key)?, depth - 1))
        }
        _ => None,
    }
}

/// A string, or the empty one where there is something else.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    })
}

/// What stands there, where it is what is looked for.
fn if_readable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_str(<&RawValue>::deserialize(deserializer)?.get()).ok())
}

/// A list, or the empty one for null.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reply(message: &str) -> Reply {
        let body = format!(r#"{{"model":"m","choices":[{{"message":{message},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1}}}}"#);
        read(body.as_bytes(), &Conversation::default()).unwrap()
    }

    #[test]
    fn contents_of_every_kind() {
        for (content, text) in [
            (r#""a\nb""#, "a\nb"),
            ("null", ""),
            (r#"[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#, "ab"),
            (r#"["a",{"type":"output_text","text":"b"}]"#, "ab"),
        ] {
            let reply = reply(&format!(r#"{{"role":"assistant","content":{content}}}"#));
            assert_eq!((reply.message.content.as_str(), reply.extra.len()), (text, 0), "{content}");
        }
        assert_eq!(reply("{}").message.content, "");
        let mixed = reply(r#"{"content":[{"type":"thinking","thinking":[{"text":"hm"}]},{"type":"text","text":"a"},{"type":"image"}]}"#);
        assert_eq!((mixed.message.content.as_str(), mixed.message.reasoning_content.as_str()), ("a", "hm"));
        assert_eq!(mixed.extra["content"][2], json!({"type": "image"}));
    }

    #[test]
    fn thinking_under_either_name() {
        let cases = [
            (r#"{"content":"a","reasoning_content":"t"}"#, Some("reasoning_content"), "t"),
            (r#"{"content":"a","reasoning":"t"}"#, Some("reasoning"), "t"),
            (r#"{"content":"a","reasoning_content":"","reasoning":"t"}"#, Some("reasoning_content"), "t"),
            (r#"{"content":"a","reasoning_content":null}"#, None, ""),
        ];
        for (message, field, text) in cases {
            let reply = reply(message);
            assert_eq!((reply.reasoning_field, reply.message.reasoning_content.as_str()), (field, text), "{message}");
            assert!(reply.extra.is_empty(), "{message}: {:?}", reply.extra);
        }
    }

    #[test]
    fn unknown_fields_are_kept_and_empty_ones_are_not() {
        let reply =
            reply(r#"{"role":"assistant","content":"a","refusal":null,"annotations":[],"reasoning_details":[{"id":1}],"audio":{}}"#);
        assert_eq!(Value::Object(reply.extra), json!({"reasoning_details": [{"id": 1}]}));
    }

    #[test]
    fn the_old_function_call_is_a_call() {
        let call = reply(r#"{"content":null,"function_call":{"name":"f","arguments":"{}"},"tool_calls":[]}"#).message.tool_calls.remove(0);
        assert_eq!((call.id.as_str(), call.function.name.as_str(), call.function.arguments.as_str()), ("call_0_0", "f", "{}"));
    }

    #[test]
    fn usage_in_each_dialect() {
        let expected = Usage { prompt_tokens: 10, completion_tokens: 5, cached_tokens: 8, reasoning_tokens: 3 };
        for text in [
            r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8},"completion_tokens_details":{"reasoning_tokens":3}}"#,
            r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_cache_hit_tokens":8,"prompt_cache_miss_tokens":2,"completion_tokens_details":{"reasoning_tokens":3}}"#,
            r#"{"completion_tokens":5.0,"prompt_cache_hit_tokens":8,"prompt_cache_miss_tokens":2,"reasoning_tokens":3,"prompt_tokens_details":null}"#,
        ] {
            assert_eq!(usage(text), Some(expected), "{text}");
        }
        assert_eq!((usage("null"), usage("{}"), usage("7"), usage(r#"{"prompt_tokens":"many"}"#)), (None, None, None, None));
        let uncounted = read(br#"{"choices":[{"message":{"content":"a"}}]}"#, &Conversation::default()).unwrap();
        assert_eq!((uncounted.usage, &uncounted.extra["usage_missing"]), (Usage::default(), &json!(true)));
    }

    #[test]
    fn keep_alives_before_the_body_are_skipped() {
        let body = b"\n\r\n: keep-alive\n\n: keep-alive\r\n {\"choices\":[{\"message\":{\"content\":\": a\"}}]}";
        assert_eq!(read(body, &Conversation::default()).unwrap().message.content, ": a");
        assert!(read(b": keep-alive", &Conversation::default()).is_err());
    }

    #[test]
    fn half_a_surrogate_costs_one_character() {
        let content = |text: &str| {
            read(format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}]}}"#).as_bytes(), &Conversation::default()).unwrap()
        };
        for (text, expected) in [
            (r"a\ud83db", "a\u{fffd}b"),
            (r"a\ud83d\ude00\ude00", "a\u{1f600}\u{fffd}"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
            (r"\\ud83d \udc00", "\\ud83d \u{fffd}"),
        ] {
            assert_eq!(content(text).message.content, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_completion_says_so() {
        for body in ["", "<html>", "{}", "[]", r#"{"choices":[]}"#, r#"{"choices":null}"#, r#"{"choices":[{"message":{"content":"#] {
            assert!(matches!(read(body.as_bytes(), &Conversation::default()), Err(Broken::Unreadable(_))), "{body}");
        }
        for body in [
            r#"{"error":{"code":429,"message":"slow"}}"#,
            r#"{"choices":[{"message":{"content":""},"finish_reason":"error","error":{"code":429,"message":"slow"}}]}"#,
        ] {
            assert_eq!(
                read(body.as_bytes(), &Conversation::default()),
                Err(Broken::Error(json!({"code": 429, "message": "slow"}))),
                "{body}"
            );
        }
    }

    #[test]
    fn errors_of_every_shape_have_a_text() {
        for (body, text) in [
            (r#"{"error":{"message":"m","code":1}}"#, "m"),
            (r#"{"error":"m"}"#, "m"),
            (r#"{"object":"error","message":"m"}"#, "m"),
            (r#"{"detail":[{"loc":["body"],"msg":"m"}]}"#, "m"),
            (r#"[{"error":{"message":"m"}}]"#, "m"),
            ("<html>", "<html>"),
            (r#"{"odd":1}"#, r#"{"odd":1}"#),
            ("", ""),
        ] {
            assert_eq!(error_text(body.as_bytes()), text, "{body}");
        }
    }
}
