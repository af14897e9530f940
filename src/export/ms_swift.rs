//! ms-swift. It re-encodes the arguments of native calls and glues turns of the user together, so the row is the conversation as text,
//! user and assistant by turns, with its flag `loss`.

use super::{
    Reasoning, Unfit,
    flat::Said,
    row::{About, put},
    shape::{Column, Kind},
    turns::{Untrained, alternate, turns},
};
use crate::domain::{Role, Trajectory};
use serde::Serialize;

#[derive(Serialize)]
struct Row<'t> {
    messages: Vec<Said>,
    #[serde(flatten)]
    about: About<'t>,
}

/// What its templates replace by the number of the round, also within a turn of the user.
const PLACEHOLDERS: [&str; 2] = ["{{ROUND0}}", "{{ROUND1}}"];

pub(super) fn write(trajectory: &Trajectory, reasoning: Reasoning, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let turns = alternate(turns(trajectory, reasoning)?, Untrained::Stay)?;
    for placeholder in PLACEHOLDERS {
        if turns.iter().any(|turn| turn.role != Role::Assistant && turn.text.contains(placeholder)) {
            return Err(Unfit(format!("ms-swift would replace {placeholder} in its text")));
        }
    }
    let messages = turns.into_iter().map(Said::from).collect();
    put(&Row { messages, about: About::of(trajectory, reasoning) }, out)
}

pub(super) fn columns() -> Vec<Column> {
    About::after(vec![Column("messages", Kind::list(Kind::Struct(Said::columns())))])
}
