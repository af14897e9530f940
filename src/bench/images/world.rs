//! A disk with images whose lower parts are shared, and a network that all pulls share. Pure.

use super::{GB, Options, Outcome, Point};
use std::{cmp::Reverse, collections::BinaryHeap};

/// Of the disk, the part that is kept free: where eviction begins, and where it ends.
const HIGH: f64 = 0.05;
const LOW: f64 = 0.10;
const BASE_BYTES: f64 = 0.8e9;
/// Of the logarithm of an image's own bytes, and of an agent's time.
const IMAGE_SIGMA: f64 = 0.5;
const AGENT_SIGMA: f64 = 0.6;
/// Of the line that is drawn.
const POINTS_EVERY_MS: u64 = 10 * 60 * 1000;

/// Bytes used above which the disk should never be.
pub fn mark(options: &Options) -> f64 {
    options.disk_gb * GB * (1.0 - HIGH)
}

/// Bytes to be free, where eviction begins and ends.
pub fn marks(options: &Options) -> (u64, u64) {
    ((options.disk_gb * GB * HIGH) as u64, (options.disk_gb * GB * LOW) as u64)
}

/// A number that belongs to these: uniform in 0..1, never 0.
fn uniform(seed: u64, stream: u64, n: u64) -> f64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(stream << 40).wrapping_add(n.wrapping_mul(0xD1B5_4A32_D192_ED03));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64 + f64::EPSILON
}

/// Log-normal of that mean, by Box and Muller.
fn log_normal(seed: u64, stream: u64, n: u64, mean: f64, sigma: f64) -> f64 {
    let (a, b) = (uniform(seed, stream, n), uniform(seed, stream + 1, n));
    let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    (mean.ln() - sigma * sigma / 2.0 + sigma * normal).exp()
}

/// What ends at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Agent(u32),
    Grade(u32),
    Pulled(u32),
    Tick,
}

#[derive(Debug, Clone, Copy)]
struct Pull {
    image: u32,
    left: f64,
}

pub struct World {
    pub now: u64,
    pub pulls: u64,
    pulled: Vec<u8>,
    options: Options,
    own: Vec<f64>,
    bases: Vec<u32>,
    /// Images on the disk that have this base.
    base_users: Vec<u32>,
    used: f64,
    pulling: Vec<Pull>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    outcome: Outcome,
    /// Slot-milliseconds without an agent.
    idle: f64,
    drawn: u64,
}

impl World {
    pub fn new(options: &Options, way: &'static str) -> Self {
        let own = (0..u64::from(options.images))
            .map(|n| log_normal(options.seed, 1, n, (options.image_gb * GB - BASE_BYTES).max(1e6), IMAGE_SIGMA))
            .collect();
        let (of, bases) = (u64::from(options.images.max(1)), u64::from(options.bases.max(1)));
        let anywhere = |n| (uniform(options.seed, 9, n) * bases as f64) as u32;
        let bases = (0..of).map(|n| if options.scattered { anywhere(n) % bases as u32 } else { (n * bases / of) as u32 }).collect();
        World {
            now: 0,
            pulls: 0,
            pulled: vec![0; options.images as usize],
            own,
            bases,
            base_users: vec![0; options.bases.max(1) as usize],
            used: 0.0,
            pulling: Vec::new(),
            events: BinaryHeap::new(),
            outcome: Outcome { way, ..Outcome::default() },
            idle: 0.0,
            drawn: 0,
            options: options.clone(),
        }
    }

    pub fn free(&self) -> u64 {
        (self.options.disk_gb * GB - self.used).max(0.0) as u64
    }

    pub fn agent_ms(&self, episode: u32) -> u64 {
        (log_normal(self.options.seed, 5, episode.into(), self.options.agent_min, AGENT_SIGMA) * 60_000.0) as u64
    }

    pub fn grade_ms(&self) -> u64 {
        (self.options.grade_min * 60_000.0) as u64
    }

    pub fn after(&mut self, ms: u64, event: Event) {
        self.events.push(Reverse((self.now + ms, event)));
    }

    /// Bytes that come by it now: with its base, where no image on the disk has that. They count as used from the start.
    pub fn pull(&mut self, image: u32) -> u64 {
        let base = &mut self.base_users[self.bases[image as usize] as usize];
        let bytes = self.own[image as usize] + if *base == 0 { BASE_BYTES } else { 0.0 };
        *base += 1;
        self.used += bytes;
        self.pulls += 1;
        self.pulled[image as usize] = self.pulled[image as usize].saturating_add(1);
        self.outcome.pulled_tb += bytes / 1e12;
        self.outcome.disk_gb_max = self.outcome.disk_gb_max.max(self.used / GB);
        self.outcome.above_mark += u64::from(self.used > mark(&self.options));
        self.pulling.push(Pull { image, left: bytes });
        bytes as u64
    }

    pub fn evict(&mut self, image: u32) {
        let base = &mut self.base_users[self.bases[image as usize] as usize];
        *base -= 1;
        self.used -= self.own[image as usize] + if *base == 0 { BASE_BYTES } else { 0.0 };
        self.outcome.evicted += 1;
    }

    pub fn pulling(&self) -> usize {
        self.pulling.len()
    }

    /// The next event, with time gone on to it. `live` episodes are at work, `agents` of them in a slot; `more` are to be begun.
    pub fn next(&mut self, live: usize, agents: usize, more: bool) -> Option<Event> {
        let rate = self.options.gb_per_s * GB / 1000.0 / self.pulling.len().max(1) as f64;
        let first = self.pulling.iter().map(|pull| pull.left).fold(f64::INFINITY, f64::min);
        let pulled_at = first.is_finite().then(|| self.now + (first / rate).ceil() as u64);
        let event_at = self.events.peek().map(|Reverse((at, _))| *at);
        let at = pulled_at.into_iter().chain(event_at).min()?;
        let passed = (at - self.now) as f64;
        self.pulling.iter_mut().for_each(|pull| pull.left -= rate * passed);
        if more {
            self.idle += (self.options.concurrency - agents) as f64 * passed;
            self.outcome.idle_share = self.idle / (self.options.concurrency as f64 * at as f64).max(1.0);
        }
        self.now = at;
        if at >= self.drawn {
            self.drawn = at + POINTS_EVERY_MS;
            let point = Point { hours: at as f64 / 3.6e6, used_gb: self.used / GB, pulling: self.pulling.len(), live };
            self.outcome.line.push(point);
        }
        if pulled_at == Some(at)
            && let Some(done) = self.pulling.iter().position(|pull| pull.left <= 0.5)
        {
            return Some(Event::Pulled(self.pulling.swap_remove(done).image));
        }
        self.events.pop().map(|Reverse((_, event))| event)
    }

    pub fn end(self, episodes: u64) -> Outcome {
        let pulled_again = self.pulled.iter().filter(|times| **times > 1).count() as u64;
        Outcome { episodes, pulls: self.pulls, pulled_again, hours: self.now as f64 / 3.6e6, ..self.outcome }
    }
}
