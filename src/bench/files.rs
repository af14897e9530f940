//! `sweroll bench files`: how long a run of many instances or many episodes takes to begin, to go on, and to be summed up. Each is
//! a process of its own, as it is for a user.

use super::{
    episodes::BENCH_VERSION,
    machine::{self, Machine},
    rows,
};
use crate::{
    config::{Backend, Settings},
    domain::{Attempt, AttemptId, EpisodeId, ExitReason, InstanceId, Resolved, Verdict, event::Outcome, transcript::Usage},
    engine,
    store::{
        Disk, Location, Store, Stream, View,
        fact::{Committed, Fact},
        journal::Journal,
    },
};
use serde::Serialize;
use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::Instant,
};

/// Compressed bytes of a made-up record: of 250,000, a live shard of 125 MB, which is as full as one gets.
const FRAME: u64 = 500;
/// Samples of each instance in the run that is resumed; the last one of each is outstanding.
const SAMPLES: u32 = 6;
/// Facts written at a time.
const BATCH: usize = 8192;

/// A step that is a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// A new run: instances read, checked and frozen, the store opened, the outstanding episodes known.
    Startup,
    /// A run that is gone on with: its journal folded, its live shard's digest taken.
    Resume,
    /// `sweroll summary` of it.
    Summary,
}

impl Part {
    pub const ALL: [Part; 3] = [Part::Startup, Part::Resume, Part::Summary];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Part::Startup => "startup",
            Part::Resume => "resume",
            Part::Summary => "summary",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    pub part: Part,
    /// Of the whole process.
    pub wall_s: f64,
    /// Processor time of all its threads: where it is much less than `wall_s`, the process waited for others.
    pub cpu_s: f64,
    pub peak_mib: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub schema_version: u32,
    pub machine: Machine,
    pub rows: u64,
    pub facts: u64,
    pub steps: Vec<Step>,
}

#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct FilesError {
    what: String,
    why: String,
}

fn broken(what: impl Into<String>, why: impl std::fmt::Display) -> FilesError {
    FilesError { what: what.into(), why: why.to_string() }
}

pub(super) fn settings(instances: &Path, samples: u32) -> Settings {
    let mut settings = Settings::default();
    instances.clone_into(&mut settings.instances.path);
    settings.instances.samples = samples;
    settings.endpoint.url = "http://127.0.0.1:9/v1".to_owned();
    settings.endpoint.model = "steady".to_owned();
    settings.sandbox.backend = Backend::Null;
    settings
}

/// Makes the files in `dir` and measures every part, `times` each, of which the shortest counts.
///
/// # Errors
/// Of the disk, or a part that fails.
pub fn measure(dir: &Path, rows: u64, facts: u64, times: u32) -> Result<Report, FilesError> {
    let many = dir.join("many.jsonl");
    rows::write(&many, rows).map_err(|e| broken("the instances", e))?;
    make_run(dir, facts)?;
    let program = std::env::current_exe().map_err(|e| broken("this program's own path", e))?;
    let mut steps = Vec::new();
    for part in Part::ALL {
        let mut best: Option<Step> = None;
        for _ in 0..times.max(1) {
            let _ = fs::remove_dir_all(dir.join("new"));
            let began = Instant::now();
            let done = Command::new(&program).args(["bench", "files", "--part", part.name(), "--dir"]).arg(dir).env_clear().output();
            let wall_s = began.elapsed().as_secs_f64();
            let done = done.map_err(|e| broken(part.name(), e))?;
            let said = String::from_utf8_lossy(&done.stdout);
            let figures = said.lines().last().and_then(|line| line.split_once(' ')).filter(|_| done.status.success());
            let figures = figures.and_then(|(kib, us)| Some((kib.parse::<u64>().ok()?, us.parse::<u64>().ok()?)));
            let Some((peak, cpu_us)) = figures else { return Err(broken(part.name(), String::from_utf8_lossy(&done.stderr))) };
            let step = Step { part, wall_s, cpu_s: cpu_us as f64 / 1e6, peak_mib: peak as f64 / 1024.0 };
            best = Some(best.filter(|best| best.wall_s <= step.wall_s).unwrap_or(step));
        }
        steps.extend(best);
    }
    Ok(Report { schema_version: BENCH_VERSION, machine: Machine::look(), rows, facts, steps })
}

/// One part, within this process. Returns the most that was resident, KiB, and the processor time so far, µs.
///
/// # Errors
/// Where the files are not there or damaged.
pub fn part(part: Part, dir: &Path) -> Result<(u64, u128), FilesError> {
    let open = |run: &Path, instances: &Path, samples| {
        let opened = engine::open(run, &settings(instances, samples), || Ok(())).map_err(|e| broken(part.name(), e))?;
        let outstanding = opened.0.store.with_state(|state| state.episodes().filter(|(_, e)| e.outstanding()).count());
        if outstanding == 0 { Err(broken(part.name(), "nothing is outstanding")) } else { Ok(()) }
    };
    match part {
        Part::Startup => open(&dir.join("new"), &dir.join("many.jsonl"), 1)?,
        Part::Resume => open(&dir.join("run"), &dir.join("few.jsonl"), SAMPLES)?,
        Part::Summary => {
            let summary = View::open(&dir.join("run")).map_err(|e| broken(part.name(), e))?.summary();
            if summary.episodes.committed == 0 {
                return Err(broken(part.name(), "nothing is committed"));
            }
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    let peak = peak.ok_or_else(|| broken(part.name(), "the kernel does not tell the peak of memory"))?;
    Ok((peak, machine::cpu_time().as_micros()))
}

/// A run whose journal has so many facts, half of them commits. Its shard is as long as they say, and empty.
fn make_run(dir: &Path, facts: u64) -> Result<(), FilesError> {
    let (few, run) = (dir.join("few.jsonl"), dir.join("run"));
    let commits = (facts / 2).max(1);
    let done = u64::from(SAMPLES - 1);
    rows::write(&few, commits.div_ceil(done)).map_err(|e| broken("the instances", e))?;
    let what = |e: &dyn std::fmt::Display| broken("the run", e);
    let (opened, ()) = engine::open(&run, &settings(&few, SAMPLES), || Ok(())).map_err(|e| what(&e))?;
    let layout = opened.store.dir().layout().clone();
    let ids: Vec<InstanceId> = opened.store.instances().ids().to_vec();
    drop::<Store>(opened.store);
    let mut journal = Journal::open(&layout.journal(), &Disk::default(), &mut |_, _| Ok(())).map_err(|e| what(&e))?;
    let mut batch = Vec::with_capacity(2 * BATCH);
    for number in 0..commits {
        let instance = ids[usize::try_from(number / done).unwrap_or_default()].clone();
        let episode = EpisodeId { instance, sample: u32::try_from(number % done).unwrap_or_default() };
        let id = AttemptId { episode, attempt: Attempt::FIRST };
        batch.push(Fact::Started { id: id.clone(), at_ms: number });
        batch.push(Fact::Committed(committed(id, number)));
        if batch.len() >= BATCH || number + 1 == commits {
            journal.append(&batch).map_err(|e| what(&e))?;
            batch.clear();
        }
    }
    let shard = File::create(layout.shards().join(Stream::Trajectories.file(0))).map_err(|e| what(&e))?;
    shard.set_len(commits * FRAME).map_err(|e| what(&e))
}

fn committed(id: AttemptId, number: u64) -> Committed {
    let solved = number.is_multiple_of(3);
    let usage = Usage { prompt_tokens: 450_000 + number, completion_tokens: 9_000, cached_tokens: 430_000, reasoning_tokens: 0 };
    Committed {
        id,
        location: Location { stream: Stream::Trajectories, shard: 0, offset: number * FRAME, len: FRAME },
        raw_bytes: 2000,
        digest: format!("{number:064x}"),
        loss_tokens: -1,
        outcome: Outcome {
            counts: true,
            exit_reason: ExitReason::Submitted,
            resolved: if solved { Resolved::Yes } else { Resolved::No },
            verdict: Some(if solved { Verdict::Resolved } else { Verdict::Unresolved }),
            failure: None,
            turns: 30,
            tokens: 33_000,
            usage,
            cost_usd: 0.01,
            duration_ms: 400_000,
        },
        at_ms: number,
        regrade_of: None,
    }
}
