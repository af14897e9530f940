//! Many sandboxes one after the other, and what is left of them.

use crate::backend::{Backend, On};
use crate::host;
use crate::support::*;
use futures_util::{StreamExt, stream};
use std::time::Instant;

/// What the engine's process and the host hold for it, when nothing is going on.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    processes: usize,
    left: Vec<String>,
}

async fn held(backend: &Backend) -> Held {
    let pid = std::process::id();
    Held {
        descriptors: host::descriptors().len(),
        processes: host::descendants(i32::try_from(pid).unwrap()).len(),
        left: backend.left(&backend.spec().run).await,
    }
}

async fn cycle(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let (_, text) = output(sandbox.toolbox(), exec(&["/proc/self/exe", "--version"])).await;
    assert!(!text.is_empty());
    sandbox.destroy().await.unwrap();
}

pub async fn many_cycles_leave_nothing(backend: &Backend) {
    if !backend.is_alone() {
        return;
    }
    let (count, at_once) = match backend.on {
        On::Docker | On::Attach => (20, 4),
        On::Native => (1000, 8),
        On::Local => (200, 8),
    };
    // The first ones open what stays open, such as connections to the daemon.
    stream::iter(0..at_once).for_each_concurrent(at_once, |_| cycle(backend)).await;
    let before = settled(backend).await;
    let start = Instant::now();
    stream::iter(0..count).for_each_concurrent(at_once, |_| cycle(backend)).await;
    println!("{count} cycles, {at_once} at once: {:.2} s", start.elapsed().as_secs_f64());
    let same = host::soon(async || held(backend).await == before).await;
    assert!(same, "before {before:#?}, after {:#?}, open {:#?}", held(backend).await, host::descriptors());
}

/// Once two looks see the same.
async fn settled(backend: &Backend) -> Held {
    let mut last = held(backend).await;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let now = held(backend).await;
        if now == last {
            return now;
        }
        last = now;
    }
}
