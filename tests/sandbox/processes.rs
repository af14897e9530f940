//! Plain processes as sandboxes.

use crate::support::*;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use sweroll::domain::Kind;
use sweroll::sandbox::{Local, Provider, Spec, local};
use sweroll::toolbox::client::ToolboxError;
use sweroll::toolbox::protocol::{Command, Op, Run};

#[tokio::test(flavor = "multi_thread")]
async fn a_local_sandbox_serves_and_goes_with_all_it_started() {
    let base = tempfile::tempdir().unwrap();
    let local = Local::new(local::Settings { toolbox_path: Some(toolbox_path()), private_dir: Some(base.path().into()) });
    local.check().await.unwrap();
    let sandbox = local.start(&Spec { workdir: "/workspace/repo".into(), ..spec("local", "") }).await.unwrap();
    let workdir = PathBuf::from(sandbox.workdir());
    assert!(workdir.starts_with(base.path()) && workdir.ends_with("workspace/repo"));
    assert_eq!(std::fs::read_dir(&workdir).unwrap().count(), 0);

    let (_, environment) = output(sandbox.toolbox(), run(Command::Exec(vec!["env".into()]))).await;
    let names: BTreeSet<&str> = environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let wanted = BTreeSet::from(["HOME", "LANG", "PATH", "TMPDIR"]);
    assert!(names.is_superset(&wanted) && !names.iter().any(|name| name.starts_with("CARGO")), "{environment}");
    let (_, text) = output(sandbox.toolbox(), shell("setsid sleep 1000 > /dev/null 2>&1 & echo $!")).await;
    let escapee = format!("/proc/{}/cmdline", text.trim());
    while !std::fs::read_to_string(&escapee).unwrap().starts_with("sleep") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    sandbox.destroy().await.unwrap();
    assert!(!std::fs::read_to_string(&escapee).unwrap_or_default().starts_with("sleep"));
    assert!(!workdir.exists());
    let climbing = local.start(&Spec { workdir: "/../../etc".into(), ..spec("local", "") }).await;
    assert_eq!(climbing.err().unwrap().kind, Kind::Workdir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_sandbox_that_was_killed_is_told() {
    let base = tempfile::tempdir().unwrap();
    let local = Local::new(local::Settings { toolbox_path: Some(toolbox_path()), private_dir: Some(base.path().into()) });
    let sandbox = local.start(&spec("local-killed", "")).await.unwrap();
    let killed = sandbox.toolbox().call(shell("kill -9 $PPID; sleep 1"), b"").await;
    assert!(matches!(killed, Err(ToolboxError::Lost(_))), "{killed:?}");
    let fate = sandbox.fate().await;
    assert_eq!((fate.gone, fate.exit_code), (true, Some(137)));
    drop(sandbox);
    let stale = base.path().join("sweroll-stale");
    std::fs::create_dir(&stale).unwrap();
    assert_eq!(local.sweep("any").await.unwrap(), 1);
    assert!(!stale.exists());
}

#[tokio::test]
async fn the_patience_with_replies_is_a_setting() {
    let base = tempfile::tempdir().unwrap();
    let local = Local::new(local::Settings { toolbox_path: Some(toolbox_path()), private_dir: Some(base.path().into()) });
    let mut spec = spec("patience", "");
    (spec.limits.toolbox.run_grace_s, spec.limits.toolbox.op_timeout_s) = (1, 1);
    let sandbox = local.start(&spec).await.unwrap();
    let silent = |result: Result<_, ToolboxError>| match result {
        Err(ToolboxError::Silent(patience)) => patience,
        other => panic!("{other:?}"),
    };
    // The shell's parent is the toolbox: it says nothing any more.
    let stop = Op::Run(Run {
        what: Command::Shell("kill -STOP $PPID; sleep 60".into()),
        session: true,
        cwd: None,
        env: Vec::new(),
        deadline_ms: 500,
        report_cap: 0,
        output_cap: 1024,
    });
    assert_eq!(silent(sandbox.toolbox().call(stop, b"").await), Duration::from_millis(1500));
    assert_eq!(silent(sandbox.toolbox().call(Op::Usage, b"").await), Duration::from_secs(1));
    sandbox.destroy().await.unwrap();
}
