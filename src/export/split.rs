//! Splits by instance: all trajectories of an instance lie in one.

use sha2::{Digest, Sha256};
use std::str::FromStr;

/// Names and shares of splits; the shares are over 0 and make 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Splits(Vec<(String, f64)>);

impl Default for Splits {
    /// All in `train`.
    fn default() -> Self {
        Splits(vec![("train".to_owned(), 1.0)])
    }
}

/// Splits at most.
const MAX_SPLITS: usize = 16;

impl FromStr for Splits {
    type Err = String;

    /// `train:0.98,val:0.02`
    fn from_str(text: &str) -> Result<Self, String> {
        let mut splits: Vec<(String, f64)> = Vec::new();
        for part in text.split(',') {
            let wrong = |why: &str| format!("{part:?} is no split: {why}; write NAME:SHARE,..., such as train:0.98,val:0.02");
            let (name, share) = part.trim().split_once(':').ok_or_else(|| wrong("there is no colon"))?;
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || name.len() > 40 || !name.chars().all(is_name) {
                return Err(wrong("a name has 1 to 40 letters, digits and underscores"));
            }
            let share: f64 = share.trim().parse().map_err(|_| wrong("the share is no number"))?;
            if !(share > 0.0 && share <= 1.0) {
                return Err(wrong("the share is over 0 and at most 1"));
            }
            if splits.iter().any(|(known, _)| known == name) {
                return Err(wrong("the name is there twice"));
            }
            splits.push((name.to_owned(), share));
        }
        let sum: f64 = splits.iter().map(|(_, share)| share).sum();
        if (sum - 1.0).abs() > 1e-6 {
            return Err(format!("the shares of {text:?} make {sum}, not 1"));
        }
        if splits.len() > MAX_SPLITS {
            return Err(format!("{} splits are more than {MAX_SPLITS}", splits.len()));
        }
        Ok(Splits(splits))
    }
}

impl Splits {
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[must_use]
    pub fn shares(&self) -> &[(String, f64)] {
        &self.0
    }

    /// The split of each instance. The instances are put in the order of a hash of seed and id and cut there, so the shares are met
    /// to the nearest instance, and a share that is too small for one still gets one where there are enough.
    #[must_use]
    pub fn assign(&self, instances: &[String], seed: u64) -> Vec<u8> {
        let mut order: Vec<([u8; 32], usize)> = instances.iter().enumerate().map(|(at, id)| (digest(seed, "split", id), at)).collect();
        order.sort_unstable();
        let mut of = vec![0; instances.len()];
        let mut left = order.as_slice();
        for (split, size) in self.sizes(instances.len()).into_iter().enumerate() {
            let (these, others) = left.split_at(size);
            these.iter().for_each(|(_, at)| of[*at] = split as u8);
            left = others;
        }
        of
    }

    /// Instances of each split, by largest remainder.
    fn sizes(&self, instances: usize) -> Vec<usize> {
        let exact: Vec<f64> = self.0.iter().map(|(_, share)| share * instances as f64).collect();
        let mut sizes: Vec<usize> = exact.iter().map(|share| (share + 1e-9) as usize).collect();
        let mut by_remainder: Vec<usize> = (0..sizes.len()).collect();
        by_remainder.sort_by(|a, b| (exact[*b] - sizes[*b] as f64).total_cmp(&(exact[*a] - sizes[*a] as f64)));
        let missing = instances.saturating_sub(sizes.iter().sum());
        by_remainder.iter().cycle().take(missing).for_each(|split| sizes[*split] += 1);
        if instances >= sizes.len() {
            while let Some(empty) = sizes.iter().position(|size| *size == 0) {
                let Some(largest) = (0..sizes.len()).max_by_key(|split| sizes[*split]) else { break };
                sizes[largest] -= 1;
                sizes[empty] += 1;
            }
        }
        sizes
    }
}

/// What stands for chance: the same for the same seed, purpose and text, everywhere.
#[must_use]
pub(super) fn digest(seed: u64, purpose: &str, text: &str) -> [u8; 32] {
    Sha256::new().chain_update(seed.to_le_bytes()).chain_update(purpose).chain_update([0]).chain_update(text).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(text: &str, instances: usize) -> Vec<usize> {
        let splits: Splits = text.parse().unwrap();
        let ids: Vec<String> = (0..instances).map(|at| format!("i{at}")).collect();
        let of = splits.assign(&ids, 7);
        (0..splits.names().len()).map(|split| of.iter().filter(|at| **at as usize == split).count()).collect()
    }

    #[test]
    fn shares_are_met_to_the_nearest_instance() {
        for (text, instances, expected) in [
            ("train:0.98,val:0.02", 1000, vec![980, 20]),
            ("train:0.98,val:0.02", 10, vec![9, 1]),
            ("train:0.98,val:0.02", 1, vec![1, 0]),
            ("train:0.98,val:0.02", 0, vec![0, 0]),
            ("a:0.5,b:0.3,c:0.2", 11, vec![6, 3, 2]),
            ("a:0.9,b:0.05,c:0.05", 3, vec![1, 1, 1]),
            ("all:1", 5, vec![5]),
        ] {
            assert_eq!(sizes(text, instances), expected, "{text} of {instances}");
        }
    }

    #[test]
    fn a_split_depends_on_the_seed_and_the_id_alone() {
        let splits: Splits = "train:0.5,val:0.5".parse().unwrap();
        let ids: Vec<String> = (0..100).map(|at| format!("i{at}")).collect();
        let back: Vec<String> = ids.iter().rev().cloned().collect();
        let of = splits.assign(&ids, 1);
        assert_eq!(splits.assign(&back, 1).into_iter().rev().collect::<Vec<_>>(), of);
        assert_ne!(splits.assign(&ids, 2), of);
    }

    #[test]
    fn what_is_no_split_is_refused() {
        for (text, part) in [
            ("train", "no colon"),
            ("train:0.5", "make 0.5, not 1"),
            ("train:1.5,val:-0.5", "over 0"),
            ("train:x", "no number"),
            ("../x:1", "letters"),
            ("a:0.5,a:0.5", "twice"),
            ("", "no colon"),
        ] {
            let error = text.parse::<Splits>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
