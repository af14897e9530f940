//! Fetches images before episodes want them and removes those that none needs, as `scheduler::images` decides.

use super::episodes::Engine;
use crate::{
    domain::{AttemptId, Failure, InstanceId, Kind},
    sandbox::{FetchError, Provider, bases::Bases},
    scheduler::{
        core::{self, Todo},
        images::{Action, Input, Known, Rank, Settings, Stock, Word},
        policy::Order,
    },
};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

/// How often the disk is measured.
const MEASURE: Duration = Duration::from_secs(5);
/// How often it is said that the disk is still full.
const SAY: Duration = Duration::from_secs(60);
/// How long the end of a run waits for images to go.
const FINISH: Duration = Duration::from_secs(60);

/// One image of the run, and the instances that have it.
#[derive(Debug, Clone)]
struct Named {
    name: String,
    instances: Vec<InstanceId>,
}

/// What a run needs of images, before anything is fetched.
pub(super) struct Plan {
    images: Vec<Named>,
    stock: Stock,
    settings: Settings,
    by_instance: HashMap<InstanceId, Rank>,
    /// Some have to be fetched: episodes wait for theirs.
    pub gated: bool,
    log: Log,
}

impl Plan {
    /// For these episodes, in the order in which they are to be begun; none where no image is missing and the disk cannot be told. What
    /// this run fetched in earlier openings is in `log`.
    ///
    /// # Errors
    /// Where the backend does not tell what it has.
    pub async fn make<'a>(
        settings: &Settings,
        provider: &dyn Provider,
        episodes: impl Iterator<Item = (&'a InstanceId, &'a str, u32)>,
        log: &Path,
    ) -> Result<Option<Self>, Failure> {
        let (mut images, mut ranks, mut by_instance) = (Vec::<(Named, u32)>::new(), HashMap::new(), HashMap::new());
        for (instance, image, needs) in episodes {
            let rank = *ranks.entry(image).or_insert_with(|| {
                images.push((Named { name: image.to_owned(), instances: Vec::new() }, 0));
                images.len() - 1
            });
            images[rank].1 += needs;
            if by_instance.insert(instance.clone(), rank as Rank).is_none() {
                images[rank].0.instances.push(instance.clone());
            }
        }
        let names: Vec<String> = images.iter().map(|(image, _)| image.name.clone()).collect();
        let missing: HashSet<String> = provider.missing(&names).await?.into_iter().collect();
        let disk = provider.disk().await;
        if missing.is_empty() && disk.is_none() {
            return Ok(None);
        }
        let (log, mut ours) = Log::open(log);
        for (name, bytes) in ours.iter_mut().filter(|(name, bytes)| **bytes == 0 && !missing.contains(*name)) {
            *bytes = provider.image_bytes(name).await;
        }
        let known = images.iter().map(|(image, needs)| Known {
            needs: *needs,
            present: !missing.contains(&image.name),
            ours: ours.contains_key(&image.name),
            bytes: ours.get(&image.name).copied().unwrap_or(0),
        });
        let stock = Stock::new(settings.clone(), known, disk.map(|disk| disk.free));
        let images = images.into_iter().map(|(image, _)| image).collect();
        Ok(Some(Plan { images, stock, settings: settings.clone(), by_instance, gated: !missing.is_empty(), log }))
    }

    /// Begins to fetch. `tell`: the scheduler.
    pub fn begin(self, provider: Arc<dyn Provider>, bases: Arc<Bases>, tell: mpsc::Sender<core::Input>) -> Images {
        let (order, orders) = mpsc::unbounded_channel();
        let keeper = Keeper {
            images: self.images,
            stock: self.stock,
            settings: self.settings,
            provider,
            bases,
            tell,
            gated: self.gated,
            log: self.log,
            waiting: BTreeMap::new(),
            tasks: JoinSet::new(),
            wake: None,
            full: None,
            finished: None,
        };
        let task = tokio::spawn(async move {
            let tell = keeper.tell.clone();
            // Episodes would wait for images for ever.
            if AssertUnwindSafe(keeper.keep(orders)).catch_unwind().await.is_err() {
                let reason = "a bug of sweroll: fetching images panicked; run again: the run resumes".to_owned();
                let _ = tell.send(core::Input::Drain { reason }).await;
            }
        });
        let task = task.abort_handle();
        Images { order, by_instance: self.by_instance, held: Mutex::default(), task }
    }
}

/// What the keeper is told.
enum Message {
    Step(Input),
    /// As [`Input::Begun`]; answered once the image is there.
    Lease {
        image: Rank,
        waited: bool,
        there: oneshot::Sender<Result<(), Failure>>,
    },
    /// As [`Input::Finish`]; answered once what was told to go is gone.
    Finish(oneshot::Sender<()>),
}

/// The engine's side: who refers to which image.
pub(super) struct Images {
    /// Holds no more than the live attempts and what was waived.
    order: mpsc::UnboundedSender<Message>,
    by_instance: HashMap<InstanceId, Rank>,
    held: Mutex<HashSet<AttemptId>>,
    task: AbortHandle,
}

impl Images {
    fn held(&self) -> std::sync::MutexGuard<'_, HashSet<AttemptId>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once the attempt's image is there, which stays until [`Images::ended`].
    ///
    /// # Errors
    /// What the image could not be had for.
    pub async fn lease(&self, id: &AttemptId, waited: bool) -> Result<(), Failure> {
        let Some(image) = self.by_instance.get(&id.episode.instance).copied() else { return Ok(()) };
        if !self.held().insert(id.clone()) {
            return Ok(());
        }
        let (there, is_there) = oneshot::channel();
        let _ = self.order.send(Message::Lease { image, waited, there });
        let ending = || Failure::new(Kind::ImagePull, "images are not fetched any more: the run is ending");
        is_there.await.unwrap_or_else(|_| Err(ending()))
    }

    /// The attempt is over; `again`: its episode is not.
    pub fn ended(&self, id: &AttemptId, again: bool) {
        if self.held().remove(id) {
            self.send(&id.episode.instance, |image| Input::Ended { image, again });
        } else if !again {
            self.waived(&id.episode.instance);
        }
    }

    /// The attempt is given up, after its end was told or before.
    pub fn abandoned(&self, id: &AttemptId) {
        if self.held().remove(id) {
            self.send(&id.episode.instance, |image| Input::Ended { image, again: false });
        }
    }

    /// An episode is never begun.
    pub fn waived(&self, instance: &InstanceId) {
        self.send(instance, |image| Input::Waived { image });
    }

    fn send(&self, instance: &InstanceId, input: impl FnOnce(Rank) -> Input) {
        if let Some(image) = self.by_instance.get(instance) {
            let _ = self.order.send(Message::Step(input(*image)));
        }
    }

    /// Nothing is at work any more: what is needed no more goes, where the disk is low. Pulls under way are given up with `self`.
    pub async fn finish(&self) {
        let (finished, is_finished) = oneshot::channel();
        let _ = self.order.send(Message::Finish(finished));
        let _ = timeout(FINISH, is_finished).await;
    }

    pub fn drain(&self) {
        let _ = self.order.send(Message::Step(Input::Drain));
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task that has the stock.
struct Keeper {
    images: Vec<Named>,
    stock: Stock,
    settings: Settings,
    provider: Arc<dyn Provider>,
    bases: Arc<Bases>,
    tell: mpsc::Sender<core::Input>,
    gated: bool,
    log: Log,
    waiting: BTreeMap<Rank, Vec<oneshot::Sender<Result<(), Failure>>>>,
    tasks: JoinSet<Vec<Input>>,
    wake: Option<u64>,
    full: Option<Full>,
    finished: Option<oneshot::Sender<()>>,
}

/// Since when the run waits for room, and when that was said last.
struct Full {
    since: Instant,
    said: Instant,
}

impl Keeper {
    async fn keep(mut self, mut orders: mpsc::UnboundedReceiver<Message>) {
        let began = Instant::now();
        let now = || began.elapsed().as_millis() as u64;
        let mut measure = interval(MEASURE);
        measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let present: Vec<Rank> = self.stock.present().collect();
        for image in present {
            self.tell_ready(image).await;
        }
        self.step(Input::Tick, now()).await;
        loop {
            let timer = async {
                match self.wake {
                    Some(at) => sleep_until(began + Duration::from_millis(at)).await,
                    None => std::future::pending().await,
                }
            };
            let inputs = tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(Message::Step(input)) => vec![input],
                    Some(Message::Lease { image, waited, there }) => {
                        self.waiting.entry(image).or_default().push(there);
                        vec![Input::Begun { image, waited }]
                    }
                    Some(Message::Finish(finished)) => {
                        self.finished = Some(finished);
                        vec![Input::Finish]
                    }
                },
                Some(ended) = self.tasks.join_next() => ended.unwrap_or_default(),
                _ = measure.tick() => {
                    self.say_if_full().await;
                    let provider = Arc::clone(&self.provider);
                    self.tasks.spawn(async move { measured(&*provider).await.into_iter().collect() });
                    Vec::new()
                }
                () = timer => vec![Input::Tick],
            };
            for input in inputs {
                self.step(input, now()).await;
            }
            if !self.stock.is_evicting() {
                self.finished.take().map(|finished| finished.send(()));
            }
        }
    }

    async fn step(&mut self, input: Input, now_ms: u64) {
        self.note(&input);
        let about = match &input {
            Input::Begun { image, .. } => Some(*image),
            _ => None,
        };
        self.wake = self.wake.filter(|at| *at > now_ms);
        for action in self.stock.step(input, now_ms) {
            match action {
                Action::Fetch { image } => self.fetch(image),
                Action::Evict { image } => self.evict(image),
                Action::Ready { image } => {
                    self.answer(image);
                    self.tell_ready(image).await;
                }
                Action::Unready { image } => {
                    for instance in self.images[image as usize].instances.iter().filter(|_| self.gated) {
                        let _ = self.tell.send(core::Input::Unready { instance: instance.clone() }).await;
                    }
                }
                Action::Hold => {
                    let now = Instant::now();
                    self.full = Some(Full { since: now, said: now });
                    self.say_full(Duration::ZERO).await;
                }
                Action::Release => {
                    self.full = None;
                    let _ = self.tell.send(core::Input::Release).await;
                }
                Action::GiveUp => {
                    let reason =
                        format!("{}; nobody did for {} s (scheduler.images.full_wait_s)", self.no_room(), self.settings.full_wait_s);
                    let _ = self.tell.send(core::Input::Drain { reason }).await;
                }
                Action::WakeAt { at_ms } => self.wake = Some(self.wake.map_or(at_ms, |at| at.min(at_ms))),
            }
        }
        if let Some(image) = about {
            self.answer(image);
        }
    }

    async fn tell_ready(&self, image: Rank) {
        for instance in self.images[image as usize].instances.iter().filter(|_| self.gated) {
            let _ = self.tell.send(core::Input::Ready { instance: instance.clone() }).await;
        }
    }

    /// Those who wait for the image, if there is a word on it.
    fn answer(&mut self, image: Rank) {
        let word = match self.stock.word(image) {
            Word::Wait => return,
            Word::Go => Ok(()),
            Word::Fail(failure) => Err(failure),
        };
        for there in self.waiting.remove(&image).unwrap_or_default() {
            // Who gave up waiting does not mind.
            let _ = there.send(word.clone());
        }
    }

    fn fetch(&mut self, image: Rank) {
        // Should this engine die over it, the next one knows whose it is.
        self.log.write(&self.images[image as usize].name, Some(0));
        let (provider, name) = (Arc::clone(&self.provider), self.images[image as usize].name.clone());
        self.tasks.spawn(async move {
            let bug = |_| Err(Failure::new(Kind::Panic, format!("a bug of sweroll: fetching image {name} panicked")).into());
            let fetched = match AssertUnwindSafe(provider.fetch(&name)).catch_unwind().await.unwrap_or_else(bug) {
                Ok(fetched) => Input::Fetched { image, bytes: fetched.bytes, pulled: fetched.pulled },
                Err(FetchError::Busy { retry_after, failure }) => {
                    tracing::warn!(image = name, %failure, "the registry wants fewer requests; all pulls pause");
                    Input::Busy { image, retry_after_ms: retry_after.map(|after| after.as_millis() as u64) }
                }
                Err(FetchError::Failed(failure)) => Input::NotFetched { image, failure },
            };
            std::iter::once(fetched).chain(measured(&*provider).await).collect()
        });
    }

    fn evict(&mut self, image: Rank) {
        let (provider, name) = (Arc::clone(&self.provider), self.images[image as usize].name.clone());
        self.bases.forget(&name);
        self.tasks.spawn(async move {
            let bug = |_| Err(Failure::new(Kind::Panic, "a bug of sweroll: removing it panicked"));
            let gone = AssertUnwindSafe(provider.evict(&name)).catch_unwind().await.unwrap_or_else(bug).unwrap_or_else(|failure| {
                tracing::warn!(image = name, %failure, "an image stays");
                false
            });
            tracing::info!(image = name, gone, "room is made");
            let evicted = if gone { Input::Evicted { image } } else { Input::NotEvicted { image } };
            std::iter::once(evicted).chain(measured(&*provider).await).collect()
        });
    }

    /// For the next opening of the run.
    fn note(&mut self, input: &Input) {
        match *input {
            Input::Fetched { image, bytes, pulled: true } => self.log.write(&self.images[image as usize].name, Some(bytes)),
            Input::Evicted { image } | Input::Fetched { image, pulled: false, .. } | Input::NotFetched { image, .. } => {
                self.log.write(&self.images[image as usize].name, None);
            }
            _ => {}
        }
    }

    async fn say_if_full(&mut self) {
        let Some(full) = self.full.as_mut().filter(|full| full.said.elapsed() >= SAY) else { return };
        full.said = Instant::now();
        let waited = full.since.elapsed();
        self.say_full(waited).await;
    }

    async fn say_full(&self, waited: Duration) {
        let waits = match waited.as_secs() / 60 {
            0 => String::new(),
            minutes => format!(" ({minutes} min so far)"),
        };
        let reason = format!("{}{waits}", self.no_room());
        tracing::warn!("no episode is begun: {reason}");
        let _ = self.tell.send(core::Input::Hold { reason }).await;
    }

    /// What is full, and what the user can do.
    fn no_room(&self) -> String {
        let Settings { disk_high, disk_bytes, .. } = self.settings;
        let (_, _, bytes) = self.stock.in_flight();
        let (place, free) = (self.provider.images_at(), self.stock.free());
        if disk_bytes > 0 && free.is_none_or(|free| free >= disk_high) {
            return format!(
                "the run's images have {} of {} (scheduler.images.disk_bytes), and none can go: raise that, or see scheduler.images.evict",
                gigabytes(bytes),
                gigabytes(disk_bytes)
            );
        }
        let place = place.map_or_else(|| "the images' disk".to_owned(), |place| format!("the disk of {}", place.display()));
        format!(
            "{place} has {} free, of at least {} (scheduler.images.disk_high), and no image can go: make room there (`docker image rm`, \
             `sweroll images gc`), or lower that",
            gigabytes(free.unwrap_or(0)),
            gigabytes(disk_high)
        )
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

async fn measured(provider: &dyn Provider) -> Option<Input> {
    provider.disk().await.map(|disk| Input::Disk { free: disk.free })
}

/// A line of the log: an image that came, with its bytes, or went. 0: it is being fetched.
#[derive(Serialize, Deserialize)]
struct Line {
    image: String,
    bytes: Option<u64>,
}

/// What the run fetched and removed, for its next opening: what it did not fetch is not its to remove.
struct Log {
    path: PathBuf,
    file: Option<File>,
}

impl Log {
    /// With the images that earlier openings fetched and left.
    fn open(path: &Path) -> (Self, HashMap<String, u64>) {
        let mut ours = HashMap::new();
        for line in File::open(path).into_iter().flat_map(|file| BufReader::new(file).lines()).map_while(Result::ok) {
            match serde_json::from_str::<Line>(&line) {
                Ok(Line { image, bytes: Some(bytes) }) => drop(ours.insert(image, bytes)),
                Ok(Line { image, bytes: None }) => drop(ours.remove(&image)),
                // A torn line: the image stays.
                Err(_) => {}
            }
        }
        (Log { path: path.to_owned(), file: None }, ours)
    }

    fn write(&mut self, image: &str, bytes: Option<u64>) {
        let line = serde_json::json!(Line { image: image.to_owned(), bytes });
        if self.file.is_none() {
            self.file = OpenOptions::new().create(true).append(true).open(&self.path).ok();
        }
        // Begins with a new line: one that was torn spoils no other.
        let written = self.file.as_mut().map(|file| file.write_all(format!("\n{line}").as_bytes()));
        if !matches!(written, Some(Ok(()))) {
            tracing::warn!(image, path = %self.path.display(), "cannot be noted; the next opening of the run leaves this image where it is");
        }
    }
}

impl Engine {
    /// Puts the episodes in their order, and finds out which images they need.
    ///
    /// # Errors
    /// Where the backend does not tell which images it has.
    pub async fn images_needed(&self, todo: &mut Vec<Todo>) -> Result<Option<Plan>, Failure> {
        let settings = &self.settings.scheduler;
        let instances = Arc::clone(self.store.instances());
        let dataset: HashMap<&InstanceId, usize> = instances.ids().iter().enumerate().map(|(place, id)| (id, place)).collect();
        let by_image = |todo: &mut Vec<Todo>| {
            todo.sort_by_cached_key(|t| (instances.image(&t.episode.instance).to_owned(), dataset.get(&t.episode.instance)))
        };
        match settings.order {
            Order::Image => by_image(todo),
            Order::Instance => todo.sort_by_key(|t| dataset.get(&t.episode.instance)),
            Order::Sample | Order::Auto => {}
        }
        let log = self.store.dir().layout().root().join("images.jsonl");
        let needs =
            |todo: &[Todo]| -> Vec<(InstanceId, u32)> { todo.iter().map(|t| (t.episode.instance.clone(), u32::from(!t.ended))).collect() };
        let mut needed = needs(todo);
        if settings.order == Order::Auto {
            let mut sorted = todo.clone();
            by_image(&mut sorted);
            needed = needs(&sorted);
        }
        let episodes = needed.iter().map(|(id, needs)| (id, instances.image(id), *needs));
        Plan::make(&settings.images, &*self.provider, episodes, &log).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::Attempt,
        sandbox::{Disk, Fetched, Sandbox, Spec, prepare},
    };
    use futures_util::future::BoxFuture;
    use std::collections::BTreeSet;

    /// A disk of 100 bytes, images of 30; the image `never` cannot be had, and of the first two pulls one meets a busy registry.
    #[derive(Default)]
    struct Fake {
        there: Mutex<BTreeSet<String>>,
        pulls: Mutex<Vec<String>>,
        told_off: Mutex<bool>,
    }

    impl Fake {
        fn free(&self) -> u64 {
            100_u64.saturating_sub(30 * self.there.lock().unwrap().len() as u64)
        }
    }

    impl Provider for Fake {
        fn check(&self) -> BoxFuture<'_, Result<(), Failure>> {
            Box::pin(async { Ok(()) })
        }

        fn missing<'a>(&'a self, images: &'a [String]) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
            Box::pin(async { Ok(images.iter().filter(|image| !self.there.lock().unwrap().contains(*image)).cloned().collect()) })
        }

        fn fetch<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Fetched, FetchError>> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert_ne!(image, "bug", "a fixture of the test");
                if image == "never" {
                    return Err(FetchError::Failed(Failure::new(Kind::ImageMissing, "there is none")));
                }
                if !std::mem::replace(&mut *self.told_off.lock().unwrap(), true) {
                    return Err(Failure::new(Kind::ImagePull, "toomanyrequests, retry-after: 20ms").into());
                }
                self.pulls.lock().unwrap().push(image.to_owned());
                assert!(self.there.lock().unwrap().insert(image.to_owned()), "{image} was there");
                assert!(self.there.lock().unwrap().len() <= 3, "the disk is full");
                Ok(Fetched { bytes: 30, pulled: true })
            })
        }

        fn evict<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<bool, Failure>> {
            Box::pin(async move { Ok(self.there.lock().unwrap().remove(image)) })
        }

        fn disk(&self) -> BoxFuture<'_, Option<Disk>> {
            Box::pin(async { Some(Disk { free: self.free(), total: 100 }) })
        }

        fn image_bytes<'a>(&'a self, _: &'a str) -> BoxFuture<'a, u64> {
            Box::pin(async { 30 })
        }

        fn start<'a>(&'a self, _: &'a Spec) -> BoxFuture<'a, Result<Box<dyn Sandbox>, Failure>> {
            Box::pin(async { Err(Failure::new(Kind::SandboxStart, "a fixture starts nothing")) })
        }

        fn sweep<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<usize, Failure>> {
            Box::pin(async { Ok(0) })
        }
    }

    fn settings() -> Settings {
        Settings { disk_high: 5, disk_low: 10, expected_bytes: 30, pulls_in_flight: 2, backoff_s: 0, ..Settings::default() }
    }

    async fn plan(fake: &Arc<Fake>, names: &[&str], log: &Path) -> Plan {
        let instances: Vec<InstanceId> = names.iter().map(|name| format!("i-{name}").parse().unwrap()).collect();
        let episodes = instances.iter().zip(names).map(|(id, name)| (id, *name, 1));
        Plan::make(&settings(), &**fake, episodes, log).await.unwrap().unwrap()
    }

    fn attempt(instance: &InstanceId) -> AttemptId {
        AttemptId { episode: crate::domain::EpisodeId { instance: instance.clone(), sample: 0 }, attempt: Attempt::FIRST }
    }

    #[tokio::test]
    async fn each_image_comes_once_and_goes_when_its_episodes_are_done() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("images.jsonl");
        let names = ["a", "b", "never", "bug", "c", "d", "e", "f"];
        let fake = Arc::new(Fake::default());
        let plan = plan(&fake, &names, &log).await;
        assert!(plan.gated);
        let (tell, mut told) = mpsc::channel(64);
        let bases = Arc::new(Bases::new(
            Arc::clone(&fake) as Arc<dyn Provider>,
            prepare::Settings::default(),
            Arc::new(crate::grading::Runners::default()),
        ));
        let images = plan.begin(Arc::clone(&fake) as Arc<dyn Provider>, bases, tell);
        let mut done = 0;
        while done < names.len() {
            let input = tokio::time::timeout(Duration::from_secs(60), told.recv()).await.expect("stuck").unwrap();
            let core::Input::Ready { instance } = input else { continue };
            let id = attempt(&instance);
            let leased = images.lease(&id, true).await;
            if instance.as_str() == "i-never" {
                assert_eq!(leased.unwrap_err().kind, Kind::ImageMissing);
            } else if instance.as_str() == "i-bug" {
                assert_eq!(leased.unwrap_err().kind, Kind::Panic);
            } else {
                leased.unwrap();
                assert!(fake.there.lock().unwrap().contains(instance.as_str().trim_start_matches("i-")), "{instance}");
            }
            images.ended(&id, false);
            done += 1;
        }
        let mut pulls = fake.pulls.lock().unwrap().clone();
        pulls.sort();
        assert_eq!(pulls, ["a", "b", "c", "d", "e", "f"], "each once");
        let (_, ours) = Log::open(&log);
        assert!(!ours.is_empty() && ours.len() <= 3, "what is left is known to the next opening: {ours:?}");
    }

    #[tokio::test]
    async fn an_image_that_was_there_is_not_touched_and_one_of_an_earlier_opening_is_ours() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("images.jsonl");
        let (mut noted, _) = Log::open(&log);
        // The engine died before it knew of the end of the pull.
        noted.write("old", Some(0));
        std::fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(b"\n{\"ima").unwrap();
        noted.write("gone", Some(30));
        noted.write("gone", None);
        assert_eq!(Log::open(&log).1, HashMap::from([("old".to_owned(), 0)]), "a torn line spoils no other");
        let fake = Arc::new(Fake { there: Mutex::new(["old", "mine"].map(str::to_owned).into()), ..Fake::default() });
        let plan = plan(&fake, &["old", "mine", "new", "newer"], &log).await;
        let (tell, mut told) = mpsc::channel(64);
        let bases = Arc::new(Bases::new(
            Arc::clone(&fake) as Arc<dyn Provider>,
            prepare::Settings::default(),
            Arc::new(crate::grading::Runners::default()),
        ));
        let images = plan.begin(Arc::clone(&fake) as Arc<dyn Provider>, bases, tell);
        for _ in 0..4 {
            let instance = loop {
                match tokio::time::timeout(Duration::from_secs(60), told.recv()).await.expect("stuck").unwrap() {
                    core::Input::Ready { instance } => break instance,
                    _ => continue,
                }
            };
            let id = attempt(&instance);
            images.lease(&id, true).await.unwrap();
            images.ended(&id, false);
        }
        images.finish().await;
        let there = fake.there.lock().unwrap().clone();
        assert!(there.contains("mine") && !there.contains("old"), "{there:?}");
    }
}
