//! A reply that comes as server-sent events, folded piece by piece into what [`read`] makes of a whole one.
//! A host that does not stream and sends the whole reply is understood as well.

use super::{
    delta::{Choice, Chunk, Folded},
    events::{Event, Events},
    reply::{Broken, Pieces, Reply, read, usage},
};
use crate::domain::Conversation;
use serde_json::{Deserializer, Value, value::RawValue};

/// What a piece of the stream brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// Nothing that could be told yet: a part of a line.
    Nothing,
    /// That the host is there: a comment, an event without a word of the model's.
    Alive,
    /// Some of the reply.
    Said,
    /// The last of it, or what makes the rest worthless.
    Ended,
}

/// A reply as far as it has come.
#[derive(Debug)]
pub struct Fold {
    events: Events,
    /// The lines of a body that is no stream.
    whole: Vec<u8>,
    said: Said,
    max_bytes: usize,
}

/// What the events said.
#[derive(Debug, Default)]
struct Said {
    folded: Folded,
    model: String,
    finish_reason: String,
    /// The JSON of the last usage.
    usage: String,
    done: bool,
    broken: Option<Broken>,
    /// Events that brought some of the reply: a token each, with most hosts.
    pieces: u64,
}

impl Fold {
    /// Keeps at most `max_bytes`: of the reply's text, and of an event that is not whole yet.
    pub fn new(max_bytes: usize) -> Self {
        Fold { events: Events::default(), whole: Vec::new(), said: Said::default(), max_bytes }
    }

    /// Takes the next bytes, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) -> Heard {
        let Fold { events, whole, said, max_bytes } = self;
        let mut heard = Heard::Nothing;
        events.push(bytes, &mut |event| heard = heard.max(said.take(event, whole)));
        if !whole.is_empty() || events.begins_whole() {
            heard = heard.max(Heard::Said);
        }
        if events.held() + whole.len() + said.folded.bytes + said.usage.len() > *max_bytes {
            let why = format!("the reply is over {max_bytes} bytes (endpoint.max_reply_bytes)");
            said.broken.get_or_insert(Broken::Unreadable(why));
        }
        if said.done || said.broken.is_some() { Heard::Ended } else { heard }
    }

    /// Nothing but the count of tokens can be missing.
    pub fn is_whole(&self) -> bool {
        self.said.broken.is_none() && (self.said.done || !self.said.finish_reason.is_empty())
    }

    /// Tokens of the reply so far: as the endpoint counts them where it does along the way, else an event for one.
    pub fn tokens(&self) -> u64 {
        usage(&self.said.usage).map_or(0, |usage| usage.completion_tokens).max(self.said.pieces)
    }

    /// The reply, once the stream has ended. Ids of calls as with [`read`].
    ///
    /// # Errors
    /// See [`Broken`]; also where the stream ended before the reply did.
    pub fn reply(mut self, earlier: &Conversation) -> Result<Reply, Broken> {
        let Fold { events, whole, said, .. } = &mut self;
        events.end(&mut |event| {
            said.take(event, whole);
        });
        match self.said.broken.take() {
            Some(broken) => Err(broken),
            None if !self.whole.is_empty() => read(&self.whole, earlier),
            None => self.said.reply(earlier),
        }
    }
}

impl Said {
    fn take(&mut self, event: Event<'_>, whole: &mut Vec<u8>) -> Heard {
        if self.done || self.broken.is_some() {
            return Heard::Ended;
        }
        match event {
            Event::Comment => Heard::Alive,
            Event::Whole(line) => {
                whole.extend_from_slice(line);
                whole.push(b'\n');
                Heard::Said
            }
            Event::Done => {
                self.done = true;
                Heard::Ended
            }
            Event::Data(data) => self.data(&String::from_utf8_lossy(data)),
            Event::Error(data) => {
                let text = String::from_utf8_lossy(data);
                let value = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()));
                self.fail(Broken::Error(within(value)))
            }
        }
    }

    fn fail(&mut self, broken: Broken) -> Heard {
        self.broken = Some(broken);
        Heard::Ended
    }

    /// One chunk, or several where the host left out the blank lines between them.
    fn data(&mut self, text: &str) -> Heard {
        let mut heard = Heard::Alive;
        for chunk in Deserializer::from_str(text).into_iter::<Chunk<'_>>() {
            let folded = match chunk {
                Ok(chunk) => self.chunk(chunk, text),
                Err(e) => Err(Broken::Unreadable(format!("an event of the stream cannot be read: {e}"))),
            };
            match folded {
                Ok(true) => heard = Heard::Said,
                Ok(false) => {}
                Err(broken) => return self.fail(broken),
            }
        }
        self.pieces += u64::from(heard == Heard::Said);
        heard
    }

    /// Whether it brought some of the reply.
    fn chunk(&mut self, chunk: Chunk<'_>, text: &str) -> Result<bool, Broken> {
        let Chunk { model, choice, usage, error, object } = chunk;
        if let Some(error) = error {
            return Err(Broken::Error(parsed(error.get())));
        }
        if object.is_some_and(|object| object.get() == r#""error""#) {
            return Err(Broken::Error(parsed(text)));
        }
        if self.model.is_empty() {
            self.model = model.map(plain).unwrap_or_default();
        }
        if let Some(told) = usage {
            self.usage.clear();
            self.usage.push_str(told.get());
        }
        let Some(Choice { delta, finish_reason, error }) = choice else { return Ok(false) };
        if let Some(error) = error {
            return Err(Broken::Error(parsed(error.get())));
        }
        let before = self.folded.bytes;
        if let Some(delta) = delta {
            self.folded.add(delta)?;
        }
        if let Some(reason) = finish_reason.map(plain).filter(|reason| !reason.is_empty()) {
            self.finish_reason = reason;
        }
        Ok(self.folded.bytes > before)
    }

    fn reply(self, earlier: &Conversation) -> Result<Reply, Broken> {
        if self.finish_reason.is_empty() && !self.done {
            return Err(Broken::Unreadable("the stream ended before the reply did".to_owned()));
        }
        let pieces = Pieces { model: self.model, finish_reason: self.finish_reason, ..self.folded.pieces() };
        let whole = |arguments: &str| arguments.is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok();
        if pieces.finish_reason.is_empty() && !pieces.calls.iter().all(|call| whole(&call.arguments)) {
            return Err(Broken::Unreadable("the stream ended within a call, without a finish_reason".to_owned()));
        }
        Ok(pieces.reply(usage(&self.usage), earlier))
    }
}

/// The error of an event named so, which may be wrapped as in a chunk.
fn within(value: Value) -> Value {
    match value {
        Value::Object(mut map) if map.get("error").is_some_and(|inner| !inner.is_null()) => map.remove("error").unwrap_or_default(),
        other => other,
    }
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}

/// A string or a number as text, anything else as none.
pub(super) fn plain(raw: &RawValue) -> String {
    match parsed(raw.get()) {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
