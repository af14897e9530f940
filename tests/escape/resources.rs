//! What one sandbox uses up is its own: the toolbox still answers, and so does the next sandbox.

use crate::support::*;
use std::time::{Duration, Instant};
use sweroll::sandbox::{Limits, Spec};
use sweroll::toolbox::protocol::{End, Op, Run};

fn small(spec: Spec) -> Spec {
    Spec { limits: Limits { memory: 128 << 20, pids: 64, shm: 16 << 20, cpus: 2.0, ..Limits::default() }, ..spec }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_used_up_but_its_own() {
    for place in small_places().await {
        let sandbox = place.provider.start(&small(place.spec("greedy"))).await.unwrap();
        let next = place.provider.start(&small(place.spec("next"))).await.unwrap();
        let mut failed = Vec::new();
        for attempt in table("resources") {
            let one = std::slice::from_ref(&attempt);
            failed.extend(wrong(place.backend, &make(sandbox.toolbox(), one).await, one));
            assert_serves(sandbox.toolbox()).await;
        }
        assert!(failed.is_empty(), "on {:?}:\n{}", place.backend, failed.join("\n"));
        assert_serves(next.toolbox()).await;
        sandbox.destroy().await.unwrap();
        next.destroy().await.unwrap();
    }
}

/// What ignores every signal, and hides from its process group, session and parent, ends with its time.
#[tokio::test(flavor = "multi_thread")]
async fn time_cannot_be_stretched() {
    const STUBBORN: &str = r"
import os, signal, time
for number in set(range(1, 65)) - {9, 19, 32, 33}:
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.environ.clear()
print('started', flush=True)
while True:
    try: time.sleep(1000)
    except BaseException: pass
";
    for place in places().await {
        let sandbox = place.start("time").await;
        let Op::Run(plain) = run(python(STUBBORN)) else { unreachable!() };
        let begun = Instant::now();
        let (end, text) = output(sandbox.toolbox(), Op::Run(Run { deadline_ms: 1000, ..plain })).await;
        assert!(end == End::TimedOut && text.starts_with("started"), "{end:?} {text}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        let (_, left) =
            output(sandbox.toolbox(), run(python("import os; print(len([p for p in os.listdir('/proc') if p.isdigit()]))"))).await;
        assert_eq!(left, "2\n", "{:?}: something outlived the command", place.backend);
        sandbox.destroy().await.unwrap();
    }
}
