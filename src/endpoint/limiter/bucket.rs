//! An allowance a minute, reserved by estimate and settled by use. Pure.

use crate::endpoint::settings::seconds;
use std::time::Duration;

/// How much of a minute's allowance may be used at once: enough to make up for late timers. A server that allows small
/// bursts refuses large ones, and at the limit they gain nothing.
const BURST: Duration = Duration::from_millis(100);
/// The longest time that one request holds up the next, whatever its reply says that it used.
const MOST: Duration = Duration::from_secs(600);

/// An allowance a minute, as the moment at which all that was taken is paid for.
#[derive(Debug)]
pub struct Bucket {
    per_minute: u64,
    paid_at: Duration,
}

impl Bucket {
    pub fn new(per_minute: u64) -> Self {
        Bucket { per_minute, paid_at: Duration::ZERO }
    }

    pub fn per_minute(&self) -> u64 {
        self.per_minute
    }

    /// From now on so much is earned.
    pub fn earns(&mut self, per_minute: u64) {
        self.per_minute = per_minute;
    }

    /// Time in which `n` are earned; none at all without a limit.
    fn worth(&self, n: u64) -> Duration {
        match u128::from(self.per_minute) {
            0 => Duration::ZERO,
            rate => Duration::from_nanos(u64::try_from(u128::from(n) * 60_000_000_000 / rate).unwrap_or(u64::MAX)).min(MOST),
        }
    }

    /// When `n` may be taken. More than a burst may be taken at once from a full bucket, and is paid for after.
    pub fn ready(&self, n: u64) -> Duration {
        (self.paid_at + self.worth(n).min(BURST)).saturating_sub(BURST)
    }

    /// When `n` more are earned, in whatever steps they are taken.
    pub fn earned(&self, n: u64) -> Duration {
        let worth = if self.per_minute == 0 { 0.0 } else { n as f64 * 60.0 / self.per_minute as f64 };
        (self.paid_at + seconds(worth)).saturating_sub(BURST)
    }

    pub fn take(&mut self, n: u64, now: Duration) {
        self.paid_at = self.paid_at.max(now) + self.worth(n);
    }

    /// Of what was taken as `estimate`, `used` was used.
    pub fn correct(&mut self, estimate: u64, used: u64) {
        self.paid_at = (self.paid_at + self.worth(used)).saturating_sub(self.worth(estimate));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What was used is charged, whatever the estimates were: by any moment no more is used than was earned, but for a
        /// burst and what holds up the next one.
        #[test]
        fn tokens_are_conserved(uses in prop::collection::vec((0..5_000_u64, 0..5_000_u64), 1..50)) {
            let mut bucket = Bucket::new(60_000);
            let mut now = Duration::ZERO;
            let mut used = 0;
            for (estimate, really) in uses {
                now = now.max(bucket.ready(estimate));
                bucket.take(estimate, now);
                bucket.correct(estimate, really);
                used += really;
                let debt = bucket.ready(1_000).saturating_sub(now);
                prop_assert!(u128::from(used) <= (now + debt + BURST).as_millis() + 1, "{used} tokens by {now:?}");
            }
            // Nor is more withheld than was used.
            prop_assert!(bucket.ready(0) <= Duration::from_millis(used + 5_000));
        }
    }

    #[test]
    fn one_request_holds_up_the_next_for_ten_minutes_at_most() {
        let mut bucket = Bucket::new(60);
        bucket.take(1, Duration::ZERO);
        bucket.correct(1, u64::MAX);
        assert!(bucket.ready(1) <= MOST);
        let mut free = Bucket::new(0);
        free.take(u64::MAX, Duration::ZERO);
        assert_eq!(free.ready(u64::MAX), Duration::ZERO);
    }
}
