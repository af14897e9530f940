//! A request's body: what all requests of a run have alike, and between it the conversation's own bytes, never copied.

use crate::domain::{
    Conversation, Role,
    conversation::{Part, Text},
};
use crate::endpoint::settings::SendReasoning;
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};
use serde_json::{Map, Value, value::RawValue};
use std::{
    convert::Infallible,
    io::IoSlice,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// What stands before and behind the messages.
#[derive(Debug, Clone)]
pub struct Envelope {
    head: Bytes,
    tail: Bytes,
}

impl Envelope {
    /// `tools` is a JSON array, empty for none; it keeps the order of its keys.
    ///
    /// # Errors
    /// Where `tools` is not JSON.
    pub fn new(model: &str, tools: &str, parameters: &Map<String, Value>) -> serde_json::Result<Self> {
        let head = format!("{{\"model\":{},\"messages\":[", serde_json::to_string(model)?);
        let mut tail = "]".to_owned();
        if !tools.is_empty() {
            tail.push_str(",\"tools\":");
            tail.push_str(serde_json::from_str::<&RawValue>(tools)?.get());
        }
        for (key, value) in parameters {
            tail.push_str(&format!(",{}:{}", serde_json::to_string(key)?, serde_json::to_string(value)?));
        }
        tail.push('}');
        Ok(Envelope { head: head.into(), tail: tail.into() })
    }
}

/// A body that can be sent any number of times: each clone begins where this one stands, and shares its bytes. A box: it goes through many
/// hands, and each connection makes room for 32 of them.
#[derive(Debug, Clone)]
pub struct Body(Box<Pieces>);

#[derive(Debug, Clone)]
struct Pieces {
    envelope: Envelope,
    text: Arc<Text>,
    thoughts: Thoughts,
    /// Bytes that are still to come.
    left: u64,
    next: Next,
    /// Bytes of the next piece that are sent.
    sent: usize,
}

/// Which messages go with their thinking, under which key.
#[derive(Debug, Clone)]
struct Thoughts {
    /// Comma, key and colon.
    key: Bytes,
    /// Thinking that is sent though there is none.
    empty: Bytes,
    send: SendReasoning,
    /// Under [`SendReasoning::Auto`] only replies with calls, from this message on.
    from: usize,
}

impl Thoughts {
    fn are_sent(&self, at: usize, part: &Part) -> bool {
        part.role() == Role::Assistant
            && match self.send {
                SendReasoning::Auto => part.has_calls() && at >= self.from,
                SendReasoning::Always => true,
                SendReasoning::Never => false,
            }
    }
}

/// What of the body comes next.
#[derive(Debug, Clone, Copy)]
enum Next {
    Head,
    /// The text from this byte on, up to the next thinking that is left out or has its key before it; messages before this one have theirs
    /// behind them.
    Text(usize, usize),
    /// The key of this message's thinking, where it has some and where it has none.
    Key(usize),
    KeyOfNone(usize),
    None(usize),
    Tail,
    Nothing,
}

enum Piece<'a> {
    Own(&'a Bytes),
    Text(Range<usize>),
}

impl Body {
    /// `key` names the field in which thinking goes back.
    #[must_use]
    pub fn new(envelope: Envelope, conversation: &Conversation, send: SendReasoning, key: &'static str) -> Self {
        let (text, parts) = (Arc::clone(conversation.text()), conversation.parts());
        let thinks = parts.iter().any(|part| !part.thinking().is_empty());
        let behind_user = parts.iter().rposition(|part| part.role() == Role::User).map_or(0, |at| at + 1);
        let from = if thinks { behind_user } else { usize::MAX };
        let key = Bytes::from_static(match key {
            "reasoning" => b",\"reasoning\":",
            _ => b",\"reasoning_content\":",
        });
        let thoughts = Thoughts { key, empty: Bytes::from_static(b"\"\""), send, from };
        let changed = |(at, part): (usize, &Part)| match (thoughts.are_sent(at, part), part.thinking().len() as i64) {
            (true, 0) => (thoughts.key.len() + thoughts.empty.len()) as i64,
            (true, _) => thoughts.key.len() as i64,
            (false, thinking) => -thinking,
        };
        let changed: i64 = parts.iter().enumerate().map(changed).sum();
        // The first message's comma is not sent.
        let messages = text.bytes().len().saturating_sub(1) as u64;
        let left = ((envelope.head.len() + envelope.tail.len()) as u64 + messages).saturating_add_signed(changed);
        Body(Box::new(Pieces { envelope, text, thoughts, left, next: Next::Head, sent: 0 }))
    }

    /// All of it as one frame.
    #[must_use]
    pub fn whole(self) -> Whole {
        Whole(Some(Slices(self.0)))
    }
}

impl Pieces {
    /// The next piece, and what comes after it. None of them is empty.
    fn look(&self, next: Next) -> Option<(Piece<'_>, Next)> {
        let parts = self.text.parts();
        let behind = |at: usize| Next::Text(parts[at].thinking().end, at + 1);
        Some(match next {
            Next::Head if parts.is_empty() => (Piece::Own(&self.envelope.head), Next::Tail),
            Next::Head => (Piece::Own(&self.envelope.head), Next::Text(1, 0)),
            Next::Text(from, at) => {
                let (to, next) = self.stop(at);
                (Piece::Text(from..to), next)
            }
            Next::Key(at) => (Piece::Own(&self.thoughts.key), Next::Text(parts[at].thinking().start, at + 1)),
            Next::KeyOfNone(at) => (Piece::Own(&self.thoughts.key), Next::None(at)),
            Next::None(at) => (Piece::Own(&self.thoughts.empty), behind(at)),
            Next::Tail => (Piece::Own(&self.envelope.tail), Next::Nothing),
            Next::Nothing => return None,
        })
    }

    /// Where the text cannot go on as it lies, from this message on, and what comes there.
    fn stop(&self, from: usize) -> (usize, Next) {
        let parts = self.text.parts();
        for (at, part) in parts.iter().enumerate().skip(from) {
            let thinking = part.thinking();
            let next = match (self.thoughts.are_sent(at, part), thinking.is_empty()) {
                (false, true) => continue,
                (false, false) => Next::Text(thinking.end, at + 1),
                (true, false) => Next::Key(at),
                (true, true) => Next::KeyOfNone(at),
            };
            return (thinking.start, next);
        }
        (self.text.bytes().len(), Next::Tail)
    }

    fn bytes<'a>(&'a self, piece: &Piece<'a>) -> &'a [u8] {
        match piece {
            Piece::Own(bytes) => bytes,
            Piece::Text(range) => &self.text.bytes()[range.clone()],
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let (piece, next) = self.look(self.next)?;
        let bytes = match piece {
            Piece::Own(bytes) => bytes.clone(),
            Piece::Text(range) => Bytes::from_owner(Shared(Arc::clone(&self.text))).slice(range),
        };
        self.next = next;
        self.left -= bytes.len() as u64;
        Some(bytes)
    }
}

struct Shared(Arc<Text>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// Its length is known from the first: it goes out with `Content-Length`, not in chunks.
impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0.next, Next::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.left)
    }
}

/// A body in one frame of many slices, for a connection that takes them by few system calls; or none.
#[derive(Debug, Default)]
pub struct Whole(Option<Slices>);

impl hyper::body::Body for Whole {
    type Data = Slices;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Slices>, Infallible>>> {
        Poll::Ready(self.0.take().map(|slices| Ok(Frame::data(slices))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |slices| slices.remaining() as u64))
    }
}

/// What of a body is not sent yet. It borrows each piece where it lies: nothing is counted or made for them.
#[derive(Debug)]
pub struct Slices(Box<Pieces>);

impl Slices {
    /// What is left of the pieces.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (mut next, mut sent) = (self.0.next, self.0.sent);
        std::iter::from_fn(move || {
            let (piece, after) = self.0.look(next)?;
            next = after;
            Some(&self.0.bytes(&piece)[std::mem::take(&mut sent)..])
        })
    }
}

impl Buf for Slices {
    fn remaining(&self) -> usize {
        self.0.left as usize
    }

    fn chunk(&self) -> &[u8] {
        self.pieces().next().unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        into.iter_mut().zip(self.pieces()).map(|(slot, piece)| *slot = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, count: usize) {
        let body = &mut *self.0;
        body.left -= count as u64;
        body.sent += count;
        while let Some((piece, after)) = body.look(body.next) {
            let len = body.bytes(&piece).len();
            if body.sent < len {
                break;
            }
            body.sent -= len;
            body.next = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Message, ToolCall};

    fn thinking(content: &str, reasoning: &str, call: Option<&str>) -> Message {
        Message {
            reasoning_content: reasoning.into(),
            tool_calls: call.map(|id| ToolCall::new(id, "bash", "{\"command\": \"ls\"}")).into_iter().collect(),
            ..Message::new(Role::Assistant, content)
        }
    }

    /// As a connection does that sends at most so many bytes of at most three slices at a time.
    fn read_slices(whole: Whole, bytes: usize) -> Vec<u8> {
        let Whole(Some(mut slices)) = whole else { panic!("it is sent once") };
        let mut sent = Vec::new();
        while slices.has_remaining() {
            let mut some = [IoSlice::new(&[]); 3];
            let filled = slices.chunks_vectored(&mut some);
            let some: Vec<u8> = some[..filled].iter().flat_map(|slice| slice.iter().copied()).take(bytes).collect();
            assert!(some.starts_with(&slices.chunk()[..slices.chunk().len().min(bytes)]) && !some.is_empty());
            slices.advance(some.len());
            sent.extend(some);
        }
        assert_eq!((slices.chunk(), slices.remaining()), (&b""[..], 0));
        sent
    }

    fn sent(messages: &[Message], tools: &str, send_reasoning: SendReasoning) -> String {
        let parameters = serde_json::from_str(r#"{"temperature":1.0,"max_tokens":9}"#).unwrap();
        let envelope = Envelope::new("m", tools, &parameters).unwrap();
        let mut body = Body::new(envelope, &messages.iter().collect(), send_reasoning, "reasoning_content");
        let (told, again) = (body.0.left, body.clone());
        let read = |body: &mut Body| std::iter::from_fn(|| body.0.take()).flatten().collect::<Vec<u8>>();
        let bytes = read(&mut body);
        assert_eq!((told, body.0.left), (bytes.len() as u64, 0));
        assert_eq!(read(&mut again.clone()), bytes, "it can be sent again");
        assert_eq!(read_slices(again.whole(), 7), bytes, "as one frame too");
        String::from_utf8(bytes).unwrap()
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
        assert_eq!(sent(&[], "", SendReasoning::Auto), r#"{"model":"m","messages":[],"temperature":1.0,"max_tokens":9}"#);
    }

    #[test]
    fn thinking_to_the_byte() {
        let messages =
            [Message::new(Role::User, "u"), thinking("a", "t\n", Some("c1")), thinking("b", "", Some("c2")), thinking("c", "t", None)];
        let call = |id| {
            format!(
                r#""tool_calls":[{{"id":"{id}","type":"function","function":{{"name":"bash","arguments":"{{\"command\": \"ls\"}}"}}}}]"#
            )
        };
        let expected = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"u"}},{{"role":"assistant","content":"a","reasoning_content":"t\n",{}}},{{"role":"assistant","content":"b","reasoning_content":"",{}}},{{"role":"assistant","content":"c"}}],"temperature":1.0,"max_tokens":9}}"#,
            call("c1"),
            call("c2"),
        );
        assert_eq!(sent(&messages, "", SendReasoning::Auto), expected);
        let first = [thinking("a", "t", None)];
        assert!(sent(&first, "", SendReasoning::Always).contains(r#"[{"role":"assistant","content":"a","reasoning_content":"t"}]"#));
        assert!(sent(&first, "", SendReasoning::Never).contains(r#"[{"role":"assistant","content":"a"}]"#));
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
