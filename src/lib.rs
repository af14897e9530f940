//! sweroll turns software-engineering instances into training data: agent episodes against an OpenAI-compatible endpoint,
//! each in a sandbox of its own, graded with the instance's tests, in zstd shards.
//!
//! One episode's way through the crate:
//!
//! ```text
//!  cli ──> config (defaults < file < environment < flags) ──> engine (composition root)
//!                                                               │
//!  store::dataset ── rows checked, frozen ──> store::instances  │   scheduler::core decides, scheduler::driver performs
//!                                                               v
//!  ┌─ agent slot ──────────────────────────────────────────────────────────────────────────────────────────────┐
//!  │ sandbox (docker, native, local) starts the toolbox as first process                                                │
//!  │ sandbox::prepare   pre_commands, HEAD verified, future scrubbed, base tree recorded                        │
//!  │ agent::prompt      system and user message                                                                 │
//!  │ agent::runner      ┌─> endpoint (permit, request, retry) ─> reply ─> spool, fsync ─┐                       │
//!  │                    │     tools: validate, route ─> toolbox ─> observation ─> spool │  until agent::machine │
//!  │                    └───────────────────────────────────────────────────────────────┘  names an exit reason │
//!  │ final diff from the base tree ─> spool; sandbox destroyed                                                  │
//!  └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//!  ┌─ grader slot ─────────────────────────────────────────────────────────────────────────────────────────────┐
//!  │ grading            fresh sandbox, diff applied whole, tests put back, report read, verdict                 │
//!  └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//!  tokens ── counted ──> store: shard frame, fsync ─> journal `committed`, fsync ─> spool removed ─> reporter
//! ```
//!
//! Direction: [`domain`] <- pure cores <- adapters <- [`engine`] <- [`cli`]; `tests/architecture.rs` holds it.

pub mod agent;
pub mod bench;
pub mod cli;
pub mod config;
pub mod domain;
pub mod endpoint;
pub mod engine;
pub mod export;
pub mod grading;
mod http;
pub mod images;
pub mod linux;
pub mod reporter;
pub mod sandbox;
pub mod scheduler;
pub mod store;
pub mod tokens;
pub mod toolbox;
pub mod tools;
