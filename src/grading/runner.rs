//! The port of what runs an instance's tests. All of a runner is pure: text to be run in the sandbox, and the reading of what
//! came back. `course` says which process comes next, `grader` has it run in a sandbox.

use crate::domain::{Instance, Suspicion, TestResult};
use crate::toolbox::protocol::End;
use std::collections::BTreeMap;

/// A kind of test runner. Its ids are the instance's; a file of an id is relative to `workdir`.
pub trait TestRunner: Send + Sync {
    /// Word for records: `pytest`, `shell`...
    fn name(&self) -> &'static str;

    /// The file that holds the test, where an id tells it.
    fn file_of<'a>(&self, _id: &'a str) -> Option<&'a str> {
        None
    }

    /// Shell text that finds the runner in a prepared sandbox, before the model's diff is there; none where nothing is to be found.
    fn search(&self, _instance: &Instance) -> Option<Vec<u8>> {
        None
    }

    /// What the search printed comes to; none: there is no runner in the image.
    fn found(&self, _output: &str) -> Option<Found> {
        None
    }

    /// SHA-256 of what of ours runs in the test process, hexadecimal; empty where nothing does.
    fn plugin_digest(&self) -> String {
        String::new()
    }

    /// Files of the runner, absolute, that nobody has to change while tests run.
    fn parts(&self, _found: &Found) -> Vec<String> {
        Vec::new()
    }

    /// The process that runs the wanted tests.
    fn launch(&self, found: &Found, job: &Job<'_>) -> Launch;

    /// What the process said of them.
    fn read(&self, job: &Job<'_>, said: &Said<'_>) -> Observed;
}

/// A runner as it was found before the model's diff came in; kept for all sandboxes of the same image and `pre_commands`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Words that start it.
    pub command: Vec<String>,
    /// By name: `pytest`, `python`, plugins that matter.
    pub versions: BTreeMap<String, String>,
    /// Where its parts are, as the runner wants to know it again.
    pub origins: BTreeMap<String, String>,
}

/// What one test process is to do.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    pub instance: &'a Instance,
    /// Where the repository is inside the sandbox.
    pub workdir: &'a str,
    /// All listed ids in the given order, each once: a test is known by its index.
    pub ids: &'a [&'a str],
    /// Indices of those to be run, ascending.
    pub wanted: &'a [usize],
    /// Files that hold the wanted ids and exist, in the order of their first id.
    pub files: &'a [&'a str],
    /// Files that the diff changes, and the golden patch does not, relative to `workdir`.
    pub foreign_files: &'a [&'a str],
    /// The model's diff.
    pub diff: &'a str,
    /// Unguessable, of this process alone; hexadecimal, 64 digits.
    pub secret: &'a str,
    pub options: Options,
    /// Bytes of the report that are read.
    pub report_max: u64,
}

/// Whose options a run is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Options {
    /// The project's, save what would keep tests from running or reporting one by one.
    Project,
    /// None: the project's could not be used.
    None,
}

/// A process to be started in `workdir`. Its report is what it writes to descriptor 3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launch {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Its standard input.
    pub input: Vec<u8>,
    /// It reports on descriptor 3, not by what it prints.
    pub reports: bool,
}

/// What became of a process.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    pub end: End,
    pub duration_ms: u64,
    /// Standard output and error as one; the middle is missing where it was over the limit.
    pub output: &'a [u8],
    pub report: &'a [u8],
    /// The report was longer than what is here.
    pub report_cut: bool,
}

/// What a process said of its tests, as far as it can be trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The runner came as far as its tests.
    pub begun: bool,
    /// Everything was said, from the first record to the last.
    pub complete: bool,
    /// With the project's options nothing can be run: none are to be used.
    pub unusable: bool,
    /// By index; wanted ids that are not here are missing.
    pub results: BTreeMap<usize, TestResult>,
    /// The test in which the process died or broke off.
    pub running: Option<usize>,
    pub unlisted: u64,
    pub versions: BTreeMap<String, String>,
    /// The end of what was printed, where that is the report.
    pub printed: String,
    /// Proof that the diff meddled: the verdict is `tampered`.
    pub proof: Vec<Suspicion>,
    /// Signs that what ran may not be the listed tests: the verdict is not `resolved`, and `ambiguous` where none failed.
    pub doubt: Vec<Suspicion>,
    /// Signs that change no verdict.
    pub signs: Vec<Suspicion>,
}
