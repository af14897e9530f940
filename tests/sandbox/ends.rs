//! Ends of sandboxes: asked for, suffered and forgotten.

use crate::backend::{Backend, On};
use crate::host;
use crate::support::*;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, getpeername, getsockname};
use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::time::Instant;
use sweroll::toolbox::client::ToolboxError;
use sweroll::toolbox::protocol::Op;

pub async fn a_kill_from_outside_is_told(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let first = backend.first_process(&*sandbox).await;
    let mark = backend.mark();
    said(sandbox.toolbox(), &format!("setsid sleep {mark} > /dev/null 2>&1 &")).await;
    let toolbox = sandbox.toolbox().clone();
    let waiting = tokio::spawn(async move { toolbox.call(shell("sleep 60"), b"").await });
    backend.kill(&backend.spec().run, first).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, ToolboxError::Lost(_)), "{error}");
    let fate = sandbox.fate().await;
    assert_eq!((fate.gone, fate.oom, fate.exit_code), (true, false, Some(137)));
    sandbox.destroy().await.unwrap();
    assert!(host::running(&mark).is_empty(), "nothing inside survives it");
    assert_eq!(backend.left(&backend.spec().run).await, Vec::<String>::new());
}

/// Numbers of this process's Unix sockets that can be a toolbox's stream: one of a pair, or accepted at its address.
fn streams() -> BTreeSet<i32> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open: Vec<i32> = open.filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect();
    let is_stream = |fd: &i32| {
        // SAFETY: it is only asked for its names, which fails where it was closed since.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        let Some(own) = getsockname(fd).ok().filter(|name| name.address_family() == AddressFamily::UNIX) else { return false };
        let own = SocketAddrUnix::try_from(own).ok();
        own.is_some_and(|name| name.path_bytes().is_none_or(|path| path.ends_with(b"/s")))
            && getpeername(fd).is_ok_and(|peer| peer.is_some())
    };
    open.into_iter().filter(is_stream).collect()
}

/// The engine lives, but its end of the stream is closed.
pub async fn a_cut_stream_ends_everything(backend: &Backend) {
    if !backend.is_alone() {
        return;
    }
    let before = streams();
    let sandbox = backend.sandbox().await;
    let mark = backend.mark();
    said(sandbox.toolbox(), &format!("setsid sleep {mark} > /dev/null 2>&1 &")).await;
    assert!(host::soon(async || host::running(&mark).len() == 1).await);
    for fd in streams().difference(&before) {
        // SAFETY: no one else runs in this process who could have closed it.
        let _ = rustix::net::shutdown(unsafe { BorrowedFd::borrow_raw(*fd) }, Shutdown::Both);
    }
    sandbox.toolbox().closed().await;
    let lost = sandbox.toolbox().call(Op::Usage, b"").await;
    assert!(matches!(lost, Err(ToolboxError::Lost(_))), "{lost:?}");
    assert!(host::soon(async || host::running(&mark).is_empty()).await, "it survived");
    let fate = sandbox.fate().await;
    assert!(fate.gone && !fate.oom, "{fate:?}");
    sandbox.destroy().await.unwrap();
}

/// Processes that hold files open and sit in directories everywhere, deaf to all that can be caught.
pub async fn busy_mounts_cost_no_wait(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let mark = backend.mark();
    let sit = |dir: &str| format!("(cd '{dir}' && trap '' TERM INT HUP QUIT && exec setsid sleep {mark} > ./held 2>&1 3<> ./open) &\n");
    let dirs: &[&str] = if backend.on == On::Local { &[] } else { &["/root", "/dev/shm", "/tmp", "/usr/share"] };
    let all: String = dirs.iter().copied().chain([sandbox.workdir()]).map(sit).collect();
    said(sandbox.toolbox(), &all).await;
    assert!(host::soon(async || host::running(&mark).len() > dirs.len()).await);
    let start = Instant::now();
    sandbox.destroy().await.unwrap();
    // A daemon that asks first waits ten seconds.
    assert!(start.elapsed().as_secs() < 9, "{:?}", start.elapsed());
    assert!(host::running(&mark).is_empty());
    assert_eq!(backend.left(&backend.spec().run).await, Vec::<String>::new());
}

pub async fn a_dropped_sandbox_goes(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let toolbox = sandbox.toolbox().clone();
    drop(sandbox);
    assert!(backend.goes(&backend.spec().run).await, "{:?}", backend.left(&backend.spec().run).await);
    toolbox.closed().await;
}

pub async fn a_retired_sandbox_goes(backend: &Backend) {
    let mut sandboxes = Vec::new();
    for _ in 0..5 {
        sandboxes.push(backend.sandbox().await);
    }
    for sandbox in sandboxes {
        sandbox.retire().await;
    }
    assert!(backend.goes(&backend.spec().run).await, "{:?}", backend.left(&backend.spec().run).await);
}

pub async fn a_sweep_leaves_live_runs_alone(backend: &Backend) {
    let two = backend.another().await;
    let mut theirs = backend.spec();
    theirs.run.push_str("-theirs");
    let live = two.start(&theirs).await.unwrap();
    let mine = backend.sandbox().await;
    let other = backend.another().await;
    other.sweep("test-of-no-one").await.unwrap();
    read(mine.toolbox(), "/proc/self/status").await;
    read(live.toolbox(), "/proc/self/status").await;
    mine.destroy().await.unwrap();
    live.destroy().await.unwrap();
    assert!(backend.goes(&theirs.run).await);
}
