//! Performs the core's actions in an order of a test's choosing, keeps its own books, and holds the core to them after every step.

use std::collections::{BTreeMap, BTreeSet};
use sweroll::{
    domain::{Attempt, AttemptId, EpisodeId, Failure, Kind},
    scheduler::{
        budget::Spend,
        core::{Action, Core, Input, Todo, WAIVED_AT_ONCE},
        policy::Policy,
    },
};

pub struct World {
    pub core: Core,
    pub policy: Policy,
    now: u64,
    pub agents: BTreeSet<AttemptId>,
    pub gradings: BTreeMap<AttemptId, u32>,
    pub grading: BTreeSet<AttemptId>,
    pub commits: BTreeMap<AttemptId, bool>,
    pub counted: BTreeMap<EpisodeId, AttemptId>,
    pub begun: BTreeMap<EpisodeId, Vec<Attempt>>,
    pub abandoned: BTreeSet<EpisodeId>,
    waiving: Vec<Vec<EpisodeId>>,
    pub waived: BTreeSet<EpisodeId>,
    /// Samples by instance whose tests all passed.
    pub resolved: BTreeMap<String, u32>,
    pub quarantined: BTreeSet<String>,
    /// Tokens that ended attempts cost, and the dearest one.
    pub spent: u64,
    pub dearest: u64,
    pub held: bool,
    pub draining: bool,
    wake: Option<u64>,
    pub finished: u32,
    /// This one's agent does not end by chance.
    pub straggler: Option<EpisodeId>,
}

impl World {
    pub fn new(policy: Policy, todo: Vec<Todo>) -> Self {
        World {
            core: Core::new(policy.clone(), todo, None),
            policy,
            now: 0,
            agents: BTreeSet::new(),
            gradings: BTreeMap::new(),
            grading: BTreeSet::new(),
            commits: BTreeMap::new(),
            counted: BTreeMap::new(),
            begun: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            waiving: Vec::new(),
            waived: BTreeSet::new(),
            resolved: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            spent: 0,
            dearest: 0,
            held: false,
            draining: false,
            wake: None,
            finished: 0,
            straggler: None,
        }
    }

    pub fn step(&mut self, input: Input) {
        match &input {
            Input::Hold { .. } => self.held = true,
            Input::Release => self.held = false,
            _ => {}
        }
        for action in self.core.step(input, self.now) {
            assert_eq!(self.finished, 0, "an action after the end: {action:?}");
            match action {
                Action::StartAgent { id } => {
                    self.may_begin(&id.episode);
                    self.begun.entry(id.episode.clone()).or_default().push(id.attempt);
                    assert!(self.agents.insert(id));
                }
                Action::Grade { id } => {
                    *self.gradings.entry(id.clone()).or_default() += 1;
                    assert!(self.grading.insert(id));
                }
                Action::Commit { id, counts } => assert!(self.commits.insert(id, counts).is_none()),
                Action::Skip { id, .. } => {
                    assert!(self.quarantined.contains(id.episode.instance.as_str()));
                    assert!(self.commits.insert(id, true).is_none());
                }
                Action::WakeAt { at_ms } => self.wake = Some(at_ms),
                Action::Finished => self.finished += 1,
                Action::Abandon { id } => assert!(self.abandoned.insert(id.episode), "abandoned twice"),
                Action::Quarantine { instance, .. } => assert!(self.quarantined.insert(instance.to_string())),
                Action::Waive { episodes } => {
                    assert!(episodes.len() <= WAIVED_AT_ONCE && !self.held && !self.draining);
                    assert!(episodes.iter().all(|episode| self.has_enough(episode)), "waived though more are wanted");
                    self.waiving.push(episodes);
                }
                Action::Draining { .. } => self.draining = true,
                Action::Retrying { .. } | Action::Held { .. } => {}
            }
        }
        assert!(self.agents.len() <= self.policy.concurrency);
        assert!(self.grading.len() <= self.policy.grader_slots());
    }

    fn has_enough(&self, episode: &EpisodeId) -> bool {
        let resolved = self.resolved.get(episode.instance.as_str()).copied().unwrap_or(0);
        self.policy.until_resolved > 0 && resolved >= self.policy.until_resolved
    }

    fn may_begin(&self, episode: &EpisodeId) {
        assert!(!self.held && !self.draining, "{episode} is begun while nothing is to be");
        assert!(!self.has_enough(episode), "{episode} is begun though enough of its instance are resolved");
        assert!(self.policy.keep_going || !self.quarantined.contains(episode.instance.as_str()), "{episode} is begun in quarantine");
        let budget = self.policy.budget_tokens;
        assert!(budget == 0 || self.spent < budget, "{episode} is begun with {} of {budget} tokens spent", self.spent);
    }

    /// One thing that is under way ends; `choice` says which and what it cost, `fate` how.
    pub fn advance(&mut self, choice: usize, fate: usize, kinds: &[Kind]) {
        let agents: Vec<AttemptId> = self.agents.iter().filter(|id| self.straggler.as_ref() != Some(&id.episode)).cloned().collect();
        let under_way = agents.len() + self.grading.len() + self.commits.len() + self.waiving.len();
        if under_way == 0 {
            self.now = self.wake.take().unwrap_or(self.now + 1).max(self.now);
            return self.step(Input::Tick);
        }
        self.now += 7;
        let failure = kinds.get(fate).map(|kind| Failure::new(*kind, "x"));
        let mut pick = choice % under_way;
        if let Some(id) = agents.get(pick) {
            return self.end_agent(&id.clone(), 1 + choice as u64 % 97, failure);
        }
        pick -= agents.len();
        if let Some(id) = self.grading.iter().nth(pick).cloned() {
            self.grading.remove(&id);
            if failure.is_none() {
                *self.resolved.entry(id.episode.instance.to_string()).or_default() += 1;
            }
            return self.step(Input::GradeEnded { id, grade: failure.map_or(Ok(true), Err) });
        }
        pick -= self.grading.len();
        if let Some((id, counts)) = self.commits.iter().nth(pick).map(|(id, counts)| (id.clone(), *counts)) {
            self.commits.remove(&id);
            if let Some(failure) = failure.filter(|f| [Kind::RunDir, Kind::Panic].contains(&f.kind)) {
                return self.step(Input::CommitFailed { id, failure });
            }
            if counts {
                assert!(self.counted.insert(id.episode.clone(), id.clone()).is_none(), "{} counted twice", id.episode);
            }
            return self.step(Input::Committed { id });
        }
        pick -= self.commits.len();
        let waived = self.waiving.remove(pick);
        let episodes = waived.len();
        match failure.filter(|f| f.kind == Kind::RunDir) {
            Some(failure) => self.step(Input::WaiveFailed { episodes, failure }),
            None => {
                self.waived.extend(waived);
                self.step(Input::Waived { episodes });
            }
        }
    }

    pub fn end_agent(&mut self, id: &AttemptId, tokens: u64, failure: Option<Failure>) {
        assert!(self.agents.remove(id));
        self.spent += tokens;
        self.dearest = self.dearest.max(tokens);
        self.step(Input::AgentEnded { id: id.clone(), spent: Spend { usd: 0.0, tokens }, failure });
    }

    /// Nothing fails any more, until there is no more to be done.
    pub fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.finished == 0 {
                self.advance(0, usize::MAX, &[]);
            }
        }
    }

    /// How often an episode is decided, recorded as left out, or left to the next opening: once, of all of them.
    pub fn left(&self, all: &[EpisodeId]) -> usize {
        let counted: BTreeSet<_> = self.counted.keys().cloned().collect();
        assert!(counted.is_disjoint(&self.waived) && counted.is_disjoint(&self.abandoned) && self.waived.is_disjoint(&self.abandoned));
        all.len() - counted.len() - self.waived.len()
    }
}
