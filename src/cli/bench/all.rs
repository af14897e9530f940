//! `sweroll bench all`: every bound and what is measured beside it, as one table.

use super::{Format, failed, files, made, place, seconds};
use crate::{
    bench::{
        episodes::{self, Plan},
        files as whole, images, limits, machine,
        schedule::{self, Scenario},
        store,
        table::{self, Row},
        tokens,
    },
    cli::{CliError, Exit, Outcome, print, render},
};
use clap::Args as ClapArgs;
use serde::Serialize;
use std::{fs, path::PathBuf, time::Instant};

const EXAMPLE: &str = "Example:
  sweroll bench all --doc docs/performance.md
  sweroll bench all --at 100 --rows 10000 --facts 50000 --long 3000 --megabytes 20
  sweroll bench all --python venv/bin/python --tokenizer qwen3/tokenizer.json --doc docs/performance.md

Exit code 1 where a bound is missed. The comparison with Hugging Face's `tokenizers` needs a Python that has it, and Qwen3's
tokenizer.json; without them its row says so. Leave the machine alone meanwhile: stalls are anybody's.";

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Live episodes, a measurement each
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [100, 1000, 10_000], value_parser = clap::value_parser!(u32).range(1..=100_000), env = "SWEROLL_BENCH_AT", help_heading = "Episodes")]
    at: Vec<u32>,
    /// Turns of each
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000), env = "SWEROLL_TURNS", help_heading = "Episodes")]
    turns: u32,
    /// Tokens that an episode's context grows by, over all its turns
    #[arg(long, value_name = "TOKENS", default_value_t = 30_000, env = "SWEROLL_BENCH_CONTEXT", help_heading = "Episodes")]
    context: u64,
    /// Processors of the engine; the endpoint has the others, if there are any. 0: both have all
    #[arg(long, value_name = "N", default_value_t = 2, env = "SWEROLL_CORES", help_heading = "Episodes")]
    cores: usize,
    /// Median seconds of a reply [default: one for each thousand live, at least one]
    #[arg(long, value_name = "S", value_parser = seconds, env = "SWEROLL_LATENCY", help_heading = "Episodes")]
    latency: Option<f64>,
    /// Short episodes, 100 at once, in a run that shows whether memory grows; 0: none, else at least 2000
    #[arg(long, value_name = "N", default_value_t = 100_000, env = "SWEROLL_BENCH_LONG", help_heading = "Episodes")]
    long: u64,
    #[command(flatten)]
    size: files::Size,
    /// Megabytes of records for the store's and the tokens' speed
    #[arg(long, value_name = "MB", default_value_t = 150, value_parser = clap::value_parser!(u16).range(1..=2000), env = "SWEROLL_BENCH_MB", help_heading = "Files")]
    megabytes: u16,
    #[command(flatten)]
    peer: super::tokens::Peer,
    /// Document whose table is made anew, between its two marks
    #[arg(long, value_name = "FILE", env = "SWEROLL_BENCH_DOC", help_heading = "Output")]
    doc: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

/// All that was measured.
#[derive(Serialize)]
struct Report {
    schema_version: u32,
    rows: Vec<Row>,
    episodes: Vec<episodes::Report>,
    long: Option<episodes::Report>,
    files: whole::Report,
    store: store::Report,
    tokens: tokens::Report,
    limits: limits::Report,
    images: images::Comparison,
    schedule: schedule::Report,
}

impl Args {
    fn plan(&self, concurrency: u32) -> Plan {
        Plan {
            concurrency: concurrency as usize,
            turns: self.turns,
            episodes: u64::from(concurrency),
            latency_s: self.latency.unwrap_or_else(|| (f64::from(concurrency) / 1000.0).max(1.0)),
            latency_sigma: 0.5,
            context_tokens: self.context,
            delay_ms: 20,
            cores: self.cores,
            seed: 0,
        }
    }

    fn long_plan(&self) -> Plan {
        Plan { turns: 2, episodes: self.long, latency_s: 0.0, context_tokens: 2000, delay_ms: 0, ..self.plan(100) }
    }
}

pub fn run(args: &Args) -> Outcome {
    if (1..2000).contains(&args.long) {
        return Err(CliError::usage(format!("--long {} is too short to show growth: give 0, or at least 2000", args.long)));
    }
    let document = match &args.doc {
        Some(path) => Some(fs::read_to_string(path).map_err(|e| CliError::usage(format!("{}: {e}", path.display())))?),
        None => None,
    };
    if document.as_ref().is_some_and(|text| table::put(text, "").is_none()) {
        return Err(CliError::usage(format!(
            "the document has no lines {} and {}: add them where the table is to be",
            table::BEGIN,
            table::END
        )));
    }
    let report = measure(args)?;
    let text = text(args, &report);
    match args.format {
        Format::Text => print(&text)?,
        Format::Json => print(&render::json(&report))?,
    };
    if let (Some(path), Some(document)) = (&args.doc, document) {
        let anew = table::put(&document, &text).unwrap_or(document);
        fs::write(path, anew).map_err(|e| CliError::failed(format!("{}: {e}", path.display())))?;
    }
    let missed = report.rows.iter().any(|row| row.is_met() == Some(false));
    Ok(if missed { Exit::Failed } else { Exit::Done })
}

fn measure(args: &Args) -> Result<Report, CliError> {
    let episodes = |plan: Plan| {
        eprintln!("sweroll: {} episodes, {} live", plan.episodes, plan.concurrency);
        episodes::measure_apart(&plan).map_err(failed)
    };
    // The quick ones first: what they find wrong is known before the long ones took their time.
    eprintln!("sweroll: simulations");
    let (limits, images) = (limits::report(0), images::compare(&images::Options::default()));
    let began = Instant::now();
    let schedule = schedule::simulate(&Scenario::day(100_000, 0)).map_err(failed)?;
    let day_s = began.elapsed().as_secs_f64();
    let live = args.at.iter().map(|&n| episodes(args.plan(n))).collect::<Result<Vec<_>, _>>()?;
    let long = (args.long > 0).then(|| episodes(args.long_plan())).transpose()?;
    let processors = machine::processors();
    let few = if args.cores == 0 { &processors } else { &processors[..args.cores.min(processors.len())] };
    machine::bind(few).map_err(failed)?;
    eprintln!("sweroll: startup, resume, summary");
    let files = files::measure(&args.size, &place(None)?)?;
    eprintln!("sweroll: the store");
    let megabytes = usize::from(args.megabytes);
    let store = store::measure(place(None)?.dir(), megabytes).map_err(failed)?;
    eprintln!("sweroll: tokens");
    let tokens = tokens::measure(place(None)?.dir(), megabytes, few.len(), args.peer.given()?.as_ref()).map_err(failed)?;
    machine::bind(&processors).map_err(failed)?;
    let rows = [
        live.iter().flat_map(table::of_episodes).collect(),
        long.iter().map(table::of_long).collect(),
        table::of_files(&files),
        table::of_tokens(&tokens),
        table::of_limits(&limits),
        table::of_images(&images),
        table::of_schedule(&schedule, day_s),
    ];
    let schema_version = episodes::BENCH_VERSION;
    Ok(Report { schema_version, rows: rows.concat(), episodes: live, long, files, store, tokens, limits, images, schedule })
}

fn text(args: &Args, report: &Report) -> String {
    let m = report.episodes.first().map_or(&report.store.machine, |live| &live.machine);
    let loads: Vec<_> = report.episodes.iter().map(|r| r.machine.load.to_string()).collect();
    format!(
        "{}\n{}\n{}\n{}\n{}, {} processors, engine on {}, Linux {}, {}; load of the machine when each of the live ones began: {}. Contexts of {} tokens.{}\n",
        table::bounds(&report.rows),
        table::live(&report.episodes),
        table::files(&report.files),
        table::store(&report.store),
        m.cpu,
        m.cores,
        args.cores,
        m.kernel,
        report.store.file_system,
        loads.join(", "),
        render::grouped(args.context),
        made(m),
    )
}
