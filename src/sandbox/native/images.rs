//! The images of native sandboxes: looked up in the store, fetched by a process of their own where they are missing, so that no
//! hostile archive is read where the keys are.

use super::super::fetch::{Disk, FetchError, Fetched};
use crate::domain::{Failure, Kind};
use crate::images::store::Named;
use crate::images::{Image, Settings, Store};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, Weak};
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

/// A name that was looked up. Who uses the image holds it, nobody else: each hold is an open file.
#[derive(Debug)]
struct Known {
    named: Named,
    image: Weak<Image>,
}

#[derive(Debug)]
pub struct Images {
    settings: Settings,
    store: Store,
    /// The program, and its settings as a file.
    program: PathBuf,
    config: PathBuf,
    known: Mutex<HashMap<String, Known>>,
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

    /// Whether the image is there.
    ///
    /// # Errors
    /// Where the store cannot be read; so [`Images::missing`].
    pub fn is_present(&self, name: &str) -> Result<bool, Failure> {
        Ok(name == HOST || self.find(name)?.is_some())
    }

    /// Which of these are not there, in their order.
    pub fn missing(&self, names: &[String]) -> Result<Vec<String>, Failure> {
        let wanted: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != HOST).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let there = self.store.present(&wanted).map_err(|error| error.failure())?;
        let absent = names.iter().filter(|name| *name != HOST && !there.contains_key(name.as_str())).cloned().collect();
        let mut known = lock(&self.known);
        for (name, named) in there {
            known.entry(name.to_owned()).or_insert(Known { named, image: Weak::new() });
        }
        Ok(absent)
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
        self.ensure_as(name, true).await
    }

    /// `patient`: a registry's 429 is waited out.
    async fn ensure_as(&self, name: &str, patient: bool) -> Result<Option<Arc<Image>>, Failure> {
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
        let fetched = self.fetch(name, patient).await;
        lock(&self.fetching).remove(name);
        fetched?;
        let gone =
            || Failure::new(Kind::ImagePull, format!("image {name} was fetched but is not in the store; does something remove images?"));
        self.find(name)?.map(Some).ok_or_else(gone)
    }

    async fn fetch(&self, name: &str, patient: bool) -> Result<(), Failure> {
        let failed = |kind, why: &str| Failure::new(kind, format!("image {name}: {why}"));
        if !self.settings.fetch {
            return Err(failed(
                Kind::ImageMissing,
                "it is not in the store, and images.fetch is off: `sweroll images import` or `pull` it",
            ));
        }
        let _slot = self.slots.acquire().await.map_err(|error| failed(Kind::ImagePull, &error.to_string()))?;
        tracing::info!(image = name, "fetching an image");
        let wait = format!("images.pull.wait_if_busy={patient}");
        self.run(&["pull", "--set", &wait], name).await
    }

    /// Has the image there, for sandboxes to come. The registry's 429 is told at once: whoever asks knows of all pulls.
    ///
    /// # Errors
    /// As [`Images::ensure`].
    pub async fn prefetch(&self, name: &str) -> Result<Fetched, FetchError> {
        if self.is_present(name)? {
            return Ok(Fetched::default());
        }
        let began = SystemTime::now();
        let image = self.ensure_as(name, false).await?;
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
        // Who still has it would go on with layers that no name keeps.
        if lock(&self.known).get(name).is_some_and(|known| known.image.strong_count() > 0) {
            return Ok(false);
        }
        if self.find(name)?.is_none() {
            return Ok(true);
        }
        lock(&self.known).remove(name);
        self.run(&["rm"], name).await.map(|()| true)
    }

    #[must_use]
    pub fn disk(&self) -> Option<Disk> {
        Disk::of(&self.store.layers())
    }

    /// `sweroll images COMMAND NAME`, in a process of its own.
    async fn run(&self, subcommand: &[&str], name: &str) -> Result<(), Failure> {
        let failed = |kind, why: &str| Failure::new(kind, format!("image {name}: {why}"));
        // One that looks like an option is none.
        let mut command = Command::new(&self.program);
        command.arg("images").args(subcommand).args(["--format", "json", "--config"]).arg(&self.config).args(["--", name]);
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
        let mut known = lock(&self.known);
        if let Some(image) = known.get(name).and_then(|known| known.image.upgrade()) {
            return Ok(Some(image));
        }
        // The file of all names is long where there are many.
        if let Some(Known { named, image: seen }) = known.get_mut(name)
            && let Some(image) = self.store.held(named).map_err(|error| error.failure())?.map(Arc::new)
        {
            *seen = Arc::downgrade(&image);
            return Ok(Some(image));
        }
        known.remove(name);
        let Some(image) = self.store.find(name).map_err(|error| error.failure())?.map(Arc::new) else { return Ok(None) };
        let named = Named { id: image.id.clone(), digest: image.digest.clone() };
        known.insert(name.to_owned(), Known { named, image: Arc::downgrade(&image) });
        Ok(Some(image))
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
