//! The loop around the core: performs its actions as tasks, feeds their ends back, keeps panics in their episode.

use super::{
    budget::Spend,
    core::{Action, Core, Input},
};
use crate::domain::{AttemptId, EpisodeId, Failure, InstanceId, Kind};
use futures_util::{FutureExt, future::BoxFuture};
use std::{fmt::Display, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

/// What the driver has done for it. An error is the attempt's failure.
pub trait Work: Send + Sync + 'static {
    fn agent(&self, id: AttemptId) -> BoxFuture<'_, Result<(), Failure>>;
    /// What the attempt's agent, which has stopped, cost.
    fn spent(&self, id: &AttemptId) -> Spend;
    /// Whether all tests passed.
    fn grade(&self, id: AttemptId) -> BoxFuture<'_, Result<bool, Failure>>;
    /// Makes the attempt durable; `counts`: it decides its episode.
    fn commit(&self, id: AttemptId, counts: bool) -> BoxFuture<'_, Result<(), Failure>>;
    /// Makes durable that the episode was not begun.
    fn skip(&self, id: AttemptId, failure: Failure) -> BoxFuture<'_, Result<(), Failure>>;
    /// Makes durable that these episodes are left out.
    fn waive(&self, episodes: Vec<EpisodeId>) -> BoxFuture<'_, Result<(), Failure>>;
    /// Makes durable that no other episode of the instance is to be begun.
    fn quarantine(&self, instance: InstanceId, failure: Failure) -> BoxFuture<'_, Result<(), Failure>>;
    /// The task of this attempt panicked.
    fn panicked(&self, id: &AttemptId, failure: &Failure);
    /// The rest of the actions, to be told to those who watch.
    fn notice(&self, action: Action) -> BoxFuture<'_, ()>;
}

/// What the user wants in mid-run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Begin nothing new, finish what is at work.
    Drain,
    /// Drop everything at once; spools stay.
    Kill,
}

/// How the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Done,
    /// Drained before all was done, with the reason.
    Drained(String),
    Killed,
}

/// Runs the schedule to its end. `told`: what the core has to know from elsewhere, such as that an image is ready or the disk full; its
/// sender may be dropped.
pub async fn drive<W: Work>(mut core: Core, work: Arc<W>, mut stop: mpsc::Receiver<Stop>, mut told: mpsc::Receiver<Input>) -> End {
    let began = Instant::now();
    let now = || began.elapsed().as_millis() as u64;
    let mut tasks: JoinSet<Input> = JoinSet::new();
    let mut input = Input::Tick;
    loop {
        let mut finished = false;
        let mut wake: Option<u64> = None;
        for action in core.step(input, now()) {
            match action {
                Action::Finished => finished = true,
                Action::WakeAt { at_ms } => wake = Some(at_ms),
                other => perform(other, &work, &mut tasks),
            }
        }
        if finished {
            while tasks.join_next().await.is_some() {}
            return match (core.undecided(), core.drain_reason()) {
                (0, _) => End::Done,
                (_, Some(reason)) => End::Drained(reason.to_owned()),
                (n, None) => End::Drained(format!("{n} attempts could not be graded or recorded; what they did is kept")),
            };
        }
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep(Duration::from_millis(at.saturating_sub(now()))).await,
                None => std::future::pending().await,
            }
        };
        input = tokio::select! {
            Some(ended) = tasks.join_next() => match ended {
                Ok(input) => input,
                // Tasks catch their own panics; what is left is cancellation, which only `Kill` causes.
                Err(_) => Input::Tick,
            },
            Some(stop) = stop.recv() => match stop {
                Stop::Drain => Input::Drain { reason: "asked to stop; what is at work is finished first".to_owned() },
                Stop::Kill => {
                    tasks.shutdown().await;
                    return End::Killed;
                }
            },
            Some(input) = told.recv() => input,
            () = timer => Input::Tick,
        };
    }
}

fn perform<W: Work>(action: Action, work: &Arc<W>, tasks: &mut JoinSet<Input>) {
    let work = Arc::clone(work);
    tasks.spawn(async move {
        match action {
            Action::StartAgent { id } => {
                let failure = guarded(&*work, &id, work.agent(id.clone())).await.err();
                Input::AgentEnded { spent: work.spent(&id), id, failure }
            }
            Action::Grade { id } => {
                let grade = guarded(&*work, &id, work.grade(id.clone())).await;
                Input::GradeEnded { id, grade }
            }
            Action::Commit { id, counts } => {
                let result = guarded(&*work, &id, work.commit(id.clone(), counts)).await;
                commit_input(id, result)
            }
            Action::Skip { id, failure } => {
                let result = guarded(&*work, &id, work.skip(id.clone(), failure)).await;
                commit_input(id, result)
            }
            Action::Waive { episodes } => {
                let n = episodes.len();
                match caught("waiving", work.waive(episodes)).await {
                    Ok(()) => Input::Waived { episodes: n },
                    Err(failure) => Input::WaiveFailed { episodes: n, failure },
                }
            }
            Action::Quarantine { instance, failure } => {
                // Not durable: the next opening finds out again what the instance is like.
                if let Err(failure) = work.quarantine(instance, failure).await {
                    tracing::warn!(%failure, "a quarantine is not in the journal");
                }
                Input::Tick
            }
            other => {
                work.notice(other).await;
                Input::Tick
            }
        }
    });
}

fn commit_input(id: AttemptId, result: Result<(), Failure>) -> Input {
    match result {
        Ok(()) => Input::Committed { id },
        Err(failure) => Input::CommitFailed { id, failure },
    }
}

async fn guarded<W: Work, T>(work: &W, id: &AttemptId, future: BoxFuture<'_, Result<T, Failure>>) -> Result<T, Failure> {
    let result = caught(id, future).await;
    if let Err(failure) = &result
        && failure.kind == Kind::Panic
    {
        work.panicked(id, failure);
    }
    result
}

async fn caught<T>(what: impl Display, future: BoxFuture<'_, Result<T, Failure>>) -> Result<T, Failure> {
    AssertUnwindSafe(future).catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(Failure::new(Kind::Panic, format!("a bug of sweroll: panic in {what}: {}", text.unwrap_or("no message"))))
    })
}
