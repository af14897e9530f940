//! HTTP to an endpoint on this host: no proxy and no TLS in between, so that the sockets are ours.
//!
//! What comes is acknowledged at once. A server that writes head and body of a reply apart holds the body back until its head is
//! acknowledged (Nagle's algorithm), which the kernel would do 40 ms later: Python's `http.server` does, at every reply but the first.

use crate::endpoint::wire::{Body, Whole};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{
    Method, Request, Response, Uri,
    body::Incoming,
    header::{HOST, HeaderMap, HeaderValue},
    http::uri::InvalidUri,
};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use reqwest::Url;
use rustix::net::sockopt::set_tcp_quickack;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

/// Bytes of a reply that are read at a time. Each request that waits for its reply has room for them.
const READ: usize = 4 << 10;
/// As reqwest has it.
const IDLE: Duration = Duration::from_secs(90);

#[derive(Debug, Clone)]
pub struct Loopback {
    client: Client<Dial, Whole>,
    headers: HeaderMap,
    /// Where nearly all requests go, made ready once.
    url: Url,
    uri: Option<Uri>,
}

impl Loopback {
    /// `headers` go with every request. All go to the host of `url`, and nearly all to `url` itself.
    #[must_use]
    pub fn new(url: &Url, mut headers: HeaderMap, connect: Duration, max_idle: usize) -> Self {
        let uri: Option<Uri> = url.as_str().parse().ok();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(&format!("{}{port}", url.host_str().unwrap_or_default())) {
            headers.entry(HOST).or_insert(host);
        }
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new()).pool_max_idle_per_host(max_idle).http1_read_buf_exact_size(READ);
        Loopback { client: client.build(Dial { timeout: connect }), headers, url: url.clone(), uri }
    }

    /// # Errors
    /// Where HTTP cannot have such an address.
    pub fn uri(&self, url: &Url) -> Result<Uri, InvalidUri> {
        match &self.uri {
            Some(uri) if *url == self.url => Ok(uri.clone()),
            _ => url.as_str().parse(),
        }
    }

    /// # Errors
    /// No connection, or one that broke before the head of the reply was there.
    pub async fn send(&self, uri: Uri, body: Option<Body>) -> Result<Response<Incoming>, Error> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::new(body.map(Body::whole).unwrap_or_default());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        self.client.request(request).await
    }
}

/// Connects to loopback addresses.
#[derive(Debug, Clone)]
struct Dial {
    timeout: Duration,
}

impl Service<hyper::Uri> for Dial {
    type Response = Prompt;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Prompt>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: hyper::Uri) -> Self::Future {
        let timeout = self.timeout;
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
            let addresses = match host.parse::<IpAddr>() {
                Ok(ip) => vec![ip],
                Err(_) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            };
            let addresses: Vec<_> = addresses.into_iter().map(|ip| (ip, uri.port_u16().unwrap_or(80)).into()).collect();
            let stream = tokio::time::timeout(timeout, TcpStream::connect(&addresses[..])).await??;
            stream.set_nodelay(true)?;
            Ok(Prompt { stream: TokioIo::new(stream), has_sent: false })
        })
    }
}

/// A stream that acknowledges what comes at once.
struct Prompt {
    stream: TokioIo<TcpStream>,
    /// Since the last flush.
    has_sent: bool,
}

impl Prompt {
    fn stream(&mut self) -> Pin<&mut TokioIo<TcpStream>> {
        Pin::new(&mut self.stream)
    }
}

impl Connection for Prompt {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Prompt {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, into)
    }
}

impl Write for Prompt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.has_sent = true;
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.has_sent = true;
        self.stream().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sending takes the kernel back to late acknowledgements.
        if std::mem::take(&mut self.has_sent) {
            let _ = set_tcp_quickack(self.stream.inner(), true);
        }
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
