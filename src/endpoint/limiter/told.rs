//! What an endpoint tells of its limits in the headers of its replies, as OpenAI and its likes do: `x-ratelimit-limit-requests`
//! and `-reset-requests`, and the same of tokens. Pure. What cannot be read is as if it were not there.

use reqwest::header::HeaderMap;
use std::time::Duration;

/// The longest reset of a minute's allowance. What takes longer to be whole again is a day's or an hour's, and no pace.
const MINUTE: Duration = Duration::from_secs(61);
/// Characters of a time that are read.
const LONGEST: usize = 32;

/// What one reply told: what is allowed a minute, at least 1; none where it told nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    pub requests: Option<u64>,
    /// Prompt and completion together.
    pub tokens: Option<u64>,
}

impl Told {
    #[must_use]
    pub fn by(headers: &HeaderMap) -> Self {
        Told {
            requests: per_minute(headers, ["x-ratelimit-limit-requests", "x-ratelimit-reset-requests"]),
            tokens: per_minute(headers, ["x-ratelimit-limit-tokens", "x-ratelimit-reset-tokens"]),
        }
    }
}

/// What remains is not asked: where others use it up too, a 429 tells when to come again.
fn per_minute(headers: &HeaderMap, [limit, reset]: [&str; 2]) -> Option<u64> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.trim());
    let limit = text(limit)?.parse().ok().filter(|n| *n > 0)?;
    text(reset).and_then(time).is_none_or(|reset| reset <= MINUTE).then_some(limit)
}

/// As Go writes it (`1h2m3.5s`, `20ms`), or a number of seconds.
fn time(text: &str) -> Option<Duration> {
    if text.is_empty() || text.len() > LONGEST {
        return None;
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let worth = match unit {
            "ns" => 1e-9,
            "us" => 1e-6,
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * worth;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(headers: &[(&str, &str)]) -> Told {
        let pair = |(name, value): &(&str, &str)| (format!("x-ratelimit-{name}").parse().unwrap(), value.parse().unwrap());
        Told::by(&headers.iter().map(pair).collect::<HeaderMap<_>>())
    }

    #[test]
    fn a_minutes_allowances_are_read() {
        let both = told(&[
            ("limit-requests", "500"),
            ("remaining-requests", "499"),
            ("reset-requests", "120ms"),
            ("limit-tokens", "30000"),
            ("remaining-tokens", "0"),
            ("reset-tokens", "1m0s"),
        ]);
        assert_eq!(both, Told { requests: Some(500), tokens: Some(30_000) });
        assert_eq!(told(&[("limit-requests", " 7 ")]).requests, Some(7), "the limit alone is enough");
        assert_eq!(told(&[("limit-requests", "7"), ("reset-requests", "soon")]).requests, Some(7));
        assert_eq!(told(&[("remaining-requests", "0")]), Told::default());
    }

    #[test]
    fn a_days_allowance_is_no_pace() {
        assert_eq!(told(&[("limit-requests", "14400"), ("reset-requests", "2m59.56s")]).requests, None);
        assert_eq!(told(&[("limit-requests", "14400"), ("reset-requests", "86400")]).requests, None);
        assert_eq!(told(&[("limit-requests", "60"), ("reset-requests", "59")]).requests, Some(60));
    }

    #[test]
    fn what_is_no_limit_is_not_believed() {
        for limit in ["", "0", "-1", "1e9", "99999999999999999999", "10, 10;w=60", "0x10", "NaN", "∞"] {
            let headers = HeaderMap::from_iter([(
                "x-ratelimit-limit-requests".parse().unwrap(),
                reqwest::header::HeaderValue::from_bytes(limit.as_bytes()).unwrap(),
            )]);
            assert_eq!(Told::by(&headers), Told::default(), "{limit}");
        }
    }

    #[test]
    fn times_in_their_forms() {
        for (text, ms) in
            [("20ms", 20), ("8.64s", 8640), ("6m0s", 360_000), ("1h2m3s", 3_723_000), ("12", 12_000), ("0s", 0), ("1d", 86_400_000)]
        {
            assert_eq!(time(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "1x", "1..2s", "2026-01-01T00:00:00Z", "99999999999999999999999999999999999h"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_survived(limit in "\\PC{0,40}", reset in "[0-9a-z.]{0,40}") {
            let mut headers = HeaderMap::new();
            for (name, text) in [("x-ratelimit-limit-tokens", limit), ("x-ratelimit-reset-tokens", reset)] {
                if let Ok(value) = text.parse() {
                    headers.insert(name, value);
                }
            }
            let Told { requests, tokens } = Told::by(&headers);
            prop_assert!(requests.is_none() && tokens.is_none_or(|limit| limit > 0));
        }
    }
}
