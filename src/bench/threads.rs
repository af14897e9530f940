//! Processor time of this process by what its threads do: workers, blocking pool, the store's writer, the spool's.

use rustix::{
    thread::gettid,
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::runtime::Builder;

/// User and system time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Time {
    pub user: Duration,
    pub system: Duration,
}

/// What the threads of one name took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub name: String,
    pub cpu_s: f64,
}

/// Keeps what threads that ended have taken.
#[derive(Debug, Clone, Default)]
pub struct Threads(Arc<Mutex<BTreeMap<String, Duration>>>);

/// Name, user and system time of a line of `/proc/*/stat`.
#[must_use]
pub fn stat(line: &str) -> Option<(&str, Time)> {
    let (name, rest) = line.rsplit_once(')')?;
    // After the name: state, then ten numbers, then user and system time in ticks.
    let mut ticks = rest.split(' ').skip(12).map_while(|n| n.parse::<u64>().ok());
    let mut next = || Some(Duration::from_secs(1).mul_f64(ticks.next()? as f64 / rustix::param::clock_ticks_per_second() as f64));
    Some((name.split_once('(')?.1, Time { user: next()?, system: next()? }))
}

/// Of this process, ended threads included.
#[must_use]
pub fn process() -> Time {
    fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(stat).map_or_else(Time::default, |(_, time)| time)
}

impl Threads {
    /// A runtime's so many workers and its blocking pool have names of their own, and what they took is kept when they end.
    pub fn told_apart<'b>(&self, builder: &'b mut Builder, workers: usize) -> &'b mut Builder {
        let (begun, ended) = (AtomicUsize::new(0), self.clone());
        // The workers are the first threads that a runtime begins.
        let name = move || if begun.fetch_add(1, Relaxed) < workers { "workers" } else { "blocking" }.to_owned();
        builder.thread_name_fn(name).on_thread_stop(move || ended.ended())
    }

    /// Of the thread that calls this, which is about to end.
    fn ended(&self) {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let time = Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default());
        let line = fs::read_to_string(format!("/proc/self/task/{}/stat", gettid().as_raw_nonzero())).unwrap_or_default();
        let name = stat(&line).map_or("others", |(name, _)| name).to_owned();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += time;
    }

    /// By name, since the process began.
    #[must_use]
    pub fn look(&self) -> BTreeMap<String, Duration> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            // One that ended meanwhile is not there to be read.
            let line = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            if let Some((name, time)) = stat(&line) {
                *all.entry(name.to_owned()).or_default() += time.user + time.system;
            }
        }
        all
    }
}

/// What was taken between two looks, the most first; what no thread with a name took is `others`.
#[must_use]
pub fn shares(before: &BTreeMap<String, Duration>, after: &BTreeMap<String, Duration>, whole: Duration) -> Vec<Share> {
    let took = |(name, time): (&String, &Duration)| (name.clone(), time.saturating_sub(before.get(name).copied().unwrap_or_default()));
    let mut all: Vec<_> = after.iter().map(took).collect();
    let named: Duration = all.iter().map(|(_, time)| *time).sum();
    all.push(("others".to_owned(), whole.saturating_sub(named)));
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.into_iter().filter(|(_, time)| !time.is_zero()).map(|(name, time)| Share { name, cpu_s: time.as_secs_f64() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read_whatever_the_name() {
        let line = "7 (a b) c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        let (name, time) = stat(line).unwrap();
        let tick = 1000 / rustix::param::clock_ticks_per_second();
        assert_eq!((name, time.user.as_millis() as u64, time.system.as_millis() as u64), ("a b) c)", 250 * tick, 50 * tick));
        assert_eq!(stat("7 (a) S 1 2"), None);
    }

    #[test]
    fn what_a_thread_took_is_counted_after_its_end_too() {
        let threads = Threads::default();
        let before = threads.look();
        let busy = || {
            let begun = clock_gettime(ClockId::ThreadCPUTime);
            while clock_gettime(ClockId::ThreadCPUTime).tv_sec == begun.tv_sec
                && clock_gettime(ClockId::ThreadCPUTime).tv_nsec < begun.tv_nsec + 40_000_000
            {}
        };
        let runtime = threads.told_apart(Builder::new_multi_thread().worker_threads(1), 1).build().unwrap();
        runtime.block_on(async { tokio::task::spawn_blocking(busy).await.unwrap() });
        runtime.block_on(async { tokio::spawn(async move { busy() }).await.unwrap() });
        drop(runtime);
        let shares = shares(&before, &threads.look(), Duration::ZERO);
        for name in ["workers", "blocking"] {
            let share = shares.iter().find(|share| share.name == name).unwrap_or_else(|| panic!("{name}: {shares:?}"));
            assert!(share.cpu_s >= 0.03, "{shares:?}");
        }
    }
}
