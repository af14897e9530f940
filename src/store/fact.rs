//! What the journal says: facts about attempts and where their records lie. Pure.

use crate::domain::{Attempt, AttemptId, EpisodeId, Failure, InstanceId, event::Outcome};
use serde::{Deserialize, Serialize};

/// Written as `{"committed": {...}}`: a tag beside the keys would have each line parsed twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A process opened the run. The first fact of every journal.
    Opened { format: u64, run: String, at_ms: u64 },
    /// An attempt is about to use what costs time or money.
    Started { id: AttemptId, at_ms: u64 },
    /// The attempt's record is durable in its shard.
    Committed(Committed),
    /// These episodes are to be done once more, whatever came of them.
    Reopened { episodes: Vec<EpisodeId>, reason: String, at_ms: u64 },
    /// No other episode of the instance is begun.
    Quarantined { instance: InstanceId, failure: Failure, at_ms: u64 },
    /// These episodes are left out: nothing of them was begun, or nothing that counts, and none of them is wanted any more.
    Waived { episodes: Vec<EpisodeId>, reason: String, at_ms: u64 },
    /// A process closed the run in good order.
    Closed { at_ms: u64 },
}

impl Fact {
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn at_ms(&self) -> u64 {
        match self {
            Fact::Committed(committed) => committed.at_ms,
            Fact::Opened { at_ms, .. }
            | Fact::Started { at_ms, .. }
            | Fact::Reopened { at_ms, .. }
            | Fact::Quarantined { at_ms, .. }
            | Fact::Waived { at_ms, .. }
            | Fact::Closed { at_ms } => *at_ms,
        }
    }
}

/// A committed attempt: where its record lies and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Committed {
    pub id: AttemptId,
    pub location: Location,
    /// Bytes of the record before compression.
    pub raw_bytes: u64,
    /// SHA-256 of the record before compression, hexadecimal.
    pub digest: String,
    /// Tokens trained on, -1 until counted; all tokens are the outcome's.
    pub loss_tokens: i64,
    pub outcome: Outcome,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The attempt whose diff was graded again: nothing else of this one is new, and nothing of it was paid for twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regrade_of: Option<Attempt>,
}

/// Which file a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Final attempts: graded, ended by the model, or not gradable.
    Trajectories,
    /// Attempts that do not count.
    Attempts,
}

impl Stream {
    pub const ALL: [Stream; 2] = [Stream::Trajectories, Stream::Attempts];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Trajectories => "trajectories",
            Stream::Attempts => "attempts",
        }
    }

    /// Name of the stream's shard of this number.
    #[must_use]
    pub fn file(self, shard: u32) -> String {
        format!("{}-{shard:05}.jsonl.zst", self.as_str())
    }

    /// Reads a shard's name.
    #[must_use]
    pub fn parse(file: &str) -> Option<(Stream, u32)> {
        let (stream, number) = file.strip_suffix(".jsonl.zst")?.rsplit_once('-')?;
        let stream = Stream::ALL.into_iter().find(|s| s.as_str() == stream)?;
        let number = number.parse().ok()?;
        (stream.file(number) == file).then_some((stream, number))
    }
}

/// Where a record's frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Location {
    pub stream: Stream,
    /// Number of the shard, from 0.
    pub shard: u32,
    /// Bytes.
    pub offset: u64,
    pub len: u64,
}
