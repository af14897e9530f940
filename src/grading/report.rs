//! Reads what the pytest plugin wrote. It is hostile input: the code under test runs in the same process.

use super::record::Record;
use crate::domain::{TestResult, TestStatus};
use serde::Deserialize;

/// Longest line read, bytes; the plugin's are shorter.
const MAX_LINE: usize = 4096;
/// Bytes of a message that are kept.
pub const MESSAGE_MAX: usize = 400;
/// Bytes of all messages of a process.
pub const MESSAGES_MAX: usize = 64 << 10;
/// What is said beside results that is kept; the plugin says less.
const MAX_NOTES: usize = 200;

#[derive(Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum What {
    Begin {
        pytest: String,
        python: String,
    },
    Collected {
        listed: u64,
        unlisted: u64,
    },
    Controls {
        controls: u64,
    },
    Start {
        test: usize,
    },
    /// All phases of a test that began.
    Done {
        test: usize,
        ms: u64,
        phases: String,
        raw: Option<String>,
        #[serde(default)]
        message: String,
    },
    /// A control began: no listed test is running.
    ControlStart,
    Control(Control),
    End {
        exit: i64,
        records: u64,
    },
    #[serde(untagged)]
    Note(Note),
}

/// A twin of a listed test that must not pass.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Control {
    pub test: usize,
    kind: String,
    phases: String,
    /// Its body was called.
    pub ran: bool,
}

impl Control {
    #[must_use]
    pub fn wanted(&self) -> TestStatus {
        if self.kind == "skip" { TestStatus::Skipped } else { TestStatus::Failed }
    }

    #[must_use]
    pub fn status(&self) -> TestStatus {
        let mut seen = Seen::default();
        seen.add(&self.phases);
        seen.status()
    }
}

/// What the plugin noticed beside the results; files are relative to the repository, or empty where they are not known.
/// `mentions`: lines of the file that look like the base may have done the same.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Note {
    /// A module of the runner is not where it was before the diff.
    Moved { name: String, file: String },
    /// A function of the runner was replaced by one of this file.
    Changed { name: String, file: String, mentions: usize },
    /// A hook of pytest is implemented in the repository.
    Hook { name: String, file: String, mentions: usize },
    /// The file of a test has code of its name, and another one's ran.
    Replaced { test: usize, file: String },
    /// A function of this file is around that of a test.
    Wrapped { test: usize, file: String, decorated: bool, mentions: usize },
    /// A file of listed tests is not as it was when the process began.
    FileChanged { file: String },
}

/// How a report is not what the plugin writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// A line that the plugin cannot have written.
    Foreign,
    /// One that it wrote is missing, or it is out of turn.
    Gap,
}

/// A report as far as it can be trusted.
#[derive(Debug, Default)]
pub struct Report {
    /// The session began: the runner works, with the options it was given.
    pub begun: bool,
    /// It is whole: begin and end are there, every line is the plugin's own and none is missing.
    pub complete: bool,
    pub flaw: Option<Flaw>,
    /// pytest's exit status, where the session ended.
    pub exit: Option<i64>,
    /// Versions of pytest and Python, as reported.
    pub versions: (String, String),
    /// Tests collected that are listed, and that are not.
    pub collected: (u64, u64),
    /// The id whose test began last and did not end: the process died in it, or the session was broken off there.
    pub running: Option<usize>,
    /// Controls that were made before the first test, and those that ended.
    pub controls_made: Option<u64>,
    pub controls: Vec<Control>,
    pub notes: Vec<Note>,
    seen: Vec<Seen>,
    message_bytes: usize,
}

impl Report {
    /// Reads a report over `ids` listed ids. Reading stops at the first line that is not the plugin's next one:
    /// what was seen until then stands, and the report is not complete.
    #[must_use]
    pub fn parse(bytes: &[u8], nonce: &str, ids: usize) -> Self {
        let mut report = Report { seen: vec![Seen::default(); ids], ..Report::default() };
        for (seq, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
            // The process died in the middle of it.
            let Some(line) = line.strip_suffix(b"\n") else {
                report.complete = false;
                break;
            };
            let flaw = match Record::<What>::read(line, nonce, MAX_LINE) {
                _ if report.complete => Flaw::Foreign,
                None => Flaw::Foreign,
                Some(record) if record.seq != seq as u64 => Flaw::Gap,
                Some(record) if report.begun == matches!(record.what, What::Begin { .. }) => Flaw::Foreign,
                Some(record) => match report.add(record.what, seq as u64) {
                    Ok(()) => continue,
                    Err(flaw) => flaw,
                },
            };
            (report.complete, report.flaw) = (false, Some(flaw));
            break;
        }
        report
    }

    fn add(&mut self, what: What, seq: u64) -> Result<(), Flaw> {
        match what {
            What::Begin { pytest, python } => (self.begun, self.versions) = (true, (pytest, python)),
            What::Collected { listed, unlisted } => self.collected = (listed, unlisted),
            What::Controls { controls } => self.controls_made = Some(controls),
            What::Start { .. } | What::Done { .. } | What::ControlStart | What::Control(_) if self.controls_made.is_none() => {
                return Err(Flaw::Foreign);
            }
            What::Start { test } => self.running = Some(test),
            What::Done { test, ms, phases, raw, message } => {
                let seen = self.seen.get_mut(test).filter(|_| self.running == Some(test)).ok_or(Flaw::Foreign)?;
                self.running = None;
                seen.add(&phases);
                seen.ms = seen.ms.saturating_add(ms);
                seen.unfounded |= raw.is_some();
                let message = head(&message, MESSAGE_MAX.min(MESSAGES_MAX - self.message_bytes));
                if seen.message.is_empty() && !message.is_empty() {
                    self.message_bytes += message.len();
                    seen.message = message.to_owned();
                }
            }
            What::ControlStart => self.running = None,
            What::Control(control) if self.controls.len() < MAX_NOTES => self.controls.push(control),
            What::Note(note) if self.notes.len() < MAX_NOTES => self.notes.push(note),
            What::Control(_) | What::Note(_) => return Err(Flaw::Foreign),
            What::End { exit, records } if records == seq => (self.complete, self.exit) = (true, Some(exit)),
            What::End { .. } => return Err(Flaw::Gap),
        }
        Ok(())
    }

    /// Status of the id at `index` of the list.
    #[must_use]
    pub fn status(&self, index: usize) -> TestStatus {
        self.seen.get(index).map_or(TestStatus::Missing, |seen| match seen.status() {
            TestStatus::Failed => TestStatus::Failed,
            _ if self.running == Some(index) => TestStatus::Error,
            status => status,
        })
    }

    /// What became of the id at `index`; nothing where it is missing.
    #[must_use]
    pub fn result(&self, index: usize) -> Option<TestResult> {
        let (seen, status) = (self.seen.get(index)?, self.status(index));
        let message = if status == TestStatus::Passed { String::new() } else { seen.message.clone() };
        (status != TestStatus::Missing).then_some(TestResult { status, duration_ms: seen.ms, message, tries: 1 })
    }

    /// It was reported as passed, and its function raised or was never called.
    #[must_use]
    pub fn unfounded(&self, index: usize) -> bool {
        self.seen.get(index).is_some_and(|seen| seen.unfounded)
    }
}

/// At most `max` bytes of the beginning.
fn head(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// What is known of one id.
#[derive(Debug, Clone, Default)]
struct Seen {
    worst: Option<TestStatus>,
    called: bool,
    torn_down: bool,
    unfounded: bool,
    ms: u64,
    message: String,
}

impl Seen {
    /// Phases are pairs of letters: `s`, `c`, `t` for set-up, call and teardown, upper case for a subtest's; `p` passed, `f` failed,
    /// `s` skipped, `x` failed as expected, `X` passed unexpectedly, `r` to be run again.
    /// Several phases, subtests and tests can share an id: the worst of them decides.
    fn add(&mut self, phases: &str) {
        for pair in phases.as_bytes().chunks(2) {
            let (phase, outcome) = (pair[0], pair.get(1).copied().unwrap_or_default());
            let status = match (phase.to_ascii_lowercase(), outcome) {
                (b'c', b'f') => TestStatus::Failed,
                (_, b'f') => TestStatus::Error,
                // Subtests that did not fail say nothing of the test, nor does a try that is followed by another.
                _ if phase.is_ascii_uppercase() || outcome == b'r' => continue,
                (_, b'x') => TestStatus::Xfailed,
                (_, b's') => TestStatus::Skipped,
                (b'c', b'X') => TestStatus::Xpassed,
                (b's', b'p') => continue,
                (b'c', b'p') => {
                    self.called = true;
                    continue;
                }
                (b't', b'p') => {
                    self.torn_down = true;
                    continue;
                }
                _ => TestStatus::Error,
            };
            if self.worst.is_none_or(|worst| status.severity() > worst.severity()) {
                self.worst = Some(status);
            }
        }
    }

    fn status(&self) -> TestStatus {
        match self.worst {
            Some(status) => status,
            None if self.called && self.torn_down => TestStatus::Passed,
            // It began, and its end was never seen.
            None => TestStatus::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TestStatus::*;

    const BEGIN: &str = r#""what": "begin", "pytest": "8.3.5", "python": "3.11.2""#;
    const CONTROLS: &str = r#""what": "controls", "controls": 1"#;

    fn start(index: usize) -> String {
        format!(r#""what": "start", "test": {index}"#)
    }

    fn done(index: usize, phases: &str) -> [String; 2] {
        [start(index), format!(r#""what": "done", "test": {index}, "ms": 7, "phases": "{phases}", "message": "why""#)]
    }

    fn lines(records: &[String]) -> String {
        records.iter().enumerate().map(|(seq, r)| format!("{{\"nonce\": \"n\", \"seq\": {seq}, {r}}}\n")).collect()
    }

    fn ended(records: &[String]) -> Vec<String> {
        let end = format!(r#""what": "end", "exit": 0, "records": {}"#, records.len() + 2);
        [&[BEGIN.to_owned(), CONTROLS.to_owned()], records, &[end]].concat()
    }

    fn whole(records: &[String]) -> Report {
        Report::parse(lines(&ended(records)).as_bytes(), "n", 3)
    }

    #[test]
    fn three_passed_phases_are_a_pass() {
        let report = whole(&done(1, "spcptp"));
        assert!(report.complete && report.begun);
        assert_eq!([0, 1, 2, 3].map(|i| report.status(i)), [Missing, Passed, Missing, Missing]);
        assert_eq!(report.result(1), Some(TestResult { status: Passed, duration_ms: 7, message: String::new(), tries: 1 }));
        for phases in ["spcp", "sptp", "", "s", "spc"] {
            assert_ne!(whole(&done(1, phases)).status(1), Passed, "{phases:?}");
        }
    }

    #[test]
    fn phases_combine() {
        let of = |phases: &str| whole(&done(0, phases)).status(0);
        assert_eq!(of("sftp"), Error);
        assert_eq!(of("spcftp"), Failed);
        assert_eq!(of("spcptf"), Error);
        assert_eq!(of("sstp"), Skipped);
        assert_eq!(of("spcstp"), Skipped);
        assert_eq!(of("spc?tp"), Error);
        assert_eq!(of("spcxtp"), Xfailed);
        assert_eq!(of("spcXtp"), Xpassed);
        assert_eq!(of("spCfcptp"), Failed, "a subtest failed");
        assert_eq!(of("spCsCpcptp"), Passed, "subtests that did not");
        assert_eq!(of("spcrtpcp"), Passed, "another try passed");
        assert_eq!(of("spcrtp"), Missing);
        assert_eq!(whole(&done(0, "spcftp")).result(0).unwrap().message, "why");
    }

    #[test]
    fn any_failure_of_an_id_decides() {
        assert_eq!(whole(&[done(0, "spcptp"), done(0, "spcftp")].concat()).status(0), Failed);
        assert_eq!(whole(&[done(0, "spcftp"), done(0, "spcptp")].concat()).status(0), Failed);
    }

    #[test]
    fn what_is_not_the_plugins_next_line_makes_it_incomplete() {
        let records = ended(&done(0, "spcptp"));
        let good = lines(&records);
        assert!(Report::parse(good.as_bytes(), "n", 1).complete);
        let parse = |text: &str| {
            let report = Report::parse(text.as_bytes(), "n", 1);
            (report.complete, report.flaw)
        };
        let foreign = (false, Some(Flaw::Foreign));
        assert_eq!(parse(""), (false, None));
        assert_eq!(parse(&good.replace("\"nonce\": \"n\"", "\"nonce\": \"m\"")), foreign, "another nonce");
        assert_eq!(parse(&good.replacen("\"nonce\": \"n\", ", "", 1)), foreign, "no nonce");
        assert_eq!(parse(&good.replace("\"seq\": 2", "\"seq\": 3")), (false, Some(Flaw::Gap)));
        assert_eq!(parse(&lines(&records[1..])), foreign, "no begin");
        assert_eq!(parse(&good[..good.len() - 1]), (false, None), "torn");
        assert_eq!(parse(&good[..good.rfind("{\"nonce").unwrap()]), (false, None), "no end");
        assert_eq!(parse(&format!("{good}{good}")), foreign, "written twice");
        assert_eq!(parse(&format!("{good}garbage\n")), foreign, "more after the end");
        assert_eq!(parse(&lines(&ended(&[BEGIN.to_owned()]))), foreign, "begun twice");
        assert_eq!(parse(&good.replace("\"records\": 4", "\"records\": 9")), (false, Some(Flaw::Gap)));
        assert_eq!(parse(&good.replacen("8.3.5", &"8".repeat(10_000), 1)), foreign, "a huge line");
        assert_eq!(parse(&good.replacen("\"8.3.5\"", &"[".repeat(4000), 1)), foreign, "a deep line");
        assert_eq!(parse(&lines(&ended(&done(0, "spcptp")[1..]))), foreign, "done before it began");
        let early: Vec<String> = records.iter().filter(|record| *record != CONTROLS).cloned().collect();
        assert_eq!(parse(&lines(&early)), foreign, "a test before the tests");
    }

    #[test]
    fn the_test_that_was_running_is_an_error() {
        let running = |records: &[String]| {
            let report = Report::parse(
                lines(&[&[BEGIN.to_owned(), CONTROLS.to_owned()][..], &done(0, "spcptp"), records].concat()).as_bytes(),
                "n",
                3,
            );
            (report.complete, report.running, [0, 1, 2].map(|index| report.status(index)))
        };
        assert_eq!(running(&[]), (false, None, [Passed, Missing, Missing]));
        assert_eq!(running(&[start(1)]), (false, Some(1), [Passed, Error, Missing]));
        let end = r#""what": "end", "exit": 2, "records": 5"#.to_owned();
        assert_eq!(running(&[start(1), end]), (true, Some(1), [Passed, Error, Missing]), "the session was broken off in it");
        assert_eq!(running(&[start(7)]).2, [Passed, Missing, Missing]);
    }

    #[test]
    fn messages_are_bounded_however_many_and_long() {
        let long = |index| {
            let [start, done] = done(index, "spcftp");
            [start, done.replace("why", &"ü".repeat(900))]
        };
        let records: Vec<String> = (0..400).flat_map(long).collect();
        let report = Report::parse(lines(&ended(&records)).as_bytes(), "n", 400);
        assert!(report.complete);
        let messages: Vec<usize> = (0..400).map(|index| report.result(index).unwrap().message.len()).collect();
        assert_eq!((messages[0], messages.iter().max()), (MESSAGE_MAX, Some(&MESSAGE_MAX)));
        assert!(messages.iter().sum::<usize>() <= MESSAGES_MAX && messages[399] == 0);
    }

    #[test]
    fn notes_and_controls_are_read() {
        let note = r#""what": "changed", "name": "unittest.case.TestCase.run", "file": "a.py", "mentions": 2"#.to_owned();
        let control = r#""what": "control", "test": 0, "kind": "fail", "phases": "spcftp", "ran": true"#.to_owned();
        let report = whole(&[note, control]);
        assert_eq!(report.notes, [Note::Changed { name: "unittest.case.TestCase.run".to_owned(), file: "a.py".to_owned(), mentions: 2 }]);
        assert_eq!((report.controls[0].status(), report.controls[0].wanted()), (Failed, Failed));
        assert!(report.complete);
        let many: Vec<String> = (0..1000).map(|i| format!(r#""what": "file_changed", "file": "{i}""#)).collect();
        assert_eq!(whole(&many).flaw, Some(Flaw::Foreign));
    }
}
