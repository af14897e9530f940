//! The state of the schedule and its one transition: `(state, input, now) -> actions`. No clock, no tasks.
//!
//! An episode is in the queue (to be begun, or again), at work (agent), queued for grading, being graded or being
//! committed; it leaves when the attempt that counts is durable, or that it is left out.

pub use super::message::{Action, Input, Todo, WAIVED_AT_ONCE};
use super::{
    budget::{Forecast, Spend},
    pace::Pace,
    policy::{Order, Policy},
    queue::{Next, Queue},
    starts::Starts,
};
use crate::domain::{Attempt, AttemptId, Class, Disposition, EpisodeId, Failure, InstanceId, Kind};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
};

#[derive(Debug, Clone)]
struct Live {
    attempt: Attempt,
    /// Attempts begun in this opening.
    tries: u32,
    gradings: u32,
    begun_ms: u64,
    /// Not begun, only recorded.
    skipped: bool,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq)]
enum Stage {
    Agent,
    Queued,
    Grading,
    /// `again`: another attempt follows.
    Committing {
        again: Option<Failure>,
    },
}

/// Episodes of quarantined instances that are recorded at the same time: no agent's slot bounds them.
const SKIPPED_AT_ONCE: usize = 256;

#[derive(Debug)]
pub struct Core {
    policy: Policy,
    queue: Queue,
    forecast: Forecast,
    pace: Pace,
    live: HashMap<EpisodeId, Live>,
    grade_queue: VecDeque<AttemptId>,
    /// Gradings to be done again, and when.
    regrades: BinaryHeap<Reverse<(u64, AttemptId)>>,
    abandoned: usize,
    agents: usize,
    graders: usize,
    skipping: usize,
    waiving: usize,
    quarantined: HashMap<InstanceId, Failure>,
    /// Samples resolved, where the policy asks for it.
    resolved: HashMap<InstanceId, u32>,
    failures_in_a_row: u32,
    starts: Starts,
    held: Option<String>,
    draining: Option<String>,
    finished: bool,
}

impl Core {
    #[must_use]
    pub fn new(policy: Policy, todo: impl IntoIterator<Item = Todo>, quarantined: impl IntoIterator<Item = (InstanceId, Failure)>) -> Self {
        let mut core = Core {
            forecast: Forecast::new(policy.budget(), Spend::default(), 0),
            starts: Starts::new(policy.starts_per_s),
            policy,
            pace: Pace::default(),
            queue: Queue::default(),
            live: HashMap::new(),
            grade_queue: VecDeque::new(),
            regrades: BinaryHeap::new(),
            abandoned: 0,
            agents: 0,
            graders: 0,
            skipping: 0,
            waiving: 0,
            quarantined: quarantined.into_iter().collect(),
            resolved: HashMap::new(),
            failures_in_a_row: 0,
            held: None,
            draining: None,
            finished: false,
        };
        for Todo { episode, attempt, ended } in todo {
            if ended {
                core.grade_queue.push_back(AttemptId { episode: episode.clone(), attempt });
                core.live.insert(episode, Live { attempt, tries: 1, gradings: 0, begun_ms: 0, skipped: false, stage: Stage::Queued });
            } else {
                core.queue.push(Next { episode, attempt, tries: 0 });
            }
        }
        core
    }

    /// Begins no episode before its instance is [`Input::Ready`]. Whoever says so must say it of every instance in the end, of one that
    /// cannot be made ready too: its episodes then fail by themselves.
    #[must_use]
    pub fn gated(mut self) -> Self {
        self.queue.close_gate();
        self
    }

    /// With the samples that earlier openings resolved, by instance.
    #[must_use]
    pub fn with_resolved(mut self, resolved: impl IntoIterator<Item = (InstanceId, u32)>) -> Self {
        self.resolved = resolved.into_iter().collect();
        self
    }

    /// With what the attempts of earlier openings cost.
    #[must_use]
    pub fn with_spent(mut self, spent: Spend, attempts: u64) -> Self {
        self.forecast = Forecast::new(self.policy.budget(), spent, attempts);
        self
    }

    /// Episodes that a run which ends now leaves to the next opening.
    #[must_use]
    pub fn undecided(&self) -> usize {
        self.queue.len() + self.live.len() + self.abandoned + self.waiving
    }

    /// Episodes at work, in any stage.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.len()
    }

    #[must_use]
    pub fn drain_reason(&self) -> Option<&str> {
        self.draining.as_deref()
    }

    /// The transition. Inputs of attempts that are not live (stale) change nothing.
    pub fn step(&mut self, input: Input, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::AgentEnded { id, spent, failure } => self.agent_ended(id, spent, failure, now_ms, &mut actions),
            Input::GradeEnded { id, grade } => self.grade_ended(id, grade, now_ms, &mut actions),
            Input::Committed { id } => self.committed(id, now_ms, &mut actions),
            Input::CommitFailed { id, failure } => {
                if self.stage(&id).is_some_and(|s| matches!(s, Stage::Committing { .. })) {
                    self.skipping -= usize::from(self.live.get(&id.episode).is_some_and(|live| live.skipped));
                    self.abandon(id, &mut actions);
                    match failure.class() {
                        Class::Run => self.drain(failure.message, &mut actions),
                        // The record's own doing: no other has to suffer.
                        _ => self.count_failure(&failure, &mut actions),
                    }
                }
            }
            Input::Waived { episodes } => self.waiving -= episodes.min(self.waiving),
            Input::WaiveFailed { episodes, failure } => {
                self.waiving -= episodes.min(self.waiving);
                self.abandoned += episodes;
                self.drain(failure.message, &mut actions);
            }
            Input::Drain { reason } => self.drain(reason, &mut actions),
            Input::Hold { reason } => self.hold(Some(reason), &mut actions),
            Input::Release => self.hold(None, &mut actions),
            Input::Ready { instance } => self.queue.ready(&instance),
            Input::Unready { instance } => self.queue.unready(&instance),
            Input::Tick => {}
        }
        self.admit(now_ms, &mut actions);
        actions
    }

    fn stage(&self, id: &AttemptId) -> Option<&Stage> {
        self.live.get(&id.episode).filter(|live| live.attempt == id.attempt).map(|live| &live.stage)
    }

    fn drain(&mut self, reason: String, actions: &mut Vec<Action>) {
        if self.draining.is_none() {
            self.draining = Some(reason.clone());
            actions.push(Action::Draining { reason });
        }
    }

    fn hold(&mut self, reason: Option<String>, actions: &mut Vec<Action>) {
        if self.held != reason {
            actions.push(Action::Held { reason: reason.clone().unwrap_or_default() });
            self.held = reason;
        }
    }

    fn agent_ended(&mut self, id: AttemptId, spent: Spend, failure: Option<Failure>, now_ms: u64, actions: &mut Vec<Action>) {
        if self.stage(&id) != Some(&Stage::Agent) {
            return;
        }
        self.agents -= 1;
        self.forecast.ended(spent);
        match failure {
            None => {
                self.failures_in_a_row = 0;
                let begun_ms = self.live.get(&id.episode).map_or(now_ms, |live| live.begun_ms);
                self.pace.ended(&id.episode.instance, now_ms.saturating_sub(begun_ms));
                self.set(&id, Stage::Queued);
                self.grade_queue.push_back(id);
            }
            Some(failure) => self.failed(id, failure, actions),
        }
    }

    fn grade_ended(&mut self, id: AttemptId, grade: Result<bool, Failure>, now_ms: u64, actions: &mut Vec<Action>) {
        if self.stage(&id) != Some(&Stage::Grading) {
            return;
        }
        self.graders -= 1;
        let failure = match grade {
            Ok(resolved) => {
                self.failures_in_a_row = 0;
                if resolved && self.policy.until_resolved > 0 {
                    *self.resolved.entry(id.episode.instance.clone()).or_default() += 1;
                }
                return self.commit(id, None, actions);
            }
            Err(failure) => failure,
        };
        self.count_failure(&failure, actions);
        let gradings = self.live.get(&id.episode).map_or(0, |live| live.gradings);
        // What the agent did is paid for and on disk: only the grading is done again, now or in the next opening.
        match failure.kind.disposition() {
            Disposition::Regrade | Disposition::Retry if gradings < self.policy.max_gradings && self.draining.is_none() => {
                self.set(&id, Stage::Queued);
                self.regrades.push(Reverse((now_ms + self.policy.retry_delay(gradings), id)));
            }
            Disposition::Regrade if gradings < self.policy.max_gradings => self.abandon(id, actions),
            Disposition::Retry if failure.kind == Kind::Panic && gradings >= self.policy.max_gradings => self.commit(id, None, actions),
            Disposition::Retry => self.abandon(id, actions),
            Disposition::StopRun => {
                self.drain(failure.message, actions);
                self.abandon(id, actions);
            }
            Disposition::Quarantine => {
                self.quarantine(&id, failure, actions);
                self.commit(id, None, actions);
            }
            Disposition::Regrade | Disposition::Final => self.commit(id, None, actions),
        }
    }

    fn abandon(&mut self, id: AttemptId, actions: &mut Vec<Action>) {
        self.live.remove(&id.episode);
        self.abandoned += 1;
        actions.push(Action::Abandon { id });
    }

    fn failed(&mut self, id: AttemptId, failure: Failure, actions: &mut Vec<Action>) {
        let tries = self.live.get(&id.episode).map_or(0, |live| live.tries);
        self.count_failure(&failure, actions);
        match self.policy.settle(&failure, tries) {
            Disposition::Retry => self.commit(id, Some(failure), actions),
            Disposition::Quarantine => {
                self.quarantine(&id, failure, actions);
                self.commit(id, None, actions);
            }
            // The episode stays outstanding: the next opening of the run does it again.
            Disposition::StopRun => {
                self.drain(failure.message.clone(), actions);
                self.commit(id, Some(failure), actions);
            }
            Disposition::Final | Disposition::Regrade => self.commit(id, None, actions),
        }
    }

    /// Failures that no episode is to blame for open the circuit when nothing succeeds between them.
    fn count_failure(&mut self, failure: &Failure, actions: &mut Vec<Action>) {
        if matches!(failure.class(), Class::Endpoint | Class::Infra | Class::Bug | Class::Grader) {
            self.failures_in_a_row += 1;
            if !self.policy.keep_going && self.failures_in_a_row >= self.policy.breaker() {
                let n = self.failures_in_a_row;
                self.drain(
                    format!("{n} failures in a row and no success between them, the last: {failure}. Mend the cause and run again: the run resumes"),
                    actions,
                );
            }
        }
    }

    fn quarantine(&mut self, id: &AttemptId, failure: Failure, actions: &mut Vec<Action>) {
        if self.policy.keep_going {
            return;
        }
        let instance = id.episode.instance.clone();
        if self.quarantined.insert(instance.clone(), failure.clone()).is_none() {
            actions.push(Action::Quarantine { instance, failure });
        }
    }

    fn commit(&mut self, id: AttemptId, again: Option<Failure>, actions: &mut Vec<Action>) {
        let counts = again.is_none();
        self.set(&id, Stage::Committing { again });
        actions.push(Action::Commit { id, counts });
    }

    fn committed(&mut self, id: AttemptId, now_ms: u64, actions: &mut Vec<Action>) {
        if !self.stage(&id).is_some_and(|s| matches!(s, Stage::Committing { .. })) {
            return;
        }
        let Some(live) = self.live.remove(&id.episode) else { return };
        if let Stage::Committing { again: Some(failure) } = live.stage {
            let delay_ms = self.policy.retry_delay(live.tries);
            if failure.kind.disposition() == Disposition::Retry && self.draining.is_none() {
                actions.push(Action::Retrying { id: id.clone(), failure, delay_ms });
            }
            let next = Next { episode: id.episode, attempt: live.attempt.next(), tries: live.tries };
            self.queue.push_later(now_ms + delay_ms, next);
        } else if live.skipped {
            self.skipping -= 1;
        }
    }

    fn set(&mut self, id: &AttemptId, stage: Stage) {
        if let Some(live) = self.live.get_mut(&id.episode) {
            live.stage = stage;
        }
    }

    /// Fills the slots. Grading goes first: it is what makes paid work durable.
    fn admit(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        while let Some(Reverse((at, _))) = self.regrades.peek()
            && (*at <= now_ms || self.draining.is_some())
        {
            self.grade_queue.extend(self.regrades.pop().map(|Reverse((_, id))| id));
        }
        while self.graders < self.policy.grader_slots()
            && let Some(id) = self.grade_queue.pop_front()
        {
            self.graders += 1;
            if let Some(live) = self.live.get_mut(&id.episode) {
                live.stage = Stage::Grading;
                live.gradings += 1;
            }
            actions.push(Action::Grade { id });
        }
        if self.draining.is_none() && self.held.is_none() {
            self.begin(now_ms, actions);
        }
        actions.extend(self.next_wake().map(|at_ms| Action::WakeAt { at_ms }));
        let idle = self.live.is_empty() && self.waiving == 0 && (self.draining.is_some() || self.queue.len() == 0);
        if idle && !self.finished {
            self.finished = true;
            actions.push(Action::Finished);
        }
    }

    fn begin(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        self.queue.advance(now_ms);
        if matches!(self.policy.order, Order::Sample | Order::Auto) && self.pace.is_time(self.queue.len(), self.policy.concurrency) {
            self.queue.longest_first(|instance| self.pace.expected_ms(instance));
        }
        let mut waived = Vec::new();
        self.starts.advance(now_ms);
        while self.agents < self.policy.concurrency
            && !self.starts.are_enough()
            && self.grade_queue.len() < self.policy.backlog_limit()
            && self.skipping < SKIPPED_AT_ONCE
            && waived.len() < WAIVED_AT_ONCE
            && self.forecast.allows(self.agents)
        {
            let Some(Next { episode, attempt, tries }) = self.queue.pop() else { break };
            if self.has_enough(&episode.instance) {
                waived.push(episode);
                continue;
            }
            let id = AttemptId { episode: episode.clone(), attempt };
            let live = Live { attempt, tries: tries + 1, gradings: 0, begun_ms: now_ms, skipped: false, stage: Stage::Agent };
            if let Some(cause) = self.quarantined.get(&episode.instance).filter(|_| !self.policy.keep_going) {
                let failure = Failure::new(cause.kind, format!("not begun, since another sample of its instance failed for good: {cause}"));
                self.live.insert(episode, Live { stage: Stage::Committing { again: None }, skipped: true, ..live });
                self.skipping += 1;
                actions.push(Action::Skip { id, failure });
                continue;
            }
            self.agents += 1;
            self.starts.count();
            self.live.insert(episode, live);
            actions.push(Action::StartAgent { id });
        }
        if !waived.is_empty() {
            self.waiving += waived.len();
            actions.push(Action::Waive { episodes: waived });
        }
        // What is at work may leave more of the budget than it was taken to cost; with nothing at work, nothing will.
        if self.live.is_empty() && self.waiving == 0 && self.queue.len() > 0 && !self.forecast.allows(0) {
            self.drain(self.forecast.refusal(), actions);
        }
    }

    /// Enough samples of the instance are resolved: no other is begun.
    fn has_enough(&self, instance: &InstanceId) -> bool {
        self.policy.until_resolved > 0 && self.resolved.get(instance).is_some_and(|n| *n >= self.policy.until_resolved)
    }

    fn next_wake(&self) -> Option<u64> {
        let begins = self.draining.is_none() && self.held.is_none();
        let attempt = self.queue.due_at().filter(|_| begins);
        let start = (begins && self.starts.are_enough() && self.agents < self.policy.concurrency).then(|| self.starts.next_ms());
        let grading = self.regrades.peek().map(|Reverse((at, _))| *at);
        attempt.into_iter().chain(start).chain(grading).min()
    }
}
