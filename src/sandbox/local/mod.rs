//! Sandboxes as plain processes in temporary directories, for the demo and for tests. They isolate nothing.

pub(super) mod process;

use super::private_dir::{self, PrivateDir};
use super::{Capacity, Fate, Provider, Sandbox, Spec, workdir};
use crate::domain::{Failure, Kind};
use crate::toolbox::client::Toolbox;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use process::Process;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;

/// What stands for the digest of an image where there is none.
const DIGEST: &str = "local";
const SELF: &str = "/proc/self/exe";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The program that serves in the sandboxes; none: this one.
    pub toolbox_path: Option<PathBuf>,
    /// Where the directories are made; none: `$XDG_RUNTIME_DIR`, the temporary directory, or `/var/tmp`.
    pub private_dir: Option<PathBuf>,
}

/// A provider on this host; cheap to clone.
#[derive(Debug, Clone)]
pub struct Local(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    /// Made with the first sandbox.
    private: Mutex<Option<Arc<PrivateDir>>>,
    next: AtomicU64,
}

impl Local {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Local(Arc::new(Inner { settings, private: Mutex::default(), next: AtomicU64::new(0) }))
    }
}

impl Inner {
    fn private(&self) -> Result<Arc<PrivateDir>, Failure> {
        let mut private = self.private.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = &*private {
            return Ok(dir.clone());
        }
        tracing::warn!("local sandboxes isolate nothing: commands run as this user, on this host, with its network");
        Ok(private.insert(Arc::new(PrivateDir::create(self.settings.private_dir.as_deref())?)).clone())
    }

    async fn start(&self, spec: &Spec) -> Result<Box<dyn Sandbox>, Failure> {
        workdir::check_absolute(&spec.workdir)?;
        let private = self.private()?;
        let home = private.path().join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Kind::SandboxStart, format!("no local sandbox for {} in {}: {error}", spec.attempt, home.display()))
        };
        let inside = home.join("root").join(spec.workdir.trim_start_matches('/'));
        let Some(workdir) = inside.to_str().map(str::to_owned) else {
            return Err(failed(&"the path is not UTF-8; set private_dir to another"));
        };
        let program = self.settings.toolbox_path.as_deref().unwrap_or(Path::new(SELF));
        let (process, stream) = spawn(program, &home, &inside).map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull => Failure::new(Kind::NoSpace, failed(&error).message),
            _ => failed(&error),
        })?;
        let patience = Duration::from_secs(spec.limits.start_timeout_s);
        let toolbox = Toolbox::connect_with(stream, patience, spec.limits.toolbox).await.map_err(|error| failed(&error))?;
        Ok(Box::new(LocalSandbox { process, toolbox, workdir, _private: private }))
    }
}

/// The toolbox at one end of a socket pair, in a home of its own and with nothing of our environment but the path.
fn spawn(program: &Path, home: &Path, workdir: &Path) -> std::io::Result<(Process, UnixStream)> {
    let temporary = home.join("tmp");
    fs::create_dir_all(workdir)?;
    fs::create_dir_all(&temporary)?;
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(DEFAULT_PATH));
    let child = tokio::process::Command::new(program)
        .arg("toolbox")
        .env_clear()
        .envs([("PATH", path.as_os_str()), ("LANG", "C.UTF-8".as_ref()), ("HOME", home.as_os_str()), ("TMPDIR", temporary.as_os_str())])
        .current_dir(workdir)
        .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::null())
        .spawn()?;
    Ok((Process::new(child, home.to_owned()), UnixStream::from_std(ours)?))
}

impl Provider for Local {
    fn notice(&self) -> Option<String> {
        Some("sandbox `local` isolates nothing: what is run in it runs as you, on this machine".to_owned())
    }

    fn capacity(&self) -> Option<Capacity> {
        capacity()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Failure>> {
        async { self.0.private().map(drop) }.boxed()
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Box<dyn Sandbox>, Failure>> {
        self.0.start(spec).boxed()
    }

    fn sweep<'a>(&'a self, _run: &'a str) -> BoxFuture<'a, Result<usize, Failure>> {
        let base = self.0.settings.private_dir.clone();
        let sweeping = tokio::task::spawn_blocking(move || private_dir::sweep(base.as_deref(), process::kill_all_of));
        async { Ok(sweeping.await.unwrap_or(0)) }.boxed()
    }
}

/// Of this host.
pub(super) fn capacity() -> Option<Capacity> {
    let processors = std::thread::available_parallelism().ok().and_then(|count| u32::try_from(count.get()).ok())?;
    Some(Capacity { processors: processors.into(), memory: total_memory()? })
}

/// Bytes of this host's memory.
fn total_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())?;
    Some(kilobytes * 1024)
}

struct LocalSandbox {
    process: Process,
    toolbox: Toolbox,
    workdir: String,
    _private: Arc<PrivateDir>,
}

impl Sandbox for LocalSandbox {
    fn toolbox(&self) -> &Toolbox {
        &self.toolbox
    }

    fn workdir(&self) -> &str {
        &self.workdir
    }

    fn image_digest(&self) -> &str {
        DIGEST
    }

    fn fate(&self) -> BoxFuture<'_, Fate> {
        self.process.fate().boxed()
    }

    fn destroy(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        self.process.destroy().boxed()
    }
}
