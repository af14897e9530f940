//! What a failed request means, and whether it is made again. Pure: time and chance are arguments.

use super::Settings;
use crate::domain::Kind;
use std::time::{Duration, SystemTime};

/// Why a request brought nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// May go well another time: 408, 5xx, broken transport, bytes of another digest.
    Weather { retry_after: Option<Duration>, text: String },
    /// 429: likewise, but it concerns all that is asked of this registry.
    Busy { retry_after: Option<Duration>, text: String },
    /// For good.
    Refused { kind: Kind, text: String },
}

impl Trouble {
    pub fn weather(text: impl Into<String>) -> Self {
        Trouble::Weather { retry_after: None, text: text.into() }
    }

    /// The registry has no such image for us, as it stands.
    pub fn refused(text: impl Into<String>) -> Self {
        Trouble::Refused { kind: Kind::ImageMissing, text: text.into() }
    }

    /// By the status of a reply, and by its `Retry-After`.
    #[must_use]
    pub fn of_status(status: u16, retry_after: Option<&str>, login: &str, now: SystemTime) -> Self {
        let after = retry_after.and_then(|text| waiting_time(text, now));
        let again = |text: String| Trouble::Weather { retry_after: after, text };
        match status {
            401 | 403 => Self::refused(format!(
                "the registry gives it to nobody without the right to it ({status}), or has none of that name; check the name, or log in: \
                 docker login {login} (`auths` of Docker's config.json are read, credential helpers are not run)"
            )),
            404 => Self::refused("there is none of that name (404); check its repository and tag"),
            429 => {
                let told = after.map_or_else(String::new, |after| format!(", retry-after: {}s", after.as_secs_f64()));
                let mend = "log in, use a mirror (images.pull.mirrors), or wait";
                Trouble::Busy { retry_after: after, text: format!("the registry has had too many requests (429{told}); {mend}") }
            }
            408 | 425 | 500..=599 => {
                again(format!("the registry is in trouble ({status}); try again later, or use a mirror (images.pull.mirrors)"))
            }
            _ => Self::refused(format!("the registry answers with status {status}; is {login} a registry?")),
        }
    }
}

/// `Retry-After`: seconds or a date.
fn waiting_time(text: &str, now: SystemTime) -> Option<Duration> {
    let date = || httpdate::parse_http_date(text.trim()).ok().map(|then| then.duration_since(now).unwrap_or_default());
    text.trim().parse().ok().map(Duration::from_secs).or_else(date)
}

/// What one manifest or layer has gone through.
#[derive(Debug, Clone)]
pub struct Patience {
    tries: u32,
    /// In a row, that brought nothing.
    failures: u32,
    base: Duration,
    cap: Duration,
    total: Duration,
    wait_if_busy: bool,
}

impl Patience {
    #[must_use]
    pub fn new(settings: &Settings, tries: u32) -> Self {
        let base = Duration::from_secs(settings.backoff_s);
        let (cap, total, wait_if_busy) = (Duration::from_secs(settings.retry_after_cap_s), settings.timeout(), settings.wait_if_busy);
        Patience { tries, failures: 0, base, cap, total, wait_if_busy }
    }

    /// Some bytes came before it broke.
    pub fn progressed(&mut self) {
        self.failures = 0;
    }

    /// How long to wait before the next try; none: it is over. `random` is in 0..1.
    pub fn next(&mut self, trouble: &Trouble, elapsed: Duration, random: f64) -> Option<Duration> {
        let retry_after = match trouble {
            Trouble::Weather { retry_after, .. } => retry_after,
            Trouble::Busy { retry_after, .. } if self.wait_if_busy => retry_after,
            Trouble::Busy { .. } | Trouble::Refused { .. } => return None,
        };
        self.failures += 1;
        if self.failures >= self.tries.max(1) {
            return None;
        }
        let doubled = self.base * 2u32.saturating_pow(self.failures - 1).min(1 << 10);
        // Those who were told the same moment should not come back at the same moment.
        let pause = match retry_after {
            Some(after) => (*after).min(self.cap) + self.base.mul_f64(random / 2.0),
            None => doubled.min(self.cap).mul_f64(0.5 + random / 2.0),
        };
        (elapsed + pause < self.total).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn tries_and_time_are_bounded_and_progress_gives_new_tries() {
        let settings = Settings { tries: 3, backoff_s: 4, timeout_s: 100, retry_after_cap_s: 20, ..Settings::default() };
        let mut patience = Patience::new(&settings, settings.tries);
        let weather = Trouble::weather("x");
        assert_eq!(patience.next(&weather, seconds(0), 1.0), Some(seconds(4)));
        assert_eq!(patience.next(&weather, seconds(0), 0.0), Some(seconds(4)));
        assert_eq!(patience.clone().next(&weather, seconds(0), 0.0), None);
        patience.progressed();
        assert_eq!(patience.next(&weather, seconds(0), 1.0), Some(seconds(4)));
        assert_eq!(patience.next(&weather, seconds(99), 1.0), None);
        let mut patience = Patience::new(&settings, settings.tries);
        let told = |after| Trouble::Weather { retry_after: Some(seconds(after)), text: String::new() };
        assert_eq!(patience.next(&told(7), seconds(0), 0.0), Some(seconds(7)));
        assert_eq!(patience.next(&told(7000), seconds(0), 0.0), Some(seconds(20)));
        assert_eq!(Patience::new(&settings, 9).next(&Trouble::refused("x"), seconds(0), 0.0), None);
        assert_eq!(Patience::new(&settings, 1).next(&weather, seconds(0), 0.0), None);
    }

    #[test]
    fn a_status_says_whether_it_is_for_good() {
        let now = SystemTime::UNIX_EPOCH + seconds(1000);
        let of = |status, after| Trouble::of_status(status, after, "h", now);
        for status in [401, 403, 404, 400, 410, 302] {
            assert!(matches!(of(status, None), Trouble::Refused { kind: Kind::ImageMissing, .. }), "{status}");
        }
        for status in [408, 500, 503, 529] {
            let Trouble::Weather { retry_after, .. } = of(status, Some("12")) else { panic!("{status}") };
            assert_eq!(retry_after, Some(seconds(12)));
        }
        let date = httpdate::fmt_http_date(now + seconds(30));
        let Trouble::Busy { retry_after, text } = of(429, Some(&date)) else { panic!() };
        assert_eq!(retry_after, Some(seconds(30)));
        assert!(text.contains("(429, retry-after: 30s)"), "{text}");
        assert!(matches!(of(429, Some("soon")), Trouble::Busy { retry_after: None, .. }));
    }

    #[test]
    fn a_busy_registry_is_waited_for_unless_somebody_else_does() {
        let busy = Trouble::of_status(429, Some("12"), "h", SystemTime::UNIX_EPOCH);
        let settings = |wait_if_busy| Settings { tries: 3, backoff_s: 4, wait_if_busy, ..Settings::default() };
        assert_eq!(Patience::new(&settings(true), 3).next(&busy, seconds(0), 0.0), Some(seconds(12)));
        assert_eq!(Patience::new(&settings(false), 3).next(&busy, seconds(0), 0.0), None);
    }

    #[test]
    fn a_refusal_says_how_to_log_in() {
        let of = |status, after| Trouble::of_status(status, after, "h", SystemTime::UNIX_EPOCH);
        let Trouble::Refused { text, .. } = of(401, None) else { panic!() };
        assert!(text.contains("docker login h"));
    }
}
