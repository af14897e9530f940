//! `sweroll images pull` from registry to store.

use crate::fake::Content;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn archive(name: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    archive.append_data(&mut header, name, &b"abc"[..]).unwrap();
    archive.into_inner().unwrap()
}

async fn pull(store: &Path, names: &[String]) -> (Output, Vec<Value>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweroll"));
    command.args(["images", "--store"]).arg(store).args(["pull", "--from", "registry", "--format", "json"]).args(names);
    command.args(["--set", "images.pull.backoff_s=0", "--set", "images.pull.auth_file=\"/nonexistent\""]);
    // The registry is served by this runtime.
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let lines = String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output, lines)
}

#[tokio::test]
async fn images_come_into_the_store_and_failures_say_their_kind() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: files of many owners take root");
        return;
    }
    let mut content = Content::default();
    let (base, own) = (archive("base"), archive("own"));
    content.image("a/base", "1", &[&base]);
    content.image("a/b", "1", &[&base, &own]);
    let registry = content.start(|seen| seen.path.contains("a/closed").then(|| crate::fake::Reply::status(503))).await;
    let dir = tempfile::tempdir().unwrap();
    let (output, lines) = pull(dir.path(), &[registry.name("a/base:1")]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!((lines[0]["layers_fetched"].as_u64(), lines[0]["schema_version"].as_u64()), (Some(1), Some(1)), "{lines:?}");
    let names = ["a/b:1", "a/none:1", "a/closed:1"].map(|name| registry.name(name));
    let (output, lines) = pull(dir.path(), &names).await;
    assert_eq!(output.status.code(), Some(1));
    let line = |name: &str| lines.iter().find(|line| line["name"] == registry.name(name)).unwrap();
    let (here, missing, closed) = (line("a/b:1"), line("a/none:1"), line("a/closed:1"));
    assert_eq!((here["layers_fetched"].as_u64(), here["layers_present"].as_u64()), (Some(1), Some(1)), "{here}");
    assert_eq!(here["id"], crate::fake::digest(&crate::fake::config(&[&base, &own])));
    assert_eq!((missing["kind"].as_str(), closed["kind"].as_str()), (Some("image_missing"), Some("image_pull")), "{lines:?}");
    assert_eq!(registry.seen(&crate::fake::digest(&base)).len(), 1);
    let (again, lines) = pull(dir.path(), &[registry.name("a/b:1")]).await;
    assert!(again.status.success() && lines[0]["layers_fetched"] == 0, "{lines:?}");
    assert_eq!(std::fs::read_dir(dir.path().join("downloads")).unwrap().count(), 0);
}
