//! Which episode does what when: a pure core that decides, and a driver that performs.

pub mod budget;
pub mod core;
pub mod driver;
pub mod images;
mod message;
mod pace;
pub mod policy;
mod queue;
mod starts;
