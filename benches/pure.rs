//! What the pure parts cost, nanoseconds a step: `cargo bench --bench pure`. Each is repeated until a second has passed, five times;
//! the quickest counts.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};
use sweroll::{
    agent::{
        history::Context,
        machine::{Limits, Machine, Reply, Spent},
    },
    domain::{Attempt, Conversation, EpisodeId, Message, Role, transcript::Usage},
    endpoint::server::Toolset,
    scheduler::{
        budget::Spend,
        core::{Action, Core, Input, Todo},
        policy::Policy,
    },
};

const ROUNDS: u32 = 5;
const ROUND: Duration = Duration::from_millis(200);

/// Nanoseconds of one of the `steps` that `run` does.
fn measure(name: &str, steps: u64, mut run: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let (began, mut runs) = (Instant::now(), 0_u64);
        while began.elapsed() < ROUND {
            run();
            runs += 1;
        }
        best = best.min(began.elapsed().as_nanos() as f64 / (runs * steps) as f64);
    }
    println!("{name:<52}{best:>12.0} ns");
}

/// All episodes of a run, none of which fails: three inputs each.
fn schedule(episodes: u32, concurrency: usize) {
    let todo = (0..episodes).map(|n| Todo {
        episode: EpisodeId { instance: format!("i{}", n / 5).parse().unwrap(), sample: n % 5 },
        attempt: Attempt::FIRST,
        ended: false,
    });
    let mut core = Core::new(Policy { concurrency, ..Policy::default() }, todo, []);
    let mut actions = core.step(Input::Tick, 0);
    let mut now = 0;
    while let Some(action) = actions.pop() {
        now += 1;
        let input = match action {
            Action::StartAgent { id } => Input::AgentEnded { id, spent: Spend::default(), failure: None },
            Action::Grade { id } => Input::GradeEnded { id, grade: Ok(true) },
            Action::Commit { id, .. } => Input::Committed { id },
            _ => continue,
        };
        actions.extend(core.step(input, now));
    }
    assert_eq!(core.undecided(), 0);
}

fn message(role: Role, bytes: usize) -> Message {
    let content = "def value(self):\n    return 1\n".repeat(bytes / 30);
    Message { role, content, reasoning_content: String::new(), tool_calls: Vec::new(), tool_call_id: String::new(), loss: false }
}

fn main() {
    for concurrency in [100, 10_000] {
        measure(&format!("scheduler, an input, {concurrency} live"), 3 * 50_000, || schedule(50_000, concurrency));
    }
    let (reply, observation) = (message(Role::Assistant, 300), message(Role::Tool, 4000));
    measure("conversation, a reply and an observation of 4 KB", 30, || {
        let mut conversation = Conversation::default();
        for _ in 0..30 {
            conversation.push(&reply);
            conversation.push(&observation);
        }
        black_box(&conversation);
    });
    measure("history, a reply and an observation of 4 KB", 30, || {
        let mut context = Context::new(std::slice::from_ref(&observation), "[]");
        for _ in 0..30 {
            context.replied(Usage::default(), &reply);
            context.added(&observation);
            black_box(context.next_prompt());
        }
    });
    let limits = Limits::default();
    measure("state machine, a turn", 30, || {
        let mut machine = Machine::default();
        for turns in 0..30 {
            black_box(machine.before_turn(&limits, Spent { turns, ..Spent::default() }));
            black_box(machine.replied(&limits, Reply::Calls));
            black_box(machine.acted(&limits, false));
        }
    });
    let tools = r#"[{"type":"function","function":{"name":"execute_bash","parameters":{"properties":{"command":{"type":"string"}},"required":["command"]}}}]"#;
    measure("scripted endpoint, tools understood", 1, || drop(black_box(Toolset::parse(tools))));
}
