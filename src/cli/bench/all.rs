//! `sweroll bench all`: every bound and what is measured beside it, as one table.

use super::{Place, files, seconds};
use crate::{
    bench::{
        episodes::{self, Plan},
        table,
    },
    cli::{CliError, Exit, Outcome, print},
};
use clap::Args as ClapArgs;
use std::{fs, path::PathBuf};

const EXAMPLE: &str = "Example:
  sweroll bench all --doc docs/performance.md";

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Live episodes, a measurement each
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [100, 1000, 10_000], env = "SWEROLL_BENCH_AT", help_heading = "Episodes")]
    at: Vec<u32>,
    /// Turns of each
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000), env = "SWEROLL_TURNS", help_heading = "Episodes")]
    turns: u32,
    /// Tokens that an episode's context grows by, over all its turns
    #[arg(long, value_name = "TOKENS", default_value_t = 30_000, env = "SWEROLL_CONTEXT", help_heading = "Episodes")]
    context: u64,
    /// Processors of the engine; the endpoint has the others, if there are any. 0: both have all
    #[arg(long, value_name = "N", default_value_t = 2, env = "SWEROLL_CORES", help_heading = "Episodes")]
    cores: usize,
    /// Median seconds of a reply; 10,000 episodes on two processors need some
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds, env = "SWEROLL_LATENCY", help_heading = "Episodes")]
    latency: f64,
    #[command(flatten)]
    size: files::Size,
    /// Document whose table is made anew, between its two marks
    #[arg(long, value_name = "FILE", env = "SWEROLL_BENCH_DOC", help_heading = "Output")]
    doc: Option<PathBuf>,
}

pub fn run(args: &Args) -> Outcome {
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
    let (mut rows, mut machine) = (Vec::new(), String::new());
    for &concurrency in &args.at {
        eprintln!("sweroll: {concurrency} live episodes");
        let place = Place::make(None)?;
        let plan = Plan {
            concurrency: concurrency as usize,
            turns: args.turns,
            episodes: u64::from(concurrency),
            latency_s: args.latency,
            latency_sigma: 0.5,
            context_tokens: args.context,
            delay_ms: 20,
            cores: args.cores,
            seed: 0,
        };
        let report = episodes::measure(&plan, &place.dir).map_err(CliError::failed)?;
        rows.extend(table::of_episodes(&report));
        let m = &report.machine;
        machine = format!("{}, {} processors, engine on {}, Linux {}, load {} when it began", m.cpu, m.cores, args.cores, m.kernel, m.load);
    }
    eprintln!("sweroll: files");
    rows.extend(table::of_files(&files::measure(&args.size, &Place::make(None)?)?));
    let made = format!(
        "{}\n{machine}; latency {} s, {} turns, contexts of {} tokens.\n",
        table::markdown(&rows),
        args.latency,
        args.turns,
        args.context
    );
    print(&made)?;
    if let (Some(path), Some(document)) = (&args.doc, document) {
        let anew = table::put(&document, &made).unwrap_or(document);
        fs::write(path, anew).map_err(|e| CliError::failed(format!("{}: {e}", path.display())))?;
    }
    Ok(if rows.iter().all(table::Row::is_met) { Exit::Done } else { Exit::Failed })
}
