//! A request's body: what all requests of a run have alike, and between it the conversation's own bytes, never copied.

use crate::domain::{Conversation, Role, conversation::Part};
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
    parts: Arc<Vec<Part>>,
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
    /// This message, from this piece on.
    Part(usize, u8),
    Nothing,
}

impl Body {
    /// `key` names the field in which thinking goes back.
    #[must_use]
    pub fn new(envelope: Envelope, conversation: &Conversation, send: SendReasoning, key: &'static str) -> Self {
        let parts = Arc::clone(conversation.parts());
        let thinks = parts.iter().any(|part| !part.thinking().is_empty());
        let behind_user = parts.iter().rposition(|part| part.role() == Role::User).map_or(0, |at| at + 1);
        let from = if thinks { behind_user } else { usize::MAX };
        let key = Bytes::from_static(match key {
            "reasoning" => b",\"reasoning\":",
            _ => b",\"reasoning_content\":",
        });
        let thoughts = Thoughts { key, empty: Bytes::from_static(b"\"\""), send, from };
        let message = |(at, part): (usize, &Part)| match (thoughts.are_sent(at, part), part.thinking().len()) {
            (true, 0) => part.len() + thoughts.key.len() + thoughts.empty.len(),
            (true, _) => part.len() + thoughts.key.len(),
            (false, thinking) => part.len() - thinking,
        };
        let messages: usize = parts.iter().enumerate().map(message).sum();
        // The first message's comma is not sent.
        let left = (envelope.head.len() + messages - usize::from(!parts.is_empty()) + envelope.tail.len()) as u64;
        Body(Box::new(Pieces { envelope, parts, thoughts, left, next: Next::Head, sent: 0 }))
    }

    /// All of it as one frame.
    #[must_use]
    pub fn whole(self) -> Whole {
        Whole(Some(Slices(self.0)))
    }
}

impl Pieces {
    /// The next piece as part of the bytes that have it, and what comes after it.
    fn look(&self, next: &Next) -> Option<(&Bytes, Range<usize>, Next)> {
        let all = |bytes: &Bytes| 0..bytes.len();
        Some(match *next {
            Next::Head => (&self.envelope.head, all(&self.envelope.head), Next::Part(0, 0)),
            Next::Part(at, piece) => match self.parts.get(at) {
                None => (&self.envelope.tail, all(&self.envelope.tail), Next::Nothing),
                Some(part) => self.look_at(at, part, piece),
            },
            Next::Nothing => return None,
        })
    }

    fn look_at<'a>(&'a self, at: usize, part: &'a Part, piece: u8) -> (&'a Bytes, Range<usize>, Next) {
        let sent = self.thoughts.are_sent(at, part);
        let (bytes, thinking) = (part.whole(), part.thinking());
        let begin = usize::from(at == 0);
        match piece {
            0 if !sent && thinking.is_empty() => (bytes, begin..bytes.len(), Next::Part(at + 1, 0)),
            0 => (bytes, begin..thinking.start, Next::Part(at, if sent { 1 } else { 3 })),
            1 => (&self.thoughts.key, 0..self.thoughts.key.len(), Next::Part(at, 2)),
            2 if thinking.is_empty() => (&self.thoughts.empty, 0..self.thoughts.empty.len(), Next::Part(at, 3)),
            2 => (bytes, thinking, Next::Part(at, 3)),
            _ => (bytes, thinking.end..bytes.len(), Next::Part(at + 1, 0)),
        }
    }

    fn piece(&mut self) -> Option<Bytes> {
        let (bytes, range, next) = self.look(&self.next)?;
        let piece = bytes.slice(range);
        self.next = next;
        self.left -= piece.len() as u64;
        Some(piece)
    }
}

/// Its length is known from the first: it goes out with `Content-Length`, not in chunks.
impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.piece().map(|piece| Ok(Frame::data(piece))))
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
    /// What is left of the pieces; none of them is empty.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (mut next, mut sent) = (self.0.next, self.0.sent);
        let all = std::iter::from_fn(move || {
            let (bytes, range, after) = self.0.look(&next)?;
            next = after;
            Some(&bytes[range][std::mem::take(&mut sent)..])
        });
        all.filter(|piece| !piece.is_empty())
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
        while let Some((_, range, after)) = body.look(&body.next)
            && range.len() <= body.sent
        {
            body.sent -= range.len();
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
        let read = |body: &mut Body| std::iter::from_fn(|| body.0.piece()).flatten().collect::<Vec<u8>>();
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
