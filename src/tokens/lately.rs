//! Pieces of text that a thread met lately, with their tokens: in a trajectory the same words and names come again and again,
//! and these few lie nearer to the core than the vocabulary does.

use std::{
    cell::RefCell,
    sync::atomic::{AtomicU32, Ordering},
};

/// Longer pieces, and those of more tokens, are not kept.
pub const PIECE_BYTES: usize = 24;
const TOKENS: usize = 8;

/// 64 bytes each: 256 KiB a thread, which stay in its core's cache.
const SLOTS: usize = 4096;

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Slot {
    /// 0: the slot is free.
    vocab: u32,
    len: u8,
    count: u8,
    piece: [u8; PIECE_BYTES],
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

/// Pushes the tokens of a piece of at most [`PIECE_BYTES`]: those that `encode` pushed for it before, else what it pushes now.
#[inline]
pub fn encode<P: FnMut(u32)>(vocab: u32, hash: u64, piece: &[u8], push: &mut P, encode: impl Fn(&mut dyn FnMut(u32))) {
    let at = (hash >> 20) as usize % SLOTS;
    SLOT.with(|slots| {
        // Borrowed for a look only: what `push` does is not known.
        let known = slots.borrow()[at];
        if known.vocab == vocab && known.piece.get(..usize::from(known.len)) == Some(piece) {
            known.ids[..usize::from(known.count)].iter().for_each(|id| push(*id));
            return;
        }
        let (mut ids, mut count) = ([0; TOKENS], 0);
        encode(&mut |id| {
            if let Some(slot) = ids.get_mut(count) {
                *slot = id;
            }
            count += 1;
            push(id);
        });
        if count <= TOKENS {
            let mut slot = Slot { vocab, len: piece.len() as u8, count: count as u8, piece: [0; PIECE_BYTES], ids };
            slot.piece[..piece.len()].copy_from_slice(piece);
            slots.borrow_mut()[at] = slot;
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
        encode(vocab, 7 << 20, piece.as_bytes(), &mut |id| ids.push(id), |push| {
            anew.set(true);
            (first..).zip(piece.bytes()).for_each(|(id, _)| push(id));
        });
        (ids, anew.get())
    }

    #[test]
    fn what_comes_again_is_told_from_what_shares_its_slot() {
        let (one, other) = (serial(), serial());
        assert_eq!(encoded(one, "abc", 5), (vec![5, 6, 7], true));
        assert_eq!(encoded(one, "abc", 9), (vec![5, 6, 7], false));
        assert_eq!(encoded(one, "ab", 1), (vec![1, 2], true), "a beginning of it");
        assert_eq!(encoded(other, "ab", 8), (vec![8, 9], true), "another vocabulary");
        assert_eq!(encoded(one, "ab", 3), (vec![3, 4], true));
        let long = "123456789";
        for first in [10, 20] {
            assert_eq!(encoded(one, long, first), ((first..first + 9).collect(), true), "of too many tokens to be kept");
        }
        assert_eq!(encoded(one, "ab", 6), (vec![3, 4], false));
    }
}
