//! `sweroll endpoint` as its users meet it: which rows it takes, what it warns of, how it ends.

mod common;

use common::{expect, stderr, sweroll};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

fn rows() -> Vec<Value> {
    let demo = include_str!("../src/cli/demo.jsonl");
    demo.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write(path: &Path, rows: &[Value]) {
    fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

/// What it says on stderr until `signal` ends it, once it listens.
fn served(instances: &Path, more: &[&str], signal: &str) -> String {
    let mut child = sweroll()
        .args(["endpoint", "--script", "gold", "--listen", "127.0.0.1:0", "--instances"])
        .arg(instances)
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut said, mut line) = (String::new(), String::new());
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.contains("listening") {
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    }
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    assert!(line.contains("listening") && status.code() == Some(0), "{status}: {said}");
    said
}

#[test]
fn it_ends_on_sigterm_as_on_ctrl_c() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("rows.jsonl");
    write(&file, &rows());
    for signal in ["-TERM", "-INT"] {
        assert_eq!(served(&file, &[], signal), "");
    }
}

#[test]
fn it_takes_the_rows_that_a_run_takes() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("rows.jsonl");
    let mut all = rows();
    all[0]["workdir"] = Value::Null;
    write(&file, &all);
    let refused = stderr(&expect(sweroll().args(["endpoint", "--script", "gold", "--instances"]).arg(&file), 2));
    assert!(refused.contains("1 bad row") && refused.contains("--skip-bad"), "{refused}");
    let said = served(&file, &["--skip-bad"], "-TERM");
    assert!(said.contains("1 bad rows left out") && said.contains("line 1"), "{said}");
    let good = all[1]["instance_id"].as_str().unwrap();
    assert_eq!(served(&file, &["--filter", good, "--limit", "1"], "-TERM"), "");
    let other = sweroll().args(["endpoint", "--script", "gold", "--filter", "no-such-id", "--instances"]).arg(&file).output().unwrap();
    assert_eq!(other.status.code(), Some(2));
}

#[test]
fn it_names_rows_of_the_same_statement_when_it_starts() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("rows.jsonl");
    let mut all = rows();
    all[1]["problem_statement"] = all[0]["problem_statement"].clone();
    write(&file, &all);
    let said = served(&file, &[], "-TERM");
    for row in &all[..2] {
        assert!(said.contains(row["instance_id"].as_str().unwrap()), "{said}");
    }
    assert!(said.contains("same problem statement"), "{said}");
}

#[test]
fn it_takes_as_many_connections_as_the_system_grants() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("rows.jsonl");
    write(&file, &rows());
    let own = sweroll();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -S -n 48; exec \"$0\" endpoint --script noop --listen 127.0.0.1:0 --instances \"$1\""])
        .args([own.get_program(), file.as_os_str()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim().split("//").nth(1).unwrap().trim_end_matches("/v1");
    let mut lines: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let answered = lines.iter_mut().all(|line| {
        line.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        line.write_all(b"GET /stat HTTP/1.1\r\nhost: l\r\n\r\n").unwrap();
        line.read(&mut [0; 16]).is_ok_and(|n| n > 0)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(answered, "connections were left waiting");
}
