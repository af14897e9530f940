//! To be written.

use super::{Reasoning, Unfit};
use crate::domain::Trajectory;

pub(super) fn write(_trajectory: &Trajectory, _reasoning: Reasoning, _out: &mut Vec<u8>) -> Result<(), Unfit> {
    Err(Unfit("not written yet".into()))
}
