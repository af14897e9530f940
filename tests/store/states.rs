//! State, rerun and summary against a naive model.

use super::*;

fn committed(id: &AttemptId, outcome: Outcome, offset: u64) -> Fact {
    let location = Location { stream: Stream::Trajectories, shard: 0, offset, len: 1 };
    Fact::Committed(Committed {
        id: id.clone(),
        location,
        raw_bytes: 1,
        digest: String::new(),
        loss_tokens: 4,
        outcome,
        at_ms: 1,
        regrade_of: None,
    })
}

/// What happens to a run of two instances with two samples, as a user would tell it.
#[derive(Debug, Clone)]
enum Step {
    Commit { episode: usize, counts: bool, failure: Option<Kind> },
    Reopen(usize),
    Quarantine(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let kinds = proptest::sample::select(vec![Kind::SandboxLost, Kind::PreCommands, Kind::DiffRejected, Kind::GradeTimeout]);
    prop_oneof![
        4 => (0..4usize, any::<bool>(), proptest::option::of(kinds))
            .prop_map(|(episode, counts, failure)| Step::Commit { episode, counts, failure }),
        1 => (0..4usize).prop_map(Step::Reopen),
        1 => (0..2usize).prop_map(Step::Quarantine),
    ]
}

proptest! {
    #[test]
    fn a_rerun_takes_what_a_naive_model_takes(
        steps in proptest::collection::vec(any_step(), 0..25),
        classes in proptest::sample::subsequence(sweroll::domain::Class::ALL.to_vec(), 0..3),
        named in proptest::sample::subsequence((0..4usize).collect::<Vec<_>>(), 0..3),
    ) {
        let names = ["a@0", "b@0", "a@1", "b@1"].map(episode);
        let instances: Vec<InstanceId> = ["a", "b"].map(|n| n.parse().unwrap()).to_vec();
        let mut state = State::new(&instances, 2);
        let mut history: Vec<Vec<(bool, Option<Kind>)>> = vec![Vec::new(); 4];
        let mut reopened_at: Vec<Option<usize>> = vec![None; 4];
        let mut quarantined = HashSet::new();
        for (offset, step) in steps.iter().scan(0, |offset, step| {
            let at = *offset;
            *offset += u64::from(matches!(step, Step::Commit { .. }));
            Some((at, step))
        }) {
            match step {
                Step::Commit { episode: e, counts, failure } => {
                    let next = state.episode(&names[*e]).unwrap().next();
                    prop_assert_eq!(next.0 as usize, history[*e].len() + 1);
                    let id = AttemptId { episode: names[*e].clone(), attempt: next };
                    state.apply(&committed(&id, outcome(*counts, Resolved::No, *failure), offset)).unwrap();
                    prop_assert!(state.is_committed(&id));
                    history[*e].push((*counts, *failure));
                }
                Step::Reopen(e) => {
                    state.apply(&Fact::Reopened { episodes: vec![names[*e].clone()], reason: String::new(), at_ms: 0 }).unwrap();
                    reopened_at[*e] = Some(history[*e].len());
                    quarantined.remove(&(e % 2));
                }
                Step::Quarantine(i) => {
                    let failure = Failure::new(Kind::Leak, "");
                    state.apply(&Fact::Quarantined { instance: instances[*i].clone(), failure, at_ms: 0 }).unwrap();
                    quarantined.insert(*i);
                }
            }
        }
        let naive: Vec<EpisodeId> = (0..4).filter(|e| {
            let since = &history[*e][reopened_at[*e].unwrap_or(0)..];
            let done = since.iter().any(|(counts, _)| *counts);
            let latest = history[*e].iter().rev().find(|(counts, _)| *counts).and_then(|(_, failure)| *failure);
            let fits = |class| classes.is_empty() || classes.contains(&class);
            let because = if done { latest.is_some_and(|kind| fits(kind.class())) }
                else { !quarantined.contains(&(e % 2)) || fits(sweroll::domain::Class::Task) };
            because && (named.is_empty() || named.contains(e))
        }).map(|e| names[e].clone()).collect();
        let wanted: Vec<EpisodeId> = named.iter().map(|e| names[*e].clone()).collect();
        prop_assert_eq!(rerun::select(&state, &classes, &wanted), naive);

        let info = sweroll::store::RunInfo {
            format: 1, run: "r".into(), version: String::new(), plan: Plan::default(), settings: toml::Table::new(),
        };
        let summary = sweroll::store::Summary::new(&info, &state);
        let episodes = summary.episodes;
        prop_assert_eq!(episodes.total, 4);
        prop_assert_eq!(episodes.total, episodes.committed + episodes.outstanding);
        prop_assert_eq!(episodes.committed, summary.resolved + summary.unresolved + summary.failed.values().sum::<u64>());
        prop_assert_eq!(episodes.committed, summary.exit_reasons.values().sum::<u64>());
        prop_assert_eq!(summary.attempts as usize, history.iter().map(Vec::len).sum::<usize>());
        let trains = history.iter().filter(|attempts| attempts.iter().any(|(counts, _)| *counts)).count() as u64;
        let shard = summary.shards.first().map_or((0, 0, 0, 0), |s| (s.trajectories, s.tokens, s.superseded, s.superseded_tokens));
        prop_assert_eq!(shard, (trains, 100 * trains, summary.attempts - trains, 100 * (summary.attempts - trains)));
        let open = outstanding(&state);
        prop_assert_eq!(open.len() as u64, episodes.outstanding);
        prop_assert_eq!(open.iter().filter(|id| state.quarantined().contains_key(&id.instance)).count() as u64, episodes.quarantined);
    }
}

#[test]
fn contradictions_are_refused() {
    let mut state = State::new(&["a".parse().unwrap()], 1);
    state.apply(&committed(&attempt("a@0.1"), resolved(), 0)).unwrap();
    state.apply(&committed(&attempt("a@0.99"), resolved(), 1)).unwrap();
    assert!(state.is_committed(&attempt("a@0.99")) && !state.is_committed(&attempt("a@0.98")));
    for (id, offset) in [("a@0.1", 2), ("a@0.99", 2), ("b@0.1", 2), ("a@1.1", 2), ("a@0.2", 1), ("a@0.2", 3)] {
        assert!(state.apply(&committed(&attempt(id), resolved(), offset)).is_err(), "{id} at {offset}");
    }
    let shard = state.shards()[&(Stream::Trajectories, 0)];
    assert_eq!((shard.rows, shard.bytes, shard.tokens, shard.loss_tokens), (2, 2, 200, 8));
    assert_eq!(state.episode(&episode("a@0")).unwrap().next(), Attempt(100));
}

#[test]
fn the_summary_has_its_contract() {
    let dir = quick_dir();
    let runtime = runtime();
    let store = Store::open(new_run(dir.path(), &["a", "b", "c", "d"], 1), Settings::default()).unwrap();
    runtime.block_on(async {
        let commit = async |id: &str, outcome: Outcome, stream| store.commit(&trajectory(&attempt(id), 1), outcome, stream).await.unwrap();
        commit("a@0.1", outcome(false, Resolved::Unknown, Some(Kind::SandboxLost)), Stream::Attempts).await;
        commit("a@0.2", resolved(), Stream::Trajectories).await;
        commit("b@0.1", outcome(true, Resolved::No, None), Stream::Trajectories).await;
        commit("c@0.1", outcome(true, Resolved::No, Some(Kind::DiffRejected)), Stream::Trajectories).await;
        store.quarantine("d".parse().unwrap(), Failure::new(Kind::PreCommands, "exit 1")).await.unwrap();
    });
    let summary = serde_json::to_value(store.summary()).unwrap();
    assert_eq!(summary["episodes"], serde_json::json!({"total": 4, "committed": 3, "outstanding": 1, "quarantined": 1, "waived": 0}));
    assert_eq!((summary["resolved"].as_u64(), summary["unresolved"].as_u64(), summary["attempts"].as_u64()), (Some(1), Some(1), Some(4)));
    let failed = serde_json::json!({"endpoint": 0, "infra": 0, "model": 1, "task": 0, "grader": 0, "run": 0, "bug": 0});
    assert_eq!(summary["failed"], failed);
    assert_eq!(summary["exit_reasons"], serde_json::json!({"submitted": 2, "failed": 1}));
    assert_eq!(summary["shards"][0]["trajectories"], 3);
    assert_eq!(summary["attempt_shards"][0]["file"], "attempts-00000.jsonl.zst");
    let again = store.with_state(|state| rerun::select(state, &[], &[]));
    assert_eq!(again, ["c@0", "d@0"].map(episode));
    runtime.block_on(store.reopen(again.clone(), "rerun")).unwrap();
    assert_eq!(store.with_state(outstanding), again);
    assert_eq!(store.summary().episodes.committed, 2);
}
