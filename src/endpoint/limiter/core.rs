//! The numbers behind the limits. Pure: the time is an argument, a duration since any fixed moment.

use super::{bucket::Bucket, told::Told};
use crate::endpoint::settings::seconds;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a run asks of its endpoint at most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// 0: as the endpoint tells it (`learn`), else none.
    pub requests_per_minute: u64,
    /// Prompt and completion together; 0: as the endpoint tells it (`learn`), else none.
    pub tokens_per_minute: u64,
    /// Where no rate is set, keep to the one that replies tell (`x-ratelimit-limit-requests`, `-tokens`).
    pub learn: bool,
    /// Requests in flight at the beginning. Doubled from one round of replies to the next until the endpoint is too busy.
    pub in_flight_start: u32,
    /// Requests in flight at most.
    pub in_flight_max: u32,
    /// Seconds from one cut to the next at least.
    pub cool_down_s: f64,
    /// The longest pause for everybody that a `Retry-After` brings, seconds.
    pub pause_cap_s: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            requests_per_minute: 0,
            tokens_per_minute: 0,
            learn: true,
            in_flight_start: 16,
            in_flight_max: 256,
            cool_down_s: 5.0,
            pause_cap_s: 300.0,
        }
    }
}

/// What is left of the limit after a cut. TCP's CUBIC keeps the same (RFC 9438, section 4.6).
const CUT: f64 = 0.7;
/// Share of replies that are 429 or 503 at which the endpoint is too busy. Some refuse now and then whatever their load;
/// fewer requests in flight would not help against that.
const TOO_MANY: f64 = 0.2;
/// The share is taken over as many replies as the limit, and at least over these.
const LAST: f64 = 10.0;
/// From where it was last sound, the limit grows by this share of itself in a round of good replies, and at least by one.
const GROWTH: f64 = 1.0 / 16.0;
/// A `Retry-After` up to this long holds back only the request that was refused: HTTP has no shorter one, so it says little.
const BRIEF: Duration = Duration::from_secs(1);
/// With one request in flight and none that went well since the last cut, the pause for everybody after each refusal.
const PROBE: Duration = Duration::from_secs(2);
/// Good replies after which growth goes on, for each other 5xx before them.
const AFTER_A_FAULT: f64 = 2.0;

/// How a request came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A completion that used so many tokens.
    Done { tokens: u64 },
    /// 429 or 503. Nobody starts until `pause` is over, and with many of these fewer may.
    Throttled { pause: Duration },
    /// Another 5xx, or the transport broke.
    Faulty,
    /// Refused for good: says nothing of what the endpoint bears.
    Refused,
    /// Abandoned in flight.
    Unknown,
}

/// Whether a request may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It has started, at the moment `began`.
    Go { began: Duration },
    /// Not before this moment.
    Until(Duration),
    /// Not before another one ends.
    Full,
}

/// What the limits are doing now, and what they did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Requests in flight that are allowed.
    pub limit: u64,
    pub in_flight: u64,
    pub waiting: u64,
    /// Of a pause that a `Retry-After` brought: what is left of it, milliseconds.
    pub paused_ms: u64,
    pub started: u64,
    pub throttled: u64,
    pub faulty: u64,
    /// Times the limit was cut.
    pub cuts: u64,
}

#[derive(Debug)]
pub struct Core {
    limits: Limits,
    requests: Bucket,
    tokens: Bucket,
    /// At least 1.
    limit: f64,
    in_flight: u32,
    paused_until: Duration,
    /// The last cut. What began before it tells nothing of the limit after it.
    cut_at: Option<Duration>,
    /// Below it the limit is doubled from round to round: what the last cut left that came after a good reply. Cuts with none
    /// between them tell of an outage, not of what the endpoint bears (TCP's slow start threshold, RFC 5681).
    sound: f64,
    /// Whether a reply was good since the last cut.
    good: bool,
    /// Share of 429 and 503 among the last replies.
    refused: f64,
    /// Good replies to come before growth goes on.
    awaited: f64,
    /// What good replies took lately, seconds.
    takes: f64,
    /// When the limit was last reached.
    pressed: Option<Duration>,
    counts: Snapshot,
}

impl Core {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Core {
            requests: Bucket::new(limits.requests_per_minute),
            tokens: Bucket::new(limits.tokens_per_minute),
            limit: f64::from(limits.in_flight_start.min(limits.in_flight_max).max(1)),
            limits,
            in_flight: 0,
            paused_until: Duration::ZERO,
            cut_at: None,
            sound: f64::INFINITY,
            good: true,
            refused: 0.0,
            awaited: 0.0,
            takes: 0.0,
            pressed: None,
            counts: Snapshot::default(),
        }
    }

    /// What a reply told. Whether another rate holds from now on.
    pub fn hear(&mut self, told: Told) -> bool {
        let mut changed = false;
        let Limits { requests_per_minute, tokens_per_minute, learn, .. } = self.limits;
        for (bucket, set, told) in
            [(&mut self.requests, requests_per_minute, told.requests), (&mut self.tokens, tokens_per_minute, told.tokens)]
        {
            if let Some(told) = told.filter(|told| learn && set == 0 && bucket.per_minute() != *told) {
                bucket.earns(told);
                changed = true;
            }
        }
        changed
    }

    /// Requests and tokens a minute that hold now; 0: none.
    #[must_use]
    pub fn rates(&self) -> (u64, u64) {
        (self.requests.per_minute(), self.tokens.per_minute())
    }

    pub fn try_start(&mut self, estimate: u64, now: Duration) -> Start {
        if self.in_flight >= self.limit as u32 {
            return Start::Full;
        }
        let ready = self.paused_until.max(self.requests.ready(1)).max(self.tokens.ready(estimate));
        if ready > now {
            return Start::Until(ready);
        }
        self.requests.take(1, now);
        self.tokens.take(estimate, now);
        self.in_flight += 1;
        if self.in_flight >= self.limit as u32 {
            self.pressed = Some(now);
        }
        self.counts.started += 1;
        Start::Go { began: now }
    }

    /// Of a request that started at `began` with `estimate`. The tokens that it is charged with.
    pub fn finish(&mut self, began: Duration, estimate: u64, end: End, now: Duration) -> u64 {
        let tells = Some(began) > self.cut_at;
        let used = match end {
            End::Done { tokens } => {
                let took = now.saturating_sub(began).as_secs_f64();
                self.takes += (took - self.takes) / LAST;
                if tells {
                    self.praise(began);
                }
                tokens
            }
            End::Throttled { pause } => {
                self.counts.throttled += 1;
                if tells {
                    self.complain(now);
                }
                let probing = if self.limit < 2.0 && !self.good { PROBE } else { Duration::ZERO };
                let pause = if pause > BRIEF { pause } else { probing };
                self.paused_until = self.paused_until.max(now + pause.min(seconds(self.limits.pause_cap_s)));
                0
            }
            End::Faulty => {
                self.counts.faulty += 1;
                self.awaited = (self.awaited + AFTER_A_FAULT).min(self.limit);
                estimate
            }
            End::Refused => 0,
            End::Unknown => estimate,
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        self.tokens.correct(estimate, used);
        used
    }

    /// How long one more with this estimate would wait behind `ahead` like it, which all take as long as those before.
    #[must_use]
    pub fn wait(&self, ahead: usize, estimate: u64, now: Duration) -> Duration {
        let line = ahead as u64 + 1;
        let earned = self.paused_until.max(self.requests.earned(line)).max(self.tokens.earned(estimate.saturating_mul(line)));
        let over = (f64::from(self.in_flight) + line as f64 - self.limit.floor()).max(0.0);
        earned.saturating_sub(now).max(seconds(self.takes * over / self.limit))
    }

    fn praise(&mut self, began: Duration) {
        self.refused -= self.refused / self.limit.max(LAST);
        self.good = true;
        if self.awaited >= 1.0 {
            self.awaited -= 1.0;
        } else if self.pressed >= Some(began) {
            // A limit that nothing presses against has not been tried out.
            self.change(if self.limit < self.sound { 1.0 } else { GROWTH.max(1.0 / self.limit) });
        }
    }

    fn complain(&mut self, now: Duration) {
        self.refused += (1.0 - self.refused) / self.limit.max(LAST);
        let cool = self.cut_at.is_none_or(|at| now >= at + seconds(self.limits.cool_down_s));
        if cool && self.refused >= TOO_MANY {
            self.change(self.limit * CUT - self.limit);
            if self.good {
                self.sound = self.limit;
                self.good = false;
            }
            self.refused = 0.0;
            self.counts.cuts += 1;
            self.cut_at = Some(now);
        }
    }

    fn change(&mut self, by: f64) {
        self.limit = (self.limit + by).clamp(1.0, f64::from(self.limits.in_flight_max.max(1)));
    }

    #[must_use]
    pub fn snapshot(&self, waiting: usize, now: Duration) -> Snapshot {
        Snapshot {
            limit: self.limit as u64,
            in_flight: u64::from(self.in_flight),
            waiting: waiting as u64,
            paused_ms: self.paused_until.saturating_sub(now).as_millis() as u64,
            ..self.counts
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NEVER: Duration = Duration::MAX;

    fn go(core: &mut Core, now: Duration) -> Duration {
        match core.try_start(0, now) {
            Start::Go { began } => began,
            other => panic!("{other:?}"),
        }
    }

    fn limit(core: &Core) -> u64 {
        core.snapshot(0, Duration::ZERO).limit
    }

    #[test]
    fn doubles_a_round_until_the_first_cut_and_climbs_after() {
        let mut core = Core::new(Limits { in_flight_start: 4, in_flight_max: 64, ..Limits::default() });
        let mut now = Duration::ZERO;
        let round = |core: &mut Core, now: Duration, end: End| {
            let began: Vec<_> = (0..limit(core)).map(|_| go(core, now)).collect();
            assert_eq!(core.try_start(0, now), Start::Full);
            began.into_iter().for_each(|began| _ = core.finish(began, 0, end, now));
            limit(core)
        };
        let done = End::Done { tokens: 0 };
        assert_eq!([round(&mut core, now, done), round(&mut core, now, done)], [8, 16]);
        for _ in 0..9 {
            round(&mut core, now, done);
        }
        assert_eq!(limit(&core), 64);
        let throttled = End::Throttled { pause: Duration::ZERO };
        assert_eq!(round(&mut core, now, throttled), 44, "one cut for a whole round");
        now += Duration::from_secs(1);
        assert_eq!(round(&mut core, now, throttled), 44, "and none within the cool-down");
        assert_eq!(round(&mut core, now, done), 47);
        assert_eq!(round(&mut core, now, End::Faulty), 47);
        assert_eq!(round(&mut core, now, done), 47, "a 5xx pauses growth");
        assert_eq!(round(&mut core, now, done), 50);
        for _ in 0..100 {
            now += Duration::from_secs(6);
            round(&mut core, now, throttled);
        }
        assert_eq!(limit(&core), 1);
    }

    /// An endpoint that refuses everything for a while: it is asked now and then, and once it is back, doubling leads to where
    /// the limit was before.
    #[test]
    fn an_outage_is_probed_and_forgotten() {
        let mut core = Core::new(Limits { in_flight_start: 64, in_flight_max: 64, ..Limits::default() });
        let (mut now, mut refused) = (Duration::ZERO, 0);
        while now < Duration::from_secs(600) {
            now += Duration::from_millis(50);
            let mut started = 0;
            while core.try_start(0, now) == (Start::Go { began: now }) {
                started += 1;
            }
            (0..started).for_each(|_| _ = core.finish(now, 0, End::Throttled { pause: Duration::ZERO }, now));
            refused += if now > Duration::from_secs(120) { started } else { 0 };
        }
        assert_eq!(limit(&core), 1);
        assert!((200..=250).contains(&refused), "one every two seconds once it is down: {refused}");
        now += PROBE;
        let mut rounds = 0;
        while limit(&core) < 44 {
            let began: Vec<_> = (0..limit(&core)).map(|_| go(&mut core, now)).collect();
            now += Duration::from_secs(6);
            began.into_iter().for_each(|began| _ = core.finish(began, 0, End::Done { tokens: 0 }, now));
            rounds += 1;
        }
        assert!(rounds <= 6, "{rounds} rounds");
    }

    #[test]
    fn a_brief_retry_after_holds_nobody_else_back() {
        let mut core = Core::new(Limits::default());
        let began = go(&mut core, Duration::ZERO);
        core.finish(began, 0, End::Throttled { pause: BRIEF }, Duration::ZERO);
        go(&mut core, Duration::ZERO);
    }

    /// Replies come a second after their requests; of those in flight over `bears`, and of the others each `one_in`-th,
    /// is refused. Where the limit is after ten minutes, on average.
    fn settled(bears: u64, one_in: u64) -> f64 {
        let mut core = Core::new(Limits::default());
        let (mut seen, mut sum) = (0, 0.0);
        for second in 0..600 {
            let now = Duration::from_secs(second);
            let began: Vec<_> = (0..limit(&core)).map(|_| go(&mut core, now)).collect();
            for (n, began) in (0..).zip(began) {
                seen += 1;
                let refused = n >= bears || seen % one_in == 0;
                let end = if refused { End::Throttled { pause: Duration::ZERO } } else { End::Done { tokens: 0 } };
                core.finish(began, 0, end, now + Duration::from_secs(1));
            }
            sum += if second < 300 { 0.0 } else { core.limit / 300.0 };
        }
        sum
    }

    #[test]
    fn settles_near_what_the_endpoint_bears() {
        for bears in [1, 4, 20, 100, 200] {
            let limit = settled(bears, u64::MAX);
            let bears = bears as f64;
            assert!(limit > bears * 0.6 && limit < bears * 1.5 + 3.0, "{limit} in flight where {bears} go");
        }
        let free = settled(u64::MAX, u64::MAX);
        assert!(free > 250.0, "{free}");
        let whimsical = settled(u64::MAX, 10);
        assert!(whimsical > 200.0, "one refusal in ten at any load must not stop a run: {whimsical}");
    }

    #[test]
    fn a_retry_after_pauses_everybody_within_its_cap() {
        let mut core = Core::new(Limits { pause_cap_s: 60.0, ..Limits::default() });
        let began = go(&mut core, Duration::ZERO);
        core.finish(began, 0, End::Throttled { pause: Duration::from_secs(7) }, Duration::ZERO);
        assert_eq!(core.try_start(0, Duration::from_secs(1)), Start::Until(Duration::from_secs(7)));
        let began = go(&mut core, Duration::from_secs(7));
        core.finish(began, 0, End::Throttled { pause: Duration::from_secs(9999) }, Duration::from_secs(7));
        assert_eq!(core.try_start(0, Duration::from_secs(8)), Start::Until(Duration::from_secs(67)));
        assert_eq!(core.snapshot(0, Duration::from_secs(66)).paused_ms, 1000);
    }

    #[test]
    fn a_limit_that_nothing_presses_against_stays() {
        let mut core = Core::new(Limits { in_flight_start: 10, ..Limits::default() });
        for _ in 0..100 {
            let began = go(&mut core, Duration::ZERO);
            core.finish(began, 0, End::Done { tokens: 0 }, Duration::ZERO);
        }
        assert_eq!(limit(&core), 10);
    }

    #[test]
    fn a_told_rate_is_kept_where_none_is_set() {
        let told = |per_minute| Told { requests: Some(per_minute), tokens: None };
        let s = Duration::from_secs;
        let mut core = Core::new(Limits::default());
        (0..9).for_each(|_| _ = go(&mut core, s(1)));
        assert!(core.hear(told(60)) && !core.hear(told(60)));
        assert_eq!(core.rates(), (60, 0));
        go(&mut core, s(2));
        assert_eq!(core.try_start(0, s(2)), Start::Until(s(3)), "one a second from now on");
        assert!(core.hear(told(6000)));
        assert_eq!(core.rates(), (6000, 0));

        let mut set = Core::new(Limits { requests_per_minute: 30, ..Limits::default() });
        assert!(!set.hear(told(6000)));
        assert_eq!(set.rates(), (30, 0));
        let mut deaf = Core::new(Limits { learn: false, ..Limits::default() });
        assert!(!deaf.hear(told(1)));
        (0..2).for_each(|_| _ = go(&mut deaf, s(1)));
    }

    #[derive(Debug, Clone)]
    struct Work {
        at: u64,
        estimate: u64,
        used: u64,
        takes: u64,
        end: u8,
    }

    fn work() -> impl Strategy<Value = Work> {
        (0..60_000_u64, 0..5_000_u64, 0..8_000_u64, 1..30_000_u64, 0..10_u8).prop_map(|(at, estimate, used, takes, end)| Work {
            at,
            estimate,
            used,
            takes,
            end,
        })
    }

    proptest! {
        /// Simulated time, milliseconds. Work comes to the line, starts when the core lets it, ends after its own time.
        #[test]
        fn limits_hold_and_nothing_starves(
            mut works in prop::collection::vec(work(), 1..120),
            requests_per_minute in prop_oneof![Just(0_u64), 20..600_u64],
            tokens_per_minute in prop_oneof![Just(0_u64), 10_000..200_000_u64],
            in_flight_start in 0..20_u32,
            in_flight_max in 1..20_u32,
        ) {
            works.sort_by_key(|w| w.at);
            let limits = Limits { requests_per_minute, tokens_per_minute, in_flight_start, in_flight_max, ..Limits::default() };
            let mut core = Core::new(limits);
            let ms = Duration::from_millis;
            let mut now = Duration::ZERO;
            let mut next = 0;
            let mut running: BTreeMap<(Duration, usize), Duration> = BTreeMap::new();
            let mut starts: Vec<(Duration, u64)> = Vec::new();
            let mut coming = works.iter().map(|w| ms(w.at)).collect::<Vec<_>>().into_iter().peekable();
            while next < works.len() || !running.is_empty() {
                // All that can start now, in order.
                let mut wake = NEVER;
                while next < works.len() && ms(works[next].at) <= now {
                    match core.try_start(works[next].estimate, now) {
                        Start::Go { began } => {
                            prop_assert_eq!(began, now);
                            running.insert((now + ms(works[next].takes), next), began);
                            starts.push((now, works[next].estimate));
                            next += 1;
                        }
                        Start::Until(at) => {
                            prop_assert!(at > now, "a wait that ends at once would spin");
                            wake = at;
                            break;
                        }
                        Start::Full => {
                            prop_assert!(!running.is_empty(), "full with nothing in flight starves");
                            break;
                        }
                    }
                    let snapshot = core.snapshot(0, now);
                    prop_assert_eq!(snapshot.in_flight as usize, running.len());
                    prop_assert!(snapshot.in_flight <= snapshot.limit.max(1) && snapshot.limit <= u64::from(in_flight_max));
                }
                // On to whatever happens first.
                while coming.next_if(|at| *at <= now).is_some() {}
                let ends = running.keys().next().map_or(NEVER, |(at, _)| *at);
                let moment = wake.min(ends).min(coming.peek().copied().unwrap_or(NEVER));
                prop_assert!(moment < NEVER, "nothing will ever happen again");
                now = now.max(moment);
                while let Some(entry) = running.first_entry().filter(|e| e.key().0 <= now) {
                    let ((_, which), began) = entry.remove_entry();
                    let w = &works[which];
                    let end = match w.end {
                        0 => End::Throttled { pause: ms(w.used) },
                        1 => End::Faulty,
                        2 => End::Refused,
                        3 => End::Unknown,
                        _ => End::Done { tokens: w.used },
                    };
                    core.finish(began, w.estimate, end, now);
                }
            }
            prop_assert_eq!(core.snapshot(0, now).in_flight, 0);
            prop_assert_eq!(starts.len(), works.len());
            if requests_per_minute > 0 {
                // In any minute: its allowance, a burst, and the one that spans its beginning.
                for (at, _) in &starts {
                    let within = starts.iter().filter(|(s, _)| s >= at && *s < *at + ms(60_000)).count() as u64;
                    prop_assert!(within <= requests_per_minute + requests_per_minute.div_ceil(60) + 1, "{within} in a minute");
                }
            }
        }
    }
}
