//! The main job on real instances: real packages, real bugs, Docker.

mod common;

use common::{Endpoint, containers, expect, realset, records, stdout, summary, sweroll};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

fn run(instances: &Path, endpoint: &Endpoint, dir: &Path, scaffold: &str) -> Command {
    run_on("docker", instances, endpoint, dir, scaffold)
}

fn run_on(backend: &str, instances: &Path, endpoint: &Endpoint, dir: &Path, scaffold: &str) -> Command {
    let mut command = sweroll();
    command.arg("run").arg("--instances").arg(instances).arg("--out").arg(dir);
    command.args([
        "--endpoint",
        &endpoint.url,
        "--model",
        "scripted",
        "--scaffold",
        scaffold,
        "--concurrency",
        "4",
        "--quiet",
        "--sandbox",
        backend,
    ]);
    command
}

fn count(instances: &Path) -> u64 {
    std::fs::read_to_string(instances).unwrap().lines().count() as u64
}

/// Statuses of every test of every episode.
fn statuses(dir: &Path) -> BTreeMap<String, BTreeMap<String, Value>> {
    let statuses = |record: Value| {
        let meta: Value = serde_json::from_str(record["meta"].as_str().unwrap()).unwrap();
        let tests = meta["grade"]["tests"].as_object().unwrap().iter();
        (record["instance_id"].as_str().unwrap().to_owned(), tests.map(|(id, test)| (id.clone(), test["status"].clone())).collect())
    };
    records(dir, "trajectories").into_iter().map(statuses).collect()
}

#[test]
fn gold_resolves_every_instance_alike_on_both_scaffolds_and_backends() {
    let Some(instances) = realset() else { return };
    let total = count(&instances);
    let endpoint = Endpoint::start(&instances, "gold", &[]);
    let temp = tempfile::tempdir().unwrap();
    let mut verdicts = Vec::new();
    let images = temp.path().join("images");
    for (name, scaffold, backend) in [("a", "scale-swe", "docker"), ("b", "sweroll", "docker"), ("c", "scale-swe", "native")] {
        let dir = temp.path().join(name);
        let mut run = run_on(backend, &instances, &endpoint, &dir, scaffold);
        // The native run finds its images at the Docker daemon.
        expect(run.args(["--set", &format!("images.dir={}", images.display())]), 0);
        let summary = summary(&dir);
        assert_eq!(summary["resolved"], json!(total), "{summary:#}");
        assert_eq!(summary["episodes"], json!({ "total": total, "committed": total, "outstanding": 0, "quarantined": 0, "waived": 0 }));
        assert_eq!(containers(summary["run"].as_str().unwrap()), 0);
        verdicts.push(statuses(&dir));
    }
    assert!(verdicts[0].values().all(|tests| tests.values().all(|s| s == "passed")));
    assert_eq!(verdicts[0], verdicts[1]);
    assert_eq!(verdicts[0], verdicts[2]);
    assert_eq!(endpoint.stat()["violation_count"], json!(0), "{:#}", endpoint.stat());
}

#[test]
fn noop_resolves_none_and_costs_no_grading_sandbox() {
    let Some(instances) = realset() else { return };
    let endpoint = Endpoint::start(&instances, "noop", &[]);
    let temp = tempfile::tempdir().unwrap();
    expect(&mut run(&instances, &endpoint, temp.path(), "scale-swe"), 0);
    let summary = summary(temp.path());
    assert_eq!((&summary["resolved"], &summary["unresolved"]), (&json!(0), &json!(count(&instances))), "{summary:#}");
}

/// Killed at random moments and resumed each time: in the end every episode is there once, and nothing else is left.
#[test]
fn kill_9_at_random_moments_loses_nothing() {
    let Some(instances) = realset() else { return };
    let endpoint = Endpoint::start(&instances, "wander", &["--latency-ms", "30"]);
    let temp = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = run(&instances, &endpoint, temp.path(), "scale-swe");
        command.args(["--samples", "3", "--filter", "tomli|slugify|cachetools|xmltodict"]);
        command
    };
    // A fixed sequence: the moments are spread over set-up, turns, grading and commits.
    for tenth in [3, 11, 19, 7, 27, 14, 22, 5, 31, 17] {
        let mut child = start().spawn().unwrap();
        std::thread::sleep(Duration::from_millis(tenth * 100));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    expect(&mut start(), 0);
    let summary = summary(temp.path());
    assert_eq!(summary["episodes"], json!({ "total": 12, "committed": 12, "outstanding": 0, "quarantined": 0, "waived": 0 }));
    let rows = records(temp.path(), "trajectories");
    let episodes: BTreeMap<String, u64> = rows.iter().fold(BTreeMap::new(), |mut seen, row| {
        *seen.entry(format!("{}@{}", row["instance_id"].as_str().unwrap(), row["sample"])).or_default() += 1;
        seen
    });
    assert_eq!(episodes.len(), 12);
    assert!(episodes.values().all(|n| *n == 1), "{episodes:?}");
    // Every paid reply is in a record: the endpoint's count of replies is no more than what the shards hold plus what was
    // in flight when the engine died (at most one an agent and kill).
    let kept: u64 = rows.iter().chain(&records(temp.path(), "attempts")).map(|row| row["num_turns"].as_u64().unwrap()).sum();
    let paid = endpoint.stat()["requests"].as_u64().unwrap();
    assert!(kept <= paid && paid <= kept + 10 * 4, "{paid} replies paid, {kept} kept");
    assert_eq!(containers(summary["run"].as_str().unwrap()), 0);
    assert_eq!(std::fs::read_dir(temp.path().join("spool")).unwrap().count(), 0);
}

#[test]
fn a_container_killed_from_outside_costs_one_attempt() {
    let Some(instances) = realset() else { return };
    let endpoint = Endpoint::start(&instances, "wander", &["--latency-ms", "1000"]);
    let temp = tempfile::tempdir().unwrap();
    let child = run(&instances, &endpoint, temp.path(), "scale-swe").args(["--filter", "tomli"]).spawn().unwrap();
    // Other tests have episodes of the same name at work: this run's container alone.
    let victim = (0..200).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        let info = std::fs::read_to_string(temp.path().join("run.toml")).ok()?;
        let name = info.lines().find_map(|line| line.strip_prefix("run = "))?.trim_matches('"');
        let run = format!("label=sweroll.run={name}");
        let out = Command::new("docker").args(["ps", "-q", "--filter", "label=sweroll.purpose=agent", "--filter", &run]).output().unwrap();
        stdout(&out).lines().next().map(str::to_owned)
    });
    // Let a turn or two happen: what they cost must be kept.
    std::thread::sleep(Duration::from_millis(1500));
    Command::new("docker").args(["kill", &victim.expect("a container was started")]).output().unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    let summary = summary(temp.path());
    assert_eq!((&summary["attempts"], &summary["episodes"]["committed"]), (&json!(2), &json!(1)), "{summary:#}");
    let lost = &records(temp.path(), "attempts")[0];
    let meta: Value = serde_json::from_str(lost["meta"].as_str().unwrap()).unwrap();
    assert_eq!(meta["failure"]["kind"], "sandbox_lost");
    assert!(lost["num_turns"].as_u64().unwrap() > 0);
}
