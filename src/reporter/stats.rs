//! What the events of a run add up to: a pure fold, the time is an argument.

use crate::domain::{
    AttemptId, Class, Resolved,
    event::{Event, EventKind, Outcome},
    transcript::Usage,
};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Where an attempt in flight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Its sandbox is made ready.
    Starting,
    /// The agent works.
    Running,
    /// The agent is done; its diff is taken, or it waits for a grader.
    Waiting,
    Grading,
}

impl Stage {
    pub const ALL: [Stage; 4] = [Stage::Starting, Stage::Running, Stage::Waiting, Stage::Grading];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Starting => "starting",
            Stage::Running => "running",
            Stage::Waiting => "waiting",
            Stage::Grading => "grading",
        }
    }
}

/// The run so far. `done` = `resolved + unresolved + ungraded + failed`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    pub run: String,
    /// Episodes of the run, and those that were to be done when it began.
    pub total: u64,
    pub outstanding: u64,
    /// Attempts that count, committed.
    pub done: u64,
    pub resolved: u64,
    pub unresolved: u64,
    /// Graded, and the verdict is `ambiguous`.
    pub ungraded: u64,
    /// No verdict, by the class of the failure.
    pub failed: BTreeMap<Class, u64>,
    /// Attempts committed that do not count.
    pub uncounted: u64,
    pub retries: u64,
    pub in_flight: BTreeMap<Stage, u64>,
    pub turns: u64,
    pub usage: Usage,
    pub cost_usd: f64,
    /// Requests that the endpoint's limiter lets through at once, once known.
    pub limit: Option<u64>,
    /// Endpoints that are up, of how many; 0 of 0 before it is known.
    pub endpoints: (u64, u64),
    /// Why nothing new is begun.
    pub draining: Option<String>,
    /// Why nothing new is begun for now.
    pub held: Option<String>,
    /// Episodes that are left out, since enough samples of their instances are resolved.
    pub waived: u64,
    pub ended: bool,
}

/// A tally with its speed at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    pub tally: Tally,
    pub elapsed_ms: u64,
    /// Over the last [`Stats::WINDOW_SECS`].
    pub turns_per_sec: f64,
    /// Completion tokens, over the same window.
    pub tokens_per_sec: f64,
    /// By the mean pace of this run, and once all are begun by what the median leaves to the youngest; none before the first is done, nor
    /// where all that are left take longer than the median.
    pub eta_ms: Option<u64>,
    /// Attempts in flight that take over [`Stats::STRAGGLER`] times as long as the median of the last that were committed.
    pub stragglers: u64,
    /// The oldest [`Stats::NAMED`] of them.
    pub oldest: Vec<Straggler>,
}

/// An attempt that takes long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Straggler {
    pub id: AttemptId,
    pub stage: Stage,
    /// Since it was begun.
    pub age_ms: u64,
    pub turns: u32,
    /// Since its last turn or change of stage.
    pub silent_ms: u64,
}

/// An attempt in flight.
#[derive(Debug, Clone, Copy)]
struct Live {
    stage: Stage,
    begun_ms: u64,
    turns: u32,
    heard_ms: u64,
}

#[derive(Debug, Default)]
pub struct Stats {
    tally: Tally,
    live: HashMap<AttemptId, Live>,
    /// Milliseconds that the last attempts took, from begun to committed, oldest first.
    took: VecDeque<u64>,
    /// Turns and completion tokens by second, oldest first.
    window: VecDeque<(u64, u64, u64)>,
    first_ms: Option<u64>,
    last_ms: u64,
}

impl Stats {
    /// Length of the sliding window of rates, seconds.
    pub const WINDOW_SECS: u64 = 60;
    /// Times the median, and a minute at least.
    pub const STRAGGLER: u64 = 3;
    pub const NAMED: usize = 3;
    /// Attempts that the median is taken of.
    const TOOK: usize = 1000;

    pub fn apply(&mut self, event: &Event) {
        self.first_ms.get_or_insert(event.at_ms);
        self.last_ms = self.last_ms.max(event.at_ms);
        let tally = &mut self.tally;
        match &event.kind {
            EventKind::RunStarted { run, total, outstanding, .. } => {
                (tally.run, tally.total, tally.outstanding) = (run.clone(), *total, *outstanding);
            }
            EventKind::AttemptStarted { id } => self.stage(id, Some(Stage::Starting)),
            EventKind::AgentStarted { id, .. } => self.stage(id, Some(Stage::Running)),
            EventKind::AgentEnded { id, .. } => self.stage(id, Some(Stage::Waiting)),
            EventKind::GradeStarted { id } => self.stage(id, Some(Stage::Grading)),
            EventKind::TurnDone { id, usage, cost_usd, .. } => {
                if let Some(live) = self.live.get_mut(id) {
                    (live.turns, live.heard_ms) = (live.turns + 1, event.at_ms);
                }
                tally.turns += 1;
                tally.usage += *usage;
                tally.cost_usd += cost_usd;
                self.note_turn(event.at_ms / 1000, usage.completion_tokens);
            }
            EventKind::Committed { id, outcome } => {
                tally.commit(outcome);
                if let Some(live) = self.live.get(id) {
                    self.took.push_back(event.at_ms.saturating_sub(live.begun_ms));
                    if self.took.len() > Self::TOOK {
                        self.took.pop_front();
                    }
                }
                self.stage(id, None);
            }
            EventKind::Retrying { id, .. } => {
                tally.retries += 1;
                self.stage(id, None);
            }
            EventKind::Abandoned { id } => self.stage(id, None),
            EventKind::LimitChanged { in_flight } => tally.limit = Some(*in_flight),
            EventKind::Endpoints { endpoints } => {
                tally.endpoints = (endpoints.iter().filter(|one| one.up).count() as u64, endpoints.len() as u64);
            }
            EventKind::Draining { reason } => tally.draining = Some(reason.clone()),
            EventKind::Held { reason } => tally.held = Some(reason.clone()).filter(|reason| !reason.is_empty()),
            EventKind::Waived { episodes } => tally.waived += episodes.len() as u64,
            EventKind::RunEnded { .. } => tally.ended = true,
        }
    }

    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The run as seen at `now_ms`, milliseconds since the Unix epoch.
    #[must_use]
    pub fn view(&self, now_ms: u64) -> View {
        let now_ms = now_ms.max(self.last_ms);
        let elapsed_ms = now_ms - self.first_ms.unwrap_or(now_ms);
        let since = (now_ms / 1000).saturating_sub(Self::WINDOW_SECS);
        let recent = self.window.iter().filter(|(second, ..)| *second > since);
        let (turns, tokens) = recent.fold((0, 0), |sum, (_, turns, tokens)| (sum.0 + turns, sum.1 + tokens));
        let span = (elapsed_ms as f64 / 1000.0).clamp(1.0, Self::WINDOW_SECS as f64);
        let remaining = self.tally.outstanding.saturating_sub(self.tally.done + self.tally.waived);
        let median = self.median();
        let eta_ms = match (self.tally.done, median) {
            (0, _) => None,
            (_, Some(median)) if remaining > 0 && remaining <= self.live.len() as u64 => {
                let youngest = self.live.values().map(|live| live.begun_ms).max().unwrap_or(now_ms);
                (youngest + median).checked_sub(now_ms).filter(|left| *left > 0)
            }
            (done, _) => Some((elapsed_ms as f64 / done as f64 * remaining as f64) as u64),
        };
        let (stragglers, oldest) = median.map_or((0, Vec::new()), |median| self.stragglers(median, now_ms));
        View {
            stragglers,
            oldest,
            tally: self.tally.clone(),
            elapsed_ms,
            turns_per_sec: turns as f64 / span,
            tokens_per_sec: tokens as f64 / span,
            eta_ms,
        }
    }

    fn stage(&mut self, id: &AttemptId, stage: Option<Stage>) {
        let heard_ms = self.last_ms;
        let before = match stage {
            Some(stage) => {
                let (begun_ms, turns) = self.live.get(id).map_or((heard_ms, 0), |live| (live.begun_ms, live.turns));
                self.live.insert(id.clone(), Live { stage, begun_ms, turns, heard_ms })
            }
            None => self.live.remove(id),
        };
        if let Some(count) = before.and_then(|before| self.tally.in_flight.get_mut(&before.stage)) {
            *count -= 1;
        }
        if let Some(stage) = stage {
            *self.tally.in_flight.entry(stage).or_default() += 1;
        }
    }

    /// Milliseconds that the middle one of the last attempts took.
    fn median(&self) -> Option<u64> {
        let mut took: Vec<u64> = self.took.iter().copied().collect();
        let middle = took.len() / 2;
        (!took.is_empty()).then(|| *took.select_nth_unstable(middle).1)
    }

    fn stragglers(&self, median: u64, now_ms: u64) -> (u64, Vec<Straggler>) {
        let bound = (Self::STRAGGLER * median).max(60_000);
        let mut slow: Vec<_> = self.live.iter().filter(|(_, live)| now_ms.saturating_sub(live.begun_ms) > bound).collect();
        let count = slow.len() as u64;
        slow.sort_unstable_by_key(|(id, live)| (live.begun_ms, *id));
        let straggler = |(id, live): (&AttemptId, &Live)| Straggler {
            id: id.clone(),
            stage: live.stage,
            age_ms: now_ms.saturating_sub(live.begun_ms),
            turns: live.turns,
            silent_ms: now_ms.saturating_sub(live.heard_ms),
        };
        (count, slow.into_iter().take(Self::NAMED).map(straggler).collect())
    }

    fn note_turn(&mut self, second: u64, tokens: u64) {
        match self.window.back_mut() {
            Some(last) if last.0 >= second => (last.1, last.2) = (last.1 + 1, last.2 + tokens),
            _ => self.window.push_back((second, 1, tokens)),
        }
        while self.window.front().is_some_and(|first| first.0 + Self::WINDOW_SECS < second) {
            self.window.pop_front();
        }
    }
}

impl Tally {
    fn commit(&mut self, outcome: &Outcome) {
        if !outcome.counts {
            self.uncounted += 1;
            return;
        }
        self.done += 1;
        match (outcome.resolved, outcome.class()) {
            (Resolved::Yes, _) => self.resolved += 1,
            (_, Some(class)) => *self.failed.entry(class).or_default() += 1,
            (Resolved::No, None) => self.unresolved += 1,
            (Resolved::Unknown, None) => self.ungraded += 1,
        }
    }

    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ExitReason, Failure, Kind};
    use proptest::prelude::*;

    fn id(number: u32) -> AttemptId {
        format!("i{}@{}.{}", number % 3, number / 3 % 2, 1 + number / 6).parse().unwrap()
    }

    fn outcome(what: u8) -> Outcome {
        let failure = |kind| Some(Failure::new(kind, "x"));
        let (counts, resolved, failure) = match what {
            0 => (true, Resolved::Yes, None),
            1 => (true, Resolved::No, None),
            2 => (true, Resolved::Unknown, None),
            3 => (true, Resolved::Unknown, failure(Kind::DiffRejected)),
            4 => (true, Resolved::Unknown, failure(Kind::Leak)),
            _ => (false, Resolved::Unknown, failure(Kind::SandboxLost)),
        };
        let exit_reason = ExitReason::Submitted;
        Outcome {
            counts,
            exit_reason,
            resolved,
            verdict: None,
            failure,
            turns: 1,
            tokens: 1,
            usage: Usage::default(),
            cost_usd: 0.5,
            duration_ms: 1,
        }
    }

    fn kind() -> impl Strategy<Value = EventKind> {
        (0..8_u8, 0..12_u32, 0..6_u8, 0..1000_u64).prop_map(|(which, number, what, n)| {
            let id = id(number);
            match which {
                0 => EventKind::AttemptStarted { id },
                1 => EventKind::AgentStarted { id, setup_ms: n },
                2 | 3 => {
                    let usage = Usage { prompt_tokens: n * 2, completion_tokens: n, cached_tokens: 1, reasoning_tokens: 0 };
                    EventKind::TurnDone { id, usage, cost_usd: 0.25, latency_ms: n }
                }
                4 => EventKind::AgentEnded { id, exit_reason: ExitReason::Submitted, patch_bytes: n },
                5 => EventKind::GradeStarted { id },
                6 => EventKind::Committed { id, outcome: outcome(what) },
                _ => EventKind::Retrying { id, failure: Failure::new(Kind::Daemon, "x"), delay_ms: n },
            }
        })
    }

    fn count(events: &[Event], is: impl Fn(&EventKind) -> bool) -> u64 {
        events.iter().filter(|event| is(&event.kind)).count() as u64
    }

    fn committed(events: &[Event], is: impl Fn(&Outcome) -> bool) -> u64 {
        count(events, |kind| matches!(kind, EventKind::Committed { outcome, .. } if outcome.counts && is(outcome)))
    }

    /// The stage that the last event about an attempt leaves it in.
    fn stage(events: &[Event], of: &AttemptId) -> Option<Stage> {
        events.iter().rev().find_map(|event| match &event.kind {
            EventKind::AttemptStarted { id } if id == of => Some(Some(Stage::Starting)),
            EventKind::AgentStarted { id, .. } if id == of => Some(Some(Stage::Running)),
            EventKind::AgentEnded { id, .. } if id == of => Some(Some(Stage::Waiting)),
            EventKind::GradeStarted { id } if id == of => Some(Some(Stage::Grading)),
            EventKind::Committed { id, .. } | EventKind::Retrying { id, .. } if id == of => Some(None),
            _ => None,
        })?
    }

    proptest! {
        #[test]
        fn the_fold_is_a_recount(kinds in prop::collection::vec((kind(), 0..3000_u64), 0..200)) {
            let mut at_ms = 1_000_000;
            let events: Vec<Event> = kinds.into_iter().map(|(kind, step)| { at_ms += step; Event { at_ms, kind } }).collect();
            let mut stats = Stats::default();
            events.iter().for_each(|event| stats.apply(event));
            let tally = stats.tally();
            prop_assert_eq!(tally.done, committed(&events, |_| true));
            prop_assert_eq!(tally.resolved, committed(&events, |o| o.resolved == Resolved::Yes));
            prop_assert_eq!(tally.unresolved, committed(&events, |o| o.resolved == Resolved::No && o.failure.is_none()));
            prop_assert_eq!(tally.ungraded, committed(&events, |o| o.resolved == Resolved::Unknown && o.failure.is_none()));
            for class in Class::ALL {
                let failed = tally.failed.get(&class).copied().unwrap_or(0);
                prop_assert_eq!(failed, committed(&events, |o| o.resolved != Resolved::Yes && o.class() == Some(class)));
            }
            prop_assert_eq!(tally.done, tally.resolved + tally.unresolved + tally.ungraded + tally.failures());
            prop_assert_eq!(tally.uncounted, count(&events, |k| matches!(k, EventKind::Committed { outcome, .. } if !outcome.counts)));
            prop_assert_eq!(tally.retries, count(&events, |k| matches!(k, EventKind::Retrying { .. })));
            prop_assert_eq!(tally.turns, count(&events, |k| matches!(k, EventKind::TurnDone { .. })));
            prop_assert_eq!(tally.cost_usd, tally.turns as f64 * 0.25);
            for wanted in Stage::ALL {
                let there = (0..12).filter(|number| stage(&events, &id(*number)) == Some(wanted)).count() as u64;
                prop_assert_eq!(tally.in_flight.get(&wanted).copied().unwrap_or(0), there);
            }
            let now_ms = at_ms + 700;
            let recent = |event: &&Event| event.at_ms / 1000 + Stats::WINDOW_SECS > now_ms / 1000;
            let tokens: u64 = events.iter().filter(recent).map(|event| match &event.kind {
                EventKind::TurnDone { usage, .. } => usage.completion_tokens,
                _ => 0,
            }).sum();
            let elapsed = events.first().map_or(0, |first| now_ms - first.at_ms);
            let span = (elapsed as f64 / 1000.0).clamp(1.0, Stats::WINDOW_SECS as f64);
            prop_assert_eq!(stats.view(now_ms).tokens_per_sec, tokens as f64 / span);
        }
    }

    #[test]
    fn what_takes_three_times_the_median_is_a_straggler() {
        let mut stats = Stats::default();
        let at = |stats: &mut Stats, at_ms, kind| stats.apply(&Event { at_ms, kind });
        (0..6).for_each(|number| at(&mut stats, 0, EventKind::AttemptStarted { id: id(number) }));
        at(&mut stats, 10_000, EventKind::AgentStarted { id: id(4), setup_ms: 1 });
        (0..3).for_each(|number| at(&mut stats, 30_000 + u64::from(number), EventKind::Committed { id: id(number), outcome: outcome(0) }));
        at(&mut stats, 80_000, EventKind::AttemptStarted { id: id(7) });
        assert_eq!(stats.view(90_000).stragglers, 0);
        at(&mut stats, 95_000, EventKind::Committed { id: id(5), outcome: outcome(0) });
        let turn = || EventKind::TurnDone { id: id(4), usage: Usage::default(), cost_usd: 0.0, latency_ms: 1 };
        (96_000..98_000).step_by(1000).for_each(|at_ms| at(&mut stats, at_ms, turn()));
        let view = stats.view(100_000);
        assert_eq!((view.stragglers, view.oldest.iter().map(|o| o.age_ms).collect::<Vec<_>>()), (2, vec![100_000; 2]));
        at(&mut stats, 100_000, EventKind::Abandoned { id: id(3) });
        let (stage, age_ms, turns, silent_ms) = (Stage::Running, 100_000, 2, 3000);
        assert_eq!(stats.view(100_000).oldest, [Straggler { id: id(4), stage, age_ms, turns, silent_ms }]);
    }

    #[test]
    fn eta_is_by_the_mean_pace() {
        let mut stats = Stats::default();
        let at = |at_ms, kind| Event { at_ms, kind };
        stats.apply(&at(0, EventKind::RunStarted { version: 1, run: "r".into(), total: 12, outstanding: 10 }));
        assert_eq!(stats.view(5000).eta_ms, None);
        for number in 0..4 {
            stats.apply(&at(20_000, EventKind::Committed { id: id(number), outcome: outcome(0) }));
        }
        assert_eq!(stats.view(20_000).eta_ms, Some(30_000));
        assert_eq!(stats.view(10_000).elapsed_ms, 20_000);
    }

    #[test]
    fn eta_is_by_the_median_once_all_are_begun() {
        let mut stats = Stats::default();
        let mut at = |at_ms, kind| stats.apply(&Event { at_ms, kind });
        at(0, EventKind::RunStarted { version: 1, run: "r".into(), total: 5, outstanding: 5 });
        (0..4).for_each(|number| at(0, EventKind::AttemptStarted { id: id(number) }));
        (0..3).for_each(|number| at(60_000, EventKind::Committed { id: id(number), outcome: outcome(0) }));
        at(70_000, EventKind::AttemptStarted { id: id(4) });
        assert_eq!([100_000, 129_999, 130_000, 900_000].map(|now| stats.view(now).eta_ms), [Some(30_000), Some(1), None, None]);
    }
}
