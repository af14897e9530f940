//! What an export is: `export.json`, and what the command prints.

use super::select::{Dropped, Why};
use crate::domain::Resolved;
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// Version of `export.json`; raised when a key changes its meaning or type.
pub const EXPORT_FORMAT: u32 = 1;

/// An export as a whole. The same for the same input, options and seed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub schema_version: u32,
    pub engine_version: &'static str,
    pub form: &'static str,
    /// As the command line names them, but for those that cannot change a byte of the data.
    pub options: serde_json::Value,
    pub seed: u64,
    pub sources: Vec<SourceReport>,
    /// Records read, all of which are written or dropped.
    pub read: u64,
    pub dropped: Dropped,
    /// Entries of the exclusions, and those of them that no record matched.
    pub exclusions: u64,
    pub unmatched: Vec<String>,
    pub written: Tally,
    pub splits: Vec<SplitReport>,
    pub files: Vec<FileReport>,
    /// Some of the records that the form cannot hold, and why.
    pub unfit: Vec<UnfitReport>,
}

#[derive(Debug, Clone, Serialize)]
pub struct SourceReport {
    pub path: String,
    pub records: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct SplitReport {
    pub name: String,
    pub instances: u64,
    #[serde(flatten)]
    pub tally: Tally,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnfitReport {
    pub id: String,
    pub why: String,
}

/// A file of the export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Path within the directory; `/` between names.
    pub file: String,
    /// Empty for what goes with the data.
    pub split: String,
    pub rows: u64,
    pub tokens: u64,
    pub loss_tokens: u64,
    pub bytes: u64,
    /// Before compression.
    pub raw_bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
}

/// Sums over rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub rows: u64,
    pub resolved: u64,
    pub unresolved: u64,
    pub without_verdict: u64,
    /// Of the rows that could be counted.
    pub tokens: u64,
    pub loss_tokens: u64,
    /// Rows with a message of the assistant that is not trained on.
    pub masked: u64,
    /// Before compression.
    pub raw_bytes: u64,
}

impl Tally {
    /// Of one row.
    #[must_use]
    pub fn new(resolved: Resolved, tokens: i64, loss_tokens: i64, masked: bool, raw_bytes: usize) -> Self {
        Tally {
            rows: 1,
            resolved: u64::from(resolved == Resolved::Yes),
            unresolved: u64::from(resolved == Resolved::No),
            without_verdict: u64::from(resolved == Resolved::Unknown),
            tokens: u64::try_from(tokens).unwrap_or(0),
            loss_tokens: u64::try_from(loss_tokens).unwrap_or(0),
            masked: u64::from(masked),
            raw_bytes: raw_bytes as u64,
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.rows += other.rows;
        self.resolved += other.resolved;
        self.unresolved += other.unresolved;
        self.without_verdict += other.without_verdict;
        self.tokens += other.tokens;
        self.loss_tokens += other.loss_tokens;
        self.masked += other.masked;
        self.raw_bytes += other.raw_bytes;
    }
}

impl Report {
    /// Reads so much of an `export.json` as says which files are the export's; none where it is no such file.
    #[must_use]
    pub fn files_of(json: &[u8]) -> Option<Vec<String>> {
        #[derive(Deserialize)]
        struct Known {
            #[serde(rename = "schema_version")]
            _schema_version: u32,
            #[serde(rename = "form")]
            _form: String,
            files: Vec<File>,
        }
        #[derive(Deserialize)]
        struct File {
            file: String,
        }
        let known: Known = serde_json::from_slice(json).ok()?;
        Some(known.files.into_iter().map(|file| file.file).collect())
    }

    /// How many records this rule dropped.
    #[must_use]
    pub fn dropped(&self, why: Why) -> u64 {
        self.dropped.get(&why).copied().unwrap_or(0)
    }
}
