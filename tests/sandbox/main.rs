//! Sandboxes on a real Docker daemon, and the same on plain processes. Without a daemon the tests say that they were
//! skipped, unless `CI` is set: then they fail.

mod ends;
mod isolation;
mod local;
mod proxy;
mod speed;
mod starts;
mod support;
mod weather;
