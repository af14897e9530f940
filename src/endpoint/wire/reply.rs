//! A reply's body, read leniently: hosts differ in what they leave out, and each thing that the model said must survive.

use crate::domain::{Message, Role, ToolCall, transcript::Usage};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, value::RawValue};
use std::collections::{BTreeMap, HashSet};

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

type Fields<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(default, deserialize_with = "text")]
    model: String,
    #[serde(default, borrow, deserialize_with = "list")]
    choices: Vec<Choice<'a>>,
    #[serde(default)]
    usage: Value,
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
pub fn read(body: &[u8], earlier: &[Message]) -> Result<Reply, Broken> {
    let text = String::from_utf8_lossy(without_keep_alive(body));
    match parse(&text, earlier) {
        Err(Broken::Unreadable(_)) if text.contains("\\u") => parse(&whole_surrogates(&text), earlier),
        other => other,
    }
}

fn parse(text: &str, earlier: &[Message]) -> Result<Reply, Broken> {
    let unreadable = |what: &str, e: serde_json::Error| Broken::Unreadable(format!("{what} cannot be read: {e}"));
    let whole: Whole<'_> = serde_json::from_str(text).map_err(|e| unreadable("the reply", e))?;
    let first = whole.choices.into_iter().next();
    let Some(Choice { message: Some(mut fields), finish_reason, error: Value::Null }) = first else {
        let within = first.map_or(Value::Null, |choice| choice.error);
        return Err(match [whole.error, within].into_iter().find(|e| !e.is_null()) {
            Some(error) => Broken::Error(error),
            None => Broken::Unreadable("the reply has no choices[0].message".to_owned()),
        });
    };

    let mut extra = Map::new();
    let Parts { text: content, thinking, others } = fields.remove("content").map(parts).unwrap_or_default();
    if let Some(all) = others {
        extra.insert("content".to_owned(), all);
    }
    let mut reasoning_field = None;
    let mut reasoning_content = thinking;
    for name in ["reasoning", "reasoning_content"] {
        // A host that sends both sends the same twice.
        if let Some(Value::String(text)) = fields.get(name).and_then(|raw| value(raw)) {
            fields.remove(name);
            if !text.is_empty() {
                reasoning_content = text;
            }
            reasoning_field = Some(name);
        }
    }
    let calls = match (fields.remove("tool_calls"), fields.remove("function_call")) {
        (Some(raw), _) if raw.get() != "null" && raw.get() != "[]" => {
            serde_json::from_str::<Vec<Call<'_>>>(raw.get()).map_err(|e| unreadable("tool_calls", e))?
        }
        (_, Some(raw)) if raw.get() != "null" => {
            let function = serde_json::from_str(raw.get()).map_err(|e| unreadable("function_call", e))?;
            vec![Call { id: String::new(), function }]
        }
        _ => Vec::new(),
    };
    fields.remove("role");
    extra.extend(fields.into_iter().filter_map(|(key, raw)| Some((key, value(raw).filter(|v| !is_empty(v))?))));
    let usage = usage(&whole.usage).unwrap_or_else(|| {
        extra.insert("usage_missing".to_owned(), Value::Bool(true));
        Usage::default()
    });
    let message = Message { reasoning_content, tool_calls: with_ids(calls, earlier), ..Message::new(Role::Assistant, content) };
    Ok(Reply { message, model: whole.model, finish_reason, usage, extra, reasoning_field })
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
fn whole_surrogates(text: &str) -> String {
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

fn value(raw: &RawValue) -> Option<Value> {
    serde_json::from_str(raw.get()).ok()
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

#[derive(Default)]
struct Parts {
    text: String,
    thinking: String,
    /// The whole content, where it has parts that are neither.
    others: Option<Value>,
}

/// Content as text, null, or a list of parts.
fn parts(raw: &RawValue) -> Parts {
    let mut parts = Parts::default();
    match value(raw) {
        Some(Value::String(text)) => parts.text = text,
        Some(Value::Array(items)) => {
            let understood = items.iter().filter(|item| parts.add(item)).count();
            parts.others = (understood < items.len()).then_some(Value::Array(items));
        }
        Some(Value::Null) | None => {}
        Some(other) => parts.others = Some(other),
    }
    parts
}

impl Parts {
    /// False where the part is neither text nor thinking.
    fn add(&mut self, part: &Value) -> bool {
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

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(default, deserialize_with = "text")]
    id: String,
    #[serde(default, borrow)]
    function: Function<'a>,
}

#[derive(Deserialize, Default)]
struct Function<'a> {
    #[serde(default, deserialize_with = "text")]
    name: String,
    #[serde(default, borrow)]
    arguments: Option<&'a RawValue>,
}

impl Function<'_> {
    /// The text that the model wrote; the compact JSON of it where a host sends it parsed.
    fn arguments(&self) -> String {
        let Some(raw) = self.arguments else { return String::new() };
        match raw.get().as_bytes() {
            [b'"', ..] => serde_json::from_str(raw.get()).unwrap_or_default(),
            _ => compact(raw.get()),
        }
    }
}

/// JSON without the white space between its tokens; numbers stay as they are written.
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let kept = json.chars().filter(|c| {
        let keep = in_string || !c.is_ascii_whitespace();
        if *c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && *c == '\\' && !escaped;
        keep
    });
    kept.collect()
}

fn with_ids(calls: Vec<Call<'_>>, earlier: &[Message]) -> Vec<ToolCall> {
    let mut taken: HashSet<String> = match calls.is_empty() {
        true => HashSet::new(),
        false => earlier.iter().flat_map(|m| &m.tool_calls).map(|call| call.id.clone()).collect(),
    };
    let turn = earlier.iter().filter(|m| m.role == Role::Assistant).count();
    let unique = |(at, call): (usize, Call<'_>)| {
        let wanted = if call.id.is_empty() { format!("call_{turn}_{at}") } else { call.id };
        let candidates = std::iter::once(wanted.clone()).chain((2_u32..).map(|n| format!("{wanted}_{n}")));
        let id = candidates.into_iter().find(|id| !taken.contains(id)).unwrap_or(wanted);
        taken.insert(id.clone());
        ToolCall::new(id, call.function.name.as_str(), call.function.arguments())
    };
    calls.into_iter().enumerate().map(unique).collect()
}

/// OpenAI's dialect and DeepSeek's. None where the endpoint counted nothing.
fn usage(usage: &Value) -> Option<Usage> {
    let count = |path: &str| -> Option<u64> {
        let number = usage.pointer(path)?;
        number.as_u64().or_else(|| number.as_f64().filter(|n| *n >= 0.0).map(|n| n as u64))
    };
    let cached = count("/prompt_tokens_details/cached_tokens").or_else(|| count("/prompt_cache_hit_tokens")).unwrap_or(0);
    let prompt = count("/prompt_tokens").or_else(|| Some(cached + count("/prompt_cache_miss_tokens")?));
    let completion = count("/completion_tokens");
    if prompt.is_none() && completion.is_none() {
        return None;
    }
    Some(Usage {
        prompt_tokens: prompt.unwrap_or(0),
        completion_tokens: completion.unwrap_or(0),
        cached_tokens: cached,
        reasoning_tokens: count("/completion_tokens_details/reasoning_tokens").or_else(|| count("/reasoning_tokens")).unwrap_or(0),
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
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    })
}

/// A list, or the empty one for null.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
