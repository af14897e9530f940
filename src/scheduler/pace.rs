//! How long the episodes of each instance take, so that at the end of a run the long ones are not begun last. Pure.

use crate::domain::InstanceId;
use std::collections::HashMap;

/// Waves of episodes, each as many as agents at once, that are left when the first of them are put in order; again when half of them are
/// left, and so on, as more is known. In a simulation of 25,000 instances with 5 samples at 2,000 at once, half of whose spread is the
/// instances' own, a run of 29.4 h then ends after 28.0 h.
const WAVES: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Milliseconds together, and of how many.
    took: HashMap<InstanceId, (u64, u64)>,
    /// As many were left when they were last put in order.
    ordered_at: Option<usize>,
}

impl Pace {
    pub fn ended(&mut self, instance: &InstanceId, took_ms: u64) {
        match self.took.get_mut(instance) {
            Some((sum_ms, n)) => (*sum_ms, *n) = (*sum_ms + took_ms, *n + 1),
            None => drop(self.took.insert(instance.clone(), (took_ms, 1))),
        }
    }

    /// Whether those that are left should be put in order now.
    pub fn is_time(&mut self, left: usize, concurrency: usize) -> bool {
        let is_time = left > 1 && left <= self.ordered_at.map_or(WAVES * concurrency, |last| last / 2);
        self.ordered_at = if is_time { Some(left) } else { self.ordered_at };
        is_time
    }

    /// Milliseconds; what is not known may be long.
    pub fn expected_ms(&self, instance: &InstanceId) -> u64 {
        self.took.get(instance).map_or(u64::MAX, |(sum_ms, n)| sum_ms / n)
    }
}
