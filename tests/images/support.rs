//! Layers made entry by entry, and what became of them.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use sweroll::images::{Image, ImageError, Offer, Settings, Store};
use tar::{Builder, EntryType, Header};

/// First owner in the stores of these tests.
pub const FIRST: u32 = 0x6000_0000;

/// Whether the tests can run at all.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: files of many owners take root");
    }
    root
}

pub struct Place {
    pub dir: tempfile::TempDir,
    pub settings: Settings,
    pub store: Store,
}

pub fn place() -> Place {
    place_with(|_| {})
}

pub fn place_with(change: impl FnOnce(&mut Settings)) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings { dir: Some(dir.path().join("store")), first_id: FIRST, ..Settings::default() };
    change(&mut settings);
    let store = Store::open(&settings).unwrap();
    Place { dir, settings, store }
}

impl Place {
    pub fn add(&self, name: &str, layers: &[Vec<u8>]) -> Result<Image, ImageError> {
        add(&self.store, name, layers)
    }

    /// An image of one layer that `build` makes; the layer's tree.
    pub fn unpack(&self, build: impl FnOnce(&mut Layer)) -> PathBuf {
        let image = self.add("one", &[layer(build)]).unwrap();
        self.tree(&image.layers[0])
    }

    /// Why a layer is refused.
    pub fn refused(&self, build: impl FnOnce(&mut Layer)) -> String {
        let error = self.add("one", &[layer(build)]).unwrap_err();
        assert!(self.store.find("one").unwrap().is_none());
        assert_eq!(fs::read_dir(self.store.layers()).unwrap().count(), 0, "a refused layer is no layer");
        error.message
    }

    pub fn tree(&self, layer: &str) -> PathBuf {
        self.store.layers().join(layer).join("fs")
    }

    /// The files of an image as a sandbox sees them: path, and the content or what it is.
    pub fn merged(&self, image: &Image) -> BTreeMap<String, String> {
        let archive = merged_archive(self, image);
        let mut seen = BTreeMap::new();
        for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().trim_start_matches("./").trim_end_matches('/').to_owned();
            let mut text = String::new();
            match entry.header().entry_type() {
                EntryType::Directory => text.push_str("dir"),
                EntryType::Symlink => text = format!("-> {}", entry.link_name().unwrap().unwrap().display()),
                _ => drop(entry.read_to_string(&mut text).unwrap()),
            }
            seen.insert(path, text);
        }
        seen.remove("");
        seen
    }
}

/// The merged tree as `tar` archives it, in a mount namespace of its own, which leaves nothing behind.
pub fn merged_archive(place: &Place, image: &Image) -> Vec<u8> {
    let base = tempfile::tempdir_in(place.dir.path()).unwrap();
    let (empty, merged) = (base.path().join("empty"), base.path().join("merged"));
    fs::create_dir(&empty).unwrap();
    fs::create_dir(&merged).unwrap();
    // An overlay without an upper directory takes two layers at least.
    let mut lower: Vec<String> = image.layers.iter().rev().map(|layer| place.tree(layer).display().to_string()).collect();
    lower.push(empty.display().to_string());
    let script = "mount -t overlay overlay -o \"lowerdir=$1\" \"$2\" && tar --numeric-owner -C \"$2\" -cf - .";
    let output = Command::new("unshare").args(["-m", "sh", "-ec", script, "sh", &lower.join(":")]).arg(&merged).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

pub fn add(store: &Store, name: &str, layers: &[Vec<u8>]) -> Result<Image, ImageError> {
    store.add(name, &offer(layers), &|n| Ok(Box::new(Cursor::new(layers[n].clone()))))
}

pub fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

pub fn offer(layers: &[Vec<u8>]) -> Offer {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["PATH=/bin", "EMPTY=", "A=b=c"], "User": "1000:5" },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    Offer { config: config.to_string().into_bytes(), digest: String::new() }
}

pub struct Layer(pub Builder<Vec<u8>>);

pub fn layer(build: impl FnOnce(&mut Layer)) -> Vec<u8> {
    let mut layer = Layer(Builder::new(Vec::new()));
    build(&mut layer);
    layer.0.into_inner().unwrap()
}

pub fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    header
}

impl Layer {
    /// The name as it is, which may be any.
    pub fn raw(&mut self, mut header: Header, name: &[u8], link: &[u8], content: &[u8]) {
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
    }

    pub fn file(&mut self, name: &str, content: &str) {
        self.raw(header(EntryType::Regular, 0o644), name.as_bytes(), b"", content.as_bytes());
    }

    pub fn dir(&mut self, name: &str) {
        self.raw(header(EntryType::Directory, 0o755), name.as_bytes(), b"", b"");
    }

    pub fn symlink(&mut self, name: &str, target: &str) {
        self.raw(header(EntryType::Symlink, 0o777), name.as_bytes(), target.as_bytes(), b"");
    }

    pub fn link(&mut self, name: &str, target: &str) {
        self.raw(header(EntryType::Link, 0o644), name.as_bytes(), target.as_bytes(), b"");
    }

    pub fn pax(&mut self, records: &[(&str, &[u8])]) {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
    }
}

pub fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}
