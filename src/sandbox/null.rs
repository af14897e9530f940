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
use std::time::Duration;

/// What stands for the digest of an image where there is none.
const DIGEST: &str = "null";
/// Name of the empty tree in git.
const TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
const LINE: &str = "src/module/part.py:1234:    return [value for value in values if value is not None]\n";
/// Most made-up output, bytes.
const MAX_OUTPUT: usize = 1 << 20;

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

/// A provider of nothing; all its sandboxes show one text.
#[derive(Debug)]
pub struct Null {
    delay: Duration,
    output: Bytes,
}

impl Null {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let bytes = settings.output_bytes.min(MAX_OUTPUT);
        let output: Vec<u8> = LINE.bytes().cycle().take(bytes).collect();
        Null { delay: Duration::from_millis(settings.delay_ms), output: output.into() }
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
        let (workdir, output) = (Arc::from(spec.workdir.as_str()), self.output.clone());
        let answers = Answers { workdir: Arc::clone(&workdir), delay: self.delay, output };
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
    output: Bytes,
}

impl Answers {
    /// Commands of ours, outside the session, say nothing.
    fn ran(&self, run: &Run) -> (Answer, Bytes) {
        let cap = usize::try_from(run.output_cap).unwrap_or(usize::MAX);
        let output = if run.session { self.output.slice(..self.output.len().min(cap)) } else { Bytes::new() };
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
        let lines = || self.output.iter().filter(|byte| **byte == b'\n').count() as u64;
        match op {
            Op::Run(run) => self.ran(run),
            Op::View { .. } => (Answer::Done, self.output.clone()),
            Op::Search(_) => (Answer::Found { total: lines(), shown: lines() }, self.output.clone()),
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
