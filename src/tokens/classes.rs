//! Unicode classes that pre-tokenization asks for, as tables.

use regex_syntax::hir::{Class as HirClass, HirKind};
use std::sync::LazyLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Letter,
    Number,
    Space,
    Other,
}

pub struct Classes {
    bytes: [Option<Class>; 256],
    letters: Vec<u64>,
    numbers: Vec<u64>,
}

#[must_use]
pub fn classes() -> &'static Classes {
    static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::new);
    &CLASSES
}

impl Classes {
    fn new() -> Self {
        let mut classes = Classes { bytes: [None; 256], letters: bits(r"\p{L}"), numbers: bits(r"\p{N}") };
        for byte in 0..128 {
            classes.bytes[usize::from(byte)] = Some(classes.of(char::from(byte)));
        }
        classes
    }

    /// None where the byte is no character by itself.
    #[inline]
    #[must_use]
    pub fn byte(&self, byte: u8) -> Option<Class> {
        self.bytes[usize::from(byte)]
    }

    #[must_use]
    pub fn of(&self, c: char) -> Class {
        let at = c as usize;
        let has = |bits: &[u64]| bits.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1);
        if has(&self.letters) {
            Class::Letter
        } else if has(&self.numbers) {
            Class::Number
        } else if c.is_whitespace() {
            Class::Space
        } else {
            Class::Other
        }
    }
}

/// One bit a code point up to the last member of the class.
fn bits(class: &str) -> Vec<u64> {
    let mut bits = Vec::new();
    let Ok(hir) = regex_syntax::parse(class) else { unreachable!("{class} is a class") };
    let HirKind::Class(HirClass::Unicode(class)) = hir.kind() else { unreachable!("of code points") };
    for range in class.ranges() {
        bits.resize(range.end() as usize / 64 + 1, 0);
        for at in range.start() as usize..=range.end() as usize {
            bits[at / 64] |= 1_u64 << (at % 64);
        }
    }
    bits
}
