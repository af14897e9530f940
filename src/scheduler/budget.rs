//! What a run may spend: a ledger that answers each request before it goes out, and a forecast of what another episode costs. Pure.

use std::ops::{Add, AddAssign, Sub};

/// What was paid, or is about to be.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spend {
    /// US dollars, by the endpoint's price table.
    pub usd: f64,
    /// Prompt and reply together.
    pub tokens: u64,
}

impl Add for Spend {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Spend { usd: self.usd + other.usd, tokens: self.tokens.saturating_add(other.tokens) }
    }
}

impl AddAssign for Spend {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Spend {
    type Output = Self;

    /// Never below zero.
    fn sub(self, other: Self) -> Self {
        Spend { usd: (self.usd - other.usd).max(0.0), tokens: self.tokens.saturating_sub(other.tokens) }
    }
}

impl Spend {
    fn times(self, n: f64) -> Self {
        Spend { usd: self.usd * n, tokens: (self.tokens as f64 * n) as u64 }
    }
}

/// Most that a run may spend in its whole life; zero: no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Budget {
    pub usd: f64,
    pub tokens: u64,
}

impl Budget {
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.usd > 0.0 || self.tokens > 0
    }

    fn allows(&self, spend: Spend) -> bool {
        (self.usd <= 0.0 || spend.usd <= self.usd) && (self.tokens == 0 || spend.tokens <= self.tokens)
    }

    fn is_reached(&self, spend: Spend) -> bool {
        (self.usd > 0.0 && spend.usd >= self.usd) || (self.tokens > 0 && spend.tokens >= self.tokens)
    }

    /// Such as `$9.98 of $10.00, 2034 of 2000 tokens (34 over)`; only what is bounded.
    #[must_use]
    pub fn said(&self, spent: Spend) -> String {
        let over = |is_over: bool, much: String| if is_over { format!(" ({much} over)") } else { String::new() };
        let usd_over = over(spent.usd > self.usd, format!("${:.4}", spent.usd - self.usd));
        let tokens_over = over(spent.tokens > self.tokens, spent.tokens.saturating_sub(self.tokens).to_string());
        let usd = (self.usd > 0.0).then(|| format!("${:.2} of ${:.2}{usd_over}", spent.usd, self.usd));
        let tokens = (self.tokens > 0).then(|| format!("{} of {} tokens{tokens_over}", spent.tokens, self.tokens));
        usd.into_iter().chain(tokens).collect::<Vec<_>>().join(", ")
    }
}

/// Of each request, before it goes out: is there money for it? What is in flight counts by its estimate until its price is known.
#[derive(Debug, Clone)]
pub struct Ledger {
    budget: Budget,
    spent: Spend,
    in_flight: Spend,
}

impl Ledger {
    /// `spent`: by the run so far, in all its openings.
    #[must_use]
    pub fn new(budget: Budget, spent: Spend) -> Self {
        Ledger { budget, spent, in_flight: Spend::default() }
    }

    #[must_use]
    pub fn spent(&self) -> Spend {
        self.spent
    }

    /// Whether a request of this estimate may go out; it then counts until [`Self::settle`].
    ///
    /// # Errors
    /// What was spent of the budget.
    pub fn reserve(&mut self, estimate: Spend) -> Result<(), String> {
        let held = self.spent + self.in_flight;
        if self.budget.is_reached(held) || !self.budget.allows(held + estimate) {
            return Err(self.budget.said(self.spent));
        }
        self.in_flight += estimate;
        Ok(())
    }

    /// The request came to its end and cost so much.
    pub fn settle(&mut self, estimate: Spend, cost: Spend) {
        self.in_flight = self.in_flight - estimate;
        self.spent += cost;
    }
}

/// Episodes at work at once, and no more, while nothing is known of what one costs.
const FIRST_WAVE: usize = 4;
/// After so many attempts their mean is taken twice; after ten times as many, for a tenth more than it is.
const WARY: f64 = 16.0;

/// Of each episode, before it is begun: is there money to finish it, beside those at work? By the mean of the attempts so far; the mean of
/// few says little, since the short ones end first, and is taken for more.
#[derive(Debug, Clone, Default)]
pub struct Forecast {
    budget: Budget,
    /// Of attempts that ended.
    spent: Spend,
    attempts: u64,
}

impl Forecast {
    #[must_use]
    pub fn new(budget: Budget, spent: Spend, attempts: u64) -> Self {
        Forecast { budget, spent, attempts }
    }

    pub fn ended(&mut self, cost: Spend) {
        // What failed before its first request says nothing of what an episode costs.
        if cost != Spend::default() {
            self.spent += cost;
            self.attempts += 1;
        }
    }

    /// Whether one more may begin beside `at_work` others.
    #[must_use]
    pub fn allows(&self, at_work: usize) -> bool {
        if !self.budget.is_bounded() {
            return true;
        }
        if self.budget.is_reached(self.spent) {
            return false;
        }
        if self.attempts == 0 {
            return at_work < FIRST_WAVE;
        }
        let mean = self.spent.times(1.0 / self.attempts as f64);
        let at_work = at_work as f64 * (1.0 + WARY / self.attempts as f64);
        self.budget.allows(self.spent + mean + mean.times(at_work))
    }

    /// Why not even one may begin.
    #[must_use]
    pub fn refusal(&self) -> String {
        let said = self.budget.said(self.spent);
        format!(
            "the budget is spent: {said}, and what is left of it would not finish another episode; raise --budget-usd or --budget-tokens"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(tokens: u64) -> Spend {
        Spend { usd: 0.0, tokens }
    }

    const BUDGET: Budget = Budget { usd: 0.0, tokens: 100 };

    #[test]
    fn what_is_in_flight_counts_by_its_estimate() {
        let mut ledger = Ledger::new(BUDGET, tokens(40));
        assert_eq!(ledger.reserve(tokens(50)), Ok(()));
        assert_eq!(ledger.reserve(tokens(20)), Err("40 of 100 tokens".to_owned()));
        ledger.settle(tokens(50), tokens(30));
        assert_eq!(ledger.reserve(tokens(20)), Ok(()));
        ledger.settle(tokens(20), tokens(30));
        assert_eq!(ledger.reserve(tokens(0)), Err("100 of 100 tokens".to_owned()), "a spent budget allows nothing, whatever the estimate");
    }

    #[test]
    fn dollars_and_tokens_bound_each_by_itself() {
        let spent = Spend { usd: 1.0, tokens: 100 };
        let reserve = |budget| Ledger::new(budget, spent).reserve(Spend { usd: 0.1, tokens: 10 }).is_ok();
        assert!(reserve(Budget::default()));
        assert!(reserve(Budget { usd: 1.2, tokens: 0 }) && !reserve(Budget { usd: 1.05, tokens: 0 }));
        assert_eq!(Budget { usd: 1.0, tokens: 93 }.said(spent), "$1.00 of $1.00, 100 of 93 tokens (7 over)");
        assert!(reserve(Budget { usd: 0.0, tokens: 110 }) && !reserve(Budget { usd: 9.0, tokens: 109 }));
    }

    #[test]
    fn an_episode_is_begun_only_where_the_rest_would_finish_it() {
        let mut forecast = Forecast::new(BUDGET, Spend::default(), 0);
        assert!(forecast.allows(3) && !forecast.allows(4), "nothing is known yet: a first wave");
        forecast.ended(tokens(0));
        assert!(forecast.allows(3) && !forecast.allows(4), "nor does one that did not come to its first request tell");
        forecast.ended(tokens(25));
        assert_eq!([forecast.allows(0), forecast.allows(1)], [true, false], "one tells little of those at work");
        forecast.ended(tokens(60));
        assert!(!forecast.allows(0) && forecast.refusal().contains("85 of 100 tokens"));
    }

    #[test]
    fn those_at_work_are_taken_for_dear_until_many_have_ended() {
        let at_most = |attempts: u64, budget: u64| {
            let budget = Budget { usd: 0.0, tokens: budget + attempts * 10 };
            let forecast = Forecast::new(budget, tokens(attempts * 10), attempts);
            (0..10_000).find(|at_work| !forecast.allows(*at_work)).unwrap()
        };
        assert_eq!([at_most(1, 1000), at_most(16, 1000), at_most(160, 1000), at_most(16_000, 1000)], [6, 50, 91, 100]);
    }

    proptest! {
        /// Spent is at most the budget and what the requests in flight cost above their estimates.
        #[test]
        fn the_budget_is_overshot_by_no_more_than_what_is_in_flight(
            budget in 1u64..2000,
            requests in prop::collection::vec((1u64..60, 0u64..90, any::<prop::sample::Index>(), any::<bool>()), 1..300),
        ) {
            let mut ledger = Ledger::new(Budget { usd: 0.0, tokens: budget }, Spend::default());
            let mut in_flight: Vec<(u64, u64)> = Vec::new();
            let mut above = 0;
            for (estimate, cost, which, settle) in requests {
                if ledger.reserve(tokens(estimate)).is_ok() {
                    in_flight.push((estimate, cost));
                    above = 0;
                }
                if settle && !in_flight.is_empty() {
                    let (estimate, cost) = in_flight.swap_remove(which.index(in_flight.len()));
                    ledger.settle(tokens(estimate), tokens(cost));
                    above += cost.saturating_sub(estimate);
                }
                prop_assert!(ledger.spent().tokens <= budget + above);
            }
        }
    }
}
