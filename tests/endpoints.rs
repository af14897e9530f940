//! One run on several endpoints, each a process of its own, one of which dies and comes back.

mod common;

use common::{Endpoint, expect, summary, sweroll};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

fn instances() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/demo.jsonl")
}

fn start(listen: &str) -> Endpoint {
    let more = ["--listen", listen, "--latency-ms", "60", "--wander-turns", "40"];
    Endpoint::start(&instances(), "wander", &more)
}

fn address(endpoint: &Endpoint) -> String {
    endpoint.url.trim_start_matches("http://").split('/').next().unwrap().to_owned()
}

fn run(urls: &[&str], dir: &Path, samples: &str) -> Command {
    let mut command = sweroll();
    command.arg("run").arg("--instances").arg(instances()).arg("--out").arg(dir);
    urls.iter().for_each(|url| _ = command.args(["--endpoint", url]));
    command.args([
        "--model",
        "scripted",
        "--sandbox",
        "local",
        "--quiet",
        "--filter",
        "greet",
        "--samples",
        samples,
        "--concurrency",
        "12",
    ]);
    command.arg("--events").arg(dir.with_extension("events")).args(["--set", "endpoint.retry.base_s=0.05"]);
    command
}

/// The statuses of all endpoints, as the events of a run told them one after the other.
fn told(dir: &Path) -> Vec<Vec<Value>> {
    let text = std::fs::read_to_string(dir.with_extension("events")).unwrap_or_default();
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == "endpoints").map(|event| event["endpoints"].as_array().unwrap().clone()).collect()
}

fn requests(endpoint: &Endpoint) -> u64 {
    endpoint.stat()["requests"].as_u64().unwrap()
}

#[test]
fn one_that_dies_and_comes_back_costs_nothing() {
    let (a, b, c) = (start("127.0.0.1:0"), start("127.0.0.1:0"), start("127.0.0.1:0"));
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    let twice = format!("2@{}", b.url);
    let mut command = run(&[&a.url, &twice, &c.url], &dir, "60");
    let child = command.args(["--set", "endpoint.pool.eject_s=0.5"]).stdout(Stdio::piped()).spawn().unwrap();
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < Duration::from_secs(120), "{what}: {:?}", told(&dir).last());
            sleep(Duration::from_millis(50));
        }
    };
    until("work has begun at each", &|| [&a, &b, &c].iter().all(|endpoint| requests(endpoint) > 5));
    let place = address(&b);
    drop(b);
    let up = |dir: &Path| told(dir).last().map_or(0, |all| all.iter().filter(|one| one["up"] == json!(true)).count());
    until("the dead one is ejected", &|| up(&dir) == 2);
    let b = start(&place);
    until("it is back", &|| up(&dir) == 3 && requests(&b) > 5);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    let shown = common::stdout(&ended);
    let row = shown.lines().find(|line| line.starts_with(&b.url)).unwrap_or_else(|| panic!("{shown}"));
    assert!(row.contains(" up "), "{row}");

    let summary = summary(&dir);
    assert_eq!(
        (&summary["episodes"]["committed"], &summary["attempts"], &summary["resolved"]),
        (&json!(60), &json!(60), &json!(0)),
        "{summary:#}"
    );
    assert_eq!(summary["exit_reasons"]["submitted"], json!(60), "{summary:#}");
    let last = told(&dir).pop().unwrap();
    assert!(last[1]["ejections"].as_u64() >= Some(1) && last[1]["faults"].as_u64() >= Some(5), "{last:#?}");
    assert_eq!((&last[0]["ejections"], &last[2]["ejections"]), (&json!(0), &json!(0)), "{last:#?}");
    for endpoint in [&a, &b, &c] {
        assert_eq!(endpoint.stat()["violation_count"], json!(0));
    }
}

#[test]
fn the_preflight_asks_each_and_the_environment_may_name_several() {
    let open = start("127.0.0.1:0");
    let closed = Endpoint::start(&instances(), "wander", &["--serve-key", "other"]);
    let temp = tempfile::tempdir().unwrap();
    let wrong = expect(&mut run(&[&open.url, &closed.url], &temp.path().join("a"), "1"), 2);
    assert!(common::stderr(&wrong).contains(&address(&closed)), "the preflight asks each: {}", common::stderr(&wrong));
    let both = format!("{} {}", open.url, closed.url);
    let dry = expect(run(&[], &temp.path().join("b"), "1").arg("--dry-run").env("SWEROLL_ENDPOINT", &both), 0);
    assert!(common::stdout(&dry).contains("1 episodes"), "{}", common::stdout(&dry));
}
