//! What the black-box tests share: the binary, a scripted endpoint beside it, and the real set.
#![allow(dead_code)]

use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// The binary, with an environment that holds no settings of the user's.
pub fn sweroll() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweroll"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SWEROLL_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A scripted endpoint in a process of its own, on a free port; ended when dropped.
pub struct Endpoint {
    child: Child,
    pub url: String,
}

impl Endpoint {
    pub fn start(instances: &Path, script: &str, more: &[&str]) -> Self {
        let listen: &[&str] = if more.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let mut child = sweroll()
            .args(["endpoint", "--script", script, "--instances"])
            .arg(instances)
            .args(listen)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap_or_else(|| panic!("no address in {line:?}"));
        Endpoint { url: url.to_owned(), child }
    }

    /// `GET /stat`.
    pub fn stat(&self) -> Value {
        use std::io::{Read, Write};
        let host = self.url.trim_start_matches("http://").split('/').next().unwrap();
        let mut stream = std::net::TcpStream::connect(host).unwrap();
        write!(stream, "GET /stat HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let body = &text[text.find("\r\n\r\n").unwrap() + 4..];
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs to the end and expects this exit code.
#[track_caller]
pub fn expect(command: &mut Command, code: i32) -> Output {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}\n--- stdout\n{}\n--- stderr\n{}", stdout(&output), stderr(&output));
    output
}

/// `summary --format json` of a run.
#[track_caller]
pub fn summary(dir: &Path) -> Value {
    let output = expect(sweroll().args(["summary", "--format", "json"]).arg(dir), 0);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// All records of a run's trajectory shards, or of the attempts beside them.
pub fn records(dir: &Path, stream: &str) -> Vec<Value> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir.join("shards")).map(|entries| entries.map(|e| e.unwrap().path()).collect()).unwrap_or_default();
    files.retain(|f| f.file_name().unwrap().to_string_lossy().starts_with(stream));
    files.sort();
    let read = |file: &PathBuf| {
        let bytes = zstd::decode_all(std::fs::File::open(file).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    files.iter().flat_map(read).collect()
}

/// Does a Docker daemon answer? In CI one must.
pub fn docker() -> bool {
    let answers = Command::new("docker").arg("version").output().is_ok_and(|o| o.status.success());
    assert!(answers || std::env::var_os("CI").is_none(), "no Docker daemon answers, and in CI one must");
    if !answers {
        eprintln!("skipped: no Docker daemon answers");
    }
    answers
}

/// The real instances, where their images are built. In CI they must be.
pub fn realset() -> Option<PathBuf> {
    let path = std::env::var_os("SWEROLL_REALSET").map(PathBuf::from).filter(|p| p.exists());
    assert!(path.is_some() || std::env::var_os("CI").is_none(), "SWEROLL_REALSET must name the real set's instances.jsonl in CI");
    if path.is_none() {
        eprintln!("skipped: SWEROLL_REALSET names no instances.jsonl");
    }
    path.filter(|_| docker())
}

/// Containers that carry the label of any run whose directory's run id is `run`.
pub fn containers(run: &str) -> usize {
    let output = Command::new("docker").args(["ps", "-aq", "--filter", &format!("label=sweroll.run={run}")]).output().unwrap();
    stdout(&output).lines().count()
}
