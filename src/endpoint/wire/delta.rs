//! A chunk of a streamed reply, and the message that deltas add up to. What is long is neither parsed twice nor copied twice.

use super::{
    calls::{Said, compact},
    reply::{Broken, Pieces, REASONING, decode, value, whole_surrogates},
    stream::plain,
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use std::{borrow::Cow, collections::BTreeMap, fmt};

type Raw<'a> = Option<&'a RawValue>;

#[derive(Deserialize)]
pub struct Chunk<'a> {
    #[serde(default, borrow)]
    pub model: Raw<'a>,
    /// The first of the reply's choices; none in a chunk of usage.
    #[serde(default, borrow, rename = "choices", deserialize_with = "first")]
    pub choice: Option<Choice<'a>>,
    #[serde(default, borrow)]
    pub usage: Raw<'a>,
    #[serde(default, borrow)]
    pub error: Raw<'a>,
    #[serde(default, borrow)]
    pub object: Raw<'a>,
}

pub struct Choice<'a> {
    pub delta: Option<Delta<'a>>,
    pub finish_reason: Raw<'a>,
    pub error: Raw<'a>,
}

#[derive(Deserialize)]
struct AnyChoice<'a> {
    #[serde(default, borrow)]
    index: Raw<'a>,
    #[serde(default, borrow)]
    delta: Option<Delta<'a>>,
    #[serde(default, borrow)]
    finish_reason: Raw<'a>,
    #[serde(default, borrow)]
    error: Raw<'a>,
}

/// Fields that are null are as those that are not there.
#[derive(Default)]
pub struct Delta<'a> {
    content: Raw<'a>,
    reasoning: [Raw<'a>; 2],
    tool_calls: Option<Vec<CallPiece<'a>>>,
    function_call: Option<FunctionPiece<'a>>,
    others: Vec<(Cow<'a, str>, &'a RawValue)>,
}

#[derive(Deserialize)]
struct CallPiece<'a> {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default, borrow)]
    id: Raw<'a>,
    #[serde(default, borrow)]
    function: Option<FunctionPiece<'a>>,
}

#[derive(Deserialize)]
struct FunctionPiece<'a> {
    #[serde(default, borrow)]
    name: Raw<'a>,
    #[serde(default, borrow)]
    arguments: Raw<'a>,
}

/// The choice of index 0, in a list that is null, empty, or has others too.
fn first<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Choice<'de>>, D::Error> {
    struct First;
    impl<'de> Visitor<'de> for First {
        type Value = Option<Choice<'de>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of choices")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(AnyChoice { index, delta, finish_reason, error }) = items.next_element()? {
                if index.is_none_or(|index| index.get() == "0") {
                    found.get_or_insert(Choice { delta, finish_reason, error });
                }
            }
            Ok(found)
        }
    }
    deserializer.deserialize_any(First)
}

impl<'de: 'a, 'a> Deserialize<'de> for Delta<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Delta<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a delta")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut delta = Delta::default();
                while let Some(Key(key)) = map.next_key()? {
                    match &*key {
                        "content" => delta.content = map.next_value()?,
                        "reasoning" => delta.reasoning[0] = map.next_value()?,
                        "reasoning_content" => delta.reasoning[1] = map.next_value()?,
                        "tool_calls" => delta.tool_calls = map.next_value()?,
                        "function_call" => delta.function_call = map.next_value()?,
                        "role" => drop(map.next_value::<IgnoredAny>()?),
                        _ => delta.others.extend(map.next_value::<Raw<'_>>()?.map(|raw| (key, raw))),
                    }
                }
                Ok(delta)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The message so far.
#[derive(Debug, Default)]
pub struct Folded {
    pieces: Pieces,
    /// Items of contents that came as lists, and whether one of them is neither text nor thinking.
    items: Vec<Value>,
    odd: bool,
    /// Index of each call, and the place of the last call of an index.
    order: Vec<u64>,
    places: BTreeMap<u64, usize>,
    function_call: Option<Said>,
    /// Said so far: of text, arguments, names and whatever else is kept.
    pub bytes: usize,
}

/// Beside its text, about what a call takes.
const CALL_BYTES: usize = 128;

impl Folded {
    pub fn add(&mut self, delta: Delta<'_>) -> Result<(), Broken> {
        if let Some(raw) = delta.content {
            self.content(raw)?;
        }
        for (at, raw) in delta.reasoning.into_iter().enumerate() {
            match raw {
                Some(raw) if raw.get().starts_with('"') => {
                    self.bytes += append(self.pieces.reasoning[at].get_or_insert_default(), raw)?;
                }
                Some(raw) => self.other(REASONING[at].into(), raw),
                None => {}
            }
        }
        for piece in delta.tool_calls.into_iter().flatten() {
            self.call(piece)?;
        }
        if let Some(piece) = delta.function_call {
            self.bytes += self.function_call.get_or_insert_default().add(piece)?;
        }
        for (key, raw) in delta.others {
            self.other(key, raw);
        }
        Ok(())
    }

    pub fn pieces(self) -> Pieces {
        let Folded { mut pieces, items, odd, order, function_call, .. } = self;
        if odd {
            pieces.content.others = Some(Value::Array(items));
        }
        let mut calls: Vec<_> = order.into_iter().zip(pieces.calls).collect();
        calls.sort_by_key(|(index, _)| *index);
        pieces.calls = calls.into_iter().map(|(_, call)| call).collect();
        if pieces.calls.is_empty() {
            pieces.calls.extend(function_call);
        }
        pieces
    }

    fn content(&mut self, raw: &RawValue) -> Result<(), Broken> {
        if raw.get().starts_with('"') {
            self.bytes += append(&mut self.pieces.content.text, raw)?;
            return Ok(());
        }
        self.bytes += raw.get().len();
        match decode("content", raw.get())? {
            Value::Array(items) => {
                for item in items {
                    self.odd |= !self.pieces.content.add(&item);
                    self.items.push(item);
                }
            }
            other => self.pieces.content.others = Some(other),
        }
        Ok(())
    }

    fn other(&mut self, key: Cow<'_, str>, raw: &RawValue) {
        self.bytes += raw.get().len();
        match self.pieces.others.get_mut(&*key) {
            Some(old) => merge(old, value(raw)),
            None => {
                self.bytes += key.len();
                self.pieces.others.insert(key.into_owned(), value(raw));
            }
        }
    }

    fn call(&mut self, piece: CallPiece<'_>) -> Result<(), Broken> {
        let calls = &mut self.pieces.calls;
        let id = piece.id.map(plain).unwrap_or_default();
        let names = piece.function.as_ref().and_then(|f| f.name).is_some_and(|name| name.get() != r#""""#);
        // Some hosts send whole calls, all without an index or of index 0: what has a name and an id of its own is another.
        let place = match piece.index {
            Some(index) => self.places.get(&index).copied(),
            None => calls.len().checked_sub(1),
        };
        let place = place.filter(|at| !names || id.is_empty() || calls[*at].id.is_empty() || calls[*at].id == id);
        let place = place.filter(|at| piece.index.is_some() || !names || !id.is_empty() || calls[*at].name.is_empty());
        let at = place.unwrap_or_else(|| {
            self.order.push(piece.index.or(self.order.last().copied()).unwrap_or(0));
            calls.push(Said::default());
            self.bytes += CALL_BYTES;
            calls.len() - 1
        });
        self.places.insert(self.order[at], at);
        let call = &mut calls[at];
        if call.id.is_empty() {
            self.bytes += id.len();
            call.id = id;
        }
        if let Some(function) = piece.function {
            self.bytes += call.add(function)?;
        }
        Ok(())
    }
}

impl Said {
    /// Bytes added. A name comes whole, once or with every piece, or in pieces before the arguments.
    fn add(&mut self, piece: FunctionPiece<'_>) -> Result<usize, Broken> {
        let name = piece.name.map(plain).unwrap_or_default();
        let mut added = 0;
        if self.arguments.is_empty() && self.name != name {
            self.name.push_str(&name);
            added += name.len();
        }
        match piece.arguments {
            None => {}
            Some(raw) if raw.get().starts_with('"') => added += append(&mut self.arguments, raw)?,
            Some(raw) => {
                let text = compact(raw.get());
                self.arguments.push_str(&text);
                added += text.len();
            }
        }
        Ok(added)
    }
}

/// Adds a JSON string to a text; the bytes added.
fn append(into: &mut String, raw: &RawValue) -> Result<usize, Broken> {
    let json = raw.get();
    let before = into.len();
    match json.get(1..json.len() - 1) {
        Some(inside) if memchr::memchr(b'\\', inside.as_bytes()).is_none() => into.push_str(inside),
        _ => match decode::<String>("a delta", json) {
            Ok(text) => into.push_str(&text),
            Err(_) => into.push_str(&decode::<String>("a delta", &whole_surrogates(json))?),
        },
    }
    Ok(into.len() - before)
}

/// Keys whose text is a name: it is said again, not continued.
const NAMES: [&str; 5] = ["index", "type", "id", "format", "role"];
/// How far back an item of the same index is looked for.
const LOOK_BACK: usize = 64;

/// Texts continue, lists grow, objects merge; items of a list with the same `index` are one. The rest is said anew.
fn merge(into: &mut Value, piece: Value) {
    match (into, piece) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) => text.push_str(&more),
        (Value::Array(items), Value::Array(more)) => {
            for item in more {
                let index = item.get("index").filter(|index| !index.is_null());
                let known = index.and_then(|index| items.iter().rev().take(LOOK_BACK).position(|old| old.get("index") == Some(index)));
                match known {
                    Some(back) => {
                        let at = items.len() - 1 - back;
                        merge(&mut items[at], item);
                    }
                    None => items.push(item),
                }
            }
        }
        (Value::Object(map), Value::Object(more)) => {
            for (key, value) in more {
                match map.get_mut(&key) {
                    Some(old) if !NAMES.contains(&key.as_str()) => merge(old, value),
                    Some(_) if value.is_null() => {}
                    _ => drop(map.insert(key, value)),
                }
            }
        }
        (into, piece) => *into = piece,
    }
}
