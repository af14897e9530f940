//! Images that need no network: archives as `docker save` writes them, for a daemon and for a store alike.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Directories only: there is nothing in it to run, and its entry point does not exist.
pub const EMPTY: &str = "sweroll-test/empty:1";
/// A Debian with Python, from the real set's build.
pub const DEBIAN: &str = "sdist/base:1";

/// An image of directories and the files that say who its users are.
pub fn archive(name: &str, config: Value) -> Vec<u8> {
    let layer = pack(&[
        ("tmp/", 0o1777, b""),
        ("work/", 0o777, b""),
        ("home/app/", 0o755, b""),
        ("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:50:an app:/home/app:/bin/sh\n"),
        ("etc/group", 0o644, b"root:x:0:\nstaff:x:50:\nhelpers:x:77:app,other\n"),
    ]);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let mut whole = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Entrypoint": ["/no/such/program"], "WorkingDir": "/work"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]},
        "history": [{"created_by": "sweroll's tests"}],
    });
    for (key, value) in config.as_object().unwrap() {
        whole["config"][key] = value.clone();
    }
    let whole = serde_json::to_vec(&whole).unwrap();
    let config_name = format!("{}.json", digest(&whole));
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).to_string();
    pack(&[(&config_name, 0o644, &whole), ("layer.tar", 0o644, &layer), ("manifest.json", 0o644, manifest.as_bytes())])
}

pub fn empty() -> Vec<u8> {
    archive(EMPTY, json!({}))
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pack(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

/// A static program that never says anything: it waits in one system call for ever.
pub fn mute_program() -> Vec<u8> {
    // x86-64: mov eax, pause; syscall; jmp back. arm64: mov x8, ppoll; svc 0; b back. The kernel clears the other registers.
    let (machine, code): (u16, &[u8]) = if cfg!(target_arch = "aarch64") {
        (183, &[0x28, 0x09, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xfe, 0xff, 0xff, 0x17])
    } else {
        (62, &[0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7])
    };
    let (base, headers): (u64, u64) = (0x40_0000, 64 + 56);
    let size = headers + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2u16, machine].iter().flat_map(|half| half.to_le_bytes()));
    elf.extend(1u32.to_le_bytes());
    elf.extend([base + headers, 64, 0].iter().flat_map(|address| address.to_le_bytes()));
    elf.extend(0u32.to_le_bytes());
    elf.extend([64u16, 56, 1, 64, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    // The one segment to load: readable and to run.
    elf.extend([1u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    elf.extend([0, base, base, size, size, 4096].iter().flat_map(|number| number.to_le_bytes()));
    elf.extend(code);
    elf
}
