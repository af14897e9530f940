//! An image of a daemon, imported, is what the daemon's containers see.

use crate::support::{FIRST, merged_archive, place, root};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use tar::{Archive, EntryType};

/// What a container's engine puts into it.
const ENGINES: [&str; 8] = [".dockerenv", "dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];

/// All that an archive tells of a file. A further name of a file is as the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: EntryType,
    mode: u32,
    owner: (u64, u64),
    size: u64,
    mtime: u64,
    link: Option<Vec<u8>>,
}

fn entries(archive: &[u8], first: u64) -> BTreeMap<String, Entry> {
    let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_start_matches("./").trim_matches('/').to_owned();
    let mut found: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in Archive::new(archive).entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        let path = name(&entry.path_bytes());
        let link = entry.link_name_bytes().map(|link| link.into_owned());
        let told = if header.entry_type() == EntryType::Link {
            found[&name(&link.unwrap())].clone()
        } else {
            Entry {
                kind: header.entry_type(),
                mode: header.mode().unwrap() & 0o7777,
                owner: (header.uid().unwrap() - first, header.gid().unwrap() - first),
                size: entry.size(),
                mtime: header.mtime().unwrap(),
                link,
            }
        };
        found.insert(path, told);
    }
    // The engine's places, and the directories in which it made them, whose times are those of that.
    if let Some(etc) = found.get_mut("etc") {
        etc.mtime = 0;
    }
    found.retain(|path, _| !path.is_empty() && !ENGINES.iter().any(|ours| path == ours || path.starts_with(&format!("{ours}/"))));
    found
}

fn docker(args: &[&str]) -> Vec<u8> {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn an_imported_image_is_as_its_containers_see_it() {
    let Some(set) = std::env::var_os("SWEROLL_REALSET") else {
        assert!(std::env::var_os("CI").is_none(), "SWEROLL_REALSET is not set");
        eprintln!("skipped: SWEROLL_REALSET is not set");
        return;
    };
    if !root() {
        return;
    }
    let first = std::fs::read_to_string(set).unwrap().lines().next().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let first = first.unwrap();
    let name = ["image_url", "image_name", "image", "docker_image"].iter().find_map(|key| first.get(*key)?.as_str()).unwrap().to_owned();
    let place = place();
    let mut save = Command::new("docker").args(["save", &name]).stdout(Stdio::piped()).spawn().unwrap();
    let import = Command::new(env!("CARGO_BIN_EXE_sweroll"))
        .args(["images", "import", "-"])
        .env("SWEROLL_IMAGES", place.settings.dir.as_ref().unwrap())
        .stdin(save.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(save.wait().unwrap().success() && import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
    let image = place.store.find(&name).unwrap().unwrap();
    assert_eq!(image.id, String::from_utf8(docker(&["image", "inspect", "-f", "{{.Id}}", &name])).unwrap().trim());
    let merged = entries(&merged_archive(&place, &image), FIRST.into());

    let container = String::from_utf8(docker(&["create", &name, "true"])).unwrap();
    let exported = entries(&docker(&["export", container.trim()]), 0);
    docker(&["rm", container.trim()]);
    assert!(exported.len() > 1000, "{}", exported.len());
    let differing: Vec<_> = exported
        .keys()
        .chain(merged.keys())
        .filter(|path| exported.get(*path) != merged.get(*path))
        .map(|path| (path, exported.get(path), merged.get(path)))
        .collect();
    assert!(differing.is_empty(), "{} differ: {:?}", differing.len(), &differing[..differing.len().min(5)]);
}
