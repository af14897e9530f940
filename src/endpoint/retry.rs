//! What a reply other than a good one means, and what follows from it. Pure: time and random numbers are arguments.

use crate::domain::Kind;
use crate::endpoint::settings::seconds;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// How long and how often a request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Requests for one reply, the first included, of an endpoint that answers others. Those answered by 429 or 503 do not
    /// count, nor those that fail while the endpoint is ill (`pool.eject_after`, `eject_faults`): it is waited for.
    pub tries: u32,
    /// The first delay, seconds; doubled from one failure to the next.
    pub base_s: f64,
    /// The longest delay, seconds.
    pub cap_s: f64,
    /// The longest `Retry-After` that is believed, seconds.
    pub retry_after_cap_s: f64,
    /// Bounds delays and failed requests together, seconds; waiting for a permit does not count, nor what 429 and 503 cost.
    pub max_elapsed_s: f64,
    /// The same for what 429 and 503 cost: a storm slows a run down and ends no episode, but something must end the wait for an
    /// endpoint that is closed for good.
    pub max_throttled_s: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { tries: 10, base_s: 1.0, cap_s: 60.0, retry_after_cap_s: 300.0, max_elapsed_s: 3600.0, max_throttled_s: 86_400.0 }
    }
}

/// What a failed request tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint has too much to do: 429, 503, 529, `insufficient_system_resource`.
    Throttled { retry_after: Option<Duration> },
    /// This once: 408, 409, 425, other 5xx, broken transport, a body that cannot be read.
    Faulty { retry_after: Option<Duration> },
    /// The prompt is over the model's context.
    ContextOverflow,
    /// For good.
    Refused(Kind),
}

/// What went into one reply so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    pub throttled: u32,
    pub faulty: u32,
    /// Of the faulty ones: of an endpoint that was well otherwise.
    pub tried: u32,
    /// On faulty requests and the delays after them.
    pub elapsed: Duration,
    /// On throttled ones.
    pub throttled_for: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Retry(Duration),
    GiveUp(GiveUp),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    ContextOverflow,
    Failed(Kind),
}

impl Spent {
    pub fn add(&mut self, verdict: Verdict, time: Duration) {
        match verdict {
            Verdict::Throttled { .. } => self.throttled_for += time,
            Verdict::Faulty { .. } | Verdict::ContextOverflow | Verdict::Refused(_) => self.elapsed += time,
        }
    }

    /// `ill`: the endpoint is, whatever it is asked.
    pub fn count(&mut self, verdict: Verdict, ill: bool) {
        match verdict {
            Verdict::Throttled { .. } => self.throttled += 1,
            Verdict::Faulty { .. } => {
                self.faulty += 1;
                self.tried += u32::from(!ill);
            }
            Verdict::ContextOverflow | Verdict::Refused(_) => {}
        }
    }
}

impl Policy {
    /// What follows from a failed request that is counted in `spent`. `random` is in 0..1.
    #[must_use]
    pub fn next(&self, spent: &Spent, verdict: Verdict, random: f64) -> Step {
        let (failures, retry_after, left) = match verdict {
            Verdict::ContextOverflow => return Step::GiveUp(GiveUp::ContextOverflow),
            Verdict::Refused(kind) => return Step::GiveUp(GiveUp::Failed(kind)),
            Verdict::Throttled { retry_after } => {
                (spent.throttled, retry_after, seconds(self.max_throttled_s).saturating_sub(spent.throttled_for))
            }
            Verdict::Faulty { retry_after } => (spent.faulty, retry_after, seconds(self.max_elapsed_s).saturating_sub(spent.elapsed)),
        };
        let out_of_tries = matches!(verdict, Verdict::Faulty { .. }) && spent.tried >= self.tries;
        if out_of_tries || left.is_zero() {
            return Step::GiveUp(GiveUp::Failed(Kind::EndpointUnavailable));
        }
        let backoff = self.backoff(failures, random);
        let delay = match retry_after {
            None => backoff,
            // The jitter keeps those told the same moment from coming back at the same moment.
            Some(after) => self.believed(after) + self.backoff(1, random),
        };
        Step::Retry(delay.min(left))
    }

    /// A `Retry-After` within its cap.
    #[must_use]
    pub fn believed(&self, retry_after: Duration) -> Duration {
        retry_after.min(seconds(self.retry_after_cap_s))
    }

    /// Doubles with each failure up to the cap; the upper half of it is left to chance.
    fn backoff(&self, failures: u32, random: f64) -> Duration {
        let doubled = self.base_s * f64::from(failures.saturating_sub(1).min(60)).exp2();
        seconds(doubled.min(self.cap_s) * (0.5 + random / 2.0))
    }
}

/// The verdict on a reply with this status that is not a completion.
#[must_use]
pub fn classify(status: u16, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Verdict {
    let retry_after = retry_after(headers, now);
    let words = Words::of(body);
    match status {
        401 => Verdict::Refused(Kind::Unauthorized),
        402 => Verdict::Refused(Kind::Payment),
        403 if words.out_of_money() => Verdict::Refused(Kind::Payment),
        403 => Verdict::Refused(Kind::Unauthorized),
        400 | 413 | 422 | 500 if words.overflow() => Verdict::ContextOverflow,
        429 if words.out_of_money() => Verdict::Refused(Kind::Payment),
        429 | 503 | 529 => Verdict::Throttled { retry_after },
        413 => Verdict::ContextOverflow,
        400 | 422 if words.unknown_model() => Verdict::Refused(Kind::UnknownModel),
        400 | 422 if words.bad_key() => Verdict::Refused(Kind::Unauthorized),
        // A redirect is not followed: the key goes to no host that the user did not name.
        300..=399 | 404 | 405 | 410 => Verdict::Refused(Kind::UnknownModel),
        408 | 409 | 425 | 500..=599 => Verdict::Faulty { retry_after },
        400..=499 => Verdict::Refused(Kind::EndpointRefused),
        // A success without a completion in it, or a status that HTTP does not have.
        _ => Verdict::Faulty { retry_after },
    }
}

/// From `retry-after-ms`, or `Retry-After` in seconds or as a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n >= 0.0);
    if let Some(ms) = headers.get("retry-after-ms").and_then(|v| v.to_str().ok()).and_then(number) {
        return Some(seconds(ms / 1000.0));
    }
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    match number(text) {
        Some(s) => Some(seconds(s)),
        None => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
    }
}

/// The words of an error's body, lower case.
struct Words(String);

/// Bytes of an error's body that are looked at.
const LOOKED_AT: usize = 8 << 10;

impl Words {
    fn of(body: &[u8]) -> Self {
        Words(String::from_utf8_lossy(&body[..body.len().min(LOOKED_AT)]).to_lowercase())
    }

    fn any(&self, phrases: &[&str]) -> bool {
        phrases.iter().any(|p| self.0.contains(p))
    }

    /// As OpenAI, DeepSeek and vLLM; SGLang; vLLM's scheduler; llama.cpp; LM Studio; Groq; Qwen's, Mistral's, Moonshot's
    /// and MiniMax's hosts; Anthropic's, Google's and xAI's OpenAI forms say it.
    fn overflow(&self) -> bool {
        self.any(&[
            "context_length_exceeded",
            "context length exceeded",
            "maximum context length",
            "longer than the model's context length",
            "longer than the maximum model length",
            "exceeds the model's context",
            "exceeds the maximum allowed length",
            "exceeds the available context size",
            "exceeds the context window",
            "exceeds model context window",
            "context window exceeds limit",
            "context size has been exceeded",
            "greater than the context length",
            "exceed_context_size",
            "reduce the length of the messages",
            "range of input length should be",
            "exceeded model token limit",
            "model_context_window_exceeded",
            "prompt is too long",
            "input is too long",
            "maximum prompt length",
        ]) || self.0.contains("input token count") && self.0.contains("exceeds the maximum")
    }

    fn out_of_money(&self) -> bool {
        self.any(&["insufficient_quota", "insufficient balance", "insufficient_balance", "insufficient credits", "billing_hard_limit"])
    }

    fn unknown_model(&self) -> bool {
        self.any(&["model_not_found", "model not exist", "model not found", "not a valid model", "unknown model", "invalid model"])
            || self.0.contains("model") && self.any(&["` does not exist", "' does not exist", "\\\" does not exist"])
    }

    fn bad_key(&self) -> bool {
        self.any(&["api key not valid", "invalid api key", "invalid_api_key", "incorrect api key"])
    }
}

/// The status that a host tucked into the body of a success: `{"error": {"code": 429, ...}}`.
#[must_use]
pub fn status_within(error: &Value) -> Option<u16> {
    let code = error.get("code").or_else(|| error.get("status")).unwrap_or(error);
    let code = code.as_u64().or_else(|| code.as_str()?.parse().ok())?;
    u16::try_from(code).ok().filter(|code| (400..600).contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_760_000_000);

    fn verdict(status: u16, headers: &[(&'static str, &str)], body: &str) -> Verdict {
        let headers = headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect();
        classify(status, &headers, body.as_bytes(), SystemTime::UNIX_EPOCH + NOW)
    }

    fn again(status: u16) -> Verdict {
        verdict(status, &[], "{}")
    }

    #[test]
    fn every_status_has_its_verdict() {
        use Kind::*;
        for status in [408, 409, 425, 500, 502, 504, 520, 200, 204] {
            assert_eq!(again(status), Verdict::Faulty { retry_after: None }, "{status}");
        }
        for status in [429, 503, 529] {
            assert_eq!(again(status), Verdict::Throttled { retry_after: None }, "{status}");
        }
        for (status, kind) in [
            (301, UnknownModel),
            (400, EndpointRefused),
            (401, Unauthorized),
            (402, Payment),
            (403, Unauthorized),
            (404, UnknownModel),
            (405, UnknownModel),
            (418, EndpointRefused),
            (422, EndpointRefused),
        ] {
            assert_eq!(again(status), Verdict::Refused(kind), "{status}");
        }
        assert_eq!(again(413), Verdict::ContextOverflow);
    }

    #[test]
    fn overflow_in_the_words_of_each_server() {
        for body in [
            r#"{"error":{"message":"x","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
            r#"{"error":{"message":"This model's maximum context length is 131072 tokens. However, you requested 131134 tokens (122942 in the messages, 8192 in the completion).","code":"invalid_request_error"}}"#,
            r#"{"object":"error","message":"The input (61709 tokens) is longer than the model's context length (40960 tokens).","type":"BadRequestError","param":null,"code":400}"#,
            r#"{"object":"error","message":"The decoder prompt (length 10127) is longer than the maximum model length of 8192.","code":400}"#,
            r#"{"message":"Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens)."}"#,
            r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}"#,
            "prompt is too long: 213462 tokens > 200000 maximum",
            r#"{"error":{"message":"The input token count (1196265) exceeds the maximum number of tokens allowed (1048575)."}}"#,
        ] {
            assert_eq!(verdict(400, &[], body), Verdict::ContextOverflow, "{body}");
            assert_ne!(verdict(429, &[], body), Verdict::ContextOverflow, "{body}");
        }
        for body in [
            r#"{"error":{"message":"Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"}}"#,
            "Missing `reasoning_content` field in the assistant message at message index 4.",
        ] {
            assert_eq!(verdict(400, &[], body), Verdict::Refused(Kind::EndpointRefused), "{body}");
        }
    }

    #[test]
    fn money_models_and_keys_are_told_apart() {
        let quota = r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#;
        assert_eq!(verdict(429, &[], quota), Verdict::Refused(Kind::Payment));
        let minute = r#"{"error":{"message":"You exceeded your current quota, please retry in 20s","status":"RESOURCE_EXHAUSTED"}}"#;
        assert_eq!(verdict(429, &[], minute), Verdict::Throttled { retry_after: None });
        for body in [
            r#"{"error":{"message":"Model Not Exist"}}"#,
            r#"{"error":{"message":"deepseek/none is not a valid model ID","code":400}}"#,
            r#"{"message":"The model `x` does not exist."}"#,
        ] {
            assert_eq!(verdict(400, &[], body), Verdict::Refused(Kind::UnknownModel), "{body}");
        }
        let key = r#"{"error":{"message":"API key not valid. Please pass a valid API key."}}"#;
        assert_eq!(verdict(400, &[], key), Verdict::Refused(Kind::Unauthorized));
    }

    #[test]
    fn retry_after_in_all_its_forms() {
        let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(90));
        let past = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH);
        for (name, value, wanted) in [
            ("retry-after", "7", Some(7_000)),
            ("retry-after", "1.5", Some(1_500)),
            ("retry-after", &date, Some(90_000)),
            ("retry-after", &past, Some(0)),
            ("retry-after-ms", "250", Some(250)),
            ("retry-after", "soon", None),
            ("retry-after", "-3", None),
        ] {
            let retry_after = wanted.map(Duration::from_millis);
            assert_eq!(verdict(429, &[(name, value)], ""), Verdict::Throttled { retry_after }, "{name}: {value}");
        }
        assert_eq!(verdict(500, &[("retry-after", "2")], ""), Verdict::Faulty { retry_after: Some(Duration::from_secs(2)) });
    }

    #[test]
    fn delays_double_within_cap_and_time() {
        let policy = Policy { tries: 100, base_s: 1.0, cap_s: 10.0, retry_after_cap_s: 30.0, max_elapsed_s: 100.0, max_throttled_s: 100.0 };
        let faulty = Verdict::Faulty { retry_after: None };
        let delay = |faults, random, elapsed| match policy.next(
            &Spent { throttled: 0, faulty: faults, elapsed, ..Spent::default() },
            faulty,
            random,
        ) {
            Step::Retry(delay) => delay.as_secs_f64(),
            Step::GiveUp(_) => -1.0,
        };
        let zero = Duration::ZERO;
        assert_eq!([delay(1, 1.0, zero), delay(2, 1.0, zero), delay(3, 1.0, zero), delay(9, 1.0, zero)], [1.0, 2.0, 4.0, 10.0]);
        assert_eq!(delay(3, 0.0, zero), 2.0);
        assert_eq!(delay(9, 1.0, Duration::from_secs(97)), 3.0);
        assert_eq!(delay(1, 1.0, Duration::from_secs(100)), -1.0);
        let spent = Spent { throttled: 1, ..Spent::default() };
        let told = Verdict::Throttled { retry_after: Some(Duration::from_secs(3600)) };
        assert_eq!(policy.next(&spent, told, 0.0), Step::Retry(Duration::from_millis(30_500)));
    }

    #[test]
    fn throttling_costs_time_but_no_tries() {
        let policy = Policy { tries: 3, ..Policy::default() };
        let spent =
            Spent { throttled: 500, faulty: 2, tried: 2, elapsed: Duration::from_secs(60), throttled_for: Duration::from_secs(7200) };
        let step = |spent: Spent, verdict| policy.next(&spent, verdict, 0.5);
        assert!(matches!(step(spent, Verdict::Throttled { retry_after: None }), Step::Retry(_)));
        assert!(matches!(step(spent, Verdict::Faulty { retry_after: None }), Step::Retry(_)));
        let unavailable = Step::GiveUp(GiveUp::Failed(Kind::EndpointUnavailable));
        assert_eq!(step(Spent { tried: 3, ..spent }, Verdict::Faulty { retry_after: None }), unavailable);
        let late = Spent { throttled_for: Duration::from_secs(86_400), ..spent };
        assert_eq!(step(late, Verdict::Throttled { retry_after: None }), unavailable);
        assert_eq!(step(spent, Verdict::ContextOverflow), Step::GiveUp(GiveUp::ContextOverflow));
        assert_eq!(step(spent, Verdict::Refused(Kind::Payment)), Step::GiveUp(GiveUp::Failed(Kind::Payment)));
    }

    #[test]
    fn an_outage_costs_time_but_no_tries() {
        let policy = Policy { tries: 3, ..Policy::default() };
        let fault = Verdict::Faulty { retry_after: None };
        let mut spent = Spent::default();
        for _ in 0..500 {
            spent.count(fault, true);
            assert!(matches!(policy.next(&spent, fault, 0.5), Step::Retry(delay) if delay <= Duration::from_secs(60)));
        }
        (0..3).for_each(|_| spent.count(fault, false));
        assert_eq!(policy.next(&spent, fault, 0.5), Step::GiveUp(GiveUp::Failed(Kind::EndpointUnavailable)));
        let late = Spent { elapsed: Duration::from_secs(3600), ..Spent::default() };
        assert_eq!(policy.next(&late, fault, 0.5), Step::GiveUp(GiveUp::Failed(Kind::EndpointUnavailable)), "not for ever");
    }

    #[test]
    fn a_status_may_hide_in_a_success() {
        let within = |text: &str| status_within(&serde_json::from_str(text).unwrap());
        assert_eq!(within(r#"{"code":429,"message":"x"}"#), Some(429));
        assert_eq!(within(r#"{"code":"502"}"#), Some(502));
        assert_eq!(within(r#"{"code":"bad_thing"}"#), None);
        assert_eq!(within(r#"{"code":7}"#), None);
    }
}
