//! What a run tells those who watch it. Reporters fold events; they decide nothing.

use super::{AttemptId, Class, EpisodeId, ExitReason, Failure, Resolved, Verdict, transcript::Usage};
use serde::{Deserialize, Serialize};

/// Version of the event stream; raised when an event changes its meaning or type.
pub const EVENTS_VERSION: u32 = 1;

/// An event with its time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// First event. `outstanding` of `total` episodes are to be done now.
    RunStarted {
        version: u32,
        run: String,
        total: u64,
        outstanding: u64,
    },
    AttemptStarted {
        id: AttemptId,
    },
    /// The sandbox is ready and the first prompt goes out.
    AgentStarted {
        id: AttemptId,
        setup_ms: u64,
    },
    TurnDone {
        id: AttemptId,
        usage: Usage,
        cost_usd: f64,
        latency_ms: u64,
    },
    AgentEnded {
        id: AttemptId,
        exit_reason: ExitReason,
        patch_bytes: u64,
    },
    GradeStarted {
        id: AttemptId,
    },
    /// Durable: the attempt is in a shard and in the journal.
    Committed {
        id: AttemptId,
        outcome: Outcome,
    },
    /// Another attempt follows.
    Retrying {
        id: AttemptId,
        failure: Failure,
        delay_ms: u64,
    },
    /// It could not be graded or recorded; what it did is kept for the next opening.
    Abandoned {
        id: AttemptId,
    },
    /// The endpoint's limit moved (429 or 503 cut it, success grows it).
    LimitChanged {
        in_flight: u64,
    },
    /// How the endpoints are, when that changed, now and then, and at the end of the run.
    Endpoints {
        endpoints: Vec<EndpointStatus>,
    },
    /// Nothing new is begun.
    Draining {
        reason: String,
    },
    /// Nothing new is begun for now; with an empty reason it is again.
    Held {
        reason: String,
    },
    /// Left out for good: enough samples of their instances are resolved.
    Waived {
        episodes: Vec<EpisodeId>,
    },
    RunEnded {
        committed: u64,
        outstanding: u64,
    },
}

/// What one endpoint did in this process, and how it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Its address, without what may be a key.
    pub endpoint: String,
    /// Requests go there.
    pub up: bool,
    /// It refused for good (key, money, model), and the run goes on without it.
    pub out: bool,
    /// Answered, failed ones included.
    pub requests: u64,
    /// 429 and 503.
    pub throttled: u64,
    /// Other 5xx, and broken transport.
    pub faults: u64,
    pub ejections: u64,
    pub prompt_tokens: u64,
    /// Of the prompt tokens: read from the endpoint's cache.
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    /// Requests that its limiter lets through at once.
    pub in_flight_limit: u64,
    /// The last failed request; empty: none failed.
    pub trouble: String,
    /// Why its limits are not shared with other processes as they should be; empty: they are, or nobody is to share them.
    #[serde(default)]
    pub unshared: String,
}

/// What the journal keeps of a committed attempt; `summary` needs nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// This attempt counts for its episode: graded, or ended for good.
    pub counts: bool,
    pub exit_reason: ExitReason,
    pub resolved: Resolved,
    /// None: it was not graded, or a sweroll committed it that had no such word.
    #[serde(default)]
    pub verdict: Option<Verdict>,
    pub failure: Option<Failure>,
    pub turns: u32,
    pub tokens: i64,
    pub usage: Usage,
    pub cost_usd: f64,
    pub duration_ms: u64,
}

impl Outcome {
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        self.failure.as_ref().map(Failure::class)
    }
}
