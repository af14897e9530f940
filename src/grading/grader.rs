//! Grades one diff in a fresh sandbox of its own.

use super::Settings;
use super::plan::{Plan, is_shell};
use super::pytest::{self, Options, Runner};
use super::report::Report;
use super::verdict::{Circumstances, empty_diff, verdict};
use crate::domain::{Failure, Grade, Instance, Kind, TestStatus};
use crate::sandbox::prepare::{self, Done, call, foreign};
use crate::sandbox::{Provider, Purpose, Sandbox, Spec};
use crate::toolbox::protocol::{Answer, Command, End, Op, OpError};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Starts a sandbox, grades, destroys it. An empty diff needs none.
///
/// # Errors
/// Whatever starting a sandbox and [`prepare::at_base`] fail with; `DiffRejected`, `DiffTooLarge`, `Tests`, `RunnerMissing`,
/// `ReportUnreadable`, `GradeTimeout`; `MemoryExhausted` where the graded tests took the sandbox down.
pub async fn grade(
    provider: &dyn Provider,
    spec: &Spec,
    instance: &Instance,
    diff: &str,
    settings: &Settings,
    runners: &Runners,
) -> Result<Grade, Failure> {
    if instance.test_ids().next().is_none() {
        return Err(Failure::new(Kind::Tests, format!("{} lists no test: give it FAIL_TO_PASS ids", instance.instance_id)));
    }
    if diff.trim().is_empty() {
        return Ok(empty_diff(instance));
    }
    if diff.len() as u64 > settings.diff_max_bytes {
        let message = format!("the diff has {} bytes, over the limit of {} (diff_max_bytes)", diff.len(), settings.diff_max_bytes);
        return Err(Failure::new(Kind::DiffTooLarge, message));
    }
    let plan = Plan::new(instance, diff, &secret()?)?;
    let began = Instant::now();
    let deadline = tokio::time::Instant::from_std(began) + Duration::from_secs(settings.timeout_s);
    let late = |_| Failure::new(Kind::GradeTimeout, format!("the grading passed its deadline of {} s (timeout_s)", settings.timeout_s));
    let spec = Spec { purpose: Purpose::Grade, ..spec.clone() };
    let sandbox = tokio::time::timeout_at(deadline, provider.start(&spec)).await.map_err(late)??;
    let grading = Grading { sandbox: sandbox.as_ref(), instance, settings, plan: &plan, runners, began };
    let graded = tokio::time::timeout_at(deadline, grading.grade(diff)).await.map_err(late).flatten();
    if !matches!(&graded, Err(failure) if matches!(failure.kind, Kind::SandboxLost | Kind::MemoryExhausted)) {
        let _ = tokio::time::timeout(Duration::from_secs(5), grading.leave_nothing()).await;
    }
    if let Err(failure) = sandbox.destroy().await {
        tracing::warn!(instance = %instance.instance_id, "a grader's sandbox was not destroyed: {failure}");
    }
    graded
}

/// Test runners found so far, by image and `pre_commands`: the samples of an instance need not look for theirs again.
#[derive(Debug, Default)]
pub struct Runners(Mutex<HashMap<(String, String), Runner>>);

impl Runners {
    fn get(&self, key: &(String, String)) -> Option<Runner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn put(&self, key: (String, String), runner: Runner) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, runner);
    }
}

/// What one test run came to.
struct Tests {
    statuses: Vec<TestStatus>,
    complete: bool,
    tests_ms: u64,
    output_tail: String,
}

#[derive(Clone, Copy)]
struct Grading<'a> {
    sandbox: &'a dyn Sandbox,
    instance: &'a Instance,
    settings: &'a Settings,
    plan: &'a Plan,
    runners: &'a Runners,
    began: Instant,
}

impl Grading<'_> {
    async fn grade(self, diff: &str) -> Result<Grade, Failure> {
        prepare::at_base(self.sandbox, self.instance, &self.settings.prepare).await?;
        let runner = if is_shell(self.instance) { None } else { Some(self.find_pytest().await?) };
        self.keep_test_files().await?;
        self.apply(diff).await?;
        let absent = self.install_test_files().await?;
        let tests = match runner {
            Some(runner) => self.run_pytest(&runner, &absent).await,
            None => self.run_scripts(&absent).await,
        }?;
        let mut statuses = BTreeMap::new();
        for (id, status) in self.instance.test_ids().zip(tests.statuses) {
            // A list may name an id twice; the first is the one that was reported on.
            statuses.entry(id).or_insert(status);
        }
        let circumstances = Circumstances {
            duration_ms: self.began.elapsed().as_millis() as u64,
            tests_ms: tests.tests_ms,
            output_tail: tests.output_tail,
        };
        Ok(verdict(self.instance, &statuses, tests.complete, circumstances))
    }

    /// Before the model's diff, so that a runner which the diff breaks is told apart from one that was never there.
    async fn find_pytest(self) -> Result<Runner, Failure> {
        let key = (self.sandbox.image_digest().to_owned(), self.instance.pre_commands.clone());
        if let Some(known) = self.runners.get(&key) {
            return Ok(known);
        }
        let done = prepare::script(self.sandbox, self.sandbox.workdir(), 300, &pytest::probe()).await?;
        let runner = pytest::found(&done.tail(4000)).ok_or_else(|| {
            let message = format!("no Python in {} imports pytest: install it in the image\n{}", self.instance.image, done.tail(2000));
            Failure::new(Kind::RunnerMissing, message)
        })?;
        self.runners.put(key, runner.clone());
        Ok(runner)
    }

    async fn keep_test_files(self) -> Result<(), Failure> {
        self.script("keep the test files", &self.plan.keep_base()).await?;
        if !self.instance.test_patch.trim().is_empty()
            && let Err(error) = self.apply_op(&self.instance.test_patch).await?
        {
            let message = format!("the test patch of {} does not apply to its base: {error}", self.instance.instance_id);
            return Err(Failure::new(Kind::Tests, message));
        }
        self.script("keep the test files", &self.plan.keep_tests()).await?;
        if !self.instance.test_script.is_empty() {
            self.write(&self.plan.kept_test(0), self.instance.test_script.as_bytes()).await?;
        }
        Ok(())
    }

    async fn apply(self, diff: &str) -> Result<(), Failure> {
        let rejected = |error| Failure::new(Kind::DiffRejected, format!("the diff does not apply to a fresh sandbox: {error}"));
        self.apply_op(diff).await?.map_err(rejected)
    }

    async fn apply_op(self, diff: &str) -> Result<Result<(), OpError>, Failure> {
        let op = Op::Apply { workdir: self.sandbox.workdir().to_owned(), exclude: self.settings.prepare.exclude.clone() };
        match call(self.sandbox, op, diff.as_bytes()).await? {
            Ok(_) => Ok(Ok(())),
            Err(error @ (OpError::Rejected { .. } | OpError::Invalid { .. } | OpError::TooLarge { .. })) => Ok(Err(error)),
            Err(error) => {
                let message = format!("no diff can be applied in {}: {error}; is git in the image?", self.instance.image);
                Err(Failure::new(Kind::RunnerMissing, message))
            }
        }
    }

    /// The id files that are not there, by their index.
    async fn install_test_files(self) -> Result<Vec<usize>, Failure> {
        let done = self.script("put the test files in place", &self.plan.install()).await?;
        Ok(String::from_utf8_lossy(&done.output).lines().filter_map(|line| line.parse().ok()).collect())
    }

    async fn run_pytest(self, runner: &Runner, absent: &[usize]) -> Result<Tests, Failure> {
        let ids: Vec<&str> = self.instance.test_ids().collect();
        let files = self.plan.id_files.iter().enumerate().filter(|(index, _)| !absent.contains(index));
        let files: Vec<&str> = files.map(|(_, file)| file.as_str()).collect();
        let mut tests = Tests { statuses: vec![TestStatus::Missing; ids.len()], complete: false, tests_ms: 0, output_tail: String::new() };
        if files.is_empty() {
            tests.output_tail = "not run: none of the files that hold the listed tests exists".to_owned();
            return Ok(tests);
        }
        self.write(&pytest::plugin_path(self.plan), pytest::PLUGIN.as_bytes()).await?;
        self.write(&pytest::ids_path(self.plan), serde_json::json!(ids).to_string().as_bytes()).await?;
        for options in [Options::Project, Options::None] {
            let invocation = runner.invocation(self.plan, self.sandbox.workdir(), &files, options);
            let done = self.run_tests(invocation.argv, invocation.env, tests.tests_ms).await?;
            tests.tests_ms += done.duration_ms;
            tests.output_tail = done.tail(self.settings.output_tail_bytes);
            let report = Report::parse(&self.read(&invocation.report).await?, &self.plan.nonce, ids.len());
            tests.statuses = (0..ids.len()).map(|index| report.status(index)).collect();
            tests.complete = report.complete;
            if done.end == End::TimedOut {
                return Err(self.late(&done, &tests.statuses));
            }
            // 4 is a usage error and 5 says that nothing was collected: most likely by the project's options.
            if report.begun && !matches!(report.exit, Some(4 | 5)) {
                break;
            }
        }
        Ok(tests)
    }

    async fn run_scripts(self, absent: &[usize]) -> Result<Tests, Failure> {
        let mut tests = Tests { statuses: Vec::new(), complete: true, tests_ms: 0, output_tail: String::new() };
        for id in self.instance.test_ids() {
            let index = self.plan.id_files.iter().position(|file| file == id);
            if index.is_none_or(|index| absent.contains(&index)) {
                tests.statuses.push(TestStatus::Missing);
                continue;
            }
            let path = if id.starts_with('/') { id.to_owned() } else { format!("./{id}") };
            let done = self.run_tests(vec!["sh".to_owned(), path], Vec::new(), tests.tests_ms).await?;
            if done.end == End::TimedOut {
                return Err(self.late(&done, &tests.statuses));
            }
            tests.tests_ms += done.duration_ms;
            tests.output_tail.push_str(&done.tail(self.settings.output_tail_bytes));
            tests.statuses.push(match done.end {
                End::Exited(0) => TestStatus::Passed,
                End::Exited(77) => TestStatus::Skipped,
                _ => TestStatus::Failed,
            });
        }
        let excess = tests.output_tail.len().saturating_sub(self.settings.output_tail_bytes);
        tests.output_tail.drain(..tests.output_tail.ceil_char_boundary(excess));
        Ok(tests)
    }

    /// One run of a test command, within what is left of the time for tests.
    async fn run_tests(self, argv: Vec<String>, env: Vec<(String, String)>, spent_ms: u64) -> Result<Done, Failure> {
        let limit_s = self.settings.tests_timeout_s;
        let left_s = limit_s.saturating_sub(spent_ms / 1000).max(1);
        let cap = 4 * self.settings.output_tail_bytes as u64;
        let ran = prepare::run(self.sandbox, Command::Exec(argv), self.sandbox.workdir(), env, left_s, cap, &[]).await?;
        ran.map_err(|error| Failure::new(Kind::RunnerMissing, format!("the tests could not start: {error}")))
    }

    fn late(self, done: &Done, statuses: &[TestStatus]) -> Failure {
        let seen = statuses.iter().filter(|status| **status != TestStatus::Missing).count();
        let total = self.instance.test_ids().count();
        let message = format!(
            "the tests passed their deadline of {} s (tests_timeout_s) with {seen} of {total} listed tests seen; the end of their output:\n{}",
            self.settings.tests_timeout_s,
            done.tail(2000)
        );
        Failure::new(Kind::GradeTimeout, message)
    }

    /// The file, as far as it is read; empty where it does not exist.
    async fn read(self, path: &str) -> Result<Vec<u8>, Failure> {
        const PAGE: u64 = 16 << 20;
        let mut bytes = Vec::new();
        while bytes.len() < self.settings.report_max_bytes {
            let op = Op::Read { path: path.to_owned(), offset: bytes.len() as u64, max: PAGE };
            match call(self.sandbox, op, &[]).await? {
                Ok((Answer::Read { size }, page)) => {
                    bytes.extend_from_slice(&page);
                    if page.is_empty() || bytes.len() as u64 >= size {
                        break;
                    }
                }
                Ok((other, _)) => return Err(foreign("read", &other)),
                Err(OpError::Invalid { .. }) => break,
                Err(error) => return Err(Failure::new(Kind::ReportUnreadable, format!("the test report cannot be read: {error}"))),
            }
        }
        bytes.truncate(self.settings.report_max_bytes);
        Ok(bytes)
    }

    async fn write(self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        let op = Op::Write { path: path.to_owned(), mode: 0o644 };
        let written = call(self.sandbox, op, bytes).await?;
        written.map(drop).map_err(|error| Failure::new(Kind::SandboxLost, format!("{path} cannot be written: {error}")))
    }

    async fn script(self, what: &str, text: &[u8]) -> Result<Done, Failure> {
        let done = prepare::script(self.sandbox, self.sandbox.workdir(), 300, text).await?;
        if done.end == End::Exited(0) {
            return Ok(done);
        }
        let kind = if done.ran_out_of_space() { Kind::NoSpace } else { Kind::SandboxLost };
        Err(Failure::new(kind, format!("the grader could not {what}: {:?}: {}", done.end, done.tail(2000))))
    }

    /// A sandbox without a file system of its own must not collect what gradings leave.
    async fn leave_nothing(self) {
        let text = format!("rm -rf {}\n", self.plan.private);
        if let Err(failure) = self.script("remove its own files", text.as_bytes()).await {
            tracing::debug!("after grading {}: {failure}", self.instance.instance_id);
        }
    }
}

/// 64 hexadecimal digits that nothing in a sandbox can guess.
fn secret() -> Result<String, Failure> {
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Failure::new(Kind::SandboxStart, format!("/dev/urandom cannot be read: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
