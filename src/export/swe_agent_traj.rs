//! SWE-agent's `.traj`: what its inspectors, its statistics and SWE-smith's conversion to training data read.
//!
//! A step a reply of the model. SWE-agent repeats the whole prompt in the `query` of every step; here it is in the first and in
//! the last, the two that are read, so that a file does not grow with the square of its turns. There is no `replay_config`: the
//! tools are not SWE-agent's, it cannot run them.

use super::{
    Reasoning, Unfit,
    row::{About, put, spoken},
    steps::{Columns, Step, steps},
};
use crate::domain::{Class, ExitReason, Message, Role, ToolCall, Trajectory, transcript::Turn};
use serde::Serialize;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// `INSTANCE@SAMPLE/INSTANCE@SAMPLE.traj`: SWE-agent and SWE-smith take the name for the instance's.
pub(super) fn file_name(trajectory: &Trajectory) -> String {
    let episode = &trajectory.trajectory_id.episode;
    format!("{episode}/{episode}.traj")
}

#[derive(Serialize)]
struct Traj<'t> {
    trajectory: Vec<Taken<'t>>,
    history: &'t [Item<'t>],
    info: Info<'t>,
    environment: &'static str,
}

#[derive(Serialize)]
struct Taken<'t> {
    action: &'t str,
    observation: String,
    response: &'t str,
    thought: &'t str,
    /// Seconds.
    execution_time: f64,
    state: NoState,
    query: &'t [Item<'t>],
    extra_info: ExtraInfo<'t>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning_content: &'t str,
}

/// What a state command would have told: there is none.
#[derive(Serialize)]
struct NoState {}

#[derive(Serialize)]
struct ExtraInfo<'t> {
    #[serde(skip_serializing_if = "Option::is_none")]
    turn: Option<&'t Turn>,
}

#[derive(Serialize)]
struct Item<'t> {
    role: Role,
    content: Cow<'t, str>,
    agent: &'static str,
    message_type: &'static str,
    #[serde(flatten)]
    said: Option<Said<'t>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_ids: Option<[&'t str; 1]>,
}

/// What only an assistant's item has.
#[derive(Serialize)]
struct Said<'t> {
    thought: String,
    action: String,
    /// Null where there are none, as SWE-agent writes it.
    tool_calls: Option<&'t [ToolCall]>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning_content: &'t str,
}

#[derive(Serialize)]
struct Info<'t> {
    exit_status: String,
    /// Null where nothing was changed.
    submission: Option<&'t str>,
    model_stats: ModelStats,
    model_name: &'t str,
    sweroll_version: &'t str,
    #[serde(flatten)]
    about: About<'t>,
}

#[derive(Serialize)]
struct ModelStats {
    /// US dollars.
    instance_cost: f64,
    tokens_sent: u64,
    tokens_received: u64,
    api_calls: usize,
}

pub(super) fn write(trajectory: &Trajectory, reasoning: Reasoning, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let Columns { usage, meta } = Columns::of(trajectory)?;
    let history: Vec<Item<'_>> = trajectory.messages.iter().map(|message| item(message, reasoning)).collect();
    let steps = steps(&trajectory.messages, &usage.turns);
    let last = steps.len().saturating_sub(1);
    let taken = steps.iter().enumerate().filter_map(|(nth, step)| {
        let query = if nth == 0 || nth == last { &history[..step.at] } else { &[] };
        let item = &history[step.at];
        item.said.as_ref().map(|said| taken(step, item, said, query))
    });
    let submission = Some(trajectory.model_patch.as_str()).filter(|patch| !patch.trim().is_empty());
    let class = meta.failure.as_ref().map(|failure| failure.class());
    let traj = Traj {
        trajectory: taken.collect(),
        history: &history,
        info: Info {
            exit_status: exit_status(trajectory.exit_reason, class, submission.is_some()),
            submission,
            model_stats: ModelStats {
                instance_cost: trajectory.cost_usd,
                tokens_sent: usage.total.prompt_tokens,
                tokens_received: usage.total.completion_tokens,
                api_calls: usage.turns.len(),
            },
            model_name: &trajectory.model,
            sweroll_version: &meta.engine_version,
            about: About::of(trajectory, reasoning),
        },
        environment: "main",
    };
    put(&traj, out)
}

fn taken<'t>(step: &Step<'t>, item: &'t Item<'t>, said: &'t Said<'t>, query: &'t [Item<'t>]) -> Taken<'t> {
    let answers: Vec<&str> = step.answers.iter().map(|answer| answer.content.as_str()).collect();
    let ran_ms: u64 = step.turn.map_or(0, |turn| turn.calls.iter().map(|call| call.duration_ms).sum());
    Taken {
        action: &said.action,
        observation: answers.join("\n"),
        response: &item.content,
        thought: &said.thought,
        execution_time: ran_ms as f64 / 1000.0,
        state: NoState {},
        query,
        extra_info: ExtraInfo { turn: step.turn },
        reasoning_content: said.reasoning_content,
    }
}

fn item(message: &Message, reasoning: Reasoning) -> Item<'_> {
    let (content, reasoning_content) = spoken(message, reasoning);
    let said = (message.role == Role::Assistant).then(|| {
        let (thought, action) = thought_and_action(&content, &message.tool_calls);
        let tool_calls = Some(message.tool_calls.as_slice()).filter(|calls| !calls.is_empty());
        Said { thought, action, tool_calls, reasoning_content }
    });
    let message_type = match message.role {
        Role::System => "system_prompt",
        Role::Assistant => "action",
        Role::User | Role::Tool => "observation",
    };
    let tool_call_ids = (message.role == Role::Tool).then_some([message.tool_call_id.as_str()]);
    Item { role: message.role, content, agent: "main", message_type, said, tool_call_ids }
}

/// Inline calls are the action from the first on; native ones are written one a line.
fn thought_and_action(content: &str, calls: &[ToolCall]) -> (String, String) {
    if !calls.is_empty() {
        let actions: Vec<Cow<'_, str>> = calls.iter().map(action).collect();
        return (content.to_owned(), actions.join("\n"));
    }
    let (thought, action) = content.split_at(content.find("<function=").unwrap_or(content.len()));
    (thought.trim_end().to_owned(), action.trim_end().to_owned())
}

/// A shell's command as it is, any other call as `NAME ARGUMENTS`.
fn action(call: &ToolCall) -> Cow<'_, str> {
    let arguments = call.function.arguments.as_str();
    let object: Map<String, Value> = serde_json::from_str(arguments).unwrap_or_default();
    let others = object.iter().any(|(key, value)| key != "command" && value.is_string());
    match object.get("command") {
        Some(Value::String(command)) if !others => Cow::Owned(command.clone()),
        _ => Cow::Owned(format!("{} {arguments}", call.function.name)),
    }
}

/// In SWE-agent's words: a diff that was taken although the agent did not submit is `submitted (WHY)`.
fn exit_status(reason: ExitReason, class: Option<Class>, submission: bool) -> String {
    let why = match reason {
        ExitReason::Submitted => return "submitted".to_owned(),
        ExitReason::TurnLimit | ExitReason::CompletionTokenLimit | ExitReason::CostLimit => "exit_cost",
        ExitReason::PromptTokenLimit | ExitReason::ContextOverflow => "exit_context",
        ExitReason::WallTimeLimit => "exit_total_execution_time",
        ExitReason::NoToolCall | ExitReason::MalformedCalls | ExitReason::LengthCut => "exit_format",
        ExitReason::Failed => match class {
            Some(Class::Endpoint) => "exit_api",
            Some(Class::Infra) => "exit_environment_error",
            _ => "exit_error",
        },
    };
    if submission { format!("submitted ({why})") } else { why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::steps::tests::{inline, native};
    use serde_json::json;

    fn traj(trajectory: &Trajectory, reasoning: Reasoning) -> Value {
        let mut out = Vec::new();
        write(trajectory, reasoning, &mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_trajectory_with_native_calls() {
        let made = traj(&native(), Reasoning::Keep);
        let item = |role: &str, kind: &str, content: &str| json!({"role": role, "content": content, "agent": "main", "message_type": kind});
        let history = made["history"].as_array().unwrap();
        assert_eq!(history.len(), 8);
        assert_eq!(history[0], item("system", "system_prompt", "be good"));
        let mut answer = item("tool", "observation", "x.py");
        answer["tool_call_ids"] = json!(["a"]);
        assert_eq!(history[3], answer);
        let mut said = item("assistant", "action", "look");
        said["thought"] = json!("look");
        said["action"] = json!("ls\nedit {\"path\": ");
        said["tool_calls"] = json!([
            {"id": "a", "type": "function", "function": {"name": "bash", "arguments": "{\"command\": \"ls\"}"}},
            {"id": "b", "type": "function", "function": {"name": "edit", "arguments": "{\"path\": "}},
        ]);
        said["reasoning_content"] = json!("hm");
        assert_eq!(history[2], said);

        let steps = made["trajectory"].as_array().unwrap();
        let mut first = steps[0].clone();
        assert_eq!(first["extra_info"]["turn"]["calls"][1]["malformed"], true);
        first["extra_info"] = json!(0);
        assert_eq!(
            first,
            json!({
                "action": "ls\nedit {\"path\": ", "observation": "x.py\nerror\ngo on", "response": "look", "thought": "look",
                "execution_time": 0.5, "state": {}, "query": history[..2], "extra_info": 0, "reasoning_content": "hm",
            })
        );
        assert_eq!((steps.len(), &steps[1]["query"]), (2, &json!(history[..6])));
        assert_eq!((&steps[1]["action"], steps[1].get("reasoning_content")), (&json!("edit {\"path\": \"x\", \"n\": 1.0}"), None));

        let info = &made["info"];
        assert_eq!((&info["exit_status"], &info["submission"]), (&json!("submitted"), &json!("diff --git a/x b/x\n")));
        assert_eq!(info["model_stats"], json!({"instance_cost": 1.0, "tokens_sent": 200, "tokens_received": 20, "api_calls": 2}));
        assert_eq!((&info["instance_id"], &info["model_name"], &info["resolved"]), (&json!("o__r-1"), &json!("org/m"), &json!(1)));
        assert_eq!(file_name(&native()), "o__r-1@2/o__r-1@2.traj");
    }

    #[test]
    fn inline_calls_are_the_action() {
        let made = traj(&inline(), Reasoning::Keep);
        let steps = made["trajectory"].as_array().unwrap();
        assert_eq!((steps.len(), &steps[1]["query"]), (3, &json!([])));
        assert_eq!(steps[1]["thought"], "look");
        assert_eq!(steps[1]["action"], "<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>");
        assert_eq!((&steps[1]["observation"], &steps[2]["action"]), (&json!("x.py"), &json!("")));
        assert_eq!(made["history"][2]["tool_calls"], Value::Null);
        assert_eq!(steps[0]["extra_info"], json!({}));
        assert_eq!((&made["info"]["exit_status"], &made["info"]["submission"]), (&json!("exit_environment_error"), &Value::Null));
    }

    #[test]
    fn ends_are_said_in_the_words_of_swe_agent() {
        use ExitReason::*;
        let cases = [
            (Submitted, None, false, "submitted"),
            (TurnLimit, None, true, "submitted (exit_cost)"),
            (ContextOverflow, None, false, "exit_context"),
            (WallTimeLimit, None, true, "submitted (exit_total_execution_time)"),
            (MalformedCalls, None, false, "exit_format"),
            (Failed, Some(Class::Endpoint), true, "submitted (exit_api)"),
            (Failed, Some(Class::Infra), false, "exit_environment_error"),
            (Failed, None, false, "exit_error"),
        ];
        for (reason, class, submission, status) in cases {
            assert_eq!(exit_status(reason, class, submission), status);
        }
    }

    #[test]
    fn a_command_alone_is_the_action_of_a_shell() {
        let of = |arguments: &str| action(&ToolCall::new("", "tool", arguments)).into_owned();
        assert_eq!(of("{\"command\": \"ls\\n\", \"timeout\": 3}"), "ls\n");
        for arguments in ["{\"command\": \"view\", \"path\": \"/x\"}", "{\"command\": 1}", "{}", "", "[]"] {
            assert_eq!(of(arguments), format!("tool {arguments}"));
        }
    }
}
