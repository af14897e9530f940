//! What a sandbox costs on each backend, in one run: `cargo bench --bench sandboxes -- --backend docker --backend native`.
//!
//! A cycle is start to the first result of a command (`true`), and stop to nothing left. The backends take turns, round by round;
//! of each number the median of the rounds counts. Options, each with a value:
//! `--backend NAME` (repeatable; docker, native, native-memory, local; the first two), `--at-once N` (repeatable; 1, 8, 64), `--cycles N` (a round, at least as many as
//! at once; 64, Docker a quarter), `--rounds N` (3), `--idle N` (100; 0: none), `--alive N` (instead of all that: holds N at once and
//! has each answer), `--image NAME` (`sdist/base:1`), `--store DIR` (of images, for native), `--command TEXT` (a shell command
//! instead of `true`), `--json FILE`.
//!
//! Processor time is the engine's, its descendants', and of Docker that of the control groups of its daemons, with the containers'
//! where those are below; where the daemons have none of their own it is the whole machine's, which must be quiet then.

mod measure;

use futures_util::StreamExt;
use measure::{Daemons, Memory, median};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sweroll::images;
use sweroll::sandbox::native::{self, Native, Upper};
use sweroll::sandbox::{Docker, Limits, Local, Provider, Purpose, Sandbox, Spec, docker, local};
use sweroll::toolbox::protocol::{Answer, Command, End, Op, Run};

/// Started or stopped at once where many are held.
const TOGETHER: usize = 16;

struct Arguments {
    backends: Vec<String>,
    at_once: Vec<usize>,
    cycles: usize,
    rounds: usize,
    idle: usize,
    alive: usize,
    image: String,
    store: Option<PathBuf>,
    command: Command,
    json: Option<PathBuf>,
}

impl Arguments {
    fn parse() -> Self {
        let mut arguments = Arguments {
            backends: Vec::new(),
            at_once: Vec::new(),
            cycles: 64,
            rounds: 3,
            idle: 100,
            alive: 0,
            image: "sdist/base:1".to_owned(),
            store: None,
            command: Command::Exec(vec!["true".to_owned()]),
            json: None,
        };
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let (Some(option), Some(value)) = (words.next(), words.next()) {
            let number = || value.parse().unwrap_or_else(|_| panic!("{option} takes a number"));
            match option.as_str() {
                "--backend" => arguments.backends.push(value),
                "--at-once" => arguments.at_once.push(number()),
                "--cycles" => arguments.cycles = number(),
                "--rounds" => arguments.rounds = number(),
                "--idle" => arguments.idle = number(),
                "--alive" => arguments.alive = number(),
                "--image" => arguments.image = value,
                "--store" => arguments.store = Some(value.into()),
                "--command" => arguments.command = Command::Shell(value),
                "--json" => arguments.json = Some(value.into()),
                other => panic!("unknown option {other}"),
            }
        }
        if arguments.backends.is_empty() {
            arguments.backends = vec!["docker".to_owned(), "native".to_owned()];
        }
        if arguments.at_once.is_empty() {
            arguments.at_once = vec![1, 8, 64];
        }
        arguments
    }
}

struct Backend {
    name: String,
    provider: Arc<dyn Provider>,
    spec: Spec,
    command: Command,
    /// Whose processor time and memory are its too.
    daemons: Daemons,
}

impl Backend {
    async fn connect(name: &str, arguments: &Arguments) -> Self {
        let toolbox_path = Some(PathBuf::from(env!("CARGO_BIN_EXE_sweroll")));
        let mut daemons = Daemons::none();
        let provider: Arc<dyn Provider> = match name {
            "docker" => {
                daemons = Daemons::find();
                Arc::new(Docker::connect(docker::Settings { toolbox_path, ..Default::default() }).await.expect("a Docker daemon"))
            }
            "native" | "native-memory" => {
                let upper = if name == "native" { Upper::Auto } else { Upper::Memory };
                let images = images::Settings { dir: arguments.store.clone(), ..Default::default() };
                let settings = native::Settings { toolbox_path, upper, ..Default::default() };
                let native = Native::start_up(settings, images).await.unwrap_or_else(|failure| panic!("{failure}"));
                if !native.has(&arguments.image).expect("an image store") {
                    import(arguments);
                }
                Arc::new(native)
            }
            "local" => Arc::new(Local::new(local::Settings { toolbox_path, ..Default::default() })),
            other => panic!("no backend {other}: docker, native, native-memory, local"),
        };
        let spec = Spec {
            run: format!("bench-{}", std::process::id()),
            attempt: "bench@0.1".parse().expect("an id"),
            purpose: Purpose::Agent,
            image: arguments.image.clone(),
            workdir: "/".to_owned(),
            limits: Limits::default(),
            keep: false,
            upon: None,
        };
        Backend { name: name.to_owned(), provider, spec, command: arguments.command.clone(), daemons }
    }

    /// Until its first result.
    async fn start(&self) -> Box<dyn Sandbox> {
        let sandbox = self.provider.start(&self.spec).await.unwrap_or_else(|failure| panic!("{}: {failure}", self.name));
        self.answer(&*sandbox).await;
        sandbox
    }

    /// Has it run the command.
    async fn answer(&self, sandbox: &dyn Sandbox) {
        let what = self.command.clone();
        let run = Run { what, session: false, cwd: None, env: Vec::new(), deadline_ms: 60_000, output_cap: 1 << 10, report_cap: 0 };
        let (answer, output) = sandbox.toolbox().call(Op::Run(run), b"").await.expect("an answer");
        let done = matches!(&answer, Answer::Ran(ran) if ran.end == End::Exited(0));
        assert!(done, "{answer:?}: {}", String::from_utf8_lossy(&output));
    }

    async fn hold(&self, count: usize) -> Vec<Box<dyn Sandbox>> {
        futures_util::stream::iter(0..count).map(|_| self.start()).buffer_unordered(TOGETHER).collect().await
    }

    async fn round(&self, cycles: usize, at_once: usize) -> Round {
        let (cpu, begun) = (self.cpu(), Instant::now());
        let cycle = |_| async {
            let from = Instant::now();
            let sandbox = self.start().await;
            let started = from.elapsed();
            sandbox.destroy().await.expect("an end");
            (started, from.elapsed())
        };
        let mut took: Vec<(Duration, Duration)> =
            futures_util::stream::iter(0..cycles).map(cycle).buffer_unordered(at_once).collect().await;
        let wall = begun.elapsed();
        if self.daemons.is_any() {
            // What they do after they said that it is gone.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let cpu = self.cpu() - cpu;
        took.sort();
        let first_result = took[cycles / 2].0;
        let mut whole: Vec<Duration> = took.into_iter().map(|(_, whole)| whole).collect();
        whole.sort();
        Round {
            starts: cycles as f64 / wall.as_secs_f64(),
            first_result: ms(first_result),
            whole: ms(whole[cycles / 2]),
            cpu: cpu * 1000.0 / cycles as f64,
        }
    }

    /// Seconds.
    fn cpu(&self) -> f64 {
        measure::own_cpu() + self.daemons.cpu()
    }

    fn memory(&self) -> Memory {
        Memory::now(&self.daemons)
    }
}

/// Milliseconds, but for starts a second.
#[derive(Debug, Clone, Copy)]
struct Round {
    starts: f64,
    first_result: f64,
    whole: f64,
    cpu: f64,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let mut backends = Vec::new();
    for name in &arguments.backends {
        backends.push(Backend::connect(name, &arguments).await);
    }
    let mut report = json!({ "machine": measure::machine(), "image": arguments.image });
    if arguments.alive > 0 {
        report["alive"] = alive(&backends, arguments.alive).await;
    } else {
        for backend in &backends {
            let _ = backend.round(8, 4).await;
        }
        report["cycles"] = cycles(&backends, &arguments).await;
        if arguments.idle > 0 {
            report["idle"] = idle(&backends, &arguments).await;
        }
    }
    report["load_at_end"] = measure::load().into();
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report).expect("a report")).expect("a file to write");
    }
}

async fn cycles(backends: &[Backend], arguments: &Arguments) -> serde_json::Value {
    println!(
        "| at once | backend | starts a second | to the first result, ms | cycle, ms | CPU ms a cycle | starts / docker's | CPU / docker's |"
    );
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut report = Vec::new();
    for &at_once in &arguments.at_once {
        let mut rounds: Vec<Vec<Round>> = backends.iter().map(|_| Vec::new()).collect();
        for _ in 0..arguments.rounds {
            for (backend, rounds) in backends.iter().zip(&mut rounds) {
                let cycles = if backend.name == "docker" { arguments.cycles / 4 } else { arguments.cycles };
                rounds.push(backend.round(cycles.max(at_once), at_once).await);
            }
        }
        let of = |rounds: &[Round], part: fn(&Round) -> f64| median(rounds.iter().map(part).collect());
        let base = backends.iter().zip(&rounds).find(|(backend, _)| backend.name == "docker");
        let base = base.map(|(_, rounds)| (of(rounds, |r| r.starts), of(rounds, |r| r.cpu)));
        for (backend, rounds) in backends.iter().zip(&rounds) {
            let [starts, first, whole, cpu] =
                [|r: &Round| r.starts, |r: &Round| r.first_result, |r: &Round| r.whole, |r: &Round| r.cpu].map(|part| of(rounds, part));
            let name = &backend.name;
            let ratios = base.map_or(" | ".to_owned(), |(s, c)| format!("{:.1} | {:.3}", starts / s, cpu / c));
            println!("| {at_once} | {name} | {starts:.1} | {first:.1} | {whole:.1} | {cpu:.2} | {ratios} |");
            let all: Vec<_> = rounds.iter().map(|r| json!([r.starts, r.first_result, r.whole, r.cpu])).collect();
            report
                .push(json!({ "at_once": at_once, "backend": name, "starts_a_second": starts, "first_result_ms": first, "cycle_ms": whole,
                "cpu_ms": cpu, "rounds": all }));
        }
    }
    report.into()
}

async fn idle(backends: &[Backend], arguments: &Arguments) -> serde_json::Value {
    println!("\n| {} idle | PSS KB each | kernel KB each | MemAvailable KB each | PSS / docker's |", arguments.idle);
    println!("| --- | ---: | ---: | ---: | ---: |");
    let mut found: Vec<Vec<[f64; 3]>> = backends.iter().map(|_| Vec::new()).collect();
    for _ in 0..arguments.rounds {
        for (backend, found) in backends.iter().zip(&mut found) {
            let before = backend.memory();
            let sandboxes = backend.hold(arguments.idle).await;
            // Threads without work end by then.
            tokio::time::sleep(Duration::from_secs(12)).await;
            found.push(backend.memory().since(&before, arguments.idle));
            end(sandboxes).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
    let of = |found: &[[f64; 3]], which: usize| median(found.iter().map(|row| row[which]).collect());
    let base = backends.iter().zip(&found).find(|(backend, _)| backend.name == "docker").map(|(_, found)| of(found, 0));
    let mut report = Vec::new();
    for (backend, found) in backends.iter().zip(&found) {
        let [pss, kernel, available] = [0, 1, 2].map(|which| of(found, which));
        let ratio = base.map_or(String::new(), |base| format!("{:.2}", pss / base));
        println!("| {} | {pss:.0} | {kernel:.0} | {available:.0} | {ratio} |", backend.name);
        report.push(json!({ "backend": backend.name, "pss_kb": pss, "kernel_kb": kernel, "available_kb": available, "rounds": found }));
    }
    report.into()
}

async fn alive(backends: &[Backend], count: usize) -> serde_json::Value {
    println!(
        "| backend | alive at once | started in s | each answered, all in s | PSS KB each | kernel KB each | MemAvailable KB each | ended in s |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut report = Vec::new();
    for backend in backends {
        let (before, begun) = (backend.memory(), Instant::now());
        let sandboxes = backend.hold(count).await;
        let started = begun.elapsed().as_secs_f64();
        let asked = Instant::now();
        futures_util::stream::iter(&sandboxes).map(|sandbox| backend.answer(&**sandbox)).buffer_unordered(64).collect::<Vec<()>>().await;
        let answered = asked.elapsed().as_secs_f64();
        tokio::time::sleep(Duration::from_secs(12)).await;
        let [pss, kernel, available] = backend.memory().since(&before, count);
        let ending = Instant::now();
        end(sandboxes).await;
        let ended = ending.elapsed().as_secs_f64();
        let name = &backend.name;
        println!("| {name} | {count} | {started:.1} | {answered:.2} | {pss:.0} | {kernel:.0} | {available:.0} | {ended:.1} |");
        report.push(
            json!({ "backend": name, "count": count, "started_s": started, "answered_s": answered, "pss_kb": pss, "kernel_kb": kernel,
            "available_kb": available, "ended_s": ended }),
        );
    }
    report.into()
}

async fn end(sandboxes: Vec<Box<dyn Sandbox>>) {
    let ended = futures_util::stream::iter(sandboxes).map(Sandbox::destroy).buffer_unordered(TOGETHER);
    ended.for_each(|ended| async { ended.expect("an end") }).await;
}

/// From the Docker daemon into the store.
fn import(arguments: &Arguments) {
    let mut saved = std::process::Command::new("docker")
        .args(["save", &arguments.image])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the docker command, for the image");
    let mut import = std::process::Command::new(env!("CARGO_BIN_EXE_sweroll"));
    import.args(["images", "import", "-"]).stdin(saved.stdout.take().expect("its output")).stdout(std::process::Stdio::null());
    if let Some(store) = &arguments.store {
        import.arg("--store").arg(store);
    }
    assert!(import.status().expect("the program").success() && saved.wait().expect("its end").success(), "no image {}", arguments.image);
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
