//! What the rows of several forms have in common.

use super::{
    Reasoning, Unfit,
    shape::{Column, Kind},
};
use crate::{
    domain::{AttemptId, ExitReason, InstanceId, Message, Role, ToolCall, Trajectory},
    tokens::TemplateError,
};
use serde::{Serialize, de::IgnoredAny};
use std::borrow::Cow;

/// Appends the row to `out`.
pub(super) fn put(row: &impl Serialize, out: &mut Vec<u8>) -> Result<(), Unfit> {
    serde_json::to_writer(out, row).map_err(|e| Unfit(format!("it cannot be written as JSON: {e}")))
}

/// What every form tells of a trajectory beside its conversation.
#[derive(Serialize)]
pub(super) struct About<'t> {
    trajectory_id: &'t AttemptId,
    instance_id: &'t InstanceId,
    repo: &'t str,
    model: &'t str,
    resolved: i8,
    reward: f64,
    exit_reason: ExitReason,
    num_turns: u32,
    num_tokens: i64,
    num_loss_tokens: i64,
}

impl<'t> About<'t> {
    pub(super) fn of(trajectory: &'t Trajectory, reasoning: Reasoning) -> Self {
        let (num_tokens, num_loss_tokens) = counts(trajectory, reasoning);
        About {
            trajectory_id: &trajectory.trajectory_id,
            instance_id: &trajectory.instance_id,
            repo: &trajectory.repo,
            model: &trajectory.model,
            resolved: trajectory.resolved.into(),
            reward: trajectory.reward,
            exit_reason: trajectory.exit_reason,
            num_turns: trajectory.num_turns,
            num_tokens,
            num_loss_tokens,
        }
    }

    /// `own` columns, then these.
    pub(super) fn after(own: Vec<Column>) -> Vec<Column> {
        let text = ["trajectory_id", "instance_id", "repo", "model"].map(|name| Column(name, Kind::Text));
        let rest = [
            Column("resolved", Kind::Int),
            Column("reward", Kind::Float),
            Column("exit_reason", Kind::Text),
            Column("num_turns", Kind::Int),
            Column("num_tokens", Kind::Int),
            Column("num_loss_tokens", Kind::Int),
        ];
        own.into_iter().chain(text).chain(rest).collect()
    }
}

/// Tokens, and those that are trained on; -1 where inlined reasoning makes the text another than the one that was counted.
pub(super) fn counts(trajectory: &Trajectory, reasoning: Reasoning) -> (i64, i64) {
    let is_another = reasoning == Reasoning::Inline && trajectory.messages.iter().any(|message| !message.reasoning_content.is_empty());
    if is_another { (-1, -1) } else { (trajectory.num_tokens, trajectory.num_loss_tokens) }
}

/// The schemas of a row with native calls, for trainers that parse them.
///
/// # Errors
/// Where no template could render the row: there is no message, or the schemas are no JSON array.
pub(super) fn tools(trajectory: &Trajectory) -> Result<&str, Unfit> {
    if trajectory.messages.is_empty() {
        return Err(Unfit(TemplateError::NoMessages.to_string()));
    }
    if trajectory.tools.is_empty() {
        return Ok("[]");
    }
    serde_json::from_str::<Vec<IgnoredAny>>(&trajectory.tools).map_err(|e| Unfit(format!("its tools are no JSON array: {e}")))?;
    Ok(&trajectory.tools)
}

/// Content and reasoning of a message as the row has them.
pub(super) fn spoken(message: &Message, reasoning: Reasoning) -> (Cow<'_, str>, &str) {
    let thoughts = message.reasoning_content.as_str();
    match reasoning {
        Reasoning::Keep => (Cow::Borrowed(&message.content), thoughts),
        Reasoning::Inline if !thoughts.is_empty() && message.role == Role::Assistant => {
            let (thoughts, content) = (thoughts.trim_matches('\n'), message.content.trim_start_matches('\n'));
            (Cow::Owned(format!("<think>\n{thoughts}\n</think>\n\n{content}")), "")
        }
        Reasoning::Inline | Reasoning::Drop => (Cow::Borrowed(&message.content), ""),
    }
}

/// A message with its calls in OpenAI's form, arguments the exact text of the model.
#[derive(Serialize)]
pub(super) struct Native<'t> {
    role: Role,
    content: Cow<'t, str>,
    reasoning_content: &'t str,
    tool_calls: &'t [ToolCall],
    tool_call_id: &'t str,
}

impl<'t> Native<'t> {
    pub(super) fn of(message: &'t Message, reasoning: Reasoning) -> Self {
        let (content, reasoning_content) = spoken(message, reasoning);
        Native { role: message.role, content, reasoning_content, tool_calls: &message.tool_calls, tool_call_id: &message.tool_call_id }
    }

    pub(super) fn columns() -> Vec<Column> {
        let function = Kind::Struct(vec![Column("name", Kind::Text), Column("arguments", Kind::Text)]);
        let call = Kind::Struct(vec![Column("id", Kind::Text), Column("type", Kind::Text), Column("function", function)]);
        vec![
            Column("role", Kind::Text),
            Column("content", Kind::Text),
            Column("reasoning_content", Kind::Text),
            Column("tool_calls", Kind::list(call)),
            Column("tool_call_id", Kind::Text),
        ]
    }
}

/// [`Native`] with the mask of the record.
#[derive(Serialize)]
pub(super) struct Masked<'t> {
    #[serde(flatten)]
    message: Native<'t>,
    loss: bool,
}

impl<'t> Masked<'t> {
    pub(super) fn of(message: &'t Message, reasoning: Reasoning) -> Self {
        Masked { message: Native::of(message, reasoning), loss: message.loss }
    }

    pub(super) fn columns() -> Vec<Column> {
        let mut columns = Native::columns();
        columns.push(Column("loss", Kind::Flag));
        columns
    }
}
