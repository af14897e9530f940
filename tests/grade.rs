//! `sweroll grade`, black box, in local sandboxes: forms of predictions, verdicts, reports, and what becomes of a directory.

mod common;

use common::{expect, realset, stderr, stdout, sweroll};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const PRE: &str = "git init -q . && echo wrong > answer && mkdir tests && echo true > tests/sound.sh && git add -A \
    && git -c user.name=t -c user.email=t@t commit -qm base";

/// A new file as a git diff.
fn added(path: &str, line: &str) -> String {
    format!("diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{line}\n")
}

fn answer(new: &str) -> String {
    format!("diff --git a/answer b/answer\n--- a/answer\n+++ b/answer\n@@ -1 +1 @@\n-wrong\n+{new}\n")
}

/// A row whose test wants `right` in the file `answer`.
fn row(id: &str) -> Value {
    json!({
        "instance_id": id, "user": "t", "repo": "r", "language": "shell", "workdir": "/repo", "image_url": "local",
        "parent_commit": "", "pr_commit": "", "problem_statement": "answer rightly", "patch": answer("right"),
        "f2p_patch": added("tests/right.sh", "test \"$(cat answer)\" = right"), "f2p_script": "", "pre_commands": PRE,
        "FAIL_TO_PASS": ["tests/right.sh"], "PASS_TO_PASS": ["tests/sound.sh"], "github_url": "",
    })
}

fn prediction(id: &str, model: &str, patch: impl Into<Value>) -> Value {
    json!({"instance_id": id, "model_name_or_path": model, "model_patch": patch.into()})
}

struct Field {
    temp: tempfile::TempDir,
}

impl Field {
    fn new(rows: &[Value]) -> Self {
        let field = Field { temp: tempfile::tempdir().unwrap() };
        field.lines("instances.jsonl", rows);
        field
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn lines(&self, name: &str, rows: &[Value]) -> PathBuf {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn grade(&self, predictions: &Path, out: &str) -> Command {
        let mut command = sweroll();
        command.args([
            "grade",
            "--sandbox",
            "local",
            "--set",
            "scheduler.retry_base_ms=1",
            "--set",
            "scheduler.concurrency=2",
            "--instances",
        ]);
        command.arg(self.path("instances.jsonl")).arg("--predictions").arg(predictions).arg("--out").arg(self.path(out));
        command
    }

    fn results(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join("results.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))).unwrap()
    }

    /// Results in the journal, its first line not counted.
    fn journaled(&self, out: &str) -> usize {
        fs::read_to_string(self.path(out).join("gradings.jsonl")).map_or(0, |text| text.matches('\n').count().saturating_sub(1))
    }
}

/// `(model, instance, verdict, resolved)` of each line.
fn verdicts(results: &[Value]) -> Vec<(&str, &str, &str, i64)> {
    results
        .iter()
        .map(|row| {
            let word = |key: &str| row[key].as_str().unwrap();
            (word("model_name_or_path"), word("instance_id"), word("verdict"), row["resolved"].as_i64().unwrap())
        })
        .collect()
}

#[test]
fn every_form_of_predictions_has_the_same_verdicts_in_their_order() {
    let field = Field::new(&[row("one"), row("two"), row("three")]);
    let predictions = [
        prediction("two", "org/good", answer("right")),
        prediction("one", "org/good", answer("right")),
        prediction("one", "other", answer("left")),
        prediction("two", "other", Value::Null),
        json!({"instance_id": "three", "model_name_or_path": "other", "extra": [1]}),
        prediction("three", "org/good", answer("right").replace("-wrong", "-gone")),
    ];
    let expected = [
        ("org/good", "two", "resolved", 1),
        ("org/good", "one", "resolved", 1),
        ("other", "one", "unresolved", 0),
        ("other", "two", "empty_patch", 0),
        ("other", "three", "empty_patch", 0),
        ("org/good", "three", "error", 0),
    ];
    fs::write(field.path("list.json"), serde_json::to_vec_pretty(&predictions).unwrap()).unwrap();
    field.lines("lines.jsonl", &predictions);
    let mut gzip = flate2::write::GzEncoder::new(fs::File::create(field.path("lines.jsonl.gz")).unwrap(), flate2::Compression::fast());
    gzip.write_all(&fs::read(field.path("lines.jsonl")).unwrap()).unwrap();
    gzip.finish().unwrap();
    for form in ["list.json", "lines.jsonl", "lines.jsonl.gz"] {
        expect(&mut field.grade(&field.path(form), &format!("of-{form}")), 0);
        assert_eq!(verdicts(&field.results(&format!("of-{form}"))), expected, "{form}");
    }
    let by_id = json!({"one": prediction("one", "m", answer("right")), "two": {"model_name_or_path": "m", "model_patch": ""}});
    fs::write(field.path("by_id.json"), by_id.to_string()).unwrap();
    let output = expect(field.grade(&field.path("by_id.json"), "by_id").args(["--format", "json"]), 0);
    assert_eq!(verdicts(&field.results("by_id")), [("m", "one", "resolved", 1), ("m", "two", "empty_patch", 0)]);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((summary["schema_version"].as_u64(), summary["models"][0]["resolved_rate"].as_f64()), (Some(1), Some(0.5)));
}

#[test]
fn a_line_says_why_and_reports_are_as_swe_bench_writes_them() {
    let field = Field::new(&[row("one"), row("two"), row("three"), row("four")]);
    let predictions = [
        prediction("one", "org/m", answer("right")),
        prediction("two", "org/m", answer("left")),
        prediction("three", "org/m", "no diff at all\n"),
    ];
    expect(&mut field.grade(&field.lines("p.jsonl", &predictions), "out"), 0);
    let results = field.results("out");
    assert_eq!(results[1]["tests"]["tests/right.sh"]["status"], "failed");
    assert_eq!(results[1]["tests"]["tests/sound.sh"]["status"], "passed");
    assert_eq!(results[1]["fail_to_pass"], json!({"passed": 0, "total": 1}));
    assert_eq!(results[0]["with"]["runner"], "shell");
    assert_eq!((&results[2]["failure"]["class"], &results[2]["failure"]["kind"]), (&json!("model"), &json!("diff_rejected")));
    let keys: Vec<Vec<&String>> = results.iter().map(|row| row.as_object().unwrap().keys().collect()).collect();
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "every line has every key: {keys:?}");

    let report = field.json("out/logs/org__m/two/report.json");
    let two = &report["two"];
    assert_eq!(two["resolved"], false);
    assert_eq!(two["patch_successfully_applied"], true);
    assert_eq!(two["tests_status"]["FAIL_TO_PASS"], json!({"success": [], "failure": ["tests/right.sh"]}));
    assert_eq!(two["tests_status"]["PASS_TO_PASS"], json!({"success": ["tests/sound.sh"], "failure": []}));
    assert!(field.path("out/logs/org__m/two/test_output.txt").exists());
    assert!(!field.path("out/logs/org__m/three/report.json").exists(), "no test of it ran");
    assert!(fs::read_to_string(field.path("out/logs/org__m/three/run_instance.log")).unwrap().starts_with("error (model)"));

    let run = field.json("out/org__m.out.json");
    for (name, ids) in [
        ("submitted", json!(["one", "three", "two"])),
        ("completed", json!(["one", "two"])),
        ("incomplete", json!(["four"])),
        ("resolved", json!(["one"])),
        ("unresolved", json!(["two"])),
        ("error", json!(["three"])),
        ("empty_patch", json!([])),
        ("infra_failure", json!([])),
        ("ambiguous_failure", json!([])),
    ] {
        assert_eq!(run[format!("{name}_ids")], ids, "{name}");
        assert_eq!(run[format!("{name}_instances")], ids.as_array().unwrap().len(), "{name}");
    }
    assert_eq!((&run["total_instances"], &run["schema_version"]), (&json!(4), &json!(2)));
    assert_eq!(run["failure_reasons"], json!({"three": "diff_rejected"}));
}

#[test]
fn what_was_graded_before_a_kill_is_not_graded_again() {
    let mut slow = row("slow");
    slow["f2p_patch"] = added("tests/right.sh", "sleep 5").into();
    let field = Field::new(&[row("quick"), slow]);
    let path = field.lines("p.jsonl", &[prediction("slow", "m", answer("right")), prediction("quick", "m", answer("right"))]);
    let mut child = field.grade(&path, "out").spawn().unwrap();
    let began = Instant::now();
    while field.journaled("out") < 1 {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing was graded");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(field.journaled("out"), 1, "killed in the middle");
    // A line that the crash tore.
    let journal = field.path("out/gradings.jsonl");
    fs::OpenOptions::new().append(true).open(&journal).unwrap().write_all(b"{\"key\":\"slow:").unwrap();
    let output = expect(&mut field.grade(&path, "out"), 0);
    assert!(stderr(&output).contains("1 of 1 diffs graded"), "{}", stderr(&output));
    assert_eq!(verdicts(&field.results("out")), [("m", "slow", "resolved", 1), ("m", "quick", "resolved", 1)]);
    assert_eq!(field.journaled("out"), 2);

    // All is there: nothing is graded, and nothing is asked of a daemon.
    fs::remove_file(field.path("out/results.jsonl")).unwrap();
    expect(&mut field.grade(&path, "out"), 0);
    assert_eq!((field.results("out").len(), field.journaled("out")), (2, 2));

    // More predictions: those that are new.
    let more =
        [prediction("slow", "m", answer("right")), prediction("quick", "m", answer("left")), prediction("quick", "n", answer("right"))];
    expect(&mut field.grade(&field.lines("p.jsonl", &more), "out"), 0);
    assert_eq!(field.journaled("out"), 3, "one diff is new, one is known though the model is not");
    assert_eq!(
        verdicts(&field.results("out")),
        [("m", "slow", "resolved", 1), ("m", "quick", "unresolved", 0), ("n", "quick", "resolved", 1)]
    );

    // Other settings or instances would have other results.
    let refused = expect(field.grade(&path, "out").args(["--set", "grading.tests_timeout_s=7"]), 2);
    assert!(stderr(&refused).contains("grading.tests_timeout_s: 1800 in the run, 7 now"), "{}", stderr(&refused));
    field.lines("instances.jsonl", &[row("quick"), row("slow")]);
    let refused = expect(&mut field.grade(&path, "out"), 2);
    assert!(stderr(&refused).contains("instances: "), "{}", stderr(&refused));
    assert_eq!(field.journaled("out"), 3);
}

#[test]
fn a_stop_finishes_what_is_at_work() {
    let mut slow = row("slow");
    let field = Field::new(&[]);
    let begun = field.path("begun");
    slow["f2p_patch"] = added("tests/right.sh", &format!("touch {}; sleep 2", begun.display())).into();
    field.lines("instances.jsonl", &[slow, row("quick")]);
    let mut child = field.grade(Path::new("gold"), "out").args(["--concurrency", "1"]).spawn().unwrap();
    let since = Instant::now();
    while !begun.exists() {
        assert!(since.elapsed() < Duration::from_secs(60), "nothing was begun");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(verdicts(&field.results("out")), [("gold", "slow", "resolved", 1)]);
    assert_eq!(field.json("out/gold.out.json")["incomplete_ids"], json!(["quick"]));
    expect(&mut field.grade(Path::new("gold"), "out"), 0);
    assert_eq!(field.results("out").len(), 2);
}

#[test]
fn what_cannot_be_graded_is_named_before_anything_is_begun() {
    let field = Field::new(&[row("one")]);
    let good = prediction("one", "m", answer("right"));
    for (name, rows, part) in [
        ("unknown", vec![good.clone(), prediction("nobody", "m", "x")], "line 2: there is no instance nobody"),
        ("twice", vec![good.clone(), good.clone()], "line 2: there is a prediction of \"m\" for one already"),
        ("model", vec![json!({"instance_id": "one", "model_patch": ""})], "line 1: model_name_or_path is missing"),
        ("id", vec![json!({"model_name_or_path": "m", "model_patch": ""})], "line 1: instance_id is missing"),
        ("path", vec![prediction("../one", "m", "")], "line 1: instance_id: \"../one\" cannot name an instance"),
        ("type", vec![prediction("one", "m", 7)], "line 1: it is no prediction"),
        ("scalar", vec![json!(7)], "line 1: it is no prediction"),
        ("long", vec![prediction("one", &"m".repeat(501), "")], "longer than 500 bytes"),
        ("empty", vec![], "holds no prediction"),
        ("list", vec![json!([good])], "give it a name that ends with .json"),
    ] {
        let output = expect(&mut field.grade(&field.lines("p.jsonl", &rows), name), 2);
        assert!(stderr(&output).contains(part), "{name}: {}", stderr(&output));
        assert!(!field.path(name).exists(), "{name}: nothing was begun");
    }
    for (text, part) in
        [("{\"one\": ", "EOF"), ("7", "a list of predictions"), ("[] []", "trailing"), (&"[".repeat(100_000), "holds no predictions")]
    {
        fs::write(field.path("p.json"), text).unwrap();
        let output = expect(&mut field.grade(&field.path("p.json"), "document"), 2);
        assert!(stderr(&output).contains(part), "{part}: {}", stderr(&output));
    }
    let long = [good.clone(), prediction("one", "n", "x".repeat(3 << 20))];
    fs::write(field.path("p.json"), json!(long).to_string()).unwrap();
    let output = expect(field.grade(&field.path("p.json"), "document").args(["--set", "dataset.max_row_bytes=100000"]), 2);
    assert!(stderr(&output).contains("over the limit"), "{}", stderr(&output));
    expect(&mut field.grade(&field.path("no-such.json"), "none"), 2);

    let mixed = [good.clone(), prediction("nobody", "m", "x"), json!({"instance_id": "one"}), prediction("one", "m", "")];
    let output = expect(field.grade(&field.lines("p.jsonl", &mixed), "mixed").arg("--skip-bad"), 1);
    assert!(stderr(&output).contains("line 3: model_name_or_path is missing"), "{}", stderr(&output));
    let results = field.results("mixed");
    assert_eq!(
        verdicts(&results),
        [("m", "one", "empty_patch", 0), ("m", "nobody", "error", -1)],
        "the last of a model and instance counts"
    );
    assert!(results[1]["failure"]["message"].as_str().unwrap().contains("no instance nobody"));
}

#[test]
fn hostile_models_and_diffs_stay_in_their_place() {
    let field = Field::new(&[row("one")]);
    let huge = added("big", &"x".repeat(5000));
    let predictions = [
        prediction("one", "../../../escaped", answer("right")),
        prediction("one", "a\u{0}b\n\u{1b}[2J", answer("left")),
        prediction("one", "..", answer("left")),
        prediction("one", "huge", huge),
        prediction("one", "outside", added("../escaped", "x")),
        prediction("one", "binary", "GIT binary patch\n\u{0}\u{fffd}"),
    ];
    let path = field.lines("p.jsonl", &predictions);
    let output = expect(field.grade(&path, "deep/out").args(["--set", "grading.diff_max_bytes=4000"]), 0);
    assert!(!stdout(&output).contains('\u{1b}'), "a name must not drive the terminal");
    let results = field.results("deep/out");
    let found: Vec<_> = verdicts(&results).into_iter().map(|(.., verdict, resolved)| (verdict, resolved)).collect();
    assert_eq!(found[..3], [("resolved", 1), ("unresolved", 0), ("unresolved", 0)]);
    assert!(found[3..].iter().all(|found| *found == ("error", 0)), "{found:?}");
    assert!(results[3]["failure"]["message"].as_str().unwrap().contains("over the limit of 4000"));
    let inside: Vec<String> = fs::read_dir(field.temp.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(inside.len(), 3, "{inside:?}");
    assert_eq!(fs::read_dir(field.path("deep")).unwrap().count(), 1);
    let logs = fs::read_dir(field.path("deep/out/logs")).unwrap().count();
    assert_eq!(logs, 6);
}

#[test]
fn without_a_daemon_empty_patches_have_their_verdict_and_others_begin_nothing() {
    let field = Field::new(&[row("one"), row("two")]);
    let grade = |predictions: &Path, out: &str| {
        let mut command = sweroll();
        command.args(["grade", "--instances"]).arg(field.path("instances.jsonl")).arg("--predictions").arg(predictions);
        command.args(["--sandbox", "docker", "--out"]).arg(field.path(out)).env("DOCKER_HOST", "unix:///nowhere/docker.sock");
        command
    };
    expect(&mut grade(&field.lines("p.jsonl", &[prediction("one", "m", " \n")]), "empty"), 0);
    assert_eq!(verdicts(&field.results("empty")), [("m", "one", "empty_patch", 0)]);
    let output = expect(&mut grade(Path::new("gold"), "full"), 2);
    assert!(stderr(&output).contains("docker"), "{}", stderr(&output));
    assert!(!field.path("full").exists(), "nothing was begun");
}

#[test]
fn what_the_grader_failed_is_tried_again_by_the_same_command() {
    let flag = tempfile::tempdir().unwrap();
    let flag = flag.path().join("mended");
    let mut broken = row("one");
    broken["f2p_patch"] = added("tests/right.sh", &format!("test -e {} || sleep 60", flag.display())).into();
    let mut task = row("two");
    task["pre_commands"] = "false".into();
    let field = Field::new(&[broken, task]);
    let path = field.lines("p.jsonl", &[prediction("one", "m", answer("right")), prediction("two", "m", answer("right"))]);
    let grade = || {
        let mut command = field.grade(&path, "out");
        command.args(["--set", "grading.tests_timeout_s=1"]);
        command
    };
    expect(&mut grade(), 1);
    assert_eq!(verdicts(&field.results("out")), [("m", "one", "infra_failure", -1), ("m", "two", "error", -1)]);
    assert_eq!(field.json("out/m.out.json")["infra_failure_ids"], json!(["one"]));
    fs::create_dir_all(flag.parent().unwrap()).unwrap();
    fs::write(&flag, "").unwrap();
    let output = expect(&mut grade(), 1);
    assert!(stderr(&output).contains("1 of 1 diffs graded"), "the task's failure stands: {}", stderr(&output));
    assert_eq!(verdicts(&field.results("out")), [("m", "one", "resolved", 1), ("m", "two", "error", -1)]);
    assert!(field.path("out/logs/m/one/report.json").exists());
}

#[test]
fn a_flaky_test_is_tried_again_where_it_is_known_to_be() {
    let marks = tempfile::tempdir().unwrap();
    let count = marks.path().join("count");
    let mut flaky = row("one");
    // Fails the first two times.
    let once = format!("echo x >> {0}; test $(wc -l < {0}) -gt 2", count.display());
    flaky["f2p_patch"] = [added("tests/right.sh", "true"), added("tests/new.sh", &once)].concat().into();
    flaky["PASS_TO_PASS"] = json!(["tests/new.sh"]);
    let field = Field::new(&[flaky]);
    let known = field.lines("flaky.jsonl", &[json!({"instance_id": "one", "flaky": ["tests/new.sh"]})]);
    expect(&mut field.grade(Path::new("gold"), "unknown"), 0);
    assert_eq!(verdicts(&field.results("unknown")), [("gold", "one", "unresolved", 0)]);
    fs::remove_file(&count).unwrap();
    expect(field.grade(Path::new("gold"), "known").arg("--flaky").arg(&known), 0);
    let results = field.results("known");
    assert_eq!(verdicts(&results), [("gold", "one", "resolved", 1)]);
    assert_eq!(results[0]["flaky"], json!(["tests/new.sh"]));
    let refused = expect(&mut field.grade(Path::new("gold"), "known"), 2);
    assert!(stderr(&refused).contains("flaky: "), "{}", stderr(&refused));
}

#[test]
fn a_run_is_graded_by_its_shards_sample_by_sample() {
    let field = Field::new(&[]);
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/demo.jsonl"), field.path("instances.jsonl")).unwrap();
    expect(sweroll().args(["demo", "--out"]).arg(field.path("demo")), 0);
    let records = common::records(&field.path("demo"), "trajectories");
    let output = field.grade(&field.path("demo"), "out").args(["--set", "grading.tests_timeout_s=3"]).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", stderr(&output));
    let results = field.results("out");
    assert_eq!(results.len(), records.len());
    for record in records {
        let line = results.iter().find(|line| line["trajectory_id"] == record["trajectory_id"]).unwrap();
        assert_eq!(line["resolved"], record["resolved"], "{}", record["trajectory_id"]);
        let model = format!("{}@{}", record["model"].as_str().unwrap(), record["sample"]);
        assert_eq!(line["model_name_or_path"], model.as_str());
    }
}

#[test]
fn other_directories_and_instances_not_selected_are_left_alone() {
    let field = Field::new(&[row("one"), row("two")]);
    fs::create_dir(field.path("thesis")).unwrap();
    fs::write(field.path("thesis/thesis.tex"), "x").unwrap();
    let output = expect(&mut field.grade(Path::new("gold"), "thesis"), 2);
    assert!(stderr(&output).contains("it holds thesis.tex"), "{}", stderr(&output));
    let output = expect(field.grade(Path::new("gold"), "some").args(["--filter", "^one$"]), 0);
    assert_eq!(verdicts(&field.results("some")), [("gold", "one", "resolved", 1)]);
    drop(output);
    let both = field.lines("p.jsonl", &[prediction("one", "m", ""), prediction("two", "m", "")]);
    let output = expect(field.grade(&both, "limit").args(["--limit", "1"]), 0);
    assert!(stderr(&output).contains("1 predictions are for instances that were not selected"), "{}", stderr(&output));
    assert_eq!(field.results("limit").len(), 1);
}

/// Two quick instances of the real set, in containers.
#[test]
fn golden_patches_resolve_and_what_breaks_them_does_not() {
    let Some(instances) = realset() else { return };
    let temp = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(&instances).unwrap();
    let wanted = ["pypi_tomli_pr142", "pypi_python-slugify_pr136"];
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|row: &Value| wanted.contains(&row["instance_id"].as_str().unwrap()))
        .collect();
    let mut predictions = Vec::new();
    for row in &rows {
        let id = row["instance_id"].as_str().unwrap();
        predictions.push(prediction(id, "gold", row["patch"].clone()));
        predictions.push(prediction(id, "idle", added("NOTES", "nothing")));
        predictions.push(prediction(id, "empty", ""));
    }
    let path = temp.path().join("preds.json");
    fs::write(&path, json!(predictions).to_string()).unwrap();
    let out = temp.path().join("out");
    let mut command = sweroll();
    command.args(["grade", "--concurrency", "2", "--instances"]).arg(&instances).arg("--predictions").arg(&path).arg("--out").arg(&out);
    expect(&mut command, 0);
    let text = fs::read_to_string(out.join("results.jsonl")).unwrap();
    let results: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (model, _, verdict, resolved) in verdicts(&results) {
        let expected = match model {
            "gold" => ("resolved", 1),
            "idle" => ("unresolved", 0),
            _ => ("empty_patch", 0),
        };
        assert_eq!((verdict, resolved), expected, "{model}: {text}");
    }
    assert_eq!(results.len(), 6);
    let head = fs::read_to_string(out.join("gradings.jsonl")).unwrap();
    let head: Value = serde_json::from_str(head.lines().next().unwrap()).unwrap();
    assert_eq!(common::containers(head["run"].as_str().unwrap()), 0, "no container is left");
}
