//! What bounds a whole run, black box in local sandboxes: budgets, samples until one is resolved, failures that do not stop it.

mod common;

use common::{Endpoint, expect, stderr, stdout, summary, sweroll};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn instances() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/demo.jsonl")
}

fn run(endpoint: &Endpoint, out: &Path, more: &[&str]) -> Command {
    let mut command = sweroll();
    command.arg("run").arg("--instances").arg(instances()).arg("--out").arg(out).args(["--endpoint", &endpoint.url]);
    command.args(["--model", "scripted", "--sandbox", "local", "--quiet", "--no-seal", "--filter", "greet"]).args(more);
    command
}

#[test]
fn samples_of_a_resolved_instance_are_waived_until_they_are_wanted_again() {
    let endpoint = Endpoint::start(&instances(), "gold", &[]);
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let text = stdout(&expect(&mut run(&endpoint, &out, &["--samples", "5", "--concurrency", "1", "--until-resolved", "2"]), 0));
    let first = summary(&out);
    // One is graded and two wait for it before no other begins: up to four may have begun when two are resolved.
    let waived = first["episodes"]["waived"].as_u64().unwrap();
    assert!((1..=3).contains(&waived), "{first:#}");
    assert_eq!((first["resolved"].as_u64(), first["episodes"]["outstanding"].as_u64()), (Some(5 - waived), Some(0)), "{first:#}");
    assert!(text.contains("waived"), "{text}");
    // A resume by the same settings has nothing to do, and one that wants them all does the rest.
    expect(&mut run(&endpoint, &out, &["--samples", "5", "--until-resolved", "2"]), 0);
    assert_eq!(summary(&out)["episodes"], first["episodes"]);
    expect(&mut run(&endpoint, &out, &["--samples", "5"]), 0);
    let last = summary(&out);
    assert_eq!((last["resolved"].as_u64(), last["episodes"]["waived"].as_u64()), (Some(5), Some(0)), "{last:#}");
}

#[test]
fn a_budget_is_kept_in_all_openings_of_a_run() {
    let endpoint = Endpoint::start(&instances(), "wander", &["--wander-turns", "6"]);
    let temp = tempfile::tempdir().unwrap();
    let spent = |out: &Path| {
        let usage = &summary(out)["usage"];
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    };
    let free = temp.path().join("free");
    expect(&mut run(&endpoint, &free, &["--samples", "1"]), 0);
    let episode = spent(&free);

    // Two and a half episodes: the third is not begun.
    let out = temp.path().join("run");
    let budget = episode * 5 / 2;
    let bounded = |budget: u64, code| {
        let budget = budget.to_string();
        expect(&mut run(&endpoint, &out, &["--samples", "4", "--concurrency", "1", "--budget-tokens", &budget]), code)
    };
    let output = bounded(budget, 3);
    let text = stderr(&output);
    assert!(text.contains("the budget is spent") && stdout(&output).contains(&format!("of {budget} tokens")), "{text}");
    let paid = spent(&out);
    assert!(paid <= budget + episode / 6, "{paid} of {budget}");
    let outstanding = summary(&out)["episodes"]["outstanding"].as_u64().unwrap();
    assert_eq!(outstanding, 2, "those at work were finished, no other was begun");
    // What was spent before counts.
    bounded(budget, 3);
    assert_eq!(spent(&out), paid);
    bounded(episode * 10, 0);
    assert_eq!(summary(&out)["episodes"]["outstanding"], 0);

    // Less than an episode: it is stopped in the middle, is no training data, and stays outstanding.
    let small = temp.path().join("small");
    let budget = episode / 2;
    expect(&mut run(&endpoint, &small, &["--budget-tokens", &budget.to_string()]), 3);
    let left = summary(&small);
    assert!(spent(&small) <= budget + episode / 6 && spent(&small) > 0, "{left:#}");
    assert_eq!((&left["episodes"]["outstanding"], &left["shards"]), (&1.into(), &serde_json::json!([])), "{left:#}");

    // Many at once: four show what one costs, and no more are begun than are finished.
    let wide = temp.path().join("wide");
    let budget = episode * 13 / 2;
    let output = expect(&mut run(&endpoint, &wide, &["--samples", "16", "--concurrency", "16", "--budget-tokens", &budget.to_string()]), 3);
    assert!(spent(&wide) <= budget + 4 * episode / 6, "{}", stdout(&output));
    let episodes = &summary(&wide)["episodes"];
    assert!((4..=6).contains(&episodes["committed"].as_u64().unwrap()), "{episodes:#}");

    let unpriced = expect(&mut run(&endpoint, &temp.path().join("none"), &["--budget-usd", "1"]), 2);
    assert!(stderr(&unpriced).contains("endpoint.prices"), "{}", stderr(&unpriced));
}

#[test]
fn keep_going_begins_the_other_samples_of_a_broken_instance() {
    let endpoint = Endpoint::start(&instances(), "gold", &[]);
    let temp = tempfile::tempdir().unwrap();
    let attempts = |name: &str, more: &[&str]| {
        let out = temp.path().join(name);
        let fixed = ["--samples", "4", "--concurrency", "1", "--filter", "setup"];
        let mut command = sweroll();
        command.arg("run").arg("--instances").arg(instances()).arg("--out").arg(&out).args(["--endpoint", &endpoint.url]);
        command.args(["--model", "scripted", "--sandbox", "local", "--quiet", "--no-seal"]).args(fixed).args(more);
        expect(&mut command, 0);
        let journal = std::fs::read_to_string(out.join("journal.jsonl")).unwrap();
        (journal.lines().filter(|line| line.starts_with("{\"started\"")).count(), journal.contains("\"quarantined\""))
    };
    assert_eq!(attempts("stopped", &[]), (1, true));
    assert_eq!(attempts("kept", &["--keep-going"]), (4, false));
}
