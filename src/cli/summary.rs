//! `sweroll summary`: how a run stands, from its directory, while it runs or after.

use super::{CliError, Format, Outcome, print, render};
use crate::store::View;
use clap::Args as ClapArgs;
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  sweroll summary runs/first --format json | jq .resolved")]
pub struct Args {
    /// Directory of the run
    pub dir: PathBuf,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

pub fn run(args: &Args) -> Outcome {
    let summary = View::open(&args.dir).map_err(CliError::usage)?.summary();
    match args.format {
        Format::Table => print(&render::summary(&summary)),
        Format::Json => print(&render::json(&summary)),
    }
}
