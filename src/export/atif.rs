//! To be written.

use super::{Reasoning, Unfit};
use crate::domain::Trajectory;

pub(super) fn write(_trajectory: &Trajectory, _reasoning: Reasoning, _out: &mut Vec<u8>) -> Result<(), Unfit> {
    Err(Unfit("not written yet".into()))
}

/// `INSTANCE@SAMPLE/agent/trajectory.json`: where Harbor looks within a directory of trials.
pub(super) fn file_name(trajectory: &Trajectory) -> String {
    format!("{}/agent/trajectory.json", trajectory.trajectory_id.episode)
}
