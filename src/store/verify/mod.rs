//! Whether a run and its sealed dataset, or a sealed dataset alone, are whole and in order. Nothing on disk is changed.

mod card;
mod dataset;
mod findings;
mod index;
mod live;
mod pool;
mod record;
mod seekable;

pub use findings::{FileReport, Finding, Severity};

use super::{RunDir, Sealed, StoreError, View};
use findings::{Findings, Note, Place};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Version of the report; raised when a key changes its meaning or type.
pub const VERIFY_VERSION: u32 = 1;

/// How a verification goes about.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that read; 0: one a core.
    pub threads: usize,
    /// Findings that are named, problems first; the others are counted only.
    pub max_findings: usize,
    /// A longer record, before compression, is a problem, bytes.
    pub max_record_bytes: u64,
    /// A longer frame of a sealed shard, before compression, is a problem, bytes.
    pub max_frame_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { threads: 0, max_findings: 100, max_record_bytes: 256 << 20, max_frame_bytes: 512 << 20 }
    }
}

/// How far a verification is, for whoever waits: compressed bytes.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }

    /// Bytes done, and to be done in all as far as is known.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.done.load(Relaxed), self.total.load(Relaxed))
    }
}

/// What was found in one directory. Every key is always there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub dir: PathBuf,
    /// No problem was found; warnings may have been.
    pub sound: bool,
    pub problems: u64,
    pub warnings: u64,
    /// The run; its name is empty where the directory holds none.
    pub run: RunReport,
    pub sealed: SealedReport,
    /// Files that hold records, and those that something is wrong with.
    pub files: Vec<FileReport>,
    /// Problems first, by file and place; not more than the limit.
    pub findings: Vec<Finding>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RunReport {
    pub run: String,
    /// Committed attempts.
    pub attempts: u64,
    /// Of these, trajectories that another attempt has taken the place of.
    pub superseded: u64,
    /// Attempts that lie in the spool, and their entries.
    pub spooled: u64,
    pub spooled_entries: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SealedReport {
    /// Whether there is a sealed dataset.
    pub there: bool,
    /// Runs whose records it holds.
    pub runs: u64,
    pub rows: u64,
    /// It holds all that the run has committed; true where there is no run to compare with.
    pub current: bool,
}

/// Looks at everything below `dir`.
///
/// # Errors
/// Where it holds neither a run nor a sealed dataset, or one of a newer format. All else is a finding.
pub fn verify(dir: &Path, options: &Options, progress: &Progress) -> Result<Report, StoreError> {
    let is_run = RunDir::exists(dir);
    let sealed_json = Sealed::data(dir).join("sealed.json");
    if !is_run && !sealed_json.exists() {
        let why = "it has neither a run.toml nor a data/sealed.json".to_owned();
        return Err(StoreError::NotARun { path: dir.to_owned(), why });
    }
    let check = Check { dir, options, progress };
    let mut findings = Findings::new(options.max_findings);
    let mut run = RunReport::default();
    let mut live = None;
    if is_run {
        match View::open(dir) {
            Ok(view) => live = Some(live::check(&check, &view, &mut run, &mut findings)),
            Err(newer @ StoreError::Newer { .. }) => return Err(newer),
            Err(e) => findings.error(dir, &e),
        }
    }
    let mut sealed = SealedReport::default();
    match Sealed::read(dir) {
        Ok(Some(dataset)) => dataset::check(&check, &dataset, live.as_ref(), &mut sealed, &mut findings),
        Ok(None) => dataset::absent(&check, &mut findings),
        Err(newer @ StoreError::Newer { .. }) => return Err(newer),
        Err(e) => findings.error(dir, &e),
    }
    for name in ["data.new", "data.old"].into_iter().filter(|name| dir.join(name).exists()) {
        let what = "a sealing is at work, or was interrupted";
        findings.add(
            name,
            Note::warning(Place::File, what, "repeat the same `sweroll seal` or `sweroll merge`, which goes on where it stopped"),
        );
    }
    let (files, found, problems, warnings) = findings.finish();
    Ok(Report { dir: dir.to_owned(), sound: problems == 0, problems, warnings, run, sealed, files, findings: found })
}

/// What every part of a verification is given.
struct Check<'c> {
    dir: &'c Path,
    options: &'c Options,
    progress: &'c Progress,
}
