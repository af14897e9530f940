//! Predictions as SWE-bench's harness loads them: plain `.jsonl`, one row an instance.
//!
//! The harness keeps one prediction an instance of a file, the last, and files its reports by model name: so each sample has a
//! file of its own and a model name of its own, `MODEL@SAMPLE`.

use super::{Reasoning, Unfit, row::put};
use crate::domain::{InstanceId, Trajectory};
use serde::Serialize;

#[derive(Serialize)]
struct Prediction<'t> {
    instance_id: &'t InstanceId,
    model_name_or_path: String,
    model_patch: &'t str,
}

/// A trajectory without a diff has a row too: the harness counts it as an empty patch.
pub(super) fn write(trajectory: &Trajectory, _reasoning: Reasoning, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let Trajectory { instance_id, model, sample, model_patch, .. } = trajectory;
    put(&Prediction { instance_id, model_name_or_path: format!("{model}@{sample}"), model_patch }, out)
}

/// Where the row goes: `preds-SAMPLE.jsonl`.
pub(super) fn file_name(trajectory: &Trajectory) -> String {
    format!("preds-{}.jsonl", trajectory.sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::steps::tests::{inline, native};
    use serde_json::{Value, json};

    #[test]
    fn each_sample_has_a_name_and_a_file_of_its_own() {
        for (trajectory, patch) in [(native(), "diff --git a/x b/x\n"), (inline(), "")] {
            let mut out = Vec::new();
            write(&trajectory, Reasoning::Keep, &mut out).unwrap();
            let row: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(row, json!({"instance_id": "o__r-1", "model_name_or_path": "org/m@2", "model_patch": patch}));
            assert_eq!(file_name(&trajectory), "preds-2.jsonl");
        }
    }
}
