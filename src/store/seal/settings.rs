//! Sizes and speeds of sealing.

use crate::store::seek::MAX_WINDOW_LOG;
use serde::{Deserialize, Serialize};

/// How a dataset is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Seal a run when it is done.
    pub at_end: bool,
    /// Records of one frame together, before compression; a longer record has a frame of its own.
    pub frame_bytes: u64,
    /// Largest shard before compression; where there are more than one they are of about one size, and over half of this.
    pub shard_bytes: u64,
    /// zstd level, 1 to 19.
    pub level: i32,
    /// How far back a match may lie, as a power of two of bytes. Readers refuse windows over 27.
    pub window_log: u32,
    /// Threads that compress; 0: one a core.
    pub threads: usize,
    /// Memory that the work is fitted to, bytes: fewer threads are at work where more would need more.
    pub memory_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            at_end: true,
            frame_bytes: 16 << 20,
            shard_bytes: 512 << 20,
            level: 9,
            window_log: MAX_WINDOW_LOG,
            threads: 0,
            memory_bytes: 768 << 20,
        }
    }
}

/// Smaller ones compress no better than the live shards, and make long seek tables.
const MIN_FRAME_BYTES: u64 = 4 << 10;

/// Largest frame that a reader has to be ready for, but for records that are longer.
pub(super) const MAX_FRAME_BYTES: u64 = 256 << 20;

/// What a compressor holds beside the frame, up to level 12 and above: 32 MB and 90 MB were measured at levels 9 and 19 with frames of
/// 16 MiB.
const fn thread_bytes(level: i32) -> u64 {
    if level <= 12 { 40 << 20 } else { 128 << 20 }
}

impl Settings {
    /// # Errors
    /// Names the setting that cannot be, and what can.
    pub fn check(&self) -> Result<(), String> {
        let within = [
            ("seal.frame_bytes", self.frame_bytes, MIN_FRAME_BYTES, MAX_FRAME_BYTES),
            ("seal.shard_bytes", self.shard_bytes, self.frame_bytes, 1 << 40),
            ("seal.level", u64::try_from(self.level).unwrap_or(0), 1, 19),
            ("seal.window_log", u64::from(self.window_log), 10, u64::from(MAX_WINDOW_LOG)),
        ];
        match within.into_iter().find(|(_, value, least, most)| value < least || value > most) {
            Some((name, value, least, most)) => Err(format!("{name} is {value}: give {least} to {most}")),
            None => Ok(()),
        }
    }

    /// Threads at work: those asked for, as many as the memory bears, one at least.
    #[must_use]
    pub fn workers(&self) -> usize {
        let asked = match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let each = thread_bytes(self.level) + Self::need(self.frame_bytes);
        asked.min(usize::try_from(self.memory_bytes / each).unwrap_or(usize::MAX)).max(1)
    }

    /// Memory for the records that are at work, all threads together.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.memory_bytes.saturating_sub(thread_bytes(self.level) * self.workers() as u64)
    }

    /// What the work on a frame of this size needs: the records, the frame that they are read from, and what they become.
    #[must_use]
    pub fn need(raw_bytes: u64) -> u64 {
        raw_bytes.saturating_mul(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_limits_the_threads_and_bad_settings_are_named() {
        let settings = |threads, memory_bytes| Settings { threads, memory_bytes, ..Settings::default() };
        assert_eq!(settings(4, 768 << 20).workers(), 4);
        assert_eq!((settings(64, 768 << 20).workers(), settings(64, 768 << 20).budget()), (8, (768 - 8 * 40) << 20));
        assert_eq!((settings(8, 0).workers(), settings(8, 0).budget()), (1, 0));
        assert!(settings(0, 0).check().is_ok());
        let wide = Settings { window_log: 28, ..Settings::default() };
        assert_eq!(wide.check().unwrap_err(), "seal.window_log is 28: give 10 to 27");
        let small = Settings { shard_bytes: 5, ..Settings::default() };
        assert!(small.check().unwrap_err().starts_with("seal.shard_bytes is 5"));
        assert!(Settings { level: -3, ..Settings::default() }.check().unwrap_err().contains("1 to 19"));
    }
}
