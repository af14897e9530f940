//! Tables for people.

use crate::{
    domain::{Verdict, event::EndpointStatus},
    reporter::progress::clock,
    store::Summary,
};
use serde::Serialize;
use std::fmt::Write;

/// Rows of cells, the first column to the left, the others to the right, as wide as they need to be.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        let text = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", text.trim_end())
    };
    rows.iter().map(line).collect()
}

/// 1234567 as 1,234,567.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for (i, group) in digits.as_bytes()[first..].chunks(3).enumerate() {
        if i > 0 || first > 0 {
            text.push(',');
        }
        text.push_str(&String::from_utf8_lossy(group));
    }
    text
}

#[must_use]
pub fn json<T: Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_else(|e| unreachable!("plain data with string keys: {e}"));
    text.push('\n');
    text
}

/// One row an endpoint, of several or of one that refused or failed; else nothing.
#[must_use]
pub fn endpoints(all: &[EndpointStatus]) -> String {
    if all.len() < 2 && all.iter().all(|one| one.throttled + one.faults == 0) {
        return String::new();
    }
    let header = ["endpoint", "", "requests", "429, 503", "faults", "ejections", "prompt tokens", "cached", "reply tokens"];
    let rows = all.iter().map(|one| {
        let state = if one.out { "out" } else { ["down", "up"][usize::from(one.up)] };
        let counts = [one.requests, one.throttled, one.faults, one.ejections, one.prompt_tokens, one.cached_tokens, one.completion_tokens];
        [one.endpoint.clone(), state.to_owned()].into_iter().chain(counts.map(grouped)).collect()
    });
    table(&[header.map(str::to_owned).to_vec()].into_iter().chain(rows).collect::<Vec<_>>())
}

#[must_use]
pub fn summary(summary: &Summary) -> String {
    let episodes = &summary.episodes;
    let mut text = String::new();
    let _ = writeln!(text, "run {}  model {}  scaffold {}", summary.run, summary.model, summary.scaffold);
    let share =
        |n: u64| if episodes.committed == 0 { String::new() } else { format!("{:.1} %", 100.0 * n as f64 / episodes.committed as f64) };
    let mut rows = vec![
        vec!["episodes".to_owned(), grouped(episodes.total), String::new()],
        vec!["  committed".to_owned(), grouped(episodes.committed), String::new()],
        vec!["  outstanding".to_owned(), grouped(episodes.outstanding), String::new()],
        vec!["  waived".to_owned(), grouped(episodes.waived), String::new()],
        vec!["resolved".to_owned(), grouped(summary.resolved), share(summary.resolved)],
        vec!["unresolved".to_owned(), grouped(summary.unresolved), share(summary.unresolved)],
    ];
    if episodes.waived == 0 {
        rows.remove(3);
    }
    for (verdict, n) in
        summary.verdicts.iter().filter(|(verdict, n)| **n > 0 && !matches!(verdict, Verdict::Resolved | Verdict::Unresolved))
    {
        rows.push(vec![format!("  {verdict}"), grouped(*n), share(*n)]);
    }
    for (class, n) in summary.failed.iter().filter(|(_, n)| **n > 0) {
        rows.push(vec![format!("failed: {class}"), grouped(*n), share(*n)]);
    }
    rows.extend([
        vec!["attempts".to_owned(), grouped(summary.attempts), String::new()],
        vec!["turns".to_owned(), grouped(summary.turns), String::new()],
        vec!["prompt tokens".to_owned(), grouped(summary.usage.prompt_tokens), String::new()],
        vec!["completion tokens".to_owned(), grouped(summary.usage.completion_tokens), String::new()],
    ]);
    if summary.cost_usd > 0.0 {
        rows.push(vec!["cost, dollars".to_owned(), format!("{:.2}", summary.cost_usd), String::new()]);
    }
    text += &table(&rows);
    if !summary.exit_reasons.is_empty() {
        let reasons: Vec<String> = summary.exit_reasons.iter().map(|(reason, n)| format!("{} {n}", word(reason))).collect();
        let _ = writeln!(text, "exits: {}", reasons.join(", "));
    }
    if !summary.slowest.is_empty() {
        let slowest = summary.slowest.iter().map(|slow| format!("{} {}", slow.id, clock(slow.duration_ms))).collect::<Vec<_>>();
        let _ = writeln!(text, "slowest: {}", slowest.join(", "));
    }
    if !summary.shards.is_empty() {
        text.push('\n');
        let mut rows = vec![["shard", "trajectories", "bytes", "tokens"].map(str::to_owned).to_vec()];
        rows.extend(summary.shards.iter().map(|s| vec![s.file.clone(), grouped(s.trajectories), grouped(s.bytes), grouped(s.tokens)]));
        text += &table(&rows);
        let superseded: u64 = summary.shards.iter().map(|s| s.superseded).sum();
        if superseded > 0 {
            let _ = writeln!(text, "superseded: {} (left out: a rerun's attempts count in their place)", grouped(superseded));
        }
    }
    text
}

/// The name of a unit variant, as it is in JSON.
#[must_use]
pub fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (n, text) in [(0, "0"), (12, "12"), (123, "123"), (1234, "1,234"), (123_456, "123,456"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(n), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let rows = vec![vec!["a".to_owned(), "100".to_owned()], vec!["bcd".to_owned(), "2".to_owned()]];
        assert_eq!(table(&rows), "a    100\nbcd    2\n");
    }
}
