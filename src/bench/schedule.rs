//! The pure scheduler through a day of a large run, in virtual time: stragglers, failures of every kind, quarantines, brown-outs, a full
//! disk, late images, a drain and a kill. What must always hold is checked after every step; what a step costs is measured.

mod fate;
mod world;

use crate::scheduler::policy::Policy;
use serde::Serialize;
use world::World;

/// Version of the report; raised when a key changes its meaning or type.
pub const SCHEDULE_VERSION: u32 = 1;

const HOUR_MS: u64 = 3_600_000;

/// A run to be simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub episodes: u32,
    /// Of each instance.
    pub samples: u32,
    pub policy: Policy,
    /// Between the images of one instance and the next becoming ready, once the first of them are; 0: all are from the beginning.
    pub image_ms: u64,
    pub troubles: Vec<Trouble>,
}

/// Something that happens to the whole run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trouble {
    pub at_ms: u64,
    pub lasts_ms: u64,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Half of the attempts that end in it fail by the endpoint.
    BrownOut,
    /// The disk is full: nothing new is begun.
    Hold,
    /// Ctrl-C; after the end the run is opened again.
    Drain,
    /// The engine is killed, and opened again.
    Kill,
}

impl Scenario {
    /// A day of so many episodes, with all troubles, on as many agents as that takes: 1,150 for 100,000.
    #[must_use]
    pub fn day(episodes: u32, seed: u64) -> Self {
        let concurrency = (episodes as usize * 23 / 2000).max(8);
        let policy = Policy { concurrency, graders: concurrency / 4, ..Policy::default() };
        let trouble = |hour: f64, minutes: u64, what| Trouble { at_ms: (hour * HOUR_MS as f64) as u64, lasts_ms: minutes * 60_000, what };
        let troubles = vec![
            trouble(2.0, 10, What::BrownOut),
            trouble(4.0, 20, What::Hold),
            trouble(7.0, 30, What::BrownOut),
            trouble(9.0, 5, What::Drain),
            trouble(13.0, 10, What::Hold),
            trouble(15.0, 1, What::Kill),
            trouble(18.0, 10, What::BrownOut),
        ];
        let samples = 5;
        // Images come half as fast again as they are used.
        let image_ms = 16 * HOUR_MS * u64::from(samples) / u64::from(episodes.max(1));
        Scenario { seed, episodes, samples, policy, image_ms, troubles }
    }
}

/// What was seen. Times are virtual but for `ns`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    pub schema_version: u32,
    pub episodes: u32,
    pub concurrency: usize,
    pub graders: usize,
    /// From the first begun to the last committed.
    pub hours: f64,
    /// Of them, each exactly once.
    pub decided: u64,
    pub waived: u64,
    pub skipped: u64,
    pub attempts: u64,
    pub gradings: u64,
    pub openings: u32,
    pub steps: u64,
    /// Of the core alone, by this machine's clock.
    pub ns_per_step: f64,
    pub ns_p99: u64,
    pub ns_max: u64,
    /// Episodes that the core knew in any stage but the queue, at most.
    pub live_max: usize,
    /// Agents at work, the mean of the time in which episodes could have been begun, as a share of the slots.
    pub busy: f64,
    /// The longest wait of an attempt for its grader.
    pub grade_wait_max_s: f64,
    /// Every ten minutes.
    #[serde(skip)]
    pub points: Vec<Point>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub hours: f64,
    pub agents: usize,
    pub gradings: usize,
    pub waiting_for_grader: usize,
    pub decided: u64,
}

/// # Errors
/// What did not hold, and when.
pub fn simulate(scenario: &Scenario) -> Result<Report, String> {
    World::new(scenario).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_day() {
        let timeless = |seed| {
            let report = simulate(&Scenario::day(2000, seed)).unwrap();
            Report { ns_per_step: 0.0, ns_p99: 0, ns_max: 0, ..report }
        };
        assert_eq!(timeless(1), timeless(1));
        assert_ne!(timeless(1), timeless(2));
    }
}
