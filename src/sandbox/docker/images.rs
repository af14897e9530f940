//! Images made present: looked up once, pulled at most once at a time, remembered by content.

use super::super::fetch::{FetchError, Fetched};
use super::daemon::{Daemon, chain, said, status};
use crate::domain::{Failure, Kind};
use crate::images::registry::reference::{Reference, is_digest};
use bollard::errors::Error;
use bollard::query_parameters::{CreateImageOptionsBuilder, ListImagesOptions, RemoveImageOptions};
use futures_util::future::{BoxFuture, Shared, WeakShared};
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// When a registry is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// Where the daemon does not have the image.
    #[default]
    Missing,
    Never,
    /// Once a run for each image.
    Always,
}

/// How images are pulled. No credentials are sent: log in and pull private images beforehand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PullSettings {
    pub when: Pull,
    /// Pulls at the same time.
    pub in_flight: usize,
    /// Tries for each image, the first included.
    pub tries: u32,
    /// Seconds for one try.
    pub timeout_s: u64,
    /// Seconds before the second try; doubled for each further one.
    pub backoff_s: u64,
}

impl Default for PullSettings {
    fn default() -> Self {
        PullSettings { when: Pull::Missing, in_flight: 4, tries: 4, timeout_s: 1800, backoff_s: 5 }
    }
}

/// A present image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What containers are created from: a tag may move in mid-run, this may not.
    pub id: Arc<str>,
    /// `name@sha256:...` as the registry knows it, else the id.
    pub digest: Arc<str>,
}

type Looking = BoxFuture<'static, Result<Image, Failure>>;

#[derive(Debug)]
enum Known {
    Present(Image),
    /// Lives as long as someone waits for it: a pull that nobody wants any more must not keep its slot.
    Pending(WeakShared<Looking>),
}

/// Names that [`Images::missing`] looks up one by one; of more than these the daemon is asked for all that it has, at once.
const LOOKUPS: usize = 8;

#[derive(Debug)]
pub struct Images {
    puller: Arc<Puller>,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Puller {
    daemon: Arc<Daemon>,
    settings: PullSettings,
    slots: Semaphore,
}

impl Images {
    #[must_use]
    pub fn new(daemon: Arc<Daemon>, settings: PullSettings) -> Self {
        let slots = Semaphore::new(settings.in_flight.max(1));
        Images { puller: Arc::new(Puller { daemon, settings, slots }), known: Mutex::default() }
    }

    /// The image, pulled if need be. Requests for the same image at the same time share one pull and its outcome;
    /// a failure is not remembered beyond them.
    ///
    /// # Errors
    /// `ImageMissing`, `ImagePull`, `NoSpace`, `Daemon`.
    pub async fn ensure(&self, name: &str) -> Result<Image, Failure> {
        self.ensure_as(name, true).await
    }

    /// `patient`: a registry's 429 is waited out.
    async fn ensure_as(&self, name: &str, patient: bool) -> Result<Image, Failure> {
        if !is_reference(name) {
            let message = format!("{name:?} is no image reference; write it as [REGISTRY/]NAME[:TAG][@DIGEST]");
            return Err(Failure::new(Kind::ImageMissing, message));
        }
        let pending = match self.look(name, patient) {
            Ok(image) => return Ok(image),
            Err(pending) => pending,
        };
        let outcome = pending.clone().await;
        let mut known = self.known();
        if matches!(known.get(name), Some(Known::Pending(now)) if now.upgrade().is_some_and(|now| now.ptr_eq(&pending))) {
            match &outcome {
                Ok(image) => known.insert(name.to_owned(), Known::Present(image.clone())),
                Err(_) => known.remove(name),
            };
        }
        outcome
    }

    /// The image, for sandboxes to come. The registry's 429 is told at once: whoever asks knows of all pulls.
    ///
    /// # Errors
    /// As [`Images::ensure`].
    pub async fn fetch(&self, name: &str) -> Result<Fetched, FetchError> {
        let was_there = is_reference(name) && self.puller.present(name).await?.is_some();
        self.ensure_as(name, false).await?;
        Ok(if was_there { Fetched::default() } else { Fetched { bytes: self.bytes(name).await, pulled: true } })
    }

    /// Removes the name, and the image with its last one; false where a container has it.
    ///
    /// # Errors
    /// `Daemon`, `ImagePull`.
    pub async fn evict(&self, name: &str) -> Result<bool, Failure> {
        if !is_reference(name) {
            return Ok(false);
        }
        self.forget(name);
        let daemon = &self.puller.daemon;
        match daemon.client.remove_image(name, None::<RemoveImageOptions>, None).await {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(true),
            Err(error) if status(&error) == Some(409) => Ok(false),
            Err(error) => Err(daemon.failure(Kind::ImagePull, &format!("cannot remove image {name}"), &error)),
        }
    }

    /// The image if it is known, else the one search for it.
    fn look(&self, name: &str, patient: bool) -> Result<Image, Shared<Looking>> {
        let mut known = self.known();
        let pending = match known.get(name) {
            Some(Known::Present(image)) => return Ok(image.clone()),
            Some(Known::Pending(pending)) => pending.upgrade(),
            None => None,
        };
        Err(pending.unwrap_or_else(|| {
            let pending = self.puller.clone().ensure(name.to_owned(), patient).boxed().shared();
            if let Some(weak) = pending.downgrade() {
                known.insert(name.to_owned(), Known::Pending(weak));
            }
            pending
        }))
    }

    /// Which of these the daemon does not have, in their order.
    ///
    /// # Errors
    /// `ImagePull`, `Daemon`.
    pub async fn missing(&self, names: &[String]) -> Result<Vec<String>, Failure> {
        let there = if names.len() > LOOKUPS { Some(self.puller.all().await?) } else { None };
        let lookups = futures_util::stream::iter(names.to_vec()).map(|name| {
            let is_there = there.as_ref().and_then(|there| Some(there.contains(&listed_as(&name)?)));
            async move {
                // Ids are on no list.
                let is_there = match is_there {
                    Some(is_there) => is_there,
                    None => is_reference(&name) && self.puller.present(&name).await?.is_some(),
                };
                Ok((!is_there).then_some(name))
            }
        });
        let found: Vec<Option<String>> = lookups.buffered(LOOKUPS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Bytes on the daemon, as it counts them, layers shared with others included; 0 where it does not tell.
    pub async fn bytes(&self, name: &str) -> u64 {
        if !is_reference(name) {
            return 0;
        }
        let daemon = &self.puller.daemon;
        let found = daemon.ask(|| daemon.client.inspect_image(name)).await;
        found.ok().and_then(|image| image.size).and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
    }

    /// To be looked up again: the daemon no longer has it.
    pub fn forget(&self, name: &str) {
        self.known().remove(name);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Puller {
    async fn ensure(self: Arc<Self>, name: String, patient: bool) -> Result<Image, Failure> {
        if self.settings.when != Pull::Always
            && let Some(image) = self.present(&name).await?
        {
            return Ok(image);
        }
        if self.settings.when == Pull::Never {
            let mend = "pull or build it, or allow pulling with pull.when = \"missing\"";
            return Err(Failure::new(
                Kind::ImageMissing,
                format!("image {name} is not on the Docker daemon at {}; {mend}", self.daemon.host),
            ));
        }
        self.pull(&name, patient).await?;
        let gone = || Failure::new(Kind::ImagePull, format!("image {name} was pulled but is not there; does something remove images?"));
        self.present(&name).await?.ok_or_else(gone)
    }

    /// The names of all images, as the daemon shows them, and those with digests.
    async fn all(&self) -> Result<HashSet<String>, Failure> {
        let listed = self.daemon.ask(|| self.daemon.client.list_images(None::<ListImagesOptions>)).await;
        let listed = listed.map_err(|error| self.daemon.failure(Kind::ImagePull, "cannot list the images", &error))?;
        Ok(listed.into_iter().flat_map(|image| image.repo_tags.into_iter().chain(image.repo_digests)).collect())
    }

    async fn present(&self, name: &str) -> Result<Option<Image>, Failure> {
        match self.daemon.ask(|| self.daemon.client.inspect_image(name)).await {
            Ok(found) => {
                let id: Arc<str> = found.id.unwrap_or_default().into();
                let digest = found.repo_digests.and_then(|all| all.into_iter().next()).map_or_else(|| id.clone(), Arc::from);
                Ok(Some(Image { id, digest }))
            }
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.daemon.failure(Kind::ImagePull, &format!("cannot look up image {name}"), &error)),
        }
    }

    async fn pull(&self, name: &str, patient: bool) -> Result<(), Failure> {
        let Ok(_slot) = self.slots.acquire().await else {
            return Err(Failure::new(Kind::ImagePull, format!("cannot pull image {name}: the run is ending")));
        };
        let mut pause = Duration::from_secs(self.settings.backoff_s);
        for tries_left in (0..self.settings.tries.max(1)).rev() {
            let Err(failure) = self.pull_once(name).await else { return Ok(()) };
            let told_off = !patient && matches!(failure.clone().into(), FetchError::Busy { .. });
            if tries_left == 0 || failure.kind != Kind::ImagePull || told_off {
                return Err(failure);
            }
            tracing::warn!(image = name, %failure, tries_left, "pull failed; trying again");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }

    async fn pull_once(&self, name: &str) -> Result<(), Failure> {
        // Without a tag the daemon would pull every tag there is.
        let options = CreateImageOptionsBuilder::new().from_image(&with_tag(name)).build();
        let pull = self.daemon.client.create_image(Some(options), None, None).try_for_each(|_| async { Ok(()) });
        let doing = format!("cannot pull image {name}");
        match tokio::time::timeout(Duration::from_secs(self.settings.timeout_s), pull).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error @ (Error::DockerStreamError { .. } | Error::DockerResponseServerError { .. }))) => {
                Err(refusal(name, &chain(&error)))
            }
            Ok(Err(error)) => Err(self.daemon.failure(Kind::ImagePull, &doing, &error)),
            Err(_) => Err(not_pulled(name, &format!("not done within {} s", self.settings.timeout_s))),
        }
    }
}

/// Failed, but may succeed another time.
fn not_pulled(name: &str, text: &str) -> Failure {
    let mut failure = said(Kind::ImagePull, &format!("cannot pull image {name}"), text);
    if failure.kind == Kind::ImagePull {
        let mend = format!("; pull it beforehand (docker pull {name}) or check the registry's address and the network");
        failure.message.push_str(&mend);
    }
    failure
}

/// The registry's refusal: for good when it does not have the image or does not give it to us.
fn refusal(name: &str, text: &str) -> Failure {
    const FOR_GOOD: [&str; 8] = [
        "manifest unknown",
        "not found",
        "name unknown",
        "no such image",
        "repository does not exist",
        "access denied",
        "unauthorized",
        "invalid reference",
    ];
    let lower = text.to_lowercase();
    let network = ["no such host", "lookup ", "timeout", "connection refused", "toomanyrequests"].iter().any(|sign| lower.contains(sign));
    if !network && FOR_GOOD.iter().any(|sign| lower.contains(sign)) {
        let mend = "check its name, or pull it beforehand with the docker CLI if its registry wants a login";
        return Failure::new(Kind::ImageMissing, format!("cannot pull image {name}: {text}; {mend}"));
    }
    not_pulled(name, text)
}

/// Whether the name can stand in the path of a request: instance files are not trusted.
fn is_reference(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    begins_well && name.len() <= 512 && name.chars().all(allowed) && !name.contains("..") && !name.contains("//")
}

/// How the daemon's list of images shows that name; none for what is no name.
fn listed_as(name: &str) -> Option<String> {
    if is_digest(name) {
        return None;
    }
    let reference = Reference::parse(name).ok()?;
    let parting = if reference.digest.is_some() { '@' } else { ':' };
    Some(format!("{}{parting}{}", reference.familiar(), reference.version()))
}

fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_reach_another_part_of_the_api() {
        for good in ["a", "sdist/click:8.1.3", "host:5000/a/b:1", "a@sha256:00ff", "sha256:00ff"] {
            assert!(is_reference(good), "{good}");
        }
        for bad in ["", "../containers/x", "a/../../b", "a?x=1", "a b", "/a", "a//b", "a%2e", "-a"] {
            assert!(!is_reference(bad), "{bad}");
        }
    }

    #[test]
    fn a_name_is_sought_as_the_daemon_lists_it() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        let listed = |name: &str| listed_as(name).unwrap_or_default();
        assert_eq!(listed("docker.io/library/debian"), "debian:latest");
        assert_eq!(listed("index.docker.io/a/b:1"), "a/b:1");
        assert_eq!(listed("host:5000/a/b:1"), "host:5000/a/b:1");
        assert_eq!(listed(&format!("a/b:1@{digest}")), format!("a/b@{digest}"));
        assert_eq!((listed_as(&digest), listed_as("A B")), (None, None));
    }

    #[test]
    fn only_an_untagged_name_gets_a_tag() {
        assert_eq!(with_tag("host:5000/a/b"), "host:5000/a/b:latest");
        for tagged in ["a:1", "host:5000/a:1", "a@sha256:00ff"] {
            assert_eq!(with_tag(tagged), tagged);
        }
    }

    #[test]
    fn a_refusal_for_good_is_told_from_bad_weather() {
        let kind = |text| refusal("x", text).kind;
        assert_eq!(kind("manifest for x:1 not found: manifest unknown: manifest unknown"), Kind::ImageMissing);
        assert_eq!(kind("pull access denied for x, repository does not exist or may require 'docker login'"), Kind::ImageMissing);
        assert_eq!(kind("dial tcp: lookup registry-1.docker.io: no such host"), Kind::ImagePull);
        assert_eq!(kind("toomanyrequests: You have reached your unauthenticated pull rate limit"), Kind::ImagePull);
        assert_eq!(kind("received unexpected HTTP status: 500 Internal Server Error"), Kind::ImagePull);
        for weather in [
            "dial tcp: lookup x: no such host",
            "dial tcp 127.0.0.1:1: connect: connection refused",
            "x509: certificate signed by unknown authority",
        ] {
            let message = refusal("a/b:1", weather).message;
            assert!(message.contains("docker pull a/b:1") && message.contains("network"), "{message}");
        }
        assert_eq!(kind("write /var/lib/docker/x: no space left on device"), Kind::NoSpace);
    }
}
