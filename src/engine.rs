//! Composition root: the only place that names concrete adapters, and joins them with the pure cores.

pub mod batch;
mod beside;
mod budget;
mod commands;
mod episodes;
mod images;
mod open;
pub mod regrade;
pub mod validate;

pub use open::{OpenError, Opened, existing, open, reopen, scaffold};

use crate::{
    agent::runner::{self, Emit},
    config::{Backend, Settings},
    domain::{
        EpisodeId, Failure, Kind,
        event::{EVENTS_VERSION, EndpointStatus, EventKind},
    },
    endpoint::{Endpoints, ModelClient, settings::seconds},
    grading, linux,
    sandbox::{
        Auto, Bounded, Docker, Local, Native, Null, Provider,
        bases::{Bases, Look},
    },
    scheduler::{
        core::Core,
        driver::{self, End, Stop},
    },
    store::{Flaky, Store, Summary},
    tokens::Counter,
};
use beside::Beside;
use budget::{Budgeted, Purse};
use episodes::Engine;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::mpsc;

/// Of the allocator; each keeps freed memory of its own.
const ARENAS: i32 = 3;

/// Threads of the event loop: each bears some 3,000 turns a second, and those that share work wake each other for it.
const MAX_WORKERS: usize = 8;

/// Threads that the event loop has on so many processors. The others are for what it hands over: records, compression, sandboxes.
#[must_use]
pub fn workers(processors: usize) -> usize {
    (processors / 2).clamp(1, MAX_WORKERS)
}

/// The event loop.
///
/// # Errors
/// Of the kernel.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    runtime_builder(workers(processors)).build()
}

/// The same on so many threads, to be added to.
#[must_use]
pub fn runtime_builder(workers: usize) -> tokio::runtime::Builder {
    linux::keep_memory(ARENAS);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(workers).enable_all();
    builder
}

/// Open files of a live episode at most: its connection, its sandbox's streams.
const FILES: u64 = 4;
/// And besides.
const SPARE_FILES: u64 = 256;

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    pub end: End,
    pub summary: Summary,
    /// What was spent of the run's budget; empty where it has none.
    pub budget: String,
    /// What each endpoint did.
    pub endpoints: Vec<EndpointStatus>,
}

/// What a run needs from outside, found to answer before anything is begun or written.
pub struct Ready {
    provider: Arc<dyn Provider>,
    client: Endpoints,
    around: Option<Around>,
}

/// Puts something around the model's client, to watch it.
pub type Around = Box<dyn FnOnce(Arc<dyn ModelClient>) -> Arc<dyn ModelClient> + Send>;

impl Ready {
    /// Of parts that were found elsewhere, taken at their word.
    #[must_use]
    pub fn new(settings: &Settings, provider: Arc<dyn Provider>, client: Endpoints) -> Self {
        Ready { provider: Arc::new(Bounded::new(provider, settings.sandbox.patience)), client, around: None }
    }

    /// What the user should be told of the sandboxes.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        self.provider.notice()
    }

    #[must_use]
    pub fn around(mut self, around: Around) -> Self {
        self.around = Some(around);
        self
    }
}

/// Asks the sandbox backend and the endpoint: no daemon, a wrong address, key or model is told before a run directory exists.
///
/// # Errors
/// With what is wrong and the mend.
pub async fn preflight(settings: &Settings) -> Result<Ready, Failure> {
    let client = client(settings)?;
    let provider = provider(settings).await?;
    provider.check().await?;
    client.check().await?;
    Ok(Ready { provider, client, around: None })
}

async fn provider(settings: &Settings) -> Result<Arc<dyn Provider>, Failure> {
    Ok(Arc::new(Bounded::new(backend(settings).await?, settings.sandbox.patience)))
}

async fn backend(settings: &Settings) -> Result<Arc<dyn Provider>, Failure> {
    Ok(match settings.sandbox.backend {
        Backend::Native => Arc::new(Native::start_up(settings.sandbox.native.clone(), settings.images.clone()).await?),
        Backend::Auto => {
            let (docker, native) = (settings.sandbox.docker.clone(), settings.sandbox.native.clone());
            Arc::new(Auto::choose(docker, native, settings.images.clone()).await?)
        }
        Backend::Docker => Arc::new(Docker::connect(settings.sandbox.docker.clone()).await?),
        Backend::Local => Arc::new(Local::new(settings.sandbox.local.clone())),
        Backend::Null => Arc::new(Null::new(settings.sandbox.null)),
    })
}

/// Whether this host allows native sandboxes.
///
/// # Errors
/// With why not, and the mend.
pub async fn check_native(settings: &Settings) -> Result<(), Failure> {
    Native::start_up(settings.sandbox.native.clone(), settings.images.clone()).await.map(drop)
}

/// Which of these images the sandbox backend does not have yet.
///
/// # Errors
/// Where it does not answer.
pub async fn missing(settings: &Settings, images: &[String]) -> Result<Vec<String>, Failure> {
    provider(settings).await?.missing(images).await
}

/// The client of the endpoints, which has talked to nobody yet.
///
/// # Errors
/// What cannot work: address, model name, key.
pub fn client(settings: &Settings) -> Result<Endpoints, Failure> {
    Endpoints::new(settings.endpoint.clone(), Endpoints::limiters(&settings.endpoint)?)
}

/// Does these episodes of an open run, or all outstanding ones.
///
/// # Errors
/// What keeps a run from beginning.
pub async fn run(
    ready: Ready,
    store: Store,
    mut settings: Settings,
    only: Option<Vec<EpisodeId>>,
    emit: Emit,
    stop: mpsc::Receiver<Stop>,
) -> Result<Report, Failure> {
    let Ready { provider, client, around } = ready;
    let client = Arc::new(client);
    let run = store.dir().info().run.clone();
    // All are opened without it as well, only later.
    let _ = linux::make_room_for_files(FILES.saturating_mul(settings.scheduler.concurrency as u64).saturating_add(SPARE_FILES));
    settings.grading.prepare = settings.sandbox.prepare.clone();
    settings.scheduler = settings.scheduler.fitted(provider.capacity().map(|host| host.holds(&settings.sandbox.limits)));
    let episodes = store.summary().episodes;
    let outstanding = only.as_ref().map_or(episodes.outstanding, |only| only.len() as u64);
    emit(EventKind::RunStarted { version: EVENTS_VERSION, run: run.clone(), total: episodes.total, outstanding }).await;
    let swept = provider.sweep(&run).await?;
    if swept > 0 {
        tracing::info!(swept, "sandboxes of dead engines removed");
    }
    let scaffold = scaffold(&settings).map_err(|e| Failure::new(Kind::RunDir, e.to_string()))?;
    let purse = Arc::new(Purse::new(settings.scheduler.budget(), settings.endpoint.prices));
    let model = Arc::clone(&client) as Arc<dyn ModelClient>;
    let budgeted: Arc<dyn ModelClient> = Arc::new(Budgeted::new(model, Arc::clone(&purse)));
    let shared = runner::Shared {
        client: around.map_or_else(|| Arc::clone(&budgeted), |around| around(Arc::clone(&budgeted))),
        patience: seconds(settings.endpoint.timeouts.wait_s),
        scaffold: Arc::new(scaffold),
        limits: settings.agent.clone(),
        exclude: settings.sandbox.prepare.exclude.clone().into(),
        max_diff_bytes: settings.grading.diff_max_bytes,
        emit: Arc::clone(&emit),
    };
    let runners = Arc::new(grading::Runners::default());
    let beside = Beside::new(std::thread::available_parallelism().map_or(1, usize::from))
        .map_err(|e| Failure::new(Kind::RunDir, format!("no thread can be begun: {e}; see `ulimit -u`")))?;
    let engine = Arc::new(Engine {
        sampling: serde_json::Value::Object(settings.endpoint.parameters()?),
        counter: Counter::from(settings.tokens),
        drafts: Mutex::default(),
        flaky: Flaky::frozen(store.dir()).map_err(|e| e.failure())?,
        bases: Arc::new(Bases::new(Arc::clone(&provider), settings.sandbox.prepare.clone(), Arc::clone(&runners) as Arc<dyn Look>)),
        runners,
        images: OnceLock::new(),
        provider: Arc::clone(&provider),
        store,
        settings,
        shared,
        purse,
        emit,
        beside,
    });
    if only.is_none() {
        engine.reopen_waived().await?;
    }
    let mut todo = engine.todo(only).await?;
    let plan = engine.images_needed(&mut todo).await?;
    let (paid, attempts) = engine.paid();
    engine.purse.paid_before(paid);
    let (quarantined, resolved) = engine.store.with_state(|state| (state.quarantined().clone(), state.resolved()));
    let gated = plan.as_ref().is_some_and(|plan| plan.gated);
    let core = Core::new(engine.settings.scheduler.clone(), todo, quarantined).with_resolved(resolved).with_spent(paid, attempts);
    let core = if gated { core.gated() } else { core };
    let (tell, told) = mpsc::channel(1024);
    if let Some(plan) = plan {
        let _ = engine.images.set(plan.begin(Arc::clone(&provider), Arc::clone(&engine.bases), tell));
    }
    let watching = tokio::spawn(watch(Arc::clone(&client), Arc::clone(&engine.emit)));
    let end = driver::drive(core, Arc::clone(&engine), stop, told).await;
    watching.abort();
    let endpoints = client.status();
    (engine.emit)(EventKind::Endpoints { endpoints: endpoints.clone() }).await;
    if let Err(failure) = provider.sweep(&run).await {
        tracing::warn!(%failure, "sandboxes may be left; the next run removes them");
    }
    // Their containers are gone by now.
    if let (Some(images), false) = (engine.images.get(), end == End::Killed) {
        images.finish().await;
    }
    let summary = engine.store.summary();
    let budget = engine.purse.said();
    (engine.emit)(EventKind::RunEnded { committed: summary.episodes.committed, outstanding: summary.episodes.outstanding }).await;
    if let Some(engine) = Arc::into_inner(engine)
        && let Err(error) = engine.store.close().await
    {
        // All that was committed is durable; only derived files may be stale, and the next opening makes them anew.
        return Ok(Report { end: End::Drained(error.to_string()), summary, budget, endpoints });
    }
    Ok(Report { end, summary, budget, endpoints })
}

/// Tells when the endpoints' limit of requests in flight moved, or their health; and how they are once a minute.
async fn watch(client: Arc<Endpoints>, emit: Emit) {
    let mut told = 0;
    let mut health = Vec::new();
    let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
    for second in 0_u64.. {
        tick.tick().await;
        let endpoints = client.status();
        let in_flight = endpoints.iter().map(|one| one.in_flight_limit).sum();
        if in_flight != told {
            told = in_flight;
            emit(EventKind::LimitChanged { in_flight }).await;
        }
        let now: Vec<_> = endpoints.iter().map(|one| (one.up, one.out, one.ejections, one.unshared.is_empty())).collect();
        if now != health || second % 60 == 59 {
            health = now;
            emit(EventKind::Endpoints { endpoints }).await;
        }
    }
}
