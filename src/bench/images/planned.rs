//! The scheduler's core and its stock of images, as a run has them. Pure.

use super::{
    Options, Outcome,
    world::{self, Event, World},
};
use crate::{
    domain::{Attempt, EpisodeId},
    scheduler::{
        budget::Spend,
        core::{self, Core, Todo},
        images::{self, Known, Settings, Stock, Word},
        policy::Policy,
    },
};
use std::collections::{HashMap, VecDeque};

/// How often the disk is measured, as the engine does it.
const MEASURE_MS: u64 = 5000;

struct Run {
    world: World,
    core: Core,
    stock: Stock,
    /// Of the pulls in flight.
    bytes: HashMap<u32, u64>,
    /// Attempts that began while their image went.
    waiting: Vec<u32>,
    inputs: VecDeque<Told>,
    samples: u32,
    agents: usize,
    live: usize,
    begun: u64,
    committed: u64,
    finished: bool,
}

enum Told {
    Core(core::Input),
    Stock(images::Input),
}

pub fn run(options: &Options) -> Outcome {
    let (disk_high, disk_low) = world::marks(options);
    let settings =
        Settings { pulls_in_flight: options.pulls_in_flight, prefetch: options.prefetch, disk_high, disk_low, ..Settings::default() };
    let policy = Policy { concurrency: options.concurrency, ..Policy::default() };
    let episodes = (0..options.images).flat_map(|image| (0..options.samples).map(move |sample| (image, sample)));
    let todo = episodes.filter_map(|(image, sample)| {
        let episode = EpisodeId { instance: image.to_string().parse().ok()?, sample };
        Some(Todo { episode, attempt: Attempt::FIRST, ended: false })
    });
    let world = World::new(options, "planned");
    let known = (0..options.images).map(|_| Known { needs: options.samples, ..Known::default() });
    let mut run = Run {
        core: Core::new(policy, todo, None).gated(),
        stock: Stock::new(settings, known, Some(world.free())),
        world,
        bytes: HashMap::new(),
        waiting: Vec::new(),
        inputs: VecDeque::from([Told::Stock(images::Input::Tick), Told::Core(core::Input::Tick)]),
        samples: options.samples,
        agents: 0,
        live: 0,
        begun: 0,
        committed: 0,
        finished: false,
    };
    let total = u64::from(options.images) * u64::from(options.samples);
    run.world.after(MEASURE_MS, Event::Tick);
    loop {
        run.settle();
        if run.finished {
            break;
        }
        let Some(event) = run.world.next(run.live, run.agents, run.begun < total) else { break };
        run.happened(event);
    }
    let committed = run.committed;
    run.world.end(committed)
}

impl Run {
    fn id(&self, episode: u32) -> Option<crate::domain::AttemptId> {
        let instance = (episode / self.samples).to_string().parse().ok()?;
        Some(crate::domain::AttemptId { episode: EpisodeId { instance, sample: episode % self.samples }, attempt: Attempt::FIRST })
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Agent(episode) => {
                self.agents -= 1;
                let ended = |id| Told::Core(core::Input::AgentEnded { id, spent: Spend::default(), failure: None });
                self.inputs.extend(self.id(episode).map(ended));
            }
            Event::Grade(episode) => {
                self.inputs.extend(self.id(episode).map(|id| Told::Core(core::Input::GradeEnded { id, grade: Ok(true) })));
            }
            Event::Pulled(image) => {
                let bytes = self.bytes.remove(&image).unwrap_or_default();
                self.inputs.push_back(Told::Stock(images::Input::Fetched { image, bytes, pulled: true }));
                self.inputs.push_back(Told::Stock(images::Input::Disk { free: self.free() }));
            }
            Event::Tick => {
                self.world.after(MEASURE_MS, Event::Tick);
                self.inputs.push_back(Told::Stock(images::Input::Disk { free: self.free() }));
            }
        }
    }

    /// As a disk tells it: what is being pulled is not there yet. (The world counts it from the start.)
    fn free(&self) -> u64 {
        self.world.free() + self.bytes.values().sum::<u64>()
    }

    fn settle(&mut self) {
        while let Some(told) = self.inputs.pop_front() {
            match told {
                Told::Core(input) => self.core(input),
                Told::Stock(input) => self.stock(input),
            }
        }
    }

    fn core(&mut self, input: core::Input) {
        for action in self.core.step(input, self.world.now) {
            match action {
                core::Action::StartAgent { id } => {
                    let Ok(image) = id.episode.instance.as_str().parse() else { continue };
                    self.agents += 1;
                    self.live += 1;
                    self.begun += 1;
                    self.inputs.push_back(Told::Stock(images::Input::Begun { image, waited: true }));
                    self.waiting.push(image * self.samples + id.episode.sample);
                }
                core::Action::Grade { id } => {
                    let Ok(image) = id.episode.instance.as_str().parse::<u32>() else { continue };
                    self.world.after(self.world.grade_ms(), Event::Grade(image * self.samples + id.episode.sample));
                }
                core::Action::Commit { id, .. } => {
                    let Ok(image) = id.episode.instance.as_str().parse() else { continue };
                    self.live -= 1;
                    self.committed += 1;
                    self.inputs.push_back(Told::Core(core::Input::Committed { id }));
                    self.inputs.push_back(Told::Stock(images::Input::Ended { image, again: false }));
                }
                core::Action::Finished => self.finished = true,
                _ => {}
            }
        }
    }

    fn stock(&mut self, input: images::Input) {
        let ready = |image: u32| image.to_string().parse().ok();
        for action in self.stock.step(input, self.world.now) {
            match action {
                images::Action::Fetch { image } => {
                    let bytes = self.world.pull(image);
                    self.bytes.insert(image, bytes);
                }
                images::Action::Evict { image } => {
                    self.world.evict(image);
                    self.inputs.push_back(Told::Stock(images::Input::Evicted { image }));
                    self.inputs.push_back(Told::Stock(images::Input::Disk { free: self.free() }));
                }
                images::Action::Ready { image } => {
                    self.inputs.extend(ready(image).map(|instance| Told::Core(core::Input::Ready { instance })));
                }
                images::Action::Unready { image } => {
                    self.inputs.extend(ready(image).map(|instance| Told::Core(core::Input::Unready { instance })));
                }
                images::Action::Hold => {
                    self.inputs.push_back(Told::Core(core::Input::Hold { reason: "the disk is full".to_owned() }));
                }
                images::Action::Release => self.inputs.push_back(Told::Core(core::Input::Release)),
                images::Action::GiveUp | images::Action::WakeAt { .. } => {}
            }
        }
        let (stock, samples) = (&self.stock, self.samples);
        let start: Vec<u32> = self.waiting.extract_if(.., |episode| stock.word(*episode / samples) == Word::Go).collect();
        for episode in start {
            self.world.after(self.world.agent_ms(episode), Event::Agent(episode));
        }
    }
}
