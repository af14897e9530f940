//! A server in a thread, and a client of raw HTTP that hides nothing.

use serde_json::{Value, json};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};
use sweroll::{
    endpoint::server::{Playbook, Server, Settings, Stat},
    tools::{Bounds, CallFormat, Toolset, builtin, inline},
};

/// A server that lives as long as this.
pub struct Rehearsal {
    pub addr: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Rehearsal {
    pub fn new(playbook: Playbook, settings: Settings) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let server = Server::bind(([127, 0, 0, 1], 0).into(), Arc::new(playbook), settings).unwrap();
                tell.send(server.addr()).unwrap();
                server.serve(async { drop(stopped.await) }).await;
            });
        });
        Rehearsal { addr: told.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    pub fn post(&self, body: &Value) -> Reply {
        Http::connect(self.addr).send("POST", "/v1/chat/completions", &[], body.to_string().as_bytes()).unwrap()
    }

    pub fn stat(&self) -> Stat {
        serde_json::from_str(&Http::connect(self.addr).send("GET", "/stat", &[], b"").unwrap().body).unwrap()
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    /// As much as came.
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

pub struct Http(BufReader<TcpStream>);

impl Http {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Http(BufReader::new(stream))
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Reply> {
        self.ask(method, path, headers, body)?;
        self.answer()
    }

    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        self.0.get_mut().write_all(&[request.as_bytes(), b"\r\n", body].concat())
    }

    pub fn answer(&mut self) -> io::Result<Reply> {
        let mut line = || {
            let mut line = String::new();
            self.0.read_line(&mut line).map(|_| line.trim_end().to_owned())
        };
        let status = line()?.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut headers = Vec::new();
        loop {
            let line = line()?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut reply = Reply { status, headers, body: String::new() };
        let length = reply.header("content-length").unwrap().parse().unwrap();
        let mut body = Vec::new();
        (&mut self.0).take(length).read_to_end(&mut body)?;
        reply.body = String::from_utf8_lossy(&body).into_owned();
        Ok(reply)
    }
}

fn tool(name: &str, fields: &[(&str, Value)], required: &[&str]) -> Value {
    let fields: serde_json::Map<String, Value> = fields.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
    let parameters = json!({"type": "object", "properties": fields, "required": required});
    json!({"type": "function", "function": {"name": name, "description": "", "parameters": parameters}})
}

fn string() -> Value {
    json!({"type": "string"})
}

fn choice(of: &[&str]) -> Value {
    json!({"type": "string", "enum": of})
}

pub fn scale_swe() -> Value {
    let operations = choice(&["view", "create", "str_replace", "insert", "undo_edit"]);
    let (text, number) = (string, || json!({"type": "integer"}));
    let fields = [
        ("command", operations),
        ("path", text()),
        ("file_text", text()),
        ("old_str", text()),
        ("new_str", text()),
        ("insert_line", number()),
        ("view_range", json!({"type": "array", "items": {"type": "integer"}})),
    ];
    json!([
        tool("execute_bash", &[("command", text()), ("timeout", number())], &["command"]),
        tool("str_replace_editor", &fields, &["command", "path"]),
        tool("think", &[("thought", text())], &["thought"]),
        tool("finish", &[], &[]),
    ])
}

pub fn sweroll() -> Value {
    let (text, number) = (string, || json!({"type": "integer"}));
    let fields = [
        ("command", choice(&["view", "create", "replace", "insert", "undo"])),
        ("path", text()),
        ("first", number()),
        ("last", number()),
        ("text", text()),
        ("old", text()),
        ("new", text()),
        ("line", number()),
    ];
    json!([
        tool("bash", &[("command", text()), ("timeout", number())], &["command"]),
        tool("edit", &fields, &["command", "path"]),
        tool("search", &[("pattern", text()), ("glob", text()), ("path", text())], &[]),
        tool("submit", &[], &[]),
    ])
}

/// A system prompt that lists the tools of a scaffold, as the agent writes it: no schemas are sent.
pub fn listed(scaffold: &str) -> Value {
    let schemas = builtin::schemas(scaffold).unwrap().iter().copied();
    let toolset = Toolset::parse(schemas, CallFormat::Inline, Bounds::default()).unwrap();
    json!(format!("You mend code.\n\n{}", inline::describe(&toolset)))
}
