//! How much the server lets in: requests and tokens a minute by token bucket or fixed window, and requests in flight.
//! Pure: the time is an argument, a duration since any fixed moment.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

const MINUTE: f64 = 60.0;

/// What a client may ask for; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub requests_per_minute: u64,
    /// Prompt tokens when a request is let in, completion tokens when they are made.
    pub tokens_per_minute: u64,
    /// Requests at once from a full bucket; tokens at once in the same proportion. 0: what ten seconds earn.
    pub burst: u64,
    pub window: Window,
    pub in_flight: u64,
    /// What a refusal tells.
    pub hint: Hint,
}

/// How a minute's allowance is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// A token bucket, refilled all the time.
    #[default]
    Bucket,
    /// The whole allowance at the beginning of every minute.
    Fixed,
}

/// What the client is told besides the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hint {
    /// `Retry-After` and the `x-ratelimit-*` headers.
    #[default]
    Full,
    RetryAfter,
    None,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is none of {known}")]
pub struct BadChoice {
    given: String,
    known: &'static str,
}

impl FromStr for Window {
    type Err = BadChoice;

    fn from_str(text: &str) -> Result<Self, BadChoice> {
        match text {
            "bucket" => Ok(Window::Bucket),
            "fixed" => Ok(Window::Fixed),
            _ => Err(BadChoice { given: text.to_owned(), known: "bucket, fixed" }),
        }
    }
}

impl FromStr for Hint {
    type Err = BadChoice;

    fn from_str(text: &str) -> Result<Self, BadChoice> {
        match text {
            "full" => Ok(Hint::Full),
            "retry-after" => Ok(Hint::RetryAfter),
            "none" => Ok(Hint::None),
            _ => Err(BadChoice { given: text.to_owned(), known: "full, retry-after, none" }),
        }
    }
}

/// Which limit refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    Requests,
    Tokens,
    InFlight,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Requests => "requests per minute",
            Limit::Tokens => "tokens per minute",
            Limit::InFlight => "requests in flight",
        })
    }
}

/// Not let in, and when it may be worth while to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub limit: Limit,
    pub retry_after: Duration,
}

/// One allowance: what is left of it, less than nothing where more was used than was there.
#[derive(Debug, Clone, Copy)]
struct Meter {
    per_minute: f64,
    burst: f64,
    window: Window,
    left: f64,
    at: Duration,
}

impl Meter {
    fn new(per_minute: u64, burst: f64, window: Window) -> Option<Self> {
        let per_minute = Some(per_minute as f64).filter(|n| *n > 0.0)?;
        let burst = if window == Window::Fixed { per_minute } else { burst.max(1.0) };
        Some(Meter { per_minute, burst, window, left: burst, at: Duration::ZERO })
    }

    fn refill(&mut self, now: Duration) {
        let earned = match self.window {
            Window::Bucket => now.saturating_sub(self.at).as_secs_f64() * self.per_minute / MINUTE,
            Window::Fixed => now.as_secs().saturating_sub(self.at.as_secs() / 60 * 60).div_euclid(60) as f64 * self.per_minute,
        };
        self.left = (self.left + earned).min(self.burst);
        self.at = self.at.max(now);
    }

    /// Time until `n` are there. More than a burst is had from a full bucket, and paid for after.
    fn wait(&self, n: f64) -> Duration {
        // Rounding in the refill must not hold a request back for nothing.
        let missing = n.min(self.burst) - self.left - 1e-6;
        if missing <= 0.0 {
            return Duration::ZERO;
        }
        let seconds = match self.window {
            Window::Bucket => missing * MINUTE / self.per_minute,
            Window::Fixed => (missing / self.per_minute).ceil() * MINUTE - self.at.as_secs_f64() % MINUTE,
        };
        Duration::from_secs_f64(seconds.clamp(0.001, 86_400.0))
    }
}

/// What is left, for the `x-ratelimit-*` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    pub limit: u64,
    pub remaining: u64,
    /// Until the allowance is whole again.
    pub reset: Duration,
}

/// The server's door.
#[derive(Debug)]
pub struct Rate {
    requests: Option<Meter>,
    tokens: Option<Meter>,
    in_flight: u64,
    in_flight_max: u64,
}

impl Rate {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let Limits { requests_per_minute, tokens_per_minute, burst, window, .. } = limits;
        // Of a minute.
        let share = if burst == 0 || requests_per_minute == 0 { 10.0 / MINUTE } else { burst as f64 / requests_per_minute as f64 };
        Rate {
            requests: Meter::new(requests_per_minute, share * requests_per_minute as f64, window),
            tokens: Meter::new(tokens_per_minute, share * tokens_per_minute as f64, window),
            in_flight: 0,
            in_flight_max: limits.in_flight,
        }
    }

    /// Lets a request with a prompt of `tokens` in, to be followed by `leave`. A request that is refused costs nothing.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn enter(&mut self, tokens: u64, now: Duration) -> Result<(), Refused> {
        for (meter, limit, wanted) in [(&mut self.requests, Limit::Requests, 1.0), (&mut self.tokens, Limit::Tokens, tokens as f64)] {
            let Some(meter) = meter else { continue };
            meter.refill(now);
            let retry_after = meter.wait(wanted);
            if !retry_after.is_zero() {
                return Err(Refused { limit, retry_after });
            }
        }
        if self.in_flight_max > 0 && self.in_flight >= self.in_flight_max {
            return Err(Refused { limit: Limit::InFlight, retry_after: Duration::from_secs(1) });
        }
        if let Some(meter) = &mut self.requests {
            meter.left -= 1.0;
        }
        self.charge(tokens);
        self.in_flight += 1;
        Ok(())
    }

    /// Tokens more, of the completion.
    pub fn charge(&mut self, tokens: u64) {
        if let Some(meter) = &mut self.tokens {
            meter.left -= tokens as f64;
        }
    }

    pub fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Of requests and of tokens.
    pub fn allowances(&mut self, now: Duration) -> [Option<Allowance>; 2] {
        [&mut self.requests, &mut self.tokens].map(|meter| {
            let meter = meter.as_mut()?;
            meter.refill(now);
            Some(Allowance { limit: meter.per_minute as u64, remaining: meter.left.max(0.0) as u64, reset: meter.wait(meter.burst) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_bucket_lets_a_burst_in_and_then_its_rate() {
        let mut rate = Rate::new(Limits { requests_per_minute: 60, burst: 5, ..Limits::default() });
        assert_eq!((0..9).filter(|_| rate.enter(0, s(0.0)).is_ok()).count(), 5);
        let refused = rate.enter(0, s(0.25)).unwrap_err();
        assert_eq!((refused.limit, refused.retry_after.as_millis()), (Limit::Requests, 749));
        assert!(rate.enter(0, s(1.0)).is_ok() && rate.enter(0, s(1.1)).is_err());
        assert_eq!(rate.allowances(s(3.0))[0].unwrap(), Allowance { limit: 60, remaining: 2, reset: s(2.999_999) });
    }

    #[test]
    fn a_fixed_window_begins_anew_every_minute() {
        let mut rate = Rate::new(Limits { requests_per_minute: 10, window: Window::Fixed, ..Limits::default() });
        assert_eq!((0..20).filter(|_| rate.enter(0, s(50.0)).is_ok()).count(), 10);
        assert_eq!(rate.enter(0, s(55.0)).unwrap_err().retry_after, s(5.0));
        assert_eq!((0..20).filter(|_| rate.enter(0, s(60.0)).is_ok()).count(), 10);
        assert_eq!((0..20).filter(|_| rate.enter(0, s(300.0)).is_ok()).count(), 10, "nothing is saved up");
    }

    #[test]
    fn a_large_prompt_passes_and_is_paid_for_after() {
        let mut rate = Rate::new(Limits { tokens_per_minute: 6_000, ..Limits::default() });
        assert!(rate.enter(2_000, s(0.0)).is_ok(), "more than the burst, yet it passes");
        rate.charge(500);
        let refused = rate.enter(1, s(1.0)).unwrap_err();
        assert_eq!((refused.limit, refused.retry_after.as_secs()), (Limit::Tokens, 14));
        assert!(rate.enter(1, s(15.02)).is_ok());
    }

    #[test]
    fn requests_in_flight_leave_room_when_they_end() {
        let mut rate = Rate::new(Limits { in_flight: 2, ..Limits::default() });
        assert!(rate.enter(0, s(0.0)).is_ok() && rate.enter(0, s(0.0)).is_ok());
        assert_eq!(rate.enter(0, s(0.0)).unwrap_err().limit, Limit::InFlight);
        rate.leave();
        assert!(rate.enter(0, s(0.0)).is_ok());
    }

    proptest! {
        /// Whatever comes when: a bucket lets in no more than its burst and what was earned; who comes when told is let in.
        #[test]
        fn a_bucket_holds_its_rate(gaps in prop::collection::vec(0..500_u64, 1..300), per_minute in 1..3_000_u64, burst in 1..50_u64) {
            let mut rate = Rate::new(Limits { requests_per_minute: per_minute, burst, ..Limits::default() });
            let (mut now, mut let_in) = (Duration::ZERO, 0);
            for gap in gaps {
                now += Duration::from_millis(gap);
                match rate.enter(0, now) {
                    Ok(()) => let_in += 1,
                    Err(refused) => {
                        now += refused.retry_after + Duration::from_micros(1);
                        prop_assert!(rate.enter(0, now).is_ok());
                        let_in += 1;
                    }
                }
            }
            prop_assert!(f64::from(let_in) <= burst as f64 + now.as_secs_f64() * per_minute as f64 / 60.0 + 0.01);
        }
    }
}
