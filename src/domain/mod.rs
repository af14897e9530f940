//! The words of sweroll as types. No I/O, and nothing of ours is imported.

pub mod conversation;
pub mod episode;
pub mod event;
pub mod failure;
pub mod grade;
pub mod instance;
pub mod log_parser;
pub mod message;
mod pages;
pub mod prediction;
pub mod tight;
pub mod trajectory;
pub mod transcript;

pub use conversation::Conversation;
pub use episode::{Attempt, AttemptId, EpisodeId};
pub use failure::{Class, Disposition, Failure, Kind};
pub use grade::{Grade, GradedWith, Reason, Suspicion, TestResult, TestStatus, Verdict};
pub use instance::{Instance, InstanceId};
pub use log_parser::LogParser;
pub use message::{Message, Role, ToolCall};
pub use prediction::{Prediction, Verdicted};
pub use trajectory::{ExitReason, Meta, Resolved, Trajectory};
pub use transcript::{Entry, Transcript};
