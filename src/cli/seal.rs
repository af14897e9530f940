//! `sweroll seal`: a run's records as a dataset that trainers load as it lies.

use super::{
    CliError, Exit, Format, Outcome, block_on,
    counting::{Counts, counted_by, fill},
    options, print, render,
};
use crate::{
    domain::Trajectory,
    store::{
        Counting, Disk, SealError, Sealed, StoreError, Stream, View,
        seal::{self, Progress, Report, Settings},
        sealed::SealedFile,
    },
    tokens::Counter,
};
use clap::Args as ClapArgs;
use serde::Serialize;
use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

const EXAMPLE: &str = "Example:
  sweroll seal runs/first
  python3 -c 'import datasets; print(datasets.load_dataset(\"runs/first\"))'

Writes runs/first/data and runs/first/README.md. The shards of the run stay as they are. A seal that was stopped goes on when it is
repeated; while it works, the dataset that was there before stays.";

#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Directory of the run
    pub dir: PathBuf,
    /// Seal anew though nothing was committed since
    #[arg(long, env = "SWEROLL_FORCE", help_heading = "Output")]
    pub force: bool,
    #[command(flatten)]
    pub counts: Counts,
    #[command(flatten)]
    pub sizes: Sizes,
    /// No progress on stderr
    #[arg(long, short, env = "SWEROLL_QUIET", help_heading = "Output")]
    pub quiet: bool,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

/// Settings of sealing, by flag.
#[derive(Debug, Default, ClapArgs)]
pub struct Sizes {
    /// Records of one frame together, bytes before compression [default: 16777216]
    #[arg(long, value_name = "BYTES", env = "SWEROLL_SEAL_FRAME_BYTES", help_heading = "Sizes")]
    pub frame_bytes: Option<u64>,
    /// Largest shard, bytes before compression [default: 536870912]
    #[arg(long, value_name = "BYTES", env = "SWEROLL_SEAL_SHARD_BYTES", help_heading = "Sizes")]
    pub shard_bytes: Option<u64>,
    /// zstd level, 1 to 19 [default: 9]
    #[arg(long, value_name = "N", env = "SWEROLL_SEAL_LEVEL", help_heading = "Sizes")]
    pub level: Option<i32>,
    /// How far back a match may lie, as a power of two of bytes, 10 to 27 [default: 27]
    #[arg(long, value_name = "N", env = "SWEROLL_SEAL_WINDOW_LOG", help_heading = "Sizes")]
    pub window_log: Option<u32>,
    /// Threads that compress; 0: one a core [default: 0]
    #[arg(long, value_name = "N", env = "SWEROLL_THREADS", help_heading = "Speed")]
    pub threads: Option<usize>,
    /// Memory that the work is fitted to, bytes [default: 805306368]
    #[arg(long, value_name = "BYTES", env = "SWEROLL_SEAL_MEMORY_BYTES", help_heading = "Speed")]
    pub memory_bytes: Option<u64>,
}

impl Sizes {
    #[must_use]
    pub fn over(&self, base: &Settings) -> Settings {
        Settings {
            at_end: base.at_end,
            frame_bytes: self.frame_bytes.unwrap_or(base.frame_bytes),
            shard_bytes: self.shard_bytes.unwrap_or(base.shard_bytes),
            level: self.level.unwrap_or(base.level),
            window_log: self.window_log.unwrap_or(base.window_log),
            threads: self.threads.unwrap_or(base.threads),
            memory_bytes: self.memory_bytes.unwrap_or(base.memory_bytes),
        }
    }
}

pub fn run(args: &Args) -> Outcome {
    let made_with = View::open(&args.dir).map_err(CliError::usage)?.info.settings;
    let settings = options::operate(&made_with, &options::Operation::default())?;
    let counter = args.counts.counter(settings.tokens)?;
    let settings = args.sizes.over(&settings.seal);
    let report = make(&args.dir, &settings, &counter, args.force, args.quiet).map_err(refused)?;
    tell(&args.dir, &report);
    show(&args.dir, &report, args.format, None)
}

fn make(dir: &Path, settings: &Settings, counter: &Counter, force: bool, quiet: bool) -> Result<Report, SealError> {
    let count = |trajectory: &mut Trajectory| fill(counter, trajectory);
    let counting = Counting { by: counted_by(counter), count: Some(&count), recount: true };
    let mut meter = Meter::new(quiet);
    seal::seal(dir, settings, &counting, force, &Disk::default(), &mut |progress| meter.show(progress))
}

/// Seals a run that is done, and says so in a line. The run is whole whatever comes of it. Ctrl-C stops it.
pub fn at_end(dir: &Path, settings: &Settings, counter: Counter, quiet: bool) -> Result<String, CliError> {
    let (at, settings) = (dir.to_owned(), settings.clone());
    let work = move || make(&at, &settings, &counter, false, quiet);
    let sealed = block_on(async {
        let broken = |e| CliError::failed(format!("no signal handler: {e}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
        tokio::select! {
            sealed = tokio::task::spawn_blocking(work) => sealed.map_err(CliError::failed),
            _ = interrupt.recv() => stop(dir),
            _ = terminate.recv() => stop(dir),
        }
    })??;
    let report = match sealed {
        // Every instance was left out, or none was begun.
        Err(SealError::Empty(_)) => return Ok(String::new()),
        sealed => sealed.map_err(|e| {
            CliError::failed(format!("the run is done and whole, but not sealed: {e}\n`sweroll seal {}` does it", dir.display()))
        })?,
    };
    own_card(dir, &report);
    let total = total(&report.sealed.files);
    let [rows, raw, bytes] = [total.rows, total.raw_bytes, total.bytes].map(render::grouped);
    Ok(format!("sealed {rows} records of {raw} bytes in {bytes} bytes ({}x): {}\n", ratio(&total), Sealed::data(dir).display()))
}

/// A sealing that is stopped at any point goes on later: nothing has to be put in order.
fn stop(dir: &Path) -> ! {
    eprintln!("\nsweroll: the run is done and whole, but not sealed: `sweroll seal {}` goes on", dir.display());
    std::process::exit(Exit::Killed as i32);
}

pub fn refused(error: SealError) -> CliError {
    match error {
        SealError::Store(StoreError::Io { .. } | StoreError::Damaged { .. }) => CliError::failed(error),
        other => CliError::usage(other),
    }
}

/// Notes for people, beside the result.
pub fn tell(dir: &Path, report: &Report) {
    if !report.made {
        eprintln!("sweroll: {} is current (--force makes it anew)", Sealed::data(dir).display());
    }
    if report.kept > 0 {
        eprintln!("sweroll: {} shards were finished by an earlier seal and kept", report.kept);
    }
    own_card(dir, report);
}

fn own_card(dir: &Path, report: &Report) {
    if !report.card {
        let path = dir.join("README.md");
        eprintln!(
            "sweroll: {} is not sweroll's and stays as it is; `configs` in its YAML have to name data/trajectories-*.jsonl.zst",
            path.display()
        );
    }
}

/// Version of the JSON; raised when a key changes its meaning or type.
const JSON_VERSION: u32 = 1;

#[derive(Serialize)]
struct Json<'r> {
    schema_version: u32,
    dir: &'r Path,
    /// False: it was current.
    made: bool,
    /// Of a merge: records that were left out as duplicates, and those with a new sample number.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renumbered: Option<u64>,
    sealed: &'r Sealed,
}

pub fn show(dir: &Path, report: &Report, format: Format, merged: Option<(u64, u64)>) -> Outcome {
    if matches!(format, Format::Json) {
        let (dropped, renumbered) = merged.unzip();
        return print(&render::json(&Json {
            schema_version: JSON_VERSION,
            dir,
            made: report.made,
            dropped,
            renumbered,
            sealed: &report.sealed,
        }));
    }
    let head = ["file", "rows", "resolved", "tokens", "trained", "frames", "bytes", "raw bytes", "ratio"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.sealed.files.iter().map(row));
    if report.sealed.files.len() != 1 {
        rows.push(row(&total(&report.sealed.files)));
    }
    print(&format!("{}\nnext: sweroll verify {}\n", render::table(&rows), dir.display()))
}

fn total(files: &[SealedFile]) -> SealedFile {
    let mut total = SealedFile::new("total".to_owned(), Stream::Trajectories);
    for file in files {
        total.rows += file.rows;
        total.resolved += file.resolved;
        total.tokens += file.tokens;
        total.loss_tokens += file.loss_tokens;
        total.frames += file.frames;
        total.bytes += file.bytes;
        total.raw_bytes += file.raw_bytes;
    }
    total
}

fn row(file: &SealedFile) -> Vec<String> {
    let numbers = [file.rows, file.resolved, file.tokens, file.loss_tokens, file.frames, file.bytes, file.raw_bytes];
    [file.file.clone()].into_iter().chain(numbers.map(render::grouped)).chain([ratio(file)]).collect()
}

fn ratio(file: &SealedFile) -> String {
    format!("{:.1}", file.raw_bytes as f64 / file.bytes.max(1) as f64)
}

/// One line on a terminal that says how far it is.
pub struct Meter {
    began: Instant,
    shown: Option<Instant>,
    live: bool,
}

const REDRAW: Duration = Duration::from_millis(200);

impl Meter {
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Meter { began: Instant::now(), shown: None, live: !quiet && std::io::stderr().is_terminal() }
    }

    pub fn show(&mut self, Progress { done, total }: Progress) {
        let due = self.shown.unwrap_or(self.began).elapsed() >= REDRAW;
        if !self.live || !(due || done == total && self.shown.is_some()) {
            return;
        }
        self.shown = Some(Instant::now());
        let (megabytes, seconds) = (done / 1_000_000, self.began.elapsed().as_secs_f64());
        let text = format!("\rsealing: {megabytes} of {} MB, {:.0} MB/s ", total / 1_000_000, done as f64 / 1e6 / seconds.max(0.001));
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.shown.is_some() {
            eprintln!();
        }
    }
}
