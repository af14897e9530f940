//! What test frameworks print, read line by line: hostile text, so each line is bounded, and looked at once.

mod cargo;
pub mod go;
mod lines;
mod marks;
mod pytest;
mod simple;
mod unittest;

use crate::domain::{LogParser, TestStatus};
use std::collections::{BTreeMap, HashMap};

/// What a log says of listed ids.
#[derive(Debug, Default)]
pub struct Told<'a> {
    index: HashMap<&'a str, usize>,
    results: BTreeMap<usize, TestStatus>,
    /// Statuses of names that are not listed.
    pub unlisted: u64,
}

impl<'a> Told<'a> {
    #[must_use]
    pub fn new(ids: impl IntoIterator<Item = (usize, &'a str)>) -> Self {
        Told { index: ids.into_iter().map(|(index, id)| (id, index)).collect(), ..Told::default() }
    }

    #[must_use]
    pub fn results(&self) -> &BTreeMap<usize, TestStatus> {
        &self.results
    }

    fn ids(&self) -> impl Iterator<Item = (usize, &'a str)> {
        self.index.iter().map(|(id, index)| (*index, *id))
    }

    /// Of several statuses of an id the worst stays.
    fn at(&mut self, index: usize, status: TestStatus) {
        let known = self.results.entry(index).or_insert(status);
        if status.severity() > known.severity() {
            *known = status;
        }
    }

    /// The names are of one test, and the first that is listed is meant.
    fn first<'n>(&mut self, names: impl IntoIterator<Item = &'n str>, status: TestStatus) {
        match names.into_iter().find_map(|name| self.index.get(name).copied()) {
            Some(index) => self.at(index, status),
            None => self.unlisted += 1,
        }
    }
}

/// Reads a log to its end.
pub fn read(parser: LogParser, log: &[u8], told: &mut Told<'_>) {
    let lines = lines::Lines::new(log);
    match parser {
        LogParser::Pytest => pytest::read(lines, told),
        LogParser::Unittest => unittest::read(lines, told),
        LogParser::Go => go::read(lines, told),
        LogParser::Cargo => cargo::read(lines, told),
        LogParser::Marks => marks::read(lines, told),
        LogParser::Tap => simple::tap(lines, told),
        LogParser::Ctest => simple::ctest(lines, told),
        LogParser::Googletest => simple::googletest(lines, told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The statuses of `ids` by what `log` says, in their order.
    pub(super) fn statuses(parser: &str, log: &str, ids: &[&str]) -> Vec<TestStatus> {
        let mut told = Told::new(ids.iter().copied().enumerate());
        read(parser.parse().unwrap(), log.as_bytes(), &mut told);
        (0..ids.len()).map(|index| told.results().get(&index).copied().unwrap_or(TestStatus::Missing)).collect()
    }

    #[test]
    fn hostile_logs_end_soon_and_pass_nothing() {
        let one_line = "x ... ".repeat(1 << 20);
        let many = "    ✓\n  1) \n--- PASS: \ntest  ... \n[ OK ]\nok \n ... ok\nPASSED\n[gw0] \n".repeat(20_000);
        let deep: String = (0..2000).map(|n| format!("{}suite\n", " ".repeat(n))).collect();
        let dashes = format!("FAILED a{}", " - b".repeat(1 << 18));
        for parser in LogParser::names() {
            for log in [&one_line, &many, &deep, &dashes, "\u{1b}[", "\r\r\r", "\0"] {
                assert_eq!(statuses(parser, log, &["a", "b"]).iter().filter(|s| **s == TestStatus::Passed).count(), 0, "{parser}");
            }
        }
    }
}
