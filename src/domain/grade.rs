//! What the tests said.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Outcome of one test id. Only `Passed` counts as passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TestStatus {
    Passed,
    Failed,
    Error,
    Skipped,
    Xfailed,
    Xpassed,
    /// The runner never reported the id.
    Missing,
}

/// The verdict on one diff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grade {
    /// Every listed id was reported `passed`.
    pub resolved: bool,
    /// Status of every listed id.
    pub tests: BTreeMap<String, TestStatus>,
    /// Listed ids, and those of them that passed.
    pub fail_to_pass: Tally,
    pub pass_to_pass: Tally,
    /// Whole grading, sandbox start included, milliseconds.
    pub duration_ms: u64,
    /// The test runs alone, milliseconds.
    pub tests_ms: u64,
    /// Gradings that could not run before this one.
    pub regrades: u32,
    /// What the runner wrote, its end, for a human; decides nothing.
    pub output_tail: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub passed: u64,
    pub total: u64,
}
