//! Performs one agent's turns: asks the model, routes its calls to the sandbox, and has each fact durable before the
//! next one is paid for: a reply is synced while its calls run.

use super::{
    history::Context,
    machine::{Limits, Machine, Next, Reply, Spent},
    prompt::Scaffold,
};
use crate::{
    domain::{
        ExitReason, Failure, Kind, Message, Role, ToolCall, Transcript,
        event::EventKind,
        transcript::{Begun, Ended, Entry, Observation, Response},
    },
    endpoint::{ModelClient, ModelError, Request, pool},
    sandbox::Sandbox,
    toolbox::{
        client::ToolboxError,
        protocol::{Answer, Op, OpError, Usage},
    },
    tools::{AFTER_SUBMIT, Malformed, Plan, SUBMITTED},
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// Where entries become durable.
pub trait Spool: Send + Sync {
    /// Has the entry written behind the one before it, for whose end it waits.
    fn put<'a>(&'a mut self, entry: &'a Entry) -> BoxFuture<'a, Result<(), Failure>>;
    /// Waits until what was put last is durable, if it was paid for.
    fn settle(&mut self) -> BoxFuture<'_, Result<(), Failure>>;
}

/// Takes the run's events; waits where those who watch are behind.
pub type Emit = Arc<dyn Fn(EventKind) -> BoxFuture<'static, ()> + Send + Sync>;

/// What all agents of a run share.
#[derive(Clone)]
pub struct Shared {
    pub client: Arc<dyn ModelClient>,
    /// The longest wait for one reply, whatever holds it up.
    pub patience: Duration,
    pub scaffold: Arc<Scaffold>,
    pub limits: Limits,
    /// Pathspecs left out of the diff.
    pub exclude: Arc<[String]>,
    /// Bytes of a diff; a larger one is a failure of class `model`.
    pub max_diff_bytes: u64,
    pub emit: Emit,
}

/// One agent at work.
struct Runner<'a> {
    shared: &'a Shared,
    sandbox: &'a dyn Sandbox,
    spool: &'a mut dyn Spool,
    transcript: Transcript,
    context: Context,
    machine: Machine,
    /// The session's working directory, as last heard.
    cwd: String,
    began: Instant,
    /// Time in which the endpoint's limits or its failures held the episode up: it is not the model's.
    waited: Duration,
    /// All attempts at an episode begin with the same prompt.
    affinity: u64,
}

/// What stopped the loop: an exit reason, or the failure that left none.
type Stopped = Result<ExitReason, Failure>;

/// Runs the episode to its end. Whatever ended it, the diff is salvaged and the transcript has an `ended`.
pub fn run<'a>(
    shared: &'a Shared,
    sandbox: &'a dyn Sandbox,
    spool: &'a mut dyn Spool,
    begun: Begun,
    admitted: Instant,
) -> impl Future<Output = Transcript> + Send + 'a {
    // Boxes: most of its time an episode waits for the model, and has no room for anything else then.
    let begin = Box::pin(Runner::begin(shared, sandbox, spool, begun));
    async move {
        let (mut runner, durable) = begin.await;
        let stopped = match durable {
            Ok(()) => runner.turns().await,
            Err(failure) => Err(failure),
        };
        Box::pin(runner.end(stopped, admitted)).await;
        runner.transcript
    }
}

impl<'a> Runner<'a> {
    /// Has the prompt in the spool: one that cannot be written is found before anything is paid for.
    async fn begin(shared: &'a Shared, sandbox: &'a dyn Sandbox, spool: &'a mut dyn Spool, begun: Begun) -> (Self, Result<(), Failure>) {
        let context = Context::new(&begun.messages, &begun.tools);
        let affinity = pool::key(&begun.id.episode.to_string());
        let transcript = Transcript::new(&begun);
        // The prompt's text lives on in the transcript alone.
        let durable = keep(spool, &Entry::Begun(begun)).await;
        let cwd = sandbox.workdir().to_owned();
        let (machine, began, waited) = (Machine::default(), Instant::now(), Duration::ZERO);
        (Runner { shared, sandbox, spool, transcript, context, machine, cwd, began, waited, affinity }, durable)
    }

    /// Salvages the diff, and has the end in the spool.
    async fn end(&mut self, stopped: Stopped, admitted: Instant) {
        let entry = Entry::Ended(self.salvage(stopped, admitted).await);
        // What cannot be written here any more is still in the transcript, which is committed next.
        if let Err(failure) = keep(self.spool, &entry).await {
            tracing::warn!(%failure, "the end of an attempt is not in its spool");
        }
        self.transcript.apply(entry);
    }

    async fn turns(&mut self) -> Stopped {
        loop {
            if let Some(exit) = self.machine.before_turn(&self.shared.limits, self.spent()) {
                return Ok(exit);
            }
            let response = match self.ask().await? {
                Ok(response) => response,
                Err(exit) => return Ok(exit),
            };
            let cut = response.finish_reason == "length";
            let turn = self.transcript.turns.len() as u32;
            self.context.replied(response.usage, &response.message);
            let Response { usage, cost_usd, latency_ms, .. } = response;
            let message = self.record(Entry::Response(response)).await?;
            let calls = message.map(|message| self.shared.scaffold.toolset.calls(message, turn)).unwrap_or_default();
            let reply = match calls.is_empty() {
                _ if cut => Reply::Cut,
                true => Reply::NoCall,
                false => Reply::Calls,
            };
            (self.shared.emit)(EventKind::TurnDone { id: self.transcript.begun.id.clone(), usage, cost_usd, latency_ms }).await;
            match self.machine.replied(&self.shared.limits, reply) {
                Next::Exit(exit) => return Ok(exit),
                Next::Remind => self.remind(self.shared.scaffold.reminder()).await?,
                Next::ExplainCut => Box::pin(self.explain_cut()).await?,
                Next::Act => {
                    if let Some(exit) = Box::pin(self.act(calls)).await? {
                        return Ok(exit);
                    }
                }
            }
        }
    }

    fn spent(&self) -> Spent {
        Spent {
            turns: self.transcript.turns.len() as u32,
            completion_tokens: self.transcript.usage.completion_tokens,
            cost_usd: self.transcript.cost_usd,
            wall_s: self.worked().as_secs(),
            next_prompt: self.context.next_prompt(),
        }
    }

    fn worked(&self) -> Duration {
        self.began.elapsed().saturating_sub(self.waited)
    }

    /// What of the wall time is left; a day where there is no limit.
    fn wall_left(&self) -> Duration {
        let limit = match self.shared.limits.wall_time_s {
            0 => Duration::from_secs(86_400),
            s => Duration::from_secs(s),
        };
        limit.saturating_sub(self.worked())
    }

    /// A reply, or the exit reason that stands in its place. The endpoint's own timeouts and retry policy end it long before its bound.
    async fn ask(&mut self) -> Result<Result<Response, ExitReason>, Failure> {
        let request = Request {
            messages: &self.transcript.conversation,
            tools: &self.transcript.begun.tools,
            estimate: self.context.next_prompt(),
            affinity: self.affinity,
        };
        let asked = Instant::now();
        let patience = self.shared.patience;
        let silent = |_| {
            let message = format!("no reply of the endpoint within {} s (endpoint.timeouts.wait_s)", patience.as_secs());
            Err(ModelError::Failed(Failure::new(Kind::EndpointUnavailable, message)))
        };
        match timeout(patience, self.shared.client.complete(request)).await.unwrap_or_else(silent) {
            Ok(response) => {
                self.waited += asked.elapsed().saturating_sub(Duration::from_millis(response.latency_ms));
                Ok(Ok(response))
            }
            Err(ModelError::ContextOverflow(_)) => Ok(Err(ExitReason::ContextOverflow)),
            Err(ModelError::Failed(failure)) => Err(failure),
        }
    }

    /// Answers every call in order. Some exit: the model submitted, or its calls are malformed turn after turn.
    async fn act(&mut self, calls: Vec<Result<ToolCall, Malformed>>) -> Result<Option<ExitReason>, Failure> {
        let mut all_malformed = true;
        let mut submitted = false;
        for call in &calls {
            let (call, plan) = match call {
                _ if submitted => {
                    let call = call.as_ref().unwrap_or_else(|bad| &bad.call);
                    self.observe(Observation { failed: true, ..self.said(call, AFTER_SUBMIT.to_owned()) }).await?;
                    continue;
                }
                Ok(call) => (call, self.shared.scaffold.toolset.plan(call)),
                Err(bad) => (&bad.call, Plan::Malformed(bad.message.clone())),
            };
            all_malformed &= matches!(plan, Plan::Malformed(_));
            let observation = match plan {
                Plan::Submit => {
                    submitted = true;
                    self.said(call, SUBMITTED.to_owned())
                }
                Plan::Say(text) => self.said(call, text),
                Plan::Malformed(text) => Observation { malformed: true, ..self.said(call, text) },
                Plan::Run { op, blob } => self.execute(call, op, &blob).await?,
            };
            self.observe(observation).await?;
        }
        let exhausted = self.machine.acted(&self.shared.limits, all_malformed);
        Ok(if submitted { Some(ExitReason::Submitted) } else { exhausted })
    }

    async fn execute(&mut self, call: &ToolCall, op: Op, blob: &[u8]) -> Result<Observation, Failure> {
        let op = self.within_wall_time(op);
        let began = Instant::now();
        let result = match self.sandbox.toolbox().call(op.clone(), blob).await {
            Ok(answer) => Ok(answer),
            Err(ToolboxError::Op(refused)) => Err(refused),
            Err(lost) => return Err(self.lost(&lost).await),
        };
        let seen = self.shared.scaffold.toolset.observe(&op, &result, &self.cwd);
        let observation = Observation {
            duration_ms: began.elapsed().as_millis() as u64,
            exit_code: seen.exit_code,
            truncated: seen.truncated,
            timed_out: seen.timed_out,
            failed: seen.failed,
            ..self.said(call, seen.content)
        };
        if let Some(cwd) = seen.cwd {
            self.cwd = cwd;
        }
        Ok(observation)
    }

    /// A command may not outlive the episode.
    fn within_wall_time(&self, op: Op) -> Op {
        match op {
            Op::Run(mut run) => {
                run.deadline_ms = run.deadline_ms.min(self.wall_left().as_millis().max(1) as u64);
                Op::Run(run)
            }
            other => other,
        }
    }

    fn said(&self, call: &ToolCall, content: String) -> Observation {
        Observation {
            message: self.shared.scaffold.toolset.answer(call, content),
            tool: call.function.name.clone(),
            duration_ms: 0,
            exit_code: -1,
            truncated: false,
            timed_out: false,
            malformed: false,
            failed: false,
        }
    }

    async fn observe(&mut self, observation: Observation) -> Result<(), Failure> {
        self.context.added(&observation.message);
        self.record(Entry::Observation(observation)).await.map(drop)
    }

    async fn remind(&mut self, content: &str) -> Result<(), Failure> {
        self.context.added(&Message::new(Role::User, content));
        self.record(Entry::Reminder { content: content.to_owned() }).await.map(drop)
    }

    /// Every native call of a cut reply is answered, so that calls and results stay paired; none is executed.
    async fn explain_cut(&mut self) -> Result<(), Failure> {
        let shared = self.shared;
        let text = shared.scaffold.length_cut();
        let calls = self.transcript.conversation.unanswered();
        if calls.is_empty() {
            return self.remind(text).await;
        }
        for call in &calls {
            self.observe(Observation { malformed: true, ..self.said(call, text.to_owned()) }).await?;
        }
        Ok(())
    }

    /// Returns the message of a reply.
    async fn record(&mut self, entry: Entry) -> Result<Option<Message>, Failure> {
        let put = self.spool.put(&entry).await;
        let message = self.transcript.apply(entry);
        put.map(|()| message)
    }

    /// Who is to blame for a sandbox that no longer answers.
    async fn lost(&self, error: &ToolboxError) -> Failure {
        let fate = self.sandbox.fate().await;
        if fate.oom {
            Failure::new(Kind::MemoryExhausted, format!("the sandbox ran out of memory and died under the episode ({error})"))
        } else {
            let code = fate.exit_code.map_or(String::new(), |code| format!(", exit code {code}"));
            Failure::new(Kind::SandboxLost, format!("the sandbox went away under the episode: {error}{code}"))
        }
    }

    /// Takes the diff and the counters.
    async fn salvage(&self, stopped: Stopped, admitted: Instant) -> Ended {
        let (exit_reason, mut failure) = match stopped {
            Ok(reason) => (reason, None),
            Err(failure) => (ExitReason::Failed, Some(failure)),
        };
        // Tried whatever happened: a sandbox that is gone refuses at once, one that only fell silent may still answer.
        let (mut model_patch, mut usage) = (String::new(), Usage::default());
        match self.diff().await {
            Ok(patch) => model_patch = patch,
            // The first cause stands.
            Err(second) => failure = failure.or(Some(second)),
        }
        if let Ok((Answer::Usage(counted), _)) = self.sandbox.toolbox().call(Op::Usage, &[]).await {
            usage = counted;
        }
        let exit_reason = if failure.is_some() { ExitReason::Failed } else { exit_reason };
        (self.shared.emit)(EventKind::AgentEnded {
            id: self.transcript.begun.id.clone(),
            exit_reason,
            patch_bytes: model_patch.len() as u64,
        })
        .await;
        Ended {
            exit_reason,
            model_patch,
            failure,
            duration_ms: admitted.elapsed().as_millis() as u64,
            peak_memory: usage.peak_memory,
            cpu_ms: usage.cpu_ms,
            oom_kills: usage.oom_kills,
        }
    }

    async fn diff(&self) -> Result<String, Failure> {
        let op = Op::Diff {
            workdir: self.sandbox.workdir().to_owned(),
            tree: self.transcript.begun.base_tree.clone(),
            exclude: self.shared.exclude.to_vec(),
            max: self.shared.max_diff_bytes,
            settle: true,
        };
        match self.sandbox.toolbox().call(op, &[]).await {
            Ok((_, diff)) => String::from_utf8(diff.into())
                .map_err(|e| Failure::new(Kind::SandboxLost, format!("the toolbox sent a diff that is not UTF-8: {e}"))),
            Err(ToolboxError::Op(refused)) => Err(Failure::new(refused_kind(&refused), format!("the diff could not be taken: {refused}"))),
            Err(lost) => Err(self.lost(&lost).await),
        }
    }
}

/// Has the entry durable.
async fn keep(spool: &mut dyn Spool, entry: &Entry) -> Result<(), Failure> {
    spool.put(entry).await?;
    spool.settle().await
}

fn refused_kind(refused: &OpError) -> Kind {
    match refused {
        OpError::TooLarge { .. } => Kind::DiffTooLarge,
        OpError::Invalid { .. } | OpError::Rejected { .. } => Kind::DiffUntakable,
        OpError::NoSpace { .. } => Kind::NoSpace,
        OpError::NotStarted { .. } | OpError::Failed { .. } => Kind::SandboxLost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Class, Disposition};

    #[test]
    fn what_the_model_did_to_the_files_is_not_tried_again() {
        let message = || "more than 2000000 files".to_owned();
        for refused in
            [OpError::TooLarge { size: 2, max: 1 }, OpError::Invalid { message: message() }, OpError::Rejected { message: message() }]
        {
            let kind = refused_kind(&refused);
            assert_eq!((kind.class(), kind.disposition()), (Class::Model, Disposition::Final), "{refused:?}");
        }
        for refused in [OpError::Failed { message: message() }, OpError::NoSpace { message: message() }] {
            assert_eq!(refused_kind(&refused).disposition(), Disposition::Retry, "{refused:?}");
        }
    }
}
