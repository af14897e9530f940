//! A synthetic run of many gigabytes, and what each command on it costs beside compression alone:
//! `cargo bench --bench bulk -- --gigabytes 10`. Every step is a process of its own; one table comes out.

mod chance;
mod corpus;
mod episode;
mod floor;
mod generate;
mod measure;

use clap::{Parser, Subcommand};
use floor::Zstd;
use measure::Cost;
use std::{
    collections::VecDeque,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use sweroll::{
    domain::Trajectory,
    tokens::{FeedError, FeedSettings, Target, feed, template},
};

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Of records, before compression, in the run; merge joins a tenth of it
    #[arg(long, default_value_t = 10.0)]
    gigabytes: f64,
    /// Where to work; half as many gigabytes must be free
    #[arg(long, default_value = "target/bulk")]
    dir: PathBuf,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory whose folders hold source text; else the crates that this one is built of
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Threads of the floors and of the making; the commands take all cores
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Only these steps, such as seal,verify
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Times that each step is measured; the shortest counts
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Leave the run and what was made of it on the disk; it is used again by the next call
    #[arg(long)]
    keep: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// The parts that are processes of their own.
#[derive(Debug, Subcommand)]
enum Part {
    Generate {
        dir: PathBuf,
        gigabytes: f64,
    },
    /// Decompresses and, with a level, compresses again
    Floor {
        dir: PathBuf,
        #[arg(long)]
        level: Option<i32>,
        #[arg(long)]
        window: Option<u32>,
    },
    /// Conversations of shards as rendered texts, each a JSON string a line, on standard output
    Texts {
        shards: Vec<PathBuf>,
    },
}

fn main() {
    let args = Args::parse();
    match &args.part {
        Some(Part::Generate { dir, gigabytes }) => generate::generate(dir, *gigabytes, args.seed, args.corpus.as_deref(), args.threads),
        Some(Part::Floor { dir, level, window }) => {
            let again = level.map(|level| Zstd { level, window: *window });
            let (raw, compressed) = floor::run(dir, args.threads, again);
            eprintln!("{:.3} GB raw, {:.3} GB compressed", raw as f64 / 1e9, compressed as f64 / 1e9);
        }
        Some(Part::Texts { shards }) => texts(shards).expect("shards"),
        None => table(&args),
    }
}

/// A step of the table: what is run, what comes out, and which earlier step is its floor.
struct Step {
    name: &'static str,
    floor: Option<&'static str>,
    command: Command,
    /// Removed before, weighed after.
    out: Option<PathBuf>,
    /// Bytes of the records that go in, before compression.
    raw: u64,
}

fn table(args: &Args) {
    let dir = args.dir.as_path();
    let (run, other) = (dir.join("bulk-run"), dir.join("bulk-tenth"));
    fs::create_dir_all(dir).expect("a directory");
    for (run, gigabytes, seed) in [(&run, args.gigabytes, args.seed), (&other, args.gigabytes / 10.0, args.seed + 1)] {
        if !run.join("manifest.json").exists() {
            let _ = fs::remove_dir_all(run);
            let mut make = this(args);
            make.args(["--seed", &seed.to_string(), "generate"]).arg(run).arg(gigabytes.to_string());
            let cost = measure::run(&mut make).expect("a run");
            eprintln!("{} made in {:.0} s, {:.0} s of processors, {} MB", run.display(), cost.wall, cost.cpu, cost.peak >> 20);
        }
    }
    let raw = raw_bytes(&run);
    let mut done: Vec<Done> = Vec::new();
    let load = load();
    let mut coming = VecDeque::from(steps(args, &run, &other, dir));
    while let Some(mut step) = coming.pop_front() {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == step.name) {
            continue;
        }
        let mut best: Option<Cost> = None;
        for _ in 0..args.times {
            if let Some(out) = &step.out {
                let _ = fs::remove_dir_all(out);
            }
            step.command.stdin(Stdio::null()).stdout(Stdio::null());
            let cost = measure::run(&mut step.command).unwrap_or_else(|e| panic!("{}: {e}", step.name));
            eprintln!("{}: {cost:?}", step.name);
            best = Some(best.filter(|best| best.wall <= cost.wall).unwrap_or(cost));
        }
        let weight = step.out.as_deref().map(weigh);
        let is_read = |out: &Path| coming.iter().any(|step| step.command.get_args().any(|path| out.starts_with(path)));
        if let Some(out) = step.out.as_deref().filter(|out| !args.keep && !is_read(out)) {
            let _ = fs::remove_dir_all(out);
        }
        done.extend(best.map(|cost| (step, cost, weight)));
    }
    if !args.keep {
        [&run, &other, &dir.join("openai")].iter().for_each(|made| drop(fs::remove_dir_all(made)));
        let _ = fs::remove_dir(dir);
    }
    println!(
        "{} threads, {:.2} GB of records before compression, load {load} before and {} after\n",
        args.threads,
        raw as f64 / 1e9,
        self::load()
    );
    show(&done);
}

/// A step, what it cost, and the bytes that came out.
type Done = (Step, Cost, Option<u64>);

fn show(done: &[Done]) {
    println!("| step | wall s | MB/s | CPU s | MB/s a core | peak MB | out MB | wall / floor | CPU / floor |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (step, cost, weight) in done {
        let floor = step.floor.and_then(|floor| done.iter().find(|(step, ..)| step.name == floor));
        let per_byte = |step: &Step, value: f64| value / step.raw as f64;
        let ratio = |of: fn(&Cost) -> f64| {
            floor.map_or(String::new(), |(floor, least, _)| format!("{:.2}", per_byte(step, of(cost)) / per_byte(floor, of(least))))
        };
        println!(
            "| {} | {:.1} | {:.0} | {:.1} | {:.0} | {:.0} | {} | {} | {} |",
            step.name,
            cost.wall,
            step.raw as f64 / 1e6 / cost.wall,
            cost.cpu,
            step.raw as f64 / 1e6 / cost.cpu,
            cost.peak as f64 / 1e6,
            weight.map_or(String::new(), |bytes| format!("{}", bytes / 1_000_000)),
            ratio(|c| c.wall),
            ratio(|c| c.cpu)
        );
    }
}

fn steps(args: &Args, run: &Path, other: &Path, dir: &Path) -> Vec<Step> {
    let sweroll = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sweroll"));
        command.args(words);
        command
    };
    let with = |mut command: Command, paths: &[&Path]| {
        command.args(paths);
        command
    };
    let floor = |of: PathBuf, words: &[&str]| {
        let mut command = this(args);
        command.arg("floor").arg(of).args(words);
        command
    };
    let seal_like = ["--level", "9", "--window", "27"];
    let to = |name: &str| dir.join(name);
    let export = |form: &str, more: &[&str]| with(sweroll(&[&["export", "--to", form], more, &["--out"]].concat()), &[&to(form), run]);
    let (raw, tenth) = (raw_bytes(run), raw_bytes(other));
    let step = |name, floor, command, out| Step { name, floor, command, out, raw };
    vec![
        step("seal", Some("compress"), with(sweroll(&["seal", "--quiet"]), &[run]), Some(run.join("data"))),
        step("compress", None, floor(run.join("data"), &seal_like), None),
        step("read", None, floor(run.join("data"), &[]), None),
        step("verify", Some("compress"), with(sweroll(&["verify"]), &[run]), None),
        step("tokens", Some("compress"), with(sweroll(&["tokens"]), &[run]), None),
        step("tokens --check", Some("compress"), with(sweroll(&["tokens", "--check"]), &[run]), None),
        step("export openai", Some("compress openai"), export("openai", &[]), Some(to("openai"))),
        step("compress openai", None, floor(to("openai"), &seal_like), None),
        step("export trl parquet", Some("compress openai"), export("trl", &["--container", "parquet"]), Some(to("trl"))),
        Step { raw: tenth, ..step("seal the other", None, with(sweroll(&["seal", "--quiet"]), &[other]), Some(other.join("data"))) },
        Step {
            raw: raw + tenth,
            ..step(
                "merge",
                Some("compress"),
                with(sweroll(&["merge", "--quiet", "--out"]), &[&to("merged"), run, other]),
                Some(to("merged")),
            )
        },
    ]
}

/// Processes that wanted a core in the last minute.
fn load() -> String {
    fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next().map(str::to_owned)).unwrap_or_default()
}

/// This program again, with the same settings.
fn this(args: &Args) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args(["--threads", &args.threads.to_string()]);
    if let Some(corpus) = &args.corpus {
        command.arg("--corpus").arg(corpus);
    }
    command
}

fn raw_bytes(run: &Path) -> u64 {
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(run.join("manifest.json")).expect("a manifest")).expect("JSON");
    manifest["shards"].as_array().expect("shards").iter().filter_map(|shard| shard["raw_bytes"].as_u64()).sum()
}

fn weigh(path: &Path) -> u64 {
    let of = |path: PathBuf| if path.is_dir() { weigh(&path) } else { path.metadata().map_or(0, |meta| meta.len()) };
    if path.is_dir() { fs::read_dir(path).into_iter().flatten().flatten().map(|entry| of(entry.path())).sum() } else { of(path.to_owned()) }
}

fn texts(shards: &[PathBuf]) -> Result<(), FeedError> {
    let sources = feed::shards(shards)?;
    let out = std::io::stdout();
    feed::feed(
        &sources,
        &FeedSettings::default(),
        |batch| {
            let mut lines = Vec::new();
            for (number, record) in batch.records() {
                let trajectory = Trajectory::parse(record).map_err(|e| batch.wrong(number, "", e))?;
                let text = template::render(Target::default(), &trajectory.messages, &trajectory.tools);
                let text = text.map_err(|e| batch.wrong(number, &trajectory.trajectory_id.to_string(), e))?;
                serde_json::to_writer(&mut lines, &text).expect("a string");
                lines.push(b'\n');
            }
            Ok(lines)
        },
        |lines: Vec<u8>| out.lock().write_all(&lines).map_err(|source| FeedError::Read { path: "standard output".into(), source }),
    )
}
