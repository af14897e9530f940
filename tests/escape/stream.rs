//! The toolbox's stream: closed to commands, and bounded where a toolbox was taken over all the same.

use crate::support::*;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;
use sweroll::toolbox::client::{Toolbox, ToolboxError};
use sweroll::toolbox::protocol::{self, Greeting, Op, Run};
use tokio::net::UnixStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_toolbox_that_takes_a_report_is_closed() {
    for place in places().await {
        let sandbox = place.start("sealed").await;
        let toolbox = sandbox.toolbox();
        let attempts = table("sealed");
        let traced = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() != "0");
        let open = make(toolbox, &attempts).await;
        for attempt in attempts.iter().filter(|attempt| attempt.unproven.is_empty()) {
            let ending = &open[&attempt.name];
            assert!(traced || ending.starts_with("reached"), "{:?}: {}: {ending}", place.backend, attempt.name);
        }
        let Op::Run(plain) = run(python("print('hello')")) else { unreachable!() };
        output(toolbox, Op::Run(Run { report_cap: 100, ..plain })).await;
        hold(place.backend, toolbox, &attempts).await;
        sandbox.destroy().await.unwrap();
    }
}

/// An engine's handle to a toolbox that says what it likes, and that toolbox's end.
async fn taken_over() -> (Toolbox, StdStream) {
    let (engine, mut hostile) = StdStream::pair().unwrap();
    engine.set_nonblocking(true).unwrap();
    let greeting = Greeting { protocol: protocol::PROTOCOL, version: "0".into() };
    hostile.write_all(&protocol::encode(&greeting, b"").unwrap()).unwrap();
    let toolbox = Toolbox::connect(UnixStream::from_std(engine).unwrap(), Duration::from_secs(5)).await.unwrap();
    (toolbox, hostile)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_taken_over_toolbox_says_is_bounded() {
    let deep = [&b"{\"id\":1,\"result\":{\"Ok\":"[..], &b"[".repeat(1 << 20)].concat();
    let frame = |header: &[u8], blob: u32| [&(header.len() as u32).to_be_bytes()[..], &blob.to_be_bytes(), header].concat();
    let says: [(&str, Vec<u8>); 4] = [
        ("a frame of four gigabytes", [0xff; 8].to_vec()),
        ("a blob over the limit", frame(b"{}", (protocol::MAX_BLOB + 1) as u32)),
        ("nesting without end", frame(&deep, 0)),
        ("no frame at all", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ];
    for (what, bytes) in says {
        let (toolbox, mut hostile) = taken_over().await;
        let before = resident();
        let writer = std::thread::spawn(move || {
            let _ = hostile.write_all(&bytes);
            // Held open: it is what was said that ends the stream.
            std::thread::sleep(Duration::from_millis(500));
        });
        let result = toolbox.call(Op::Usage, b"").await;
        assert!(matches!(result, Err(ToolboxError::Lost(_))), "{what}: {result:?}");
        assert!(resident() < before + (256 << 20), "{what}");
        writer.join().unwrap();
    }
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse::<u64>().unwrap();
    pages * rustix::param::page_size() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_passed_to_the_engine_do_not_stay_open() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let (toolbox, hostile) = taken_over().await;
    let held = tempfile::tempfile().unwrap();
    let of_it = rustix::fs::fstat(&held).unwrap();
    let reply = protocol::encode(&serde_json::json!({"id": 99, "result": {"Ok": {"answer": "done"}}}), b"").unwrap();
    for _ in 0..50 {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut passed = SendAncillaryBuffer::new(&mut space);
        let fds = [held.as_fd(); 4];
        assert!(passed.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&hostile, &[IoSlice::new(&reply)], &mut passed, SendFlags::empty()).unwrap();
    }
    drop(hostile);
    toolbox.closed().await;
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let same = |path: std::path::PathBuf| {
        std::fs::metadata(path).is_ok_and(|found| {
            use std::os::unix::fs::MetadataExt;
            (found.dev(), found.ino()) == (of_it.st_dev, of_it.st_ino)
        })
    };
    assert_eq!(open.filter(|entry| same(entry.path())).count(), 1);
}
