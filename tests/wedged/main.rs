//! One thing that never comes to an end costs its episode the time of a documented limit, and nobody else anything: each place where an
//! episode waits for something outside is wedged in turn. All other episodes end by the clock on the wall; then the clock is wound on.

mod backend;

use backend::{Place, VICTIM, Wedge, Wedged};
use futures_util::future::BoxFuture;
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use sweroll::{
    config::Settings,
    domain::{
        Kind, Message, Role, ToolCall,
        event::{EventKind, Outcome},
        message::FunctionCall,
        transcript::{Response, Usage},
    },
    endpoint::{ModelClient, ModelError, Request, pool},
    engine::{self, Ready, Report},
    sandbox::Purpose,
    scheduler::driver::End,
};
use tokio::sync::mpsc;

const OTHERS: [&str; 3] = ["first", "second", "third"];
const SUBMIT: &str = "finish";

/// Makes the golden change and submits; where its reply or itself is wedged, the victim's first request goes elsewhere or nowhere.
struct Model {
    wedge: Arc<Wedge>,
    behind: Arc<dyn ModelClient>,
}

impl ModelClient for Model {
    fn complete<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, ModelError>> {
        let is_victim = request.affinity == pool::key(&format!("{VICTIM}@0"));
        if is_victim && self.wedge.takes(Place::Reply) {
            return self.behind.complete(request);
        }
        if is_victim && self.wedge.takes(Place::Client) {
            return Box::pin(std::future::pending());
        }
        let (name, arguments) = match request.messages.replies() {
            0 => ("execute_bash", r#"{"command": "sed -i 's/Hello, .*!/Hello, ${1:-world}!/' greet.sh"}"#),
            _ => (SUBMIT, "{}"),
        };
        let function = FunctionCall { name: name.into(), arguments: arguments.into() };
        let call = ToolCall { id: "call".into(), kind: "function".into(), function };
        let response = Response {
            message: Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") },
            model: "m".into(),
            finish_reason: "tool_calls".into(),
            usage: Usage { prompt_tokens: 10, completion_tokens: 5, ..Usage::default() },
            cost_usd: 0.0,
            latency_ms: 1,
            tries: 1,
            extra: serde_json::Value::Null,
        };
        Box::pin(async { Ok(response) })
    }
}

/// The demo's greeting under other names, each with an image of its own.
fn write_instances(file: &Path) {
    let row = include_str!("../../src/cli/demo.jsonl").lines().find(|row| row.contains("\"demo_greet\"")).unwrap();
    let named =
        |name: &str| row.replacen("demo_greet", name, 1).replacen("\"image_url\": \"host\"", &format!("\"image_url\": \"{name}\""), 1);
    // The victim is neither the first nor the last to begin.
    let rows: Vec<String> = [OTHERS[0], VICTIM, OTHERS[1], OTHERS[2]].map(named).to_vec();
    fs::write(file, rows.join("\n")).unwrap();
}

/// What became of a run with one thing wedged.
struct Seen {
    report: Report,
    /// Commits of the victim's attempts.
    commits: Vec<Outcome>,
    gradings: usize,
    /// Seconds that the clock was wound on until the victim, or the run, went on.
    held_s: u64,
}

/// Runs with everything at its default but for two agents and two gradings at once. `limit_s`: how long the wedge is to be felt.
async fn run(place: Place, limit_s: u64) -> Seen {
    let temp = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    settings.instances.path = temp.path().join("instances.jsonl");
    write_instances(&settings.instances.path);
    // Accepts, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    settings.endpoint.url = format!("http://{}/v1", silent.local_addr().unwrap());
    settings.endpoint.model = "m".into();
    (settings.scheduler.concurrency, settings.scheduler.graders) = (2, 2);
    let wedge = Wedge::new(place);
    let ready = Ready::new(&settings, Arc::new(Wedged::new(Arc::clone(&wedge))), engine::client(&settings).unwrap());
    let around = Arc::clone(&wedge);
    let ready = ready.around(Box::new(move |behind| Arc::new(Model { wedge: around, behind })));
    let (opened, ()) = engine::open(&temp.path().join("run"), &settings, || Ok(())).unwrap();
    let events: Arc<Mutex<Vec<EventKind>>> = Arc::default();
    let told = Arc::clone(&events);
    let emit: sweroll::agent::runner::Emit = Arc::new(move |event| {
        if !matches!(event, EventKind::Endpoints { .. } | EventKind::LimitChanged { .. }) {
            told.lock().unwrap().push(event);
        }
        Box::pin(async {})
    });
    let (_stop, stopped) = mpsc::channel(1);
    let mut running = tokio::spawn(engine::run(ready, opened.store, settings, None, emit, stopped));

    let others_done = || {
        let done = |event: &&EventKind| matches!(event, EventKind::Committed { id, .. } if OTHERS.contains(&id.episode.instance.as_str()));
        events.lock().unwrap().iter().filter(done).count() == OTHERS.len()
    };
    for _ in 0..6000 {
        if others_done() && wedge.is_hit() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(wedge.is_hit(), "{place:?} was never asked for");
    assert!(others_done(), "the others wait for {place:?}: {:?}", events.lock().unwrap());

    // What the victim's other stages do yet before they meet the hang is done by now.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = events.lock().unwrap().len();
    tokio::time::pause();
    let (mut held_s, step) = (0, (limit_s / 100).max(1));
    while events.lock().unwrap().len() == before && !running.is_finished() && held_s < limit_s * 5 / 4 + 60 {
        tokio::time::advance(Duration::from_secs(step)).await;
        held_s += step;
        // What follows a limit is real work, of other processes too.
        std::thread::sleep(Duration::from_millis(5));
    }
    tokio::time::resume();
    let report = tokio::time::timeout(Duration::from_secs(60), &mut running).await.expect("the run ends").unwrap().unwrap();
    let events = events.lock().unwrap();
    let of_victim = |id: &sweroll::domain::AttemptId| id.episode.instance.as_str() == VICTIM;
    let commits = events.iter().filter_map(|event| match event {
        EventKind::Committed { id, outcome } if of_victim(id) => Some(outcome.clone()),
        _ => None,
    });
    let gradings = events.iter().filter(|event| matches!(event, EventKind::GradeStarted { id } if of_victim(id))).count();
    Seen { report, commits: commits.collect(), gradings, held_s }
}

/// What the wedge cost: the first attempt by this failure, a second grading, or nothing but time.
enum Cost {
    Attempt(Kind, &'static str),
    Grading,
    Time,
}

async fn check(place: Place, limit_s: u64, cost: Cost) {
    let Seen { report, commits, gradings, held_s } = run(place, limit_s).await;
    assert_eq!(report.end, End::Done, "{place:?}");
    assert_eq!((report.summary.episodes.committed, report.summary.resolved), (4, 4), "{place:?}: {commits:?}");
    // The clock was wound on by no more than a quarter over the limit, or the run would not have ended.
    assert!(held_s + 60 > limit_s, "{place:?} was felt for {held_s} s, not {limit_s}");
    let failures: Vec<_> = commits.iter().filter_map(|outcome| outcome.failure.clone()).collect();
    match cost {
        Cost::Attempt(kind, text) => {
            assert_eq!((commits.len(), failures.len(), gradings), (2, 1, 1), "{place:?}: {commits:?}");
            assert_eq!(failures[0].kind, kind, "{place:?}: {}", failures[0]);
            assert!(failures[0].message.contains(text), "{place:?}: {}", failures[0]);
        }
        Cost::Grading => assert_eq!((commits.len(), failures.len(), gradings), (1, 0, 2), "{place:?}: {commits:?}"),
        Cost::Time => assert_eq!((commits.len(), failures.len(), gradings), (1, 0, 1), "{place:?}: {commits:?}"),
    }
}

// The limits are the defaults of docs/settings.md.

#[tokio::test]
async fn an_image_that_is_never_fetched() {
    check(Place::Fetch, 14_400, Cost::Attempt(Kind::ImagePull, "sandbox.patience.fetch_s")).await;
}

#[tokio::test]
async fn a_sandbox_that_never_starts() {
    check(Place::Start(Purpose::Agent), 3600, Cost::Attempt(Kind::SandboxStart, "sandbox.patience.start_s")).await;
}

#[tokio::test]
async fn a_base_tree_that_is_never_recorded() {
    check(Place::Snapshot, 600, Cost::Attempt(Kind::SandboxLost, "no reply from the toolbox within 600s")).await;
}

/// The command's own time and the toolbox's grace, then the diff that is tried all the same, and the counters.
#[tokio::test]
async fn a_command_that_is_never_answered() {
    check(Place::Command, 180 + 10 + 600 + 120, Cost::Attempt(Kind::SandboxLost, "no reply from the toolbox within 190s")).await;
}

#[tokio::test]
async fn a_backend_that_never_says_what_became_of_a_sandbox() {
    let limit = 180 + 10 + 600 + 600 + 600 + 120;
    check(Place::CommandAndFate, limit, Cost::Attempt(Kind::SandboxLost, "no reply from the toolbox within 190s")).await;
}

#[tokio::test]
async fn a_diff_that_is_never_taken() {
    check(Place::Diff, 600 + 120, Cost::Attempt(Kind::SandboxLost, "no reply from the toolbox within 600s")).await;
}

#[tokio::test]
async fn counters_that_are_never_read() {
    check(Place::Usage, 120, Cost::Time).await;
}

#[tokio::test]
async fn an_agents_sandbox_that_never_ends() {
    check(Place::Destroy, 600, Cost::Time).await;
}

#[tokio::test]
async fn a_graders_sandbox_that_never_starts() {
    check(Place::Start(Purpose::Grade), 3600, Cost::Grading).await;
}

#[tokio::test]
async fn tests_that_are_never_answered() {
    check(Place::Tests, 1800 + 10, Cost::Grading).await;
}

#[tokio::test]
async fn a_graders_sandbox_that_never_ends() {
    check(Place::Retire, 600, Cost::Time).await;
}

#[tokio::test]
async fn sandboxes_that_are_never_swept() {
    check(Place::Sweep, 3600, Cost::Time).await;
}

/// Six requests are begun within `retry.max_elapsed_s`, each given up after `timeouts.first_byte_s`, with pauses between them.
#[tokio::test]
async fn an_endpoint_that_never_replies() {
    check(Place::Reply, 3600, Cost::Attempt(Kind::EndpointUnavailable, "gave no usable reply")).await;
}

#[tokio::test]
async fn a_client_that_never_returns() {
    check(Place::Client, 172_800, Cost::Attempt(Kind::EndpointUnavailable, "endpoint.timeouts.wait_s")).await;
}
