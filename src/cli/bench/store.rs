//! `sweroll bench store`: what a commit costs, and how fast records become shards.

use super::{Format, failed, made, place};
use crate::{
    bench::{store, table},
    cli::{Outcome, print, render},
};
use clap::Args as ClapArgs;
use std::path::PathBuf;

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "Example:\n  sweroll bench store --dir /mnt/runs/bench")]
pub struct Args {
    /// Megabytes of records that become shards
    #[arg(long, value_name = "MB", default_value_t = 150, value_parser = clap::value_parser!(u16).range(1..=2000), env = "SWEROLL_BENCH_MB", help_heading = "Files")]
    megabytes: u16,
    /// Where to work; kept [default: a temporary directory, which goes]
    #[arg(long, value_name = "DIR", env = "SWEROLL_BENCH_DIR", help_heading = "Output")]
    dir: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

pub fn run(args: &Args) -> Outcome {
    let place = place(args.dir.as_deref())?;
    let report = store::measure(place.dir(), usize::from(args.megabytes)).map_err(failed)?;
    match args.format {
        Format::Text => print(&format!("{}On {}.{}\n", table::store(&report), report.file_system, made(&report.machine))),
        Format::Json => print(&render::json(&report)),
    }
}
