//! From statuses to the verdict.

use crate::domain::{Grade, Instance, TestStatus, grade::Tally};
use std::collections::BTreeMap;

/// Why nothing was run, where the diff is empty.
pub const EMPTY_DIFF: &str = "not run: the diff is empty";

/// How long it took, milliseconds, and what the runner wrote last.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    pub duration_ms: u64,
    pub tests_ms: u64,
    pub output_tail: String,
}

/// Resolved where every listed id passed and the report is complete. Ids that `statuses` does not have are missing.
#[must_use]
pub fn verdict(instance: &Instance, statuses: &BTreeMap<&str, TestStatus>, complete: bool, circumstances: Circumstances) -> Grade {
    let status = |id: &str| statuses.get(id).copied().unwrap_or(TestStatus::Missing);
    let tally =
        |ids: &[String]| Tally { passed: ids.iter().filter(|id| status(id) == TestStatus::Passed).count() as u64, total: ids.len() as u64 };
    let (fail_to_pass, pass_to_pass) = (tally(&instance.fail_to_pass), tally(&instance.pass_to_pass));
    let total = fail_to_pass.total + pass_to_pass.total;
    Grade {
        resolved: complete && total > 0 && fail_to_pass.passed + pass_to_pass.passed == total,
        tests: instance.test_ids().map(|id| (id.to_owned(), status(id))).collect(),
        fail_to_pass,
        pass_to_pass,
        duration_ms: circumstances.duration_ms,
        tests_ms: circumstances.tests_ms,
        regrades: 0,
        output_tail: circumstances.output_tail,
    }
}

/// The verdict on a diff that changes nothing.
#[must_use]
pub fn empty_diff(instance: &Instance) -> Grade {
    verdict(instance, &BTreeMap::new(), false, Circumstances { output_tail: EMPTY_DIFF.to_owned(), ..Circumstances::default() })
}
