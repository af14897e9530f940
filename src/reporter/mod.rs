//! Consumers of the run's events. One task folds them; the file and the screen have a thread each.
//!
//! Back-pressure: the channel is bounded. Folding takes a microsecond, so only `--events FILE` can fill it: that file is not lossy, and a disk
//! which stalls for longer than the channel is deep slows the run; a disk that fails is given up. The screen reads the sums when it draws, at
//! most five times a second: what it skips are states, never events, and a terminal that blocks holds up nobody.

pub mod jsonl;
pub mod progress;
pub mod stats;

use crate::domain::event::{Event, EventKind};
use futures_util::future::BoxFuture;
use jsonl::{EventsFile, EventsFileError};
use progress::Painter;
use serde::{Deserialize, Serialize};
use stats::{Stats, Tally};
use std::{
    collections::HashSet,
    io::{self, IsTerminal, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as sync_mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::mpsc, task::JoinHandle};

/// How the screen shows the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgressMode {
    /// Live where stderr is a terminal, else plain.
    #[default]
    Auto,
    Live,
    Plain,
    Off,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReporterSettings {
    pub progress: ProgressMode,
    /// Off a terminal: seconds between lines.
    pub plain_interval_secs: u64,
    /// On a terminal: milliseconds between redraws, 200 or more.
    pub redraw_ms: u64,
    /// Events that wait for their consumers before the run waits for them.
    pub queue_events: usize,
    /// At the end: how long a terminal that blocks is waited for, milliseconds.
    pub last_draw_ms: u64,
}

impl Default for ReporterSettings {
    fn default() -> Self {
        ReporterSettings { progress: ProgressMode::Auto, plain_interval_secs: 10, redraw_ms: 200, queue_events: 16_384, last_draw_ms: 1000 }
    }
}

/// What the reporter leaves behind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reported {
    pub tally: Tally,
    /// Events in the file, and events that a failing disk kept out of it.
    pub events_written: u64,
    pub events_lost: u64,
}

/// The consumers of one run. Ends when every sender of events is dropped.
pub struct Reporter {
    shared: Arc<Mutex<Stats>>,
    notes: Notes,
    folding: JoinHandle<Option<EventsFile>>,
    screen: Screen,
    last_draw: Duration,
}

/// The sending end as the run takes it: each event gets its time and waits for room.
#[must_use]
pub fn emit(events: mpsc::Sender<Event>) -> Arc<dyn Fn(EventKind) -> BoxFuture<'static, ()> + Send + Sync> {
    Arc::new(move |kind| {
        let events = events.clone();
        let at_ms = now_ms();
        // Nobody listens any more: nothing is lost that the journal does not have.
        Box::pin(async move { drop(events.send(Event { at_ms, kind }).await) })
    })
}

/// Puts lines on stderr without tearing the live ones.
#[derive(Clone)]
pub struct Notes(sync_mpsc::SyncSender<Order>);

impl Notes {
    /// Prints the line; where the terminal blocks and many wait already, the line is dropped.
    pub fn print(&self, line: impl Into<String>) {
        let _ = self.0.try_send(Order::Note(line.into()));
    }
}

enum Order {
    Note(String),
    End,
}

impl Reporter {
    /// Begins to consume; must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the events file cannot be written.
    pub fn start(settings: &ReporterSettings, events_file: Option<&Path>) -> Result<(mpsc::Sender<Event>, Reporter), EventsFileError> {
        let live = match settings.progress {
            ProgressMode::Auto => io::stderr().is_terminal(),
            mode => mode == ProgressMode::Live,
        };
        Self::start_on(settings, events_file, Box::new(io::stderr()), live)
    }

    fn start_on(
        settings: &ReporterSettings,
        events_file: Option<&Path>,
        out: Box<dyn Write + Send>,
        live: bool,
    ) -> Result<(mpsc::Sender<Event>, Reporter), EventsFileError> {
        let file = events_file.map(EventsFile::open).transpose()?;
        let shared = Arc::new(Mutex::new(Stats::default()));
        let interval = match live {
            true => Duration::from_millis(settings.redraw_ms.max(200)),
            false => Duration::from_secs(settings.plain_interval_secs.max(1)),
        };
        let shown = Some(interval).filter(|_| settings.progress != ProgressMode::Off);
        let screen = Screen::start(Painter::new(out, live), Arc::clone(&shared), shown);
        let notes = Notes(screen.orders.clone());
        let (sender, events) = mpsc::channel(settings.queue_events.max(1));
        let folding = tokio::spawn(fold(events, Arc::clone(&shared), file, notes.clone(), settings.queue_events.max(1)));
        Ok((sender, Reporter { shared, notes, folding, screen, last_draw: Duration::from_millis(settings.last_draw_ms) }))
    }

    #[must_use]
    pub fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// Waits until every event is consumed, once all senders are dropped, and draws for the last time.
    pub async fn finish(self) -> Reported {
        let file = self.folding.await.unwrap_or_default();
        let Screen { orders, done } = self.screen;
        let last_draw = self.last_draw;
        let drawn = tokio::task::spawn_blocking(move || {
            // A full queue means a terminal that blocks: it is left behind.
            orders.try_send(Order::End).is_ok() && done.recv_timeout(last_draw).is_ok()
        });
        let _ = drawn.await;
        let tally = locked(&self.shared).tally().clone();
        Reported { tally, events_written: file.as_ref().map_or(0, |f| f.written), events_lost: file.as_ref().map_or(0, |f| f.lost) }
    }
}

/// Folds every event, and hands it to the file's thread.
async fn fold(
    mut events: mpsc::Receiver<Event>,
    shared: Arc<Mutex<Stats>>,
    file: Option<EventsFile>,
    notes: Notes,
    queue: usize,
) -> Option<EventsFile> {
    let mut writer = file.map(|file| {
        let (sender, receiver) = mpsc::channel(queue);
        let notes = notes.clone();
        (sender, tokio::task::spawn_blocking(move || write(file, receiver, &notes)))
    });
    let mut told = HashSet::new();
    let mut alone = false;
    while let Some(event) = events.recv().await {
        if let EventKind::Endpoints { endpoints } = &event.kind {
            for one in endpoints.iter().filter(|one| one.out) {
                if told.insert(one.endpoint.clone()) {
                    notes.print(format!("sweroll: {} is out, the run goes on without it: {}", one.endpoint, one.trouble));
                }
            }
            let unshared = endpoints.iter().map(|one| &one.unshared).find(|why| !why.is_empty());
            match unshared {
                Some(why) if !alone => notes.print(format!("sweroll: {why}")),
                None if alone => notes.print("sweroll: the endpoints' limits are shared with other processes again".to_owned()),
                _ => {}
            }
            alone = unshared.is_some();
        }
        locked(&shared).apply(&event);
        if let Some((sender, _)) = &writer {
            let _ = sender.send(event).await;
        }
    }
    let (sender, writing) = writer.take()?;
    drop(sender);
    writing.await.ok()
}

/// Writes what comes, and flushes when nothing more waits or a second has passed.
fn write(mut file: EventsFile, mut events: mpsc::Receiver<Event>, notes: &Notes) -> EventsFile {
    let mut flushed = Instant::now();
    while let Some(event) = events.blocking_recv() {
        let mut trouble = file.write(&event);
        if events.is_empty() || flushed.elapsed() >= Duration::from_secs(1) {
            trouble = trouble.or(file.flush());
            flushed = Instant::now();
        }
        trouble.into_iter().for_each(|trouble| notes.print(trouble));
    }
    file.flush().into_iter().for_each(|trouble| notes.print(trouble));
    file
}

/// The thread that draws.
struct Screen {
    orders: sync_mpsc::SyncSender<Order>,
    done: sync_mpsc::Receiver<()>,
}

impl Screen {
    /// Notes that wait for a terminal that blocks.
    const QUEUE: usize = 256;

    /// `interval`: between draws; none to draw nothing but notes.
    fn start<W: Write + Send + 'static>(mut painter: Painter<W>, shared: Arc<Mutex<Stats>>, interval: Option<Duration>) -> Self {
        let (orders, queue) = sync_mpsc::sync_channel(Self::QUEUE);
        let (ended, done) = sync_mpsc::channel();
        thread::spawn(move || {
            let mut next = Instant::now() + interval.unwrap_or_default();
            loop {
                let order = match interval {
                    Some(_) => queue.recv_timeout(next.saturating_duration_since(Instant::now())),
                    None => queue.recv().map_err(|_| sync_mpsc::RecvTimeoutError::Disconnected),
                };
                match order {
                    Ok(Order::Note(line)) => {
                        painter.note(&line);
                        continue;
                    }
                    Ok(Order::End) | Err(sync_mpsc::RecvTimeoutError::Disconnected) => break,
                    Err(sync_mpsc::RecvTimeoutError::Timeout) => {}
                }
                draw(&mut painter, &shared);
                next = Instant::now() + interval.unwrap_or_default();
            }
            if interval.is_some() {
                draw(&mut painter, &shared);
            }
            let _ = ended.send(());
        });
        Screen { orders, done }
    }
}

fn draw<W: Write>(painter: &mut Painter<W>, shared: &Mutex<Stats>) {
    let view = locked(shared).view(now_ms());
    painter.draw(&view, width());
}

/// Columns of the terminal on stderr; 80 where it does not say.
fn width() -> usize {
    rustix::termios::tcgetwinsize(io::stderr()).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(80)
}

fn locked(stats: &Mutex<Stats>) -> MutexGuard<'_, Stats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventKind;

    #[derive(Clone, Default)]
    struct Screenshot(Arc<Mutex<Vec<u8>>>);

    impl Write for Screenshot {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A terminal on which nothing moves.
    struct Stuck;

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            loop {
                thread::park();
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn events(count: u64) -> impl Iterator<Item = Event> {
        let started = EventKind::RunStarted { version: 1, run: "r".into(), total: 5, outstanding: 4 };
        let limits = (0..count).map(|in_flight| EventKind::LimitChanged { in_flight });
        std::iter::once(started).chain(limits).map(|kind| Event { at_ms: now_ms(), kind })
    }

    #[tokio::test]
    async fn events_reach_the_file_and_the_screen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let screen = Screenshot::default();
        let settings = ReporterSettings { queue_events: 2, ..ReporterSettings::default() };
        let (sender, reporter) = Reporter::start_on(&settings, Some(&path), Box::new(screen.clone()), false).unwrap();
        for event in events(500) {
            sender.send(event).await.unwrap();
        }
        reporter.notes().print("careful");
        drop(sender);
        let reported = reporter.finish().await;
        assert_eq!((reported.events_written, reported.events_lost), (501, 0));
        assert_eq!((reported.tally.outstanding, reported.tally.limit), (4, Some(499)));
        let text = std::fs::read_to_string(&path).unwrap();
        let read: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(matches!(&read[0].kind, EventKind::RunStarted { version: 1, .. }));
        assert_eq!(read.len(), 501);
        let shown = String::from_utf8(screen.0.lock().unwrap().clone()).unwrap();
        assert!(shown.starts_with("careful\n0/4 done (+1 before)") && shown.contains("limit 499"), "{shown}");
        assert_eq!(shown.lines().count(), 2);
    }

    #[tokio::test]
    async fn a_stuck_terminal_holds_up_nobody() {
        let settings = ReporterSettings { queue_events: 1, redraw_ms: 0, last_draw_ms: 50, ..ReporterSettings::default() };
        let (sender, reporter) = Reporter::start_on(&settings, None, Box::new(Stuck), true).unwrap();
        (0..1000).for_each(|_| reporter.notes().print("x"));
        for event in events(1000) {
            sender.send(event).await.unwrap();
        }
        drop(sender);
        let reported = tokio::time::timeout(Duration::from_secs(30), reporter.finish()).await.unwrap();
        assert_eq!(reported.tally.limit, Some(999));
    }

    #[tokio::test]
    async fn off_prints_notes_alone() {
        let screen = Screenshot::default();
        let settings = ReporterSettings { progress: ProgressMode::Off, ..ReporterSettings::default() };
        let (sender, reporter) = Reporter::start_on(&settings, None, Box::new(screen.clone()), true).unwrap();
        reporter.notes().print("careful");
        drop(sender);
        reporter.finish().await;
        assert_eq!(screen.0.lock().unwrap().as_slice(), b"careful\n");
    }
}
