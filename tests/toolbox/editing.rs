//! View, create, replace, insert, undo, read and write.

use super::harness::*;
use sweroll::toolbox::protocol::{Op, OpError};

fn replace(path: &str, old: &str, new: &str) -> Op {
    Op::Replace { path: path.into(), old: old.into(), new: new.into() }
}

#[tokio::test]
async fn a_replacement_is_made_once_and_shown() {
    let bench = start().await;
    let path = bench.write("f.py", "a = 1\nb = 2\nc = 3\n");
    let shown = bench.op(replace(&path, "b = 2", "b = 5\nbb = 6"), b"").await.unwrap();
    assert_eq!(String::from_utf8(shown).unwrap(), "     1\ta = 1\n     2\tb = 5\n     3\tbb = 6\n     4\tc = 3\n");
    assert_eq!(bench.bytes("f.py"), b"a = 1\nb = 5\nbb = 6\nc = 3\n");
    let message = bench.refused(replace(&path, " = ", " == ")).await;
    assert!(message.contains("4 times") && message.contains("lines 1, 2, 3, 4"), "{message}");
    let message = bench.refused(replace(&path, "  bb  =  6", "x")).await;
    assert!(message.contains("does not occur"), "{message}");
    let message = bench.refused(replace(&path, "    c = 3", "x")).await;
    assert!(message.contains("Lines 4 to 4 differ from it only in white space"), "{message}");
}
