//! slime's SFT rollout: Parquet or plain `.jsonl`. It renders message by message, so a run of native tool messages would become several
//! turns; so the row is text, with its flag `step_loss_mask`.

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
    /// 1: trained on.
    step_loss_mask: u8,
}

pub(super) fn write(trajectory: &Trajectory, reasoning: Reasoning, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let said = |turn: Turn| Said { role: turn.role, content: turn.text, step_loss_mask: turn.loss.into() };
    let messages = turns(trajectory, reasoning)?.into_iter().map(said).collect();
    put(&Row { messages, about: About::of(trajectory, reasoning) }, out)
}

pub(super) fn columns() -> Vec<Column> {
    let said = vec![Column("role", Kind::Text), Column("content", Kind::Text), Column("step_loss_mask", Kind::Int)];
    About::after(vec![Column("messages", Kind::list(Kind::Struct(said)))])
}
