//! Limits that several processes share, over a real `redis-server`: each ledger here is what a process has; once real runs.

mod common;

use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{
    env,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use sweroll::endpoint::{
    limiter::{End, Limiter, Limits},
    share::{Ledger, Redis, Settings},
};
use tokio::{task::JoinHandle, time::sleep};

/// A server of the test's own, without persistence.
struct Server {
    port: u16,
    child: Child,
}

impl Server {
    /// None, with a word, where there is no `redis-server`; CI must have one.
    fn start(more: &[&str]) -> Option<Server> {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        Server::start_at(port, more)
    }

    fn start_at(port: u16, more: &[&str]) -> Option<Server> {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]).args(more);
        let child = match command.stdout(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(error) => {
                assert!(env::var_os("CI").is_none(), "redis-server: {error}");
                eprintln!("skipped: no redis-server ({error})");
                return None;
            }
        };
        let server = Server { port, child };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Calls that Redis was asked to make, the tests' own not counted.
    fn calls(&self) -> u64 {
        self.calls_with("")
    }

    fn calls_with(&self, password: &str) -> u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let login = if password.is_empty() { String::new() } else { format!("AUTH {password}\r\n") };
        stream.write_all(format!("{login}INFO commandstats\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find(|line| line.starts_with("cmdstat_eval:")).unwrap_or("calls=0,");
        line.split("calls=").nth(1).and_then(|rest| rest.split(',').next()).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// 20 requests a second, so that a quarter of a second is five.
const LIMITS: Limits = Limits {
    requests_per_minute: 1200,
    tokens_per_minute: 0,
    learn: false,
    in_flight_start: 64,
    in_flight_max: 64,
    cool_down_s: 5.0,
    pause_cap_s: 300.0,
};

fn ledger(url: &str, name: &str, limits: Limits) -> Arc<Redis> {
    let settings = Settings { url: url.to_owned(), name: name.to_owned(), ..Settings::default() };
    Arc::new(Redis::new(&settings, "http://endpoint/v1", limits, |_| None).unwrap())
}

/// A process that always wants more: as many at once as there are places, each request over at once.
struct Process {
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Process {
    fn start(ledger: Arc<Redis>, limits: Limits, estimate: u64, used: u64) -> Process {
        // Its own limits would hold it, too, to the whole.
        let limiter = Arc::new(Limiter::shared(limits, Some(ledger)));
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let task = tokio::spawn(async move {
            let mut all: FuturesUnordered<_> = (0..32)
                .map(|_| async {
                    loop {
                        let permit = limiter.acquire(estimate).await;
                        count.fetch_add(1, Ordering::Relaxed);
                        sleep(Duration::from_millis(20)).await;
                        permit.settle(End::Done { tokens: used });
                    }
                })
                .collect();
            let () = all.next().await.unwrap();
        });
        Process { sent, task }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn kill(&self) {
        self.task.abort();
    }
}

/// What each of them sends in `time`.
async fn sends(processes: &[&Process], time: Duration) -> Vec<u64> {
    let before: Vec<_> = processes.iter().map(|process| process.sent()).collect();
    sleep(time).await;
    processes.iter().zip(before).map(|(process, before)| process.sent() - before).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_share_alike_and_the_survivor_gets_all() {
    let Some(server) = Server::start(&[]) else { return };
    let begun = Instant::now();
    let a = Process::start(ledger(&server.url(), "one", LIMITS), LIMITS, 100, 100);
    sleep(Duration::from_secs(2)).await;
    let alone = a.sent();
    assert!((28..=61).contains(&alone), "alone in 2 s: {alone}");

    // B comes when A has had a lot, which counts for nothing.
    let b = Process::start(ledger(&server.url(), "one", LIMITS), LIMITS, 100, 100);
    sleep(Duration::from_secs(1)).await;
    let both = sends(&[&a, &b], Duration::from_secs(8)).await;
    let sum = both[0] + both[1];
    assert!(both.iter().all(|n| n.abs_diff(sum / 2) * 10 <= sum / 2), "{both:?}");
    assert!(sum >= 144, "{sum} of 160");

    b.kill();
    sleep(Duration::from_secs(4)).await;
    let after = sends(&[&a], Duration::from_secs(4)).await;
    assert!(after[0] >= 72, "{after:?} of 80 once the other is dead");
    let total = a.sent() + b.sent();
    let allowed = 20.0 * begun.elapsed().as_secs_f64() + 20.0 + 1.0;
    assert!(total as f64 <= allowed, "{total} of {allowed}");
    let calls = server.calls();
    assert!(calls <= total * 3, "{calls} calls for {total} requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_leaves_the_other_uses_and_tokens_are_shared_by_use() {
    let Some(server) = Server::start(&[]) else { return };
    // 20 requests a second by tokens alone, once each has told that it used half of its estimate.
    let limits = Limits { requests_per_minute: 0, tokens_per_minute: 60_000, ..LIMITS };
    let greedy = Process::start(ledger(&server.url(), "tokens", limits), limits, 100, 50);
    // One request in half a second.
    let modest = ledger(&server.url(), "tokens", limits);
    let longest = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        for _ in 0..12 {
            sleep(Duration::from_millis(500)).await;
            let asked = Instant::now();
            modest.reserve(100).await;
            modest.settle(100, 50);
            longest = longest.max(asked.elapsed());
        }
        longest
    });
    sleep(Duration::from_secs(1)).await;
    let sent = sends(&[&greedy], Duration::from_secs(5)).await[0];
    assert!((76..=104).contains(&sent), "{sent} where 90 are left");
    let longest = longest.await.unwrap();
    assert!(longest < Duration::from_secs(2), "a modest one waited {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_for_everybody_of_the_same_name_only() {
    let Some(server) = Server::start(&[]) else { return };
    let a = ledger(&server.url(), "pause", LIMITS);
    let b = ledger(&server.url(), "pause", LIMITS);
    let other = ledger(&server.url(), "another key", LIMITS);
    for ledger in [&a, &b, &other] {
        ledger.reserve(1).await;
    }
    sleep(Duration::from_millis(200)).await;
    a.pause(Duration::from_secs(3));
    sleep(Duration::from_millis(200)).await;
    let asked = Instant::now();
    other.reserve(1).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    b.reserve(1).await;
    assert!(asked.elapsed() > Duration::from_millis(2300), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_keeps_to_its_part_until_it_is_back() {
    let Some(mut server) = Server::start(&[]) else { return };
    let url = server.url();
    let begun = Instant::now();
    let a = Process::start(ledger(&url, "away", LIMITS), LIMITS, 100, 100);
    let b = Process::start(ledger(&url, "away", LIMITS), LIMITS, 100, 100);
    sleep(Duration::from_secs(3)).await;

    let port = server.port;
    drop(server);
    sleep(Duration::from_secs(2)).await;
    let away = sends(&[&a, &b], Duration::from_secs(4)).await;
    assert!(away.iter().all(|n| (34..=46).contains(n)), "{away:?} where each may send 40");

    server = Server::start_at(port, &[]).unwrap();
    sleep(Duration::from_secs(3)).await;
    let calls = server.calls();
    let back = sends(&[&a, &b], Duration::from_secs(6)).await;
    let sum = back[0] + back[1];
    assert!(server.calls() > calls, "Redis is asked again");
    assert!(back.iter().all(|n| n.abs_diff(sum / 2) * 10 <= sum / 2 + 10) && sum >= 106, "{back:?} of 120");
    let total = a.sent() + b.sent();
    let allowed = 20.0 * begun.elapsed().as_secs_f64() + 20.0 + 2.0;
    assert!(total as f64 <= allowed, "{total} of {allowed}");
}

#[tokio::test]
async fn a_password_comes_from_the_environment() {
    let Some(server) = Server::start(&["--requirepass", "hunter2"]) else { return };
    let settings = Settings { url: server.url(), password_env: "MY_REDIS".to_owned(), ..Settings::default() };
    let open = |env: Option<&str>| Redis::new(&settings, "http://e/v1", LIMITS, |_| env.map(str::to_owned));
    let missing = open(None).unwrap_err();
    assert!(missing.message.contains("MY_REDIS"), "{}", missing.message);
    let ledger = open(Some("hunter2\n")).unwrap();
    assert!(!format!("{ledger:?}").contains("hunter2"), "{ledger:?}");
    ledger.reserve(1).await;
    drop(ledger);
    assert!(server.calls_with("hunter2") > 0);
}

#[tokio::test]
async fn one_who_leaves_before_its_turn_takes_nothing() {
    let Some(server) = Server::start(&[]) else { return };
    // One in two seconds.
    let ledger = ledger(&server.url(), "leaves", Limits { requests_per_minute: 30, ..LIMITS });
    ledger.reserve(1).await;
    let begun = Instant::now();
    for _ in 0..5 {
        let left = tokio::time::timeout(Duration::from_millis(60), ledger.reserve(1)).await;
        assert!(left.is_err(), "let go too early");
    }
    ledger.reserve(1).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}: those who left were charged", begun.elapsed());
}

/// Two runs on one key: what one gets the other gets, and both say once that Redis went away.
#[test]
fn real_runs_share_and_say_when_they_cannot() {
    const SAMPLES: u64 = 6;
    let Some(server) = Server::start(&[]) else { return };
    let instances = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/demo.jsonl");
    let more = ["--rpm", "1200", "--burst", "60", "--latency-ms", "20", "--wander-turns", "15"];
    let endpoint = common::Endpoint::start(&instances, "wander", &more);
    let temp = tempfile::tempdir().unwrap();
    let runs = ["a", "b"].map(|name| {
        let mut command = common::sweroll();
        command.arg("run").arg("--instances").arg(&instances).arg("--out").arg(temp.path().join(name));
        command.args(["--endpoint", &endpoint.url, "--model", "scripted", "--sandbox", "null", "--quiet", "--filter", "greet"]);
        command.args(["--samples", &SAMPLES.to_string(), "--set", "endpoint.limits.requests_per_minute=1200"]);
        command.args(["--set", &format!("endpoint.share.url={}", server.url())]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let requests = || endpoint.stat()["requests"].as_u64().unwrap();
    let begun = Instant::now();
    while requests() < 60 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the runs have begun");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(server.calls() > 0, "they ask Redis");
    drop(server);
    for (run, name) in runs.into_iter().zip(["a", "b"]) {
        let ended = run.wait_with_output().unwrap();
        let errors = common::stderr(&ended);
        assert_eq!((ended.status.code(), errors.matches("is away").count()), (Some(0), 1), "{errors}");
        assert_eq!(common::summary(&temp.path().join(name))["episodes"]["committed"], SAMPLES);
    }
    let stat = endpoint.stat();
    let refused = stat["replies"]["429"].as_u64().unwrap_or(0);
    assert!(refused * 20 <= requests(), "{stat:#}");
}
