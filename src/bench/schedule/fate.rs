//! What becomes of an attempt, drawn by its number: the same in every order of events. Pure.

use crate::{
    domain::{AttemptId, Failure, Kind},
    endpoint::server::Rng,
};

/// Seconds, log-normal.
#[derive(Debug, Clone, Copy)]
struct LogNormal {
    median_s: f64,
    sigma: f64,
}

/// Minutes of an agent, as runs on Scale-SWE have them.
const AGENT: LogNormal = LogNormal { median_s: 560.0, sigma: 0.8 };
const GRADING: LogNormal = LogNormal { median_s: 90.0, sigma: 0.9 };
const WALL_LIMIT_S: f64 = 3.0 * 3600.0;
const GRADE_LIMIT_S: f64 = 3600.0;

impl LogNormal {
    fn draw(self, rng: &mut Rng) -> f64 {
        let normal = (-2.0 * (1.0 - rng.unit()).ln()).sqrt() * (std::f64::consts::TAU * rng.unit()).cos();
        self.median_s * (self.sigma * normal).exp()
    }
}

/// Something that ends after a time, with a failure or not.
#[derive(Debug, Clone)]
pub(super) struct Fate {
    pub ms: u64,
    pub failure: Option<Failure>,
}

fn rng(seed: u64, id: &AttemptId, purpose: u64) -> Rng {
    Rng::new(seed).fork(number(id)).fork(u64::from(id.episode.sample)).fork(u64::from(id.attempt.0)).fork(purpose)
}

/// Of `i42`: 42.
pub(super) fn number(id: &AttemptId) -> u64 {
    id.episode.instance.as_str()[1..].parse().unwrap_or_default()
}

fn after(seconds: f64, failure: Option<Kind>) -> Fate {
    Fate { ms: (seconds * 1000.0).max(1.0) as u64, failure: failure.map(|kind| Failure::new(kind, "simulated")) }
}

/// One instance in 200 is broken, three attempts in 100 fail by infrastructure, one is a straggler with a heavy tail.
pub(super) fn agent(seed: u64, id: &AttemptId) -> Fate {
    if Rng::new(seed).fork(number(id)).unit() < 0.005 {
        return after(30.0, Some(Kind::PreCommands));
    }
    let mut rng = rng(seed, id, 0);
    let seconds = AGENT.draw(&mut rng);
    let kinds = [Kind::SandboxStart, Kind::SandboxLost, Kind::ImagePull, Kind::Panic, Kind::DiffTooLarge];
    match rng.unit() {
        x if x < 0.03 => after(seconds * rng.unit(), Some(kinds[rng.below(kinds.len())])),
        x if x < 0.04 => after((seconds / rng.unit().max(1e-3)).min(WALL_LIMIT_S), None),
        _ => after(seconds.min(WALL_LIMIT_S), None),
    }
}

/// One grading in 100 leaves no report, one in 500 hangs to its limit, one in 500 loses its sandbox.
pub(super) fn grading(seed: u64, id: &AttemptId, gradings: u32) -> Fate {
    let mut rng = rng(seed, id, 1 + u64::from(gradings));
    let seconds = GRADING.draw(&mut rng).min(GRADE_LIMIT_S);
    match rng.unit() {
        x if x < 0.010 => after(seconds, Some(Kind::ReportUnreadable)),
        x if x < 0.012 => after(GRADE_LIMIT_S, Some(Kind::GradeTimeout)),
        x if x < 0.014 => after(seconds * rng.unit(), Some(Kind::SandboxLost)),
        _ => after(seconds, None),
    }
}

pub(super) fn is_resolved(seed: u64, id: &AttemptId) -> bool {
    rng(seed, id, u64::MAX).unit() < 0.4
}
