//! `sweroll bench images`: a run's images on its disk, in virtual time.

use crate::bench::images::{Comparison, Options, Outcome as Way, compare};
use crate::cli::{CliError, Outcome, print, render};
use clap::{Args as ClapArgs, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "The scheduler's own code decides, as in a run; the disk, the registry and the episodes are numbers. The same numbers \
give the same result. docs/performance.md says what the columns are.

Example:
  sweroll bench images --images 25000 --disk-gb 500 --plot images.svg"
)]
pub struct Args {
    #[command(flatten)]
    what: What,
    /// Draw the disk, the pulls and the live episodes over time
    #[arg(long, value_name = "FILE.svg", env = "SWEROLL_PLOT", help_heading = "Output")]
    plot: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
}

#[derive(Debug, Clone, ClapArgs)]
struct What {
    /// Images, each of one instance
    #[arg(long, value_name = "N", default_value_t = 25_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), env = "SWEROLL_BENCH_IMAGES", help_heading = "Simulation")]
    images: u32,
    /// Episodes of each
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000), env = "SWEROLL_SAMPLES", help_heading = "Simulation")]
    samples: u32,
    /// Different lower parts that images share
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..), env = "SWEROLL_BENCH_BASES", help_heading = "Simulation")]
    bases: u32,
    /// Images that share a lower part are anywhere among the names, instead of neighbours
    #[arg(long, env = "SWEROLL_BENCH_SCATTERED", help_heading = "Simulation")]
    scattered: bool,
    /// Mean GB of an image
    #[arg(long, value_name = "GB", default_value_t = 3.0, value_parser = number, env = "SWEROLL_BENCH_IMAGE_GB", help_heading = "Simulation")]
    image_gb: f64,
    #[arg(long, value_name = "GB", default_value_t = 500.0, value_parser = number, env = "SWEROLL_BENCH_DISK_GB", help_heading = "Simulation", help = "GB of the disk")]
    disk_gb: f64,
    /// GB a second, of all pulls together
    #[arg(long, value_name = "GB", default_value_t = 1.0, value_parser = number, env = "SWEROLL_BENCH_BANDWIDTH", help_heading = "Simulation")]
    bandwidth: f64,
    /// Pulls at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000), env = "SWEROLL_BENCH_PULLS", help_heading = "Simulation")]
    pulls: u16,
    /// Images fetched ahead
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=10_000), env = "SWEROLL_BENCH_PREFETCH", help_heading = "Simulation")]
    prefetch: u16,
    /// Live episodes at once
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000), env = "SWEROLL_CONCURRENCY", help_heading = "Simulation")]
    concurrency: u32,
    /// Mean minutes of an agent
    #[arg(long, value_name = "MIN", default_value_t = 12.0, value_parser = number, env = "SWEROLL_BENCH_AGENT_MIN", help_heading = "Simulation")]
    agent_min: f64,
    /// Minutes of a grading
    #[arg(long, value_name = "MIN", default_value_t = 2.0, value_parser = number, env = "SWEROLL_BENCH_GRADE_MIN", help_heading = "Simulation")]
    grade_min: f64,
    /// Decides sizes and durations
    #[arg(long, value_name = "N", default_value_t = 1, env = "SWEROLL_SEED", help_heading = "Simulation")]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n| (0.001..=1e6).contains(n)).ok_or_else(|| format!("{text:?} is no number from 0.001 to 1000000"))
}

impl What {
    fn options(&self) -> Options {
        Options {
            images: self.images,
            samples: self.samples,
            bases: self.bases,
            scattered: self.scattered,
            image_gb: self.image_gb,
            disk_gb: self.disk_gb,
            gb_per_s: self.bandwidth,
            pulls_in_flight: self.pulls.into(),
            prefetch: self.prefetch.into(),
            concurrency: self.concurrency as usize,
            agent_min: self.agent_min,
            grade_min: self.grade_min,
            seed: self.seed,
        }
    }
}

pub fn run(args: &Args) -> Outcome {
    let options = args.what.options();
    if options.images.checked_mul(options.samples).is_none() {
        return Err(CliError::usage(format!("{} images x {} samples are too many episodes: take fewer", options.images, options.samples)));
    }
    let comparison = compare(&options);
    if let Some(path) = &args.plot {
        let failed = |e| CliError::failed(format!("{}: {e}: give another file by --plot", path.display()));
        std::fs::write(path, comparison.plot().svg()).map_err(failed)?;
    }
    match args.format {
        Format::Text => print(&text(&comparison)),
        Format::Json => print(&render::json(&comparison)),
    }
}

type Row = (&'static str, fn(&Way) -> String);

fn text(comparison: &Comparison) -> String {
    const ROWS: [Row; 9] = [
        ("episodes", |way| way.episodes.to_string()),
        ("pulls", |way| way.pulls.to_string()),
        ("images pulled more than once", |way| way.pulled_again.to_string()),
        ("TB pulled", |way| format!("{:.1}", way.pulled_tb)),
        ("evictions", |way| way.evicted.to_string()),
        ("GB on the disk at most", |way| format!("{:.1}", way.disk_gb_max)),
        ("pulls begun above the mark", |way| way.above_mark.to_string()),
        ("hours", |way| format!("{:.1}", way.hours)),
        ("slots without an agent, %", |way| format!("{:.2}", 100.0 * way.idle_share)),
    ];
    let o = &comparison.options;
    let mut out = format!(
        "{} images x {} samples, {} GB each; disk {} GB, mark at {:.0} GB; {} GB/s, {} pulls at once, {} ahead; {} live\n\n",
        o.images, o.samples, o.image_gb, o.disk_gb, comparison.mark_gb, o.gb_per_s, o.pulls_in_flight, o.prefetch, o.concurrency
    );
    let mut line = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>12}")).collect();
        out.push_str(&format!("{name:<32}{cells}\n"));
    };
    line("", comparison.ways.iter().map(|way| way.way.to_owned()).collect());
    for (name, cell) in ROWS {
        line(name, comparison.ways.iter().map(cell).collect());
    }
    out
}
