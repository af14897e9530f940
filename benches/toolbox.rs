//! One command through the toolbox against one `docker exec`, in one run: `cargo bench --bench toolbox`.
//!
//! `SWEROLL_BENCH_IMAGE` names an image that has `true` (default `sdist/base:1`). Processor time is the whole machine's
//! (`/proc/stat`), since most of an exec is spent in the daemon's processes: run it on a quiet machine.

use bollard::exec::{CreateExecOptions, StartExecResults};
use futures_util::StreamExt;
use std::time::{Duration, Instant};
use sweroll::{
    sandbox::{Docker, Limits, Provider, Purpose, Spec, docker},
    toolbox::protocol::{Command, Op, Run},
};

const CALLS: usize = 300;
const EXECS: usize = 60;

#[tokio::main]
async fn main() {
    let image = std::env::var("SWEROLL_BENCH_IMAGE").unwrap_or_else(|_| "sdist/base:1".to_owned());
    let settings = docker::Settings { toolbox_path: Some(env!("CARGO_BIN_EXE_sweroll").into()), ..docker::Settings::default() };
    let docker = Docker::connect(settings).await.expect("a Docker daemon");
    let run = format!("bench-{}", std::process::id());
    let spec = Spec {
        run: run.clone(),
        attempt: "bench@0.1".parse().expect("an id"),
        purpose: Purpose::Agent,
        image,
        workdir: "/".to_owned(),
        limits: Limits::default(),
        keep: false,
        upon: None,
    };
    let sandbox = docker.start(&spec).await.expect("a sandbox");
    let toolbox = sandbox.toolbox();
    let call = |what: Command, session: bool| async move {
        let run = Run { what, session, cwd: None, env: Vec::new(), deadline_ms: 60_000, output_cap: 1 << 20, report_cap: 0 };
        toolbox.call(Op::Run(run), b"").await.expect("an answer");
    };
    let none = measure(CALLS, async || drop(toolbox.call(Op::Usage, b"").await)).await;
    let exec = measure(CALLS, async || call(Command::Exec(vec!["true".to_owned()]), false).await).await;
    let shell = measure(CALLS, async || call(Command::Shell("true".to_owned()), true).await).await;

    let daemon = bollard::Docker::connect_with_local_defaults().expect("a daemon").negotiate_version().await.expect("a version");
    let label = format!("sweroll.run={run}");
    let filter = std::collections::HashMap::from([("label".to_owned(), vec![label])]);
    let options = bollard::query_parameters::ListContainersOptions { filters: Some(filter), ..Default::default() };
    let listed = daemon.list_containers(Some(options)).await.expect("a list");
    let id = listed[0].id.clone().expect("an id");
    let by_daemon = measure(EXECS, async || docker_exec(&daemon, &id).await).await;
    sandbox.destroy().await.expect("an end");

    println!("| one command of `true` | p50 ms | CPU ms | exec / this: p50 | CPU |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (name, m) in
        [("toolbox, usage counters only", none), ("toolbox, no shell", exec), ("toolbox, session shell", shell), ("docker exec", by_daemon)]
    {
        let (slower, costlier) = (by_daemon.p50 / m.p50, by_daemon.cpu / m.cpu);
        println!("| {name} | {:.2} | {:.2} | {slower:.0} | {costlier:.0} |", m.p50, m.cpu);
    }
}

async fn docker_exec(daemon: &bollard::Docker, id: &str) {
    let options = CreateExecOptions { cmd: Some(vec!["true"]), attach_stdout: Some(true), attach_stderr: Some(true), ..Default::default() };
    let exec = daemon.create_exec(id, options).await.expect("an exec").id;
    if let StartExecResults::Attached { mut output, .. } = daemon.start_exec(&exec, None).await.expect("a start") {
        while output.next().await.is_some() {}
    }
    daemon.inspect_exec(&exec).await.expect("an exit code");
}

#[derive(Clone, Copy)]
struct Measured {
    /// Milliseconds.
    p50: f64,
    cpu: f64,
}

async fn measure(times: usize, mut once: impl AsyncFnMut()) -> Measured {
    for _ in 0..10 {
        once().await;
    }
    let (mut took, busy) = (Vec::with_capacity(times), machine_busy());
    for _ in 0..times {
        let began = Instant::now();
        once().await;
        took.push(began.elapsed());
    }
    took.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    Measured { p50: ms(took[times / 2]), cpu: ms(machine_busy().saturating_sub(busy)) / times as f64 }
}

/// Time that all processors together were not idle, from the first line of `/proc/stat` in hundredths of a second.
fn machine_busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").expect("/proc/stat");
    let fields: Vec<u64> = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    let busy: u64 = fields.iter().enumerate().filter(|(i, _)| ![3, 4].contains(i)).map(|(_, n)| n).take(8).sum();
    Duration::from_millis(busy * 10)
}
