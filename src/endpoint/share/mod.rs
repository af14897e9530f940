//! Limits that several processes share: the port that a limiter asks once its own limits let a request go, and its
//! adapter for Redis. Without one, a process has its limits to itself.

mod part;
mod redis;
mod settings;

pub use self::redis::Redis;
pub use settings::Settings;

use crate::{domain::Failure, endpoint};
use futures_util::future::BoxFuture;
use std::{fmt, sync::Arc, time::Duration};

/// Port. What several processes may ask of one endpoint together, kept where all of them see it. One ledger stands for one
/// endpoint and key.
pub trait Ledger: Send + Sync + fmt::Debug {
    /// Comes back when one request of `estimate` tokens may go out. Whoever asked first is served first, as far as the
    /// ledger can. Dropped before that, nothing is taken. A ledger that cannot be reached says so, and goes on with this
    /// process's part of the limits.
    fn reserve(&self, estimate: u64) -> BoxFuture<'_, ()>;
    /// Of a request reserved with `estimate`, `used` tokens were used. Returns at once; what it tells may get there later.
    fn settle(&self, estimate: u64, used: u64);
    /// The endpoint refused a request: none of those who share it starts before `pause` is over. Returns at once.
    fn pause(&self, pause: Duration);
    /// Why this process keeps to its part of the limits for now; empty: it does not.
    fn trouble(&self) -> String;
}

/// The ledger of one endpoint (of `Settings::each`); none where its limits are not shared. Talks to nobody yet.
///
/// # Errors
/// Of class `run`, where the settings cannot work.
pub fn ledger(endpoint: &endpoint::Settings) -> Result<Option<Arc<dyn Ledger>>, Failure> {
    if endpoint.share.url.trim().is_empty() {
        return Ok(None);
    }
    let ledger = Redis::new(&endpoint.share, &endpoint.url, endpoint.limits, |name| std::env::var(name).ok())?;
    Ok(Some(Arc::new(ledger)))
}
