//! What `sweroll bench` measures and simulates.
