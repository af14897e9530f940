//! OpenAI's messages as the record has them: calls native, arguments the exact text of the model, `tools` a JSON array in a string.

use super::{
    Reasoning, Unfit,
    row::{About, Masked, put, tools},
    shape::{Column, Kind},
};
use crate::domain::Trajectory;
use serde::Serialize;

#[derive(Serialize)]
struct Row<'t> {
    messages: Vec<Masked<'t>>,
    tools: &'t str,
    #[serde(flatten)]
    about: About<'t>,
}

pub(super) fn write(trajectory: &Trajectory, reasoning: Reasoning, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let messages = trajectory.messages.iter().map(|message| Masked::of(message, reasoning)).collect();
    put(&Row { messages, tools: tools(trajectory)?, about: About::of(trajectory, reasoning) }, out)
}

pub(super) fn columns() -> Vec<Column> {
    let messages = Kind::list(Kind::Struct(Masked::columns()));
    About::after(vec![Column("messages", messages), Column("tools", Kind::Text)])
}
