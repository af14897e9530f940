//! `sweroll bench`: thousands of whole episodes against a scripted endpoint in another process and sandboxes with nothing in
//! them, so that what is measured is the engine.

use super::{
    endpoint::Endpoint,
    machine::{self, Machine},
    meter::Histogram,
    place::Helper,
    rows,
    threads::{self, Share, Threads},
    watched::{Watch, Watched},
};
use crate::{
    config::{Backend, Settings},
    domain::event::EventKind,
    engine,
    scheduler::driver::End,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Read,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Version of [`Report`]; raised when a key changes its meaning or type.
pub const BENCH_VERSION: u32 = 2;
/// Bytes that a steady reply adds to a context, as JSON, with the frame of the observation.
const REPLY: u64 = 480;
/// Most instances made; further episodes are samples of them.
const MAX_ROWS: u64 = 10_000;
/// From one look at memory to the next.
const SAMPLE: Duration = Duration::from_millis(250);
/// Looks at memory from one count of open files to the next, which takes milliseconds where there are many.
const FILES_EVERY: u64 = 20;
/// How long the probe is measured alone, before the run.
const ALONE: Duration = Duration::from_secs(1);
/// Descriptors besides one a live episode, its connection.
const SPARE_FILES: u64 = 300;
/// Episodes that are warm-up where growth is looked for.
const WARM: u64 = 1000;

/// What is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Live episodes at most.
    pub concurrency: usize,
    /// Replies an episode.
    pub turns: u32,
    pub episodes: u64,
    /// Median of the endpoint's latency, seconds.
    pub latency_s: f64,
    /// Sigma of its log-normal distribution.
    pub latency_sigma: f64,
    /// Tokens, at four bytes each, that observations and replies bring an episode's context to.
    pub context_tokens: u64,
    /// Milliseconds of a tool call.
    pub delay_ms: u64,
    /// Processors of the engine; the endpoint has the others, if there are any. 0: both have all.
    pub cores: usize,
    /// Of the latencies.
    pub seed: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BenchError(pub String);

pub(super) fn broken(what: &str, error: impl std::fmt::Display) -> BenchError {
    BenchError(format!("{what}: {error}"))
}

/// Figures of one measurement, with what they were taken on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema_version: u32,
    pub machine: Machine,
    pub plan: Plan,
    /// Where the run lay; on `tmpfs` a sync costs nothing.
    pub file_system: String,
    pub figures: Figures,
    /// `figures.cpu_s` by what the threads do.
    pub threads: Vec<Share>,
}

/// `docs/performance.md` says how each is taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub wall_s: f64,
    pub turns: u64,
    pub turns_per_s: f64,
    /// Processor time of the engine's process from the first admission to the end of the run, of all its threads.
    pub cpu_s: f64,
    /// Less what the probe of stalls takes.
    pub cpu_us_per_turn: f64,
    /// Of a timer a millisecond, measured alone before the run: where there is work as well it takes less.
    pub probe_us_per_turn: f64,
    /// Of it: spent in the kernel.
    pub system_us_per_turn: f64,
    /// The most at the same time.
    pub live_max: u64,
    /// Live episodes where `rss_kib_per_episode` was taken.
    pub live: u64,
    /// Resident, above what was resident before the run began and above all transcripts' bytes, by live episode, where the transcripts are
    /// largest of the looks with nine tenths of the most episodes live. Later, what ended episodes free waits for the next ones.
    pub rss_kib_per_episode: f64,
    /// Of the transcripts of that look.
    pub transcript_kib_per_episode: f64,
    pub idle_mib: f64,
    pub peak_mib: f64,
    /// Resident when 1,000 episodes were committed, and when the last tenth of the run began; 0 in runs of less than 2,000.
    pub warm_mib: f64,
    pub late_mib: f64,
    /// How much later than asked for a task woke that sleeps two milliseconds at a time.
    pub stall_ms_p99: f64,
    pub stall_ms_max: f64,
    /// When the longest began, seconds from the run's begin.
    pub stall_max_at_s: f64,
    /// How long the loop's thread was at work in it; the rest it waited for a processor. Known where the loop has one thread.
    pub stall_max_at_work_ms: Option<f64>,
    /// What the host of a virtual machine took from the engine's processors for others, from the look at memory before the longest stall to
    /// that after it; its grain is a tick, 10 ms as a rule.
    pub stall_max_stolen_ms: f64,
    pub stalls_over_20_ms: u64,
    pub open_files: u64,
    /// From a reply to the same episode's next request, tool call and both spool entries between, less `delay_ms`.
    pub next_request_us_p50: u64,
    pub next_request_us_p99: u64,
    /// From a request given to the endpoint's client to its reply, parsed: the endpoint's latency, and all that HTTP costs.
    pub reply_us_p50: u64,
    pub reply_us_p99: u64,
    /// From the end of the agent to its record durable in shard and journal: an empty grade, token counts, the commit.
    pub commit_us_p50: u64,
    pub commit_us_p99: u64,
    /// Compressed, of all records.
    pub shard_bytes: u64,
    pub failed: u64,
    /// Processor time of the scripted endpoint, which is another process.
    pub endpoint_cpu_s: f64,
}

/// Turns, live and committed episodes, by the run's events.
#[derive(Default)]
struct Counts {
    turns: AtomicU64,
    live: AtomicU64,
    committed: AtomicU64,
    failed: AtomicU64,
    ended: Mutex<BTreeMap<String, Instant>>,
    commits: Mutex<Histogram>,
    trouble: Mutex<Option<String>>,
}

impl Counts {
    fn take(&self, event: EventKind, watch: &Watch) {
        let lock = || self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            EventKind::AttemptStarted { .. } => drop(self.live.fetch_add(1, Relaxed)),
            EventKind::TurnDone { .. } => drop(self.turns.fetch_add(1, Relaxed)),
            EventKind::AgentEnded { id, .. } => drop(lock().insert(id.to_string(), Instant::now())),
            EventKind::Committed { id, outcome } => {
                if let Some(ended) = lock().remove(&id.to_string()) {
                    self.commits.lock().unwrap_or_else(PoisonError::into_inner).record(ended.elapsed());
                }
                watch.committed(&id.episode);
                self.live.fetch_sub(1, Relaxed);
                self.committed.fetch_add(1, Relaxed);
                if let Some(failure) = outcome.failure {
                    self.failed.fetch_add(1, Relaxed);
                    self.trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure.to_string());
                }
            }
            _ => {}
        }
    }
}

/// One look at memory.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    /// By the host, from the engine's processors.
    stolen: Duration,
    resident: u64,
    transcripts: u64,
    live: u64,
    committed: u64,
}

/// What the sampler saw.
#[derive(Default)]
struct Sampled {
    looks: Vec<Look>,
    files: u64,
    /// The store's threads end with the run: this is from just before.
    threads: BTreeMap<String, Duration>,
}

/// Looks until it is told to stop.
fn sample(counts: &Counts, watch: &Watch, threads: &Threads, stop: &AtomicBool) -> Sampled {
    let Sampled { mut looks, mut files, threads: mut took } = Sampled::default();
    let processors = machine::processors();
    for number in 0_u64.. {
        if stop.load(Relaxed) {
            break;
        }
        let transcripts = watch.look().transcript_bytes;
        let (live, committed) = (counts.live.load(Relaxed), counts.committed.load(Relaxed));
        let (at, stolen) = (Instant::now(), machine::stolen(&processors));
        looks.push(Look { at, stolen, resident: machine::resident(), transcripts, live, committed });
        if number % FILES_EVERY == 4 {
            files = files.max(machine::open_files());
        }
        // Threads that end with the run may be gone at the last look.
        took.extend(threads.look());
        thread::sleep(SAMPLE);
    }
    Sampled { looks, files, threads: took }
}

/// How late the probe woke.
#[derive(Default)]
struct Late {
    all: Histogram,
    over_20_ms: u64,
    most: Option<Longest>,
}

/// The longest stall.
struct Longest {
    by: Duration,
    began: Instant,
    /// Processor time of the loop's thread from the begin of the sleep to the waking; none where another thread woke.
    at_work: Option<Duration>,
}

/// Sleeps two milliseconds at a time and notes how late it wakes. More often would cost what a turn costs.
async fn probe(late: Arc<Mutex<Late>>) {
    let tick = Duration::from_millis(2);
    loop {
        let (began, thread, time) = (Instant::now(), thread::current().id(), machine::thread_time());
        tokio::time::sleep(tick).await;
        let by = began.elapsed().saturating_sub(tick);
        let mut late = late.lock().unwrap_or_else(PoisonError::into_inner);
        late.all.record(by);
        late.over_20_ms += u64::from(by > Duration::from_millis(20));
        if late.most.as_ref().is_none_or(|most| by > most.by) {
            let at_work = (thread::current().id() == thread).then(|| machine::thread_time().saturating_sub(time));
            late.most = Some(Longest { by, began, at_work });
        }
    }
}

/// Measures in `dir`, which is left with the run in it. Binds this process to `plan.cores` processors for good.
///
/// # Errors
/// What keeps the run from beginning or from ending well.
pub fn measure(plan: &Plan, dir: &Path) -> Result<Report, BenchError> {
    let wanted = plan.concurrency as u64 + SPARE_FILES;
    let limit = machine::allow_open_files(wanted);
    if limit < wanted {
        return Err(BenchError(format!(
            "{wanted} open files are needed and {limit} allowed: `ulimit -Hn {wanted}` as root, or less --concurrency"
        )));
    }
    let machine = Machine::look();
    let instances = dir.join("instances.jsonl");
    let rows = plan.episodes.clamp(1, MAX_ROWS);
    rows::write(&instances, rows).map_err(|e| broken("the instances could not be written", e))?;
    let all = machine::processors();
    let (ours, theirs) = if plan.cores == 0 { (&all[..], &all[..]) } else { all.split_at(plan.cores.min(all.len())) };
    let bind = |to: &[usize]| machine::bind(to).map_err(|e| broken("binding to processors", e));
    bind(if theirs.is_empty() { &all } else { theirs })?;
    let endpoint = Endpoint::start(plan, &instances)?;
    bind(ours)?;
    let (threads, workers) = (Threads::default(), engine::workers(ours.len()));
    let runtime = threads.told_apart(&mut engine::runtime_builder(workers), workers).build();
    let runtime = runtime.map_err(|e| broken("no async runtime", e))?;
    runtime.block_on(warm_up(plan, &instances, &dir.join("warm"), &threads))?;
    let settings = settings_of(plan, endpoint.url(), &instances, rows)?;
    let (figures, threads) = runtime.block_on(run(plan, settings, &dir.join("run"), &endpoint, &threads))?;
    bind(&all)?;
    let file_system = machine::file_system(dir);
    Ok(Report { schema_version: BENCH_VERSION, machine, plan: plan.clone(), file_system, figures, threads })
}

/// As [`measure`], in a process and a directory of its own: what this one did before would be in its memory already.
///
/// # Errors
/// As [`measure`]; the process says why itself.
pub fn measure_apart(plan: &Plan) -> Result<Report, BenchError> {
    let program = std::env::current_exe().map_err(|e| broken("this program's own path", e))?;
    let options = [
        ("--concurrency", plan.concurrency.to_string()),
        ("--turns", plan.turns.to_string()),
        ("--episodes", plan.episodes.to_string()),
        ("--latency", plan.latency_s.to_string()),
        ("--latency-sigma", plan.latency_sigma.to_string()),
        ("--context", plan.context_tokens.to_string()),
        ("--delay-ms", plan.delay_ms.to_string()),
        ("--cores", plan.cores.to_string()),
        ("--seed", plan.seed.to_string()),
    ];
    let failed = |e| broken("the measurement", e);
    let mut command = Command::new(program);
    command.args(["bench", "--format", "json"]).args(options.iter().flat_map(|(name, value)| [name, value.as_str()]));
    command.env_clear().envs(std::env::var_os("TMPDIR").map(|dir| ("TMPDIR", dir)));
    let mut child = Helper::new(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?);
    let mut report = Vec::new();
    if let Some(mut out) = child.0.stdout.take() {
        out.read_to_end(&mut report).map_err(failed)?;
    }
    let status = child.0.wait().map_err(failed)?;
    if !status.success() {
        return Err(broken("the measurement", status));
    }
    serde_json::from_slice(&report).map_err(|e| broken("the measurement's report", e))
}

/// One short episode, after which all that a run needs but once is in memory: tokenizer, threads, compression.
async fn warm_up(plan: &Plan, instances: &Path, out: &Path, threads: &Threads) -> Result<(), BenchError> {
    let short = Plan { concurrency: 1, turns: 2, episodes: 1, latency_s: 0.0, delay_ms: 0, ..plan.clone() };
    let only = out.with_extension("jsonl");
    rows::write(&only, 1).map_err(|e| broken("the instances could not be written", e))?;
    let endpoint = Endpoint::start(&short, instances)?;
    let settings = settings_of(&short, endpoint.url(), &only, 1)?;
    run(&short, settings, out, &endpoint, threads).await.map(drop)
}

fn settings_of(plan: &Plan, url: &str, instances: &Path, rows: u64) -> Result<Settings, BenchError> {
    let mut settings = Settings::default();
    instances.clone_into(&mut settings.instances.path);
    settings.instances.samples = u32::try_from(plan.episodes.div_ceil(rows)).map_err(|e| broken("so many episodes", e))?;
    settings.endpoint.url = url.to_owned();
    settings.endpoint.model = "steady".to_owned();
    let in_flight = u32::try_from(plan.concurrency).unwrap_or(u32::MAX);
    settings.endpoint.limits.in_flight_start = in_flight;
    settings.endpoint.limits.in_flight_max = in_flight;
    settings.agent.turns = plan.turns + 1;
    settings.agent.prompt_tokens = u64::MAX >> 1;
    settings.scheduler.concurrency = plan.concurrency;
    settings.sandbox.backend = Backend::Null;
    settings.sandbox.null.delay_ms = plan.delay_ms;
    let a_turn = plan.context_tokens * 4 / u64::from(plan.turns.max(1));
    settings.sandbox.null.output_bytes = usize::try_from(a_turn.saturating_sub(REPLY)).unwrap_or_default();
    Ok(settings)
}

async fn run(
    plan: &Plan,
    settings: Settings,
    out: &Path,
    endpoint: &Endpoint,
    threads: &Threads,
) -> Result<(Figures, Vec<Share>), BenchError> {
    let ask = || tokio::runtime::Handle::current().block_on(engine::preflight(&settings));
    let opened = tokio::task::block_in_place(|| engine::open(out, &settings, ask));
    let (opened, ready) = opened.map_err(|e| broken("the run could not be opened", e))?;
    let (watch, counts) = (Watch::default(), Arc::new(Counts::default()));
    let watching = watch.clone();
    let ready = ready.around(Box::new(move |client| Arc::new(Watched { client, watch: watching })));
    let emit = {
        let (counts, watch) = (Arc::clone(&counts), watch.clone());
        Arc::new(move |event| {
            counts.take(event, &watch);
            Box::pin(std::future::ready(())) as futures_util::future::BoxFuture<'static, ()>
        })
    };
    let late = Arc::new(Mutex::new(Late::default()));
    let probing = tokio::spawn(probe(Arc::clone(&late)));
    let (alone, since) = (machine::cpu_time(), Instant::now());
    tokio::time::sleep(ALONE).await;
    let probe = machine::cpu_time().saturating_sub(alone).as_secs_f64() / since.elapsed().as_secs_f64();
    let stop = Arc::new(AtomicBool::new(false));
    let (_go_on, stopping) = mpsc::channel(1);
    let (took, time) = (threads.look(), threads::process());
    let (idle, cpu, began, served) = (machine::resident(), machine::cpu_time(), Instant::now(), endpoint.cpu_s());
    let sampler = {
        let (counts, watch, stop, threads) = (Arc::clone(&counts), watch.clone(), Arc::clone(&stop), threads.clone());
        let sampler = thread::Builder::new().name("sampler".into()).spawn(move || sample(&counts, &watch, &threads, &stop));
        sampler.map_err(|e| broken("no thread", e))?
    };
    let report = engine::run(ready, opened.store, settings, None, emit, stopping).await.map_err(|e| broken("the run failed", e))?;
    let (wall, cpu) = (began.elapsed(), machine::cpu_time().saturating_sub(cpu));
    let system = threads::process().system.saturating_sub(time.system);
    let endpoint_cpu_s = endpoint.cpu_s() - served;
    probing.abort();
    stop.store(true, Relaxed);
    let mut after = threads.look();
    let sampled = sampler.join().unwrap_or_default();
    for (name, time) in sampled.threads {
        let known = after.entry(name).or_default();
        *known = time.max(*known);
    }
    let shares = threads::shares(&took, &after, cpu);
    let trouble = counts.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if !matches!(report.end, End::Done) || counts.turns.load(Relaxed) == 0 {
        return Err(BenchError(format!("the run did not end well: {:?} {}", report.end, trouble.unwrap_or_default())));
    }
    let turns = counts.turns.load(Relaxed);
    let late = late.lock().unwrap_or_else(PoisonError::into_inner);
    let commits = counts.commits.lock().unwrap_or_else(PoisonError::into_inner);
    let ms = |us: u64| us as f64 / 1000.0;
    let shard_bytes = report.summary.shards.iter().map(|shard| shard.bytes).sum();
    let seen = watch.look();
    let gap = |share| seen.gaps.quantile(share).saturating_sub(plan.delay_ms * 1000);
    let figures = Figures {
        wall_s: wall.as_secs_f64(),
        turns,
        turns_per_s: turns as f64 / wall.as_secs_f64(),
        cpu_s: cpu.as_secs_f64(),
        cpu_us_per_turn: (cpu.as_secs_f64() - probe * wall.as_secs_f64()) * 1e6 / turns as f64,
        probe_us_per_turn: probe * wall.as_secs_f64() * 1e6 / turns as f64,
        system_us_per_turn: system.as_secs_f64() * 1e6 / turns as f64,
        stall_ms_p99: ms(late.all.quantile(0.99)),
        stall_ms_max: ms(late.all.max()),
        stall_max_at_s: late.most.as_ref().map_or(0.0, |most| most.began.saturating_duration_since(began).as_secs_f64()),
        stall_max_at_work_ms: late.most.as_ref().and_then(|most| most.at_work).map(|time| time.as_secs_f64() * 1e3),
        stall_max_stolen_ms: late.most.as_ref().map_or(0.0, |most| stolen_around(&sampled.looks, most).as_secs_f64() * 1e3),
        stalls_over_20_ms: late.over_20_ms,
        open_files: sampled.files,
        next_request_us_p50: gap(0.5),
        next_request_us_p99: gap(0.99),
        reply_us_p50: seen.replies.quantile(0.5),
        reply_us_p99: seen.replies.quantile(0.99),
        commit_us_p50: commits.quantile(0.5),
        commit_us_p99: commits.quantile(0.99),
        shard_bytes,
        failed: counts.failed.load(Relaxed),
        endpoint_cpu_s,
        ..memory(&sampled.looks, idle)
    };
    Ok((figures, shares))
}

/// What the host took between the looks around a stall.
fn stolen_around(looks: &[Look], stall: &Longest) -> Duration {
    let before = looks.iter().rfind(|look| look.at <= stall.began).or(looks.first());
    let after = looks.iter().find(|look| look.at >= stall.began + stall.by).or(looks.last());
    before.zip(after).map_or(Duration::ZERO, |(before, after)| after.stolen.saturating_sub(before.stolen))
}

/// What the looks say of memory.
fn memory(looks: &[Look], idle: u64) -> Figures {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let most = looks.iter().map(|look| look.live).max().unwrap_or_default();
    let full = looks.iter().filter(|look| look.live > 0 && look.live * 10 >= most * 9);
    let own = |look: &Look| look.resident.saturating_sub(idle).saturating_sub(look.transcripts) as f64 / 1024.0 / look.live as f64;
    let fullest = full.max_by_key(|look| look.transcripts);
    let last = looks.last().map_or(0, |look| look.committed);
    let at = |committed: u64| {
        looks.iter().find(|look| look.committed >= committed).filter(|_| last >= 2 * WARM).map_or(0.0, |look| mib(look.resident))
    };
    Figures {
        live_max: most,
        live: fullest.map_or(0, |look| look.live),
        rss_kib_per_episode: fullest.map_or(0.0, own),
        transcript_kib_per_episode: fullest.map_or(0.0, |look| look.transcripts as f64 / 1024.0 / look.live as f64),
        idle_mib: mib(idle),
        peak_mib: mib(looks.iter().map(|look| look.resident).max().unwrap_or_default()),
        warm_mib: at(WARM),
        late_mib: at(last - last / 10),
        ..Figures::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_of_the_fullest_look_at_full_load() {
        let look = |resident: u64, transcripts: u64, live, committed| Look {
            at: Instant::now(),
            stolen: Duration::ZERO,
            resident: resident << 20,
            transcripts: transcripts << 20,
            live,
            committed,
        };
        let looks = [look(500, 0, 10, 0), look(130, 10, 1000, 500), look(140, 20, 950, 1000), look(150, 0, 100, 5000)];
        let figures = memory(&looks, 100 << 20);
        assert_eq!((figures.live, figures.peak_mib), (950, 500.0));
        assert!((figures.rss_kib_per_episode - 20.0 * 1024.0 / 950.0).abs() < 1e-9);
        assert_eq!((figures.warm_mib, figures.late_mib), (140.0, 150.0));
    }

    #[test]
    fn what_the_host_took_is_of_the_looks_around_the_stall() {
        let (began, s) = (Instant::now(), Duration::from_secs);
        let look = |at: u64| Look { at: began + s(at), stolen: s(at * at), resident: 0, transcripts: 0, live: 0, committed: 0 };
        let looks: Vec<Look> = (0..6).map(look).collect();
        let stolen = |at: u64, by: u64| stolen_around(&looks, &Longest { by: s(by), began: began + s(at), at_work: None });
        assert_eq!((stolen(2, 1), stolen(2, 2), stolen(5, 9)), (s(9 - 4), s(16 - 4), s(0)));
        assert_eq!(stolen_around(&[], &Longest { by: s(1), began, at_work: None }), s(0));
    }
}
