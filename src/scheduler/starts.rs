//! How many episodes begin together. Pure.

/// From one batch to the next, milliseconds.
const BATCH_MS: u64 = 16;

#[derive(Debug)]
pub(super) struct Starts {
    /// 0: no bound.
    per_s: u64,
    at_ms: u64,
    /// Thousandths of a start.
    room: u64,
}

impl Starts {
    pub fn new(per_s: u32) -> Self {
        let per_s = u64::from(per_s);
        Starts { per_s, at_ms: 0, room: Self::most(per_s) }
    }

    pub fn advance(&mut self, now_ms: u64) {
        let since = now_ms.saturating_sub(self.at_ms);
        self.room = since.saturating_mul(self.per_s).saturating_add(self.room).min(Self::most(self.per_s));
        self.at_ms = self.at_ms.max(now_ms);
    }

    pub fn count(&mut self) {
        self.room = self.room.saturating_sub(1000);
    }

    /// Whether the next has to wait for [`Starts::next_ms`].
    pub fn are_enough(&self) -> bool {
        self.per_s > 0 && self.room < 1000
    }

    pub fn next_ms(&self) -> u64 {
        self.at_ms + 1000_u64.saturating_sub(self.room).div_ceil(self.per_s.max(1)).max(BATCH_MS)
    }

    /// A batch may be late by as much as it is long.
    fn most(per_s: u64) -> u64 {
        (2 * BATCH_MS * per_s).max(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that begin within ten seconds, asked for when it is time.
    fn begun(per_s: u32) -> u64 {
        let (mut starts, mut now_ms, mut begun) = (Starts::new(per_s), 0, 0);
        while now_ms < 10_000 {
            starts.advance(now_ms);
            while !starts.are_enough() {
                starts.count();
                begun += 1;
            }
            now_ms = starts.next_ms();
        }
        begun
    }

    #[test]
    fn as_many_begin_as_may() {
        for per_s in [1, 7, 60, 100, 999, 1000, 30_000] {
            let (all, burst) = (u64::from(per_s) * 10, u64::from(per_s) * 32 / 1000 + 1);
            assert!((all - burst..=all + burst).contains(&begun(per_s)), "{per_s}: {}", begun(per_s));
        }
        let mut unbound = Starts::new(0);
        (0..1000).for_each(|_| unbound.count());
        assert!(!unbound.are_enough());
    }

    #[test]
    fn a_quiet_while_saves_up_a_batch_or_two() {
        let mut starts = Starts::new(1000);
        starts.advance(3_600_000);
        (0..31).for_each(|_| starts.count());
        assert!(!starts.are_enough());
        starts.count();
        assert!(starts.are_enough());
    }
}
