//! Made-up attempts: an agent that views and searches the source of this crate, so that what it is shown compresses and parts into
//! tokens as source does. The same number gives the same attempt.

use crate::{
    domain::{
        AttemptId, Entry, ExitReason, Message, Resolved, Role, ToolCall, Trajectory,
        event::Outcome,
        trajectory::Facts,
        transcript::{Begun, Ended, Observation, Response, Transcript, Usage},
    },
    endpoint::server::Rng,
};
use serde_json::json;
use std::{fmt::Write as _, sync::Arc};

/// What is viewed.
const FILES: [(&str, &str); 8] = [
    ("src/engine.rs", include_str!("../engine.rs")),
    ("src/engine/episodes.rs", include_str!("../engine/episodes.rs")),
    ("src/agent/runner.rs", include_str!("../agent/runner.rs")),
    ("src/domain/grade.rs", include_str!("../domain/grade.rs")),
    ("src/endpoint/pool.rs", include_str!("../endpoint/pool.rs")),
    ("src/scheduler/images.rs", include_str!("../scheduler/images.rs")),
    ("src/store/writer.rs", include_str!("../store/writer.rs")),
    ("src/tokens/vocab.rs", include_str!("../tokens/vocab.rs")),
];
/// Lines of a view.
const VIEW: std::ops::Range<usize> = 20..120;
/// What an agent knows of its tools: one schema, as long as a shell's.
pub const TOOLS: &str = r#"[{"type":"function","function":{"name":"execute_bash","description":"Run a command in the session's shell. Working directory and exported variables are carried from call to call.","parameters":{"type":"object","properties":{"command":{"type":"string","description":"The command."},"timeout":{"type":"number","description":"Seconds."}},"required":["command"]}}}]"#;

/// The entries of an attempt whose messages come to about so many bytes.
#[must_use]
pub fn entries(id: &AttemptId, number: u64, bytes: usize) -> Vec<Entry> {
    let mut rng = Rng::new(number);
    let statement: Vec<_> = (0..12).map(|_| sentence(&mut rng)).collect();
    let prompt = vec![
        Message::new(Role::System, "You are an engineer at work in a repository. Use the tools until the task is done."),
        Message::new(Role::User, statement.join("\n\n")),
    ];
    let mut held: usize = prompt.iter().map(|message| message.content.len()).sum();
    let mut entries = vec![Entry::Begun(Begun {
        id: id.clone(),
        messages: prompt,
        tools: Arc::from(TOOLS),
        model: "steady".into(),
        scaffold: "sweroll".into(),
        scaffold_digest: format!("{number:064x}"),
        image_digest: format!("sha256:{number:064x}"),
        base_tree: format!("{number:040x}"),
        sampling: json!({"temperature": 1.0}),
        at_ms: 1_760_000_000_000 + number,
        setup_ms: 400,
    })];
    for turn in 0.. {
        if held >= bytes {
            break;
        }
        let (path, text) = FILES[rng.below(FILES.len())];
        let first = rng.below(text.lines().count());
        let lines = VIEW.start + rng.below(VIEW.end - VIEW.start);
        let view = view(text, first, lines, bytes - held);
        let said = format!("{} {}", sentence(&mut rng), sentence(&mut rng));
        held += said.len() + view.len() + 200;
        let call = format!("call_{:016x}", rng.draw());
        let command = json!({"command": format!("cat -n {path} | sed -n '{},{}p'", first + 1, first + lines)}).to_string();
        let mut message = Message::new(Role::Assistant, said);
        message.tool_calls.push(ToolCall::new(&call, "execute_bash", command));
        let prompt_tokens = held as u64 / 4;
        entries.push(Entry::Response(Response {
            message,
            model: "steady".into(),
            finish_reason: "tool_calls".into(),
            usage: Usage { prompt_tokens, completion_tokens: 120, cached_tokens: prompt_tokens / 10 * 9, reasoning_tokens: 0 },
            cost_usd: 0.001,
            latency_ms: 4000 + turn,
            tries: 1,
            extra: json!({}),
        }));
        entries.push(Entry::Observation(Observation {
            message: Message::tool(call, view),
            tool: "execute_bash".into(),
            duration_ms: 20,
            exit_code: 0,
            truncated: false,
            timed_out: false,
            malformed: false,
            failed: false,
        }));
    }
    entries.push(Entry::Ended(Ended {
        exit_reason: ExitReason::Submitted,
        model_patch: String::new(),
        failure: None,
        duration_ms: 400_000,
        peak_memory: 100_000_000,
        cpu_ms: 9000,
        oom_kills: 0,
    }));
    entries
}

/// Numbered lines, as `cat -n` has them.
fn view(text: &str, first: usize, lines: usize, most: usize) -> String {
    let mut view = String::new();
    for (number, line) in text.lines().enumerate().skip(first).take(lines) {
        let _ = writeln!(view, "{:>6}\t{line}", number + 1);
        if view.len() >= most {
            break;
        }
    }
    view
}

/// A line of documentation.
fn sentence(rng: &mut Rng) -> String {
    let (_, text) = FILES[rng.below(FILES.len())];
    let mut all = text.lines().filter_map(|line| line.trim_start().strip_prefix("///")).map(str::trim);
    let count = all.clone().count();
    all.nth(rng.below(count)).unwrap_or_default().to_owned()
}

/// The record of these entries, not graded and not counted.
#[must_use]
pub fn trajectory(entries: Vec<Entry>) -> Option<Trajectory> {
    let facts = Facts { repo: "bench/bench", base_commit: "", image: "none", url: "", dataset_digest: "" };
    Some(Trajectory::new(Transcript::replay(entries)?, None, None, facts))
}

/// What the store is told beside the record.
#[must_use]
pub fn outcome(trajectory: &Trajectory) -> Outcome {
    Outcome {
        counts: true,
        exit_reason: trajectory.exit_reason,
        resolved: Resolved::Unknown,
        verdict: None,
        failure: None,
        turns: trajectory.num_turns,
        tokens: trajectory.num_tokens,
        usage: Usage { prompt_tokens: 450_000, completion_tokens: 9000, cached_tokens: 430_000, reasoning_tokens: 0 },
        cost_usd: trajectory.cost_usd,
        duration_ms: 400_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_as_long_as_wanted_and_the_same_again() {
        let id: AttemptId = AttemptId { episode: "bench_1@0".parse().unwrap(), attempt: crate::domain::Attempt::FIRST };
        let record = |number| serde_json::to_string(&trajectory(entries(&id, number, 100_000)).unwrap()).unwrap();
        let one = record(1);
        assert!((95_000..160_000).contains(&one.len()), "{}", one.len());
        assert_eq!(one, record(1));
        assert_ne!(one, record(2));
    }
}
