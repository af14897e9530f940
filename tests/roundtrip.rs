//! What the model was sent, as it went over the wire, is what the record, its export and their rendering hold.

mod common;

use common::{Endpoint, expect, records, sweroll};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
};
use sweroll::{
    domain::{Message, Role, Trajectory},
    tokens::{Target, template::render},
};

/// Stands before an endpoint and keeps what goes to it, a buffer a connection.
struct Tap {
    url: String,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    fn before(url: &str) -> Self {
        let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tap = Tap { url: format!("http://{}/{path}", listener.local_addr().unwrap()), sent: Arc::default() };
        let (sent, host) = (Arc::clone(&tap.sent), host.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&host).unwrap();
                let at = {
                    let mut sent = sent.lock().unwrap();
                    sent.push(Vec::new());
                    sent.len() - 1
                };
                let (back, there) = ((server.try_clone().unwrap(), client.try_clone().unwrap()), (client, server));
                let sent = Arc::clone(&sent);
                std::thread::spawn(move || pass(there.0, there.1, |bytes| sent.lock().unwrap()[at].extend_from_slice(bytes)));
                std::thread::spawn(move || pass(back.0, back.1, |_| ()));
            }
        });
        tap
    }

    /// The bodies of all requests for a completion.
    fn bodies(&self) -> Vec<Value> {
        let mut bodies = Vec::new();
        for connection in self.sent.lock().unwrap().iter() {
            let mut rest = connection.as_slice();
            while let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&rest[..end]).to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).map_or(0, |n| n.trim().parse().unwrap());
                let Some(body) = rest[end + 4..].get(..length) else { break };
                bodies.extend(serde_json::from_slice(body).ok().filter(|body: &Value| body["messages"].is_array()));
                rest = &rest[end + 4 + length..];
            }
        }
        bodies
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&[u8])) {
    let mut chunk = [0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        see(&chunk[..n]);
        if to.write_all(&chunk[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// The text that a conversation is for the target; tools as an array, or absent.
fn text(messages: &Value, tools: &Value) -> String {
    let messages: Vec<Message> = serde_json::from_value(messages.clone()).unwrap();
    let tools = if tools.is_null() { String::new() } else { tools.to_string() };
    render(Target::Qwen3Instruct2507, &messages, &tools).unwrap()
}

#[test]
fn an_export_renders_to_what_was_sent() {
    let instances = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/demo.jsonl");
    for (script, format) in [("gold", "native"), ("gold", "inline"), ("hostile", "native"), ("hostile", "inline")] {
        let endpoint = Endpoint::start(&instances, script, &[]);
        let tap = Tap::before(&endpoint.url);
        let temp = tempfile::tempdir().unwrap();
        let [run, exported] = ["run", "export"].map(|name| temp.path().join(name));
        let mut command = sweroll();
        command.arg("run").arg("--instances").arg(&instances).arg("--out").arg(&run).args(["--endpoint", &tap.url, "--model", "scripted"]);
        command.args(["--sandbox", "local", "--quiet", "--filter", "greet|upper|total", "--call-format", format, "--max-turns", "12"]);
        expect(command.args(["--set", "grading.tests_timeout_s=5"]), 0);
        expect(sweroll().arg("export").arg(&run).args(["--to", "openai", "--container", "jsonl", "--out"]).arg(&exported), 0);
        let rows = fs::read_to_string(exported.join("train-00000.jsonl")).unwrap();
        let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
        let records = records(&run, "trajectories");
        assert!(!rows.is_empty() && rows.len() == records.len(), "{script} {format}: {} of {}", rows.len(), records.len());

        let bodies = tap.bodies();
        assert!(bodies.len() >= 2 * rows.len(), "{script} {format}: {} requests", bodies.len());
        let sent: Vec<String> = bodies.iter().map(|body| text(&body["messages"], &body["tools"])).collect();
        for row in &rows {
            let tools: Value = serde_json::from_str(row["tools"].as_str().unwrap()).unwrap();
            let tools = if tools == serde_json::json!([]) { Value::Null } else { tools };
            let messages = row["messages"].as_array().unwrap();
            let replies = (0..messages.len()).filter(|at| messages[*at]["role"] == Role::Assistant.as_str());
            for reply in replies {
                let prompt = text(&messages[..reply].into(), &tools);
                assert!(sent.contains(&prompt), "{script} {format}: {} was never sent:\n{prompt}", row["trajectory_id"]);
            }
            let record = records.iter().find(|record| record["trajectory_id"] == row["trajectory_id"]).unwrap();
            let record = Trajectory::parse(record.to_string().as_bytes()).unwrap();
            let of_record = render(Target::Qwen3Instruct2507, &record.messages, &record.tools).unwrap();
            assert_eq!(text(&row["messages"], &tools), of_record, "{script} {format}");
        }
    }
}
