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

#[cfg(test)]
mod tests {
    use super::*;
    use TestStatus::*;

    fn instance(fail_to_pass: &[&str], pass_to_pass: &[&str]) -> Instance {
        let list = |ids: &[&str]| serde_json::json!(ids);
        let mut row = serde_json::json!({ "instance_id": "i" });
        for key in ["repo", "language", "workdir", "image", "problem_statement", "base_commit", "fix_commit", "patch", "test_patch"] {
            row[key] = "".into();
        }
        for key in ["test_script", "pre_commands", "url"] {
            row[key] = "".into();
        }
        (row["fail_to_pass"], row["pass_to_pass"]) = (list(fail_to_pass), list(pass_to_pass));
        serde_json::from_value(row).unwrap()
    }

    fn of(statuses: &[(&str, TestStatus)], complete: bool) -> Grade {
        verdict(&instance(&["a"], &["b"]), &statuses.iter().copied().collect(), complete, Circumstances::default())
    }

    #[test]
    fn only_passed_is_passed() {
        assert!(of(&[("a", Passed), ("b", Passed)], true).resolved);
        for status in [Failed, Error, Skipped, Xfailed, Xpassed, Missing] {
            assert!(!of(&[("a", Passed), ("b", status)], true).resolved, "{status:?}");
            assert!(!of(&[("a", status), ("b", Passed)], true).resolved, "{status:?}");
        }
        let absent = of(&[("a", Passed)], true);
        assert!(!absent.resolved && absent.tests["b"] == Missing);
    }

    #[test]
    fn an_incomplete_report_never_resolves() {
        let grade = of(&[("a", Passed), ("b", Passed)], false);
        assert!(!grade.resolved);
        assert_eq!((grade.fail_to_pass.passed, grade.pass_to_pass.passed), (1, 1));
    }

    #[test]
    fn pass_to_pass_may_be_empty_but_not_both() {
        let passed: BTreeMap<&str, TestStatus> = [("a", Passed)].into();
        assert!(verdict(&instance(&["a"], &[]), &passed, true, Circumstances::default()).resolved);
        assert!(!verdict(&instance(&[], &[]), &passed, true, Circumstances::default()).resolved);
        assert!(!empty_diff(&instance(&["a"], &[])).resolved);
    }
}
