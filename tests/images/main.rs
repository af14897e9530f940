//! The image store: hostile archives, whiteouts as an overlay sees them, several processes, what comes and goes.
//!
//! Its files are of many owners, so that only root can have one: for another user these tests are skipped.

mod docker;
mod hostile;
mod keeping;
mod processes;
mod sources;
mod support;
mod whiteouts;
