//! The sandboxes without a daemon, and their parts.

mod bpf;
mod docker;
mod filter;
mod rootless;
