//! What a reply costs. No prices are built in: they differ by host and change.

use crate::domain::transcript::Usage;
use serde::{Deserialize, Serialize};

/// US dollars for a million tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    pub input: f64,
    /// Of the prompt: what came from the endpoint's cache; absent: as `input`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<f64>,
    pub output: f64,
}

impl Prices {
    /// US dollars.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> f64 {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens - cached;
        let million = fresh as f64 * self.input
            + cached as f64 * self.cached_input.unwrap_or(self.input)
            + usage.completion_tokens as f64 * self.output;
        million / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_have_their_own_price() {
        let usage = Usage { prompt_tokens: 1_000_000, completion_tokens: 500_000, cached_tokens: 750_000, reasoning_tokens: 9 };
        let prices = Prices { input: 0.28, cached_input: Some(0.028), output: 0.42 };
        assert!((prices.cost(&usage) - (0.07 + 0.021 + 0.21)).abs() < 1e-9);
        assert!((Prices { cached_input: None, ..prices }.cost(&usage) - (0.28 + 0.21)).abs() < 1e-9);
        assert_eq!(Prices::default().cost(&usage), 0.0);
    }
}
