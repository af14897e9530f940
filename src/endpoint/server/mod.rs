//! A real OpenAI-compatible HTTP server whose model is a script: a run is rehearsed on it without paying.
//!
//! It keeps no state of an episode: a reply follows from the request's messages and the seed, so a restarted
//! server goes on where the last one stopped. Every request's pairing of calls and results is checked.

pub mod brownout;
mod capacity;
mod chance;
mod conversation;
mod fault;
mod flow;
mod http;
mod listing;
mod pairing;
mod patch;
mod pieces;
mod playbook;
mod policy;
pub mod queue;
pub mod rate;
mod reply;
mod settings;
mod stats;
mod steady;
mod toolset;
mod wire;

pub use chance::Rng;
pub use conversation::Conversation;
pub use fault::{BadFault, Fault, FaultKind};
pub use http::Server;
pub use playbook::{Play, Playbook, Twins, Unknown};
pub use policy::{Call, Move, Sent, gold, hostile, noop, wander};
pub use settings::{BadScript, Script, Settings};
pub use stats::{Stat, Stats};
pub use toolset::Toolset;
pub use wire::{Body, Message};
