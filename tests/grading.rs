//! Grading end to end in local sandboxes, the plan's scripts on a real repository, and hostile input.

use futures_util::future::BoxFuture;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use sweroll::domain::{AttemptId, Failure, Grade, Instance, Kind, TestStatus, Verdict};
use sweroll::grading::{self, Case, Settings, hygiene::touched_paths, plan::Plan, report::Report};
use sweroll::sandbox::{Fate, Limits, Local, Provider, Purpose, Sandbox, Spec, local, prepare};
use sweroll::toolbox::{client::Toolbox, protocol::Op};

fn instance() -> Instance {
    Instance {
        instance_id: "made".parse().unwrap(),
        repo: "owner/made".to_owned(),
        language: "shell".to_owned(),
        workdir: "/testbed".to_owned(),
        image: String::new(),
        problem_statement: String::new(),
        base_commit: String::new(),
        fix_commit: String::new(),
        patch: String::new(),
        test_patch: String::new(),
        test_script: String::new(),
        fail_to_pass: Vec::new(),
        pass_to_pass: Vec::new(),
        pre_commands: String::new(),
        test_cmd: String::new(),
        log_parser: String::new(),
        url: String::new(),
    }
}

fn case<'a>(instance: &'a Instance, diff: &'a str) -> Case<'a> {
    Case { instance, diff, flaky: &[] }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A new file as a git diff.
fn added(path: &str, text: &str) -> String {
    let lines: String = text.lines().map(|line| format!("+{line}\n")).collect();
    format!(
        "diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,{} @@\n{lines}",
        text.lines().count()
    )
}

fn changed(path: &str, old: &str, new: &str) -> String {
    format!("diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-{old}\n+{new}\n")
}

fn deleted(path: &str, old: &str) -> String {
    format!("diff --git a/{path} b/{path}\ndeleted file mode 100644\n--- a/{path}\n+++ /dev/null\n@@ -1 +0,0 @@\n-{old}\n")
}

/// The plan's scripts and `git apply` on a directory, without a sandbox.
struct Field {
    dir: tempfile::TempDir,
    plan: Plan,
}

impl Drop for Field {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.plan.private);
    }
}

impl Field {
    fn new(files: &[(&str, &str)], instance: &Instance, diff: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let secret = format!("{:x}test{:x}", std::process::id(), std::ptr::from_ref(&dir) as usize);
        Field { plan: Plan::new(instance, diff, &format!("{secret}{secret}")).unwrap(), dir }
    }

    fn input(&self, program: &str, args: &[&str], text: &[u8]) -> String {
        use std::io::Write;
        let mut child = Command::new(program);
        child.args(args).current_dir(self.dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The grader's order. Returns what `install` printed.
    fn play(&self, instance: &Instance, diff: &str) -> String {
        self.input("sh", &["-s"], &self.plan.keep_base());
        if !instance.test_patch.is_empty() {
            self.input("git", &["apply", "-"], instance.test_patch.as_bytes());
        }
        self.input("sh", &["-s"], &self.plan.keep_tests());
        if !instance.test_script.is_empty() {
            std::fs::write(self.plan.kept_test(0), &instance.test_script).unwrap();
        }
        self.input("git", &["apply", "-"], diff.as_bytes());
        self.input("sh", &["-s"], &self.plan.install())
    }

    fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.path().join(path)).ok()
    }
}

#[test]
fn the_instances_tests_stand_whatever_the_diff_does_to_them() {
    let mut instance = instance();
    instance.language = "python".to_owned();
    instance.test_patch =
        [changed("tests/test_a.py", "old", "new"), added("tests/deep/test_n.py", "n"), deleted("tests/test_d.py", "d")].concat();
    instance.fail_to_pass =
        strings(&["tests/test_a.py::t", "tests/deep/test_n.py::t", "tests/test_p.py::t[tests/x::y]", "tests/none.py::t"]);
    let base = [
        ("tests/test_a.py", "old\n"),
        ("tests/test_d.py", "d\n"),
        ("tests/test_p.py", "p\n"),
        ("src/m.py", "m\n"),
        ("tests/helper.py", "h\n"),
    ];
    let diffs = [
        changed("src/m.py", "m", "fixed"),
        changed("tests/test_a.py", "old", "cheat"),
        deleted("tests/test_a.py", "old"),
        changed("tests/test_p.py", "p", "cheat"),
        deleted("tests/test_p.py", "p"),
        added("tests/deep", "a file in the way"),
        added("tests/deep/test_n.py/x", "a directory in the way"),
        added("tests/deep/test_n.py", "written before"),
        deleted("tests/test_d.py", "d"),
        "diff --git a/tests/deep b/tests/deep\nnew file mode 120000\n--- /dev/null\n+++ b/tests/deep\n@@ -0,0 +1 @@\n+../src\n\\ No newline at end of file\n".to_owned(),
    ];
    for diff in diffs {
        let field = Field::new(&base, &instance, &diff);
        assert_eq!(field.play(&instance, &diff), "3\n", "only tests/none.py is absent after\n{diff}");
        let read = |path| field.text(path);
        assert_eq!(read("tests/test_a.py").as_deref(), Some("new\n"), "{diff}");
        assert_eq!(read("tests/deep/test_n.py").as_deref(), Some("n\n"), "{diff}");
        assert_eq!(read("tests/test_p.py").as_deref(), Some("p\n"), "{diff}");
        assert_eq!(read("tests/helper.py").as_deref(), Some("h\n"), "{diff}");
        assert_eq!(read("tests/test_d.py"), None, "{diff}");
        assert!(!field.dir.path().join("src/test_n.py").exists(), "written through a link");
    }
}

#[test]
fn the_diff_keeps_what_is_product() {
    let mut instance = instance();
    instance.language = "python".to_owned();
    instance.patch = changed("tests/conftest.py", "c", "golden");
    instance.fail_to_pass = strings(&["src/m.py::m.doctest", "tests/conftest.py::x"]);
    let diff =
        [changed("src/m.py", "m", "fixed"), changed("tests/conftest.py", "c", "fixed"), added("test_fail_to_pass.py", "mine")].concat();
    let field = Field::new(&[("src/m.py", "m\n"), ("tests/conftest.py", "c\n")], &instance, &diff);
    field.play(&instance, &diff);
    assert_eq!(field.text("src/m.py").as_deref(), Some("fixed\n"), "a doctest's file is product");
    assert_eq!(field.text("tests/conftest.py").as_deref(), Some("fixed\n"), "the golden patch changes it too");
    assert_eq!(field.text("test_fail_to_pass.py"), None, "the script's place is the instance's");
}

#[test]
fn the_script_comes_last_and_stale_bytecode_goes() {
    let mut instance = instance();
    instance.language = "python".to_owned();
    instance.test_script = "the script\n".to_owned();
    instance.fail_to_pass = strings(&["test_fail_to_pass.py::t"]);
    let diff = [changed("a b/it's.py", "m", "fixed"), added("test_fail_to_pass.py", "mine")].concat();
    let files =
        [("a b/it's.py", "m\n"), ("a b/__pycache__/it's.cpython-311.pyc", "stale"), ("a b/__pycache__/its.cpython-311.pyc", "another's")];
    let field = Field::new(&files, &instance, &diff);
    assert_eq!(field.play(&instance, &diff), "");
    assert_eq!(field.text("test_fail_to_pass.py").as_deref(), Some("the script\n"));
    assert_eq!(field.text("a b/__pycache__/it's.cpython-311.pyc"), None);
    assert!(field.text("a b/__pycache__/its.cpython-311.pyc").is_some());
}

/// A new link as a git diff.
fn linked(path: &str, target: &str) -> String {
    format!(
        "diff --git a/{path} b/{path}\nnew file mode 120000\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{target}\n\\ No newline at end of file\n"
    )
}

fn renamed(from: &str, to: &str) -> String {
    format!("diff --git a/{from} b/{to}\nsimilarity index 100%\nrename from {from}\nrename to {to}\n")
}

#[test]
fn the_tests_meet_their_own_trees_configuration_and_startup() {
    let mut instance = instance();
    instance.language = "python".to_owned();
    instance.patch = [changed("pkg/m.py", "m", "golden"), changed("plugin/conftest.py", "c", "golden")].concat();
    instance.test_patch = changed("tests/unit/test_a.py", "a", "new");
    instance.fail_to_pass = strings(&["tests/unit/test_a.py::t", "pkg/tests/test_p.py::t", "pkg/test_q.py::t"]);
    let base = [
        ("pkg/m.py", "m\n"),
        ("pkg/__init__.py", "i\n"),
        ("pkg/test_q.py", "q\n"),
        ("pkg/tests/test_p.py", "p\n"),
        ("pkg/test/client.py", "product\n"),
        ("plugin/conftest.py", "c\n"),
        ("tests/helper.py", "h\n"),
        ("tests/data/x", "x\n"),
        ("tests/unit/test_a.py", "a\n"),
        ("setup.cfg", "s\n"),
    ];
    let put_back = [
        changed("tests/helper.py", "h", "cheat"),
        deleted("tests/helper.py", "h"),
        renamed("tests/helper.py", "pkg/moved.py"),
        renamed("pkg/tests/test_p.py", "pkg/tests/test_z.py"),
        "diff --git a/tests/helper.py b/tests/helper.py\nold mode 100644\nnew mode 100755\n".to_owned(),
        "diff --git a/tests/helper.py b/tests/copy.py\nsimilarity index 100%\ncopy from tests/helper.py\ncopy to tests/copy.py\n"
            .to_owned(),
        added("tests/conftest.py", "hook"),
        added("tests/unit/json.py", "shadow"),
        added("tests/unit/test_a/__init__.py", "earlier on the path"),
        added("pkg/test_q/__init__.py", "earlier on the path"),
        added("pkg/test_q.abi3.so", "earlier on the path"),
        changed("pkg/test_q.py", "q", "cheat"),
        [deleted("tests/data/x", "x"), added("tests/data", "a file in the way")].concat(),
        [deleted("tests/data/x", "x"), linked("tests/data", "../pkg")].concat(),
        [deleted("tests/helper.py", "h"), added("tests/helper.py/__init__.py", "a directory in the way")].concat(),
        [deleted("tests/helper.py", "h"), linked("tests/helper.py", "../pkg/m.py")].concat(),
        [deleted("tests/helper.py", "h"), deleted("tests/data/x", "x"), deleted("tests/unit/test_a.py", "a"), linked("tests", "pkg/tests")]
            .concat(),
        [deleted("pkg/tests/test_p.py", "p"), linked("pkg/tests", "../tests")].concat(),
        added("conftest.py", "hook"),
        linked("conftest.py", "pkg/m.py"),
        added("deep/er/conftest.py", "hook"),
        added("pytest.ini", "[pytest]"),
        added(".pytest.toml", "[pytest]"),
        changed("setup.cfg", "s", "[tool:pytest]"),
        added("sitecustomize.py", "hook"),
        added("src/usercustomize/__init__.py", "hook"),
        added("x.pth", "import os"),
        added("made_up-1.dist-info/entry_points.txt", "[pytest11]"),
        added("pkg/__pycache__/m.cpython-311.pyc", "bytes"),
        added("venv/lib/python3.11/site-packages/pluggy.py", "hook"),
    ];
    let tree = |dir: &Path| {
        let listed = Command::new("sh")
            .args(["-c", "find . -type d -empty -delete; find . ! -type d -exec ls -o --time-style=+ {} + ; find . -type f -exec cat {} +"])
            .current_dir(dir)
            .output()
            .unwrap();
        String::from_utf8(listed.stdout).unwrap()
    };
    let honest = changed("pkg/m.py", "m", "fixed");
    let field = Field::new(&base, &instance, &honest);
    field.play(&instance, &honest);
    assert_eq!(field.plan.restored.names(), Vec::<String>::new());
    let expected = tree(field.dir.path());
    for diff in put_back {
        let diff = format!("{honest}{diff}");
        let field = Field::new(&base, &instance, &diff);
        assert_eq!(field.play(&instance, &diff), "", "{diff}");
        // What was moved out of a test tree is the diff's own there.
        let _ = std::fs::remove_file(field.dir.path().join("pkg/moved.py"));
        assert_eq!(tree(field.dir.path()), expected, "{diff}");
        assert!(!field.plan.restored.names().is_empty(), "{diff}");
    }
}

#[test]
fn what_is_product_stays_as_the_diff_has_it() {
    let mut instance = instance();
    instance.language = "python".to_owned();
    instance.patch =
        [changed("plugin/conftest.py", "c", "golden"), changed("pkg/testing/tests/case.py", "k", "golden"), added("tox.ini", "t")].concat();
    instance.fail_to_pass = strings(&["tests/test_a.py::t", "pkg/testing/tests/deep/tests/test_p.py::t", "pkg/test_q.py::t"]);
    let base = [
        ("plugin/conftest.py", "c\n"),
        ("pkg/__init__.py", "i\n"),
        ("pkg/testing/__init__.py", "t\n"),
        ("pkg/testing/tests/case.py", "k\n"),
        ("pkg/testing/tests/deep/tests/test_p.py", "p\n"),
        ("pkg/test/client.py", "l\n"),
        ("tests/test_a.py", "a\n"),
    ];
    let stays = [
        changed("plugin/conftest.py", "c", "fixed"),
        changed("pkg/__init__.py", "i", "fixed"),
        changed("pkg/testing/__init__.py", "t", "fixed"),
        changed("pkg/testing/tests/case.py", "k", "fixed"),
        changed("pkg/test/client.py", "l", "fixed"),
        added("tox.ini", "fixed"),
        added("pkg/new.py", "fixed"),
    ];
    let diff = stays.concat();
    let field = Field::new(&base, &instance, &diff);
    field.play(&instance, &diff);
    for path in touched_paths(diff.as_bytes()).unwrap() {
        let path = String::from_utf8(path).unwrap();
        assert_eq!(field.text(&path).as_deref(), Some("fixed\n"), "{path}");
    }
    assert_eq!(field.plan.restored.names(), Vec::<String>::new());
    assert_eq!(
        field.plan.foreign_files,
        ["pkg/__init__.py", "pkg/new.py", "pkg/test/client.py", "pkg/testing/__init__.py"],
        "what the golden patch does not touch"
    );
}

#[tokio::test]
async fn what_was_put_back_is_told() {
    let mut instance = scripts();
    instance.pre_commands.push_str("\necho helper > t/helper; git add -A; git -c user.name=t -c user.email=t@t commit -qm helper");
    instance.test_patch = added("tests/new.sh", "test \"$(sh answer)\" = 2 && ! test -e tests/helper");
    instance.fail_to_pass = strings(&["tests/new.sh"]);
    let diff = [
        changed("answer", "echo 1", "echo 2"),
        changed("t/old.sh", "test -e answer", "true"),
        added("tests/helper", "mine"),
        added("conftest.py", "hook"),
        added("a.pth", "import os"),
        added("more.py", "import os; os._exit(0)"),
    ];
    let grade = graded(&instance, &diff.concat(), &Settings::default()).await.unwrap();
    assert!(grade.resolved, "{grade:?}");
    assert_eq!(grade.restored, ["a.pth", "conftest.py", "t/old.sh", "tests/helper"]);
    let told: Vec<_> = grade.suspect.iter().map(|sign| (sign.reason.as_str(), sign.detail.as_str())).collect();
    let expected = [
        ("tests_changed", "t/old.sh (put back)"),
        ("config_changed", "conftest.py (put back)"),
        ("startup_hook", "a.pth (put back)"),
        ("early_exit", "more.py: import os; os._exit(0)"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn tests_below_a_link_of_the_base_are_left_alone() {
    let mut instance = instance();
    instance.language = "python".to_owned();
    instance.fail_to_pass = strings(&["tests/test_a.py::t"]);
    let diff = changed("m.py", "m", "fixed");
    let mut field = Field::new(&[("src/tests/test_a.py", "a\n"), ("m.py", "m\n")], &instance, &diff);
    std::os::unix::fs::symlink("src/tests", field.dir.path().join("tests")).unwrap();
    field.plan.test_files.push(b"tests/test_a.py".to_vec());
    field.play(&instance, &diff);
    assert!(field.dir.path().join("tests").is_symlink());
    assert_eq!(field.text("src/tests/test_a.py").as_deref(), Some("a\n"));
}

fn spec(instance: &Instance) -> Spec {
    Spec {
        run: "grading-test".to_owned(),
        attempt: AttemptId { episode: format!("{}@0", instance.instance_id).parse().unwrap(), attempt: sweroll::domain::Attempt::FIRST },
        purpose: Purpose::Agent,
        image: instance.image.clone(),
        workdir: instance.workdir.clone(),
        limits: Limits::default(),
        keep: false,
        upon: None,
    }
}

fn provider() -> Local {
    Local::new(local::Settings { toolbox_path: Some(PathBuf::from(env!("CARGO_BIN_EXE_sweroll"))), ..local::Settings::default() })
}

async fn graded(instance: &Instance, diff: &str, settings: &Settings) -> Result<Grade, Failure> {
    grading::grade(&provider(), &spec(instance), &case(instance, diff), settings, &grading::Runners::default()).await
}

/// A repository made by `pre_commands`: `answer` says 1, and one test wants 2.
fn scripts() -> Instance {
    let mut instance = instance();
    instance.pre_commands = "git init -q . && mkdir t && echo 'echo 1' > answer && echo 'test -e answer' > t/old.sh\n\
        printf 'exit 77\\n' > t/skip.sh; git add -A; git -c user.name=t -c user.email=t@t commit -qm base"
        .to_owned();
    instance.test_patch = added("t/new.sh", "echo wanted 2; test \"$(sh answer)\" = 2");
    instance.fail_to_pass = strings(&["t/new.sh"]);
    instance.pass_to_pass = strings(&["t/old.sh"]);
    instance
}

#[tokio::test]
async fn scripts_are_graded() {
    let instance = scripts();
    let good = graded(&instance, &changed("answer", "echo 1", "echo 2"), &Settings::default()).await.unwrap();
    assert!(good.resolved, "{good:?}");
    assert_eq!((good.fail_to_pass.passed, good.pass_to_pass.passed), (1, 1));
    assert!(good.output_tail.contains("wanted 2"));
    let bad = graded(&instance, &changed("answer", "echo 1", "echo 3"), &Settings::default()).await.unwrap();
    assert!(!bad.resolved);
    assert_eq!(bad.tests["t/new.sh"], TestStatus::Failed);
    assert_eq!(bad.tests["t/old.sh"], TestStatus::Passed);
    let gone = graded(&instance, &deleted("answer", "echo 1"), &Settings::default()).await.unwrap();
    assert_eq!(gone.tests["t/old.sh"], TestStatus::Failed);
}

#[tokio::test]
async fn skipped_and_missing_scripts_are_not_passed() {
    let mut instance = scripts();
    instance.pass_to_pass = strings(&["t/skip.sh", "t/none.sh"]);
    let grade = graded(&instance, &changed("answer", "echo 1", "echo 2"), &Settings::default()).await.unwrap();
    assert!(!grade.resolved);
    assert_eq!(grade.tests["t/skip.sh"], TestStatus::Skipped);
    assert_eq!(grade.tests["t/none.sh"], TestStatus::Missing);
    assert_eq!(grade.tests["t/new.sh"], TestStatus::Passed);
}

#[tokio::test]
async fn an_empty_diff_is_not_run() {
    let mut instance = scripts();
    instance.pre_commands = "exit 1".to_owned();
    let grade = graded(&instance, " \n", &Settings::default()).await.unwrap();
    assert!(!grade.resolved);
    assert_eq!(grade.output_tail, "not run: the diff is empty");
    assert!(grade.tests.values().all(|status| *status == TestStatus::Missing));
    assert_eq!((grade.tests.len(), grade.fail_to_pass.total, grade.pass_to_pass.total), (2, 1, 1));
}

async fn failure(instance: &Instance, diff: &str, settings: &Settings) -> (Kind, String) {
    let failure = graded(instance, diff, settings).await.unwrap_err();
    (failure.kind, failure.message)
}

#[tokio::test]
async fn what_cannot_be_graded_is_a_failure_of_its_own_kind() {
    let fix = changed("answer", "echo 1", "echo 2");
    let with = |change: fn(&mut Instance)| {
        let mut instance = scripts();
        change(&mut instance);
        instance
    };
    let settings = Settings::default();
    let no_ids = with(|i| (i.fail_to_pass, i.pass_to_pass) = (Vec::new(), Vec::new()));
    assert_eq!(failure(&no_ids, &fix, &settings).await.0, Kind::Tests);
    let bad_patch = with(|i| i.test_patch = changed("t/old.sh", "what is not there", "x"));
    assert_eq!(failure(&bad_patch, &fix, &settings).await.0, Kind::Tests);
    let outside = with(|i| i.test_patch = added("../out", "x"));
    assert_eq!(failure(&outside, &fix, &settings).await.0, Kind::Tests);
    assert_eq!(failure(&scripts(), &changed("answer", "echo 5", "echo 2"), &settings).await.0, Kind::DiffRejected);
    assert_eq!(failure(&scripts(), &added("../out", "x"), &settings).await.0, Kind::DiffRejected);
    assert_eq!(failure(&scripts(), "no diff at all\n", &settings).await.0, Kind::DiffRejected);
    assert_eq!(failure(&scripts(), &added("big", &"x".repeat(9 << 20)), &settings).await.0, Kind::DiffTooLarge);
    let pre = with(|i| i.pre_commands.push_str("\necho the reason; exit 3"));
    let (kind, message) = failure(&pre, &fix, &settings).await;
    assert_eq!(kind, Kind::PreCommands);
    assert!(message.contains("exit with 3") && message.contains("the reason"), "{message}");
    let base = with(|i| i.base_commit = "1".repeat(40));
    let (kind, message) = failure(&base, &fix, &settings).await;
    assert_eq!(kind, Kind::BaseCommit);
    assert!(message.contains(&"1".repeat(40)), "{message}");
    let mut slow = scripts();
    slow.test_patch = added("t/new.sh", "sleep 600");
    let short = Settings { tests_timeout_s: 1, ..Settings::default() };
    assert_eq!(failure(&slow, &fix, &short).await.0, Kind::GradeTimeout);
    let slow = with(|i| i.pre_commands = "sleep 600".to_owned());
    let short = Settings { timeout_s: 2, ..Settings::default() };
    assert_eq!(failure(&slow, &fix, &short).await.0, Kind::GradeTimeout);
    let mut short = Settings::default();
    short.prepare.pre_commands_timeout_s = 1;
    assert_eq!(failure(&slow, &fix, &short).await.0, Kind::PreCommands);
}

#[tokio::test]
async fn a_prepared_sandbox_has_its_base_tree_and_no_future() {
    let mut instance = scripts();
    instance
        .pre_commands
        .push_str("\necho fixed > fixed && git add -A && git -c user.name=t -c user.email=t@t commit -qm fix && git reset -q --hard HEAD^");
    let sandbox = provider().start(&spec(&instance)).await.unwrap();
    let prepared = prepare::prepare(sandbox.as_ref(), &instance, &Default::default()).await.unwrap();
    assert!(!prepared.base_tree.is_empty());
    let log =
        prepare::script(sandbox.as_ref(), sandbox.workdir(), 60, b"git reflog; git log --oneline --all | wc -l; git fsck --lost-found\n");
    assert_eq!(log.await.unwrap().tail(1000).trim(), "1");
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn a_warning_of_git_hides_no_head() {
    let mut instance = scripts();
    instance.pre_commands = "export GIT_AUTHOR_DATE=2024-01-01T00:00:00Z GIT_COMMITTER_DATE=2024-01-01T00:00:00Z\n\
        git init -q -b main . && git -c user.name=t -c user.email=t@t commit -q --allow-empty -m base && git update-ref refs/heads/HEAD HEAD"
        .to_owned();
    let sandbox = provider().start(&spec(&instance)).await.unwrap();
    prepare::at_base(sandbox.as_ref(), &instance, &prepare::Settings::default()).await.unwrap();
    let head = prepare::script(sandbox.as_ref(), sandbox.workdir(), 60, b"git rev-parse HEAD 2>/dev/null; git rev-parse HEAD^0\n");
    let text = head.await.unwrap().tail(1000);
    assert!(text.contains("warning"), "git warns no more: {text}");
    instance.pre_commands = String::new();
    instance.base_commit = text.lines().next().unwrap().to_owned();
    prepare::at_base(sandbox.as_ref(), &instance, &prepare::Settings::default()).await.unwrap();
    instance.base_commit = "2".repeat(40);
    let failure = prepare::at_base(sandbox.as_ref(), &instance, &prepare::Settings::default()).await.unwrap_err();
    assert_eq!(failure.kind, Kind::BaseCommit);
    sandbox.destroy().await.unwrap();
}

/// A sandbox of which other things are said.
struct Said {
    inner: Box<dyn Sandbox>,
    fate: Fate,
}

impl Sandbox for Said {
    fn toolbox(&self) -> &Toolbox {
        self.inner.toolbox()
    }
    fn workdir(&self) -> &str {
        self.inner.workdir()
    }
    fn image_digest(&self) -> &str {
        self.inner.image_digest()
    }
    fn fate(&self) -> BoxFuture<'_, Fate> {
        Box::pin(std::future::ready(self.fate))
    }
    fn destroy(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        self.inner.destroy()
    }
}

async fn said(instance: &Instance, oom: bool) -> Said {
    let inner = provider().start(&spec(instance)).await.unwrap();
    Said { inner, fate: Fate { gone: true, oom, exit_code: Some(137) } }
}

#[tokio::test]
async fn a_lost_sandbox_is_never_the_tasks_or_the_models_doing_before_the_model() {
    let mut instance = instance();
    instance.pre_commands = "kill -9 $PPID; sleep 60".to_owned();
    for oom in [false, true] {
        let sandbox = said(&instance, oom).await;
        let failure = prepare::at_base(&sandbox, &instance, &prepare::Settings::default()).await.unwrap_err();
        assert_eq!(failure.kind, Kind::SandboxLost, "{failure}");
        assert_eq!(failure.message.contains("memory"), oom, "{failure}");
        let failure = prepare::call(&sandbox, Op::Usage, &[]).await.unwrap_err();
        assert_eq!(failure.kind, if oom { Kind::MemoryExhausted } else { Kind::SandboxLost });
    }
}

/// The first of the host's Pythons that imports pytest.
fn host_has_pytest() -> bool {
    let imports =
        |python: &str| Command::new(python).args(["-c", "import pytest"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    let found = imports("python") || imports("python3");
    assert!(found || std::env::var_os("CI").is_none(), "no python3 here imports pytest: install python3-pytest");
    if !found {
        eprintln!("skipped: no python3 here imports pytest");
    }
    found
}

fn python(tests: &str, config: &str) -> Instance {
    let mut instance = instance();
    instance.language = "python".to_owned();
    instance.pre_commands = "git init -q . && mkdir t && echo 'answer = 1' > product.py".to_owned();
    instance.test_patch = [added("t/test_new.py", tests), added("pytest.ini", config)].concat();
    instance
}

const HONEST: &str = "import product, pytest\ndef test_answer():\n    assert product.answer == 2\n@pytest.mark.parametrize('x', ['a::b', '[', '', 'x/y.py'])\ndef test_id(x):\n    pass\ndef test_skipped():\n    pytest.skip('x')\n";

#[tokio::test]
async fn pytest_is_graded_with_the_projects_hostile_options() {
    if !host_has_pytest() {
        return;
    }
    let fix = changed("product.py", "answer = 1", "answer = 2");
    for addopts in ["-q --color=yes -x --maxfail=1 --strict-markers", "--cov=product --no-such-option", "-n auto"] {
        let mut instance = python(HONEST, &format!("[pytest]\naddopts = {addopts}"));
        instance.fail_to_pass = strings(&["t/test_new.py::test_answer"]);
        instance.pass_to_pass = strings(&[
            "t/test_new.py::test_id[[]",
            "t/test_new.py::test_id[a::b]",
            "t/test_new.py::test_id[]",
            "t/test_new.py::test_id[x/y.py]",
        ]);
        let grade = graded(&instance, &fix, &Settings::default()).await.unwrap();
        assert!(grade.resolved, "{addopts}: {:?}\n{}", grade.tests, grade.output_tail);
        let grade = graded(&instance, &changed("product.py", "answer = 1", "answer = 3"), &Settings::default()).await.unwrap();
        assert!(!grade.resolved);
        assert_eq!((grade.fail_to_pass.passed, grade.pass_to_pass.passed), (0, 4), "{addopts}: {}", grade.output_tail);
    }
}

#[tokio::test]
async fn a_grade_says_what_it_was_made_with_and_why_it_is_so() {
    if !host_has_pytest() {
        return;
    }
    let mut instance = python(HONEST, "[pytest]");
    instance.fail_to_pass = strings(&["t/test_new.py::test_answer"]);
    instance.pass_to_pass = strings(&["t/test_new.py::test_id[a::b]"]);
    let good = graded(&instance, &changed("product.py", "answer = 1", "answer = 2"), &Settings::default()).await.unwrap();
    let bad = graded(&instance, &changed("product.py", "answer = 1", "answer = 3"), &Settings::default()).await.unwrap();
    for grade in [&good, &bad] {
        // Three other parameters, and the one that is skipped.
        assert_eq!((grade.unlisted, grade.processes, grade.with.runner.as_str()), (4, 1, "pytest"));
        assert!(grade.with.versions.contains_key("pytest") && grade.with.versions.contains_key("python"), "{:?}", grade.with);
        let digests = [&grade.with.patch_digest, &grade.with.tests_digest, &grade.with.plugin_digest];
        assert!(digests.iter().all(|digest| digest.len() == 64), "{:?}", grade.with);
        assert!(grade.tests_ms > 0 && grade.duration_ms >= grade.tests_ms);
        assert_eq!((&grade.suspect, &grade.restored), (&vec![], &Vec::<String>::new()));
    }
    assert_eq!((&good.with.tests_digest, good.with.patch_digest == bad.with.patch_digest), (&bad.with.tests_digest, false));
    let failed = &bad.tests["t/test_new.py::test_answer"];
    assert!(failed.message.contains("assert 3 == 2") && good.tests.values().all(|test| test.message.is_empty()), "{failed:?}");
    let mut other = instance.clone();
    other.pass_to_pass.clear();
    let other = graded(&other, &changed("product.py", "answer = 1", "answer = 2"), &Settings::default()).await.unwrap();
    assert_ne!(other.with.tests_digest, good.with.tests_digest);
}

#[tokio::test]
async fn a_test_file_that_changes_while_it_runs_is_never_resolved() {
    if !host_has_pytest() {
        return;
    }
    let mut instance = python(HONEST, "[pytest]");
    instance.fail_to_pass = strings(&["t/test_new.py::test_answer"]);
    let rewrite = "answer = 2\nimport os\npath = os.path.join(os.path.dirname(os.path.abspath(__file__)), \"t/test_new.py\")\n\
        text = open(path).read()\nopen(path, \"w\").write(text + \"# as good as new\\n\")";
    let diff = [deleted("product.py", "answer = 1"), added("product/__init__.py", &rewrite.replace("\"t/", "\"../t/"))].concat();
    let grade = graded(&instance, &diff, &Settings::default()).await.unwrap();
    let words: Vec<&str> = grade.suspect.iter().map(|suspicion| suspicion.reason.as_str()).collect();
    assert!(words.contains(&"test_file_changed"), "{words:?} {}", grade.output_tail);
    assert_eq!(grade.verdict, Verdict::Ambiguous, "{grade:?}");
}

#[tokio::test]
async fn one_bad_id_sinks_no_other() {
    if !host_has_pytest() {
        return;
    }
    let mut instance = python(HONEST, "[pytest]");
    instance.test_patch.push_str(&added("t/test_broken.py", "import nothing_of_this_name"));
    instance.fail_to_pass = strings(&["t/test_new.py::test_answer"]);
    instance.pass_to_pass =
        strings(&["t/test_broken.py::t", "t/none.py::t", "t/test_new.py::none", "t/test_new.py::test_skipped", "t/test_new.py::test_id[]"]);
    let grade = graded(&instance, &changed("product.py", "answer = 1", "answer = 2"), &Settings::default()).await.unwrap();
    assert!(!grade.resolved);
    let status = |id: &str| grade.tests[&format!("t/{id}")].status;
    assert_eq!(status("test_new.py::test_answer"), TestStatus::Passed, "{}", grade.output_tail);
    assert_eq!(status("test_new.py::test_id[]"), TestStatus::Passed);
    assert_eq!(status("test_new.py::test_skipped"), TestStatus::Skipped);
    for id in ["test_broken.py::t", "none.py::t", "test_new.py::none"] {
        assert_eq!(status(id), TestStatus::Missing);
    }
}

const KINDS: &str = r#"import os, sys, unittest, pytest
@pytest.mark.parametrize("x", ["ü", "\\", "q'$`"])
def test_p(x): pass
def test_skip(): pytest.skip("x")
@pytest.mark.xfail
def test_xfail(): assert 0
@pytest.mark.xfail
def test_xpass(): pass
@pytest.mark.xfail(strict=True)
def test_strict(): pass
@pytest.fixture
def bad_end():
    yield
    raise ValueError
def test_teardown(bad_end): pass
@pytest.fixture
def bad_start(): raise ValueError
def test_setup(bad_start): pass
def test_fork():
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
def test_environment():
    paths = sys.path + os.environ.get("PYTHONPATH", "").split(":")
    assert "SWEROLL_REPORT" not in os.environ and not any(os.path.exists(os.path.join(p, "ids.json")) for p in paths)
class TestU(unittest.TestCase):
    def test_subtests(self):
        for i in range(3):
            with self.subTest(i=i): self.assertNotEqual(i, 1)
    def test_größe(self): pass
def test_unlisted(): assert 0
def pytest_generate_tests(metafunc):
    if "twice" in metafunc.fixturenames: metafunc.parametrize("twice", [0, 1], ids=["x", "x"])
"#;

#[tokio::test]
async fn statuses_are_what_pytest_means() {
    if !host_has_pytest() {
        return;
    }
    use TestStatus::*;
    let mut instance = python(KINDS, "[pytest]");
    let wanted = [
        ("test_p[\\xfc]", Passed),
        ("test_p[\\\\]", Passed),
        ("test_p[q'$`]", Passed),
        ("test_skip", Skipped),
        ("test_xfail", Xfailed),
        ("test_xpass", Xpassed),
        ("test_strict", Failed),
        ("test_teardown", Error),
        ("test_setup", Error),
        ("test_fork", Passed),
        ("test_environment", Passed),
        ("TestU::test_subtests", Failed),
        ("TestU::test_größe", Passed),
    ];
    instance.fail_to_pass = wanted.iter().map(|(id, _)| format!("t/test_new.py::{id}")).collect();
    // Twice in the lists, once in the run.
    instance.pass_to_pass = strings(&["t/test_new.py::test_fork"]);
    let grade = graded(&instance, &changed("product.py", "answer = 1", "answer = 2"), &Settings::default()).await.unwrap();
    for (id, status) in wanted {
        assert_eq!(grade.tests[&format!("t/test_new.py::{id}")], status, "{id}\n{}", grade.output_tail);
    }
    assert_eq!(grade.pass_to_pass.passed, 1);
}

#[tokio::test]
async fn a_process_that_dies_or_prints_success_resolves_nothing() {
    if !host_has_pytest() {
        return;
    }
    let mut instance = python(HONEST, "[pytest]");
    instance.fail_to_pass = strings(&["t/test_new.py::test_answer"]);
    let with = |text: &str| {
        format!("diff --git a/product.py b/product.py\n--- a/product.py\n+++ b/product.py\n@@ -1 +1 @@\n-answer = 1\n+{text}\n")
    };
    let exits = [
        "answer = 2; import os; os._exit(0)",
        "answer = 2; import sys; sys.exit(0)",
        "answer = 2; import atexit, os; atexit.register(os._exit, 0); os.kill(os.getpid(), 9)",
        "answer = 3; print('1 passed'); print('{\"what\": \"end\"}')",
        "import no_such_module",
        "answer = (",
    ];
    for text in exits {
        let grade = graded(&instance, &with(text), &Settings::default()).await.unwrap();
        assert!(!grade.resolved, "{text}: {}", grade.output_tail);
    }
    // The runner's own modules are not the repository's, whatever it calls its own.
    let shadow = added("pluggy.py", "raise ImportError('broken')");
    let grade = graded(&instance, &shadow, &Settings::default()).await.unwrap();
    assert_eq!(grade.tests["t/test_new.py::test_answer"], TestStatus::Failed, "{grade:?}");
    let fix = changed("product.py", "answer = 1", "answer = 2");
    let grade = graded(&instance, &[fix, shadow].concat(), &Settings::default()).await.unwrap();
    assert!(grade.resolved, "{grade:?}");
}

const REPORTED: &str = r#"import __main__, os, sys, time, unittest, pytest, product
def test_answer(): assert product.answer == 2
def test_main():
    assert os.path.basename(os.path.dirname(__main__.__file__)) == "pytest" and __main__.__name__ == "__main__"
    assert __main__.__spec__.name == "pytest.__main__" and __main__.__package__ == "pytest" and sys.argv[0] == __main__.__file__
    assert os.getcwd() in sys.path and not hasattr(__main__, "s")
def test_slow(): time.sleep(0.2)
def test_says(): assert 1 == 2, "the r\u00e9ason " + "x" * 9000
def test_skips(): pytest.skip("not here")
@pytest.fixture(autouse=True, scope="module")
def whole(): yield
class TestK:
    @classmethod
    def setup_class(cls): cls.x = 1
    def setup_method(self): self.y = 1
    def test_m(self, tmp_path): assert self.x == self.y
class TestU(unittest.TestCase):
    @classmethod
    def setUpClass(cls): cls.v = 3
    def setUp(self): self.w = 3
    def test_u(self): self.assertEqual(self.v, self.w)
"#;

#[tokio::test]
async fn a_result_says_how_long_and_why() {
    if !host_has_pytest() {
        return;
    }
    let mut instance = python(REPORTED, "[pytest]");
    let id = |name: &str| format!("t/test_new.py::{name}");
    instance.fail_to_pass = vec![id("test_answer")];
    instance.pass_to_pass = ["test_main", "test_slow", "TestK::test_m", "TestU::test_u"].map(id).to_vec();
    let fix = changed("product.py", "answer = 1", "answer = 2");
    let grade = graded(&instance, &fix, &Settings::default()).await.unwrap();
    assert!(grade.resolved && grade.suspect.is_empty(), "{grade:?}");
    let slow = &grade.tests[&id("test_slow")];
    assert!(slow.duration_ms >= 200 && slow.duration_ms <= grade.tests_ms && slow.tries == 1, "{slow:?}");
    assert!(!grade.output_tail.contains("FAILURES"), "controls are not shown: {}", grade.output_tail);
    instance.pass_to_pass.extend(["test_says", "test_skips"].map(id));
    let grade = graded(&instance, &fix, &Settings::default()).await.unwrap();
    let says = &grade.tests[&id("test_says")].message;
    assert!(says.contains("the r\u{e9}ason xxx") && says.len() <= 400, "{says}");
    assert!(grade.tests[&id("test_skips")].message.contains("not here"));
    assert!(grade.tests[&id("test_main")].message.is_empty());
}

#[tokio::test]
async fn a_runner_that_was_never_there_is_a_failure() {
    if Command::new("pytest").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok() {
        eprintln!("skipped: this host has a pytest that no repository can hide");
        return;
    }
    let mut instance = python(HONEST, "[pytest]");
    instance.fail_to_pass = strings(&["t/test_new.py::test_answer"]);
    instance.pre_commands.push_str("; echo \"raise ImportError('broken')\" > pytest.py");
    let (kind, message) = failure(&instance, &added("x", "x"), &Settings::default()).await;
    assert_eq!(kind, Kind::RunnerMissing, "{message}");
}

/// Every test but those that take the process down has its status.
const CRASHES: &str = r#"import os, pytest
def test_before(): pass
def test_abort(): os.abort()
def test_between(): pass
@pytest.fixture
def dies(): os._exit(0)
def test_fixture(dies): pass
def test_later(): assert 0
def test_interrupts(): raise KeyboardInterrupt
@pytest.mark.parametrize("x", range(20))
def test_many(x): pass
"#;

#[tokio::test]
async fn a_crash_sinks_the_test_it_happened_in_alone() {
    if !host_has_pytest() {
        return;
    }
    let mut instance = python(CRASHES, "[pytest]");
    instance.test_patch.push_str(&added("t/test_other.py", "def test_other(): pass"));
    let id = |name: &str| format!("t/test_new.py::{name}");
    instance.fail_to_pass = ["before", "abort", "between", "fixture", "later", "interrupts"].map(|n| id(&format!("test_{n}"))).to_vec();
    instance.pass_to_pass = (0..20).map(|x| id(&format!("test_many[{x}]"))).collect();
    instance.pass_to_pass.extend(strings(&["t/test_other.py::test_other", "t/test_new.py::test_before"]));
    let fix = changed("product.py", "answer = 1", "answer = 2");
    let grade = graded(&instance, &fix, &Settings::default()).await.unwrap();
    use TestStatus::*;
    for (name, status) in
        [("before", Passed), ("abort", Error), ("between", Passed), ("fixture", Error), ("later", Failed), ("interrupts", Error)]
    {
        assert_eq!(grade.tests[&id(&format!("test_{name}"))], status, "{name}\n{}", grade.output_tail);
    }
    assert_eq!((grade.fail_to_pass.passed, grade.pass_to_pass.passed, grade.resolved), (2, 22, false));
    for part in [
        "was killed by signal 6 while t/test_new.py::test_abort ran]",
        "exited with 0 while t/test_new.py::test_fixture ran]",
        "exited with 0]",
    ] {
        assert!(grade.output_tail.contains(part), "{part}\n{}", grade.output_tail);
    }
}

#[tokio::test]
async fn crashes_without_end_are_given_up() {
    if !host_has_pytest() {
        return;
    }
    let tests = "import os, pytest\n@pytest.mark.parametrize('x', range(9))\ndef test_x(x): os._exit(0)";
    let mut instance = python(tests, "[pytest]");
    instance.fail_to_pass = (0..9).map(|x| format!("t/test_new.py::test_x[{x}]")).collect();
    let grade = graded(&instance, &changed("product.py", "answer = 1", "answer = 2"), &Settings::default()).await.unwrap();
    let errors = grade.tests.values().filter(|status| **status == TestStatus::Error).count();
    assert!(errors == 4 && !grade.resolved, "{:?}", grade.tests);
    assert!(grade.tests.values().all(|test| matches!(test.status, TestStatus::Error | TestStatus::Missing)));
}

#[tokio::test]
async fn the_agents_sandbox_is_searched_for_a_runner_once() {
    let runners = grading::Runners::default();
    let mut instance = python(HONEST, "[pytest]");
    instance.language = "shell".to_owned();
    instance.pre_commands = "mkdir bin; printf '#!/bin/sh\\nexit 1\\n' > bin/python; chmod +x bin/python".to_owned();
    let sandbox = provider().start(&spec(&instance)).await.unwrap();
    grading::probe(sandbox.as_ref(), &instance, &runners).await.unwrap();
    sandbox.destroy().await.unwrap();
    if !host_has_pytest() {
        return;
    }
    instance.language = "python".to_owned();
    let sandbox = provider().start(&spec(&instance)).await.unwrap();
    let before = prepare::prepare(sandbox.as_ref(), &instance, &prepare::Settings::default()).await.unwrap();
    grading::probe(sandbox.as_ref(), &instance, &runners).await.unwrap();
    instance.pre_commands = String::new();
    let after = prepare::prepare(sandbox.as_ref(), &instance, &prepare::Settings::default()).await.unwrap();
    assert_eq!(before, after, "the search leaves nothing in the work tree");
    sandbox.destroy().await.unwrap();
}

/// Without bash: a login shell would find what this host's profile names.
#[tokio::test]
async fn an_image_without_a_runner_is_the_tasks_failure() {
    let bin = tempfile::tempdir().unwrap();
    for program in ["sh", "tail"] {
        let path = ["/usr/bin", "/bin"].map(|dir| Path::new(dir).join(program)).into_iter().find(|path| path.exists()).unwrap();
        std::os::unix::fs::symlink(path, bin.path().join(program)).unwrap();
    }
    let inner = bare(bin.path()).await;
    let instance = python(HONEST, "[pytest]");
    let failure = grading::probe(&inner, &instance, &grading::Runners::default()).await.unwrap_err();
    assert_eq!(failure.kind, Kind::NoRunner, "{failure}");
    assert!(failure.message.contains("install it in the image"), "{failure}");
}

/// The toolbox itself with another `PATH`.
async fn bare(path: &Path) -> Bare {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let theirs = std::os::fd::OwnedFd::from(theirs);
    let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_sweroll"))
        .arg("toolbox")
        .env_clear()
        .env("PATH", path)
        // A login shell reads no profile of this host.
        .env("HOME", path)
        .current_dir(path)
        .stdin(theirs.try_clone().unwrap())
        .stdout(theirs)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let stream = tokio::net::UnixStream::from_std(ours).unwrap();
    let toolbox = Toolbox::connect(stream, std::time::Duration::from_secs(60)).await.unwrap();
    Bare { toolbox, workdir: path.to_str().unwrap().to_owned(), _child: child }
}

struct Bare {
    toolbox: Toolbox,
    workdir: String,
    _child: tokio::process::Child,
}

impl Sandbox for Bare {
    fn toolbox(&self) -> &Toolbox {
        &self.toolbox
    }
    fn workdir(&self) -> &str {
        &self.workdir
    }
    fn image_digest(&self) -> &str {
        ""
    }
    fn fate(&self) -> BoxFuture<'_, Fate> {
        Box::pin(std::future::ready(Fate::default()))
    }
    fn destroy(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn hostile_text() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: [&str; 21] = [
        "diff --git ",
        "--- ",
        "+++ ",
        "a/",
        "b/",
        "\"",
        "\\",
        "\\303",
        "@@ -1,9 +1 @@",
        "\n",
        "\n-",
        "\n+",
        "rename from ",
        "/dev/null",
        "{",
        "[",
        "\"nonce\": \"n\",",
        "\"seq\": 0",
        "\"what\": \"begin\"",
        "}",
        " ",
    ];
    let word =
        prop_oneof![proptest::sample::select(&WORDS[..]).prop_map(|w| w.as_bytes().to_vec()), proptest::collection::vec(any::<u8>(), 0..4)];
    proptest::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_diff_leads_out_of_the_work_tree(bytes in hostile_text()) {
        for path in touched_paths(&bytes).unwrap_or_default() {
            prop_assert!(!path.is_empty() && !path.starts_with(b"/") && !path.contains(&0));
            prop_assert!(path.split(|b| *b == b'/').all(|part| part != b".." && part != b".git"));
        }
    }

    #[test]
    fn no_bytes_are_a_complete_report_by_chance(bytes in hostile_text()) {
        let report = Report::parse(&bytes, "the nonce of this grading", 2);
        prop_assert!(!report.complete);
        prop_assert_eq!(report.status(0), TestStatus::Missing);
    }

    #[test]
    fn any_name_that_git_can_spell_is_read(name in "[ -~\u{e0}-\u{ff}]{1,12}") {
        prop_assume!(!name.contains('/') && name != "." && name != ".." && !name.eq_ignore_ascii_case(".git"));
        let quoted: String = name.bytes().map(|b| if b.is_ascii_graphic() && b != b'"' && b != b'\\' { char::from(b).to_string() } else { format!("\\{b:03o}") }).collect();
        let diff = format!("diff --git \"a/{quoted}\" \"b/{quoted}\"\nold mode 100644\nnew mode 100755\n");
        prop_assert_eq!(touched_paths(diff.as_bytes()).unwrap(), [name.into_bytes()].into());
    }
}

mod realset {
    //! Golden patches resolve and a diff that fixes nothing does not, on real images.
    use super::*;
    use serde_json::Value;
    use sweroll::sandbox::{Docker, docker};

    fn rows(path: &Path) -> Vec<Instance> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| row(&serde_json::from_str(line).unwrap())).collect()
    }

    fn row(row: &Value) -> Instance {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let list = |key: &str| -> Vec<String> {
            row[key].as_str().map_or_else(|| serde_json::from_value(row[key].clone()).unwrap(), |t| serde_json::from_str(t).unwrap())
        };
        Instance {
            instance_id: text("instance_id").parse().unwrap(),
            repo: format!("{}/{}", text("user"), text("repo")),
            language: text("language").to_lowercase(),
            workdir: text("workdir"),
            image: text("image_url"),
            problem_statement: text("problem_statement"),
            base_commit: text("parent_commit"),
            fix_commit: text("pr_commit"),
            patch: text("patch"),
            test_patch: text("f2p_patch"),
            test_script: text("f2p_script"),
            fail_to_pass: list("FAIL_TO_PASS"),
            pass_to_pass: list("PASS_TO_PASS"),
            pre_commands: text("pre_commands").trim_end().trim_end_matches("\\n").to_owned(),
            test_cmd: String::new(),
            log_parser: String::new(),
            url: String::new(),
        }
    }

    /// `SWEROLL_REALSET_ONLY`: a part of the instance's id.
    fn instances() -> Vec<Instance> {
        let Some(path) = std::env::var_os("SWEROLL_REALSET") else {
            assert!(std::env::var_os("CI").is_none(), "set SWEROLL_REALSET to the instances.jsonl of the real set");
            eprintln!("skipped: SWEROLL_REALSET is not set");
            return Vec::new();
        };
        let only = std::env::var("SWEROLL_REALSET_ONLY").unwrap_or_default();
        rows(Path::new(&path)).into_iter().filter(|i| i.instance_id.as_str().contains(&only)).collect()
    }

    async fn docker() -> Docker {
        let toolbox_path = Some(PathBuf::from(env!("CARGO_BIN_EXE_sweroll")));
        Docker::connect(docker::Settings { toolbox_path, ..docker::Settings::default() }).await.unwrap()
    }

    #[tokio::test]
    async fn the_future_of_real_images_is_scrubbed() {
        for instance in
            instances().iter().filter(|i| ["wcwidth", "sqlparse", "h11"].iter().any(|name| i.instance_id.as_str().contains(name)))
        {
            let sandbox = docker().await.start(&spec(instance)).await.unwrap();
            let run = async |text: String| prepare::script(sandbox.as_ref(), sandbox.workdir(), 60, text.as_bytes()).await.unwrap();
            let there = format!("git cat-file -e {} && echo there\n", instance.fix_commit);
            assert_eq!(run(there.clone()).await.tail(99), "there\n", "{}: nothing to scrub", instance.instance_id);
            let prepared = prepare::prepare(sandbox.as_ref(), instance, &prepare::Settings::default()).await.unwrap();
            assert!(!prepared.base_tree.is_empty());
            assert!(!run(there).await.tail(999).contains("there\n"));
            let commits =
                "git cat-file --batch-all-objects --batch-check | grep -c commit; git log --oneline HEAD | wc -l; git status --short\n";
            let counts = run(commits.to_owned()).await.tail(999);
            let counts: Vec<&str> = counts.lines().collect();
            assert!(counts.len() == 2 && counts[0] == counts[1] && counts[0] != "1", "{}: {counts:?}", instance.instance_id);
            sandbox.destroy().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_diff_that_breaks_the_runner_is_unresolved() {
        for mut instance in instances().into_iter().filter(|i| i.instance_id.as_str().contains("packaging")) {
            // With a `minversion` pytest imports the package before it begins.
            instance.pre_commands.push_str("\nprintf '[pytest]\\nminversion = 6\\n' > pytest.ini");
            let diff = added("src/packaging/version/__init__.py", "raise ImportError('broken')");
            let grade = grading::grade(
                &docker().await,
                &spec(&instance),
                &case(&instance, &diff),
                &Settings::default(),
                &grading::Runners::default(),
            )
            .await
            .unwrap();
            assert!(!grade.resolved && grade.tests.values().all(|status| *status == TestStatus::Missing));
            assert!(grade.output_tail.contains("broken"), "{}", grade.output_tail);
        }
    }

    #[tokio::test]
    async fn tests_killed_for_want_of_memory_are_the_graders_failure() {
        let hungry =
            "def test_hungry():\n    held = bytearray(900_000_000)\n    held[::4096] = bytes([1]) * len(held[::4096])\n    assert held\n";
        for mut instance in instances().into_iter().filter(|i| i.instance_id.as_str().contains("wcwidth")) {
            instance.test_script = hungry.to_owned();
            instance.fail_to_pass.push("test_fail_to_pass.py::test_hungry".to_owned());
            let grade = async |memory: u64| {
                let spec = Spec { limits: Limits { memory, ..Limits::default() }, ..spec(&instance) };
                let runners = grading::Runners::default();
                grading::grade(&docker().await, &spec, &case(&instance, &instance.patch), &Settings::default(), &runners).await
            };
            let failure = grade(400_000_000).await.unwrap_err();
            assert_eq!(failure.kind, Kind::GradeMemory, "{failure}");
            for part in ["400000000", "sandbox.limits.memory"] {
                assert!(failure.message.contains(part), "{failure}");
            }
            let enough = grade(4 << 30).await.unwrap();
            assert!(enough.resolved, "{:?}\n{}", enough.tests, enough.output_tail);
        }
    }

    #[tokio::test]
    async fn golden_patches_resolve_and_nothing_else_does() {
        let instances = instances();
        if instances.is_empty() {
            return;
        }
        let docker = docker().await;
        let noop = added("a_note_that_fixes_nothing.txt", "x");
        let mut wrong = Vec::new();
        for instance in &instances {
            for (diff, resolved) in [(&instance.patch, true), (&noop, false)] {
                let began = std::time::Instant::now();
                let graded =
                    grading::grade(&docker, &spec(instance), &case(instance, diff), &Settings::default(), &grading::Runners::default())
                        .await;
                let took = began.elapsed().as_secs_f64();
                match &graded {
                    Ok(grade) => eprintln!(
                        "{} resolved={} f2p {}/{} p2p {}/{} {took:.2} s, tests {:.2} s",
                        instance.instance_id,
                        grade.resolved,
                        grade.fail_to_pass.passed,
                        grade.fail_to_pass.total,
                        grade.pass_to_pass.passed,
                        grade.pass_to_pass.total,
                        grade.tests_ms as f64 / 1000.0
                    ),
                    Err(failure) => eprintln!("{} {:?}: {failure}", instance.instance_id, failure.kind),
                }
                let as_wanted = graded.as_ref().is_ok_and(|g| g.resolved == resolved && (resolved || g.fail_to_pass.passed == 0));
                if !as_wanted {
                    wrong.push(
                        format!("{}: wanted resolved={resolved}, got {graded:?}", instance.instance_id)
                            .chars()
                            .take(6000)
                            .collect::<String>(),
                    );
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
