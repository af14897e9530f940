//! The messages of an attempt, each written to JSON once, when it comes: requests share these bytes, and nothing else holds them.

use super::{Message, Role, ToolCall};
use super::{pages::Pages, tight::push_tight};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::Arc,
};

/// A conversation as it lies in memory. A clone shares its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    text: Arc<Text>,
    /// Of the ids of all calls.
    call_hashes: Vec<u64>,
    replies: usize,
}

/// All messages, one behind the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    bytes: Pages,
    parts: Vec<Part>,
}

/// A message in OpenAI's form, its thinking cut out: a comma, the JSON up to the thinking's place, the thinking, the rest.
/// Empties are left out but for `content`: some hosts refuse a message without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    role: Role,
    has_calls: bool,
    // 32 bits each: the attempt's spool has all of it too, and takes less than 4 GiB.
    bytes: (u32, u32),
    /// A JSON string, or nothing.
    thinking: (u32, u32),
}

impl Part {
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    #[must_use]
    pub fn has_calls(&self) -> bool {
        self.has_calls
    }

    /// Where in the text it lies, the comma and its thinking included.
    #[must_use]
    pub fn bytes(&self) -> Range<usize> {
        self.bytes.0 as usize..self.bytes.1 as usize
    }

    /// Where in the text its thinking lies, a JSON string; empty where there is none, at the place where it would be.
    #[must_use]
    pub fn thinking(&self) -> Range<usize> {
        self.thinking.0 as usize..self.thinking.1 as usize
    }
}

impl Text {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn push(&mut self, message: &Message) {
        let begin = self.bytes.len();
        let Range { start, end } = write(&mut self.bytes, message);
        let [begin, start, end, last] = [begin, start, end, self.bytes.len()].map(|at| at as u32);
        let has_calls = !message.tool_calls.is_empty();
        push_tight(&mut self.parts, Part { role: message.role, has_calls, bytes: (begin, last), thinking: (start, end) });
    }

    /// What a part was made of.
    fn message(&self, part: &Part) -> Message {
        let (Range { start, end }, thinking) = (part.bytes(), part.thinking());
        // Behind the comma.
        let start = start + 1;
        if thinking.is_empty() {
            return read(&self.bytes[start..end]);
        }
        let message: Message = read(&[&self.bytes[start..thinking.start], &self.bytes[thinking.end..end]].concat());
        Message { reasoning_content: read(&self.bytes[thinking]), ..message }
    }
}

/// Returns where the thinking lies.
fn write(bytes: &mut Pages, message: &Message) -> Range<usize> {
    let Message { role, content, reasoning_content, tool_calls, tool_call_id, loss: _ } = message;
    bytes.extend(b",{\"role\":");
    put(bytes, role);
    if !tool_call_id.is_empty() {
        bytes.extend(b",\"tool_call_id\":");
        put(bytes, tool_call_id);
    }
    bytes.extend(b",\"content\":");
    put(bytes, content);
    let from = bytes.len();
    if !reasoning_content.is_empty() {
        put(bytes, reasoning_content);
    }
    let thinking = from..bytes.len();
    if !tool_calls.is_empty() {
        bytes.extend(b",\"tool_calls\":");
        put(bytes, tool_calls);
    }
    bytes.extend(b"}");
    thinking
}

fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

fn put<T: Serialize>(bytes: &mut Pages, value: &T) {
    serde_json::to_writer(bytes, value).unwrap_or_else(|e| unreachable!("plain data with string keys: {e}"));
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> T {
    serde_json::from_slice(bytes).unwrap_or_else(|e| unreachable!("it was written by `put`: {e}"))
}

impl Conversation {
    pub fn push(&mut self, message: &Message) {
        message.tool_calls.iter().for_each(|call| push_tight(&mut self.call_hashes, hash(&call.id)));
        self.replies += usize::from(message.role == Role::Assistant);
        self.text_mut().push(message);
    }

    /// Adds text to the last message, on a line of its own.
    pub fn continue_last(&mut self, more: &str) {
        let text = self.text_mut();
        let Some(last) = text.parts.pop() else { return };
        let mut message = text.message(&last);
        message.content.push('\n');
        message.content.push_str(more);
        text.bytes.truncate(last.bytes().start);
        text.push(&message);
    }

    /// Where a request is still on its way, it keeps the text that it began with, and this goes on with a copy.
    fn text_mut(&mut self) -> &mut Text {
        Arc::make_mut(&mut self.text)
    }

    #[must_use]
    pub fn text(&self) -> &Arc<Text> {
        &self.text
    }

    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.text.parts
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
        self.parts().iter().map(|part| self.text.message(part))
    }

    /// The assistant's messages, each made anew.
    pub fn replied(&self) -> impl Iterator<Item = Message> {
        self.parts().iter().filter(|part| part.role == Role::Assistant).map(|part| self.text.message(part))
    }

    /// Native calls of the last reply that have no observation yet.
    #[must_use]
    pub fn unanswered(&self) -> Vec<ToolCall> {
        let Some(at) = self.parts().iter().rposition(|part| part.role == Role::Assistant) else { return Vec::new() };
        let mut messages = self.parts()[at..].iter().map(|part| self.text.message(part));
        let mut calls = messages.next().map(|reply| reply.tool_calls).unwrap_or_default();
        for answer in messages {
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
        let pieces = |message: &Message| {
            let conversation: Conversation = [&Message::new(Role::User, "before"), message].into_iter().collect();
            let (text, part) = (conversation.text(), conversation.parts()[1]);
            let (Range { start, end }, thinking) = (part.bytes(), part.thinking());
            assert_eq!((conversation.parts()[0].bytes().end, end), (start, text.bytes().len()), "they lie one behind the other");
            let ranges = [start..thinking.start, thinking.clone(), thinking.end..end];
            ranges.map(|range| String::from_utf8(text.bytes()[range].to_vec()).unwrap())
        };
        let call = |id| {
            format!(r#"{{"id":"{id}","type":"function","function":{{"name":"bash","arguments":"{{\"command\":  \"ls \\\"é\\\"\"}}"}}}}"#)
        };
        let expected = [
            r#",{"role":"assistant","content":"so""#.to_owned(),
            r#""hm\n\"\u0001""#.to_owned(),
            format!(r#","tool_calls":[{},{}]}}"#, call("c1"), call("c2")),
        ];
        assert_eq!(pieces(&messages()[2]), expected);
        assert_eq!(pieces(&Message::tool("c1", "")), [r#",{"role":"tool","tool_call_id":"c1","content":"""#, "", "}"]);
    }

    #[test]
    fn what_a_request_shares_stays_as_it_was() {
        let mut conversation: Conversation = messages()[..2].iter().collect();
        let request = Arc::clone(conversation.text());
        conversation.continue_last("more");
        conversation.push(&messages()[2]);
        assert_eq!((request.parts().len(), request.message(&request.parts()[1])), (2, messages()[1].clone()));
        let continued = Message::new(Role::User, "u \u{1f600}\u{2028}\nmore");
        assert_eq!(conversation.messages().collect::<Vec<_>>(), [messages()[0].clone(), continued, messages()[2].clone()]);
    }

    #[test]
    fn long_messages_come_back_too() {
        let long = Message::new(Role::User, "ab\n".repeat(100_000));
        let conversation: Conversation = [&long; 5].into_iter().collect();
        assert!(conversation.messages().all(|message| message == long));
        let at = conversation.text().bytes().as_ptr();
        assert_eq!(conversation.clone().text().bytes().as_ptr(), at, "bytes are shared, not copied");
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
