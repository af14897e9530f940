//! The episodes that are not begun, in the order in which they are to be: those to be tried again first, as they are older. Pure.

use crate::domain::{Attempt, EpisodeId, InstanceId};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
};

/// An episode to be begun.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Next {
    pub episode: EpisodeId,
    pub attempt: Attempt,
    /// Attempts begun in this opening.
    pub tries: u32,
}

/// Each operation costs O(log n) at most, amortized.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// To be tried again, and due.
    again: VecDeque<Next>,
    first: VecDeque<Next>,
    /// To be tried again, and when.
    later: BinaryHeap<Reverse<(u64, Next)>>,
    gate: Option<Gate>,
}

/// Which instances may begin.
#[derive(Debug, Default)]
struct Gate {
    ready: HashSet<InstanceId>,
    parked: HashMap<InstanceId, VecDeque<Next>>,
    parked_len: usize,
}

impl Queue {
    pub fn push(&mut self, next: Next) {
        self.first.push_back(next);
    }

    pub fn push_later(&mut self, at_ms: u64, next: Next) {
        self.later.push(Reverse((at_ms, next)));
    }

    /// From now on only what is [`Self::ready`] begins.
    pub fn close_gate(&mut self) {
        let mut gate = Gate::default();
        self.first.drain(..).chain(self.again.drain(..)).for_each(|next| gate.park(next));
        self.gate = Some(gate);
    }

    /// The instance's episodes may begin, in the order of these words.
    pub fn ready(&mut self, instance: &InstanceId) {
        let Some(gate) = &mut self.gate else { return };
        if gate.ready.insert(instance.clone()) {
            let parked = gate.parked.remove(instance).unwrap_or_default();
            gate.parked_len -= parked.len();
            self.first.extend(parked);
        }
    }

    pub fn unready(&mut self, instance: &InstanceId) {
        if let Some(gate) = &mut self.gate {
            gate.ready.remove(instance);
        }
    }

    /// Of what is begun for the first time: the longest first, in their order where they are as long. Not where instances wait to be
    /// ready, which go by that.
    pub fn longest_first(&mut self, expected_ms: impl Fn(&InstanceId) -> u64) {
        if self.gate.is_none() {
            self.first.make_contiguous().sort_by_cached_key(|next| Reverse(expected_ms(&next.episode.instance)));
        }
    }

    /// What is due by now may be begun.
    pub fn advance(&mut self, now_ms: u64) {
        while let Some(Reverse((at, _))) = self.later.peek()
            && *at <= now_ms
        {
            self.again.extend(self.later.pop().map(|Reverse((_, next))| next));
        }
    }

    /// The next that is due and ready.
    pub fn pop(&mut self) -> Option<Next> {
        while let Some(next) = self.again.pop_front().or_else(|| self.first.pop_front()) {
            match &mut self.gate {
                Some(gate) if !gate.ready.contains(&next.episode.instance) => gate.park(next),
                _ => return Some(next),
            }
        }
        None
    }

    /// When the next of those that wait for their time is due.
    pub fn due_at(&self) -> Option<u64> {
        self.later.peek().map(|Reverse((at, _))| *at)
    }

    pub fn len(&self) -> usize {
        self.again.len() + self.first.len() + self.later.len() + self.gate.as_ref().map_or(0, |gate| gate.parked_len)
    }
}

impl Gate {
    fn park(&mut self, next: Next) {
        self.parked_len += 1;
        self.parked.entry(next.episode.instance.clone()).or_default().push_back(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(episode: &str) -> Next {
        Next { episode: episode.parse().unwrap(), attempt: Attempt::FIRST, tries: 0 }
    }

    fn all(queue: &mut Queue, now_ms: u64) -> Vec<String> {
        queue.advance(now_ms);
        std::iter::from_fn(|| queue.pop()).map(|next| next.episode.to_string()).collect()
    }

    #[test]
    fn what_is_due_again_goes_first_in_the_order_of_its_time() {
        let mut queue = Queue::default();
        ["a@0", "b@0"].into_iter().for_each(|e| queue.push(next(e)));
        queue.push_later(20, next("d@0"));
        queue.push_later(10, next("c@0"));
        queue.push_later(30, next("e@0"));
        assert_eq!((queue.due_at(), queue.len()), (Some(10), 5));
        assert_eq!(all(&mut queue, 25), ["c@0", "d@0", "a@0", "b@0"]);
        assert_eq!((queue.due_at(), queue.len()), (Some(30), 1));
    }

    #[test]
    fn the_longest_go_first_where_none_waits_to_be_ready() {
        let mut queue = Queue::default();
        ["a@1", "b@1", "c@1", "a@2"].into_iter().for_each(|e| queue.push(next(e)));
        queue.longest_first(|instance| if instance.as_str() == "a" { 5 } else { 7 });
        assert_eq!(all(&mut queue, 0), ["b@1", "c@1", "a@1", "a@2"]);
    }

    #[test]
    fn what_is_not_ready_holds_up_no_other() {
        let mut queue = Queue::default();
        ["a@0", "b@0", "c@0", "a@1", "b@1"].into_iter().for_each(|e| queue.push(next(e)));
        queue.close_gate();
        assert_eq!((all(&mut queue, 0), queue.len()), (vec![], 5));
        queue.ready(&"b".parse().unwrap());
        queue.ready(&"b".parse().unwrap());
        queue.ready(&"a".parse().unwrap());
        assert_eq!(queue.pop(), Some(next("b@0")));
        queue.unready(&"b".parse().unwrap());
        assert_eq!((all(&mut queue, 0), queue.len()), (vec!["a@0".to_owned(), "a@1".to_owned()], 2));
        ["b", "c"].into_iter().for_each(|i| queue.ready(&i.parse().unwrap()));
        assert_eq!((all(&mut queue, 0), queue.len()), (vec!["b@1".to_owned(), "c@0".to_owned()], 0));
    }
}
