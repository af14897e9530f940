//! What `sweroll bench` measures and simulates.

pub mod images;
pub mod limits;
pub mod plot;
pub mod schedule;
