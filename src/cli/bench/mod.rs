//! `sweroll bench`: what sweroll costs, measured and simulated.

mod images;
mod limits;
mod schedule;

use super::Outcome;
use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  sweroll bench limits --plot brownout.svg")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Simulate the limits of requests and tokens a minute: kept full, brown-outs, several processes, replicas
    Limits(limits::Args),
    /// Simulate a run's images on its disk: fetched ahead, each once, and removed when no episode needs it
    Images(images::Args),
    /// Simulate a day of the scheduler: failures, stragglers, brown-outs, drains, with what each step costs
    Schedule(schedule::Args),
}

pub fn run(args: &Args) -> Outcome {
    match &args.what {
        What::Limits(args) => limits::run(args),
        What::Images(args) => images::run(args),
        What::Schedule(args) => schedule::run(args),
    }
}
