//! The state of the schedule and its one transition: `(state, input, now) -> actions`. No clock, no tasks.
//!
//! An episode is pending, waiting (for its next attempt), at work (agent), queued for grading, being graded or being
//! committed; it leaves when the attempt that counts is durable.

use super::policy::Policy;
use crate::domain::{Attempt, AttemptId, Disposition, EpisodeId, Failure, InstanceId, Kind};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
};

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// The agent stopped. `failure` is set where the attempt did not end by the model's doing.
    AgentEnded { id: AttemptId, failure: Option<Failure> },
    /// The grader stopped; no failure means that there is a grade.
    GradeEnded { id: AttemptId, failure: Option<Failure> },
    /// The attempt is durable.
    Committed { id: AttemptId },
    /// It could not be made durable: the run directory is at fault.
    CommitFailed { id: AttemptId, failure: Failure },
    /// Begin nothing new; finish what is at work.
    Drain { reason: String },
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    StartAgent {
        id: AttemptId,
    },
    Grade {
        id: AttemptId,
    },
    /// Make durable; `counts`: this attempt decides its episode.
    Commit {
        id: AttemptId,
        counts: bool,
    },
    /// Record an episode that is not begun, since its instance is quarantined.
    Skip {
        id: AttemptId,
        failure: Failure,
    },
    /// A commit could not be made: the attempt's spool stays for the next opening.
    Abandon {
        id: AttemptId,
    },
    /// No episode of the instance is begun any more.
    Quarantine {
        instance: InstanceId,
        failure: Failure,
    },
    Retrying {
        id: AttemptId,
        failure: Failure,
        delay_ms: u64,
    },
    Draining {
        reason: String,
    },
    WakeAt {
        at_ms: u64,
    },
    /// Nothing is at work and nothing will be begun.
    Finished,
}

#[derive(Debug, Clone)]
struct Live {
    attempt: Attempt,
    /// Attempts begun in this opening.
    tries: u32,
    gradings: u32,
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

/// An episode to be done.
#[derive(Debug, Clone)]
pub struct Todo {
    pub episode: EpisodeId,
    /// Number of its next attempt.
    pub attempt: Attempt,
    /// The agent of this attempt already ended (found in a spool): only the grade is missing.
    pub ended: bool,
}

#[derive(Debug)]
pub struct Core {
    policy: Policy,
    pending: VecDeque<(EpisodeId, Attempt, u32)>,
    waiting: BinaryHeap<Reverse<(u64, EpisodeId, Attempt, u32)>>,
    live: HashMap<EpisodeId, Live>,
    grade_queue: VecDeque<AttemptId>,
    /// Gradings to be done again, and when.
    regrades: BinaryHeap<Reverse<(u64, AttemptId)>>,
    abandoned: usize,
    agents: usize,
    graders: usize,
    quarantined: HashMap<InstanceId, Failure>,
    failures_in_a_row: u32,
    draining: Option<String>,
    finished: bool,
}

impl Core {
    #[must_use]
    pub fn new(policy: Policy, todo: impl IntoIterator<Item = Todo>, quarantined: impl IntoIterator<Item = (InstanceId, Failure)>) -> Self {
        let mut core = Core {
            policy,
            pending: VecDeque::new(),
            waiting: BinaryHeap::new(),
            live: HashMap::new(),
            grade_queue: VecDeque::new(),
            regrades: BinaryHeap::new(),
            abandoned: 0,
            agents: 0,
            graders: 0,
            quarantined: quarantined.into_iter().collect(),
            failures_in_a_row: 0,
            draining: None,
            finished: false,
        };
        for Todo { episode, attempt, ended } in todo {
            if ended {
                core.grade_queue.push_back(AttemptId { episode: episode.clone(), attempt });
                core.live.insert(episode, Live { attempt, tries: 1, gradings: 0, stage: Stage::Queued });
            } else {
                core.pending.push_back((episode, attempt, 0));
            }
        }
        core
    }

    /// Episodes that a run which ends now leaves to the next opening.
    #[must_use]
    pub fn undecided(&self) -> usize {
        self.pending.len() + self.waiting.len() + self.live.len() + self.abandoned
    }

    #[must_use]
    pub fn drain_reason(&self) -> Option<&str> {
        self.draining.as_deref()
    }

    /// The transition. Inputs of attempts that are not live (stale) change nothing.
    pub fn step(&mut self, input: Input, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::AgentEnded { id, failure } => self.agent_ended(id, failure, &mut actions),
            Input::GradeEnded { id, failure } => self.grade_ended(id, failure, now_ms, &mut actions),
            Input::Committed { id } => self.committed(id, now_ms, &mut actions),
            Input::CommitFailed { id, failure } => {
                if self.stage(&id).is_some_and(|s| matches!(s, Stage::Committing { .. })) {
                    self.abandon(id, &mut actions);
                    self.drain(failure.message, &mut actions);
                }
            }
            Input::Drain { reason } => self.drain(reason, &mut actions),
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

    fn agent_ended(&mut self, id: AttemptId, failure: Option<Failure>, actions: &mut Vec<Action>) {
        if self.stage(&id) != Some(&Stage::Agent) {
            return;
        }
        self.agents -= 1;
        match failure {
            None => {
                self.failures_in_a_row = 0;
                self.set(&id, Stage::Queued);
                self.grade_queue.push_back(id);
            }
            Some(failure) => self.failed(id, failure, actions),
        }
    }

    fn grade_ended(&mut self, id: AttemptId, failure: Option<Failure>, now_ms: u64, actions: &mut Vec<Action>) {
        if self.stage(&id) != Some(&Stage::Grading) {
            return;
        }
        self.graders -= 1;
        let Some(failure) = failure else {
            self.failures_in_a_row = 0;
            self.commit(id, None, actions);
            return;
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
        use crate::domain::Class::{Bug, Endpoint, Grader, Infra};
        if matches!(failure.class(), Endpoint | Infra | Bug | Grader) {
            self.failures_in_a_row += 1;
            if self.failures_in_a_row >= self.policy.breaker() {
                let n = self.failures_in_a_row;
                self.drain(
                    format!("{n} failures in a row and no success between them, the last: {failure}. Mend the cause and run again: the run resumes"),
                    actions,
                );
            }
        }
    }

    fn quarantine(&mut self, id: &AttemptId, failure: Failure, actions: &mut Vec<Action>) {
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
            self.waiting.push(Reverse((now_ms + delay_ms, id.episode, live.attempt.next(), live.tries)));
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
        if self.draining.is_none() {
            self.begin(now_ms, actions);
        }
        actions.extend(self.next_wake().map(|at_ms| Action::WakeAt { at_ms }));
        let idle = self.live.is_empty() && (self.draining.is_some() || (self.pending.is_empty() && self.waiting.is_empty()));
        if idle && !self.finished {
            self.finished = true;
            actions.push(Action::Finished);
        }
    }

    fn begin(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        while let Some(Reverse((at, ..))) = self.waiting.peek()
            && *at <= now_ms
        {
            let Some(Reverse((_, episode, attempt, tries))) = self.waiting.pop() else { break };
            self.pending.push_front((episode, attempt, tries));
        }
        while self.agents < self.policy.concurrency && self.grade_queue.len() < self.policy.backlog_limit() {
            let Some((episode, attempt, tries)) = self.pending.pop_front() else { break };
            let id = AttemptId { episode: episode.clone(), attempt };
            let live = Live { attempt, tries: tries + 1, gradings: 0, stage: Stage::Agent };
            if let Some(cause) = self.quarantined.get(&episode.instance) {
                let failure = Failure::new(cause.kind, format!("not begun, since another sample of its instance failed for good: {cause}"));
                self.live.insert(episode, Live { stage: Stage::Committing { again: None }, ..live });
                actions.push(Action::Skip { id, failure });
                continue;
            }
            self.agents += 1;
            self.live.insert(episode, live);
            actions.push(Action::StartAgent { id });
        }
    }

    fn next_wake(&self) -> Option<u64> {
        let attempt = self.waiting.peek().filter(|_| self.draining.is_none()).map(|Reverse((at, ..))| *at);
        let grading = self.regrades.peek().map(|Reverse((at, _))| *at);
        attempt.into_iter().chain(grading).min()
    }
}
