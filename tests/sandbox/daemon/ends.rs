//! Ends of sandboxes: asked for, suffered, forgotten, and those of their engine.

use crate::support::*;
use bollard::query_parameters::KillContainerOptions;
use std::time::{Duration, Instant};
use sweroll::sandbox::docker::Stream;
use sweroll::sandbox::{Docker, Limits, Local, Provider, Spec, docker, local};
use sweroll::toolbox::client::ToolboxError;
use sweroll::toolbox::protocol::{Answer, End, Op};

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_from_outside_is_told() {
    if !daemon_answers().await {
        return;
    }
    for (stream, test) in [(Stream::Socket, "killed-socket"), (Stream::Attach, "killed-attach")] {
        let docker = docker(stream).await;
        let spec = spec(test, EMPTY);
        let sandbox = docker.start(&spec).await.unwrap();
        let id = containers(&spec.run).await.pop().unwrap();
        client().kill_container(&id, None::<KillContainerOptions>).await.unwrap();
        let call = async {
            loop {
                match sandbox.toolbox().call(Op::Usage, b"").await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    Err(error) => return error,
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(30), call).await.unwrap();
        assert!(matches!(error, ToolboxError::Lost(_)), "{error}");
        let fate = sandbox.fate().await;
        assert_eq!((fate.gone, fate.oom, fate.exit_code), (true, false, Some(137)));
        sandbox.destroy().await.unwrap();
        assert!(containers(&spec.run).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_memory_that_takes_the_sandbox_down_is_told() {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let mut spec = spec("oom", EMPTY);
    spec.limits = Limits { memory: 64 << 20, shm: 1 << 30, ..spec.limits };
    let sandbox = docker.start(&spec).await.unwrap();
    let block = vec![1; 20 << 20];
    let mut outcome = Ok(());
    for n in 0..10 {
        let written = sandbox.toolbox().call(Op::Write { path: format!("/dev/shm/{n}"), mode: 0o644 }, &block).await;
        if let Err(error) = written {
            outcome = Err(error);
            break;
        }
    }
    assert!(matches!(outcome, Err(ToolboxError::Lost(_))), "{outcome:?}");
    let fate = sandbox.fate().await;
    assert!(fate.gone && fate.oom, "{fate:?}");
    sandbox.destroy().await.unwrap();
}

/// The end that has nothing to do with it is no fault of the model's.
#[tokio::test(flavor = "multi_thread")]
async fn exhausted_memory_that_was_survived_is_not_the_end() {
    if !has_debian().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let spec = debian("oom-survived");
    let sandbox = docker.start(&spec).await.unwrap();
    let (_, text) = output(sandbox.toolbox(), shell("python3 -c 'x = bytearray(1 << 30)'; echo $?")).await;
    assert!(text.contains("137"), "{text}");
    let alive = sandbox.toolbox().call(Op::Usage, b"").await;
    assert!(matches!(alive, Ok((Answer::Usage(usage), _)) if usage.oom_kills > 0));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let id = containers(&spec.run).await.pop().unwrap();
    client().kill_container(&id, None::<KillContainerOptions>).await.unwrap();
    sandbox.toolbox().closed().await;
    let fate = sandbox.fate().await;
    assert_eq!((fate.gone, fate.oom, fate.exit_code), (true, false, Some(137)));
    sandbox.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_memory_of_a_command_is_counted() {
    if !has_debian().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let sandbox = docker.start(&debian("oom-child")).await.unwrap();
    let (end, text) = output(sandbox.toolbox(), shell("python3 -c 'x = bytearray(1 << 30)'; echo $?")).await;
    assert!(matches!(end, End::Exited(0)) && text.contains("137"), "{end:?} {text}");
    let (usage, _) = sandbox.toolbox().call(Op::Usage, b"").await.unwrap();
    assert!(matches!(usage, Answer::Usage(ref usage) if usage.oom_kills > 0), "{usage:?}");
    sandbox.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_deaf_to_sigterm_costs_no_wait() {
    if !has_debian().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let sandbox = docker.start(&debian("deaf")).await.unwrap();
    output(sandbox.toolbox(), shell("(trap '' TERM INT HUP; setsid sleep 1000) > /dev/null 2>&1 &")).await;
    let start = Instant::now();
    sandbox.destroy().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_sandbox_goes_by_itself() {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    let spec = spec("dropped", EMPTY);
    drop(docker.start(&spec).await.unwrap());
    assert!(gone_within(&spec.run, Duration::from_secs(30)).await);

    // A caller that gives up in the middle of a start leaves nothing either.
    for patience in [1, 20, 80, 200] {
        let _ = tokio::time::timeout(Duration::from_millis(patience), docker.start(&spec)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(gone_within(&spec.run, Duration::from_secs(30)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_leaves_a_live_run_alone() {
    if !daemon_answers().await {
        return;
    }
    let (one, two) = (docker(Stream::Auto).await, docker(Stream::Auto).await);
    let (mine, theirs) = (spec("sweep-mine", EMPTY), spec("sweep-theirs", EMPTY));
    let forgotten = one.start(&mine).await.unwrap();
    let live = two.start(&theirs).await.unwrap();
    std::mem::forget(forgotten);
    assert!(one.sweep(&mine.run).await.unwrap() >= 1);
    assert!(containers(&mine.run).await.is_empty());
    read(live.toolbox(), "/proc/1/comm").await;
    live.destroy().await.unwrap();
}

/// Not a test by itself: the engine that is killed by the next ones. `SWEROLL_TEST_CHILD` is its kind and its run.
#[tokio::test(flavor = "multi_thread")]
async fn dead_engine_child() {
    let Ok(order) = std::env::var("SWEROLL_TEST_CHILD") else { return };
    let (kind, run) = order.split_once(' ').unwrap();
    let provider: Box<dyn Provider> = match kind {
        "local" => Box::new(Local::new(local::Settings { toolbox_path: toolbox_path(), private_dir: Some(run.into()) })),
        "attach" => Box::new(docker(Stream::Attach).await),
        _ => Box::new(docker(Stream::Socket).await),
    };
    let sandbox = provider.start(&Spec { run: run.into(), ..spec("", EMPTY) }).await.unwrap();
    let pid = if kind == "local" { output(sandbox.toolbox(), shell("sleep 1000 & echo $!")).await.1 } else { String::new() };
    println!("started {pid}");
    tokio::time::sleep(Duration::from_secs(600)).await;
}

/// A live engine with a sandbox, and what it said of it.
fn engine(kind: &str, run: &str) -> (std::process::Child, String) {
    use std::io::{BufRead, BufReader};
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ends::dead_engine_child", "--nocapture"])
        .env("SWEROLL_TEST_CHILD", format!("{kind} {run}"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said = lines.find_map(|line| Some(line.split_once("started ")?.1.trim().to_owned()));
    (child, said.expect("the child engine starts its sandbox"))
}

fn kill(mut engine: std::process::Child) {
    engine.kill().unwrap();
    engine.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engine_leaves_nothing() {
    if !daemon_answers().await {
        return;
    }
    let docker = docker(Stream::Auto).await;
    for kind in ["socket", "attach"] {
        let run = format!("test-dead-{kind}-{}", std::process::id());
        let (child, _) = engine(kind, &run);
        docker.sweep("test-another").await.unwrap();
        assert_eq!(containers(&run).await.len(), 1, "its engine lives");
        kill(child);
        assert!(gone_within(&run, Duration::from_secs(30)).await, "the toolbox must end with its stream");

        // One that is frozen cannot end by itself: it takes a sweep, be it that of another run.
        let (child, _) = engine(kind, &run);
        let id = containers(&run).await.pop().unwrap();
        client().pause_container(&id).await.unwrap();
        kill(child);
        assert!(docker.sweep("test-another").await.unwrap() >= 1);
        assert!(containers(&run).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engine_leaves_no_local_process() {
    let base = tempfile::tempdir().unwrap();
    let (child, pid) = engine("local", base.path().to_str().unwrap());
    let command = format!("/proc/{pid}/cmdline");
    assert!(std::fs::read_to_string(&command).is_ok());
    kill(child);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !std::fs::read_to_string(&command).unwrap_or_default().is_empty() {
        assert!(Instant::now() < deadline, "the toolbox must end with its stream, and take its processes with it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let local = Local::new(local::Settings { toolbox_path: toolbox_path(), private_dir: Some(base.path().into()) });
    assert_eq!(local.sweep("any").await.unwrap(), 1);
    assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
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
