//! Sandboxes of namespaces and an overlay, by no daemon. See docs/sandbox.md for what they are made of.

pub mod cgroup;
pub mod filter;
mod images;
pub mod launcher;
mod link;

use super::owner::{self, Owner};
use super::private_dir::{self, PrivateDir};
use super::program::Program;
use super::{Capacity, Disk, Fate, FetchError, Fetched, Keeper, Provider, Sandbox, Snapshot, Spec, prepare, workdir};
use crate::domain::{Failure, Kind};
use crate::images::{Image, Settings as ImageSettings};
use crate::toolbox::client::Toolbox;
use crate::toolbox::protocol::End;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use images::Images;
use launcher::wire::{Setup, Start};
use link::{Link, State};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// How long after its stream broke a sandbox may still run before it counts as alive.
const DYING: Duration = Duration::from_secs(5);
/// How long the launcher's word on a failed start may lag behind the end of the stream.
const TOLD: Duration = Duration::from_millis(500);
/// Number of the next sandbox. Control groups are told apart by it, and those of all providers of an engine lie side by side.
static NEXT: AtomicU64 = AtomicU64::new(1);
/// Where scratch directories are made; not the runtime directory, which is small and in memory.
const SCRATCH: &str = "/var/tmp";

/// Where what a sandbox writes is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upper {
    /// On disk where the kernel lets this user attach a file as a disk, else in memory.
    #[default]
    Auto,
    /// In a file system of its own, in a sparse file in the scratch directory.
    Disk,
    /// In memory, counted to the sandbox's memory.
    Memory,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where what the sandboxes write is kept while they live; none: `/var/tmp`.
    pub scratch: Option<PathBuf>,
    pub upper: Upper,
    /// Bytes that a sandbox may write over its image.
    pub upper_bytes: u64,
    /// Files and directories that a sandbox may make.
    pub upper_files: u64,
    /// Bytes of the `/tmp` in memory that a sandbox has where its image has nothing there; 0: `/tmp` is a directory like others.
    pub tmp_bytes: u64,
    /// Open files allowed to a process in a sandbox.
    pub nofile: u64,
    /// Sandboxes being started at the same time.
    pub starts_in_flight: usize,
    /// Prepared sandboxes' files that are kept at once for others to start upon, the last used ones; 0: every sandbox is prepared anew.
    pub snapshots: usize,
    /// Seconds for a sandbox to be gone once it was killed.
    pub remove_timeout_s: u64,
    /// The program that serves inside the sandboxes and launches them; none: this one.
    pub toolbox_path: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            scratch: None,
            upper: Upper::Auto,
            upper_bytes: 10 << 30,
            upper_files: 1 << 20,
            tmp_bytes: 1 << 30,
            nofile: 16384,
            starts_in_flight: 16,
            snapshots: 128,
            remove_timeout_s: 60,
            toolbox_path: None,
        }
    }
}

/// A provider on this host; cheap to clone.
#[derive(Debug, Clone)]
pub struct Native(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    images: Images,
    setup: Setup,
    program: Program,
    link: Mutex<Arc<Link>>,
    starts: Semaphore,
    _private: PrivateDir,
}

impl Native {
    /// Starts the launcher, which finds out what this host allows. Needs a tokio runtime.
    ///
    /// # Errors
    /// `SandboxStart` where the kernel does not allow native sandboxes to this user, with the mend.
    pub async fn start_up(settings: Settings, images: ImageSettings) -> Result<Self, Failure> {
        let private = PrivateDir::create(Some(settings.scratch.as_deref().unwrap_or(Path::new(SCRATCH))))?;
        let program = Program::install(settings.toolbox_path.as_deref(), private.path())?;
        let images = Images::open(images, program.path(), private.path())?;
        let setup = Setup {
            layers: images.store().layers(),
            ids: images.store().ids(),
            first_id: images.settings().first_id,
            scratch: private.path().to_owned(),
            toolbox: program.path().to_owned(),
            upper: settings.upper,
            upper_bytes: settings.upper_bytes,
            upper_files: settings.upper_files,
            tmp_bytes: settings.tmp_bytes,
            nofile: settings.nofile,
        };
        let link = Mutex::new(Arc::new(Link::start(program.path(), &setup).await?));
        let starts = Semaphore::new(settings.starts_in_flight.max(1));
        Ok(Native(Arc::new(Inner { settings, images, setup, program, link, starts, _private: private })))
    }

    /// Whether the image is there.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn has(&self, image: &str) -> Result<bool, Failure> {
        self.0.images.is_present(image)
    }
}

impl Inner {
    /// The launcher, another where it died.
    async fn link(&self) -> Result<Arc<Link>, Failure> {
        let mut link = self.link.lock().await;
        if link.is_over() {
            tracing::warn!("the launcher of the sandboxes is gone, and its sandboxes with it; starting another");
            *link = Arc::new(Link::start(self.program.path(), &self.setup).await?);
        }
        Ok(link.clone())
    }

    async fn start(&self, spec: &Spec) -> Result<Box<dyn Sandbox>, Failure> {
        workdir::check_absolute(&spec.workdir)?;
        if spec.limits.network {
            let mend = "leave sandbox.limits.network off, or take --sandbox docker";
            return Err(Failure::new(Kind::SandboxStart, format!("native sandboxes reach no network: {mend}")));
        }
        let image = self.images.ensure(&spec.image).await?;
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(Kind::SandboxStart, format!("no native sandbox of image {} for {}: {why}", spec.image, spec.attempt))
        };
        let _slot = self.starts.acquire().await.map_err(|error| failed(&error))?;
        let deadline = Instant::now() + Duration::from_secs(spec.limits.start_timeout_s);
        let link = self.link().await?;
        let (ours, theirs) = stream().map_err(|error| failed(&error))?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let layers = image.as_ref().map(|image| image.layers.clone());
        let workdir = image.as_ref().map_or(&spec.workdir, |image| &image.workdir).clone();
        let env = image.as_ref().map(|image| image.env.clone()).unwrap_or_default();
        let user = image.as_ref().map(|image| image.user.clone()).unwrap_or_default();
        // The host's own directories are mounted into each anew.
        let kept = (spec.keep && image.is_some()).then(|| Kept { id, link: link.clone(), _image: image.clone() });
        let upon = spec.upon.as_ref().map(|snapshot| snapshot.id);
        let order = Start { id, layers, workdir, env, user, limits: spec.limits.clone(), keep: kept.is_some(), upon };
        let state = link.launch(order, theirs).await.map_err(|error| failed(&error))?;
        // From here on, dropping it kills it.
        let remove_timeout = Duration::from_secs(self.settings.remove_timeout_s);
        let lease = Lease { id, link, state, remove_timeout, _image: image.clone(), _upon: spec.upon.clone() };
        let patience = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let mut state = lease.state.clone();
        let met = tokio::select! {
            met = Toolbox::connect_with(ours, patience, spec.limits.toolbox) => met.map_err(|error| failed(&error)),
            _ = state.wait_for(|state| *state != State::Wanted) => Err(failed(&"their launcher is gone")),
        };
        let toolbox = match met {
            Ok(toolbox) => toolbox,
            // What it failed by is known better by the launcher.
            Err(failure) => {
                let told = timeout(TOLD, state.wait_for(|state| *state != State::Wanted)).await;
                return Err(match told.as_ref().map(|state| state.as_deref()) {
                    Ok(Ok(State::Failed { message, no_space: true })) => Failure::new(Kind::NoSpace, failed(message).message),
                    Ok(Ok(State::Failed { message, .. })) => failed(message),
                    Ok(Ok(State::Ended { code: Some(code), .. })) => {
                        failed(&format!("its toolbox ended with code {code} before it greeted"))
                    }
                    _ => failure,
                });
            }
        };
        let sandbox = NativeSandbox { lease, toolbox, workdir: spec.workdir.clone(), image, kept };
        let checked =
            timeout_at(deadline.max(Instant::now() + Duration::from_secs(1)), workdir::check(&sandbox.toolbox, &spec.workdir, &spec.image));
        match checked.await {
            Ok(Ok(())) => Ok(Box::new(sandbox)),
            Ok(Err(failure)) => {
                let _ = sandbox.lease.end().await;
                Err(failure)
            }
            Err(_) => Err(failed(&format!("it did not answer within {} s (start_timeout_s)", spec.limits.start_timeout_s))),
        }
    }
}

/// Removes what dead engines left: scratch directories and control groups. Returns how many.
pub async fn sweep(settings: &Settings) -> usize {
    let base = settings.scratch.clone().unwrap_or_else(|| SCRATCH.into());
    let sweeping = tokio::task::spawn_blocking(move || {
        let groups = Owner::ours().map_or(0, |here| cgroup::sweep(&here, owner::look));
        private_dir::sweep(Some(&base), |_| ()) + groups
    });
    sweeping.await.unwrap_or(0)
}

fn stream() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

impl Provider for Native {
    fn snapshots(&self) -> usize {
        self.0.settings.snapshots
    }

    fn capacity(&self) -> Option<Capacity> {
        super::local::capacity()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Failure>> {
        async { self.0.link().await.map(drop) }.boxed()
    }

    fn missing<'a>(&'a self, images: &'a [String]) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        async { self.0.images.missing(images) }.boxed()
    }

    fn image_bytes<'a>(&'a self, image: &'a str) -> BoxFuture<'a, u64> {
        async { self.0.images.bytes(image) }.boxed()
    }

    fn fetch<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        self.0.images.prefetch(image).boxed()
    }

    fn evict<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<bool, Failure>> {
        self.0.images.evict(image).boxed()
    }

    fn disk(&self) -> BoxFuture<'_, Option<Disk>> {
        async { self.0.images.disk() }.boxed()
    }

    fn images_at(&self) -> Option<PathBuf> {
        Some(self.0.images.store().layers())
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Box<dyn Sandbox>, Failure>> {
        self.0.start(spec).boxed()
    }

    fn sweep<'a>(&'a self, _run: &'a str) -> BoxFuture<'a, Result<usize, Failure>> {
        async { Ok(sweep(&self.0.settings).await) }.boxed()
    }
}

/// A sandbox's life with the launcher. Dropping it has it killed.
#[derive(Debug)]
struct Lease {
    id: u64,
    link: Arc<Link>,
    state: watch::Receiver<State>,
    remove_timeout: Duration,
    /// Nothing of the image is removed while it is used.
    _image: Option<Arc<Image>>,
    _upon: Option<Snapshot>,
}

/// An upper that stays after its sandbox; dropping it has it forgotten.
#[derive(Debug)]
struct Kept {
    id: u64,
    link: Arc<Link>,
    _image: Option<Arc<Image>>,
}

impl Keeper for Kept {
    fn is_there(&self) -> bool {
        !self.link.is_over()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.link.forget(self.id);
    }
}

impl Lease {
    fn is_over(&self) -> bool {
        *self.state.borrow() != State::Wanted
    }

    /// Kills it, and waits until nothing is left of it.
    async fn end(&self) -> Result<(), Failure> {
        let mut state = self.state.clone();
        if !self.is_over() && self.link.kill(self.id).await.is_err() && !self.link.is_over() {
            return Err(Failure::new(Kind::SandboxLost, format!("native sandbox {}: its launcher takes no order", self.id)));
        }
        match timeout(self.remove_timeout, state.wait_for(|state| *state != State::Wanted)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let message = format!("native sandbox {} is not gone {} s after it was killed", self.id, self.remove_timeout.as_secs());
                Err(Failure::new(Kind::SandboxLost, message + "; is a process of it stuck in the kernel?"))
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.is_over() {
            let _ = self.link.kill_at_once(self.id);
        }
    }
}

struct NativeSandbox {
    lease: Lease,
    toolbox: Toolbox,
    workdir: String,
    image: Option<Arc<Image>>,
    kept: Option<Kept>,
}

/// Succeeds where there is no process but the toolbox and this one, and no file in memory.
const AT_REST: &str = r#"
set -- /proc/[0-9]*
[ $# -le 2 ] || exit 1
while read -r kind at rest; do
  case $at in /tmp | /dev/shm | /dev/mqueue) ;; *) continue ;; esac
  for file in "$at"/* "$at"/.[!.]* "$at"/..?*; do
    [ ! -e "$file" ] && [ ! -L "$file" ] || exit 1
  done
done < /proc/mounts
"#;
const AT_REST_TIMEOUT_S: u64 = 60;

impl Sandbox for NativeSandbox {
    fn toolbox(&self) -> &Toolbox {
        &self.toolbox
    }

    fn workdir(&self) -> &str {
        &self.workdir
    }

    fn image_digest(&self) -> &str {
        self.image.as_ref().map_or("host", |image| &image.digest)
    }

    fn fate(&self) -> BoxFuture<'_, Fate> {
        async {
            let mut state = self.lease.state.clone();
            let ended = timeout(DYING, state.wait_for(|state| *state != State::Wanted)).await;
            match ended.as_ref().map(|state| state.as_deref()) {
                Ok(Ok(State::Ended { code, oom })) => Fate { gone: true, oom: *oom, exit_code: *code },
                Ok(_) => Fate { gone: true, ..Fate::default() },
                Err(_) => Fate::default(),
            }
        }
        .boxed()
    }

    fn is_at_rest(&self) -> BoxFuture<'_, bool> {
        async {
            let looked = prepare::script(self, "/", AT_REST_TIMEOUT_S, AT_REST.as_bytes());
            self.kept.is_some() && looked.await.is_ok_and(|done| done.end == End::Exited(0))
        }
        .boxed()
    }

    fn keep(self: Box<Self>) -> BoxFuture<'static, Result<Snapshot, Failure>> {
        async move {
            self.lease.end().await?;
            let not_asked = || Failure::new(Kind::SandboxLost, "the sandbox was not started to be kept");
            let kept = self.kept.ok_or_else(not_asked)?;
            Ok(Snapshot { id: kept.id, keeper: Arc::new(kept) })
        }
        .boxed()
    }

    fn destroy(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        async move { self.lease.end().await }.boxed()
    }
}
