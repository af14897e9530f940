//! The test runners found in images, looked for once an image: before the agent's first prompt, or else by the grader.

use super::plan::is_shell;
use super::pytest::{self, Runner};
use crate::domain::{Failure, Instance, Kind};
use crate::sandbox::{Sandbox, prepare};
use crate::toolbox::protocol::End;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Seconds for the search; every candidate that is there imports pytest once.
const SEARCH_TIMEOUT_S: u64 = 300;

/// Test runners found so far, by image and `pre_commands`: the samples of an instance need not look for theirs again.
#[derive(Debug, Default)]
pub struct Runners(Mutex<HashMap<(String, String), Runner>>);

impl Runners {
    fn get(&self, key: &(String, String)) -> Option<Runner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn put(&self, key: (String, String), runner: Runner) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, runner);
    }
}

/// Whether the instance's tests can be run at all. For the agent's prepared sandbox, before a token is paid for;
/// leaves nothing in the work tree, and costs nothing once the image is known.
///
/// # Errors
/// `NoRunner`; `NoSpace`, `SandboxStart`, `SandboxLost`.
pub async fn probe(sandbox: &dyn Sandbox, instance: &Instance, runners: &Runners) -> Result<(), Failure> {
    if is_shell(instance) {
        return Ok(());
    }
    find_pytest(sandbox, instance, runners, Kind::NoRunner).await.map(drop).map_err(prepare::before_the_model)
}

/// `missing`: what it is that there is none.
pub(super) async fn find_pytest(sandbox: &dyn Sandbox, instance: &Instance, runners: &Runners, missing: Kind) -> Result<Runner, Failure> {
    let key = (sandbox.image_digest().to_owned(), instance.pre_commands.clone());
    if let Some(known) = runners.get(&key) {
        return Ok(known);
    }
    let done = prepare::script(sandbox, sandbox.workdir(), SEARCH_TIMEOUT_S, &pytest::probe()).await?;
    if let Some(runner) = pytest::found(&done.tail(4000)) {
        runners.put(key, runner.clone());
        return Ok(runner);
    }
    let said = done.tail(2000);
    Err(match done.end {
        _ if done.ran_out_of_space() => Failure::new(Kind::NoSpace, format!("no space for the search for pytest: {said}")),
        End::Exited(_) => Failure::new(missing, format!("no Python in {} imports pytest: install it in the image\n{said}", instance.image)),
        end => Failure::new(Kind::SandboxLost, format!("the search for pytest in {} did not end ({end:?}): {said}", instance.image)),
    })
}
