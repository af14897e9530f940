//! `sweroll bench store`: the store alone. What a commit costs, however many commit at the same time, and how many bytes of records a
//! second become shards.

use super::{
    episodes::BENCH_VERSION,
    files,
    machine::{self, Machine},
    meter::Histogram,
    records, rows,
};
use crate::{
    domain::{Attempt, AttemptId, EpisodeId, InstanceId},
    engine,
    store::{Disk, Record, RunDir, Settings, Store, Stream},
};
use serde::Serialize;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Committers at the same time, and the commits of all of them.
const GROUPS: [(usize, usize); 3] = [(1, 300), (100, 6000), (1000, 20_000)];
/// Bytes of the messages of a record that is there for its fact, and of one that is there for its bytes.
const SMALL: usize = 500;
const LARGE: usize = 165_000;
/// Committers of the large ones.
pub const WRITERS: usize = 100;

/// What a commit cost, small records: compressed, written, synced, journaled, synced.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    pub committers: usize,
    pub commits: usize,
    /// The whole time, and the process's processor time, by the commits.
    pub wall_us: f64,
    pub cpu_us: f64,
    /// One committer's wait for its answer.
    pub answer_us_p50: u64,
    pub answer_us_p99: u64,
    /// Of shard and journal.
    pub syncs: u64,
}

/// Large records on their way into shards.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shards {
    pub records: usize,
    pub raw_bytes: u64,
    pub bytes: u64,
    pub wall_s: f64,
    pub cpu_s: f64,
    /// A second, before and after compression.
    pub raw_mb_per_s: f64,
    pub mb_per_s: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub schema_version: u32,
    pub machine: Machine,
    /// Where the store lay; on `tmpfs` a sync costs nothing.
    pub file_system: String,
    pub groups: Vec<Group>,
    pub shards: Shards,
}

#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct StoreBenchError {
    what: &'static str,
    why: String,
}

fn broken(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> StoreBenchError {
    move |why| StoreBenchError { what, why: why.to_string() }
}

/// Works in `dir`, with `megabytes` of large records.
///
/// # Errors
/// Of the disk.
pub fn measure(dir: &Path, megabytes: usize) -> Result<Report, StoreBenchError> {
    let machine = Machine::look();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| broken("no async runtime")(&e))?;
    let mut groups = Vec::new();
    for (committers, commits) in GROUPS {
        let run = Run::make(&dir.join(format!("group-{committers}")), commits, SMALL)?;
        let (wall, cpu, answers, syncs, _) = run.commit(&runtime, committers)?;
        groups.push(Group {
            committers,
            commits,
            wall_us: wall.as_secs_f64() * 1e6 / commits as f64,
            cpu_us: cpu.as_secs_f64() * 1e6 / commits as f64,
            answer_us_p50: answers.quantile(0.5),
            answer_us_p99: answers.quantile(0.99),
            syncs,
        });
    }
    let records = (megabytes * 1_000_000 / LARGE).max(1);
    let run = Run::make(&dir.join("shards"), records, LARGE)?;
    let (wall, cpu, _, _, (raw_bytes, bytes)) = run.commit(&runtime, WRITERS)?;
    let a_second = |bytes: u64| bytes as f64 / 1e6 / wall.as_secs_f64();
    let shards = Shards {
        records,
        raw_bytes,
        bytes,
        wall_s: wall.as_secs_f64(),
        cpu_s: cpu.as_secs_f64(),
        raw_mb_per_s: a_second(raw_bytes),
        mb_per_s: a_second(bytes),
    };
    Ok(Report { schema_version: BENCH_VERSION, machine, file_system: machine::file_system(dir), groups, shards })
}

/// A run with an episode a record.
pub(super) struct Run {
    store: Store,
    disk: Disk,
    records: Vec<Record>,
}

impl Run {
    pub fn make(dir: &Path, records: usize, bytes: usize) -> Result<Self, StoreBenchError> {
        std::fs::create_dir_all(dir).map_err(|e| broken("the directory")(&e))?;
        let (list, out, disk) = (dir.join("instances.jsonl"), dir.join("run"), Disk::default());
        rows::write(&list, records as u64).map_err(|e| broken("the instances")(&e))?;
        let opened = engine::open(&out, &files::settings(&list, 1), || Ok(())).map_err(|e| broken("the run")(&e))?;
        drop(opened);
        let dir = RunDir::open(&out).map_err(|e| broken("the run")(&e))?;
        let store = Store::open_on(dir, Settings::default(), disk.clone()).map_err(|e| broken("the run")(&e))?;
        let ids: Vec<InstanceId> = store.instances().ids().to_vec();
        let records = ids.into_iter().zip(0..).map(|(instance, number)| record(instance, number, bytes)).collect::<Result<_, _>>()?;
        Ok(Run { store, disk, records })
    }

    /// Wall time, processor time, waits for answers, syncs, bytes before and after compression.
    #[expect(clippy::type_complexity, reason = "taken apart where it is called")]
    pub fn commit(
        self,
        runtime: &tokio::runtime::Runtime,
        committers: usize,
    ) -> Result<(Duration, Duration, Histogram, u64, (u64, u64)), StoreBenchError> {
        let Run { store, disk, records } = self;
        let store = Arc::new(store);
        let mut shares: Vec<Vec<Record>> = (0..committers).map(|_| Vec::new()).collect();
        records.into_iter().enumerate().for_each(|(number, record)| shares[number % committers].push(record));
        let (began, cpu, syncs) = (Instant::now(), machine::cpu_time(), disk.syncs());
        let answers = runtime.block_on(async {
            let one = |share: Vec<Record>| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    let mut waits = Vec::with_capacity(share.len());
                    for record in share {
                        let began = Instant::now();
                        store.commit_record(record).await?;
                        waits.push(began.elapsed());
                    }
                    Ok::<_, crate::store::StoreError>(waits)
                })
            };
            let tasks: Vec<_> = shares.into_iter().map(one).collect();
            let mut answers = Histogram::default();
            for task in tasks {
                let waits = task.await.map_err(|e| broken("a committer")(&e))?.map_err(|e| broken("a commit")(&e))?;
                waits.into_iter().for_each(|wait| answers.record(wait));
            }
            Ok::<_, StoreBenchError>(answers)
        })?;
        let (wall, cpu, syncs) = (began.elapsed(), machine::cpu_time().saturating_sub(cpu), disk.syncs() - syncs);
        let bytes = store
            .with_state(|state| state.shards().values().fold((0, 0), |(raw, bytes), shard| (raw + shard.raw_bytes, bytes + shard.bytes)));
        Ok((wall, cpu, answers, syncs, bytes))
    }
}

fn record(instance: InstanceId, number: u64, bytes: usize) -> Result<Record, StoreBenchError> {
    let id = AttemptId { episode: EpisodeId { instance, sample: 0 }, attempt: Attempt::FIRST };
    let trajectory =
        records::trajectory(records::entries(&id, number, bytes)).ok_or("it has no beginning").map_err(|e| broken("a record")(&e))?;
    let outcome = records::outcome(&trajectory);
    Record::new(&trajectory, outcome, Stream::Trajectories, Settings::default().max_record_bytes).map_err(|e| broken("a record")(&e))
}
