//! The server inside the sandbox which performs the tool calls, and the engine's handle to it.
//! Both ends are one binary: `sweroll toolbox` is the first process of every sandbox.

pub mod client;
pub mod protocol;

mod apply;
mod diff;
mod edit;
mod files;
mod git;
mod launch;
mod objects;
#[doc(hidden)]
pub mod output;
mod patch;
mod process;
mod quote;
mod search;
mod server;
mod session;
mod shell;
mod text;
mod tree;
mod usage;

pub use server::main;
