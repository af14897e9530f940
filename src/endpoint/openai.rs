//! One OpenAI-compatible endpoint: its address, key and limits, one request to it, and what it says when that fails.

use crate::domain::{Conversation, Failure, Kind, Message, Role, transcript::Response};
use crate::endpoint::{
    Limiter, Request, Settings,
    limiter::Told,
    retry::{Verdict, classify, status_within},
    settings::{Addresses, ReasoningField, Secret},
    transport::{Exchange, Transport, TransportError, headers},
    wire::{self, Body, Broken, Envelope, Fold, Reply},
};
use reqwest::Url;
use serde_json::{Map, Value, json};
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::time::{sleep, timeout};

/// Characters of an endpoint's own words that go into a message of ours.
const QUOTED: usize = 300;
/// Bounds each request of the preflight, seconds; an endpoint that lets it wait longer is there, but busy.
const CHECK: Duration = Duration::from_secs(30);
/// Times that the preflight asks an endpoint that does not answer well, and the pause between them.
const CHECK_TRIES: u32 = 3;
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// In a streamed response's `extra`: milliseconds from the request out to its first token.
const FIRST_TOKEN_MS: &str = "first_token_ms";

/// One model at one endpoint.
#[derive(Debug)]
pub struct OpenAi {
    settings: Settings,
    parameters: Map<String, Value>,
    addresses: Addresses,
    transport: Transport,
    secrets: Vec<Secret>,
    limiter: Arc<Limiter>,
    /// The last thinking that was read came as `reasoning`.
    says_reasoning: AtomicBool,
    /// Of the tools that were last sent: as a rule all requests have the same.
    envelope: Mutex<Option<(Arc<str>, Envelope)>>,
}

/// A request that brought no completion. The text is short and holds no key.
#[derive(Debug)]
pub(super) struct Trouble {
    pub verdict: Verdict,
    pub text: String,
    /// 503: it has too much to do, or is not there at all.
    pub unavailable: bool,
}

impl Trouble {
    /// It tells of an endpoint that is not well, where a 429 tells of one that is.
    pub(super) fn ill(&self) -> bool {
        self.unavailable || matches!(self.verdict, Verdict::Faulty { .. })
    }
}

impl OpenAi {
    /// Reads the key, and talks to nobody yet.
    ///
    /// # Errors
    /// Of class `run`, where the settings cannot work: `Unauthorized` for the key, `UnknownModel` for address and model.
    pub fn new(settings: Settings, limiter: Arc<Limiter>) -> Result<Self, Failure> {
        let env = |name: &str| std::env::var(name).ok();
        let addresses = settings.addresses()?;
        if settings.model.trim().is_empty() {
            return Err(Failure::new(Kind::UnknownModel, "no model is named: set endpoint.model, or give --model NAME"));
        }
        let key = settings.key(env)?;
        let (headers, secrets) = headers(&settings, key.as_ref(), env)?;
        let transport = Transport::new(&settings, &addresses.completions, headers)?;
        let mut parameters = settings.parameters()?;
        if settings.stream {
            parameters.insert("stream".to_owned(), true.into());
            parameters.entry("stream_options").or_insert_with(|| json!({ "include_usage": true }));
        }
        Ok(OpenAi {
            parameters,
            addresses,
            transport,
            secrets,
            limiter,
            says_reasoning: AtomicBool::new(false),
            envelope: Mutex::default(),
            settings,
        })
    }

    /// The address that requests go to, without what may be a key.
    pub(super) fn address(&self) -> Url {
        shown(&self.addresses.completions)
    }

    pub(super) fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    pub(super) fn body_of(&self, request: &Request<'_>) -> Result<Body, Failure> {
        Ok(self.body(self.envelope(request.tools)?, request.messages))
    }

    pub(super) async fn try_once(&self, body: Body, earlier: &Conversation) -> Result<Reply, Trouble> {
        let (exchange, reply) = self.exchange(body, earlier).await.map_err(|e| self.broken(&e))?;
        let Exchange { status, headers, body } = &exchange;
        if let Some((requests, tokens)) = self.limiter.hear(Told::by(headers)) {
            tracing::info!(endpoint = %self.address(), requests, tokens, "the endpoint tells what it allows a minute: that is kept to");
        }
        if !(200..300).contains(status) {
            return Err(self.judge(&exchange, *status, body));
        }
        match reply {
            Ok(reply) if reply.finish_reason == "insufficient_system_resource" => Err(Trouble {
                verdict: Verdict::Throttled { retry_after: None },
                text: "finish_reason insufficient_system_resource".to_owned(),
                unavailable: false,
            }),
            Ok(reply) => Ok(reply),
            Err(Broken::Error(error)) => Err(self.judge(&exchange, status_within(&error).unwrap_or(500), error.to_string().as_bytes())),
            Err(Broken::Unreadable(why)) => {
                let verdict = classify(*status, headers, &[], SystemTime::now());
                Err(Trouble { verdict, text: self.quote(&why), unavailable: false })
            }
        }
    }

    /// What came back, and what it says where it is a success.
    async fn exchange(&self, body: Body, earlier: &Conversation) -> Result<(Exchange, Result<Reply, Broken>), TransportError> {
        if !self.settings.stream {
            let exchange = self.transport.post(&self.addresses.completions, body).await?;
            let reply = wire::read(&exchange.body, earlier);
            return Ok((exchange, reply));
        }
        // A box: who does not stream has no room for it.
        Box::pin(self.stream(body, earlier)).await
    }

    async fn stream(&self, body: Body, earlier: &Conversation) -> Result<(Exchange, Result<Reply, Broken>), TransportError> {
        let mut fold = Fold::new(usize::try_from(self.settings.max_reply_bytes).unwrap_or(usize::MAX));
        let began = Instant::now();
        let (exchange, first_token) = self.transport.post_streaming(&self.addresses.completions, body, &mut fold).await?;
        let mut reply = fold.reply(earlier);
        if let (Ok(reply), Some(first)) = (&mut reply, first_token) {
            let ms = first.into_std().saturating_duration_since(began).as_millis();
            reply.extra.insert(FIRST_TOKEN_MS.to_owned(), u64::try_from(ms).unwrap_or(u64::MAX).into());
        }
        Ok((exchange, reply))
    }

    fn judge(&self, exchange: &Exchange, status: u16, body: &[u8]) -> Trouble {
        let verdict = classify(status, &exchange.headers, body, SystemTime::now());
        Trouble { verdict, text: self.quote(&format!("{status}: {}", wire::error_text(body))), unavailable: status == 503 }
    }

    fn broken(&self, error: &TransportError) -> Trouble {
        Trouble { verdict: Verdict::Faulty { retry_after: None }, text: self.quote(&error.to_string()), unavailable: false }
    }

    fn envelope(&self, tools: &Arc<str>) -> Result<Envelope, Failure> {
        let mut last = self.envelope.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, envelope)) if of == tools => Ok(envelope.clone()),
            _ => {
                let envelope = self.envelope_of(tools, &self.parameters)?;
                *last = Some((Arc::clone(tools), envelope.clone()));
                Ok(envelope)
            }
        }
    }

    fn envelope_of(&self, tools: &str, parameters: &Map<String, Value>) -> Result<Envelope, Failure> {
        Envelope::new(&self.settings.model, tools, parameters)
            .map_err(|e| Failure::new(Kind::EndpointRefused, format!("the tool schemas are not JSON ({e}): mend the scaffold's tools")))
    }

    fn body(&self, envelope: Envelope, messages: &Conversation) -> Body {
        let reasoning_field = match self.settings.reasoning_field {
            ReasoningField::Reasoning => "reasoning",
            ReasoningField::Auto if self.says_reasoning.load(Ordering::Relaxed) => "reasoning",
            ReasoningField::Auto | ReasoningField::ReasoningContent => "reasoning_content",
        };
        Body::new(envelope, messages, self.settings.send_reasoning, reasoning_field)
    }

    pub(super) fn response(&self, reply: Reply, latency: Duration, tries: u32) -> Response {
        if let Some(field) = reply.reasoning_field {
            self.says_reasoning.store(field == "reasoning", Ordering::Relaxed);
        }
        Response {
            message: reply.message,
            model: reply.model,
            finish_reason: reply.finish_reason,
            usage: reply.usage,
            cost_usd: self.settings.prices.cost(&reply.usage),
            latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
            tries,
            extra: Value::Object(reply.extra),
        }
    }

    pub(super) fn failure(&self, kind: Kind, trouble: &str, tries: u32, elapsed: Duration) -> Failure {
        let at = shown(&self.addresses.completions);
        let model = &self.settings.model;
        let key = match (&self.settings.api_key_file, self.secrets.is_empty()) {
            (_, true) => format!("no key was sent: set {}", self.settings.api_key_env),
            (Some(file), false) => format!("check the key in {} and what it may use", file.display()),
            (None, false) => format!("check the key in {} and what it may use", self.settings.api_key_env),
        };
        let message = match kind {
            Kind::Unauthorized => format!("{at} refuses the key ({trouble}): {key}"),
            Kind::Payment => format!("{at} wants to be paid ({trouble}): top up the account, then resume the run"),
            Kind::UnknownModel => {
                format!(
                    "{at} does not know the model {model:?}, or is no completions endpoint ({trouble}): check endpoint.url and endpoint.model"
                )
            }
            Kind::EndpointRefused => {
                format!("{at} refuses the request to {model:?} ({trouble}): check endpoint.sampling, extra_body and send_reasoning")
            }
            _ => format!(
                "{at} gave no usable reply in {tries} requests over {:.0} s; the last: {trouble}. See that it is up, then rerun",
                elapsed.as_secs_f64()
            ),
        };
        Failure::new(kind, message)
    }

    /// An endpoint's words fit for a message: no key, one line, bounded.
    fn quote(&self, text: &str) -> String {
        let mut line = String::with_capacity(QUOTED);
        for word in text.split_whitespace() {
            let word = if self.secrets.iter().any(|secret| gives_away(word, secret)) { "***" } else { word };
            line.extend([if line.is_empty() { "" } else { " " }, word]);
            if line.chars().nth(QUOTED).is_some() {
                return line.chars().take(QUOTED).chain(['…']).collect();
            }
        }
        line
    }

    /// Finds a wrong address, a wrong key and an unknown model before a run starts. Where the endpoint's list of models does
    /// not settle it (there is none, or it lists no aliases), one completion of one token does.
    ///
    /// # Errors
    /// `Unauthorized`, `Payment`, `UnknownModel`; `EndpointUnavailable` where nobody answers.
    pub async fn check(&self) -> Result<(), Failure> {
        let models = match self.models().await? {
            Some(models) if models.contains(&self.settings.model) => return Ok(()),
            models => models.unwrap_or_default(),
        };
        let mut parameters = self.parameters.clone();
        parameters.insert("max_tokens".to_owned(), 1.into());
        let ping = [Message::new(Role::User, "ping")].iter().collect();
        let body = self.body(self.envelope_of("", &parameters)?, &ping);
        for tries in 1.. {
            let Ok(Err(trouble)) = timeout(CHECK, self.try_once(body.clone(), &ping)).await else { return Ok(()) };
            let (kind, mut text) = match trouble {
                Trouble { verdict: Verdict::Refused(kind), text, .. } if kind != Kind::EndpointRefused => (kind, text),
                Trouble { verdict: Verdict::Faulty { .. }, text, .. } if tries >= CHECK_TRIES => (Kind::EndpointUnavailable, text),
                Trouble { verdict: Verdict::Faulty { .. }, .. } => {
                    sleep(CHECK_PAUSE).await;
                    continue;
                }
                // It answers, and what it says of this request tells nothing of others.
                _ => return Ok(()),
            };
            if kind == Kind::UnknownModel && !models.is_empty() {
                text.push_str("; it has ");
                text.push_str(&self.quote(&models[..models.len().min(10)].join(", ")));
            }
            return Err(self.failure(kind, &text, tries, CHECK_PAUSE * (tries - 1)));
        }
        Ok(())
    }

    /// The names that the endpoint lists; none where it keeps no list.
    async fn models(&self) -> Result<Option<Vec<String>>, Failure> {
        for tries in 1.. {
            match timeout(CHECK, self.transport.get(&self.addresses.models)).await {
                Ok(Ok(exchange)) if exchange.status == 401 => {
                    let trouble = self.judge(&exchange, 401, &exchange.body);
                    return Err(self.failure(Kind::Unauthorized, &trouble.text, 1, Duration::ZERO));
                }
                Ok(Ok(exchange)) => return Ok(listed(&exchange)),
                Ok(Err(e)) if tries >= CHECK_TRIES => {
                    let trouble = self.broken(&e);
                    return Err(self.failure(Kind::EndpointUnavailable, &trouble.text, tries, CHECK_PAUSE * (tries - 1)));
                }
                Ok(Err(_)) => sleep(CHECK_PAUSE).await,
                Err(_) => break,
            }
        }
        Ok(None)
    }
}

fn listed(exchange: &Exchange) -> Option<Vec<String>> {
    let list: Value = serde_json::from_slice(&exchange.body).ok().filter(|_| exchange.status == 200)?;
    let models = list.get("data").unwrap_or(&list).as_array()?;
    Some(models.iter().filter_map(|m| m.get("id")?.as_str().map(str::to_owned)).collect())
}

/// Whether a word holds a key, or enough of its beginning to tell it by (hosts echo keys shortened).
fn gives_away(word: &str, secret: &Secret) -> bool {
    let secret = secret.expose();
    let beginning = secret.char_indices().nth(8).map_or(secret, |(end, _)| &secret[..end]);
    secret.split_whitespace().any(|part| word.contains(part)) || word.contains(beginning)
}

/// An address without its query, which may hold a key.
fn shown(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    url
}

/// A number in 0..1. The standard library's hasher keys are its only randomness, and enough to spread delays.
pub(super) fn chance() -> f64 {
    let bits = RandomState::new().hash_one(());
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
