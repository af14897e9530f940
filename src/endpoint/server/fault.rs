//! Bad weather by rate: which request meets which fault follows from the seed and the request's number.

use super::chance::Rng;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// 429, no hint when to come again.
    RateLimited,
    /// 429 with `Retry-After`.
    RetryAfter,
    InternalError,
    Unavailable,
    /// The connection is reset before an answer.
    Reset,
    /// No answer until the client gives up.
    Stall,
    /// The body ends before its `Content-Length`.
    Truncated,
    /// The reply is cut by length in the middle of its call.
    Length,
    /// 400 in the words of a prompt over the context.
    Overflow,
    /// 200 with a body that is not JSON.
    Garbage,
    /// Half of the reply, and then nothing but keep-alives until the client gives up.
    StallMidway,
    /// Half of the reply, and then the connection breaks.
    CutMidway,
    /// Half of the reply, and then an error; where it is not streamed, the error alone with status 200.
    ErrorInStream,
}

impl FaultKind {
    pub const ALL: [FaultKind; 13] = [
        FaultKind::RateLimited,
        FaultKind::RetryAfter,
        FaultKind::InternalError,
        FaultKind::Unavailable,
        FaultKind::Reset,
        FaultKind::Stall,
        FaultKind::Truncated,
        FaultKind::Length,
        FaultKind::Overflow,
        FaultKind::Garbage,
        FaultKind::StallMidway,
        FaultKind::CutMidway,
        FaultKind::ErrorInStream,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FaultKind::RateLimited => "429",
            FaultKind::RetryAfter => "429-retry-after",
            FaultKind::InternalError => "500",
            FaultKind::Unavailable => "503",
            FaultKind::Reset => "reset",
            FaultKind::Stall => "stall",
            FaultKind::Truncated => "truncated",
            FaultKind::Length => "length",
            FaultKind::Overflow => "overflow",
            FaultKind::Garbage => "garbage",
            FaultKind::StallMidway => "stall-midway",
            FaultKind::CutMidway => "cut-midway",
            FaultKind::ErrorInStream => "error-in-stream",
        }
    }
}

/// A kind of fault and the share of requests that meet it, 0 to 1. Written `KIND:RATE`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fault {
    pub kind: FaultKind,
    pub rate: f64,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadFault {
    #[error("{0:?} is not a fault: write KIND:RATE, such as 429:0.1")]
    Form(String),
    #[error(
        "{0:?} is not a kind of fault: choose one of 429, 429-retry-after, 500, 503, reset, stall, truncated, length, overflow, garbage, \
         stall-midway, cut-midway, error-in-stream"
    )]
    Kind(String),
    #[error("{0:?} is not the rate of a fault: give the share of requests, from 0 to 1")]
    Rate(String),
    #[error("the rates of the faults sum to {0}: let them sum to at most 1")]
    Sum(f64),
}

impl FromStr for Fault {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Self, BadFault> {
        let (kind, rate) = text.split_once(':').ok_or_else(|| BadFault::Form(text.to_owned()))?;
        let kind = FaultKind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or_else(|| BadFault::Kind(kind.to_owned()))?;
        let share = |r: &f64| (0.0..=1.0).contains(r);
        let rate = rate.parse().ok().filter(share).ok_or_else(|| BadFault::Rate(rate.to_owned()))?;
        Ok(Fault { kind, rate })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.rate)
    }
}

impl TryFrom<String> for Fault {
    type Error = BadFault;
    fn try_from(text: String) -> Result<Self, BadFault> {
        text.parse()
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> String {
        fault.to_string()
    }
}

/// The fault that the `number`-th request meets, if any.
#[must_use]
pub fn draw(faults: &[Fault], seed: u64, number: u64) -> Option<FaultKind> {
    let mut at = Rng::new(seed).fork(number).unit();
    faults.iter().find_map(|fault| {
        at -= fault.rate;
        (at < 0.0).then_some(fault.kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_as_they_are_written() {
        for kind in FaultKind::ALL {
            let fault = Fault { kind, rate: 0.25 };
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        let text = |t: &str| t.parse::<Fault>().unwrap_err().to_string();
        let kinds = text("418:0.1");
        assert!(FaultKind::ALL.iter().all(|k| kinds.contains(k.as_str())), "{kinds}");
        for bad in ["429", "429:", "429:x", "429:-0.1", "429:1.1", "429:NaN"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_kept_and_the_seed_decides() {
        let faults = ["429:0.2".parse().unwrap(), "500:0.1".parse().unwrap()];
        let count = |seed, kind| (0..10_000).filter(|&n| draw(&faults, seed, n) == Some(kind)).count();
        assert_eq!(count(3, FaultKind::RateLimited), count(3, FaultKind::RateLimited));
        assert!((1850..2150).contains(&count(3, FaultKind::RateLimited)));
        assert!((880..1120).contains(&count(3, FaultKind::InternalError)));
        let all = [Fault { kind: FaultKind::Stall, rate: 1.0 }];
        assert!((0..1000).all(|n| draw(&all, 0, n) == Some(FaultKind::Stall)));
        assert!((0..1000).all(|n| draw(&[], 0, n).is_none()));
    }
}
