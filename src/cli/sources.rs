//! Paths of a command line to the trajectories that they stand for.

use super::CliError;
use crate::{
    store::{RunDir, Sealed, View},
    tokens::{FeedError, Source, feed},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Of a run the trajectories that count: sealed where nothing was committed since, else out of the live shards. Of any other
/// directory its sealed dataset, else its shards as they lie. A file is itself.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, CliError> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(if RunDir::exists(path) {
            of_run(path)?
        } else if let Some(sealed) = Sealed::read(path).map_err(CliError::usage)? {
            sealed.trajectories(path).into_iter().map(Source::from).collect()
        } else {
            feed::shards(std::slice::from_ref(path)).map_err(CliError::usage)?
        });
    }
    Ok(all)
}

fn of_run(dir: &Path) -> Result<Vec<Source>, CliError> {
    let view = View::open(dir).map_err(CliError::usage)?;
    let sealed = Sealed::read(dir).map_err(CliError::usage)?;
    if let Some(sealed) = sealed.filter(|sealed| sealed.is_current(&view.info.run, view.state.totals().attempts)) {
        return Ok(sealed.trajectories(dir).into_iter().map(Source::from).collect());
    }
    let superseded = view.superseded().map_err(CliError::failed)?;
    let leave_out = Arc::new(superseded.iter().map(ToString::to_string).collect());
    let shards = view.trajectories().into_iter();
    let sources: Vec<_> = shards.map(|(path, bytes)| Source { path, bytes: Some(bytes), leave_out: Arc::clone(&leave_out) }).collect();
    if sources.is_empty() {
        return Err(CliError::usage(FeedError::NoShards { path: dir.to_owned() }));
    }
    Ok(sources)
}
