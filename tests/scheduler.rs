//! Invariants of the pure scheduler, under random ends of agents, gradings and commits in random order.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use sweroll::{
    bench::schedule::{Scenario, simulate},
    domain::{Attempt, AttemptId, EpisodeId, Failure, Kind},
    scheduler::{
        budget::Spend,
        core::{Action, Core, Input, Todo},
        policy::Policy,
    },
};

const KINDS: [Kind; 11] = [
    Kind::EndpointUnavailable,
    Kind::EndpointRefused,
    Kind::SandboxLost,
    Kind::ImageMissing,
    Kind::MemoryExhausted,
    Kind::DiffRejected,
    Kind::PreCommands,
    Kind::ReportUnreadable,
    Kind::Unauthorized,
    Kind::RunDir,
    Kind::Panic,
];

/// Kinds that do not stop the run.
const MILD: usize = 8;

fn episodes(instances: u32, samples: u32) -> Vec<EpisodeId> {
    (0..instances).flat_map(|i| (0..samples).map(move |sample| EpisodeId { instance: format!("i{i}").parse().unwrap(), sample })).collect()
}

/// A world that performs actions in an order of its own choosing and keeps the books.
struct World {
    core: Core,
    policy: Policy,
    now: u64,
    agents: BTreeSet<AttemptId>,
    gradings: BTreeMap<AttemptId, u32>,
    grading: BTreeSet<AttemptId>,
    commits: BTreeMap<AttemptId, bool>,
    counted: BTreeMap<EpisodeId, AttemptId>,
    begun: BTreeMap<EpisodeId, Vec<Attempt>>,
    abandoned: BTreeSet<EpisodeId>,
    wake: Option<u64>,
    finished: u32,
}

impl World {
    fn new(policy: Policy, todo: Vec<Todo>) -> Self {
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
            wake: None,
            finished: 0,
        }
    }

    fn step(&mut self, input: Input) {
        for action in self.core.step(input, self.now) {
            assert_eq!(self.finished, 0, "an action after the end: {action:?}");
            match action {
                Action::StartAgent { id } => {
                    self.begun.entry(id.episode.clone()).or_default().push(id.attempt);
                    assert!(self.agents.insert(id));
                }
                Action::Grade { id } => {
                    *self.gradings.entry(id.clone()).or_default() += 1;
                    assert!(self.grading.insert(id));
                }
                Action::Commit { id, counts } => assert!(self.commits.insert(id, counts).is_none()),
                Action::Skip { id, .. } => assert!(self.commits.insert(id, true).is_none()),
                Action::WakeAt { at_ms } => self.wake = Some(at_ms),
                Action::Finished => self.finished += 1,
                Action::Abandon { id } => assert!(self.abandoned.insert(id.episode), "abandoned twice"),
                Action::Quarantine { .. }
                | Action::Retrying { .. }
                | Action::Draining { .. }
                | Action::Held { .. }
                | Action::Waive { .. } => {}
            }
        }
        assert!(self.agents.len() <= self.policy.concurrency);
        assert!(self.grading.len() <= self.policy.grader_slots());
    }

    /// One thing that is under way ends; `choice` says which, `fate` how.
    fn advance(&mut self, choice: usize, fate: usize, kinds: &[Kind]) {
        let under_way = self.agents.len() + self.grading.len() + self.commits.len();
        if under_way == 0 {
            self.now = self.wake.take().unwrap_or(self.now + 1).max(self.now);
            return self.step(Input::Tick);
        }
        self.now += 7;
        let failure = kinds.get(fate).map(|kind| Failure::new(*kind, "x"));
        let mut pick = choice % under_way;
        if let Some(id) = self.agents.iter().nth(pick).cloned() {
            self.agents.remove(&id);
            return self.step(Input::AgentEnded { id, spent: Spend::default(), failure });
        }
        pick -= self.agents.len();
        if let Some(id) = self.grading.iter().nth(pick).cloned() {
            self.grading.remove(&id);
            return self.step(Input::GradeEnded { id, grade: failure.map_or(Ok(true), Err) });
        }
        pick -= self.grading.len();
        if let Some((id, counts)) = self.commits.iter().nth(pick).map(|(id, counts)| (id.clone(), *counts)) {
            self.commits.remove(&id);
            if failure.as_ref().is_some_and(|f| f.kind == Kind::RunDir) {
                let failure = Failure::new(Kind::RunDir, "the disk is full");
                return self.step(Input::CommitFailed { id, failure });
            }
            if counts {
                assert!(self.counted.insert(id.episode.clone(), id.clone()).is_none(), "{} counted twice", id.episode);
            }
            self.step(Input::Committed { id });
        }
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    (1usize..5, 0usize..4, 0usize..5, 1u32..4, 1u32..3).prop_map(|(concurrency, graders, grade_backlog, max_attempts, max_gradings)| {
        Policy { concurrency, graders, grade_backlog, max_attempts, max_gradings, circuit_breaker: u32::MAX, ..Policy::default() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Without a failure that stops the run, every episode is decided exactly once, within the bounds.
    #[test]
    fn every_episode_is_decided_once(
        policy in policies(),
        instances in 1u32..5,
        samples in 1u32..4,
        resumed in 0usize..3,
        ends in prop::collection::vec((any::<usize>(), 0usize..24), 1..400),
    ) {
        let all = episodes(instances, samples);
        let todo = all.iter().enumerate().map(|(i, e)| Todo { episode: e.clone(), attempt: Attempt(3), ended: i < resumed }).collect();
        let mut world = World::new(policy.clone(), todo);
        world.step(Input::Tick);
        for (choice, fate) in ends {
            if world.finished == 0 {
                world.advance(choice, fate, &KINDS[..MILD]);
            }
        }
        for _ in 0..10_000 {
            if world.finished == 0 {
                world.advance(0, usize::MAX, &[]);
            }
        }
        prop_assert_eq!(world.finished, 1, "the run ends");
        // An attempt whose grading had no sandbox is left to the next opening; all others are decided.
        let settled: BTreeSet<_> = world.counted.keys().chain(&world.abandoned).cloned().collect();
        prop_assert_eq!(settled.into_iter().collect::<Vec<_>>(), all);
        prop_assert!(world.counted.keys().all(|id| !world.abandoned.contains(id)));
        prop_assert_eq!(world.core.undecided(), world.abandoned.len());
        for attempts in world.begun.values() {
            prop_assert!(attempts.len() <= policy.max_attempts as usize);
            prop_assert!(attempts.windows(2).all(|pair| pair[0] < pair[1]), "attempt numbers grow");
        }
        prop_assert!(world.gradings.values().all(|n| *n <= policy.max_gradings));
    }

    /// Whatever fails, a run ends; what it did not decide stays outstanding and nothing is decided twice.
    #[test]
    fn a_stopped_run_ends_clean(
        policy in policies(),
        drain_at in 0usize..60,
        ends in prop::collection::vec((any::<usize>(), 0usize..30), 60..200),
    ) {
        let all = episodes(6, 3);
        let todo = all.iter().map(|e| Todo { episode: e.clone(), attempt: Attempt::FIRST, ended: false }).collect();
        let mut world = World::new(policy, todo);
        world.step(Input::Tick);
        for (n, (choice, fate)) in ends.into_iter().enumerate() {
            if world.finished == 0 && n == drain_at {
                let at_work = world.agents.len();
                world.step(Input::Drain { reason: "asked".into() });
                prop_assert!(world.agents.len() <= at_work, "nothing new is begun");
            }
            if world.finished == 0 {
                world.advance(choice, fate, &KINDS);
            }
        }
        for _ in 0..10_000 {
            if world.finished == 0 {
                world.advance(0, usize::MAX, &[]);
            }
        }
        prop_assert_eq!(world.finished, 1);
        prop_assert!(world.agents.is_empty() && world.grading.is_empty() && world.commits.is_empty());
        prop_assert_eq!(world.counted.len() + world.core.undecided(), all.len(), "what is not decided is known to be so");
    }
}

#[test]
fn the_circuit_opens_when_nothing_succeeds() {
    let policy = Policy { concurrency: 1, circuit_breaker: 3, max_attempts: 1, ..Policy::default() };
    let todo = episodes(10, 1).into_iter().map(|episode| Todo { episode, attempt: Attempt::FIRST, ended: false }).collect();
    let mut world = World::new(policy, todo);
    world.step(Input::Tick);
    for _ in 0..40 {
        if world.finished == 0 {
            world.advance(0, 0, &[Kind::Daemon]);
        }
    }
    assert_eq!(world.counted.len(), 3);
    assert!(world.core.drain_reason().unwrap().contains("3 failures in a row"));
}

#[test]
fn results_of_a_stale_attempt_are_dropped() {
    let todo = vec![Todo { episode: "i@0".parse().unwrap(), attempt: Attempt(2), ended: false }];
    let mut world = World::new(Policy::default(), todo);
    world.step(Input::Tick);
    let stale = "i@0.1".parse().unwrap();
    assert_eq!(world.core.step(Input::AgentEnded { id: stale, spent: Spend::default(), failure: None }, 1), []);
    assert_eq!(world.agents.len(), 1);
}

/// Over a simulated day every episode is decided once, no slot is exceeded or idles, no grading is overtaken, and the core keeps no more
/// than what is at work.
#[test]
fn a_day_of_a_hundred_thousand_episodes() {
    let scenario = Scenario::day(100_000, 1);
    let report = simulate(&scenario).unwrap();
    assert_eq!((report.decided, report.waived), (100_000, 0), "{report:?}");
    assert!((20.0..28.0).contains(&report.hours), "{report:?}");
    assert!((3..6).contains(&report.openings), "a drain, a kill, and attempts that could not be graded: {report:?}");
    assert!(report.busy > 0.999 && report.skipped > 100, "{report:?}");
    let policy = &scenario.policy;
    assert!(report.live_max < 2 * policy.concurrency + policy.backlog_limit() + policy.grader_slots(), "{report:?}");
    assert!(report.grade_wait_max_s < 1800.0, "{report:?}");
}

#[test]
fn a_day_that_ends_early_for_resolved_instances() {
    let mut scenario = Scenario::day(5000, 2);
    scenario.policy.until_resolved = 1;
    let report = simulate(&scenario).unwrap();
    assert_eq!(report.decided + report.waived, 5000);
    assert!(report.waived > 50, "{report:?}");
}
