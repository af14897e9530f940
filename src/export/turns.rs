//! A conversation as the target's template shows it, turn by turn: roles system, user and assistant only, tools inside the system
//! turn, calls and responses as text. Rendered again it is the same bytes, whatever a trainer does to native calls.

use super::{
    Reasoning, Unfit,
    row::spoken,
    shape::{Column, Kind},
};
use crate::{
    domain::{Message, Role, Trajectory},
    tokens::{Target, template},
};
use serde::Serialize;

/// One turn. `role` is never `Tool`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub role: Role,
    pub text: String,
    pub loss: bool,
}

/// Role and content alone.
#[derive(Serialize)]
pub(super) struct Plain {
    role: Role,
    content: String,
}

impl From<Turn> for Plain {
    fn from(turn: Turn) -> Self {
        Plain { role: turn.role, content: turn.text }
    }
}

impl Plain {
    pub(super) fn columns() -> Vec<Column> {
        vec![Column("role", Kind::Text), Column("content", Kind::Text)]
    }
}

const OPEN: &str = "<|im_start|>";
const CLOSE: &str = "<|im_end|>\n";

/// The turns of the conversation; reasoning that is not inlined is left out.
pub(super) fn turns(trajectory: &Trajectory, reasoning: Reasoning) -> Result<Vec<Turn>, Unfit> {
    let inlined: Vec<Message>;
    let messages = match reasoning {
        Reasoning::Inline => {
            inlined = trajectory.messages.iter().map(|message| inline(message, reasoning)).collect();
            &inlined
        }
        Reasoning::Keep | Reasoning::Drop => &trajectory.messages,
    };
    let mut turns = Vec::with_capacity(messages.len());
    template::turns(Target::Qwen3Instruct2507, messages, &trajectory.tools, |turn| {
        let begins = turn.text.find('\n').map_or(0, |at| at + 1);
        let text = turn.text[begins..].strip_suffix(CLOSE).unwrap_or_default().to_owned();
        let role = if turn.role == Role::Tool { Role::User } else { turn.role };
        let loss = role == Role::Assistant && messages[turn.messages].iter().all(|message| message.loss);
        turns.push(Turn { role, text, loss });
    })
    .map_err(|e| Unfit(e.to_string()))?;
    Ok(turns)
}

fn inline(message: &Message, reasoning: Reasoning) -> Message {
    Message { content: spoken(message, reasoning).0.into_owned(), ..message.clone() }
}

/// What becomes of the assistant's turns that are not trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Untrained {
    /// They stay turns, and say so.
    Stay,
    /// They become part of the prompt before the next turn.
    Prompt,
}

/// For trainers which demand that user and assistant take turns: a run of turns between two of the assistant becomes one of the
/// user, with the template's marks as text between them, so that it renders to the same bytes. What comes after the last trained
/// turn is left out: nothing is learned from it.
///
/// # Errors
/// Where the assistant speaks first or twice in a row, or nothing is trained on.
pub(super) fn alternate(turns: Vec<Turn>, untrained: Untrained) -> Result<Vec<Turn>, Unfit> {
    let end = turns.iter().rposition(|turn| turn.loss).ok_or_else(|| Unfit("no turn of it is trained on".into()))?;
    let mut out: Vec<Turn> = Vec::with_capacity(end + 1);
    for (at, turn) in turns.into_iter().take(end + 1).enumerate() {
        let stays = turn.role == Role::Assistant && (turn.loss || untrained == Untrained::Stay);
        match out.last_mut() {
            Some(last) if last.role == Role::User && stays => out.push(turn),
            Some(last) if last.role == Role::User => {
                [CLOSE, OPEN, turn.role.as_str(), "\n", &turn.text].iter().for_each(|part| last.text.push_str(part));
            }
            _ if turn.role == Role::User || (at == 0 && turn.role == Role::System) => out.push(turn),
            _ => return Err(Unfit(format!("turn {at}, of the {}, does not follow one of the user", turn.role.as_str()))),
        }
    }
    Ok(out)
}

/// As [`alternate`] with [`Untrained::Prompt`] where a turn of the assistant is not trained on; else the turns as they are.
///
/// # Errors
/// As [`alternate`].
pub(super) fn fold(turns: Vec<Turn>) -> Result<Vec<Turn>, Unfit> {
    if turns.iter().all(|turn| turn.loss || turn.role != Role::Assistant) { Ok(turns) } else { alternate(turns, Untrained::Prompt) }
}
