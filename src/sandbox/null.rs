//! Sandboxes without anything in them, to measure the engine alone: no process, no stream, no file. Each call is answered in
//! this process after a delay, commands with made-up output, and the final diff is empty, so that grading starts no sandbox.

use super::{Fate, Provider, Sandbox, Spec};
use crate::domain::Failure;
use crate::toolbox::{
    client::{Direct, Toolbox},
    protocol::{Answer, End, Op, OpError, Ran, Run, Usage},
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What stands for the digest of an image where there is none.
const DIGEST: &str = "null";
/// Name of the empty tree in git.
const TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
/// Most made-up output, bytes.
const MAX_OUTPUT: usize = 1 << 20;
/// Bytes of text beyond the output's: outputs begin at any place of these.
const VARIETY: usize = 1 << 20;
/// Bytes from one output's beginning to the next one's; odd, so that they come to all places.
const STRIDE: usize = 99_991;
const WORDS: [&str; 24] = [
    "value",
    "self",
    "return",
    "None",
    "for",
    "in",
    "import",
    "request",
    "session",
    "def",
    "test",
    "assert",
    "path",
    "config",
    "=",
    "==",
    "if",
    "not",
    "raise",
    "ValueError",
    "len",
    "items",
    "=>",
    "0x7f",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Milliseconds before a call is answered.
    pub delay_ms: u64,
    /// Bytes of output of a command of the session, of a view and of a search; at most 1 MiB.
    pub output_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { delay_ms: 0, output_bytes: 2048 }
    }
}

/// A provider of nothing; all its sandboxes show parts of one text.
#[derive(Debug)]
pub struct Null {
    delay: Duration,
    bytes: usize,
    text: Bytes,
}

/// Lines as a search through source text prints them.
fn text(bytes: usize) -> Bytes {
    let mut text = String::with_capacity(bytes + 100);
    let mut state = 1_u64;
    while text.len() < bytes {
        text.push_str("src/");
        for word in 0..11 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let drawn = usize::try_from(state >> 40).unwrap_or_default();
            match word {
                1 => text.push_str(&format!(".py:{}:", drawn % 5000)),
                _ => text.push_str(WORDS[drawn % WORDS.len()]),
            }
            text.push(if word == 10 { '\n' } else { ' ' });
        }
    }
    text.truncate(bytes);
    text.into()
}

impl Null {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let bytes = settings.output_bytes.min(MAX_OUTPUT);
        Null { delay: Duration::from_millis(settings.delay_ms), bytes, text: text(bytes + VARIETY) }
    }
}

impl Provider for Null {
    fn notice(&self) -> Option<String> {
        Some("sandbox `null` runs nothing: every observation is made up".to_owned())
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Failure>> {
        std::future::ready(Ok(())).boxed()
    }

    fn start<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Box<dyn Sandbox>, Failure>> {
        let workdir: Arc<str> = Arc::from(spec.workdir.as_str());
        let answers = Answers {
            workdir: Arc::clone(&workdir),
            delay: self.delay,
            bytes: self.bytes,
            text: self.text.clone(),
            // Another place for every attempt.
            at: AtomicUsize::new(spec.attempt.to_string().bytes().fold(0, |at, byte| at.wrapping_mul(31).wrapping_add(usize::from(byte)))),
        };
        let sandbox: Box<dyn Sandbox> = Box::new(NullSandbox { toolbox: Toolbox::direct(Arc::new(answers)), workdir });
        std::future::ready(Ok(sandbox)).boxed()
    }

    fn sweep<'a>(&'a self, _run: &'a str) -> BoxFuture<'a, Result<usize, Failure>> {
        std::future::ready(Ok(0)).boxed()
    }
}

struct NullSandbox {
    toolbox: Toolbox,
    workdir: Arc<str>,
}

impl Sandbox for NullSandbox {
    fn toolbox(&self) -> &Toolbox {
        &self.toolbox
    }

    fn workdir(&self) -> &str {
        &self.workdir
    }

    fn image_digest(&self) -> &str {
        DIGEST
    }

    fn is_null(&self) -> bool {
        true
    }

    fn fate(&self) -> BoxFuture<'_, Fate> {
        std::future::ready(Fate::default()).boxed()
    }

    fn destroy(self: Box<Self>) -> BoxFuture<'static, Result<(), Failure>> {
        std::future::ready(Ok(())).boxed()
    }
}

struct Answers {
    workdir: Arc<str>,
    delay: Duration,
    bytes: usize,
    text: Bytes,
    at: AtomicUsize,
}

impl Answers {
    fn output(&self) -> Bytes {
        let from = self.at.fetch_add(STRIDE, Ordering::Relaxed) % VARIETY;
        self.text.slice(from..from + self.bytes)
    }

    /// Commands of ours, outside the session, say nothing.
    fn ran(&self, run: &Run) -> (Answer, Bytes) {
        let cap = usize::try_from(run.output_cap).unwrap_or(usize::MAX);
        let output = if run.session { self.output() } else { Bytes::new() };
        let output = output.slice(..output.len().min(cap));
        let ran = Ran {
            end: End::Exited(0),
            duration_ms: u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX),
            total: output.len() as u64,
            head: output.len() as u64,
            cwd: self.workdir.to_string(),
            report: 0,
            report_total: 0,
            left: 0,
        };
        (Answer::Ran(ran), output)
    }

    fn now(&self, op: &Op) -> (Answer, Bytes) {
        let lines = (self.bytes / 80) as u64;
        match op {
            Op::Run(run) => self.ran(run),
            Op::View { .. } => (Answer::Done, self.output()),
            Op::Search(_) => (Answer::Found { total: lines, shown: lines }, self.output()),
            Op::Find { .. } => (Answer::Found { total: 0, shown: 0 }, Bytes::new()),
            Op::Read { .. } => (Answer::Read { size: 0 }, Bytes::new()),
            Op::Snapshot { .. } => (Answer::Tree { tree: TREE.to_owned() }, Bytes::new()),
            Op::Usage => (Answer::Usage(Usage::default()), Bytes::new()),
            Op::Create { .. }
            | Op::Replace { .. }
            | Op::Insert { .. }
            | Op::Undo { .. }
            | Op::Directory { .. }
            | Op::Write { .. }
            | Op::Diff { .. }
            | Op::Apply { .. } => (Answer::Done, Bytes::new()),
        }
    }
}

impl Direct for Answers {
    fn answer(&self, op: Op) -> BoxFuture<'_, Result<(Answer, Bytes), OpError>> {
        Box::pin(async move {
            if !self.delay.is_zero() {
                tokio::time::sleep(self.delay).await;
            }
            Ok(self.now(&op))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Limits, Purpose};
    use crate::toolbox::protocol::Command;

    #[tokio::test]
    async fn a_call_is_answered_after_the_delay_and_the_diff_is_empty() {
        let null = Null::new(Settings { delay_ms: 70, output_bytes: 500 });
        let spec = Spec {
            run: "r".into(),
            attempt: "i@0.1".parse().unwrap(),
            purpose: Purpose::Agent,
            image: String::new(),
            workdir: "/w".into(),
            limits: Limits::default(),
            keep: false,
            upon: None,
        };
        let sandbox = null.start(&spec).await.unwrap();
        let run = |session| {
            Op::Run(Run {
                what: Command::Shell("ls".into()),
                session,
                cwd: None,
                env: Vec::new(),
                deadline_ms: 1000,
                output_cap: 400,
                report_cap: 0,
            })
        };
        let began = tokio::time::Instant::now();
        let (answer, output) = sandbox.toolbox().call(run(true), &[]).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(70), "{:?}", began.elapsed());
        assert!(matches!(answer, Answer::Ran(Ran { end: End::Exited(0), total: 400, head: 400, ref cwd, .. }) if cwd == "/w"));
        assert_eq!(output.len(), 400);
        assert!(sandbox.toolbox().call(run(false), &[]).await.unwrap().1.is_empty());
        let diff = Op::Diff { workdir: "/w".into(), tree: TREE.into(), exclude: Vec::new(), max: 10, settle: true };
        assert_eq!(sandbox.toolbox().call(diff, &[]).await.unwrap(), (Answer::Done, Bytes::new()));
    }
}
