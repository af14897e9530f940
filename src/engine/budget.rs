//! The run's budget around its endpoint: no request goes out beyond it.

use crate::{
    domain::{
        Failure, Kind,
        transcript::{Response, Usage},
    },
    endpoint::{ModelClient, ModelError, Request, price::Prices},
    scheduler::budget::{Budget, Ledger, Spend},
};
use futures_util::future::BoxFuture;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the run has spent and may spend, shared by all its requests.
pub(super) struct Purse {
    budget: Budget,
    prices: Prices,
    books: Mutex<Books>,
}

struct Books {
    ledger: Ledger,
    replies: u64,
    /// Of all replies together, as they were paid.
    paid: Spend,
    /// Of all replies together.
    completion_tokens: u64,
}

impl Purse {
    pub fn new(budget: Budget, prices: Prices) -> Self {
        let ledger = Ledger::new(budget, Spend::default());
        Purse { budget, prices, books: Mutex::new(Books { ledger, replies: 0, paid: Spend::default(), completion_tokens: 0 }) }
    }

    /// What the run paid before its first request of this opening.
    pub fn paid_before(&self, spent: Spend) {
        self.books().ledger = Ledger::new(self.budget, spent);
    }

    /// What was spent of which budget; empty where there is none.
    pub fn said(&self) -> String {
        self.budget.said(self.books().ledger.spent())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a prompt of so many tokens and the mean reply.
    fn reserve(&self, prompt_tokens: u64) -> Result<Reserved<'_>, Failure> {
        let mut books = self.books();
        let completion_tokens = books.completion_tokens.checked_div(books.replies).unwrap_or(0);
        let usage = Usage { prompt_tokens, completion_tokens, ..Usage::default() };
        let tokens = prompt_tokens.saturating_add(completion_tokens);
        // What was paid knows of caches and of endpoints with prices of their own; the table is for the first requests.
        let usd = match books.paid.tokens {
            0 => self.prices.cost(&usage),
            paid => books.paid.usd * tokens as f64 / paid as f64,
        };
        let estimate = Spend { usd, tokens };
        let refused = |spent| {
            let mend = "raise --budget-usd or --budget-tokens and run again: the run resumes";
            Failure::new(Kind::Budget, format!("the budget is spent, another request would go beyond it: {spent}; {mend}"))
        };
        books.ledger.reserve(estimate).map_err(refused)?;
        Ok(Reserved { purse: self, estimate, cost: Spend::default() })
    }
}

/// A request in flight. Whatever becomes of it, its estimate is given back.
struct Reserved<'a> {
    purse: &'a Purse,
    estimate: Spend,
    cost: Spend,
}

impl Reserved<'_> {
    fn replied(mut self, reply: &Response) {
        let counted = reply.usage.prompt_tokens.saturating_add(reply.usage.completion_tokens);
        // An endpoint that counts nothing is taken at the estimate.
        self.cost = Spend { usd: reply.cost_usd, tokens: if counted == 0 { self.estimate.tokens } else { counted } };
        {
            let mut books = self.purse.books();
            books.replies += 1;
            books.paid += self.cost;
            books.completion_tokens += reply.usage.completion_tokens;
        }
        drop(self);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.purse.books().ledger.settle(self.estimate, self.cost);
    }
}

/// The endpoint, as long as the budget lasts.
pub(super) struct Budgeted {
    client: Arc<dyn ModelClient>,
    purse: Arc<Purse>,
}

impl Budgeted {
    pub fn new(client: Arc<dyn ModelClient>, purse: Arc<Purse>) -> Self {
        Budgeted { client, purse }
    }
}

impl ModelClient for Budgeted {
    fn complete<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, ModelError>> {
        if !self.purse.budget.is_bounded() {
            return self.client.complete(request);
        }
        Box::pin(async move {
            let reserved = self.purse.reserve(request.estimate)?;
            let reply = self.client.complete(request).await?;
            reserved.replied(&reply);
            Ok(reply)
        })
    }
}
