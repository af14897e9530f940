//! Plain chat for trainers of any kind: the turns as the target's template shows them, which render to the bytes that the model saw.

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
pub(super) struct Said {
    role: Role,
    content: String,
    loss: bool,
}

impl From<Turn> for Said {
    fn from(turn: Turn) -> Self {
        Said { role: turn.role, content: turn.text, loss: turn.loss }
    }
}

impl Said {
    pub(super) fn columns() -> Vec<Column> {
        vec![Column("role", Kind::Text), Column("content", Kind::Text), Column("loss", Kind::Flag)]
    }
}

pub(super) fn write(trajectory: &Trajectory, reasoning: Reasoning, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let messages = turns(trajectory, reasoning)?.into_iter().map(Said::from).collect();
    put(&Row { messages, about: About::of(trajectory, reasoning) }, out)
}

pub(super) fn columns() -> Vec<Column> {
    About::after(vec![Column("messages", Kind::list(Kind::Struct(Said::columns())))])
}
