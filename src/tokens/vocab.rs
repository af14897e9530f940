//! A byte-level BPE vocabulary: bytes to ids, and the merging of one piece of text into tokens.

use super::lately;
use std::{cmp::Reverse, collections::BinaryHeap, collections::HashMap, io::Read};

/// Qwen3's 151,643 tokens in order of rank, which is their id: their lengths, one byte each, then their bytes, as one zstd frame.
/// `tests/tokens.rs` holds it against the `tokenizer.json` that it was made from.
const QWEN3: &[u8] = include_bytes!("qwen3.ranks.zst");
const QWEN3_TOKENS: usize = 151_643;

/// Above this many parts a piece is merged with a heap, at or below by scanning.
const SCAN_PARTS: usize = 96;

/// A piece is cut here, bytes: a bound on memory (32 bytes a byte) that no text of a model reaches.
const MAX_PIECE: usize = 1 << 28;

/// What makes a vocabulary unusable.
#[derive(Debug, thiserror::Error)]
pub enum VocabError {
    #[error("the byte {0:#04x} has no token: the vocabulary is not byte-level")]
    MissingByte(u8),
    #[error("token ids {first} and {second} have the same bytes {bytes:?}")]
    Duplicate { first: u32, second: u32, bytes: String },
    #[error("the merge {0:?} names a token that the vocabulary lacks")]
    Merge(String),
    #[error("token id {id} after {bytes} bytes of tokens: at most 16,777,216 ids and 1 GiB are supported")]
    TooLarge { id: u32, bytes: usize },
}

/// Tokens by id, ids by bytes, and the order of merges.
pub struct Vocab {
    bytes: Vec<u8>,
    /// Token `id` is `bytes[ends[id - 1]..ends[id]]`; an id that is not in use is empty.
    ends: Vec<u32>,
    /// Open addressing: high half of the hash over `id + 1`; 0 is free.
    table: Vec<u64>,
    byte_ids: [u32; 256],
    /// By two bytes: `id + 1` of their token, 0 for none. Every merging begins with these.
    twos: Vec<u32>,
    longest: usize,
    merges: Merges,
    /// No other vocabulary of this process has it.
    serial: u32,
}

enum Merges {
    /// Any two neighbours whose bytes together are a token may merge; the lower id goes first. Tiktoken's rule.
    Ranks,
    /// Only listed pairs merge: pair of ids to (rank, id). Hugging Face's rule.
    Pairs {
        pairs: HashMap<(u32, u32), (u32, u32)>,
        /// By id: encoding the token's own bytes gives the token, so a piece that is the token needs no merging.
        whole: Vec<bool>,
    },
}

/// Two neighbours that may merge.
type Candidate = (u32, u32);

impl Vocab {
    const MAX_IDS: u32 = 1 << 24;
    const MAX_BYTES: usize = 1 << 30;

    /// The embedded vocabulary.
    #[must_use]
    pub fn qwen3() -> Self {
        let mut raw = Vec::with_capacity(2 << 20);
        let read = zstd::Decoder::new(QWEN3).and_then(|mut frame| frame.read_to_end(&mut raw));
        assert!(read.is_ok() && raw.len() > QWEN3_TOKENS, "the embedded vocabulary is damaged");
        let (lengths, mut bytes) = raw.split_at(QWEN3_TOKENS);
        let tokens = lengths.iter().enumerate().map(|(id, &len)| {
            let token;
            (token, bytes) = bytes.split_at(usize::from(len));
            (id as u32, token)
        });
        Vocab::from_ranks(tokens).unwrap_or_else(|e| unreachable!("the embedded vocabulary: {e}"))
    }

    /// A vocabulary whose ids are ranks, ids ascending.
    ///
    /// # Errors
    /// Where a byte has no token, two ids share their bytes, or it is out of all measure.
    pub fn from_ranks<'a>(tokens: impl IntoIterator<Item = (u32, &'a [u8])>) -> Result<Self, VocabError> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (id, token) in tokens {
            if id >= Self::MAX_IDS || bytes.len() + token.len() > Self::MAX_BYTES {
                return Err(VocabError::TooLarge { id, bytes: bytes.len() });
            }
            ends.resize(id as usize, bytes.len() as u32);
            bytes.extend_from_slice(token);
            ends.push(bytes.len() as u32);
        }
        let slots = (ends.len() * 2).next_power_of_two().max(512);
        let mut vocab = Vocab {
            bytes,
            ends,
            table: vec![0; slots],
            byte_ids: [0; 256],
            twos: vec![0; 1 << 16],
            longest: 0,
            merges: Merges::Ranks,
            serial: lately::serial(),
        };
        for id in 0..vocab.ends.len() as u32 {
            vocab.insert(id)?;
        }
        for byte in 0..=255 {
            vocab.byte_ids[usize::from(byte)] = vocab.id(&[byte]).ok_or(VocabError::MissingByte(byte))?;
        }
        Ok(vocab)
    }

    /// A vocabulary with a list of merges, the first goes first. `ignore_merges`: a piece that is a token is that token, whatever the merges say.
    ///
    /// # Errors
    /// As [`Vocab::from_ranks`], and where a merge names no token.
    pub fn from_merges<'a>(
        tokens: impl IntoIterator<Item = (u32, &'a [u8])>,
        merges: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        ignore_merges: bool,
    ) -> Result<Self, VocabError> {
        let mut vocab = Vocab::from_ranks(tokens)?;
        let mut pairs = HashMap::new();
        for (rank, (left, right)) in merges.into_iter().enumerate() {
            let ids = (vocab.id(&left), vocab.id(&right), vocab.id(&[left.as_slice(), &right].concat()));
            let (Some(a), Some(b), Some(joined)) = ids else {
                let text = format!("{} {}", String::from_utf8_lossy(&left), String::from_utf8_lossy(&right));
                return Err(VocabError::Merge(text));
            };
            pairs.insert((a, b), (rank as u32, joined));
        }
        let count = vocab.ends.len();
        vocab.merges = Merges::Pairs { pairs, whole: vec![false; count] };
        let whole = (0..count as u32).map(|id| ignore_merges || vocab.merges_to_itself(id)).collect();
        if let Merges::Pairs { whole: slot, .. } = &mut vocab.merges {
            *slot = whole;
        }
        Ok(vocab)
    }

    fn merges_to_itself(&self, id: u32) -> bool {
        let mut ids = Vec::new();
        let token = self.token(id);
        !token.is_empty() && {
            self.merge(token, &mut |id| ids.push(id));
            ids == [id]
        }
    }

    /// Ids are below this.
    #[must_use]
    pub fn ids(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Whether both have the same tokens under the same ids.
    #[must_use]
    pub fn has_tokens_of(&self, other: &Vocab) -> bool {
        let ids = self.ids().max(other.ids());
        fn token(vocab: &Vocab, id: u32) -> &[u8] {
            if id < vocab.ids() { vocab.token(id) } else { &[] }
        }
        (0..ids).all(|id| token(self, id) == token(other, id))
    }

    /// Bytes of a token; empty where the id is not in use.
    #[must_use]
    pub fn token(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        &self.bytes[start..self.ends[id] as usize]
    }

    /// Id of the token with these bytes.
    #[must_use]
    pub fn id(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > self.longest {
            return None;
        }
        let hash = hash(bytes);
        let mut at = self.slot(hash);
        loop {
            let entry = self.table[at];
            if entry == 0 {
                return None;
            }
            if entry >> 32 == hash >> 32 {
                let id = entry as u32 - 1;
                if self.token(id) == bytes {
                    return Some(id);
                }
            }
            at = (at + 1) & (self.table.len() - 1);
        }
    }

    fn insert(&mut self, id: u32) -> Result<(), VocabError> {
        let token = self.token(id);
        if token.is_empty() {
            return Ok(());
        }
        if let Some(first) = self.id(token) {
            return Err(VocabError::Duplicate { first, second: id, bytes: String::from_utf8_lossy(token).into_owned() });
        }
        let (hash, len) = (hash(token), token.len());
        let mut at = self.slot(hash);
        while self.table[at] != 0 {
            at = (at + 1) & (self.table.len() - 1);
        }
        self.table[at] = (hash >> 32) << 32 | u64::from(id + 1);
        self.longest = self.longest.max(len);
        if let [a, b] = *self.token(id) {
            self.twos[usize::from(a) << 8 | usize::from(b)] = id + 1;
        }
        Ok(())
    }

    fn slot(&self, hash: u64) -> usize {
        hash as usize & (self.table.len() - 1)
    }

    /// The tokens of one piece, in order.
    pub fn encode(&self, piece: &[u8], push: &mut impl FnMut(u32)) {
        match piece {
            [byte] => push(self.byte_ids[usize::from(*byte)]),
            _ => lately::encode(self.serial, piece, push, |push| self.encode_anew(piece, push)),
        }
    }

    fn encode_anew(&self, piece: &[u8], push: &mut (impl FnMut(u32) + ?Sized)) {
        match (self.id(piece), &self.merges) {
            (Some(id), Merges::Ranks) => push(id),
            (Some(id), Merges::Pairs { whole, .. }) if whole[id as usize] => push(id),
            _ => self.merge(piece, push),
        }
    }

    fn merge(&self, piece: &[u8], push: &mut (impl FnMut(u32) + ?Sized)) {
        match piece.len() {
            0 => {}
            1..=SCAN_PARTS => self.merge_by_scan(piece, push),
            _ => piece.chunks(MAX_PIECE).for_each(|chunk| self.merge_by_heap(chunk, push)),
        }
    }

    /// What two neighbours become, as (rank, id): `a` is `piece[start..middle]`, `b` is `piece[middle..end]`.
    fn join(&self, piece: &[u8], (start, end): (usize, usize), a: u32, b: u32) -> Option<Candidate> {
        match (&self.merges, &piece[start..end]) {
            (Merges::Ranks, &[first, second]) => {
                let id = self.twos[usize::from(first) << 8 | usize::from(second)].checked_sub(1)?;
                Some((id, id))
            }
            (Merges::Ranks, bytes) => self.id(bytes).map(|id| (id, id)),
            (Merges::Pairs { pairs, .. }, _) => pairs.get(&(a, b)).copied(),
        }
    }

    fn merge_by_scan(&self, piece: &[u8], push: &mut (impl FnMut(u32) + ?Sized)) {
        const NONE: Candidate = (u32::MAX, 0);
        #[derive(Clone, Copy)]
        struct Part {
            start: usize,
            id: u32,
            /// With the part to its right.
            next: Candidate,
        }
        let mut parts = [Part { start: 0, id: 0, next: NONE }; SCAN_PARTS + 1];
        let mut count = piece.len();
        for (at, &byte) in piece.iter().enumerate() {
            parts[at] = Part { start: at, id: self.byte_ids[usize::from(byte)], next: NONE };
        }
        parts[count].start = count;
        let next = |parts: &[Part], at: usize, count: usize| {
            if at + 1 >= count {
                return NONE;
            }
            self.join(piece, (parts[at].start, parts[at + 2].start), parts[at].id, parts[at + 1].id).unwrap_or(NONE)
        };
        for at in 0..count {
            parts[at].next = next(&parts, at, count);
        }
        loop {
            let (mut best, mut rank) = (0, u32::MAX);
            for (at, part) in parts[..count].iter().enumerate() {
                if part.next.0 < rank {
                    (best, rank) = (at, part.next.0);
                }
            }
            if rank == u32::MAX {
                break;
            }
            parts[best].id = parts[best].next.1;
            parts.copy_within(best + 2..=count, best + 1);
            count -= 1;
            parts[best].next = next(&parts, best, count);
            if best > 0 {
                parts[best - 1].next = next(&parts, best - 1, count);
            }
        }
        parts[..count].iter().for_each(|part| push(part.id));
    }

    /// The same merges in n log n: a heap of candidates over a doubly linked list, stale candidates dropped when met.
    fn merge_by_heap(&self, piece: &[u8], push: &mut (impl FnMut(u32) + ?Sized)) {
        const START: u32 = u32::MAX;
        #[derive(Clone, Copy)]
        struct Part {
            id: u32,
            previous: u32,
            /// Where the part ends and the next begins; 0 once it was merged into the one before.
            end: u32,
        }
        let count = piece.len() as u32;
        let part = |(byte, at): (&u8, u32)| Part { id: self.byte_ids[usize::from(*byte)], previous: at.wrapping_sub(1), end: at + 1 };
        let mut parts: Vec<Part> = piece.iter().zip(0..).map(part).collect();
        // (rank, left part, its end, end of the right part, joined id): the ends tell a stale candidate.
        let mut heap = BinaryHeap::new();
        let consider = |heap: &mut BinaryHeap<_>, parts: &[Part], left: u32| {
            let a = parts[left as usize];
            let Some(b) = parts.get(a.end as usize) else { return };
            if let Some((rank, id)) = self.join(piece, (left as usize, b.end as usize), a.id, b.id) {
                heap.push(Reverse((rank, left, a.end, b.end, id)));
            }
        };
        (0..count).for_each(|left| consider(&mut heap, &parts, left));
        while let Some(Reverse((_, left, right, end, id))) = heap.pop() {
            if parts[left as usize].end != right || parts[right as usize].end != end {
                continue;
            }
            parts[right as usize].end = 0;
            let previous = parts[left as usize].previous;
            parts[left as usize] = Part { id, previous, end };
            if let Some(after) = parts.get_mut(end as usize) {
                after.previous = left;
            }
            consider(&mut heap, &parts, left);
            if previous != START {
                consider(&mut heap, &parts, previous);
            }
        }
        let mut at = 0;
        while let Some(part) = parts.get(at) {
            push(part.id);
            at = part.end as usize;
        }
    }
}

/// Keys of the table are the vocabulary's own; hostile text only looks up, and a look-up is as long as the vocabulary's longest chain.
#[inline]
fn hash(bytes: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |h: u64, word: u64| (h ^ word).wrapping_mul(K).rotate_left(29);
    let mut h = bytes.len() as u64;
    let last = match bytes.len() {
        0..=3 => bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        4..=7 => u64::from(first_four(bytes)) << 32 | u64::from(first_four(&bytes[bytes.len() - 4..])),
        len => {
            let (words, _) = bytes[..len - 1].as_chunks::<8>();
            h = words.iter().fold(h, |h, word| mix(h, u64::from_le_bytes(*word)));
            bytes.last_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word))
        }
    };
    h = mix(h, last);
    (h ^ h >> 32).wrapping_mul(K)
}

#[inline]
fn first_four(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |word| u32::from_le_bytes(*word))
}
