//! The numbers behind the limits. Pure: the time is an argument, a duration since any fixed moment.

use crate::endpoint::settings::seconds;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a run asks of its endpoint at most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// 0: none.
    pub requests_per_minute: u64,
    /// Prompt and completion together; 0: none.
    pub tokens_per_minute: u64,
    /// Requests in flight at the beginning. Doubled from one round of replies to the next until the first 429 or 503.
    pub in_flight_start: u32,
    /// Requests in flight at most.
    pub in_flight_max: u32,
    /// Seconds without another cut after a cut, and without growth after a cut or a 5xx.
    pub cool_down_s: f64,
    /// The longest pause for everybody that a `Retry-After` brings, seconds.
    pub pause_cap_s: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            requests_per_minute: 0,
            tokens_per_minute: 0,
            in_flight_start: 16,
            in_flight_max: 256,
            cool_down_s: 5.0,
            pause_cap_s: 300.0,
        }
    }
}

/// What is left of the limit after a cut. TCP's CUBIC keeps the same (RFC 9438, section 4.6).
const CUT: f64 = 0.7;
/// Rounds of good replies in which the limit grows from nothing to its maximum, once it has been cut.
const ROUNDS_TO_MAX: f64 = 64.0;
/// How much of a minute's allowance may be used at once.
const BURST: Duration = Duration::from_secs(1);
/// The longest time that one request holds up the next, whatever its reply says that it used.
const MOST: Duration = Duration::from_secs(600);

/// How a request came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A completion that used so many tokens.
    Done { tokens: u64 },
    /// 429 or 503: everybody does less, and nothing until `pause` is over.
    Throttled { pause: Duration },
    /// Another 5xx, or the transport broke.
    Faulty,
    /// Refused for good: says nothing of what the endpoint bears.
    Refused,
    /// Abandoned in flight.
    Unknown,
}

/// Whether a request may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It has started, at the moment `began`.
    Go { began: Duration },
    /// Not before this moment.
    Until(Duration),
    /// Not before another one ends.
    Full,
}

/// What the limits are doing now, and what they did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Requests in flight that are allowed.
    pub limit: u64,
    pub in_flight: u64,
    pub waiting: u64,
    /// Of a pause that a `Retry-After` brought: what is left of it, milliseconds.
    pub paused_ms: u64,
    pub started: u64,
    pub throttled: u64,
    pub faulty: u64,
    /// Times the limit was cut.
    pub cuts: u64,
}

#[derive(Debug)]
pub struct Core {
    limits: Limits,
    requests: Bucket,
    tokens: Bucket,
    /// At least 1.
    limit: f64,
    in_flight: u32,
    paused_until: Duration,
    /// Requests that began before these moments are no evidence for a cut, or for growth.
    cut_from: Duration,
    grow_from: Duration,
    ever_cut: bool,
    counts: Snapshot,
}

impl Core {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Core {
            requests: Bucket::new(limits.requests_per_minute),
            tokens: Bucket::new(limits.tokens_per_minute),
            limit: f64::from(limits.in_flight_start.min(limits.in_flight_max).max(1)),
            limits,
            in_flight: 0,
            paused_until: Duration::ZERO,
            cut_from: Duration::ZERO,
            grow_from: Duration::ZERO,
            ever_cut: false,
            counts: Snapshot::default(),
        }
    }

    pub fn try_start(&mut self, estimate: u64, now: Duration) -> Start {
        if self.in_flight >= self.limit as u32 {
            return Start::Full;
        }
        let ready = self.paused_until.max(self.requests.ready(1)).max(self.tokens.ready(estimate));
        if ready > now {
            return Start::Until(ready);
        }
        self.requests.take(1, now);
        self.tokens.take(estimate, now);
        self.in_flight += 1;
        self.counts.started += 1;
        Start::Go { began: now }
    }

    /// Of a request that started at `began` with `estimate`.
    pub fn finish(&mut self, began: Duration, estimate: u64, end: End, now: Duration) {
        let cool_down = seconds(self.limits.cool_down_s);
        let used = match end {
            End::Done { tokens } => {
                // A limit that nothing presses against has not been tried out.
                if began >= self.grow_from && f64::from(self.in_flight) > self.limit / 2.0 {
                    self.grow();
                }
                tokens
            }
            End::Throttled { pause } => {
                self.counts.throttled += 1;
                self.paused_until = self.paused_until.max(now + pause.min(seconds(self.limits.pause_cap_s)));
                if began >= self.cut_from {
                    self.limit = (self.limit * CUT).max(1.0);
                    self.ever_cut = true;
                    self.counts.cuts += 1;
                    self.cut_from = now + cool_down;
                    self.grow_from = self.grow_from.max(now + cool_down);
                }
                0
            }
            End::Faulty => {
                self.counts.faulty += 1;
                self.grow_from = self.grow_from.max(now + cool_down);
                estimate
            }
            End::Refused => 0,
            End::Unknown => estimate,
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        self.tokens.correct(estimate, used);
    }

    fn grow(&mut self) {
        let max = f64::from(self.limits.in_flight_max.max(1));
        let step = if self.ever_cut { (max / ROUNDS_TO_MAX).max(1.0) / self.limit } else { 1.0 };
        self.limit = (self.limit + step).min(max);
    }

    #[must_use]
    pub fn snapshot(&self, waiting: usize, now: Duration) -> Snapshot {
        Snapshot {
            limit: self.limit as u64,
            in_flight: u64::from(self.in_flight),
            waiting: waiting as u64,
            paused_ms: self.paused_until.saturating_sub(now).as_millis() as u64,
            ..self.counts
        }
    }
}

/// An allowance a minute, as the moment at which all that was taken is paid for.
#[derive(Debug)]
struct Bucket {
    per_minute: u64,
    paid_at: Duration,
}

impl Bucket {
    fn new(per_minute: u64) -> Self {
        Bucket { per_minute, paid_at: Duration::ZERO }
    }

    /// Time in which `n` are earned; none at all without a limit.
    fn worth(&self, n: u64) -> Duration {
        match u128::from(self.per_minute) {
            0 => Duration::ZERO,
            rate => Duration::from_nanos(u64::try_from(u128::from(n) * 60_000_000_000 / rate).unwrap_or(u64::MAX)).min(MOST),
        }
    }

    /// When `n` may be taken. More than a burst may be taken at once from a full bucket, and is paid for after.
    fn ready(&self, n: u64) -> Duration {
        (self.paid_at + self.worth(n).min(BURST)).saturating_sub(BURST)
    }

    fn take(&mut self, n: u64, now: Duration) {
        self.paid_at = self.paid_at.max(now) + self.worth(n);
    }

    /// Of what was taken as `estimate`, `used` was used.
    fn correct(&mut self, estimate: u64, used: u64) {
        self.paid_at = (self.paid_at + self.worth(used)).saturating_sub(self.worth(estimate));
    }
}
