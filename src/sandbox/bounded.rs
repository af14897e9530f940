//! Around a backend: whatever becomes of what it is asked, it is waited for so long and no longer. Its own bounds are shorter and know
//! better; this one holds where they fail, as with a launcher that hangs or a file system that is gone, so that it costs an episode its
//! time and never the run.

use super::{Capacity, Disk, Fate, FetchError, Fetched, Provider, Sandbox, Snapshot, Spec};
use crate::domain::{Failure, Kind};
use crate::toolbox::client::Toolbox;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Seconds, all waiting in the backend's own lines included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Patience {
    /// For a sandbox to be started, or what dead engines left to be removed.
    pub start_s: u64,
    /// For an image to be fetched, with all its layers, tries and pauses.
    pub fetch_s: u64,
    /// For every other answer: a sandbox ended, what became of it, an image removed.
    pub answer_s: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { start_s: 3600, fetch_s: 14_400, answer_s: 600 }
    }
}

/// A backend that always answers.
pub struct Bounded {
    inner: Arc<dyn Provider>,
    patience: Patience,
}

impl Bounded {
    #[must_use]
    pub fn new(inner: Arc<dyn Provider>, patience: Patience) -> Self {
        Bounded { inner, patience }
    }
}

async fn within<T, E: From<Failure>>(
    seconds: u64,
    setting: &str,
    kind: Kind,
    what: &str,
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    timeout(Duration::from_secs(seconds), asked).await.unwrap_or_else(|_| {
        let mend = "see what the backend hangs on, or raise the limit";
        Err(Failure::new(
            kind,
            format!("{what}: the sandbox backend gave no answer within {seconds} s (sandbox.patience.{setting}); {mend}"),
        )
        .into())
    })
}

impl Patience {
    async fn start<T>(self, what: &str, asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        within(self.start_s, "start_s", Kind::SandboxStart, what, asked).await
    }

    async fn answer<T>(self, kind: Kind, what: &str, asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        within(self.answer_s, "answer_s", kind, what, asked).await
    }

    /// What a backend that does not answer says is its silence.
    async fn or_default<T: Default>(self, asked: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(self.answer_s), asked).await.unwrap_or_default()
    }
}

impl Provider for Bounded {
    fn notice(&self) -> Option<String> {
        self.inner.notice()
    }

    fn snapshots(&self) -> usize {
        self.inner.snapshots()
    }

    fn capacity(&self) -> Option<Capacity> {
        self.inner.capacity()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.patience.answer(Kind::Daemon, "check", self.inner.check()).boxed()
    }

    fn missing<'a>(&'a self, images: &'a [String]) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        self.patience.answer(Kind::Daemon, "which images are missing", self.inner.missing(images)).boxed()
    }

    fn image_bytes<'a>(&'a self, image: &'a str) -> BoxFuture<'a, u64> {
        self.patience.or_default(self.inner.image_bytes(image)).boxed()
    }

    fn fetch<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        within(self.patience.fetch_s, "fetch_s", Kind::ImagePull, image, self.inner.fetch(image)).boxed()
    }

    fn evict<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<bool, Failure>> {
        self.patience.answer(Kind::ImagePull, image, self.inner.evict(image)).boxed()
    }

    fn disk(&self) -> BoxFuture<'_, Option<Disk>> {
        self.patience.or_default(self.inner.disk()).boxed()
    }

    fn images_at(&self) -> Option<PathBuf> {
        self.inner.images_at()
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Box<dyn Sandbox>, Failure>> {
        async move {
            let inner = self.patience.start(&spec.image, self.inner.start(spec)).await?;
            Ok(Box::new(BoundedSandbox { inner, patience: self.patience }) as Box<dyn Sandbox>)
        }
        .boxed()
    }

    fn sweep<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<usize, Failure>> {
        self.patience.start("sweep", self.inner.sweep(run)).boxed()
    }
}

struct BoundedSandbox {
    inner: Box<dyn Sandbox>,
    patience: Patience,
}

impl Sandbox for BoundedSandbox {
    fn toolbox(&self) -> &Toolbox {
        self.inner.toolbox()
    }

    fn workdir(&self) -> &str {
        self.inner.workdir()
    }

    fn image_digest(&self) -> &str {
        self.inner.image_digest()
    }

    fn is_null(&self) -> bool {
        self.inner.is_null()
    }

    fn fate(&self) -> BoxFuture<'_, Fate> {
        self.patience.or_default(self.inner.fate()).boxed()
    }

    fn destroy(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        async move { self.patience.answer(Kind::SandboxLost, "the end of a sandbox", self.inner.destroy()).await }.boxed()
    }

    fn is_at_rest(&self) -> BoxFuture<'_, bool> {
        self.patience.or_default(self.inner.is_at_rest()).boxed()
    }

    fn keep(self: Box<Self>) -> BoxFuture<'static, Result<Snapshot, Failure>> {
        async move { self.patience.answer(Kind::SandboxLost, "keeping a sandbox's files", self.inner.keep()).await }.boxed()
    }

    fn retire(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move { self.patience.or_default(self.inner.retire()).await }.boxed()
    }
}
