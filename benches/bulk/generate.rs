//! A run directory of so many bytes, made through the store as a run makes it: sample by sample, attempts of all kinds.

use crate::{
    chance::Chance,
    corpus,
    episode::{self, Task},
};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use sweroll::{
    agent::prompt::{self, Scaffold},
    domain::{Attempt, AttemptId, EpisodeId, Instance},
    store::{Plan, RunDir, Settings, Store, StoreError, Stream, instances::InstancesWriter},
    tokens::Counter,
};
use tokio::sync::Semaphore;

const SAMPLES: u32 = 5;
/// Bytes of a record with all that lies beside it, on the average, as measured.
const MEAN_RECORD: f64 = 185_000.0;
/// Of all episodes: not run in the fifth sample, failed first and run again, superseded by a rerun.
const LEFT_OPEN: f64 = 0.3;
const FAILED_FIRST: f64 = 0.04;
const SUPERSEDED: f64 = 0.03;

/// Commits under way at a time.
const COMMITS: usize = 64;

pub fn generate(dir: &Path, gigabytes: f64, seed: u64, corpus: Option<&Path>, threads: usize) {
    let corpus = corpus::load(corpus);
    let per_instance = f64::from(SAMPLES) - LEFT_OPEN + f64::from(SAMPLES) * (FAILED_FIRST / 3.0 + SUPERSEDED);
    let count = ((gigabytes * 1e9 / MEAN_RECORD / per_instance) as usize).max(2);
    let tasks: Vec<Task<'_>> = (0..count).map(|number| Task::new(&corpus, seed, number)).collect();
    let store = Arc::new(Store::open(new_run(dir, tasks.iter().map(|task| &task.instance)), Settings::default()).expect("a store"));
    let scaffold = Scaffold::load(&prompt::Settings::default(), 100).expect("a scaffold");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime");

    let (next, room, counter) = (AtomicUsize::new(0), Arc::new(Semaphore::new(COMMITS)), Counter::default());
    let work = |at: usize| {
        let (task, sample) = (&tasks[at % count], (at / count) as u32);
        let mut chance = Chance::new(&[seed, at as u64, 77]);
        if sample + 1 == SAMPLES && chance.is(LEFT_OPEN) {
            return;
        }
        let episode = EpisodeId { instance: task.instance.instance_id.clone(), sample };
        let commit = |attempt: u32, broken: bool| {
            let id = AttemptId { episode: episode.clone(), attempt: Attempt(attempt) };
            let mut trajectory = task.attempt(id, &scaffold, broken);
            counter.fill(&mut trajectory).expect("a conversation");
            let stream = if broken { Stream::Attempts } else { Stream::Trajectories };
            let (outcome, store) = (episode::outcome(&trajectory, !broken), Arc::clone(&store));
            let permit = runtime.block_on(Arc::clone(&room).acquire_owned()).expect("it stays open");
            runtime.spawn(async move {
                store.commit(&trajectory, outcome, stream).await.expect("a commit");
                drop(store);
                drop(permit);
            });
        };
        let failed = chance.is(FAILED_FIRST);
        if failed {
            commit(1, true);
        }
        commit(1 + u32::from(failed), false);
        if chance.is(SUPERSEDED) {
            commit(2 + u32::from(failed), false);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count * SAMPLES as usize {
                        break;
                    }
                    work(at);
                }
            });
        }
    });
    runtime.block_on(async { drop(room.acquire_many(COMMITS as u32).await.expect("it stays open")) });
    let store = Arc::into_inner(store).expect("no commit is left");
    let manifest = runtime.block_on(store.close()).expect("a manifest");
    let sum = |of: fn(&sweroll::store::manifest::ShardEntry) -> u64| manifest.shards.iter().map(of).sum::<u64>();
    eprintln!(
        "{} records of {count} instances, {:.2} GB, {:.2} GB compressed, {:.2} G tokens",
        sum(|s| s.rows),
        sum(|s| s.raw_bytes) as f64 / 1e9,
        sum(|s| s.bytes) as f64 / 1e9,
        sum(|s| s.tokens) as f64 / 1e9
    );
}

fn new_run<'a>(dir: &Path, instances: impl Iterator<Item = &'a Instance>) -> RunDir {
    RunDir::create(dir, &toml::Table::new(), |layout| -> Result<Plan, StoreError> {
        let mut writer = InstancesWriter::create(layout)?;
        let mut count = 0;
        for instance in instances {
            writer.push(instance)?;
            count += 1;
        }
        writer.finish()?;
        let digests = BTreeMap::from([("dataset".to_owned(), "c0ffee".to_owned())]);
        Ok(Plan { model: "deepseek-v3.2".into(), scaffold: "scale-swe".into(), instances: count, samples: SAMPLES, digests })
    })
    .expect("a new directory")
}
