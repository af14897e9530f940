//! Are the messages of a request in order, every call answered once, and nothing said before rewritten?
//!
//! Each reply is sealed: the ids of its calls (inline: a reference in its text) carry digests of the prompt it answers
//! and of its own words, so that a later request can be checked against them with nothing kept.

use super::{
    chance::Digest,
    wire::{Message, ToolCall},
};

/// What is checked besides the pairing.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub append_only: bool,
    pub reasoning_required: bool,
}

/// Digests of a reply's prompt and of its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    prompt: u32,
    words: u32,
}

const HEX: usize = 16;
const ID: &str = "call_";
const REF: (&str, &str) = (" [ref ", "]");

impl Seal {
    pub fn new<'a>(prompt: Digest, text: &str, calls: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let words = calls.fold(Digest::default().add(text), |d, (name, arguments)| d.add(name).add(arguments));
        Seal { prompt: prompt.value() as u32, words: words.value() as u32 }
    }

    fn hex(self) -> String {
        format!("{:08x}{:08x}", self.prompt, self.words)
    }

    fn from_hex(text: &str) -> Option<Self> {
        let hex = |range| u32::from_str_radix(text.get(range)?, 16).ok();
        Some(Seal { prompt: hex(0..8)?, words: hex(8..HEX)? })
    }

    /// Id of the `n`-th call.
    #[must_use]
    pub fn id(self, n: usize) -> String {
        format!("{ID}{}_{n}", self.hex())
    }

    /// What an inline reply says after its first words.
    #[must_use]
    pub fn reference(self) -> String {
        format!("{}{}{}", REF.0, self.hex(), REF.1)
    }

    fn of_id(id: &str) -> Option<Self> {
        let (hex, n) = id.strip_prefix(ID)?.split_once('_')?;
        (hex.len() == HEX && n.bytes().all(|b| b.is_ascii_digit())).then(|| Seal::from_hex(hex))?
    }

    /// Found in a text, with the text as it was before.
    fn of_text(text: &str) -> Option<(Self, String)> {
        let (before, rest) = text.split_once(REF.0)?;
        let (hex, after) = rest.split_once(REF.1)?;
        (hex.len() == HEX).then(|| Seal::from_hex(hex)).flatten().map(|seal| (seal, format!("{before}{after}")))
    }
}

/// The digest of a prompt, one message longer.
pub fn extend(digest: Digest, message: &Message) -> Digest {
    let digest = digest.add(&message.role).add(message.text()).add(message.tool_call_id.as_deref().unwrap_or_default());
    message.tool_calls.iter().fold(digest, |d, call| d.add(&call.id).add(&call.function.name).add(&call.function.arguments))
}

/// The digest of the prompt.
///
/// # Errors
/// The first violation, naming the message by its place.
pub fn check(messages: &[Message], rules: Rules) -> Result<Digest, String> {
    let mut digest = Digest::default();
    let mut open = Open::default();
    let mut before: Option<&str> = None;
    for (at, message) in messages.iter().enumerate() {
        step(at, message, before, &mut open, rules)
            .and_then(|()| sealed(message, digest, rules))
            .map_err(|e| format!("messages[{at}]: {e}"))?;
        digest = extend(digest, message);
        before = Some(&message.role);
    }
    let end = match before {
        None => Err("there are none".to_owned()),
        Some("user" | "tool") => open.closed(),
        Some(role) => open.closed().and_then(|()| Err(format!("the last one is of role {role}, nothing is asked"))),
    };
    end.map(|()| digest).map_err(|e| format!("messages: {e}"))
}

/// The calls of the last assistant message.
#[derive(Default)]
struct Open<'a> {
    at: usize,
    waiting: Vec<&'a str>,
    answered: Vec<&'a str>,
}

impl<'a> Open<'a> {
    fn closed(&self) -> Result<(), String> {
        match self.waiting.first() {
            None => Ok(()),
            Some(id) => Err(format!("call {id:?} of messages[{}] has no result", self.at)),
        }
    }

    fn open(&mut self, at: usize, calls: &'a [ToolCall]) -> Result<(), String> {
        *self = Open { at, ..Open::default() };
        for ToolCall { id, kind, .. } in calls {
            if id.is_empty() || self.waiting.contains(&id.as_str()) {
                return Err(format!("call id {id:?} is {}", if id.is_empty() { "empty" } else { "there twice" }));
            }
            if kind != "function" {
                return Err(format!("call {id:?} is of type {kind:?}, not \"function\""));
            }
            self.waiting.push(id);
        }
        Ok(())
    }

    fn answer(&mut self, id: &'a str) -> Result<(), String> {
        match self.waiting.iter().position(|waiting| *waiting == id) {
            Some(at) => {
                self.answered.push(self.waiting.swap_remove(at));
                Ok(())
            }
            None if self.answered.contains(&id) => Err(format!("call {id:?} is answered twice")),
            None => Err(format!("result of {id:?}, a call that the assistant message before it did not make")),
        }
    }
}

fn step<'a>(at: usize, message: &'a Message, before: Option<&str>, open: &mut Open<'a>, rules: Rules) -> Result<(), String> {
    if message.content.is_none() && (message.role != "assistant" || message.tool_calls.is_empty()) {
        return Err(format!("a message of role {} without content", message.role));
    }
    if !message.tool_calls.is_empty() && message.role != "assistant" {
        return Err(format!("a message of role {} with tool calls", message.role));
    }
    match (message.role.as_str(), before) {
        ("system" | "developer", None | Some("system" | "developer")) => Ok(()),
        ("system" | "developer", _) => Err("a system message in mid-conversation".into()),
        ("user", _) => open.closed(),
        ("tool", _) => match message.tool_call_id.as_deref() {
            None => Err("a tool message without tool_call_id".into()),
            Some(id) => open.answer(id),
        },
        ("assistant", Some("user" | "tool")) => {
            open.closed()?;
            if rules.reasoning_required
                && !message.tool_calls.is_empty()
                && message.reasoning_content.as_deref().unwrap_or_default().is_empty()
            {
                return Err("reasoning_content was not passed back with the calls that followed from it".into());
            }
            open.open(at, &message.tool_calls)
        }
        ("assistant", before) => Err(format!("an assistant message after {}", before.unwrap_or("nothing"))),
        (role, _) => Err(format!("unknown role {role:?}")),
    }
}

fn sealed(message: &Message, prompt: Digest, rules: Rules) -> Result<(), String> {
    if message.role != "assistant" {
        return Ok(());
    }
    let calls = || message.tool_calls.iter().map(|c| (c.function.name.as_str(), c.function.arguments.as_str()));
    let (seal, now) = match message.tool_calls.iter().find_map(|c| Seal::of_id(&c.id)) {
        Some(seal) => (seal, Seal::new(prompt, message.text(), calls())),
        None => match Seal::of_text(message.text()) {
            Some((seal, text)) => (seal, Seal::new(prompt, &text, calls())),
            None => return Ok(()),
        },
    };
    if seal.words != now.words {
        return Err("the assistant message is not as it was sent (its content, or a call's name or arguments)".into());
    }
    if rules.append_only && seal.prompt != now.prompt {
        return Err("what stands before it is not the prompt that it answered".into());
    }
    Ok(())
}
