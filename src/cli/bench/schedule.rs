//! `sweroll bench schedule`: a day of the pure scheduler, in virtual time.

use crate::{
    bench::{
        plot::{Plot, Series},
        schedule::{self, Point, Report, Scenario},
    },
    cli::{CliError, Format, Outcome, print, render},
};
use clap::Args as ClapArgs;
use serde::Serialize;
use std::{fs, path::PathBuf};

const EXAMPLE: &str = "Example:
  sweroll bench schedule --episodes 100000 --plot day.svg

A day with stragglers, failures of every kind, brown-outs, a full disk, late images, a drain and a kill; the same day with a tenth
and a hundredth of the episodes shows how the cost of a step grows. Exit code 1 where an episode is not decided exactly once, a slot
is exceeded or idles while an episode could begin, a grading is overtaken, or the core keeps more than what is at work.";

#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Episodes of the day; agents and graders are as many as it takes
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..=10_000_000), env = "SWEROLL_EPISODES", help_heading = "Simulation")]
    episodes: u32,
    /// Decides how long everything takes and what fails
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_SEED", help_heading = "Simulation")]
    seed: u64,
    /// Begin no other sample of an instance once so many are resolved, 0 to begin all
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_UNTIL_RESOLVED", help_heading = "Simulation")]
    until_resolved: u32,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
    /// Write a chart of the day: agents and gradings at work, attempts that wait for a grader
    #[arg(long, value_name = "FILE.svg", env = "SWEROLL_PLOT", help_heading = "Output")]
    plot: Option<PathBuf>,
}

#[derive(Serialize)]
struct Days {
    schema_version: u32,
    days: Vec<Report>,
}

pub fn run(args: &Args) -> Outcome {
    let day = |episodes| {
        let mut scenario = Scenario::day(episodes, args.seed);
        scenario.policy.until_resolved = args.until_resolved;
        schedule::simulate(&scenario)
    };
    let sizes = [args.episodes / 100, args.episodes / 10, args.episodes];
    let days = sizes.into_iter().map(day).collect::<Result<Vec<_>, _>>().map_err(CliError::failed)?;
    if let (Some(path), Some(day)) = (&args.plot, days.last()) {
        fs::write(path, plot(day).svg())
            .map_err(|e| CliError::failed(format!("cannot write the chart to {}: {e}: give another --plot", path.display())))?;
    }
    match args.format {
        Format::Table => print(&table(&days)),
        Format::Json => print(&render::json(&Days { schema_version: schedule::SCHEDULE_VERSION, days })),
    }
}

fn table(days: &[Report]) -> String {
    let column = |name: &str, of: &dyn Fn(&Report) -> String| std::iter::once(name.to_owned()).chain(days.iter().map(of)).collect();
    render::table(&[
        column("episodes", &|d| render::grouped(u64::from(d.episodes))),
        column("agents, graders", &|d| format!("{}, {}", d.concurrency, d.graders)),
        column("hours", &|d| format!("{:.1}", d.hours)),
        column("decided once", &|d| render::grouped(d.decided)),
        column("waived", &|d| render::grouped(d.waived)),
        column("attempts", &|d| render::grouped(d.attempts)),
        column("gradings", &|d| render::grouped(d.gradings)),
        column("agents busy, %", &|d| format!("{:.2}", 100.0 * d.busy)),
        column("longest wait for a grader, s", &|d| format!("{:.0}", d.grade_wait_max_s)),
        column("episodes in the core, most", &|d| render::grouped(d.live_max as u64)),
        column("steps", &|d| render::grouped(d.steps)),
        column("ns a step, mean", &|d| format!("{:.0}", d.ns_per_step)),
        column("ns a step, p99", &|d| render::grouped(d.ns_p99)),
        column("ns a step, most", &|d| render::grouped(d.ns_max)),
    ])
}

fn plot(day: &Report) -> Plot {
    let series = |name: &str, of: &dyn Fn(&Point) -> f64| Series::new(name, day.points.iter().map(|p| (p.hours, of(p))).collect());
    Plot {
        title: format!("A day of {} episodes", render::grouped(u64::from(day.episodes))),
        x_label: "hours".to_owned(),
        y_label: "episodes".to_owned(),
        series: vec![
            series("agents at work", &|p| p.agents as f64),
            series("gradings", &|p| p.gradings as f64),
            series("waiting for a grader", &|p| p.waiting_for_grader as f64),
        ],
        marks: vec![("agents' slots".to_owned(), day.concurrency as f64)],
    }
}
