//! A hash that is the same with every compiler and on every machine: what it decides is the same everywhere.

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// 64 bits of these parts, in their order and as they are parted.
pub(super) fn hash<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> u64 {
    let mut hasher = SipHasher13::new();
    for part in parts {
        let part = part.as_ref();
        hasher.write(&(part.len() as u64).to_le_bytes());
        hasher.write(part);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_what_they_are() {
        assert_eq!(hash(["a", "bc"]), 18_139_956_459_179_832_509);
        assert_ne!(hash(["a", "bc"]), hash(["ab", "c"]));
    }
}
