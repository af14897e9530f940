//! Reads what the pytest plugin wrote. The file is hostile input: the code under test runs in the same process.

use crate::domain::TestStatus;
use serde::Deserialize;

/// Longest line read, bytes; the plugin's are under 300.
const MAX_LINE: usize = 4096;

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    nonce: std::borrow::Cow<'a, str>,
    seq: u64,
    #[serde(flatten)]
    what: What,
}

#[derive(Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum What {
    Begin { pytest: String, python: String },
    Collected { listed: u64, unlisted: u64 },
    Start { test: usize },
    Test { test: usize, when: When, outcome: String, xfail: bool, sub: bool },
    End { exit: i64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum When {
    Setup,
    Call,
    Teardown,
}

/// What is known of one listed id.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    worst: Option<TestStatus>,
    called: bool,
    torn_down: bool,
}

/// A report as far as it can be trusted.
#[derive(Debug, Default)]
pub struct Report {
    /// The session began: the runner works, with the options it was given.
    pub begun: bool,
    /// It is whole: begin and end are there, every line is the plugin's own and none is missing.
    pub complete: bool,
    /// pytest's exit status, where the session ended.
    pub exit: Option<i64>,
    /// Versions of pytest and Python, as reported.
    pub versions: (String, String),
    /// Tests collected that are listed, and that are not.
    pub collected: (u64, u64),
    /// The id whose test began last and did not end: the process died in it, or the session was broken off there.
    pub running: Option<usize>,
    seen: Vec<Seen>,
}

impl Report {
    /// Reads a report over `ids` listed ids. Reading stops at the first line that is not the plugin's next one:
    /// what was seen until then stands, and the report is not complete.
    #[must_use]
    pub fn parse(bytes: &[u8], nonce: &str, ids: usize) -> Self {
        let mut report = Report { seen: vec![Seen::default(); ids], ..Report::default() };
        for (seq, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
            let record = next_record(line, nonce, seq as u64).filter(|what| report.begun != matches!(what, What::Begin { .. }));
            match record.filter(|_| !report.complete) {
                Some(what) => report.add(what),
                None => {
                    report.complete = false;
                    break;
                }
            }
        }
        report
    }

    fn add(&mut self, what: What) {
        match what {
            What::Begin { pytest, python } => (self.begun, self.versions) = (true, (pytest, python)),
            What::Collected { listed, unlisted } => self.collected = (listed, unlisted),
            What::Start { test } => self.running = Some(test),
            What::Test { test, when, outcome, xfail, sub } => {
                if when == When::Teardown && !sub {
                    self.running = None;
                }
                if let Some(seen) = self.seen.get_mut(test) {
                    seen.add(when, &outcome, xfail, sub);
                }
            }
            What::End { exit } => (self.complete, self.exit) = (true, Some(exit)),
        }
    }

    /// Status of the id at `index` of the list.
    #[must_use]
    pub fn status(&self, index: usize) -> TestStatus {
        self.seen.get(index).map_or(TestStatus::Missing, |seen| match seen.worst {
            Some(TestStatus::Failed) => TestStatus::Failed,
            _ if self.running == Some(index) => TestStatus::Error,
            Some(status) => status,
            None if seen.called && seen.torn_down => TestStatus::Passed,
            // It began, and its end was never seen.
            None => TestStatus::Missing,
        })
    }
}

fn next_record(line: &[u8], nonce: &str, seq: u64) -> Option<What> {
    let line = line.strip_suffix(b"\n").filter(|line| line.len() <= MAX_LINE)?;
    let record: Record = serde_json::from_slice(line).ok()?;
    (record.nonce == nonce && record.seq == seq).then_some(record.what)
}

impl Seen {
    /// Several phases, subtests and tests can share an id: the worst of them decides.
    fn add(&mut self, when: When, outcome: &str, xfail: bool, sub: bool) {
        let status = match (outcome, when) {
            ("failed", When::Call) => TestStatus::Failed,
            ("failed", _) => TestStatus::Error,
            // Subtests that did not fail say nothing of the test, nor does a try that is followed by another.
            _ if sub || outcome == "rerun" => return,
            ("skipped", _) if xfail => TestStatus::Xfailed,
            ("skipped", _) => TestStatus::Skipped,
            ("passed", When::Call) if xfail => TestStatus::Xpassed,
            ("passed", When::Setup) => return,
            ("passed", When::Call) => {
                self.called = true;
                return;
            }
            ("passed", When::Teardown) => {
                self.torn_down = true;
                return;
            }
            _ => TestStatus::Error,
        };
        if self.worst.is_none_or(|worst| severity(status) > severity(worst)) {
            self.worst = Some(status);
        }
    }
}

fn severity(status: TestStatus) -> u8 {
    match status {
        TestStatus::Passed => 0,
        TestStatus::Xpassed => 1,
        TestStatus::Xfailed => 2,
        TestStatus::Skipped => 3,
        TestStatus::Missing => 4,
        TestStatus::Error => 5,
        TestStatus::Failed => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TestStatus::*;

    const BEGIN: &str = r#""what": "begin", "pytest": "8.3.5", "python": "3.11.2""#;
    const END: &str = r#""what": "end", "exit": 0"#;

    fn test(index: usize, when: &str, outcome: &str) -> String {
        format!(r#""what": "test", "test": {index}, "when": "{when}", "outcome": "{outcome}", "xfail": false, "sub": false"#)
    }

    fn passed(index: usize) -> [String; 3] {
        ["setup", "call", "teardown"].map(|when| test(index, when, "passed"))
    }

    fn lines(records: &[String]) -> String {
        records.iter().enumerate().map(|(seq, r)| format!("{{\"nonce\": \"n\", \"seq\": {seq}, {r}}}\n")).collect()
    }

    fn whole(records: &[String]) -> Report {
        let all = [&[BEGIN.to_owned()], records, &[END.to_owned()]].concat();
        Report::parse(lines(&all).as_bytes(), "n", 3)
    }

    #[test]
    fn three_passed_phases_are_a_pass() {
        let report = whole(&passed(1));
        assert!(report.complete && report.begun);
        assert_eq!([0, 1, 2, 3].map(|i| report.status(i)), [Missing, Passed, Missing, Missing]);
        for gap in 1..3 {
            let mut records = passed(1).to_vec();
            records.remove(gap);
            assert_eq!(whole(&records).status(1), Missing, "without phase {gap}");
        }
    }

    #[test]
    fn phases_combine() {
        let of = |when: &str, outcome: &str| {
            let mut records = passed(0).to_vec();
            let at = ["setup", "call", "teardown"].iter().position(|w| *w == when).unwrap();
            records[at] = test(0, when, outcome);
            whole(&records).status(0)
        };
        assert_eq!(of("setup", "failed"), Error);
        assert_eq!(of("call", "failed"), Failed);
        assert_eq!(of("teardown", "failed"), Error);
        assert_eq!(of("setup", "skipped"), Skipped);
        assert_eq!(of("call", "skipped"), Skipped);
        assert_eq!(of("call", "invented"), Error);
        let xfail = |outcome: &str| {
            let mut records = passed(0).to_vec();
            records[1] = test(0, "call", outcome).replace("\"xfail\": false", "\"xfail\": true");
            whole(&records).status(0)
        };
        assert_eq!(xfail("skipped"), Xfailed);
        assert_eq!(xfail("passed"), Xpassed);
        assert_eq!(xfail("failed"), Failed);
    }

    #[test]
    fn any_failure_of_an_id_decides() {
        let failed = [test(0, "setup", "passed"), test(0, "call", "failed"), test(0, "teardown", "passed")];
        assert_eq!(whole(&[passed(0), failed.clone()].concat()).status(0), Failed);
        assert_eq!(whole(&[failed, passed(0)].concat()).status(0), Failed);
        let sub = |outcome: &str| test(0, "call", outcome).replace("\"sub\": false", "\"sub\": true");
        assert_eq!(whole(&[vec![sub("failed")], passed(0).to_vec()].concat()).status(0), Failed);
        assert_eq!(whole(&[vec![sub("skipped"), sub("passed")], passed(0).to_vec()].concat()).status(0), Passed);
        let rerun = [test(0, "setup", "passed"), test(0, "call", "rerun"), test(0, "teardown", "passed")];
        assert_eq!(whole(&[rerun.clone(), passed(0)].concat()).status(0), Passed);
        assert_eq!(whole(&rerun).status(0), Missing);
    }

    #[test]
    fn what_is_not_the_plugins_next_line_makes_it_incomplete() {
        let good = lines(&[&[BEGIN.to_owned()][..], &passed(0), &[END.to_owned()]].concat());
        assert!(Report::parse(good.as_bytes(), "n", 1).complete);
        let parse = |text: &str| Report::parse(text.as_bytes(), "n", 1).complete;
        assert!(!parse(""));
        assert!(!parse(&good.replace("\"nonce\": \"n\"", "\"nonce\": \"m\"")), "another nonce");
        assert!(!parse(&good.replacen("\"nonce\": \"n\", ", "", 1)), "no nonce");
        assert!(!parse(&good.replace("\"seq\": 2", "\"seq\": 3")), "a gap");
        assert!(!parse(&good[good.find('\n').unwrap() + 1..]), "no begin");
        assert!(!parse(&good[..good.len() - 1]), "torn");
        assert!(!parse(&good[..good.rfind("{\"nonce").unwrap()]), "no end");
        assert!(!parse(&format!("{good}{good}")), "written twice");
        assert!(!parse(&format!("{good}garbage\n")), "more after the end");
        let begun_twice = lines(&[BEGIN.to_owned(), BEGIN.to_owned(), END.to_owned()]);
        assert!(!parse(&begun_twice));
        let long = good.replacen("8.3.5", &"8".repeat(10_000), 1);
        assert!(!parse(&long), "a huge line");
        assert!(!parse(&good.replacen("\"8.3.5\"", &"[".repeat(4000), 1)), "a deep line");
    }

    #[test]
    fn what_was_seen_before_the_process_died_stands() {
        let text = lines(&[&[BEGIN.to_owned()][..], &passed(0), &[test(1, "setup", "passed")]].concat());
        let report = Report::parse(format!("{text}{{\"nonce").as_bytes(), "n", 2);
        assert!(!report.complete && report.begun);
        assert_eq!([report.status(0), report.status(1)], [Passed, Missing]);
    }

    #[test]
    fn the_test_that_was_running_is_an_error() {
        let start = |index: usize| format!(r#""what": "start", "test": {index}"#);
        let first = [&[BEGIN.to_owned(), start(0)][..], &passed(0)].concat();
        let running = |records: &[String]| {
            let report = Report::parse(lines(&[&first, records].concat()).as_bytes(), "n", 3);
            (report.running, [0, 1, 2].map(|index| report.status(index)))
        };
        assert_eq!(running(&[]), (None, [Passed, Missing, Missing]));
        assert_eq!(running(&[start(1)]), (Some(1), [Passed, Error, Missing]));
        assert_eq!(running(&[start(1), test(1, "setup", "passed"), test(1, "call", "passed")]), (Some(1), [Passed, Error, Missing]));
        assert_eq!(running(&[start(1), test(1, "call", "failed")]), (Some(1), [Passed, Failed, Missing]));
        assert_eq!(running(&[start(1), END.to_owned()]), (Some(1), [Passed, Error, Missing]), "the session was broken off in it");
        assert_eq!(running(&[start(7)]).1, [Passed, Missing, Missing]);
    }
}
