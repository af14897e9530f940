//! What the daemon reports of our containers' ends: an auto-removed container can no longer be inspected.

use super::request::ENGINE;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Pause before listening again when the daemon closed the stream.
const PAUSE: Duration = Duration::from_secs(1);
/// Events this much older than the listening are asked for too, seconds: clocks and reconnects.
const OVERLAP_S: u64 = 10;

/// Longest time between the report of memory exhausted and that of the end which it caused, nanoseconds.
const OOM_TO_END_NS: u64 = 2_000_000_000;
/// Exit code of a first process that SIGKILL ended.
pub const KILLED: i64 = 137;

/// What was reported of one container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// When the kernel last killed in it for want of memory, nanoseconds of the daemon's clock.
    pub oom_at: Option<i64>,
    /// Exit code of its first process, once that ended.
    pub exit_code: Option<i64>,
    /// When that was.
    pub ended_at: Option<i64>,
}

impl Seen {
    /// Whether want of memory ended it, and not only a command in it some time before: its first process was killed, and
    /// the kernel said so at about that time. None where the kernel said nothing.
    #[must_use]
    pub fn ended_by_oom(&self) -> Option<bool> {
        let oom_at = self.oom_at?;
        let near = self.ended_at.is_some_and(|ended_at| ended_at.abs_diff(oom_at) <= OOM_TO_END_NS);
        Some(near && self.exit_code == Some(KILLED))
    }
}

type Followed = Arc<Mutex<HashMap<String, watch::Sender<Seen>>>>;

/// Listens for as long as it lives.
#[derive(Debug)]
pub struct Events {
    followed: Followed,
    task: tokio::task::JoinHandle<()>,
}

impl Events {
    /// Listens to the daemon's reports of the containers that carry this engine label.
    #[must_use]
    pub fn listen(client: bollard::Docker, engine: &str) -> Self {
        let followed = Followed::default();
        let task = tokio::spawn(listen(client, engine.to_owned(), followed.clone()));
        Events { followed, task }
    }

    #[must_use]
    pub fn follow(&self, id: &str) -> Follow {
        let (sender, seen) = watch::channel(Seen::default());
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), sender);
        Follow { id: id.to_owned(), seen, followed: self.followed.clone() }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One container's reports.
#[derive(Debug)]
pub struct Follow {
    id: String,
    seen: watch::Receiver<Seen>,
    followed: Followed,
}

impl Follow {
    #[must_use]
    pub fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    /// Returns once `enough` of it was seen; never, if that is never reported.
    pub async fn until(&self, enough: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.clone();
        if let Ok(seen) = seen.wait_for(enough).await.map(|seen| *seen) {
            return seen;
        }
        std::future::pending().await
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

async fn listen(client: bollard::Docker, engine: String, followed: Followed) {
    let label = format!("{ENGINE}={engine}");
    let filters = HashMap::from([("type", vec!["container"]), ("event", vec!["oom", "die"]), ("label", vec![label.as_str()])]);
    let mut since = now();
    loop {
        let options = EventsOptionsBuilder::new().since(&since.saturating_sub(OVERLAP_S).to_string()).filters(&filters).build();
        let mut events = std::pin::pin!(client.events(Some(options)));
        while let Some(Ok(event)) = events.next().await {
            since = now();
            note(&followed, &event);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn note(followed: &Followed, event: &EventMessage) {
    let Some(actor) = &event.actor else { return };
    let followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(container) = actor.id.as_ref().and_then(|id| followed.get(id)) else { return };
    match event.action.as_deref() {
        Some("oom") => container.send_modify(|seen| seen.oom_at = seen.oom_at.max(Some(event.time_nano.unwrap_or_default()))),
        Some("die") => {
            let code = actor.attributes.as_ref().and_then(|all| all.get("exitCode")?.parse().ok());
            container.send_modify(|seen| {
                seen.exit_code = code.or(Some(-1));
                seen.ended_at = event.time_nano;
            });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::EventActor;

    fn event(id: &str, action: &str, at: i64) -> EventMessage {
        let attributes = HashMap::from([("exitCode".to_owned(), "137".to_owned())]);
        let actor = EventActor { id: Some(id.to_owned()), attributes: Some(attributes) };
        EventMessage { action: Some(action.to_owned()), actor: Some(actor), time_nano: Some(at), ..EventMessage::default() }
    }

    #[tokio::test]
    async fn only_the_followed_container_hears_of_its_end() {
        let followed = Followed::default();
        let events = Events { followed: followed.clone(), task: tokio::spawn(std::future::pending()) };
        let (one, two) = (events.follow("one"), events.follow("two"));
        for event in [event("one", "oom", 1), event("one", "die", 2), event("three", "die", 2)] {
            note(&followed, &event);
        }
        assert_eq!(one.until(|seen| seen.exit_code.is_some()).await, Seen { oom_at: Some(1), exit_code: Some(137), ended_at: Some(2) });
        assert_eq!(two.seen(), Seen::default());
        drop((one, two));
        assert!(followed.lock().unwrap().is_empty());
    }

    #[test]
    fn memory_exhausted_that_was_survived_is_not_the_end() {
        let seen = |oom_at, exit_code| Seen { oom_at, exit_code: Some(exit_code), ended_at: Some(60_000_000_000) };
        assert_eq!(seen(Some(59_500_000_000), KILLED).ended_by_oom(), Some(true));
        assert_eq!(seen(Some(60_100_000_000), KILLED).ended_by_oom(), Some(true), "reports may come in either order");
        assert_eq!(seen(Some(30_000_000_000), KILLED).ended_by_oom(), Some(false), "another kill");
        assert_eq!(seen(Some(59_500_000_000), 0).ended_by_oom(), Some(false), "it ended by itself");
        assert_eq!(Seen { oom_at: Some(1), ..Seen::default() }.ended_by_oom(), Some(false));
        assert_eq!(seen(None, KILLED).ended_by_oom(), None);
    }
}
