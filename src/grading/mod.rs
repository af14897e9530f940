//! Grading one diff with the instance's own tests: `plan`, `hygiene`, `course`, `verdict` and every `runner` are pure,
//! `grader` and `runners` are the adapter.

pub mod course;
pub mod grader;
pub mod hygiene;
pub mod plan;
pub mod pytest;
mod record;
pub mod report;
pub mod restore;
pub mod runner;
pub mod runners;
pub mod scripts;
pub mod shadow;
pub mod suspicion;
pub mod validation;
pub mod verdict;

pub use grader::{grade, run};
pub use runners::{Runners, probe};

use crate::domain::Instance;
use crate::sandbox::prepare;
use serde::{Deserialize, Serialize};

/// What is graded.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    pub instance: &'a Instance,
    pub diff: &'a str,
    /// Ids that are known to be flaky: one of PASS_TO_PASS that did not pass is tried again, and recorded as flaky.
    pub flaky: &'a [String],
}

/// Bounds of one grading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Seconds for all test runs of one grading together.
    pub tests_timeout_s: u64,
    /// Seconds from the request for a sandbox to the verdict.
    pub timeout_s: u64,
    /// Bytes of a diff that is graded.
    pub diff_max_bytes: u64,
    /// Bytes of the runner's output kept on the record.
    pub output_tail_bytes: usize,
    /// Times that an id known to be flaky is run at most, the first included.
    pub flaky_tries: u32,
    /// Tests of PASS_TO_PASS that failed where all others passed, and are run alone to see whether the order failed them; more: none is.
    pub order_retry_max: usize,
    /// Bytes of the report of one test process; a longer one is cut, and never resolves. At most 63 MiB.
    pub report_max_bytes: usize,
    /// As the agent's sandbox is prepared; the engine sets it, so that the two cannot differ.
    #[serde(skip)]
    pub prepare: prepare::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tests_timeout_s: 1800,
            timeout_s: 3600,
            diff_max_bytes: hygiene::MAX_DIFF_BYTES,
            output_tail_bytes: 16 << 10,
            flaky_tries: 3,
            order_retry_max: 20,
            report_max_bytes: 32 << 20,
            prepare: prepare::Settings::default(),
        }
    }
}
