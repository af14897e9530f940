//! Why an attempt has no grade, and what follows from it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Who is to blame; users filter and rerun by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    Endpoint,
    Infra,
    Model,
    Task,
    Grader,
    Run,
    Bug,
}

/// What happened, one word each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// No usable reply within the tries and the time of the retry policy (408, 429, 5xx, transport).
    EndpointUnavailable,
    /// The endpoint refuses this request for good (400 that is no context overflow, 422).
    EndpointRefused,
    /// The sandbox backend does not answer.
    Daemon,
    /// The image is not there and cannot be had.
    ImageMissing,
    /// The image could not be pulled this time.
    ImagePull,
    /// The sandbox did not start.
    SandboxStart,
    /// The sandbox went away under the episode (killed from outside, daemon restart).
    SandboxLost,
    /// The host or the sandbox ran out of space.
    NoSpace,
    /// The engine was stopped or died in the middle of the attempt.
    Interrupted,
    /// The commands of the model exhausted the sandbox's memory and took it down.
    MemoryExhausted,
    /// The model's diff is over the size limit.
    DiffTooLarge,
    /// The model left the files in a state no diff can be taken of.
    DiffUntakable,
    /// The model's diff does not apply to a fresh sandbox.
    DiffRejected,
    /// `workdir` does not exist in the image.
    Workdir,
    /// `pre_commands` fail.
    PreCommands,
    /// HEAD is not at the base commit after `pre_commands`.
    BaseCommit,
    /// Objects of the future stay reachable.
    Leak,
    /// The instance names no test, or its test patch does not apply.
    Tests,
    /// The image has no runner for the instance's tests; found before the agent began.
    NoRunner,
    /// The test runner left no readable report.
    ReportUnreadable,
    /// The graded test run passed its deadline.
    GradeTimeout,
    /// The kernel killed in the grader's sandbox for want of memory, and the listed tests did not all pass.
    GradeMemory,
    /// The test runner could not start.
    RunnerMissing,
    /// 401 or 403, or no key.
    Unauthorized,
    /// 402.
    Payment,
    /// The endpoint does not know the model.
    UnknownModel,
    /// The run has spent its budget.
    Budget,
    /// The run directory cannot be written.
    RunDir,
    /// A panic in this episode.
    Panic,
}

/// What the scheduler does with a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Another attempt, bounded.
    Retry,
    /// Grade again, bounded, then final.
    Regrade,
    /// The attempt counts; there will be no other.
    Final,
    /// The attempt counts, and no other episode of the instance is begun.
    Quarantine,
    /// Nothing new is begun; the run can be resumed once the cause is mended.
    StopRun,
}

impl Kind {
    #[must_use]
    pub fn class(self) -> Class {
        use Kind::*;
        match self {
            EndpointUnavailable | EndpointRefused => Class::Endpoint,
            Daemon | ImageMissing | ImagePull | SandboxStart | SandboxLost | NoSpace | Interrupted => Class::Infra,
            MemoryExhausted | DiffTooLarge | DiffUntakable | DiffRejected => Class::Model,
            Workdir | PreCommands | BaseCommit | Leak | Tests | NoRunner => Class::Task,
            ReportUnreadable | GradeTimeout | GradeMemory | RunnerMissing => Class::Grader,
            Unauthorized | Payment | UnknownModel | Budget | RunDir => Class::Run,
            Panic => Class::Bug,
        }
    }

    /// The one place that says what follows from a failure.
    #[must_use]
    pub fn disposition(self) -> Disposition {
        use Kind::*;
        match self {
            EndpointUnavailable | Daemon | ImagePull | SandboxStart | SandboxLost | NoSpace | Interrupted | Panic => Disposition::Retry,
            ReportUnreadable | GradeTimeout | GradeMemory | RunnerMissing => Disposition::Regrade,
            EndpointRefused | ImageMissing | MemoryExhausted | DiffTooLarge | DiffUntakable | DiffRejected => Disposition::Final,
            Workdir | PreCommands | BaseCommit | Leak | Tests | NoRunner => Disposition::Quarantine,
            Unauthorized | Payment | UnknownModel | Budget | RunDir => Disposition::StopRun,
        }
    }
}

/// A failure with what, where and the mend in its text. No secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
}

impl Failure {
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into() }
    }

    #[must_use]
    pub fn class(&self) -> Class {
        self.kind.class()
    }
}

impl Class {
    pub const ALL: [Class; 7] = [Class::Endpoint, Class::Infra, Class::Model, Class::Task, Class::Grader, Class::Run, Class::Bug];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Endpoint => "endpoint",
            Class::Infra => "infra",
            Class::Model => "model",
            Class::Task => "task",
            Class::Grader => "grader",
            Class::Run => "run",
            Class::Bug => "bug",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
