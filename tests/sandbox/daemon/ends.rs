//! Ends that only a daemon knows.

use super::*;
use crate::backend::On;
use crate::engines::engine;
use sweroll::sandbox::Provider;

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_takes_what_its_own_run_forgot() {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let spec = spec("forgotten", EMPTY);
    std::mem::forget(docker.start(&spec).await.unwrap());
    assert!(docker.sweep(&spec.run).await.unwrap() >= 1);
    assert!(containers(&spec.run).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_sandbox_goes_without_being_waited_for() {
    if !daemon_answers().await {
        return;
    }
    let settings = docker::Settings { removals_in_flight: 1, ..settings(Stream::Auto) };
    let docker = Docker::connect(settings).await.unwrap();
    let spec = spec("retired", EMPTY);
    let mut sandboxes = Vec::new();
    for _ in 0..5 {
        sandboxes.push(docker.start(&spec).await.unwrap());
    }
    // More than may wait: the last is taken once the first is gone.
    for sandbox in sandboxes {
        sandbox.retire().await;
    }
    assert!(containers(&spec.run).await.len() < 5, "the fifth did not wait");
    assert!(gone_within(&spec.run, Duration::from_secs(60)).await);
    let sandbox = docker.start(&spec).await.unwrap();
    sandbox.retire().await;
    docker.sweep(&spec.run).await.unwrap();
    assert!(containers(&spec.run).await.is_empty(), "a sweep waits for what is retired");
}

/// Of a frozen container the first process cannot end with its stream: it takes a sweep, be it that of another run.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engines_frozen_container_is_swept() {
    if let Some(why_not) = why_not(Image::Debian).await {
        return assert!(std::env::var_os("CI").is_none(), "{why_not}, and CI is set");
    }
    let (dir, docker) = (tempfile::tempdir().unwrap(), docker(Stream::Auto).await);
    let run = spec("frozen", DEBIAN).run;
    let mut engine = engine(On::Docker, dir.path(), &run, &format!("1000.{}9999", std::process::id()));
    let id = containers(&run).await.pop().unwrap();
    client().pause_container(&id).await.unwrap();
    engine.kill().unwrap();
    engine.wait().unwrap();
    // Any run's sweep may be the one that takes it, also that of another test.
    docker.sweep("test-of-no-one").await.unwrap();
    assert!(gone_within(&run, Duration::from_secs(60)).await);
}
