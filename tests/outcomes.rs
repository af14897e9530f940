//! One tiny run for each class of failure (and each way without one), with the golden summary of each.
//!
//! Class `bug` is a panic of sweroll itself: `tests/driver.rs` has it.

mod common;

use common::{Endpoint, records, summary, sweroll};
use serde_json::{Map, Value, json};
use std::path::Path;

/// What is run, what the endpoint plays, and the settings that bring the outcome about.
const CASES: [(&str, &str, &[&str], &[&str]); 9] = [
    ("resolved", "gold", &[], &["--filter", "greet"]),
    ("unresolved", "gold", &[], &["--filter", "upper"]),
    ("nothing changed", "noop", &[], &["--filter", "greet"]),
    (
        "endpoint",
        "gold",
        &["--fault", "500:1.0"],
        &["--filter", "greet", "--set", "endpoint.retry.base_s=0.01", "--set", "endpoint.retry.max_elapsed_s=1"],
    ),
    (
        "infra",
        "gold",
        &[],
        &["--filter", "greet", "--set", "sandbox.local.toolbox_path='/bin/false'", "--set", "sandbox.limits.start_timeout_s=5"],
    ),
    ("model", "gold", &[], &["--filter", "greet", "--set", "grading.diff_max_bytes=10"]),
    ("task", "gold", &[], &["--filter", "setup", "--samples", "2", "--concurrency", "1"]),
    ("grader", "gold", &[], &["--filter", "hang"]),
    ("run", "gold", &["--serve-model", "another"], &["--filter", "greet"]),
];

#[test]
fn each_class_has_its_golden_summary() {
    let instances = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/demo.jsonl");
    let mut golden = Map::new();
    for (name, script, faults, settings) in CASES {
        let endpoint = Endpoint::start(&instances, script, faults);
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("run");
        let mut run = sweroll();
        run.arg("run").arg("--instances").arg(&instances).arg("--out").arg(&dir).args(["--endpoint", &endpoint.url, "--model", "scripted"]);
        run.args(["--sandbox", "local", "--quiet", "--set", "grading.tests_timeout_s=2", "--set", "scheduler.retry_base_ms=1"])
            .args(settings);
        let output = run.output().unwrap();
        let mut seen = json!({ "exit": output.status.code() });
        if dir.join("run.toml").exists() {
            let summary = summary(&dir);
            for key in ["episodes", "resolved", "unresolved", "failed", "exit_reasons", "attempts", "turns"] {
                seen[key] = summary[key].clone();
            }
            seen["failed"].as_object_mut().unwrap().retain(|_, n| *n != 0);
            let kinds = |stream| records(&dir, stream).iter().map(kind).collect::<Vec<Value>>();
            seen["trajectories"] = json!(kinds("trajectories"));
            seen["attempts beside them"] = json!(kinds("attempts"));
        }
        golden.insert(name.to_owned(), seen);
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&golden).unwrap());
}

/// The failure of a record by its kind, or its verdict.
fn kind(record: &Value) -> Value {
    let meta: Value = serde_json::from_str(record["meta"].as_str().unwrap()).unwrap();
    match &meta["failure"]["kind"] {
        Value::Null => record["resolved"].clone(),
        kind => kind.clone(),
    }
}
