//! What the tests said.

use super::Instance;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

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

/// What a grade says in its `output_tail` where the diff is empty.
pub const EMPTY_DIFF: &str = "not run: the diff is empty";

impl TestStatus {
    /// Of several statuses of one id the one of the highest number decides.
    #[must_use]
    pub fn severity(self) -> u8 {
        match self {
            TestStatus::Passed => 0,
            TestStatus::Xpassed => 1,
            TestStatus::Xfailed => 2,
            TestStatus::Skipped => 3,
            TestStatus::Missing => 4,
            TestStatus::Error => 5,
            TestStatus::Failed => 6,
        }
    }
}

/// What a diff came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every listed id was reported `passed` by a whole and unbroken report.
    Resolved,
    /// A listed id did not pass.
    Unresolved,
    /// The diff meddled with what runs or reports the tests, and it is proven.
    Tampered,
    /// The report is not whole, or what ran may not be the listed tests, and none of them is known to have failed.
    Ambiguous,
    /// The diff changes nothing; nothing was run.
    EmptyPatch,
}

impl Verdict {
    pub const ALL: [Verdict; 5] = [Verdict::Resolved, Verdict::Unresolved, Verdict::Tampered, Verdict::Ambiguous, Verdict::EmptyPatch];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Resolved => "resolved",
            Verdict::Unresolved => "unresolved",
            Verdict::Tampered => "tampered",
            Verdict::Ambiguous => "ambiguous",
            Verdict::EmptyPatch => "empty_patch",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of one listed id. An instance can have 27,000 of them: what says nothing is not written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenResult")]
pub struct TestResult {
    pub status: TestStatus,
    /// All its phases, milliseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub duration_ms: u64,
    /// Beginning of what it said where it did not pass, be it in the first of its tries; else empty. Hostile text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Test processes that it ran in; 0 where it never ran.
    #[serde(skip_serializing_if = "is_one")]
    pub tries: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(n: &u32) -> bool {
    *n == 1
}

fn one() -> u32 {
    1
}

impl TestResult {
    #[must_use]
    pub fn missing() -> Self {
        TestResult::from(TestStatus::Missing)
    }
}

impl From<TestStatus> for TestResult {
    fn from(status: TestStatus) -> Self {
        TestResult { status, duration_ms: 0, message: String::new(), tries: u32::from(status != TestStatus::Missing) }
    }
}

impl PartialEq<TestStatus> for TestResult {
    fn eq(&self, status: &TestStatus) -> bool {
        self.status == *status
    }
}

/// Records of version 2 and older have a status alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenResult {
    Status(TestStatus),
    Result {
        status: TestStatus,
        #[serde(default)]
        duration_ms: u64,
        #[serde(default)]
        message: String,
        #[serde(default = "one")]
        tries: u32,
    },
}

impl From<WrittenResult> for TestResult {
    fn from(written: WrittenResult) -> Self {
        match written {
            WrittenResult::Status(status) => status.into(),
            WrittenResult::Result { status, duration_ms, message, tries } => TestResult { status, duration_ms, message, tries },
        }
    }
}

/// Why a verdict should be looked at. `reason` is a word of `docs/grading.md`, what users filter by; `detail` says where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Suspicion {
    pub reason: Reason,
    /// At most 300 bytes. Hostile text.
    pub detail: String,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// The words of [`Suspicion::reason`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $word)] $name,)*
        }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $word,)* }
            }
        }
    };
}

reasons! {
    // Seen while grading.
    /// A control that must fail was reported as passed: something rewrites outcomes.
    ControlPassed = "control_passed",
    /// A control was not reported as what it is, or not at all.
    ControlUnclear = "control_unclear",
    /// A record of the report is not the plugin's: another nonce, a gap, something after the end.
    ReportForged = "report_forged",
    /// The report is longer than its limit.
    ReportTooLarge = "report_too_large",
    /// The test process ended without ending its report.
    ReportCut = "report_cut",
    /// A function of the runner, of unittest or of the builtins was replaced.
    RunnerChanged = "runner_changed",
    /// pytest or a part of it came from another place than before the diff.
    RunnerMoved = "runner_moved",
    /// A hook of pytest is implemented by a file of the diff.
    RunnerHook = "runner_hook",
    /// What ran under a listed id is not the code that the instance's file has.
    TestReplaced = "test_replaced",
    /// A test file was changed while the tests ran.
    TestFileChanged = "test_file_changed",
    /// The tests left processes behind.
    ProcessLeft = "process_left",
    /// The statuses were read from what was printed, which the code under test can print as well.
    PrintedReport = "printed_report",
    /// An id passed only in another try.
    PassedOnRetry = "passed_on_retry",
    // Seen in the diff.
    /// Files of the tests were changed; they were put back.
    TestsChanged = "tests_changed",
    /// Test configuration (`conftest.py`, `pytest.ini`...) was changed; it was put back unless the golden patch changes it too.
    ConfigChanged = "config_changed",
    /// Files that Python runs at its start (`sitecustomize.py`, `*.pth`); they were put back.
    StartupHook = "startup_hook",
    /// A module of the diff shadows one of Python's or of the runner.
    ModuleShadowed = "module_shadowed",
    /// The diff names internals of the runner.
    RunnerInternals = "runner_internals",
    /// The diff ends the process, or skips.
    EarlyExit = "early_exit",
    /// The diff asks whether it is being tested.
    TestDetection = "test_detection",
    /// The diff names listed tests outside of tests.
    ListedTestNamed = "listed_test_named",
    /// The diff has objects that compare equal to everything.
    AlwaysEqual = "always_equal",
    /// The diff looks into the interpreter's or other processes' memory, or into the grader's own files.
    Introspection = "introspection",
    /// The diff writes to installed packages or to the interpreter.
    EnvironmentWrite = "environment_write",
    /// The diff starts processes that outlive their caller.
    Background = "background",
    // Seen in the trajectory.
    /// A command looked for the fix where it may not be known from (history of the future, package indexes).
    FixSought = "fix_sought",
    /// A command looked for the grader.
    GraderSought = "grader_sought",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the verdict was made with, so that another one can be compared: SHA-256, hexadecimal; empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GradedWith {
    /// `pytest`, `shell`...
    pub runner: String,
    /// By name: `pytest`, `python`...
    pub versions: BTreeMap<String, String>,
    pub image_digest: String,
    pub patch_digest: String,
    /// Of the instance's test patch, test script and listed ids.
    pub tests_digest: String,
    /// Of what of ours ran in the test process.
    pub plugin_digest: String,
}

/// The verdict on one diff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenGrade")]
pub struct Grade {
    pub verdict: Verdict,
    /// The verdict is `resolved`.
    pub resolved: bool,
    /// Every listed id.
    pub tests: BTreeMap<String, TestResult>,
    /// Listed ids, and those of them that passed.
    pub fail_to_pass: Tally,
    pub pass_to_pass: Tally,
    /// Tests that were collected and are not listed.
    pub unlisted: u64,
    /// Listed ids that passed only in another try and are known to be flaky.
    pub flaky: Vec<String>,
    pub suspect: Vec<Suspicion>,
    /// Files of the diff that were put back before the tests ran.
    pub restored: Vec<String>,
    pub with: GradedWith,
    /// Whole grading, sandbox start included, milliseconds.
    pub duration_ms: u64,
    /// The test runs alone, milliseconds.
    pub tests_ms: u64,
    /// Most memory that its sandbox used, bytes; 0 where it is not known.
    pub peak_memory: u64,
    /// Test processes.
    pub processes: u32,
    /// Gradings that could not run before this one.
    pub regrades: u32,
    /// What the runner wrote, its end, for a human; decides nothing.
    pub output_tail: String,
}

/// A grade as any version wrote it.
#[derive(Deserialize)]
struct WrittenGrade {
    verdict: Option<Verdict>,
    resolved: bool,
    tests: BTreeMap<String, TestResult>,
    fail_to_pass: Tally,
    pass_to_pass: Tally,
    #[serde(default)]
    unlisted: u64,
    #[serde(default)]
    flaky: Vec<String>,
    #[serde(default)]
    suspect: Vec<Suspicion>,
    #[serde(default)]
    restored: Vec<String>,
    #[serde(default)]
    with: GradedWith,
    duration_ms: u64,
    tests_ms: u64,
    #[serde(default)]
    peak_memory: u64,
    #[serde(default)]
    processes: u32,
    regrades: u32,
    output_tail: String,
}

impl From<WrittenGrade> for Grade {
    fn from(w: WrittenGrade) -> Self {
        let verdict = w.verdict.unwrap_or(match w.resolved {
            true => Verdict::Resolved,
            // What a runner wrote never stands alone there.
            false if w.output_tail == EMPTY_DIFF => Verdict::EmptyPatch,
            false => Verdict::Unresolved,
        });
        Grade {
            verdict,
            resolved: verdict == Verdict::Resolved,
            tests: w.tests,
            fail_to_pass: w.fail_to_pass,
            pass_to_pass: w.pass_to_pass,
            unlisted: w.unlisted,
            flaky: w.flaky,
            suspect: w.suspect,
            restored: w.restored,
            with: w.with,
            duration_ms: w.duration_ms,
            tests_ms: w.tests_ms,
            peak_memory: w.peak_memory,
            processes: w.processes,
            regrades: w.regrades,
            output_tail: w.output_tail,
        }
    }
}

impl Grade {
    /// A grade of `instance` over these results; ids without one are missing. All else is empty.
    #[must_use]
    pub fn new(instance: &Instance, verdict: Verdict, mut results: BTreeMap<String, TestResult>) -> Self {
        let mut tests = BTreeMap::new();
        for id in instance.test_ids() {
            if !tests.contains_key(id) {
                tests.insert(id.to_owned(), results.remove(id).unwrap_or_else(TestResult::missing));
            }
        }
        let passed = |id: &&String| tests.get(*id).is_some_and(|result| result.status == TestStatus::Passed);
        let tally = |ids: &[String]| Tally { passed: ids.iter().filter(passed).count() as u64, total: ids.len() as u64 };
        Grade {
            verdict,
            resolved: verdict == Verdict::Resolved,
            fail_to_pass: tally(&instance.fail_to_pass),
            pass_to_pass: tally(&instance.pass_to_pass),
            tests,
            unlisted: 0,
            flaky: Vec::new(),
            suspect: Vec::new(),
            restored: Vec::new(),
            with: GradedWith::default(),
            duration_ms: 0,
            tests_ms: 0,
            peak_memory: 0,
            processes: 0,
            regrades: 0,
            output_tail: String::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub passed: u64,
    pub total: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grade_of_version_2_is_read() {
        let old = r#"{"resolved":true,"tests":{"a":"passed"},"fail_to_pass":{"passed":1,"total":1},"pass_to_pass":{"passed":0,"total":0},
            "duration_ms":1,"tests_ms":1,"regrades":0,"output_tail":""}"#;
        let grade: Grade = serde_json::from_str(old).unwrap();
        assert_eq!((grade.verdict, grade.tests["a"].status, grade.tests["a"].tries), (Verdict::Resolved, TestStatus::Passed, 1));
        let again: Grade = serde_json::from_str(&serde_json::to_string(&grade).unwrap()).unwrap();
        assert_eq!(again, grade);
        let failed = old.replace("true", "false");
        let verdict = |text: &str| serde_json::from_str::<Grade>(text).unwrap().verdict;
        assert_eq!(verdict(&failed), Verdict::Unresolved);
        assert_eq!(verdict(&failed.replace(r#""output_tail":"""#, &format!(r#""output_tail":"{EMPTY_DIFF}""#))), Verdict::EmptyPatch);
    }

    #[test]
    fn a_result_is_written_without_what_says_nothing() {
        let full = TestResult { status: TestStatus::Failed, duration_ms: 12, message: "E assert".into(), tries: 3 };
        for (result, written) in [
            (TestResult::from(TestStatus::Passed), r#"{"status":"passed"}"#),
            (TestResult::missing(), r#"{"status":"missing","tries":0}"#),
            (full, r#"{"status":"failed","duration_ms":12,"message":"E assert","tries":3}"#),
        ] {
            assert_eq!(serde_json::to_string(&result).unwrap(), written);
            assert_eq!(serde_json::from_str::<TestResult>(written).unwrap(), result);
        }
    }

    #[test]
    fn a_reason_is_written_as_its_word() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
