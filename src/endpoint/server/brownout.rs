//! Times at which the server is slow or refuses, by schedule. Pure: the time is an argument, since the server began.

use serde::{Deserialize, Serialize};
use std::{str::FromStr, time::Duration};

/// What happens at such a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trouble {
    /// Everything takes place at this share of its speed, over 0 and at most 1.
    Slow(f64),
    /// Every request is refused with this status: 429, or a 5xx.
    Refuse(u16),
}

/// One such time. Written `AT,FOR,WHAT`: seconds, seconds, and a share of the speed, `429`, a 5xx or `refuse` (a 503).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Brownout {
    pub at: Duration,
    pub lasts: Duration,
    pub trouble: Trouble,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a brown-out: write AT,FOR,WHAT with seconds, seconds, and a share of the speed (over 0, at most 1), 429, 500 to 599 or refuse, such as 600,60,0.1"
)]
pub struct BadBrownout(String);

impl FromStr for Brownout {
    type Err = BadBrownout;

    fn from_str(text: &str) -> Result<Self, BadBrownout> {
        let parsed = || {
            let [at, lasts, what] = *text.split(',').map(str::trim).collect::<Vec<_>>() else { return None };
            let seconds = |text: &str| Duration::try_from_secs_f64(text.parse().ok()?).ok();
            let trouble = match what {
                "refuse" => Trouble::Refuse(503),
                "429" => Trouble::Refuse(429),
                status if status.parse().is_ok_and(|status| (500..600_u16).contains(&status)) => Trouble::Refuse(status.parse().ok()?),
                share => Trouble::Slow(share.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0)?),
            };
            Some(Brownout { at: seconds(at)?, lasts: seconds(lasts)?, trouble })
        };
        parsed().ok_or_else(|| BadBrownout(text.to_owned()))
    }
}

/// The trouble of this moment: of those that overlap, the one named last.
#[must_use]
pub fn at(schedule: &[Brownout], now: Duration) -> Option<Trouble> {
    schedule.iter().rev().find(|b| now >= b.at && now - b.at < b.lasts).map(|b| b.trouble)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_followed() {
        let schedule: Vec<Brownout> = ["10,20,0.25", "15,1.5,refuse", "100,1,429"].map(|b| b.parse().unwrap()).to_vec();
        let at = |seconds: f64| at(&schedule, Duration::from_secs_f64(seconds));
        assert_eq!([at(0.0), at(9.9), at(30.0), at(99.9)], [None; 4]);
        assert_eq!([at(10.0), at(29.9), at(16.5)], [Some(Trouble::Slow(0.25)); 3]);
        assert_eq!([at(15.0), at(16.4), at(100.0)], [Some(Trouble::Refuse(503)), Some(Trouble::Refuse(503)), Some(Trouble::Refuse(429))]);
    }

    #[test]
    fn what_is_no_brown_out_is_refused() {
        for bad in ["", "1,2", "1,2,3", "1,2,0", "-1,2,0.5", "1,inf,0.5", "1,2,NaN", "1,2,0.5,4", "a,b,c"] {
            let error = bad.parse::<Brownout>().unwrap_err().to_string();
            assert!(error.contains("600,60,0.1"), "{error}");
        }
    }
}
