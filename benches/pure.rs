//! What the pure parts cost: `cargo bench --bench pure`, or `cargo bench --bench pure -- reply` for those whose names hold a word.

use bytes::Bytes;
use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use http_body_util::BodyExt;
use serde_json::{Map, json};
use std::time::Duration;
use sweroll::{
    agent::{
        history::Context,
        machine::{Limits, Machine, Reply, Spent},
    },
    bench::records,
    domain::{Attempt, AttemptId, Conversation, Entry, EpisodeId, Message, Role, Transcript, transcript::Usage},
    endpoint::{
        limiter::{self, End, Start},
        pool::{self, Health, Member, Pool},
        server::Toolset as Understood,
        settings::SendReasoning,
        wire::{self, Body, Envelope, Fold},
    },
    scheduler::{
        budget::Spend,
        core::{Action, Core, Input, Todo},
        policy::Policy,
    },
    store::{
        Location, Stream,
        fact::{Committed, Fact},
        frame::{self, FrameWriter},
    },
    toolbox::{
        output::Kept,
        protocol::{Answer, Command, End as Ended, Op, Ran, Run},
    },
    tools::{
        Bounds, CallFormat, Toolset, builtin,
        text::{Ansi, Output},
    },
};

fn main() {
    divan::main();
}

const TURNS: usize = 30;

fn attempt(number: u32) -> AttemptId {
    let instance = format!("i{number}").parse().expect("a name");
    AttemptId { episode: EpisodeId { instance, sample: 0 }, attempt: Attempt::FIRST }
}

fn message(role: Role, bytes: usize) -> Message {
    Message::new(role, "def value(self):\n    return 1\n".repeat(bytes / 30))
}

/// A conversation of 120 KB, 30 turns.
fn conversation() -> Conversation {
    let (reply, observation) = (message(Role::Assistant, 300), message(Role::Tool, 3700));
    (0..TURNS).flat_map(|_| [&reply, &observation]).collect()
}

mod scheduler {
    use super::*;

    /// An input each of an episode's three: begun, graded, committed; none fails.
    #[divan::bench(args = [100, 1000, 10_000], sample_count = 5, sample_size = 1)]
    fn input(bencher: Bencher<'_, '_>, live: usize) {
        const EPISODES: u32 = 50_000;
        let todo = || {
            let one = |n: u32| Todo {
                episode: EpisodeId { instance: format!("i{}", n / 5).parse().expect("a name"), sample: n % 5 },
                attempt: Attempt::FIRST,
                ended: false,
            };
            (0..EPISODES).map(one).collect::<Vec<_>>()
        };
        let core = || Core::new(Policy { concurrency: live, ..Policy::default() }, todo(), []);
        bencher.with_inputs(core).counter(ItemsCount::new(3 * EPISODES)).bench_local_values(|mut core| {
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
        });
    }
}

mod agent {
    use super::*;

    #[divan::bench]
    fn machine_turn() {
        let limits = Limits::default();
        let mut machine = Machine::default();
        black_box(machine.before_turn(&limits, Spent { turns: 1, ..Spent::default() }));
        black_box(machine.replied(&limits, Reply::Calls));
        black_box(machine.acted(&limits, false));
    }

    /// A reply and an observation of 4 KB, thirty times.
    #[divan::bench]
    fn history_30_turns(bencher: Bencher<'_, '_>) {
        let (reply, observation) = (message(Role::Assistant, 300), message(Role::Tool, 3700));
        bencher.counter(ItemsCount::new(TURNS)).bench_local(|| {
            let mut context = Context::new(std::slice::from_ref(&observation), "[]");
            for _ in 0..TURNS {
                context.replied(Usage::default(), &reply);
                context.added(&observation);
                black_box(context.next_prompt());
            }
        });
    }
}

mod transcript {
    use super::*;

    fn entries() -> Vec<Entry> {
        records::entries(&attempt(1), 1, 120_000)
    }

    #[divan::bench]
    fn apply_entries(bencher: Bencher<'_, '_>) {
        let count = ItemsCount::new(entries().len());
        bencher.counter(count).with_inputs(entries).bench_local_values(Transcript::replay);
    }

    /// A spool's line.
    #[divan::bench]
    fn write_entry(bencher: Bencher<'_, '_>) {
        let entries = entries();
        let bytes: usize = entries.iter().map(|entry| serde_json::to_vec(entry).map_or(0, |line| line.len())).sum();
        bencher.counter(ItemsCount::new(entries.len())).counter(BytesCount::new(bytes)).bench_local(|| {
            entries.iter().for_each(|entry| drop(black_box(serde_json::to_vec(entry))));
        });
    }

    /// From entries to a record.
    #[divan::bench]
    fn make_record(bencher: Bencher<'_, '_>) {
        bencher.with_inputs(entries).bench_local_values(records::trajectory);
    }

    /// A record's line in JSON.
    #[divan::bench]
    fn write_record(bencher: Bencher<'_, '_>) {
        let record = records::trajectory(entries()).expect("it begins");
        let bytes = serde_json::to_vec(&record).expect("JSON").len();
        bencher.counter(BytesCount::new(bytes)).bench_local(|| serde_json::to_vec(&record));
    }
}

mod request {
    use super::*;

    fn envelope() -> Envelope {
        let parameters: Map<_, _> = [("temperature".to_owned(), json!(1.0)), ("stream".to_owned(), json!(true))].into_iter().collect();
        Envelope::new("steady", records::TOOLS, &parameters).expect("JSON")
    }

    #[divan::bench]
    fn envelope_of_a_run() -> Envelope {
        envelope()
    }

    #[divan::bench]
    fn push_message_4_kb(bencher: Bencher<'_, '_>) {
        let observation = message(Role::Tool, 4000);
        bencher
            .counter(BytesCount::new(observation.content.len()))
            .with_inputs(Conversation::default)
            .bench_local_refs(|c| c.push(&observation));
    }

    /// The body of a conversation of 120 KB, shared: no byte of it is copied.
    #[divan::bench]
    fn body_of_120_kb(bencher: Bencher<'_, '_>) {
        let (envelope, conversation) = (envelope(), conversation());
        bencher.bench_local(|| Body::new(envelope.clone(), &conversation, SendReasoning::Auto, "reasoning_content"));
    }

    /// The same, all its frames taken.
    #[divan::bench]
    fn frames_of_120_kb(bencher: Bencher<'_, '_>) {
        let body = Body::new(envelope(), &conversation(), SendReasoning::Auto, "reasoning_content");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        bencher.bench_local(|| {
            runtime.block_on(async {
                let mut body = body.clone();
                while let Some(Ok(frame)) = body.frame().await {
                    black_box(frame);
                }
            });
        });
    }
}

mod reply {
    use super::*;

    const TOKENS: usize = 1000;

    #[divan::bench]
    fn whole_of_1000_tokens(bencher: Bencher<'_, '_>) {
        let message = json!({"role": "assistant", "content": " word".repeat(TOKENS)});
        let usage = json!({"prompt_tokens": 9, "completion_tokens": TOKENS});
        let body = json!({"id": "x", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage});
        let (body, earlier) = (body.to_string(), Conversation::default());
        bencher.counter(BytesCount::of_str(&body)).bench_local(|| wire::read(body.as_bytes(), &earlier).expect("a reply"));
    }

    fn events() -> Vec<Vec<u8>> {
        let event =
            |delta: serde_json::Value| format!("data: {}\n\n", json!({"id": "x", "model": "m", "choices": [{"index": 0, "delta": delta}]}));
        let mut all: Vec<_> = (0..TOKENS).map(|_| event(json!({"content": " word"})).into_bytes()).collect();
        let end = json!({"id": "x", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "completion_tokens": TOKENS}});
        all.push(format!("data: {end}\n\ndata: [DONE]\n\n").into_bytes());
        all
    }

    /// An event a token, each a piece of its own, as it comes from the network.
    #[divan::bench]
    fn streamed_1000_tokens(bencher: Bencher<'_, '_>) {
        let (events, earlier) = (events(), Conversation::default());
        bencher.counter(ItemsCount::new(TOKENS)).bench_local(|| {
            let mut fold = Fold::new(1 << 20);
            for event in &events {
                black_box(fold.push(event));
            }
            fold.reply(&earlier).expect("a reply")
        });
    }

    /// The same bytes at once.
    #[divan::bench]
    fn streamed_1000_tokens_at_once(bencher: Bencher<'_, '_>) {
        let (bytes, earlier) = (events().concat(), Conversation::default());
        bencher.counter(ItemsCount::new(TOKENS)).bench_local(|| {
            let mut fold = Fold::new(1 << 20);
            black_box(fold.push(&bytes));
            fold.reply(&earlier).expect("a reply")
        });
    }
}

mod limits {
    use super::*;

    /// A request let in and settled, with both buckets.
    #[divan::bench]
    fn limiter_request(bencher: Bencher<'_, '_>) {
        let limits = limiter::Limits { requests_per_minute: 1_000_000, tokens_per_minute: 10_000_000_000, ..limiter::Limits::default() };
        let (mut core, mut now) = (limiter::Core::new(limits), Duration::ZERO);
        bencher.bench_local(|| {
            now += Duration::from_millis(1);
            if let Start::Go { began } = core.try_start(9000, now) {
                core.finish(began, 9000, End::Done { tokens: 8000 }, now + Duration::from_micros(500));
            }
        });
    }

    #[divan::bench(args = [1, 4, 64])]
    fn pool_choice(bencher: Bencher<'_, '_>, members: usize) {
        let all = (0..members).map(|n| Member { weight: 1.0, seed: pool::key(&format!("http://replica-{n}/v1")) });
        let mut pool = Pool::new(pool::Settings::default(), all);
        let (mut key, mut now) = (0, Duration::ZERO);
        bencher.bench_local(|| {
            (key, now) = (key + 1, now + Duration::from_micros(10));
            let chosen = pool.choose(key, |_| Duration::ZERO, None, now);
            black_box(pool.ended(chosen, Health::Good, now, now));
        });
    }
}

mod store {
    use super::*;

    fn line() -> Vec<u8> {
        let record = records::trajectory(records::entries(&attempt(1), 1, 165_000)).expect("it begins");
        serde_json::to_vec(&record).expect("JSON")
    }

    /// A record of 165 KB at the level of the shards.
    #[divan::bench]
    fn compress_frame(bencher: Bencher<'_, '_>) {
        let (line, mut frames) = (line(), FrameWriter::new(3).expect("zstd"));
        bencher.counter(BytesCount::of_slice(&line)).bench_local(|| frames.frame(&line));
    }

    #[divan::bench]
    fn decompress_frame(bencher: Bencher<'_, '_>) {
        let line = line();
        let packed = FrameWriter::new(3).and_then(|mut frames| frames.frame(&line)).expect("zstd");
        bencher.counter(BytesCount::of_slice(&line)).bench_local(|| frame::decompress(&packed, 1 << 20));
    }

    fn fact() -> Fact {
        let trajectory = records::trajectory(records::entries(&attempt(1), 1, 1000)).expect("it begins");
        let location = Location { stream: Stream::Trajectories, shard: 3, offset: 123_456_789, len: 40_000 };
        Fact::Committed(Committed {
            id: attempt(1),
            location,
            raw_bytes: 165_000,
            digest: "0".repeat(64),
            loss_tokens: 9000,
            outcome: records::outcome(&trajectory),
            at_ms: 1_760_000_000_000,
            regrade_of: None,
        })
    }

    #[divan::bench]
    fn write_fact(bencher: Bencher<'_, '_>) {
        let fact = fact();
        bencher.bench_local(|| serde_json::to_vec(&fact));
    }

    #[divan::bench]
    fn read_fact(bencher: Bencher<'_, '_>) {
        let line = serde_json::to_vec(&fact()).expect("JSON");
        bencher.bench_local(|| serde_json::from_slice::<Fact>(&line));
    }
}

mod tools {
    use super::*;

    /// An observation of so many bytes of a command, cut to 16 KB.
    #[divan::bench(args = [1000, 16_000, 1_000_000])]
    fn observe_command(bencher: Bencher<'_, '_>, bytes: usize) {
        let toolset =
            Toolset::parse(builtin::schemas("sweroll").expect("it is built in").iter().copied(), CallFormat::Native, Bounds::default());
        let toolset = toolset.expect("it is sound");
        let run = Run {
            what: Command::Shell("pytest".into()),
            session: true,
            cwd: None,
            env: Vec::new(),
            deadline_ms: 1000,
            output_cap: 1 << 20,
            report_cap: 0,
        };
        let blob = Bytes::from("tests/test_value.py::test_one \x1b[32mPASSED\x1b[0m\n".repeat(bytes / 48));
        let bytes = blob.len() as u64;
        let (end, cwd) = (Ended::Exited(1), "/testbed".into());
        let ran = Ran { end, duration_ms: 9, total: bytes, head: bytes, cwd, report: 0, report_total: 0, left: 0 };
        let (op, result) = (Op::Run(run), Ok((Answer::Ran(ran), blob.clone())));
        bencher.counter(BytesCount::of_slice(&blob)).bench_local(|| toolset.observe(&op, &result, "/testbed"));
    }

    #[divan::bench]
    fn shape_16_kb_of_1_mb(bencher: Bencher<'_, '_>) {
        let text = "value = self.value(1) \u{e9}\n".repeat(40_000);
        bencher.counter(BytesCount::of_str(&text)).bench_local(|| Output::whole(text.as_bytes()).shape(16_000, Ansi::Strip));
    }

    /// Output of 10 MB kept as 64 KB of head and tail, as the toolbox does it.
    #[divan::bench]
    fn keep_head_and_tail(bencher: Bencher<'_, '_>) {
        let chunk = vec![b'x'; 64 << 10];
        bencher.counter(BytesCount::new(160 * chunk.len())).bench_local(|| {
            let mut kept = Kept::new(64 << 10);
            (0..160).for_each(|_| kept.push(&chunk));
            kept.finish()
        });
    }
}

mod server {
    use super::*;

    #[divan::bench]
    fn understand_tools() {
        drop(black_box(Understood::parse(records::TOOLS)));
    }
}
