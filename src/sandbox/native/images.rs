//! The images of native sandboxes: looked up in the store, fetched by a process of their own where they are missing, so that no
//! hostile archive is read where the keys are.

use super::super::fetch::{Disk, FetchError, Fetched};
use crate::domain::{Failure, Kind};
use crate::images::{Image, Settings, Store};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::process::Command;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

/// The image that is this host's own system directories, and needs no store.
pub const HOST: &str = "host";
/// What the fetching process keeps of our environment: where it finds programs, credentials, daemons and proxies.
const ENVIRONMENT: [&str; 16] = [
    "PATH",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "DOCKER_CONFIG",
    "DOCKER_HOST",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
];

#[derive(Debug)]
pub struct Images {
    settings: Settings,
    store: Store,
    /// The program, and its settings as a file.
    program: PathBuf,
    config: PathBuf,
    known: Mutex<HashMap<String, Arc<Image>>>,
    /// One an image that is being fetched.
    fetching: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
    slots: Semaphore,
}

impl Images {
    /// Opens the store; `private` is a directory of the engine's.
    ///
    /// # Errors
    /// Where the store cannot be opened, or the settings not be written for the fetching processes.
    pub fn open(settings: Settings, program: &Path, private: &Path) -> Result<Self, Failure> {
        let store = Store::open(&settings).map_err(|error| error.failure())?;
        let config = private.join("images.toml");
        let failed = |error: &dyn std::fmt::Display| Failure::new(Kind::SandboxStart, format!("{}: {error}", config.display()));
        let table = toml::Table::from_iter([("images".to_owned(), toml::Value::try_from(&settings).map_err(|error| failed(&error))?)]);
        fs::write(&config, table.to_string()).map_err(|error| failed(&error))?;
        let (known, fetching, slots) = (Mutex::default(), Mutex::default(), Semaphore::new(settings.pull.in_flight.max(1)));
        Ok(Images { settings, store, program: program.to_owned(), config, known, fetching, slots })
    }

    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn is_present(&self, name: &str) -> Result<bool, Failure> {
        Ok(name == HOST || self.find(name)?.is_some())
    }

    /// Bytes of its layers; 0 where it is not there.
    #[must_use]
    pub fn bytes(&self, name: &str) -> u64 {
        self.find(name).ok().flatten().map_or(0, |image| image.bytes)
    }

    /// The image, fetched where it is missing, by one process for all who want it at the same time; none for the host's own.
    ///
    /// # Errors
    /// `ImageMissing`, `ImagePull`, `NoSpace`.
    pub async fn ensure(&self, name: &str) -> Result<Option<Arc<Image>>, Failure> {
        if name == HOST {
            return Ok(None);
        }
        if let Some(image) = self.find(name)? {
            return Ok(Some(image));
        }
        let turn = lock(&self.fetching).entry(name.to_owned()).or_default().clone();
        let _turn = turn.lock().await;
        if let Some(image) = self.find(name)? {
            return Ok(Some(image));
        }
        let fetched = self.fetch(name).await;
        lock(&self.fetching).remove(name);
        fetched?;
        let gone =
            || Failure::new(Kind::ImagePull, format!("image {name} was fetched but is not in the store; does something remove images?"));
        self.find(name)?.map(Some).ok_or_else(gone)
    }

    async fn fetch(&self, name: &str) -> Result<(), Failure> {
        let failed = |kind, why: &str| Failure::new(kind, format!("image {name}: {why}"));
        if !self.settings.fetch {
            return Err(failed(
                Kind::ImageMissing,
                "it is not in the store, and images.fetch is off: `sweroll images import` or `pull` it",
            ));
        }
        let _slot = self.slots.acquire().await.map_err(|error| failed(Kind::ImagePull, &error.to_string()))?;
        tracing::info!(image = name, "fetching an image");
        self.run("pull", name).await
    }

    /// Has the image there, for sandboxes to come.
    ///
    /// # Errors
    /// As [`Images::ensure`].
    pub async fn prefetch(&self, name: &str) -> Result<Fetched, FetchError> {
        if self.is_present(name)? {
            return Ok(Fetched::default());
        }
        let began = SystemTime::now();
        let image = self.ensure(name).await?;
        Ok(Fetched { bytes: image.map_or(0, |image| self.store.bytes_since(&image, began)), pulled: true })
    }

    /// Forgets the name. The layers go at once, or, where a sandbox has them, when the store is next tidied after it.
    ///
    /// # Errors
    /// `ImagePull` where the store cannot be changed.
    pub async fn evict(&self, name: &str) -> Result<bool, Failure> {
        if name == HOST {
            return Ok(false);
        }
        let held = lock(&self.known).remove(name);
        // Who still has it would go on with layers that no name keeps.
        if let Some(held) = held
            && let Err(held) = Arc::try_unwrap(held)
        {
            lock(&self.known).entry(name.to_owned()).or_insert(held);
            return Ok(false);
        }
        if self.find(name)?.is_none() {
            return Ok(true);
        }
        lock(&self.known).remove(name);
        self.run("rm", name).await.map(|()| true)
    }

    #[must_use]
    pub fn disk(&self) -> Option<Disk> {
        Disk::of(&self.store.layers())
    }

    /// `sweroll images COMMAND NAME`, in a process of its own.
    async fn run(&self, subcommand: &str, name: &str) -> Result<(), Failure> {
        let failed = |kind, why: &str| Failure::new(kind, format!("image {name}: {why}"));
        // One that looks like an option is none.
        let mut command = Command::new(&self.program);
        command.args(["images", subcommand, "--format", "json", "--config"]).arg(&self.config).args(["--", name]);
        command.env_clear().envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.map_err(|error| failed(Kind::ImagePull, &error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let said: Option<Said> = output.stdout.split(|byte| *byte == b'\n').find_map(|line| serde_json::from_slice(line).ok());
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(said.map_or_else(|| failed(Kind::ImagePull, stderr.trim()), |said| Failure::new(said.kind, said.message)))
    }

    fn find(&self, name: &str) -> Result<Option<Arc<Image>>, Failure> {
        if let Some(image) = lock(&self.known).get(name) {
            return Ok(Some(image.clone()));
        }
        let found = self.store.find(name).map_err(|error| error.failure())?.map(Arc::new);
        if let Some(image) = &found {
            lock(&self.known).insert(name.to_owned(), image.clone());
        }
        Ok(found)
    }
}

/// The line of an image that could not be had.
#[derive(Deserialize)]
struct Said {
    kind: Kind,
    message: String,
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
