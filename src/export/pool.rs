//! Work on blocks of bytes on many threads, whose results come back in the order in which the blocks were given.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    thread::Scope,
};

struct Job<R> {
    block: Vec<u8>,
    done: SyncSender<R>,
}

/// Threads that work, and what they have not handed back yet. `T` goes with a block to its result.
pub struct Pool<T, R> {
    jobs: std::sync::mpsc::Sender<Job<R>>,
    waiting: VecDeque<(T, usize, Receiver<R>)>,
    under_way: usize,
    max_bytes: usize,
}

impl<T, R: Send> Pool<T, R> {
    /// `max_bytes`: of blocks under way; a larger block goes alone. `worker` makes what a thread works with. The threads end when the
    /// pool is dropped.
    pub fn start<'scope, W: FnMut(Vec<u8>) -> R>(
        scope: &'scope Scope<'scope, '_>,
        threads: usize,
        max_bytes: usize,
        worker: impl Fn() -> W + Send + Sync + 'scope,
    ) -> Self
    where
        R: 'scope,
    {
        let (jobs, queue) = channel::<Job<R>>();
        let shared = Arc::new((Mutex::new(queue), worker));
        for _ in 0..threads.max(1) {
            let shared = Arc::clone(&shared);
            scope.spawn(move || {
                let (queue, worker) = &*shared;
                let mut work = worker();
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Job { block, done }) = job else { break };
                    // Nobody waits any more where the writer has failed.
                    let _ = done.send(work(block));
                }
            });
        }
        Pool { jobs, waiting: VecDeque::new(), under_way: 0, max_bytes }
    }

    /// Gives a block to the threads. Before, waits for as many of the first results as it takes to stay within the bytes.
    pub fn put<E>(&mut self, tag: T, block: Vec<u8>, mut sink: impl FnMut(T, R) -> Result<(), E>) -> Result<(), E> {
        while self.under_way > 0 && self.under_way + block.len() > self.max_bytes {
            self.pop(&mut sink)?;
        }
        let (done, result) = sync_channel(1);
        self.under_way += block.len();
        self.waiting.push_back((tag, block.len(), result));
        // The queue lives as long as a thread does; without one, `pop` tells.
        let _ = self.jobs.send(Job { block, done });
        Ok(())
    }

    /// Waits for all that is under way.
    pub fn finish<E>(mut self, mut sink: impl FnMut(T, R) -> Result<(), E>) -> Result<(), E> {
        while !self.waiting.is_empty() {
            self.pop(&mut sink)?;
        }
        Ok(())
    }

    fn pop<E>(&mut self, sink: &mut impl FnMut(T, R) -> Result<(), E>) -> Result<(), E> {
        let Some((tag, bytes, result)) = self.waiting.pop_front() else { return Ok(()) };
        self.under_way -= bytes;
        // The scope passes the panic of a worker on.
        let result = result.recv().unwrap_or_else(|_| std::panic::panic_any("a thread that encodes has panicked"));
        sink(tag, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_back_in_order_and_within_the_bytes() {
        let mut got = Vec::new();
        std::thread::scope(|scope| {
            let mut pool = Pool::start(scope, 3, 100, || {
                |block: Vec<u8>| {
                    std::thread::sleep(std::time::Duration::from_micros(u64::from(block[0] % 7) * 200));
                    block[0]
                }
            });
            for n in 0..50u8 {
                let size = if n == 20 { 500 } else { 30 };
                let sink = |tag: u8, result: u8| {
                    got.push((tag, result));
                    Ok::<_, ()>(())
                };
                pool.put(n, vec![n; size], sink).unwrap();
                assert!(pool.under_way <= 100 || pool.waiting.len() == 1);
            }
            pool.finish(|tag, result| {
                got.push((tag, result));
                Ok::<_, ()>(())
            })
            .unwrap();
        });
        assert_eq!(got, (0..50).map(|n| (n, n)).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_of_the_sink_ends_it() {
        std::thread::scope(|scope| {
            let mut pool = Pool::start(scope, 2, 10, || |block: Vec<u8>| block.len());
            pool.put((), vec![0; 10], |(), _| Ok::<_, &str>(())).unwrap();
            assert_eq!(pool.put((), vec![0; 10], |(), _| Err("full")), Err("full"));
        });
    }
}
