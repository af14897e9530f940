//! Images of a few megabytes with a shell in them, which share their lower layer, and the instances that have them.

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// What the tests of an instance, the shell and our own scripts run.
const PROGRAMS: [&str; 28] = [
    "sh", "bash", "git", "sed", "grep", "find", "xargs", "cat", "ls", "rm", "mv", "cp", "mkdir", "chmod", "touch", "sleep", "env", "sort",
    "comm", "mktemp", "dirname", "basename", "head", "tail", "cut", "tr", "wc", "date",
];

/// A layer's archive, as registries have it.
#[derive(Clone)]
pub struct Layer {
    pub packed: Vec<u8>,
    diff_id: String,
}

#[derive(Clone)]
pub struct Made {
    pub name: String,
    pub layers: Vec<Layer>,
}

impl Made {
    pub fn config(&self) -> Value {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let diff_ids: Vec<&str> = self.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        json!({
            "architecture": architecture, "os": "linux",
            "config": {"Env": ["PATH=/bin"], "WorkingDir": "/repo"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": diff_ids.iter().map(|_| json!({"created_by": "sweroll's tests"})).collect::<Vec<_>>(),
        })
    }
}

struct Files(tar::Builder<Vec<u8>>, BTreeSet<PathBuf>);

impl Files {
    fn new() -> Self {
        Files(tar::Builder::new(Vec::new()), BTreeSet::new())
    }

    fn add(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        let path = Path::new(path.trim_start_matches('/'));
        let parents: Vec<_> = path.ancestors().skip(1).filter(|parent| parent.components().next().is_some()).collect();
        for parent in parents.into_iter().rev() {
            if self.1.insert(parent.to_owned()) {
                self.entry(tar::EntryType::Directory, parent, 0o755, b"");
            }
        }
        self.entry(tar::EntryType::Regular, path, mode, bytes);
    }

    fn entry(&mut self, kind: tar::EntryType, path: &Path, mode: u32, bytes: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        self.0.append_data(&mut header, path, bytes).unwrap();
    }

    fn layer(self) -> Layer {
        let archive = self.0.into_inner().unwrap();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&archive).unwrap();
        Layer { packed: packed.finish().unwrap(), diff_id: format!("sha256:{:x}", Sha256::digest(&archive)) }
    }
}

/// Programs of this host with the libraries they load. `salt` makes it another layer than any that is somewhere already.
pub fn base(salt: &str) -> Layer {
    let mut files = Files::new();
    files.add("/etc/salt", 0o644, salt.as_bytes());
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS {
        let places = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(program));
        let place = places.iter().find(|place| place.exists()).unwrap_or_else(|| panic!("no {program} here"));
        files.add(&format!("/bin/{program}"), 0o755, &fs::read(place).unwrap());
        let told = Command::new("ldd").arg(place).output().unwrap();
        let text = String::from_utf8(told.stdout).unwrap();
        libraries.extend(text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
    }
    for library in &libraries {
        files.add(library, 0o755, &fs::read(library).unwrap());
    }
    files.add("/tmp/.here", 0o644, b"");
    files.layer()
}

/// An image over `base` with `bytes` of its own that do not compress, made from `salt`.
pub fn image(base: &Layer, name: &str, salt: &str, bytes: usize) -> Made {
    let mut files = Files::new();
    files.add("/repo/greet.sh", 0o755, b"#!/bin/sh\necho \"Hello, $2!\"\n");
    files.add("/repo/tests/hello.sh", 0o644, b"sh greet.sh x y | grep -q '^Hello, '\n");
    let mut state = salt.bytes().chain(name.bytes()).fold(1_u64, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into()));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    files.add("/opt/own", 0o644, &(0..bytes).map(|_| next()).collect::<Vec<u8>>());
    Made { name: name.to_owned(), layers: vec![base.clone(), files.layer()] }
}

/// The instance of an image; its name is the image's, and so is its statement, by which a scripted endpoint knows it.
pub fn instance(name: &str, image: &str) -> Value {
    json!({
        "instance_id": name, "user": "made", "repo": "greet", "language": "shell", "workdir": "/repo", "image_url": image,
        "patch": "diff --git a/greet.sh b/greet.sh\n--- a/greet.sh\n+++ b/greet.sh\n@@ -1,2 +1,2 @@\n #!/bin/sh\n-echo \"Hello, $2!\"\n+echo \"Hello, ${1:-world}!\"\n",
        "pr_commit": "", "parent_commit": "",
        "problem_statement": format!("In {name} greet.sh ignores its argument."),
        "f2p_patch": "diff --git a/tests/name.sh b/tests/name.sh\nnew file mode 100644\n--- /dev/null\n+++ b/tests/name.sh\n@@ -0,0 +1 @@\n+test \"$(sh greet.sh Ada)\" = 'Hello, Ada!'\n",
        "f2p_script": "", "FAIL_TO_PASS": ["tests/name.sh"], "PASS_TO_PASS": ["tests/hello.sh"], "github_url": "https://example.org/made",
        "pre_commands": "",
    })
}
