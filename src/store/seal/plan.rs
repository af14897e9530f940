//! Which records go together: an order, frames, shards. Pure.

use crate::{
    domain::AttemptId,
    store::{fact::Stream, frame::Span},
};
use std::ops::Range;

/// A record that is to be sealed, in short: a few hundred bytes each, whatever the record's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref {
    /// As it will be.
    pub id: AttemptId,
    /// Its sample as it lies; another than the id's where a merge gave it a new number.
    pub sample: u32,
    pub place: Place,
    /// Bytes of the record as it lies, line feed included.
    pub len: u64,
    /// SHA-256 of the record as it lies.
    pub digest: [u8; 32],
}

/// Where a record lies: in a frame of its own, or in one with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of its file in the list of sources.
    pub file: u32,
    pub frame: Span,
    /// Bytes before it in the frame's content.
    pub offset: u64,
}

/// A shard to be written: its frames as ranges of the records of its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedShard {
    pub stream: Stream,
    pub number: u32,
    pub frames: Vec<Range<usize>>,
}

/// Sorts the records, samples of one instance side by side, and plans the stream's shards.
#[must_use]
pub fn plan(stream: Stream, records: &mut [Ref], frame_bytes: u64, shard_bytes: u64) -> Vec<PlannedShard> {
    records.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let sizes: Vec<(&str, u64)> = records.iter().map(|r| (r.id.episode.instance.as_str(), r.len)).collect();
    let frames = frames(&sizes, frame_bytes);
    let raw: Vec<u64> = frames.iter().map(|frame| sizes[frame.clone()].iter().map(|(_, len)| len).sum()).collect();
    let shards = shards(&raw, shard_bytes).into_iter();
    (0..).zip(shards).map(|(number, shard)| PlannedShard { stream, number, frames: frames[shard].to_vec() }).collect()
}

/// Cuts records, given by their instance and length, into frames of at most `frame_bytes`; a longer record goes alone. What one
/// instance has stays together where it is no longer than half a frame.
fn frames(records: &[(&str, u64)], frame_bytes: u64) -> Vec<Range<usize>> {
    let mut frames = Vec::new();
    let (mut begin, mut at, mut filled) = (0, 0, 0u64);
    for group in records.chunk_by(|a, b| a.0 == b.0) {
        let whole: u64 = group.iter().map(|(_, len)| len).sum();
        let mut cut_here = filled >= frame_bytes / 2 && filled + whole > frame_bytes;
        for (_, len) in group {
            if at > begin && (cut_here || filled + len > frame_bytes) {
                frames.push(begin..at);
                (begin, filled) = (at, 0);
            }
            cut_here = false;
            filled += len;
            at += 1;
        }
    }
    if at > begin {
        frames.push(begin..at);
    }
    frames
}

/// Cuts frames, given by their lengths, into as few shards of about one length as have at most `shard_bytes` each; a longer
/// frame goes alone.
fn shards(frames: &[u64], shard_bytes: u64) -> Vec<Range<usize>> {
    let total: u64 = frames.iter().sum();
    let fits =
        |cut: &Vec<Range<usize>>| cut.iter().all(|shard| shard.len() == 1 || frames[shard.clone()].iter().sum::<u64>() <= shard_bytes);
    let least = usize::try_from(total.div_ceil(shard_bytes)).unwrap_or(usize::MAX).max(1);
    (least.min(frames.len())..=frames.len()).map(|n| balanced(frames, total, n)).find(fits).unwrap_or_default()
}

/// `n` shards, each cut where it comes next to its share.
fn balanced(frames: &[u64], total: u64, n: usize) -> Vec<Range<usize>> {
    let mut shards = Vec::with_capacity(n);
    let (mut begin, mut before) = (0, 0u64);
    for k in 1..=n {
        let share = (u128::from(total) * k as u128 / n.max(1) as u128) as u64;
        let last = frames.len() - (n - k);
        let mut end = begin + 1;
        before += frames[begin];
        while end < last && (before + frames[end]).abs_diff(share) <= before.abs_diff(share) {
            before += frames[end];
            end += 1;
        }
        if k == n {
            end = frames.len();
        }
        shards.push(begin..end);
        begin = end;
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn covers(ranges: &[Range<usize>], len: usize) -> bool {
        let mut next = 0;
        ranges.iter().all(|r| std::mem::replace(&mut next, r.end) == r.start && !r.is_empty()) && next == len
    }

    proptest! {
        #[test]
        fn frames_hold_each_record_once_and_are_full_but_not_over(
            groups in prop::collection::vec(prop::collection::vec(1u64..1500, 1..7), 0..60),
        ) {
            let names: Vec<String> = (0..groups.len()).map(|i| format!("i{i}")).collect();
            let records: Vec<(&str, u64)> =
                names.iter().zip(&groups).flat_map(|(name, lens)| lens.iter().map(|len| (name.as_str(), *len))).collect();
            let cut = frames(&records, 1000);
            prop_assert!(covers(&cut, records.len()));
            let sum = |range: &Range<usize>| records[range.clone()].iter().map(|r| r.1).sum::<u64>();
            for frame in &cut {
                prop_assert!(frame.len() == 1 || sum(frame) <= 1000);
            }
            for pair in cut.windows(2) {
                prop_assert!(sum(&pair[0]) + sum(&pair[1]) >= 500);
            }
            for (name, lens) in names.iter().zip(&groups).filter(|(_, lens)| lens.iter().sum::<u64>() <= 500) {
                let holding = cut.iter().filter(|frame| records[(*frame).clone()].iter().any(|r| r.0 == name)).count();
                prop_assert_eq!(holding, 1, "{} of {:?} is torn", name, lens);
            }
        }

        #[test]
        fn shards_are_balanced(frames in prop::collection::vec(1u64..100, 0..400)) {
            let cut = shards(&frames, 800);
            prop_assert!(covers(&cut, frames.len()));
            let sums: Vec<u64> = cut.iter().map(|shard| frames[shard.clone()].iter().sum()).collect();
            prop_assert!(sums.iter().all(|sum| *sum <= 800));
            let largest = frames.iter().max().copied().unwrap_or(0);
            prop_assert!(sums.len() < 2 || sums.iter().all(|sum| *sum >= 400 - largest), "{:?}", sums);
        }

        #[test]
        fn shards_bear_frames_of_any_length(frames in prop::collection::vec(1u64..5000, 0..60)) {
            let cut = shards(&frames, 800);
            prop_assert!(covers(&cut, frames.len()));
            for shard in cut {
                prop_assert!(shard.len() == 1 || frames[shard].iter().sum::<u64>() <= 800);
            }
        }
    }
}
