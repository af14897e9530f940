//! Gradings without agents: jobs are pulled one by one, graded some at once, and handed back as they are decided.

use super::{OpenError, provider};
use crate::{
    config::{MAY_DIFFER, Settings},
    domain::{AttemptId, Class, Disposition, Failure, Grade, Instance, Kind},
    grading,
    sandbox::{self, Provider, Purpose},
    scheduler::{
        driver::{End, Stop},
        policy::Policy,
    },
    store::{
        Gradings, GradingsDir, Instances,
        dataset::{self, BadRow},
        instances,
    },
};
use futures_util::{FutureExt, future::BoxFuture};
use std::{collections::BTreeMap, panic::AssertUnwindSafe, path::Path, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

/// One diff to be graded.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name in the journal.
    pub key: String,
    /// Its name on the labels of its sandboxes.
    pub attempt: AttemptId,
    pub instance: Instance,
    pub diff: String,
    /// Ids that are known to be flaky.
    pub flaky: Vec<String>,
}

/// Where gradings are made, found to answer.
pub struct Grounds {
    provider: Arc<dyn Provider>,
    settings: Settings,
    runners: Arc<grading::Runners>,
}

impl Grounds {
    /// Asks the sandbox backend.
    ///
    /// # Errors
    /// With what is wrong and the mend.
    pub async fn find(settings: &Settings) -> Result<Self, Failure> {
        let provider = provider(settings).await?;
        provider.check().await?;
        let mut settings = settings.clone();
        settings.grading.prepare = settings.sandbox.prepare.clone();
        settings.scheduler = settings.scheduler.fitted(provider.capacity().map(|host| host.holds(&settings.sandbox.limits)));
        Ok(Grounds { provider, settings, runners: Arc::default() })
    }

    #[must_use]
    pub fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }

    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    #[must_use]
    pub fn runners(&self) -> &Arc<grading::Runners> {
        &self.runners
    }

    /// What a sandbox of the instance is made by.
    #[must_use]
    pub fn spec(&self, run: &str, attempt: &AttemptId, instance: &Instance) -> sandbox::Spec {
        sandbox::Spec {
            run: run.to_owned(),
            attempt: attempt.clone(),
            purpose: Purpose::Grade,
            image: instance.image.clone(),
            workdir: instance.workdir.clone(),
            limits: self.settings.sandbox.limits.clone(),
            keep: false,
            upon: None,
        }
    }

    /// Removes the sandboxes that dead engines left under this name.
    ///
    /// # Errors
    /// Where the backend does not answer.
    pub async fn sweep(&self, run: &str) -> Result<(), Failure> {
        let swept = self.provider.sweep(run).await?;
        if swept > 0 {
            tracing::info!(swept, "sandboxes of dead engines removed");
        }
        Ok(())
    }
}

/// Whether a failure stands: another opening would find the same. Where the sandbox or the grader failed, it may not.
#[must_use]
pub fn is_decided(failure: &Failure) -> bool {
    !matches!(failure.class(), Class::Infra | Class::Grader | Class::Bug | Class::Run)
}

/// Grades every job, `scheduler.graders` at once (else as many as the sandboxes' host can hold). `run` names the sandboxes, so that what a dead
/// process left is swept. `done` gets each job once it is graded or failed for good, and may block shortly on the disk; what was
/// at work when the end came gets none.
///
/// # Errors
/// Where the sandbox backend does not answer before the first of them.
pub async fn grade_all(
    grounds: Arc<Grounds>,
    run: &str,
    jobs: impl Iterator<Item = Result<Job, Failure>> + Send + 'static,
    done: impl FnMut(&Job, Result<Grade, Failure>) -> Result<(), Failure>,
    stop: mpsc::Receiver<Stop>,
) -> Result<End, Failure> {
    grounds.sweep(run).await?;
    let policy = grounds.settings.scheduler.clone();
    let (shared, name): (_, Arc<str>) = (Arc::clone(&grounds), run.into());
    let work = move |job: Arc<Job>, tries: u32| {
        let (grounds, run) = (Arc::clone(&shared), Arc::clone(&name));
        async move {
            let spec = grounds.spec(&run, &job.attempt, &job.instance);
            let case = grading::Case { instance: &job.instance, diff: &job.diff, flaky: &job.flaky };
            let grade = grading::grade(&*grounds.provider, &spec, &case, &grounds.settings.grading, &grounds.runners).await?;
            Ok(Grade { regrades: tries - 1, ..grade })
        }
        .boxed()
    };
    let end = each(&policy, jobs, work, done, stop).await;
    if let Err(failure) = grounds.sweep(run).await {
        tracing::warn!(%failure, "sandboxes may be left; the next opening removes them");
    }
    Ok(end)
}

/// What came of one try.
struct Tried<J, T> {
    job: Arc<J>,
    tries: u32,
    /// None: not begun, since the end came.
    result: Option<Result<T, Failure>>,
}

/// Does `work` for every job, `policy.grader_slots()` at once; its second argument counts the tries from 1. A failure that
/// says so is tried again up to `policy.max_gradings` times, a panic twice, with growing pauses. One of class `run`, one of
/// `done` or of `jobs`, or too many in a row let nothing new begin. Holds the jobs at work and two more.
pub async fn each<J: Send + Sync + 'static, T: Send + 'static>(
    policy: &Policy,
    jobs: impl Iterator<Item = Result<J, Failure>> + Send + 'static,
    work: impl Fn(Arc<J>, u32) -> BoxFuture<'static, Result<T, Failure>>,
    mut done: impl FnMut(&J, Result<T, Failure>) -> Result<(), Failure>,
    mut stop: mpsc::Receiver<Stop>,
) -> End {
    let (hand_over, mut pulled) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        for job in jobs {
            if hand_over.blocking_send(job).is_err() {
                return;
            }
        }
    });
    let (drain, draining) = watch::channel(false);
    let mut reason: Option<String> = None;
    let (mut left, mut failures_in_a_row, mut more) = (0_u64, 0_u32, true);
    let mut tasks: JoinSet<Tried<J, T>> = JoinSet::new();
    let begin = |tasks: &mut JoinSet<Tried<J, T>>, job: Arc<J>, tries: u32, pause: Duration| {
        let (mut draining, working) = (draining.clone(), work(Arc::clone(&job), tries));
        tasks.spawn(async move {
            let begins = tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => true,
                _ = draining.wait_for(|draining| *draining) => false,
            };
            let result = if begins { Some(guarded(working).await) } else { None };
            Tried { job, tries, result }
        });
    };
    loop {
        let begins = more && reason.is_none() && tasks.len() < policy.grader_slots();
        if !begins && tasks.is_empty() {
            break;
        }
        let (mut why, mut kept) = (None, Ok(()));
        tokio::select! {
            Some(ended) = tasks.join_next() => {
                // Tasks catch their own panics; what is left is cancellation, which only `Kill` causes.
                let Ok(Tried { job, tries, result }) = ended else { continue };
                let Some(result) = result else {
                    left += 1;
                    continue;
                };
                match &result {
                    Ok(_) => failures_in_a_row = 0,
                    Err(failure) if matches!(failure.class(), Class::Infra | Class::Grader | Class::Bug) => failures_in_a_row += 1,
                    Err(_) => {}
                }
                match result {
                    Err(failure) => {
                        tracing::warn!(kind = ?failure.kind, tries, %failure, "a grading failed");
                        if failures_in_a_row >= policy.breaker() {
                            why = Some(format!("{failures_in_a_row} failures in a row and no success between them, the last: {failure}. Mend the cause first"));
                        }
                        match next(policy, &failure, tries, reason.is_some() || why.is_some()) {
                            Next::Again => begin(&mut tasks, job, tries + 1, Duration::from_millis(policy.retry_delay(tries))),
                            Next::Left => left += 1,
                            Next::Stop => {
                                left += 1;
                                why = Some(failure.message);
                            }
                            Next::Done => kept = done(&job, Err(failure)),
                        }
                    }
                    Ok(result) => kept = done(&job, Ok(result)),
                }
                if let Err(failure) = kept {
                    left += 1;
                    why = Some(failure.message);
                }
            }
            job = pulled.recv(), if begins => match job {
                Some(Ok(job)) => begin(&mut tasks, Arc::new(job), 1, Duration::ZERO),
                Some(Err(failure)) => {
                    left += 1;
                    why = Some(failure.message);
                }
                None => more = false,
            },
            Some(stop) = stop.recv() => match stop {
                Stop::Drain => why = Some("asked to stop".to_owned()),
                Stop::Kill => {
                    tasks.shutdown().await;
                    return End::Killed;
                }
            },
        }
        if let Some(why) = why {
            tracing::warn!(reason = %why, "draining");
            reason.get_or_insert(why);
            drain.send_replace(true);
        }
    }
    match reason {
        Some(reason) if left > 0 || (more && pulled.recv().await.is_some()) => End::Drained(reason),
        // Asked to stop when all was at work already: nothing is missing.
        _ => End::Done,
    }
}

enum Next {
    Again,
    /// For the next opening.
    Left,
    /// Likewise, and nothing new is to begin.
    Stop,
    Done,
}

fn next(policy: &Policy, failure: &Failure, tries: u32, draining: bool) -> Next {
    let bound = if failure.kind == Kind::Panic { policy.max_gradings.min(2) } else { policy.max_gradings };
    match failure.kind.disposition() {
        Disposition::StopRun => Next::Stop,
        Disposition::Retry | Disposition::Regrade if tries >= bound => Next::Done,
        Disposition::Retry | Disposition::Regrade if draining => Next::Left,
        Disposition::Retry | Disposition::Regrade => Next::Again,
        Disposition::Final | Disposition::Quarantine => Next::Done,
    }
}

async fn guarded<T>(work: BoxFuture<'static, Result<T, Failure>>) -> Result<T, Failure> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(Failure::new(Kind::Panic, format!("a bug of sweroll: a grading panicked: {}", text.unwrap_or("no message"))))
    })
}

/// Gradings that are open, and the rows that were left out of their instances.
pub struct Opened {
    pub gradings: Gradings,
    /// Frozen with the first opening.
    pub instances: Arc<Instances>,
    pub left_out: Vec<BadRow>,
    pub left_out_total: u64,
}

/// Makes the directory, or opens it to go on: with the same instances and settings, and the same of what else the results
/// depend on (`digests`, by name). `ours`: names that may be in a directory without gradings. `ask` is asked last, before
/// anything is kept; where it fails no directory is left. Blocks on the disk.
///
/// # Errors
/// See [`OpenError`]; each says the place and the mend.
pub fn open<A>(
    out: &Path,
    settings: &Settings,
    what: &str,
    digests: &BTreeMap<String, String>,
    ours: &[&str],
    ask: impl FnOnce(&GradingsDir) -> Result<A, OpenError>,
) -> Result<(Opened, A), OpenError> {
    let dir = GradingsDir::lock(out, ours)?;
    let (path, options) = (&settings.instances.path, &settings.dataset);
    let made = (|| {
        let stamp = dataset::stamp(path, options.split.as_deref())?;
        let known = |name: &str| Some(dir.head()?.made_with.get(name)?.as_str()?.to_owned());
        let (digest, left_out, left_out_total) = match (dir.head(), known("instances")) {
            // The instances are frozen: where their file is gone there is nothing to compare, and nothing is missing.
            (Some(_), Some(digest)) if stamp.is_none() || stamp == known("instances_file") => (digest, Vec::new(), 0),
            (Some(_), _) => (dataset::scan(path, options, &mut |_| Ok(()))?.digest, Vec::new(), 0),
            (None, _) => {
                let scan = instances::freeze(dir.layout(), path, options)?;
                (scan.digest, scan.bad, scan.bad_total)
            }
        };
        let stamp = stamp.or_else(|| known("instances_file")).unwrap_or_default();
        let of_gradings = |name: &str| ["dataset", "sandbox", "grading"].contains(&name);
        let mut made_with: toml::Table = settings.table()?.into_iter().filter(|(name, _)| of_gradings(name)).collect();
        let texts = [("what", what.to_owned()), ("instances", digest), ("instances_file", stamp)];
        made_with.extend(texts.map(|(name, text)| (name.to_owned(), text.into())));
        made_with.extend(digests.iter().map(|(name, digest)| (name.clone(), digest.clone().into())));
        Ok((made_with, left_out, left_out_total, ask(&dir)?))
    })();
    let (made_with, left_out, left_out_total, answer) = match made {
        Ok(made) => made,
        Err(error) => {
            dir.discard();
            return Err(error);
        }
    };
    let may_differ: Vec<&str> = MAY_DIFFER.iter().copied().chain(["instances_file"]).collect();
    let gradings = dir.open(&made_with, &may_differ)?;
    let instances = Arc::new(Instances::open(gradings.layout())?);
    Ok((Opened { gradings, instances, left_out, left_out_total }, answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    fn policy() -> Policy {
        Policy { concurrency: 3, max_gradings: 3, retry_base_ms: 1, ..Policy::default() }
    }

    /// Every job is the name of what happens to it. Returns what was done, sorted, the most jobs at work, and the end.
    async fn play(policy: &Policy, jobs: &[&'static str], stops: Vec<(usize, Stop)>) -> (Vec<String>, usize, End) {
        let (sender, stop) = mpsc::channel(4);
        let (at_work, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let done = Mutex::new(Vec::new());
        let counts = Arc::clone(&most);
        let work = move |job: Arc<&'static str>, tries: u32| {
            let (at_work, most) = (Arc::clone(&at_work), Arc::clone(&counts));
            async move {
                most.fetch_max(at_work.fetch_add(1, SeqCst) + 1, SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                at_work.fetch_sub(1, SeqCst);
                match *job {
                    "panics" => panic!("a fixture of the test"),
                    "lost" => Err(Failure::new(Kind::SandboxLost, "gone")),
                    "lost once" if tries == 1 => Err(Failure::new(Kind::SandboxLost, "gone")),
                    "rejected" => Err(Failure::new(Kind::DiffRejected, "no")),
                    "stops" => Err(Failure::new(Kind::RunDir, "the disk is full")),
                    _ => Ok(tries),
                }
            }
            .boxed()
        };
        let keep = |job: &&str, result: Result<u32, Failure>| {
            if *job == "unkept" {
                return Err(Failure::new(Kind::RunDir, "cannot be kept"));
            }
            let mut done = done.lock().unwrap();
            done.push(format!("{job}: {}", result.map_or_else(|f| format!("{:?}", f.kind), |tries| tries.to_string())));
            for (_, stop) in stops.iter().filter(|(at, _)| *at == done.len()) {
                sender.try_send(*stop).unwrap();
            }
            Ok(())
        };
        let jobs: Vec<_> = jobs.iter().map(|job| Ok(*job)).collect();
        let end = each(policy, jobs.into_iter(), work, keep, stop).await;
        let mut done = done.into_inner().unwrap();
        done.sort();
        (done, most.load(SeqCst), end)
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_a_panic_is_its_jobs_alone() {
        let (done, most, end) = play(&policy(), &["good", "lost", "lost once", "rejected", "panics", "good"], vec![]).await;
        assert_eq!(done, ["good: 1", "good: 1", "lost once: 2", "lost: SandboxLost", "panics: Panic", "rejected: DiffRejected"]);
        assert_eq!((most, end), (3, End::Done));
    }

    #[tokio::test]
    async fn what_no_job_is_to_blame_for_ends_all() {
        for bad in ["stops", "unkept"] {
            let jobs = [&[bad][..], &["good"; 50]].concat();
            let (done, _, end) = play(&policy(), &jobs, vec![]).await;
            assert!(done.len() < 10 && matches!(&end, End::Drained(_)), "{bad}: {done:?} {end:?}");
        }
        let broken = Policy { circuit_breaker: 4, ..policy() };
        let (done, _, end) = play(&broken, &["lost"; 50], vec![]).await;
        assert!(done.len() < 10, "{done:?}");
        assert!(matches!(&end, End::Drained(reason) if reason.contains("4 failures in a row")), "{end:?}");
    }

    #[tokio::test]
    async fn a_stop_finishes_what_is_at_work_and_a_kill_does_not() {
        let (done, _, end) = play(&policy(), &["good"; 50], vec![(2, Stop::Drain)]).await;
        assert!((3..10).contains(&done.len()), "{done:?}");
        assert_eq!(end, End::Drained("asked to stop".to_owned()));
        let (done, _, end) = play(&policy(), &["good"; 3], vec![(1, Stop::Drain)]).await;
        assert_eq!((done.len(), end), (3, End::Done), "all was at work");
        let (_, _, end) = play(&policy(), &["good"; 50], vec![(1, Stop::Kill)]).await;
        assert_eq!(end, End::Killed);
        let waits = Policy { retry_base_ms: 3_600_000, retry_cap_ms: 3_600_000, ..policy() };
        let (done, _, end) = play(&waits, &["lost", "good"], vec![(1, Stop::Drain)]).await;
        assert_eq!((done.len(), end), (1, End::Drained("asked to stop".to_owned())), "a pause is not waited out");
    }
}
