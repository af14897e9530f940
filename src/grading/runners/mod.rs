//! Which runner an instance has, and where it is in its image: looked for once an image, before the agent's first prompt, or
//! else by the grader.

pub mod cargo;
pub mod go;
pub mod logs;
pub mod printed;
mod toolchain;
pub mod unittest;

use self::cargo::Cargo;
use self::go::Go;
use self::printed::Printed;
use self::unittest::Unittest;
use super::pytest::Pytest;
use super::runner::{Found, TestRunner};
use super::scripts::Scripts;
use crate::domain::{Failure, Instance, Kind};
use crate::sandbox::bases::Look;
use crate::sandbox::{Sandbox, prepare};
use crate::toolbox::protocol::End;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Mutex as AsyncMutex;

/// Seconds for the search; every candidate that is there imports pytest once.
const SEARCH_TIMEOUT_S: u64 = 300;

/// The runner of the instance's tests.
///
/// # Errors
/// `Tests` where there is none for its language.
pub fn runner_of(instance: &Instance) -> Result<&'static dyn TestRunner, Failure> {
    if instance.has_command() && !printed::is_plain_pytest(instance) {
        return Ok(&Printed);
    }
    match instance.language.as_str() {
        "python" if unittest::are_ids(instance) => Ok(&Unittest),
        "python" => Ok(&Pytest),
        "go" => Ok(&Go),
        "rust" => Ok(&Cargo),
        "shell" => Ok(&Scripts),
        other => Err(Failure::new(Kind::Tests, format!("{}: no runner for tests of language {other:?}", instance.instance_id))),
    }
}

/// Test runners found so far, by image, directory and `pre_commands`: the samples of an instance need not look for theirs again, and of those
/// that begin at once one looks for all.
#[derive(Debug, Default)]
pub struct Runners(Mutex<HashMap<(String, String), Search>>);

/// One search, for whoever wants what it finds; none as long as nothing was found.
type Search = Arc<AsyncMutex<Option<Found>>>;

impl Runners {
    fn of(&self, key: (String, String)) -> Search {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }
}

impl Look for Runners {
    fn look<'a>(&'a self, sandbox: &'a dyn Sandbox, instance: &'a Instance) -> BoxFuture<'a, Result<(), Failure>> {
        probe(sandbox, instance, self).boxed()
    }
}

/// Whether the instance's tests can be run at all. For the agent's prepared sandbox, before a token is paid for;
/// leaves nothing in the work tree, and costs nothing once the image is known.
///
/// # Errors
/// `NoRunner`, `Tests`; `NoSpace`, `SandboxStart`, `SandboxLost`.
pub async fn probe(sandbox: &dyn Sandbox, instance: &Instance, runners: &Runners) -> Result<(), Failure> {
    if sandbox.is_null() {
        return Ok(());
    }
    let found = find(sandbox, instance, runner_of(instance)?, runners, Kind::NoRunner).await;
    found.map(drop).map_err(prepare::before_the_model)
}

/// `missing`: what it is that there is none.
pub(super) async fn find(
    sandbox: &dyn Sandbox,
    instance: &Instance,
    runner: &dyn TestRunner,
    runners: &Runners,
    missing: Kind,
) -> Result<Found, Failure> {
    let Some(search) = runner.search(instance) else { return Ok(Found::default()) };
    // The directory has a say in it: it may name its own interpreter or toolchain.
    let how = format!("{} {}\n{}", runner.name(), instance.workdir, instance.pre_commands);
    let key = (sandbox.image_digest().to_owned(), how);
    let known = runners.of(key);
    let mut known = known.lock().await;
    if let Some(found) = &*known {
        return Ok(found.clone());
    }
    let done = prepare::script(sandbox, sandbox.workdir(), SEARCH_TIMEOUT_S, &search).await?;
    if let Some(found) = runner.found(&done.tail(4000)) {
        *known = Some(found.clone());
        return Ok(found);
    }
    let (said, name) = (done.tail(2000), runner.name());
    Err(match done.end {
        _ if done.ran_out_of_space() => Failure::new(Kind::NoSpace, format!("no space for the search for {name}: {said}")),
        End::Exited(_) => Failure::new(missing, format!("there is no {name} in {}: install it in the image\n{said}", instance.image)),
        end => Failure::new(Kind::SandboxLost, format!("the search for {name} in {} did not end ({end:?}): {said}", instance.image)),
    })
}
