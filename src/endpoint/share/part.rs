//! One process's part of the limits, for as long as nobody can be asked what the others do. Pure.

use crate::endpoint::limiter::{Limits, bucket::Bucket};
use std::time::Duration;

/// An equal part of the limits. Begins with nothing saved up: what was used before is not known.
#[derive(Debug)]
pub struct Part {
    requests: Bucket,
    tokens: Bucket,
    paused_until: Duration,
}

impl Part {
    pub fn new(limits: &Limits, processes: u64, now: Duration) -> Self {
        let bucket = |per_minute: u64| {
            // A limit of 0 is none; a part of one is never none.
            let part = if per_minute == 0 { 0 } else { (per_minute / processes.max(1)).max(1) };
            let mut bucket = Bucket::new(part);
            bucket.take(part.div_ceil(60), now);
            bucket
        };
        Part { requests: bucket(limits.requests_per_minute), tokens: bucket(limits.tokens_per_minute), paused_until: now }
    }

    /// When a request of `estimate` tokens may go out.
    pub fn ready(&self, estimate: u64) -> Duration {
        self.paused_until.max(self.requests.ready(1)).max(self.tokens.ready(estimate))
    }

    pub fn take(&mut self, estimate: u64, now: Duration) {
        self.requests.take(1, now);
        self.tokens.take(estimate, now);
    }

    pub fn correct(&mut self, estimate: u64, used: u64) {
        self.tokens.correct(estimate, used);
    }

    /// Of a request that never went out.
    pub fn give_back(&mut self, estimate: u64) {
        self.requests.correct(1, 0);
        self.tokens.correct(estimate, 0);
    }

    pub fn pause(&mut self, until: Duration) {
        self.paused_until = self.paused_until.max(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_together_are_no_more_than_the_whole() {
        let limits = Limits { requests_per_minute: 600, ..Limits::default() };
        let minute = Duration::from_secs(60);
        let started = |processes: u64| {
            let mut part = Part::new(&limits, processes, Duration::ZERO);
            let mut n = 0;
            while part.ready(100) < minute {
                part.take(100, part.ready(100));
                n += 1;
            }
            n
        };
        for processes in [1, 2, 3, 7] {
            let all = started(processes) * processes;
            assert!((600 - 10 * processes..=600).contains(&all), "{all} by {processes}");
        }
        let mut part = Part::new(&limits, 2, minute);
        part.pause(minute * 2);
        assert_eq!(part.ready(0), minute * 2);
        let none = Part::new(&Limits::default(), 3, minute);
        assert_eq!(none.ready(u64::MAX), minute);
    }
}
