//! An attempt as steps: what the model said, what came back, and the figures of its turn.

use super::Unfit;
use crate::domain::{
    Message, Role, Trajectory,
    trajectory::{Meta, UsageColumn},
    transcript::{Call, Turn},
};

/// The columns of a record that are JSON in a string, read.
pub(super) struct Columns {
    pub usage: UsageColumn,
    pub meta: Meta,
}

impl Columns {
    pub(super) fn of(trajectory: &Trajectory) -> Result<Self, Unfit> {
        let unfit = |column: &str, e: serde_json::Error| Unfit(format!("its column {column} cannot be read: {e}"));
        let usage = serde_json::from_str(&trajectory.usage).map_err(|e| unfit("usage", e))?;
        Ok(Columns { usage, meta: trajectory.meta().map_err(|e| unfit("meta", e))? })
    }
}

/// One message of the assistant and what followed, up to its next.
pub(super) struct Step<'t> {
    /// Place of `said` in the conversation.
    pub at: usize,
    pub said: &'t Message,
    /// Observations and reminders.
    pub answers: &'t [Message],
    /// None for an assistant's message of the prompt.
    pub turn: Option<&'t Turn>,
}

/// The steps of a conversation; what lies before the first is the prompt.
pub(super) fn steps<'t>(messages: &'t [Message], turns: &'t [Turn]) -> Vec<Step<'t>> {
    let said: Vec<usize> = (0..messages.len()).filter(|at| messages[*at].role == Role::Assistant).collect();
    let of_prompt = said.len().saturating_sub(turns.len());
    let ends = said.iter().skip(1).copied().chain([messages.len()]);
    let steps = said.iter().zip(ends).enumerate().map(|(nth, (at, end))| Step {
        at: *at,
        said: &messages[*at],
        answers: &messages[at + 1..end],
        turn: nth.checked_sub(of_prompt).and_then(|nth| turns.get(nth)),
    });
    steps.collect()
}

impl<'t> Step<'t> {
    /// Whether an answer is what a call gave back; else it is a reminder. Inline calls are answered in the role of the user.
    pub(super) fn is_observation(&self, answer: &Message) -> bool {
        let inline = || self.turn.is_some_and(|turn| turn.calls.iter().any(|call| call.tool_call_id.is_empty()));
        answer.role == Role::Tool || (answer.role == Role::User && inline())
    }

    /// The figures of the calls that an answer is of.
    pub(super) fn calls(&self, answer: &Message) -> Vec<&'t Call> {
        let calls = self.turn.map_or(&[][..], |turn| &turn.calls);
        calls.iter().filter(|call| *call.tool_call_id == *answer.tool_call_id).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use crate::domain::Trajectory;
    use serde_json::{Value, json};

    fn message(role: &str, content: &str) -> Value {
        json!({"role": role, "content": content, "reasoning_content": "", "tool_calls": [], "tool_call_id": "", "loss": role == "assistant"})
    }

    fn answer(id: &str, content: &str) -> Value {
        let mut message = message("tool", content);
        message["tool_call_id"] = id.into();
        message
    }

    fn said(content: &str, calls: &[(&str, &str, &str)]) -> Value {
        let calls = calls
            .iter()
            .map(|(id, name, arguments)| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
        let mut message = message("assistant", content);
        message["tool_calls"] = calls.collect();
        message
    }

    fn turn(model: &str, calls: &[(&str, &str, i32, bool)]) -> Value {
        let calls: Vec<Value> = calls
            .iter()
            .map(|(id, tool, exit_code, malformed)| {
                json!({"tool_call_id": id, "tool": tool, "duration_ms": 250, "exit_code": exit_code, "truncated": false, "timed_out": false, "malformed": malformed})
            })
            .collect();
        let usage = json!({"prompt_tokens": 100, "completion_tokens": 10, "cached_tokens": 60, "reasoning_tokens": 4});
        json!({"model": model, "finish_reason": "tool_calls", "usage": usage, "cost_usd": 0.5, "latency_ms": 1500, "tries": 2, "extra": {}, "calls": calls})
    }

    fn trajectory(messages: Value, tools: &str, turns: Value, ended: Value) -> Trajectory {
        let total = json!({"prompt_tokens": 200, "completion_tokens": 20, "cached_tokens": 120, "reasoning_tokens": 8});
        let meta = json!({
            "grade": ended["grade"], "failure": ended["failure"], "failure_class": null, "sampling": {"temperature": 1.0},
            "models_answered": [], "image": "i", "image_digest": "", "scaffold_digest": "s", "dataset_digest": "",
            "engine_version": "0.9", "base_tree": "", "reminders": 1, "malformed_calls": 1, "began_at_ms": 1_709_210_096_789_u64,
            "setup_ms": 0, "duration_ms": 9000, "peak_memory": 0, "cpu_ms": 0, "oom_kills": 0, "url": "",
        });
        let record = json!({
            "schema_version": 2, "trajectory_id": "o__r-1@2.1", "instance_id": "o__r-1", "repo": "o/r", "base_commit": "", "sample": 2,
            "attempt": 1, "model": "org/m", "scaffold": "scale-swe", "messages": messages, "tools": tools,
            "model_patch": ended["patch"], "resolved": ended["resolved"], "reward": 1.0, "exit_reason": ended["exit_reason"],
            "num_turns": 2, "num_tokens": 90, "num_loss_tokens": 30, "cost_usd": 1.0,
            "usage": json!({"total": total, "turns": turns}).to_string(), "meta": meta.to_string(),
        });
        Trajectory::parse(record.to_string().as_bytes()).unwrap()
    }

    /// Two calls in one reply, one of them malformed, a reminder, and reasoning; resolved.
    pub(in crate::export) fn native() -> Trajectory {
        let mut first = said("look", &[("a", "bash", "{\"command\": \"ls\"}"), ("b", "edit", "{\"path\": ")]);
        first["reasoning_content"] = "hm".into();
        first["loss"] = false.into();
        let messages = json!([
            message("system", "be good"),
            message("user", "mend it"),
            first,
            answer("a", "x.py"),
            answer("b", "error"),
            message("user", "go on"),
            said("", &[("c", "edit", "{\"path\": \"x\", \"n\": 1.0}")]),
            answer("c", "done"),
        ]);
        let turns =
            json!([turn("m-0925", &[("a", "bash", 0, false), ("b", "edit", -1, true)]), turn("org/m", &[("c", "edit", 0, false)]),]);
        let tally = |passed| json!({"passed": passed, "total": passed});
        let grade = json!({
            "resolved": true, "tests": {"t": "passed"}, "fail_to_pass": tally(1), "pass_to_pass": tally(0), "duration_ms": 1,
            "tests_ms": 1, "regrades": 0, "output_tail": "",
        });
        let ended = json!({"exit_reason": "submitted", "resolved": 1, "patch": "diff --git a/x b/x\n", "grade": grade});
        trajectory(messages, "[{\"type\": \"function\"}]", turns, ended)
    }

    /// Inline calls, no diff, and a failure.
    pub(in crate::export) fn inline() -> Trajectory {
        let call = "look\n\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>";
        let messages = json!([
            message("user", "mend it"),
            said("I wonder", &[]),
            said(call, &[]),
            message("user", "x.py"),
            message("assistant", "well"),
            message("user", "call a tool"),
        ]);
        let turns = json!([turn("org/m", &[("", "bash", 0, false), ("", "bash", 0, false)]), turn("org/m", &[])]);
        let failure = json!({"kind": "sandbox_lost", "message": "gone"});
        let ended = json!({"exit_reason": "failed", "resolved": -1, "patch": "", "failure": failure});
        trajectory(messages, "[]", turns, ended)
    }
}
