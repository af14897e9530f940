//! Requests to a registry: its challenges answered, its redirects followed with care, its silence bounded.

use super::challenge::Challenge;
use super::credentials::Credentials;
use super::patience::Trouble;
use super::{Reference, Settings};
use crate::http::{chain, is_loopback};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client as Http, ClientBuilder, Response, Url, redirect};
use serde::Deserialize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

const MAX_REDIRECTS: usize = 5;
/// Bytes of a token server's answer.
const MAX_TOKEN: u64 = 1 << 20;

/// One place that a repository can be had from: its registry, or a mirror.
#[derive(Debug)]
pub struct Source {
    base: Url,
    repository: String,
    /// Host and port: what credentials go by, and what messages call it.
    pub host: String,
    /// What it was last convinced by.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Source {
    /// Where the image may be, mirrors first.
    ///
    /// # Errors
    /// A mirror's address that is none.
    pub fn all(reference: &Reference, settings: &Settings) -> Result<Vec<Self>, String> {
        let mirrors = settings.mirrors.get(&reference.registry).into_iter().flatten().map(String::as_str);
        mirrors.chain([reference.host()]).map(|address| Self::new(address, &reference.repository, settings)).collect()
    }

    fn new(address: &str, repository: &str, settings: &Settings) -> Result<Self, String> {
        let wrong =
            || format!("{address:?} is no address of a registry (images.pull.mirrors): write HOST[:PORT] or https://HOST[:PORT][/PATH]");
        let url = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
        let mut base: Url = url.parse().map_err(|_| wrong())?;
        let authority = authority(&base).ok_or_else(wrong)?;
        let is_plain = settings.insecure.contains(&authority) || is_loopback(&base);
        match base.scheme() {
            "https" if is_plain && !address.contains("://") => base = format!("http://{address}").parse().map_err(|_| wrong())?,
            "http" if !is_plain => {
                return Err(format!("{address:?} is plain http: add {authority:?} to images.pull.insecure if you mean it"));
            }
            "http" | "https" => {}
            _ => return Err(wrong()),
        }
        // In the address as written: the port of the scheme itself is left out of a URL's parts.
        let host = address.split_once("://").map_or(address, |(_, rest)| rest).split('/').next().unwrap_or(address).to_owned();
        base.set_path(&format!("{}/", base.path().trim_end_matches('/')));
        Ok(Source { base, repository: repository.to_owned(), host, authorization: Mutex::default() })
    }

    fn url(&self, what: &str) -> Result<Url, Trouble> {
        self.base.join(&format!("v2/{}/{what}", self.repository)).map_err(|error| Trouble::refused(error.to_string()))
    }

    /// What `docker login` is told.
    fn login(&self) -> &str {
        if self.host == "registry-1.docker.io" { "docker.io" } else { &self.host }
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub struct Client {
    /// By the system's proxy, where there is one.
    outside: Http,
    /// For this machine's own addresses.
    inside: Http,
    has_certificates: bool,
    credentials: Credentials,
    silence: Duration,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Client {
    /// # Errors
    /// Where no HTTP client can be made here.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        // Whoever comes first wins; a provider that is installed already serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || -> ClientBuilder {
            Http::builder()
                .user_agent(concat!("sweroll/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(settings.silence())
                .redirect(redirect::Policy::none())
                .tcp_keepalive(Duration::from_secs(60))
        };
        // A machine without certificates can still talk to a registry that needs none.
        let whole = builder().build();
        let has_certificates = whole.is_ok();
        let outside = whole.or_else(|_| builder().tls_certs_only([]).build()).map_err(|error| chain(&error))?;
        let inside =
            builder().no_proxy().build().or_else(|_| builder().no_proxy().tls_certs_only([]).build()).map_err(|error| chain(&error))?;
        Ok(Client { outside, inside, has_certificates, credentials: Credentials::load(settings), silence: settings.silence() })
    }

    /// Asks for `manifests/...` or `blobs/...`, from that byte on. The reply has a status of success, or 416.
    ///
    /// # Errors
    /// Everything else.
    pub async fn get(&self, source: &Source, what: &str, accept: &'static str, from: u64) -> Result<Response, Trouble> {
        let url = source.url(what)?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if from > 0 {
            headers.extend(format!("bytes={from}-").parse().map(|range| (RANGE, range)));
        }
        let known = source.authorization().clone();
        let mut response = self.follow(&url, &headers, known.as_ref()).await?;
        let is_own = |response: &Response| response.url().origin() == url.origin();
        if response.status() == 401 && is_own(&response) {
            let asked = Challenge::best(response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|header| header.to_str().ok()));
            if let Some(authorization) = self.answer(source, asked).await? {
                *source.authorization() = Some(authorization.clone());
                response = self.follow(&url, &headers, Some(&authorization)).await?;
            }
        }
        match response.status().as_u16() {
            200..=299 | 416 => Ok(response),
            status if is_own(&response) => Err(refusal(&response, status, source.login())),
            // An address given for a while only: the registry gives a new one.
            status => Err(Trouble::weather(format!("the place it leads to, {}, answers with status {status}", place(response.url())))),
        }
    }

    /// What convinces the registry; none where we have nothing.
    async fn answer(&self, source: &Source, challenge: Option<Challenge>) -> Result<Option<HeaderValue>, Trouble> {
        let credentials = self.credentials.of(&source.host);
        let Some(Challenge::Bearer { realm, service, scope }) = challenge else {
            return Ok(credentials.filter(|_| challenge == Some(Challenge::Basic)).cloned());
        };
        let mut url: Url = realm.parse().map_err(|_| Trouble::refused("the registry names no usable token server"))?;
        if url.scheme() != "https" && source.base.scheme() == "https" {
            return Err(Trouble::refused(format!("the registry's token server {} is not https", place(&url))));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", source.repository));
        url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service))).append_pair("scope", &scope);
        let response = self.follow(&url, &HeaderMap::new(), credentials).await?;
        if !response.status().is_success() {
            return Err(refusal(&response, response.status().as_u16(), source.login()));
        }
        let body = self.body(response, MAX_TOKEN).await?;
        let token: Token = serde_json::from_slice(&body).map_err(|_| Trouble::weather("the token server's answer cannot be read"))?;
        let token = token.token.or(token.access_token).ok_or_else(|| Trouble::weather("the token server gave no token"))?;
        let mut header: HeaderValue =
            format!("Bearer {token}").parse().map_err(|_| Trouble::weather("the token server gave no usable token"))?;
        header.set_sensitive(true);
        Ok(Some(header))
    }

    /// Follows redirects; the authorization stays with the host that it is for.
    async fn follow(&self, first: &Url, headers: &HeaderMap, authorization: Option<&HeaderValue>) -> Result<Response, Trouble> {
        let mut url = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let client = if is_loopback(&url) { &self.inside } else { &self.outside };
            let mut request = client.get(url.clone()).headers(headers.clone());
            if let Some(authorization) = authorization.filter(|_| url.origin() == first.origin()) {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let response = self.heard(&url, request.send()).await?;
            let location = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(next) = location else { return Ok(response) };
            let next = next.to_str().ok().and_then(|next| url.join(next).ok());
            let next = next.filter(|next| next.scheme() == "https" || (next.scheme() == "http" && url.scheme() == "http"));
            url = next.ok_or_else(|| Trouble::refused(format!("{} leads to no https address", place(&url))))?;
        }
        Err(Trouble::refused(format!("{} leads from one address to another, {MAX_REDIRECTS} times", place(first))))
    }

    /// A body that has its bounds.
    ///
    /// # Errors
    /// Too large, broken or silent.
    pub async fn body(&self, mut response: Response, max: u64) -> Result<Vec<u8>, Trouble> {
        let mut body = Vec::new();
        while let Some(piece) = self.chunk(&mut response).await? {
            if (body.len() + piece.len()) as u64 > max {
                return Err(Trouble::refused(format!("{} answers with more than {max} bytes", place(response.url()))));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The next bytes of a body.
    pub async fn chunk(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, Trouble> {
        let url = response.url().clone();
        self.heard(&url, response.chunk()).await
    }

    async fn heard<T>(&self, url: &Url, next: impl Future<Output = reqwest::Result<T>>) -> Result<T, Trouble> {
        let mend = if self.has_certificates {
            "check the address and the network"
        } else {
            "for https install ca-certificates, or name them in SSL_CERT_FILE"
        };
        match tokio::time::timeout(self.silence, next).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                Err(Trouble::weather(format!("no whole answer from {}: {}; {mend}", place(url), chain(&error.without_url()))))
            }
            Err(_) => Err(Trouble::weather(format!("{} was silent for {:?} (images.pull.silence_s)", place(url), self.silence))),
        }
    }
}

fn refusal(response: &Response, status: u16, login: &str) -> Trouble {
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|header| header.to_str().ok());
    Trouble::of_status(status, retry_after, login, SystemTime::now())
}

/// Scheme and host: the rest of an address may hold a signature.
fn place(url: &Url) -> String {
    format!("{}://{}", url.scheme(), authority(url).unwrap_or_default())
}

fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(name: &str, settings: &Settings) -> Result<Vec<String>, String> {
        let sources = Source::all(&Reference::parse(name).unwrap(), settings)?;
        Ok(sources.iter().map(|source| source.url("x").unwrap().to_string()).collect())
    }

    #[test]
    fn mirrors_come_first_and_plain_http_only_where_allowed() {
        let mirrors = |list: &[&str]| [("docker.io".to_owned(), list.iter().map(|&one| one.to_owned()).collect())].into();
        let settings = Settings { mirrors: mirrors(&["m.example.com", "https://m.example.com:8443/hub/"]), ..Settings::default() };
        let hub = "https://registry-1.docker.io/v2/library/a/x";
        assert_eq!(
            bases("a", &settings).unwrap(),
            ["https://m.example.com/v2/library/a/x", "https://m.example.com:8443/hub/v2/library/a/x", hub]
        );
        assert_eq!(bases("h.io/a", &settings).unwrap(), ["https://h.io/v2/a/x"]);
        assert_eq!(bases("localhost:5000/a", &settings).unwrap(), ["http://localhost:5000/v2/a/x"]);
        assert_eq!(bases("127.0.0.1:5000/a", &settings).unwrap(), ["http://127.0.0.1:5000/v2/a/x"]);
        let plain = Settings { mirrors: mirrors(&["http://m.example.com"]), ..Settings::default() };
        assert!(bases("a", &plain).unwrap_err().contains("images.pull.insecure"));
        let plain = Settings { insecure: vec!["m.example.com".into(), "h.io:80".into()], ..plain };
        assert_eq!(bases("a", &plain).unwrap(), ["http://m.example.com/v2/library/a/x", hub]);
        for bad in ["ftp://m", "", "https://"] {
            assert!(bases("a", &Settings { mirrors: mirrors(&[bad]), ..Settings::default() }).is_err(), "{bad}");
        }
    }
}
