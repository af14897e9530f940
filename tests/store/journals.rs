//! The journal, cut at every byte and damaged.

use super::*;

fn any_fact() -> impl Strategy<Value = Fact> {
    let attempt = (0..3u32, 0..2u32, 1..70u32).prop_map(|(i, s, n)| attempt(&format!("i{i}@{s}.{n}")));
    let text = "[\\PC\n\"]{0,20}";
    prop_oneof![
        (attempt.clone(), any::<u64>()).prop_map(|(id, at_ms)| Fact::Started { id, at_ms }),
        (attempt, any::<bool>(), text).prop_map(|(id, counts, message)| {
            let failure = (!counts).then(|| Failure::new(Kind::SandboxLost, message));
            let location = Location { stream: Stream::Attempts, shard: 0, offset: 7, len: 9 };
            let outcome = Outcome { failure, ..outcome(counts, Resolved::No, None) };
            Fact::Committed(Committed {
                id,
                location,
                raw_bytes: 8,
                digest: "d".into(),
                loss_tokens: -1,
                outcome,
                at_ms: 5,
                regrade_of: None,
            })
        }),
        (proptest::collection::vec(0..3u32, 0..3), text).prop_map(|(episodes, reason)| {
            let episodes = episodes.into_iter().map(|i| episode(&format!("i{i}@0"))).collect();
            Fact::Reopened { episodes, reason, at_ms: 1 }
        }),
        text.prop_map(|message| Fact::Quarantined {
            instance: "i1".parse().unwrap(),
            failure: Failure::new(Kind::Leak, message),
            at_ms: 2
        }),
        Just(Fact::Closed { at_ms: 3 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_journal_cut_at_any_byte_keeps_the_facts_before_the_cut(facts in proptest::collection::vec(any_fact(), 0..6)) {
        let dir = quick_dir();
        let path = dir.path().join("journal.jsonl");
        let opened = Fact::Opened { format: journal::JOURNAL_FORMAT, run: "r".into(), at_ms: 0 };
        let facts: Vec<Fact> = std::iter::once(opened.clone()).chain(facts).collect();
        let mut journal = Journal::open(&path, &Disk::default(), &mut |_, _| Ok(())).unwrap();
        let mut ends = Vec::new();
        for fact in &facts {
            journal.append([fact]).unwrap();
            ends.push(journal.len());
        }
        drop(journal);
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let kept = ends.iter().filter(|end| **end <= cut as u64).count();
            let mut found = Vec::new();
            let mut journal = Journal::open(&path, &Disk::default(), &mut |_, fact| { found.push(fact); Ok(()) }).unwrap();
            prop_assert_eq!(&found, &facts[..kept]);
            let next = if kept == 0 { &opened } else { &Fact::Closed { at_ms: 4 } };
            journal.append([next]).unwrap();
            found.push(next.clone());
            prop_assert_eq!(read_facts(&path).unwrap(), found);
        }
    }
}

#[test]
fn damage_within_the_journal_is_named_by_its_line() {
    let dir = quick_dir();
    let path = dir.path().join("journal.jsonl");
    let opened = |format: u64| format!("{{\"opened\":{{\"format\":{format},\"run\":\"r\",\"at_ms\":1}}}}\n");
    for (text, wanted) in [
        (opened(1) + "garbage\n" + &opened(1), "line 2"),
        (opened(1) + "{\"closed\":{}}\n", "line 2"),
        ("{\"closed\":{\"at_ms\":1}}\n".to_owned(), "does not begin with its format"),
        (opened(3), "has format 3, this sweroll knows up to 2"),
        (opened(3).replace("\"run\"", "\"name\""), "has format 3"),
    ] {
        fs::write(&path, text).unwrap();
        let error = read_facts(&path).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("journal.jsonl"), "{error}");
    }
}
