//! NeMo-RL, dataset `openai_format`: it cuts the conversation where the renderings of its prefixes differ, so user and assistant take
//! turns and the assistant is last; and it takes `tools` only as a list, which Arrow fills up with nulls. So the row is text. It trains
//! on every turn of the assistant: those that are not trained on become part of the prompt.

use super::{
    Reasoning, Unfit,
    row::{About, put},
    shape::{Column, Kind},
    turns::{Plain, Untrained, alternate, turns},
};
use crate::domain::Trajectory;
use serde::Serialize;

#[derive(Serialize)]
struct Row<'t> {
    messages: Vec<Plain>,
    #[serde(flatten)]
    about: About<'t>,
}

pub(super) fn write(trajectory: &Trajectory, reasoning: Reasoning, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let messages = alternate(turns(trajectory, reasoning)?, Untrained::Prompt)?.into_iter().map(Plain::from).collect();
    put(&Row { messages, about: About::of(trajectory, reasoning) }, out)
}

pub(super) fn columns() -> Vec<Column> {
    About::after(vec![Column("messages", Kind::list(Kind::Struct(Plain::columns())))])
}
