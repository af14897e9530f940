//! Sandboxes as containers of a Docker daemon.

mod attached;
mod container;
mod daemon;
mod events;
pub mod images;
mod launch;
mod request;
mod sweep;

use super::local::process;
use super::owner::{self, Owner};
use super::private_dir::{self, PrivateDir};
use super::program::Program;
use super::{Capacity, Disk, Fate, FetchError, Fetched, Provider, Sandbox, Spec, workdir};
use crate::domain::{Failure, Kind};
use crate::toolbox::client::Toolbox;
use bollard::models::SystemInfo;
use bollard::query_parameters::ListContainersOptionsBuilder;
use container::{Container, Remover};
use daemon::Daemon;
use events::Events;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use images::{Image, Images, PullSettings};
use request::Channel;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

/// How the toolbox's stream reaches the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// A socket for a daemon at a `unix://` address; should the first sandbox show that it does not share our files
    /// (a virtual machine, or the engine itself in a container), and always for any other daemon, the attached stream.
    #[default]
    Auto,
    /// A Unix socket mounted into the container.
    Socket,
    /// Standard input and output of the first process; the binary is uploaded into each container.
    Attach,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address of the daemon, `unix://` or `tcp://`; empty: `DOCKER_HOST`, else the local one.
    pub host: String,
    pub stream: Stream,
    pub pull: PullSettings,
    /// Containers being created and started at the same time. More only adds latency (measured on Docker 20.10).
    pub starts_in_flight: usize,
    /// Containers being removed at the same time; twice as many may wait for it before a grading does.
    pub removals_in_flight: usize,
    /// Seconds for one request to the daemon.
    pub request_timeout_s: u64,
    /// Seconds for which an absence of the daemon in mid-run is waited out.
    pub daemon_wait_s: u64,
    /// Seconds for a container to be gone once it was killed.
    pub remove_timeout_s: u64,
    /// Open files allowed to a process in a sandbox; no more than the daemon's own hard limit where that may not be raised.
    /// The daemon's default of a million and more makes programs slow that close every descriptor there could be.
    pub nofile: u64,
    /// The program that serves inside the sandboxes; none: this one.
    pub toolbox_path: Option<PathBuf>,
    /// Where the engine's private directory is made; none: `$XDG_RUNTIME_DIR`, the temporary directory, or `/var/tmp`.
    pub private_dir: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            host: String::new(),
            stream: Stream::Auto,
            pull: PullSettings::default(),
            starts_in_flight: 6,
            removals_in_flight: 8,
            request_timeout_s: 120,
            daemon_wait_s: 120,
            remove_timeout_s: 60,
            nofile: 16384,
            toolbox_path: None,
            private_dir: None,
        }
    }
}

/// A provider on one daemon; cheap to clone.
#[derive(Debug, Clone)]
pub struct Docker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pub settings: Settings,
    pub daemon: Arc<Daemon>,
    pub events: Events,
    pub remover: Arc<Remover>,
    pub program: Program,
    /// The program as it is uploaded, made when it is first needed.
    pub archive: OnceCell<bytes::Bytes>,
    pub private: PrivateDir,
    /// Name of the next sandbox's directory.
    pub next: AtomicU64,
    /// This engine, as the label says it.
    pub label: String,
    images: Images,
    owner: Owner,
    starts: Arc<Semaphore>,
    /// Of the daemon's host, where it tells.
    capacity: Option<Capacity>,
    /// Where images lie, where that is on this host.
    root: Option<PathBuf>,
    /// Whether the daemon shares our file system, once known.
    shares_files: OnceLock<bool>,
}

/// A start's place among those in flight. Its creation holds it too, which goes on when the start is given up.
type Slot = Arc<OwnedSemaphorePermit>;

/// How long a sweep waits for the creations under way, which its list would miss.
const CREATIONS: Duration = Duration::from_secs(10);

/// Why a container did not become a sandbox.
enum Trouble {
    /// The image was removed since it was looked up.
    ImageGone(Failure),
    /// What the daemon was to mount did not arrive in the container.
    NotShared(Failure),
    Other(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Other(failure)
    }
}

impl Trouble {
    fn failure(self) -> Failure {
        match self {
            Trouble::ImageGone(failure) | Trouble::NotShared(failure) | Trouble::Other(failure) => failure,
        }
    }
}

impl Docker {
    /// Finds the daemon, agrees on the API's version, and lays the toolbox ready. Needs a tokio runtime.
    ///
    /// # Errors
    /// `Daemon` when none answers; `SandboxStart` when this program cannot be a sandbox's first process.
    pub async fn connect(settings: Settings) -> Result<Self, Failure> {
        let daemon = Arc::new(Daemon::connect(&settings.host, settings.request_timeout_s, settings.daemon_wait_s).await?);
        let private = PrivateDir::create(settings.private_dir.as_deref())?;
        let program = Program::install(settings.toolbox_path.as_deref(), private.path())?;
        let owner = Owner::ours()
            .map_err(|error| Failure::new(Kind::SandboxStart, format!("/proc does not tell this process's identity: {error}")))?;
        let info = daemon.client.info().await.map_err(|error| daemon.failure(Kind::Daemon, "cannot ask the Docker daemon", &error))?;
        raise_open_files();
        let label = owner.to_string();
        Ok(Docker(Arc::new(Inner {
            events: Events::listen(daemon.client.clone(), &label),
            remover: Arc::new(Remover::new(daemon.clone(), settings.removals_in_flight, Duration::from_secs(settings.remove_timeout_s))),
            images: Images::new(daemon.clone(), settings.pull.clone()),
            starts: Arc::new(Semaphore::new(settings.starts_in_flight.max(1))),
            capacity: capacity(&info),
            root: info.docker_root_dir.map(PathBuf::from).filter(|root| daemon.is_local() && root.is_dir()),
            archive: OnceCell::new(),
            next: AtomicU64::new(0),
            shares_files: OnceLock::new(),
            settings,
            daemon,
            program,
            private,
            owner,
            label,
        })))
    }
}

/// Each sandbox's stream holds a descriptor, and the usual limit is 1,024.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files cannot be raised; about 1,000 sandboxes at once may be too many");
    }
}

impl Docker {
    /// Address of the daemon.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.0.daemon.host
    }
}

impl Inner {
    async fn check(&self) -> Result<(), Failure> {
        let info = self.daemon.client.info().await;
        let info = info.map_err(|error| self.daemon.failure(Kind::Daemon, "cannot ask the Docker daemon", &error))?;
        let version = self.daemon.client.version().await;
        let version = version.map_err(|error| self.daemon.failure(Kind::Daemon, "cannot ask the Docker daemon", &error))?;
        let (os, arch) = (info.os_type.unwrap_or_default(), version.arch.unwrap_or_default());
        if os != "linux" || arch != self.program.architecture() {
            let message = format!(
                "the Docker daemon at {} runs {os}/{arch} containers, and the toolbox is built for linux/{}; use an engine built for that architecture",
                self.daemon.host,
                self.program.architecture()
            );
            return Err(Failure::new(Kind::Daemon, message));
        }
        for (limit, kept) in [("memory", info.memory_limit), ("process", info.pids_limit), ("processor", info.cpu_cfs_quota)] {
            if kept == Some(false) {
                tracing::warn!("the Docker daemon cannot hold {limit} limits: one sandbox can exhaust the host");
            }
        }
        Ok(())
    }

    async fn start(self: &Arc<Self>, spec: &Spec) -> Result<Box<dyn Sandbox>, Failure> {
        workdir::check_absolute(&spec.workdir)?;
        let image = self.images.ensure(&spec.image).await?;
        let slot = self.starts.clone().acquire_owned().await;
        let slot = Arc::new(slot.map_err(|error| Failure::new(Kind::SandboxStart, format!("no sandbox for {}: {error}", spec.attempt)))?);
        let started = match self.start_from(spec, &image, &slot).await {
            Err(Trouble::ImageGone(_)) => {
                self.images.forget(&spec.image);
                let image = self.images.ensure(&spec.image).await?;
                self.start_from(spec, &image, &slot).await
            }
            other => other,
        };
        started.map(|sandbox| Box::new(sandbox) as Box<dyn Sandbox>).map_err(Trouble::failure)
    }

    async fn start_from(self: &Arc<Self>, spec: &Spec, image: &Image, slot: &Slot) -> Result<DockerSandbox, Trouble> {
        let shares_files = match self.settings.stream {
            Stream::Socket => Some(true),
            Stream::Attach => Some(false),
            Stream::Auto if !self.daemon.is_local() => Some(false),
            Stream::Auto => self.shares_files.get().copied(),
        };
        let (container, toolbox) = match shares_files {
            Some(true) => self.launch_with_socket(spec, image, slot).await?,
            Some(false) => self.launch_attached(spec, image, slot).await?,
            None => match self.launch_with_socket(spec, image, slot).await {
                Err(Trouble::NotShared(failure)) => {
                    let Ok(attached) = self.launch_attached(spec, image, slot).await else { return Err(Trouble::Other(failure)) };
                    if self.shares_files.set(false).is_ok() {
                        tracing::warn!(%failure, "the Docker daemon does not share our files: using attached streams from here on");
                    }
                    attached
                }
                other => {
                    let launched = other?;
                    let _ = self.shares_files.set(true);
                    launched
                }
            },
        };
        let sandbox = DockerSandbox { container, toolbox, workdir: spec.workdir.clone(), digest: image.digest.clone() };
        if let Err(failure) = workdir::check(&sandbox.toolbox, &spec.workdir, &spec.image).await {
            // Should that fail, dropping it tries on.
            let _ = sandbox.container.remove().await;
            return Err(failure.into());
        }
        Ok(sandbox)
    }

    /// The bounds asked for, as far as the daemon's host can give them.
    pub fn body(&self, spec: &Spec, image: &Image, channel: Channel<'_>) -> bollard::models::ContainerCreateBody {
        let mut spec = spec.clone();
        // It refuses to give a container more than it has.
        spec.limits.cpus = self.capacity.map_or(spec.limits.cpus, |host| spec.limits.cpus.min(host.processors));
        request::request(&spec, &image.id, &self.label, self.settings.nofile, channel)
    }

    async fn sweep(&self, run: &str) -> Result<usize, Failure> {
        let all_starts = u32::try_from(self.settings.starts_in_flight.max(1)).unwrap_or(u32::MAX);
        let _quiet = tokio::time::timeout(CREATIONS, self.starts.acquire_many(all_starts)).await;
        let filters = HashMap::from([("label", vec![request::RUN])]);
        let options = || Some(ListContainersOptionsBuilder::new().all(true).filters(&filters).build());
        let listed = self.daemon.ask(|| self.daemon.client.list_containers(options())).await;
        let listed = listed.map_err(|error| self.daemon.failure(Kind::Daemon, "cannot list containers", &error))?;
        let stale = listed
            .into_iter()
            .filter(|container| sweep::may_go(container.labels.as_ref().unwrap_or(&HashMap::new()), run, &self.owner, owner::look));
        let removals: Vec<_> = futures_util::stream::iter(stale)
            .map(|container| async move { self.remover.remove(&container.id.unwrap_or_default()).await })
            .buffer_unordered(self.settings.removals_in_flight.max(1))
            .collect()
            .await;
        let base = self.settings.private_dir.clone();
        let _ = tokio::task::spawn_blocking(move || private_dir::sweep(base.as_deref(), process::kill_all_of)).await;
        let mut removed = 0;
        for removal in removals {
            removed += usize::from(removal?);
        }
        Ok(removed)
    }

    /// A new number for a sandbox of this engine.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

fn capacity(info: &SystemInfo) -> Option<Capacity> {
    let processors = info.ncpu.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0)?;
    let memory = info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    Some(Capacity { processors: processors.into(), memory: memory.unwrap_or(u64::MAX) })
}

impl Provider for Docker {
    fn capacity(&self) -> Option<Capacity> {
        self.0.capacity
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.0.check().boxed()
    }

    fn missing<'a>(&'a self, images: &'a [String]) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        self.0.images.missing(images).boxed()
    }

    fn image_bytes<'a>(&'a self, image: &'a str) -> BoxFuture<'a, u64> {
        self.0.images.bytes(image).boxed()
    }

    fn fetch<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        self.0.images.fetch(image).boxed()
    }

    fn evict<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<bool, Failure>> {
        self.0.images.evict(image).boxed()
    }

    fn disk(&self) -> BoxFuture<'_, Option<Disk>> {
        async { self.0.root.as_deref().and_then(Disk::of) }.boxed()
    }

    fn images_at(&self) -> Option<PathBuf> {
        self.0.root.clone()
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Box<dyn Sandbox>, Failure>> {
        self.0.start(spec).boxed()
    }

    fn sweep<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<usize, Failure>> {
        self.0.sweep(run).boxed()
    }
}

struct DockerSandbox {
    container: Container,
    toolbox: Toolbox,
    workdir: String,
    digest: Arc<str>,
}

impl Sandbox for DockerSandbox {
    fn toolbox(&self) -> &Toolbox {
        &self.toolbox
    }

    fn workdir(&self) -> &str {
        &self.workdir
    }

    fn image_digest(&self) -> &str {
        &self.digest
    }

    fn fate(&self) -> BoxFuture<'_, Fate> {
        self.container.fate().boxed()
    }

    fn destroy(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        async move { self.container.remove().await }.boxed()
    }

    fn retire(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move { self.container.retire().await }.boxed()
    }
}
