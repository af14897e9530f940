//! Every runner beside pytest, end to end in local sandboxes.

mod printed;
mod toolchains;
mod unittest;

use std::path::PathBuf;
use sweroll::domain::{Attempt, AttemptId, Grade, Instance, Reason, TestStatus};
use sweroll::grading::{self, Case, Settings};
use sweroll::sandbox::{Limits, Local, Purpose, Spec, local};

/// A repository that `pre_commands` makes of `files`, paths with texts.
fn instance(language: &str, files: &[(&str, &str)]) -> Instance {
    let mut pre_commands = "git init -q .\n".to_owned();
    for (path, text) in files {
        if let Some((directory, _)) = path.rsplit_once('/') {
            pre_commands.push_str(&format!("mkdir -p {directory}\n"));
        }
        pre_commands.push_str(&format!("cat > {path} <<'END_OF_FILE'\n{text}\nEND_OF_FILE\n"));
    }
    pre_commands.push_str("git add -A\ngit -c user.name=t -c user.email=t@t commit -qm base\n");
    Instance {
        instance_id: "made".parse().unwrap(),
        repo: "owner/made".to_owned(),
        language: language.to_owned(),
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
        pre_commands,
        test_cmd: String::new(),
        log_parser: String::new(),
        url: String::new(),
    }
}

/// Replaces a file of one line by others.
fn changed(path: &str, old: &str, new: &str) -> String {
    let lines: Vec<String> = new.lines().map(|line| format!("+{line}\n")).collect();
    format!("diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1 +1,{} @@\n-{old}\n{}", lines.len(), lines.concat())
}

fn added(path: &str, text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("+{line}\n")).collect();
    let head = format!("diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n");
    format!("{head}@@ -0,0 +1,{} @@\n{}", lines.len(), lines.concat())
}

async fn graded(instance: &Instance, diff: &str) -> Grade {
    let toolbox_path = Some(PathBuf::from(env!("CARGO_BIN_EXE_sweroll")));
    let provider = Local::new(local::Settings { toolbox_path, ..local::Settings::default() });
    let episode = format!("{}@0", instance.instance_id).parse().unwrap();
    let spec = Spec {
        run: "runners-test".to_owned(),
        attempt: AttemptId { episode, attempt: Attempt::FIRST },
        purpose: Purpose::Agent,
        image: String::new(),
        workdir: instance.workdir.clone(),
        limits: Limits::default(),
        keep: false,
        upon: None,
    };
    let case = Case { instance, diff, flaky: &[] };
    grading::grade(&provider, &spec, &case, &Settings::default(), &grading::Runners::default()).await.unwrap()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn statuses(grade: &Grade, ids: &[&str]) -> Vec<TestStatus> {
    ids.iter().map(|id| grade.tests[*id].status).collect()
}

fn reasons(grade: &Grade) -> Vec<Reason> {
    grade.suspect.iter().map(|suspicion| suspicion.reason).collect()
}
