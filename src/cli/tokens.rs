//! `sweroll tokens`: shards counted as their trainer will, and what records say of their tokens proven.

use super::{
    CliError, Exit, Format, Outcome,
    counting::{counter, target_of},
    print, render,
    sources::sources,
};
use crate::tokens::{
    Counter, FeedSettings, LossPolicy, Target,
    check::{self, CheckReport},
    report::{Over, Report, ShardTokens},
    scan::{self, ScanSettings},
};
use clap::Args as ClapArgs;
use std::path::PathBuf;

const AFTER: &str = "Example:
  sweroll tokens runs/first
  sweroll tokens runs/first --loss mask-errors --context 40960
  sweroll tokens runs/first --check
  sweroll tokens runs/first --chat-template llama.jinja --tokenizer llama/tokenizer.json
  sweroll tokens runs/*/shards/trajectories-*.zst --format json | jq .total.loss_tokens

With a tokenizer that is not the target's own all figures are estimates, and are called so (`exact` is false in JSON).";

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER)]
pub struct Args {
    /// Directories of runs, sealed datasets, or shards (.jsonl.zst, .jsonl.gz, .jsonl)
    #[arg(required = true, value_name = "DIR|SHARD")]
    pub paths: Vec<PathBuf>,
    /// Chat template to render with: qwen3-instruct-2507, or qwen3 (hybrid, with reasoning) [default: that of the first run or
    /// dataset, else qwen3-instruct-2507]
    #[arg(long, value_name = "NAME", env = "SWEROLL_TARGET", help_heading = "Counting")]
    pub target: Option<Target>,
    /// Count with this tokenizer.json or tiktoken file instead of the target's own; where it differs from that, figures are estimates
    #[arg(long, value_name = "FILE", env = "SWEROLL_TOKENIZER", help_heading = "Counting")]
    pub tokenizer: Option<PathBuf>,
    /// Render with this chat template (jinja2) instead of a built-in target's; its {% generation %} tags say what is trained on
    #[arg(long, value_name = "FILE", requires = "tokenizer", env = "SWEROLL_CHAT_TEMPLATE", help_heading = "Counting")]
    pub chat_template: Option<PathBuf>,
    /// Count what this loss policy trains on, not what the records say: all or last, and mask-errors, mask-malformed behind commas
    #[arg(long, value_name = "POLICY", env = "SWEROLL_LOSS", help_heading = "Counting")]
    pub loss: Option<LossPolicy>,
    /// Tell also the share of trajectories over N tokens; repeatable, or parted by commas
    #[arg(long, value_name = "N", value_delimiter = ',', env = "SWEROLL_CONTEXT", help_heading = "Counting")]
    pub context: Vec<u64>,
    /// Render and tokenise every record anew, as a whole, and prove its counts and its mask right under the target and the loss policy
    /// that the record itself names; exit code 1 where they are not
    #[arg(
        long,
        conflicts_with_all = ["target", "tokenizer", "chat_template", "loss", "context"],
        env = "SWEROLL_CHECK",
        help_heading = "Counting"
    )]
    pub check: bool,
    /// Threads that count; 0: one a core
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_THREADS", help_heading = "Counting")]
    pub threads: usize,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

pub fn run(args: &Args) -> Outcome {
    let feed = FeedSettings { threads: args.threads, ..FeedSettings::default() };
    if args.check {
        let report = check::check(&sources(&args.paths)?, &feed).map_err(CliError::failed)?;
        match args.format {
            Format::Json => print(&render::json(&report))?,
            Format::Table => print(&verdict(&report))?,
        };
        return Ok(if report.wrong == 0 { Exit::Done } else { Exit::Failed });
    }
    let target = args.target.map_or_else(|| target_of(&args.paths), Ok)?;
    let counter = counter(target, args.tokenizer.as_deref(), args.chat_template.as_deref())?;
    let settings = ScanSettings { feed, loss: args.loss, contexts: args.context.clone() };
    let report = scan::scan(&sources(&args.paths)?, &counter, &settings).map_err(CliError::failed)?;
    match args.format {
        Format::Json => print(&render::json(&report)),
        Format::Table => print(&table(&report)),
    }
}

/// Counts the trajectories that the paths stand for.
pub fn count(paths: &[PathBuf], counter: &Counter, threads: usize) -> Result<Report, CliError> {
    let settings = ScanSettings::from(FeedSettings { threads, ..FeedSettings::default() });
    scan::scan(&sources(paths)?, counter, &settings).map_err(CliError::failed)
}

/// The report for people.
#[must_use]
pub fn table(report: &Report) -> String {
    let total = &report.total;
    let estimate = if report.exact { "" } else { " (estimate: this is not the target's own tokenizer)" };
    let mut text = format!("target {}, tokenizer {}{estimate}\n", report.target, report.tokenizer);
    if !report.loss.is_empty() {
        text += &format!("loss policy {}, in place of the records' own\n", report.loss);
    }
    text += &format!("\n{}", render::table(&shards(report)));
    let turn = &total.per_turn;
    let [p50, p95, max] = [turn.percentiles.p50, turn.percentiles.p95, turn.percentiles.max].map(render::grouped);
    text += &format!("\na turn of the assistant, tokens: mean {:.1}, p50 {p50}, p95 {p95}, max {max}; by its place:\n\n", turn.mean);
    let positions = turn.by_position.iter().map(|at| vec![format!("{}-", at.from), render::grouped(at.turns), format!("{:.1}", at.mean)]);
    text +=
        &render::table(&[vec!["turn".to_owned(), "turns".to_owned(), "mean".to_owned()]].into_iter().chain(positions).collect::<Vec<_>>());
    text + &notes(total)
}

/// What needs a word, a line each.
fn notes(total: &ShardTokens) -> String {
    let mut text = String::new();
    let mut note = |number: u64, words: &str| {
        if number > 0 {
            text += &format!("\n{}{words}\n", render::grouped(number));
        }
    };
    note(total.superseded, " superseded trajectories are left out: a rerun's attempts count in their place");
    note(total.reasoning_unseen, " tokens of reasoning are not shown by this target's template, and in no figure above");
    note(total.special_in_text, " trajectories hold special tokens as text, such as <|im_end|>: look at them before you train");
    note(total.unmarked, &format!(" trajectories are in `tokens` but not in `trained`: {}", total.unmarked_why));
    text
}

fn shards(report: &Report) -> Vec<Vec<String>> {
    let roles: &[&str] = if report.total.by_role.other > 0 { &["assistant", "other"] } else { &["system", "user", "assistant", "tool"] };
    let head = ["shard", "trajectories", "tokens", "trained", "thinking"].iter().chain(roles).chain(&["p50", "p95", "max"]);
    let over = report.total.over.0.iter().map(|(context, _)| format!(">{}", Over::label(*context)));
    let mut rows: Vec<Vec<String>> = vec![head.map(|name| (*name).to_owned()).chain(over).collect()];
    rows.extend(report.shards.iter().map(|shard| row(shard, roles)));
    if report.shards.len() != 1 {
        rows.push(row(&report.total, roles));
    }
    rows
}

fn row(shard: &ShardTokens, roles: &[&str]) -> Vec<String> {
    let name = shard.file.rsplit('/').next().unwrap_or(&shard.file).to_owned();
    let by_role = shard.by_role;
    let tokens_of = |role: &&str| match *role {
        "system" => by_role.system,
        "user" => by_role.user,
        "assistant" => by_role.assistant,
        "tool" => by_role.tool,
        _ => by_role.other,
    };
    let sums = [shard.trajectories, shard.tokens, shard.loss_tokens, shard.thinking_tokens].into_iter().chain(roles.iter().map(tokens_of));
    let spread = [shard.percentiles.p50, shard.percentiles.p95, shard.percentiles.max];
    let shares = shard.over.0.iter().map(|(_, share)| format!("{:.1}%", 100.0 * share));
    [name].into_iter().chain(sums.chain(spread).map(render::grouped)).chain(shares).collect()
}

/// What a check found, for people.
fn verdict(report: &CheckReport) -> String {
    let mut text = String::new();
    for wrong in &report.first_mismatches {
        let place = &wrong.place;
        text += &format!(
            "{}, record {} ({}): {} is {}, found {}\n",
            place.file, place.record, place.id, wrong.key, wrong.recorded, wrong.found
        );
    }
    let more = report.mismatches - report.first_mismatches.len() as u64;
    if more > 0 {
        text += &format!("and {} more\n", render::grouped(more));
    }
    for place in &report.first_uncounted {
        text += &format!("{}, record {} ({}): uncounted\n", place.file, place.record, place.id);
    }
    let more = report.uncounted - report.first_uncounted.len() as u64;
    if more > 0 {
        text += &format!("and {} more uncounted\n", render::grouped(more));
    }
    let [records, proven, wrong, uncounted] = [report.records, report.proven, report.wrong, report.uncounted].map(render::grouped);
    text + &format!("{records} records: {proven} proven, {wrong} wrong, {uncounted} uncounted\n")
}
