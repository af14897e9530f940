//! Threads beside the event loop for work of milliseconds: thousands of episodes begin or end together.

use rustix::process::nice;
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};
use tokio::sync::oneshot;

/// How far they stand back where processors are scarce: a record can wait, and all episodes wait for the loop.
const NICE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// Takes work in the order in which it comes. Its threads end with it.
pub struct Beside(mpsc::Sender<Job>);

/// The work panicked.
#[derive(Debug, thiserror::Error)]
#[error("a bug of sweroll: it panicked; the log has where")]
pub struct Panicked;

impl Beside {
    /// # Errors
    /// Where no thread can be begun.
    pub fn new(threads: usize) -> io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..threads {
            let jobs = Arc::clone(&jobs);
            thread::Builder::new().name("records".into()).spawn(move || {
                // Where that is refused they are as all others.
                let _ = nice(NICE);
                let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
                while let Some(job) = next() {
                    job();
                }
            })?;
        }
        Ok(Beside(sender))
    }

    /// Waits for what the work comes to. It is done even where nobody waits any more.
    ///
    /// # Errors
    /// Where it panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Panicked> {
        let (answer, answered) = oneshot::channel();
        let job = move || {
            if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
                let _ = answer.send(result);
            }
        };
        // There are threads as long as there is a sender.
        let _ = self.0.send(Box::new(job));
        answered.await.map_err(|_| Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    #[tokio::test]
    async fn all_is_done_though_some_panic() {
        let beside = Beside::new(2).unwrap();
        let work = |n: u32| beside.run(move || if n.is_multiple_of(3) { panic!("{n}") } else { n });
        let done: Vec<Option<u32>> = join_all((0..30).map(work)).await.into_iter().map(Result::ok).collect();
        assert_eq!(done, (0..30).map(|n| (n % 3 != 0).then_some(n)).collect::<Vec<_>>());
    }
}
