//! CPU that the client takes for a reply of 1,000 tokens, and its bytes: whole, streamed at once, and streamed a token at a time.
//! The server is threads of this process; only the client's thread is measured.

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread::{sleep, spawn},
    time::Duration,
};
use sweroll::{
    domain::{Message, Role},
    endpoint::{Endpoints, Limiter, ModelClient, Request, Settings},
};

const TOKENS: usize = 1000;

/// A body in the pieces in which it is written, and the pause after each.
struct Sent {
    pieces: Vec<Vec<u8>>,
    pause: Duration,
}

fn chunked(body: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}

fn head(content_type: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes()
}

fn whole() -> Sent {
    let message = json!({"role": "assistant", "content": " word".repeat(TOKENS)});
    let usage = json!({"prompt_tokens": 9, "completion_tokens": TOKENS});
    let body = json!({"id": "x", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage});
    Sent {
        pieces: vec![[head("application/json"), chunked(body.to_string().as_bytes()), b"0\r\n\r\n".to_vec()].concat()],
        pause: Duration::ZERO,
    }
}

fn streamed(pause: Duration) -> Sent {
    let chunk = |choices: serde_json::Value, usage: serde_json::Value| {
        let chunk = json!({
            "id": "chatcmpl-0123456789abcdef0123456789abcdef", "object": "chat.completion.chunk", "created": 1_760_000_000, "model": "m",
            "choices": choices, "usage": usage,
        });
        chunked(format!("data: {chunk}\n\n").as_bytes())
    };
    let delta = json!([{"index": 0, "delta": {"content": " word"}, "logprobs": null, "finish_reason": null}]);
    let mut pieces = vec![head("text/event-stream")];
    pieces.extend((0..TOKENS).map(|_| chunk(delta.clone(), json!(null))));
    pieces.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), json!(null)));
    pieces.push(chunk(json!([]), json!({"prompt_tokens": 9, "completion_tokens": TOKENS})));
    pieces.push([chunked(b"data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat());
    Sent { pieces: if pause.is_zero() { vec![pieces.concat()] } else { pieces }, pause }
}

fn serve(mut stream: TcpStream, sent: &Sent) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while {
            line.clear();
            requests.read_line(&mut line)? > 2
        } {
            if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().unwrap_or(0);
            }
        }
        if line.is_empty() {
            return Ok(());
        }
        requests.read_exact(&mut vec![0; length])?;
        for piece in &sent.pieces {
            stream.write_all(piece)?;
            sleep(sent.pause);
        }
    }
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// CPU a reply, microseconds: the median of five rounds; and its bytes.
fn measure(stream: bool, sent: Sent, replies: u32) -> (f64, usize) {
    let bytes = sent.pieces.iter().map(Vec::len).sum();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let sent = Arc::new(sent);
    spawn(move || {
        for stream in listener.incoming().flatten() {
            let sent = Arc::clone(&sent);
            spawn(move || serve(stream, &sent));
        }
    });
    let settings = Settings { url, model: "m".into(), stream, ..Settings::default() };
    let limiter = Arc::new(Limiter::new(settings.limits));
    let client = Endpoints::new(settings, vec![limiter]).unwrap();
    let messages = [Message::new(Role::User, "hi")].iter().collect();
    let tools = "".into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = |n: u32| {
        runtime.block_on(async {
            for _ in 0..n {
                let request = Request { messages: &messages, tools: &tools, estimate: 2000, affinity: 0 };
                let reply = client.complete(request).await.unwrap();
                assert_eq!((reply.message.content.len(), reply.usage.completion_tokens, reply.tries), (5 * TOKENS, TOKENS as u64, 1));
            }
        });
    };
    ask(1);
    let mut rounds: Vec<f64> = (0..5)
        .map(|_| {
            let before = cpu();
            ask(replies);
            (cpu() - before).as_secs_f64() * 1e6 / f64::from(replies)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    (rounds[2], bytes)
}

fn main() {
    let base = measure(false, whole(), 500);
    println!("{:<40} {:>10} {:>8} {:>10}", "a reply of 1,000 tokens", "CPU µs", "ratio", "bytes");
    for (name, (cpu, bytes)) in [
        ("whole", base),
        ("streamed, all events at once", measure(true, streamed(Duration::ZERO), 300)),
        ("streamed, an event each millisecond", measure(true, streamed(Duration::from_millis(1)), 1)),
    ] {
        println!("{name:<40} {cpu:>10.0} {:>8.1} {bytes:>10}", cpu / base.0);
    }
}
