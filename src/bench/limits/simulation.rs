//! The run's own limiters against the scripted server's own door and machine, event by event in virtual time. Pure: the
//! same setup gives the same outcome.

use crate::endpoint::{
    limiter::{Bucket, Core, End, Limits, Start, Told},
    pool::{self, Chosen, Health, Member, Pool},
    retry::{Policy, Spent, Step, Verdict},
    server::{
        Rng,
        brownout::{self, Brownout, Trouble},
        queue::{Block, Queue, Service},
        rate::{self, Hint, Rate},
    },
};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

/// Who asks whom, for how long.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    pub lasts: Duration,
    pub processes: Vec<Process>,
    /// Requests and tokens a minute of one ledger, asked by every process after its own limits.
    pub ledger: Option<(u64, u64)>,
    pub replicas: u32,
    pub choice: Choice,
    /// Of each replica.
    pub door: rate::Limits,
    pub service: Service,
    pub brownouts: Vec<Brownout>,
    pub work: Work,
}

#[derive(Debug, Clone, Copy)]
pub struct Process {
    pub limits: Limits,
    /// Live at any time; one that is done is followed by another.
    pub episodes: u32,
}

/// Which replica gets the next request of an episode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// As the run's own pool has it: the same for all its turns, where that costs no long wait.
    Affinity(pool::Settings),
    Random,
}

/// What an episode is like.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    pub turns: u32,
    /// Tokens of the first prompt, of what a turn's observation adds, and of a completion.
    pub prompt_tokens: u64,
    pub observation_tokens: u64,
    pub completion_tokens: u64,
    /// Median and sigma of the log-normal time between a reply and the next request, seconds.
    pub tools_s: (f64, f64),
    /// The same of a reply, where no machine is modelled.
    pub latency_s: (f64, f64),
    /// The same of one way through the network.
    pub network_s: (f64, f64),
}

impl Default for Work {
    fn default() -> Self {
        Work {
            turns: 30,
            prompt_tokens: 4_000,
            observation_tokens: 700,
            completion_tokens: 200,
            tools_s: (1.0, 1.0),
            latency_s: (6.0, 0.6),
            network_s: (0.02, 0.5),
        }
    }
}

/// What became of a process's requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Let in by the server.
    pub served: u64,
    pub refused: u64,
    /// Given up, after all tries.
    pub lost: u64,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
}

/// What happened in one second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Second {
    pub served: u64,
    pub refused: u64,
    /// Of all limiters together at its beginning.
    pub in_flight: u64,
    pub limit: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub tallies: Vec<Tally>,
    pub seconds: Vec<Second>,
}

impl Outcome {
    #[must_use]
    pub fn total(&self) -> Tally {
        self.tallies.iter().fold(Tally::default(), |sum, t| Tally {
            served: sum.served + t.served,
            refused: sum.refused + t.refused,
            lost: sum.lost + t.lost,
            prompt_tokens: sum.prompt_tokens + t.prompt_tokens,
            cached_tokens: sum.cached_tokens + t.cached_tokens,
        })
    }

    /// Served in the `lasts` seconds from `from` on.
    #[must_use]
    pub fn served(&self, from: usize, lasts: usize) -> u64 {
        self.seconds.iter().skip(from).take(lasts).map(|s| s.served).sum()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Second,
    /// An episode wants its next reply, or the same one again.
    Wants(u32),
    /// The head of this gate's line may start.
    Wakes(u32),
    Arrives(u32),
    Answered(u32, Answer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Served,
    /// With a time to wait.
    Throttled(Option<Duration>),
    /// A 5xx, or no connection.
    Failed,
}

struct Episode {
    process: usize,
    /// Tells its prompts from those of others.
    conversation: u64,
    turn: u32,
    spent: Spent,
    /// Of the request in flight.
    gate: usize,
    began: Duration,
    asked: Duration,
}

/// A process's limiter for one replica.
struct Gate {
    core: Core,
    line: VecDeque<u32>,
    wakes: Option<Duration>,
}

impl Gate {
    fn wait(&self, estimate: u64, now: Duration) -> Duration {
        self.core.wait(self.line.len(), estimate, now)
    }
}

struct Replica {
    rate: Rate,
    queue: Option<Queue>,
}

struct World<'a> {
    setup: &'a Setup,
    rng: Rng,
    now: Duration,
    /// By time, then in the order in which they were planned.
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    planned: u64,
    episodes: Vec<Episode>,
    conversations: u64,
    gates: Vec<Gate>,
    pools: Vec<Pool>,
    ledger: Option<(Bucket, Bucket)>,
    replicas: Vec<Replica>,
    outcome: Outcome,
}

/// The whole of it.
#[must_use]
pub fn simulate(setup: &Setup) -> Outcome {
    let mut world = World::new(setup);
    while let Some(Reverse((at, _, event))) = world.events.pop()
        && at < setup.lasts
    {
        world.now = at;
        world.happens(event);
    }
    world.outcome
}

impl<'a> World<'a> {
    fn new(setup: &'a Setup) -> Self {
        let gate = |process: &Process| Gate { core: Core::new(process.limits), line: VecDeque::new(), wakes: None };
        let settings = if let Choice::Affinity(settings) = setup.choice { settings } else { pool::Settings::default() };
        let members = (0..setup.replicas).map(|n| Member { weight: 1.0, seed: n.into() });
        let mut world = World {
            setup,
            rng: Rng::new(setup.seed),
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            planned: 0,
            episodes: Vec::new(),
            conversations: 0,
            gates: setup.processes.iter().flat_map(|p| (0..setup.replicas).map(move |_| gate(p))).collect(),
            pools: setup.processes.iter().map(|_| Pool::new(settings, members.clone())).collect(),
            ledger: setup.ledger.map(|(requests, tokens)| (Bucket::new(requests), Bucket::new(tokens))),
            replicas: (0..setup.replicas).map(|_| Replica { rate: Rate::new(setup.door), queue: Queue::new(setup.service) }).collect(),
            outcome: Outcome { tallies: vec![Tally::default(); setup.processes.len()], seconds: Vec::new() },
        };
        world.plan(Duration::ZERO, Event::Second);
        for (process, p) in setup.processes.iter().enumerate() {
            for _ in 0..p.episodes {
                // A run that has been going on for a while: episodes are in all their turns.
                let turn = world.rng.below(setup.work.turns as usize) as u32;
                let conversation = world.conversation();
                let start = world.time(setup.work.tools_s);
                world.episodes.push(Episode {
                    process,
                    conversation,
                    turn,
                    spent: Spent::default(),
                    gate: 0,
                    began: Duration::ZERO,
                    asked: Duration::ZERO,
                });
                world.plan(start, Event::Wants(world.episodes.len() as u32 - 1));
            }
        }
        world
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((self.now + after, self.planned, event)));
    }

    fn conversation(&mut self) -> u64 {
        self.conversations += 1;
        self.conversations
    }

    /// Log-normal, by median and sigma (Box and Muller's way to a normal number).
    fn time(&mut self, (median, sigma): (f64, f64)) -> Duration {
        let (u, v) = (1.0 - self.rng.unit(), self.rng.unit());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        Duration::from_secs_f64((median * (sigma * normal).exp()).min(3_600.0))
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Second => self.look(),
            Event::Wants(which) => self.wants(which),
            // One that was planned for later than another is void.
            Event::Wakes(gate) if self.gates[gate as usize].wakes == Some(self.now) => {
                self.gates[gate as usize].wakes = None;
                self.pump(gate as usize);
            }
            Event::Wakes(_) => {}
            Event::Arrives(which) => self.arrives(which),
            Event::Answered(which, answer) => self.answered(which, answer),
        }
    }

    fn look(&mut self) {
        let snapshots = self.gates.iter().map(|gate| gate.core.snapshot(gate.line.len(), self.now));
        let (in_flight, limit) = snapshots.fold((0, 0), |(f, l), s| (f + s.in_flight, l + s.limit));
        self.outcome.seconds.push(Second { in_flight, limit, ..Second::default() });
        self.plan(Duration::from_secs(1), Event::Second);
    }

    fn wants(&mut self, which: u32) {
        let replicas = self.setup.replicas as usize;
        let episode = &self.episodes[which as usize];
        let first = episode.process * replicas;
        let replica = match self.setup.choice {
            Choice::Affinity(_) => {
                let estimate = self.estimate(which);
                let wait = |at: usize| self.gates[first + at].wait(estimate, self.now);
                self.pools[episode.process].choose(episode.conversation, wait, None, self.now).member
            }
            Choice::Random => self.rng.below(replicas),
        };
        let gate = first + replica;
        self.gates[gate].line.push_back(which);
        self.pump(gate);
    }

    fn prompt(&self, which: u32) -> u64 {
        let work = &self.setup.work;
        work.prompt_tokens + u64::from(self.episodes[which as usize].turn) * (work.observation_tokens + work.completion_tokens)
    }

    /// As much over the truth as an estimate by bytes is, with room for a long reply.
    fn estimate(&self, which: u32) -> u64 {
        self.prompt(which) * 11 / 10 + 2 * self.setup.work.completion_tokens
    }

    /// Starts whoever may.
    fn pump(&mut self, at: usize) {
        while let Some(&which) = self.gates[at].line.front() {
            let estimate = self.estimate(which);
            let now = self.now;
            let gate = &mut self.gates[at];
            match gate.core.try_start(estimate, now) {
                Start::Full => return,
                Start::Until(moment) => {
                    if gate.wakes.is_none_or(|planned| planned > moment) {
                        gate.wakes = Some(moment);
                        self.plan(moment - now, Event::Wakes(at as u32));
                    }
                    return;
                }
                Start::Go { began } => {
                    gate.line.pop_front();
                    let episode = &mut self.episodes[which as usize];
                    (episode.gate, episode.began) = (at, began);
                    let mut leaves = now;
                    if let Some((requests, tokens)) = &mut self.ledger {
                        leaves = now.max(requests.ready(1)).max(tokens.ready(estimate));
                        requests.take(1, leaves);
                        tokens.take(estimate, leaves);
                    }
                    episode.asked = leaves;
                    let way = self.time(self.setup.work.network_s);
                    self.plan(leaves - now + way, Event::Arrives(which));
                }
            }
        }
    }

    fn arrives(&mut self, which: u32) {
        let trouble = brownout::at(&self.setup.brownouts, self.now);
        let prompt = self.prompt(which);
        let way = self.time(self.setup.work.network_s);
        let speed = match trouble {
            Some(Trouble::Refuse(429 | 503)) => return self.refuse(which, way, Answer::Throttled(None)),
            Some(Trouble::Refuse(_)) => return self.refuse(which, way, Answer::Failed),
            Some(Trouble::Slow(share)) => share,
            None => 1.0,
        };
        let replica = self.episodes[which as usize].gate % self.replicas.len();
        if let Err(refused) = self.replicas[replica].rate.enter(prompt, self.now) {
            let whole = Duration::from_secs_f64(refused.retry_after.as_secs_f64().ceil().max(1.0));
            return self.refuse(which, way, Answer::Throttled((self.setup.door.hint != Hint::None).then_some(whole)));
        }
        let completion = self.setup.work.completion_tokens;
        let latency = self.time(self.setup.work.latency_s);
        let blocks = self.blocks(which);
        let Replica { rate, queue } = &mut self.replicas[replica];
        rate.charge(completion);
        let (cached, takes) = match queue {
            Some(queue) => {
                let cached = queue.cached(&blocks);
                (cached, queue.serve(prompt - cached, completion, speed, self.now).ends - self.now)
            }
            None => (0, latency.div_f64(speed)),
        };
        let tally = &mut self.outcome.tallies[self.episodes[which as usize].process];
        tally.served += 1;
        tally.prompt_tokens += prompt;
        tally.cached_tokens += cached;
        self.second().served += 1;
        self.plan(takes + way, Event::Answered(which, Answer::Served));
    }

    fn refuse(&mut self, which: u32, way: Duration, answer: Answer) {
        self.outcome.tallies[self.episodes[which as usize].process].refused += 1;
        self.second().refused += 1;
        self.plan(way, Event::Answered(which, answer));
    }

    /// Of now; the first event is one.
    fn second(&mut self) -> &mut Second {
        let at = self.outcome.seconds.len() - 1;
        &mut self.outcome.seconds[at]
    }

    fn blocks(&self, which: u32) -> Vec<Block> {
        if self.setup.service.slots == 0 {
            return Vec::new();
        }
        let work = &self.setup.work;
        let of = Rng::new(self.episodes[which as usize].conversation);
        let block = |n: u64, tokens: u64| Block { digest: of.fork(n).draw(), tokens };
        let turns = u64::from(self.episodes[which as usize].turn);
        let rest = (1..=turns).map(|n| block(n, work.observation_tokens + work.completion_tokens));
        std::iter::once(block(0, work.prompt_tokens)).chain(rest).collect()
    }

    fn answered(&mut self, which: u32, answer: Answer) {
        let (estimate, prompt) = (self.estimate(which), self.prompt(which));
        let policy = Policy::default();
        let episode = &self.episodes[which as usize];
        let (gate, began, took) = (episode.gate, episode.began, self.now - episode.asked);
        let (process, member) = (episode.process, gate % self.replicas.len());
        let (end, health, verdict) = match answer {
            Answer::Served => (End::Done { tokens: prompt + self.setup.work.completion_tokens }, Health::Good, None),
            Answer::Throttled(retry_after) => {
                let pause = policy.believed(retry_after.unwrap_or_default());
                (End::Throttled { pause }, Health::Good, Some(Verdict::Throttled { retry_after }))
            }
            Answer::Failed => (End::Faulty, Health::Faulty, Some(Verdict::Faulty { retry_after: None })),
        };
        _ = self.gates[gate].core.finish(began, estimate, end, self.now);
        if self.setup.door.hint == Hint::Full {
            let [requests, tokens] = self.replicas[member].rate.allowances(self.now).map(|told| told.map(|told| told.limit));
            self.gates[gate].core.hear(Told { requests, tokens });
        }
        self.pools[process].ended(Chosen { member, probe: false }, health, began, self.now);
        let random = self.rng.unit();
        let after = if let Some(verdict) = verdict {
            let ill = self.pools[process].is_ill(member);
            let spent = &mut self.episodes[which as usize].spent;
            spent.count(verdict, ill);
            spent.add(verdict, took);
            match policy.next(spent, verdict, random) {
                Step::Retry(delay) => {
                    spent.add(verdict, delay);
                    delay
                }
                Step::GiveUp(_) => {
                    self.outcome.tallies[process].lost += 1;
                    self.episodes[which as usize].turn = self.setup.work.turns;
                    self.next_turn(which);
                    Duration::ZERO
                }
            }
        } else {
            self.replicas[member].rate.leave();
            self.next_turn(which);
            self.time(self.setup.work.tools_s)
        };
        self.plan(after, Event::Wants(which));
        self.pump(gate);
    }

    /// After the last turn comes another episode's first.
    fn next_turn(&mut self, which: u32) {
        let another = self.conversation();
        let episode = &mut self.episodes[which as usize];
        episode.spent = Spent::default();
        episode.turn += 1;
        if episode.turn >= self.setup.work.turns {
            (episode.turn, episode.conversation) = (0, another);
        }
    }
}
