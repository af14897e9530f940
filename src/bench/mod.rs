//! What `sweroll bench` measures and simulates.

mod endpoint;
pub mod episodes;
pub mod files;
pub mod images;
pub mod limits;
pub mod machine;
pub mod meter;
pub mod place;
pub mod plot;
pub mod records;
pub mod rows;
pub mod schedule;
pub mod store;
pub mod table;
pub mod threads;
pub mod tokens;
mod watched;
