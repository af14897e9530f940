//! Work on many threads: what is under way is bounded by the threads.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::sync_channel,
    },
    thread,
};

/// Hands every job to `work`, on `threads` threads (0: one a core), and what comes of each to `sink`, on this one, in any order.
pub(super) fn each<'j, J: Sync, R: Send>(threads: usize, jobs: &'j [J], work: impl Fn(&'j J) -> R + Sync, mut sink: impl FnMut(&'j J, R)) {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { cores() } else { threads }.min(jobs.len());
    let next = AtomicUsize::new(0);
    let (send, receive) = sync_channel(threads);
    let (next, work) = (&next, &work);
    thread::scope(|scope| {
        for _ in 0..threads {
            let send = send.clone();
            scope.spawn(move || {
                while let Some(job) = jobs.get(next.fetch_add(1, Relaxed)) {
                    if send.send((job, work(job))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        receive.into_iter().for_each(|(job, result)| sink(job, result));
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_job_is_done_once() {
        for threads in [0, 1, 3] {
            let jobs: Vec<u64> = (0..100).collect();
            let mut done = Vec::new();
            super::each(threads, &jobs, |n| n * 2, |job, result| done.push((*job, result)));
            done.sort_unstable();
            assert_eq!(done, (0..100).map(|n| (n, n * 2)).collect::<Vec<_>>());
        }
        super::each(2, &[] as &[u8], |_| (), |_, ()| unreachable!());
    }
}
