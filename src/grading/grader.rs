//! Grades one diff in a fresh sandbox of its own.

use super::Settings;
use super::plan::{Plan, is_shell};
use super::runners::{Runners, find_pytest};
use super::verdict::{Circumstances, empty_diff, verdict};
use crate::domain::{Failure, Grade, Instance, Kind};
use crate::sandbox::prepare::{self, Done, call};
use crate::sandbox::{Provider, Purpose, Sandbox, Spec};
use crate::toolbox::protocol::{End, Op, OpError};
use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant};

/// Starts a sandbox, grades, destroys it. An empty diff needs none.
///
/// # Errors
/// Whatever starting a sandbox and [`prepare::at_base`] fail with; `DiffRejected`, `DiffTooLarge`, `Tests`, `RunnerMissing`,
/// `ReportUnreadable`, `GradeTimeout`, `GradeMemory`.
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
    let (sandbox_ref, memory_limit) = (sandbox.as_ref(), spec.limits.memory);
    let grading = Grading { sandbox: sandbox_ref, instance, settings, plan: &plan, memory_limit, oom_kills_before: 0, runners, began };
    let graded = tokio::time::timeout_at(deadline, grading.grade(diff)).await.map_err(late).flatten();
    let graded = graded.map_err(|failure| match failure.kind {
        Kind::MemoryExhausted => grading.out_of_memory(&failure.message),
        _ => failure,
    });
    // What is below another directory than the instance says shares a file system, which must not collect what gradings leave.
    if sandbox_ref.workdir() != instance.workdir {
        let _ = tokio::time::timeout(Duration::from_secs(5), grading.leave_nothing()).await;
    }
    if let Err(failure) = sandbox.destroy().await {
        tracing::warn!(instance = %instance.instance_id, "a grader's sandbox was not destroyed: {failure}");
    }
    graded
}

#[derive(Clone, Copy)]
pub(super) struct Grading<'a> {
    pub sandbox: &'a dyn Sandbox,
    pub instance: &'a Instance,
    pub settings: &'a Settings,
    pub plan: &'a Plan,
    /// Bytes.
    pub memory_limit: u64,
    /// Times the kernel killed in the sandbox before the tests ran.
    pub oom_kills_before: u64,
    runners: &'a Runners,
    began: Instant,
}

impl Grading<'_> {
    async fn grade(self, diff: &str) -> Result<Grade, Failure> {
        prepare::at_base(self.sandbox, self.instance, &self.settings.prepare).await?;
        // Before the model's diff, so that a runner which the diff breaks is told apart from one that was never there.
        let runner = match is_shell(self.instance) {
            true => None,
            false => Some(find_pytest(self.sandbox, self.instance, self.runners, Kind::RunnerMissing).await?),
        };
        self.keep_test_files().await?;
        self.apply(diff).await?;
        let absent = self.install_test_files().await?;
        let testing = Grading { oom_kills_before: self.oom_kills().await?, ..self };
        let tests = match runner {
            Some(runner) => testing.run_pytest(&runner, &absent).await,
            None => testing.run_scripts(&absent).await,
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

    async fn keep_test_files(self) -> Result<(), Failure> {
        let what = "keep the test files";
        if self.instance.test_patch.trim().is_empty() {
            self.script(what, &[self.plan.keep_base(), self.plan.keep_tests()].concat()).await?;
        } else {
            self.script(what, &self.plan.keep_base()).await?;
            self.apply_op(&self.instance.test_patch).await?.map_err(|error| {
                let message = format!("the test patch of {} does not apply to its base: {error}", self.instance.instance_id);
                Failure::new(Kind::Tests, message)
            })?;
            self.script(what, &self.plan.keep_tests()).await?;
        }
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

    pub(super) async fn write(self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
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
