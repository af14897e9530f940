//! The client against other ends than a good toolbox, and the toolbox against other ends than a good client.

use super::harness::*;
use std::io::{Read, Write};
use std::process::{Command as Process, Stdio};
use std::time::Duration;
use sweroll::toolbox::client::{Settings, Toolbox, ToolboxError};
use sweroll::toolbox::protocol::{self, Answer, Greeting, Op, PROTOCOL, Reply, Request, Run};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const LONG: Duration = Duration::from_secs(30);

async fn connect(first: &[u8]) -> Result<Toolbox, ToolboxError> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    theirs.write_all(first).await.unwrap();
    drop(theirs);
    Toolbox::connect(ours, LONG).await
}

fn greeting(protocol: u32) -> Vec<u8> {
    protocol::encode(&Greeting { protocol, version: "9".into() }, b"").unwrap()
}

/// A client, and the far end of its stream.
async fn wired(settings: Settings) -> (Toolbox, DuplexStream) {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    theirs.write_all(&greeting(PROTOCOL)).await.unwrap();
    (Toolbox::connect_with(ours, LONG, settings).await.unwrap(), theirs)
}

async fn next_request(stream: &mut DuplexStream) -> Request {
    let mut prefix = [0; 8];
    stream.read_exact(&mut prefix).await.unwrap();
    let (header, blob) = protocol::lengths(prefix).unwrap();
    let mut bytes = vec![0; header + blob];
    stream.read_exact(&mut bytes).await.unwrap();
    serde_json::from_slice(&bytes[..header]).unwrap()
}

#[tokio::test]
async fn a_foreign_first_process_is_told() {
    for first in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x02\0\0\0\0{}", b"\xff\xff\xff\xff\xff\xff\xff\xff"] {
        assert!(matches!(connect(first).await, Err(ToolboxError::Lost(_))), "{first:?}");
    }
    let foreign = connect(&greeting(PROTOCOL + 1)).await.unwrap_err();
    assert!(foreign.to_string().contains("same binary"), "{foreign}");
    let (silent, _open) = tokio::io::duplex(64);
    assert!(matches!(Toolbox::connect(silent, Duration::from_millis(20)).await, Err(ToolboxError::Silent(_))));
}

#[tokio::test]
async fn replies_find_their_calls_in_any_order() {
    let (toolbox, mut far) = wired(Settings::default()).await;
    let call = |path: &str| {
        let (toolbox, path) = (toolbox.clone(), path.to_owned());
        tokio::spawn(async move { toolbox.call(Op::Undo { path }, b"").await.unwrap().1 })
    };
    let (a, b) = (call("a"), call("b"));
    let requests = [next_request(&mut far).await, next_request(&mut far).await];
    for request in requests.iter().rev() {
        let Op::Undo { path } = &request.op else { panic!("{request:?}") };
        let reply = Reply { id: request.id, result: Ok(Answer::Done) };
        // One that nobody waits for comes first, and is dropped.
        far.write_all(&protocol::encode(&Reply { id: 999, result: Ok(Answer::Done) }, b"nobody's").unwrap()).await.unwrap();
        far.write_all(&protocol::encode(&reply, path.as_bytes()).unwrap()).await.unwrap();
    }
    assert_eq!((a.await.unwrap(), b.await.unwrap()), ("a".into(), "b".into()));
}

#[tokio::test]
async fn silence_has_a_bound_and_garbage_ends_the_line() {
    let settings = Settings { run_grace_s: 0, op_timeout_s: 1, ..Settings::default() };
    let (toolbox, mut far) = wired(settings).await;
    let run = Op::Run(Run { deadline_ms: 50, ..shell("true") });
    assert!(matches!(toolbox.call(run.clone(), b"").await, Err(ToolboxError::Silent(after)) if after == Duration::from_millis(50)));
    assert!(matches!(toolbox.call(Op::Usage, b"").await, Err(ToolboxError::Silent(_))));
    // The late reply belongs to nobody; the session's turn is free again.
    let late = next_request(&mut far).await;
    far.write_all(&protocol::encode(&Reply { id: late.id, result: Ok(Answer::Done) }, b"").unwrap()).await.unwrap();
    assert!(matches!(toolbox.call(run, b"").await, Err(ToolboxError::Silent(_))));
    far.write_all(b"\0\0\0\x04\0\0\0\0junk").await.unwrap();
    assert!(tokio::time::timeout(LONG, toolbox.closed()).await.unwrap().contains("unreadable"));
    assert!(matches!(toolbox.call(Op::Usage, b"").await, Err(ToolboxError::Lost(_))));
}

#[tokio::test]
async fn the_last_handle_closes_the_stream() {
    let (toolbox, mut far) = wired(Settings::default()).await;
    let other = toolbox.clone();
    drop(toolbox);
    drop(other);
    assert_eq!(tokio::time::timeout(LONG, far.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
}

#[test]
fn standard_streams_serve_as_well_and_no_child_can_write_into_them() {
    let mut command = Process::new(env!("CARGO_BIN_EXE_sweroll"));
    let mut process = command.arg("toolbox").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let mut next = || {
        let mut prefix = [0; 8];
        output.read_exact(&mut prefix).unwrap();
        let (header, blob) = protocol::lengths(prefix).unwrap();
        let mut bytes = vec![0; header + blob];
        output.read_exact(&mut bytes).unwrap();
        (bytes[..header].to_vec(), bytes[header..].to_vec())
    };
    let greeted: Greeting = serde_json::from_slice(&next().0).unwrap();
    assert_eq!(greeted.protocol, PROTOCOL);
    let script = "echo junk >/proc/$PPID/fd/1; echo junk >/proc/$PPID/fd/2; echo fine";
    input.write_all(&protocol::encode(&Request { id: 7, op: Op::Run(shell(script)) }, b"").unwrap()).unwrap();
    let (header, blob) = next();
    let reply: Reply = serde_json::from_slice(&header).unwrap();
    assert!(reply.id == 7 && matches!(reply.result, Ok(Answer::Ran(_))), "{reply:?}");
    assert_eq!(blob, b"fine\n");
    drop(input);
    assert!(process.wait().unwrap().success());
}

#[test]
fn wrong_arguments_and_a_missing_socket_are_said() {
    for args in [&["--bad"][..], &["--connect"], &["--connect", "/no/such/socket"]] {
        let output = Process::new(env!("CARGO_BIN_EXE_sweroll")).arg("toolbox").args(args).output().unwrap();
        assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).starts_with("sweroll toolbox: "), "{args:?}");
    }
}
