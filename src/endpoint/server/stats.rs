//! What the server has seen and given.

use super::{fault::FaultKind, reply::Tokens};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Violations whose text is kept.
const MAX_VIOLATIONS: usize = 100;
/// Instances kept of those whose golden change could not be made.
const MAX_FAILED: usize = 100;

/// Counters since the server began; `GET /stat` as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Chat completion requests read.
    pub requests: u64,
    /// Responses of any path by status.
    pub replies: BTreeMap<u16, u64>,
    /// Connections open now, the most at one time, and accepted in all.
    pub connections: u64,
    pub max_connections: u64,
    pub accepted: u64,
    /// Chat completion requests being answered now, and the most at one time.
    pub in_flight: u64,
    pub max_in_flight: u64,
    /// Requests not let in, by limit or `brown-out`.
    pub refused: BTreeMap<String, u64>,
    /// By kind.
    pub faults: BTreeMap<String, u64>,
    /// Requests that broke the protocol, and what the first 100 of them did.
    pub violation_count: u64,
    pub violations: Vec<String>,
    /// Times that `gold` submitted without its change in place, and the first 100 instances of those.
    pub gold_failed_count: u64,
    pub gold_failed: Vec<String>,
    /// Of completions given.
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
}

#[derive(Debug, Default)]
struct Gauge {
    now: AtomicU64,
    most: AtomicU64,
    all: AtomicU64,
}

impl Gauge {
    fn enter(&self) {
        self.all.fetch_add(1, Relaxed);
        let now = self.now.fetch_add(1, Relaxed) + 1;
        self.most.fetch_max(now, Relaxed);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Relaxed);
    }
}

/// Shared counters.
#[derive(Debug, Default)]
pub struct Stats {
    connections: Gauge,
    flights: Gauge,
    rest: Mutex<Stat>,
}

/// Something counted as there while this lives.
#[derive(Debug)]
pub struct Present<'a>(&'a Gauge);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Stats {
    fn rest(&self) -> MutexGuard<'_, Stat> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn flight(&self) -> Present<'_> {
        self.flights.enter();
        Present(&self.flights)
    }

    #[must_use]
    pub fn connection(&self) -> Present<'_> {
        self.connections.enter();
        Present(&self.connections)
    }

    /// Number of the next request, from 0.
    pub fn request(&self) -> u64 {
        let mut rest = self.rest();
        rest.requests += 1;
        rest.requests - 1
    }

    pub fn reply(&self, status: u16) {
        *self.rest().replies.entry(status).or_default() += 1;
    }

    pub fn refused(&self, why: String) {
        *self.rest().refused.entry(why).or_default() += 1;
    }

    pub fn fault(&self, kind: FaultKind) {
        *self.rest().faults.entry(kind.as_str().to_owned()).or_default() += 1;
    }

    pub fn violation(&self, what: &str) {
        let mut rest = self.rest();
        rest.violation_count += 1;
        if rest.violations.len() < MAX_VIOLATIONS {
            rest.violations.push(what.to_owned());
        }
    }

    pub fn gold_failed(&self, id: &str) {
        let mut rest = self.rest();
        rest.gold_failed_count += 1;
        if rest.gold_failed.len() < MAX_FAILED && !rest.gold_failed.iter().any(|known| known == id) {
            rest.gold_failed.push(id.to_owned());
        }
    }

    pub fn tokens(&self, tokens: Tokens) {
        let mut rest = self.rest();
        rest.prompt_tokens += tokens.prompt;
        rest.cached_tokens += tokens.cached;
        rest.completion_tokens += tokens.completion;
    }

    /// The counters as they are now.
    #[must_use]
    pub fn read(&self) -> Stat {
        Stat {
            connections: self.connections.now.load(Relaxed),
            max_connections: self.connections.most.load(Relaxed),
            accepted: self.connections.all.load(Relaxed),
            in_flight: self.flights.now.load(Relaxed),
            max_in_flight: self.flights.most.load(Relaxed),
            ..self.rest().clone()
        }
    }
}
