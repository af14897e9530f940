//! The endpoint's client against a server that misbehaves on purpose.

use futures_util::future::join_all;
use serde_json::{Value, json};
use std::{
    fmt::Debug,
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use sweroll::{
    domain::{Conversation, Kind, Message, Role, ToolCall, transcript::Response},
    endpoint::{
        Endpoints, Limiter, ModelClient, ModelError, Request, Settings,
        limiter::{End, Limits},
        price::Prices,
        retry::Policy,
        settings::{Replica, Timeouts},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

const KEY: &str = "sk-hunter2-0123456789abcdef";
/// For what would otherwise hang.
const LONG: Duration = Duration::from_secs(60);

/// What the server does with a request.
enum Act {
    /// These bytes, and the connection stays open.
    Send(Vec<u8>),
    /// These bytes, and the connection is closed.
    Cut(Vec<u8>),
    Reset,
    /// These bytes, and nothing more.
    Stall(Vec<u8>),
}

#[derive(Debug, Clone)]
struct Seen {
    head: String,
    body: Vec<u8>,
    at: Instant,
}

#[derive(Clone)]
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    in_flight: Arc<AtomicUsize>,
}

impl Server {
    /// `script` is given the number of requests before, the request, and how many are being answered, it included.
    async fn new(takes: Duration, script: impl Fn(usize, &Seen, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            url: format!("http://{}/v1", listener.local_addr().unwrap()),
            seen: Arc::default(),
            connections: Arc::default(),
            in_flight: Arc::default(),
        };
        let (mine, script) = (server.clone(), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                mine.connections.fetch_add(1, SeqCst);
                let (mine, script) = (mine.clone(), script.clone());
                tokio::spawn(async move { mine.serve(stream, takes, &*script).await });
            }
        });
        server
    }

    async fn serve(&self, mut stream: TcpStream, takes: Duration, script: &(dyn Fn(usize, &Seen, usize) -> Act + Send + Sync)) {
        while let Some(seen) = read_request(&mut stream).await {
            let number = {
                let mut all = self.seen.lock().unwrap();
                all.push(seen.clone());
                all.len() - 1
            };
            let at_once = self.in_flight.fetch_add(1, SeqCst) + 1;
            let act = script(number, &seen, at_once);
            if !takes.is_zero() {
                sleep(takes).await;
            }
            self.in_flight.fetch_sub(1, SeqCst);
            match act {
                Act::Send(bytes) => stream.write_all(&bytes).await.unwrap_or(()),
                Act::Cut(bytes) => return stream.write_all(&bytes).await.unwrap_or(()),
                Act::Reset => return stream.set_zero_linger().unwrap(),
                Act::Stall(bytes) => {
                    stream.write_all(&bytes).await.unwrap_or(());
                    sleep(LONG).await;
                }
            }
        }
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn seen(&self, at: usize) -> Seen {
        self.seen.lock().unwrap()[at].clone()
    }

    fn settings(&self) -> Settings {
        Settings {
            url: self.url.clone(),
            model: "test-model".into(),
            retry: Policy { tries: 3, base_s: 0.01, cap_s: 0.05, ..Policy::default() },
            timeouts: Timeouts { connect_s: 5.0, first_byte_s: 30.0, stall_s: 30.0, total_s: 60.0, ..Timeouts::default() },
            ..Settings::default()
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).map_or(0, |n| n.trim().parse().unwrap());
    let mut body = bytes.split_off(head_end);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Seen { head, body, at: Instant::now() })
}

fn http(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()).into_bytes()
}

fn completion() -> String {
    let message = json!({"role": "assistant", "content": "hello"});
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 10, "prompt_cache_hit_tokens": 40});
    json!({"model": "test-model-1", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).to_string()
}

fn good() -> Act {
    Act::Send(http(200, "", &completion()))
}

fn fails(status: u16, headers: &str, body: &str) -> Act {
    Act::Send(http(status, headers, body))
}

/// Settings with the key in a file that lives as long as the test.
fn keyed(settings: Settings) -> (Settings, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{KEY}").unwrap();
    (Settings { api_key_file: Some(file.path().into()), ..settings }, file)
}

fn client(settings: Settings) -> (Endpoints, Arc<Limiter>) {
    let limiter = Arc::new(Limiter::new(settings.limits));
    (Endpoints::new(settings, vec![limiter.clone()]).unwrap(), limiter)
}

async fn complete(client: &Endpoints) -> Result<Response, ModelError> {
    let messages = [Message::new(Role::System, "be brief"), Message::new(Role::User, "hi")].iter().collect();
    let request = Request { messages: &messages, tools: &"".into(), estimate: 200, affinity: 0 };
    timeout(LONG, client.complete(request)).await.expect("no hang")
}

fn assert_no_key(what: &str, value: &dyn Debug) {
    let shown = format!("{value:?} {value:#?}");
    assert!(!shown.contains("hunter2"), "{what} shows the key: {shown}");
}

#[tokio::test]
async fn one_completion_end_to_end() {
    let server = Server::new(Duration::ZERO, |_, _, _| {
        let calls = json!([{"index": 0, "type": "function", "function": {"name": "bash", "arguments": "{\"command\":  \"ls\"}"}}]);
        let message = json!({"role": "assistant", "content": null, "reasoning": "hm", "tool_calls": calls, "x_trace": "t"});
        let usage = json!({"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 500}});
        let reply = json!({"model": "m-2", "choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage});
        Act::Send(http(200, "", &reply.to_string()))
    })
    .await;
    let (settings, _file) = keyed(Settings {
        sampling: json!({"temperature": 0.5}).as_object().unwrap().clone(),
        extra_body: json!({"thinking": {"type": "enabled"}}).as_object().unwrap().clone(),
        headers: [("X-Title".to_owned(), "mine".to_owned())].into(),
        prices: Prices { input: 1.0, cached_input: Some(0.1), output: 2.0 },
        ..server.settings()
    });
    let (client, limiter) = client(settings);
    let tools: Arc<str> = r#"[{"type":"function","function":{"name":"bash","parameters":{"z":1,"a":2}}}]"#.into();
    let mut messages = vec![Message::new(Role::User, "hi")];
    let ask = |messages: Vec<Message>| {
        let (client, tools) = (&client, &tools);
        async move { client.complete(Request { messages: &messages.iter().collect(), tools, estimate: 9, affinity: 0 }).await.unwrap() }
    };
    let response = ask(messages.clone()).await;
    assert_eq!(response.message.tool_calls, [ToolCall::new("call_0_0", "bash", r#"{"command":  "ls"}"#)]);
    assert_eq!((response.message.content.as_str(), response.message.reasoning_content.as_str()), ("", "hm"));
    assert_eq!((response.model.as_str(), response.finish_reason.as_str(), response.tries), ("m-2", "tool_calls", 1));
    assert_eq!((response.usage.prompt_tokens, response.usage.completion_tokens, response.usage.cached_tokens), (1000, 100, 500));
    assert!((response.cost_usd - 0.00075).abs() < 1e-12);
    assert_eq!(response.extra, json!({"x_trace": "t"}));

    let seen = server.seen(0);
    assert!(seen.head.starts_with("post /v1/chat/completions http/1.1\r\n"));
    for header in [&format!("authorization: bearer {KEY}"), "x-title: mine", "content-type: application/json"] {
        assert!(seen.head.contains(&format!("\r\n{header}\r\n")), "{header}");
    }
    assert!(String::from_utf8(seen.body.clone()).unwrap().contains(&*tools), "tools keep their order of keys");
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!((&body["model"], &body["temperature"]), (&json!("test-model"), &json!(0.5)));
    assert_eq!(body["thinking"], json!({"type": "enabled"}));

    // The id that was made up, and the thinking under its host's name, go back.
    messages.extend([response.message, Message::tool("call_0_0", "file")]);
    let second = ask(messages).await;
    assert_eq!(second.message.tool_calls[0].id, "call_1_0");
    let body: Value = serde_json::from_slice(&server.seen(1).body).unwrap();
    assert_eq!((&body["messages"][1]["reasoning"], &body["messages"][1]["tool_calls"][0]["id"]), (&json!("hm"), &json!("call_0_0")));
    assert_eq!(body["messages"][2], json!({"role": "tool", "tool_call_id": "call_0_0", "content": "file"}));
    assert_eq!((limiter.snapshot().started, limiter.snapshot().in_flight), (2, 0));
}

#[tokio::test]
async fn what_passes_is_tried_again_with_the_same_bytes() {
    type Trouble = (&'static str, fn() -> Act);
    let troubles: [Trouble; 17] = [
        ("408", || fails(408, "", "{}")),
        ("409", || fails(409, "", "{}")),
        ("425", || fails(425, "", "{}")),
        ("429", || fails(429, "", r#"{"error":{"message":"slow down"}}"#)),
        ("429 now", || fails(429, "retry-after: 0\r\n", "")),
        ("500", || fails(500, "", "oops")),
        ("502", || fails(502, "", "<html>bad gateway</html>")),
        ("503", || fails(503, "", "")),
        ("reset", || Act::Reset),
        ("closed", || Act::Cut(Vec::new())),
        ("cut head", || Act::Cut(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec())),
        ("cut body", || {
            let whole = http(200, "", &completion());
            Act::Cut(whole[..whole.len() - 20].to_vec())
        }),
        ("half json", || fails(200, "", &completion()[..30])),
        ("empty 200", || fails(200, "", "")),
        ("error in a success", || fails(200, "", r#"{"error":{"code":502,"message":"upstream"}}"#)),
        ("out of resources", || fails(200, "", &completion().replace("stop", "insufficient_system_resource"))),
        ("not http", || Act::Cut(b"SSH-2.0-OpenSSH_9\r\n".to_vec())),
    ];
    for (name, trouble) in troubles {
        let server = Server::new(Duration::ZERO, move |n, _, _| if n == 0 { trouble() } else { good() }).await;
        let (client, limiter) = client(server.settings());
        let response = complete(&client).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((response.tries, response.message.content.as_str(), server.count()), (2, "hello", 2), "{name}");
        assert_eq!(server.seen(0).body, server.seen(1).body, "{name}");
        let snapshot = limiter.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.started, snapshot.throttled + snapshot.faulty), (0, 2, 1), "{name}");
    }
}

#[tokio::test]
async fn silence_is_told_from_slowness_and_both_end() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{".to_vec();
    let silent = Timeouts { first_byte_s: 0.2, stall_s: 30.0, total_s: 30.0, connect_s: 5.0, ..Timeouts::default() };
    let slow = Timeouts { first_byte_s: 30.0, stall_s: 30.0, total_s: 0.2, connect_s: 5.0, ..Timeouts::default() };
    for (sent, timeouts, word) in [
        (Vec::new(), silent, "first_byte_s"),
        (head.clone(), silent, "first_byte_s"),
        (Vec::new(), slow, "total_s"),
        (head, slow, "total_s"),
    ] {
        let server = Server::new(Duration::ZERO, move |_, _, _| Act::Stall(sent.clone())).await;
        let policy = Policy { tries: 2, ..server.settings().retry };
        let (client, limiter) = client(Settings { timeouts, retry: policy, ..server.settings() });
        let Err(ModelError::Failed(failure)) = complete(&client).await else { panic!("no reply was sent") };
        assert_eq!((failure.kind, server.count()), (Kind::EndpointUnavailable, 2), "{failure}");
        assert!(failure.message.contains(word), "{failure}");
        assert_eq!(limiter.snapshot().in_flight, 0);
    }
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let server = Server::new(Duration::ZERO, |n, _, _| if n == 0 { fails(429, "retry-after: 1\r\n", "") } else { good() }).await;
    let (client, _) = client(server.settings());
    complete(&client).await.unwrap();
    assert!(server.seen(1).at - server.seen(0).at >= Duration::from_secs(1));
}

#[tokio::test]
async fn blank_lines_and_comments_while_it_waits_are_no_harm() {
    let server = Server::new(Duration::ZERO, |_, _, _| {
        let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for piece in ["\n", "\n\n", ": keep-alive\n\n", &completion()] {
            write!(bytes, "{:x}\r\n{piece}\r\n", piece.len()).unwrap();
        }
        bytes.extend(b"0\r\n\r\n");
        Act::Send(bytes)
    })
    .await;
    let (client, _) = client(server.settings());
    assert_eq!(complete(&client).await.unwrap().tries, 1);
}

#[tokio::test]
async fn connections_are_kept() {
    let server = Server::new(Duration::ZERO, |n, _, _| if n % 5 == 4 { fails(500, "", "{}") } else { good() }).await;
    let (client, _) = client(server.settings());
    for _ in 0..20 {
        complete(&client).await.unwrap();
    }
    assert_eq!((server.count(), server.connections.load(SeqCst)), (24, 1));
}

#[tokio::test]
async fn a_host_may_have_a_name() {
    let server = Server::new(Duration::ZERO, |_, _, _| good()).await;
    let (client, _) = client(Settings { url: server.url.replace("127.0.0.1", "localhost"), ..server.settings() });
    assert_eq!(complete(&client).await.unwrap().tries, 1);
}

#[tokio::test]
async fn what_is_final_is_asked_once_and_shows_no_key() {
    for (status, body, kind) in [
        (401, format!(r#"{{"error":{{"message":"Incorrect API key provided: {KEY}. Find yours"}}}}"#), Kind::Unauthorized),
        (401, format!(r#"{{"error":"bad key ({}...)"}}"#, &KEY[..12]), Kind::Unauthorized),
        (403, format!("{KEY} is not welcome"), Kind::Unauthorized),
        (402, r#"{"error":{"message":"Insufficient Balance"}}"#.into(), Kind::Payment),
        (429, r#"{"error":{"message":"quota","code":"insufficient_quota"}}"#.into(), Kind::Payment),
        (404, r#"{"error":{"message":"The model `test-model` does not exist.","code":"model_not_found"}}"#.into(), Kind::UnknownModel),
        (404, "<html>404</html>".into(), Kind::UnknownModel),
        (400, r#"{"error":{"message":"Model Not Exist"}}"#.into(), Kind::UnknownModel),
        (400, format!(r#"{{"error":{{"message":"temperature: no {KEY}"}}}}"#), Kind::EndpointRefused),
        (422, r#"{"detail":[{"msg":"field required"}]}"#.into(), Kind::EndpointRefused),
    ] {
        let reply = body.clone();
        let server = Server::new(Duration::ZERO, move |_, _, _| fails(status, "", &reply)).await;
        let (settings, _file) = keyed(server.settings());
        let (client, limiter) = client(settings);
        let Err(ModelError::Failed(failure)) = complete(&client).await else { panic!("{status} is no success") };
        assert_eq!((failure.kind, server.count()), (kind, 1), "{failure}");
        assert!(failure.message.contains(&server.url) && failure.message.contains(&status.to_string()), "{failure}");
        assert!(failure.message.len() < 1000, "{failure}");
        assert_no_key("the failure", &failure);
        assert_no_key("the client", &client);
        assert_eq!(limiter.snapshot().in_flight, 0);
    }
}

#[tokio::test]
async fn overflow_is_an_exit_reason() {
    let body = r#"{"error":{"message":"This model's maximum context length is 8 tokens.","code":"context_length_exceeded"}}"#;
    let server = Server::new(Duration::ZERO, move |_, _, _| fails(400, "", body)).await;
    let (client, _) = client(server.settings());
    let Err(ModelError::ContextOverflow(text)) = complete(&client).await else { panic!("the prompt is too long") };
    assert!(text.contains("maximum context length"));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn tries_are_bounded_and_so_is_what_is_said_of_them() {
    let server = Server::new(Duration::ZERO, |_, _, _| fails(500, "", &"x ".repeat(100_000))).await;
    let (client, _) = client(server.settings());
    let Err(ModelError::Failed(failure)) = complete(&client).await else { panic!("500 is no success") };
    assert_eq!((failure.kind, server.count()), (Kind::EndpointUnavailable, 3));
    assert!(failure.message.len() < 1000, "{}", failure.message.len());
}

#[tokio::test]
async fn a_reply_is_bounded_with_and_without_its_length() {
    let server = Server::new(Duration::ZERO, |n, _, _| match n {
        0 => fails(200, "", &" ".repeat(5000)),
        _ => Act::Cut(format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(5000)).into_bytes()),
    })
    .await;
    let policy = Policy { tries: 2, ..server.settings().retry };
    let (client, _) = client(Settings { max_reply_bytes: 4000, retry: policy, ..server.settings() });
    let Err(ModelError::Failed(failure)) = complete(&client).await else { panic!("too large") };
    assert!(failure.message.contains("max_reply_bytes"), "{failure}");
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn the_key_follows_no_redirect() {
    let target = Server::new(Duration::ZERO, |_, _, _| good()).await;
    let location = format!("location: {}/chat/completions\r\n", target.url);
    let server = Server::new(Duration::ZERO, move |_, _, _| fails(307, &location, "")).await;
    let (settings, _file) = keyed(server.settings());
    let (client, _) = client(settings);
    let Err(ModelError::Failed(failure)) = complete(&client).await else { panic!("redirects are not followed") };
    assert_eq!((failure.kind, target.count()), (Kind::UnknownModel, 0), "{failure}");
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_waited_for() {
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let policy = Policy { tries: 1000, base_s: 0.02, cap_s: 0.05, ..Policy::default() };
    let (client, _) = client(Settings { url: format!("http://{address}/v1"), model: "m".into(), retry: policy, ..Settings::default() });
    let back = async {
        sleep(Duration::from_millis(300)).await;
        let listener = TcpListener::bind(address).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap();
        stream.write_all(&http(200, "", &completion())).await.unwrap();
    };
    let (response, ()) = tokio::join!(complete(&client), back);
    assert!(response.unwrap().tries > 1);
}

#[tokio::test]
async fn a_storm_of_429_slows_the_run_and_ends_no_call() {
    // The endpoint bears 4 at once.
    let server = Server::new(Duration::from_millis(20), |_, _, at_once| if at_once > 4 { fails(429, "", "{}") } else { good() }).await;
    let limits = Limits { in_flight_start: 50, in_flight_max: 50, cool_down_s: 0.1, ..Limits::default() };
    let (client, limiter) = client(Settings { limits, ..server.settings() });
    let responses = join_all((0..50).map(|_| complete(&client))).await;
    for response in responses {
        assert_eq!(response.expect("a storm ends no call").message.content, "hello");
    }
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
    assert!(snapshot.cuts > 0 && snapshot.limit < 50, "{snapshot:?}");
    assert_eq!(snapshot.started as usize, server.count());
    assert_eq!(snapshot.started, 50 + snapshot.throttled);
}

/// Settings for two servers, each with a limiter of its own.
fn both(a: &Server, b: &Server, more: Settings) -> Endpoints {
    let replica = |server: &Server| Replica { url: server.url.clone(), ..Replica::default() };
    let settings = Settings { url: String::new(), replicas: vec![replica(a), replica(b)], ..more };
    let limiters = Endpoints::limiters(&settings).unwrap();
    Endpoints::new(settings, limiters).unwrap()
}

async fn complete_for(client: &Endpoints, affinity: u64) -> Result<Response, ModelError> {
    let messages: Conversation = [Message::new(Role::User, "hi")].iter().collect();
    timeout(LONG, client.complete(Request { messages: &messages, tools: &"".into(), estimate: 200, affinity })).await.expect("no hang")
}

#[tokio::test]
async fn one_of_two_that_wants_money_is_out_and_the_run_ends_with_the_other() {
    let poor = Server::new(Duration::ZERO, |_, _, _| fails(402, "", "{}")).await;
    let rich = Server::new(Duration::ZERO, |n, _, _| if n < 20 { good() } else { fails(401, "", "{}") }).await;
    let client = both(&poor, &rich, rich.settings());
    for key in 0..20 {
        complete_for(&client, key).await.unwrap();
    }
    let status = client.status();
    assert_eq!((poor.count(), rich.count()), (1, 20), "it is asked once");
    assert!(status[0].out && !status[0].up && status[0].trouble.contains("402"), "{status:#?}");
    assert!(!status[1].out && status[1].up && status[1].completion_tokens == 200 && status[1].cached_tokens == 800, "{status:#?}");
    let Err(ModelError::Failed(failure)) = complete_for(&client, 0).await else { panic!("the last one refuses the key") };
    assert_eq!(failure.kind, Kind::Unauthorized);
}

#[tokio::test]
async fn a_fault_is_tried_again_elsewhere_and_a_429_is_not() {
    let broken = Server::new(Duration::ZERO, |_, _, _| fails(500, "", "{}")).await;
    let well = Server::new(Duration::ZERO, |_, _, _| good()).await;
    let client = both(&broken, &well, Settings { retry: Policy { tries: 2, ..well.settings().retry }, ..well.settings() });
    for key in 0..40 {
        complete_for(&client, key).await.unwrap();
    }
    assert_eq!(broken.count(), 5, "ejected after five");
    let status = client.status();
    assert_eq!((status[0].faults, status[0].ejections, status[0].up), (5, 1, false), "{status:#?}");

    // The same two addresses, and so the same choice for each key.
    let busy = Server::new(Duration::ZERO, |n, _, _| if n % 3 == 2 { good() } else { fails(429, "", "{}") }).await;
    let client = both(&busy, &busy, busy.settings());
    for _ in 0..10 {
        complete_for(&client, 7).await.unwrap();
    }
    let status = client.status();
    let mut requests = [status[0].requests, status[1].requests];
    requests.sort_unstable();
    assert_eq!(requests, [0, 30], "an episode stays: {status:#?}");
    assert!(status.iter().all(|one| one.up && one.ejections == 0), "a 429 is not ill health: {status:#?}");
}

#[tokio::test]
async fn the_first_of_two_answers_wins_where_hedging_is_on() {
    let slow = Server::new(Duration::from_secs(30), |_, _, _| good()).await;
    let quick = Server::new(Duration::ZERO, |_, _, _| good()).await;
    let client = both(&slow, &quick, Settings { hedge_after_s: 0.1, ..quick.settings() });
    let began = Instant::now();
    for key in 0..8 {
        complete_for(&client, key).await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(slow.count() > 0 && quick.count() == 8, "{} and {}", slow.count(), quick.count());
    assert_eq!(client.status()[0].requests, 0, "what was dropped told nothing");
}

#[tokio::test]
async fn abandoned_calls_leak_nothing() {
    let server = Server::new(Duration::ZERO, |_, _, _| Act::Stall(Vec::new())).await;
    let limits = Limits { in_flight_start: 2, in_flight_max: 2, ..Limits::default() };
    let (client, limiter) = client(Settings { limits, ..server.settings() });
    let abandoned = timeout(Duration::from_millis(500), join_all((0..30).map(|_| complete(&client)))).await;
    assert!(abandoned.is_err());
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.waiting, snapshot.started), (0, 0, 2));
    timeout(LONG, limiter.acquire(1)).await.expect("the places are free again").settle(End::Refused);
}

#[tokio::test]
async fn ten_thousand_wait_in_order_and_any_may_leave() {
    let limits = Limits { in_flight_start: 1, in_flight_max: 1, ..Limits::default() };
    let limiter = Arc::new(Limiter::new(limits));
    let first = limiter.acquire(0).await;
    let served = Arc::new(Mutex::new(Vec::new()));
    let waiters: Vec<_> = (0..10_000_usize)
        .map(|n| {
            let (limiter, served) = (limiter.clone(), served.clone());
            tokio::spawn(async move {
                let permit = limiter.acquire(0).await;
                served.lock().unwrap().push(n);
                permit.settle(End::Done { tokens: 0 });
            })
        })
        .collect();
    while limiter.snapshot().waiting < 10_000 {
        tokio::task::yield_now().await;
    }
    // The head, the tail and every third leave.
    let leaves = |n: usize| n.is_multiple_of(3) || n == 9_999;
    for (n, waiter) in waiters.iter().enumerate() {
        if leaves(n) {
            waiter.abort();
        }
    }
    drop(first);
    timeout(LONG, join_all(waiters)).await.expect("all are served");
    let stay: Vec<_> = (0..10_000).filter(|n| !leaves(*n)).collect();
    assert_eq!(*served.lock().unwrap(), stay);
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
}

#[tokio::test]
async fn requests_a_minute_pace_the_starts() {
    let limiter = Limiter::new(Limits { requests_per_minute: 600, ..Limits::default() });
    let began = Instant::now();
    for _ in 0..15 {
        limiter.acquire(0).await.settle(End::Done { tokens: 0 });
    }
    assert!(began.elapsed() >= Duration::from_millis(450), "10 at once, then 10 a second: {:?}", began.elapsed());
}

#[tokio::test]
async fn the_preflight_finds_what_is_wrong() {
    let list = |names: &str| format!(r#"{{"object":"list","data":[{names}]}}"#);
    let mine = list(r#"{"id":"other"},{"id":"test-model"}"#);
    let others = list(r#"{"id":"other-a"},{"id":"other-b"}"#);
    let missing = r#"{"error":{"message":"The model `test-model` does not exist.","code":"model_not_found"}}"#;
    let html = "<html>welcome</html>".to_owned();
    let key = format!(r#"{{"error":"no such key {KEY}"}}"#);
    type Case = (&'static str, (u16, String), (u16, String), Option<(Kind, &'static str)>, usize);
    let cases: [Case; 8] = [
        ("listed", (200, mine), (500, String::new()), None, 1),
        ("an alias that is not listed", (200, others.clone()), (200, completion()), None, 2),
        ("unknown", (200, others), (404, missing.into()), Some((Kind::UnknownModel, "other-a, other-b")), 2),
        ("no list", (404, String::new()), (400, r#"{"error":"max_tokens"}"#.into()), None, 2),
        ("no list, wrong address", (404, html.clone()), (404, html.clone()), Some((Kind::UnknownModel, "check endpoint.url")), 2),
        ("a web page", (200, html.clone()), (200, html), Some((Kind::EndpointUnavailable, "cannot be read")), 4),
        ("wrong key", (401, key.clone()), (200, completion()), Some((Kind::Unauthorized, "check the key in")), 1),
        ("wrong key, no list", (403, String::new()), (401, key), Some((Kind::Unauthorized, "***")), 2),
    ];
    for (name, models, completions, wrong, requests) in cases {
        let server = Server::new(Duration::ZERO, move |_, seen, _| {
            let is_list = seen.head.starts_with("get /v1/models ");
            let (status, body) = if is_list { &models } else { &completions };
            fails(*status, "", body)
        })
        .await;
        let (settings, _file) = keyed(server.settings());
        let (client, _) = client(settings);
        match (timeout(LONG, client.check()).await.expect("no hang"), wrong) {
            (Ok(()), None) => {}
            (Err(failure), Some((kind, words))) => {
                assert_eq!(failure.kind, kind, "{name}: {failure}");
                assert!(failure.message.contains(words) && failure.message.contains(&server.url), "{name}: {failure}");
                assert_no_key(name, &failure);
            }
            (got, _) => panic!("{name}: {got:?}"),
        }
        assert_eq!(server.count(), requests, "{name}");
    }

    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", place.local_addr().unwrap());
    drop(place);
    let (client, _) = client(Settings { url, model: "m".into(), ..Settings::default() });
    let failure = client.check().await.unwrap_err();
    assert_eq!(failure.kind, Kind::EndpointUnavailable);
    assert!(failure.message.contains("no connection"), "{failure}");
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_is_sent() {
    let good = Settings { url: "http://127.0.0.1:1".into(), model: "m".into(), ..Settings::default() };
    let refused = |settings: Settings| Endpoints::new(settings, vec![Arc::new(Limiter::new(Limits::default()))]).unwrap_err();
    let stream = json!({"stream": true}).as_object().unwrap().clone();
    for (settings, kind, words) in [
        (Settings { url: "localhost:8000".into(), ..good.clone() }, Kind::UnknownModel, "endpoint.url"),
        (Settings { model: " ".into(), ..good.clone() }, Kind::UnknownModel, "--model"),
        (Settings { api_key_env: "SWEROLL_NO_SUCH_KEY".into(), ..good.clone() }, Kind::Unauthorized, "SWEROLL_NO_SUCH_KEY"),
        (Settings { api_key_file: Some("/no/such/file".into()), ..good.clone() }, Kind::Unauthorized, "/no/such/file"),
        (Settings { extra_body: stream, ..good.clone() }, Kind::UnknownModel, "stream"),
    ] {
        let failure = refused(settings);
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.contains(words), "{failure}");
    }
}

fn streamed(events: &[Value], end: &str) -> Vec<u8> {
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).chain([end.to_owned()]).collect();
    let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for piece in body.as_bytes().chunks(7) {
        write!(bytes, "{:x}\r\n", piece.len()).unwrap();
        bytes.extend(piece);
        bytes.extend(b"\r\n");
    }
    bytes
}

fn said(text: &str) -> Value {
    json!({"model": "test-model-1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
}

fn ended() -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 100, "completion_tokens": 10}})
}

fn good_stream() -> Act {
    let mut bytes = streamed(&[said("hel"), said("lo"), ended()], "data: [DONE]\n\n");
    bytes.extend(b"0\r\n\r\n");
    Act::Send(bytes)
}

#[tokio::test]
async fn a_stream_is_a_reply_only_when_it_has_ended_well() {
    type Trouble = (&'static str, fn() -> Act);
    let troubles: [Trouble; 8] = [
        ("stall", || Act::Stall(streamed(&[said("hel")], ""))),
        ("stall with comments", || Act::Stall(streamed(&[said("hel")], ": keep-alive\n\n"))),
        ("nothing but comments", || Act::Stall(streamed(&[], ": keep-alive\n\n"))),
        ("cut", || Act::Cut(streamed(&[said("hel")], ""))),
        ("ends early", || Act::Send([streamed(&[said("hel")], ""), b"0\r\n\r\n".to_vec()].concat())),
        ("error within", || Act::Send([streamed(&[said("hel"), json!({"error": {"message": "m"}})], ""), b"0\r\n\r\n".to_vec()].concat())),
        ("garbage", || Act::Send([streamed(&[said("hel")], "data: {\n\n"), b"0\r\n\r\n".to_vec()].concat())),
        ("502", || fails(502, "", "<html>")),
    ];
    let timeouts = Timeouts { connect_s: 5.0, first_byte_s: 0.4, stall_s: 0.2, total_s: 30.0, ..Timeouts::default() };
    for (name, trouble) in troubles {
        let server = Server::new(Duration::ZERO, move |n, _, _| if n == 0 { trouble() } else { good_stream() }).await;
        let (client, limiter) = client(Settings { stream: true, timeouts, ..server.settings() });
        let response = complete(&client).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((response.tries, response.message.content.as_str(), response.usage.completion_tokens), (2, "hello", 10), "{name}");
        assert!(response.extra["first_token_ms"].is_u64() && response.model == "test-model-1", "{name}: {}", response.extra);
        assert_eq!(limiter.snapshot().in_flight, 0, "{name}");
        let body: Value = serde_json::from_slice(&server.seen(1).body).unwrap();
        assert_eq!((&body["stream"], &body["stream_options"]), (&json!(true), &json!({"include_usage": true})));
    }
    // What only the good-bye is missing of is whole.
    let whole: [Trouble; 3] = [
        ("no end of the body", || Act::Stall(streamed(&[said("hello"), ended()], "data: [DONE]\n\n"))),
        ("cut after the finish", || Act::Cut(streamed(&[said("hello"), ended()], ""))),
        ("not streamed", || good()),
    ];
    for (name, act) in whole {
        let server = Server::new(Duration::ZERO, move |_, _, _| act()).await;
        let (client, _) = client(Settings { stream: true, timeouts, ..server.settings() });
        let response = complete(&client).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((response.tries, response.message.content.as_str(), response.usage.completion_tokens), (1, "hello", 10), "{name}");
    }
}

#[tokio::test]
async fn a_connection_serves_stream_after_stream() {
    let server = Server::new(Duration::ZERO, |_, _, _| good_stream()).await;
    let (client, _) = client(Settings { stream: true, ..server.settings() });
    for _ in 0..10 {
        complete(&client).await.unwrap();
    }
    assert_eq!((server.count(), server.connections.load(SeqCst)), (10, 1));
}

#[tokio::test]
async fn a_stall_says_what_was_lost() {
    let server = Server::new(Duration::ZERO, |_, _, _| Act::Stall(streamed(&[said("a"), said("b")], ": keep-alive\n\n"))).await;
    let timeouts = Timeouts { stall_s: 0.2, ..server.settings().timeouts };
    let retry = Policy { tries: 1, ..server.settings().retry };
    let (client, _) = client(Settings { stream: true, timeouts, retry, ..server.settings() });
    let Err(ModelError::Failed(failure)) = complete(&client).await else { panic!("no reply was sent") };
    assert!(["stall_s", "about 2 tokens"].iter().all(|word| failure.message.contains(word)), "{failure}");
}
