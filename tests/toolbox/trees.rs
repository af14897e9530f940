//! Snapshot, diff and apply.

use super::harness::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use sweroll::toolbox::client::ToolboxError;
use sweroll::toolbox::protocol::{Answer, Op, OpError};

const MAX: u64 = 8 << 20;

impl Bench {
    async fn snapshot_of(&self, workdir: &Path, exclude: &[&str]) -> String {
        let exclude = exclude.iter().map(ToString::to_string).collect();
        match self.toolbox.call(Op::Snapshot { workdir: workdir.to_str().unwrap().into(), exclude }, b"").await.unwrap() {
            (Answer::Tree { tree }, _) => tree,
            other => panic!("{other:?}"),
        }
    }

    async fn try_diff(&self, workdir: &Path, tree: &str, exclude: &[&str], max: u64) -> Result<Vec<u8>, OpError> {
        let exclude = exclude.iter().map(ToString::to_string).collect();
        self.op(Op::Diff { workdir: workdir.to_str().unwrap().into(), tree: tree.into(), exclude, max, settle: false }, b"").await
    }

    async fn diff_of(&self, workdir: &Path, tree: &str) -> Vec<u8> {
        self.try_diff(workdir, tree, &[], MAX).await.unwrap()
    }

    async fn apply(&self, workdir: &Path, diff: &[u8]) -> Result<(), OpError> {
        let exclude = ["**/__pycache__/**", "**/*.pyc"].map(str::to_owned).to_vec();
        self.op(Op::Apply { workdir: workdir.to_str().unwrap().into(), exclude }, diff).await.map(drop)
    }

    /// The diff that `change` makes in `repo`, after it was applied to a copy of what was there before, which must then be the same.
    async fn round_trip(&self, change: impl FnOnce(&Path)) -> String {
        let repo = self.path("repo");
        let copy = self.path("copy");
        let status = Process::new("cp").arg("-a").arg(&repo).arg(&copy).status().unwrap();
        assert!(status.success());
        let tree = self.snapshot_of(&repo, &[]).await;
        assert_eq!(self.diff_of(&repo, &tree).await, b"", "nothing has changed yet");
        change(&repo);
        let diff = self.diff_of(&repo, &tree).await;
        let applied = self.apply(&copy, &diff).await;
        assert_eq!(applied, Ok(()), "{}", String::from_utf8_lossy(&diff));
        assert_eq!(read_tree(&copy), read_tree(&repo), "{}", String::from_utf8_lossy(&diff));
        String::from_utf8_lossy(&diff).into_owned()
    }

    /// A repository with one commit in `repo`.
    fn repository(&self) -> PathBuf {
        self.write("repo/kept.txt", "kept\n");
        self.write("repo/a/edited.txt", "one\ntwo\nthree\n");
        git(&self.path("repo"), &["init", "-q"]);
        git(&self.path("repo"), &["add", "-A"]);
        git(&self.path("repo"), &["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "base"]);
        self.path("repo")
    }
}

fn git(dir: &Path, args: &[&str]) {
    assert!(Process::new("git").args(args).current_dir(dir).status().unwrap().success(), "{args:?}");
}

/// Kind and content by path, repositories' own data left out.
fn read_tree(root: &Path) -> BTreeMap<Vec<u8>, (char, Vec<u8>)> {
    fn read(root: &Path, at: &Path, into: &mut BTreeMap<Vec<u8>, (char, Vec<u8>)>) {
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            let meta = entry.metadata().unwrap();
            if entry.file_name() == ".git" {
                continue;
            }
            if meta.is_symlink() {
                into.insert(name, ('l', fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()));
            } else if meta.is_dir() {
                read(root, &path, into);
            } else if meta.is_file() {
                let kind = if meta.permissions().mode() & 0o100 == 0 { 'f' } else { 'x' };
                into.insert(name, (kind, fs::read(&path).unwrap()));
            }
        }
    }
    let mut tree = BTreeMap::new();
    read(root, root, &mut tree);
    tree
}

#[tokio::test]
async fn every_kind_of_change_survives_the_round_trip() {
    let bench = start().await;
    let repo = bench.repository();
    bench.write("repo/crlf", "a\r\nb\r\n");
    bench.write("repo/no end", "a\nb");
    bench.write("repo/binary", [0, 159, 146, 150, 0]);
    bench.write("repo/latin1", b"caf\xe9\n");
    bench.write("repo/to be a dir", "file\n");
    bench.write("repo/dir/to be a file/x", "x\n");
    bench.write("repo/gone/deep/er", "x\n");
    bench.write("repo/empty then not", "");
    symlink("kept.txt", repo.join("link")).unwrap();
    symlink("/nowhere", repo.join("link to be a file")).unwrap();
    let diff = bench
        .round_trip(|repo| {
            fs::write(repo.join("crlf"), "a\r\nB\r\nc\n").unwrap();
            fs::write(repo.join("no end"), "a\nc").unwrap();
            fs::write(repo.join("binary"), [0, 1, 2, 255, 0]).unwrap();
            fs::write(repo.join("latin1"), b"th\xe9\n").unwrap();
            fs::write(repo.join("empty then not"), "x").unwrap();
            fs::write(repo.join("new empty"), "").unwrap();
            fs::remove_file(repo.join("to be a dir")).unwrap();
            fs::create_dir(repo.join("to be a dir")).unwrap();
            fs::write(repo.join("to be a dir/x"), "in\n").unwrap();
            fs::remove_dir_all(repo.join("dir/to be a file")).unwrap();
            fs::write(repo.join("dir/to be a file"), "now\n").unwrap();
            fs::remove_dir_all(repo.join("gone")).unwrap();
            fs::remove_file(repo.join("link")).unwrap();
            symlink("a/edited.txt", repo.join("link")).unwrap();
            fs::remove_file(repo.join("link to be a file")).unwrap();
            fs::write(repo.join("link to be a file"), "file\n").unwrap();
            fs::remove_file(repo.join("a/edited.txt")).unwrap();
            symlink("../kept.txt", repo.join("a/edited.txt")).unwrap();
            fs::set_permissions(repo.join("kept.txt"), fs::Permissions::from_mode(0o755)).unwrap();
            fs::write(repo.join("naïve \"quoted\"\tname\n"), "x\n").unwrap();
            fs::write(repo.join(std::ffi::OsStr::from_bytes(b"not utf8 \xff")), "x\n").unwrap();
        })
        .await;
    assert!(diff.contains("old mode 100644\nnew mode 100755") && diff.contains("GIT binary patch"), "{diff}");
}

/// Deterministic edits of text, from a seed.
fn edited(text: &str, mut seed: u64) -> String {
    let mut next = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for edit in 0..=next(4) {
        let at = next(lines.len() as u64) as usize;
        match next(3) {
            0 => lines[at] = format!("    changed {edit}"),
            1 => lines.insert(at, format!("    added {edit}\n\n    and {edit}")),
            _ => drop(lines.remove(at)),
        }
    }
    lines.join("\n") + if next(3) == 0 { "" } else { "\n" }
}

#[tokio::test]
async fn the_diff_of_text_is_the_one_that_git_gives() {
    let bench = start().await;
    let repo = bench.repository();
    let source = |file: usize| -> String { (0..12).map(|i| format!("def f{file}_{i}(x):\n    y = x + {i}\n\n    return y\n\n")).collect() };
    for file in 0..40 {
        bench.write(&format!("repo/src/m{file}.py"), source(file));
    }
    bench.write("repo/with space", "a\n");
    bench.write("repo/b\u{e4} \"q\"", "a\n");
    bench.write("repo/gone", "a\n");
    bench.write("repo/gone empty", "");
    bench.write("repo/one line", "a");
    bench.write("repo/to link", "kept.txt");
    symlink("kept.txt", repo.join("link")).unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "more"]);
    let tree = bench.snapshot_of(&repo, &[]).await;
    for file in 0..40 {
        bench.write(&format!("repo/src/m{file}.py"), edited(&source(file), file as u64));
    }
    fs::write(repo.join("with space"), "b\n").unwrap();
    fs::write(repo.join("b\u{e4} \"q\""), "b").unwrap();
    fs::write(repo.join("new"), "a\r\n\n").unwrap();
    fs::write(repo.join("new empty"), "").unwrap();
    fs::write(repo.join("one line"), "b").unwrap();
    fs::set_permissions(repo.join("one line"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(repo.join("kept.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["gone", "gone empty", "link", "to link"] {
        fs::remove_file(repo.join(name)).unwrap();
    }
    symlink("with space", repo.join("link")).unwrap();
    symlink("kept.txt", repo.join("to link")).unwrap();
    let ours = String::from_utf8(bench.diff_of(&repo, &tree).await).unwrap();
    git(&repo, &["add", "-A"]);
    let args =
        ["diff", "--cached", "--binary", "--full-index", "--no-renames", "--diff-algorithm=myers", "--src-prefix=a/", "--dst-prefix=b/"];
    let theirs = Process::new("git").args(args).current_dir(&repo).output().unwrap();
    let theirs = String::from_utf8(theirs.stdout).unwrap();
    for (our, their) in ours.split("diff --git ").zip(theirs.split("diff --git ")) {
        assert_eq!(our, their);
    }
    assert_eq!(ours, theirs);
}

#[tokio::test]
async fn content_in_any_encoding_makes_a_diff_in_utf8() {
    let bench = start().await;
    bench.repository();
    bench.write("repo/latin1.py", b"# caf\xe9\na = 1\n");
    bench.write("repo/to utf8", b"caf\xe9\n");
    bench.write("repo/gone", b"\xff\n");
    let diff = bench
        .round_trip(|repo| {
            fs::write(repo.join("latin1.py"), b"# caf\xe9\na = 2\n").unwrap();
            fs::write(repo.join("to utf8"), "caf\u{e9}\n").unwrap();
            fs::write(repo.join("new"), b"\xfe\xffx").unwrap();
            fs::write(repo.join("late nul"), [&b"x\n".repeat(9000)[..], b"\0"].concat()).unwrap();
            fs::remove_file(repo.join("gone")).unwrap();
        })
        .await;
    assert!(!diff.contains('\u{fffd}'), "{diff}");
    assert_eq!(diff.matches("\nGIT binary patch\n").count(), 5, "{diff}");
    // Whatever stored it has trimmed it.
    let copy = bench.path("copy");
    fs::remove_dir_all(&copy).unwrap();
    assert!(Process::new("cp").arg("-a").arg(bench.path("repo")).arg(&copy).status().unwrap().success());
    let tree = bench.snapshot_of(&bench.path("repo"), &[]).await;
    bench.write("repo/new", b"\xfe\xffy");
    let diff = bench.diff_of(&bench.path("repo"), &tree).await;
    bench.apply(&copy, diff.trim_ascii()).await.unwrap();
    assert_eq!(bench.bytes("copy/new"), b"\xfe\xffy");
}

#[tokio::test]
async fn the_diff_needs_no_program_and_no_directory_but_its_own() {
    let bench = start_alone().await;
    bench.write("repo/a", "one\n");
    let tree = bench.snapshot_of(Path::new("/work/repo"), &[]).await;
    bench.write("repo/a", b"tw\xf6\n");
    bench.write("repo/b", "new\n");
    let diff = String::from_utf8(bench.diff_of(Path::new("/work/repo"), &tree).await).unwrap();
    assert!(diff.contains("GIT binary patch") && diff.ends_with("+new\n"), "{diff}");
}

#[tokio::test]
async fn a_directory_that_is_gone_has_no_files() {
    let bench = start().await;
    let repo = bench.repository();
    let tree = bench.snapshot_of(&repo, &[]).await;
    fs::rename(&repo, bench.path("aside")).unwrap();
    let gone = bench.diff_of(&repo, &tree).await;
    let text = String::from_utf8_lossy(&gone);
    assert!(text.matches("deleted file mode 100644").count() == 2 && text.contains("-kept\n"), "{text}");
    fs::write(&repo, "a file\n").unwrap();
    assert_eq!(bench.diff_of(&repo, &tree).await, gone);
    fs::remove_file(&repo).unwrap();
    symlink("repo", &repo).unwrap();
    assert_eq!(bench.diff_of(&repo, &tree).await, gone);
    fs::remove_file(&repo).unwrap();
    symlink("aside", &repo).unwrap();
    assert_eq!(bench.diff_of(&repo, &tree).await, b"");
}

#[tokio::test]
async fn a_settled_diff_is_taken_when_nothing_runs_any_more() {
    let bench = start().await;
    let repo = bench.repository();
    let tree = bench.snapshot_of(&repo, &[]).await;
    // Two that write and fork on, each in a session of its own and without its mark.
    let writer = "n=0; while :; do n=$((n+1)); echo $n > repo/churn; (echo $n > repo/churn.$((n % 9))) & wait; done";
    let started =
        bench.sh(&format!("for i in 1 2; do env -i PATH=\"$PATH\" setsid sh -c '{writer}' >/dev/null 2>&1 & echo $!; done")).await;
    let seen = repo.join("churn");
    assert!(eventually(|| seen.exists()).await);
    let exclude = Vec::new();
    let op = Op::Diff { workdir: repo.to_str().unwrap().into(), tree, exclude, max: MAX, settle: true };
    let diff = bench.op(op.clone(), b"").await.unwrap();
    assert!(started.lines().count() == 2 && started.lines().all(|pid| !is_alive(pid)), "{started}");
    assert!(diff.starts_with(b"diff --git a/churn b/churn\n"));
    assert_eq!(bench.op(op, b"").await.unwrap(), diff);
    assert_eq!(bench.sh("echo still here").await, "still here\n");
}

#[tokio::test]
async fn ignored_and_untracked_files_count_and_the_agent_s_repository_is_untouched() {
    let bench = start().await;
    let repo = bench.repository();
    bench.write("repo/.gitignore", "*.log\nignored/\n");
    let before = bench.sh("cd repo && git status --porcelain=v2 --ignored && sha256sum .git/index .git/config && cd ..").await;
    let tree = bench.snapshot_of(&repo, &["**/*.pyc"]).await;
    bench.write("repo/x.log", "x\n");
    bench.write("repo/ignored/y", "y\n");
    bench.write("repo/a/z.pyc", "z\n");
    let diff = String::from_utf8(bench.try_diff(&repo, &tree, &["**/*.pyc"], MAX).await.unwrap()).unwrap();
    assert!(diff.contains("+++ b/x.log") && diff.contains("+++ b/ignored/y") && !diff.contains("pyc"), "{diff}");
    for name in ["x.log", "ignored", "a/z.pyc"] {
        let path = repo.join(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    assert_eq!(bench.sh("cd repo && git status --porcelain=v2 --ignored && sha256sum .git/index .git/config").await, before);
}

#[tokio::test]
async fn nested_and_deleted_repositories_hide_nothing() {
    let bench = start().await;
    bench.repository();
    let diff = bench
        .round_trip(|repo| {
            fs::create_dir(repo.join("nested")).unwrap();
            git(&repo.join("nested"), &["init", "-q"]);
            fs::write(repo.join("nested/file"), "in\n").unwrap();
            fs::create_dir(repo.join("committed")).unwrap();
            git(&repo.join("committed"), &["init", "-q"]);
            fs::write(repo.join("committed/file"), "in\n").unwrap();
            git(&repo.join("committed"), &["add", "-A"]);
            git(&repo.join("committed"), &["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"]);
            fs::create_dir(repo.join("worktree")).unwrap();
            fs::write(repo.join("worktree/.git"), "gitdir: /nowhere\n").unwrap();
            fs::write(repo.join("worktree/file"), "in\n").unwrap();
            fs::remove_dir_all(repo.join(".git")).unwrap();
        })
        .await;
    for path in ["nested/file", "committed/file", "worktree/file"] {
        assert!(diff.contains(&format!("+++ b/{path}\n")), "{diff}");
    }
    assert!(!diff.contains("160000") && !diff.contains(".git"), "{diff}");
}

#[tokio::test]
async fn hostile_configuration_and_attributes_change_nothing() {
    let bench = start().await;
    let repo = bench.repository();
    bench.write("repo/crlf.txt", "a\r\n$Id$\r\n");
    bench
        .round_trip(|repo| {
            let program = "touch \"$OLDPWD/../pwned\" /tmp/pwned-by-git-config; cat";
            let config = format!(
                "[core]\n\tautocrlf = true\n\tfsmonitor = {program:?}\n\thooksPath = hooks\n\tpager = {program:?}\n\tworktree = /\n\
                 [filter \"evil\"]\n\tclean = {program:?}\n\tsmudge = {program:?}\n\trequired = true\n\
                 [diff \"evil\"]\n\ttextconv = {program:?}\n\tcommand = {program:?}\n[diff]\n\texternal = {program:?}\n\tnoprefix = true\n"
            );
            fs::write(repo.join(".git/config"), config).unwrap();
            let attributes = "* text=auto eol=lf ident filter=evil diff=evil working-tree-encoding=UTF-16\n*.bin binary\nkept.txt -diff\n";
            fs::write(repo.join(".gitattributes"), attributes).unwrap();
            fs::create_dir_all(repo.join(".git/info")).unwrap();
            fs::write(repo.join(".git/info/attributes"), attributes).unwrap();
            fs::write(repo.join("crlf.txt"), "a\r\n$Id$\r\nb\n\r\n").unwrap();
            fs::write(repo.join("kept.txt"), "kept\r\nmore\n").unwrap();
        })
        .await;
    assert!(!Path::new("/tmp/pwned-by-git-config").exists());
    // The attributes are there from the beginning now, for diff and apply alike.
    fs::remove_dir_all(bench.path("copy")).unwrap();
    let diff = bench
        .round_trip(|repo| {
            fs::write(repo.join("crlf.txt"), "A\r\n$Id: x $\n\r\n").unwrap();
            fs::write(repo.join("kept.txt"), "kept\r\nmore\r\n").unwrap();
            fs::write(repo.join("x.bin"), "text\n").unwrap();
        })
        .await;
    assert!(diff.contains("+text") && !diff.contains("GIT binary patch"), "{diff}");
    assert!(repo.join(".git/config").exists());
}

#[tokio::test]
async fn sockets_pipes_and_devices_are_skipped_and_links_not_followed() {
    let bench = start().await;
    let repo = bench.repository();
    fs::write(bench.path("outside"), "secret\n").unwrap();
    let diff = bench
        .round_trip(|repo| {
            let _socket = std::os::unix::net::UnixListener::bind(repo.join("socket")).unwrap();
            rustix::fs::mknodat(rustix::fs::CWD, repo.join("fifo"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
            symlink("../outside", repo.join("out")).unwrap();
            symlink("..", repo.join("up")).unwrap();
            symlink("loop", repo.join("loop")).unwrap();
        })
        .await;
    assert!(!diff.contains("socket") && !diff.contains("fifo") && !diff.contains("secret"), "{diff}");
    assert!(repo.join("fifo").exists());
}

#[tokio::test]
async fn a_diff_over_its_limit_is_refused_and_a_huge_file_never_held() {
    let bench = start().await;
    let repo = bench.repository();
    let sparse = fs::File::create(repo.join("base sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    let tree = bench.snapshot_of(&repo, &[]).await;
    assert_eq!(bench.diff_of(&repo, &tree).await, b"");
    fs::write(repo.join("long"), "0123456789\n".repeat(10_000)).unwrap();
    assert!(bench.diff_of(&repo, &tree).await.len() > 110_000);
    let refused = bench.try_diff(&repo, &tree, &[], 50_000).await;
    assert!(matches!(refused, Err(OpError::TooLarge { size: 120_000.., max: 50_000 })), "{refused:?}");
    fs::remove_file(repo.join("long")).unwrap();
    fs::File::create(repo.join("sparse")).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(bench.try_diff(&repo, &tree, &[], MAX).await, Err(OpError::TooLarge { size, .. }) if size == 1 << 40));
    fs::remove_file(repo.join("sparse")).unwrap();
    sparse.set_len(41 << 20).unwrap();
    assert!(matches!(bench.try_diff(&repo, &tree, &[], MAX).await, Err(OpError::TooLarge { size, .. }) if size == 41 << 20));
    // Of the same size, and yet changed.
    sparse.set_len(40 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"x", 1000).unwrap();
    assert!(matches!(bench.try_diff(&repo, &tree, &[], MAX).await, Err(OpError::TooLarge { size, .. }) if size == 40 << 20));
    std::os::unix::fs::FileExt::write_at(&sparse, b"\0", 1000).unwrap();
    assert_eq!(bench.diff_of(&repo, &tree).await, b"");
}

#[tokio::test]
async fn a_diff_that_would_cost_much_is_refused_before_it_is_paid() {
    let bench = start().await;
    let repo = bench.repository();
    let tree = bench.snapshot_of(&repo, &[]).await;
    let before = bench.written();
    fs::File::create(repo.join("core")).unwrap().set_len(7 << 30).unwrap();
    assert!(matches!(bench.try_diff(&repo, &tree, &[], MAX).await, Err(OpError::TooLarge { size, .. }) if size == 7 << 30));
    fs::remove_file(repo.join("core")).unwrap();
    for part in 0..40 {
        fs::File::create(repo.join(format!("part{part}"))).unwrap().set_len(30 << 20).unwrap();
    }
    assert!(matches!(bench.try_diff(&repo, &tree, &[], MAX).await, Err(OpError::TooLarge { size, .. }) if size > 1 << 30));
    let (read, written) = bench.written();
    assert!(read - before.0 < 8 << 20 && written - before.1 < 8 << 20, "read {read}, wrote {written}, before {before:?}");
}

#[tokio::test]
async fn a_change_that_keeps_size_and_modification_time_is_seen() {
    let bench = start().await;
    let repo = bench.repository();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let tree = bench.snapshot_of(&repo, &[]).await;
    let path = repo.join("kept.txt");
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "tpek\n").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
    assert!(String::from_utf8(bench.diff_of(&repo, &tree).await).unwrap().contains("+tpek"));
}

#[tokio::test]
async fn the_diff_needs_no_file_that_the_agent_could_delete() {
    let bench = start().await;
    let repo = bench.repository();
    let tree = bench.snapshot_of(&repo, &[]).await;
    let mine = bench.process.id();
    let left = ["/run", "/tmp", "/dev/shm", "/var/tmp"].iter().flat_map(|d| fs::read_dir(d).into_iter().flatten().flatten());
    let left: Vec<_> = left.filter(|e| e.file_name().to_string_lossy().starts_with(&format!(".sweroll-{mine}-"))).collect();
    assert!(left.is_empty(), "{left:?}");
    fs::write(repo.join("kept.txt"), "changed\n").unwrap();
    assert!(bench.diff_of(&repo, &tree).await.ends_with(b"-kept\n+changed\n"));
    // No doing of the model's.
    let unknown = bench.try_diff(&repo, &"0".repeat(40), &[], MAX).await;
    assert!(matches!(&unknown, Err(OpError::Failed { message }) if message.contains("recorded")), "{unknown:?}");
}

#[tokio::test]
async fn a_diff_is_applied_whole_or_not_at_all() {
    let bench = start().await;
    let repo = bench.repository();
    let good = "diff --git a/kept.txt b/kept.txt\n--- a/kept.txt\n+++ b/kept.txt\n@@ -1 +1 @@\n-kept\n+changed\n";
    let bad = "diff --git a/a/edited.txt b/a/edited.txt\n--- a/a/edited.txt\n+++ b/a/edited.txt\n@@ -1,3 +1,3 @@\n one\n-TWO\n+2\n three\n";
    let before = read_tree(&repo);
    let error = bench.apply(&repo, format!("{good}{bad}").as_bytes()).await.unwrap_err();
    assert!(matches!(&error, OpError::Rejected { message } if message.contains("edited.txt")), "{error:?}");
    assert_eq!(read_tree(&repo), before);
    bench.apply(&repo, good.trim_end().as_bytes()).await.unwrap();
    assert_eq!(bench.bytes("repo/kept.txt"), b"changed\n");
    bench.apply(&repo, b"\n \n").await.unwrap();
    assert!(matches!(bench.apply(&repo, b"no diff at all").await, Err(OpError::Rejected { .. })));
    let rename = "diff --git a/kept.txt b/moved/kept.txt\nsimilarity index 100%\nrename from kept.txt\nrename to moved/kept.txt\n";
    bench.apply(&repo, rename.as_bytes()).await.unwrap();
    assert_eq!(bench.bytes("repo/moved/kept.txt"), b"changed\n");
}

#[tokio::test]
async fn caches_give_way_to_a_file_in_place_of_their_directory() {
    let bench = start().await;
    let repo = bench.repository();
    bench.write("repo/pk/one.py", "1\n");
    bench.write("repo/pk/sub/two.py", "2\n");
    bench.write("repo/lk/three.py", "3\n");
    let tree = bench.snapshot_of(&repo, &[]).await;
    fs::remove_dir_all(repo.join("pk")).unwrap();
    fs::remove_dir_all(repo.join("lk")).unwrap();
    fs::write(repo.join("pk"), "file\n").unwrap();
    symlink("a", repo.join("lk")).unwrap();
    let diff = bench.diff_of(&repo, &tree).await;
    let lay = || {
        let _ = fs::remove_dir_all(bench.path("fresh"));
        bench.write("fresh/pk/one.py", "1\n");
        bench.write("fresh/pk/sub/two.py", "2\n");
        bench.write("fresh/lk/three.py", "3\n");
        bench.write("fresh/a/__pycache__/four.pyc", "cache");
        for cache in ["pk/__pycache__/one.pyc", "pk/sub/two.pyc", "pk/sub/__pycache__/deep/er", "lk/__pycache__/three.pyc"] {
            bench.write(&format!("fresh/{cache}"), "cache");
        }
        fs::create_dir_all(bench.path("fresh/pk/sub/empty")).unwrap();
    };
    lay();
    let fresh = bench.path("fresh");
    bench.apply(&fresh, &diff).await.unwrap();
    assert_eq!(bench.bytes("fresh/pk"), b"file\n");
    assert_eq!(fs::read_link(fresh.join("lk")).unwrap(), Path::new("a"));
    assert!(fresh.join("a/__pycache__/four.pyc").exists());
    // A file that the diff does not know is no cache: nothing at all is changed then.
    lay();
    bench.write("fresh/pk/sub/unknown.py", "x\n");
    let before = read_tree(&fresh);
    let refused = bench.apply(&fresh, &diff).await;
    assert!(matches!(&refused, Err(OpError::Rejected { message }) if message.contains("pk/sub/unknown.py")), "{refused:?}");
    assert_eq!(read_tree(&fresh), before);
}

#[tokio::test]
async fn a_diff_cannot_leave_its_directory() {
    let bench = start().await;
    let repo = bench.repository();
    fs::create_dir(bench.path("outside")).unwrap();
    symlink("../outside", repo.join("out")).unwrap();
    let new = |path: &str| format!("diff --git a/{path} b/{path}\nnew file mode 100755\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n");
    let link =
        "diff --git a/ln b/ln\nnew file mode 120000\n--- /dev/null\n+++ b/ln\n@@ -0,0 +1 @@\n+../outside\n\\ No newline at end of file\n";
    let absolute = bench.path("absolute").to_str().unwrap().to_owned();
    for diff in
        [new("../x"), new("out/x"), new(".git/hooks/post-checkout"), new("a/.git/config"), link.to_owned() + &new("ln/x"), new(&absolute)]
    {
        let refused = bench.apply(&repo, diff.as_bytes()).await;
        assert!(matches!(refused, Err(OpError::Rejected { .. })), "{refused:?}: {diff}");
    }
    assert_eq!(fs::read_dir(bench.path("outside")).unwrap().count(), 0);
    assert!(!bench.path("x").exists() && !repo.join(".git/hooks/post-checkout").exists() && !Path::new(&absolute).exists());
}

#[tokio::test]
async fn a_missing_directory_or_git_is_said_so() {
    let bench = start().await;
    let missing = Op::Snapshot { workdir: "/no/such/dir".into(), exclude: vec![] };
    assert!(bench.refused(missing).await.contains("/no/such/dir"));
}

/// A file of the generated trees.
#[derive(Debug, Clone)]
enum File {
    Bytes { content: Vec<u8>, executable: bool },
    Link(String),
}

fn files() -> impl Strategy<Value = BTreeMap<String, File>> {
    let line = prop::sample::select(vec![
        "a\n",
        "b\n",
        "c\r\n",
        "\n",
        "\r\n",
        "+x\n",
        "-x\n",
        " x \t\n",
        "no end",
        "\u{e9}\n",
        "diff --git a/a b/b\n",
    ]);
    let text = prop::collection::vec(line, 0..12).prop_map(|lines| lines.concat().into_bytes());
    let content = prop_oneof![4 => text, 1 => prop::collection::vec(any::<u8>(), 0..300), 1 => Just(vec![0; 9000])];
    let file = prop_oneof![
        6 => (content, any::<bool>()).prop_map(|(content, executable)| File::Bytes { content, executable }),
        // No link to itself: git refuses to put a directory in its place.
        1 => prop::sample::select(vec!["nowhere", "/", "../b", "."]).prop_map(|target| File::Link(target.to_owned())),
    ];
    let name = prop::sample::select(vec!["a", "b", "a-b", "a.b", "a b", "a/a", "a/b", "a/c/d", "b/x", "c/d/e/f", "\u{e4}\"\\", "z"]);
    prop::collection::btree_map(name.prop_map(str::to_owned), file, 0..9)
}

/// A file where another needs a directory is left out, and so is one that a link would put elsewhere.
fn lay(root: &Path, files: &BTreeMap<String, File>) {
    let _ = fs::remove_dir_all(root);
    fs::create_dir_all(root).unwrap();
    for (name, file) in files {
        let path = root.join(name);
        let parent = path.parent().unwrap();
        if fs::create_dir_all(parent).is_err() || parent.canonicalize().unwrap() != parent || path.symlink_metadata().is_ok() {
            continue;
        }
        match file {
            File::Bytes { content, executable } => {
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(if *executable { 0o755 } else { 0o644 })).unwrap();
            }
            File::Link(target) => symlink(target, &path).unwrap(),
        }
    }
}

#[test]
fn any_change_of_any_tree_survives_the_round_trip() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bench = runtime.block_on(start());
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let strategy = (files(), files());
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&strategy, |(before, after)| {
        runtime.block_on(async {
            let work = bench.work().canonicalize().unwrap();
            let (repo, copy) = (work.join("repo"), work.join("copy"));
            lay(&copy, &before);
            lay(&repo, &before);
            // A toolbox keeps a bounded number of snapshots.
            let bench = start().await;
            let tree = bench.snapshot_of(&repo, &[]).await;
            lay(&repo, &after);
            let diff = bench.diff_of(&repo, &tree).await;
            let applied = bench.apply(&copy, &diff).await;
            prop_assert_eq!(&applied, &Ok(()), "{}", String::from_utf8_lossy(&diff));
            prop_assert_eq!(read_tree(&copy), read_tree(&repo));
            Ok(())
        })
    });
    result.unwrap();
}

#[tokio::test]
async fn a_tree_has_the_name_that_git_gives_it() {
    let bench = start().await;
    let repo = bench.repository();
    fs::write(repo.join("x\n\"y"), "x").unwrap();
    fs::remove_dir_all(repo.join(".git")).unwrap();
    git(&repo, &["init", "-q"]);
    git(&repo, &["add", "-A"]);
    let output = Process::new("git").arg("write-tree").current_dir(&repo).output().unwrap();
    assert_eq!(bench.snapshot_of(&repo, &[]).await, String::from_utf8(output.stdout).unwrap().trim());
    let answer = bench.toolbox.call(Op::Snapshot { workdir: "/no".into(), exclude: vec!["[".into()] }, b"").await;
    assert!(matches!(answer, Err(ToolboxError::Op(OpError::Invalid { .. }))));
}
