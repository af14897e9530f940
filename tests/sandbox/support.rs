//! Short ways to ask for a sandbox, and to say things to its toolbox.

use crate::image::EMPTY;
use std::path::PathBuf;
use sweroll::sandbox::{Limits, Purpose, Spec};
use sweroll::toolbox::client::Toolbox;
use sweroll::toolbox::protocol::{Answer, Command, End, Op, Ran, Run};

pub fn toolbox_path() -> PathBuf {
    env!("CARGO_BIN_EXE_sweroll").into()
}

pub fn spec(test: &str, image: &str) -> Spec {
    Spec {
        run: format!("test-{test}-{}", std::process::id()),
        attempt: "test__one-1@0.1".parse().unwrap(),
        purpose: Purpose::Agent,
        image: image.into(),
        workdir: if image == EMPTY { "/work" } else { "/tmp" }.into(),
        limits: Limits { memory: 256 << 20, cpus: 1.0, pids: 64, ..Limits::default() },
        keep: false,
        upon: None,
    }
}

pub fn run(what: Command) -> Op {
    Op::Run(Run { what, session: false, cwd: None, env: Vec::new(), deadline_ms: 60_000, output_cap: 1 << 20, report_cap: 0 })
}

pub fn exec(arguments: &[&str]) -> Op {
    run(Command::Exec(arguments.iter().map(|&argument| argument.to_owned()).collect()))
}

pub fn shell(text: &str) -> Op {
    run(Command::Shell(text.into()))
}

/// A shell command that is given this long.
pub fn shell_for(deadline_ms: u64, text: &str) -> Op {
    let Op::Run(run) = shell(text) else { unreachable!() };
    Op::Run(Run { deadline_ms, ..run })
}

pub async fn ran(toolbox: &Toolbox, op: Op) -> (Ran, Vec<u8>) {
    match toolbox.call(op, b"").await.unwrap() {
        (Answer::Ran(ran), blob) => (ran, blob.to_vec()),
        other => panic!("{other:?}"),
    }
}

pub async fn output(toolbox: &Toolbox, op: Op) -> (End, String) {
    let (ran, blob) = ran(toolbox, op).await;
    (ran.end, String::from_utf8_lossy(&blob).into_owned())
}

/// Output of a shell command that must succeed.
pub async fn said(toolbox: &Toolbox, text: &str) -> String {
    let (end, output) = output(toolbox, shell(text)).await;
    assert_eq!(end, End::Exited(0), "{text}: {output}");
    output
}

pub async fn read(toolbox: &Toolbox, path: &str) -> String {
    let (_, blob) = toolbox.call(Op::Read { path: path.into(), offset: 0, max: 1 << 20 }, b"").await.unwrap();
    String::from_utf8_lossy(&blob).into_owned()
}
