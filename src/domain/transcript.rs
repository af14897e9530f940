//! What happened in an attempt, entry by entry: the lines of its spool, and by a fold its trajectory.

use super::tight::push_tight;
use super::{AttemptId, Conversation, ExitReason, Failure, Message, Role};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::sync::Arc;

/// One durable fact of a live attempt, in the order in which they happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    Begun(Begun),
    Response(Response),
    /// A tool's answer to the model. Native calls are answered in the role `tool`, inline calls in the role `user`.
    Observation(Observation),
    /// A message of ours in mid-episode.
    Reminder {
        content: String,
    },
    Ended(Ended),
}

/// The state before the first turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    pub id: AttemptId,
    /// The rendered prompt, system message first.
    pub messages: Vec<Message>,
    /// The tool schemas as sent, a JSON array in a string; empty with inline calls.
    pub tools: Arc<str>,
    pub model: String,
    pub scaffold: String,
    pub scaffold_digest: String,
    pub image_digest: String,
    pub base_tree: String,
    /// Sampling parameters and extra body fields as sent, a JSON object.
    pub sampling: serde_json::Value,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Time from admission to the first prompt, milliseconds.
    pub setup_ms: u64,
}

impl Begun {
    fn without_messages(&self) -> Self {
        let Begun { id, messages: _, tools, model, scaffold, scaffold_digest, image_digest, base_tree, sampling, at_ms, setup_ms } = self;
        Begun {
            id: id.clone(),
            messages: Vec::new(),
            tools: Arc::clone(tools),
            model: model.clone(),
            scaffold: scaffold.clone(),
            scaffold_digest: scaffold_digest.clone(),
            image_digest: image_digest.clone(),
            base_tree: base_tree.clone(),
            sampling: sampling.clone(),
            at_ms: *at_ms,
            setup_ms: *setup_ms,
        }
    }
}

/// One reply of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    pub message: Message,
    /// The model that the endpoint says answered.
    pub model: String,
    pub finish_reason: String,
    pub usage: Usage,
    pub cost_usd: f64,
    /// From the last request out to the reply, milliseconds.
    pub latency_ms: u64,
    /// Requests that it took, the good one included.
    pub tries: u32,
    /// Keys of the reply's message that are not the record's, as JSON; `{}` as a rule.
    pub extra: serde_json::Value,
}

/// Tokens of one reply as the endpoint counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Of the prompt: read from the endpoint's cache.
    pub cached_tokens: u64,
    /// Of the completion: spent on reasoning.
    pub reasoning_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.cached_tokens += other.cached_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    pub message: Message,
    pub tool: String,
    pub duration_ms: u64,
    /// Exit code of a command; -1 where there is none.
    pub exit_code: i32,
    /// The output was cut to fit.
    pub truncated: bool,
    /// The command was killed at its deadline.
    pub timed_out: bool,
    /// The call was malformed, or its reply was cut: it was not run.
    pub malformed: bool,
    /// The tool refused the call or could not perform it. A command that ran tells by its exit code.
    #[serde(default)]
    pub failed: bool,
}

/// How the agent stopped, with the diff that was salvaged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub exit_reason: ExitReason,
    pub model_patch: String,
    /// Set where the attempt did not end by the model's doing.
    pub failure: Option<Failure>,
    /// From admission to here, milliseconds.
    pub duration_ms: u64,
    /// What the sandbox used: peak memory bytes, CPU milliseconds, memory kills.
    pub peak_memory: u64,
    pub cpu_ms: u64,
    pub oom_kills: u64,
}

/// An attempt so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcript {
    /// Without its messages.
    pub begun: Begun,
    pub conversation: Conversation,
    pub turns: Vec<Turn>,
    pub usage: Usage,
    pub cost_usd: f64,
    pub reminders: u32,
    pub malformed: u32,
    pub ended: Option<Ended>,
}

/// A reply without its message, with its calls' figures. Texts are shared with the turns before it: an episode has hundreds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    pub model: Arc<str>,
    pub finish_reason: Arc<str>,
    pub usage: Usage,
    pub cost_usd: f64,
    pub latency_ms: u64,
    pub tries: u32,
    pub extra: Arc<serde_json::Value>,
    /// Most turns have one.
    pub calls: SmallVec<[Call; 1]>,
}

/// An observation without its message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub tool_call_id: Arc<str>,
    pub tool: Arc<str>,
    pub duration_ms: u64,
    pub exit_code: i32,
    pub truncated: bool,
    pub timed_out: bool,
    pub malformed: bool,
    #[serde(default)]
    pub failed: bool,
}

/// How many earlier texts are looked at for an equal one.
const SHARED_WITH: usize = 8;

fn share<'a>(text: String, earlier: impl Iterator<Item = &'a Arc<str>>) -> Arc<str> {
    earlier.take(SHARED_WITH).find(|known| ***known == *text).map_or_else(|| text.into(), Arc::clone)
}

impl Transcript {
    #[must_use]
    pub fn new(begun: &Begun) -> Self {
        Transcript {
            conversation: begun.messages.iter().collect(),
            begun: begun.without_messages(),
            turns: Vec::new(),
            usage: Usage::default(),
            cost_usd: 0.0,
            reminders: 0,
            malformed: 0,
            ended: None,
        }
    }

    /// The fold: a spool read back gives the transcript that its entries made when they were written.
    /// None where the first entry is not `Begun`.
    pub fn replay(entries: impl IntoIterator<Item = Entry>) -> Option<Self> {
        let mut entries = entries.into_iter();
        let Some(Entry::Begun(begun)) = entries.next() else { return None };
        let mut transcript = Transcript::new(&begun);
        entries.for_each(|entry| drop(transcript.apply(entry)));
        Some(transcript)
    }

    /// The message of a reply comes back: it lies here as JSON alone.
    pub fn apply(&mut self, entry: Entry) -> Option<Message> {
        match entry {
            Entry::Begun(_) => {}
            Entry::Response(r) => {
                self.usage += r.usage;
                self.cost_usd += r.cost_usd;
                self.conversation.push(&r.message);
                let before = || self.turns.iter().rev();
                let turn = Turn {
                    model: share(r.model, before().map(|turn| &turn.model)),
                    finish_reason: share(r.finish_reason, before().map(|turn| &turn.finish_reason)),
                    usage: r.usage,
                    cost_usd: r.cost_usd,
                    latency_ms: r.latency_ms,
                    tries: r.tries,
                    extra: before()
                        .take(SHARED_WITH)
                        .map(|turn| &turn.extra)
                        .find(|extra| ***extra == r.extra)
                        .map_or_else(|| Arc::new(r.extra), Arc::clone),
                    calls: SmallVec::new(),
                };
                push_tight(&mut self.turns, turn);
                return Some(r.message);
            }
            Entry::Observation(o) => {
                self.malformed += u32::from(o.malformed);
                let tool = share(o.tool, self.turns.iter().rev().flat_map(|turn| &turn.calls).map(|call| &call.tool));
                let id = o.message.tool_call_id.as_str();
                if let Some(turn) = self.turns.last_mut() {
                    turn.calls.push(Call {
                        tool_call_id: id.into(),
                        tool,
                        duration_ms: o.duration_ms,
                        exit_code: o.exit_code,
                        truncated: o.truncated,
                        timed_out: o.timed_out,
                        malformed: o.malformed,
                        failed: o.failed,
                    });
                }
                self.say(&o.message);
            }
            Entry::Reminder { content } => {
                self.reminders += 1;
                self.say(&Message::new(Role::User, content));
            }
            Entry::Ended(ended) => self.ended = Some(ended),
        }
        None
    }

    /// Observations of inline calls and reminders that follow each other are one user message, joined as Qwen3's template
    /// joins tool messages: roles alternate.
    fn say(&mut self, message: &Message) {
        let after_user = self.conversation.parts().last().is_some_and(|last| last.role() == Role::User);
        if after_user && message.role == Role::User && !self.turns.is_empty() {
            self.conversation.continue_last(&message.content);
        } else {
            self.conversation.push(message);
        }
    }
}
