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
