//! The isolated place where one episode's tool calls run. A backend provides: image present, the toolbox started in it
//! as first process, its stream, kill, and what happened to it.

pub mod auto;
pub mod bases;
pub mod bounded;
pub mod docker;
pub mod elf;
pub mod fetch;
pub mod local;
pub mod native;
pub mod null;
mod owner;
pub mod prepare;
mod private_dir;
mod program;
mod scrub;
mod workdir;

pub use auto::Auto;
pub use bounded::Bounded;
pub use docker::Docker;
pub use fetch::{Disk, FetchError, Fetched};
pub use local::Local;
pub use native::Native;
pub use null::Null;

use crate::domain::{AttemptId, Failure, Kind};
use crate::toolbox::client::{self, Toolbox};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// What a sandbox is for; a label on its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    Agent,
    Grade,
}

/// Bounds of one sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory, swap included.
    pub memory: u64,
    /// Processors' worth of time.
    pub cpus: f64,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes of /dev/shm.
    pub shm: u64,
    /// Whether the sandbox reaches a network; off by default.
    pub network: bool,
    /// Seconds to the toolbox's greeting, from the start's turn among those in flight.
    pub start_timeout_s: u64,
    /// How long the toolbox's replies may take.
    pub toolbox: client::Settings,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory: 4 << 30,
            cpus: 2.0,
            pids: 1024,
            shm: 64 << 20,
            network: false,
            start_timeout_s: 120,
            toolbox: client::Settings::default(),
        }
    }
}

/// One sandbox wanted.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name of the run: unique to its directory.
    pub run: String,
    pub attempt: AttemptId,
    pub purpose: Purpose,
    pub image: String,
    pub workdir: String,
    pub limits: Limits,
    /// Its files may be kept.
    pub keep: bool,
    /// It starts with these files over its image, and is at its instance's base with them.
    pub upon: Option<Snapshot>,
}

/// The files of a sandbox that is no more, for others to start upon. They go with the last copy of this.
#[derive(Debug, Clone)]
pub struct Snapshot {
    id: u64,
    keeper: Arc<dyn Keeper>,
}

impl Snapshot {
    /// Whether sandboxes can still be started upon it.
    fn is_there(&self) -> bool {
        self.keeper.is_there()
    }
}

/// Where a snapshot is kept.
trait Keeper: std::fmt::Debug + Send + Sync {
    fn is_there(&self) -> bool;
}

/// How a sandbox came to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fate {
    /// The backend says that it no longer runs, and not because we destroyed it.
    pub gone: bool,
    /// It is gone because the kernel killed its first process for want of memory.
    pub oom: bool,
    pub exit_code: Option<i64>,
}

/// A running sandbox whose toolbox has greeted. Dropping it without `destroy` must still lead to its removal.
pub trait Sandbox: Send + Sync + 'static {
    fn toolbox(&self) -> &Toolbox;
    /// Where the instance's `workdir` is for processes inside.
    fn workdir(&self) -> &str;
    /// Digest of the image's content, empty where there is none.
    fn image_digest(&self) -> &str;
    /// Nothing is in it, so that there is no base to be brought to and no runner to be found.
    fn is_null(&self) -> bool {
        false
    }
    /// What the backend says happened to it, asked when its stream broke.
    fn fate(&self) -> BoxFuture<'_, Fate>;
    /// Kills at once, and returns once the backend says that it is dead.
    fn destroy(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>>;
    /// Whether its files are all there is of it: it was started to be kept, no process is left in it, nothing lies in memory.
    fn is_at_rest(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }
    /// Ends it, and keeps its files.
    ///
    /// # Errors
    /// `SandboxLost`; always, where it is not [at rest](Sandbox::is_at_rest).
    fn keep(self: Box<Self>) -> BoxFuture<'static, Result<Snapshot, Failure>> {
        Box::pin(async move {
            self.retire().await;
            Err(Failure::new(Kind::SandboxLost, "its backend keeps no files of sandboxes"))
        })
    }
    /// Has it destroyed, and returns at once unless too many wait for that already. What fails is told in the log and left to
    /// the next sweep.
    fn retire(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Err(failure) = self.destroy().await {
                tracing::warn!(%failure, "a sandbox was not destroyed; the next sweep takes it");
            }
        })
    }
}

/// What the sandboxes share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// Processors of their host.
    pub processors: f64,
    /// Bytes of its memory.
    pub memory: u64,
}

impl Capacity {
    /// How many sandboxes can run tests at once: each keeps one processor busy, or what it may use of one, and may use all of
    /// its memory. At least 1.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn holds(&self, limits: &Limits) -> usize {
        let by_processors = (self.processors / limits.cpus.clamp(0.01, 1.0)).floor() as u64;
        let by_memory = self.memory / limits.memory.max(1);
        usize::try_from(by_processors.min(by_memory)).unwrap_or(usize::MAX).max(1)
    }
}

pub trait Provider: Send + Sync {
    /// What whoever starts a run should be told of its sandboxes.
    fn notice(&self) -> Option<String> {
        None
    }
    /// How many snapshots of sandboxes it can keep at once; 0: none.
    fn snapshots(&self) -> usize {
        0
    }
    /// Of the host that the sandboxes are on, where the backend tells.
    fn capacity(&self) -> Option<Capacity> {
        None
    }
    /// That the backend answers and can hold sandboxes; asked once before the run.
    fn check(&self) -> BoxFuture<'_, Result<(), Failure>>;
    /// Which of these images would have to be pulled; none where there are no images.
    ///
    /// # Errors
    /// `Daemon`, `ImagePull` where the backend does not tell.
    fn missing<'a>(&'a self, _images: &'a [String]) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Bytes of the image on the backend; 0 where there is none or it does not tell.
    fn image_bytes<'a>(&'a self, _image: &'a str) -> BoxFuture<'a, u64> {
        Box::pin(async { 0 })
    }
    /// Has the image there, for sandboxes to come. A backend without images has all.
    ///
    /// # Errors
    /// `Busy` where its registry wants fewer requests, which concerns all images; `ImageMissing`, `ImagePull`, `NoSpace`, `Daemon`.
    fn fetch<'a>(&'a self, _image: &'a str) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        Box::pin(async { Ok(Fetched::default()) })
    }
    /// Removes the image; false where it stays, as something uses it or there are none.
    ///
    /// # Errors
    /// `Daemon`, `ImagePull` where the backend cannot.
    fn evict<'a>(&'a self, _image: &'a str) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(async { Ok(false) })
    }
    /// Where images lie, if that is on this host.
    fn disk(&self) -> BoxFuture<'_, Option<Disk>> {
        Box::pin(async { None })
    }
    /// The directory on this host where images lie, for the user to make room there.
    fn images_at(&self) -> Option<PathBuf> {
        None
    }
    /// Image present, first process started, toolbox greeted.
    ///
    /// # Errors
    /// `Daemon`, `ImageMissing`, `ImagePull`, `SandboxStart`, `NoSpace`, `Workdir`.
    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Box<dyn Sandbox>, Failure>>;
    /// Removes what this run left behind, and what dead runs of this host left; never another live run's.
    /// Returns how many were removed.
    fn sweep<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<usize, Failure>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_holds_what_its_processors_and_its_memory_allow() {
        let holds = |processors, memory: u64, cpus, each: u64| {
            let limits = Limits { cpus, memory: each << 30, ..Limits::default() };
            Capacity { processors, memory: memory << 30 }.holds(&limits)
        };
        assert_eq!(holds(64.0, 512, 2.0, 4), 64);
        assert_eq!(holds(4.0, 23, 2.0, 4), 4);
        assert_eq!(holds(8.0, 23, 2.0, 4), 5);
        assert_eq!(holds(4.0, 64, 0.5, 4), 8);
        assert_eq!(holds(1.0, 1, 2.0, 4), 1);
        assert_eq!(holds(4.0, 64, 0.0, 0), 400);
    }
}
