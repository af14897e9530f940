//! What is promised of the limits: simulated in virtual time, and once for real with two processes on one key.

mod common;

use common::{Endpoint, expect, summary, sweroll};
use serde_json::json;
use std::path::{Path, PathBuf};
use sweroll::bench::limits::{self, Row};

#[track_caller]
fn hold(rows: &[Row]) {
    let broken: Vec<_> = rows.iter().filter(|row| row.holds == Some(false)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(rows.iter().any(|row| row.holds == Some(true)), "nothing was promised");
}

#[test]
fn a_limit_is_kept_full_with_few_refusals() {
    let rows = limits::limited(1, &[60, 600]);
    hold(&rows);
    // A limit that is not told, or a limiter that does nothing, would be over it.
    for row in rows.iter().filter(|row| row.holds.is_some()) {
        assert!(row.kept < Some(1.02), "{row:?}");
    }
}

#[test]
fn full_speed_is_back_within_a_minute_of_a_brown_out() {
    let (rows, plot) = limits::brownouts(2);
    hold(&rows);
    assert!(rows.iter().all(|row| row.lost == 0), "no reply that was paid for is lost: {rows:#?}");
    for row in &rows[..2] {
        assert!(row.refused < 0.05, "an endpoint that is down is not hammered: {row:?}");
    }
    assert!(plot.series.iter().any(|s| s.name == "refused a minute" && s.points.iter().any(|p| p.1 > 0.0)));
}

#[test]
fn two_processes_share_a_limit_fairly() {
    hold(&limits::processes(3));
}

#[test]
fn an_episode_that_stays_with_its_replica_finds_its_prefix_cached() {
    let rows = limits::replicas(4);
    hold(&rows);
    let (random, affinity) = (&rows[0], &rows[1]);
    assert!(affinity.cached > Some(0.85) && random.cached < Some(0.6), "{rows:#?}");
}

fn instances() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/demo.jsonl")
}

/// Two runs, half the limit each, with more to do than the burst allows.
#[test]
fn two_runs_on_one_key_stay_within_its_limit() {
    const RPM: u64 = 600;
    const SAMPLES: u64 = 6;
    const TURNS: u64 = 14;
    let rpm = RPM.to_string();
    let more = ["--rpm", &rpm, "--burst", "20", "--slots", "64", "--wander-turns", &TURNS.to_string()];
    let endpoint = Endpoint::start(&instances(), "wander", &more);
    let temp = tempfile::tempdir().unwrap();
    let began = std::time::Instant::now();
    let run = |name: &str| {
        let mut command = sweroll();
        command.arg("run").arg("--instances").arg(instances()).arg("--out").arg(temp.path().join(name));
        command.args(["--endpoint", &endpoint.url, "--model", "scripted", "--sandbox", "local", "--quiet", "--filter", "greet"]);
        command.args(["--samples", &SAMPLES.to_string(), "--set", &format!("endpoint.limits.requests_per_minute={}", RPM / 2)]);
        std::thread::spawn(move || _ = expect(&mut command, 0))
    };
    let runs = ["a", "b"].map(run);
    runs.into_iter().for_each(|run| run.join().unwrap());
    let seconds = began.elapsed().as_secs_f64();
    let stat = endpoint.stat();
    let served = stat["replies"]["200"].as_u64().unwrap();
    assert!(served >= 2 * SAMPLES * TURNS, "{stat:#}");
    assert!(served as f64 <= 20.0 + seconds * RPM as f64 / 60.0 + 10.0, "more than the limit in {seconds} s: {stat:#}");
    let refused = stat["refused"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>();
    assert!(refused * 20 <= served, "{refused} refused: {stat:#}");
    assert!(stat["cached_tokens"].as_u64().unwrap() * 2 > stat["prompt_tokens"].as_u64().unwrap(), "{stat:#}");
    for name in ["a", "b"] {
        assert_eq!(summary(&temp.path().join(name))["episodes"]["committed"], json!(SAMPLES));
    }
}
