//! The scripted models: pure functions from a conversation, an instance and chance to a reply.

mod gold;
mod hostile;
mod script;
mod wander;

pub use gold::{GoldPlans, gold};
pub use hostile::hostile;
pub use wander::wander;

use super::{conversation::Conversation, playbook::Play, toolset::Want};
use serde_json::{Map, Value};

/// A reply: some prose, then calls.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Move {
    pub say: String,
    pub calls: Vec<Call>,
    /// It should come back exactly as it was sent. Not so for what a client has to mend (ids, surrogates).
    pub exact: bool,
    /// The golden change could not be made.
    pub failed: bool,
}

/// A call with its id where it is not an ordinary one.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub id: Sent<String>,
    pub name: String,
    pub arguments: Sent<Value>,
}

/// A field as it should be, or as some models send it.
#[derive(Debug, Clone, PartialEq)]
pub enum Sent<T> {
    /// Made by the server (an id), or a text (arguments).
    Usual(String),
    Odd(T),
    Absent,
}

impl Call {
    #[must_use]
    pub fn new(name: &str, arguments: &Map<String, Value>) -> Self {
        Call::raw(name, Value::Object(arguments.clone()).to_string())
    }

    /// A call with this text for arguments, JSON or not.
    #[must_use]
    pub fn raw(name: &str, arguments: impl Into<String>) -> Self {
        Call { id: Sent::Usual(String::new()), name: name.to_owned(), arguments: Sent::Usual(arguments.into()) }
    }

    /// The arguments' text; empty where they are no text.
    #[must_use]
    pub fn text(&self) -> &str {
        match &self.arguments {
            Sent::Usual(text) => text,
            _ => "",
        }
    }
}

impl Move {
    #[must_use]
    pub fn say(text: impl Into<String>) -> Self {
        Move { say: text.into(), exact: true, ..Move::default() }
    }

    #[must_use]
    pub fn with(mut self, call: Option<Call>) -> Self {
        self.calls.extend(call);
        self
    }
}

/// Before the working directory in the output of [`LOOK`].
const WORKDIR: &str = "workdir=";
/// The first command of a policy.
const LOOK: &str = "echo \"workdir=$PWD\" && ls -la && git log --oneline | head -n 3";

/// Where the repository is: a sandbox may have the instance's workdir below a root of its own.
fn root<'a>(talk: &Conversation<'a>, play: &'a Play) -> &'a str {
    let known = play.workdir.trim_end_matches('/');
    let told = talk.observations().find_map(|text| text.split_once(WORKDIR)?.1.lines().next()).map(str::trim_end);
    told.filter(|told| told.starts_with('/') && (play.id.is_none() || told.ends_with(known))).unwrap_or(known)
}

/// Submits nothing.
#[must_use]
pub fn noop(talk: &Conversation<'_>) -> Move {
    Move::say("I leave everything as it is.").with(talk.tools.call(&Want::Finish))
}
