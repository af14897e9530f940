//! Where images are imported from.

use crate::support::{Place, digest, layer, offer, place, root, text};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn images(place: &Place, args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_sweroll"))
        .arg("images")
        .args(args)
        .env("SWEROLL_IMAGES", place.settings.dir.as_ref().unwrap())
        .output();
    output.unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn blob(dir: &Path, bytes: &[u8]) -> String {
    let digest = digest(bytes);
    let path = dir.join("blobs/sha256").join(&digest["sha256:".len()..]);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    digest
}

fn manifest(dir: &Path, layers: &[Vec<u8>]) -> String {
    let layers_of: Vec<_> =
        layers.iter().map(|l| serde_json::json!({ "digest": blob(dir, &zstd::encode_all(&l[..], 1).unwrap()) })).collect();
    let config = blob(dir, &offer(layers).config);
    let text = serde_json::json!({ "schemaVersion": 2, "config": { "digest": config }, "layers": layers_of }).to_string();
    blob(dir, text.as_bytes())
}

/// A layout of two names: one with images for two machines, below an index of its own, and one plain.
fn layout(dir: &Path) {
    let ours = layer(|l| l.file("machine", "ours"));
    let foreign = layer(|l| l.file("machine", "foreign"));
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let nested = serde_json::json!({ "schemaVersion": 2, "manifests": [
        { "mediaType": kind, "digest": manifest(dir, &[foreign]), "platform": { "architecture": "s390x", "os": "linux" } },
        { "mediaType": kind, "digest": manifest(dir, &[ours]), "platform": { "architecture": arch, "os": "linux" } },
        { "mediaType": kind, "digest": format!("sha256:{}", "0".repeat(64)), "platform": { "architecture": "unknown", "os": "unknown" } },
    ]});
    let nested = blob(dir, nested.to_string().as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [
        { "mediaType": "application/vnd.oci.image.index.v1+json", "digest": nested, "annotations": { "org.opencontainers.image.ref.name": "many:1" } },
        { "mediaType": kind, "digest": manifest(dir, &[layer(|l| l.file("plain", "plain"))]),
          "annotations": { "io.containerd.image.name": "docker.io/library/plain:2", "org.opencontainers.image.ref.name": "2" } },
    ]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[test]
fn a_layout_is_read_from_a_directory_an_archive_and_a_pipe() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    layout(dir.path());
    let archive = {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_dir_all(".", dir.path()).unwrap();
        builder.into_inner().unwrap()
    };
    let plain = dir.path().join("layout.tar");
    fs::write(&plain, &archive).unwrap();
    let packed = dir.path().join("layout.tar.zst");
    fs::write(&packed, zstd::encode_all(&archive[..], 1).unwrap()).unwrap();
    for path in [dir.path(), &plain, &packed] {
        let place = place();
        let text_of = done(&images(&place, &["import", path.to_str().unwrap()]));
        assert_eq!(
            text_of.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(),
            ["many:1", "docker.io/library/plain:2"]
        );
        let many = place.store.find("many:1").unwrap().unwrap();
        assert_eq!(text(place.tree(&many.layers[0]).join("machine")), "ours");
        let plain = place.store.find("plain:2").unwrap().unwrap();
        assert_eq!(text(place.tree(&plain.layers[0]).join("plain")), "plain");
    }
    let place = place();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sweroll"))
        .args(["images", "import", "-"])
        .env("SWEROLL_IMAGES", place.settings.dir.as_ref().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    assert_eq!(done(&child.wait_with_output().unwrap()).lines().count(), 2);
}

#[test]
fn a_blob_that_was_changed_is_refused() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let digest = manifest(dir.path(), &[layer(|l| l.file("x", "x"))]);
    let index = serde_json::json!({ "manifests": [{ "digest": digest }] });
    fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
    let place = place();
    let path = dir.path().to_str().unwrap();
    let id = done(&images(&place, &["import", path]));
    assert!(id.starts_with("sha256:"), "without a name it has its id's: {id}");
    let file = dir.path().join("blobs/sha256").join(&digest["sha256:".len()..]);
    let changed = text(&file).replace("\"schemaVersion\":2", "\"schemaVersion\":3");
    fs::write(&file, changed).unwrap();
    let message = refused(&images(&place, &["import", path]));
    assert!(message.contains("has the digest"), "{message}");
    assert!(refused(&images(&place, &["import", place.dir.path().to_str().unwrap()])).contains("--rootfs"));
}

#[test]
fn names_in_a_manifest_lead_nowhere_else() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("saved");
    fs::create_dir(&inside).unwrap();
    fs::write(dir.path().join("secret"), "{}").unwrap();
    symlink(dir.path().join("secret"), inside.join("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, inside.join("fifo"), rustix::fs::Mode::from(0o600)).unwrap();
    for config in ["../secret", "link", "fifo", "/etc/passwd", "missing"] {
        let manifest = serde_json::json!([{ "Config": config, "RepoTags": ["n:1"], "Layers": [] }]);
        fs::write(inside.join("manifest.json"), manifest.to_string()).unwrap();
        let place = place();
        let message = refused(&images(&place, &["import", inside.to_str().unwrap()]));
        assert!(message.contains(config) && !message.contains("rootfs`"), "{config}: {message}");
    }
}

/// Everything that a root directory may hold.
fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("b/deep")).unwrap();
    fs::write(dir.join("b/file"), "content").unwrap();
    fs::hard_link(dir.join("b/file"), dir.join("a-link")).unwrap();
    symlink("./b//file", dir.join("tidy")).unwrap();
    symlink("x".repeat(300), dir.join("long")).unwrap();
    fs::write(dir.join("n".repeat(200)), "long name").unwrap();
    fs::write(dir.join("setuid"), "#!").unwrap();
    std::os::unix::fs::chown(dir.join("setuid"), Some(7), Some(8)).unwrap();
    fs::set_permissions(dir.join("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::create_dir(dir.join("tmp")).unwrap();
    fs::set_permissions(dir.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    rustix::fs::setxattr(dir.join("b"), "user.note", b"two\nlines", rustix::fs::XattrFlags::empty()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap());
    let set = |path: &Path| {
        let time = rustix::fs::Timespec { tv_sec: 1_500_000_000, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    for name in ["b/file", "tidy", "long", "setuid", "tmp", "b/deep", "b", ""] {
        set(&dir.join(name));
    }
    set(&dir.join("n".repeat(200)));
    set(dir);
}

#[test]
fn the_same_tree_is_the_same_image() {
    use std::os::unix::fs::MetadataExt;
    if !root() {
        return;
    }
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&one, &two] {
        tree(dir.path());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let place = place();
    let import = |dir: &Path, name: &str| {
        done(&images(&place, &["import", "--rootfs", dir.to_str().unwrap(), "--name", name, "--env", "A=b", "--user", "7"]))
    };
    let (first, second) = (import(one.path(), "one"), import(two.path(), "two"));
    assert_eq!(first.split(' ').nth(1), second.split(' ').nth(1));
    let image = place.store.find("one").unwrap().unwrap();
    assert_eq!((image.env.clone(), image.user.as_str()), (vec![("A".to_owned(), "b".to_owned())], "7"));
    let fs_dir = place.tree(&image.layers[0]);
    let meta = |name: &str| fs::symlink_metadata(fs_dir.join(name)).unwrap();
    assert_eq!(text(fs_dir.join("b/file")), "content");
    assert_eq!(meta("b/file").ino(), meta("a-link").ino());
    assert_eq!(fs::read_link(fs_dir.join("tidy")).unwrap(), Path::new("./b//file"));
    assert_eq!(fs::read_link(fs_dir.join("long")).unwrap().as_os_str().len(), 300);
    assert_eq!(text(fs_dir.join("n".repeat(200))), "long name");
    let setuid = meta("setuid");
    assert_eq!((setuid.mode() & 0o7777, setuid.uid(), setuid.gid()), (0o4755, crate::support::FIRST + 7, crate::support::FIRST + 8));
    assert_eq!((meta("tmp").mode() & 0o7777, meta("tmp").mtime()), (0o1777, 1_500_000_000));
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(fs_dir.join("b"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"two\nlines");
    assert!(!fs_dir.join("socket").exists());

    fs::write(two.path().join("b/file"), "Content").unwrap();
    assert_ne!(first.split(' ').nth(1), import(two.path(), "two").split(' ').nth(1));
}

#[test]
fn the_commands_show_and_remove() {
    if !root() {
        return;
    }
    let place = place();
    drop(place.add("a:1", &[layer(|l| l.file("x", "x"))]).unwrap());
    let listed: serde_json::Value = serde_json::from_str(&done(&images(&place, &["list", "--format", "json"]))).unwrap();
    assert_eq!(listed["schema_version"], 1);
    assert_eq!((&listed["images"][0]["name"], &listed["images"][0]["own_bytes"]), (&"a:1".into(), &4096.into()));
    assert!(done(&images(&place, &["list"])).contains("a:1"));
    assert!(done(&images(&place, &["gc", "--keep-bytes", "0", "--dry-run"])).starts_with("would remove a:1\n"));
    assert!(refused(&images(&place, &["rm", "b:1"])).contains("b:1"));
    assert_eq!(done(&images(&place, &["rm", "a:1"])), "removed a:1\nremoved 1 images and 1 layers, 4,096 bytes\n");
    assert_eq!(done(&images(&place, &["list"])).lines().count(), 1);
}
