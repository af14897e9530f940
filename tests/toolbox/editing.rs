//! View, create, replace, insert, undo, read and write.

use super::harness::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};
use sweroll::toolbox::client::ToolboxError;
use sweroll::toolbox::protocol::{Answer, Op, OpError};

fn replace(path: &str, old: &str, new: &str) -> Op {
    Op::Replace { path: path.into(), old: old.into(), new: new.into() }
}

fn insert(path: &str, line: u64, text: &str) -> Op {
    Op::Insert { path: path.into(), line, text: text.into() }
}

fn view(path: &str, range: Option<(i64, i64)>) -> Op {
    Op::View { path: path.into(), range }
}

fn create(path: &str, overwrite: bool) -> Op {
    Op::Create { path: path.into(), overwrite }
}

fn undo(path: &str) -> Op {
    Op::Undo { path: path.into() }
}

impl Bench {
    async fn text(&self, op: Op) -> String {
        String::from_utf8_lossy(&self.op(op, b"").await.unwrap()).into_owned()
    }
}

#[tokio::test]
async fn a_replacement_is_made_once_and_shown() {
    let bench = start().await;
    let path = bench.write("f.py", "a = 1\nb = 2\nc = 3\n");
    let shown = bench.text(replace(&path, "b = 2", "b = 5\nbb = 6")).await;
    assert_eq!(shown, "     1\ta = 1\n     2\tb = 5\n     3\tbb = 6\n     4\tc = 3\n");
    assert_eq!(bench.bytes("f.py"), b"a = 1\nb = 5\nbb = 6\nc = 3\n");
    let message = bench.refused(replace(&path, " = ", " == ")).await;
    assert!(message.contains("4 times") && message.contains("lines 1, 2, 3, 4"), "{message}");
    let message = bench.refused(replace(&path, "  bb  =  6", "x")).await;
    assert!(message.contains("does not occur"), "{message}");
    let message = bench.refused(replace(&path, "    c = 3", "x")).await;
    assert!(message.contains("Lines 4 to 4 differ from it only in white space"), "{message}");
    let overlapping = bench.write("o", "aaa");
    assert!(bench.refused(replace(&overlapping, "aa", "b")).await.contains("2 times"));
    assert!(bench.refused(replace(&path, "", "x")).await.contains("empty"));
    assert!(bench.refused(replace(&path, "a", "a")).await.contains("same"));
    assert_eq!(bench.bytes("f.py"), b"a = 1\nb = 5\nbb = 6\nc = 3\n");
    // Relative to the session's directory.
    bench.sh("mkdir d; cd d; echo x > g").await;
    bench.text(replace("g", "x", "")).await;
    assert_eq!(bench.bytes("d/g"), b"\n");
}

#[tokio::test]
async fn line_ends_marks_and_encodings_are_kept() {
    let bench = start().await;
    let crlf = bench.write("crlf", "one\r\ntwo\r\nthree\r\n");
    bench.text(replace(&crlf, "one\ntwo\n", "1\n2\n2b\n")).await;
    assert_eq!(bench.bytes("crlf"), b"1\r\n2\r\n2b\r\nthree\r\n");
    bench.text(replace(&crlf, "three", "3\n4")).await;
    assert_eq!(bench.bytes("crlf"), b"1\r\n2\r\n2b\r\n3\r\n4\r\n");
    bench.text(insert(&crlf, 1, "x\ny")).await;
    assert_eq!(bench.bytes("crlf"), b"1\r\nx\r\ny\r\n2\r\n2b\r\n3\r\n4\r\n");
    let mixed = bench.write("mixed", "a\r\nb\nc\n");
    bench.text(replace(&mixed, "b\nc", "B\nC")).await;
    assert_eq!(bench.bytes("mixed"), b"a\r\nB\nC\n");
    let bom = bench.write("bom", b"\xef\xbb\xbfa\nb\n");
    bench.text(insert(&bom, 0, "first")).await;
    bench.text(replace(&bom, "a\nb", "c")).await;
    assert_eq!(bench.bytes("bom"), b"\xef\xbb\xbffirst\nc\n");
    let latin = bench.write("latin", b"# caf\xe9\nx = 1\n# \xff\n");
    bench.text(replace(&latin, "x = 1", "x = 'h\u{fc}'")).await;
    assert_eq!(bench.bytes("latin"), b"# caf\xe9\nx = 'h\xfc'\n# \xff\n");
    bench.text(replace(&latin, "# caf\u{e9}", "# th\u{e9}")).await;
    assert_eq!(bench.bytes("latin"), b"# th\xe9\nx = 'h\xfc'\n# \xff\n");
    let message = bench.refused(replace(&latin, "x", "\u{2192}")).await;
    assert!(message.contains("Latin-1"), "{message}");
    let utf8 = bench.write("utf8", "\u{e9}\u{e9} \u{fffd}\n".replace('\u{fffd}', "x"));
    bench.text(replace(&utf8, "x", "\u{2192}")).await;
    assert_eq!(bench.bytes("utf8"), "\u{e9}\u{e9} \u{2192}\n".as_bytes());
}

#[tokio::test]
async fn mode_owner_links_and_time_are_right() {
    let bench = start().await;
    let path = bench.write("script", "#!/bin/sh\nold\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4750)).unwrap();
    symlink("script", bench.path("link")).unwrap();
    symlink("link", bench.path("linklink")).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if root {
        std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4750)).unwrap();
    }
    let begun = SystemTime::now() - Duration::from_secs(5);
    bench.text(replace(bench.path("linklink").to_str().unwrap(), "old", "new")).await;
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(bench.bytes("script"), b"#!/bin/sh\nnew\n");
    assert_eq!(meta.mode() & 0o7777, 0o4750);
    assert!(meta.modified().unwrap() > begun);
    assert!(!root || (meta.uid(), meta.gid()) == (1234, 4321));
    assert!(fs::symlink_metadata(bench.path("linklink")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(bench.work()).unwrap().count(), 3, "a temporary file was left");

    let one = bench.write("hard1", "old\n");
    fs::hard_link(&one, bench.path("hard2")).unwrap();
    bench.text(replace(&one, "old", "a much longer text")).await;
    bench.text(replace(&one, "much ", "")).await;
    assert_eq!(bench.bytes("hard2"), b"a longer text\n");
    symlink("dangling target", bench.path("dangling")).unwrap();
    bench.op(create(bench.path("dangling").to_str().unwrap(), false), b"made\n").await.unwrap();
    assert_eq!(bench.bytes("dangling target"), b"made\n");
}

#[tokio::test]
async fn insertion_keeps_lines_whole() {
    let bench = start().await;
    let path = bench.write("f", "a\nb");
    assert_eq!(bench.text(insert(&path, 0, "0")).await, "     1\t0\n     2\ta\n     3\tb\n");
    assert_eq!(bench.bytes("f"), b"0\na\nb");
    bench.text(insert(&path, 3, "c\n")).await;
    assert_eq!(bench.bytes("f"), b"0\na\nb\nc\n");
    bench.text(insert(&path, 4, "d")).await;
    assert_eq!(bench.bytes("f"), b"0\na\nb\nc\nd");
    assert!(bench.refused(insert(&path, 6, "x")).await.contains("5 lines"));
    let empty = bench.write("empty", "");
    bench.text(insert(&empty, 0, "x\n")).await;
    assert_eq!(bench.bytes("empty"), b"x\n");
}

#[tokio::test]
async fn views_are_numbered_and_ranged() {
    let bench = start().await;
    let path = bench.write("f", b"a\nb\r\n\xff\nlast");
    let whole = bench.op(view(&path, None), b"").await.unwrap();
    assert_eq!(whole, b"     1\ta\n     2\tb\r\n     3\t\xff\n     4\tlast\n");
    assert_eq!(bench.text(view(&path, Some((2, 2)))).await, "     2\tb\r\n");
    assert_eq!(bench.text(view(&path, Some((4, -1)))).await, "     4\tlast\n");
    assert_eq!(bench.text(view(&path, Some((4, 99)))).await, "     4\tlast\n");
    for range in [(0, 1), (3, 2), (-1, -1), (1, -2), (i64::MIN, i64::MAX)] {
        assert!(bench.refused(view(&path, Some(range))).await.contains("no range"), "{range:?}");
    }
    assert!(bench.refused(view(&path, Some((5, -1)))).await.contains("4 lines"));
    assert_eq!(bench.text(view(&bench.write("empty", ""), None)).await, "");
    let long = bench.write("long", "x\n".repeat(1_000_000));
    let shown = bench.text(view(&long, None)).await;
    assert!(shown.len() < (1 << 20) + 200 && shown.ends_with("for more]\n"), "{}", &shown[shown.len() - 200..]);
    assert_eq!(bench.text(view(&long, Some((999_999, -1)))).await, "999999\tx\n1000000\tx\n");
    let line = bench.write("line", "y".repeat(5 << 20) + "\nz\n");
    let shown = bench.text(view(&line, None)).await;
    assert!(shown.len() < (1 << 20) + 300 && shown.contains("[cut: line 1"), "{}", shown.len());
}

#[tokio::test]
async fn a_directory_is_shown_two_levels_deep_without_hidden_entries() {
    let bench = start().await;
    for name in ["b/c/d", "a", ".hidden/x", "b/.h", "b/e"] {
        bench.write(name, "");
    }
    let work = bench.work().display().to_string();
    let expected = format!("{work}/\n{work}/a\n{work}/b/\n{work}/b/c/\n{work}/b/e\n");
    assert_eq!(bench.text(view(".", None)).await.replace("/./", "/"), expected);
    assert_eq!(bench.text(view(&work, None)).await, expected);
    assert!(bench.refused(view(&work, Some((1, 2)))).await.contains("directory"));
}

#[tokio::test]
async fn create_makes_parents_and_refuses_what_is_there() {
    let bench = start().await;
    let path = bench.path("new/dir/f").to_str().unwrap().to_owned();
    bench.op(create(&path, false), b"1").await.unwrap();
    assert_eq!(bench.bytes("new/dir/f"), b"1");
    assert!(bench.refused(create(&path, false)).await.contains("exists already"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    bench.op(create(&path, true), b"2").await.unwrap();
    assert_eq!((bench.bytes("new/dir/f"), fs::metadata(&path).unwrap().mode() & 0o777), (b"2".to_vec(), 0o755));
    assert!(bench.refused(create(bench.path("new").to_str().unwrap(), true)).await.contains("is a directory"));
    assert!(bench.refused(create(&format!("{path}/below"), false)).await.contains("not a directory"));
}

#[tokio::test]
async fn edits_are_taken_back_last_first() {
    let bench = start().await;
    let path = bench.path("f").to_str().unwrap().to_owned();
    bench.op(create(&path, false), b"one\n").await.unwrap();
    bench.text(replace(&path, "one", "two")).await;
    bench.text(insert(&path, 1, "three")).await;
    bench.op(create(&path, true), b"four\n").await.unwrap();
    assert_eq!(bench.text(undo(&path)).await, "     1\ttwo\n     2\tthree\n");
    assert_eq!(bench.text(undo(&path)).await, "     1\ttwo\n");
    assert_eq!(bench.text(undo(&path)).await, "     1\tone\n");
    assert!(bench.text(undo(&path)).await.contains("was removed"));
    assert!(!bench.path("f").exists());
    assert!(bench.refused(undo(&path)).await.contains("no edit"));
}

#[tokio::test]
async fn what_cannot_be_edited_is_said_in_words() {
    let bench = start().await;
    let binary = bench.write("binary", b"a\0b");
    let directory = bench.work().to_str().unwrap().to_owned();
    for op in [view(&binary, None), replace(&binary, "a", "b"), insert(&binary, 0, "x")] {
        assert!(bench.refused(op).await.contains("binary"));
    }
    for op in [view("/no/such", None), replace("/no/such", "a", "b"), undo("/no/such")] {
        assert!(bench.refused(op).await.contains("/no/such"));
    }
    assert!(bench.refused(replace(&directory, "a", "b")).await.contains("is a directory"));
    bench.sh("mkfifo pipe").await;
    assert!(bench.refused(view(bench.path("pipe").to_str().unwrap(), None)).await.contains("no regular file"));
    fs::File::create(bench.path("sparse")).unwrap().set_len(1 << 40).unwrap();
    let sparse = bench.path("sparse").to_str().unwrap().to_owned();
    assert!(bench.refused(replace(&sparse, "a", "b")).await.contains("too many"));
    assert!(bench.refused(replace("/proc/version", "Linux", "x")).await.contains("/proc/version"));
    symlink("loop", bench.path("loop")).unwrap();
    bench.refused(create(bench.path("loop").to_str().unwrap(), true)).await;
}

#[tokio::test]
async fn bytes_are_read_and_written_as_they_are() {
    let bench = start().await;
    let path = bench.path("x/y").to_str().unwrap().to_owned();
    let bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    bench.op(Op::Write { path: path.clone(), mode: 0o751 }, &bytes).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o751);
    let read = |offset, max| bench.toolbox.call(Op::Read { path: path.clone(), offset, max }, b"");
    let (answer, blob) = read(0, u64::MAX).await.unwrap();
    assert_eq!((answer, blob.as_ref()), (Answer::Read { size: 3 << 20 }, bytes.as_slice()));
    let (answer, blob) = read(255, 3).await.unwrap();
    assert_eq!((answer, blob.as_ref()), (Answer::Read { size: 3 << 20 }, &[255u8, 0, 1][..]));
    let (answer, blob) = read(1 << 40, 3).await.unwrap();
    assert_eq!((answer, blob.len()), (Answer::Read { size: 3 << 20 }, 0));
    let large = bench.toolbox.call(Op::Write { path: path.clone(), mode: 0o644 }, &vec![0; (64 << 20) + 1]).await;
    assert!(matches!(large, Err(ToolboxError::Op(OpError::Invalid { .. }))), "{large:?}");
    assert!(matches!(bench.toolbox.call(Op::Usage, b"").await.unwrap().0, Answer::Usage(_)));
}

#[tokio::test]
async fn a_view_far_into_a_huge_file_ends_and_says_what_to_do() {
    let bench = start().await;
    let path = bench.write("huge", "line\n".repeat(4000));
    std::fs::File::options().write(true).open(&path).unwrap().set_len(8 << 40).unwrap();
    let refused = bench.refused(Op::View { path: path.clone(), range: Some((9000, 9001)) }).await;
    assert!(refused.contains("use a command"), "{refused}");
    let shown = bench.op(Op::View { path, range: Some((3999, 4000)) }, b"").await.unwrap();
    assert_eq!(String::from_utf8(shown).unwrap(), "  3999\tline\n  4000\tline\n");
}
