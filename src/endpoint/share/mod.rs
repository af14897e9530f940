//! Limits that several processes share: the port that a limiter asks once its own limits let a request go.

use futures_util::future::BoxFuture;
use std::{fmt, time::Duration};

/// Port. What several processes may ask of one endpoint together, kept where all of them see it. One ledger stands for one
/// endpoint and key.
pub trait Ledger: Send + Sync + fmt::Debug {
    /// Comes back when one request of `estimate` tokens may go out. Whoever asked first is served first, as far as the
    /// ledger can. Dropped before that, nothing is taken. A ledger that cannot be reached lets everything pass, and says so.
    fn reserve(&self, estimate: u64) -> BoxFuture<'_, ()>;
    /// Of a request reserved with `estimate`, `used` tokens were used. Returns at once; what it tells may get there later.
    fn settle(&self, estimate: u64, used: u64);
    /// The endpoint refused a request: none of those who share it starts before `pause` is over. Returns at once.
    fn pause(&self, pause: Duration);
}
