//! What the scripted server is told.

use super::{
    brownout::Brownout,
    chance::Rng,
    fault::{BadFault, Fault},
    queue::Service,
    rate,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// Keeps the latencies' chance apart from the faults'.
const LATENCY: u64 = 0x6c61_7465;
/// Most times the median that a latency is.
const MAX_SPREAD: f64 = 20.0;

/// How the scripted model behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Script {
    /// Makes the golden change through the tools and submits.
    #[default]
    Gold,
    /// Submits at once, with nothing changed.
    Noop,
    /// Explores with searches, views, harmless edits and test runs, then submits.
    Wander,
    /// Sends every malformed thing that a model sends.
    Hostile,
    /// Runs one command a turn, then submits, at the least cost: requests are not read. For `sweroll bench`.
    Steady,
}

impl Script {
    pub const ALL: [Script; 5] = [Script::Gold, Script::Noop, Script::Wander, Script::Hostile, Script::Steady];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Script::Gold => "gold",
            Script::Noop => "noop",
            Script::Wander => "wander",
            Script::Hostile => "hostile",
            Script::Steady => "steady",
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a script: choose one of gold, noop, wander, hostile, steady")]
pub struct BadScript(pub String);

impl FromStr for Script {
    type Err = BadScript;

    fn from_str(text: &str) -> Result<Self, BadScript> {
        Script::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| BadScript(text.to_owned()))
    }
}

/// Settings of the scripted server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub script: Script,
    /// Time from a request read to its completion sent, milliseconds. Refusals come at once. Default 0.
    pub latency_ms: u64,
    /// Spread of the latency, sigma of a log-normal distribution whose median is `latency_ms`; 0: always the same. Default 0.
    pub latency_sigma: f64,
    /// Time between the pieces of a streamed reply, milliseconds. Default 0.
    pub piece_ms: u64,
    /// Their rates sum to at most 1. Default: none.
    pub faults: Vec<Fault>,
    /// Decides every fault and every choice of a policy. Default 0.
    pub seed: u64,
    /// The one model served; another is a 404. Default: any name is served.
    pub model_name: Option<String>,
    /// Requests without this bearer token get a 401. Default: none is asked for.
    #[serde(skip_serializing)]
    pub api_key: Option<String>,
    /// Prompts over this many tokens get a context overflow. Default 1,000,000.
    pub max_context_tokens: u64,
    /// Turns of `wander` and `steady` before they submit. Default 8.
    pub wander_turns: u64,
    /// Replies carry `reasoning_content`. Default off.
    pub reasoning: bool,
    /// An assistant message with calls that comes back without its `reasoning_content` is a violation, as DeepSeek's
    /// thinking mode has it. Default off.
    pub reasoning_required: bool,
    /// A prompt that is not its own earlier one, continued, is a violation. Default on.
    pub append_only: bool,
    /// Largest request body, bytes. Default 64 MiB.
    pub max_body_bytes: usize,
    /// A `stall` or `stall-midway` ends after this long, milliseconds, where the client does not give up before. Default 600,000.
    pub stall_ms: u64,
    /// What `429-retry-after` asks for, seconds. Default 1.
    pub retry_after_s: u64,
    /// Requests and tokens let in. Default: all.
    pub limits: rate::Limits,
    /// The machine that serves. Default: none, replies take no time besides the latency.
    pub service: Service,
    /// When the server is slow or refuses. Default: never.
    pub brownouts: Vec<Brownout>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            script: Script::default(),
            latency_ms: 0,
            latency_sigma: 0.0,
            piece_ms: 0,
            faults: Vec::new(),
            seed: 0,
            model_name: None,
            api_key: None,
            max_context_tokens: 1_000_000,
            wander_turns: 8,
            reasoning: false,
            reasoning_required: false,
            append_only: true,
            max_body_bytes: 64 << 20,
            stall_ms: 600_000,
            retry_after_s: 1,
            limits: rate::Limits::default(),
            service: Service::default(),
            brownouts: Vec::new(),
        }
    }
}

impl Settings {
    /// Of the `number`-th request.
    #[must_use]
    pub fn latency(&self, number: u64) -> Duration {
        let median = Duration::from_millis(self.latency_ms);
        if self.latency_sigma <= 0.0 {
            return median;
        }
        let mut rng = Rng::new(self.seed ^ LATENCY).fork(number);
        // Box and Muller's normal deviate.
        let radius = (-2.0 * (1.0 - rng.unit()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * rng.unit()).cos();
        median.mul_f64((self.latency_sigma * normal.clamp(-4.0, 4.0)).exp().min(MAX_SPREAD))
    }

    /// # Errors
    /// `BadFault` where the rates sum to more than 1.
    pub fn check(&self) -> Result<(), BadFault> {
        let sum: f64 = self.faults.iter().map(|f| f.rate).sum();
        if sum > 1.0 + 1e-9 { Err(BadFault::Sum(sum)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_a_name() {
        for script in Script::ALL {
            assert_eq!(script.to_string().parse::<Script>(), Ok(script));
        }
        let error = "golden".parse::<Script>().unwrap_err().to_string();
        assert!(Script::ALL.iter().all(|s| error.contains(s.as_str())), "{error}");
    }

    #[test]
    fn rates_sum_to_at_most_one() {
        let with = |faults: &[&str]| Settings { faults: faults.iter().map(|f| f.parse().unwrap()).collect(), ..Settings::default() };
        assert!(with(&["429:0.3", "500:0.7"]).check().is_ok());
        assert!(with(&["429:0.4", "500:0.7"]).check().unwrap_err().to_string().contains("1.1"));
    }

    #[test]
    fn latencies_have_their_median_and_their_spread() {
        let settings = Settings { latency_ms: 1000, latency_sigma: 0.5, seed: 3, ..Settings::default() };
        let mut all: Vec<u128> = (0..2000).map(|n| settings.latency(n).as_millis()).collect();
        assert_eq!(all[7], settings.latency(7).as_millis());
        all.sort_unstable();
        // exp(0.5 * 1.2816) is 1.90.
        assert!((950..1050).contains(&all[1000]) && (1750..2050).contains(&all[1800]), "{} {}", all[1000], all[1800]);
        assert_eq!(Settings { latency_sigma: 0.0, ..settings }.latency(7).as_millis(), 1000);
    }

    #[test]
    fn the_key_is_never_written() {
        let settings = Settings { api_key: Some("sk-secret".into()), ..Settings::default() };
        assert!(!serde_json::to_string(&settings).unwrap().contains("sk-secret"));
    }
}
