//! What fetching an image comes to, and the disk that images lie on.

use crate::domain::{Failure, Kind};
use std::path::Path;
use std::time::Duration;

/// An image that is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that the disk has more by it, as far as the backend tells; 0 where it was there already.
    pub bytes: u64,
    /// It was not there before.
    pub pulled: bool,
}

/// Why an image is not there.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// The registry wants fewer requests, from all who ask it.
    #[error("{failure}")]
    Busy { retry_after: Option<Duration>, failure: Failure },
    /// After all tries.
    #[error("{0}")]
    Failed(Failure),
}

impl From<Failure> for FetchError {
    /// A daemon passes a registry's 429 on as text only.
    fn from(failure: Failure) -> Self {
        const SIGNS: [&str; 4] = ["toomanyrequests", "too many requests", "rate limit", "(429"];
        let text = failure.message.to_lowercase();
        if failure.kind == Kind::ImagePull && SIGNS.iter().any(|sign| text.contains(sign)) {
            return FetchError::Busy { retry_after: retry_after(&text), failure };
        }
        FetchError::Failed(failure)
    }
}

/// `retry-after: 30`, `retry-after: 388.9ms`: seconds, where no unit is told.
fn retry_after(text: &str) -> Option<Duration> {
    let rest = text.split_once("retry-after").or_else(|| text.split_once("retry after"))?.1.trim_start_matches([':', '=', ' ']);
    let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let number: f64 = rest[..digits].parse().ok()?;
    let unit = match rest[digits..].trim_start() {
        unit if unit.starts_with("ms") => 1e-3,
        unit if unit.starts_with("µs") || unit.starts_with("us") => 1e-6,
        unit if unit.starts_with("ns") => 1e-9,
        unit if unit.starts_with('m') => 60.0,
        unit if unit.starts_with('h') => 3600.0,
        _ => 1.0,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

/// Where images lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that this user may still write.
    pub free: u64,
    pub total: u64,
}

impl Disk {
    /// Of the file system that has this path; none where it is not of this host.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let stat = rustix::fs::statvfs(path).ok()?;
        Some(Disk { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: Kind, text: &str) -> FetchError {
        Failure::new(kind, text).into()
    }

    #[test]
    fn a_registry_that_wants_fewer_requests_is_told_from_other_failures() {
        let pause = |text| match of(Kind::ImagePull, text) {
            FetchError::Busy { retry_after, .. } => Some(retry_after),
            FetchError::Failed(_) => None,
        };
        assert_eq!(pause("toomanyrequests: You have reached your pull rate limit"), Some(None));
        assert_eq!(pause("TOOMANYREQUESTS: retry-after: 388.5ms, allowed: 44000/minute"), Some(Some(Duration::from_micros(388_500))));
        assert_eq!(pause("429 Too Many Requests, Retry-After: 30"), Some(Some(Duration::from_secs(30))));
        assert_eq!(pause("the registry has had too many requests (429); wait"), Some(None));
        assert_eq!(pause("too many requests (429, retry-after: 2.5s); wait"), Some(Some(Duration::from_millis(2500))));
        assert_eq!(pause("connection refused"), None);
        assert!(matches!(of(Kind::ImageMissing, "x (429)"), FetchError::Failed(_)), "the registry's last word");
    }

    #[test]
    fn a_disk_tells_its_bytes() {
        let disk = Disk::of(Path::new("/")).unwrap();
        assert!(disk.free <= disk.total && disk.total > 0);
        assert_eq!(Disk::of(Path::new("/nowhere/at/all")), None);
    }
}
