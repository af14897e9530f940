//! What `sweroll bench` measures and simulates.

pub mod episodes;
pub mod files;
pub mod images;
pub mod limits;
pub mod machine;
pub mod meter;
pub mod plot;
pub mod rows;
pub mod schedule;
pub mod table;
mod watched;
