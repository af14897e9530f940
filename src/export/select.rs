//! Which records are written, and where to: pure, on the facts of all records.

use super::{dedup::Kept, exclude::Exclusions, expr::Where, facts::Facts, split};
use crate::domain::Resolved;
use serde::Serialize;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    str::FromStr,
};

/// What is wanted of the records. A record that more than one refuses is counted under the first in the order of [`Why`],
/// but for near-duplicates of an instance that has its number already.
#[derive(Debug, Default)]
pub struct Rules {
    pub filter: Option<Where>,
    pub exclude: Exclusions,
    pub min_tokens: Option<u64>,
    pub max_tokens: Option<u64>,
    /// Similarity from which on two are the same.
    pub dedup: Option<f64>,
    pub per_instance: Option<u32>,
    /// Which of an instance's, and which of near-duplicates.
    pub best: Best,
    pub limit: Option<u64>,
    /// Ascending upper ends of the buckets of length, tokens; what is longer has a bucket of its own.
    pub buckets: Vec<u64>,
    pub seed: u64,
}

/// The order of preference. Resolved ones come before unresolved, and these before those without verdict; ties go to the lower
/// sample, then to the lower attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Best {
    /// Fewest turns.
    #[default]
    Turns,
    /// Fewest tokens.
    Tokens,
    /// Lowest sample.
    First,
    /// By the seed.
    Random,
}

impl Best {
    const ALL: [(Best, &str); 4] = [(Best::Turns, "turns"), (Best::Tokens, "tokens"), (Best::First, "first"), (Best::Random, "random")];
}

impl fmt::Display for Best {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Best::ALL.iter().find(|(best, _)| best == self).map_or("", |(_, name)| name).fmt(f)
    }
}

impl FromStr for Best {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Best::ALL.into_iter().find(|(_, name)| *name == text);
        found.map(|(best, _)| best).ok_or_else(|| format!("{text:?} is no order; there are turns, tokens, first, random"))
    }
}

/// Why a record is not written, in the order in which the rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A rerun's attempt counts in its place.
    Superseded,
    /// The same attempt was read before.
    Repeated,
    Where,
    Exclude,
    /// Its length matters and cannot be counted.
    Uncounted,
    MinTokens,
    MaxTokens,
    Dedup,
    PerInstance,
    Limit,
    /// The form cannot hold it.
    Unfit,
}

impl Why {
    /// As an option of the command line, where one causes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Superseded => "superseded",
            Why::Repeated => "repeated",
            Why::Where => "--where",
            Why::Exclude => "--exclude",
            Why::Uncounted => "not countable",
            Why::MinTokens => "--min-tokens",
            Why::MaxTokens => "--max-tokens",
            Why::Dedup => "--dedup",
            Why::PerInstance => "--per-instance",
            Why::Limit => "--limit",
            Why::Unfit => "the form cannot hold it",
        }
    }
}

impl Rules {
    /// Whether the length of a record decides anything.
    #[must_use]
    pub fn tokens_needed(&self) -> bool {
        self.length_matters()
            || (self.best == Best::Tokens && (self.per_instance.is_some() || self.dedup.is_some()))
            || self.filter.as_ref().is_some_and(|filter| filter.uses(&["tokens", "loss_tokens"]))
    }

    fn length_matters(&self) -> bool {
        self.min_tokens.is_some() || self.max_tokens.is_some() || !self.buckets.is_empty()
    }

    /// Place of a trajectory in an order by chance.
    pub(super) fn chance(&self, trajectory_id: &str) -> u64 {
        if self.best != Best::Random {
            return 0;
        }
        let [a, b, c, d, e, f, g, h, ..] = split::digest(self.seed, "best", trajectory_id);
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// The rules that look at one record alone.
    fn refuse(&self, facts: &Facts) -> Option<Why> {
        let tokens = u64::try_from(facts.tokens).ok();
        if !facts.holds {
            Some(Why::Where)
        } else if facts.excluded {
            Some(Why::Exclude)
        } else if self.length_matters() && tokens.is_none() {
            Some(Why::Uncounted)
        } else if self.min_tokens.zip(tokens).is_some_and(|(least, tokens)| tokens < least) {
            Some(Why::MinTokens)
        } else if self.max_tokens.zip(tokens).is_some_and(|(most, tokens)| tokens > most) {
            Some(Why::MaxTokens)
        } else {
            None
        }
    }

    /// Ascending from the best.
    fn rank(&self, facts: &Facts) -> impl Ord + use<> {
        let key = match self.best {
            Best::Turns => u64::from(facts.turns),
            Best::Tokens => u64::try_from(facts.tokens).unwrap_or(u64::MAX),
            Best::First => 0,
            Best::Random => facts.chance,
        };
        let verdict = match facts.resolved {
            Resolved::Yes => 2,
            Resolved::No => 1,
            Resolved::Unknown => 0,
        };
        (Reverse(verdict), key, facts.sample, facts.attempt)
    }

    /// Number of the bucket of that length.
    #[must_use]
    pub fn bucket(&self, tokens: i64) -> usize {
        self.buckets.partition_point(|end| u64::try_from(tokens).is_ok_and(|tokens| tokens > *end))
    }

    /// Names of the buckets; one without a name where there are none.
    #[must_use]
    pub fn bucket_names(&self) -> Vec<String> {
        let over = self.buckets.last().map(|end| format!("gt{end}"));
        let names: Vec<String> = self.buckets.iter().map(|end| format!("le{end}")).chain(over).collect();
        if names.is_empty() { vec![String::new()] } else { names }
    }

    /// What becomes of each record, in their order: written, or why not.
    #[must_use]
    pub fn choose(&self, records: &[&Facts]) -> Vec<Option<Why>> {
        let mut identities = HashSet::new();
        let mut fates: Vec<Option<Why>> =
            records.iter().map(|facts| if identities.insert(facts.identity) { self.refuse(facts) } else { Some(Why::Repeated) }).collect();
        if self.dedup.is_some() || self.per_instance.is_some() {
            let mut best_first: Vec<usize> = (0..records.len()).filter(|at| fates[*at].is_none()).collect();
            best_first.sort_by_cached_key(|at| (self.rank(records[*at]), *at));
            let mut kept = self.dedup.map(Kept::new);
            let mut of_instance: HashMap<u32, u32> = HashMap::new();
            for at in best_first {
                let facts = records[at];
                let count = of_instance.entry(facts.instance).or_default();
                if self.per_instance.is_some_and(|most| *count >= most) {
                    fates[at] = Some(Why::PerInstance);
                } else if let (Some(kept), Some(sketch)) = (&mut kept, &facts.sketch)
                    && kept.keep(sketch).is_some()
                {
                    fates[at] = Some(Why::Dedup);
                } else {
                    *count += 1;
                }
            }
        }
        if let Some(limit) = self.limit {
            let chosen = fates.iter_mut().filter(|fate| fate.is_none());
            chosen.skip(usize::try_from(limit).unwrap_or(usize::MAX)).for_each(|fate| *fate = Some(Why::Limit));
        }
        fates
    }
}

/// How many records are not written, by reason.
pub type Dropped = BTreeMap<Why, u64>;
