//! The course of one grading, as a state: which test process comes next, and what all of them came to.

use super::runner::{Found, Observed, Options, Said};
use super::verdict::decide;
use super::{Case, Settings};
use crate::domain::{Grade, Instance, Reason, Suspicion, TestResult, TestStatus};
use crate::toolbox::protocol::End;
use std::collections::{BTreeMap, BTreeSet};

/// Processes begun anew after a test took its own down. What has no status after them stays missing.
const RESTARTS: usize = 3;
/// Processes of their own, all of which tests have to pass in to be cleared of what the order of the first one did to them.
const ORDER_PROOFS: u32 = 2;
/// Bytes of all messages of one grade.
const MESSAGES_MAX: usize = 256 << 10;
/// Suspicions of one grade, and bytes of what one says.
const SUSPICIONS_MAX: usize = 100;
const DETAIL_MAX: usize = 300;
/// Versions of one grade, and bytes of a name and of a version.
const VERSIONS_MAX: usize = 20;
const VERSION_MAX: usize = 100;

/// The next test process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Indices of the ids to be run, ascending.
    pub wanted: Vec<usize>,
    pub options: Options,
    /// The ids have a status, which this process can only better.
    pub again: bool,
}

#[derive(Debug)]
pub struct Course<'a> {
    instance: &'a Instance,
    settings: &'a Settings,
    /// Listed ids in the given order, each once.
    ids: Vec<&'a str>,
    fail_to_pass: BTreeSet<&'a str>,
    known_flaky: BTreeSet<&'a str>,
    results: BTreeMap<usize, TestResult>,
    next: Option<Step>,
    complete: bool,
    restarts: usize,
    /// Processes in which all ids passed that may have failed by the order.
    order_proofs: u32,
    /// Tries that flaky ids had.
    flaky_tries: u32,
    /// No other try can turn the verdict.
    settled: bool,
    /// Flaky ids that passed in another try.
    flaky: BTreeSet<usize>,
    processes: u32,
    unlisted: u64,
    versions: BTreeMap<String, String>,
    /// Versions that were found before the diff came in.
    found: BTreeMap<String, String>,
    proof: BTreeSet<Suspicion>,
    doubt: BTreeSet<Suspicion>,
    signs: BTreeSet<Suspicion>,
    tests_ms: u64,
    output_tail: String,
}

impl<'a> Course<'a> {
    #[must_use]
    pub fn new(case: &Case<'a>, settings: &'a Settings) -> Self {
        let mut seen = BTreeSet::new();
        let ids: Vec<&str> = case.instance.test_ids().filter(|id| seen.insert(*id)).collect();
        Course {
            instance: case.instance,
            settings,
            fail_to_pass: case.instance.fail_to_pass.iter().map(String::as_str).collect(),
            known_flaky: case.flaky.iter().map(String::as_str).collect(),
            results: BTreeMap::new(),
            next: Some(Step { wanted: (0..ids.len()).collect(), options: Options::Project, again: false }),
            ids,
            complete: true,
            restarts: 0,
            order_proofs: 0,
            flaky_tries: 1,
            settled: false,
            flaky: BTreeSet::new(),
            processes: 0,
            unlisted: 0,
            versions: BTreeMap::new(),
            found: BTreeMap::new(),
            proof: BTreeSet::new(),
            doubt: BTreeSet::new(),
            signs: BTreeSet::new(),
            tests_ms: 0,
            output_tail: String::new(),
        }
    }

    #[must_use]
    pub fn ids(&self) -> &[&'a str] {
        &self.ids
    }

    /// None: all that can be known is.
    #[must_use]
    pub fn next(&self) -> Option<&Step> {
        self.next.as_ref()
    }

    #[must_use]
    pub fn tests_ms(&self) -> u64 {
        self.tests_ms
    }

    #[must_use]
    pub fn output_tail(&self) -> &str {
        &self.output_tail
    }

    /// Listed ids that have a status.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.results.len()
    }

    #[must_use]
    pub fn all_passed(&self) -> bool {
        self.complete && self.not_passed().is_empty()
    }

    /// The runner as it was before the diff came in: its word on versions weighs more than a test process's.
    pub fn found(&mut self, found: &Found) {
        self.found.clone_from(&found.versions);
    }

    /// What was seen outside of test processes, in the diff for one.
    pub fn suspect(&mut self, signs: impl IntoIterator<Item = Suspicion>) {
        self.signs.extend(signs);
    }

    /// Nothing can be run, and why.
    pub fn give_up(&mut self, why: &str) {
        self.next = None;
        self.output_tail.push_str(why);
    }

    /// The step's process has ended.
    pub fn add(&mut self, mut observed: Observed, said: &Said<'_>) {
        let Some(step) = self.next.take() else { return };
        self.processes += 1;
        self.tests_ms += said.duration_ms;
        let running = observed.running.and_then(|index| self.ids.get(index)).copied();
        self.note(said, &observed.printed, running);
        if step.wanted.len() == self.ids.len() {
            self.unlisted = observed.unlisted;
        }
        self.versions.extend(std::mem::take(&mut observed.versions));
        self.proof.extend(std::mem::take(&mut observed.proof));
        self.doubt.extend(std::mem::take(&mut observed.doubt));
        self.signs.extend(std::mem::take(&mut observed.signs));
        if step.again {
            self.retried(&step.wanted, &observed, said);
        } else {
            self.ran(&step, observed, said);
        }
        if self.next.is_none() {
            let wanted = self.retry().unwrap_or_default();
            self.next = (!wanted.is_empty()).then_some(Step { wanted, options: step.options, again: true });
        }
    }

    fn ran(&mut self, step: &Step, observed: Observed, said: &Said<'_>) {
        for (index, result) in observed.results.into_iter().filter(|(index, _)| step.wanted.binary_search(index).is_ok()) {
            self.results.entry(index).or_insert(result);
        }
        let again = observed.unusable && step.options == Options::Project && self.restarts == 0;
        // A runner that the diff broke says so, and no id of it passes.
        let broken = !observed.begun && !matches!(said.end, End::Exited(0));
        self.complete &= observed.complete || again || broken;
        if !observed.complete && !again && !broken {
            let detail = format!("a test process ended ({}) without ending its report", ending(said.end));
            self.signs.insert(Suspicion { reason: Reason::ReportCut, detail });
        }
        if again {
            self.next = Some(Step { options: Options::None, ..step.clone() });
        } else if observed.running.is_some() && self.restarts < RESTARTS {
            self.restarts += 1;
            let wanted: Vec<usize> = step.wanted.iter().copied().filter(|index| !self.results.contains_key(index)).collect();
            self.next = (!wanted.is_empty()).then_some(Step { wanted, options: step.options, again: false });
        }
    }

    fn not_passed(&self) -> Vec<usize> {
        let passed = |index: &usize| self.results.get(index).is_some_and(|result| result.status == TestStatus::Passed);
        (0..self.ids.len()).filter(|index| !passed(index)).collect()
    }

    /// The ids to be run again, where that may turn the verdict; `docs/grading.md` says why these.
    fn retry(&self) -> Option<Vec<usize>> {
        let clean = self.complete && self.restarts == 0 && self.proof.is_empty() && self.doubt.is_empty();
        let not_passed = self.not_passed();
        if !clean || self.settled || not_passed.iter().any(|index| self.fail_to_pass.contains(self.ids[*index])) {
            return None;
        }
        let (flaky, others): (Vec<usize>, Vec<usize>) =
            not_passed.into_iter().partition(|index| self.known_flaky.contains(self.ids[*index]));
        if others.is_empty() {
            return (self.flaky_tries < self.settings.flaky_tries).then_some(flaky);
        }
        let ran = |index: &usize| self.results.get(index).is_some_and(|r| matches!(r.status, TestStatus::Failed | TestStatus::Error));
        // A command of the instance's own runs all of its tests, never some alone.
        let few = others.len() <= self.settings.order_retry_max && !self.instance.has_command();
        (few && others.iter().all(ran)).then_some(others)
    }

    fn retried(&mut self, wanted: &[usize], observed: &Observed, said: &Said<'_>) {
        let mut passed = BTreeSet::new();
        for (index, tried) in observed.results.iter().filter(|(index, _)| wanted.binary_search(index).is_ok()) {
            self.results.entry(*index).or_insert_with(TestResult::missing).tries += 1;
            if tried.status == TestStatus::Passed && observed.complete {
                passed.insert(*index);
            }
        }
        self.settled = said.end == End::TimedOut;
        if wanted.iter().all(|index| self.known_flaky.contains(self.ids[*index])) {
            self.flaky_tries += 1;
            self.flaky.extend(&passed);
            self.pass(passed);
        } else if passed.len() < wanted.len() {
            self.settled = true;
        } else {
            self.order_proofs += 1;
            if self.order_proofs == ORDER_PROOFS {
                let sign = |index: &usize| Suspicion { reason: Reason::PassedOnRetry, detail: self.ids[*index].to_owned() };
                self.signs.extend(passed.iter().map(sign));
                self.pass(passed);
            }
        }
    }

    fn pass(&mut self, indices: BTreeSet<usize>) {
        for index in indices {
            if let Some(result) = self.results.get_mut(&index) {
                result.status = TestStatus::Passed;
            }
        }
    }

    /// Keeps the end of what was written, and says how it ended.
    fn note(&mut self, said: &Said<'_>, printed: &str, running: Option<&str>) {
        let output = String::from_utf8_lossy(said.output);
        let running = running.map(|id| format!(" while {id} ran")).unwrap_or_default();
        self.output_tail.push_str(&format!("{printed}{output}\n[the test runner {}{running}]\n", ending(said.end)));
        let excess = self.output_tail.len().saturating_sub(self.settings.output_tail_bytes);
        self.output_tail.drain(..self.output_tail.ceil_char_boundary(excess));
    }

    /// The grade, without what only the grader knows: digests, times of the whole, memory.
    #[must_use]
    pub fn finish(mut self) -> Grade {
        let verdict = decide(self.ids.len(), &self.results, self.complete, !self.proof.is_empty(), !self.doubt.is_empty());
        let mut room = MESSAGES_MAX;
        for result in self.results.values_mut() {
            cut(&mut result.message, room);
            room -= result.message.len();
        }
        let results = self.results.into_iter().filter_map(|(index, result)| Some(((*self.ids.get(index)?).to_owned(), result))).collect();
        let mut grade = Grade::new(self.instance, verdict, results);
        grade.unlisted = self.unlisted;
        grade.flaky = self.flaky.into_iter().map(|index| self.ids[index].to_owned()).collect();
        grade.suspect = self.proof.into_iter().chain(self.doubt).chain(self.signs).take(SUSPICIONS_MAX).collect();
        grade.suspect.iter_mut().for_each(|suspicion| cut(&mut suspicion.detail, DETAIL_MAX));
        self.versions.extend(self.found);
        let fits = |(name, version): &(String, String)| name.len().max(version.len()) <= VERSION_MAX;
        grade.with.versions = self.versions.into_iter().filter(fits).take(VERSIONS_MAX).collect();
        grade.tests_ms = self.tests_ms;
        grade.processes = self.processes;
        grade.output_tail = self.output_tail;
        grade
    }
}

fn cut(text: &mut String, max: usize) {
    text.truncate(text.floor_char_boundary(max));
}

fn ending(end: End) -> String {
    match end {
        End::Exited(code) => format!("exited with {code}"),
        End::Signaled(signal) => format!("was killed by signal {signal}"),
        End::TimedOut => "was killed at its deadline".to_owned(),
    }
}

#[cfg(test)]
mod tests;
