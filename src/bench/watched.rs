//! Around the model's client: what transcripts weigh, and how long a reply waits for the next request.

use super::meter::Histogram;
use crate::{
    domain::{EpisodeId, transcript::Response},
    endpoint::{ModelClient, ModelError, Request, pool},
};
use futures_util::future::BoxFuture;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What is known of the episodes at work.
#[derive(Debug, Default)]
pub struct Seen {
    episodes: HashMap<u64, Episode>,
    /// Of all messages of the episodes at work, as JSON.
    pub transcript_bytes: u64,
    /// From a reply to the same episode's next request.
    pub gaps: Histogram,
    /// From a request to its reply.
    pub replies: Histogram,
}

#[derive(Debug, Default)]
struct Episode {
    parts: usize,
    bytes: u64,
    asked: Option<Instant>,
    replied: Option<Instant>,
}

/// Shared by the client, the sampler and the events.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    pub fn look(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self, request: &Request<'_>) {
        let now = Instant::now();
        let mut seen = self.look();
        let Seen { episodes, transcript_bytes, gaps, replies: _ } = &mut *seen;
        let episode = episodes.entry(request.affinity).or_default();
        if let Some(replied) = episode.replied.take() {
            gaps.record(now.duration_since(replied));
        }
        episode.asked = Some(now);
        let parts = request.messages.parts();
        let more: usize = parts.iter().skip(episode.parts).map(|part| part.bytes().len()).sum();
        episode.parts = parts.len();
        episode.bytes += more as u64;
        *transcript_bytes += more as u64;
    }

    fn replied(&self, affinity: u64) {
        let now = Instant::now();
        let mut seen = self.look();
        let Seen { episodes, replies, .. } = &mut *seen;
        if let Some(episode) = episodes.get_mut(&affinity) {
            replies.record(episode.asked.take().map_or_else(Duration::default, |asked| now.duration_since(asked)));
            episode.replied = Some(now);
        }
    }

    /// The episode's transcript is in its shard.
    pub fn committed(&self, id: &EpisodeId) {
        let mut seen = self.look();
        let bytes = seen.episodes.remove(&pool::key(&id.to_string())).map_or(0, |episode| episode.bytes);
        seen.transcript_bytes = seen.transcript_bytes.saturating_sub(bytes);
    }
}

/// A client that is watched.
pub struct Watched {
    pub client: Arc<dyn ModelClient>,
    pub watch: Watch,
}

impl ModelClient for Watched {
    fn complete<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, ModelError>> {
        self.watch.asked(&request);
        let (affinity, reply) = (request.affinity, self.client.complete(request));
        Box::pin(async move {
            let reply = reply.await;
            self.watch.replied(affinity);
            reply
        })
    }
}
