//! sweroll turns software-engineering instances into training data.
pub mod agent;
pub mod cli;
pub mod config;
pub mod domain;
pub mod endpoint;
pub mod engine;
pub mod grading;
pub mod reporter;
pub mod sandbox;
pub mod scheduler;
pub mod store;
pub mod tokens;
pub mod toolbox;
pub mod tools;
