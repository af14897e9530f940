//! Which of several endpoints takes a request: its episode's own one, unless that is ill or the wait for it too long.
//! Pure: the time is an argument, a duration since any fixed moment; chance is the hash of the episode.

use crate::endpoint::settings::seconds;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The table `[endpoint.pool]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// An episode leaves its own endpoint for another only where that saves it more than so many seconds of waiting. What it
    /// loses is its cached prefix: 30,000 to 100,000 tokens to be read again, at the 5,000 to 10,000 tokens a second that a
    /// large model's prefill does on one host, and at up to ten times the price of cached ones. With 10 the caches of three full
    /// simulated replicas are lost again and again (`sweroll bench limits`).
    pub spill_after_s: f64,
    /// Faults in a row (5xx, broken transport) after which an endpoint is ejected.
    pub eject_after: u32,
    /// Faults among the last `eject_window` replies after which it is ejected too.
    pub eject_faults: u32,
    /// At most 64.
    pub eject_window: u32,
    /// Seconds until an ejected endpoint is tried with one request; doubled each time that it is ejected again soon after.
    pub eject_s: f64,
    /// The longest ejection, seconds; also the time after which a returned endpoint's earlier ejections are forgotten.
    pub eject_max_s: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { spill_after_s: 60.0, eject_after: 5, eject_faults: 16, eject_window: 32, eject_s: 5.0, eject_max_s: 120.0 }
    }
}

/// What a pool knows of an endpoint from the beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Member {
    /// Share of the episodes, over 0.
    pub weight: f64,
    /// Tells it apart from the others, and stays the same from run to run.
    pub seed: u64,
}

/// Who takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    pub member: usize,
    /// It is ejected, and this one request finds out whether it is well again.
    pub probe: bool,
}

/// What a request told of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers: a completion, a 429, a 4xx that is the request's own fault.
    Good,
    /// 5xx, broken transport, a reply that cannot be read.
    Faulty,
    /// Wrong key, no money, unknown model: no request will ever go through.
    Hopeless,
    /// Abandoned before anything could be told.
    Unknown,
}

/// What became of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ejected {
        until: Duration,
    },
    Returned,
    /// For the rest of the run.
    Out,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up { since: Duration },
    Ejected { until: Duration },
    Probing,
    Out,
}

#[derive(Debug)]
struct One {
    member: Member,
    state: State,
    faults_in_a_row: u32,
    /// The last replies, the newest in the lowest bit; a fault is a 1.
    last: u64,
    /// Ejections with no long health between them.
    streak: u32,
    ejections: u64,
}

impl One {
    fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// By its last replies.
    fn fails(&self, settings: &Settings) -> bool {
        let window = u64::MAX >> (64 - settings.eject_window.clamp(1, 64));
        self.faults_in_a_row >= settings.eject_after || (self.last & window).count_ones() >= settings.eject_faults
    }
}

/// The endpoints of a run; never empty. One of them always takes requests.
#[derive(Debug)]
pub struct Pool {
    settings: Settings,
    all: Vec<One>,
}

impl Pool {
    #[must_use]
    pub fn new(settings: Settings, members: impl IntoIterator<Item = Member>) -> Self {
        let up = State::Up { since: Duration::ZERO };
        let one = |member| One { member, state: up, faults_in_a_row: 0, last: 0, streak: 0, ejections: 0 };
        Pool { settings, all: members.into_iter().map(one).collect() }
    }

    /// Who takes a request of the episode `key`. `wait`: how long a member would keep it waiting. `avoid`: the one that just
    /// failed it, taken again only where no other is up.
    pub fn choose(&mut self, key: u64, wait: impl Fn(usize) -> Duration, avoid: Option<usize>, now: Duration) -> Chosen {
        let due =
            |(at, one): (usize, &One)| matches!(one.state, State::Ejected { until } if until <= now && avoid != Some(at)).then_some(at);
        if let Some(member) = self.all.iter().enumerate().find_map(due) {
            self.all[member].state = State::Probing;
            return Chosen { member, probe: true };
        }
        if self.all.len() == 1 {
            return Chosen { member: 0, probe: false };
        }
        let up: Vec<usize> = (0..self.all.len()).filter(|at| self.all[*at].is_up()).collect();
        let others: Vec<usize> = up.iter().copied().filter(|at| Some(*at) != avoid).collect();
        let open = if others.is_empty() { up } else { others };
        let own = open.iter().copied().max_by(|a, b| self.score(*a, key).total_cmp(&self.score(*b, key))).unwrap_or(0);
        let spill = seconds(self.settings.spill_after_s);
        let cost = |at: usize| wait(at).saturating_add(if at == own { Duration::ZERO } else { spill });
        let by_cost = |a: &usize, b: &usize| cost(*a).cmp(&cost(*b)).then(self.score(*b, key).total_cmp(&self.score(*a, key)));
        let member = if open.len() < 2 { own } else { open.into_iter().min_by(by_cost).unwrap_or(own) };
        Chosen { member, probe: false }
    }

    /// Rendezvous hashing by weight: each episode has its own order of all members, so that one which goes or comes moves its
    /// own episodes only.
    fn score(&self, at: usize, key: u64) -> f64 {
        let Member { weight, seed } = self.all[at].member;
        let chance = ((mixed(key ^ mixed(seed)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        weight / -chance.ln()
    }

    /// A request that began at `began` ended. What happened before an endpoint was ejected tells nothing after.
    pub fn ended(&mut self, chosen: Chosen, health: Health, began: Duration, now: Duration) -> Option<Change> {
        let Chosen { member, probe } = chosen;
        let last_standing = !self.all.iter().enumerate().any(|(at, one)| at != member && one.is_up());
        let one = self.all.get_mut(member)?;
        match (one.state, health) {
            (State::Out, _) => None,
            (_, Health::Hopeless) => {
                self.strike_out(member);
                (self.all[member].state == State::Out).then_some(Change::Out)
            }
            (State::Probing, Health::Good) if probe => {
                (one.state, one.faults_in_a_row, one.last) = (State::Up { since: now }, 0, 0);
                Some(Change::Returned)
            }
            (State::Probing, Health::Faulty) if probe => Some(self.eject(member, now)),
            (State::Probing, Health::Unknown) if probe => {
                one.state = State::Ejected { until: now };
                None
            }
            (State::Up { since }, Health::Good | Health::Faulty) if began >= since => {
                one.last = one.last << 1 | u64::from(health == Health::Faulty);
                one.faults_in_a_row = if health == Health::Faulty { one.faults_in_a_row + 1 } else { 0 };
                let ill = health == Health::Faulty && one.fails(&self.settings);
                if ill && one.streak > 0 && now.saturating_sub(since) >= seconds(self.settings.eject_max_s) {
                    one.streak = 0;
                }
                (ill && !last_standing).then(|| self.eject(member, now))
            }
            _ => None,
        }
    }

    fn eject(&mut self, member: usize, now: Duration) -> Change {
        let one = &mut self.all[member];
        let time = self.settings.eject_s * f64::from(one.streak.min(60)).exp2();
        let until = now + seconds(time.min(self.settings.eject_max_s));
        one.streak += 1;
        one.ejections += 1;
        one.state = State::Ejected { until };
        Change::Ejected { until }
    }

    /// For good, unless it is the last one: then what it says is the run's own failure. Where only ejected ones are left, the
    /// one that would be tried first stands again.
    fn strike_out(&mut self, member: usize) {
        let left = |at: usize, one: &One| at != member && one.state != State::Out;
        if !self.all.iter().enumerate().any(|(at, one)| left(at, one)) {
            return;
        }
        self.all[member].state = State::Out;
        if !self.all.iter().any(One::is_up) {
            let until = |one: &One| if let State::Ejected { until } = one.state { until } else { Duration::ZERO };
            let stands = self.all.iter_mut().filter(|one| one.state != State::Out).min_by_key(|one| until(one));
            stands.into_iter().for_each(|one| (one.state, one.faults_in_a_row, one.last) = (State::Up { since: Duration::ZERO }, 0, 0));
        }
    }

    /// Whether requests go there; a probe's own does where it is not.
    #[must_use]
    pub fn is_up(&self, member: usize) -> bool {
        self.all.get(member).is_some_and(One::is_up)
    }

    /// Whether its faults are its own, and not those of what it is asked: ejected, or the last one standing that would be.
    #[must_use]
    pub fn is_ill(&self, member: usize) -> bool {
        self.all.get(member).is_some_and(|one| !one.is_up() || one.fails(&self.settings))
    }

    #[must_use]
    pub fn is_out(&self, member: usize) -> bool {
        self.all.get(member).is_some_and(|one| one.state == State::Out)
    }

    #[must_use]
    pub fn up(&self) -> usize {
        self.all.iter().filter(|one| one.is_up()).count()
    }

    #[must_use]
    pub fn ejections(&self, member: usize) -> u64 {
        self.all.get(member).map_or(0, |one| one.ejections)
    }
}

/// SplitMix64's finalizer: each bit of the result hangs on each of `x`.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// A number for a text, the same on every machine and in every version (FNV-1a).
#[must_use]
pub fn key(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NO_WAIT: fn(usize) -> Duration = |_| Duration::ZERO;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pool(weights: &[f64]) -> Pool {
        Pool::new(Settings::default(), (0..).zip(weights).map(|(seed, weight)| Member { weight: *weight, seed }))
    }

    fn of(member: usize) -> Chosen {
        Chosen { member, probe: false }
    }

    fn fall_ill(pool: &mut Pool, member: usize, now: Duration) -> Option<Change> {
        (0..Settings::default().eject_after).find_map(|_| pool.ended(of(member), Health::Faulty, now, now))
    }

    fn owners(pool: &mut Pool, now: Duration) -> Vec<usize> {
        (0..4000).map(|key| pool.choose(key, NO_WAIT, None, now).member).collect()
    }

    #[test]
    fn an_ejected_ones_episodes_spread_and_come_back() {
        let mut pool = pool(&[1.0, 2.0, 1.0]);
        let before = owners(&mut pool, s(0));
        for (member, share) in [(0, 0.25), (1, 0.5), (2, 0.25)] {
            let count = before.iter().filter(|m| **m == member).count() as f64;
            assert!((count / 4000.0 - share).abs() < 0.03, "{member} has {count}");
        }
        assert_eq!(fall_ill(&mut pool, 1, s(100)), Some(Change::Ejected { until: s(105) }));
        let during = owners(&mut pool, s(101));
        for (own, now) in before.iter().zip(&during) {
            assert!(*now != 1 && (*own == 1 || own == now), "only its own episodes move");
        }
        let moved = |to| before.iter().zip(&during).filter(|(own, now)| **own == 1 && **now == to).count();
        assert!(moved(0) > 800 && moved(2) > 800, "to all others: {} and {}", moved(0), moved(2));
        let probe = pool.choose(0, NO_WAIT, None, s(105));
        assert_eq!(probe, Chosen { member: 1, probe: true });
        assert!(owners(&mut pool, s(106)).iter().all(|m| *m != 1), "one request finds out");
        assert_eq!(pool.ended(of(1), Health::Good, s(99), s(106)), None, "what began before tells nothing");
        assert_eq!(pool.ended(probe, Health::Good, s(105), s(107)), Some(Change::Returned));
        assert_eq!(owners(&mut pool, s(107)), before);
    }

    #[test]
    fn ejections_grow_and_are_forgotten() {
        let mut pool = pool(&[1.0, 1.0]);
        let mut now = s(0);
        let mut times = Vec::new();
        let mut change = fall_ill(&mut pool, 0, now);
        for _ in 0..6 {
            let Some(Change::Ejected { until }) = change else { panic!("{change:?}") };
            times.push((until - now).as_secs());
            now = until;
            let probe = pool.choose(0, NO_WAIT, None, now);
            change = pool.ended(probe, Health::Faulty, now, now);
        }
        assert_eq!(times, [5, 10, 20, 40, 80, 120]);
        now += s(120);
        let probe = pool.choose(0, NO_WAIT, None, now);
        assert_eq!(pool.ended(probe, Health::Good, now, now), Some(Change::Returned));
        assert_eq!(fall_ill(&mut pool, 0, now + s(121)), Some(Change::Ejected { until: now + s(126) }));
    }

    #[test]
    fn half_of_the_last_replies_are_enough() {
        let mut pool = pool(&[1.0, 1.0]);
        let ejected_at = (1..200).find(|n| {
            let health = if n % 2 == 0 { Health::Faulty } else { Health::Good };
            pool.ended(of(0), health, s(*n), s(*n)).is_some()
        });
        assert_eq!(ejected_at, Some(32));
        let seldom = (1..2000).find(|n| {
            let health = if n % 3 == 0 { Health::Faulty } else { Health::Good };
            pool.ended(of(1), health, s(*n), s(*n)).is_some()
        });
        assert_eq!(seldom, None);
    }

    #[test]
    fn only_a_long_wait_drives_an_episode_away() {
        let mut pool = pool(&[1.0, 1.0]);
        let own = pool.choose(7, NO_WAIT, None, s(0)).member;
        let mut with = |mine, other| pool.choose(7, |at| s(if at == own { mine } else { other }), None, s(0)).member == own;
        assert!(with(60, 0) && with(100, 40));
        assert!(!with(61, 0) && !with(100, 30));
    }

    #[test]
    fn a_failed_request_goes_elsewhere_if_it_can() {
        let mut pool = pool(&[1.0, 1.0]);
        let own = pool.choose(7, NO_WAIT, None, s(0)).member;
        assert_eq!(pool.choose(7, NO_WAIT, Some(own), s(0)), of(1 - own));
        fall_ill(&mut pool, 1 - own, s(1));
        assert_eq!(pool.choose(7, NO_WAIT, Some(own), s(1)), of(own));
    }

    #[test]
    fn the_last_one_standing_stands() {
        let mut pool = pool(&[1.0, 1.0, 1.0]);
        assert!(fall_ill(&mut pool, 0, s(1)).is_some());
        assert_eq!(pool.ended(of(1), Health::Hopeless, s(1), s(1)), Some(Change::Out));
        assert_eq!(fall_ill(&mut pool, 2, s(2)), None);
        assert_eq!(pool.ended(of(2), Health::Hopeless, s(2), s(2)), Some(Change::Out), "the ejected one is left");
        assert_eq!((pool.choose(3, NO_WAIT, None, s(2)), pool.up()), (of(0), 1));
        assert_eq!(pool.ended(of(0), Health::Hopeless, s(3), s(3)), None);
        assert!(pool.is_up(0) && pool.is_out(1) && pool.is_out(2));
    }

    #[derive(Debug, Clone)]
    struct Step {
        key: u64,
        health: u8,
        takes: u64,
        waits: [u64; 4],
        avoid: usize,
    }

    fn step() -> impl Strategy<Value = Step> {
        (any::<u64>(), 0..20_u8, 0..40_u64, prop::array::uniform4(0..60_u64), 0..8_usize)
            .prop_map(|(key, health, takes, waits, avoid)| Step { key, health, takes, waits, avoid })
    }

    proptest! {
        #[test]
        fn the_well_serve_and_the_ill_are_tried_again(
            weights in prop::collection::vec(0.1..10.0_f64, 1..5),
            steps in prop::collection::vec(step(), 1..300),
        ) {
            let mut pool = pool(&weights);
            let mut ejected: BTreeMap<usize, Duration> = BTreeMap::new();
            let mut probing = None;
            let mut flying: Vec<(Duration, Duration, Chosen, Health)> = Vec::new();
            for (n, step) in (0..).zip(steps) {
                let now = s(n);
                flying.sort_by_key(|(ends, ..)| std::cmp::Reverse(*ends));
                while flying.last().is_some_and(|(ends, ..)| *ends <= now) {
                    let (_, began, chosen, health) = flying.pop().unwrap();
                    if chosen.probe {
                        probing = None;
                    }
                    match pool.ended(chosen, health, began, now) {
                        Some(Change::Ejected { until }) => {
                            prop_assert!(until <= now + s(120));
                            ejected.insert(chosen.member, until);
                        }
                        Some(Change::Returned) => _ = ejected.remove(&chosen.member),
                        None if chosen.probe && health == Health::Unknown => _ = ejected.insert(chosen.member, now),
                        _ => {}
                    }
                    prop_assert!(pool.up() >= 1, "one of them always takes requests");
                }
                let avoid = Some(step.avoid).filter(|at| *at < weights.len());
                let chosen = pool.choose(step.key, |at| s(step.waits[at % 4]), avoid, now);
                if chosen.probe {
                    prop_assert!(ejected.get(&chosen.member).is_some_and(|until| *until <= now));
                    prop_assert_ne!(probing, Some(chosen.member));
                    probing = Some(chosen.member);
                    // Out of the way until it is known.
                    ejected.insert(chosen.member, Duration::MAX);
                } else {
                    prop_assert!(pool.is_up(chosen.member) && !ejected.contains_key(&chosen.member));
                    prop_assert!(!ejected.iter().any(|(at, until)| *until <= now && Some(*at) != avoid), "a due one is tried first");
                    prop_assert!(avoid != Some(chosen.member) || pool.up() == 1);
                }
                let health = match step.health {
                    0..8 => Health::Good,
                    19 => Health::Unknown,
                    _ => Health::Faulty,
                };
                flying.push((now + s(step.takes), now, chosen, health));
            }
        }

        #[test]
        fn an_episode_keeps_its_own(weights in prop::collection::vec(0.1..10.0_f64, 1..6), key: u64, gone in 0..6_usize) {
            let own = pool(&weights).choose(key, NO_WAIT, None, s(0));
            prop_assert_eq!(pool(&weights).choose(key, NO_WAIT, None, s(9)), own);
            // Nor does it move when others come or go, wherever they stand in the list.
            let mut fewer = (0..).zip(&weights).map(|(seed, weight)| Member { weight: *weight, seed }).collect::<Vec<_>>();
            if weights.len() > 1 && gone < weights.len() && gone != own.member {
                fewer.remove(gone);
                let at = Pool::new(Settings::default(), fewer.clone()).choose(key, NO_WAIT, None, s(0)).member;
                prop_assert_eq!(fewer[at].seed, own.member as u64);
            }
        }
    }

    #[test]
    fn the_key_of_a_text_is_for_ever() {
        assert_eq!(key("django__django-1@0"), 0xc6d369744a77510d);
    }
}
