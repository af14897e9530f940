//! The run for a human on stderr: two or three live lines on a terminal, a plain line now and then elsewhere.

use super::stats::{Stage, Straggler, View};
use std::{fmt::Write as _, io::Write};

/// How far, how fast, and where there are some what takes long.
#[must_use]
pub fn lines(view: &View) -> Vec<String> {
    let tally = &view.tally;
    let mut far = format!("{}/{} done", tally.done, tally.outstanding);
    if tally.total > tally.outstanding {
        let _ = write!(far, " (+{} before)", tally.total - tally.outstanding);
    }
    let _ = write!(far, ", {} resolved, {} unresolved", tally.resolved, tally.unresolved);
    if tally.ungraded > 0 {
        let _ = write!(far, ", {} without verdict", tally.ungraded);
    }
    if tally.failures() > 0 {
        let classes = list(tally.failed.iter().map(|(class, count)| (class.as_str(), *count)));
        let _ = write!(far, ", {} failed ({classes})", tally.failures());
    }
    if tally.waived > 0 {
        let _ = write!(far, ", {} waived", tally.waived);
    }
    let in_flight: u64 = tally.in_flight.values().sum();
    if in_flight > 0 {
        let stages = Stage::ALL.iter().map(|stage| (stage.as_str(), tally.in_flight.get(stage).copied().unwrap_or(0)));
        let _ = write!(far, "; {in_flight} in flight ({})", list(stages));
    }
    let mut fast = format!("{:.1} turns/s, {} tokens/s, ${:.2} spent", view.turns_per_sec, short(view.tokens_per_sec), tally.cost_usd);
    if let Some(limit) = tally.limit {
        let _ = write!(fast, ", limit {limit}");
    }
    if let (up, all @ 2..) = tally.endpoints {
        let _ = write!(fast, ", {up}/{all} endpoints up");
    }
    if tally.retries > 0 {
        let _ = write!(fast, ", {} retries", tally.retries);
    }
    let _ = write!(fast, ", {} elapsed", clock(view.elapsed_ms));
    match (view.eta_ms, &tally.draining) {
        (_, Some(reason)) => {
            let _ = write!(fast, ", draining: {}", reason.replace(char::is_control, " "));
        }
        _ if tally.held.is_some() => {
            let reason = tally.held.as_deref().unwrap_or_default();
            let _ = write!(fast, ", nothing new is begun: {}", reason.replace(char::is_control, " "));
        }
        (Some(eta), None) if !tally.ended => {
            let _ = write!(fast, ", {} to go", clock(eta));
        }
        _ => {}
    }
    let slow = (view.stragglers > 0).then(|| format!("{} slow: {}", view.stragglers, named(&view.oldest)));
    [far, fast].into_iter().chain(slow).collect()
}

/// Such as `a@1.1 begun 1:02:03 ago (running, turn 37 0:12 ago)`.
fn named(stragglers: &[Straggler]) -> String {
    let named = stragglers.iter().map(|Straggler { id, stage, age_ms, turns, silent_ms }| {
        let stage = match stage {
            Stage::Running => format!("running, turn {turns} {} ago", clock(*silent_ms)),
            _ => format!("{} for {}", stage.as_str(), clock(*silent_ms)),
        };
        format!("{id} begun {} ago ({stage})", clock(*age_ms))
    });
    named.collect::<Vec<_>>().join(", ")
}

/// The same in one line, for a file or a pipe.
#[must_use]
pub fn plain(view: &View) -> String {
    lines(view).join("; ")
}

fn list<'n>(counts: impl Iterator<Item = (&'n str, u64)>) -> String {
    counts.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// `950`, `12.3k`, `4.5M`.
fn short(number: f64) -> String {
    match number {
        n if n < 1e3 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1}k", n / 1e3),
        n => format!("{:.1}M", n / 1e6),
    }
}

/// `0:07`, `12:03`, `3:00:59`.
#[must_use]
pub fn clock(ms: u64) -> String {
    let (minutes, seconds) = (ms / 60_000, ms / 1000 % 60);
    match minutes / 60 {
        0 => format!("{minutes}:{seconds:02}"),
        hours => format!("{hours}:{:02}:{seconds:02}", minutes % 60),
    }
}

/// The line in at most `width` columns.
fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).take(width).collect()
}

/// Draws on a stream; a stream that fails is left alone from then on.
pub(super) struct Painter<W> {
    out: W,
    live: bool,
    /// Live lines that stand on the terminal.
    drawn: usize,
    failed: bool,
}

impl<W: Write> Painter<W> {
    pub(super) fn new(out: W, live: bool) -> Self {
        Painter { out, live, drawn: 0, failed: false }
    }

    /// Puts the view in place of the one before; in a file, below it.
    pub(super) fn draw(&mut self, view: &View, width: usize) {
        if !self.live {
            return self.put(&format!("{}\n", plain(view)));
        }
        let mut text = self.erase();
        let lines = lines(view);
        for line in &lines {
            // One column stays free: a full line wraps on some terminals.
            text.push_str(&cut(line, width.saturating_sub(1)));
            text.push('\n');
        }
        self.drawn = lines.len();
        self.put(&text);
    }

    /// Puts a line above the live ones, which the next draw brings back.
    pub(super) fn note(&mut self, line: &str) {
        let erase = self.erase();
        self.put(&format!("{erase}{line}\n"));
    }

    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }

    fn put(&mut self, text: &str) {
        self.failed = self.failed || self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::super::stats::Tally;
    use super::*;
    use crate::domain::Class;

    fn view() -> View {
        let tally = Tally {
            total: 120,
            outstanding: 100,
            done: 12,
            resolved: 7,
            unresolved: 2,
            ungraded: 1,
            failed: [(Class::Infra, 1), (Class::Task, 1)].into(),
            retries: 3,
            in_flight: [(Stage::Running, 15), (Stage::Starting, 2), (Stage::Waiting, 0)].into(),
            cost_usd: 1.236,
            limit: Some(32),
            endpoints: (2, 3),
            ..Tally::default()
        };
        View { tally, elapsed_ms: 3_723_000, turns_per_sec: 3.25, tokens_per_sec: 1234.0, eta_ms: Some(59_999), ..View::default() }
    }

    const FAR: &str = "12/100 done (+20 before), 7 resolved, 2 unresolved, 1 without verdict, 2 failed (infra 1, task 1); \
                       17 in flight (starting 2, running 15)";
    const FAST: &str = "3.2 turns/s, 1.2k tokens/s, $1.24 spent, limit 32, 2/3 endpoints up, 3 retries, 1:02:03 elapsed, 0:59 to go";

    #[test]
    fn everything_that_is_there_is_said() {
        assert_eq!(lines(&view()), [FAR, FAST]);
        assert_eq!(plain(&view()), format!("{FAR}; {FAST}"));
    }

    #[test]
    fn stragglers_are_named() {
        let slow = |id: &str, stage, turns| Straggler { id: id.parse().unwrap(), stage, age_ms: 3_723_000, turns, silent_ms: 12_000 };
        let view = View { stragglers: 7, oldest: vec![slow("a@0.1", Stage::Running, 37), slow("b@1.2", Stage::Grading, 9)], ..view() };
        let named = "7 slow: a@0.1 begun 1:02:03 ago (running, turn 37 0:12 ago), b@1.2 begun 1:02:03 ago (grading for 0:12)";
        assert_eq!(lines(&view), [FAR, FAST, named]);
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let expected = ["0/0 done, 0 resolved, 0 unresolved", "0.0 turns/s, 0 tokens/s, $0.00 spent, 0:00 elapsed"];
        assert_eq!(lines(&View::default()), expected);
        let mut view = view();
        view.tally.draining = Some("no\x1b[2J credit".into());
        assert!(lines(&view)[1].ends_with(", draining: no [2J credit"));
    }

    #[test]
    fn a_terminal_is_redrawn_within_its_width() {
        let mut screen = Vec::new();
        let mut painter = Painter::new(&mut screen, true);
        painter.draw(&view(), 20);
        painter.note("careful");
        painter.draw(&view(), 0);
        let expected = "12/100 done (+20 b…\n3.2 turns/s, 1.2k …\n\x1b[2A\r\x1b[Jcareful\n\n\n";
        assert_eq!(String::from_utf8(screen).unwrap(), expected);
    }

    #[test]
    fn a_file_gets_plain_lines() {
        let mut file = Vec::new();
        let mut painter = Painter::new(&mut file, false);
        painter.draw(&view(), 20);
        painter.note("careful");
        assert_eq!(String::from_utf8(file).unwrap(), format!("{FAR}; {FAST}\ncareful\n"));
    }
}
