//! Validates instances without a model: checks of one instance lead to the next, those of several run at the same time.

mod feed;
mod output;

pub use output::{Shown, Status, Summary, Totals, Validation};

use super::{
    OpenError,
    batch::{self, Grounds},
};
use crate::{
    config::Settings,
    domain::{Disposition, Failure, Instance},
    grading::{
        self,
        validation::{Check, Fault, Rules, Side, Trial},
    },
    sandbox::{Provider, Purpose, Spec, prepare},
    scheduler::driver::{End, Stop},
    store::{Gradings, dataset::BadRow},
};
use feed::{Feed, Job};
use futures_util::FutureExt;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Instant,
};
use tokio::sync::mpsc;

/// What an instance must stand.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Gradings of the base and of the golden patch, each; at least 1.
    pub runs: u32,
    /// Flaky PASS_TO_PASS ids with which an instance still holds.
    pub max_flaky: usize,
}

impl Options {
    fn rules(self) -> Rules {
        Rules { runs: self.runs.max(1), max_flaky: self.max_flaky }
    }
}

/// A validation that is open, and the rows that were left out of it.
pub struct Opened {
    gradings: Gradings,
    instances: Arc<crate::store::Instances>,
    grounds: Grounds,
    options: Options,
    pub left_out: Vec<BadRow>,
    pub left_out_total: u64,
}

impl Opened {
    /// What the user should be told of the sandboxes.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        self.grounds.provider().notice()
    }
}

/// Makes the directory, or opens it to go on: with the same instances, settings and options. Blocks on the disk.
///
/// # Errors
/// See [`OpenError`]; each says the place and the mend.
pub fn open(
    out: &Path,
    settings: &Settings,
    options: Options,
    ask: impl FnOnce() -> Result<Grounds, Failure>,
) -> Result<Opened, OpenError> {
    let asked = [("runs", options.runs.to_string()), ("max_flaky", options.max_flaky.to_string())];
    let asked: BTreeMap<String, String> = asked.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let (opened, grounds) = batch::open(out, settings, "validate", &asked, &output::FILES, |_| Ok(ask()?))?;
    let batch::Opened { gradings, instances, left_out, left_out_total } = opened;
    Ok(Opened { gradings, instances, grounds, options, left_out, left_out_total })
}

/// Makes the checks that are outstanding and writes what they came to; `told` hears of each instance once it is decided.
///
/// # Errors
/// What keeps it from beginning, and files that cannot be read or written.
pub async fn run(
    opened: Opened,
    stop: mpsc::Receiver<Stop>,
    told: impl Fn(&Validation) + Send + Sync + 'static,
) -> Result<(End, Summary), Failure> {
    let Opened { gradings, instances, grounds, options, .. } = opened;
    let rules = options.rules();
    let run = gradings.head().run.clone();
    grounds.sweep(&run).await?;
    let grounds = Arc::new(grounds);
    let gradings = Arc::new(Mutex::new(gradings));
    let feed = Feed::new(Arc::clone(&gradings), Arc::clone(&instances), rules, Box::new(told));
    let policy = grounds.settings().scheduler.clone();
    let (place, name, tries_max) = (Arc::clone(&grounds), run.clone(), policy.max_gradings);
    let work = move |job: Arc<Job>, tries: u32| {
        let (grounds, run) = (Arc::clone(&place), name.clone());
        async move {
            let began = Instant::now();
            let result = check(&grounds, &run, &job.instance, job.check).await;
            let spent = began.elapsed().as_millis() as u64;
            match result {
                Err(failure) if is_fact(&failure, job.check, tries >= tries_max) => Ok(Trial::failed(job.check, failure, spent)),
                result => result,
            }
        }
        .boxed()
    };
    let end = batch::each(&policy, feed.clone(), work, |job, result| feed.answer(job, result), stop).await;
    feed.close();
    if let Err(failure) = grounds.sweep(&run).await {
        tracing::warn!(%failure, "sandboxes may be left; the next opening removes them");
    }
    let settings = grounds.settings().clone();
    let written = tokio::task::spawn_blocking(move || output::write(&gradings, &settings, rules)).await;
    let summary = written.map_err(|e| Failure::new(crate::domain::Kind::Panic, format!("writing the report: {e}")))??;
    Ok((end, summary))
}

/// Whether a failure says something of the instance. One of its grading is tried again first, as a run does.
fn is_fact(failure: &Failure, check: Check, last: bool) -> bool {
    Fault::of(failure, check).is_some() && (last || !matches!(failure.kind.disposition(), Disposition::Retry | Disposition::Regrade))
}

async fn check(grounds: &Grounds, run: &str, instance: &Instance, check: Check) -> Result<Trial, Failure> {
    let number = match check {
        Check::Sandbox => 0,
        Check::Grading(Side::Gold, run) => 2 * run - 1,
        Check::Grading(Side::Base, run) => 2 * run,
    };
    let attempt = format!("{}@{number}.1", instance.instance_id);
    let attempt = attempt.parse().map_err(|e| Failure::new(crate::domain::Kind::Panic, format!("{attempt}: {e}")))?;
    let spec = grounds.spec(run, &attempt, instance);
    let provider: &dyn Provider = &**grounds.provider();
    let (grading, runners) = (&grounds.settings().grading, &**grounds.runners());
    let graded = match check {
        Check::Sandbox => return agents_sandbox(grounds, &Spec { purpose: Purpose::Agent, ..spec }, instance).await,
        Check::Grading(Side::Gold, _) => {
            let case = grading::Case { instance, diff: &instance.patch, flaky: &[] };
            grading::grade(provider, &spec, &case, grading, runners).await?
        }
        Check::Grading(Side::Base, _) => {
            let case = grading::Case { instance, diff: "", flaky: &[] };
            grading::run(provider, &spec, &case, grading, runners).await?
        }
    };
    Ok(Trial::graded(check, graded))
}

/// A sandbox prepared as the agent's is: what it could leak, and whether there is a runner at all.
async fn agents_sandbox(grounds: &Grounds, spec: &Spec, instance: &Instance) -> Result<Trial, Failure> {
    let began = Instant::now();
    let sandbox = grounds.provider().start(spec).await?;
    let prepared = async {
        prepare::prepare(&*sandbox, instance, &grounds.settings().sandbox.prepare).await?;
        grading::probe(&*sandbox, instance, grounds.runners()).await
    };
    let prepared = prepared.await;
    if let Err(failure) = sandbox.destroy().await {
        tracing::warn!(instance = %instance.instance_id, %failure, "a sandbox may be left; it is swept at the end");
    }
    prepared?;
    let image_bytes = grounds.provider().image_bytes(&instance.image).await;
    Ok(Trial { image_bytes, ..Trial::new(Check::Sandbox, began.elapsed().as_millis() as u64) })
}
