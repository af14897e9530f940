//! Docker where a daemon answers and has the image or can have it, else native.

use super::docker::{self, Docker};
use super::native::{self, Native};
use super::{Capacity, Disk, FetchError, Fetched, Provider, Sandbox, Spec};
use crate::domain::{Failure, Kind};
use crate::images;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use tokio::sync::OnceCell;

pub struct Auto {
    docker: Result<Docker, Failure>,
    /// Started up when it is first needed.
    native: OnceCell<Native>,
    settings: (native::Settings, images::Settings),
    /// Images that only native sandboxes have, each told once.
    told: Mutex<HashSet<String>>,
}

impl Auto {
    /// # Errors
    /// Where neither can be had, with why for both.
    pub async fn choose(docker: docker::Settings, native: native::Settings, images: images::Settings) -> Result<Self, Failure> {
        let docker = Docker::connect(docker).await;
        let auto = Auto { docker, native: OnceCell::new(), settings: (native, images), told: Mutex::default() };
        if let Err(no_docker) = &auto.docker {
            auto.native()
                .await
                .map_err(|no_native| Failure::new(no_native.kind, format!("{}; and {}", no_docker.message, no_native.message)))?;
        }
        Ok(auto)
    }

    async fn native(&self) -> Result<&Native, Failure> {
        let (native, images) = &self.settings;
        self.native.get_or_try_init(|| Native::start_up(native.clone(), images.clone())).await
    }

    async fn start(&self, spec: &Spec) -> Result<Box<dyn Sandbox>, Failure> {
        let Ok(docker) = &self.docker else { return self.native().await?.start(spec).await };
        let refused = match docker.start(spec).await {
            Err(failure) if failure.kind == Kind::ImageMissing => failure,
            other => return other,
        };
        let Ok(native) = self.native().await else { return Err(refused) };
        let outcome = native.start(spec).await.map_err(|failure| match failure.kind {
            Kind::ImageMissing => Failure::new(failure.kind, format!("{}; and natively: {}", refused.message, failure.message)),
            _ => failure,
        });
        if outcome.is_ok() && self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.image.clone()) {
            tracing::warn!(image = spec.image, why = refused.message, "native sandboxes, since Docker has no such image");
        }
        outcome
    }
}

impl Provider for Auto {
    fn notice(&self) -> Option<String> {
        Some(match &self.docker {
            Ok(docker) => format!("sandboxes: docker, since a daemon answers at {}", docker.host()),
            Err(why) => format!("sandboxes: native, since {}", why.message),
        })
    }

    fn snapshots(&self) -> usize {
        self.docker.as_ref().map_or(self.settings.0.snapshots, |_| 0)
    }

    fn capacity(&self) -> Option<Capacity> {
        self.docker.as_ref().map_or_else(|_| super::local::capacity(), Provider::capacity)
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Failure>> {
        match &self.docker {
            Ok(docker) => docker.check(),
            Err(_) => async { self.native().await?.check().await }.boxed(),
        }
    }

    fn missing<'a>(&'a self, images: &'a [String]) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        async {
            let Ok(docker) = &self.docker else { return self.native().await?.missing(images).await };
            let missing = docker.missing(images).await?;
            match self.native().await {
                Ok(native) if !missing.is_empty() => native.missing(&missing).await,
                _ => Ok(missing),
            }
        }
        .boxed()
    }

    fn image_bytes<'a>(&'a self, image: &'a str) -> BoxFuture<'a, u64> {
        match (&self.docker, self.native.get()) {
            (Ok(docker), _) => docker.image_bytes(image),
            (_, Some(native)) => native.image_bytes(image),
            _ => async { 0 }.boxed(),
        }
    }

    fn fetch<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        async move {
            let Ok(docker) = &self.docker else { return self.native().await?.fetch(image).await };
            match (docker.fetch(image).await, self.native().await) {
                (Err(FetchError::Failed(refused)), Ok(native)) if refused.kind == Kind::ImageMissing => {
                    native.fetch(image).await.map_err(|error| match error {
                        FetchError::Failed(failure) if failure.kind == Kind::ImageMissing => refused.into(),
                        other => other,
                    })
                }
                (fetched, _) => fetched,
            }
        }
        .boxed()
    }

    fn evict<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<bool, Failure>> {
        async move {
            let wanted = [image.to_owned()];
            match &self.docker {
                Ok(docker) if docker.missing(&wanted).await?.is_empty() => docker.evict(image).await,
                _ => self.native().await?.evict(image).await,
            }
        }
        .boxed()
    }

    fn disk(&self) -> BoxFuture<'_, Option<Disk>> {
        match (&self.docker, self.native.get()) {
            (Ok(docker), _) => docker.disk(),
            (_, Some(native)) => native.disk(),
            _ => async { None }.boxed(),
        }
    }

    fn images_at(&self) -> Option<PathBuf> {
        match (&self.docker, self.native.get()) {
            (Ok(docker), _) => docker.images_at(),
            (_, native) => native.and_then(Provider::images_at),
        }
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Box<dyn Sandbox>, Failure>> {
        self.start(spec).boxed()
    }

    fn sweep<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<usize, Failure>> {
        async {
            let mut swept = native::sweep(&self.settings.0).await;
            if let Ok(docker) = &self.docker {
                swept += docker.sweep(run).await?;
            }
            Ok(swept)
        }
        .boxed()
    }
}
