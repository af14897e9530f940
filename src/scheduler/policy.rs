//! How much at once, how often again, how long between.

use super::{budget::Budget, images};
use crate::domain::{Disposition, Failure, Kind};
use serde::{Deserialize, Serialize};

/// Bounds of the schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Agents at work at once, each with one sandbox.
    pub concurrency: usize,
    /// Episodes that are begun a second; 0: no bound. Each takes some 0.3 ms of the engine's processor time besides its sandbox: thousands
    /// at the same moment would hold up those at work.
    pub starts_per_s: u32,
    /// Gradings at once, each with one sandbox; 0: as many as the sandboxes' host can hold, one a processor and
    /// `sandbox.limits.memory` each, but no more than agents.
    pub graders: usize,
    /// Attempts waiting to be graded beyond which no episode is begun; 0: twice the graders.
    pub grade_backlog: usize,
    /// Attempts an episode gets in one opening of the run.
    pub max_attempts: u32,
    /// Gradings an attempt gets.
    pub max_gradings: u32,
    /// Milliseconds before a second attempt; doubles up to `retry_cap_ms`.
    pub retry_base_ms: u64,
    pub retry_cap_ms: u64,
    /// Attempts that fail in a row, of any episode, before the run stops itself; 0: twice the concurrency and ten more.
    pub circuit_breaker: u32,
    /// Failures stop neither the run nor their instance: no circuit breaker, no quarantine. What concerns the whole run, such as a key
    /// that is refused, still does.
    pub keep_going: bool,
    /// Once so many samples of an instance are resolved, its others are not begun; 0: all are.
    pub until_resolved: u32,
    /// US dollars that the whole run may spend, by `endpoint.prices`, all its openings together; 0: no bound.
    pub budget_usd: f64,
    /// Tokens, prompts and replies together, in the same way; 0: no bound.
    pub budget_tokens: u64,
    pub order: Order,
    /// Of fetching images, where some of them are not there.
    pub images: images::Settings,
}

/// In which order episodes are begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// All samples of an instance one after the other, the instances by their images' names, so that those that share layers are near.
    Image,
    /// All samples of an instance one after the other, the instances as in the dataset.
    Instance,
    /// Every instance's first sample, then every second one; the last of them the longest first, by the samples before them. Where images have to be fetched, the samples of an instance are begun
    /// together all the same: each image is fetched once.
    Sample,
    /// `image` where images have to be fetched, else `sample`.
    #[default]
    Auto,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            concurrency: 16,
            starts_per_s: 1000,
            graders: 0,
            grade_backlog: 0,
            max_attempts: 3,
            max_gradings: 2,
            retry_base_ms: 2_000,
            retry_cap_ms: 60_000,
            circuit_breaker: 0,
            keep_going: false,
            until_resolved: 0,
            budget_usd: 0.0,
            budget_tokens: 0,
            order: Order::Auto,
            images: images::Settings::default(),
        }
    }
}

impl Policy {
    /// With as many graders as `room` says, unless they are set: no more than agents, which could not keep them busy.
    #[must_use]
    pub fn fitted(mut self, room: Option<usize>) -> Self {
        if let (0, Some(room)) = (self.graders, room) {
            self.graders = room.clamp(1, self.concurrency.max(1));
        }
        self
    }

    /// As many as agents where nothing else is known.
    #[must_use]
    pub fn grader_slots(&self) -> usize {
        if self.graders == 0 { self.concurrency.max(1) } else { self.graders }
    }

    #[must_use]
    pub fn backlog_limit(&self) -> usize {
        if self.grade_backlog == 0 { 2 * self.grader_slots() } else { self.grade_backlog }
    }

    #[must_use]
    pub fn breaker(&self) -> u32 {
        if self.circuit_breaker == 0 { 2 * self.concurrency as u32 + 10 } else { self.circuit_breaker }
    }

    #[must_use]
    pub fn budget(&self) -> Budget {
        Budget { usd: self.budget_usd, tokens: self.budget_tokens }
    }

    /// Milliseconds to wait before attempt number `tries + 1`.
    #[must_use]
    pub fn retry_delay(&self, tries: u32) -> u64 {
        let doublings = tries.saturating_sub(1).min(20);
        (self.retry_base_ms << doublings).min(self.retry_cap_ms)
    }

    /// What becomes of a failed attempt that is the `tries`-th in this opening of the run.
    /// A panic gets one more attempt, whatever the bound.
    #[must_use]
    pub fn settle(&self, failure: &Failure, tries: u32) -> Disposition {
        let bound = if failure.kind == Kind::Panic { self.max_attempts.min(2) } else { self.max_attempts };
        match failure.kind.disposition() {
            Disposition::Retry if tries >= bound => Disposition::Final,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graders_fit_their_host_unless_they_are_set() {
        let slots = |graders, room| Policy { graders, concurrency: 8, ..Policy::default() }.fitted(room).grader_slots();
        assert_eq!([slots(0, Some(4)), slots(0, Some(64)), slots(0, Some(0)), slots(0, None)], [4, 8, 1, 8]);
        assert_eq!([slots(12, Some(4)), slots(2, Some(4)), slots(12, None)], [12, 2, 12]);
    }
}
