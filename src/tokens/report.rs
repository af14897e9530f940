//! What `sweroll tokens` says of shards: sums, percentiles, shares.

use super::{ByRole, Counts};
use crate::domain::Resolved;
use serde::{Deserialize, Serialize};

/// All shards, as `sweroll tokens --format json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The chat template.
    pub target: String,
    pub tokenizer: String,
    pub tokenizer_digest: String,
    pub total: ShardTokens,
    pub shards: Vec<ShardTokens>,
}

/// One shard, or all of them together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardTokens {
    /// The path; `total` for the sum.
    pub file: String,
    pub trajectories: u64,
    /// Not among them and in no other figure: trajectories in whose place a rerun's count.
    #[serde(default)]
    pub superseded: u64,
    /// Of the trajectories, with `resolved` 1.
    pub resolved: u64,
    /// Model responses.
    pub turns: u64,
    pub tokens: u64,
    /// Trained on.
    pub loss_tokens: u64,
    pub by_role: ByRole,
    /// Tokens of a trajectory, by nearest rank.
    pub percentiles: Percentiles,
    /// Share of trajectories with more tokens than that, 0 to 1.
    pub over: Over,
    /// Trajectories whose text holds an added token such as `<|im_end|>` literally.
    pub special_in_text: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p95: u64,
    pub p99: u64,
    pub max: u64,
}

/// 32k is 32,768 tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Over {
    #[serde(rename = "32k")]
    pub k32: f64,
    #[serde(rename = "64k")]
    pub k64: f64,
    #[serde(rename = "128k")]
    pub k128: f64,
}

/// Sums over trajectories, in any order.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    superseded: u64,
    resolved: u64,
    turns: u64,
    loss_tokens: u64,
    by_role: ByRole,
    special_in_text: u64,
    /// Tokens of each trajectory.
    each: Vec<u64>,
}

impl Tally {
    pub(super) fn add(&mut self, counts: &Counts, resolved: Resolved) {
        self.resolved += u64::from(resolved == Resolved::Yes);
        self.turns += counts.responses();
        self.loss_tokens += counts.loss;
        self.by_role += counts.by_role;
        self.special_in_text += u64::from(counts.special_in_text);
        self.each.push(counts.total);
    }

    pub(super) fn leave_out(&mut self) {
        self.superseded += 1;
    }

    pub(super) fn merge(&mut self, other: &Tally) {
        self.superseded += other.superseded;
        self.resolved += other.resolved;
        self.turns += other.turns;
        self.loss_tokens += other.loss_tokens;
        self.by_role += other.by_role;
        self.special_in_text += other.special_in_text;
        self.each.extend_from_slice(&other.each);
    }

    pub(super) fn finish(mut self, file: String) -> ShardTokens {
        self.each.sort_unstable();
        let each = &self.each;
        let rank = |percent: usize| (each.len() * percent).div_ceil(100).checked_sub(1).map_or(0, |at| each[at]);
        let over = |tokens: u64| (each.len() - each.partition_point(|n| *n <= tokens)) as f64 / each.len().max(1) as f64;
        ShardTokens {
            file,
            trajectories: each.len() as u64,
            superseded: self.superseded,
            resolved: self.resolved,
            turns: self.turns,
            tokens: each.iter().sum(),
            loss_tokens: self.loss_tokens,
            by_role: self.by_role,
            percentiles: Percentiles { p50: rank(50), p90: rank(90), p95: rank(95), p99: rank(99), max: rank(100) },
            over: Over { k32: over(32 << 10), k64: over(64 << 10), k128: over(128 << 10) },
            special_in_text: self.special_in_text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(tokens: impl IntoIterator<Item = u64>) -> ShardTokens {
        let mut tally = Tally::default();
        for total in tokens {
            tally.add(&Counts { total, ..Counts::default() }, Resolved::No);
        }
        tally.finish("x".into())
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let report = tally((1..=200).rev());
        assert_eq!(report.percentiles, Percentiles { p50: 100, p90: 180, p95: 190, p99: 198, max: 200 });
        assert_eq!(tally([7]).percentiles, Percentiles { p50: 7, p90: 7, p95: 7, p99: 7, max: 7 });
        assert_eq!(tally([]).percentiles, Percentiles::default());
    }

    #[test]
    fn over_is_strict() {
        let over = tally([32 << 10, (32 << 10) + 1, 65_537, 200_000]).over;
        assert_eq!(over, Over { k32: 0.75, k64: 0.5, k128: 0.25 });
        assert_eq!(tally([]).over, Over::default());
    }
}
