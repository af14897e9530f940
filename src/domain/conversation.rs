//! The messages of an attempt, each written to JSON once, when it comes: requests share these bytes, and nothing else holds them.

use super::tight::push_tight;
use super::{Message, Role, ToolCall};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    cell::RefCell,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::Arc,
};

/// A conversation as it lies in memory. A clone shares its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    parts: Arc<Vec<Part>>,
    /// Of the ids of all calls.
    call_hashes: Vec<u64>,
    replies: usize,
}

/// A message in OpenAI's form, its thinking cut out: a comma, the JSON up to the thinking's place, the thinking, the rest.
/// Empties are left out but for `content`: some hosts refuse a message without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    role: Role,
    has_calls: bool,
    bytes: Bytes,
    /// Where the thinking begins in `bytes`, a JSON string, and its length; 0 where there is none.
    thinking: (u32, u32),
}

impl Part {
    #[must_use]
    pub fn new(message: &Message) -> Self {
        // Grown once a thread; what is kept has its exact size from the first, and leaves no holes behind.
        thread_local!(static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        BYTES.with_borrow_mut(|bytes| {
            bytes.clear();
            let Range { start, end } = write(bytes, message);
            let thinking = (start as u32, (end - start) as u32);
            let part =
                Part { role: message.role, has_calls: !message.tool_calls.is_empty(), bytes: Bytes::copy_from_slice(bytes), thinking };
            bytes.shrink_to(KEPT);
            part
        })
    }

    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    #[must_use]
    pub fn has_calls(&self) -> bool {
        self.has_calls
    }

    /// Bytes of the comma and the message, its thinking included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a part holds at least its role.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The comma and the message; its thinking is in the way where there is any.
    #[must_use]
    pub fn whole(&self) -> &Bytes {
        &self.bytes
    }

    /// Where in `whole` its thinking lies, a JSON string; empty where there is none.
    #[must_use]
    pub fn thinking(&self) -> Range<usize> {
        let (begin, len) = self.thinking;
        begin as usize..(begin + len) as usize
    }

    /// What it was made of.
    #[must_use]
    pub fn message(&self) -> Message {
        let Range { start, end } = self.thinking();
        if start == end {
            return read(&self.bytes[1..]);
        }
        let message: Message = read(&[&self.bytes[1..start], &self.bytes[end..]].concat());
        Message { reasoning_content: read(&self.bytes[start..end]), ..message }
    }
}

/// Bytes of a message's memory that a thread keeps for the next.
const KEPT: usize = 64 << 10;

/// Returns where the thinking lies.
fn write(bytes: &mut Vec<u8>, message: &Message) -> Range<usize> {
    let Message { role, content, reasoning_content, tool_calls, tool_call_id, loss: _ } = message;
    bytes.extend_from_slice(b",{\"role\":");
    put(bytes, role);
    if !tool_call_id.is_empty() {
        bytes.extend_from_slice(b",\"tool_call_id\":");
        put(bytes, tool_call_id);
    }
    bytes.extend_from_slice(b",\"content\":");
    put(bytes, content);
    let from = bytes.len();
    if !reasoning_content.is_empty() {
        put(bytes, reasoning_content);
    }
    let thinking = from..bytes.len();
    if !tool_calls.is_empty() {
        bytes.extend_from_slice(b",\"tool_calls\":");
        put(bytes, tool_calls);
    }
    bytes.push(b'}');
    thinking
}

fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

fn put<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(bytes, value).unwrap_or_else(|e| unreachable!("plain data with string keys: {e}"));
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> T {
    serde_json::from_slice(bytes).unwrap_or_else(|e| unreachable!("it was written by `put`: {e}"))
}

impl Conversation {
    pub fn push(&mut self, message: &Message) {
        message.tool_calls.iter().for_each(|call| push_tight(&mut self.call_hashes, hash(&call.id)));
        self.replies += usize::from(message.role == Role::Assistant);
        push_tight(self.parts_mut(), Part::new(message));
    }

    /// Adds text to the last message, on a line of its own.
    pub fn continue_last(&mut self, text: &str) {
        let Some(last) = self.parts_mut().last_mut() else { return };
        let mut message = last.message();
        message.content.push('\n');
        message.content.push_str(text);
        *last = Part::new(&message);
    }

    /// A request that is still on its way keeps the parts that it began with.
    fn parts_mut(&mut self) -> &mut Vec<Part> {
        Arc::make_mut(&mut self.parts)
    }

    #[must_use]
    pub fn parts(&self) -> &Arc<Vec<Part>> {
        &self.parts
    }

    /// How many messages are the assistant's.
    #[must_use]
    pub fn replies(&self) -> usize {
        self.replies
    }

    /// Whether a call has this id; of two ids with the same hash of 64 bits the second counts as known.
    #[must_use]
    pub fn has_call(&self, id: &str) -> bool {
        self.call_hashes.contains(&hash(id))
    }

    /// The messages, each made anew.
    pub fn messages(&self) -> impl Iterator<Item = Message> {
        self.parts.iter().map(Part::message)
    }

    /// The assistant's messages, each made anew.
    pub fn replied(&self) -> impl Iterator<Item = Message> {
        self.parts.iter().filter(|part| part.role == Role::Assistant).map(Part::message)
    }

    /// Native calls of the last reply that have no observation yet.
    #[must_use]
    pub fn unanswered(&self) -> Vec<ToolCall> {
        let Some(at) = self.parts.iter().rposition(|part| part.role == Role::Assistant) else { return Vec::new() };
        let mut calls = self.parts[at].message().tool_calls;
        for answer in self.parts[at + 1..].iter().map(Part::message) {
            calls.retain(|call| call.id != answer.tool_call_id);
        }
        calls
    }
}

impl<'a> FromIterator<&'a Message> for Conversation {
    fn from_iter<I: IntoIterator<Item = &'a Message>>(messages: I) -> Self {
        let mut conversation = Conversation::default();
        messages.into_iter().for_each(|message| conversation.push(message));
        conversation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let call = |id: &str| ToolCall::new(id, "bash", "{\"command\":  \"ls \\\"é\\\"\"}");
        let thinking = Message {
            reasoning_content: "hm\n\"\u{1}".into(),
            tool_calls: vec![call("c1"), call("c2")],
            ..Message::new(Role::Assistant, "so")
        };
        let plain = Message { reasoning_content: "x".into(), ..Message::new(Role::Assistant, "") };
        vec![Message::new(Role::System, "s"), Message::new(Role::User, "u \u{1f600}\u{2028}"), thinking, Message::tool("c1", "o"), plain]
    }

    #[test]
    fn a_message_comes_back_as_it_went_in() {
        let conversation: Conversation = messages().iter().collect();
        assert_eq!(conversation.messages().collect::<Vec<_>>(), messages());
        assert_eq!(conversation.replies(), 2);
        assert!(conversation.has_call("c2") && !conversation.has_call("c"));
    }

    #[test]
    fn a_part_to_the_byte() {
        let pieces = |part: &Part| {
            let (bytes, Range { start, end }) = (part.whole(), part.thinking());
            [&bytes[..start], &bytes[start..end], &bytes[end..]].map(|piece| String::from_utf8(piece.to_vec()).unwrap())
        };
        let call = |id| {
            format!(r#"{{"id":"{id}","type":"function","function":{{"name":"bash","arguments":"{{\"command\":  \"ls \\\"é\\\"\"}}"}}}}"#)
        };
        let expected = [
            r#",{"role":"assistant","content":"so""#.to_owned(),
            r#""hm\n\"\u0001""#.to_owned(),
            format!(r#","tool_calls":[{},{}]}}"#, call("c1"), call("c2")),
        ];
        assert_eq!(pieces(&Part::new(&messages()[2])), expected);
        assert_eq!(pieces(&Part::new(&Message::tool("c1", ""))), [r#",{"role":"tool","tool_call_id":"c1","content":"""#, "", "}"]);
    }

    #[test]
    fn what_a_request_shares_stays_as_it_was() {
        let mut conversation: Conversation = messages()[..2].iter().collect();
        let request = Arc::clone(conversation.parts());
        conversation.continue_last("more");
        conversation.push(&messages()[2]);
        assert_eq!((request.len(), request[1].message().content.as_str()), (2, "u \u{1f600}\u{2028}"));
        assert_eq!(conversation.parts()[1].message().content, "u \u{1f600}\u{2028}\nmore");
        let at = conversation.parts()[0].bytes.as_ptr();
        assert_eq!(request[0].bytes.as_ptr(), at, "bytes are shared, not copied");
    }

    #[test]
    fn calls_without_an_answer() {
        let ids = |n: usize| -> Vec<String> {
            let conversation: Conversation = messages()[..n].iter().collect();
            conversation.unanswered().into_iter().map(|call| call.id).collect()
        };
        assert_eq!((ids(2), ids(3), ids(4), ids(5)), (vec![], vec!["c1".into(), "c2".into()], vec!["c2".into()], vec![]));
    }
}
