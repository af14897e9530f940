//! Measurements, not tests.

use super::*;
use crate::support::*;
use futures_util::StreamExt;
use std::time::{Duration, Instant};
use sweroll::sandbox::Provider;
use sweroll::sandbox::docker::Stream;
use sweroll::toolbox::protocol::Command;

/// Start to the first command's result, and destruction, against what the docker CLI takes for the same command.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: cargo test --release --test sandbox start_speed -- --ignored --nocapture"]
async fn start_speed() {
    if let Some(why_not) = why_not(Image::Debian).await {
        return println!("{why_not}");
    }
    let docker = docker(Stream::Auto).await;
    let spec = spec("speed", DEBIAN);
    let ours = || async {
        let start = Instant::now();
        let sandbox = docker.start(&spec).await.unwrap();
        output(sandbox.toolbox(), run(Command::Exec(vec!["true".into()]))).await;
        let first = start.elapsed();
        sandbox.destroy().await.unwrap();
        (first, start.elapsed())
    };
    let theirs = || async {
        let start = Instant::now();
        let done = tokio::process::Command::new("docker")
            .args(["run", "--rm", "--network", "none", "--log-driver", "none", DEBIAN, "true"])
            .output()
            .await
            .unwrap();
        assert!(done.status.success());
        (start.elapsed(), start.elapsed())
    };
    ours().await;
    for concurrency in [1, 8] {
        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        let (mut our_wall, mut their_wall) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..2 {
            let start = Instant::now();
            our_times.extend(futures_util::stream::iter(0..16).map(|_| ours()).buffer_unordered(concurrency).collect::<Vec<_>>().await);
            our_wall += start.elapsed();
            let start = Instant::now();
            their_times.extend(futures_util::stream::iter(0..16).map(|_| theirs()).buffer_unordered(concurrency).collect::<Vec<_>>().await);
            their_wall += start.elapsed();
        }
        let median = |times: Vec<Duration>| {
            let mut times = times;
            times.sort();
            times[times.len() / 2].as_secs_f64() * 1e3
        };
        let (first, whole) = (our_times.iter().map(|t| t.0).collect(), our_times.iter().map(|t| t.1).collect());
        let (first, whole, cli) = (median(first), median(whole), median(their_times.iter().map(|t| t.0).collect()));
        println!(
            "concurrency {concurrency}: first result {first:.0} ms, with removal {whole:.0} ms, docker run {cli:.0} ms: ratios {:.2} and {:.2}; wall of 32: {:.2} s to {:.2} s, ratio {:.2}",
            first / cli,
            whole / cli,
            our_wall.as_secs_f64(),
            their_wall.as_secs_f64(),
            our_wall.as_secs_f64() / their_wall.as_secs_f64()
        );
    }
}
