//! One container from its creation to its proven end.

use super::daemon::{Daemon, status};
use super::events::{Follow, KILLED};
use crate::domain::{Failure, Kind};
use crate::sandbox::Fate;
use bollard::query_parameters::{InspectContainerOptions, RemoveContainerOptionsBuilder};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// How long after its stream broke a container may still be reported as running before it counts as alive.
const DYING: Duration = Duration::from_secs(5);
/// How long the report of an end, and of memory exhausted, may lag behind the end.
const REPORT_LAG: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);

/// Removes containers, a bounded number at a time.
#[derive(Debug)]
pub struct Remover {
    daemon: Arc<Daemon>,
    slots: Semaphore,
    /// Of those that nobody waits for.
    backlog: Arc<Semaphore>,
    /// For one removal.
    timeout: Duration,
}

impl Remover {
    #[must_use]
    pub fn new(daemon: Arc<Daemon>, in_flight: usize, timeout: Duration) -> Self {
        let (slots, backlog) = (Semaphore::new(in_flight.max(1)), Arc::new(Semaphore::new(3 * in_flight.max(1))));
        Remover { daemon, slots, backlog, timeout }
    }

    /// Kills and removes, and returns once the daemon no longer knows the container: true if it did before.
    ///
    /// # Errors
    /// `Daemon` when it is still there after the time allowed.
    pub async fn remove(&self, id: &str) -> Result<bool, Failure> {
        let _slot = self.slots.acquire().await;
        let deadline = Instant::now() + self.timeout;
        let options = || Some(RemoveContainerOptionsBuilder::new().force(true).v(true).build());
        let mut pause = POLL;
        loop {
            // 409 says that its automatic removal is under way, 500 that a mount is still busy: ask again.
            let error = match self.daemon.ask(|| self.daemon.client.remove_container(id, options())).await {
                Ok(()) => return Ok(true),
                Err(error) if status(&error) == Some(404) => return Ok(false),
                Err(error) => error,
            };
            if Instant::now() + pause > deadline {
                return Err(self.daemon.failure(Kind::Daemon, &format!("cannot remove container {id}"), &error));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

/// The directory of a sandbox's socket, which goes with it.
#[derive(Debug)]
pub struct IoDir(pub PathBuf);

impl Drop for IoDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A created container. Dropping it has it removed in the background.
#[derive(Debug)]
pub struct Container {
    id: String,
    remover: Arc<Remover>,
    follow: Follow,
    removed: bool,
    _io: Option<Arc<IoDir>>,
}

impl Container {
    #[must_use]
    pub fn new(id: String, remover: Arc<Remover>, follow: Follow, io: Option<Arc<IoDir>>) -> Self {
        Container { id, remover, follow, removed: false, _io: io }
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the exit code once the daemon reports the end of the first process.
    pub async fn ended(&self) -> i64 {
        self.follow.until(|seen| seen.exit_code.is_some()).await.exit_code.unwrap_or(-1)
    }

    /// Kills and removes it.
    ///
    /// # Errors
    /// See [`Remover::remove`].
    pub async fn remove(mut self) -> Result<(), Failure> {
        let outcome = self.remover.remove(&self.id).await;
        self.removed = outcome.is_ok();
        outcome.map(drop)
    }

    /// Has it killed and removed in the background, one of a bounded number; waits where that is reached.
    pub async fn retire(self) {
        let place = self.remover.backlog.clone().acquire_owned().await;
        tokio::spawn(async move {
            let _place = place;
            let id = self.id.clone();
            if let Err(failure) = self.remove().await {
                tracing::warn!(%failure, id, "a sandbox was not removed; the next sweep takes it");
            }
        });
    }

    /// What became of it, asked when its stream broke.
    pub async fn fate(&self) -> Fate {
        let mut fate = self.state().await;
        let alive_at = Instant::now() + DYING;
        while !fate.gone && Instant::now() < alive_at {
            sleep(POLL).await;
            fate = self.state().await;
        }
        if !fate.gone {
            return fate;
        }
        let _ = timeout(REPORT_LAG, self.ended()).await;
        let killed = self.follow.seen().exit_code.or(fate.exit_code).is_none_or(|code| code == KILLED);
        if killed && !fate.oom {
            let _ = timeout(REPORT_LAG, self.follow.until(|seen| seen.ended_by_oom() == Some(true))).await;
        }
        let seen = self.follow.seen();
        // The daemon's own flag tells of any kill in the container on some versions, and never of when it was.
        let oom = seen.ended_by_oom().unwrap_or(fate.oom && killed);
        Fate { gone: true, oom, exit_code: seen.exit_code.or(fate.exit_code) }
    }

    async fn state(&self) -> Fate {
        let daemon = &self.remover.daemon;
        match daemon.ask(|| daemon.client.inspect_container(&self.id, None::<InspectContainerOptions>)).await {
            Ok(found) => {
                let state = found.state.unwrap_or_default();
                let gone = state.running != Some(true);
                Fate { gone, oom: gone && state.oom_killed == Some(true), exit_code: state.exit_code.filter(|_| gone) }
            }
            Err(error) => Fate { gone: status(&error) == Some(404), ..Fate::default() },
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (remover, id) = (self.remover.clone(), self.id.clone());
        runtime.spawn(async move {
            if let Err(failure) = remover.remove(&id).await {
                tracing::warn!(%failure, "a sandbox that was given up is still there; the next sweep takes it");
            }
        });
    }
}
