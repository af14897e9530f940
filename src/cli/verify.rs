//! `sweroll verify`: whether runs and sealed datasets are whole and in order.

use super::{CliError, Exit, Format, Outcome, print, render};
use crate::store::verify::{self, FileReport, Finding, Options, Progress, Report, VERIFY_VERSION};
use clap::Args as ClapArgs;
use serde::Serialize;
use std::{
    fmt::Write,
    path::PathBuf,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

/// A verification that takes longer says now and then how far it is.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

#[derive(Debug, ClapArgs)]
#[command(after_help = "Exit codes: 0 all is sound; 1 problems were found; 2 a directory is none of sweroll's.

Example:
  sweroll verify runs/first
  sweroll verify runs/* --format json | jq '.dirs[] | select(.sound | not) | .findings[]'")]
pub struct Args {
    /// Directories of runs or of sealed datasets
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// Problems and warnings that are named for each directory, problems first; the others are counted
    #[arg(long, value_name = "N", default_value_t = Options::default().max_findings, env = "SWEROLL_MAX_PROBLEMS", help_heading = "Output")]
    pub max_problems: usize,
    /// No progress on stderr
    #[arg(long, short, env = "SWEROLL_QUIET", help_heading = "Output")]
    pub quiet: bool,
    #[arg(long, value_enum, default_value = "table", env = "SWEROLL_FORMAT", help_heading = "Output")]
    format: Format,
    /// Threads that read; 0: one a core
    #[arg(long, value_name = "N", default_value_t = 0, env = "SWEROLL_THREADS", help_heading = "Limits")]
    pub threads: usize,
    /// A longer record is a problem, bytes before compression
    #[arg(long, value_name = "BYTES", default_value_t = Options::default().max_record_bytes, env = "SWEROLL_MAX_RECORD_BYTES", help_heading = "Limits")]
    pub max_record_bytes: u64,
    /// A longer frame of a sealed shard is a problem, bytes before compression; memory is bounded by two of them a thread
    #[arg(long, value_name = "BYTES", default_value_t = Options::default().max_frame_bytes, env = "SWEROLL_MAX_FRAME_BYTES", help_heading = "Limits")]
    pub max_frame_bytes: u64,
}

/// All directories, as `--format json` prints it.
#[derive(Serialize)]
struct All {
    schema_version: u32,
    sound: bool,
    problems: u64,
    warnings: u64,
    dirs: Vec<Report>,
}

pub fn run(args: &Args) -> Outcome {
    let Args { max_problems: max_findings, threads, max_record_bytes, max_frame_bytes, .. } = *args;
    let options = Options { threads, max_findings, max_record_bytes, max_frame_bytes };
    let mut dirs = Vec::new();
    for dir in &args.dirs {
        dirs.push(while_telling(args.quiet, |progress| verify::verify(dir, &options, progress)).map_err(CliError::usage)?);
    }
    let of = |figure: fn(&Report) -> u64| dirs.iter().map(figure).sum();
    let (problems, warnings) = (of(|report| report.problems), of(|report| report.warnings));
    let all = All { schema_version: VERIFY_VERSION, sound: problems == 0, problems, warnings, dirs };
    match args.format {
        Format::Json => print(&render::json(&all))?,
        Format::Table => print(&all.dirs.iter().map(text).collect::<Vec<_>>().join("\n"))?,
    };
    Ok(if all.sound { Exit::Done } else { Exit::Failed })
}

/// Says on stderr how far the work is, where it takes long.
fn while_telling<T>(quiet: bool, work: impl FnOnce(&Progress) -> T) -> T {
    let progress = Progress::default();
    let (done, wait) = channel::<()>();
    let told = &progress;
    thread::scope(|scope| {
        scope.spawn(move || {
            while !quiet && wait.recv_timeout(BETWEEN_LINES) == Err(RecvTimeoutError::Timeout) {
                let (done, total) = told.bytes();
                eprintln!("sweroll: {} of {} MB read", render::grouped(done / 1_000_000), render::grouped(total / 1_000_000));
            }
        });
        let result = work(&progress);
        drop(done);
        result
    })
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    let name = report.dir.display();
    let (run, sealed) = (&report.run, &report.sealed);
    if !run.run.is_empty() {
        let _ = write!(out, "{name}: run {}, {} attempts", run.run, render::grouped(run.attempts));
        if run.superseded > 0 {
            let _ = write!(out, ", {} superseded", render::grouped(run.superseded));
        }
        if run.spooled > 0 {
            let _ = write!(out, ", {} in the spool", render::grouped(run.spooled));
        }
        out.push('\n');
    }
    if sealed.there {
        let stale = if sealed.current { "" } else { ", behind the run" };
        let _ = writeln!(out, "{name}: sealed, {} records of {} runs{stale}", render::grouped(sealed.rows), sealed.runs);
    }
    let mut rows = vec![["file", "rows", "bytes", "raw bytes", "problems", "warnings"].map(str::to_owned).to_vec()];
    rows.extend(report.files.iter().map(row));
    out.push('\n');
    out += &render::table(&rows);
    if !report.findings.is_empty() {
        out.push('\n');
    }
    report.findings.iter().for_each(|finding| out += &line(finding));
    let unnamed = report.problems + report.warnings - report.findings.len() as u64;
    if unnamed > 0 {
        let _ = writeln!(out, "and {} more (--max-problems)", render::grouped(unnamed));
    }
    let verdict = if report.sound { "sound".to_owned() } else { format!("{} problems", render::grouped(report.problems)) };
    let warnings = if report.warnings > 0 { format!(", {} warnings", render::grouped(report.warnings)) } else { String::new() };
    let _ = writeln!(out, "\n{name}: {verdict}{warnings}");
    out
}

fn row(file: &FileReport) -> Vec<String> {
    let figures = [file.rows, file.bytes, file.raw_bytes, file.problems, file.warnings];
    std::iter::once(file.file.clone()).chain(figures.map(render::grouped)).collect()
}

fn line(finding: &Finding) -> String {
    let Finding { severity, file, place, id, what, mend } = finding;
    let mut out = format!("{}: {file}", render::word(severity));
    if !place.is_empty() {
        let _ = write!(out, ", {place}");
    }
    if !id.is_empty() {
        let _ = write!(out, ", {id}");
    }
    let _ = write!(out, ": {what}");
    if !mend.is_empty() {
        let _ = write!(out, "; {mend}");
    }
    out.push('\n');
    out
}
