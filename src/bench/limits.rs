//! Does a run keep a rate-limited endpoint full without being thrown out? The cases, and what is promised of each. Pure.

pub mod simulation;

use super::plot::{Plot, Series};
use crate::endpoint::{
    limiter::Limits,
    pool,
    server::{
        brownout::{Brownout, Trouble},
        queue::Service,
        rate::{self, Hint, Window},
    },
};
use serde::Serialize;
use simulation::{Choice, Outcome, Process, Setup, Work, simulate};
use std::time::Duration;

/// Of the JSON form.
pub const SCHEMA_VERSION: u32 = 1;
/// Share of the limit that a run reaches at least.
pub const KEPT: f64 = 0.95;
/// Share of requests that are refused at most.
pub const REFUSED: f64 = 0.01;
/// Seconds after a brown-out within which full speed is back.
pub const RECOVERED_S: u64 = 60;
/// Jain's index of two processes with the same work: 1 where both get the same, 0.5 where one gets all.
pub const FAIRNESS: f64 = 0.99;
const HOUR: Duration = Duration::from_secs(3600);
/// Of the case that is drawn: when its brown-out begins and how long it lasts, seconds.
const BROWNOUT: (u64, u64) = (1200, 600);

/// One case and how it went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub case: String,
    /// Requests served a minute.
    pub per_minute: f64,
    /// Share of what the limit allows.
    pub kept: Option<f64>,
    /// Share of requests that were answered by 429 or 5xx.
    pub refused: f64,
    /// Replies that were given up after all tries.
    pub lost: u64,
    /// From the end of the brown-out to the begin of the first minute at full speed.
    pub recovered_s: Option<u64>,
    /// Jain's index over the processes.
    pub fairness: Option<f64>,
    /// Share of prompt tokens that were cached.
    pub cached: Option<f64>,
    /// Whether what is promised of the case holds; none where it is for comparison.
    pub holds: Option<bool>,
}

/// The rows, and the brown-out over time.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub schema_version: u32,
    pub rows: Vec<Row>,
    #[serde(skip)]
    pub plot: Plot,
}

/// Every case. Takes some seconds.
#[must_use]
pub fn report(seed: u64) -> Report {
    let (brownouts, plot) = brownouts(seed);
    let rows = [limited(seed, &[60, 600, 6000]), brownouts, processes(seed), replicas(seed)].concat();
    Report { schema_version: SCHEMA_VERSION, rows, plot }
}

/// One process with more to do than the limit allows, on one server, for an hour.
fn setup(seed: u64, requests_per_minute: u64, tokens_per_minute: u64) -> Setup {
    let limits = Limits { requests_per_minute, tokens_per_minute, in_flight_max: 4096, ..Limits::default() };
    // Three times as many as are in flight at the limit.
    let episodes = (requests_per_minute as u32 / 60 * 8 * 3).clamp(32, 4096);
    Setup {
        seed,
        lasts: HOUR,
        processes: vec![Process { limits, episodes }],
        ledger: None,
        replicas: 1,
        choice: Choice::Affinity(pool::Settings::default()),
        door: rate::Limits { requests_per_minute, tokens_per_minute, ..rate::Limits::default() },
        service: Service::default(),
        brownouts: Vec::new(),
        work: Work::default(),
    }
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

fn row(case: impl Into<String>, setup: &Setup, outcome: &Outcome) -> Row {
    let total = outcome.total();
    Row {
        case: case.into(),
        per_minute: total.served as f64 / (setup.lasts.as_secs_f64() / 60.0),
        kept: None,
        refused: share(total.refused, total.served + total.refused),
        lost: total.lost,
        recovered_s: None,
        fairness: None,
        cached: None,
        holds: None,
    }
}

/// What of requests or tokens a minute is reached, whichever is nearer to its limit.
fn kept(setup: &Setup, outcome: &Outcome) -> f64 {
    let total = outcome.total();
    let minutes = setup.lasts.as_secs_f64() / 60.0;
    let tokens = total.prompt_tokens + total.served * setup.work.completion_tokens;
    let of = |used: u64, limit: u64| if limit == 0 { 0.0 } else { used as f64 / (limit as f64 * minutes) };
    of(total.served, setup.door.requests_per_minute).max(of(tokens, setup.door.tokens_per_minute))
}

/// Limits of several heights and forms.
#[must_use]
pub fn limited(seed: u64, heights: &[u64]) -> Vec<Row> {
    let mut cases = Vec::new();
    for &rpm in heights {
        for (name, burst) in [("one request", 1), ("a second", rpm / 60), ("ten seconds", rpm / 6), ("a minute", rpm)] {
            if burst > 1 || name == "one request" {
                let mut setup = setup(seed, rpm, 0);
                setup.door.burst = burst;
                cases.push((format!("{rpm} requests/min, burst of {name}"), setup));
            }
        }
    }
    let mut window = setup(seed, 600, 0);
    window.door.window = Window::Fixed;
    cases.push(("600 requests/min, fixed window".into(), window));
    let mut silent = setup(seed, 600, 0);
    silent.door.hint = Hint::None;
    cases.push(("600 requests/min, 429 without Retry-After".into(), silent));
    let mut unset = setup(seed, 600, 0);
    unset.processes[0].limits.requests_per_minute = 0;
    cases.push(("600 requests/min, told by the endpoint alone".into(), unset.clone()));
    unset.processes[0].limits.learn = false;
    cases.push(("600 requests/min, told and not listened to".into(), unset));
    for tpm in [600_000, 6_000_000] {
        let mut tokens = setup(seed, 0, tpm);
        tokens.processes[0].episodes = 600;
        cases.push((format!("{}k tokens/min", tpm / 1000), tokens));
    }
    let run = |(case, setup): (String, Setup)| {
        let outcome = simulate(&setup);
        let row = Row { kept: Some(kept(&setup, &outcome)), ..row(case, &setup, &outcome) };
        // Without any burst, whatever the network makes a moment early is refused: nobody can fill such a limit.
        let promised = setup.door.burst != 1 && setup.processes[0].limits.learn;
        Row { holds: promised.then_some(row.kept >= Some(KEPT) && row.refused < REFUSED), ..row }
    };
    cases.into_iter().map(run).collect()
}

/// Ten minutes of trouble in the second third of an hour.
#[must_use]
pub fn brownouts(seed: u64) -> (Vec<Row>, Plot) {
    const RPM: u64 = 600;
    let (at, lasts) = BROWNOUT;
    let cases = [
        ("refuses by 503", Trouble::Refuse(503)),
        ("refuses by 429", Trouble::Refuse(429)),
        ("fails by 500", Trouble::Refuse(500)),
        ("is ten times slower", Trouble::Slow(0.1)),
    ];
    let mut plot = Plot::default();
    let rows = cases.map(|(name, trouble)| {
        let mut setup = setup(seed, RPM, 0);
        setup.brownouts = vec![Brownout { at: Duration::from_secs(at), lasts: Duration::from_secs(lasts), trouble }];
        let outcome = simulate(&setup);
        let ends = (at + lasts) as usize;
        let full = |from: usize| outcome.served(from, 60) as f64 >= KEPT * RPM as f64;
        let recovered_s = (ends..outcome.seconds.len() - 60).find(|from| full(*from)).map(|from| (from - ends) as u64);
        if plot.series.is_empty() {
            plot = over_time(&format!("Ten minutes of 503, {RPM} requests/min allowed"), RPM, &outcome);
        }
        let lost = outcome.total().lost;
        let case = format!("{RPM} requests/min, the server {name} for ten minutes");
        Row { recovered_s, holds: Some(recovered_s.is_some_and(|s| s <= RECOVERED_S) && lost == 0), ..row(case, &setup, &outcome) }
    });
    (rows.to_vec(), plot)
}

/// Means of ten seconds.
fn over_time(title: &str, limit: u64, outcome: &Outcome) -> Plot {
    const BIN: usize = 10;
    let line = |name: &str, of: &dyn Fn(&simulation::Second) -> u64, times: f64| {
        let bins = outcome.seconds.chunks_exact(BIN).enumerate();
        let mean = |bin: &[simulation::Second]| bin.iter().map(of).sum::<u64>() as f64 * times / BIN as f64;
        Series::new(name, bins.map(|(at, bin)| ((at * BIN) as f64 / 60.0, mean(bin))).collect())
    };
    Plot {
        title: title.into(),
        x_label: "minutes".into(),
        y_label: "requests".into(),
        series: vec![
            line("served a minute", &|s| s.served, 60.0),
            line("refused a minute", &|s| s.refused, 60.0),
            line("in flight", &|s| s.in_flight, 1.0),
        ],
        marks: vec![("limit a minute".into(), limit as f64)],
    }
}

/// Jain's index: (sum x)^2 / (n * sum x^2).
fn fairness(outcome: &Outcome) -> f64 {
    let served = || outcome.tallies.iter().map(|t| t.served as f64);
    served().sum::<f64>().powi(2) / (outcome.tallies.len() as f64 * served().map(|x| x * x).sum::<f64>()).max(1.0)
}

/// Two processes on one key.
#[must_use]
pub fn processes(seed: u64) -> Vec<Row> {
    const RPM: u64 = 600;
    let both = |told: u64, ledger: bool, episodes: [u32; 2]| {
        let mut setup = setup(seed, RPM, 0);
        let limits = Limits { requests_per_minute: told, ..setup.processes[0].limits };
        setup.processes = episodes.map(|episodes| Process { limits, episodes }).to_vec();
        setup.ledger = ledger.then_some((RPM, 0));
        setup
    };
    let cases = [
        ("each told the whole limit", both(RPM, false, [240, 240]), false),
        ("each told half of it", both(RPM / 2, false, [240, 240]), true),
        ("each told half, one with little to do", both(RPM / 2, false, [240, 8]), false),
        ("one ledger", both(RPM, true, [240, 240]), true),
        ("one ledger, one with little to do", both(RPM, true, [240, 8]), true),
    ];
    let run = |(name, setup, promised): (&str, Setup, bool)| {
        let outcome = simulate(&setup);
        let row = row(format!("{RPM} requests/min, two processes: {name}"), &setup, &outcome);
        let alike = setup.processes[0].episodes == setup.processes[1].episodes;
        let row = Row { kept: Some(kept(&setup, &outcome)), fairness: alike.then(|| fairness(&outcome)), ..row };
        let holds = row.kept >= Some(KEPT) && row.refused < REFUSED && row.fairness.is_none_or(|f| f >= FAIRNESS);
        Row { holds: promised.then_some(holds), ..row }
    };
    cases.map(run).to_vec()
}

/// Three machines with a prefix cache each, behind which no limit of requests is reached.
#[must_use]
pub fn replicas(seed: u64) -> Vec<Row> {
    let run = |name: &str, choice| {
        let mut setup = setup(seed, 0, 0);
        (setup.replicas, setup.choice) = (3, choice);
        setup.processes[0].episodes = 300;
        setup.service = Service { slots: 64, prefill_tokens_per_s: 10_000.0, cache_tokens: 2_400_000, ..Service::default() };
        let outcome = simulate(&setup);
        let total = outcome.total();
        Row { cached: Some(share(total.cached_tokens, total.prompt_tokens)), ..row(format!("three replicas, {name}"), &setup, &outcome) }
    };
    let spill = |spill_after_s| Choice::Affinity(pool::Settings { spill_after_s, ..pool::Settings::default() });
    let random = run("at random", Choice::Random);
    let mut affinity = run("an episode keeps its own", Choice::Affinity(pool::Settings::default()));
    affinity.holds = Some(affinity.per_minute > random.per_minute && affinity.cached > random.cached);
    vec![random, affinity, run("its own unless it waits ten seconds", spill(10.0)), run("its own at any price", spill(1e9))]
}

impl Report {
    /// One line a case, for people; Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let or_empty = |text: Option<String>| text.unwrap_or_default();
        let mut out = String::from(
            "| case | served/min | of the limit | refused | lost | full speed after | fairness | cached | holds |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
        );
        for row in &self.rows {
            let cells = [
                row.case.clone(),
                format!("{:.1}", row.per_minute),
                or_empty(row.kept.map(percent)),
                format!("{:.2} %", row.refused * 100.0),
                row.lost.to_string(),
                or_empty(row.recovered_s.map(|s| format!("{s} s"))),
                or_empty(row.fairness.map(|f| format!("{f:.3}"))),
                or_empty(row.cached.map(percent)),
                or_empty(row.holds.map(|holds| if holds { "yes" } else { "NO" }.into())),
            ];
            out.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        out
    }
}
