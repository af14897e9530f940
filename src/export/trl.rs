//! TRL's `SFTTrainer`: native calls, which it hands to the tokenizer's template as they are, and `tools` as a JSON string, which it parses.

use super::{
    Reasoning, Unfit,
    row::{About, Native, put, tools},
    shape::{Column, Kind},
};
use crate::domain::Trajectory;
use serde::Serialize;

#[derive(Serialize)]
struct Row<'t> {
    messages: Vec<Native<'t>>,
    tools: &'t str,
    #[serde(flatten)]
    about: About<'t>,
}

pub(super) fn write(trajectory: &Trajectory, reasoning: Reasoning, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let messages = trajectory.messages.iter().map(|message| Native::of(message, reasoning)).collect();
    put(&Row { messages, tools: tools(trajectory)?, about: About::of(trajectory, reasoning) }, out)
}

pub(super) fn columns() -> Vec<Column> {
    let messages = Kind::list(Kind::Struct(Native::columns()));
    About::after(vec![Column("messages", messages), Column("tools", Kind::Text)])
}
