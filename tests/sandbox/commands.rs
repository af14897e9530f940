//! Commands that take their time, flood, leave children behind, and say what is no text.

use crate::backend::Backend;
use crate::host;
use crate::support::*;
use futures_util::future::join_all;
use sweroll::sandbox::{Limits, Spec};
use sweroll::toolbox::client::ToolboxError;
use sweroll::toolbox::protocol::{Answer, End, Op, OpError, Run};

pub async fn a_deadline_takes_everything(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let (child, escapee) = (backend.mark(), backend.mark());
    let text = format!("echo begun; (setsid sleep {escapee} > /dev/null 2>&1 &); sleep {child}");
    let (ran, blob) = ran(sandbox.toolbox(), shell_for(700, &text)).await;
    assert_eq!((ran.end, blob.as_slice()), (End::TimedOut, &b"begun\n"[..]));
    assert!(ran.duration_ms >= 700, "its clock starts when it starts");
    for mark in [&child, &escapee] {
        assert!(host::soon(async || host::running(mark).is_empty()).await, "it survived");
    }
    assert_eq!(said(sandbox.toolbox(), "echo next").await, "next\n");
    sandbox.destroy().await.unwrap();
}

pub async fn floods(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let (cap, total) = (1 << 20, 600_000_000);
    let flood = |text: &str| {
        let Op::Run(run) = shell(text) else { unreachable!() };
        ran(sandbox.toolbox(), Op::Run(Run { output_cap: cap, ..run }))
    };
    let text = format!("echo first; head -c {total} /dev/zero; echo; echo last");
    let ((ran, kept), (other, _)) = tokio::join!(flood(&text), flood(&format!("head -c {total} /dev/zero >&2")));
    assert_eq!((ran.end, ran.total, other.total), (End::Exited(0), total + 12, total));
    assert!(kept.len() as u64 <= cap && kept.starts_with(b"first\n\0") && kept.ends_with(b"\0\nlast\n"), "{}", kept.len());
    let peak = said(sandbox.toolbox(), "grep VmHWM /proc/$PPID/status").await;
    let kilobytes: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kilobytes < 64 << 10, "the toolbox held {kilobytes} kB");
    sandbox.destroy().await.unwrap();
}

/// A call returns when its process exits, not when its pipe closes.
pub async fn background_children_hold_nobody(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let mark = backend.mark();
    let (end, text) = output(sandbox.toolbox(), shell_for(30_000, &format!("sleep {mark} & echo started"))).await;
    assert_eq!((end, text.as_str()), (End::Exited(0), "started\n"));
    assert!(host::soon(async || host::running(&mark).len() == 1).await, "it goes on");
    assert_eq!(said(sandbox.toolbox(), "echo next").await, "next\n");
    sandbox.destroy().await.unwrap();
    assert!(host::running(&mark).is_empty(), "it went with its sandbox");
}

pub async fn bytes_that_are_no_text(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let toolbox = sandbox.toolbox();
    let all: Vec<u8> = (0..=255).collect();
    let python = "python3 -c \"import sys; sys.stdout.buffer.write(bytes(range(256)))\"";
    assert_eq!(ran(toolbox, shell(python)).await.1, all);
    let (answer, back) = toolbox.call(shell("cat"), &all).await.unwrap();
    assert!(matches!(answer, Answer::Ran(_)) && back == all, "what goes in comes out");

    let dir = format!("{}/names", sandbox.workdir());
    said(
        toolbox,
        &format!("mkdir '{dir}' && cd '{dir}' && printf x > \"$(printf 'caf\\351')\" && printf y > \"$(printf 'line\\nbreak')\""),
    )
    .await;
    let (ran, names) = ran(toolbox, shell(&format!("cd '{dir}' && find . -type f -print0 | sort -z"))).await;
    assert_eq!((ran.end, names.as_slice()), (End::Exited(0), &b"./caf\xe9\0./line\nbreak\0"[..]));
    let (tree, _) = toolbox.call(Op::Snapshot { workdir: dir.clone(), exclude: Vec::new() }, b"").await.unwrap();
    let Answer::Tree { tree } = tree else { panic!("{tree:?}") };
    said(toolbox, &format!("cd '{dir}' && printf z > \"$(printf 'caf\\351')\"")).await;
    let diff = Op::Diff { workdir: dir, tree, exclude: Vec::new(), max: 1 << 20, settle: false };
    let (_, diff) = toolbox.call(diff, b"").await.unwrap();
    let diff = std::str::from_utf8(&diff).unwrap();
    assert!(diff.contains(r#""b/caf\351""#) && diff.contains("+z"), "{diff}");
    sandbox.destroy().await.unwrap();
}

/// Each waits for all the others, so that they are at work at the same time.
pub async fn a_hundred_at_once(backend: &Backend) {
    let limits = Limits { pids: 1024, memory: 1 << 30, ..backend.spec().limits };
    let sandbox = backend.start(&Spec { limits, ..backend.spec() }).await;
    let (toolbox, dir) = (sandbox.toolbox(), format!("{}/all", sandbox.workdir()));
    said(toolbox, &format!("mkdir '{dir}'")).await;
    let wait = |n: usize| shell(&format!("cd '{dir}' && : > {n} && until [ -e go ]; do sleep 0.2; done; echo {n}"));
    let calls = join_all((0..100).map(|n| output(toolbox, wait(n))));
    let go = async {
        let count = format!("ls '{dir}' | wc -l");
        assert!(host::soon(async || said(toolbox, &count).await.trim() == "100").await, "they do not run at once");
        said(toolbox, &format!(": > '{dir}/go'")).await;
    };
    let (answers, ()) = tokio::join!(calls, go);
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer, (End::Exited(0), format!("{n}\n")));
    }
    sandbox.destroy().await.unwrap();
}

pub async fn what_cannot_start_did_not_fail(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let absent = sandbox.toolbox().call(exec(&["/no/such/program"]), b"").await;
    assert!(matches!(absent, Err(ToolboxError::Op(OpError::NotStarted { .. }))), "{absent:?}");
    let (end, _) = output(sandbox.toolbox(), shell("exit 126")).await;
    assert_eq!(end, End::Exited(126));
    let (end, _) = output(sandbox.toolbox(), shell("kill -KILL $$")).await;
    assert_eq!(end, End::Signaled(9));
    sandbox.destroy().await.unwrap();
}
