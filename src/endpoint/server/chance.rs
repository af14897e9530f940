//! Seeded chance and a fast digest: the same on every machine, so that a seed names a rehearsal.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Rng {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// An independent generator for the `n`-th thing of this one.
    #[must_use]
    pub fn fork(&self, n: u64) -> Self {
        Rng(mix(self.0 ^ mix(n.wrapping_add(STEP))))
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// From 0 up to, not including, `n`; 0 where `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.draw() % n as u64) as usize }
    }

    /// From 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// A digest of a sequence of texts. No defence against an adversary: it tells honest mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(u64);

impl Digest {
    #[must_use]
    pub fn add(self, text: &str) -> Self {
        let mut h = self.0 ^ (text.len() as u64 + 1).wrapping_mul(STEP);
        let mut words = text.as_bytes().chunks_exact(8);
        let mut take = |word: [u8; 8]| h = (h.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(STEP);
        for word in words.by_ref() {
            take(word.try_into().unwrap_or_default());
        }
        let rest = words.remainder();
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        take(word);
        Digest(mix(h))
    }

    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_follows_from_the_seed() {
        let draw = |seed| (0..4).map(|_| 0).scan(Rng::new(seed), |r, _: i32| Some(r.draw())).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(Rng::new(1).fork(0).draw(), Rng::new(1).fork(1).draw());
        let mean = (0..1000).map(|n| Rng::new(7).fork(n).unit()).sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }

    #[test]
    fn the_digest_sees_bytes_order_and_borders() {
        let of = |texts: &[&str]| texts.iter().fold(Digest::default(), |d, t| d.add(t));
        let all =
            [of(&[]), of(&[""]), of(&["a"]), of(&["a", ""]), of(&["ab", "c"]), of(&["a", "bc"]), of(&["12345678"]), of(&["12345678\0"])];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b), "{i}");
        }
    }
}
