//! Images of a run of days in virtual time: the scheduler's own cores against a disk and a registry that are numbers.

mod naive;
mod planned;
mod world;

use super::plot::{Plot, Series};
use serde::Serialize;

/// Of what `sweroll bench images` prints as JSON.
pub const SCHEMA_VERSION: u32 = 1;
pub(crate) const GB: f64 = 1e9;

/// What is simulated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Options {
    pub images: u32,
    /// Episodes of each image.
    pub samples: u32,
    /// Different lower parts that the images share, each of 0.8 GB.
    pub bases: u32,
    /// Those that share one are anywhere among the names, instead of neighbours as those of one repository are.
    pub scattered: bool,
    /// Mean of an image with its lower part; the rest is log-normal.
    pub image_gb: f64,
    pub disk_gb: f64,
    /// Of the network, for all pulls together.
    pub gb_per_s: f64,
    pub pulls_in_flight: usize,
    pub prefetch: usize,
    pub concurrency: usize,
    /// Mean of an agent's time; log-normal.
    pub agent_min: f64,
    pub grade_min: f64,
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            images: 25_000,
            samples: 5,
            bases: 40,
            scattered: false,
            image_gb: 3.0,
            disk_gb: 500.0,
            gb_per_s: 1.0,
            pulls_in_flight: 4,
            prefetch: 16,
            concurrency: 300,
            agent_min: 12.0,
            grade_min: 2.0,
            seed: 1,
        }
    }
}

/// What one way came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    pub way: &'static str,
    pub episodes: u64,
    pub pulls: u64,
    /// Of the images, those pulled more than once.
    pub pulled_again: u64,
    pub pulled_tb: f64,
    pub evicted: u64,
    pub disk_gb_max: f64,
    /// Times that the disk was above its mark.
    pub above_mark: u64,
    pub hours: f64,
    /// Of the agents' slots, until the last episode began.
    pub idle_share: f64,
    #[serde(skip)]
    pub line: Vec<Point>,
}

/// The state of one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Point {
    pub hours: f64,
    pub used_gb: f64,
    pub pulling: usize,
    pub live: usize,
}

/// Both ways, with one seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub schema_version: u32,
    pub options: Options,
    /// GB used above which nothing is fetched.
    pub mark_gb: f64,
    pub ways: Vec<Outcome>,
}

/// As the scheduler does it, and without it: every instance's first sample first, each image pulled by the episode that wants it.
#[must_use]
pub fn compare(options: &Options) -> Comparison {
    let ways = vec![planned::run(options), naive::run(options)];
    Comparison { schema_version: SCHEMA_VERSION, options: options.clone(), mark_gb: world::mark(options) / GB, ways }
}

impl Comparison {
    /// The disk and the episodes of the first way over time; a handful of pulls would be a line along the bottom.
    #[must_use]
    pub fn plot(&self) -> Plot {
        let line = self.ways.first().map(|way| way.line.as_slice()).unwrap_or_default();
        let series = |name: &str, of: fn(&Point) -> f64| Series::new(name, line.iter().map(|point| (point.hours, of(point))).collect());
        Plot {
            title: format!("{} images x {} samples on a disk of {} GB", self.options.images, self.options.samples, self.options.disk_gb),
            x_label: "hours".to_owned(),
            y_label: "GB, episodes".to_owned(),
            series: vec![series("disk used, GB", |point| point.used_gb), series("live episodes", |point| point.live as f64)],
            marks: vec![("mark".to_owned(), self.mark_gb)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bounds that docs/performance.md tells, on a hundredth of the run with a disk that is as tight for it.
    #[test]
    fn each_image_is_pulled_once_below_the_mark() {
        let options = Options { images: 1000, disk_gb: 200.0, concurrency: 60, gb_per_s: 0.5, ..Options::default() };
        let [planned, naive] = compare(&options).ways.try_into().unwrap();
        assert_eq!((planned.episodes, planned.pulls, planned.pulled_again, planned.above_mark), (5000, 1000, 0, 0));
        assert!(planned.evicted > 800 && planned.disk_gb_max < 190.0, "{planned:?}");
        assert!(planned.idle_share < 0.05, "{planned:?}");
        assert_eq!(naive.episodes, 5000);
        assert!(naive.pulls > 3000 && naive.idle_share > 2.0 * planned.idle_share, "{naive:?}");
    }

    /// More images at once than the disk has room for: slower, but it ends, and the disk is never full.
    #[test]
    fn a_small_disk_holds_the_run_up_but_does_not_stop_it() {
        let options = Options { images: 200, disk_gb: 100.0, concurrency: 400, ..Options::default() };
        let planned = planned::run(&options);
        assert_eq!((planned.episodes, planned.pulls), (1000, 200), "{planned:?}");
        assert!(planned.disk_gb_max < options.disk_gb, "{planned:?}");
    }
}
