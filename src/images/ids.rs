//! Which numbers of the host stand for the users and groups of images and sandboxes.

use super::Settings;
use serde::{Deserialize, Serialize};
use std::fs;

/// Number `n` inside is `first + n` outside, for `n` below `count`. With one number only, everything is its file owner's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    pub first: u32,
    pub count: u32,
}

impl Ids {
    /// What this process may give away: root a range of its own, another user's namespace (see [`super::userns`]) what is in it
    /// besides the user, who stays out of the sandboxes where there is anyone else.
    #[must_use]
    pub fn ours(settings: &Settings) -> Self {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self::within(&map, settings.first_id)
    }

    /// By the text of a `uid_map`.
    fn within(map: &str, first: u32) -> Self {
        let lengths = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u32>().ok());
        match lengths.fold(0u32, u32::saturating_add) {
            0 | 1 => Ids { first: 0, count: 1 },
            all if all > first.saturating_add(1 << 16) => Ids { first, count: 1 << 16 },
            all => Ids { first: 1, count: (all - 1).min(1 << 16) },
        }
    }

    /// Whether they are root's to give: then the kernel's own overlay attributes (`trusted.`) are ours to write, else `user.` ones.
    #[must_use]
    pub fn are_roots(&self) -> bool {
        self.first > 1
    }

    /// The number outside of one inside; what is past the range is the last one's, as a file needs some owner.
    #[must_use]
    pub fn outside(&self, inside: u64) -> u32 {
        self.first + u32::try_from(inside).unwrap_or(u32::MAX).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_stays_out_where_there_is_anyone_else() {
        assert_eq!(Ids::within("         0          0 4294967295\n", 1000), Ids { first: 1000, count: 65536 });
        assert_eq!(Ids::within("0 1000 1\n1 100000 65536\n", 0x6000_0000), Ids { first: 1, count: 65536 });
        assert_eq!(Ids::within("0 1000 1\n", 0x6000_0000), Ids { first: 0, count: 1 });
        let ids = Ids { first: 10, count: 5 };
        assert_eq!((ids.outside(0), ids.outside(4), ids.outside(4_000_000_000_000)), (10, 14, 14));
    }
}
