//! `sweroll bench limits`: is a rate-limited endpoint kept full without refusals? Simulated, in virtual time.

use crate::{
    bench::limits,
    cli::{CliError, Exit, Format, Outcome, print, render},
};
use clap::Args as ClapArgs;
use std::{fs, path::PathBuf};

const EXAMPLE: &str = "Example:
  sweroll bench limits --plot brownout.svg

The run's own limiters meet the limits, the queue and the brown-outs of sweroll endpoint, event by event: an hour takes a
second or so. Exit code 1 where a case does not hold what is promised of it; those for comparison promise nothing.";

#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Decides every latency and every jitter
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_SEED", help_heading = "Simulation")]
    seed: u64,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
    /// Write a chart of the brown-out over time: served and refused a minute, in flight
    #[arg(long, value_name = "FILE.svg", env = "SWEROLL_PLOT", help_heading = "Output")]
    plot: Option<PathBuf>,
}

pub fn run(args: &Args) -> Outcome {
    let report = limits::report(args.seed);
    if let Some(path) = &args.plot {
        fs::write(path, report.plot.svg())
            .map_err(|e| CliError::failed(format!("cannot write the chart to {}: {e}: give another --plot", path.display())))?;
    }
    match args.format {
        Format::Table => print(&report.table())?,
        Format::Json => print(&render::json(&report))?,
    };
    let broken = report.rows.iter().filter(|row| row.holds == Some(false)).count();
    Ok(if broken == 0 { Exit::Done } else { Exit::Failed })
}
