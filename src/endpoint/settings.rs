//! What a user may set of the endpoint. The key is no setting: only where it comes from is.

use crate::domain::{Failure, Kind};
use crate::endpoint::{limiter::Limits, pool, price::Prices, retry::Policy, share};
use reqwest::Url;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

/// Environment variable that is asked for the key unless another is named.
pub const KEY_ENV: &str = "SWEROLL_API_KEY";
/// Largest file taken for a key, bytes.
const MAX_KEY_FILE: u64 = 64 << 10;
/// Keys of a request's body that are the client's own.
const OURS: [&str; 4] = ["model", "messages", "tools", "stream"];

/// The table `[endpoint]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Base address, as OpenAI clients take it: `/chat/completions` and `/models` are added to its path.
    /// With no path at all, `/v1` comes first; a path that already ends in `/chat/completions` is taken as it is.
    pub url: String,
    /// Several endpoints that serve the same model; `url`, where given too, is one more, of weight 1.
    pub replicas: Vec<Replica>,
    pub pool: pool::Settings,
    /// Seconds after which a request that has no answer yet is sent to a second endpoint too, and the first answer taken; the
    /// other request is dropped. What it cost is billed by most hosts all the same, told by none, and so in no record or
    /// budget of ours: of the hedged ones count twice. 0: never.
    pub hedge_after_s: f64,
    /// Name of the model as the endpoint knows it.
    pub model: String,
    /// Environment variable with the key. The default one may be absent (endpoints without keys), another may not.
    pub api_key_env: String,
    /// File with the key, which then comes from here and not from the environment; white space around it is dropped.
    pub api_key_file: Option<PathBuf>,
    /// Sampling parameters, sent as they are: `temperature`, `top_p`, `max_tokens`, ...
    pub sampling: Map<String, Value>,
    /// Further fields of the request's body; they win over `sampling`.
    pub extra_body: Map<String, Value>,
    /// Further headers. A value `env:NAME` is read from the environment: the only way for one that [may hold a secret](is_secret).
    #[serde(deserialize_with = "headers_without_secrets")]
    pub headers: BTreeMap<String, String>,
    pub timeouts: Timeouts,
    /// Ask for replies piece by piece, so that one that stalls is noticed (`timeouts.stall_s`). The record is the same, but
    /// for `first_token_ms` in a response's `extra`. Off, since each token then wakes the engine, at 30 µs of processor time: twenty
    /// times a whole turn's. A stall of a whole reply is noticed too, after `timeouts.first_byte_s`, and loses time alone. Turn it on
    /// for proxies that cut silent connections, and for replies that take minutes.
    pub stream: bool,
    /// Largest reply, bytes. Of a streamed one what it says counts, not the events around it.
    pub max_reply_bytes: u64,
    pub retry: Policy,
    pub limits: Limits,
    /// With other processes; each endpoint on its own.
    pub share: share::Settings,
    pub reasoning_field: ReasoningField,
    pub send_reasoning: SendReasoning,
    pub prices: Prices,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            url: String::new(),
            replicas: Vec::new(),
            pool: pool::Settings::default(),
            hedge_after_s: 0.0,
            model: String::new(),
            api_key_env: KEY_ENV.to_owned(),
            api_key_file: None,
            sampling: Map::new(),
            extra_body: Map::new(),
            headers: BTreeMap::new(),
            timeouts: Timeouts::default(),
            stream: false,
            max_reply_bytes: 16 << 20,
            retry: Policy::default(),
            limits: Limits::default(),
            share: share::Settings::default(),
            reasoning_field: ReasoningField::Auto,
            send_reasoning: SendReasoning::Auto,
            prices: Prices::default(),
        }
    }
}

/// One of several endpoints. What it does not set is as the endpoint's own settings have it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replica {
    pub url: String,
    /// Share of the episodes; over 0.
    #[serde(deserialize_with = "weight")]
    pub weight: Weight,
    /// Name that it has for the same model.
    pub model: Option<String>,
    pub api_key_env: Option<String>,
    pub api_key_file: Option<PathBuf>,
    /// Those that differ.
    #[serde(skip_serializing_if = "Differing::is_empty")]
    pub limits: Differing,
    pub prices: Option<Prices>,
}

/// Limits by their names, of which the others are as the endpoint's own settings have them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Differing(Map<String, Value>);

impl Differing {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn over(&self, common: Limits) -> Result<Limits, serde_json::Error> {
        let mut all = serde_json::to_value(common)?;
        all.as_object_mut().into_iter().for_each(|all| all.extend(self.0.clone()));
        serde_json::from_value(all)
    }
}

/// Refuses what are no limits.
impl<'de> Deserialize<'de> for Differing {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let these = Differing(Map::deserialize(from)?);
        these.over(Limits::default()).map_err(|e| D::Error::custom(format!("limits: {e}")))?;
        Ok(these)
    }
}

/// A number over 0; 1 where none is given.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Weight(pub f64);

impl Default for Weight {
    fn default() -> Self {
        Weight(1.0)
    }
}

fn weight<'de, D: Deserializer<'de>>(from: D) -> Result<Weight, D::Error> {
    let weight = f64::deserialize(from)?;
    let good = weight > 0.0 && weight.is_finite();
    good.then_some(Weight(weight)).ok_or_else(|| D::Error::custom(format!("a weight of {weight}: write a number over 0, such as 2")))
}

/// Seconds, fractions allowed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// To a connection, TLS included.
    pub connect_s: f64,
    /// To the head of the reply, and from each piece of its body to the next; of a streamed one, to its first token, which
    /// no keep-alive puts off. DeepSeek keeps a request waiting up to ten minutes before it starts on it.
    pub first_byte_s: f64,
    /// Of a streamed reply, from a piece that says something to the next; keep-alives say nothing. Hosts that hold a call
    /// back until it is whole are silent for as long as it takes to write.
    pub stall_s: f64,
    /// From the request out to the last byte of the reply.
    pub total_s: f64,
    /// From the wish for a reply to the reply, with all tries and all waiting for the endpoint's limits.
    pub wait_s: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { connect_s: 10.0, first_byte_s: 600.0, stall_s: 300.0, total_s: 1200.0, wait_s: 172_800.0 }
    }
}

/// Under which name the endpoint sends the model's thinking, and gets it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningField {
    /// Either is read; sent back under the name last read, `reasoning_content` before that.
    Auto,
    ReasoningContent,
    Reasoning,
}

/// Whether thinking is sent back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SendReasoning {
    /// As DeepSeek demands it: in a conversation that has any, with each assistant message that has tool calls and comes
    /// after the last user message, even when empty; nowhere else.
    Auto,
    /// With every assistant message, even when empty.
    Always,
    Never,
}

/// Text that shows itself to nobody by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// None where nothing is left without the white space around it.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Secret(text.into()))
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whether a header of this name may hold a secret: settings are written to the run directory, so its value is not for them.
#[must_use]
pub fn is_secret(header: &str) -> bool {
    let header = header.to_ascii_lowercase();
    ["auth", "key", "token", "secret", "cookie", "password", "session"].iter().any(|word| header.contains(word))
}

/// Name of the environment variable that the header's value stands in, none where the value is the text itself.
///
/// # Errors
/// A text itself, where it may be a secret. The message does not repeat it.
pub(super) fn variable<'v>(header: &str, value: &'v str) -> Result<Option<&'v str>, &'static str> {
    match value.strip_prefix("env:").map(str::trim) {
        None if is_secret(header) => Err("a secret is no setting: put it into an environment variable NAME and write \"env:NAME\""),
        named => Ok(named),
    }
}

/// Refuses secrets before anything is written, rather than when the first request is made.
fn headers_without_secrets<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let headers = BTreeMap::<String, String>::deserialize(from)?;
    match headers.iter().find_map(|(name, value)| variable(name, value).err().map(|why| (name, why))) {
        Some((name, why)) => Err(D::Error::custom(format!("headers.{name}: {why}"))),
        None => Ok(headers),
    }
}

/// The two addresses that requests go to.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    pub completions: Url,
    pub models: Url,
}

impl Settings {
    /// The settings of each endpoint on its own, with its weight; just these where there is one.
    #[must_use]
    pub fn each(&self) -> Vec<(Settings, f64)> {
        let alone = Settings { replicas: Vec::new(), ..self.clone() };
        let mut all: Vec<_> = self.replicas.iter().map(|replica| (replica.over(&alone), replica.weight.0)).collect();
        if all.is_empty() || !self.url.trim().is_empty() {
            all.insert(0, (alone, 1.0));
        }
        all
    }

    /// # Errors
    /// `UnknownModel` where the address is none that a request can go to.
    pub(super) fn addresses(&self) -> Result<Addresses, Failure> {
        let wrong = |why: &str| {
            let mend = "write endpoint.url as in http://127.0.0.1:8000/v1 or https://api.deepseek.com";
            Failure::new(Kind::UnknownModel, format!("the endpoint's address {why}: {mend}"))
        };
        let mut url = Url::parse(self.url.trim()).map_err(|e| wrong(&format!("cannot be read ({e})")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("holds a user or a password; keys come from the environment or a file"));
        }
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("is neither http:// nor https://"));
        }
        url.set_fragment(None);
        let path = url.path().trim_end_matches('/');
        let base = match path.strip_suffix("/chat/completions").unwrap_or(path) {
            "" if path.is_empty() => "/v1".to_owned(),
            base => base.to_owned(),
        };
        let at = |tail: &str| {
            let mut url = url.clone();
            url.set_path(&format!("{base}{tail}"));
            url
        };
        Ok(Addresses { completions: at("/chat/completions"), models: at("/models") })
    }

    /// The key, none where the endpoint is used without. `env` looks up an environment variable.
    ///
    /// # Errors
    /// `Unauthorized` where a key was named that is not there.
    pub(super) fn key(&self, env: impl Fn(&str) -> Option<String>) -> Result<Option<Secret>, Failure> {
        let missing = |what: String| Failure::new(Kind::Unauthorized, format!("no API key: {what}"));
        if let Some(path) = &self.api_key_file {
            let shown = path.display();
            let size = std::fs::metadata(path).map_err(|e| missing(format!("cannot read endpoint.api_key_file {shown}: {e}")))?.len();
            if size > MAX_KEY_FILE {
                return Err(missing(format!("{shown} has {size} bytes; endpoint.api_key_file names a file that holds the key alone")));
            }
            let text = std::fs::read_to_string(path).map_err(|e| missing(format!("cannot read endpoint.api_key_file {shown}: {e}")))?;
            return Secret::new(&text).map(Some).ok_or_else(|| missing(format!("{shown} is empty; write the key into it")));
        }
        let key = env(&self.api_key_env).as_deref().and_then(Secret::new);
        if key.is_none() && self.api_key_env != KEY_ENV {
            return Err(missing(format!("set the environment variable {}, which endpoint.api_key_env names", self.api_key_env)));
        }
        Ok(key)
    }

    /// What every request's body holds beside messages and tools. This is also what the record names as sampling.
    ///
    /// # Errors
    /// `UnknownModel`, which stops a run, where a field is set that is the client's own.
    pub fn parameters(&self) -> Result<Map<String, Value>, Failure> {
        let all: Map<_, _> = self.sampling.iter().chain(&self.extra_body).map(|(k, v)| (k.clone(), v.clone())).collect();
        match all.keys().find(|k| OURS.contains(&k.as_str())) {
            None => Ok(all),
            Some(key) => Err(Failure::new(
                Kind::UnknownModel,
                format!("{key:?} is not for endpoint.sampling or endpoint.extra_body: the client sets it itself; take it out"),
            )),
        }
    }
}

impl Replica {
    fn over(&self, common: &Settings) -> Settings {
        let own_key = self.api_key_env.is_some() || self.api_key_file.is_some();
        Settings {
            url: self.url.clone(),
            model: self.model.clone().unwrap_or_else(|| common.model.clone()),
            api_key_env: self.api_key_env.clone().unwrap_or_else(|| common.api_key_env.clone()),
            api_key_file: if own_key { self.api_key_file.clone() } else { common.api_key_file.clone() },
            limits: self.limits.over(common.limits).unwrap_or(common.limits),
            prices: self.prices.unwrap_or(common.prices),
            ..common.clone()
        }
    }
}

/// As `--endpoint` takes it: an address, or a weight before it, `2@http://HOST/v1`.
impl FromStr for Replica {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let alone = || Replica { url: text.to_owned(), ..Replica::default() };
        let Some((before, url)) = text.split_once('@').filter(|(before, _)| !before.contains("://")) else { return Ok(alone()) };
        let weight = before.parse().ok().filter(|weight: &f64| *weight > 0.0 && weight.is_finite());
        let weight = weight.ok_or_else(|| format!("{before:?} is no weight: write a number over 0, as in 2@http://HOST/v1"))?;
        Ok(Replica { url: url.to_owned(), weight: Weight(weight), ..Replica::default() })
    }
}

impl Timeouts {
    pub(super) fn connect(&self) -> Duration {
        seconds(self.connect_s)
    }

    pub(super) fn first_byte(&self) -> Duration {
        seconds(self.first_byte_s)
    }

    pub(super) fn stall(&self) -> Duration {
        seconds(self.stall_s)
    }

    pub(super) fn total(&self) -> Duration {
        seconds(self.total_s)
    }
}

/// A year stands for anything longer or not a number, nothing for the negative.
pub(crate) fn seconds(s: f64) -> Duration {
    const YEAR: f64 = 365.0 * 86_400.0;
    Duration::from_secs_f64(if s.is_nan() { YEAR } else { s.clamp(0.0, YEAR) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Settings {
        Settings { url: url.into(), ..Settings::default() }
    }

    #[test]
    fn addresses_are_built_as_documented() {
        for (url, completions, models) in [
            ("http://h:8000", "http://h:8000/v1/chat/completions", "http://h:8000/v1/models"),
            ("http://h:8000/", "http://h:8000/v1/chat/completions", "http://h:8000/v1/models"),
            ("https://h/v1", "https://h/v1/chat/completions", "https://h/v1/models"),
            ("https://h/api/v1/", "https://h/api/v1/chat/completions", "https://h/api/v1/models"),
            ("https://h/beta", "https://h/beta/chat/completions", "https://h/beta/models"),
            ("https://h/v1/chat/completions", "https://h/v1/chat/completions", "https://h/v1/models"),
            ("https://h/chat/completions", "https://h/chat/completions", "https://h/models"),
            ("https://h/d?api-version=1#x", "https://h/d/chat/completions?api-version=1", "https://h/d/models?api-version=1"),
        ] {
            let got = at(url).addresses().unwrap();
            assert_eq!((got.completions.as_str(), got.models.as_str()), (completions, models), "{url}");
        }
        for url in ["", "h:8000/v1", "ftp://h/", "https://user:hunter2@h/v1"] {
            let failure = at(url).addresses().unwrap_err();
            assert_eq!(failure.kind, Kind::UnknownModel, "{url}");
            assert!(!failure.message.contains("hunter2"));
        }
    }

    #[test]
    fn each_endpoint_has_its_own_settings() {
        let text = r#"
            model = "m"
            api_key_file = "common"
            limits = { requests_per_minute = 60, in_flight_max = 9 }
            replicas = [
                { url = "http://a", weight = 2 },
                { url = "http://b", model = "m-b", api_key_env = "B", limits = { requests_per_minute = 6 } },
            ]
        "#;
        let settings: Settings = toml::from_str(text).unwrap();
        let told = |(one, weight): (Settings, f64)| {
            (
                one.url,
                weight,
                one.model,
                one.api_key_env,
                one.api_key_file.is_some(),
                one.limits.requests_per_minute,
                one.limits.in_flight_max,
            )
        };
        let a = ("http://a".to_owned(), 2.0, "m".to_owned(), KEY_ENV.to_owned(), true, 60, 9);
        let b = ("http://b".to_owned(), 1.0, "m-b".to_owned(), "B".to_owned(), false, 6, 9);
        assert_eq!(settings.each().into_iter().map(told).collect::<Vec<_>>(), [a, b]);
        let urls = |settings: Settings| settings.each().into_iter().map(|(one, _)| one.url).collect::<Vec<_>>();
        assert_eq!(urls(Settings { url: "http://c".into(), ..settings.clone() }), ["http://c", "http://a", "http://b"]);
        assert_eq!(urls(at("http://c")), ["http://c"]);
        let back: Settings = toml::from_str(&toml::to_string(&settings).unwrap()).unwrap();
        assert_eq!(back, settings);
        for limits in ["{ rpm = 1 }", "{ requests_per_minute = -1 }", "{ in_flight_max = 'all' }", "7"] {
            assert!(toml::from_str::<Settings>(&format!("replicas = [{{ url = 'http://a', limits = {limits} }}]")).is_err(), "{limits}");
        }
        for weight in ["0", "-1", "nan"] {
            assert!(toml::from_str::<Settings>(&format!("replicas = [{{ url = 'http://a', weight = {weight} }}]")).is_err(), "{weight}");
        }
    }

    #[test]
    fn an_option_may_hold_a_weight() {
        for (text, url, weight) in [
            ("http://h/v1", "http://h/v1", 1.0),
            ("2@http://h/v1", "http://h/v1", 2.0),
            ("0.5@https://h", "https://h", 0.5),
            ("http://user@h", "http://user@h", 1.0),
        ] {
            let replica: Replica = text.parse().unwrap();
            assert_eq!((replica.url.as_str(), replica.weight.0), (url, weight));
        }
        assert!("0@http://h".parse::<Replica>().is_err() && "x@http://h".parse::<Replica>().is_err());
    }

    #[test]
    fn key_from_file_then_environment() {
        let env = |name: &str| (name == KEY_ENV).then(|| " k1\n".to_owned());
        assert_eq!(at("").key(env).unwrap().unwrap().expose(), "k1");
        assert_eq!(at("").key(|_| None).unwrap(), None);
        let other = Settings { api_key_env: "OTHER".into(), ..Settings::default() };
        assert!(other.key(env).unwrap_err().message.contains("OTHER"));

        let file = tempfile::NamedTempFile::new().unwrap();
        let from_file = Settings { api_key_file: Some(file.path().into()), ..Settings::default() };
        assert!(from_file.key(env).unwrap_err().message.contains("is empty"));
        std::fs::write(file.path(), "k2\n").unwrap();
        assert_eq!(from_file.key(env).unwrap().unwrap().expose(), "k2");
    }

    #[test]
    fn settings_survive_toml_and_hold_no_key() {
        let text = r#"
            url = "https://h/v1"
            model = "m"
            sampling = { temperature = 0.7, max_tokens = 8192 }
            extra_body = { thinking = { type = "enabled" }, max_tokens = 4096 }
            [timeouts]
            connect_s = 3
            [retry]
            tries = 4
        "#;
        let settings: Settings = toml::from_str(text).unwrap();
        let back: Settings = toml::from_str(&toml::to_string(&settings).unwrap()).unwrap();
        assert_eq!(settings, back);
        assert_eq!(
            serde_json::to_string(&settings.parameters().unwrap()).unwrap(),
            r#"{"max_tokens":4096,"temperature":0.7,"thinking":{"type":"enabled"}}"#
        );
        assert!(toml::from_str::<Settings>("api_key = 'k'").is_err());
        let own: Settings = toml::from_str("extra_body = { stream = true }").unwrap();
        assert!(own.parameters().unwrap_err().message.contains("stream"));
    }

    #[test]
    fn a_header_that_may_hold_a_secret_is_no_setting() {
        for name in
            ["Authorization", "X-Api-Key", "x-goog-api-key", "X-Auth-Token", "Client-SECRET", "Cookie", "X-Password", "X-Session-Id"]
        {
            let error = toml::from_str::<toml::Table>(&format!("headers = {{ {name} = 'hunter2' }}")).unwrap().try_into::<Settings>();
            let error = error.unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("env:NAME") && !error.contains("hunter2"), "{error}");
            assert!(toml::from_str::<Settings>(&format!("headers = {{ {name} = 'env:MINE' }}")).is_ok(), "{name}");
        }
        assert!(toml::from_str::<Settings>("headers = { X-Title = 'mine' }").is_ok());
    }

    #[test]
    fn secrets_do_not_show() {
        let secret = Secret::new("hunter2").unwrap();
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
    }
}
