//! Near-duplicates by MinHash of what the assistant did, found without comparing all with all.

use super::hash::hash;
use minhash_rs::prelude::MinHash;
use serde::Deserialize;
use std::{borrow::Cow, collections::HashMap};

/// Hashes of a sketch. The standard error of a similarity of 0.85 is then 0.03.
const HASHES: usize = 128;
/// Words of a shingle.
const SHINGLE: usize = 5;
/// Share of the pairs just at the threshold that the bands find, at least.
const RECALL: f64 = 0.99;

/// 256 bytes that stand for the words of the assistant: the low bits of 128 minima.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch([u16; HASHES]);

/// What of a message is looked at.
#[derive(Deserialize)]
pub(super) struct Said<'l> {
    #[serde(borrow)]
    role: Cow<'l, str>,
    #[serde(borrow, default)]
    content: Cow<'l, str>,
    #[serde(borrow, default)]
    tool_calls: Vec<Call<'l>>,
}

#[derive(Deserialize)]
struct Call<'l> {
    #[serde(borrow)]
    function: Function<'l>,
}

#[derive(Deserialize)]
struct Function<'l> {
    #[serde(borrow)]
    name: Cow<'l, str>,
    #[serde(borrow)]
    arguments: Cow<'l, str>,
}

/// The assistant's texts and calls in order; not its reasoning, nor what others said.
pub(super) fn actions<'m>(messages: &'m [Said<'_>]) -> impl Iterator<Item = &'m str> {
    messages.iter().filter(|message| message.role == "assistant").flat_map(|message| {
        let calls = message.tool_calls.iter().flat_map(|call| [call.function.name.as_ref(), call.function.arguments.as_ref()]);
        std::iter::once(message.content.as_ref()).chain(calls)
    })
}

impl Sketch {
    /// Of all runs of five words; the texts' words follow one another. None where there is no word.
    pub fn new<'t>(texts: impl Iterator<Item = &'t str>) -> Option<Self> {
        let words: Vec<u64> = texts.flat_map(words).map(|word| hash([word])).collect();
        if words.is_empty() {
            return None;
        }
        let shingles = words.windows(SHINGLE.min(words.len())).map(|shingle| hash(shingle.iter().map(|word| word.to_le_bytes())));
        let minima: MinHash<u32, HASHES> = shingles.collect();
        Some(Sketch(minima.into_words().map(|minimum| minimum as u16)))
    }

    /// Estimate of the share of shingles that both have, of those that either has.
    #[must_use]
    pub fn similarity(&self, other: &Sketch) -> f64 {
        self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count() as f64 / HASHES as f64
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Sketches of which none is as similar to another as the threshold. A sketch is compared with those only that agree with it in a
/// whole band of hashes.
pub struct Kept<'s> {
    threshold: f64,
    rows: usize,
    sketches: Vec<&'s Sketch>,
    /// Last node of each band's value.
    heads: HashMap<u64, u32>,
    /// Sketch, and the node before.
    nodes: Vec<(u32, u32)>,
}

const NONE: u32 = u32::MAX;

impl<'s> Kept<'s> {
    /// `threshold`: from 0 to 1.
    #[must_use]
    pub fn new(threshold: f64) -> Self {
        let recall = |rows: &usize| 1.0 - (1.0 - threshold.powi(*rows as i32)).powi((HASHES / rows) as i32);
        let rows = (1..=16).rev().find(|rows| recall(rows) >= RECALL).unwrap_or(1);
        Kept { threshold, rows, sketches: Vec::new(), heads: HashMap::new(), nodes: Vec::new() }
    }

    /// Keeps the sketch, unless one that is kept is too similar: then its number, in the order of keeping.
    pub fn keep(&mut self, sketch: &'s Sketch) -> Option<u32> {
        let band = |(at, minima): (usize, &[u16])| hash([at as u16].iter().chain(minima).map(|value| value.to_le_bytes()));
        let bands: Vec<u64> = sketch.0.chunks_exact(self.rows).enumerate().map(band).collect();
        let mut compared = Vec::new();
        for band in &bands {
            let mut node = self.heads.get(band).copied().unwrap_or(NONE);
            while let Some((other, before)) = self.nodes.get(node as usize).copied() {
                compared.push(other);
                node = before;
            }
        }
        compared.sort_unstable();
        compared.dedup();
        let found = compared.into_iter().find(|other| sketch.similarity(self.sketches[*other as usize]) >= self.threshold);
        if found.is_none() {
            let number = self.sketches.len() as u32;
            self.sketches.push(sketch);
            for band in bands {
                let node = self.nodes.len() as u32;
                let before = self.heads.insert(band, node).unwrap_or(NONE);
                self.nodes.push((number, before));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(range: std::ops::Range<usize>) -> String {
        range.map(|at| format!("w{at} ")).collect()
    }

    fn sketch(text: &str) -> Sketch {
        Sketch::new(std::iter::once(text)).unwrap()
    }

    #[test]
    fn similarity_is_the_share_of_common_shingles() {
        let all = sketch(&text(0..10_004));
        for (range, expected) in [(0..10_004, 1.0), (0..9_004, 0.9), (0..5_004, 0.5), (20_000..30_000, 0.0)] {
            let found = all.similarity(&sketch(&text(range)));
            assert!((found - expected).abs() < 0.1, "{found} is not {expected}");
        }
        assert_eq!(Sketch::new(["", " ,;"].into_iter()), None);
        assert_eq!(sketch("one two").similarity(&sketch("one, two!")), 1.0);
        assert_eq!(sketch("one two").0[..4], [20_191, 25_474, 53_701, 62_758], "the same with every compiler");
    }

    #[test]
    fn exact_and_near_duplicates_are_found_and_others_stay() {
        let texts = [text(0..2_000), text(5_000..7_000), text(0..2_000), text(0..1_950), text(0..1_000), text(9_000..9_100)];
        let sketches: Vec<Sketch> = texts.iter().map(|text| sketch(text)).collect();
        let mut kept = Kept::new(0.8);
        let found: Vec<Option<u32>> = sketches.iter().map(|sketch| kept.keep(sketch)).collect();
        assert_eq!(found, [None, None, Some(0), Some(0), None, None]);
        let mut exact = Kept::new(1.0);
        let found: Vec<Option<u32>> = sketches.iter().map(|sketch| exact.keep(sketch)).collect();
        assert_eq!(found, [None, None, Some(0), None, None, None]);
    }

    /// Of pairs that are somewhat over the threshold, as good as all are found through the bands.
    #[test]
    fn bands_find_what_a_comparison_of_all_finds() {
        let sketches: Vec<Sketch> = (0..200).map(|at| sketch(&text(at * 40..at * 40 + 400))).collect();
        for threshold in [0.3, 0.5, 0.7, 0.8] {
            let mut banded = Kept::new(threshold);
            let mut all: Vec<&Sketch> = Vec::new();
            let mut missed = 0;
            for sketch in &sketches {
                let near = all.iter().any(|other| sketch.similarity(other) >= threshold);
                let found = banded.keep(sketch).is_some();
                missed += usize::from(near && !found);
                if !near {
                    all.push(sketch);
                }
            }
            assert!(missed <= 4, "{missed} missed at {threshold}");
        }
    }
}
