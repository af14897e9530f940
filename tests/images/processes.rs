//! Several processes at one store, and some that die.

use crate::support::{Place, layer, offer, place, root};
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A `docker save` archive of an image of these layers.
fn saved(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let config = offer(layers).config;
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": names }]).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    names.iter().zip(layers).for_each(|(name, layer)| put(name, layer));
    put("config.json", &config);
    put("manifest.json", manifest.as_bytes());
    archive.into_inner().unwrap()
}

fn import(place: &Place) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sweroll"));
    command.args(["images", "import", "-"]).env("SWEROLL_IMAGES", place.settings.dir.as_ref().unwrap());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn fed(mut child: Child, archive: Vec<u8>) -> Child {
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || drop(stdin.write_all(&archive)));
    child
}

fn many_files() -> Vec<u8> {
    layer(|l| (0..2000).for_each(|n| l.file(&format!("dir{}/file{n}", n % 50), &format!("content {n}"))))
}

#[test]
fn processes_that_add_the_same_image_unpack_it_once_and_all_have_it() {
    if !root() {
        return;
    }
    let place = place();
    let archive = saved("same:1", &[many_files(), layer(|l| l.file("top", "top"))]);
    let children: Vec<Child> = (0..4).map(|_| fed(import(&place).spawn().unwrap(), archive.clone())).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("same:1 sha256:"));
    }
    let image = place.store.find("same:1").unwrap().unwrap();
    assert_eq!(place.merged(&image).len(), 2000 + 50 + 1);
    assert_eq!(fs::read_dir(place.store.layers()).unwrap().count(), 2);
    assert_eq!(fs::read_dir(place.settings.dir.as_ref().unwrap().join("tmp")).unwrap().count(), 0, "nothing is left");
}

#[test]
fn threads_that_add_the_same_layer_ask_for_it_once() {
    if !root() {
        return;
    }
    let place = place();
    let archive = many_files();
    let asked = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (place, archive, asked) = (&place, &archive, &asked);
            scope.spawn(move || {
                let open = |_| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    Ok(Box::new(Cursor::new(archive.clone())) as Box<dyn Read + Send>)
                };
                place.store.add(&format!("n{n}"), &offer(std::slice::from_ref(archive)), &open).unwrap()
            });
        }
    });
    assert_eq!(asked.into_inner(), 1);
    assert_eq!(place.store.list().unwrap().len(), 4);
}

/// A layer that never ends, and says when it has been begun.
struct Endless(Vec<u8>, usize);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1 == self.0.len() {
            std::thread::sleep(Duration::from_secs(3600));
        }
        let read = (&self.0[self.1..]).read(buffer)?;
        self.1 += read;
        Ok(read)
    }
}

#[test]
fn what_a_killed_process_left_is_swept_and_its_image_can_be_added() {
    if !root() {
        return;
    }
    let place = place();
    let tmp = place.settings.dir.as_ref().unwrap().join("tmp");
    let layers = [layer(|l| l.file("small", "small")), many_files()];
    let archive = saved("cut:1", &layers);
    // A directory, so that the second layer is read as it comes: from a pipe whose writer stalls in its middle.
    let dir = place.dir.path().join("saved");
    fs::create_dir(&dir).unwrap();
    tar::Archive::new(&archive[..]).unpack(&dir).unwrap();
    let mut child = stalled(&place);
    // Killed in the middle: a half-made layer, a note, a turn.
    let begun = || fs::read_dir(&tmp).is_ok_and(|entries| entries.flatten().any(|entry| has_layer(&entry.path())));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !begun() {
        assert!(std::time::Instant::now() < deadline, "the import did not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(fs::read_dir(&tmp).unwrap().count() > 0);
    assert!(place.store.find("cut:1").unwrap().is_none(), "half an image is none");

    let output = Command::new(env!("CARGO_BIN_EXE_sweroll"))
        .args(["images", "gc", "--format", "json"])
        .env("SWEROLL_IMAGES", place.settings.dir.as_ref().unwrap())
        .output()
        .unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told["leftovers"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    let output = fed(import(&place).spawn().unwrap(), archive).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.merged(&place.store.find("cut:1").unwrap().unwrap()).len(), 2000 + 50 + 1);
}

fn has_layer(scratch: &std::path::Path) -> bool {
    fs::read_dir(scratch).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("layer-") && entry.path().join("fs/dir0").exists())
    })
}

/// This test program again, as a process that adds an image whose second layer stops in its middle.
fn stalled(place: &Place) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::a_process_that_stalls", "--ignored"])
        .env("STALLED_STORE", place.settings.dir.as_ref().unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "the part of another test that is killed"]
fn a_process_that_stalls() {
    let dir = std::env::var_os("STALLED_STORE").expect("only for the other test");
    let settings = sweroll::images::Settings { dir: Some(dir.into()), ..sweroll::images::Settings::default() };
    let store = sweroll::images::Store::open(&settings).unwrap();
    let layers = [layer(|l| l.file("small", "small")), many_files()];
    let half = layers[1][..layers[1].len() / 2].to_vec();
    let open = |n: usize| -> io::Result<Box<dyn Read + Send>> {
        if n == 0 { Ok(Box::new(Cursor::new(layers[0].clone()))) } else { Ok(Box::new(Endless(half.clone(), 0))) }
    };
    drop(store.add("cut:1", &offer(&layers), &open));
}

#[test]
fn what_is_being_added_is_not_collected() {
    if !root() {
        return;
    }
    let place = place();
    let layers = [layer(|l| l.file("first", "first")), layer(|l| l.file("second", "second"))];
    let other = sweroll::images::Store::open(&place.settings).unwrap();
    let first = place.store.layers().join(&crate::support::digest(&layers[0])["sha256:".len()..][..24]);
    // One layer at a time: the second is asked for when the first is there, and no image names it yet.
    let mut settings = place.settings.clone();
    settings.unpack.threads = 1;
    let store = sweroll::images::Store::open(&settings).unwrap();
    let open = |n: usize| -> io::Result<Box<dyn Read + Send>> {
        if n == 1 {
            assert!(first.is_dir());
            let gone = other.collect(Some(0)).map_err(io::Error::other)?;
            assert_eq!((gone.layers, gone.images.len()), (0, 0));
        }
        Ok(Box::new(Cursor::new(layers[n].clone())))
    };
    let image = store.add("n", &offer(&layers), &open).unwrap();
    assert_eq!(place.merged(&image).len(), 2);
}

/// A user other than root adds in a user namespace, where the overlay's marks are of another kind.
#[test]
fn a_store_of_another_user_has_user_marks() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    const USER: u32 = 54321;
    let as_user = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "54321", "--regid", "54321", "--clear-groups", program]);
        command
    };
    if !root() {
        return;
    }
    if !as_user("unshare").args(["-U", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: another user gets no user namespace here");
        return;
    }
    let place = place();
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.dir.path().join("sweroll");
    fs::copy(env!("CARGO_BIN_EXE_sweroll"), &program).unwrap();
    let dir = place.dir.path().join("home");
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(USER), Some(USER)).unwrap();
    let upper = layer(|l| {
        l.file("d/.wh..wh..opq", "");
        l.file("d/.wh.x", "");
        let mut owned = crate::support::header(tar::EntryType::Regular, 0o4755);
        owned.set_uid(7);
        l.raw(owned, b"owned", b"", b"x");
    });
    let run = |args: &[&str], input: Vec<u8>| {
        let mut command = as_user(program.to_str().unwrap());
        command.args(args).env_remove("XDG_DATA_HOME").env("HOME", &dir);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = fed(child, input).wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["images", "import", "-"], saved("mine:1", &[upper])).starts_with("mine:1 "));
    assert!(run(&["images", "list"], Vec::new()).contains("mine:1"));
    let layers = dir.join(".local/share/sweroll/images/layers");
    let tree = fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path().join("fs");
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(tree.join("d"), "user.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"y");
    let whiteout = fs::symlink_metadata(tree.join("d/x")).unwrap();
    assert_eq!((whiteout.mode() & 0o170_000, whiteout.rdev()), (0o020_000, 0));
    // Without numbers of its own in /etc/subuid all is its user's.
    let owned = fs::metadata(tree.join("owned")).unwrap();
    assert_eq!((owned.uid(), owned.mode() & 0o7777), (USER, 0o4755));
    assert!(run(&["images", "rm", "mine:1"], Vec::new()).contains("1 layers"));
    assert_eq!(fs::read_dir(&layers).unwrap().count(), 0);
}
