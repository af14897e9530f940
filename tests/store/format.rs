//! `docs/format.md` names every key that is written.

use super::*;
use serde_json::Value;

/// All keys of objects, at any depth, but for those below `but`, which are data.
fn keys(value: &Value, but: &[&str], found: &mut HashSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                found.insert(key.clone());
                if !but.contains(&key.as_str()) {
                    keys(inner, but, found);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| keys(inner, but, found)),
        _ => {}
    }
}

/// A record with a value for every key.
pub fn full() -> Trajectory {
    use sweroll::domain::{Grade, trajectory::Counted};
    let tally = serde_json::json!({ "passed": 1, "total": 2 });
    let grade: Grade = serde_json::from_value(serde_json::json!({
        "verdict": "unresolved", "resolved": false, "tests": { "a": { "status": "failed", "duration_ms": 1, "message": "no", "tries": 2 } },
        "fail_to_pass": tally, "pass_to_pass": tally, "suspect": [{ "reason": "tests_changed", "detail": "t.py" }],
        "with": { "versions": { "pytest": "8.3.5" } }, "duration_ms": 1, "tests_ms": 1, "regrades": 0, "output_tail": "",
    }))
    .unwrap();
    let facts = Facts { repo: "o/n", base_commit: "", image: "x:1", url: "", dataset_digest: "d" };
    let failure = Failure::new(Kind::GradeTimeout, "");
    let mut row = Trajectory::new(Transcript::replay(entries(&attempt("a@0.1"), 1)).unwrap(), Some(grade), Some(failure), facts);
    (row.num_tokens, row.num_loss_tokens) = (100, 40);
    let mut meta = row.meta().unwrap();
    meta.counted = Some(Counted { target: "qwen3".into(), tokenizer_digest: "d".into(), loss: "all".into() });
    row.meta = serde_json::to_string(&meta).unwrap();
    row
}

fn missing_from_the_document(written: &HashSet<String>) -> Vec<&String> {
    let document = include_str!("../../docs/format.md");
    let words: HashSet<&str> = document.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    written.iter().filter(|key| !words.contains(key.as_str())).collect()
}

#[test]
fn the_document_names_every_key() {
    let dir = quick_dir();
    let settings = Settings::default();
    let store = Store::open(new_run(dir.path(), &["a"], 1), settings).unwrap();
    let id = attempt("a@0.1");
    let failure = Failure::new(Kind::GradeTimeout, "");
    let row = full();
    runtime().block_on(async {
        store.started(id.clone()).await.unwrap();
        store.commit(&row, Outcome { failure: Some(failure.clone()), ..resolved() }, Stream::Attempts).await.unwrap();
        store.reopen(vec![id.episode.clone()], "").await.unwrap();
        store.quarantine("a".parse().unwrap(), failure).await.unwrap();
        store.close().await.unwrap();
    });
    let mut written = HashSet::new();
    let mut add = |value: Value| keys(&value, &["versions", "sampling", "extra"], &mut written);
    add(serde_json::to_value(&row).unwrap());
    add(serde_json::from_str(&row.usage).unwrap());
    add(serde_json::from_str(&row.meta).unwrap());
    add(serde_json::to_value(entries(&id, 1)).unwrap());
    add(serde_json::to_value(instance("a")).unwrap());
    for file in ["journal.jsonl", "manifest.json"] {
        let text = fs::read_to_string(dir.path().join(file)).unwrap();
        text.lines().for_each(|line| add(serde_json::from_str(line).unwrap()));
    }
    assert!(written.len() > 100);
    let missing = missing_from_the_document(&written);
    assert!(missing.is_empty(), "docs/format.md does not name {missing:?}");
}

/// What the commands print as JSON, and the sealed dataset.
#[test]
fn the_document_names_every_key_of_reports_and_events() {
    use sweroll::{
        domain::event::{EndpointStatus, Event, EventKind},
        tokens::{Counter, ScanSettings, Source, scan},
    };
    let dir = quick_dir();
    verify::run_with_reruns(dir.path());
    verify::seal(dir.path());
    let mut written = HashSet::new();
    let mut add = |value: Value| keys(&value, &["failed", "exit_reasons"], &mut written);
    add(serde_json::to_value(View::open(dir.path()).unwrap().summary()).unwrap());
    fs::write(dir.path().join("data/stranger"), "").unwrap();
    add(serde_json::to_value(verify::check(dir.path())).unwrap());
    for file in ["data/sealed.json", "data/trajectories-00000.index.jsonl"] {
        let text = fs::read_to_string(dir.path().join(file)).unwrap();
        text.lines().for_each(|line| add(serde_json::from_str(line).unwrap()));
    }
    let shard = Source::from(dir.path().join("data/trajectories-00000.jsonl.zst"));
    add(serde_json::to_value(scan(&[shard], &Counter::default(), &ScanSettings::default()).unwrap()).unwrap());
    let (id, failure) = (attempt("a@0.1"), Failure::new(Kind::Daemon, ""));
    let usage = Usage::default();
    let events = [
        EventKind::RunStarted { version: 1, run: String::new(), total: 1, outstanding: 1 },
        EventKind::AttemptStarted { id: id.clone() },
        EventKind::AgentStarted { id: id.clone(), setup_ms: 1 },
        EventKind::TurnDone { id: id.clone(), usage, cost_usd: 0.0, latency_ms: 1 },
        EventKind::AgentEnded { id: id.clone(), exit_reason: ExitReason::Submitted, patch_bytes: 1 },
        EventKind::GradeStarted { id: id.clone() },
        EventKind::Committed { id: id.clone(), outcome: resolved() },
        EventKind::Retrying { id, failure, delay_ms: 1 },
        EventKind::LimitChanged { in_flight: 1 },
        EventKind::Endpoints { endpoints: vec![EndpointStatus::default()] },
        EventKind::Draining { reason: String::new() },
        EventKind::RunEnded { committed: 1, outstanding: 0 },
    ];
    for kind in events {
        let event = serde_json::to_value(Event { at_ms: 1, kind }).unwrap();
        add(serde_json::json!({ event["event"].as_str().unwrap(): 1 }));
        add(event);
    }
    let missing = missing_from_the_document(&written);
    assert!(missing.is_empty(), "docs/format.md does not name {missing:?}");
}
