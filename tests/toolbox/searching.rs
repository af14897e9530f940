//! Content search and file names.

use super::harness::*;
use sweroll::toolbox::protocol::{Answer, Op, Search};

fn search(pattern: &str) -> Search {
    Search {
        pattern: pattern.into(),
        path: ".".into(),
        glob: None,
        case_insensitive: false,
        context: 0,
        max_results: 100,
        max_bytes: 100_000,
    }
}

impl Bench {
    async fn found(&self, op: Op) -> (u64, u64, String) {
        match self.toolbox.call(op, b"").await.unwrap() {
            (Answer::Found { total, shown }, text) => (total, shown, String::from_utf8_lossy(&text).into_owned()),
            other => panic!("{other:?}"),
        }
    }

    fn sources(&self) {
        self.write("b/two.py", "needle 2\n");
        self.write("a/one.py", "x\nneedle 1\ny\nNEEDLE\n");
        self.write("a/.hidden", "needle hidden\n");
        self.write(".git/config", "needle in the repository's data\n");
        self.write(".gitignore", "*.log\n");
        self.write("x.log", "needle ignored\n");
        self.write("bin", b"\0needle\n");
        self.write("latin1", b"caf\xe9 needle\r\n");
    }
}

#[tokio::test]
async fn lines_come_sorted_by_path_and_ignored_files_do_not() {
    let bench = start().await;
    bench.sources();
    let expected = "a/.hidden:1:needle hidden\na/one.py:2:needle 1\nb/two.py:1:needle 2\nlatin1:1:caf\u{fffd} needle\n";
    assert_eq!(bench.found(Op::Search(search("needle"))).await, (4, 4, expected.into()));
    let python = Search { glob: Some("*.py".into()), case_insensitive: true, path: "a".into(), ..search("^needle") };
    assert_eq!(bench.found(Op::Search(python)).await, (2, 2, "a/one.py:2:needle 1\na/one.py:4:NEEDLE\n".into()));
    let context = Search { context: 1, path: bench.path("a/one.py").to_str().unwrap().into(), ..search("needle") };
    let (_, _, text) = bench.found(Op::Search(context)).await;
    let path = bench.path("a/one.py").display().to_string();
    assert_eq!(text, format!("{path}-1-x\n{path}:2:needle 1\n{path}-3-y\n"));
}

#[tokio::test]
async fn a_search_is_bounded_and_says_how_much_there_is() {
    let bench = start().await;
    bench.write("many", "needle\n".repeat(5000));
    let few = Search { max_results: 3, ..search("needle") };
    assert_eq!(bench.found(Op::Search(few)).await, (5000, 3, "many:1:needle\nmany:2:needle\nmany:3:needle\n".into()));
    let (total, shown, text) = bench.found(Op::Search(Search { max_bytes: 40, max_results: 1000, ..search("needle") })).await;
    assert!(total == 5000 && shown == 2 && text.len() <= 40, "{total} {shown} {text}");
    bench.write("long", format!("{}needle{}\n", "x".repeat(100_000), "y".repeat(100_000)));
    let (_, _, text) = bench.found(Op::Search(Search { path: "long".into(), ..search("needle") })).await;
    assert!(text.len() < 700 && text.contains("needle") && text.contains("bytes cut]"), "{text}");
    assert!(bench.refused(Op::Search(search("("))).await.contains("regular expression"));
    assert!(bench.refused(Op::Search(Search { path: "nowhere".into(), ..search("x") })).await.contains("does not exist"));
}

#[tokio::test]
async fn a_huge_file_is_left_off_and_said_so() {
    let bench = start().await;
    bench.write("huge", "needle\n");
    let huge = std::fs::File::options().append(true).open(bench.path("huge")).unwrap();
    let line = "nothing to be seen in here, move along to the next line now\n".repeat(1 << 14);
    for _ in 0..(256 << 20) / line.len() + 2 {
        std::io::Write::write_all(&mut &huge, line.as_bytes()).unwrap();
    }
    let refused = bench.refused(Op::Search(search("zzz[0-9]"))).await;
    assert!(refused.contains("huge") && refused.contains("use a command"), "{refused}");
    let (total, _, text) = bench.found(Op::Search(search("needle"))).await;
    assert!(total == 1 && text.starts_with("huge:1:needle\n[only the first "), "{text}");
}

#[tokio::test]
async fn names_are_found_by_glob() {
    let bench = start().await;
    bench.sources();
    let find = |pattern: &str, max_results| Op::Find { pattern: pattern.into(), path: ".".into(), max_results };
    assert_eq!(bench.found(find("*.py", 10)).await, (2, 2, "a/one.py\nb/two.py\n".into()));
    assert_eq!(bench.found(find("**/*.log", 10)).await.2, "x.log\n");
    assert_eq!(bench.found(find("config", 10)).await.0, 0);
    assert_eq!(bench.found(find("a", 10)).await.2, "a/\n");
    assert_eq!(bench.found(find("*", 1)).await, (9, 1, ".gitignore\n".into()));
}
