//! One HTTP exchange: status, headers and body whatever their shape, within limits of time and bytes.

use crate::domain::{Failure, Kind};
use crate::endpoint::{
    loopback::Loopback,
    settings::{Secret, Settings, variable},
    wire::{Body, Fold, Heard},
};
use crate::http::{chain, is_loopback};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use reqwest::{
    Client, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT},
    redirect,
};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of a reply that are made room for before they come.
const PIECE: usize = 64 << 10;
/// How long the end of a stream is waited for after its last word.
const GOOD_BYE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Transport {
    client: Client,
    /// Where the endpoint is on this host.
    loopback: Option<Loopback>,
    first_byte: Duration,
    stall: Duration,
    total: Duration,
    max_bytes: usize,
}

/// What came back.
#[derive(Debug)]
pub struct Exchange {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why nothing usable came back. No text names the address or a key.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("no connection: {0}")]
    Connect(String),
    #[error("nothing came for {0:?} (endpoint.timeouts.first_byte_s)")]
    Silent(Duration),
    #[error("no token came for {0:?} (endpoint.timeouts.first_byte_s), only keep-alives")]
    Waiting(Duration),
    #[error("the reply stalled for {after:?} (endpoint.timeouts.stall_s) after about {tokens} tokens{}", if *.alive { ", though keep-alives came" } else { "" })]
    Stalled { after: Duration, tokens: u64, alive: bool },
    #[error("the reply was not whole after {0:?} (endpoint.timeouts.total_s)")]
    Slow(Duration),
    #[error("the reply is over {0} bytes (endpoint.max_reply_bytes)")]
    Large(usize),
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl From<reqwest::Error> for TransportError {
    fn from(error: reqwest::Error) -> Self {
        let broke = if error.is_connect() { TransportError::Connect } else { TransportError::Broken };
        broke(chain(&error.without_url()))
    }
}

impl From<hyper::Error> for TransportError {
    fn from(error: hyper::Error) -> Self {
        TransportError::Broken(chain(&error))
    }
}

impl From<hyper_util::client::legacy::Error> for TransportError {
    fn from(error: hyper_util::client::legacy::Error) -> Self {
        let broke = if error.is_connect() { TransportError::Connect } else { TransportError::Broken };
        broke(chain(&error))
    }
}

impl Transport {
    /// `headers` go with every request.
    ///
    /// # Errors
    /// `EndpointUnavailable` where no client can be made here.
    pub fn new(settings: &Settings, url: &Url, headers: HeaderMap) -> Result<Self, Failure> {
        // Whoever comes first wins; a provider that is installed already serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let timeouts = &settings.timeouts;
        let mut client = Client::builder()
            .default_headers(headers.clone())
            .connect_timeout(timeouts.connect())
            .redirect(redirect::Policy::none())
            .tcp_keepalive(Duration::from_secs(60))
            .pool_max_idle_per_host(settings.limits.in_flight_max as usize);
        let is_loopback = is_loopback(url);
        if is_loopback {
            client = client.no_proxy();
        }
        if url.scheme() == "http" {
            // A machine without certificates can still talk to an endpoint that needs none.
            client = client.tls_certs_only([]);
        }
        let client = client.build().map_err(|e| {
            let mend = "for https the system's certificates are needed: install ca-certificates, or name them in SSL_CERT_FILE";
            Failure::new(Kind::UnknownModel, format!("cannot make an HTTP client for {url}: {}; {mend}", chain(&e)))
        })?;
        let max_bytes = usize::try_from(settings.max_reply_bytes).unwrap_or(usize::MAX);
        let plain = is_loopback && url.scheme() == "http";
        let loopback = plain.then(|| Loopback::new(url, headers, timeouts.connect(), settings.limits.in_flight_max as usize));
        Ok(Transport { client, loopback, first_byte: timeouts.first_byte(), stall: timeouts.stall(), total: timeouts.total(), max_bytes })
    }

    pub async fn post(&self, url: &Url, body: Body) -> Result<Exchange, TransportError> {
        self.exchange(url, Some(body)).await
    }

    /// Lets `fold` have the body of a success as it comes, and returns once it has enough of it; the exchange's body is empty
    /// then. Tells when the first token came.
    pub async fn post_streaming(&self, url: &Url, body: Body, fold: &mut Fold) -> Result<(Exchange, Option<Instant>), TransportError> {
        let began = Instant::now();
        let deadline = began + self.total;
        let mut response = self.head(url, Some(body), deadline).await?;
        let (mut body, mut first_token) = (Bytes::new(), None);
        if response.status().is_success() {
            first_token = self.fold(&mut response, fold, began).await?;
        } else {
            body = self.body(&mut response, deadline).await?;
        }
        Ok((response.exchange(body), first_token))
    }

    async fn fold(&self, response: &mut Response, fold: &mut Fold, began: Instant) -> Result<Option<Instant>, TransportError> {
        let deadline = began + self.total;
        let (mut first_token, mut said, mut alive) = (None, began, false);
        loop {
            let patience = if first_token.is_some() { self.stall } else { self.first_byte };
            let silent = said + patience;
            let trouble = match timeout_at(silent.min(deadline), response.chunk()).await {
                Ok(Ok(None)) => return Ok(first_token),
                Ok(Ok(Some(piece))) => match fold.push(&piece) {
                    Heard::Nothing => continue,
                    Heard::Alive => {
                        alive = true;
                        continue;
                    }
                    Heard::Said => {
                        said = Instant::now();
                        alive = false;
                        first_token.get_or_insert(said);
                        continue;
                    }
                    Heard::Ended => {
                        if fold.is_whole() {
                            first_token.get_or_insert_with(Instant::now);
                        }
                        drain(response).await;
                        return Ok(first_token);
                    }
                },
                Ok(Err(e)) => e,
                Err(_) if silent >= deadline => TransportError::Slow(self.total),
                Err(_) if first_token.is_some() => TransportError::Stalled { after: patience, tokens: fold.tokens(), alive },
                Err(_) if alive => TransportError::Waiting(patience),
                Err(_) => TransportError::Silent(patience),
            };
            // All that is missing may be the count of tokens, or the good-bye.
            return if fold.is_whole() { Ok(first_token) } else { Err(trouble) };
        }
    }

    pub async fn get(&self, url: &Url) -> Result<Exchange, TransportError> {
        self.exchange(url, None).await
    }

    /// Gets where there is no body to post.
    async fn exchange(&self, url: &Url, body: Option<Body>) -> Result<Exchange, TransportError> {
        let deadline = Instant::now() + self.total;
        let mut response = self.head(url, body, deadline).await?;
        let body = self.body(&mut response, deadline).await?;
        Ok(response.exchange(body))
    }

    async fn head(&self, url: &Url, body: Option<Body>, deadline: Instant) -> Result<Response, TransportError> {
        if let Some(loopback) = &self.loopback {
            let uri = loopback.uri(url).map_err(|e| TransportError::Connect(format!("{e}")))?;
            return self.within(deadline, loopback.send(uri, body)).await.map(Response::Loopback);
        }
        let request = match body {
            Some(body) => self.client.post(url.clone()).body(reqwest::Body::wrap(body)),
            None => self.client.get(url.clone()),
        };
        self.within(deadline, request.send()).await.map(Response::Far)
    }

    async fn body(&self, response: &mut Response, deadline: Instant) -> Result<Bytes, TransportError> {
        let told = response.content_length().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        if told > self.max_bytes {
            return Err(TransportError::Large(self.max_bytes));
        }
        let mut body = BytesMut::new();
        while let Some(piece) = self.within(deadline, response.chunk()).await? {
            if body.is_empty() {
                if piece.len() == told && told <= self.max_bytes {
                    return Ok(piece);
                }
                body.reserve(told.min(PIECE));
            }
            if body.len() + piece.len() > self.max_bytes {
                return Err(TransportError::Large(self.max_bytes));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    /// The next thing to come, within the time that it has and the time that is left.
    fn within<T, E>(&self, deadline: Instant, next: impl Future<Output = Result<T, E>>) -> impl Future<Output = Result<T, TransportError>>
    where
        TransportError: From<E>,
    {
        let (first_byte, total, silent) = (self.first_byte, self.total, Instant::now() + self.first_byte);
        // Not `async`, which would have room for `next` twice.
        timeout_at(silent.min(deadline), next).map(move |ended| match ended {
            Ok(next) => Ok(next?),
            Err(_) if silent < deadline => Err(TransportError::Silent(first_byte)),
            Err(_) => Err(TransportError::Slow(total)),
        })
    }
}

/// A reply whose body is still to come.
#[derive(Debug)]
enum Response {
    Loopback(hyper::Response<Incoming>),
    Far(reqwest::Response),
}

impl Response {
    fn status(&self) -> StatusCode {
        match self {
            Response::Loopback(response) => response.status(),
            Response::Far(response) => response.status(),
        }
    }

    fn content_length(&self) -> Option<u64> {
        match self {
            Response::Loopback(response) => response.body().size_hint().exact(),
            Response::Far(response) => response.content_length(),
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        match self {
            Response::Far(response) => Ok(response.chunk().await?),
            Response::Loopback(response) => loop {
                match response.body_mut().frame().await.transpose()?.map(hyper::body::Frame::into_data) {
                    None => return Ok(None),
                    Some(Ok(data)) => return Ok(Some(data)),
                    // Trailers.
                    Some(Err(_)) => {}
                }
            },
        }
    }

    fn exchange(mut self, body: Bytes) -> Exchange {
        let status = self.status().as_u16();
        let headers = match &mut self {
            Response::Loopback(response) => response.headers_mut(),
            Response::Far(response) => response.headers_mut(),
        };
        Exchange { status, headers: std::mem::take(headers), body }
    }
}

/// Hears the end of a stream whose last word was said: a connection serves again only after that.
async fn drain(response: &mut Response) {
    let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
    let _ = timeout(GOOD_BYE, rest).await;
}

/// The headers of every request, with the secrets among them: those are neither logged nor shown.
///
/// # Errors
/// `Unauthorized` where a header cannot be sent, or may hold a secret that does not come from the environment.
pub fn headers(
    settings: &Settings,
    key: Option<&Secret>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<(HeaderMap, Vec<Secret>), Failure> {
    let wrong = |name: &str, why: &str| Failure::new(Kind::Unauthorized, format!("endpoint.headers.{name}: {why}"));
    let mut headers = HeaderMap::new();
    let mut secrets = Vec::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sweroll/", env!("CARGO_PKG_VERSION"))));
    let accepted = if settings.stream { "text/event-stream, application/json" } else { "application/json" };
    headers.insert(ACCEPT, HeaderValue::from_static(accepted));
    if let Some(key) = key {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|_| {
            Failure::new(Kind::Unauthorized, "the API key holds characters that no header can: check that it was copied whole and alone")
        })?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        secrets.push(key.clone());
    }
    for (name, text) in &settings.headers {
        let header: HeaderName = name.parse().map_err(|_| wrong(name, "no header has such a name"))?;
        let secret = match variable(name, text).map_err(|why| wrong(name, why))? {
            None => None,
            Some(var) => {
                let value = env(var).as_deref().and_then(Secret::new);
                Some(value.ok_or_else(|| wrong(name, &format!("set the environment variable {var}")))?)
            }
        };
        let mut value: HeaderValue = secret
            .as_ref()
            .map_or(text.as_str(), Secret::expose)
            .parse()
            .map_err(|_| wrong(name, "its value holds characters that no header can"))?;
        value.set_sensitive(secret.is_some());
        headers.insert(header, value);
        secrets.extend(secret);
    }
    Ok((headers, secrets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_the_environment_and_do_not_show() {
        let env = |name: &str| (name == "TEAM_KEY").then(|| "hunter2".to_owned());
        let with = |name: &str, value: &str| Settings { headers: [(name.into(), value.into())].into(), ..Settings::default() };
        let key = Secret::new("hunter3").unwrap();
        let (sent, secrets) = headers(&with("X-Api-Key", "env:TEAM_KEY"), Some(&key), env).unwrap();
        assert_eq!((&sent["x-api-key"], &sent["authorization"]), (&"hunter2".parse().unwrap(), &"Bearer hunter3".parse().unwrap()));
        assert_eq!(secrets.len(), 2);
        assert!(!format!("{sent:?}").contains("hunter"));
        assert_eq!(headers(&with("X-Title", "mine"), None, env).unwrap().0["x-title"], "mine");
        for (name, value) in
            [("Authorization", "Bearer hunter2"), ("X-Session-Id", "hunter2"), ("X-Api-Key", "env:OTHER"), ("X Y", "1"), ("X-Y", "a\nb")]
        {
            let failure = headers(&with(name, value), None, env).unwrap_err();
            assert!(failure.message.contains(name) && !failure.message.contains("hunter"), "{failure}");
        }
    }

    #[test]
    fn loopback_needs_no_proxy() {
        for (url, loopback) in [
            ("http://localhost:1", true),
            ("http://127.0.0.9/", true),
            ("http://[::1]:80", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example.com", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), loopback, "{url}");
        }
    }
}
