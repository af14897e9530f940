//! What stays and what goes.

use crate::support::{Place, layer, offer, place, root};
use std::fs::{self, FileTimes};
use std::time::{Duration, SystemTime};
use sweroll::domain::Kind;
use sweroll::images::{Settings, Store};

fn file(name: &str, kib: usize) -> Vec<u8> {
    layer(|l| l.file(name, &"x".repeat(kib << 10)))
}

fn layers(place: &Place) -> usize {
    fs::read_dir(place.store.layers()).unwrap().count()
}

/// Bytes of a layer are whole blocks, and its root's.
fn used(place: &Place, id: &str, ago_s: u64) {
    let path = place.settings.dir.as_ref().unwrap().join("images").join(format!("{}.json", &id["sha256:".len()..]));
    let then = SystemTime::now() - Duration::from_secs(ago_s);
    fs::File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(then)).unwrap();
}

#[test]
fn layers_are_shared_and_go_with_the_last_image_that_has_them() {
    if !root() {
        return;
    }
    let place = place();
    let (base, a, b) = (file("base", 40), file("a", 8), file("b", 4));
    drop(place.add("a:1", &[base.clone(), a]).unwrap());
    drop(place.add("b:1", &[base, b]).unwrap());
    drop(place.add("b:2", &[file("base", 40), file("b", 4)]).unwrap());
    assert_eq!(layers(&place), 3);
    let listed = place.store.list().unwrap();
    let row = |at: usize| (listed[at].name.as_str(), listed[at].layers, listed[at].own_bytes, listed[at].shared_bytes);
    assert_eq!((0..3).map(row).collect::<Vec<_>>(), [("a:1", 2, 8192, 40960), ("b:1", 2, 4096, 40960), ("b:2", 2, 4096, 40960),]);

    let gone = place.store.forget(&["a:1".to_owned()]).unwrap();
    assert_eq!((gone.names, gone.images.len(), gone.layers, gone.bytes), (vec!["a:1".to_owned()], 1, 1, 8192));
    let gone = place.store.forget(&["b:1".to_owned()]).unwrap();
    assert_eq!((gone.images.len(), gone.layers), (0, 0), "it has another name");
    assert!(place.store.find("b:2").unwrap().is_some() && place.store.find("b:1").unwrap().is_none());
    let gone = place.store.forget(&[listed[2].id.clone()]).unwrap();
    assert_eq!((gone.names, gone.layers), (vec!["b:2".to_owned()], 2));
    assert_eq!(layers(&place), 0);
    let error = place.store.forget(&["b:2".to_owned()]).unwrap_err();
    assert!(error.kind == Kind::ImageMissing && error.message.contains("images list"), "{}", error.message);
}

#[test]
fn what_is_held_stays_until_it_is_let_go() {
    if !root() {
        return;
    }
    let place = place();
    drop(place.add("held", &[file("x", 4)]).unwrap());
    let image = place.store.find("held:latest").unwrap().unwrap();
    let other = Store::open(&place.settings).unwrap();
    let gone = other.forget(&["held".to_owned()]).unwrap();
    assert_eq!((gone.names.len(), gone.images.len(), gone.layers), (1, 0, 0));
    assert!(place.store.find("held").unwrap().is_none(), "the name goes at once");
    assert!(place.tree(&image.layers[0]).join("x").exists());
    assert_eq!(other.collect(Some(0)).unwrap().layers, 0);
    assert_eq!(other.list().unwrap()[0].name, "");
    assert!(other.find(&image.id).unwrap().is_some(), "by its id it is there as long");
    drop(image);
    let gone = other.collect(None).unwrap();
    assert_eq!((gone.images.len(), gone.layers, gone.bytes), (1, 1, 4096));
    assert_eq!(layers(&place), 0);
}

#[test]
fn the_least_recently_used_go_first_and_none_in_use() {
    if !root() {
        return;
    }
    let place = place();
    let ids: Vec<String> =
        ["a", "b", "c", "d"].iter().map(|name| place.add(name, &[file(name, 100), file("base", 20)]).unwrap().id).collect();
    let age = |ages: [u64; 4]| ids.iter().zip(ages).for_each(|(id, age)| used(&place, id, age));
    age([400, 300, 200, 100]);
    let held = place.store.find("a").unwrap().unwrap();
    age([400, 300, 200, 100]);
    let all = 4 * 102_400 + 20_480;
    assert_eq!(place.store.collect(Some(all)).unwrap().layers, 0, "they fit");
    let would = place.store.collectable(Some(all - 102_400 - 1)).unwrap();
    assert_eq!((would.names.clone(), would.layers, would.bytes), (vec!["b:latest".to_owned(), "c:latest".to_owned()], 2, 2 * 102_400));
    assert_eq!(layers(&place), 5, "a dry run removes nothing");
    let gone = place.store.collect(Some(all - 102_400 - 1)).unwrap();
    assert_eq!((gone.names, gone.layers, gone.bytes), (would.names, would.layers, would.bytes));
    assert_eq!(place.store.collect(Some(0)).unwrap().names, ["d:latest"]);
    assert!(place.tree(&held.layers[0]).is_dir() && place.tree(&held.layers[1]).is_dir());
    assert_eq!(layers(&place), 2);
}

#[test]
fn to_find_an_image_is_to_use_it() {
    if !root() {
        return;
    }
    let place = place();
    let id = place.add("a", &[file("a", 1)]).unwrap().id;
    used(&place, &id, 1000);
    let before = place.store.list().unwrap()[0].used_at;
    drop(place.store.find("a").unwrap());
    assert!(place.store.list().unwrap()[0].used_at > before + 900);
}

#[test]
fn a_name_is_dockers_short_one_or_the_id() {
    if !root() {
        return;
    }
    let place = place();
    let mut given = offer(&[file("a", 1)]);
    given.digest = "debian@sha256:abc".to_owned();
    let archive = file("a", 1);
    let image = place.store.add("docker.io/library/debian", &given, &|_| Ok(Box::new(std::io::Cursor::new(archive.clone())))).unwrap();
    assert_eq!(image.digest, "debian@sha256:abc");
    for name in ["debian", "debian:latest", "library/debian", "docker.io/debian:latest", &image.id.clone()] {
        assert_eq!(place.store.find(name).unwrap().unwrap().id, image.id, "{name}");
    }
    for name in ["debian:12", "other/debian", "host:5000/debian", "", "../x", "sha256:../../etc"] {
        assert!(place.store.find(name).unwrap().is_none(), "{name}");
    }
}

#[test]
fn a_name_that_moves_leaves_its_old_image_to_be_collected() {
    if !root() {
        return;
    }
    let place = place();
    drop(place.add("n", &[file("old", 1)]).unwrap());
    let new = place.add("n", &[file("new", 1)]).unwrap();
    assert_eq!(place.store.find("n").unwrap().unwrap().id, new.id);
    let gone = place.store.collect(None).unwrap();
    assert_eq!((gone.images.len(), gone.layers), (1, 1));
    assert!(place.tree(&new.layers[0]).is_dir());
}

#[test]
fn a_store_of_other_owners_or_another_version_is_refused() {
    if !root() {
        return;
    }
    let place = place();
    drop(place.add("n", &[file("x", 1)]).unwrap());
    let other = Store::open(&Settings { first_id: 0x5000_0000, ..place.settings.clone() }).unwrap();
    assert!(other.find("n").unwrap().is_some(), "its files are as good to read");
    assert_eq!(other.ids(), place.store.ids());
    let error = crate::support::add(&other, "m", &[file("y", 1)]).unwrap_err();
    assert!(error.message.contains("first_id") && error.message.contains("1610612736"), "{}", error.message);
    let format = place.settings.dir.as_ref().unwrap().join("format");
    fs::write(&format, fs::read_to_string(&format).unwrap().replace("\"version\":1", "\"version\":2")).unwrap();
    let error = Store::open(&place.settings).unwrap_err();
    assert!(error.kind == Kind::ImageMissing && error.message.contains("version 2"), "{}", error.message);
}

#[test]
fn nobody_else_goes_into_a_store() {
    use std::os::unix::fs::MetadataExt;
    if !root() {
        return;
    }
    let place = place();
    drop(place.add("n", &[file("x", 1)]).unwrap());
    assert_eq!(fs::metadata(place.settings.dir.as_ref().unwrap()).unwrap().mode() & 0o777, 0o700);
}
