//! The test runs of one grading: every listed id gets its status, whatever becomes of the process that another one ran in.

use super::grader::Grading;
use super::plan::file_of;
use super::pytest::{self, Options, Runner};
use super::report::Report;
use crate::domain::{Failure, Kind, TestStatus};
use crate::sandbox::prepare::{self, Done, call, foreign};
use crate::toolbox::protocol::{Answer, Command, End, Op, OpError};
use std::collections::BTreeSet;

/// Runs begun anew after a test took its process down. What has no status after them stays missing.
const RESTARTS: usize = 3;

/// What the test runs came to.
pub(super) struct Tests {
    pub statuses: Vec<TestStatus>,
    pub complete: bool,
    pub tests_ms: u64,
    pub output_tail: String,
}

impl Tests {
    fn all_passed(&self) -> bool {
        self.complete && self.statuses.iter().all(|status| *status == TestStatus::Passed)
    }

    /// Keeps the end of what was written, and says how it ended.
    fn note(&mut self, done: &Done, what: &str, running: Option<&str>, max: usize) {
        let how = match done.end {
            End::Exited(code) => format!("exited with {code}"),
            End::Signaled(signal) => format!("was killed by signal {signal}"),
            End::TimedOut => "was killed at its deadline".to_owned(),
        };
        let running = running.map(|id| format!(" while {id} ran")).unwrap_or_default();
        self.output_tail.push_str(&format!("{}\n[{what} {how}{running}]\n", done.tail(max)));
        let excess = self.output_tail.len().saturating_sub(max);
        self.output_tail.drain(..self.output_tail.ceil_char_boundary(excess));
    }
}

impl Grading<'_> {
    /// `absent`: the id files that are not there, by their index.
    pub(super) async fn run_pytest(self, runner: &Runner, absent: &[usize]) -> Result<Tests, Failure> {
        let ids: Vec<&str> = self.instance.test_ids().collect();
        let there = self.plan.id_files.iter().enumerate().filter(|(index, _)| !absent.contains(index));
        let there: Vec<&str> = there.map(|(_, file)| file.as_str()).collect();
        let mut tests = Tests { statuses: vec![TestStatus::Missing; ids.len()], complete: true, tests_ms: 0, output_tail: String::new() };
        if there.is_empty() {
            tests.complete = false;
            tests.output_tail = "not run: none of the files that hold the listed tests exists".to_owned();
            return Ok(tests);
        }
        self.write(&pytest::plugin_path(self.plan), pytest::PLUGIN.as_bytes()).await?;
        let (mut options, mut restarts) = (Options::Project, 0);
        for run in 1.. {
            let wanted = wanted(&ids, &tests.statuses);
            let holding: BTreeSet<&str> = wanted.iter().flatten().map(|id| file_of(id)).collect();
            let files: Vec<&str> = there.iter().copied().filter(|file| holding.contains(file)).collect();
            if files.is_empty() {
                break;
            }
            self.write(&pytest::ids_path(self.plan), serde_json::json!(wanted).to_string().as_bytes()).await?;
            let invocation = runner.invocation(self.plan, self.sandbox.workdir(), &files, options, run);
            let done = self.run_tests(invocation.argv, invocation.env, tests.tests_ms).await?;
            let report = Report::parse(&self.read(&invocation.report).await?, &self.plan.nonce, ids.len());
            for (index, status) in tests.statuses.iter_mut().enumerate().filter(|(_, status)| **status == TestStatus::Missing) {
                *status = report.status(index);
            }
            tests.tests_ms += done.duration_ms;
            let running = report.running.and_then(|index| ids.get(index)).copied();
            tests.note(&done, "the test runner", running, self.settings.output_tail_bytes);
            // 4 is a usage error and 5 says that nothing was collected: most likely by the project's options.
            let unusable = !report.begun || matches!(report.exit, Some(4 | 5));
            let again = unusable && options == Options::Project && restarts == 0;
            tests.complete &= report.complete || again;
            if again || !tests.all_passed() {
                self.memory_sufficed().await?;
            }
            if done.end == End::TimedOut {
                return Err(self.late(&done, &tests.statuses));
            }
            if again {
                options = Options::None;
            } else if running.is_some() && restarts < RESTARTS {
                restarts += 1;
            } else {
                break;
            }
        }
        Ok(tests)
    }

    pub(super) async fn run_scripts(self, absent: &[usize]) -> Result<Tests, Failure> {
        let mut tests = Tests { statuses: Vec::new(), complete: true, tests_ms: 0, output_tail: String::new() };
        for id in self.instance.test_ids() {
            let index = self.plan.id_files.iter().position(|file| file == id);
            if index.is_none_or(|index| absent.contains(&index)) {
                tests.statuses.push(TestStatus::Missing);
                continue;
            }
            let path = if id.starts_with('/') { id.to_owned() } else { format!("./{id}") };
            let done = self.run_tests(vec!["sh".to_owned(), path], Vec::new(), tests.tests_ms).await?;
            if done.end != End::Exited(0) {
                self.memory_sufficed().await?;
            }
            if done.end == End::TimedOut {
                return Err(self.late(&done, &tests.statuses));
            }
            tests.tests_ms += done.duration_ms;
            tests.note(&done, id, None, self.settings.output_tail_bytes);
            tests.statuses.push(match done.end {
                End::Exited(0) => TestStatus::Passed,
                End::Exited(77) => TestStatus::Skipped,
                _ => TestStatus::Failed,
            });
        }
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

    /// Times the kernel killed in this sandbox so far.
    pub(super) async fn oom_kills(self) -> Result<u64, Failure> {
        match call(self.sandbox, Op::Usage, &[]).await? {
            Ok((Answer::Usage(usage), _)) => Ok(usage.oom_kills),
            Ok((other, _)) => Err(foreign("usage", &other)),
            Err(error) => Err(Failure::new(Kind::SandboxLost, format!("the sandbox's counters cannot be read: {error}"))),
        }
    }

    /// Tests that did not pass where the kernel killed say nothing of the diff.
    async fn memory_sufficed(self) -> Result<(), Failure> {
        match self.oom_kills().await?.saturating_sub(self.oom_kills_before) {
            0 => Ok(()),
            kills => Err(self.out_of_memory(&format!("the kernel killed {kills} times for want of memory"))),
        }
    }

    pub(super) fn out_of_memory(self, what: &str) -> Failure {
        let message = format!(
            "{what} while {} was graded within {} bytes: raise sandbox.limits.memory",
            self.instance.instance_id, self.memory_limit
        );
        Failure::new(Kind::GradeMemory, message)
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
}

/// The ids that have no status yet, each in its place and once: a list may name one twice.
fn wanted<'a>(ids: &[&'a str], statuses: &[TestStatus]) -> Vec<Option<&'a str>> {
    let mut seen = BTreeSet::new();
    let first = |id: &&'a str| seen.insert(*id);
    let firsts: Vec<bool> = ids.iter().map(first).collect();
    let left = firsts.into_iter().zip(statuses).map(|(first, status)| first && *status == TestStatus::Missing);
    ids.iter().zip(left).map(|(id, left)| left.then_some(*id)).collect()
}
