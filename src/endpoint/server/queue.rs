//! How long a reply takes: a batch of slots, prefill one after the other, decoding that slows with the load, and a cache
//! of prefixes. First come first served. Pure: the time is an argument, a duration since any fixed moment.

use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    time::Duration,
};

/// Most slots of a batch, a bound of memory.
pub const MAX_SLOTS: u32 = 65_536;
/// Most blocks that are remembered, a bound of memory whatever the tokens: about 100 MB.
const MAX_BLOCKS: usize = 1 << 20;

/// The machine behind the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// Requests worked on at one time (the batch); others wait. 0: no model of service at all.
    pub slots: u32,
    /// Of all requests together; 0: prefill takes no time.
    pub prefill_tokens_per_s: f64,
    /// Of a request that is alone; 0: decoding takes no time.
    pub decode_tokens_per_s: f64,
    /// How much longer a token takes with every slot at work: 1 is twice as long, in proportion between.
    pub decode_slowdown: f64,
    /// Tokens of prompts that are remembered, the least recently used forgotten first.
    pub cache_tokens: u64,
}

impl Default for Service {
    fn default() -> Self {
        Service { slots: 0, prefill_tokens_per_s: 20_000.0, decode_tokens_per_s: 60.0, decode_slowdown: 1.0, cache_tokens: 4_000_000 }
    }
}

/// A part of a prompt that is cached or not as a whole: a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Of the prompt up to and with this part.
    pub digest: u64,
    /// Of this part.
    pub tokens: u64,
}

/// When a request is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// In a slot.
    pub begins: Duration,
    pub first_token: Duration,
    pub ends: Duration,
}

#[derive(Debug)]
pub struct Queue {
    service: Service,
    /// When each slot that was ever used is free.
    free_at: BinaryHeap<Reverse<Duration>>,
    prefill_free_at: Duration,
    cache: Cache,
}

impl Queue {
    /// None where the service has no slots.
    #[must_use]
    pub fn new(service: Service) -> Option<Self> {
        (service.slots > 0).then(|| Queue {
            service,
            free_at: BinaryHeap::new(),
            prefill_free_at: Duration::ZERO,
            cache: Cache { room: service.cache_tokens, ..Cache::default() },
        })
    }

    /// Tokens of the prompt that need no prefill; the whole of it is remembered.
    pub fn cached(&mut self, prompt: &[Block]) -> u64 {
        self.cache.take(prompt)
    }

    /// A request that comes now, at a share of the usual speed. A client that goes away frees no slot.
    pub fn serve(&mut self, prefill: u64, decode: u64, speed: f64, now: Duration) -> Times {
        let Service { slots, prefill_tokens_per_s, decode_tokens_per_s, decode_slowdown, .. } = self.service;
        let slots = slots.clamp(1, MAX_SLOTS);
        while self.free_at.peek().is_some_and(|free| free.0 <= now) {
            self.free_at.pop();
        }
        let full = self.free_at.len() >= slots as usize;
        let begins = if full { self.free_at.pop().map_or(now, |free| free.0) } else { now };
        let others = self.free_at.len() as f64 / f64::from(slots);
        let takes = |tokens: u64, per_s: f64| match per_s * speed {
            rate if rate > 0.0 => Duration::from_secs_f64((tokens as f64 / rate).min(86_400.0)),
            _ => Duration::ZERO,
        };
        let first_token = begins.max(self.prefill_free_at) + takes(prefill, prefill_tokens_per_s);
        self.prefill_free_at = first_token;
        let ends = first_token + takes(decode, decode_tokens_per_s / (1.0 + decode_slowdown * others));
        self.free_at.push(Reverse(ends));
        Times { begins, first_token, ends }
    }
}

/// Blocks by digest. A block is as recent as the last prompt with it, and more recent than those that follow it there, so
/// that a prompt is forgotten from its end.
#[derive(Debug, Default)]
struct Cache {
    room: u64,
    used: u64,
    /// Tokens of the block and its place in `order`.
    blocks: HashMap<u64, (u64, u64)>,
    order: BTreeMap<u64, u64>,
    clock: u64,
}

impl Cache {
    fn take(&mut self, prompt: &[Block]) -> u64 {
        let known = prompt.iter().take_while(|block| self.blocks.contains_key(&block.digest)).map(|block| block.tokens).sum();
        for block in prompt.iter().rev() {
            self.clock += 1;
            match self.blocks.insert(block.digest, (block.tokens, self.clock)) {
                Some((_, place)) => _ = self.order.remove(&place),
                None => self.used += block.tokens,
            }
            self.order.insert(self.clock, block.digest);
        }
        while (self.used > self.room || self.blocks.len() > MAX_BLOCKS)
            && let Some((_, digest)) = self.order.pop_first()
        {
            self.used -= self.blocks.remove(&digest).map_or(0, |(tokens, _)| tokens);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        Service { slots: 2, prefill_tokens_per_s: 1000.0, decode_tokens_per_s: 10.0, decode_slowdown: 1.0, cache_tokens: 100 }
    }

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn slots_prefill_and_load_make_the_time() {
        let mut queue = Queue::new(service()).unwrap();
        let first = queue.serve(1000, 10, 1.0, s(0.0));
        assert_eq!(first, Times { begins: s(0.0), first_token: s(1.0), ends: s(2.0) });
        let second = queue.serve(500, 10, 1.0, s(0.0));
        assert_eq!(
            second,
            Times { begins: s(0.0), first_token: s(1.5), ends: s(3.0) },
            "prefill waits for the first, half the slots are taken"
        );
        let third = queue.serve(0, 10, 1.0, s(0.0));
        assert_eq!(third.begins, s(2.0), "no slot before");
        let slow = Queue::new(service()).unwrap().serve(1000, 10, 0.1, s(5.0));
        assert_eq!(slow.ends, s(25.0));
        assert!(Queue::new(Service::default()).is_none());
    }

    #[test]
    fn a_conversation_prefills_what_is_new() {
        let mut queue = Queue::new(service()).unwrap();
        let prompt = |of: u64, turns: u64| (0..turns).map(|n| Block { digest: of * 1000 + n, tokens: 10 }).collect::<Vec<_>>();
        assert_eq!([queue.cached(&prompt(1, 2)), queue.cached(&prompt(1, 4)), queue.cached(&prompt(1, 5))], [0, 20, 40]);
        assert_eq!([queue.cached(&prompt(2, 3)), queue.cached(&prompt(2, 3))], [0, 30]);
        // 80 of 100 are used; 50 more push out the end of the first, which is the least recent.
        assert_eq!(queue.cached(&prompt(3, 5)), 0);
        assert_eq!([queue.cached(&prompt(2, 3)), queue.cached(&prompt(1, 5))], [30, 20]);
        assert!(queue.cache.used <= 100 && queue.cache.order.len() == queue.cache.blocks.len());
    }

    #[test]
    fn a_prompt_over_the_cache_keeps_its_beginning() {
        let mut queue = Queue::new(service()).unwrap();
        let prompt: Vec<_> = (0..30).map(|n| Block { digest: n, tokens: 10 }).collect();
        assert_eq!([queue.cached(&prompt), queue.cached(&prompt)], [0, 100]);
    }
}
