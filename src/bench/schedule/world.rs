//! The world around the core: performs its actions in virtual time, keeps its own books, and holds the core to them.

use super::{
    Point, Report, SCHEDULE_VERSION, Scenario, What,
    fate::{self, Fate},
};
use crate::{
    domain::{Attempt, AttemptId, EpisodeId, Failure, InstanceId, Kind},
    endpoint::server::Rng,
    scheduler::{
        budget::Spend,
        core::{Action, Core, Input, Todo},
    },
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    time::Instant,
};

/// To be made durable.
const COMMIT_MS: u64 = 40;
const POINT_MS: u64 = 600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Not begun in this opening, or to be begun again from this time on.
    Pending {
        from_ms: u64,
    },
    Agent,
    /// For a grader, from this time on.
    Queued {
        from_ms: u64,
    },
    Grading,
    Committing,
    Decided,
    Waived,
    /// Ungraded: the next opening grades it.
    Abandoned,
}

#[derive(Debug, Clone)]
struct Episode {
    at: At,
    attempt: Attempt,
    gradings: u32,
    resolved: bool,
}

#[derive(Debug, Clone)]
enum Event {
    Agent(AttemptId, Option<Failure>),
    Grade(AttemptId, Option<Failure>),
    Commit { id: AttemptId, counts: bool, skipped: bool },
    Waive(usize),
    Wake,
    Ready(InstanceId),
    Begin(What, u64),
    End(What),
}

pub(super) struct World<'a> {
    scenario: &'a Scenario,
    core: Core,
    now: u64,
    opening: u32,
    /// What is under way ends only in the epoch in which it began.
    epoch: u32,
    ended: bool,
    events: BTreeMap<(u64, u64), (u32, Event)>,
    number: u64,
    ids: Vec<InstanceId>,
    episodes: Vec<Episode>,
    /// Instances of which each episode may begin, and when those wait that may not yet.
    ready: usize,
    startable: usize,
    later: BinaryHeap<Reverse<u64>>,
    /// Times from which attempts wait for a grader, those that are due, and those that are not.
    grade_wait: usize,
    regrade_later: BinaryHeap<Reverse<u64>>,
    last_graded: u64,
    last_begun: u64,
    agents: usize,
    graders: usize,
    skips: usize,
    waiving: usize,
    committing: usize,
    draining: bool,
    held: bool,
    brown: bool,
    wake: Option<u64>,
    resolved: HashMap<InstanceId, u32>,
    quarantined: HashMap<InstanceId, Failure>,
    rng: Rng,
    busy_ms: u128,
    open_ms: u128,
    ns: Vec<u32>,
    report: Report,
}

impl<'a> World<'a> {
    pub fn new(scenario: &'a Scenario) -> Self {
        let instances = scenario.episodes.div_ceil(scenario.samples);
        let ids: Vec<InstanceId> = (0..instances).filter_map(|i| format!("i{i}").parse().ok()).collect();
        let episode = Episode { at: At::Pending { from_ms: 0 }, attempt: Attempt::FIRST, gradings: 0, resolved: false };
        let mut world = World {
            core: Core::new(scenario.policy.clone(), None, None),
            scenario,
            now: 0,
            opening: 0,
            epoch: 0,
            ended: true,
            events: BTreeMap::new(),
            number: 0,
            ids,
            episodes: vec![episode; scenario.episodes as usize],
            ready: 0,
            startable: 0,
            later: BinaryHeap::new(),
            grade_wait: 0,
            regrade_later: BinaryHeap::new(),
            last_graded: 0,
            last_begun: 0,
            agents: 0,
            graders: 0,
            skips: 0,
            waiving: 0,
            committing: 0,
            draining: false,
            held: false,
            brown: false,
            wake: None,
            resolved: HashMap::new(),
            quarantined: HashMap::new(),
            rng: Rng::new(scenario.seed).fork(u64::MAX),
            busy_ms: 0,
            open_ms: 0,
            ns: Vec::new(),
            report: Report {
                schema_version: SCHEDULE_VERSION,
                episodes: scenario.episodes,
                concurrency: scenario.policy.concurrency,
                graders: scenario.policy.grader_slots(),
                ..Report::default()
            },
        };
        for trouble in &scenario.troubles {
            world.at(trouble.at_ms, Event::Begin(trouble.what, trouble.lasts_ms));
        }
        // The first images are there as soon as agents are.
        let at_once = scenario.policy.concurrency / scenario.samples as usize;
        for i in 0..world.ids.len() {
            let id = world.ids[i].clone();
            world.at(scenario.image_ms * i.saturating_sub(at_once) as u64, Event::Ready(id));
        }
        world
    }

    pub fn run(mut self) -> Result<Report, String> {
        self.open()?;
        while let Some(((at_ms, _), (epoch, event))) = self.events.pop_first() {
            self.pass(at_ms);
            if !matches!(event, Event::Ready(_) | Event::Begin(..) | Event::End(_)) && epoch != self.epoch {
                continue;
            }
            self.happen(event)?;
            if self.opening > 100 {
                return self.wrong("the run does not come to its end");
            }
            if self.is_over() {
                break;
            }
        }
        self.close()
    }

    fn is_over(&self) -> bool {
        self.ended && self.report.decided + self.report.waived == self.episodes.len() as u64
    }

    fn close(mut self) -> Result<Report, String> {
        if !self.is_over() {
            return Err(format!("{} of {} episodes are decided, and nothing happens any more", self.report.decided, self.episodes.len()));
        }
        let report = &mut self.report;
        report.hours = self.now as f64 / super::HOUR_MS as f64;
        report.openings = self.opening;
        report.steps = self.ns.len() as u64;
        report.ns_per_step = self.ns.iter().map(|ns| f64::from(*ns)).sum::<f64>() / self.ns.len() as f64;
        self.ns.sort_unstable();
        report.ns_p99 = u64::from(self.ns[self.ns.len() * 99 / 100]);
        report.ns_max = self.ns.last().copied().map_or(0, u64::from);
        report.busy = self.busy_ms as f64 / self.open_ms.max(1) as f64;
        Ok(self.report)
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.number += 1;
        self.events.insert((at_ms, self.number), (self.epoch, event));
    }

    /// Time passes; the slots are looked at as they were.
    fn pass(&mut self, at_ms: u64) {
        let slots = self.scenario.policy.concurrency;
        if !self.ended && !self.draining && !self.held && (self.startable > 0 || self.agents == slots) {
            let ms = u128::from(at_ms - self.now);
            self.busy_ms += ms * self.agents as u128;
            self.open_ms += ms * slots as u128;
        }
        if at_ms / POINT_MS > self.now / POINT_MS {
            self.report.points.push(Point {
                hours: at_ms as f64 / super::HOUR_MS as f64,
                agents: self.agents,
                gradings: self.graders,
                waiting_for_grader: self.grade_wait,
                decided: self.report.decided,
            });
        }
        self.now = at_ms;
        while self.later.peek().is_some_and(|Reverse(from)| *from <= at_ms) {
            self.later.pop();
            self.startable += 1;
        }
        while self.regrade_later.peek().is_some_and(|Reverse(from)| *from <= at_ms) {
            self.regrade_later.pop();
            self.grade_wait += 1;
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Agent(id, failure) => {
                self.agents -= 1;
                let failure = failure.or_else(|| {
                    (self.brown && self.rng.unit() < 0.5).then(|| Failure::new(Kind::EndpointUnavailable, "the endpoint is in a brown-out"))
                });
                if failure.is_none() {
                    self.episode(&id).at = At::Queued { from_ms: self.now };
                    self.grade_wait += 1;
                }
                self.step(Input::AgentEnded { id, spent: Spend::default(), failure })
            }
            Event::Grade(id, failure) => {
                self.graders -= 1;
                let regrade = failure.is_some() && !self.draining && self.episode(&id).gradings < self.scenario.policy.max_gradings;
                if regrade {
                    let from_ms = self.now + self.scenario.policy.retry_delay(self.episode(&id).gradings);
                    self.episode(&id).at = At::Queued { from_ms };
                    self.regrade_later.push(Reverse(from_ms));
                }
                let resolved = fate::is_resolved(self.scenario.seed, &id);
                self.episode(&id).resolved = failure.is_none() && resolved;
                self.step(Input::GradeEnded { id, grade: failure.map_or(Ok(resolved), Err) })
            }
            Event::Commit { id, counts, skipped } => {
                self.skips -= usize::from(skipped);
                self.committed(id, counts)
            }
            Event::Waive(n) => {
                self.waiving -= n;
                self.step(Input::Waived { episodes: n })
            }
            Event::Wake => {
                self.wake = None;
                self.step(Input::Tick)
            }
            Event::Ready(instance) => {
                let first = self.ready * self.scenario.samples as usize;
                self.ready += 1;
                let of = self.episodes.iter().skip(first).take(self.scenario.samples as usize);
                self.startable += of.filter(|e| matches!(e.at, At::Pending { .. })).count();
                if self.ended { Ok(()) } else { self.step(Input::Ready { instance }) }
            }
            Event::Begin(what, lasts_ms) => self.begin(what, lasts_ms),
            Event::End(What::BrownOut) => {
                self.brown = false;
                Ok(())
            }
            Event::End(What::Hold) => {
                self.held = false;
                if self.ended { Ok(()) } else { self.step(Input::Release) }
            }
            Event::End(What::Drain | What::Kill) => self.open(),
        }
    }

    fn begin(&mut self, what: What, lasts_ms: u64) -> Result<(), String> {
        match what {
            What::Drain | What::Kill if self.ended => return Ok(()),
            What::Drain => {
                self.draining = true;
                // What waits to be graded again does so at once.
                self.grade_wait += self.regrade_later.drain().count();
                return self.step(Input::Drain { reason: "asked".into() });
            }
            What::Kill => {
                self.ended = true;
                self.epoch += 1;
            }
            What::BrownOut => self.brown = true,
            What::Hold => self.held = true,
        }
        self.at(self.now + lasts_ms, Event::End(what));
        if what == What::Hold && !self.ended { self.step(Input::Hold { reason: "the disk is full".into() }) } else { Ok(()) }
    }

    /// A process opens the run: what is not decided is to be done, and what only lacks its grade is graded.
    fn open(&mut self) -> Result<(), String> {
        self.opening += 1;
        self.epoch += 1;
        (self.agents, self.graders, self.skips, self.waiving, self.committing) = (0, 0, 0, 0, 0);
        (self.startable, self.grade_wait, self.last_graded) = (0, 0, 0);
        self.later.clear();
        self.regrade_later.clear();
        (self.ended, self.draining, self.wake) = (false, false, None);
        let (now, ready) = (self.now, self.ready * self.scenario.samples as usize);
        let mut todo = Vec::new();
        for i in 0..self.episodes.len() {
            let id = self.id(i);
            let episode = &mut self.episodes[i];
            let ended = matches!(episode.at, At::Queued { .. } | At::Grading | At::Abandoned);
            match episode.at {
                At::Decided | At::Waived => continue,
                At::Agent | At::Committing => episode.attempt = episode.attempt.next(),
                _ => {}
            }
            episode.gradings = 0;
            episode.at = if ended { At::Queued { from_ms: now } } else { At::Pending { from_ms: now } };
            self.grade_wait += usize::from(ended);
            self.startable += usize::from(!ended && i < ready);
            todo.push(Todo { episode: id, attempt: episode.attempt, ended });
        }
        let quarantined = self.quarantined.clone();
        self.core = Core::new(self.scenario.policy.clone(), todo, quarantined).gated().with_resolved(self.resolved.clone());
        if self.held {
            self.step(Input::Hold { reason: "the disk is full".into() })?;
        }
        for i in 0..self.ready {
            let instance = self.ids[i].clone();
            let actions = self.core.step(Input::Ready { instance }, now);
            actions.into_iter().try_for_each(|action| self.perform(action))?;
        }
        self.step(Input::Tick)
    }

    fn committed(&mut self, id: AttemptId, counts: bool) -> Result<(), String> {
        self.committing -= 1;
        let now = self.now;
        let episode = self.episode(&id);
        if counts {
            if episode.at == At::Decided {
                return self.wrong(format!("{} is decided twice", id.episode));
            }
            let resolved = episode.resolved;
            episode.at = At::Decided;
            self.report.decided += 1;
            if resolved {
                *self.resolved.entry(id.episode.instance.clone()).or_default() += 1;
            }
        } else {
            episode.attempt = episode.attempt.next();
            episode.at = At::Pending { from_ms: now };
        }
        self.step(Input::Committed { id })
    }

    fn step(&mut self, input: Input) -> Result<(), String> {
        let began = Instant::now();
        let actions = self.core.step(input, self.now);
        self.ns.push(u32::try_from(began.elapsed().as_nanos()).unwrap_or(u32::MAX));
        actions.into_iter().try_for_each(|action| self.perform(action))?;
        self.check()
    }

    fn perform(&mut self, action: Action) -> Result<(), String> {
        if self.ended {
            return self.wrong(format!("after the end: {action:?}"));
        }
        let seed = self.scenario.seed;
        match action {
            Action::StartAgent { id } => {
                self.take_pending(&id)?;
                self.episode(&id).at = At::Agent;
                self.agents += 1;
                self.last_begun = self.now;
                self.report.attempts += 1;
                let Fate { ms, failure } = fate::agent(seed, &id);
                self.at(self.now + ms, Event::Agent(id, failure));
            }
            Action::Grade { id } => {
                let At::Queued { from_ms } = self.episode(&id).at else {
                    return self.wrong(format!("{id} is graded, and did not wait for it"));
                };
                if from_ms < self.last_graded && !self.draining {
                    return self.wrong(format!("{id} was overtaken on its way to a grader"));
                }
                self.last_graded = from_ms;
                self.grade_wait -= 1;
                self.report.grade_wait_max_s = self.report.grade_wait_max_s.max(self.now.saturating_sub(from_ms) as f64 / 1000.0);
                self.graders += 1;
                self.report.gradings += 1;
                let opening = self.opening;
                let episode = self.episode(&id);
                (episode.at, episode.gradings) = (At::Grading, episode.gradings + 1);
                let grading = opening * 16 + episode.gradings;
                let Fate { ms, failure } = fate::grading(seed, &id, grading);
                self.at(self.now + ms, Event::Grade(id, failure));
            }
            Action::Commit { id, counts } => self.commit(id, counts, false),
            Action::Skip { id, .. } => {
                self.take_pending(&id)?;
                self.skips += 1;
                self.report.skipped += 1;
                self.commit(id, true, true);
            }
            Action::Waive { episodes } => {
                for episode in &episodes {
                    let id = AttemptId { episode: episode.clone(), attempt: Attempt::FIRST };
                    let at = self.position(&id);
                    if !matches!(self.episodes[at].at, At::Pending { .. }) {
                        return self.wrong(format!("{episode} is waived, and was not pending"));
                    }
                    self.episodes[at].at = At::Waived;
                    self.startable -= 1;
                    self.report.waived += 1;
                }
                self.waiving += episodes.len();
                self.at(self.now + COMMIT_MS, Event::Waive(episodes.len()));
            }
            Action::Abandon { id } => self.episode(&id).at = At::Abandoned,
            Action::Quarantine { instance, failure } => drop(self.quarantined.insert(instance, failure)),
            Action::Retrying { id, delay_ms, .. } => {
                let from_ms = self.now + delay_ms;
                self.episode(&id).at = At::Pending { from_ms };
                self.later.push(Reverse(from_ms));
            }
            Action::WakeAt { at_ms } if at_ms <= self.now => return self.wrong("the core asks to be woken in the past"),
            Action::WakeAt { at_ms } => {
                if self.wake.is_none_or(|wake| at_ms < wake) {
                    self.wake = Some(at_ms);
                    self.at(at_ms, Event::Wake);
                }
            }
            Action::Draining { .. } if !self.draining => return self.wrong("the run drains by itself"),
            Action::Draining { .. } | Action::Held { .. } => {}
            Action::Finished => {
                self.ended = true;
                self.at(self.now + 300_000, Event::End(What::Drain));
            }
        }
        Ok(())
    }

    fn commit(&mut self, id: AttemptId, counts: bool, skipped: bool) {
        self.committing += 1;
        self.episode(&id).at = At::Committing;
        self.at(self.now + COMMIT_MS, Event::Commit { id, counts, skipped });
    }

    fn take_pending(&mut self, id: &AttemptId) -> Result<(), String> {
        let now = self.now;
        let episode = self.episode(id);
        match episode.at {
            At::Pending { from_ms } if from_ms <= now && episode.attempt == id.attempt => {
                self.startable -= 1;
                Ok(())
            }
            at => self.wrong(format!("{id} is begun while it is {at:?}")),
        }
    }

    /// What must hold after every step.
    fn check(&mut self) -> Result<(), String> {
        let policy = &self.scenario.policy;
        let live = self.core.live();
        self.report.live_max = self.report.live_max.max(live);
        let queued = self.grade_wait + self.regrade_later.len();
        if self.agents > policy.concurrency || self.graders > policy.grader_slots() {
            return self.wrong(format!("{} agents and {} gradings are over the slots", self.agents, self.graders));
        }
        if live > self.agents + self.graders + queued + self.committing {
            return self.wrong(format!("the core keeps {live} episodes, more than are at work"));
        }
        if self.ended {
            return Ok(());
        }
        if self.graders < policy.grader_slots() && self.grade_wait > 0 {
            return self.wrong(format!("a grader idles while {} attempts wait", self.grade_wait));
        }
        let open = !self.draining && !self.held && self.grade_wait < policy.backlog_limit() && self.skips == 0 && self.waiving == 0;
        // Where there are many they begin batch by batch (`starts_per_s`).
        if open && self.agents < policy.concurrency && self.startable > 0 && self.now > self.last_begun + 16 {
            return self
                .wrong(format!("{} of {} agents are at work while {} episodes could be", self.agents, policy.concurrency, self.startable));
        }
        Ok(())
    }

    fn wrong<T>(&self, what: impl std::fmt::Display) -> Result<T, String> {
        Err(format!("after {:.3} h, opening {}: {what}", self.now as f64 / super::HOUR_MS as f64, self.opening))
    }

    fn id(&self, at: usize) -> EpisodeId {
        let samples = self.scenario.samples as usize;
        EpisodeId { instance: self.ids[at / samples].clone(), sample: (at % samples) as u32 }
    }

    fn position(&self, id: &AttemptId) -> usize {
        fate::number(id) as usize * self.scenario.samples as usize + id.episode.sample as usize
    }

    fn episode(&mut self, id: &AttemptId) -> &mut Episode {
        let at = self.position(id);
        &mut self.episodes[at]
    }
}
