//! Ids as unittest prints them: a driver of ours runs them by name in one process, and reports on a pipe.

use crate::domain::{Instance, Reason, Suspicion, TestResult, TestStatus};
use crate::grading::record::Record;
use crate::grading::runner::{Found, Job, Launch, Observed, Said, TestRunner};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// What runs in the test process; see its own text.
const DRIVER: &str = include_str!("unittest.py");
/// Reads the driver from standard input, before anything of the repository can be imported; it is not `__main__`.
const START: &str = "import sys; del sys.path[0]; s = sys.stdin.buffer; \
                     exec(compile(s.read(int(s.readline())), '<sweroll>', 'exec'), {'__name__': 'sweroll'})";
/// Classes that get a twin which must fail.
const CONTROLS: usize = 8;
/// Longest line read, bytes: the driver's messages are up to 600 characters, escaped.
const MAX_LINE: usize = 16 << 10;
const MAX_DETAIL: usize = 300;

/// An interpreter that has pytest is the project's most likely; else the first there is.
const SEARCH: &str = r#"PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
facts='print("sweroll-python", sys.executable); print("sweroll-version python %d.%d.%d" % sys.version_info[:3])'
try() {
  if out=$("$1" "$2" 'exec "$@"' sweroll "$3" -c "import sys; del sys.path[0]; import unittest$4; $facts" 2>&1 </dev/null); then
    printf '%s\nsweroll-shell %s\n' "$out" "$1"
    exit 0
  fi
}
for also in ', pytest' ''; do
  for python in python python3; do try sh -c "$python" "$also"; done
  for python in python python3; do try bash -lc "$python" "$also"; done
done
exit 1
"#;

pub struct Unittest;

/// A test as it can be loaded: a class by its dotted name, and a method.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    class: Cow<'a, str>,
    method: &'a str,
}

/// Whether all ids are unittest's: `method (pkg.mod.Class)`, `method (pkg.mod.Class.method)`, `pkg.mod.Class.method`,
/// `pkg/mod.py Class.method`.
#[must_use]
pub fn are_ids(instance: &Instance) -> bool {
    instance.test_ids().all(|id| named(id).is_some())
}

fn named(id: &str) -> Option<Named<'_>> {
    if let Some((method, place)) = id.split_once(" (") {
        let place = place.strip_suffix(')').filter(|place| is_dotted(place))?;
        let class = place.strip_suffix(method).and_then(|class| class.strip_suffix('.')).unwrap_or(place);
        return (is_dotted(method) && !method.contains('.') && class.contains('.')).then_some(Named { class: class.into(), method });
    }
    if let Some((file, rest)) = id.split_once(".py ") {
        let (class, method) = rest.rsplit_once('.')?;
        let module = file.strip_prefix("./").unwrap_or(file).replace('/', ".");
        return (is_dotted(&module) && is_dotted(rest)).then(|| Named { class: format!("{module}.{class}").into(), method });
    }
    let (class, method) = id.rsplit_once('.')?;
    (class.contains('.') && is_dotted(id)).then_some(Named { class: class.into(), method })
}

/// The file that an id is expected in: classes begin with a capital letter.
#[must_use]
pub fn file_of(id: &str) -> Option<String> {
    let class = named(id)?.class;
    let module: Vec<&str> = class.split('.').take_while(|part| !part.starts_with(char::is_uppercase)).collect();
    (!module.is_empty()).then(|| format!("{}.py", module.join("/")))
}

fn is_dotted(text: &str) -> bool {
    let begins = |part: &str| part.starts_with(|c: char| c.is_alphabetic() || c == '_');
    text.split('.').all(|part| begins(part) && part.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

impl TestRunner for Unittest {
    fn name(&self) -> &'static str {
        "unittest"
    }

    fn search(&self, _instance: &Instance) -> Option<Vec<u8>> {
        Some(SEARCH.as_bytes().to_vec())
    }

    fn found(&self, output: &str) -> Option<Found> {
        let after = |word: &str| output.lines().find_map(|line| line.strip_prefix(word)).map(str::to_owned);
        let (python, version) = (after("sweroll-python ")?, after("sweroll-version python "));
        let command = match after("sweroll-shell ")?.as_str() {
            "sh" => vec![python],
            _ => ["bash", "-lc", "exec \"$@\"", "sweroll", &python].map(str::to_owned).to_vec(),
        };
        Some(Found { command, versions: version.map(|version| ("python".to_owned(), version)).into_iter().collect(), ..Found::default() })
    }

    fn plugin_digest(&self) -> String {
        format!("{:x}", Sha256::new().chain_update(START).chain_update(DRIVER).finalize())
    }

    fn launch(&self, found: &Found, job: &Job<'_>) -> Launch {
        let argv = found.command.iter().map(String::as_str).chain(["-c", START]).map(str::to_owned).collect();
        let test = |index: &usize| named(job.ids.get(*index)?).map(|test| (*index, test.class.into_owned(), test.method));
        let tests: Vec<_> = job.wanted.iter().filter_map(test).collect();
        let settings = json!({ "tests": tests, "secret": job.secret, "controls": CONTROLS }).to_string();
        Launch { argv, env: Vec::new(), input: format!("{}\n{DRIVER}{settings}", DRIVER.len()).into_bytes(), reports: true }
    }

    fn read(&self, job: &Job<'_>, said: &Said<'_>) -> Observed {
        let mut reading = Reading::default();
        for (seq, line) in said.report.split_inclusive(|b| *b == b'\n').enumerate() {
            let record = next_record(line, job.secret, seq as u64).filter(|what| reading.expects(what));
            let Some(what) = record else {
                // The last line may be half a one.
                if line.ends_with(b"\n") {
                    reading.forged(seq);
                }
                reading.observed.complete = false;
                break;
            };
            reading.add(what, job.wanted);
        }
        reading.finish(said.report_cut)
    }
}

#[derive(Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum What {
    Begin { python: String },
    Start { test: usize },
    Loaded {},
    Test { test: usize, status: TestStatus, ms: u64, message: String },
    Twin { test: usize },
    Control { test: usize, status: TestStatus, called: u8 },
    Changed { r#where: String },
    Replaced { r#where: String },
    End,
}

fn next_record(line: &[u8], secret: &str, seq: u64) -> Option<What> {
    let record = Record::read(line.strip_suffix(b"\n")?, secret, MAX_LINE)?;
    (record.seq == seq).then_some(record.what)
}

#[derive(Default)]
struct Reading {
    observed: Observed,
    /// Ids whose class has a twin that was not reported yet.
    twins: BTreeSet<usize>,
}

impl Reading {
    fn expects(&self, what: &What) -> bool {
        self.observed.begun != matches!(what, What::Begin { .. }) && !self.observed.complete
    }

    fn add(&mut self, what: What, wanted: &[usize]) {
        let seen = &mut self.observed;
        match what {
            What::Begin { python } => {
                seen.begun = true;
                seen.versions.insert("python".to_owned(), python);
            }
            What::Start { test } if wanted.binary_search(&test).is_ok() => seen.running = Some(test),
            What::Loaded { .. } => seen.running = None,
            What::Test { test, status, ms, message } if wanted.binary_search(&test).is_ok() => {
                seen.running = None;
                add_result(&mut seen.results, test, TestResult { status, duration_ms: ms, message, tries: 1 });
            }
            What::Twin { test } => {
                self.twins.insert(test);
            }
            What::Control { test, status, called } => {
                self.twins.remove(&test);
                match (status, called) {
                    (TestStatus::Passed, 1) => {
                        seen.proof
                            .push(suspicion(Reason::ControlPassed, format!("the twin of test {test} failed, and was reported as passed")));
                    }
                    (TestStatus::Passed, _) => {
                        seen.doubt.push(suspicion(
                            Reason::ControlUnclear,
                            format!("the twin of test {test} was not run, and was reported as passed"),
                        ));
                    }
                    _ => {}
                }
            }
            What::Changed { r#where } => seen.doubt.push(suspicion(Reason::RunnerChanged, r#where)),
            What::Replaced { r#where } => seen.doubt.push(suspicion(Reason::TestReplaced, r#where)),
            What::End => seen.complete = true,
            What::Start { .. } | What::Test { .. } => {}
        }
    }

    fn forged(&mut self, seq: usize) {
        let detail = format!("record {seq} of the report is not the driver's");
        self.observed.doubt.push(suspicion(Reason::ReportForged, detail));
    }

    fn finish(mut self, cut: bool) -> Observed {
        let seen = &mut self.observed;
        seen.complete &= !cut;
        if let Some(test) = seen.running.filter(|_| !seen.complete) {
            let died = TestResult { message: "the process ended in it".to_owned(), ..TestStatus::Error.into() };
            add_result(&mut seen.results, test, died);
        }
        let passed = |test: &usize| seen.results.get(test).is_some_and(|result| result.status == TestStatus::Passed);
        if let Some(test) = self.twins.iter().find(|test| seen.complete && passed(test)) {
            seen.doubt.push(suspicion(Reason::ControlUnclear, format!("the twin of test {test} was never reported")));
        }
        self.observed
    }
}

/// What is worse than passed stays.
fn add_result(results: &mut BTreeMap<usize, TestResult>, test: usize, result: TestResult) {
    match results.get(&test) {
        Some(known) if known.status != TestStatus::Passed => {}
        _ => {
            results.insert(test, result);
        }
    }
}

fn suspicion(reason: Reason, mut detail: String) -> Suspicion {
    detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
    Suspicion { reason, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: &str) -> Option<(String, String)> {
        named(id).map(|test| (test.class.into_owned(), test.method.to_owned()))
    }

    #[test]
    fn an_id_names_a_class_and_a_method() {
        let expected = Some(("pkg.mod.Class".to_owned(), "test_x".to_owned()));
        for id in ["test_x (pkg.mod.Class)", "test_x (pkg.mod.Class.test_x)", "pkg.mod.Class.test_x", "pkg/mod.py Class.test_x"] {
            assert_eq!(of(id), expected, "{id}");
        }
        assert_eq!(file_of("test_x (tests.test_a.Outer.Inner)").as_deref(), Some("tests/test_a.py"));
        assert_eq!(of("test (pkg.Mod.test.Case)"), Some(("pkg.Mod.test.Case".to_owned(), "test".to_owned())));
        let pytest = ["tests/test_a.py::test_x", "tests/test_a.py::Class::test_x[a (b.c)]", "test_x", "a.py", "README.rst::README.rst"];
        for other in pytest.into_iter().chain(["test_x (Class)", "test x (a.b)", "a.b", "", "(a.b)", "test_x (a..b)"]) {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
