//! Sandboxes of namespaces and an overlay, by no daemon.

pub mod cgroup;
pub mod filter;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where what a sandbox writes is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upper {
    /// On disk where the kernel lets this user attach a file as a disk, else in memory.
    #[default]
    Auto,
    /// In a file system of its own, in a sparse file in the scratch directory.
    Disk,
    /// In memory, counted to the sandbox's memory.
    Memory,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where what the sandboxes write is kept while they live; none: `/var/tmp`, the temporary directory.
    pub scratch: Option<PathBuf>,
    pub upper: Upper,
    /// Bytes that a sandbox may write over its image.
    pub upper_bytes: u64,
    /// Files and directories that a sandbox may make.
    pub upper_files: u64,
    /// Bytes of the `/tmp` in memory that a sandbox has where its image has nothing there; 0: `/tmp` is a directory like others.
    pub tmp_bytes: u64,
    /// Open files allowed to a process in a sandbox.
    pub nofile: u64,
    /// Seconds for a sandbox to be gone once it was killed.
    pub remove_timeout_s: u64,
    /// The program that serves inside the sandboxes; none: this one.
    pub toolbox_path: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            scratch: None,
            upper: Upper::Auto,
            upper_bytes: 10 << 30,
            upper_files: 1 << 20,
            tmp_bytes: 1 << 30,
            nofile: 16384,
            remove_timeout_s: 60,
            toolbox_path: None,
        }
    }
}
