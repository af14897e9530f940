//! `sweroll bench files`: beginning, going on with and summing up large runs.

use super::{Format, failed, place};
use crate::{
    bench::{
        files::{self, Part, Report},
        place::Place,
    },
    cli::{CliError, Outcome, print, render},
};
use clap::Args as ClapArgs;
use std::path::PathBuf;

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "Example:\n  sweroll bench files --rows 100000 --facts 500000")]
pub struct Args {
    #[command(flatten)]
    pub size: Size,
    /// Where to work; kept [default: a temporary directory, which goes]
    #[arg(long, value_name = "DIR", env = "SWEROLL_BENCH_DIR", help_heading = "Output")]
    dir: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
    /// One step of it, in files that are there
    #[arg(long, hide = true, value_parser = part)]
    part: Option<Part>,
}

#[derive(Debug, Clone, ClapArgs)]
pub struct Size {
    /// Rows of the instances file
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000), env = "SWEROLL_BENCH_ROWS", help_heading = "Files")]
    pub rows: u64,
    /// Facts of the journal
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(2..=50_000_000), env = "SWEROLL_BENCH_FACTS", help_heading = "Files")]
    pub facts: u64,
    /// Times that each step is measured; the shortest counts
    #[arg(long, value_name = "N", default_value_t = 3, env = "SWEROLL_BENCH_TIMES", help_heading = "Files")]
    pub times: u32,
}

fn part(text: &str) -> Result<Part, String> {
    Part::ALL.into_iter().find(|part| part.name() == text).ok_or_else(|| format!("{text:?} is no part"))
}

pub fn run(args: &Args) -> Outcome {
    if let (Some(part), Some(dir)) = (args.part, &args.dir) {
        let (kib, us) = files::part(part, dir).map_err(failed)?;
        return print(&format!("{kib} {us}\n"));
    }
    let place = place(args.dir.as_deref())?;
    let report = measure(&args.size, &place)?;
    match args.format {
        Format::Text => print(&text(&report)),
        Format::Json => print(&render::json(&report)),
    }
}

pub fn measure(size: &Size, place: &Place) -> Result<Report, CliError> {
    files::measure(place.dir(), size.rows, size.facts, size.times).map_err(failed)
}

fn text(report: &Report) -> String {
    let mut out = format!("{} rows, {} facts\n", report.rows, report.facts);
    for step in &report.steps {
        out.push_str(&format!(
            "{:<10}{:>8.2} s{:>8.2} s of processor time{:>8.0} MiB\n",
            step.part.name(),
            step.wall_s,
            step.cpu_s,
            step.peak_mib
        ));
    }
    out
}
