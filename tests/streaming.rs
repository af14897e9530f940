//! Streamed replies are those that come whole, in any weather, and a stall is noticed.

mod common;

use common::{Endpoint, expect, records, summary, sweroll};
use regex::Regex;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use sweroll::{
    domain::{Conversation, Message, Role, transcript::Response},
    endpoint::{Endpoints, Limiter, ModelClient, Request, Settings},
};

fn instances() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/demo.jsonl")
}

fn run(endpoint: &Endpoint, dir: &Path, stream: bool, more: &[&str]) -> Command {
    let mut command = sweroll();
    command.arg("run").arg("--instances").arg(instances()).arg("--out").arg(dir);
    command.args(["--endpoint", &endpoint.url, "--model", "scripted", "--sandbox", "local", "--quiet"]);
    command.args(["--set", "endpoint.retry.base_s=0.01", "--set", "endpoint.limits.cool_down_s=0.05"]);
    command.args(["--set", &format!("endpoint.stream={stream}")]).args(more);
    command
}

/// What of a run's records the seed decides: messages, outcome and usage, without the sandbox's path, what is drawn from it, and times.
fn lasting(dir: &Path) -> Vec<String> {
    let chance = Regex::new(r"/tmp/sweroll-[0-9a-f]+/\d+|call_[0-9a-f]+_|\d\d:\d\d|\[ref [^\]]*\]").unwrap();
    let mut all: Vec<String> = records(dir, "trajectories")
        .iter()
        .map(|record| {
            let usage: Value = serde_json::from_str(record["usage"].as_str().unwrap()).unwrap();
            let turns: Vec<Value> =
                usage["turns"].as_array().unwrap().iter().map(|turn| json!([turn["finish_reason"], turn["model"]])).collect();
            let completion: Vec<&Value> =
                usage["turns"].as_array().unwrap().iter().map(|turn| &turn["usage"]["reasoning_tokens"]).collect();
            let told = ["instance_id", "sample", "messages", "model_patch", "resolved", "exit_reason", "num_turns"].map(|key| &record[key]);
            chance.replace_all(&json!([told, turns, completion]).to_string(), "-").into_owned()
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_run_in_bad_weather_records_what_one_without_streams_does() {
    let weather = ["stall-midway:0.1", "cut-midway:0.1", "error-in-stream:0.1", "truncated:0.05", "500:0.05", "reset:0.05"];
    let faults: Vec<&str> = weather.iter().flat_map(|fault| ["--fault", fault]).chain(["--reasoning"]).collect();
    let more = ["--samples", "6", "--filter", "greet|total", "--set", "endpoint.timeouts.stall_s=0.5"];
    let temp = tempfile::tempdir().unwrap();
    let of = |stream: bool, faults: &[&str]| {
        let endpoint = Endpoint::start(&instances(), "gold", faults);
        let dir = temp.path().join(stream.to_string());
        expect(&mut run(&endpoint, &dir, stream, &more), 0);
        let stat = endpoint.stat();
        assert_eq!(stat["violation_count"], json!(0), "{stat:#}");
        (lasting(&dir), stat)
    };
    let (whole, _) = of(false, &["--reasoning"]);
    let (streamed, stat) = of(true, &faults);
    assert_eq!((whole.len(), streamed.len()), (12, 12));
    for (whole, streamed) in whole.iter().zip(&streamed) {
        assert_eq!(whole, streamed);
    }
    for kind in ["stall-midway", "cut-midway", "error-in-stream"] {
        assert!(stat["faults"][kind].as_u64().is_some_and(|met| met > 0), "{kind}: {stat:#}");
    }
}

/// A client of the endpoint and the conversations that it has.
struct Talk {
    client: Endpoints,
    tools: Arc<str>,
}

impl Talk {
    fn new(endpoint: &Endpoint, stream: bool) -> Self {
        let settings = Settings { url: endpoint.url.clone(), model: "m".into(), stream, ..Settings::default() };
        let limiter = Arc::new(Limiter::new(settings.limits));
        let function = |name: &str, fields: Value| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": fields}}});
        let tools = json!([
            function("execute_bash", json!({"command": {"type": "string"}, "timeout": {"type": "integer"}})),
            function("finish", json!({})),
        ]);
        Talk { client: Endpoints::new(settings, vec![limiter]).unwrap(), tools: tools.to_string().into() }
    }

    /// The replies to a prompt, each call answered with a word.
    async fn replies(&self, prompt: &str, turns: usize) -> Vec<Response> {
        let mut messages = vec![Message::new(Role::User, prompt)];
        let mut all = Vec::new();
        for _ in 0..turns {
            let conversation: Conversation = messages.iter().collect();
            let request = Request { messages: &conversation, tools: &self.tools, estimate: 9, affinity: 0 };
            let mut response = self.client.complete(request).await.unwrap();
            messages.push(response.message.clone());
            let answers: Vec<_> = response.message.tool_calls.iter().map(|call| Message::tool(call.id.as_str(), "done")).collect();
            messages.extend(if answers.is_empty() { vec![Message::new(Role::User, "go on")] } else { answers });
            response.latency_ms = 0;
            if let Value::Object(extra) = &mut response.extra {
                extra.remove("first_token_ms");
            }
            all.push(response);
        }
        all
    }
}

#[tokio::test]
async fn whatever_a_model_sends_is_the_same_in_pieces() {
    let mut calls = 0;
    for script in ["hostile", "wander"] {
        let endpoints = [(); 2].map(|()| Endpoint::start(&instances(), script, &["--reasoning"]));
        let [whole, streamed] = [Talk::new(&endpoints[0], false), Talk::new(&endpoints[1], true)];
        for n in 0..25 {
            let prompt = format!("Task {n}: mend it.");
            let (whole, streamed) = (whole.replies(&prompt, 6).await, streamed.replies(&prompt, 6).await);
            assert_eq!(whole, streamed, "{script} {n}");
            calls += whole.iter().map(|reply| reply.message.tool_calls.len()).sum::<usize>();
        }
    }
    assert!(calls > 100, "{calls}");
}

#[test]
fn a_stall_is_noticed_though_keep_alives_come() {
    let endpoint = Endpoint::start(&instances(), "gold", &["--fault", "stall-midway:1", "--piece-ms", "1"]);
    let temp = tempfile::tempdir().unwrap();
    let quick = [
        "--filter",
        "greet",
        "--set",
        "endpoint.timeouts.stall_s=0.3",
        "--set",
        "endpoint.retry.tries=2",
        "--set",
        "endpoint.retry.max_elapsed_s=2",
    ];
    // The server would hold the connection for ten minutes; an endpoint of which nothing else comes is ill, and waited for.
    let output = run(&endpoint, temp.path(), true, &quick).output().unwrap();
    let shown = format!("{}{}{}", common::stderr(&output), common::stdout(&output), summary(temp.path()));
    let attempts = records(temp.path(), "").iter().map(Value::to_string).collect::<String>();
    assert!(format!("{shown}{attempts}").contains("stall_s"), "{shown}\n{attempts}");
    assert_eq!(records(temp.path(), "trajectories").len(), 0, "half a reply is none");
}
