//! Axolotl, type `chat_template`. It parses the arguments of native calls and fails on those that are no JSON, so the row is text, with
//! the flag `train` for `message_field_training`.

use super::{
    Reasoning, Unfit,
    row::{About, put},
    shape::{Column, Kind},
    turns::{Turn, turns},
};
use crate::domain::{Role, Trajectory};
use serde::Serialize;

#[derive(Serialize)]
struct Row<'t> {
    messages: Vec<Said>,
    #[serde(flatten)]
    about: About<'t>,
}

#[derive(Serialize)]
struct Said {
    role: Role,
    content: String,
    train: bool,
}

pub(super) fn write(trajectory: &Trajectory, reasoning: Reasoning, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let said = |turn: Turn| Said { role: turn.role, content: turn.text, train: turn.loss };
    let messages = turns(trajectory, reasoning)?.into_iter().map(said).collect();
    put(&Row { messages, about: About::of(trajectory, reasoning) }, out)
}

pub(super) fn columns() -> Vec<Column> {
    let said = vec![Column("role", Kind::Text), Column("content", Kind::Text), Column("train", Kind::Flag)];
    About::after(vec![Column("messages", Kind::list(Kind::Struct(said)))])
}
