//! What `sweroll tokens` says of shards: sums, percentiles, shares.

use super::{ByRole, Counts};
use crate::domain::{Resolved, Role};
use serde::{Serialize, Serializer, ser::SerializeMap};
use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

/// Version of [`Report`] as JSON.
pub const REPORT_VERSION: u32 = 1;

/// All shards, as `sweroll tokens --format json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub schema_version: u32,
    /// The chat template.
    pub target: String,
    pub tokenizer: String,
    pub tokenizer_digest: String,
    /// False where the tokenizer is not the target's own: all figures are estimates then.
    pub exact: bool,
    /// The loss policy that was put in place of the records' own flags; empty where theirs count.
    pub loss: String,
    pub total: ShardTokens,
    pub shards: Vec<ShardTokens>,
}

/// One shard, or all of them together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShardTokens {
    /// The path; `total` for the sum.
    pub file: String,
    pub trajectories: u64,
    /// Not among them and in no other figure: trajectories in whose place a rerun's count.
    pub superseded: u64,
    /// Of the trajectories, with `resolved` 1.
    pub resolved: u64,
    /// Model responses.
    pub turns: u64,
    pub tokens: u64,
    /// Trained on.
    pub loss_tokens: u64,
    /// Of the assistant's: from `<think>` to `</think>`.
    pub thinking_tokens: u64,
    /// Not among the tokens: of reasoning that the template does not show.
    pub reasoning_unseen: u64,
    pub by_role: ByRole,
    /// Tokens of a trajectory, by nearest rank.
    pub percentiles: Percentiles,
    /// Tokens of a turn of the assistant, header included.
    pub per_turn: PerTurn,
    /// Share of trajectories with more tokens than that, 0 to 1.
    pub over: Over,
    /// Trajectories whose text holds a token that parts turns, such as `<|im_end|>`, literally.
    pub special_in_text: u64,
    /// Trajectories of which cannot be said what is trained on; only with a template of a file. Why, of the first.
    pub unmarked: u64,
    pub unmarked_why: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p95: u64,
    pub p99: u64,
    pub max: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PerTurn {
    pub mean: f64,
    #[serde(flatten)]
    pub percentiles: Percentiles,
    /// By the turn's place in its trajectory.
    pub by_position: Vec<Position>,
}

/// Turns of these places.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Position {
    /// Place of the first, from 1; the last is before the next position's first.
    pub from: u64,
    pub turns: u64,
    pub mean: f64,
}

const POSITIONS: [u64; 7] = [1, 2, 6, 11, 21, 51, 101];

/// Context lengths that are always told: 32k is 32,768 tokens.
pub const CONTEXTS: [u64; 3] = [32 << 10, 64 << 10, 128 << 10];

/// Context lengths and the shares over them; as JSON an object, `{"32k": 0.1, "50000": 0.05}`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Over(pub Vec<(u64, f64)>);

impl Over {
    /// `32k`, or the plain number where it is no multiple of 1,024.
    #[must_use]
    pub fn label(context: u64) -> String {
        if context.is_multiple_of(1024) { format!("{}k", context / 1024) } else { context.to_string() }
    }
}

impl Serialize for Over {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(context, share)| map.serialize_entry(&Over::label(*context), share))?;
        map.end()
    }
}

/// How often each number came: exact percentiles in little memory.
#[derive(Debug, Clone, Default)]
struct Histogram {
    times: BTreeMap<u64, u64>,
    count: u64,
}

impl Histogram {
    fn add(&mut self, number: u64, times: u64) {
        *self.times.entry(number).or_default() += times;
        self.count += times;
    }

    fn merge(&mut self, other: &Histogram) {
        other.times.iter().for_each(|(number, times)| self.add(*number, *times));
    }

    fn sum(&self) -> u64 {
        self.times.iter().map(|(number, times)| number * times).sum()
    }

    /// By nearest rank; 0 of none.
    fn percentile(&self, percent: u64) -> u64 {
        let (rank, mut seen) = ((self.count * percent).div_ceil(100), 0);
        let reaches = |(_, times): &(&u64, &u64)| {
            seen += **times;
            seen >= rank
        };
        self.times.iter().find(reaches).map_or(0, |(number, _)| *number)
    }

    fn percentiles(&self) -> Percentiles {
        let of = |percent| self.percentile(percent);
        Percentiles { p50: of(50), p90: of(90), p95: of(95), p99: of(99), max: of(100) }
    }

    fn over(&self, number: u64) -> f64 {
        mean(self.times.range((Excluded(number), Unbounded)).map(|(_, times)| times).sum(), self.count)
    }
}

fn mean(sum: u64, count: u64) -> f64 {
    sum as f64 / count.max(1) as f64
}

/// Sums over trajectories, in any order.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    superseded: u64,
    resolved: u64,
    loss_tokens: u64,
    thinking_tokens: u64,
    reasoning_unseen: u64,
    by_role: ByRole,
    special_in_text: u64,
    unmarked: u64,
    unmarked_why: String,
    trajectories: Histogram,
    turns: Histogram,
    /// Turns and their tokens, by [`POSITIONS`].
    positions: [(u64, u64); POSITIONS.len()],
}

impl Tally {
    pub(super) fn add(&mut self, counts: &Counts, resolved: Resolved) {
        self.resolved += u64::from(resolved == Resolved::Yes);
        self.loss_tokens += counts.loss;
        self.thinking_tokens += counts.thinking;
        self.reasoning_unseen += counts.reasoning_unseen;
        self.by_role += counts.by_role;
        self.special_in_text += u64::from(counts.special_in_text);
        self.trajectories.add(counts.total, 1);
        if let Some(why) = &counts.unmarked {
            self.because(1, &why.to_string());
        }
        for (turn, place) in counts.turns.iter().filter(|turn| turn.role == Role::Assistant).zip(1..) {
            self.turns.add(turn.tokens, 1);
            let position = &mut self.positions[POSITIONS.partition_point(|from| *from <= place) - 1];
            *position = (position.0 + 1, position.1 + turn.tokens);
        }
    }

    fn because(&mut self, unmarked: u64, why: &str) {
        self.unmarked += unmarked;
        if self.unmarked_why.is_empty() {
            why.clone_into(&mut self.unmarked_why);
        }
    }

    pub(super) fn leave_out(&mut self) {
        self.superseded += 1;
    }

    pub(super) fn merge(&mut self, other: &Tally) {
        self.superseded += other.superseded;
        self.resolved += other.resolved;
        self.loss_tokens += other.loss_tokens;
        self.thinking_tokens += other.thinking_tokens;
        self.reasoning_unseen += other.reasoning_unseen;
        self.by_role += other.by_role;
        self.special_in_text += other.special_in_text;
        self.because(other.unmarked, &other.unmarked_why);
        self.trajectories.merge(&other.trajectories);
        self.turns.merge(&other.turns);
        for (mine, other) in self.positions.iter_mut().zip(other.positions) {
            *mine = (mine.0 + other.0, mine.1 + other.1);
        }
    }

    /// `contexts`: beside [`CONTEXTS`].
    pub(super) fn finish(self, file: String, contexts: &[u64]) -> ShardTokens {
        let mut contexts = [&CONTEXTS, contexts].concat();
        contexts.sort_unstable();
        contexts.dedup();
        let position = |(from, (turns, tokens))| Position { from, turns, mean: mean(tokens, turns) };
        ShardTokens {
            file,
            trajectories: self.trajectories.count,
            superseded: self.superseded,
            resolved: self.resolved,
            turns: self.turns.count,
            tokens: self.trajectories.sum(),
            loss_tokens: self.loss_tokens,
            thinking_tokens: self.thinking_tokens,
            reasoning_unseen: self.reasoning_unseen,
            by_role: self.by_role,
            percentiles: self.trajectories.percentiles(),
            per_turn: PerTurn {
                mean: mean(self.turns.sum(), self.turns.count),
                percentiles: self.turns.percentiles(),
                by_position: POSITIONS.into_iter().zip(self.positions).filter(|(_, (turns, _))| *turns > 0).map(position).collect(),
            },
            over: Over(contexts.into_iter().map(|context| (context, self.trajectories.over(context))).collect()),
            special_in_text: self.special_in_text,
            unmarked: self.unmarked,
            unmarked_why: self.unmarked_why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::mask::TurnCount, *};

    fn tally(tokens: impl IntoIterator<Item = u64>) -> ShardTokens {
        let mut tally = Tally::default();
        for total in tokens {
            tally.add(&Counts { total, ..Counts::default() }, Resolved::No);
        }
        tally.finish("x".into(), &[40_000])
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let report = tally((1..=200).rev());
        assert_eq!(report.percentiles, Percentiles { p50: 100, p90: 180, p95: 190, p99: 198, max: 200 });
        assert_eq!(report.tokens, 20_100);
        assert_eq!(tally([7]).percentiles, Percentiles { p50: 7, p90: 7, p95: 7, p99: 7, max: 7 });
        assert_eq!(tally([]).percentiles, Percentiles::default());
    }

    #[test]
    fn over_is_strict() {
        let over = tally([32 << 10, (32 << 10) + 1, 65_537, 200_000]).over;
        assert_eq!(serde_json::to_string(&over).unwrap(), r#"{"32k":0.75,"40000":0.5,"64k":0.5,"128k":0.25}"#);
        assert_eq!(tally([]).over.0.iter().map(|(_, share)| *share).sum::<f64>(), 0.0);
        let mut one = Histogram::default();
        one.add(7, 1);
        assert_eq!((one.over(6), one.over(u64::MAX)), (1.0, 0.0));
    }

    #[test]
    fn turns_are_told_by_their_place() {
        let turn = |tokens| TurnCount { role: Role::Assistant, first: 0, messages: 1, tokens, loss: 0 };
        let turns = (1..=12).map(turn).chain([TurnCount { role: Role::Tool, ..turn(1000) }]).collect();
        let mut tally = Tally::default();
        tally.add(&Counts { turns, ..Counts::default() }, Resolved::No);
        let mut twice = tally.clone();
        twice.merge(&tally);
        let PerTurn { mean, percentiles, by_position } = twice.finish("x".into(), &[]).per_turn;
        assert_eq!((mean, percentiles.p50, percentiles.max), (6.5, 6, 12));
        let shown: Vec<_> = by_position.iter().map(|position| (position.from, position.turns, position.mean)).collect();
        assert_eq!(shown, [(1, 2, 1.0), (2, 8, 3.5), (6, 10, 8.0), (11, 4, 11.5)]);
    }
}
