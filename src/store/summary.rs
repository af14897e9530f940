//! What a run has come to, for `summary`: a pure view of its state. The keys are a contract.

use super::{
    fact::Stream,
    run_dir::RunInfo,
    state::{Shard, Slow, State},
};
use crate::domain::{Class, ExitReason, Resolved, Verdict, transcript::Usage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the summary; raised when a key changes its meaning or type.
pub const SUMMARY_VERSION: u32 = 1;

/// `committed = resolved + unresolved + the sum of failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub schema_version: u32,
    pub run: String,
    pub model: String,
    pub scaffold: String,
    pub episodes: Episodes,
    /// Graded: every listed test passed.
    pub resolved: u64,
    /// Graded, not resolved; `ambiguous` is among them.
    pub unresolved: u64,
    /// Graded episodes by their verdict; every verdict is there. Of a sweroll that knew only `resolved` or not, so is this.
    #[serde(default)]
    pub verdicts: BTreeMap<Verdict, u64>,
    /// Episodes whose counting attempt has a failure, by its class; every class is there.
    pub failed: BTreeMap<Class, u64>,
    /// How the counting attempts ended.
    pub exit_reasons: BTreeMap<ExitReason, u64>,
    /// Committed attempts, those that do not count included; so are the sums that follow.
    pub attempts: u64,
    pub turns: u64,
    pub usage: Usage,
    pub cost_usd: f64,
    /// Time in which a process had the run open, milliseconds.
    pub wall_ms: u64,
    /// The five attempts that took longest, the longest first; regrades are not among them.
    #[serde(default)]
    pub slowest: Vec<Slow>,
    /// Shards of final attempts.
    pub shards: Vec<ShardSummary>,
    /// Shards of all other attempts.
    pub attempt_shards: Vec<ShardSummary>,
}

/// `total = committed + outstanding + waived`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Episodes {
    pub total: u64,
    /// An attempt counts, and the episode was not reopened since.
    pub committed: u64,
    pub outstanding: u64,
    /// Of the outstanding: their instance is quarantined. The engine does not begin them but records each as a failure of class
    /// `task`, so none are left where a run came to its end.
    pub quarantined: u64,
    /// Left out, since enough samples of their instances are resolved (`scheduler.until_resolved`).
    #[serde(default)]
    pub waived: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSummary {
    pub file: String,
    /// Those that train: what is superseded is neither here nor in `tokens` and `uncounted`. Of `attempt_shards`, all.
    pub trajectories: u64,
    /// Compressed, of all that lies in the file.
    pub bytes: u64,
    /// Of the trajectories that are counted.
    pub tokens: u64,
    /// Trajectories whose tokens are not counted yet.
    pub uncounted: u64,
    /// Trajectories in the file that do not count any more: a rerun's attempt does in their place.
    #[serde(default)]
    pub superseded: u64,
    /// Of the superseded that are counted.
    #[serde(default)]
    pub superseded_tokens: u64,
}

impl Summary {
    #[must_use]
    pub fn new(info: &RunInfo, state: &State) -> Self {
        let mut episodes = Episodes::default();
        let (mut resolved, mut unresolved) = (0, 0);
        let mut failed: BTreeMap<Class, u64> = Class::ALL.into_iter().map(|class| (class, 0)).collect();
        let mut verdicts: BTreeMap<Verdict, u64> = Verdict::ALL.into_iter().map(|verdict| (verdict, 0)).collect();
        let mut exit_reasons = BTreeMap::new();
        for (id, episode) in state.episodes() {
            episodes.total += 1;
            if episode.waived() {
                episodes.waived += 1;
                continue;
            }
            let Some(counting) = episode.counting().filter(|_| !episode.outstanding()) else {
                episodes.outstanding += 1;
                episodes.quarantined += u64::from(state.quarantined().contains_key(&id.instance));
                continue;
            };
            episodes.committed += 1;
            *exit_reasons.entry(counting.exit_reason).or_default() += 1;
            let by_resolved = || match (counting.failure, counting.resolved) {
                (None, Resolved::Yes) => Some(Verdict::Resolved),
                (None, Resolved::No) => Some(Verdict::Unresolved),
                _ => None,
            };
            if let Some(verdict) = counting.verdict.or_else(by_resolved) {
                *verdicts.entry(verdict).or_default() += 1;
            }
            match (counting.class(), counting.resolved) {
                (Some(class), _) => *failed.entry(class).or_default() += 1,
                (None, Resolved::Yes) => resolved += 1,
                (None, Resolved::No | Resolved::Unknown) => unresolved += 1,
            }
        }
        let of = |stream: Stream| {
            let shards = state.shards().iter().filter(|((s, _), _)| *s == stream);
            shards.map(|((stream, number), shard)| ShardSummary::new(stream.file(*number), shard)).collect()
        };
        let totals = state.totals();
        Summary {
            schema_version: SUMMARY_VERSION,
            run: info.run.clone(),
            model: info.plan.model.clone(),
            scaffold: info.plan.scaffold.clone(),
            episodes,
            resolved,
            unresolved,
            verdicts,
            failed,
            exit_reasons,
            attempts: totals.attempts,
            turns: totals.turns,
            usage: totals.usage,
            cost_usd: totals.cost_usd,
            wall_ms: state.wall_ms(),
            slowest: state.slowest().to_vec(),
            shards: of(Stream::Trajectories),
            attempt_shards: of(Stream::Attempts),
        }
    }
}

impl ShardSummary {
    fn new(file: String, shard: &Shard) -> Self {
        let gone = shard.superseded;
        ShardSummary {
            file,
            trajectories: shard.rows - gone.rows,
            bytes: shard.bytes,
            tokens: shard.tokens - gone.tokens,
            uncounted: shard.uncounted - gone.uncounted,
            superseded: gone.rows,
            superseded_tokens: gone.tokens,
        }
    }
}
