//! What `sweroll bench` measures and simulates.

pub mod plot;
