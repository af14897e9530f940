//! Sandboxes at their instance's base. What preparing one came to is kept where the backend can, so that the other samples of the
//! instance, and its gradings, start there instead of doing it again.

use super::prepare::{self, Prepared, Settings};
use super::{Provider, Sandbox, Snapshot, Spec};
use crate::domain::{Failure, Instance};
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Mutex as AsyncMutex;

/// What decides how a prepared sandbox looks, besides settings of the whole run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    image: String,
    workdir: String,
    pre_commands: String,
    base_commit: String,
    fix_commit: String,
}

impl Key {
    fn of(instance: &Instance) -> Self {
        Key {
            image: instance.image.clone(),
            workdir: instance.workdir.clone(),
            pre_commands: instance.pre_commands.clone(),
            base_commit: instance.base_commit.clone(),
            fix_commit: instance.fix_commit.clone(),
        }
    }
}

/// What is known of preparing sandboxes of one key.
#[derive(Debug, Default)]
enum Base {
    #[default]
    Unknown,
    Kept(Snapshot),
    /// It costs less than another start, or leaves what no snapshot has.
    Anew,
}

impl Base {
    fn snapshot(&self) -> Option<&Snapshot> {
        match self {
            Base::Kept(snapshot) => Some(snapshot).filter(|snapshot| snapshot.is_there()),
            Base::Unknown | Base::Anew => None,
        }
    }
}

/// What is looked at in a sandbox at its base, beside the scrub and before an agent is let in. It leaves nothing in the work tree.
pub trait Look: Send + Sync {
    /// # Errors
    /// Why no agent is to be let in.
    fn look<'a>(&'a self, sandbox: &'a dyn Sandbox, instance: &'a Instance) -> BoxFuture<'a, Result<(), Failure>>;
}

pub struct Bases {
    provider: Arc<dyn Provider>,
    settings: Settings,
    look: Arc<dyn Look>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    bases: HashMap<Key, Entry>,
    uses: u64,
}

struct Entry {
    base: Arc<AsyncMutex<Base>>,
    last_used: u64,
}

impl Bases {
    #[must_use]
    pub fn new(provider: Arc<dyn Provider>, settings: Settings, look: Arc<dyn Look>) -> Self {
        Bases { provider, settings, look, known: Mutex::default() }
    }

    /// A sandbox for an agent, with its base tree recorded. Of many that are wanted at once one is prepared for all.
    ///
    /// # Errors
    /// What starting, [preparing](prepare::prepare) and looking at a sandbox fail with.
    pub async fn start(&self, spec: &Spec, instance: &Instance) -> Result<(Box<dyn Sandbox>, Prepared), Failure> {
        let sandbox = self.at_base(spec, instance).await?;
        let prepared = prepare::record(&*sandbox, &self.settings).await?;
        Ok((sandbox, prepared))
    }

    /// Keeps nothing of this image any more.
    pub fn forget(&self, image: &str) {
        self.known().bases.retain(|key, _| key.image != image);
    }

    /// The base that was kept for an agent of the instance.
    pub async fn kept(&self, instance: &Instance) -> Option<Snapshot> {
        let base = self.known().find(&Key::of(instance))?;
        let base = base.lock().await;
        base.snapshot().cloned()
    }

    async fn at_base(&self, spec: &Spec, instance: &Instance) -> Result<Box<dyn Sandbox>, Failure> {
        if self.provider.snapshots() == 0 {
            return self.anew(spec, instance).await;
        }
        let entry = self.known().entry(Key::of(instance), self.provider.snapshots());
        let mut base = entry.lock().await;
        if matches!(*base, Base::Anew) {
            drop(base);
            return self.anew(spec, instance).await;
        }
        if base.snapshot().is_none()
            && let Some(sandbox) = self.keep(spec, instance, &mut base).await?
        {
            return Ok(sandbox);
        }
        let upon = base.snapshot().cloned();
        drop(base);
        self.provider.start(&Spec { upon, ..spec.clone() }).await
    }

    async fn anew(&self, spec: &Spec, instance: &Instance) -> Result<Box<dyn Sandbox>, Failure> {
        let sandbox = self.provider.start(spec).await?;
        self.prepare(sandbox, instance).await
    }

    async fn prepare(&self, sandbox: Box<dyn Sandbox>, instance: &Instance) -> Result<Box<dyn Sandbox>, Failure> {
        let at_base = async {
            prepare::at_base(&*sandbox, instance, &self.settings).await?;
            tokio::try_join!(prepare::scrub(&*sandbox, instance, &self.settings), self.look.look(&*sandbox, instance))
        };
        match at_base.await {
            Ok(_) => Ok(sandbox),
            Err(failure) => {
                sandbox.retire().await;
                Err(failure)
            }
        }
    }

    /// Prepares one for others to start upon; itself where it is not kept.
    async fn keep(&self, spec: &Spec, instance: &Instance, base: &mut Base) -> Result<Option<Box<dyn Sandbox>>, Failure> {
        let began = Instant::now();
        let sandbox = self.provider.start(&Spec { keep: true, ..spec.clone() }).await?;
        let started = Instant::now();
        let sandbox = self.prepare(sandbox, instance).await?;
        let is_worth_a_start = started.elapsed() > started - began;
        if is_worth_a_start && sandbox.is_at_rest().await {
            *base = Base::Kept(sandbox.keep().await?);
            return Ok(None);
        }
        *base = Base::Anew;
        Ok(Some(sandbox))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn find(&mut self, key: &Key) -> Option<Arc<AsyncMutex<Base>>> {
        self.uses += 1;
        let entry = self.bases.get_mut(key)?;
        entry.last_used = self.uses;
        Some(entry.base.clone())
    }

    /// At most `most` are held, the last used ones.
    fn entry(&mut self, key: Key, most: usize) -> Arc<AsyncMutex<Base>> {
        if let Some(base) = self.find(&key) {
            return base;
        }
        if self.bases.len() >= most.max(1)
            && let Some(oldest) = self.bases.iter().min_by_key(|(_, entry)| entry.last_used).map(|(key, _)| key.clone())
        {
            self.bases.remove(&oldest);
        }
        let base = Arc::new(AsyncMutex::new(Base::default()));
        self.bases.insert(key, Entry { base: base.clone(), last_used: self.uses });
        base
    }
}
