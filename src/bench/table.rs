//! The bounds that sweroll keeps on two processors, what was measured beside them, and the figures that have no bound, as Markdown. Pure.

use super::{
    episodes,
    files::{self, Part},
    images, limits, schedule, store, tokens,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// What is to hold of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}
use Bound::{AtLeast, AtMost};

/// A bound and its figure; none where it was not measured, and then `why`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub what: String,
    pub bound: Bound,
    pub figure: Option<f64>,
    pub unit: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub why: &'static str,
}

impl Row {
    fn new(what: impl Into<String>, bound: Bound, figure: f64, unit: &'static str) -> Self {
        Row { what: what.into(), bound, figure: Some(figure), unit, why: "" }
    }

    /// None where it was not measured.
    #[must_use]
    pub fn is_met(&self) -> Option<bool> {
        let figure = self.figure?;
        Some(match self.bound {
            AtMost(bound) => figure <= bound,
            AtLeast(bound) => figure >= bound,
        })
    }
}

/// Bounds of live episodes: how many in one process, processor time besides TLS, memory besides the transcript, stalls.
const LIVE: f64 = 10_000.0;
const CPU_US: f64 = 300.0;
const KIB: f64 = 48.0;
const STALL_MS: f64 = 20.0;
/// What flat means: memory late in a run by that after its first thousand episodes.
const FLAT: f64 = 1.1;
/// Part, seconds, MiB where memory is bounded (200 MB).
const FILES: [(Part, f64, Option<f64>); 3] = [(Part::Startup, 2.0, Some(190.7)), (Part::Resume, 3.0, None), (Part::Summary, 2.0, None)];
/// Times the speed of Hugging Face's `tokenizers`.
const TOKENS: f64 = 3.0;
/// Seconds that the simulation of a day may take.
const DAY_S: f64 = 10.0;

#[must_use]
pub fn of_episodes(report: &episodes::Report) -> Vec<Row> {
    let (live, f) = (report.plan.concurrency, &report.figures);
    let row = |what: &str, bound, figure, unit| Row::new(format!("{} live: {what}", grouped(live as u64)), bound, figure, unit);
    let many = (live as f64 >= LIVE).then(|| row("episodes at once in one process", AtLeast(LIVE), f.live_max as f64, ""));
    let all = [
        row("processor time a turn", AtMost(CPU_US), f.cpu_us_per_turn, "µs"),
        row("memory an episode, above its transcript", AtMost(KIB), f.rss_kib_per_episode, "KiB"),
        row("longest stall", AtMost(STALL_MS), f.stall_ms_max, "ms"),
        row("episodes that failed", AtMost(0.0), f.failed as f64, ""),
    ];
    many.into_iter().chain(all).collect()
}

#[must_use]
pub fn of_long(report: &episodes::Report) -> Row {
    let (episodes, f) = (report.plan.episodes, &report.figures);
    let what = format!("{} episodes: memory after nine tenths, by that after 1,000", grouped(episodes));
    Row::new(what, AtMost(FLAT), if f.warm_mib > 0.0 { f.late_mib / f.warm_mib } else { f64::INFINITY }, "x")
}

#[must_use]
pub fn of_files(report: &files::Report) -> Vec<Row> {
    let bounds = FILES.iter().filter_map(|bound| Some((bound, report.steps.iter().find(|step| step.part == bound.0)?)));
    let rows = bounds.flat_map(|((part, seconds, mib), step)| {
        let what = match part {
            Part::Startup => format!("startup on {} rows", grouped(report.rows)),
            Part::Resume => format!("resume of {} facts", grouped(report.facts)),
            Part::Summary => format!("summary of {} facts", grouped(report.facts)),
        };
        let time = Row::new(what.clone(), AtMost(*seconds), step.wall_s, "s");
        let memory = mib.map(|mib| Row::new(format!("{what}: memory"), AtMost(mib), step.peak_mib, "MiB"));
        std::iter::once(time).chain(memory)
    });
    rows.collect()
}

#[must_use]
pub fn of_tokens(report: &tokens::Report) -> Vec<Row> {
    let name = |version: &str| format!("`tokens` by Hugging Face `tokenizers` {version}, {} threads", report.threads);
    match &report.peer {
        None => vec![Row { what: name(""), bound: AtLeast(TOKENS), figure: None, unit: "x", why: "give --python and --tokenizer" }],
        Some(peer) => vec![
            Row::new(name(&peer.version), AtLeast(TOKENS), peer.slower, "x"),
            Row::new("token ids that are theirs", AtLeast(100.0), if peer.ids_identical { 100.0 } else { 0.0 }, "%"),
        ],
    }
}

/// The worst of the cases that promise something.
#[must_use]
pub fn of_limits(report: &limits::Report) -> Vec<Row> {
    let promised = || report.rows.iter().filter(|row| row.holds.is_some());
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let kept = least(&mut promised().filter_map(|row| row.kept));
    // In a brown-out the server refuses, whatever is sent.
    let refused = most(&mut promised().filter(|row| row.recovered_s.is_none()).map(|row| row.refused));
    let recovered = most(&mut promised().filter_map(|row| Some(row.recovered_s? as f64)));
    let fairness = least(&mut promised().filter_map(|row| row.fairness));
    vec![
        Row::new("rate limits, simulated: reached at least", AtLeast(100.0 * limits::KEPT), 100.0 * kept, "%"),
        Row::new("rate limits, simulated: refused at most", AtMost(100.0 * limits::REFUSED), 100.0 * refused, "%"),
        Row::new("brown-outs, simulated: full speed after", AtMost(limits::RECOVERED_S as f64), recovered, "s"),
        Row::new("two processes, simulated: Jain's index", AtLeast(limits::FAIRNESS), fairness, ""),
    ]
}

#[must_use]
pub fn of_images(report: &images::Comparison) -> Vec<Row> {
    let Some(planned) = report.ways.first() else { return Vec::new() };
    let o = &report.options;
    let run = format!("{} images x {} samples, simulated", grouped(o.images.into()), o.samples);
    vec![
        Row::new(format!("{run}: pulled more than once"), AtMost(0.0), planned.pulled_again as f64, ""),
        Row::new(format!("{run}: disk at most"), AtMost(report.mark_gb), planned.disk_gb_max, "GB"),
    ]
}

#[must_use]
pub fn of_schedule(report: &schedule::Report, seconds: f64) -> Vec<Row> {
    let (day, episodes) = (format!("a day of {} episodes, simulated", grouped(report.episodes.into())), f64::from(report.episodes));
    vec![
        Row::new(format!("{day}: decided exactly once"), AtLeast(episodes), report.decided as f64, ""),
        Row::new(day, AtMost(DAY_S), seconds, "s"),
    ]
}

/// As Markdown.
#[must_use]
pub fn bounds(rows: &[Row]) -> String {
    let mut out = String::from("| | bound | measured | |\n| --- | ---: | ---: | --- |\n");
    for row in rows {
        let (sign, bound) = match row.bound {
            AtMost(bound) => ("≤", bound),
            AtLeast(bound) => ("≥", bound),
        };
        let unit = if row.unit.is_empty() { String::new() } else { format!(" {}", row.unit) };
        let figure = row.figure.map_or_else(|| row.why.to_owned(), |figure| format!("{}{unit}", number(figure)));
        let met = row.is_met().map_or("not measured", |met| if met { "met" } else { "**missed**" });
        out.push_str(&format!("| {} | {sign} {}{unit} | {figure} | {met} |\n", row.what, number(bound)));
    }
    out
}

/// `25,000`.
fn grouped(number: u64) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", grouped(number / 1000), number % 1000) }
}

/// Three digits, or all before the point.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => grouped(value.max(0.0).round() as u64),
        v if v >= 10.0 => format!("{value:.1}"),
        // Enough to be told from a bound.
        _ => format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

type Line = (&'static str, fn(&episodes::Report) -> String);

/// A column a measurement.
#[must_use]
pub fn live(reports: &[episodes::Report]) -> String {
    const LINES: [Line; 19] = [
        ("turns an episode", |r| r.plan.turns.to_string()),
        ("latency, median s", |r| number(r.plan.latency_s)),
        ("turns a second", |r| number(r.figures.turns_per_s)),
        ("processor time a turn, µs", |r| number(r.figures.cpu_us_per_turn)),
        ("the bench's own probe besides, at most", |r| number(r.figures.probe_us_per_turn)),
        ("of both in the kernel", |r| number(r.figures.system_us_per_turn)),
        ("memory an episode above its transcript, KiB", |r| number(r.figures.rss_kib_per_episode)),
        ("its transcript then, KiB", |r| number(r.figures.transcript_kib_per_episode)),
        ("memory at most, MiB", |r| number(r.figures.peak_mib)),
        ("stall p99, max, ms", |r| format!("{}, {}", number(r.figures.stall_ms_p99), number(r.figures.stall_ms_max))),
        ("the longest began after, s", |r| number(r.figures.stall_max_at_s)),
        ("of it the loop was at work, ms", |r| r.figures.stall_max_at_work_ms.map_or("unknown".into(), number)),
        ("the host took around it, ms", |r| number(r.figures.stall_max_stolen_ms)),
        ("open files at most", |r| r.figures.open_files.to_string()),
        ("reply to next request p50, p99, µs", |r| format!("{}, {}", r.figures.next_request_us_p50, r.figures.next_request_us_p99)),
        ("agent's end to durable p50, p99, ms", |r| {
            format!("{}, {}", number(r.figures.commit_us_p50 as f64 / 1e3), number(r.figures.commit_us_p99 as f64 / 1e3))
        }),
        ("shards, MB", |r| number(r.figures.shard_bytes as f64 / 1e6)),
        ("wall s", |r| number(r.figures.wall_s)),
        ("the endpoint's processor time a turn, µs", |r| number(r.figures.endpoint_cpu_s * 1e6 / r.figures.turns.max(1) as f64)),
    ];
    let mut lines: Vec<(String, Vec<String>)> =
        LINES.iter().map(|(name, of)| ((*name).to_owned(), reports.iter().map(of).collect())).collect();
    let mut names: BTreeMap<&str, f64> = BTreeMap::new();
    let a_turn = |report: &episodes::Report, name: &str| {
        let share = report.threads.iter().find(|share| share.name == name);
        share.map_or(0.0, |share| share.cpu_s * 1e6 / report.figures.turns.max(1) as f64)
    };
    for (report, share) in reports.iter().flat_map(|report| report.threads.iter().map(move |share| (report, share))) {
        *names.entry(&share.name).or_default() += a_turn(report, &share.name);
    }
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_by(|a, b| b.1.total_cmp(&a.1));
    let threads = names.iter().map(|(name, _)| (format!("µs a turn, {name}"), reports.iter().map(|r| number(a_turn(r, name))).collect()));
    lines.extend(threads);
    let head = reports.iter().map(|r| format!("{} live", grouped(r.plan.concurrency as u64))).collect::<Vec<_>>();
    grid("", &head, &lines)
}

/// Of whole processes.
#[must_use]
pub fn files(report: &files::Report) -> String {
    let head: Vec<_> = report.steps.iter().map(|step| step.part.name().to_owned()).collect();
    let line = |name: &str, of: &dyn Fn(&files::Step) -> String| (name.to_owned(), report.steps.iter().map(of).collect());
    let lines = [
        line("wall s", &|step| number(step.wall_s)),
        line("processor s", &|step| number(step.cpu_s)),
        line("memory at most, MiB", &|step| number(step.peak_mib)),
    ];
    grid("whole processes", &head, &lines)
}

/// Of the store alone.
#[must_use]
pub fn store(report: &store::Report) -> String {
    let groups = &report.groups;
    let head: Vec<_> = groups.iter().map(|g| format!("{} at once", grouped(g.committers as u64))).collect();
    let line = |name: &str, of: &dyn Fn(&store::Group) -> String| (name.to_owned(), groups.iter().map(of).collect());
    let lines = [
        line("commits", &|g| g.commits.to_string()),
        line("wall µs a commit", &|g| number(g.wall_us)),
        line("processor µs a commit", &|g| number(g.cpu_us)),
        line("answered after p50, p99, ms", &|g| {
            format!("{}, {}", number(g.answer_us_p50 as f64 / 1e3), number(g.answer_us_p99 as f64 / 1e3))
        }),
        line("syncs a thousand commits", &|g| number(1000.0 * g.syncs as f64 / g.commits.max(1) as f64)),
    ];
    let s = &report.shards;
    format!(
        "{}\nShards, {} records of {:.0} KB at {} committers: {} MB/s of records, {} MB/s compressed ({:.1} times smaller), {} MB of records a second of processor time.\n",
        grid("journal commit", &head, &lines),
        s.records,
        s.raw_bytes as f64 / 1e3 / s.records.max(1) as f64,
        store::WRITERS,
        number(s.raw_mb_per_s),
        number(s.mb_per_s),
        s.raw_bytes as f64 / s.bytes.max(1) as f64,
        number(s.raw_bytes as f64 / 1e6 / s.cpu_s.max(1e-9)),
    )
}

fn grid(corner: &str, head: &[String], lines: &[(String, Vec<String>)]) -> String {
    let mut out = format!("| {corner} | {} |\n| --- |{}\n", head.join(" | "), " ---: |".repeat(head.len()));
    for (name, cells) in lines {
        out.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    }
    out
}

/// Between these a document's tables are made anew.
pub const BEGIN: &str = "<!-- begin of sweroll bench all -->";
pub const END: &str = "<!-- end of sweroll bench all -->";

/// The document with `table` in the place of what stood between the marks; none where it has no such marks.
#[must_use]
pub fn put(document: &str, table: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_last_one() {
        let document = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(put(&document, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(put("a", "new"), None);
    }

    #[test]
    fn a_bound_is_met_up_to_itself_and_an_open_one_says_why() {
        let open = Row { what: "y".into(), bound: AtLeast(3.0), figure: None, unit: "x", why: "no peer" };
        let row = |bound, figure| Row::new("x", bound, figure, "ms");
        let rows = [row(AtMost(20.0), 20.0), row(AtMost(20.0), 20.01), row(AtLeast(3.0), 3.0), row(AtLeast(0.99), 0.989), open];
        assert_eq!(rows.each_ref().map(Row::is_met), [Some(true), Some(false), Some(true), Some(false), None]);
        let table = bounds(&rows);
        for line in [
            "| x | ≤ 20 ms | 20 ms | met |",
            "| x | ≤ 20 ms | 20.0 ms | **missed** |",
            "| x | ≥ 3 ms | 3 ms | met |",
            "| x | ≥ 0.99 ms | 0.989 ms | **missed** |",
            "| y | ≥ 3 x | no peer | not measured |",
        ] {
            assert!(table.contains(line), "{table}");
        }
    }
}
