//! Bad input and bad weather on the local sandbox: each a clear message, the right class, nothing lost.

mod common;

use common::{Endpoint, expect, records, stderr, stdout, summary, sweroll};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// The demo's instances: one resolves, one adds a file, one has a wrong golden patch, one fails in its set-up, one hangs in its tests.
fn instances() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/demo.jsonl")
}

fn run(endpoint: &str, dir: &Path, more: &[&str]) -> Command {
    let mut command = sweroll();
    command.arg("run").arg("--instances").arg(instances()).arg("--out").arg(dir);
    command.args(["--endpoint", endpoint, "--model", "scripted", "--sandbox", "local", "--quiet"]);
    command.args(["--set", "grading.tests_timeout_s=3", "--set", "scheduler.retry_base_ms=10"]).args(more);
    command
}

/// `failed` of a summary, without the classes that have none.
fn failed(summary: &Value) -> Value {
    let failed = summary["failed"].as_object().unwrap().iter().filter(|(_, n)| **n != json!(0));
    Value::Object(failed.map(|(class, n)| (class.clone(), n.clone())).collect())
}

#[test]
fn each_outcome_is_told_apart() {
    let endpoint = Endpoint::start(&instances(), "gold", &[]);
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    let output = expect(&mut run(&endpoint.url, &dir, &["--samples", "2"]), 0);
    assert!(stdout(&output).contains("next: sweroll tokens"), "{}", stdout(&output));
    let summary = summary(&dir);
    assert_eq!(summary["episodes"]["committed"], json!(10));
    assert_eq!((&summary["resolved"], &summary["unresolved"]), (&json!(4), &json!(2)), "{summary:#}");
    assert_eq!(failed(&summary), json!({ "task": 2, "grader": 2 }));
    // What the model ended is for training, with or without a grade; what the instance failed is not.
    assert_eq!((records(&dir, "trajectories").len(), records(&dir, "attempts").len()), (8, 2));
    assert_eq!(endpoint.stat()["violation_count"], json!(0));

    // Reruns add and never delete, and the class chooses.
    let listed = expect(sweroll().arg("rerun").arg(&dir).args(["--class", "task", "--dry-run"]), 0);
    assert_eq!(stdout(&listed), "demo_setup@0\ndemo_setup@1\n");
    expect(sweroll().arg("rerun").arg(&dir).args(["--class", "task", "--quiet"]), 0);
    let again = common::summary(&dir);
    assert_eq!(again["attempts"].as_u64().unwrap(), summary["attempts"].as_u64().unwrap() + 2);
    assert_eq!((&again["episodes"]["committed"], failed(&again)), (&json!(10), json!({ "task": 2, "grader": 2 })));

    let shown = stdout(&expect(sweroll().arg("show").arg(&dir).arg("demo_greet@0"), 0));
    assert!(shown.contains("--- system") && shown.contains("greet.sh ignores its argument") && shown.contains("--- resolved"), "{shown}");
    let tokens: Value = serde_json::from_slice(&expect(sweroll().arg("tokens").arg(&dir).args(["--format", "json"]), 0).stdout).unwrap();
    assert_eq!(tokens["target"], "qwen3-instruct-2507");
    assert_eq!(tokens["total"]["trajectories"], json!(8));
    let on_record: i64 = records(&dir, "trajectories").iter().map(|r| r["num_tokens"].as_i64().unwrap()).sum();
    assert_eq!(tokens["total"]["tokens"].as_i64(), Some(on_record));
    let roles = tokens["total"]["by_role"].as_object().unwrap();
    assert_eq!(roles.values().map(|n| n.as_i64().unwrap()).sum::<i64>(), on_record);
}

#[test]
fn every_record_has_every_key_and_no_null() {
    let endpoint = Endpoint::start(&instances(), "gold", &["--reasoning"]);
    let temp = tempfile::tempdir().unwrap();
    expect(&mut run(&endpoint.url, temp.path(), &[]), 0);
    let keys = [
        "schema_version",
        "trajectory_id",
        "instance_id",
        "repo",
        "base_commit",
        "sample",
        "attempt",
        "model",
        "scaffold",
        "messages",
        "tools",
        "model_patch",
        "resolved",
        "reward",
        "exit_reason",
        "num_turns",
        "num_tokens",
        "num_loss_tokens",
        "cost_usd",
        "suspect",
        "usage",
        "meta",
    ];
    for record in records(temp.path(), "").iter() {
        assert_eq!(record.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
        for message in record["messages"].as_array().unwrap() {
            let names: Vec<_> = message.as_object().unwrap().keys().collect();
            assert_eq!(names, ["role", "content", "reasoning_content", "tool_calls", "tool_call_id", "loss"]);
            assert!(!message.to_string().contains(":null"), "{message}");
        }
        let calls = |m: &Value| m["tool_calls"].as_array().unwrap().iter().map(|c| c["id"].clone()).collect::<Vec<_>>();
        let made: Vec<Value> = record["messages"].as_array().unwrap().iter().flat_map(calls).collect();
        let answered: Vec<Value> =
            record["messages"].as_array().unwrap().iter().filter(|m| m["role"] == "tool").map(|m| m["tool_call_id"].clone()).collect();
        assert_eq!(made, answered, "every call has its answer, in order");
        for column in ["suspect", "usage", "meta"] {
            serde_json::from_str::<Value>(record[column].as_str().unwrap()).unwrap();
        }
    }
}

#[test]
fn a_storm_of_faults_ends_no_episode() {
    let faults = ["--fault", "429:0.15", "--fault", "500:0.1", "--fault", "503:0.05", "--fault", "reset:0.1", "--fault", "truncated:0.1"];
    let endpoint = Endpoint::start(&instances(), "wander", &faults);
    let temp = tempfile::tempdir().unwrap();
    let quick =
        ["--set", "endpoint.retry.base_s=0.01", "--set", "endpoint.limits.cool_down_s=0.05", "--set", "endpoint.limits.pause_cap_s=0.05"];
    expect(run(&endpoint.url, temp.path(), &["--samples", "4", "--filter", "greet|total"]).args(quick), 0);
    let summary = summary(temp.path());
    assert_eq!((&summary["episodes"]["committed"], &summary["attempts"]), (&json!(8), &json!(8)), "{summary:#}");
    assert_eq!(endpoint.stat()["violation_count"], json!(0));
}

#[test]
fn hostile_replies_are_survived_and_recorded() {
    for format in ["native", "inline"] {
        let endpoint = Endpoint::start(&instances(), "hostile", &[]);
        let temp = tempfile::tempdir().unwrap();
        expect(&mut run(&endpoint.url, temp.path(), &["--samples", "3", "--filter", "greet", "--call-format", format]), 0);
        let summary = summary(temp.path());
        assert_eq!(summary["episodes"]["committed"], json!(3), "{summary:#}");
        assert_eq!(endpoint.stat()["violation_count"], json!(0), "{:#}", endpoint.stat());
    }
}

#[test]
fn a_reply_cut_by_length_is_never_executed() {
    let endpoint = Endpoint::start(&instances(), "gold", &["--fault", "length:1.0"]);
    let temp = tempfile::tempdir().unwrap();
    expect(&mut run(&endpoint.url, temp.path(), &["--filter", "greet"]), 0);
    let record = &records(temp.path(), "trajectories")[0];
    assert_eq!((record["exit_reason"].as_str(), record["model_patch"].as_str()), (Some("length_cut"), Some("")));
}

#[test]
fn context_overflow_is_an_exit_reason_and_its_diff_is_graded() {
    let endpoint = Endpoint::start(&instances(), "wander", &["--max-context", "3500", "--wander-turns", "60"]);
    let temp = tempfile::tempdir().unwrap();
    expect(&mut run(&endpoint.url, temp.path(), &["--filter", "greet"]), 0);
    let record = &records(temp.path(), "trajectories")[0];
    assert_eq!(record["exit_reason"], "context_overflow");
    assert_ne!(record["resolved"], json!(-1), "it has a verdict");
    assert!(record["num_turns"].as_u64().unwrap() > 1);
}

#[test]
fn a_diff_over_the_limit_is_the_models_failure() {
    let endpoint = Endpoint::start(&instances(), "gold", &[]);
    let temp = tempfile::tempdir().unwrap();
    expect(&mut run(&endpoint.url, temp.path(), &["--filter", "greet", "--set", "grading.diff_max_bytes=10"]), 0);
    let summary = summary(temp.path());
    assert_eq!((&summary["unresolved"], failed(&summary)), (&json!(0), json!({ "model": 1 })));
}

#[test]
fn an_endpoint_that_only_fails_is_an_endpoint_failure() {
    let endpoint = Endpoint::start(&instances(), "gold", &["--fault", "500:1.0"]);
    let temp = tempfile::tempdir().unwrap();
    // After five faults in a row the endpoint is ill: then no tries count, but time.
    let bounds = ["endpoint.retry.tries=2", "endpoint.retry.base_s=0.01", "endpoint.retry.max_elapsed_s=1"];
    let quick: Vec<&str> = bounds.iter().flat_map(|bound| ["--set", bound]).chain(["--filter", "greet"]).collect();
    expect(&mut run(&endpoint.url, temp.path(), &quick), 0);
    let summary = summary(temp.path());
    assert_eq!((failed(&summary), &summary["attempts"]), (json!({ "endpoint": 1 }), &json!(3)), "{summary:#}");
    // Mended, the rerun takes it.
    let good = Endpoint::start(&instances(), "gold", &[]);
    expect(sweroll().arg("rerun").arg(temp.path()).args(["--class", "endpoint", "--endpoint", &good.url, "--quiet"]), 0);
    assert_eq!(common::summary(temp.path())["resolved"], json!(1));
}

#[test]
fn a_sandbox_that_does_not_start_is_infrastructure() {
    let endpoint = Endpoint::start(&instances(), "gold", &[]);
    let temp = tempfile::tempdir().unwrap();
    let broken = ["--filter", "greet", "--set", "sandbox.local.toolbox_path='/bin/false'", "--set", "sandbox.limits.start_timeout_s=5"];
    expect(&mut run(&endpoint.url, temp.path(), &broken), 0);
    let summary = summary(temp.path());
    assert_eq!((failed(&summary), &summary["attempts"]), (json!({ "infra": 1 }), &json!(3)), "{summary:#}");
    assert_eq!(records(temp.path(), "trajectories").len(), 0, "infrastructure failures are never training data");
}

#[test]
fn a_wrong_key_or_model_stops_the_run_before_it_costs() {
    let endpoint = Endpoint::start(&instances(), "gold", &["--serve-key", "right", "--serve-model", "served"]);
    let temp = tempfile::tempdir().unwrap();
    let wrong_key = expect(run(&endpoint.url, &temp.path().join("a"), &[]).env("SWEROLL_API_KEY", "wrong-secret"), 2);
    assert!(stderr(&wrong_key).contains("SWEROLL_API_KEY") && !stderr(&wrong_key).contains("wrong-secret"), "{}", stderr(&wrong_key));
    let wrong_model = expect(run(&endpoint.url, &temp.path().join("b"), &[]).env("SWEROLL_API_KEY", "right"), 2);
    assert!(stderr(&wrong_model).contains("scripted"), "{}", stderr(&wrong_model));
    let right = ["--model", "served", "--filter", "greet"];
    let mut command = run(&endpoint.url, &temp.path().join("c"), &right[2..]);
    command.env("SWEROLL_API_KEY", "right");
    let mut args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let at = args.iter().position(|a| a == "scripted").unwrap();
    args[at] = "served".into();
    expect(sweroll().args(args).env("SWEROLL_API_KEY", "right"), 0);
    // The key is in no file of the run.
    let grep = Command::new("grep").args(["-r", "-l", "-F", "wrong-secret"]).arg(temp.path()).output().unwrap();
    assert_eq!(stdout(&grep), "");
}

#[test]
fn bad_rows_are_named_before_anything_starts() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("bad.jsonl");
    let good = fs::read_to_string(instances()).unwrap();
    let first = good.lines().next().unwrap();
    let null = first.replace("\"workdir\": \"/repo\"", "\"workdir\": null").replace("demo_greet", "demo_null");
    fs::write(&file, format!("{first}\n{{\"instance_id\": 3\n{null}\n{first}\n")).unwrap();
    let mut command = run("http://127.0.0.1:9/v1", &temp.path().join("run"), &[]);
    let args: Vec<_> = command.get_args().map(|a| if a == instances().as_os_str() { file.clone().into() } else { a.to_owned() }).collect();
    command = sweroll();
    let output = expect(command.args(&args), 2);
    let text = stderr(&output);
    for part in ["bad.jsonl", "line 2", "line 3", "workdir", "line 4", "demo_greet", "--skip-bad"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!temp.path().join("run").exists(), "nothing was begun");
    let dry = expect(sweroll().args(&args).args(["--skip-bad", "--dry-run"]), 0);
    assert!(stdout(&dry).contains("1 instances, 1 episodes, 3 bad rows left out"), "{}", stdout(&dry));
}

#[test]
fn other_settings_are_refused_and_shown() {
    let endpoint = Endpoint::start(&instances(), "gold", &[]);
    let temp = tempfile::tempdir().unwrap();
    expect(&mut run(&endpoint.url, temp.path(), &["--filter", "greet"]), 0);
    let same = expect(&mut run("http://127.0.0.1:9/v1", temp.path(), &["--filter", "greet", "--max-turns", "7"]), 2);
    assert!(stderr(&same).contains("agent.turns") && stderr(&same).contains("100") && stderr(&same).contains('7'), "{}", stderr(&same));
    // Speed and place may differ.
    expect(&mut run(&endpoint.url, temp.path(), &["--filter", "greet", "--concurrency", "2"]), 0);
}

#[test]
fn a_run_has_one_writer() {
    let endpoint = Endpoint::start(&instances(), "wander", &["--latency-ms", "500"]);
    let temp = tempfile::tempdir().unwrap();
    let mut first = run(&endpoint.url, temp.path(), &["--filter", "greet"]).stdout(Stdio::null()).spawn().unwrap();
    while !temp.path().join("run.toml").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = expect(&mut run(&endpoint.url, temp.path(), &["--filter", "greet"]), 2);
    assert!(stderr(&second).contains(&first.id().to_string()), "{}", stderr(&second));
    // Others may look while it runs.
    assert_eq!(summary(temp.path())["episodes"]["total"], json!(1));
    assert!(first.wait().unwrap().success());
}

#[test]
fn ctrl_c_drains_and_a_second_one_kills_and_both_resume() {
    let endpoint = Endpoint::start(&instances(), "wander", &["--latency-ms", "150"]);
    let temp = tempfile::tempdir().unwrap();
    let begin = || run(&endpoint.url, temp.path(), &["--filter", "greet", "--samples", "6", "--concurrency", "2"]);
    let interrupt = |child: &std::process::Child| {
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    };
    let started = |n: u64| {
        while !fs::read_to_string(temp.path().join("journal.jsonl")).is_ok_and(|j| j.matches("\"started\"").count() as u64 >= n) {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut child = begin().stdout(Stdio::null()).spawn().unwrap();
    started(1);
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let drained = summary(temp.path());
    let committed = drained["episodes"]["committed"].as_u64().unwrap();
    assert!((1..=2).contains(&committed), "what was at work was finished, nothing else begun: {drained:#}");
    assert_eq!(drained["attempts"], json!(committed));

    let mut child = begin().stdout(Stdio::null()).spawn().unwrap();
    started(committed + 1);
    std::thread::sleep(Duration::from_millis(400));
    interrupt(&child);
    std::thread::sleep(Duration::from_millis(100));
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));

    expect(&mut begin(), 0);
    let done = summary(temp.path());
    assert_eq!(done["episodes"], json!({ "total": 6, "committed": 6, "outstanding": 0, "quarantined": 0, "waived": 0 }));
    let kept: u64 = records(temp.path(), "").iter().map(|r| r["num_turns"].as_u64().unwrap()).sum();
    let paid = endpoint.stat()["requests"].as_u64().unwrap();
    assert!(kept <= paid && paid <= kept + 2, "{paid} replies paid, {kept} kept");
}

#[test]
fn an_unwritable_directory_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    fs::write(&file, "").unwrap();
    let output = run("http://127.0.0.1:9/v1", &file.join("run"), &[]).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("file"), "{}", stderr(&output));
    let foreign = temp.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "x").unwrap();
    expect(&mut run("http://127.0.0.1:9/v1", &foreign, &[]), 2);
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1, "somebody's directory is left as it was");
}

#[test]
fn an_endpoint_that_is_gone_for_a_while_ends_no_episode() {
    let first = Endpoint::start(&instances(), "wander", &["--latency-ms", "100"]);
    let address = first.url.trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let temp = tempfile::tempdir().unwrap();
    let quick = ["--filter", "greet", "--set", "endpoint.retry.cap_s=0.5"];
    let mut child = run(&first.url, temp.path(), &quick).stdout(Stdio::null()).spawn().unwrap();
    while first.stat()["requests"].as_u64().unwrap_or(0) < 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(first);
    std::thread::sleep(Duration::from_secs(2));
    let _second = Endpoint::start(&instances(), "wander", &["--latency-ms", "10", "--listen", &address]);
    assert!(child.wait().unwrap().success());
    assert_eq!(summary(temp.path())["attempts"], json!(1));
}

/// The wall clock of an episode stands still while the endpoint refuses: a storm longer than the limit ends nothing.
#[test]
fn a_storm_longer_than_the_wall_limit_ends_no_episode() {
    let storm = Endpoint::start(&instances(), "gold", &["--fault", "429:1.0"]);
    let address = storm.url.trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let temp = tempfile::tempdir().unwrap();
    let quick = [
        "--filter",
        "greet",
        "--set",
        "agent.wall_time_s=2",
        "--set",
        "endpoint.retry.cap_s=0.3",
        "--set",
        "endpoint.retry.max_elapsed_s=2",
    ];
    let mut child = run(&storm.url, temp.path(), &quick).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    assert!(storm.stat()["replies"]["429"].as_u64().unwrap() > 3);
    drop(storm);
    let _calm = Endpoint::start(&instances(), "gold", &["--listen", &address]);
    assert!(child.wait().unwrap().success());
    let summary = summary(temp.path());
    assert_eq!((&summary["resolved"], &summary["attempts"]), (&json!(1), &json!(1)), "{summary:#}");
}

#[test]
fn a_run_needs_its_dataset_file_no_more_once_it_is_made() {
    let endpoint = Endpoint::start(&instances(), "gold", &[]);
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("moved.jsonl");
    fs::copy(instances(), &file).unwrap();
    let dir = temp.path().join("run");
    let with_file = || {
        let command = run(&endpoint.url, &dir, &["--filter", "greet"]);
        let args: Vec<_> =
            command.get_args().map(|a| if a == instances().as_os_str() { file.clone().into() } else { a.to_owned() }).collect();
        let mut command = sweroll();
        command.args(args);
        command
    };
    expect(&mut with_file(), 0);
    fs::remove_file(&file).unwrap();
    expect(&mut with_file(), 0);
    fs::write(&file, fs::read_to_string(instances()).unwrap().replace("ignores its argument", "is deaf")).unwrap();
    assert!(stderr(&expect(&mut with_file(), 2)).contains("dataset"), "another dataset is another run");
}

#[test]
fn no_secret_reaches_the_run_directory() {
    let endpoint = Endpoint::start(&instances(), "gold", &[]);
    let temp = tempfile::tempdir().unwrap();
    let url = format!("{}?api-key=QUERYSECRET", endpoint.url);
    // Whether the endpoint takes such an address is its own matter; what it carries must not be written down.
    let _ = run(&url, &temp.path().join("a"), &["--filter", "greet"]).output().unwrap();
    expect(&mut run("http://user:hunter2@127.0.0.1:9/v1", &temp.path().join("b"), &[]), 2);
    for header in ["Authorization", "X-Api-Key", "Cookie"] {
        let set = format!("endpoint.headers={{{header} = \"HEADERSECRET\"}}");
        expect(&mut run(&endpoint.url, &temp.path().join("c"), &["--set", &set]), 2);
    }
    for secret in ["QUERYSECRET", "hunter2", "HEADERSECRET"] {
        let grep = Command::new("grep").args(["-r", "-l", "-F", secret]).arg(temp.path()).output().unwrap();
        assert_eq!(stdout(&grep), "", "{secret}");
    }
}
