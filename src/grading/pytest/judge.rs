//! What the plugin noticed, weighed: proof that the diff meddled, doubt of what ran, signs for who looks closer.

use crate::domain::{Reason, Suspicion, TestStatus};
use crate::grading::hygiene::{Change, changes};
use crate::grading::report::{Control, Flaw, Note, Report};
use crate::grading::runner::{Job, Observed};
use crate::grading::suspicion::reaches;

/// Longest detail, bytes.
const DETAIL_MAX: usize = 300;
/// What the plugin says of itself, where it was taken out.
const PLUGIN: &str = "plugin";
/// Files of a diff that are read before the tests.
const CHANGED_MAX: usize = 500;

#[derive(Clone, Copy)]
enum Weight {
    Proof,
    Doubt,
    Sign,
}

/// Files that the diff changes, and are there after it for all that can be told.
pub fn changed_files(job: &Job<'_>) -> Vec<String> {
    let changes = changes(job.diff.as_bytes());
    let paths = changes.iter().flat_map(|change| &change.paths).map(|path| String::from_utf8_lossy(path).into_owned());
    paths.filter(|path| path.ends_with(".py")).take(CHANGED_MAX).collect()
}

/// Adds to `observed` what the report gives reason for.
pub fn judge(report: &Report, job: &Job<'_>, observed: &mut Observed) {
    let by = Origin { job, diff: changes(job.diff.as_bytes()), golden: changes(job.instance.patch.as_bytes()) };
    let id = |test: usize| job.ids.get(test).copied().unwrap_or("an unknown test");
    match report.flaw {
        Some(Flaw::Foreign) => say(observed, Weight::Proof, Reason::ReportForged, "a line of the report is not the plugin's"),
        Some(Flaw::Gap) => say(observed, Weight::Doubt, Reason::ReportForged, "the report's records do not follow each other"),
        None => {}
    }
    controls(report, &id, observed);
    for note in &report.notes {
        if let Some((weight, reason, detail)) = by.weigh(note, &id) {
            say(observed, weight, reason, &detail);
        }
    }
    let meddled = report.notes.iter().any(|note| by.has_a_say(note));
    let unfounded: Vec<usize> = observed.results.keys().copied().filter(|index| report.unfounded(*index)).collect();
    for index in unfounded {
        // Plugins may take an exception for a pass; the diff may not.
        if let Some(result) = observed.results.get_mut(&index).filter(|result| meddled && result.status == TestStatus::Passed) {
            result.status = TestStatus::Failed;
            "reported as passed, but its function raised or was not called".clone_into(&mut result.message);
        }
        say(observed, Weight::Sign, Reason::RunnerHook, &format!("{}: a pass, but it raised or was not called", id(index)));
    }
}

fn say(observed: &mut Observed, weight: Weight, reason: Reason, detail: &str) {
    let list = match weight {
        Weight::Proof => &mut observed.proof,
        Weight::Doubt => &mut observed.doubt,
        Weight::Sign => &mut observed.signs,
    };
    list.push(Suspicion { reason, detail: detail[..detail.floor_char_boundary(DETAIL_MAX)].to_owned() });
}

fn controls<'a>(report: &Report, id: &impl Fn(usize) -> &'a str, observed: &mut Observed) {
    let passed = |control: &&Control| matches!(control.status(), TestStatus::Passed | TestStatus::Xpassed);
    for control in report.controls.iter().filter(passed) {
        let ran = if control.ran { "" } else { ", and was not called" };
        let detail = format!("a control at {} must be {:?}, and was reported as passed{ran}", id(control.test), control.wanted());
        say(observed, Weight::Proof, Reason::ControlPassed, &detail);
    }
    let (made, clear) =
        (report.controls_made.unwrap_or_default(), report.controls.iter().filter(|c| c.status() == c.wanted() || passed(c)).count() as u64);
    if clear < made && report.complete {
        let seen = report.controls.iter().find(|control| control.status() != control.wanted());
        let seen = seen.map(|control| format!(": {} was {:?}", id(control.test), control.status())).unwrap_or_default();
        say(
            observed,
            Weight::Sign,
            Reason::ControlUnclear,
            &format!("{} of {made} controls do not say whether failures are seen{seen}", made - clear),
        );
    }
}

/// Whose doing something is.
struct Origin<'a> {
    job: &'a Job<'a>,
    diff: Vec<Change<'a>>,
    golden: Vec<Change<'a>>,
}

impl Origin<'_> {
    fn weigh<'a>(&self, note: &Note, id: &impl Fn(usize) -> &'a str) -> Option<(Weight, Reason, String)> {
        let by = |file: &str| if file.is_empty() { "code of no file".to_owned() } else { file.to_owned() };
        Some(match note {
            Note::Moved { name, file } => (Weight::Proof, Reason::RunnerMoved, format!("{name} comes from {file}")),
            Note::Changed { name, file, mentions } => {
                let weight = match self.brought_in(name, file, *mentions) {
                    false if name == PLUGIN => Weight::Doubt,
                    false => Weight::Sign,
                    true if self.is_foreign(file) && !["builtins.", "sys."].iter().any(|place| name.starts_with(place)) => Weight::Proof,
                    true => Weight::Doubt,
                };
                (weight, Reason::RunnerChanged, format!("{name} was replaced by {}", by(file)))
            }
            Note::Hook { name, file, .. } if self.has_a_say(note) => (Weight::Sign, Reason::RunnerHook, format!("{name} in {}", by(file))),
            Note::Hook { .. } => return None,
            Note::Replaced { test, file } => (Weight::Doubt, Reason::TestReplaced, format!("{}: what ran is {}", id(*test), by(file))),
            Note::Wrapped { test, file, decorated, mentions } => {
                let weight = match self.is_changed(file) {
                    false => return None,
                    true if *decorated || !self.introduced("obj", file, *mentions) => Weight::Sign,
                    true => Weight::Doubt,
                };
                (weight, Reason::TestReplaced, format!("{}: within a function of {}", id(*test), by(file)))
            }
            Note::FileChanged { file } => (Weight::Doubt, Reason::TestFileChanged, file.clone()),
        })
    }

    /// A function that the diff brought in decides over what is reported.
    fn has_a_say(&self, note: &Note) -> bool {
        match note {
            Note::Changed { name, file, mentions } => self.brought_in(name, file, *mentions),
            Note::Hook { name, file, mentions } => self.is_changed(file) && self.introduced(name, file, *mentions),
            _ => false,
        }
    }

    /// The file is the diff's and not the golden patch's.
    fn is_foreign(&self, file: &str) -> bool {
        self.job.foreign_files.contains(&file)
    }

    /// The diff may have a part in what the file has.
    fn is_changed(&self, file: &str) -> bool {
        file.is_empty() || self.diff.iter().any(|change| change.paths.contains(file.as_bytes()))
    }

    /// The diff replaced the function: a file of its own did, or it reaches for the runner somewhere.
    fn brought_in(&self, name: &str, file: &str, mentions: usize) -> bool {
        self.introduced(name, file, mentions) && (self.is_foreign(file) || reaches(&self.diff, &self.job.instance.patch))
    }

    /// Neither the base nor the golden patch sets the attribute, or defines the hook.
    fn introduced(&self, name: &str, file: &str, mentions: usize) -> bool {
        let name = name.rsplit('.').next().unwrap_or(name);
        let added = |change: &Change<'_>| change.added.iter().filter(|line| sets(line, name)).count();
        let ours: usize = self.diff.iter().filter(|change| change.paths.contains(file.as_bytes())).map(added).sum();
        mentions <= ours && self.golden.iter().all(|change| added(change) == 0)
    }
}

/// The line looks like setting an attribute or defining a function of this name; as `mentions` of the plugin.
fn sets(line: &[u8], name: &str) -> bool {
    let forms = [
        format!(".{name} ="),
        format!(".{name}="),
        format!("'{name}'"),
        format!("\"{name}\""),
        format!("def {name}("),
        format!("sys.{name}("),
    ];
    forms.iter().any(|form| memchr::memmem::find(line, form.as_bytes()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Instance;
    use crate::grading::runner::Options;

    const INSTANCE: &str = r#"{"instance_id":"made","repo":"a/b","language":"python","workdir":"/w","image":"i","problem_statement":"p",
        "base_commit":"","fix_commit":"","patch":"","test_patch":"","test_script":"","fail_to_pass":["t.py::a"],"pass_to_pass":[],
        "pre_commands":"","url":""}"#;

    /// What becomes of one note under a diff that adds `added` to `p.py`.
    fn weighed(note: &str, added: &str, golden: &str, foreign: bool) -> Observed {
        let diff = |text: &str| format!("diff --git a/p.py b/p.py\n--- a/p.py\n+++ b/p.py\n@@ -1 +1,2 @@\n a\n+{text}\n");
        let mut instance: Instance = serde_json::from_str(INSTANCE).unwrap();
        if !golden.is_empty() {
            instance.patch = diff(golden);
        }
        let (diff, foreign_files) = (diff(added), ["p.py"]);
        let job = Job {
            instance: &instance,
            workdir: "/w",
            ids: &["t.py::a"],
            wanted: &[0],
            files: &["t.py"],
            foreign_files: if foreign { &foreign_files } else { &[] },
            diff: &diff,
            secret: "n",
            options: Options::Project,
            report_max: 1,
        };
        let lines = [
            r#""what": "begin", "pytest": "8", "python": "3""#,
            r#""what": "controls", "controls": 1"#,
            note,
            r#""what": "start", "test": 0"#,
            r#""what": "done", "test": 0, "ms": 1, "phases": "spcptp", "raw": "raised""#,
            r#""what": "control_start""#,
            r#""what": "control", "test": 0, "kind": "fail", "phases": "spcftp", "ran": true"#,
        ];
        let text: String = lines.iter().enumerate().map(|(seq, line)| format!("{{\"nonce\": \"n\", \"seq\": {seq}, {line}}}\n")).collect();
        let report = Report::parse(text.as_bytes(), "n", 1);
        assert_eq!(report.flaw, None, "{text}");
        let results = [(0, report.result(0).unwrap())].into();
        let mut observed = Observed { results, ..Observed::default() };
        judge(&report, &job, &mut observed);
        observed
    }

    const RUN: &str = r#""what": "changed", "name": "unittest.case.TestCase.run", "file": "p.py", "mentions": 1"#;

    #[test]
    fn a_replaced_function_weighs_by_who_brought_it_in() {
        let weight = |note: &str, added: &str, golden: &str, foreign| {
            let observed = weighed(note, added, golden, foreign);
            let has = |list: &[Suspicion]| list.iter().any(|s| s.reason == Reason::RunnerChanged);
            ([&observed.proof, &observed.doubt, &observed.signs].map(|list| has(list)), observed.results[&0].status)
        };
        let (proof, doubt, sign) = ([true, false, false], [false, true, false], [false, false, true]);
        use TestStatus::{Failed, Passed};
        let line = "unittest.TestCase.run = nothing";
        assert_eq!(weight(RUN, line, "", true), (proof, Failed));
        assert_eq!(weight(RUN, line, "", false), (doubt, Failed), "the golden patch changes the file as well");
        assert_eq!(weight(RUN, "x = 1", "", true), (sign, Passed), "the base has that line");
        assert_eq!(weight(RUN, line, line, true), (sign, Passed), "the golden patch has it");
        assert_eq!(weight(&RUN.replace("p.py", "other.py").replace("1", "0"), "x = 1", "", false), (sign, Passed));
        assert_eq!(weight(&RUN.replace("unittest.case.TestCase.run", "builtins.run"), line, "", true), (doubt, Failed));
        let nowhere = RUN.replace("p.py", "").replace("1", "0");
        assert_eq!(weight(&nowhere, line, "", false), (doubt, Failed), "code of no file");
        assert_eq!(weight(&nowhere, "x = 1", "", false), (sign, Passed));
    }

    #[test]
    fn hooks_that_the_diff_brings_in_may_not_take_an_exception_for_a_pass() {
        let hook = r#""what": "hook", "name": "pytest_runtest_makereport", "file": "p.py", "mentions": 1"#;
        let status = |added: &str| weighed(hook, added, "", false).results[&0].status;
        assert_eq!(status("def pytest_runtest_makereport(item):"), TestStatus::Failed);
        assert_eq!(status("    report.sections.append(1)"), TestStatus::Passed, "the product is a plugin that has the hook");
    }

    #[test]
    fn other_code_under_a_test_is_doubt() {
        let doubt = |note: &str| weighed(note, "x = 1", "", true).doubt.len();
        assert_eq!(doubt(r#""what": "replaced", "test": 0, "file": """#), 1);
        let wrapped = r#""what": "wrapped", "test": 0, "file": "p.py", "decorated": false, "mentions": 0"#;
        assert_eq!(doubt(wrapped), 1);
        assert_eq!(doubt(&wrapped.replace("false", "true")), 0, "the file of the test asks for it");
        assert_eq!(doubt(&wrapped.replace("p.py", "other.py")), 0, "the base's");
        assert_eq!(doubt(r#""what": "file_changed", "file": "t.py""#), 1);
    }
}
