//! Harbor's Agent Trajectory Interchange Format, version 1.8: a JSON document a trajectory.
//!
//! A step of the agent holds its calls and what they gave back; reminders are steps of the user. What ATIF has no key for lies in
//! `extra`. Arguments must be an object there: those that are none are in the call's `extra.arguments`, as the model sent them.

use super::{
    Reasoning, Unfit,
    row::{About, put, spoken},
    steps::{Columns, Step, steps},
};
use crate::domain::{
    Failure, Message, Role, ToolCall, Trajectory,
    grade::Tally,
    transcript::{Call, Usage},
};
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};
use std::borrow::Cow;

const VERSION: &str = "ATIF-v1.8";

/// `INSTANCE@SAMPLE/agent/trajectory.json`: where Harbor looks within a directory of trials.
pub(super) fn file_name(trajectory: &Trajectory) -> String {
    format!("{}/agent/trajectory.json", trajectory.trajectory_id.episode)
}

#[derive(Serialize)]
struct Document<'t> {
    schema_version: &'static str,
    session_id: String,
    trajectory_id: String,
    agent: Agent<'t>,
    steps: Vec<Entry<'t>>,
    final_metrics: FinalMetrics,
    extra: Extra<'t>,
}

#[derive(Serialize)]
struct Agent<'t> {
    name: &'static str,
    version: &'t str,
    model_name: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_definitions: Option<Vec<Map<String, Value>>>,
    extra: AgentExtra<'t>,
}

#[derive(Serialize)]
struct AgentExtra<'t> {
    scaffold: &'t str,
    scaffold_digest: &'t str,
    sampling: &'t Value,
}

/// A step; what is absent is left out.
#[derive(Serialize)]
struct Entry<'t> {
    step_id: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_name: Option<&'t str>,
    message: Cow<'t, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'t str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallMade<'t>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observation: Option<Observation<'t>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Metrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    llm_call_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<EntryExtra<'t>>,
}

#[derive(Serialize)]
struct EntryExtra<'t> {
    loss: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    turn: Option<TurnExtra<'t>>,
}

#[derive(Serialize)]
struct TurnExtra<'t> {
    finish_reason: &'t str,
    latency_ms: u64,
    tries: u32,
}

#[derive(Serialize)]
struct CallMade<'t> {
    tool_call_id: &'t str,
    function_name: &'t str,
    arguments: Arguments,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<Sent<'t>>,
}

/// The text of an object as the model sent it, or an empty one.
#[derive(Serialize)]
#[serde(untagged)]
enum Arguments {
    Object(Box<RawValue>),
    None {},
}

#[derive(Serialize)]
struct Sent<'t> {
    arguments: &'t str,
}

#[derive(Serialize)]
struct Observation<'t> {
    results: Vec<Outcome<'t>>,
}

#[derive(Serialize)]
struct Outcome<'t> {
    /// A call of the same step; none for inline calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_call_id: Option<&'t str>,
    content: &'t str,
    extra: OutcomeExtra<'t>,
}

#[derive(Serialize)]
struct OutcomeExtra<'t> {
    calls: Vec<&'t Call>,
}

#[derive(Serialize)]
struct Metrics {
    prompt_tokens: u64,
    completion_tokens: u64,
    cached_tokens: u64,
    cost_usd: f64,
    extra: MetricsExtra,
}

#[derive(Serialize)]
struct MetricsExtra {
    reasoning_tokens: u64,
}

#[derive(Serialize)]
struct FinalMetrics {
    total_prompt_tokens: u64,
    total_completion_tokens: u64,
    total_cached_tokens: u64,
    total_cost_usd: f64,
    total_steps: usize,
    extra: FinalExtra,
}

#[derive(Serialize)]
struct FinalExtra {
    reasoning_tokens: u64,
    duration_ms: u64,
}

#[derive(Serialize)]
struct Extra<'t> {
    #[serde(flatten)]
    about: About<'t>,
    base_commit: &'t str,
    sample: u32,
    attempt: u32,
    model_patch: &'t str,
    image: &'t str,
    image_digest: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    grade: Option<Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'t Failure>,
}

#[derive(Serialize)]
struct Verdict {
    resolved: bool,
    fail_to_pass: Tally,
    pass_to_pass: Tally,
}

pub(super) fn write(trajectory: &Trajectory, reasoning: Reasoning, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let Columns { usage, meta } = Columns::of(trajectory)?;
    let tools = tools(&trajectory.tools)?;
    let messages = &trajectory.messages;
    let told = steps(messages, &usage.turns);
    let prompt = &messages[..told.first().map_or(messages.len(), |step| step.at)];
    let mut entries: Vec<Entry<'_>> = prompt.iter().map(said).collect();
    for step in &told {
        entries.push(of_agent(step, &trajectory.model, reasoning));
        entries.extend(step.answers.iter().filter(|answer| !step.is_observation(answer)).map(said));
    }
    let Some(first) = entries.first_mut() else { return Err(Unfit("it has no message".into())) };
    first.timestamp = timestamp(meta.began_at_ms);
    for (at, entry) in entries.iter_mut().enumerate() {
        entry.step_id = at + 1;
    }
    let total = usage.total;
    let document = Document {
        schema_version: VERSION,
        session_id: trajectory.trajectory_id.to_string(),
        trajectory_id: trajectory.trajectory_id.to_string(),
        agent: Agent {
            name: "sweroll",
            version: &meta.engine_version,
            model_name: &trajectory.model,
            tool_definitions: tools,
            extra: AgentExtra { scaffold: &trajectory.scaffold, scaffold_digest: &meta.scaffold_digest, sampling: &meta.sampling },
        },
        final_metrics: FinalMetrics {
            total_prompt_tokens: total.prompt_tokens,
            total_completion_tokens: total.completion_tokens,
            total_cached_tokens: total.cached_tokens,
            total_cost_usd: trajectory.cost_usd,
            total_steps: entries.len(),
            extra: FinalExtra { reasoning_tokens: total.reasoning_tokens, duration_ms: meta.duration_ms },
        },
        steps: entries,
        extra: Extra {
            about: About::of(trajectory, reasoning),
            base_commit: &trajectory.base_commit,
            sample: trajectory.sample,
            attempt: trajectory.attempt,
            model_patch: &trajectory.model_patch,
            image: &meta.image,
            image_digest: &meta.image_digest,
            grade: meta.grade.as_ref().map(|grade| Verdict {
                resolved: grade.resolved,
                fail_to_pass: grade.fail_to_pass,
                pass_to_pass: grade.pass_to_pass,
            }),
            failure: meta.failure.as_ref(),
        },
    };
    put(&document, out)
}

/// None with inline calls.
fn tools(tools: &str) -> Result<Option<Vec<Map<String, Value>>>, Unfit> {
    if tools.is_empty() {
        return Ok(None);
    }
    let tools: Vec<_> = serde_json::from_str(tools).map_err(|e| Unfit(format!("its tools are no JSON list of objects: {e}")))?;
    Ok(Some(tools).filter(|tools| !tools.is_empty()))
}

/// A message that is not the agent's. The number comes once all steps are there.
fn said(message: &Message) -> Entry<'_> {
    Entry {
        step_id: 0,
        timestamp: None,
        source: if message.role == Role::System { "system" } else { "user" },
        model_name: None,
        message: Cow::Borrowed(&message.content),
        reasoning_content: None,
        tool_calls: Vec::new(),
        observation: None,
        metrics: None,
        llm_call_count: None,
        extra: None,
    }
}

fn of_agent<'t>(step: &Step<'t>, model: &str, reasoning: Reasoning) -> Entry<'t> {
    let (message, thoughts) = spoken(step.said, reasoning);
    let results: Vec<Outcome<'t>> =
        step.answers.iter().filter(|answer| step.is_observation(answer)).map(|answer| outcome(step, answer)).collect();
    Entry {
        source: "agent",
        model_name: step.turn.map(|turn| &*turn.model).filter(|answered| !answered.is_empty() && *answered != model),
        message,
        reasoning_content: Some(thoughts).filter(|thoughts| !thoughts.is_empty()),
        tool_calls: step.said.tool_calls.iter().map(call).collect(),
        observation: (!results.is_empty()).then_some(Observation { results }),
        metrics: step.turn.map(|turn| metrics(turn.usage, turn.cost_usd)),
        llm_call_count: step.turn.map(|_| 1),
        extra: Some(EntryExtra {
            loss: step.said.loss,
            turn: step.turn.map(|turn| TurnExtra { finish_reason: &turn.finish_reason, latency_ms: turn.latency_ms, tries: turn.tries }),
        }),
        ..said(step.said)
    }
}

fn metrics(usage: Usage, cost_usd: f64) -> Metrics {
    Metrics {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        cached_tokens: usage.cached_tokens,
        cost_usd,
        extra: MetricsExtra { reasoning_tokens: usage.reasoning_tokens },
    }
}

fn call(call: &ToolCall) -> CallMade<'_> {
    let sent = call.function.arguments.as_str();
    let (arguments, extra) = match object(sent) {
        Some(object) => (Arguments::Object(object), None),
        None => (Arguments::None {}, Some(Sent { arguments: sent })),
    };
    CallMade { tool_call_id: &call.id, function_name: &call.function.name, arguments, extra }
}

/// The text on one line, where it is an object of JSON. Outside of strings a line end is white space, within none can be.
fn object(text: &str) -> Option<Box<RawValue>> {
    serde_json::from_str::<Map<String, Value>>(text).ok()?;
    RawValue::from_string(text.replace(['\n', '\r'], " ")).ok()
}

fn outcome<'t>(step: &Step<'t>, answer: &'t Message) -> Outcome<'t> {
    let id = answer.tool_call_id.as_str();
    Outcome {
        source_call_id: step.said.tool_calls.iter().any(|call| call.id == id).then_some(id),
        content: &answer.content,
        extra: OutcomeExtra { calls: step.calls(answer) },
    }
}

/// ISO 8601 with milliseconds, of milliseconds since the Unix epoch. None for no time, and beyond the year 9999.
fn timestamp(ms: u64) -> Option<String> {
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    if ms == 0 || days >= 2_932_897 {
        return None;
    }
    // Days of eras of 400 years, years that begin in March: the leap day comes last.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let (month, day) = (if from_march < 10 { from_march + 3 } else { from_march - 9 }, day - (153 * from_march + 2) / 5 + 1);
    let year = era * 400 + year + u64::from(month <= 2);
    let (hours, minutes, seconds, ms) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60, of_day % 1000);
    Some(format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::steps::tests::{inline, native};
    use serde_json::json;

    fn document(trajectory: &Trajectory, reasoning: Reasoning) -> Value {
        let mut out = Vec::new();
        write(trajectory, reasoning, &mut out).unwrap();
        assert!(!out.contains(&b'\n'));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_trajectory_with_native_calls() {
        let Columns { usage, .. } = Columns::of(&native()).unwrap();
        let figures = |turn: usize, call: usize| json!({"calls": [usage.turns[turn].calls[call]]});
        let metrics =
            json!({"prompt_tokens": 100, "completion_tokens": 10, "cached_tokens": 60, "cost_usd": 0.5, "extra": {"reasoning_tokens": 4}});
        let turn = json!({"finish_reason": "tool_calls", "latency_ms": 1500, "tries": 2});
        let made = document(&native(), Reasoning::Keep);
        assert_eq!(
            made["steps"],
            json!([
                {"step_id": 1, "timestamp": "2024-02-29T12:34:56.789Z", "source": "system", "message": "be good"},
                {"step_id": 2, "source": "user", "message": "mend it"},
                {
                    "step_id": 3, "source": "agent", "model_name": "m-0925", "message": "look", "reasoning_content": "hm",
                    "tool_calls": [
                        {"tool_call_id": "a", "function_name": "bash", "arguments": {"command": "ls"}},
                        {"tool_call_id": "b", "function_name": "edit", "arguments": {}, "extra": {"arguments": "{\"path\": "}},
                    ],
                    "observation": {"results": [
                        {"source_call_id": "a", "content": "x.py", "extra": figures(0, 0)},
                        {"source_call_id": "b", "content": "error", "extra": figures(0, 1)},
                    ]},
                    "metrics": metrics, "llm_call_count": 1, "extra": {"loss": false, "turn": turn},
                },
                {"step_id": 4, "source": "user", "message": "go on"},
                {
                    "step_id": 5, "source": "agent", "message": "", "tool_calls": [
                        {"tool_call_id": "c", "function_name": "edit", "arguments": {"path": "x", "n": 1.0}},
                    ],
                    "observation": {"results": [{"source_call_id": "c", "content": "done", "extra": figures(1, 0)}]},
                    "metrics": metrics, "llm_call_count": 1, "extra": {"loss": true, "turn": turn},
                },
            ])
        );
        assert_eq!((&made["schema_version"], &made["trajectory_id"]), (&json!("ATIF-v1.8"), &json!("o__r-1@2.1")));
        assert_eq!(
            made["agent"],
            json!({
                "name": "sweroll", "version": "0.9", "model_name": "org/m", "tool_definitions": [{"type": "function"}],
                "extra": {"scaffold": "scale-swe", "scaffold_digest": "s", "sampling": {"temperature": 1.0}},
            })
        );
        assert_eq!(
            made["final_metrics"],
            json!({
                "total_prompt_tokens": 200, "total_completion_tokens": 20, "total_cached_tokens": 120, "total_cost_usd": 1.0,
                "total_steps": 5, "extra": {"reasoning_tokens": 8, "duration_ms": 9000},
            })
        );
        let extra = &made["extra"];
        assert_eq!((&extra["resolved"], &extra["model_patch"], &extra["sample"]), (&json!(1), &json!("diff --git a/x b/x\n"), &json!(2)));
        assert_eq!(
            extra["grade"],
            json!({"resolved": true, "fail_to_pass": {"passed": 1, "total": 1}, "pass_to_pass": {"passed": 0, "total": 0}})
        );
        assert_eq!(extra.get("failure"), None);
    }

    #[test]
    fn observations_of_inline_calls_name_no_call() {
        let made = document(&inline(), Reasoning::Keep);
        let steps = made["steps"].as_array().unwrap();
        assert_eq!((steps.len(), steps[1].get("metrics"), &steps[2]["message"]), (5, None, &inline().messages[2].content.as_str().into()));
        assert_eq!(steps[2]["observation"]["results"][0]["content"], "x.py");
        assert_eq!(steps[2]["observation"]["results"][0].get("source_call_id"), None);
        assert_eq!(steps[2]["observation"]["results"][0]["extra"]["calls"].as_array().unwrap().len(), 2);
        assert_eq!((&steps[4]["source"], &steps[4]["message"]), (&json!("user"), &json!("call a tool")));
        assert_eq!(made["agent"].get("tool_definitions"), None);
        assert_eq!(made["extra"]["failure"], json!({"kind": "sandbox_lost", "message": "gone"}));
    }

    #[test]
    fn reasoning_is_where_it_was_asked_for() {
        let step = |reasoning| document(&native(), reasoning)["steps"][2].clone();
        let inlined = step(Reasoning::Inline);
        assert_eq!((&inlined["message"], inlined.get("reasoning_content")), (&json!("<think>\nhm\n</think>\n\nlook"), None));
        let dropped = step(Reasoning::Drop);
        assert_eq!((&dropped["message"], dropped.get("reasoning_content")), (&json!("look"), None));
    }

    #[test]
    fn what_has_no_document_is_told() {
        let unfit = |change: fn(&mut Trajectory)| {
            let mut trajectory = native();
            change(&mut trajectory);
            write(&trajectory, Reasoning::Keep, &mut Vec::new()).unwrap_err().to_string()
        };
        assert!(unfit(|t| t.messages.clear()).contains("no message"));
        assert!(unfit(|t| t.usage = "{}".into()).contains("usage"));
        assert!(unfit(|t| t.meta = "[]".into()).contains("meta"));
        assert!(unfit(|t| t.tools = "[1]".into()).contains("tools"));
    }

    #[test]
    fn arguments_stay_as_they_were_sent() {
        let kept = |text: &str| object(text).map(|object| object.get().to_owned());
        assert_eq!(kept("{\"b\":1.0,\n\"a\":\"\\n\"}").unwrap(), "{\"b\":1.0, \"a\":\"\\n\"}");
        for text in ["", "[]", "\"x\"", "{} {}", "{\"a\": \"\\ud800\"}", "{\"a\": 1e999}"] {
            assert_eq!(kept(text), None, "{text}");
        }
    }

    #[test]
    fn timestamps_are_of_the_calendar() {
        for (ms, text) in [
            (1, "1970-01-01T00:00:00.001Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_704_067_199_999, "2023-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(timestamp(ms).unwrap(), text);
        }
        assert_eq!((timestamp(0), timestamp(253_402_300_800_000), timestamp(u64::MAX)), (None, None, None));
    }
}
