//! `sweroll export`: trajectories selected, split, and written as a trainer reads them.

use super::{CliError, Format, Outcome, print, render, sources::sources};
use crate::{
    export::{
        self, Container, ExportError, Format as Form, Options, Progress, Reasoning, Report, Tally, WriteSettings,
        exclude::Exclusions,
        expr::{NAMES, Where},
        select::{Best, Rules, Why},
        split::Splits,
    },
    tokens::{FeedSettings, LossPolicy},
};
use clap::{Args as ClapArgs, builder::RangedU64ValueParser};
use std::{
    fmt::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

/// An export that takes longer says now and then how far it is.
const BETWEEN_LINES: Duration = Duration::from_secs(5);
/// Similarity from which on `--dedup` takes two for the same.
const SAME: f64 = 0.85;
/// Entries of the exclusions that nothing matched: so many are named.
const NAMED: usize = 20;

#[derive(Debug, ClapArgs)]
#[command(after_help = after_help())]
pub struct Args {
    /// Directories of runs or of sealed datasets, or shards (.jsonl.zst, .jsonl.gz, .jsonl)
    #[arg(required = true, value_name = "DIR|SHARD")]
    pub paths: Vec<PathBuf>,
    /// What shall read it: openai, flat, ms-swift, llama-factory, verl, trl, axolotl, nemo-rl, slime, swe-agent-traj, atif, swe-bench-preds
    #[arg(long, value_name = "FORM", env = "SWEROLL_EXPORT_TO", help_heading = "Output")]
    pub to: Form,
    /// Directory to be made; it appears when all is written
    #[arg(long, value_name = "DIR", env = "SWEROLL_EXPORT_OUT", help_heading = "Output")]
    pub out: PathBuf,
    /// Replace the export that is there, and nothing else
    #[arg(long, env = "SWEROLL_OVERWRITE", help_heading = "Output")]
    pub overwrite: bool,
    /// jsonl.zst, jsonl, parquet, or files (one a trajectory); else as the form is usually read
    #[arg(long, value_name = "KIND", value_parser = container, env = "SWEROLL_CONTAINER", help_heading = "Output")]
    pub container: Option<Container>,
    /// The assistant's reasoning: keep it in its key, inline it as <think> in the content, or drop it; else as the form needs it
    #[arg(long, value_name = "HOW", value_parser = reasoning, env = "SWEROLL_EXPORT_REASONING", help_heading = "Output")]
    pub reasoning: Option<Reasoning>,
    /// Set anew which messages are trained on: all or last, and mask-errors, mask-malformed behind commas; else as the records say
    #[arg(long, value_name = "POLICY", env = "SWEROLL_EXPORT_LOSS", help_heading = "Output")]
    pub loss: Option<LossPolicy>,
    /// No progress on stderr
    #[arg(long, short, env = "SWEROLL_QUIET", help_heading = "Output")]
    pub quiet: bool,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,

    /// Only records of which this holds, such as 'resolved == 1 and tokens <= 32768 and not suspect'
    #[arg(long = "where", value_name = "EXPR", value_parser = Where::parse, env = "SWEROLL_WHERE", help_heading = "Selection")]
    pub filter: Option<Where>,
    /// Only records of at least so many tokens
    #[arg(long, value_name = "N", env = "SWEROLL_MIN_TOKENS", help_heading = "Selection")]
    pub min_tokens: Option<u64>,
    /// Only records of at most so many tokens
    #[arg(long, value_name = "N", env = "SWEROLL_MAX_TOKENS", help_heading = "Selection")]
    pub max_tokens: Option<u64>,
    /// At most so many of each instance, the best
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..), env = "SWEROLL_PER_INSTANCE", help_heading = "Selection")]
    pub per_instance: Option<u32>,
    /// Which are the best: resolved ones, and of these those of fewest turns, fewest tokens, the first, or random
    #[arg(long, value_name = "ORDER", default_value_t = Best::default(), env = "SWEROLL_BEST", help_heading = "Selection")]
    pub best: Best,
    /// Of records whose assistants did nearly the same only the best; from this similarity on, 0.85 unless given
    #[arg(long, value_name = "SIMILARITY", value_parser = similarity, num_args = 0..=1, require_equals = true, default_missing_value = "0.85",
        env = "SWEROLL_DEDUP", help_heading = "Selection")]
    pub dedup: Option<f64>,
    /// Nothing of the instances and repositories on this list (lines, JSON, JSON Lines); may be repeated
    #[arg(long, value_name = "FILE", value_delimiter = ',', env = "SWEROLL_EXCLUDE", help_heading = "Selection")]
    pub exclude: Vec<PathBuf>,
    /// An instance on such a list stands for its whole repository
    #[arg(long, requires = "exclude", env = "SWEROLL_EXCLUDE_REPOS", help_heading = "Selection")]
    pub exclude_repos: bool,
    /// Only the first so many of what is left
    #[arg(long, value_name = "N", env = "SWEROLL_EXPORT_LIMIT", help_heading = "Selection")]
    pub limit: Option<u64>,
    /// What stands for chance in splits and in --best random
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_SEED", help_heading = "Selection")]
    pub seed: u64,

    /// Names and shares of the splits; all trajectories of an instance are in one
    #[arg(long, value_name = "NAME:SHARE,...", default_value = "train:1", env = "SWEROLL_SPLIT", help_heading = "Files")]
    pub split: Splits,
    /// Files of their own by length: upper ends in tokens, ascending
    #[arg(long, value_name = "N,...", value_delimiter = ',', env = "SWEROLL_BUCKETS", help_heading = "Files")]
    pub buckets: Vec<u64>,
    /// Level of zstd
    #[arg(long, value_name = "1-22", default_value_t = WriteSettings::default().level, value_parser = clap::value_parser!(i32).range(1..=22),
        env = "SWEROLL_LEVEL", help_heading = "Files")]
    pub level: i32,
    /// A file is followed by the next at this size, bytes before compression
    #[arg(long, value_name = "BYTES", default_value_t = WriteSettings::default().shard_bytes, value_parser = RangedU64ValueParser::<u64>::new().range(1..),
        env = "SWEROLL_EXPORT_SHARD_BYTES", help_heading = "Files")]
    pub shard_bytes: u64,
    /// About the size of a frame of zstd, bytes before compression
    #[arg(long, value_name = "BYTES", default_value_t = WriteSettings::default().frame_bytes as u64, value_parser = block_bytes(),
        env = "SWEROLL_FRAME_BYTES", help_heading = "Files")]
    pub frame_bytes: u64,
    /// About the size of a row group of Parquet, bytes before compression
    #[arg(long, value_name = "BYTES", default_value_t = WriteSettings::default().group_bytes as u64, value_parser = block_bytes(),
        env = "SWEROLL_GROUP_BYTES", help_heading = "Files")]
    pub group_bytes: u64,
    /// Rows of a row group of Parquet at most
    #[arg(long, value_name = "N", default_value_t = WriteSettings::default().group_rows as u64, value_parser = RangedU64ValueParser::<u64>::new().range(1..=1 << 20),
        env = "SWEROLL_GROUP_ROWS", help_heading = "Files")]
    pub group_rows: u64,
    /// Threads that read and render, and as many that compress; 0: one a core
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_THREADS", help_heading = "Limits")]
    pub threads: usize,
    /// A longer record is an error, bytes
    #[arg(long, value_name = "BYTES", default_value_t = FeedSettings::default().max_record_bytes, env = "SWEROLL_MAX_RECORD_BYTES", help_heading = "Limits")]
    pub max_record_bytes: usize,
}

fn after_help() -> String {
    let names: Vec<&str> = NAMES.iter().map(|(name, ..)| *name).collect();
    let mut lines = vec![String::new()];
    for name in names {
        match lines.last_mut() {
            Some(line) if line.len() + name.len() < 95 => {
                let _ = write!(line, "{}{name}", if line.is_empty() { "  " } else { " " });
            }
            _ => lines.push(format!("  {name}")),
        }
    }
    format!(
        "Names in --where (docs/export.md says what they are):\n{}\n\nExample:\n  \
         sweroll export runs/first --to ms-swift --out sft --where 'resolved == 1 and not suspect' --per-instance 2 --split train:0.98,val:0.02",
        lines.join("\n")
    )
}

/// Smallest and largest block that is compressed at a time.
fn block_bytes() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1 << 10..=96 << 20)
}

fn container(text: &str) -> Result<Container, String> {
    match text {
        "jsonl.zst" => Ok(Container::Lines),
        "jsonl" => Ok(Container::PlainLines),
        "parquet" => Ok(Container::Parquet),
        "files" => Ok(Container::Files),
        _ => Err("there are jsonl.zst, jsonl, parquet, files".to_owned()),
    }
}

fn container_name(container: Container) -> &'static str {
    match container {
        Container::Lines => "jsonl.zst",
        Container::PlainLines => "jsonl",
        Container::Parquet => "parquet",
        Container::Files => "files",
    }
}

fn reasoning(text: &str) -> Result<Reasoning, String> {
    match text {
        "keep" => Ok(Reasoning::Keep),
        "inline" => Ok(Reasoning::Inline),
        "drop" => Ok(Reasoning::Drop),
        _ => Err("there are keep, inline, drop".to_owned()),
    }
}

fn reasoning_name(reasoning: Reasoning) -> &'static str {
    match reasoning {
        Reasoning::Keep => "keep",
        Reasoning::Inline => "inline",
        Reasoning::Drop => "drop",
    }
}

fn similarity(text: &str) -> Result<f64, String> {
    let similarity: Option<f64> = text.parse().ok().filter(|similarity| (0.1..=1.0).contains(similarity));
    similarity.ok_or_else(|| format!("a similarity is from 0.1 to 1, such as {SAME}"))
}

pub fn run(args: Args) -> Outcome {
    let format = args.format;
    let paths = args.paths.clone();
    let mut progress = telling(args.quiet);
    let options = options(args)?;
    let report = export::export(&sources(&paths)?, &options, &mut progress).map_err(failed)?;
    warn(&report, options.form);
    match format {
        Format::Json => print(&render::json(&report)),
        Format::Table => print(&table(&report, &options.out.display().to_string())),
    }
}

fn failed(error: ExportError) -> CliError {
    match error {
        ExportError::Occupied { .. } | ExportError::NoTable { .. } | ExportError::NoParquet | ExportError::TooManyStreams { .. } => {
            CliError::usage(error)
        }
        _ => CliError::failed(error),
    }
}

fn options(args: Args) -> Result<Options, CliError> {
    if !args.buckets.is_sorted_by(|a, b| a < b) {
        return Err(CliError::usage("--buckets: write the upper ends ascending, such as 8192,16384,32768"));
    }
    if args.best != Best::default() && args.per_instance.is_none() && args.dedup.is_none() {
        return Err(CliError::usage("--best has nothing to choose from: add --per-instance K or --dedup"));
    }
    if args.reasoning == Some(Reasoning::Keep) && args.to.reasoning_default() != Reasoning::Keep {
        eprintln!("sweroll: {} has no key for reasoning, which is left out: --reasoning inline makes it text", args.to);
    }
    let mut exclude = Exclusions::default();
    for list in &args.exclude {
        exclude.read(list, args.exclude_repos).map_err(CliError::usage)?;
    }
    let container = args.container.unwrap_or(args.to.container());
    let reasoning = args.reasoning.unwrap_or(args.to.reasoning_default());
    let shown = serde_json::json!({
        "container": container_name(container),
        "reasoning": reasoning_name(reasoning),
        "loss": args.loss.map(|loss| loss.to_string()),
        "where": args.filter.as_ref().map(ToString::to_string),
        "min_tokens": args.min_tokens,
        "max_tokens": args.max_tokens,
        "per_instance": args.per_instance,
        "best": args.best,
        "dedup": args.dedup,
        "exclude": args.exclude.iter().map(|list| list.display().to_string()).collect::<Vec<_>>(),
        "exclude_repos": args.exclude_repos,
        "limit": args.limit,
        "split": args.split.shares().iter().map(|(name, share)| format!("{name}:{share}")).collect::<Vec<_>>().join(","),
        "buckets": args.buckets,
        "level": args.level,
        "shard_bytes": args.shard_bytes,
        "frame_bytes": args.frame_bytes,
        "group_bytes": args.group_bytes,
        "group_rows": args.group_rows,
    });
    let rules = Rules {
        filter: args.filter,
        exclude,
        min_tokens: args.min_tokens,
        max_tokens: args.max_tokens,
        dedup: args.dedup,
        per_instance: args.per_instance,
        best: args.best,
        limit: args.limit,
        buckets: args.buckets,
        seed: args.seed,
    };
    let write = WriteSettings {
        level: args.level,
        frame_bytes: args.frame_bytes as usize,
        shard_bytes: args.shard_bytes,
        group_bytes: args.group_bytes as usize,
        group_rows: args.group_rows as usize,
    };
    Ok(Options {
        form: args.to,
        container,
        reasoning,
        loss: args.loss,
        rules,
        splits: args.split,
        out: args.out,
        overwrite: args.overwrite,
        write,
        feed: FeedSettings { threads: args.threads, max_record_bytes: args.max_record_bytes, ..FeedSettings::default() },
        shown,
    })
}

/// Says on stderr how far the export is, where it takes long.
fn telling(quiet: bool) -> impl FnMut(Progress) {
    let mut last = Instant::now();
    move |Progress { pass, records, total }| {
        if !quiet && last.elapsed() >= BETWEEN_LINES {
            last = Instant::now();
            match pass {
                1 => eprintln!("sweroll: {} records looked at", render::grouped(records)),
                _ => eprintln!("sweroll: {} of {} records read again for writing", render::grouped(records), render::grouped(total)),
            }
        }
    }
}

/// What a user should know before training.
fn warn(report: &Report, form: Form) {
    if report.written.masked > 0 && !form.carries_loss() {
        eprintln!(
            "sweroll: {} rows have messages of the assistant that are not to be trained on, and {form} cannot say so: its reader trains \
             on them, or decides itself",
            render::grouped(report.written.masked)
        );
    }
    for unfit in &report.unfit {
        eprintln!("sweroll: {} is left out: {}", unfit.id, unfit.why);
    }
    let more = report.dropped(Why::Unfit).saturating_sub(report.unfit.len() as u64);
    if more > 0 {
        eprintln!("sweroll: and {} more that the form cannot hold", render::grouped(more));
    }
    if !report.unmatched.is_empty() {
        let named = report.unmatched.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if report.unmatched.len() > NAMED { ", ..." } else { "" };
        let (unmatched, entries) = (render::grouped(report.unmatched.len() as u64), render::grouped(report.exclusions));
        eprintln!("sweroll: {unmatched} of {entries} entries of --exclude match no record: {named}{more}");
    }
    for split in report.splits.iter().filter(|split| split.tally.rows == 0) {
        eprintln!("sweroll: nothing is in the split {}", split.name);
    }
}

/// The report for people.
fn table(report: &Report, out: &str) -> String {
    let mut rows = vec![vec!["read".to_owned(), render::grouped(report.read)]];
    rows.extend(report.dropped.iter().map(|(why, count)| vec![format!("  left out: {}", why.as_str()), render::grouped(*count)]));
    rows.push(vec!["written".to_owned(), render::grouped(report.written.rows)]);
    let Tally { resolved, unresolved, without_verdict, .. } = report.written;
    for (name, count) in [("resolved", resolved), ("unresolved", unresolved), ("without verdict", without_verdict)] {
        rows.push(vec![format!("  {name}"), render::grouped(count)]);
    }
    let mut text = format!("{} in {out}\n\n{}\n", report.form, render::table(&rows));
    let head = ["split", "instances", "rows", "resolved", "tokens", "trained"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.splits.iter().map(|split| {
        let figures = [split.instances, split.tally.rows, split.tally.resolved, split.tally.tokens, split.tally.loss_tokens];
        std::iter::once(split.name.clone()).chain(figures.map(render::grouped)).collect()
    }));
    text += &render::table(&rows);
    let data: Vec<_> = report.files.iter().filter(|file| !file.split.is_empty()).collect();
    let shown = 40;
    let mut rows = vec![["file", "rows", "tokens", "bytes", "raw bytes"].map(str::to_owned).to_vec()];
    rows.extend(data.iter().take(shown).map(|file| {
        let figures = [file.rows, file.tokens, file.bytes, file.raw_bytes];
        std::iter::once(file.file.clone()).chain(figures.map(render::grouped)).collect()
    }));
    let _ = write!(text, "\n{}", render::table(&rows));
    if data.len() > shown {
        let _ = writeln!(text, "and {} more files", render::grouped((data.len() - shown) as u64));
    }
    text
}
