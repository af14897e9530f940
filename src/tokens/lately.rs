//! Pieces of text that a thread met lately, with their tokens: in a trajectory the same words and names come again and again,
//! and these few lie nearer to the core than the vocabulary does.

use std::{
    cell::RefCell,
    sync::atomic::{AtomicU32, Ordering},
};

/// Pieces of more tokens are not kept.
const TOKENS: usize = 10;

/// 64 bytes each: 256 KiB a thread, which stay in its core's cache.
const SLOTS: usize = 4096;

/// A piece of at most 16 bytes: its length and two words that together have all of its bytes, so that equal keys are equal pieces.
type Key = (u64, u64, u8);

/// None for a longer piece.
#[inline]
fn key(piece: &[u8]) -> Option<Key> {
    let four = |word: Option<&[u8; 4]>| word.map_or(0, |word| u64::from(u32::from_le_bytes(*word)));
    let eight = |word: Option<&[u8; 8]>| word.map_or(0, |word| u64::from_le_bytes(*word));
    let (first, last) = match piece.len() {
        0..=3 => (piece.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0),
        4..=7 => (four(piece.first_chunk()), four(piece.last_chunk())),
        8..=16 => (eight(piece.first_chunk()), eight(piece.last_chunk())),
        _ => return None,
    };
    Some((first, last, piece.len() as u8))
}

#[inline]
fn slot((first, last, len): Key) -> usize {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (first.wrapping_mul(K).rotate_left(29) ^ last ^ u64::from(len)).wrapping_mul(K);
    (mixed >> 40) as usize % SLOTS
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Slot {
    first: u64,
    last: u64,
    len: u8,
    count: u8,
    /// 0: the slot is free.
    vocab: u32,
    ids: [u32; TOKENS],
}

thread_local! {
    static SLOT: RefCell<Vec<Slot>> = RefCell::new(vec![Slot::default(); SLOTS]);
}

/// For a vocabulary; never 0.
pub fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Pushes the tokens of a piece: those that `encode` pushed for it before, else what it pushes now.
#[inline]
pub fn encode<P: FnMut(u32)>(vocab: u32, piece: &[u8], push: &mut P, encode: impl Fn(&mut dyn FnMut(u32))) {
    let Some(key) = key(piece) else { return encode(push) };
    let at = slot(key);
    SLOT.with(|slots| {
        {
            let known = &slots.borrow()[at];
            if (known.first, known.last, known.len) == key && known.vocab == vocab {
                return known.ids[..usize::from(known.count)].iter().for_each(|id| push(*id));
            }
        }
        let (mut ids, mut count) = ([0; TOKENS], 0);
        encode(&mut |id| {
            if let Some(slot) = ids.get_mut(count) {
                *slot = id;
            }
            count += 1;
            push(id);
        });
        // Where `push` of an outer piece encodes this one, the outer one's slot is being read.
        if count <= TOKENS
            && let Ok(mut slots) = slots.try_borrow_mut()
        {
            let (first, last, len) = key;
            slots[at] = Slot { first, last, len, count: count as u8, vocab, ids };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// What is pushed for a piece, and whether it was encoded anew: a token for each of its bytes, from `first` on.
    fn encoded(vocab: u32, piece: &str, first: u32) -> (Vec<u32>, bool) {
        let (mut ids, anew) = (Vec::new(), Cell::new(false));
        encode(vocab, piece.as_bytes(), &mut |id| ids.push(id), |push| {
            anew.set(true);
            (first..).zip(piece.bytes()).for_each(|(id, _)| push(id));
        });
        (ids, anew.get())
    }

    #[test]
    fn what_comes_again_is_told_from_what_shares_its_slot() {
        let (one, other) = (serial(), serial());
        let at = |piece: &str| slot(key(piece.as_bytes()).unwrap());
        let neighbour = (0..).map(|n| format!("x{n}")).find(|piece| at(piece) == at("abc")).unwrap();
        let len = neighbour.len() as u32;
        assert_eq!(encoded(one, "abc", 5), (vec![5, 6, 7], true));
        assert_eq!(encoded(one, "abc", 9), (vec![5, 6, 7], false));
        assert_eq!(encoded(one, &neighbour, 1), ((1..=len).collect(), true), "another piece");
        assert_eq!(encoded(other, &neighbour, 8), ((8..8 + len).collect(), true), "another vocabulary");
        assert_eq!(encoded(one, &neighbour, 3), ((3..3 + len).collect(), true));
        for (piece, why) in [("12345678901", "of too many tokens to be kept"), ("12345678901234567", "too long")] {
            for first in [10, 40] {
                assert_eq!(encoded(one, piece, first), ((first..first + piece.len() as u32).collect(), true), "{why}");
            }
        }
    }

    #[test]
    fn keys_are_of_one_piece() {
        let mut keys = std::collections::HashMap::new();
        for len in 0..=16 {
            for at in 0..len {
                for bit in 0..8 {
                    let mut piece = vec![0; len];
                    piece[at] = 1 << bit;
                    let key = key(&piece).unwrap();
                    assert_eq!(*keys.entry(key).or_insert_with(|| piece.clone()), piece);
                }
            }
        }
        assert_eq!((size_of::<Slot>(), key(&[0; 17])), (64, None));
    }
}
