//! `sweroll bench`: what sweroll itself costs, on this machine.

mod all;
mod files;
mod images;
mod limits;
mod schedule;
mod store;
mod tokens;

use super::{CliError, Outcome, print, render};
use crate::bench::{
    episodes::{self, Plan, Report},
    machine::Machine,
    place::Place,
};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};

const EXAMPLE: &str = "Example:
  sweroll bench --concurrency 1000 --turns 30 --format json

Needs no Docker, key or network: the endpoint is another process of sweroll's, the sandboxes are made up.
docs/performance.md says how each figure is taken.";

#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    live: Live,
    /// Where to work; kept [default: a temporary directory, which goes]
    #[arg(long, value_name = "DIR", env = "SWEROLL_BENCH_DIR", help_heading = "Output")]
    dir: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

/// What else can be measured or simulated.
#[derive(Debug, Subcommand)]
enum What {
    /// Every bound with its figure, as a table; exit code 1 where one is missed
    All(all::Args),
    /// Begin, go on with and sum up large runs: seconds and memory
    Files(files::Args),
    /// Commit records by many at once: what a commit costs, and how fast shards are written
    Store(store::Args),
    /// Count tokens, beside Hugging Face's `tokenizers` where a Python has it
    Tokens(tokens::Args),
    /// Simulate the limits of requests and tokens a minute: kept full, brown-outs, several processes, replicas
    Limits(limits::Args),
    /// Simulate a run's images on its disk: fetched ahead, each once, and removed when no episode needs it
    Images(images::Args),
    /// Simulate a day of the scheduler: failures, stragglers, brown-outs, drains, with what each step costs
    Schedule(schedule::Args),
}

/// The episodes.
#[derive(Debug, Clone, ClapArgs)]
struct Live {
    /// Live episodes at once
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000), env = "SWEROLL_CONCURRENCY", help_heading = "Episodes")]
    concurrency: u32,
    /// Turns of each
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000), env = "SWEROLL_TURNS", help_heading = "Episodes")]
    turns: u32,
    /// Episodes in all [default: as many as are live at once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000), env = "SWEROLL_EPISODES", help_heading = "Episodes")]
    episodes: Option<u64>,
    /// Median seconds of a reply
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds, env = "SWEROLL_LATENCY", help_heading = "Episodes")]
    latency: f64,
    /// Spread of replies' seconds: sigma of a log-normal distribution
    #[arg(long, value_name = "X", default_value_t = 0.5, value_parser = seconds, env = "SWEROLL_LATENCY_SIGMA", help_heading = "Episodes")]
    latency_sigma: f64,
    /// Tokens that an episode's context grows by, over all its turns
    #[arg(long, value_name = "TOKENS", default_value_t = 30_000, env = "SWEROLL_BENCH_CONTEXT", help_heading = "Episodes")]
    context: u64,
    /// Milliseconds of a tool call
    #[arg(long, value_name = "N", default_value_t = 20, env = "SWEROLL_DELAY_MS", help_heading = "Episodes")]
    delay_ms: u64,
    /// Processors of the engine; the endpoint has the others, if there are any. 0: both have all
    #[arg(long, value_name = "N", default_value_t = 2, env = "SWEROLL_CORES", help_heading = "Episodes")]
    cores: usize,
    /// Decides the latencies
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_SEED", help_heading = "Episodes")]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n| (0.0..=3600.0).contains(n)).ok_or_else(|| format!("{text:?} is no number from 0 to 3600"))
}

impl Live {
    fn plan(&self) -> Plan {
        Plan {
            concurrency: self.concurrency as usize,
            turns: self.turns,
            episodes: self.episodes.unwrap_or(u64::from(self.concurrency)),
            latency_s: self.latency,
            latency_sigma: self.latency_sigma,
            context_tokens: self.context,
            delay_ms: self.delay_ms,
            cores: self.cores,
            seed: self.seed,
        }
    }
}

fn place(given: Option<&Path>) -> Result<Place, CliError> {
    let dir = given.map_or_else(std::env::temp_dir, Path::to_owned);
    Place::make(given).map_err(|e| CliError::failed(format!("{}: {e}: give a new directory by --dir", dir.display())))
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::failed(error)
}

/// What makes figures worthless.
fn made(machine: &Machine) -> &'static str {
    if machine.optimised { "" } else { " A build without optimisation: these figures mean nothing." }
}

pub fn run(args: &Args) -> Outcome {
    match &args.what {
        Some(What::All(args)) => all::run(args),
        Some(What::Files(args)) => files::run(args),
        Some(What::Store(args)) => store::run(args),
        Some(What::Tokens(args)) => tokens::run(args),
        Some(What::Limits(args)) => limits::run(args),
        Some(What::Images(args)) => images::run(args),
        Some(What::Schedule(args)) => schedule::run(args),
        None => live(args),
    }
}

fn live(args: &Args) -> Outcome {
    let place = place(args.dir.as_deref())?;
    let report = episodes::measure(&args.live.plan(), place.dir()).map_err(failed)?;
    match args.format {
        Format::Text => print(&text(&report)),
        Format::Json => print(&render::json(&report)),
    }
}

fn text(report: &Report) -> String {
    let Report { machine, plan, file_system, figures: f, threads, .. } = report;
    let mut out = format!(
        "{} ({} processors, Linux {}, {file_system}, load {}), engine on {}{}\n{} episodes of {} turns, {} live; latency {} s (sigma {}), contexts of {} tokens, tool calls of {} ms\n\n",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.load,
        plan.cores,
        made(machine),
        plan.episodes,
        plan.turns,
        plan.concurrency,
        plan.latency_s,
        plan.latency_sigma,
        plan.context_tokens,
        plan.delay_ms
    );
    let mut line = |name: &str, value: String| out.push_str(&format!("{name:<34}{value:>14}\n"));
    line("wall s", format!("{:.1}", f.wall_s));
    line("turns a second", format!("{:.0}", f.turns_per_s));
    line("CPU us a turn", format!("{:.0}", f.cpu_us_per_turn));
    line("the bench's probe besides, at most", format!("{:.0}", f.probe_us_per_turn));
    line("of both in the kernel", format!("{:.0}", f.system_us_per_turn));
    for share in threads {
        line(&format!("  {}", share.name), format!("{:.1}", share.cpu_s * 1e6 / f.turns.max(1) as f64));
    }
    line("KiB an episode, without transcript", format!("{:.1}", f.rss_kib_per_episode));
    line("KiB of its transcript", format!("{:.1}", f.transcript_kib_per_episode));
    line("MiB idle", format!("{:.0}", f.idle_mib));
    line("MiB at most", format!("{:.0}", f.peak_mib));
    if f.warm_mib > 0.0 {
        line("MiB after 1,000 episodes", format!("{:.0}", f.warm_mib));
        line("MiB after nine tenths of all", format!("{:.0}", f.late_mib));
    }
    line("stall ms, p99", format!("{:.1}", f.stall_ms_p99));
    line("stall ms, most", format!("{:.1}", f.stall_ms_max));
    line("stalls over 20 ms", f.stalls_over_20_ms.to_string());
    line("open files", f.open_files.to_string());
    line("reply to next request us, p50", f.next_request_us_p50.to_string());
    line("reply to next request us, p99", f.next_request_us_p99.to_string());
    line("request to reply us, p50", f.reply_us_p50.to_string());
    line("request to reply us, p99", f.reply_us_p99.to_string());
    line("agent's end to durable us, p50", f.commit_us_p50.to_string());
    line("agent's end to durable us, p99", f.commit_us_p99.to_string());
    line("shards MB", format!("{:.1}", f.shard_bytes as f64 / 1e6));
    line("failed episodes", f.failed.to_string());
    line("endpoint's CPU s", format!("{:.1}", f.endpoint_cpu_s));
    out
}
