//! Sandboxes: one suite that every backend answers alike, see `table.rs`, and what each has of its own.
//!
//! A case is named by its backend: `cargo test --test sandbox native::` runs those of one, and a case that one cannot
//! have is listed as ignored, with the reason. Where a backend is not to be had its cases say that they were skipped, unless
//! `CI` is set: then they fail.

mod backend;
mod bounds;
mod commands;
mod cycles;
mod daemon;
mod ends;
mod engines;
mod host;
mod image;
mod inside;
mod processes;
mod snapshots;
mod starts;
mod store;
mod support;
mod table;
