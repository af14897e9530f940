//! What an ill-meaning model would try from inside of a sandbox, each attempt with the refusal that it must meet, on every
//! backend. The tables (`*.toml`) hold what needs no more than a few lines of Python inside; the files by subject hold what
//! needs a look from outside. Without a daemon, or without native sandboxes, the tests say that they were skipped, unless
//! `CI` is set: then they fail.

mod diff;
mod neighbours;
mod resources;
mod secrets;
mod setuid;
mod stream;
mod support;
mod tables;
