//! The final diff is taken of files that an agent made: it must come back, within its bounds, and hold nothing but these files.

use crate::support::*;
use std::time::{Duration, Instant};
use sweroll::toolbox::client::{Toolbox, ToolboxError};
use sweroll::toolbox::protocol::{Answer, Op, OpError};

/// Longest that a diff of these few files may take, on a slow machine; a hang is what it is about.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX: u64 = 8 << 20;

async fn sh(toolbox: &Toolbox, script: &str) {
    let (end, text) = output(toolbox, shell(script)).await;
    assert_eq!(end, sweroll::toolbox::protocol::End::Exited(0), "{script}: {text}");
}

async fn snapshot(toolbox: &Toolbox, workdir: &str) -> String {
    match toolbox.call(Op::Snapshot { workdir: workdir.into(), exclude: Vec::new() }, b"").await.unwrap().0 {
        Answer::Tree { tree } => tree,
        other => panic!("{other:?}"),
    }
}

async fn diff(toolbox: &Toolbox, workdir: &str, tree: &str, settle: bool) -> Result<String, OpError> {
    let op = Op::Diff { workdir: workdir.into(), tree: tree.into(), exclude: Vec::new(), max: MAX, settle };
    let begun = Instant::now();
    let taken = tokio::time::timeout(PATIENCE, toolbox.call(op, b"")).await.expect("the diff came back");
    match taken {
        Ok((_, blob)) => {
            eprintln!("{workdir}: {} bytes in {:?}", blob.len(), begun.elapsed());
            Ok(String::from_utf8(blob.to_vec()).unwrap())
        }
        Err(ToolboxError::Op(error)) => {
            eprintln!("{workdir}: {error} in {:?}", begun.elapsed());
            Err(error)
        }
        Err(other) => panic!("{workdir}: {other}"),
    }
}

/// A directory with two files, recorded.
async fn work(toolbox: &Toolbox, name: &str) -> (String, String) {
    let at = format!("/var/tmp/{name}");
    sh(toolbox, &format!("mkdir -p {at}/d && echo one > {at}/a && echo two > {at}/d/f")).await;
    let tree = snapshot(toolbox, &at).await;
    (at, tree)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_lies_there_bends_the_diff() {
    for place in places().await {
        let sandbox = place.start("diff").await;
        let toolbox = sandbox.toolbox();

        let (at, tree) = work(toolbox, "to-root").await;
        sh(toolbox, &format!("mv {at} {at}.away && ln -s / {at}")).await;
        let taken = diff(toolbox, &at, &tree, true).await;
        assert!(matches!(taken, Ok(_) | Err(OpError::TooLarge { .. } | OpError::Invalid { .. })), "{taken:?}");

        let (at, tree) = work(toolbox, "to-toolbox").await;
        sh(toolbox, &format!("mv {at} {at}.away && ln -s /.sweroll {at}")).await;
        let taken = diff(toolbox, &at, &tree, true).await;
        assert!(matches!(taken, Ok(_) | Err(OpError::TooLarge { .. } | OpError::Invalid { .. })), "{taken:?}");

        let (at, tree) = work(toolbox, "to-processes").await;
        sh(toolbox, &format!("mv {at} {at}.away && ln -s /proc {at}")).await;
        let taken = diff(toolbox, &at, &tree, true).await;
        assert!(matches!(taken, Ok(_) | Err(OpError::TooLarge { .. } | OpError::Invalid { .. })), "{taken:?}");

        let (at, tree) = work(toolbox, "loop").await;
        sh(toolbox, &format!("rm -r {at} && ln -s {at} {at}")).await;
        let gone = diff(toolbox, &at, &tree, true).await.unwrap();
        assert!(gone.contains("deleted file") && !gone.contains("new file"), "{gone}");

        let (at, tree) = work(toolbox, "no-files").await;
        let odd = "import os, socket, sys\nos.chdir(sys.argv[1])\nos.remove('a'); os.mkfifo('a'); os.mkfifo('d/pipe')\n\
                   socket.socket(socket.AF_UNIX).bind('d/socket')\nos.symlink('/dev/zero', 'zero'); os.symlink('/etc/shadow', 'shadow')\n\
                   os.symlink('/proc/1/environ', 'd/environ'); os.link('d/f', 'hard')";
        sh(toolbox, &format!("python3 -c \"{odd}\" {at}")).await;
        let text = diff(toolbox, &at, &tree, true).await.unwrap();
        assert!(text.contains("deleted file") && text.contains("+/etc/shadow") && text.contains("+/dev/zero"), "{text}");
        assert!(text.contains("b/hard") && !text.contains("PATH=") && !text.contains("root:") && !text.contains("pipe"), "{text}");

        let (at, tree) = work(toolbox, "huge").await;
        sh(toolbox, &format!("truncate -s 1T {at}/a")).await;
        assert!(matches!(diff(toolbox, &at, &tree, true).await, Err(OpError::TooLarge { .. })));

        let (at, tree) = work(toolbox, "deep").await;
        let deep = "import os, sys\nos.chdir(sys.argv[1])\nfor n in range(3000):\n  os.mkdir('d%d' % n); os.mknod('d%d/f' % n)\n\
                    for _ in range(100):\n  os.mkdir('x' * 200); os.chdir('x' * 200)\nopen('bottom', 'w').write('deep')";
        sh(toolbox, &format!("python3 -c \"{deep}\" {at}")).await;
        let text = diff(toolbox, &at, &tree, true).await.unwrap();
        assert_eq!(text.matches("\nnew file mode").count(), 3000);

        assert_serves(toolbox).await;
        sandbox.destroy().await.unwrap();
    }
}

/// Names that a diff's reader could take for something else come back as they were.
#[tokio::test(flavor = "multi_thread")]
async fn names_do_not_forge_a_diff() {
    const NAMES: &str = r#"
import os, sys
os.chdir(sys.argv[1])
names = [b'new\nline', b'tab\tbed', b'\x1b[31mred', b'\xff\xfe', b'quo"ted', b'back\\slash', b' -> ', b'a b/c', b'a\rb', b'..x', b'-x', b'\x7f',
         b'diff --git a', b'x\ndiff --git a\n', b'+++ b', b'new\n--- a', b'e\xcc\x81', b'\xe2\x80\xae', b'x\n@@ -1 +1 @@\n+y']
for number, name in enumerate(names):
    os.makedirs(os.path.dirname(name) or b'.', exist_ok=True)
    with open(name, 'wb') as file:
        file.write(b'content %d\n' % number + [b'', b'--- a/a\n+++ b/a\n@@ -1 +1 @@\n-one\n+forged\n', b'\xff\0'][number % 3])
os.symlink(b'x\ndiff --git a/a b/a', b'li\nnk')
"#;
    for place in places().await {
        let sandbox = place.start("names").await;
        let toolbox = sandbox.toolbox();
        let (at, tree) = work(toolbox, "names").await;
        let (end, text) = output(toolbox, run(with_argument(NAMES, &at))).await;
        assert_eq!(end, sweroll::toolbox::protocol::End::Exited(0), "{text}");
        let text = diff(toolbox, &at, &tree, true).await.unwrap();

        let (copy, _) = work(toolbox, "copy").await;
        toolbox.call(Op::Apply { workdir: copy.clone(), exclude: Vec::new() }, text.as_bytes()).await.unwrap();
        assert_eq!(snapshot(toolbox, &at).await, snapshot(toolbox, &copy).await);
        sandbox.destroy().await.unwrap();
    }
}

fn with_argument(code: &str, argument: &str) -> sweroll::toolbox::protocol::Command {
    sweroll::toolbox::protocol::Command::Exec(["python3", "-c", code, argument].map(str::to_owned).to_vec())
}

/// Files that change while the diff is taken, by processes that go on.
#[tokio::test(flavor = "multi_thread")]
async fn races_do_not_bend_the_diff() {
    const RACE: &str = r#"
import os, sys, threading, time
os.chdir(sys.argv[1])
if os.fork():
    os._exit(0)
os.setsid()
null = os.open('/dev/null', os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(null, fd)
def swap():
    os.mkdir('real'); open('real/hosts', 'w').write('mine')
    while True:
        os.rename('real', 'swapped'); os.rename('swapped', 'real')
        os.symlink('/etc', 'swapped'); os.unlink('swapped')
def grow():
    with open('growing', 'ab', 0) as file:
        for _ in range(4000):
            file.write(b'more\n' * 100); time.sleep(0.0005)
def kinds():
    while True:
        open('kind', 'w').write('file'); os.unlink('kind'); os.mkfifo('kind'); os.unlink('kind')
        os.symlink('/dev/zero', 'kind'); os.unlink('kind'); os.mkdir('kind'); os.rmdir('kind')
for body in (grow, kinds):
    threading.Thread(target=body, daemon=True).start()
swap()
"#;
    for place in places().await {
        let sandbox = place.start("races").await;
        let toolbox = sandbox.toolbox();
        let (at, tree) = work(toolbox, "races").await;
        let (end, text) = output(toolbox, run(with_argument(RACE, &at))).await;
        assert_eq!(end, sweroll::toolbox::protocol::End::Exited(0), "{text}");
        for round in 0..20 {
            let taken = diff(toolbox, &at, &tree, false).await;
            assert!(matches!(&taken, Ok(_) | Err(OpError::TooLarge { .. })), "round {round}: {taken:?}");
        }
        // As at an episode's end: first everything is stopped.
        let last = diff(toolbox, &at, &tree, true).await;
        let (_, left) = output(toolbox, run(python("import os; print(len([p for p in os.listdir('/proc') if p.isdigit()]))"))).await;
        assert_eq!(left, "2\n", "{last:?}");
        sandbox.destroy().await.unwrap();
    }
}
