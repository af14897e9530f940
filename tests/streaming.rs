//! Runs with streamed replies: the same records as without, in any weather, and a stall is noticed.

mod common;

use common::{Endpoint, expect, records, summary, sweroll};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
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

/// What of a record follows from the seed: all of it, but for times, tries, and what was drawn by chance.
fn lasting(mut record: Value) -> Value {
    fn prune(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, _| {
                    let time = key.ends_with("_ms") || key.ends_with("_at") || key == "created" || key.contains("duration");
                    !time && !["tries", "trajectory_id", "run_id", "host", "engine", "run"].contains(&key.as_str())
                });
                map.values_mut().for_each(prune);
            }
            Value::Array(items) => items.iter_mut().for_each(prune),
            _ => {}
        }
    }
    let meta: Value = serde_json::from_str(record["meta"].as_str().unwrap()).unwrap();
    record["meta"] = meta;
    // What a test tells of the time it took is no matter of the model's.
    record["meta"]["grading"] = Value::Null;
    prune(&mut record);
    record
}

fn sorted(dir: &Path) -> Vec<Value> {
    let mut all: Vec<Value> = records(dir, "trajectories").into_iter().map(lasting).collect();
    all.sort_by_key(|record| (record["instance_id"].to_string(), record["sample"].as_u64()));
    all
}

#[test]
fn the_records_are_those_of_whole_replies() {
    let wander = ["--samples", "2", "--filter", "greet|total", "--set", "endpoint.timeouts.stall_s=0.5"];
    let hostile = ["--samples", "4", "--filter", "greet", "--set", "scheduler.concurrency=1"];
    let weather = ["stall-midway:0.1", "cut-midway:0.1", "error-in-stream:0.1", "truncated:0.05", "500:0.05", "reset:0.05"];
    let faults: Vec<&str> = weather.iter().flat_map(|fault| ["--fault", fault]).chain(["--reasoning"]).collect();
    for (script, faults, more) in [("wander", &faults[..], &wander[..]), ("hostile", &[], &hostile), ("gold", &["--reasoning"], &[])] {
        let temp = tempfile::tempdir().unwrap();
        let mut of = |stream: bool, faults: &[&str]| {
            let endpoint = Endpoint::start(&instances(), script, faults);
            let dir = temp.path().join(stream.to_string());
            expect(&mut run(&endpoint, &dir, stream, more), 0);
            let stat = endpoint.stat();
            assert_eq!(stat["violation_count"], json!(0), "{stat:#}");
            (sorted(&dir), stat)
        };
        let (whole, _) = of(false, if script == "wander" { &["--reasoning"] } else { faults });
        let (streamed, stat) = of(true, faults);
        assert_eq!(whole.len(), streamed.len());
        for (whole, streamed) in whole.iter().zip(&streamed) {
            assert_eq!(whole, streamed, "{script}");
        }
        if script == "wander" {
            let met = |kind: &str| stat["faults"][kind].as_u64().unwrap_or(0);
            assert!(met("stall-midway") > 0 && met("cut-midway") > 0 && met("error-in-stream") > 0, "{stat:#}");
        }
    }
}

#[test]
fn a_stall_is_noticed_though_keep_alives_come() {
    let endpoint = Endpoint::start(&instances(), "gold", &["--fault", "stall-midway:1", "--piece-ms", "1"]);
    let temp = tempfile::tempdir().unwrap();
    let quick = ["--filter", "greet", "--set", "endpoint.timeouts.stall_s=0.3", "--set", "endpoint.retry.tries=2"];
    // The server would hold the connection for ten minutes.
    let output = run(&endpoint, temp.path(), true, &quick).output().unwrap();
    let shown = format!("{}{}{}", common::stderr(&output), common::stdout(&output), summary(temp.path()));
    let attempts = records(temp.path(), "").iter().map(Value::to_string).collect::<String>();
    assert!(format!("{shown}{attempts}").contains("stall_s"), "{shown}\n{attempts}");
    assert_eq!(records(temp.path(), "trajectories").len(), 0, "half a reply is none");
}
