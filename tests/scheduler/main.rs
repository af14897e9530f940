//! Invariants of the pure scheduler, under random ends of agents, gradings and commits in random order.

mod world;

use proptest::prelude::*;
use std::collections::BTreeSet;
use sweroll::{
    bench::schedule::{Scenario, simulate},
    domain::{Attempt, EpisodeId, Kind},
    scheduler::{
        budget::Spend,
        core::{Action, Core, Input, Todo},
        policy::{Order, Policy},
    },
};
use world::World;

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
        world.finish();
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
        world.finish();
        prop_assert_eq!(world.finished, 1);
        prop_assert!(world.agents.is_empty() && world.grading.is_empty() && world.commits.is_empty());
        prop_assert_eq!(world.core.undecided(), world.left(&all), "what is not decided is known to be so");
    }

    /// Whatever bounds the run, and whatever fails: the world holds every step to what may begin; in the end each episode is decided, waived
    /// or left, and no more was spent than the budget and what was in flight.
    #[test]
    fn a_bounded_run_begins_nothing_that_it_may_not(
        mut policy in policies(),
        until_resolved in 0u32..3,
        budget_tokens in prop_oneof![Just(0u64), 1u64..3000],
        keep_going: bool,
        ends in prop::collection::vec((any::<usize>(), 0usize..40, 0u8..30), 1..400),
    ) {
        let all = episodes(4, 5);
        let todo = all.iter().map(|e| Todo { episode: e.clone(), attempt: Attempt::FIRST, ended: false }).collect();
        policy = Policy { until_resolved, budget_tokens, keep_going, ..policy };
        let mut world = World::new(policy.clone(), todo);
        world.step(Input::Tick);
        for (choice, fate, told) in ends {
            match told {
                _ if world.finished > 0 => {}
                0 => world.step(Input::Hold { reason: "the disk is full".into() }),
                1 | 2 => world.step(Input::Release),
                3 if choice % 8 == 0 => world.step(Input::Drain { reason: "asked".into() }),
                _ => world.advance(choice, fate, &KINDS),
            }
        }
        if world.finished == 0 {
            world.step(Input::Release);
        }
        world.finish();
        prop_assert_eq!(world.finished, 1, "the run ends");
        prop_assert!(world.agents.is_empty() && world.grading.is_empty() && world.commits.is_empty());
        let left = world.left(&all);
        prop_assert_eq!(world.core.undecided(), left);
        prop_assert!(left == 0 || world.draining || !world.abandoned.is_empty(), "{} are left and nobody says why", left);
        prop_assert!(world.waived.is_empty() || until_resolved > 0);
        prop_assert!(world.quarantined.is_empty() || !keep_going);
        let in_flight = policy.concurrency as u64 * world.dearest;
        prop_assert!(budget_tokens == 0 || world.spent <= budget_tokens + in_flight, "{} of {}", world.spent, budget_tokens);
    }

    /// An episode that takes longer than all others together keeps its own slot, and nobody else's.
    #[test]
    fn a_straggler_holds_up_nobody(
        policy in policies(),
        straggler in 0usize..12,
        ends in prop::collection::vec((any::<usize>(), 0usize..24), 1..300),
    ) {
        let all = episodes(4, 3);
        let todo = all.iter().map(|e| Todo { episode: e.clone(), attempt: Attempt::FIRST, ended: false }).collect();
        let mut world = World::new(Policy { concurrency: policy.concurrency + 1, keep_going: true, ..policy }, todo);
        world.straggler = Some(all[straggler].clone());
        world.step(Input::Tick);
        for (choice, fate) in ends {
            world.advance(choice, fate, &KINDS[..MILD]);
        }
        world.finish();
        prop_assert_eq!(world.finished, 0);
        prop_assert_eq!(world.counted.len() + world.abandoned.len(), all.len() - 1, "all others are decided beside it");
        let id = world.agents.first().cloned().unwrap();
        world.end_agent(&id, 1, None);
        world.straggler = None;
        world.finish();
        prop_assert_eq!((world.finished, world.core.undecided()), (1, world.abandoned.len()));
    }
}

/// Of a budget for three hundred episodes and a thousand slots: hundreds are finished, where a first wave of a thousand would finish none.
#[test]
fn a_budget_is_spent_on_episodes_that_are_finished() {
    let all = episodes(1000, 1);
    let todo = all.iter().map(|e| Todo { episode: e.clone(), attempt: Attempt::FIRST, ended: false }).collect();
    let mut world = World::new(Policy { concurrency: 1000, starts_per_s: 0, budget_tokens: 300 * 49, ..Policy::default() }, todo);
    world.step(Input::Tick);
    assert_eq!(world.agents.len(), 4, "what one costs is not known");
    let (mut choice, mut most) = (1_usize, 0);
    while world.finished == 0 {
        most = most.max(world.agents.len());
        choice = choice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 1;
        world.advance(choice, usize::MAX, &[]);
    }
    assert!((280..=310).contains(&world.counted.len()) && most > 60, "{} finished, {most} at once", world.counted.len());
    assert!(
        world.spent <= 300 * 49 + world.dearest && world.core.drain_reason().unwrap().contains("the budget is spent"),
        "{}",
        world.spent
    );
}

/// Instances of which each sample takes as many steps as the one before: the last samples begin with the longest.
#[test]
fn the_last_are_begun_longest_first() {
    let policy = Policy { concurrency: 1, grade_backlog: 100, ..Policy::default() };
    let begun = |order| {
        let mut core = Core::new(Policy { order, ..policy.clone() }, todo_by_sample(5, 4), None);
        let (mut actions, mut now, mut begun) = (core.step(Input::Tick, 0), 0, Vec::new());
        while let Some(id) = actions.iter().find_map(|action| if let Action::StartAgent { id } = action { Some(id.clone()) } else { None })
        {
            let took = [10, 50, 20, 40, 30][id.episode.instance.as_str()[1..].parse::<usize>().unwrap()];
            begun.push(id.episode.to_string());
            now += took;
            actions = core.step(Input::AgentEnded { id, spent: Spend::default(), failure: None }, now);
        }
        begun
    };
    let (by_time, as_they_are) = (begun(Order::Auto), begun(Order::Instance));
    assert_eq!(by_time[..12], as_they_are[..12]);
    assert_eq!(by_time[12..17], ["i1@3", "i3@2", "i3@3", "i4@2", "i4@3"], "eight were left, and all known");
    assert_eq!(as_they_are[12..17], ["i2@2", "i3@2", "i4@2", "i0@3", "i1@3"]);
}

fn todo_by_sample(instances: u32, samples: u32) -> Vec<Todo> {
    let mut all = episodes(instances, samples);
    all.sort_by_key(|episode| episode.sample);
    all.into_iter().map(|episode| Todo { episode, attempt: Attempt::FIRST, ended: false }).collect()
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
