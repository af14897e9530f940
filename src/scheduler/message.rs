//! What the core is told, and what it says is to be done.

use super::budget::Spend;
use crate::domain::{Attempt, AttemptId, EpisodeId, Failure, InstanceId};

/// An episode to be done.
#[derive(Debug, Clone)]
pub struct Todo {
    pub episode: EpisodeId,
    /// Number of its next attempt.
    pub attempt: Attempt,
    /// The agent of this attempt already ended (found in a spool): only the grade is missing.
    pub ended: bool,
}

/// Episodes that are recorded as left out by one fact.
pub const WAIVED_AT_ONCE: usize = 1000;
/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// The agent stopped, and all its requests together cost `spent`. `failure` is set where the attempt did not end by the model's doing.
    AgentEnded { id: AttemptId, spent: Spend, failure: Option<Failure> },
    /// The grader stopped. A grade says whether all tests passed; an error that there is none.
    GradeEnded { id: AttemptId, grade: Result<bool, Failure> },
    /// The attempt is durable.
    Committed { id: AttemptId },
    /// It could not be made durable: a failure of class `run` concerns all others too.
    CommitFailed { id: AttemptId, failure: Failure },
    /// These episodes are durably left out.
    Waived { episodes: usize },
    /// They are not: the run directory is at fault.
    WaiveFailed { episodes: usize, failure: Failure },
    /// Begin nothing new; finish what is at work, and end.
    Drain { reason: String },
    /// Begin nothing new for now, such as while the disk is full; what is at work goes on, and so does grading.
    Hold { reason: String },
    /// The reason to hold is gone.
    Release,
    /// Of a core that is [`Core::gated`](super::core::Core::gated): what the instance needs is there, its episodes may begin.
    Ready { instance: InstanceId },
    /// It is not there any more; episodes at work are not touched.
    Unready { instance: InstanceId },
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    StartAgent {
        id: AttemptId,
    },
    Grade {
        id: AttemptId,
    },
    /// Make durable; `counts`: this attempt decides its episode.
    Commit {
        id: AttemptId,
        counts: bool,
    },
    /// Record an episode that is not begun, since its instance is quarantined.
    Skip {
        id: AttemptId,
        failure: Failure,
    },
    /// Record that these are left out, since enough samples of their instances are resolved. No more than [`WAIVED_AT_ONCE`].
    Waive {
        episodes: Vec<EpisodeId>,
    },
    /// A commit could not be made: the attempt's spool stays for the next opening.
    Abandon {
        id: AttemptId,
    },
    /// No episode of the instance is begun any more.
    Quarantine {
        instance: InstanceId,
        failure: Failure,
    },
    Retrying {
        id: AttemptId,
        failure: Failure,
        delay_ms: u64,
    },
    Draining {
        reason: String,
    },
    /// Nothing new is begun for now; an empty reason: it is again.
    Held {
        reason: String,
    },
    WakeAt {
        at_ms: u64,
    },
    /// Nothing is at work and nothing will be begun.
    Finished,
}
