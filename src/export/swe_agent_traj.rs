//! To be written.

use super::{Reasoning, Unfit};
use crate::domain::Trajectory;

pub(super) fn write(_trajectory: &Trajectory, _reasoning: Reasoning, _out: &mut Vec<u8>) -> Result<(), Unfit> {
    Err(Unfit("not written yet".into()))
}

/// `INSTANCE/INSTANCE@SAMPLE.traj`: SWE-agent's tools take the name without `.traj` for the episode's.
pub(super) fn file_name(trajectory: &Trajectory) -> String {
    let episode = &trajectory.trajectory_id.episode;
    format!("{}/{episode}.traj", episode.instance)
}
