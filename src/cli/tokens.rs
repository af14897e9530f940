//! `sweroll tokens`: shards counted as their trainer will.

use super::{CliError, Format, Outcome, print, render, sources::sources};
use crate::tokens::{
    Counter, FeedSettings, Target, Tokenizer,
    report::{Report, ShardTokens},
    scan,
};
use clap::Args as ClapArgs;
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  sweroll tokens runs/first\n  sweroll tokens runs/*/shards/trajectories-*.zst --format json | jq .total.loss_tokens"
)]
pub struct Args {
    /// Directories of runs, or shards (.jsonl.zst, .jsonl.gz, .jsonl)
    #[arg(required = true, value_name = "DIR|SHARD")]
    pub paths: Vec<PathBuf>,
    /// Chat template to render with: qwen3-instruct-2507, or qwen3 (hybrid, with reasoning)
    #[arg(long, value_name = "NAME", default_value_t = Target::default(), env = "SWEROLL_TARGET", help_heading = "Counting")]
    pub target: Target,
    /// Count with this tokenizer.json or tiktoken file instead of the built-in Qwen3 tokenizer
    #[arg(long, value_name = "FILE", env = "SWEROLL_TOKENIZER", help_heading = "Counting")]
    pub tokenizer: Option<PathBuf>,
    /// Threads that count; 0: one a core
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_THREADS", help_heading = "Counting")]
    pub threads: usize,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

pub fn run(args: &Args) -> Outcome {
    let tokenizer = match &args.tokenizer {
        Some(path) => Tokenizer::load(path).map_err(CliError::usage)?,
        None => Tokenizer::qwen3(),
    };
    let counter = Counter::new(args.target, tokenizer);
    let report = count(&args.paths, &counter, args.threads)?;
    match args.format {
        Format::Json => print(&render::json(&report)),
        Format::Table => print(&table(&report)),
    }
}

/// Counts the trajectories that the paths stand for.
pub fn count(paths: &[PathBuf], counter: &Counter, threads: usize) -> Result<Report, CliError> {
    let sources = sources(paths)?;
    scan::scan(&sources, counter, &FeedSettings { threads, ..FeedSettings::default() }).map_err(CliError::failed)
}

/// The report for people.
#[must_use]
pub fn table(report: &Report) -> String {
    let head =
        ["shard", "trajectories", "tokens", "trained", "system", "user", "assistant", "tool", "p50", "p95", "max", ">32k", ">64k", ">128k"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.shards.iter().map(row));
    if report.shards.len() != 1 {
        rows.push(row(&ShardTokens { file: "total".to_owned(), ..report.total.clone() }));
    }
    let mut text = format!("target {}, tokenizer {}\n\n{}", report.target, report.tokenizer, render::table(&rows));
    if report.total.superseded > 0 {
        text +=
            &format!("\nsuperseded: {} (left out: a rerun's attempts count in their place)\n", render::grouped(report.total.superseded));
    }
    if report.total.special_in_text > 0 {
        text += &format!(
            "\n{} trajectories hold special tokens as text, such as <|im_end|>: look at them before you train\n",
            report.total.special_in_text
        );
    }
    text
}

fn row(shard: &ShardTokens) -> Vec<String> {
    let name = shard.file.rsplit('/').next().unwrap_or(&shard.file).to_owned();
    let roles = [shard.by_role.system, shard.by_role.user, shard.by_role.assistant, shard.by_role.tool];
    let numbers = [shard.trajectories, shard.tokens, shard.loss_tokens].into_iter().chain(roles);
    let spread = [shard.percentiles.p50, shard.percentiles.p95, shard.percentiles.max];
    let shares = [shard.over.k32, shard.over.k64, shard.over.k128].map(|share| format!("{:.1}%", 100.0 * share));
    [name].into_iter().chain(numbers.chain(spread).map(render::grouped)).chain(shares).collect()
}
