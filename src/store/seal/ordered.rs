//! Jobs on many threads, their results in order on one, with a bound on what is under way.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// How much may be under way.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub threads: usize,
    /// Of the needs of the jobs at work; a job that needs more goes alone.
    pub budget: u64,
}

/// Results that may wait for an earlier one, a thread.
const WAITING_PER_THREAD: usize = 2;

/// Has each job done by `work`, on threads that each have a tool of their own, and hands the results to `sink` in the order of
/// the jobs.
///
/// # Errors
/// The first in order; nothing behind it reaches `sink`.
pub fn ordered<J: Sync, W, T: Send, E: Send>(
    jobs: &[J],
    bounds: Bounds,
    need: impl Fn(&J) -> u64 + Sync,
    tool: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, &J) -> Result<T, E> + Sync,
    mut sink: impl FnMut(&J, T) -> Result<(), E>,
) -> Result<(), E> {
    let line = Line { jobs, bounds, need: &need, state: Mutex::new(State::default()), moved: Condvar::new() };
    let (line, tool, work) = (&line, &tool, &work);
    std::thread::scope(|scope| {
        let _stop = Stop { line, always: true };
        for _ in 0..bounds.threads.min(jobs.len()) {
            scope.spawn(move || {
                let _stop = Stop { line, always: false };
                let mut tool = tool();
                while let Some(number) = line.take() {
                    line.put(number, work(&mut tool, &jobs[number]));
                }
            });
        }
        for job in jobs {
            let Some(result) = line.next() else { break };
            sink(job, result?)?;
        }
        Ok(())
    })
}

struct Line<'j, J, T, N> {
    jobs: &'j [J],
    bounds: Bounds,
    need: N,
    state: Mutex<State<T>>,
    moved: Condvar,
}

struct State<T> {
    /// Jobs that were taken, and results that were handed over.
    taken: usize,
    sunk: usize,
    /// Needs of the jobs at work.
    used: u64,
    waiting: BTreeMap<usize, T>,
    stopped: bool,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        State { taken: 0, sunk: 0, used: 0, waiting: BTreeMap::new(), stopped: false }
    }
}

impl<J, T, N: Fn(&J) -> u64> Line<'_, J, T, N> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next job, once there is room for it; none at the end.
    fn take(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            let job = self.jobs.get(state.taken).filter(|_| !state.stopped)?;
            let need = (self.need)(job);
            let in_reach = state.taken < state.sunk + (WAITING_PER_THREAD + 1) * self.bounds.threads.max(1);
            if in_reach && (state.used == 0 || state.used.saturating_add(need) <= self.bounds.budget) {
                state.used += need;
                state.taken += 1;
                return Some(state.taken - 1);
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn put(&self, number: usize, result: T) {
        let mut state = self.state();
        state.used -= (self.need)(&self.jobs[number]);
        state.waiting.insert(number, result);
        self.moved.notify_all();
    }

    /// The next result in order; none where a thread panicked, which the scope passes on.
    fn next(&self) -> Option<T> {
        let mut state = self.state();
        loop {
            let next = state.sunk;
            if let Some(result) = state.waiting.remove(&next) {
                state.sunk += 1;
                self.moved.notify_all();
                return Some(result);
            }
            if state.stopped {
                return None;
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// However the sink ends, the threads do too; and a thread's panic ends the sink's wait.
struct Stop<'l, 'j, J, T, N: Fn(&J) -> u64> {
    line: &'l Line<'j, J, T, N>,
    always: bool,
}

impl<J, T, N: Fn(&J) -> u64> Drop for Stop<'_, '_, J, T, N> {
    fn drop(&mut self) {
        if self.always || std::thread::panicking() {
            self.line.state().stopped = true;
            self.line.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    const BOUNDS: Bounds = Bounds { threads: 4, budget: 100 };

    #[test]
    fn results_come_in_order_and_within_the_budget() {
        let jobs: Vec<u64> = (0..500).map(|i| if i % 50 == 7 { 400 } else { i % 60 }).collect();
        let (used, alone) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut got = Vec::new();
        let work = |_: &mut (), job: &u64| {
            let now = used.fetch_add(*job, SeqCst) + job;
            alone.fetch_add(u64::from(now > 100 && now != 400), SeqCst);
            std::thread::yield_now();
            used.fetch_sub(*job, SeqCst);
            Ok::<_, ()>(*job)
        };
        let take = |job: &u64, result| {
            assert_eq!(*job, result);
            got.push(result);
            Ok(())
        };
        ordered(&jobs, BOUNDS, |job| *job, || (), work, take).unwrap();
        assert_eq!((got, alone.into_inner()), (jobs, 0));
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        let jobs: Vec<u64> = (0..100).collect();
        for sink_fails in [false, true] {
            let mut sunk = 0;
            let work = |_: &mut (), job: &u64| if *job >= 30 && !sink_fails { Err(*job) } else { Ok(*job) };
            let take = |_: &u64, result| {
                sunk += 1;
                if sink_fails && result == 30 { Err(30) } else { Ok(()) }
            };
            assert_eq!(ordered(&jobs, BOUNDS, |_| 1, || (), work, take), Err(30));
            assert_eq!(sunk, 30 + u64::from(sink_fails));
        }
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_passed_on() {
        let work = |_: &mut (), job: &u64| if *job == 5 { panic!("no") } else { Ok::<_, ()>(()) };
        let _ = ordered(&(0..50).collect::<Vec<u64>>(), BOUNDS, |_| 1, || (), work, |_, ()| Ok(()));
    }
}
