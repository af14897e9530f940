//! Which image is fetched and which goes, and when: one transition, `(state, input, now) -> actions`. No clock, no I/O.
//!
//! An image is absent, being fetched, present, going, or could not be had. Attempts at work refer to it, a grading in the queue included;
//! episodes not begun need it. One that is referred to never goes; one that this engine did not fetch goes only where that is allowed.

use crate::domain::Failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Which images may be removed to make room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evict {
    /// Those that this run fetched.
    #[default]
    Own,
    /// Those of its instances that were there before, too.
    Any,
    Never,
}

/// Bounds of fetching.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Images being fetched at the same time.
    pub pulls_in_flight: usize,
    /// Bytes being fetched at the same time, each image taken for about as large as the largest of the last ones; one image is always fetched. 0: no bound.
    pub bytes_in_flight: u64,
    /// Images fetched or being fetched that no episode at work has yet.
    pub prefetch: usize,
    /// Bytes free on the images' disk below which nothing is fetched, nor begun once no image can go.
    pub disk_high: u64,
    /// Bytes free below which images that no episode needs any more go.
    pub disk_low: u64,
    /// Seconds for which a run waits for room where nothing of it is at work any more; then it ends, to be resumed. 0: without end.
    pub full_wait_s: u64,
    /// Bytes that fetched images may have together, by what their backend says of each; 0: no bound but the disk's.
    pub disk_bytes: u64,
    /// What an image is taken for at first; later for the largest of the last ones.
    pub expected_bytes: u64,
    pub evict: Evict,
    /// Seconds without a pull after a registry's 429 that names no time; doubled by each further one, up to `backoff_cap_s`.
    pub backoff_s: u64,
    pub backoff_cap_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            pulls_in_flight: 4,
            bytes_in_flight: 0,
            prefetch: 8,
            disk_high: 2 << 30,
            disk_low: 10 << 30,
            full_wait_s: 3600,
            disk_bytes: 0,
            expected_bytes: 3 << 30,
            evict: Evict::Own,
            backoff_s: 10,
            backoff_cap_s: 900,
        }
    }
}

/// After an image did not go, how long none is told to.
const EVICT_AGAIN_MS: u64 = 10_000;

/// An image, by its place in the order in which images are first needed.
pub type Rank = u32;

/// What is known of an image before the first step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// Episodes that need it.
    pub needs: u32,
    pub present: bool,
    /// Fetched by an earlier opening of this run.
    pub ours: bool,
    /// That it has on the disk, where it is `ours`.
    pub bytes: u64,
}

#[derive(Debug, Clone)]
pub enum Input {
    /// An attempt refers to the image from now on; `waited`: it was among those that need it.
    Begun {
        image: Rank,
        waited: bool,
    },
    /// It does no more; `again`: its episode needs it once more.
    Ended {
        image: Rank,
        again: bool,
    },
    /// An episode that was not begun never will be.
    Waived {
        image: Rank,
    },
    /// `bytes` is what the disk has more by it, `pulled` says that it was not there before.
    Fetched {
        image: Rank,
        bytes: u64,
        pulled: bool,
    },
    /// For good.
    NotFetched {
        image: Rank,
        failure: Failure,
    },
    /// The registry wants fewer requests.
    Busy {
        image: Rank,
        retry_after_ms: Option<u64>,
    },
    Evicted {
        image: Rank,
    },
    /// It is in use by others, or the backend does not remove it: it stays.
    NotEvicted {
        image: Rank,
    },
    /// Bytes free where images lie.
    Disk {
        free: u64,
    },
    /// Nothing more is begun: fetch only what attempts at work refer to.
    Drain,
    /// Nothing is at work any more, and nothing will be.
    Finish,
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Fetch {
        image: Rank,
    },
    Evict {
        image: Rank,
    },
    /// Its episodes may begin: it is there, or known not to be had, which they then fail by.
    Ready {
        image: Rank,
    },
    Unready {
        image: Rank,
    },
    /// Begin nothing: the disk is full, and nothing on it can go.
    Hold,
    Release,
    /// Nobody made room for so long that the run should end.
    GiveUp,
    WakeAt {
        at_ms: u64,
    },
}

#[derive(Debug, Clone, Default)]
enum State {
    #[default]
    Absent,
    Fetching {
        reserved: u64,
    },
    Present,
    Going,
    Failed(Failure),
}

/// What an attempt that wants the image is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    Go,
    Wait,
    Fail(Failure),
}

#[derive(Debug, Clone, Default)]
struct Image {
    state: State,
    needs: u32,
    refs: u32,
    ours: bool,
    bytes: u64,
    used_at: u64,
}

impl Image {
    /// Needed, and its episodes may begin, but it is not ours.
    fn is_other(&self) -> bool {
        let may_begin = matches!(self.state, State::Present) && !self.ours || matches!(self.state, State::Failed(_));
        may_begin && self.needs > 0
    }
}

/// What the run has of images.
#[derive(Debug)]
pub struct Stock {
    settings: Settings,
    images: Vec<Image>,
    /// Absent and needed; those that an attempt waits for are first.
    wanted: BTreeSet<(bool, Rank)>,
    /// May go, needed later.
    ahead: BTreeSet<Rank>,
    /// May go, needed no more, by their last use.
    spent: BTreeSet<(u64, Rank)>,
    fetching: usize,
    reserved: u64,
    going: usize,
    going_bytes: u64,
    /// Images of ours that attempts refer to: they may go one day.
    in_use: usize,
    /// Attempts that refer to any image.
    at_work: usize,
    /// Images needed that episodes may begin with, though they are not ours: they are there, or are not to be had.
    others: usize,
    /// Of images of ours that are present.
    bytes: u64,
    free: Option<u64>,
    /// What an image to be fetched is taken for.
    expected: u64,
    /// No image is told to go before.
    evict_at: u64,
    held: bool,
    /// Since when the run has waited for room with nothing at work.
    idle_since: Option<u64>,
    gave_up: bool,
    draining: bool,
    busy_in_a_row: u32,
    resume_at: u64,
}

impl Stock {
    /// `images` in the order in which they are needed; `free`: bytes free where they lie, where that can be known.
    #[must_use]
    pub fn new(settings: Settings, images: impl IntoIterator<Item = Known>, free: Option<u64>) -> Self {
        let any = settings.evict == Evict::Any;
        let image = |known: Known| Image {
            state: if known.present { State::Present } else { State::Absent },
            needs: known.needs,
            ours: known.present && (known.ours || any),
            bytes: if known.present && (known.ours || any) { known.bytes } else { 0 },
            ..Image::default()
        };
        let images: Vec<Image> = images.into_iter().map(image).collect();
        let mut stock = Stock {
            expected: settings.expected_bytes,
            settings,
            wanted: BTreeSet::new(),
            ahead: BTreeSet::new(),
            spent: BTreeSet::new(),
            fetching: 0,
            reserved: 0,
            going: 0,
            going_bytes: 0,
            in_use: 0,
            at_work: 0,
            others: 0,
            bytes: images.iter().map(|image| image.bytes).sum(),
            images,
            free,
            evict_at: 0,
            held: false,
            idle_since: None,
            gave_up: false,
            draining: false,
            busy_in_a_row: 0,
            resume_at: 0,
        };
        (0..stock.images.len() as Rank).for_each(|image| stock.place(image));
        stock
    }

    /// Whether an attempt may start in it.
    #[must_use]
    pub fn word(&self, image: Rank) -> Word {
        match self.images.get(image as usize).map(|image| &image.state) {
            Some(State::Present) | None => Word::Go,
            Some(State::Failed(failure)) => Word::Fail(failure.clone()),
            Some(_) => Word::Wait,
        }
    }

    /// Images that are ready before the first step.
    pub fn present(&self) -> impl Iterator<Item = Rank> {
        (0..).zip(&self.images).filter(|(_, image)| matches!(image.state, State::Present)).map(|(rank, _)| rank)
    }

    /// Images being fetched, bytes reserved for them, bytes of those fetched.
    #[must_use]
    pub fn in_flight(&self) -> (usize, u64, u64) {
        (self.fetching, self.reserved, self.bytes)
    }

    /// Images were told to go that have not said that they did.
    #[must_use]
    pub fn is_evicting(&self) -> bool {
        self.going > 0
    }

    /// Bytes free where images lie, as far as known.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        self.free
    }

    /// The transition. Inputs that do not fit an image's state change nothing.
    pub fn step(&mut self, input: Input, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Begun { image, waited } => {
                self.at_work += 1;
                self.change(image, |it| {
                    it.needs -= u32::from(waited && it.needs > 0);
                    it.refs += 1;
                });
            }
            Input::Ended { image, again } => self.ended(image, again, now_ms, &mut actions),
            Input::Waived { image } => self.change(image, |it| it.needs = it.needs.saturating_sub(1)),
            Input::Fetched { image, bytes, pulled } => self.fetched(image, bytes, pulled, now_ms, &mut actions),
            Input::NotFetched { image, failure } => {
                if self.stop_fetching(image, State::Failed(failure)) {
                    actions.push(Action::Ready { image });
                }
            }
            Input::Busy { image, retry_after_ms } => self.busy(image, retry_after_ms, now_ms),
            Input::Evicted { image } => self.gone(image, true, now_ms, &mut actions),
            Input::NotEvicted { image } => self.gone(image, false, now_ms, &mut actions),
            Input::Disk { free } => self.free = Some(free),
            Input::Drain => self.draining = true,
            // What still used an image when it was told to go is gone by now.
            Input::Finish => (self.draining, self.evict_at) = (true, 0),
            Input::Tick => {}
        }
        self.decide(now_ms, &mut actions);
        actions
    }

    /// Changes an image, and puts it among those that it now belongs to.
    fn change(&mut self, image: Rank, how: impl FnOnce(&mut Image)) {
        self.unplace(image);
        if let Some(it) = self.images.get_mut(image as usize) {
            how(it);
        }
        self.place(image);
    }

    fn place(&mut self, image: Rank) {
        let Some(it) = self.images.get(image as usize) else { return };
        match it.state {
            State::Absent if it.refs > 0 => drop(self.wanted.insert((false, image))),
            State::Absent if it.needs > 0 => drop(self.wanted.insert((true, image))),
            State::Present if it.ours && it.refs > 0 => self.in_use += 1,
            State::Present if it.ours => {
                if it.needs > 0 {
                    self.ahead.insert(image);
                } else {
                    self.spent.insert((it.used_at, image));
                }
            }
            _ => self.others += usize::from(it.is_other()),
        }
    }

    fn unplace(&mut self, image: Rank) {
        let Some(it) = self.images.get(image as usize) else { return };
        let used_at = it.used_at;
        self.in_use -= usize::from(it.ours && it.refs > 0 && matches!(it.state, State::Present));
        self.others -= usize::from(it.is_other());
        self.wanted.remove(&(false, image));
        self.wanted.remove(&(true, image));
        self.ahead.remove(&image);
        self.spent.remove(&(used_at, image));
    }

    fn ended(&mut self, image: Rank, again: bool, now_ms: u64, actions: &mut Vec<Action>) {
        self.at_work = self.at_work.saturating_sub(1);
        let failed = matches!(self.images.get(image as usize), Some(Image { state: State::Failed(_), .. }));
        self.change(image, |it| {
            it.refs = it.refs.saturating_sub(1);
            it.needs += u32::from(again);
            it.used_at = now_ms;
            if failed && again {
                it.state = State::Absent;
            }
        });
        if failed && again {
            actions.push(Action::Unready { image });
        }
    }

    fn fetched(&mut self, image: Rank, bytes: u64, pulled: bool, now_ms: u64, actions: &mut Vec<Action>) {
        if !self.stop_fetching(image, State::Present) {
            return;
        }
        self.busy_in_a_row = 0;
        let ours = pulled || self.settings.evict == Evict::Any;
        let bytes = if ours { bytes } else { 0 };
        self.change(image, |it| (it.ours, it.bytes, it.used_at) = (ours, bytes, now_ms));
        self.bytes += bytes;
        if pulled {
            // The largest so far, slowly forgotten, what was expected at first too: the disk is to hold what comes, not what comes
            // as a rule.
            self.expected = (self.expected - self.expected / 64 + bytes / 64).max(bytes);
            // It is on the disk, which was not asked since.
            self.free = self.free.map(|free| free.saturating_sub(bytes));
        }
        actions.push(Action::Ready { image });
    }

    /// Whether it was being fetched.
    fn stop_fetching(&mut self, image: Rank, state: State) -> bool {
        let Some(State::Fetching { reserved }) = self.images.get(image as usize).map(|it| it.state.clone()) else { return false };
        self.fetching -= 1;
        self.reserved -= reserved;
        self.change(image, |it| it.state = state);
        true
    }

    fn busy(&mut self, image: Rank, retry_after_ms: Option<u64>, now_ms: u64) {
        if !self.stop_fetching(image, State::Absent) {
            return;
        }
        // Pulls that began before the pause was known tell nothing new.
        if now_ms >= self.resume_at {
            let doubled = (self.settings.backoff_s * 1000) << self.busy_in_a_row.min(20);
            let pause = retry_after_ms.unwrap_or(0).max(doubled).min(self.settings.backoff_cap_s * 1000);
            self.busy_in_a_row += 1;
            self.resume_at = now_ms + pause;
        } else if let Some(after) = retry_after_ms {
            self.resume_at = self.resume_at.max(now_ms + after.min(self.settings.backoff_cap_s * 1000));
        }
    }

    fn gone(&mut self, image: Rank, gone: bool, now_ms: u64, actions: &mut Vec<Action>) {
        let Some(Image { state: State::Going, bytes, .. }) = self.images.get(image as usize) else { return };
        let bytes = *bytes;
        self.going -= 1;
        self.going_bytes -= bytes;
        if gone {
            self.bytes -= bytes;
            self.free = self.free.map(|free| free.saturating_add(bytes));
            self.change(image, |it| (it.state, it.bytes, it.ours) = (State::Absent, 0, false));
        } else {
            // Others are asked for first, and none at once.
            self.change(image, |it| (it.state, it.used_at) = (State::Present, now_ms));
            self.evict_at = now_ms + EVICT_AGAIN_MS;
            actions.push(Action::Ready { image });
        }
    }

    /// Bytes that may still be fetched before the mark: of the disk, and of what images may have.
    fn room(&self, mark: u64) -> u64 {
        let taken = self.reserved;
        let disk = self.free.map_or(u64::MAX, |free| free.saturating_sub(mark.saturating_add(taken)));
        let own = match self.settings.disk_bytes {
            0 => u64::MAX,
            bound => bound.saturating_sub(self.bytes + taken),
        };
        disk.min(own)
    }

    fn decide(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if now_ms >= self.resume_at {
            while let Some(&(_, image)) = self.wanted.first() {
                if !self.may_fetch(image) || !self.has_room(image, now_ms, actions) {
                    break;
                }
                let reserved = self.expected;
                self.change(image, |it| it.state = State::Fetching { reserved });
                self.fetching += 1;
                self.reserved += reserved;
                actions.push(Action::Fetch { image });
            }
        } else if !self.wanted.is_empty() {
            actions.push(Action::WakeAt { at_ms: self.resume_at });
        }
        self.clean(now_ms, actions);
        self.give_way(now_ms, actions);
        self.hold(actions);
        self.give_up(now_ms, actions);
    }

    /// Whether slots, bytes in flight and the run's pace allow it.
    fn may_fetch(&self, image: Rank) -> bool {
        let waited_for = self.images.get(image as usize).is_some_and(|it| it.refs > 0);
        let bytes = self.settings.bytes_in_flight;
        let fits = bytes == 0 || self.fetching == 0 || self.reserved + self.expected <= bytes;
        let paced = waited_for || (!self.draining && self.ahead.len() + self.fetching < self.settings.prefetch.max(1));
        self.fetching < self.settings.pulls_in_flight.max(1) && fits && paced
    }

    /// Whether there is room for it; begins to make some where there is not.
    fn has_room(&mut self, image: Rank, now_ms: u64, actions: &mut Vec<Action>) -> bool {
        if self.room(self.settings.disk_high) >= self.expected {
            return true;
        }
        if self.going > 0 || self.evict_next(Some(image), now_ms, actions) {
            return false;
        }
        // What it is taken for may be too much, and nothing else will ever give it room.
        self.fetching == 0 && self.in_use == 0 && self.ahead.is_empty() && self.room(self.settings.disk_high) > 0
    }

    /// Sends the image away that is needed no more and was used least recently, else the one needed last, if after `wanted`.
    fn evict_next(&mut self, wanted: Option<Rank>, now_ms: u64, actions: &mut Vec<Action>) -> bool {
        if self.settings.evict == Evict::Never {
            return false;
        }
        if now_ms < self.evict_at {
            actions.push(Action::WakeAt { at_ms: self.evict_at });
            return false;
        }
        let later = || self.ahead.last().copied().filter(|last| wanted.is_some_and(|wanted| wanted < *last));
        let Some(image) = self.spent.first().map(|(_, image)| *image).or_else(later) else { return false };
        self.change(image, |it| it.state = State::Going);
        self.going += 1;
        self.going_bytes += self.images.get(image as usize).map_or(0, |it| it.bytes);
        actions.extend([Action::Unready { image }, Action::Evict { image }]);
        true
    }

    /// What nobody needs any more goes before the room is wanted, so that pulls do not wait for it.
    fn clean(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        while self.room(self.settings.disk_low).saturating_add(self.going_bytes) < self.expected && self.evict_next(None, now_ms, actions) {
        }
    }

    /// Where images that wait for their episodes fill the disk so that none begins, the one needed last goes and comes again later.
    fn give_way(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let full = self.free.is_some_and(|free| free < self.settings.disk_high);
        if full && self.going == 0 && self.in_use == 0 && self.fetching == 0 && self.ahead.len() > 1 {
            self.evict_next(Some(0), now_ms, actions);
        }
    }

    fn hold(&mut self, actions: &mut Vec<Action>) {
        let is_full = self.free.is_some_and(|free| free < self.settings.disk_high) || self.is_starved();
        let is_roomy = self.free.is_none_or(|free| free >= self.settings.disk_low);
        if is_full && !self.held && self.going == 0 {
            self.held = true;
            actions.push(Action::Hold);
        } else if self.held && !is_full && (is_roomy || self.nothing_to_gain()) {
            self.held = false;
            actions.push(Action::Release);
        }
    }

    /// Images are wanted, there is no room for any, and no episode can begin whose end would make some.
    fn is_starved(&self) -> bool {
        let nothing_begins = self.at_work == 0 && self.fetching == 0 && self.others == 0 && self.ahead.is_empty();
        nothing_begins && !self.wanted.is_empty() && self.room(self.settings.disk_high) == 0
    }

    /// Waits for room for so long and no longer.
    fn give_up(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        if !self.held || self.at_work > 0 {
            self.idle_since = None;
            return;
        }
        let at_ms = *self.idle_since.get_or_insert(now_ms) + self.settings.full_wait_s * 1000;
        if self.settings.full_wait_s == 0 || self.gave_up {
            return;
        }
        self.gave_up = now_ms >= at_ms;
        actions.push(if self.gave_up { Action::GiveUp } else { Action::WakeAt { at_ms } });
    }

    /// No image will ever go by waiting on.
    fn nothing_to_gain(&self) -> bool {
        self.going == 0 && self.fetching == 0 && self.spent.is_empty() && self.in_use == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Kind;
    use proptest::prelude::*;

    fn stock(settings: Settings, images: usize, free: u64) -> Stock {
        Stock::new(settings, vec![Known { needs: 1, ..Known::default() }; images], Some(free))
    }

    fn small() -> Settings {
        Settings { pulls_in_flight: 2, prefetch: 4, disk_high: 10, disk_low: 20, expected_bytes: 10, ..Settings::default() }
    }

    fn fetches(actions: &[Action]) -> Vec<Rank> {
        let fetch = |action: &Action| match action {
            Action::Fetch { image } => Some(*image),
            _ => None,
        };
        actions.iter().filter_map(fetch).collect()
    }

    fn fetched(stock: &mut Stock, image: Rank, now_ms: u64) -> Vec<Action> {
        stock.step(Input::Fetched { image, bytes: 10, pulled: true }, now_ms)
    }

    #[test]
    fn images_come_in_order_a_few_at_once_and_a_few_ahead() {
        let mut stock = stock(small(), 9, 1000);
        assert_eq!(fetches(&stock.step(Input::Tick, 0)), [0, 1]);
        assert_eq!(fetched(&mut stock, 1, 0), [Action::Ready { image: 1 }, Action::Fetch { image: 2 }]);
        assert_eq!(fetches(&fetched(&mut stock, 0, 0)), [3]);
        assert_eq!(fetches(&fetched(&mut stock, 2, 0)), Vec::<Rank>::new(), "four are ahead");
        assert_eq!(fetches(&stock.step(Input::Begun { image: 0, waited: true }, 0)), [4]);
        assert_eq!((stock.word(0), stock.word(4)), (Word::Go, Word::Wait));
    }

    #[test]
    fn what_is_needed_no_more_goes_the_least_recently_used_first_and_a_users_own_never() {
        let known = |present| Known { needs: 1, present, ..Known::default() };
        let mut stock = Stock::new(small(), [known(true), known(false), known(false), known(false)], Some(50));
        let actions = stock.step(Input::Tick, 0);
        assert_eq!(fetches(&actions), [1, 2]);
        for image in [0, 1, 2] {
            stock.step(Input::Begun { image, waited: true }, 1);
        }
        assert_eq!(fetched(&mut stock, 1, 2), [Action::Ready { image: 1 }, Action::Fetch { image: 3 }]);
        fetched(&mut stock, 2, 3);
        assert!(!stock.step(Input::Ended { image: 0, again: false }, 4).contains(&Action::Evict { image: 0 }), "it was there before");
        let ended = stock.step(Input::Ended { image: 2, again: false }, 5);
        assert_eq!(ended, [Action::Unready { image: 2 }, Action::Evict { image: 2 }], "image 1 is in use");
        assert_eq!(stock.word(2), Word::Wait);
        assert_eq!(stock.word(1), Word::Go);
    }

    #[test]
    fn a_full_disk_holds_the_run_until_there_is_room() {
        let mut stock = stock(Settings { full_wait_s: 0, ..small() }, 3, 5);
        assert_eq!(stock.step(Input::Tick, 0), [Action::Hold]);
        assert_eq!(stock.step(Input::Disk { free: 6 }, 1), []);
        let actions = stock.step(Input::Disk { free: 100 }, 2);
        assert!(actions.contains(&Action::Release) && fetches(&actions) == [0, 1], "{actions:?}");
    }

    #[test]
    fn nobody_waits_for_room_for_ever_once_nothing_is_at_work() {
        let known = |present| Known { needs: 1, present, ..Known::default() };
        let mut stock = Stock::new(Settings { full_wait_s: 60, ..small() }, [known(true), known(false)], Some(5));
        let wake = |at_ms| Action::WakeAt { at_ms };
        stock.step(Input::Begun { image: 0, waited: true }, 0);
        assert_eq!(stock.step(Input::Tick, 600_000), [], "what is at work may make room");
        assert_eq!(stock.step(Input::Ended { image: 0, again: false }, 700_000), [wake(760_000)]);
        assert_eq!(stock.step(Input::Disk { free: 7 }, 759_999), [wake(760_000)]);
        assert_eq!(stock.step(Input::Tick, 760_000), [Action::GiveUp]);
        assert_eq!(stock.step(Input::Tick, 770_000), [], "once");
    }

    /// The bound is of bytes, not of the disk; a run that cannot begin anything must not look as if it worked.
    #[test]
    fn where_no_image_may_go_and_none_may_come_the_run_is_held_too() {
        let settings = Settings { evict: Evict::Never, disk_bytes: 10, pulls_in_flight: 1, ..small() };
        let mut stock = stock(settings, 2, 1000);
        assert_eq!(fetches(&stock.step(Input::Tick, 0)), [0]);
        assert_eq!(fetched(&mut stock, 0, 0), [Action::Ready { image: 0 }]);
        assert_eq!(stock.step(Input::Begun { image: 0, waited: true }, 0), []);
        let ended = stock.step(Input::Ended { image: 0, again: false }, 1);
        assert!(ended.contains(&Action::Hold), "{ended:?}");
        let known = [Known { needs: 1, present: true, ..Known::default() }, Known { needs: 1, ..Known::default() }];
        let mut with_other = Stock::new(Settings { disk_bytes: 1, expected_bytes: 1, ..small() }, known, Some(1000));
        with_other.step(Input::Tick, 0);
        fetched(&mut with_other, 1, 0);
        assert!(!with_other.held, "its own episode can begin");
    }

    #[test]
    fn a_registry_that_has_enough_is_left_alone_and_longer_each_time() {
        let mut stock = stock(small(), 4, 1000);
        stock.step(Input::Tick, 0);
        let wake = |at_ms| vec![Action::WakeAt { at_ms }];
        assert_eq!(stock.step(Input::Busy { image: 0, retry_after_ms: None }, 1000), wake(11_000));
        assert_eq!(stock.step(Input::Busy { image: 1, retry_after_ms: Some(30_000) }, 1000), wake(31_000));
        assert_eq!(stock.step(Input::Tick, 30_999), wake(31_000));
        assert_eq!(fetches(&stock.step(Input::Tick, 31_000)), [0, 1]);
        assert_eq!(stock.step(Input::Busy { image: 0, retry_after_ms: None }, 32_000), wake(52_000));
        fetched(&mut stock, 1, 33_000);
        assert_eq!(fetches(&stock.step(Input::Tick, 52_000)), [0, 2]);
        assert_eq!(stock.step(Input::Busy { image: 0, retry_after_ms: None }, 53_000), wake(63_000), "a pull went well between them");
    }

    #[test]
    fn an_image_that_cannot_be_had_fails_its_own_episodes_only() {
        let mut stock = stock(small(), 3, 1000);
        stock.step(Input::Tick, 0);
        let failure = Failure::new(Kind::ImagePull, "gone");
        let actions = stock.step(Input::NotFetched { image: 0, failure: failure.clone() }, 1);
        assert_eq!(actions, [Action::Ready { image: 0 }, Action::Fetch { image: 2 }]);
        stock.step(Input::Begun { image: 0, waited: true }, 1);
        assert_eq!((stock.word(0), stock.word(1)), (Word::Fail(failure), Word::Wait));
        fetched(&mut stock, 1, 2);
        let again = stock.step(Input::Ended { image: 0, again: true }, 3);
        assert_eq!(again, [Action::Unready { image: 0 }, Action::Fetch { image: 0 }], "its episode is tried again, and so is it");
    }

    #[test]
    fn one_that_does_not_go_is_not_asked_again_at_once() {
        let mut stock = stock(Settings { pulls_in_flight: 1, ..small() }, 2, 35);
        stock.step(Input::Tick, 0);
        stock.step(Input::Begun { image: 0, waited: true }, 0);
        fetched(&mut stock, 0, 0);
        fetched(&mut stock, 1, 0);
        assert!(stock.step(Input::Ended { image: 0, again: false }, 1).contains(&Action::Evict { image: 0 }));
        let stays = stock.step(Input::NotEvicted { image: 0 }, 2);
        assert!(stays.contains(&Action::Ready { image: 0 }) && stays.contains(&Action::WakeAt { at_ms: 2 + EVICT_AGAIN_MS }), "{stays:?}");
        assert!(stock.step(Input::Tick, 2 + EVICT_AGAIN_MS).contains(&Action::Evict { image: 0 }));
    }

    #[derive(Debug, Clone)]
    struct Case {
        sizes: Vec<u64>,
        samples: u32,
        slots: usize,
        pulls: usize,
        prefetch: usize,
        disk: u64,
        bytes_in_flight: u64,
        choices: Vec<u16>,
    }

    fn cases() -> impl Strategy<Value = Case> {
        let sizes = prop::collection::vec(1..20_u64, 1..25);
        (sizes, 1..4_u32, 1..8_usize, 1..4_usize, 1..6_usize, 60..200_u64, 0..50_u64, prop::collection::vec(any::<u16>(), 400)).prop_map(
            |(sizes, samples, slots, pulls, prefetch, disk, bytes_in_flight, choices)| Case {
                sizes,
                samples,
                slots,
                pulls,
                prefetch,
                disk,
                bytes_in_flight,
                choices,
            },
        )
    }

    proptest! {
        /// Whatever ends when, on however small a disk: all episodes are done, nothing in use goes, and nothing is pulled beyond the bounds.
        #[test]
        fn every_episode_has_its_image_in_the_end(case in cases()) {
            let settings = Settings {
                pulls_in_flight: case.pulls,
                prefetch: case.prefetch,
                bytes_in_flight: case.bytes_in_flight,
                disk_high: 20,
                disk_low: 40,
                expected_bytes: 20,
                ..Settings::default()
            };
            let known = |_| Known { needs: case.samples, ..Known::default() };
            let mut stock = Stock::new(settings, case.sizes.iter().map(known), Some(case.disk));
            let (mut used, mut now, mut held) = (0, 0, false);
            let mut pending: Vec<u32> = vec![case.samples; case.sizes.len()];
            let mut refs = vec![0_u32; case.sizes.len()];
            let (mut ready, mut pulling, mut going, mut live) = (BTreeSet::new(), Vec::new(), Vec::new(), Vec::new());
            let mut inputs = vec![Input::Tick];
            for step in 0..20_000_usize {
                while let Some(input) = inputs.pop() {
                    for action in stock.step(input, now) {
                        match action {
                            Action::Fetch { image } => pulling.push(image),
                            Action::Evict { image } => {
                                prop_assert_eq!(refs[image as usize], 0, "in use");
                                going.push(image);
                            }
                            Action::Ready { image } => drop(ready.insert(image)),
                            Action::Unready { image } => drop(ready.remove(&image)),
                            Action::Hold => held = true,
                            Action::Release => held = false,
                            Action::GiveUp => prop_assert!(false, "it gives up: {:?}", stock),
                            Action::WakeAt { .. } => {}
                        }
                    }
                }
                let (in_flight, reserved, _) = stock.in_flight();
                prop_assert_eq!(in_flight, pulling.len());
                prop_assert!(in_flight <= case.pulls);
                prop_assert!(case.bytes_in_flight == 0 || in_flight <= 1 || reserved <= case.bytes_in_flight.max(20));
                prop_assert!(used <= case.disk, "the disk is full");
                if pending.iter().all(|left| *left == 0) && live.is_empty() {
                    return Ok(());
                }
                now += 1000;
                let next = ready.iter().copied().find(|image| pending[*image as usize] > 0 && !held && live.len() < case.slots);
                let choice = usize::from(case.choices[step % case.choices.len()]);
                let open = [next.is_some(), !pulling.is_empty(), !going.is_empty(), !live.is_empty()];
                let ways: Vec<usize> = (0..4).filter(|way| open[*way]).collect();
                prop_assert!(!ways.is_empty(), "stuck: {:?}", stock);
                match ways[choice % ways.len()] {
                    0 => {
                        let image = next.unwrap_or_default();
                        pending[image as usize] -= 1;
                        refs[image as usize] += 1;
                        live.push(image);
                        inputs.push(Input::Begun { image, waited: true });
                    }
                    1 => {
                        let image: u32 = pulling.swap_remove(choice / 4 % pulling.len());
                        let bytes = case.sizes[image as usize];
                        used += bytes;
                        inputs.push(Input::Disk { free: case.disk.saturating_sub(used) });
                        inputs.push(Input::Fetched { image, bytes, pulled: true });
                    }
                    2 => {
                        let image: u32 = going.swap_remove(choice / 4 % going.len());
                        used -= case.sizes[image as usize];
                        inputs.push(Input::Disk { free: case.disk.saturating_sub(used) });
                        inputs.push(Input::Evicted { image });
                    }
                    _ => {
                        let image = live.swap_remove(choice / 4 % live.len());
                        let again = choice % 16 == 3;
                        pending[image as usize] += u32::from(again);
                        refs[image as usize] -= 1;
                        inputs.push(Input::Ended { image, again });
                    }
                }
            }
            prop_assert!(false, "it does not end");
        }
    }
}
