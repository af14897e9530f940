//! The door, the machine and the schedule of a serving endpoint under one clock.

use super::{
    brownout::{self, Brownout, Trouble},
    chance::Digest,
    queue::{Block, Queue, Service},
    rate::{self, Allowance, Hint, Rate},
    reply::{Tokens, size},
    wire::Message,
};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

#[derive(Debug)]
pub struct Capacity {
    began: Instant,
    brownouts: Vec<Brownout>,
    hint: Hint,
    latency: Duration,
    doors: Mutex<Doors>,
}

#[derive(Debug)]
struct Doors {
    rate: Rate,
    queue: Option<Queue>,
}

/// A request that is not let in.
#[derive(Debug)]
pub struct Denied {
    pub status: u16,
    pub message: String,
    /// For the counters.
    pub why: String,
    pub headers: Box<HeaderMap>,
}

/// A request that was let in, until this is dropped.
#[derive(Debug)]
pub struct Inside<'a> {
    capacity: &'a Capacity,
    /// Share of the usual speed.
    speed: f64,
}

impl Capacity {
    pub fn new(limits: rate::Limits, service: Service, brownouts: &[Brownout], latency: Duration) -> Self {
        let doors = Doors { rate: Rate::new(limits), queue: Queue::new(service) };
        Capacity { began: Instant::now(), brownouts: brownouts.to_vec(), hint: limits.hint, latency, doors: Mutex::new(doors) }
    }

    /// Each operation is whole before anything can panic.
    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets in a request whose prompt has so many tokens.
    ///
    /// # Errors
    /// What the client is told.
    pub fn enter(&self, tokens: u64) -> Result<Inside<'_>, Denied> {
        let now = self.began.elapsed();
        let speed = match brownout::at(&self.brownouts, now) {
            Some(Trouble::Refuse(status)) => {
                let message = "The server is overloaded. Please try again later.".to_owned();
                return Err(Denied { status, message, why: "brown-out".to_owned(), headers: Box::default() });
            }
            Some(Trouble::Slow(share)) => share,
            None => 1.0,
        };
        let entered = self.doors().rate.enter(tokens, now);
        entered.map(|()| Inside { capacity: self, speed }).map_err(|refused| {
            let mut headers = self.allowances();
            if self.hint != Hint::None {
                headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(refused.retry_after)));
            }
            let message =
                format!("Rate limit reached for {}. Please try again in {:.3}s.", refused.limit, refused.retry_after.as_secs_f64());
            Denied { status: 429, message, why: refused.limit.to_string(), headers: Box::new(headers) }
        })
    }

    /// The `x-ratelimit-*` headers as OpenAI has them.
    pub fn allowances(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.hint != Hint::Full {
            return headers;
        }
        let names = [
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
        ];
        let allowances = self.doors().rate.allowances(self.began.elapsed());
        for ([limit, remaining, reset], allowance) in names.into_iter().zip(allowances) {
            let Some(Allowance { limit: most, remaining: left, reset: until }) = allowance else { continue };
            headers.insert(HeaderName::from_static(limit), HeaderValue::from(most));
            headers.insert(HeaderName::from_static(remaining), HeaderValue::from(left));
            if let Ok(until) = HeaderValue::try_from(format!("{:.3}s", until.as_secs_f64())) {
                headers.insert(HeaderName::from_static(reset), until);
            }
        }
        headers
    }
}

/// At least one: `Retry-After` has no smaller ones.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs_f64().ceil() as u64).max(1)
}

impl Inside<'_> {
    /// Tokens of the prompt that are cached; none where no machine is modelled.
    pub fn cached(&self, messages: &[Message], tools: Option<&str>) -> Option<u64> {
        self.capacity.doors().queue.as_mut().map(|queue| queue.cached(&blocks(messages, tools)))
    }

    /// How long the reply takes besides the usual latency.
    pub fn serve(&self, tokens: Tokens) -> Duration {
        let now = self.capacity.began.elapsed();
        let mut doors = self.capacity.doors();
        doors.rate.charge(tokens.completion);
        let prefill = tokens.prompt.saturating_sub(tokens.cached);
        let served =
            doors.queue.as_mut().map_or(Duration::ZERO, |queue| queue.serve(prefill, tokens.completion, self.speed, now).ends - now);
        served + self.capacity.latency.mul_f64((1.0 / self.speed - 1.0).min(1e6))
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.capacity.doors().rate.leave();
    }
}

/// The tools, then each message.
fn blocks(messages: &[Message], tools: Option<&str>) -> Vec<Block> {
    let block = |digest: &mut Digest, bytes: usize| Block { digest: digest.value(), tokens: bytes.div_ceil(4) as u64 };
    let mut digest = Digest::default().add(tools.unwrap_or_default());
    let first = block(&mut digest, tools.map_or(0, str::len));
    let rest = messages.iter().map(|message| {
        digest = super::pairing::extend(digest, message);
        block(&mut digest, size(message))
    });
    std::iter::once(first).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, text: &str) -> Message {
        Message { role: role.into(), content: Some(text.into()), ..Message::default() }
    }

    #[test]
    fn a_conversation_is_known_by_its_prefix() {
        let service = Service { slots: 1, ..Service::default() };
        let capacity = Capacity::new(rate::Limits::default(), service, &[], Duration::ZERO);
        let inside = capacity.enter(1).unwrap();
        let talk = [message("system", "abcdefgh"), message("user", "what is it?"), message("assistant", "this"), message("user", "no")];
        let tools = Some("[{}]");
        assert_eq!([inside.cached(&talk[..2], tools), inside.cached(&talk, tools)], [Some(0), Some(1 + 2 + 3)]);
        assert_eq!(inside.cached(&talk, None), Some(0), "other tools, another prompt");
        assert!(inside.serve(Tokens { completion: 60, ..Tokens::default() }).as_secs_f64() > 0.9);
    }

    #[test]
    fn a_refusal_tells_when_to_come_again() {
        let limits = rate::Limits { requests_per_minute: 60, burst: 1, ..rate::Limits::default() };
        let told = |hint| {
            let capacity = Capacity::new(rate::Limits { hint, ..limits }, Service::default(), &[], Duration::ZERO);
            drop(capacity.enter(1).unwrap());
            let denied = capacity.enter(1).unwrap_err();
            assert_eq!(denied.status, 429);
            ["retry-after", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"]
                .map(|name| denied.headers.get(name).map_or("", |v| v.to_str().unwrap()).to_owned())
        };
        assert_eq!(told(Hint::Full), ["1", "60", "0"]);
        assert_eq!(told(Hint::RetryAfter), ["1", "", ""]);
        assert_eq!(told(Hint::None), ["", "", ""]);
    }

    #[test]
    fn a_brown_out_refuses_or_slows() {
        let brownout = |what: &str| [format!("0,60,{what}").parse().unwrap()];
        let capacity = |what: &str| Capacity::new(rate::Limits::default(), Service::default(), &brownout(what), Duration::from_secs(2));
        assert_eq!(capacity("429").enter(1).unwrap_err().status, 429);
        assert_eq!(capacity("0.25").enter(1).unwrap().serve(Tokens::default()), Duration::from_secs(6));
    }
}
