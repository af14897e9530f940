//! Grades one diff: every test process in a fresh sandbox of its own, so that none sees what another one left.

use super::course::{Course, Step};
use super::plan::Plan;
use super::runner::{Found, Job, Observed, Said, TestRunner};
use super::runners::{Runners, find, runner_of};
use super::verdict::empty_diff;
use super::{Case, Settings, suspicion};
use crate::domain::{Failure, Grade, Kind, Reason, Suspicion};
use crate::sandbox::prepare::{self, Done, call, foreign};
use crate::sandbox::{Provider, Purpose, Sandbox, Spec};
use crate::toolbox::protocol::{Answer, Command, End, Op, OpError, Ran, Run};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of a file that are compared before and after the tests, beside its length.
const MAX_WATCHED: u64 = 8 << 20;

/// Starts sandboxes, grades, has them destroyed, which may go on a moment longer. An empty diff needs none.
///
/// # Errors
/// Whatever starting a sandbox and [`prepare::at_base`] fail with; `DiffRejected`, `DiffTooLarge`, `Tests`, `RunnerMissing`,
/// `GradeTimeout`, `GradeMemory`.
pub async fn grade(
    provider: &dyn Provider,
    spec: &Spec,
    case: &Case<'_>,
    settings: &Settings,
    runners: &Runners,
) -> Result<Grade, Failure> {
    let lists_tests = case.instance.test_ids().next().is_some();
    if lists_tests && case.diff.trim().is_empty() {
        Ok(empty_diff(case.instance))
    } else {
        run(provider, spec, case, settings, runners).await
    }
}

/// As [`grade`], but an empty diff is run too: what the tests say of the base.
///
/// # Errors
/// As [`grade`].
pub async fn run(provider: &dyn Provider, spec: &Spec, case: &Case<'_>, settings: &Settings, runners: &Runners) -> Result<Grade, Failure> {
    let Case { instance, diff, .. } = *case;
    if instance.test_ids().next().is_none() {
        return Err(Failure::new(Kind::Tests, format!("{} lists no test: give it FAIL_TO_PASS ids", instance.instance_id)));
    }
    if diff.len() as u64 > settings.diff_max_bytes {
        let message = format!("the diff has {} bytes, over the limit of {} (diff_max_bytes)", diff.len(), settings.diff_max_bytes);
        return Err(Failure::new(Kind::DiffTooLarge, message));
    }
    let runner = runner_of(instance)?;
    let plan = Plan::new(instance, diff, &secret()?)?;
    let began = Instant::now();
    let deadline = began + Duration::from_secs(settings.timeout_s);
    let late = |_| Failure::new(Kind::GradeTimeout, format!("the grading passed its deadline of {} s (timeout_s)", settings.timeout_s));
    let spec = Spec { purpose: Purpose::Grade, ..spec.clone() };
    let mut course = Course::new(case, settings);
    course.suspect(suspicion::of_diff(instance, &plan, diff));
    let (mut peak_memory, mut image_digest) = (0, String::new());
    while let Some(step) = course.next().cloned() {
        let sandbox = timeout_at(deadline, provider.start(&spec)).await.map_err(late)??;
        let is_at_base = spec.upon.is_some();
        let field =
            Field { sandbox: sandbox.as_ref(), is_at_base, case, settings, plan: &plan, memory_limit: spec.limits.memory, runner, runners };
        let tested = timeout_at(deadline, field.test(&step, &mut course)).await.map_err(late).flatten();
        // What is below another directory than the instance says shares a file system, which must not collect what gradings leave.
        if sandbox.workdir() != instance.workdir {
            let _ = timeout(Duration::from_secs(5), field.leave_nothing()).await;
        }
        sandbox.image_digest().clone_into(&mut image_digest);
        sandbox.retire().await;
        peak_memory = peak_memory.max(tested?);
    }
    let mut grade = aside(|| course.finish());
    grade.duration_ms = began.elapsed().as_millis() as u64;
    grade.peak_memory = peak_memory;
    grade.restored = plan.restored.names();
    grade.with.runner = runner.name().to_owned();
    grade.with.image_digest = image_digest;
    grade.with.patch_digest = sha256(&[diff.as_bytes()]);
    let ids: Vec<&str> = instance.test_ids().collect();
    grade.with.tests_digest = sha256(&[instance.test_patch.as_bytes(), instance.test_script.as_bytes(), ids.join("\n").as_bytes()]);
    grade.with.plugin_digest = runner.plugin_digest();
    Ok(grade)
}

/// Does what takes milliseconds where tests are listed by the ten thousand; the event loop goes on meanwhile, if it has another thread.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    let another = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
    if another { block_in_place(work) } else { work() }
}

/// A sandbox in which one test process runs.
#[derive(Clone, Copy)]
struct Field<'a> {
    sandbox: &'a dyn Sandbox,
    /// It started at the instance's base.
    is_at_base: bool,
    case: &'a Case<'a>,
    settings: &'a Settings,
    plan: &'a Plan,
    /// Bytes.
    memory_limit: u64,
    runner: &'static dyn TestRunner,
    runners: &'a Runners,
}

impl Field<'_> {
    /// Most memory used, bytes.
    async fn test(self, step: &Step, course: &mut Course<'_>) -> Result<u64, Failure> {
        let instance = self.case.instance;
        if !self.is_at_base {
            prepare::at_base(self.sandbox, instance, &self.settings.prepare).await?;
        }
        // Before the model's diff, so that a runner which the diff breaks is told apart from one that was never there.
        let found = find(self.sandbox, instance, self.runner, self.runners, Kind::RunnerMissing).await?;
        course.found(&found);
        self.keep_test_files().await?;
        self.apply(self.case.diff).await?;
        let absent = self.install_test_files().await?;
        let ids = course.ids().to_vec();
        let holding: Vec<&str> = step.wanted.iter().filter_map(|index| self.runner.file_of(ids.get(*index)?)).collect();
        let there = self.plan.id_files.iter().enumerate().filter(|(index, _)| !absent.contains(index)).map(|(_, file)| file.as_str());
        let files: Vec<&str> = there.filter(|file| holding.contains(file)).collect();
        if files.is_empty() && !holding.is_empty() {
            course.give_up("not run: none of the files that hold the listed tests exists");
            return Ok(0);
        }
        let secret = secret()?;
        let foreign_files: Vec<&str> = self.plan.foreign_files.iter().map(String::as_str).collect();
        let job = Job {
            instance,
            workdir: self.sandbox.workdir(),
            ids: &ids,
            wanted: &step.wanted,
            files: &files,
            foreign_files: &foreign_files,
            diff: self.case.diff,
            secret: &secret,
            options: step.options,
            report_max: self.settings.report_max_bytes as u64,
        };
        let oom_kills = self.usage().await?.oom_kills;
        let result = self.run(&found, &job, course).await;
        let result = result.map_err(|failure| match failure.kind {
            Kind::MemoryExhausted => self.out_of_memory(&failure.message),
            _ => failure,
        });
        let (ran, usage) = (result?, self.usage().await?);
        // Tests that did not pass where the kernel killed say nothing of the diff.
        match usage.oom_kills.saturating_sub(oom_kills) {
            0 => {}
            _ if step.again || course.all_passed() => {}
            kills => return Err(self.out_of_memory(&format!("the kernel killed {kills} times for want of memory"))),
        }
        if ran.end == End::TimedOut && !step.again {
            return Err(self.late(course));
        }
        Ok(usage.peak_memory)
    }

    /// The test process, within what is left of the time for tests.
    async fn run(self, found: &Found, job: &Job<'_>, course: &mut Course<'_>) -> Result<Ran, Failure> {
        let launch = aside(|| self.runner.launch(found, job));
        let left_s = self.settings.tests_timeout_s.saturating_sub(course.tests_ms() / 1000).max(1);
        let run = Run {
            what: Command::Exec(launch.argv),
            session: false,
            cwd: Some(self.sandbox.workdir().to_owned()),
            env: launch.env,
            deadline_ms: left_s * 1000,
            output_cap: 4 * self.settings.output_tail_bytes as u64,
            report_cap: if launch.reports { job.report_max } else { 0 },
        };
        let (tests, parts) = (job.files.iter().map(|file| format!("{}/{file}", self.sandbox.workdir())), self.runner.parts(found));
        let watched: Vec<String> = tests.chain(parts).collect();
        let before = self.digests(&watched).await?;
        let (ran, blob) = match call(self.sandbox, Op::Run(run), &launch.input).await? {
            Ok((Answer::Ran(ran), blob)) => (ran, blob),
            Ok((other, _)) => return Err(foreign("run", &other)),
            Err(error) => return Err(Failure::new(Kind::RunnerMissing, format!("the tests could not start: {error}"))),
        };
        let (output, report) = blob.split_at(blob.len().saturating_sub(ran.report as usize));
        let report_cut = ran.report_total > ran.report;
        let said = Said { end: ran.end, duration_ms: ran.duration_ms, output, report, report_cut };
        let mut observed: Observed = aside(|| self.runner.read(job, &said));
        if ran.left > 0 {
            let detail = format!("{} processes were alive after the test process", ran.left);
            observed.signs.push(Suspicion { reason: Reason::ProcessLeft, detail });
        }
        let after = self.digests(&watched).await?;
        for (index, _) in before.iter().zip(&after).enumerate().filter(|(_, (before, after))| before != after) {
            match job.files.get(index) {
                Some(file) => observed.doubt.push(Suspicion { reason: Reason::TestFileChanged, detail: (*file).to_owned() }),
                // The next process is in another sandbox.
                None => observed.signs.push(Suspicion { reason: Reason::EnvironmentWrite, detail: watched[index].clone() }),
            }
        }
        aside(|| course.add(observed, &said));
        Ok(ran)
    }

    /// What the files hold now, as the toolbox sees it and not the test process; empty where one cannot be read.
    async fn digests(self, files: &[String]) -> Result<Vec<String>, Failure> {
        let mut digests = Vec::new();
        for file in files {
            let op = Op::Read { path: file.clone(), offset: 0, max: MAX_WATCHED };
            digests.push(match call(self.sandbox, op, &[]).await? {
                Ok((Answer::Read { size }, bytes)) => sha256(&[&size.to_le_bytes(), &bytes]),
                _ => String::new(),
            });
        }
        Ok(digests)
    }

    async fn keep_test_files(self) -> Result<(), Failure> {
        let (what, instance) = ("keep the test files", self.case.instance);
        if instance.test_patch.trim().is_empty() {
            self.script(what, &[self.plan.keep_base(), self.plan.keep_tests()].concat()).await?;
        } else {
            self.script(what, &self.plan.keep_base()).await?;
            self.apply_op(&instance.test_patch).await?.map_err(|error| {
                let message = format!("the test patch of {} does not apply to its base: {error}", instance.instance_id);
                Failure::new(Kind::Tests, message)
            })?;
            self.script(what, &self.plan.keep_tests()).await?;
        }
        if !instance.test_script.is_empty() {
            self.write(&self.plan.kept_test(0), instance.test_script.as_bytes()).await?;
        }
        Ok(())
    }

    async fn apply(self, diff: &str) -> Result<(), Failure> {
        if diff.trim().is_empty() {
            return Ok(());
        }
        let rejected = |error| Failure::new(Kind::DiffRejected, format!("the diff does not apply to a fresh sandbox: {error}"));
        self.apply_op(diff).await?.map_err(rejected)
    }

    async fn apply_op(self, diff: &str) -> Result<Result<(), OpError>, Failure> {
        let op = Op::Apply { workdir: self.sandbox.workdir().to_owned(), exclude: self.settings.prepare.exclude.clone() };
        match call(self.sandbox, op, diff.as_bytes()).await? {
            Ok(_) => Ok(Ok(())),
            Err(error @ (OpError::Rejected { .. } | OpError::Invalid { .. } | OpError::TooLarge { .. })) => Ok(Err(error)),
            Err(error) => {
                let message = format!("no diff can be applied in {}: {error}; is git in the image?", self.case.instance.image);
                Err(Failure::new(Kind::RunnerMissing, message))
            }
        }
    }

    /// The id files that are not there, by their index.
    async fn install_test_files(self) -> Result<Vec<usize>, Failure> {
        let done = self.script("put the test files in place", &self.plan.install()).await?;
        Ok(String::from_utf8_lossy(&done.output).lines().filter_map(|line| line.parse().ok()).collect())
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

    async fn usage(self) -> Result<crate::toolbox::protocol::Usage, Failure> {
        match call(self.sandbox, Op::Usage, &[]).await? {
            Ok((Answer::Usage(usage), _)) => Ok(usage),
            Ok((other, _)) => Err(foreign("usage", &other)),
            Err(error) => Err(Failure::new(Kind::SandboxLost, format!("the sandbox's counters cannot be read: {error}"))),
        }
    }

    fn out_of_memory(self, what: &str) -> Failure {
        let message = format!(
            "{what} while {} was graded within {} bytes: raise sandbox.limits.memory",
            self.case.instance.instance_id, self.memory_limit
        );
        Failure::new(Kind::GradeMemory, message)
    }

    fn late(self, course: &Course<'_>) -> Failure {
        let message = format!(
            "the tests passed their deadline of {} s (tests_timeout_s) with {} of {} listed tests seen; the end of their output:\n{}",
            self.settings.tests_timeout_s,
            course.seen(),
            course.ids().len(),
            course.output_tail()
        );
        Failure::new(Kind::GradeTimeout, message)
    }

    async fn leave_nothing(self) {
        let text = format!("rm -rf {}\n", self.plan.private);
        if let Err(failure) = self.script("remove its own files", text.as_bytes()).await {
            tracing::debug!("after grading {}: {failure}", self.case.instance.instance_id);
        }
    }
}

fn sha256(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        // Lengths keep the parts apart.
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    format!("{:x}", hasher.finalize())
}

/// 64 hexadecimal digits that nothing in a sandbox can guess.
fn secret() -> Result<String, Failure> {
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Failure::new(Kind::SandboxStart, format!("/dev/urandom cannot be read: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
