//! The HTTP side: paths, weather, and answers.

use super::{
    Rng,
    capacity::{Capacity, Inside},
    conversation::Conversation,
    fault::{self, FaultKind},
    flow::{Ending, Reply, broke_off, streamed, truncated},
    pairing::{self, Rules},
    pieces,
    playbook::{Play, Playbook},
    policy::{self, Move},
    reply::{self, Frame, Tokens},
    settings::{Script, Settings},
    stats::Stats,
    steady::Steady,
    toolset::Toolsets,
    wire::{Body, Message},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 8192;
/// Pause after a failed accept (out of descriptors, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound server that does not accept yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    playbook: Arc<Playbook>,
    settings: Settings,
    stats: Arc<Stats>,
    capacity: Capacity,
    toolsets: Toolsets,
    steady: Steady,
}

impl Server {
    /// Listens on `addr`; port 0 chooses a free one. To be called within a tokio runtime.
    ///
    /// # Errors
    /// Of the socket; `InvalidInput` where the settings do not fit together.
    pub fn bind(addr: SocketAddr, playbook: Arc<Playbook>, settings: Settings) -> io::Result<Server> {
        settings.check().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = socket.listen(BACKLOG)?;
        let addr = listener.local_addr()?;
        let latency = Duration::from_millis(settings.latency_ms);
        let capacity = Capacity::new(settings.limits, settings.service, &settings.brownouts, latency);
        let core = Core { playbook, settings, capacity, stats: Arc::default(), toolsets: Toolsets::default(), steady: Steady::default() };
        Ok(Server { listener, addr, core: Arc::new(core) })
    }

    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The counters, to be read while it serves and after.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.core.stats)
    }

    /// Serves until `shutdown`; then every connection is closed at once, answered or not.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => { connections.spawn(connection(Arc::clone(&self.core), stream)); }
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}; raise the limit of open files (ulimit -n) if it is too many");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

async fn connection(core: Arc<Core>, stream: TcpStream) {
    let stats = Arc::clone(&core.stats);
    let _here = stats.connection();
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let line = Line { stream, reset: Arc::clone(&reset) };
    let service = service_fn(move |request| {
        let (core, reset) = (Arc::clone(&core), Arc::clone(&reset));
        async move {
            let answer = core.answer(request).await;
            match &answer {
                Some(reply) => core.stats.reply(reply.status().as_u16()),
                None => reset.store(true, Relaxed),
            }
            answer.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset))
        }
    });
    // What a client does to its connection is its own affair.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(line), service).await;
}

/// A stream that can end in a reset instead of a close.
struct Line {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.reset.load(Relaxed) {
            let _ = rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Relaxed) { Poll::Ready(Ok(())) } else { Pin::new(&mut self.stream).poll_shutdown(cx) }
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

fn full(status: u16, content_type: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

fn with(mut reply: Reply, name: HeaderName, value: u64) -> Reply {
    reply.headers_mut().insert(name, HeaderValue::from(value));
    reply
}

fn json_reply(body: impl Into<Vec<u8>>) -> Reply {
    full(200, "application/json", body.into())
}

/// An answer that is no completion.
struct Refusal {
    status: u16,
    message: String,
    code: Option<&'static str>,
    headers: HeaderMap,
}

fn refuse(status: u16, message: impl Into<String>, code: Option<&'static str>) -> Refusal {
    Refusal { status, message: message.into(), code, headers: HeaderMap::new() }
}

impl From<Refusal> for Reply {
    fn from(Refusal { status, message, code, headers }: Refusal) -> Reply {
        let kind = match status {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let mut reply = full(status, "application/json", reply::error(&message, kind, code));
        reply.headers_mut().extend(headers);
        reply
    }
}

fn refusal(status: u16, message: &str, code: Option<&'static str>) -> Reply {
    refuse(status, message, code).into()
}

const GARBAGE: &[u8] = b"<html><body>upstream is thinking {\"choices\": [</body></html>";

impl Core {
    /// None: the connection is to be reset.
    async fn answer(&self, request: Request<Incoming>) -> Option<Reply> {
        let path = request.uri().path();
        Some(match (request.method(), path.strip_prefix("/v1").unwrap_or(path)) {
            (&Method::GET, "/stat") => json_reply(serde_json::to_vec(&self.stats.read()).unwrap_or_default()),
            (&Method::GET, "/models") if self.lets_in(&request) => self.models(),
            (&Method::POST, "/chat/completions") if self.lets_in(&request) => return self.chat(request).await,
            (&Method::GET, "/models") | (&Method::POST, "/chat/completions") => {
                refusal(401, "Incorrect API key provided.", Some("invalid_api_key"))
            }
            (method, _) => refusal(404, &format!("Invalid URL ({method} {path})"), None),
        })
    }

    fn lets_in(&self, request: &Request<Incoming>) -> bool {
        let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
        self.settings.api_key.as_deref().is_none_or(|key| given == Some(key))
    }

    fn models(&self) -> Reply {
        let model = self.settings.model_name.as_deref().unwrap_or("scripted");
        json_reply(json!({"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "sweroll"}]}).to_string())
    }

    async fn chat(&self, request: Request<Incoming>) -> Option<Reply> {
        let _flight = self.stats.flight();
        let body = match Limited::new(request.into_body(), self.settings.max_body_bytes).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Some(refusal(413, &format!("the request body could not be read: {error}"), None)),
        };
        let number = self.stats.request();
        if self.settings.script == Script::Steady {
            return Some(self.steady(body, number).await);
        }
        let fault = fault::draw(&self.settings.faults, self.settings.seed, number);
        let completion = match self.complete(&body, number, fault) {
            Ok(completion) => completion,
            Err(refusal) => return Some(refusal.into()),
        };
        drop(body);
        let Settings { piece_ms, stall_ms, retry_after_s, .. } = self.settings;
        if let Some(kind) = fault {
            self.stats.fault(kind);
        }
        match fault {
            Some(FaultKind::RateLimited) => return Some(refusal(429, "Rate limit reached for requests.", Some("rate_limit_exceeded"))),
            Some(FaultKind::RetryAfter) => {
                let reply = refusal(429, "Rate limit reached for requests.", Some("rate_limit_exceeded"));
                return Some(with(reply, RETRY_AFTER, retry_after_s));
            }
            Some(FaultKind::InternalError) => return Some(refusal(500, "The server had an error while processing your request.", None)),
            Some(FaultKind::Unavailable) => return Some(refusal(503, "The server is overloaded. Please try again later.", None)),
            Some(FaultKind::Overflow) => return Some(self.overflow(completion.tokens.prompt, true).into()),
            Some(FaultKind::Reset) => return None,
            Some(FaultKind::Stall) => {
                sleep(Duration::from_millis(stall_ms)).await;
                return None;
            }
            Some(
                FaultKind::Truncated
                | FaultKind::Length
                | FaultKind::Garbage
                | FaultKind::StallMidway
                | FaultKind::CutMidway
                | FaultKind::ErrorInStream,
            )
            | None => {}
        }
        self.latency(number).await;
        if !completion.service.is_zero() {
            sleep(completion.service).await;
        }
        self.stats.tokens(completion.tokens);
        if let Some(play) = completion.failed {
            tracing::warn!("gold: the patch of {} could not be applied", play.name());
            self.stats.gold_failed(play.name());
        }
        let stall = Duration::from_millis(stall_ms);
        let mut reply = match (fault, &completion.sent) {
            (Some(FaultKind::Garbage), _) => return Some(full(200, "text/html", GARBAGE.to_vec())),
            (Some(FaultKind::Truncated | FaultKind::CutMidway), Sent::Whole(body)) => truncated(body, Duration::ZERO),
            (Some(FaultKind::StallMidway), Sent::Whole(body)) => truncated(body, stall),
            (Some(FaultKind::ErrorInStream), Sent::Whole(_)) => json_reply(broke_off()),
            (_, Sent::Whole(body)) => json_reply(reply::encode(body)),
            (fault, Sent::Streamed(events)) => {
                let ending = match fault {
                    Some(FaultKind::Truncated | FaultKind::CutMidway) => Ending::Cut,
                    Some(FaultKind::StallMidway) => Ending::Stall(stall),
                    Some(FaultKind::ErrorInStream) => Ending::Error,
                    _ => Ending::Whole,
                };
                streamed(events, Duration::from_millis(piece_ms), ending)
            }
        };
        reply.headers_mut().extend(self.capacity.allowances());
        Some(reply)
    }

    async fn latency(&self, number: u64) {
        let latency = self.settings.latency(number);
        if !latency.is_zero() {
            sleep(latency).await;
        }
    }

    async fn steady(&self, request: Bytes, number: u64) -> Reply {
        if !self.steady.is_ready() {
            let learned = serde_json::from_slice(&request).map_err(|e| e.to_string()).and_then(|body: Body<'_>| {
                let tools = self.toolsets.get(body.tools.map(serde_json::value::RawValue::get), "")?;
                self.steady.learn(&tools, &Play::unknown())
            });
            if let Err(what) = learned {
                return refusal(400, &what, None);
            }
        }
        let Some(reply) = self.steady.reply(&request, number, self.settings.wander_turns) else {
            return refusal(500, "no tools are known", None);
        };
        drop(request);
        self.latency(number).await;
        json_reply(reply)
    }

    fn complete(&self, bytes: &[u8], number: u64, fault: Option<FaultKind>) -> Result<Completion<'_>, Refusal> {
        let broken = |what: String| {
            tracing::warn!("request {number} breaks the protocol: {what}");
            self.stats.violation(&what);
            refuse(400, what, None)
        };
        let body: Body<'_> = serde_json::from_slice(bytes).map_err(|e| broken(format!("the request is not as it should be: {e}")))?;
        let settings = &self.settings;
        if settings.model_name.as_ref().is_some_and(|name| *name != body.model) {
            let message = format!("The model `{}` does not exist or you do not have access to it.", body.model);
            return Err(refuse(404, message, Some("model_not_found")));
        }
        let tools = body.tools.map(serde_json::value::RawValue::get).filter(|t| *t != "null");
        let system = body.messages.first().filter(|m| m.role != "user").map(Message::text).unwrap_or_default();
        let toolset = self.toolsets.get(tools, system).map_err(broken)?;
        let rules = Rules { append_only: settings.append_only, reasoning_required: settings.reasoning_required };
        let prompt = pairing::check(&body.messages, rules).map_err(broken)?;
        let mut tokens = Tokens::of_prompt(&body.messages, tools);
        if tokens.prompt > settings.max_context_tokens {
            return Err(self.overflow(tokens.prompt, false));
        }
        let inside = self.capacity.enter(tokens.prompt).map_err(|denied| {
            self.stats.refused(denied.why);
            let code = (denied.status == 429).then_some("rate_limit_exceeded");
            Refusal { status: denied.status, message: denied.message, code, headers: denied.headers }
        })?;
        tokens.cached = inside.cached(&body.messages, tools).unwrap_or(tokens.cached);
        let talk = Conversation::new(&body.messages, &toolset);
        let (reply, play) = self.play(&talk)?;
        let failed = play.filter(|_| reply.failed);
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let model = if body.model.is_empty() { "scripted" } else { &body.model };
        let frame = Frame { number, model, created, prompt, reasoning: settings.reasoning, cut: fault == Some(FaultKind::Length) };
        let whole = reply::completion(reply, &talk, &frame, &mut tokens);
        let sent = match body.streaming() {
            None => Sent::Whole(whole),
            Some(options) => Sent::Streamed(pieces::events(&whole, options.include_usage)),
        };
        Ok(Completion { sent, tokens, failed, service: inside.serve(tokens), _inside: inside })
    }

    /// The reply, and what it is about where that matters.
    fn play(&self, talk: &Conversation<'_>) -> Result<(Move, Option<Arc<Play>>), Refusal> {
        let Settings { script, seed, wander_turns, .. } = self.settings;
        if script == Script::Noop {
            return Ok((policy::noop(talk), None));
        }
        let play = match self.playbook.find(talk.prompt()) {
            Ok(play) => play,
            Err(unknown) if script == Script::Gold => return Err(refuse(400, unknown.to_string(), Some("unknown_instance"))),
            Err(_) => Arc::new(Play::unknown()),
        };
        let rng = Rng::new(seed).fork(talk.key());
        let reply = match script {
            Script::Gold => policy::gold(talk, &play),
            // Answered before the request is read.
            Script::Noop | Script::Steady => policy::noop(talk),
            Script::Wander => policy::wander(talk, &play, &rng, wander_turns),
            Script::Hostile => policy::hostile(talk, &play, &rng),
        };
        Ok((reply, Some(play)))
    }

    /// `as_if`: the prompt is refused though it would fit.
    fn overflow(&self, tokens: u64, as_if: bool) -> Refusal {
        let limit = if as_if { tokens.saturating_sub(1) } else { self.settings.max_context_tokens };
        let message = format!(
            "This model's maximum context length is {limit} tokens. However, your messages resulted in {tokens} tokens. \
             Please reduce the length of the messages."
        );
        refuse(400, message, Some("context_length_exceeded"))
    }
}

/// A completion in the form that was asked for.
enum Sent {
    Whole(Value),
    Streamed(Vec<Bytes>),
}

struct Completion<'a> {
    sent: Sent,
    tokens: Tokens,
    /// The instance whose golden change could not be made.
    failed: Option<Arc<Play>>,
    /// Time that the machine takes for it.
    service: Duration,
    _inside: Inside<'a>,
}
