//! The bounds that sweroll keeps on two processors, and a table of what was measured beside them. Pure.

use super::{
    episodes,
    files::{self, Part},
};

/// What a figure must not be over.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub what: String,
    pub bound: f64,
    pub figure: f64,
    pub unit: &'static str,
}

impl Row {
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.figure <= self.bound
    }
}

/// Bounds of live episodes: processor time besides TLS, memory besides the transcript, stalls.
const CPU_US: f64 = 300.0;
const KIB: f64 = 48.0;
const STALL_MS: f64 = 20.0;
/// Part, seconds, MiB where memory is bounded (200 MB).
const FILES: [(Part, f64, Option<f64>); 3] = [(Part::Startup, 2.0, Some(190.7)), (Part::Resume, 3.0, None), (Part::Summary, 2.0, None)];

#[must_use]
pub fn of_episodes(report: &episodes::Report) -> Vec<Row> {
    let (live, f) = (report.plan.concurrency, &report.figures);
    let row = |what: &str, bound, figure, unit| Row { what: format!("{live} live: {what}"), bound, figure, unit };
    vec![
        row("processor time a turn", CPU_US, f.cpu_us_per_turn, "µs"),
        row("memory an episode, above its transcript", KIB, f.rss_kib_per_episode, "KiB"),
        row("longest stall", STALL_MS, f.stall_ms_max, "ms"),
    ]
}

#[must_use]
pub fn of_files(report: &files::Report) -> Vec<Row> {
    let bounds = FILES.iter().filter_map(|bound| Some((bound, report.steps.iter().find(|step| step.part == bound.0)?)));
    let rows = bounds.flat_map(|((part, seconds, mib), step)| {
        let what = match part {
            Part::Startup => format!("startup on {} rows", report.rows),
            Part::Resume => format!("resume of {} facts", report.facts),
            Part::Summary => format!("summary of {} facts", report.facts),
        };
        let time = Row { what: what.clone(), bound: *seconds, figure: step.wall_s, unit: "s" };
        let memory = mib.map(|mib| Row { what: format!("{what}: memory"), bound: mib, figure: step.peak_mib, unit: "MiB" });
        std::iter::once(time).chain(memory)
    });
    rows.collect()
}

/// As Markdown.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut out = String::from("| | bound | measured | |\n| --- | ---: | ---: | --- |\n");
    for row in rows {
        let met = if row.is_met() { "met" } else { "**missed**" };
        out.push_str(&format!("| {} | {:.0} {} | {:.2} {} | {met} |\n", row.what, row.bound, row.unit, row.figure, row.unit));
    }
    out
}

/// Between these a document's table is made anew.
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
        let row = |bound, figure| Row { what: "x".into(), bound, figure, unit: "ms" };
        let table = markdown(&[row(20.0, 20.0), row(20.0, 20.01)]);
        assert!(table.contains("| x | 20 ms | 20.00 ms | met |\n| x | 20 ms | 20.01 ms | **missed** |\n"), "{table}");
        let document = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(put(&document, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(put("a", "new"), None);
    }
}
