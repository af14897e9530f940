//! The script on little repositories, each with the future hidden in another place.

use super::text;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Repo {
    dir: tempfile::TempDir,
    path: PathBuf,
    base: String,
    future: String,
}

fn git(at: &Path, args: &[&str]) -> String {
    let output = command(at).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn command(at: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(at).args(["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "protocol.file.allow=always"]);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    git
}

impl Repo {
    /// Two commits of the past, HEAD at the second on `main`, and one of the future that no name leads to.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repo");
        std::fs::create_dir(&path).unwrap();
        git(&path, &["init", "-q", "-b", "main"]);
        let repo = |base, future| Repo { path: path.clone(), dir, base, future };
        let commit = |text: &str| {
            std::fs::write(path.join("file"), text).unwrap();
            git(&path, &["add", "file"]);
            git(&path, &["commit", "-qm", text]);
            git(&path, &["rev-parse", "HEAD"])
        };
        commit("past");
        git(&path, &["tag", "-a", "v1", "-m", "old"]);
        let base = commit("base");
        let future = commit("the future");
        git(&path, &["reset", "-q", "--hard", &base]);
        repo(base, future)
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.path, args)
    }

    fn has(&self, object: &str) -> bool {
        command(&self.path).args(["cat-file", "-e", object]).stderr(Stdio::null()).status().unwrap().success()
    }

    fn scrub(&self) -> Output {
        scrub(&self.path, &self.future)
    }

    /// Scrubs, and checks that the past is as it was and that the future is nowhere.
    fn scrubbed(&self) {
        let log = self.git(&["log", "--format=%H %s"]);
        let status = self.git(&["status", "--porcelain"]);
        let blob = self.git(&["rev-parse", &format!("{}:file", self.future)]);
        let output = self.scrub();
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        for object in [self.future.as_str(), &blob] {
            assert!(!self.has(object), "{object} is still there");
        }
        assert_eq!(self.git(&["log", "--format=%H %s"]), log);
        assert_eq!(self.git(&["status", "--porcelain"]), status);
        assert_eq!(self.git(&["remote"]), "");
        self.git(&["fsck", "--full", "--strict"]);
        let names = std::fs::read_dir(self.path.join(".git")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert!(names.into_iter().all(|name| !name.starts_with("sweroll")));
    }
}

fn scrub(at: &Path, fix: &str) -> Output {
    scrub_by(Command::new("sh").current_dir(at), fix)
}

fn scrub_by(sh: &mut Command, fix: &str) -> Output {
    let mut sh = sh.arg("-s").env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    sh.stdin.take().unwrap().write_all(text(fix).as_bytes()).unwrap();
    sh.wait_with_output().unwrap()
}

#[test]
fn loose_objects_and_the_reflog_go() {
    let repo = Repo::new();
    assert!(repo.git(&["reflog"]).contains("the future") && repo.path.join(".git/ORIG_HEAD").exists());
    repo.scrubbed();
    assert_eq!(repo.git(&["reflog"]), "");
    assert!(!repo.path.join(".git/ORIG_HEAD").exists());
}

#[test]
fn an_honest_agents_git_goes_on_working() {
    let repo = Repo::new();
    std::fs::write(repo.path.join("staged"), "staged").unwrap();
    repo.git(&["add", "staged"]);
    std::fs::write(repo.path.join("file"), "dirty").unwrap();
    repo.scrubbed();
    assert_eq!(repo.git(&["symbolic-ref", "HEAD"]), "refs/heads/main");
    assert_eq!(repo.git(&["describe", "--tags"]), format!("v1-1-g{}", &repo.base[..7]));
    assert!(repo.git(&["show", ":staged"]) == "staged" && repo.git(&["diff", "--stat"]).contains("file"));
    repo.git(&["commit", "-aqm", "mine"]);
    repo.git(&["stash", "list"]);
    repo.git(&["checkout", "-qb", "try"]);
}

#[test]
fn a_detached_head_stays_detached_without_branches() {
    let repo = Repo::new();
    repo.git(&["checkout", "-q", "--detach"]);
    repo.git(&["branch", "-f", "main", &repo.future]);
    repo.scrubbed();
    assert_eq!(repo.git(&["rev-parse", "HEAD"]), repo.base);
    assert_eq!(repo.git(&["for-each-ref", "--format=%(refname)"]), "refs/tags/v1");
}

#[test]
fn every_kind_of_ref_goes() {
    let repo = Repo::new();
    let future = repo.future.clone();
    for name in
        ["refs/heads/next", "refs/heads/a/b", "refs/remotes/origin/main", "refs/notes/commits", "refs/original/x", "refs/pull/1/head"]
    {
        repo.git(&["update-ref", name, &future]);
    }
    repo.git(&["tag", "v2", &future]);
    repo.git(&["tag", "-a", "v3", "-m", "the future", &future]);
    repo.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"]);
    repo.git(&["pack-refs", "--all"]);
    repo.git(&["update-ref", "refs/bisect/bad", &future]);
    std::fs::write(repo.path.join(".git/refs/heads/broken"), "1".repeat(40)).unwrap();
    for pseudo in ["FETCH_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "NEXT_HEAD"] {
        std::fs::write(repo.path.join(".git").join(pseudo), &future).unwrap();
    }
    repo.scrubbed();
    assert_eq!(repo.git(&["for-each-ref", "--format=%(refname)"]), "refs/heads/main\nrefs/tags/v1");
    assert!(!repo.path.join(".git/FETCH_HEAD").exists() && !repo.path.join(".git/NEXT_HEAD").exists());
}

#[test]
fn remotes_and_their_branches_settings_go() {
    let repo = Repo::new();
    repo.git(&["remote", "add", "origin", "https://example.invalid/x.git"]);
    repo.git(&["remote", "add", "a.b", "https://example.invalid/y.git"]);
    repo.git(&["config", "branch.main.remote", "origin"]);
    repo.git(&["config", "branch.main.merge", "refs/heads/main"]);
    repo.scrubbed();
    assert!(!std::fs::read_to_string(repo.path.join(".git/config")).unwrap().contains("example.invalid"));
}

#[test]
fn a_stash_goes() {
    let repo = Repo::new();
    std::fs::write(repo.path.join("file"), "stashed").unwrap();
    repo.git(&["stash"]);
    let stash = repo.git(&["rev-parse", "refs/stash"]);
    repo.scrubbed();
    assert!(!repo.has(&stash) && repo.git(&["stash", "list"]).is_empty());
}

#[test]
fn packed_objects_go_however_they_are_kept() {
    let repo = Repo::new();
    repo.git(&["branch", "next", &repo.future]);
    repo.git(&["repack", "-adq"]);
    repo.git(&["commit-graph", "write", "--reachable"]);
    for entry in std::fs::read_dir(repo.path.join(".git/objects/pack")).unwrap() {
        let pack = entry.unwrap().path();
        if pack.extension().is_some_and(|e| e == "pack") {
            std::fs::write(pack.with_extension("keep"), "").unwrap();
        }
    }
    repo.scrubbed();
}

#[test]
fn replacements_and_grafts_go() {
    let repo = Repo::new();
    repo.git(&["replace", &repo.git(&["rev-parse", "HEAD^"]), &repo.future]);
    let log = repo.git(&["--no-replace-objects", "log", "--format=%H"]);
    assert!(repo.scrub().status.success());
    assert!(!repo.has(&repo.future) && repo.git(&["log", "--format=%H"]) == log);
    assert_eq!(repo.git(&["replace", "--list"]), "");
}

#[test]
fn borrowed_objects_come_home_and_the_lender_is_left_alone() {
    let lender = Repo::new();
    lender.git(&["branch", "next", &lender.future]);
    let path = lender.dir.path().join("borrower");
    git(lender.dir.path(), &["clone", "-q", "--shared", "repo", "borrower"]);
    let output = scrub(&path, &lender.future);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!path.join(".git/objects/info/alternates").exists());
    assert_eq!(git(&path, &["log", "--format=%s"]), "base\npast");
    assert!(!command(&path).args(["cat-file", "-e", &lender.future]).stderr(Stdio::null()).status().unwrap().success());
    git(&path, &["fsck", "--full"]);
    assert!(lender.has(&lender.future));
}

#[test]
fn bundles_and_packs_lying_in_the_git_directory_go() {
    let repo = Repo::new();
    repo.git(&["branch", "next", &repo.future]);
    repo.git(&["bundle", "create", ".git/all.bundle", "--all"]);
    repo.git(&["bundle", "create", ".git/objects/pack/all.bundle", "--all"]);
    repo.git(&["bundle", "create", ".git/info.bundle", "next"]);
    std::fs::write(repo.path.join(".git/objects/pack/pack-1234.pack"), "a pack without an index").unwrap();
    repo.scrubbed();
    let left: Vec<PathBuf> = walk(&repo.path.join(".git"));
    let strange = |p: &PathBuf| p.extension().is_some_and(|e| e == "bundle") || p.ends_with("pack-1234.pack");
    assert!(!left.iter().any(strange), "{left:?}");
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn another_checkout_is_a_leak_while_it_lies_there() {
    let repo = Repo::new();
    repo.git(&["worktree", "add", "-q", "../other", &repo.future]);
    let output = repo.scrub();
    assert_eq!(output.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&output.stdout).contains("another checkout"));
    std::fs::remove_dir_all(repo.dir.path().join("other")).unwrap();
    repo.scrubbed();
}

#[test]
fn a_clean_repository_is_not_repacked() {
    let repo = Repo::new();
    repo.scrubbed();
    let before = walk(&repo.path.join(".git/objects"));
    repo.scrubbed_again();
    assert_eq!(walk(&repo.path.join(".git/objects")), before);
}

#[test]
fn a_clean_repository_costs_few_calls_of_git() {
    let repo = Repo::new();
    repo.scrubbed();
    let trace = repo.dir.path().join("trace");
    let output = scrub_by(Command::new("sh").current_dir(&repo.path).env("GIT_TRACE", &trace), &repo.future);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let trace = std::fs::read_to_string(trace).unwrap();
    let calls: Vec<&str> = trace.lines().filter(|line| line.contains("built-in: git")).collect();
    assert!((1..=9).contains(&calls.len()), "{} calls:\n{}", calls.len(), calls.join("\n"));
}

#[test]
fn a_branch_that_is_named_like_head_goes() {
    let repo = Repo::new();
    repo.git(&["update-ref", "refs/heads/HEAD", &repo.future]);
    repo.scrubbed();
    assert_eq!(repo.git(&["for-each-ref", "--format=%(refname)"]), "refs/heads/main\nrefs/tags/v1");
}

impl Repo {
    fn scrubbed_again(&self) {
        let output = self.scrub();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_fix_that_the_base_holds_is_no_leak() {
    let repo = Repo::new();
    let past = repo.git(&["rev-parse", "HEAD^"]);
    assert!(scrub(&repo.path, &past).status.success());
}

#[test]
fn without_a_repository_there_is_nothing_to_scrub() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    assert!(scrub(dir.path(), "").status.success());
    assert!(dir.path().join("file").exists());
}

#[test]
fn a_repository_above_the_working_directory_is_never_touched() {
    let repo = Repo::new();
    let below = repo.path.join("below");
    std::fs::create_dir(&below).unwrap();
    assert_eq!(scrub(&below, &repo.future).status.code(), Some(10));
    std::fs::create_dir(below.join(".git")).unwrap();
    assert!(!scrub(&below, &repo.future).status.success());
    assert!(repo.has(&repo.future) && !repo.git(&["reflog"]).is_empty());
}

#[test]
fn a_repository_without_a_commit_passes() {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q"]);
    let output = scrub(dir.path(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_fix_commit_that_is_no_hash_reaches_no_shell() {
    assert!(text("$(touch x)").starts_with("fix=\n"));
}
