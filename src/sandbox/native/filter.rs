//! The system calls that a sandbox may make.
