//! Why the store could not do what was asked.

use super::run_dir::Difference;
use crate::domain::{AttemptId, Failure, Kind};
use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

/// One error may answer several callers, so it can be cloned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {doing} {}: {text}; {}", path.display(), mend(*kind))]
    Io { doing: &'static str, path: PathBuf, kind: io::ErrorKind, text: String },
    #[error("{} is in use by process {holder}; wait for it or stop it", path.display())]
    Locked { path: PathBuf, holder: String },
    #[error("{} is not a run directory: {why}; give the directory of a run", path.display())]
    NotARun { path: PathBuf, why: String },
    #[error("{} cannot be used: {why}; choose another directory", path.display())]
    Occupied { path: PathBuf, why: String },
    #[error("{} holds {name}, which sweroll did not write: move it away, since data/ is replaced as a whole", path.display())]
    Foreign { path: PathBuf, name: String },
    #[error("{} has format {found}, this sweroll knows up to {known}; use the newer sweroll that wrote it", path.display())]
    Newer { path: PathBuf, found: u64, known: u64 },
    #[error("{} is damaged at {place}: {problem}; restore it from a copy", path.display())]
    Damaged { path: PathBuf, place: String, problem: String },
    #[error("{}", settings_differ(path, differences))]
    Settings { path: PathBuf, differences: Vec<Difference> },
    #[error("{id} is committed already; take the episode's next attempt")]
    Twice { id: AttemptId },
    #[error("{id} is no episode of this run; use the instances and samples that it was made with")]
    Unknown { id: String },
    #[error("{what} is {bytes} bytes long, over the limit of {limit}; raise the limit in the settings")]
    TooLarge { what: String, bytes: u64, limit: u64 },
    #[error("the store is closed; open the run again")]
    Closed,
}

impl StoreError {
    #[must_use]
    pub fn io(doing: &'static str, path: &Path, error: &io::Error) -> Self {
        StoreError::Io { doing, path: path.to_owned(), kind: error.kind(), text: error.to_string() }
    }

    #[must_use]
    pub fn damaged(path: &Path, place: impl Into<String>, problem: impl Into<String>) -> Self {
        StoreError::Damaged { path: path.to_owned(), place: place.into(), problem: problem.into() }
    }

    /// The run cannot go on until the cause is mended.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::new(Kind::RunDir, self.to_string())
    }
}

fn mend(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room and run the same command again: nothing committed is lost",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "make it writable or choose another directory",
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::NotADirectory => "a part of the path is a file; choose another directory",
        _ => "check the disk and run the same command again",
    }
}

fn settings_differ(path: &Path, differences: &[Difference]) -> String {
    let mut text = format!("{} was made with other settings:", path.display());
    for difference in differences {
        let _ = write!(text, "\n  {difference}");
    }
    text.push_str("\nuse the old settings, or another directory");
    text
}
