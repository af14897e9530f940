//! `sweroll validate`: which instances hold, by their own base and golden patch.

use super::{
    CliError, Exit, Format, Outcome, block_on, left_out, notice, options, print, render,
    run::{log_to, refused, stops},
};
use crate::{
    domain::Kind,
    engine::{
        batch::Grounds,
        validate::{self, Options, Shown, Status, Summary, Validation},
    },
    scheduler::driver::End,
};
use clap::Args as ClapArgs;
use std::{fmt::Write as _, path::PathBuf};
use tokio::runtime::Handle;

const EXAMPLE: &str = "Example:
  sweroll validate --instances scale-swe.jsonl.zst --out checked --runs 3 --concurrency 16
  sweroll run --instances checked/validated.jsonl --flaky checked/flaky.jsonl --out runs/first ...

Ctrl-C once finishes what is at work, twice stops at once; the same command resumes.";

#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Directory for validated.jsonl, quarantine.jsonl, flaky.jsonl and report.json; an existing one is resumed
    #[arg(long, value_name = "DIR", env = "SWEROLL_OUT", help_heading = "Output")]
    out: PathBuf,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
    /// Gradings of the base, and as many of the golden patch
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000), env = "SWEROLL_RUNS", help_heading = "Instances")]
    runs: u32,
    /// PASS_TO_PASS ids that may differ between runs; an instance with more of them is quarantined
    #[arg(long, value_name = "N", default_value_t = 5, env = "SWEROLL_MAX_FLAKY", help_heading = "Instances")]
    max_flaky: usize,
    #[command(flatten)]
    grading: options::Grading,
}

pub fn run(args: &Args) -> Outcome {
    let settings = args.grading.resolve()?;
    let wanted = Options { runs: args.runs, max_flaky: args.max_flaky };
    let quiet = args.grading.quiet;
    let (end, summary) = block_on(async {
        let ask = || Handle::current().block_on(Grounds::find(&settings));
        let opened = tokio::task::block_in_place(|| validate::open(&args.out, &settings, wanted, ask)).map_err(refused)?;
        left_out(&opened.left_out, opened.left_out_total);
        log_to(&args.out.join("logs"))?;
        notice(opened.notice());
        let stop = stops(|text| eprintln!("{text}"))?;
        let told = move |validation: &Validation| {
            if !quiet {
                eprintln!("{}", line(validation));
            }
        };
        validate::run(opened, stop, told).await.map_err(|failure| {
            let exit = if failure.kind == Kind::RunDir { Exit::Failed } else { Exit::Unfinished };
            CliError { exit, message: failure.to_string() }
        })
    })??;
    match args.format {
        Format::Table => print(&table(&summary))?,
        Format::Json => print(&render::json(&summary))?,
    };
    let unfinished = summary.totals.undecided + summary.totals.outstanding;
    match end {
        End::Killed => {
            eprintln!("sweroll: killed; the same command resumes");
            Ok(Exit::Killed)
        }
        End::Drained(reason) => {
            eprintln!("sweroll: stopped: {reason}\nsweroll: {unfinished} instances are outstanding; the same command resumes");
            Ok(Exit::Unfinished)
        }
        End::Done if unfinished > 0 => {
            eprintln!("sweroll: {unfinished} instances are undecided, since their sandboxes failed; the same command tries them again");
            Ok(Exit::Unfinished)
        }
        End::Done => Ok(Exit::Done),
    }
}

/// Progress: one decided instance.
fn line(validation: &Validation) -> String {
    let mut text = format!("sweroll: {} {}", validation.instance_id, validation.status.as_str());
    if let Some(finding) = validation.findings.first() {
        let _ = write!(text, ": {}", finding.reason.as_str());
        match (finding.ids.first(), finding.ids_total) {
            (Some(id), 1) => text.push_str(&format!(" {}", shown(id))),
            (Some(id), more) => text.push_str(&format!(" {} and {} more", shown(id), more - 1)),
            (None, _) => text.push_str(&format!(": {}", shown(finding.detail.lines().next().unwrap_or_default()))),
        }
    }
    if let Some(failure) = &validation.failure {
        let _ = write!(text, ": {}", shown(&failure.message));
    }
    if !validation.flaky.is_empty() {
        let _ = write!(text, " ({} flaky)", validation.flaky.len());
    }
    text
}

/// Text of instances and tests, fit for a terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

fn table(summary: &Summary) -> String {
    let head = ["instance", "status", "flaky", "seconds", "tests s", "peak MiB", "image MiB"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(summary.shown.iter().map(row));
    let mut text = render::table(&rows);
    let totals = &summary.totals;
    let hidden = totals.instances - summary.shown.len() as u64;
    if hidden > 0 {
        let _ = writeln!(text, "and {} more, in report.json", render::grouped(hidden));
    }
    text.push('\n');
    let count = |name: &str, n: u64| vec![name.to_owned(), render::grouped(n)];
    let mut rows = vec![count("instances", totals.instances), count("held", totals.held)];
    if totals.held_with_flaky > 0 {
        rows.push(count("  with flaky ids", totals.held_with_flaky));
    }
    rows.push(count("quarantined", totals.quarantined));
    rows.extend(totals.reasons.iter().map(|(reason, n)| count(&format!("  {reason}"), *n)));
    for (name, n) in [("undecided", totals.undecided), ("outstanding", totals.outstanding)] {
        if n > 0 {
            rows.push(count(name, n));
        }
    }
    text + &render::table(&rows)
}

fn row(shown: &Shown) -> Vec<String> {
    let seconds = |ms: u64| if ms == 0 { String::new() } else { format!("{:.1}", ms as f64 / 1000.0) };
    let mib = |bytes: u64| if bytes == 0 { String::new() } else { (bytes >> 20).to_string() };
    let status = if shown.status == Status::Quarantined { shown.reason } else { shown.status.as_str() };
    let Shown { cost, .. } = shown;
    vec![
        shown.id.clone(),
        status.to_owned(),
        if shown.flaky == 0 { String::new() } else { shown.flaky.to_string() },
        seconds(cost.grading_ms),
        seconds(cost.tests_ms),
        mib(cost.peak_memory),
        mib(cost.image_bytes),
    ]
}
