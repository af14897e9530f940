//! Changes to trees, made by hand: one for each thing that a golden patch can hold.

use super::sandbox::{Tree, git, tree};
use std::{fs, path::Path};
use sweroll::endpoint::server::Rng;

/// A change to a tree, made by hand.
pub struct Case {
    pub name: &'static str,
    pub before: &'static [(&'static str, &'static [u8])],
    pub change: fn(&Path),
}

fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Lines that do not compress, so that the patch takes several commands.
fn noise(bytes: usize) -> String {
    let mut rng = Rng::new(1);
    (0..bytes).map(|n| if n % 79 == 78 { '\n' } else { char::from(b'!' + rng.below(90) as u8) }).collect()
}

const CODE: &[u8] = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\neleven\ntwelve\nthirteen\nfourteen\nfifteen\n";

pub const CASES: &[Case] = &[
    Case {
        name: "edits",
        before: &[("src/a.txt", CODE), ("b.txt", b"  x = 1\n  y = 2\n")],
        change: |d| {
            put(
                d,
                "src/a.txt",
                String::from_utf8_lossy(CODE).replace("two\n", "2\n$HOME `id` 'q'\n").replace("ten\n", "").replace("fifteen", "15"),
            );
            put(d, "b.txt", "  x = 1\n  y = \"\\n\"\n");
        },
    },
    Case {
        name: "many-edits",
        before: &[("a", CODE), ("b", CODE), ("c", CODE), ("d", CODE), ("e", CODE), ("f", CODE)],
        change: |d| {
            for name in ["a", "b", "c", "d", "e", "f"] {
                put(d, name, String::from_utf8_lossy(CODE).replace("one\n", "1\n1\n").replace("nine", "9").replace("fifteen\n", ""));
            }
        },
    },
    Case {
        name: "not-unique",
        before: &[("a", b"x\ny\nz\n1\n2\n3\n4\n5\n6\n7\nx\ny\nz\n")],
        change: |d| put(d, "a", "x\ny\nz\n1\n2\n3\n4\n5\n6\n7\nx\nY\nz\n"),
    },
    Case {
        name: "not-unique-out-of-sight",
        before: &[("a", b"p\nx\nq\n1\n2\n3\n4\np\nx\nq\n")],
        change: |d| put(d, "a", "P\nx\nq\n1\n2\n3\n4\np\nx\nq\n"),
    },
    Case { name: "blank-edges", before: &[("a", b"\n\n  x\n\n\n")], change: |d| put(d, "a", "\n\n  y\n\n\n") },
    Case {
        name: "new-and-empty",
        before: &[("a", b"a\n")],
        change: |d| {
            put(d, "deep/er/new.txt", "EOF\n</parameter>\n</function>\nEOF_\n");
            put(d, "empty", "");
        },
    },
    Case { name: "deleted", before: &[("a", b"a\n"), ("gone", CODE)], change: |d| fs::remove_file(d.join("gone")).unwrap() },
    Case { name: "crlf", before: &[("a", b"one\r\ntwo\r\nthree\r\n")], change: |d| put(d, "a", "one\r\n2\r\nthree\r\nfour\n") },
    Case {
        name: "no-eol",
        before: &[("a", b"one\ntwo"), ("b", b"x\n")],
        change: |d| {
            put(d, "a", "one\n2");
            put(d, "b", "y");
        },
    },
    Case {
        name: "binary",
        before: &[("a", b"\0\x01\x02\xff\n"), ("b.txt", CODE)],
        change: |d| {
            put(d, "a", b"\0\x01\x03\xfe");
            put(d, "new.bin", (0..=255u8).cycle().take(5000).collect::<Vec<_>>());
            put(d, "b.txt", String::from_utf8_lossy(CODE).replace("six", "6"));
        },
    },
    Case {
        name: "mode-rename-link",
        before: &[("run.sh", b"#!/bin/sh\n"), ("old", CODE)],
        change: |d| {
            use std::os::unix::fs::{PermissionsExt, symlink};
            fs::set_permissions(d.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(d.join("old"), d.join("new")).unwrap();
            symlink("run.sh", d.join("link")).unwrap();
        },
    },
    Case {
        name: "non-ascii",
        before: &[("naïve ü.txt", "größe = 1\n".as_bytes()), ("b.py", "s = 'é'\nt = 2\n".as_bytes())],
        change: |d| {
            put(d, "naïve ü.txt", "größe = 2 # 日本語\n");
            put(d, "b.py", "s = 'ü🎉'\nt = 2\n");
        },
    },
    Case {
        name: "big",
        before: &[("a", CODE)],
        change: |d| {
            put(d, "big.txt", noise(300_000));
            put(d, "a", String::from_utf8_lossy(CODE).replace("six", "6"));
        },
    },
];

/// A repository before the change, the patch, and the tree after it.
pub fn build(case: &Case) -> (tempfile::TempDir, String, Tree) {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in case.before {
        put(dir.path(), name, bytes);
    }
    for args in [&["init", "-q"][..], &["config", "core.autocrlf", "false"], &["add", "-A"], &["commit", "-qm", "before"]] {
        git(dir.path(), args);
    }
    (case.change)(dir.path());
    git(dir.path(), &["add", "-A"]);
    let patch = git(dir.path(), &["diff", "--cached", "--binary", "-M"]);
    git(dir.path(), &["reset", "-q", "--hard"]);
    let applied = tempfile::tempdir().unwrap();
    git(dir.path(), &["worktree", "add", "-q", "-f", applied.path().join("w").to_str().unwrap()]);
    fs::write(applied.path().join("p"), &patch).unwrap();
    git(&applied.path().join("w"), &["apply", "--whitespace=nowarn", "../p"]);
    let want = tree(&applied.path().join("w"));
    (dir, patch, want)
}
