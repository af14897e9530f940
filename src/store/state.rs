//! Where a run stands: a pure fold over the journal's facts, a few bytes an episode.

use super::fact::{Committed, Fact, Location, Stream};
use crate::domain::{
    Attempt, AttemptId, Class, EpisodeId, ExitReason, Failure, InstanceId, Kind, Resolved, Verdict, event::Outcome, transcript::Usage,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

/// All episodes of a run, with what came of them.
#[derive(Debug, Clone)]
pub struct State {
    ids: Vec<InstanceId>,
    index: HashMap<InstanceId, u32>,
    samples: u32,
    /// Episode `sample` of instance `i` is at `i * samples + sample`.
    episodes: Vec<Episode>,
    /// Committed attempts with a number over 64.
    late: HashSet<(u32, u32)>,
    quarantined: BTreeMap<InstanceId, Failure>,
    shards: BTreeMap<(Stream, u32), Shard>,
    totals: Totals,
    /// Those of the committed attempts that took longest, the longest first.
    slowest: Vec<Slow>,
    session: Option<(u64, u64)>,
    wall_ms: u64,
}

/// A committed attempt and how long it took, from its admission to the end of its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slow {
    pub id: AttemptId,
    pub duration_ms: u64,
    pub turns: u32,
    pub exit_reason: ExitReason,
}

/// So many of them are kept.
const SLOWEST: usize = 5;

/// One episode.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Episode {
    /// The highest number an attempt has had; 0: none was begun.
    last: u32,
    /// Bit n: attempt n + 1 is committed.
    committed: u64,
    reopened: bool,
    waived: bool,
    counting: Option<Counting>,
    /// Where the counting attempt's row lies, and its tokens.
    row: Row,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Row {
    place: Option<(Stream, u32)>,
    /// None until counted.
    tokens: Option<u64>,
}

/// The attempt that counts for its episode, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counting {
    pub attempt: Attempt,
    pub exit_reason: ExitReason,
    pub resolved: Resolved,
    pub verdict: Option<Verdict>,
    pub failure: Option<Kind>,
}

impl Episode {
    /// The number that the next attempt gets.
    #[must_use]
    pub fn next(&self) -> Attempt {
        Attempt(self.last + 1)
    }

    /// The latest committed attempt whose outcome counts.
    #[must_use]
    pub fn counting(&self) -> Option<Counting> {
        self.counting
    }

    /// Still to be done: nothing counts yet, or it was reopened.
    #[must_use]
    pub fn outstanding(&self) -> bool {
        self.reopened || (self.counting.is_none() && !self.waived)
    }

    /// Left out: it is not to be done, and nothing counts for it.
    #[must_use]
    pub fn waived(&self) -> bool {
        self.waived && self.counting.is_none() && !self.reopened
    }
}

/// Sums over all committed attempts, those that do not count included: what was paid. A regrade is an attempt, and paid nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    pub attempts: u64,
    /// Attempts that paid for a reply.
    pub paid: u64,
    pub turns: u64,
    pub usage: Usage,
    pub cost_usd: f64,
}

/// The committed part of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shard {
    pub rows: u64,
    /// Where the next frame goes.
    pub bytes: u64,
    pub raw_bytes: u64,
    /// Of the rows that are counted.
    pub tokens: u64,
    pub loss_tokens: u64,
    /// Rows whose tokens are not counted yet.
    pub uncounted: u64,
    /// Of the trajectories.
    pub superseded: Superseded,
}

/// Rows of a shard whose episode has a later attempt that counts: they are not to be trained on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Superseded {
    pub rows: u64,
    /// Of those that are counted.
    pub tokens: u64,
    /// Those that are not.
    pub uncounted: u64,
}

/// A fact that cannot be true of this run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    #[error("{0} is no episode of this run")]
    Unknown(String),
    #[error("{0} is committed twice")]
    Twice(AttemptId),
    #[error("{0} lies at byte {1} of a shard that ends at byte {2}")]
    Place(AttemptId, u64, u64),
}

impl State {
    /// Nothing has happened yet to `samples` episodes of each of these instances.
    #[must_use]
    pub fn new(instances: &[InstanceId], samples: u32) -> Self {
        State {
            ids: instances.to_vec(),
            index: (0..).zip(instances).map(|(i, id)| (id.clone(), i)).collect(),
            samples,
            episodes: vec![Episode::default(); instances.len() * samples as usize],
            late: HashSet::new(),
            quarantined: BTreeMap::new(),
            shards: BTreeMap::new(),
            totals: Totals::default(),
            slowest: Vec::new(),
            session: None,
            wall_ms: 0,
        }
    }

    /// # Errors
    /// A fact that cannot follow on those before; the state is as it was.
    pub fn apply(&mut self, fact: &Fact) -> Result<(), Contradiction> {
        self.check(fact)?;
        match fact {
            Fact::Opened { at_ms, .. } => {
                self.end_session();
                self.session = Some((*at_ms, *at_ms));
            }
            Fact::Started { id, .. } => self.begin(id)?,
            Fact::Committed(committed) => self.commit(committed)?,
            Fact::Reopened { episodes, .. } => {
                for episode in episodes {
                    let at = self.position(episode)?;
                    self.episodes[at].reopened = true;
                    self.episodes[at].waived = false;
                    self.quarantined.remove(&episode.instance);
                }
            }
            Fact::Quarantined { instance, failure, .. } => {
                self.quarantined.insert(instance.clone(), failure.clone());
            }
            Fact::Waived { episodes, .. } => {
                for episode in episodes {
                    let at = self.position(episode)?;
                    self.episodes[at].waived = true;
                    self.episodes[at].reopened = false;
                }
            }
            Fact::Closed { .. } => {}
        }
        self.tick(fact.at_ms());
        if matches!(fact, Fact::Closed { .. }) {
            self.end_session();
        }
        Ok(())
    }

    /// Whether the fact can follow.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, fact: &Fact) -> Result<(), Contradiction> {
        match fact {
            Fact::Opened { .. } | Fact::Closed { .. } => Ok(()),
            Fact::Started { id, .. } => self.position(&id.episode).map(drop),
            Fact::Committed(Committed { id, location, .. }) => {
                self.check_new(id)?;
                let end = self.shards.get(&(location.stream, location.shard)).map_or(0, |shard| shard.bytes);
                if location.offset == end { Ok(()) } else { Err(Contradiction::Place(id.clone(), location.offset, end)) }
            }
            Fact::Reopened { episodes, .. } | Fact::Waived { episodes, .. } => episodes.iter().try_for_each(|e| self.position(e).map(drop)),
            Fact::Quarantined { instance, .. } if self.index.contains_key(instance) => Ok(()),
            Fact::Quarantined { instance, .. } => Err(Contradiction::Unknown(instance.to_string())),
        }
    }

    /// Whether the attempt is one of this run's and not committed yet.
    ///
    /// # Errors
    /// Why not.
    pub fn check_new(&self, id: &AttemptId) -> Result<(), Contradiction> {
        self.position(&id.episode)?;
        if self.is_committed(id) { Err(Contradiction::Twice(id.clone())) } else { Ok(()) }
    }

    fn begin(&mut self, id: &AttemptId) -> Result<(), Contradiction> {
        let at = self.position(&id.episode)?;
        self.episodes[at].last = self.episodes[at].last.max(id.attempt.0);
        Ok(())
    }

    fn commit(&mut self, committed: &Committed) -> Result<(), Contradiction> {
        let Committed { id, location, outcome, .. } = committed;
        self.begin(id)?;
        let at = self.position(&id.episode)?;
        let shard = self.shards.entry((location.stream, location.shard)).or_default();
        shard.rows += 1;
        shard.bytes += location.len;
        shard.raw_bytes += committed.raw_bytes;
        let tokens = u64::try_from(outcome.tokens).ok().zip(u64::try_from(committed.loss_tokens).ok());
        match tokens {
            Some((tokens, loss_tokens)) => {
                shard.tokens += tokens;
                shard.loss_tokens += loss_tokens;
            }
            None => shard.uncounted += 1,
        }
        let attempt = id.attempt;
        match attempt.0 {
            n @ 1..=64 => self.episodes[at].committed |= 1 << (n - 1),
            n => {
                self.late.insert((at as u32, n));
            }
        }
        let mut superseded = Row { place: Some((location.stream, location.shard)), tokens: tokens.map(|(tokens, _)| tokens) };
        let episode = &mut self.episodes[at];
        if outcome.counts && episode.counting.is_none_or(|c| c.attempt < attempt) {
            let failure = outcome.failure.as_ref().map(|f| f.kind);
            episode.counting =
                Some(Counting { attempt, exit_reason: outcome.exit_reason, resolved: outcome.resolved, verdict: outcome.verdict, failure });
            episode.reopened = false;
            std::mem::swap(&mut superseded, &mut episode.row);
        }
        self.supersede(superseded);
        self.totals.attempts += 1;
        if committed.regrade_of.is_some() {
            return Ok(());
        }
        self.note_slow(id, outcome);
        self.totals.paid += u64::from(outcome.turns > 0);
        self.totals.turns += u64::from(outcome.turns);
        self.totals.usage += outcome.usage;
        self.totals.cost_usd += outcome.cost_usd;
        Ok(())
    }

    fn note_slow(&mut self, id: &AttemptId, outcome: &Outcome) {
        let at = self.slowest.partition_point(|slow| slow.duration_ms >= outcome.duration_ms);
        if at < SLOWEST {
            let slow = Slow { id: id.clone(), duration_ms: outcome.duration_ms, turns: outcome.turns, exit_reason: outcome.exit_reason };
            self.slowest.insert(at, slow);
            self.slowest.truncate(SLOWEST);
        }
    }

    /// What is in `attempts` never counted as a trajectory.
    fn supersede(&mut self, Row { place, tokens }: Row) {
        let Some(shard) = place.filter(|(stream, _)| *stream == Stream::Trajectories).and_then(|key| self.shards.get_mut(&key)) else {
            return;
        };
        shard.superseded.rows += 1;
        shard.superseded.tokens += tokens.unwrap_or(0);
        shard.superseded.uncounted += u64::from(tokens.is_none());
    }

    /// Whether the record at this place is a trajectory that does not count: another attempt counts for its episode.
    #[must_use]
    pub fn is_superseded(&self, id: &AttemptId, location: &Location) -> bool {
        let counting = self.episode(&id.episode).and_then(Episode::counting);
        location.stream == Stream::Trajectories && counting.is_none_or(|counting| counting.attempt != id.attempt)
    }

    fn tick(&mut self, at_ms: u64) {
        if let Some((_, last)) = &mut self.session {
            *last = at_ms.max(*last);
        }
    }

    fn end_session(&mut self) {
        if let Some((first, last)) = self.session.take() {
            self.wall_ms += last - first;
        }
    }

    fn position(&self, episode: &EpisodeId) -> Result<usize, Contradiction> {
        let instance = self.index.get(&episode.instance).filter(|_| episode.sample < self.samples);
        let instance = instance.ok_or_else(|| Contradiction::Unknown(episode.to_string()))?;
        Ok(*instance as usize * self.samples as usize + episode.sample as usize)
    }

    #[must_use]
    pub fn episode(&self, id: &EpisodeId) -> Option<&Episode> {
        self.position(id).ok().map(|at| &self.episodes[at])
    }

    #[must_use]
    pub fn is_committed(&self, id: &AttemptId) -> bool {
        let Ok(at) = self.position(&id.episode) else { return false };
        match id.attempt.0 {
            n @ 1..=64 => self.episodes[at].committed & (1 << (n - 1)) != 0,
            n => self.late.contains(&(at as u32, n)),
        }
    }

    /// All episodes: every instance's first sample, then every second one, and so on, in the order of the dataset.
    pub fn episodes(&self) -> impl Iterator<Item = (EpisodeId, &Episode)> {
        let ids = &self.ids;
        (0..self.samples).flat_map(move |sample| {
            ids.iter().enumerate().map(move |(i, instance)| {
                let id = EpisodeId { instance: instance.clone(), sample };
                (id, &self.episodes[i * self.samples as usize + sample as usize])
            })
        })
    }

    /// Instances of which no other episode is begun, with the reason.
    #[must_use]
    pub fn quarantined(&self) -> &BTreeMap<InstanceId, Failure> {
        &self.quarantined
    }

    /// The committed part of every shard.
    #[must_use]
    pub fn shards(&self) -> &BTreeMap<(Stream, u32), Shard> {
        &self.shards
    }

    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The committed attempts that took longest, the longest first.
    #[must_use]
    pub fn slowest(&self) -> &[Slow] {
        &self.slowest
    }

    /// Samples that are resolved, by instance.
    #[must_use]
    pub fn resolved(&self) -> HashMap<InstanceId, u32> {
        let mut resolved = HashMap::new();
        for (i, instance) in self.ids.iter().enumerate() {
            let samples = &self.episodes[i * self.samples as usize..(i + 1) * self.samples as usize];
            let n = samples.iter().filter(|e| !e.outstanding() && e.counting.is_some_and(|c| c.resolved == Resolved::Yes)).count();
            if n > 0 {
                resolved.insert(instance.clone(), n as u32);
            }
        }
        resolved
    }

    /// Time in which a process had the run open, milliseconds, up to the last fact.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.wall_ms + self.session.map_or(0, |(first, last)| last - first)
    }
}

impl Counting {
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        self.failure.map(Kind::class)
    }
}
