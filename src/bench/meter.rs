//! A histogram of durations that takes the same few kilobytes however much it holds. Pure.

use std::time::Duration;

/// Buckets of each doubling: a quantile is at most 1/16 over the truth.
const STEPS: u64 = 16;
const BUCKETS: usize = 64 * STEPS as usize;

/// Durations in microseconds, from 1 on.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
    sum: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: vec![0; BUCKETS], count: 0, max: 0, sum: 0 }
    }
}

fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let doubling = us.ilog2();
    let part = if doubling >= 4 { (us >> (doubling - 4)) - STEPS } else { (us << (4 - doubling)) - STEPS };
    (u64::from(doubling) * STEPS + part) as usize
}

/// Highest value of a bucket.
fn top(bucket: usize) -> u64 {
    let (doubling, part) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    let top = u128::from(part + STEPS + 1) << doubling;
    u64::try_from((top >> 4).saturating_sub(u128::from(doubling >= 4))).unwrap_or(u64::MAX)
}

impl Histogram {
    pub fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(us).min(BUCKETS - 1)] += 1;
        self.count += 1;
        self.max = self.max.max(us);
        self.sum = self.sum.saturating_add(us);
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Microseconds.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Microseconds.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// Microseconds under which this share of them are; 0 where there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (share * self.count as f64).ceil() as u64;
        let mut seen = 0;
        for (number, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return top(number).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_sixteenth() {
        let mut all = Histogram::default();
        assert_eq!((all.quantile(0.5), all.max()), (0, 0));
        (1..=10_000).for_each(|us| all.record(Duration::from_micros(us)));
        for (share, true_value) in [(0.5, 5_000.0), (0.99, 9_900.0), (0.001, 10.0)] {
            let found = all.quantile(share) as f64;
            assert!(found >= true_value && found <= true_value * 1.07 + 1.0, "{share}: {found}");
        }
        assert_eq!((all.quantile(1.0), all.max(), all.count()), (10_000, 10_000, 10_000));
        assert!((all.mean() - 5000.5).abs() < 0.01);
        all.record(Duration::MAX);
        assert_eq!(all.quantile(1.0), u64::MAX);
    }
}
