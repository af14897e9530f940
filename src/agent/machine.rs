//! The turn state machine: pure. It is told what happened and says what to do next.

use crate::domain::ExitReason;
use serde::{Deserialize, Serialize};

/// When an episode ends though the model did not say so. Zero means no limit where the unit is tokens, dollars or seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Replies of the model.
    pub turns: u32,
    /// Tokens of one prompt; the next prompt is estimated before it is sent.
    pub prompt_tokens: u64,
    /// Tokens of all replies together.
    pub completion_tokens: u64,
    /// Dollars an episode, by the endpoint's price table.
    pub cost_usd: f64,
    /// Seconds from the first prompt, waiting for the endpoint's limits and retries not counted.
    pub wall_time_s: u64,
    /// Replies without a call, no good one between them, that are answered with a reminder; one more ends the episode.
    pub reminders: u32,
    /// Turns in a row whose every call is malformed; one more ends the episode.
    pub malformed_turns: u32,
    /// Replies cut by length, no good one between them; one more ends the episode.
    pub length_cuts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            turns: 100,
            prompt_tokens: 120_000,
            completion_tokens: 0,
            cost_usd: 0.0,
            wall_time_s: 3 * 3600,
            reminders: 2,
            malformed_turns: 4,
            length_cuts: 2,
        }
    }
}

/// What the episode has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    pub turns: u32,
    pub completion_tokens: u64,
    pub cost_usd: f64,
    /// Seconds since the first prompt, without those spent waiting.
    pub wall_s: u64,
    /// Estimated tokens of the next prompt.
    pub next_prompt: u64,
}

/// What a reply held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Calls,
    NoCall,
    /// Cut by length: whatever calls it holds are not executed.
    Cut,
}

/// What to do with a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Act,
    /// Teach the call format.
    Remind,
    /// Say that the reply was cut and none of its calls ran.
    ExplainCut,
    Exit(ExitReason),
}

/// Streaks of unusable replies; everything else is in [`Spent`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    no_call: u32,
    malformed: u32,
    cut: u32,
}

impl Machine {
    /// Before each request: does a limit end the episode?
    #[must_use]
    pub fn before_turn(&self, limits: &Limits, spent: Spent) -> Option<ExitReason> {
        let over = |used: u64, limit: u64| limit > 0 && used >= limit;
        if spent.turns >= limits.turns {
            Some(ExitReason::TurnLimit)
        } else if over(spent.wall_s, limits.wall_time_s) {
            Some(ExitReason::WallTimeLimit)
        } else if limits.cost_usd > 0.0 && spent.cost_usd >= limits.cost_usd {
            Some(ExitReason::CostLimit)
        } else if over(spent.completion_tokens, limits.completion_tokens) {
            Some(ExitReason::CompletionTokenLimit)
        } else if limits.prompt_tokens > 0 && spent.next_prompt > limits.prompt_tokens {
            Some(ExitReason::PromptTokenLimit)
        } else {
            None
        }
    }

    pub fn replied(&mut self, limits: &Limits, reply: Reply) -> Next {
        let bounded = |streak: &mut u32, limit: u32, teach: Next, exit: ExitReason| {
            *streak += 1;
            if *streak > limit { Next::Exit(exit) } else { teach }
        };
        match reply {
            Reply::Calls => {
                self.no_call = 0;
                self.cut = 0;
                Next::Act
            }
            Reply::NoCall => bounded(&mut self.no_call, limits.reminders, Next::Remind, ExitReason::NoToolCall),
            Reply::Cut => bounded(&mut self.cut, limits.length_cuts, Next::ExplainCut, ExitReason::LengthCut),
        }
    }

    /// After the calls of a turn were answered.
    pub fn acted(&mut self, limits: &Limits, all_malformed: bool) -> Option<ExitReason> {
        self.malformed = if all_malformed { self.malformed + 1 } else { 0 };
        (self.malformed > limits.malformed_turns).then_some(ExitReason::MalformedCalls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_own_exit() {
        let limits = Limits { completion_tokens: 50, cost_usd: 1.0, wall_time_s: 60, prompt_tokens: 1000, turns: 3, ..Limits::default() };
        let spent = Spent { turns: 2, completion_tokens: 49, cost_usd: 0.9, wall_s: 59, next_prompt: 1000 };
        let exit = |spent| Machine::default().before_turn(&limits, spent);
        assert_eq!(exit(spent), None);
        assert_eq!(exit(Spent { turns: 3, ..spent }), Some(ExitReason::TurnLimit));
        assert_eq!(exit(Spent { wall_s: 60, ..spent }), Some(ExitReason::WallTimeLimit));
        assert_eq!(exit(Spent { cost_usd: 1.0, ..spent }), Some(ExitReason::CostLimit));
        assert_eq!(exit(Spent { completion_tokens: 50, ..spent }), Some(ExitReason::CompletionTokenLimit));
        assert_eq!(exit(Spent { next_prompt: 1001, ..spent }), Some(ExitReason::PromptTokenLimit));
    }

    #[test]
    fn zero_is_no_limit() {
        let limits = Limits { completion_tokens: 0, cost_usd: 0.0, wall_time_s: 0, prompt_tokens: 0, ..Limits::default() };
        let spent = Spent { turns: 0, completion_tokens: u64::MAX, cost_usd: f64::MAX, wall_s: u64::MAX, next_prompt: u64::MAX };
        assert_eq!(Machine::default().before_turn(&limits, spent), None);
    }

    #[test]
    fn unusable_replies_are_bounded_and_a_good_one_starts_anew() {
        let limits = Limits { reminders: 1, length_cuts: 1, malformed_turns: 1, ..Limits::default() };
        let mut machine = Machine::default();
        assert_eq!(machine.replied(&limits, Reply::NoCall), Next::Remind);
        assert_eq!(machine.replied(&limits, Reply::Calls), Next::Act);
        assert_eq!(machine.replied(&limits, Reply::NoCall), Next::Remind);
        assert_eq!(machine.replied(&limits, Reply::Cut), Next::ExplainCut);
        assert_eq!(machine.replied(&limits, Reply::NoCall), Next::Exit(ExitReason::NoToolCall));
        assert_eq!(machine.replied(&limits, Reply::Cut), Next::Exit(ExitReason::LengthCut));
        assert_eq!(machine.acted(&limits, true), None);
        assert_eq!(machine.acted(&limits, false), None);
        assert_eq!(machine.acted(&limits, true), None);
        assert_eq!(machine.acted(&limits, true), Some(ExitReason::MalformedCalls));
    }
}
