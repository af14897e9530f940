//! Brings a fresh sandbox to the instance's base: `pre_commands`, HEAD verified, the future scrubbed, the base tree recorded.

use super::{Sandbox, scrub};
use crate::domain::{Failure, Instance, Kind};
use crate::toolbox::client::{Toolbox, ToolboxError};
use crate::toolbox::protocol::{Answer, Command, End, Op, OpError, Run};
use serde::{Deserialize, Serialize};

/// Pathspecs (git's `glob` form, from the top of the work tree) that no fix needs and that tools leave behind.
/// `build`, `dist`, `venv` and compiled extensions are not here: they can be source, or what a fix was built into.
pub const EXCLUDE: [&str; 19] = [
    "**/__pycache__/**",
    "**/*.pyc",
    "**/*.pyo",
    "**/.pytest_cache/**",
    "**/.mypy_cache/**",
    "**/.ruff_cache/**",
    "**/.hypothesis/**",
    "**/.tox/**",
    "**/.nox/**",
    "**/.venv/**",
    "**/node_modules/**",
    "**/.eggs/**",
    "**/.coverage",
    "**/.coverage.*",
    "**/htmlcov/**",
    "**/.ipynb_checkpoints/**",
    "**/.DS_Store",
    // Below the top they can be test data of packaging tools.
    "*.egg-info/**",
    "src/*.egg-info/**",
];

/// Bounds of the preparation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Seconds for `pre_commands`.
    pub pre_commands_timeout_s: u64,
    /// Seconds for the leak scrub; it repacks the history where there is something to drop.
    pub scrub_timeout_s: u64,
    /// Pathspecs left out of the recorded tree; the final diff must be taken with the same.
    pub exclude: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let exclude = EXCLUDE.map(str::to_owned).to_vec();
        Settings { pre_commands_timeout_s: 600, scrub_timeout_s: 600, exclude }
    }
}

/// The sandbox is at the instance's base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Name of the recorded tree, for the final diff.
    pub base_tree: String,
}

/// Prepares an agent's sandbox, removes what the agent could learn the future from, and records its base tree.
///
/// # Errors
/// As [`at_base`], [`scrub`] and [`record`].
pub async fn prepare(sandbox: &dyn Sandbox, instance: &Instance, settings: &Settings) -> Result<Prepared, Failure> {
    at_base(sandbox, instance, settings).await?;
    scrub(sandbox, instance, settings).await?;
    record(sandbox, settings).await
}

/// Removes what the agent could learn the future from.
///
/// # Errors
/// `Leak`; `NoSpace`, `SandboxLost`.
pub async fn scrub(sandbox: &dyn Sandbox, instance: &Instance, settings: &Settings) -> Result<(), Failure> {
    scrub::scrub(sandbox, instance, settings.scrub_timeout_s).await.map_err(before_the_model)
}

/// Records the base tree, which the toolbox keeps in memory.
///
/// # Errors
/// `SandboxStart`; `NoSpace`, `SandboxLost`.
pub async fn record(sandbox: &dyn Sandbox, settings: &Settings) -> Result<Prepared, Failure> {
    let op = Op::Snapshot { workdir: sandbox.workdir().to_owned(), exclude: settings.exclude.clone() };
    match call(sandbox, op, &[]).await.map_err(before_the_model)? {
        Ok((Answer::Tree { tree }, _)) => Ok(Prepared { base_tree: tree }),
        Ok((other, _)) => Err(foreign("snapshot", &other)),
        Err(error) => {
            Err(Failure::new(Kind::SandboxStart, format!("the base tree of {} could not be recorded: {error}", sandbox.workdir())))
        }
    }
}

/// Prepares a grader's sandbox: nothing is scrubbed or recorded.
///
/// # Errors
/// `PreCommands`, `BaseCommit`; `NoSpace`, `SandboxLost`.
pub async fn at_base(sandbox: &dyn Sandbox, instance: &Instance, settings: &Settings) -> Result<(), Failure> {
    bring_to_base(sandbox, instance, settings).await.map_err(before_the_model)
}

/// Where the model did nothing yet, memory that ran out is the host's or the image's doing.
#[must_use]
pub fn before_the_model(failure: Failure) -> Failure {
    if failure.kind == Kind::MemoryExhausted { Failure { kind: Kind::SandboxLost, ..failure } } else { failure }
}

async fn bring_to_base(sandbox: &dyn Sandbox, instance: &Instance, settings: &Settings) -> Result<(), Failure> {
    if sandbox.is_null() {
        return Ok(());
    }
    if !instance.pre_commands.trim().is_empty() {
        run_pre_commands(sandbox, instance, settings.pre_commands_timeout_s).await?;
    }
    if instance.base_commit.is_empty() { Ok(()) } else { check_head(sandbox, instance).await }
}

async fn run_pre_commands(sandbox: &dyn Sandbox, instance: &Instance, timeout_s: u64) -> Result<(), Failure> {
    let what = Command::Shell(instance.pre_commands.clone());
    let ran = match run(sandbox, what, sandbox.workdir(), Vec::new(), timeout_s, TAIL, &[]).await? {
        Ok(ran) => ran,
        Err(error) => return Err(Failure::new(Kind::PreCommands, format!("pre_commands could not start: {error}"))),
    };
    let how = match ran.end {
        End::Exited(0) => return Ok(()),
        End::Exited(code) => format!("exit with {code}"),
        End::Signaled(signal) => format!("were killed by signal {signal}"),
        End::TimedOut => format!("passed their deadline of {timeout_s} s (pre_commands_timeout_s)"),
    };
    let kind = if ran.ran_out_of_space() { Kind::NoSpace } else { Kind::PreCommands };
    Err(Failure::new(kind, format!("pre_commands {how} in {}; the end of their output:\n{}", sandbox.workdir(), ran.tail(2000))))
}

async fn check_head(sandbox: &dyn Sandbox, instance: &Instance) -> Result<(), Failure> {
    let git = ["git", "-c", "safe.directory=*", "rev-parse", "--verify", "HEAD^0"].map(str::to_owned).to_vec();
    let env = vec![("LC_ALL".to_owned(), "C".to_owned())];
    let at = match run(sandbox, Command::Exec(git), sandbox.workdir(), env, 60, TAIL, &[]).await? {
        Ok(head) => head.tail(2000),
        Err(error) => format!("where git cannot tell ({error})"),
    };
    // Warnings stand in the same output, each in lines of its own.
    if at.lines().any(|line| line.trim().eq_ignore_ascii_case(&instance.base_commit)) {
        return Ok(());
    }
    Err(Failure::new(
        Kind::BaseCommit,
        format!("after pre_commands HEAD of {} is at {}, not at the base commit {}", sandbox.workdir(), at.trim(), instance.base_commit),
    ))
}

/// Bytes of output kept of a command of ours.
const TAIL: u64 = 64 << 10;

/// How a command ended, with the output that came back.
#[derive(Debug, Clone)]
pub struct Done {
    pub end: End,
    pub duration_ms: u64,
    pub output: bytes::Bytes,
}

impl Done {
    /// At most `max` bytes of the output's end; what is not UTF-8 is replaced.
    #[must_use]
    pub fn tail(&self, max: usize) -> String {
        let mut from = self.output.len().saturating_sub(max);
        while from > 0 && from < self.output.len() && self.output[from] & 0xC0 == 0x80 {
            from += 1;
        }
        String::from_utf8_lossy(&self.output[from..]).into_owned()
    }

    #[must_use]
    pub fn ran_out_of_space(&self) -> bool {
        self.end != End::Exited(0) && self.tail(4000).contains("No space left on device")
    }
}

/// Runs shell text of ours; it goes over standard input, so it may be of any length.
///
/// # Errors
/// As [`run`]; also where there is no `sh`, which no sandbox can do without.
pub async fn script(sandbox: &dyn Sandbox, cwd: &str, timeout_s: u64, text: &[u8]) -> Result<Done, Failure> {
    let what = Command::Exec(vec!["sh".to_owned(), "-s".to_owned()]);
    let env = vec![("LC_ALL".to_owned(), "C".to_owned())];
    let ran = run(sandbox, what, cwd, env, timeout_s, TAIL, text).await?;
    ran.map_err(|error| Failure::new(Kind::SandboxStart, format!("sh does not run in the sandbox: {error}")))
}

/// Runs a command outside the session. The inner error is the operation's own.
///
/// # Errors
/// What [`call`] says of a sandbox that is lost or full.
pub async fn run(
    sandbox: &dyn Sandbox,
    what: Command,
    cwd: &str,
    env: Vec<(String, String)>,
    timeout_s: u64,
    output_cap: u64,
    input: &[u8],
) -> Result<Result<Done, OpError>, Failure> {
    let deadline_ms = timeout_s.saturating_mul(1000);
    let op = Op::Run(Run { what, session: false, cwd: Some(cwd.to_owned()), env, deadline_ms, output_cap, report_cap: 0 });
    match call(sandbox, op, input).await? {
        Ok((Answer::Ran(ran), output)) => Ok(Ok(Done { end: ran.end, duration_ms: ran.duration_ms, output })),
        Ok((other, _)) => Err(foreign("run", &other)),
        Err(error) => Ok(Err(error)),
    }
}

/// One toolbox call. A lost sandbox and a full one are failures; what the operation says of itself is the inner error.
///
/// # Errors
/// `SandboxLost`, `MemoryExhausted` where the kernel killed for want of memory, `NoSpace`.
pub async fn call(sandbox: &dyn Sandbox, op: Op, blob: &[u8]) -> Result<Result<(Answer, bytes::Bytes), OpError>, Failure> {
    let toolbox: &Toolbox = sandbox.toolbox();
    let broken = match toolbox.call(op, blob).await {
        Ok(answer) => return Ok(Ok(answer)),
        Err(ToolboxError::Op(OpError::NoSpace { message })) => {
            return Err(Failure::new(Kind::NoSpace, format!("no space left in the sandbox: {message}; free the host's disk")));
        }
        Err(ToolboxError::Op(error)) => return Ok(Err(error)),
        Err(broken) => broken,
    };
    let fate = sandbox.fate().await;
    let code = fate.exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
    let (kind, why) = match (fate.oom, fate.gone) {
        (true, _) => (Kind::MemoryExhausted, "the kernel killed in it for want of memory"),
        (false, true) => (Kind::SandboxLost, "it was ended from outside"),
        (false, false) => (Kind::SandboxLost, "it still runs, but its toolbox does not answer"),
    };
    Err(Failure::new(kind, format!("the sandbox was lost: {why}{code} ({broken})")))
}

/// An answer that does not fit its operation: the toolbox is not ours.
#[must_use]
pub fn foreign(operation: &str, answer: &Answer) -> Failure {
    Failure::new(Kind::SandboxLost, format!("the toolbox answers {operation} with {answer:?}"))
}
