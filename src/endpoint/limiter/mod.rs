//! The limits that all requests of a run share: requests and tokens a minute, and requests in flight, which adapt to
//! what the endpoint bears. The waiters form one line, first come first served; only its head looks at the limits, so
//! every event costs the same with ten thousand waiting as with one.

pub(super) mod bucket;
mod core;
mod line;
mod told;

pub use self::{
    bucket::Bucket,
    core::{Core, End, Limits, Snapshot, Start},
    told::Told,
};

use self::line::{Line, Place};
use crate::endpoint::share::Ledger;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// The limits with their line; shared by every client of one endpoint.
#[derive(Debug)]
pub struct Limiter {
    began: Instant,
    state: Mutex<State>,
    ledger: Option<Arc<dyn Ledger>>,
}

#[derive(Debug)]
struct State {
    core: Core,
    line: Line<Arc<Notify>>,
}

/// The right to one request, held while it is in flight. Dropped unsettled, it keeps its estimate charged.
#[derive(Debug)]
pub struct Permit<'a> {
    limiter: &'a Limiter,
    began: Duration,
    estimate: u64,
    end: End,
    /// The ledger, where there is one, holds the estimate too.
    reserved: bool,
}

/// A place in the line, given up when dropped.
struct Waiting<'a> {
    limiter: &'a Limiter,
    place: Place,
}

impl Limiter {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Limiter::shared(limits, None)
    }

    /// With a ledger, which is asked after these limits and may hold a request back for longer.
    #[must_use]
    pub fn shared(limits: Limits, ledger: Option<Arc<dyn Ledger>>) -> Self {
        Limiter { began: Instant::now(), state: Mutex::new(State { core: Core::new(limits), line: Line::default() }), ledger }
    }

    /// Waits for its turn, for a free place in flight, and for `estimate` tokens.
    pub async fn acquire(&self, estimate: u64) -> Permit<'_> {
        let mut permit = self.acquire_here(estimate).await;
        if let Some(ledger) = &self.ledger {
            // Dropped while it waits, nothing went out.
            permit.end = End::Refused;
            ledger.reserve(estimate).await;
            permit.reserved = true;
            permit.end = End::Unknown;
        }
        permit
    }

    async fn acquire_here(&self, estimate: u64) -> Permit<'_> {
        let woken = Arc::new(Notify::new());
        let waiting = Waiting { limiter: self, place: self.state().line.join(woken.clone()) };
        loop {
            match waiting.try_start(estimate) {
                Some(Start::Go { began }) => return Permit { limiter: self, began, estimate, end: End::Unknown, reserved: false },
                Some(Start::Until(at)) => {
                    let _ = tokio::time::timeout_at(self.began + at, woken.notified()).await;
                }
                Some(Start::Full) | None => woken.notified().await,
            }
        }
    }

    /// How long one more request would have to wait, as far as can be told.
    #[must_use]
    pub fn wait(&self, estimate: u64) -> Duration {
        let now = self.now();
        let state = self.state();
        state.core.wait(state.line.len(), estimate, now)
    }

    /// What a reply told of the limits. Requests and tokens a minute that hold now, where they are others than before.
    pub fn hear(&self, told: Told) -> Option<(u64, u64)> {
        let mut state = self.state();
        state.core.hear(told).then(|| state.core.rates())
    }

    /// Why the limits are not shared as they should be; empty: they are, or nobody is to share them.
    #[must_use]
    pub fn unshared(&self) -> String {
        self.ledger.as_ref().map(|ledger| ledger.trouble()).unwrap_or_default()
    }

    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = self.now();
        let state = self.state();
        state.core.snapshot(state.line.len(), now)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A panic elsewhere leaves the numbers whole: each operation is done before anything can panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake_head(&self) {
        if let Some(head) = self.line.head() {
            head.notify_one();
        }
    }
}

impl Waiting<'_> {
    /// None where others come first.
    fn try_start(&self, estimate: u64) -> Option<Start> {
        let now = self.limiter.now();
        let mut state = self.limiter.state();
        state.line.is_head(self.place).then(|| state.core.try_start(estimate, now))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.limiter.state();
        if state.line.leave(self.place) {
            state.wake_head();
        }
    }
}

impl Permit<'_> {
    /// The request is over, and how.
    pub fn settle(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let now = self.limiter.now();
        let mut state = self.limiter.state();
        let used = state.core.finish(self.began, self.estimate, self.end, now);
        state.wake_head();
        drop(state);
        if let (true, Some(ledger)) = (self.reserved, &self.limiter.ledger) {
            ledger.settle(self.estimate, used);
            if let End::Throttled { pause } = self.end {
                ledger.pause(pause);
            }
        }
    }
}
