//! Engines that are killed, and what is left of their sandboxes.

use crate::backend::{Backend, On};
use crate::host;
use crate::image::DEBIAN;
use crate::support::*;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use sweroll::sandbox::Spec;

/// Set for the engine that is to be killed: its backend, its directory, its run and what its sandbox sleeps by.
const ENGINE: &str = "SWEROLL_TEST_ENGINE";

/// Not a test by itself.
#[tokio::test(flavor = "multi_thread")]
async fn engine_to_be_killed() {
    let Ok(order) = std::env::var(ENGINE) else { return };
    let [on, dir, run, mark] = order.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let on: On = on.parse().unwrap();
    let provider = on.provide(dir.as_ref(), toolbox_path()).await.unwrap();
    let spec = Spec { run: run.into(), ..spec("", DEBIAN) };
    let sandbox = provider.start(&spec).await.unwrap();
    said(sandbox.toolbox(), &format!("setsid sleep {mark} > /dev/null 2>&1 & sleep {mark} &")).await;
    println!("started");
    tokio::time::sleep(Duration::from_secs(600)).await;
}

/// A live engine with a sandbox in which two processes sleep.
pub fn engine(on: On, dir: &Path, run: &str, mark: &str) -> Child {
    let order = format!("{on} {} {run} {mark}", dir.display());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "engines::engine_to_be_killed", "--nocapture"])
        .env(ENGINE, order)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("started")), "the engine starts its sandbox");
    child
}

pub async fn a_dead_engine_leaves_nothing(backend: &Backend) {
    let (run, mark) = (backend.spec().run, backend.mark());
    let mut engine = engine(backend.on, backend.dir(), &run, &mark);
    let pid = i32::try_from(engine.id()).unwrap();
    assert!(host::soon(async || host::running(&mark).len() == 2).await);
    backend.provider.sweep("test-of-no-one").await.unwrap();
    assert!(!backend.left(&run).await.is_empty() && host::running(&mark).len() == 2, "its engine lives");
    let below = host::descendants(pid);
    assert!(!below.is_empty() || matches!(backend.on, On::Docker | On::Attach));

    engine.kill().unwrap();
    engine.wait().unwrap();
    assert!(host::soon(async || host::running(&mark).is_empty()).await, "the toolbox ends with its stream, and all else with it");
    let gone = async || below.iter().all(|pid| !std::fs::exists(format!("/proc/{pid}")).unwrap());
    assert!(host::soon(gone).await, "its helpers end with it");
    if matches!(backend.on, On::Docker | On::Attach) {
        assert!(backend.goes(&run).await, "a container goes with its first process");
    }
    // What only a sweep can know to be nobody's.
    backend.provider.sweep("test-of-no-one").await.unwrap();
    assert_eq!(backend.left(&run).await, Vec::<String>::new());
    let private =
        std::fs::read_dir(backend.dir()).unwrap().flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("sweroll-"));
    assert!(private.count() <= 1, "only the living have a directory");
}

/// Its sandboxes die with it, and the engine goes on with another.
pub async fn a_dead_launcher_is_replaced(backend: &Backend) {
    let (run, mark) = (backend.spec().run, backend.mark());
    let sandbox = backend.sandbox().await;
    said(sandbox.toolbox(), &format!("setsid sleep {mark} > /dev/null 2>&1 &")).await;
    assert!(host::soon(async || host::running(&mark).len() == 1).await);
    assert!(!backend.left(&run).await.is_empty());
    let launcher = host::launchers(backend.dir()).pop().unwrap();
    kill_process(Pid::from_raw(launcher).unwrap(), Signal::KILL).unwrap();

    sandbox.toolbox().closed().await;
    let fate = sandbox.fate().await;
    assert!(fate.gone && !fate.oom, "{fate:?}");
    assert!(host::soon(async || host::running(&mark).is_empty()).await, "nothing inside survives it");
    sandbox.destroy().await.unwrap();

    let next = backend.sandbox().await;
    assert_eq!(said(next.toolbox(), "echo again").await, "again\n");
    next.destroy().await.unwrap();
    backend.provider.sweep("test-of-no-one").await.unwrap();
    assert_eq!(backend.left(&run).await, Vec::<String>::new(), "what the first left is swept");
}
