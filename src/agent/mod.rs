//! One agent: the pure turn machine, what of the context is left, and the runner that performs the effects.

pub mod history;
pub mod machine;
pub mod prompt;
pub mod runner;
