//! Layers that mean ill, or are merely odd.

use crate::support::{FIRST, Layer, add, digest, header, layer, offer, place, place_with, root, text};
use rustix::fs::getxattr;
use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use sweroll::domain::Kind;
use tar::EntryType;

#[test]
fn no_link_leads_out_of_the_root() {
    if !root() {
        return;
    }
    let place = place();
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "before").unwrap();
    let outside_name = outside.to_str().unwrap();
    let tree = place.unpack(|l| {
        // With the tree as the root of all there is no such directory: none is made outside, and here it is a file's parent no more.
        l.dir(outside_name);
        l.symlink("abs", outside_name);
        l.file("abs/victim", "inside");
        l.dir("deep");
        l.symlink("deep/up", "../../../../../../../../deep");
        l.file("deep/up/here", "inside");
        l.symlink("final", &format!("{outside_name}/victim"));
        l.file("final", "a file in the link's place");
    });
    assert_eq!(text(outside.join("victim")), "before");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(text(tree.join(outside_name.trim_start_matches('/')).join("victim")), "inside");
    assert_eq!(text(tree.join("deep/here")), "inside");
    assert!(fs::symlink_metadata(tree.join("final")).unwrap().is_file());
}

#[test]
fn a_hard_link_takes_nothing_from_outside() {
    if !root() {
        return;
    }
    for (target, through) in
        [("../../../../etc/passwd", None), ("/etc/passwd", None), ("etc/passwd", Some("/etc")), ("s/passwd", Some("/etc"))]
    {
        let message = place().refused(|l| {
            if let Some(through) = through {
                l.symlink(target.split('/').next().unwrap(), through);
            }
            l.link("mine", target);
        });
        assert!(message.contains("mine"), "{message}");
    }
}

#[test]
fn names_begin_at_the_root_and_do_not_leave_it() {
    if !root() {
        return;
    }
    let place = place();
    let tree = place.unpack(|l| {
        l.file("/absolute", "1");
        l.file("./dotted//name/./x", "2");
        l.file("a/b/../c", "3");
        l.raw(header(EntryType::Regular, 0o644), b"not-utf8-\xff\xfe", b"", b"4");
    });
    assert_eq!(text(tree.join("absolute")), "1");
    assert_eq!(text(tree.join("dotted/name/x")), "2");
    assert_eq!(text(tree.join("a/c")), "3");
    assert_eq!(text(tree.join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff\xfe"))), "4");
    let place = crate::support::place();
    for name in ["../x", "a/../../x", "..", "/../x"] {
        let message = place.refused(|l| l.file(name, "x"));
        assert!(message.contains("out of the root"), "{name}: {message}");
    }
}

#[test]
fn the_last_of_a_name_wins() {
    if !root() {
        return;
    }
    let place = place();
    let tree = place.unpack(|l| {
        l.file("f", "first");
        l.link("g", "f");
        l.file("f", "second");
        l.dir("d");
        l.dir("d/e");
        l.file("d/e/f", "x");
        l.file("d", "a file now");
        l.file("was-file", "x");
        l.dir("was-file");
        l.file("was-file/in", "in");
        l.dir("kept");
        l.file("kept/in", "in");
        l.raw(header(EntryType::Directory, 0o700), b"kept/", b"", b"");
        // The parent that was looked up last is another one now.
        l.dir("real");
        l.symlink("way", "real");
        l.file("way/a", "a");
        l.dir("way");
        l.file("way/b", "b");
    });
    assert_eq!(text(tree.join("f")), "second");
    assert_eq!(text(tree.join("g")), "first", "another name of the file that was replaced keeps what it had");
    assert_eq!(text(tree.join("d")), "a file now");
    assert_eq!(text(tree.join("was-file/in")), "in");
    assert_eq!(text(tree.join("kept/in")), "in");
    assert_eq!(fs::metadata(tree.join("kept")).unwrap().mode() & 0o7777, 0o700);
    assert!(tree.join("real/a").exists() && !tree.join("way/a").exists() && !tree.join("real/b").exists() && tree.join("way/b").exists());
}

#[test]
fn modes_owners_times_and_links_are_kept() {
    if !root() {
        return;
    }
    let place = place();
    let tree = place.unpack(|l| {
        let mut suid = header(EntryType::Regular, 0o6755);
        suid.set_uid(5);
        suid.set_gid(65535);
        l.raw(suid, b"suid", b"", b"#!");
        let mut far = header(EntryType::Regular, 0o600);
        far.set_uid(4_000_000_000);
        l.raw(far, b"far", b"", b"");
        l.raw(header(EntryType::Directory, 0o1777), b"tmp", b"", b"");
        l.file("tmp/x", "x");
        l.link("tmp/y", "tmp/x");
        l.symlink("s", "nowhere/at/all");
        l.raw(header(EntryType::Fifo, 0o640), b"fifo", b"", b"");
        l.raw(header(EntryType::Char, 0o666), b"null", b"", b"");
        l.raw(header(EntryType::Block, 0o666), b"disk", b"", b"");
        l.pax(&[("mtime", b"1234567890.5"), ("uid", b"7"), ("path", "späť/with\nline".as_bytes())]);
        l.file("short", "pax");
        l.pax(&[("mtime", b"-1.25")]);
        l.file("old", "");
    });
    let meta = |name: &str| fs::symlink_metadata(tree.join(name)).unwrap();
    let suid = meta("suid");
    assert_eq!((suid.mode() & 0o7777, suid.uid(), suid.gid()), (0o6755, FIRST + 5, FIRST + 65535));
    assert_eq!(meta("far").uid(), FIRST + 65535);
    let tmp = meta("tmp");
    assert_eq!((tmp.mode() & 0o7777, tmp.mtime()), (0o1777, 1_000_000_000), "what came into it later has not changed its time");
    assert_eq!((meta("tmp/x").ino(), meta("tmp/x").nlink()), (meta("tmp/y").ino(), 2));
    assert_eq!(fs::read_link(tree.join("s")).unwrap(), Path::new("nowhere/at/all"));
    assert_eq!((meta("s").uid(), meta("s").mtime()), (FIRST, 1_000_000_000));
    assert!(meta("fifo").file_type().is_fifo() && meta("fifo").mode() & 0o7777 == 0o640);
    assert!(!tree.join("null").exists() && !tree.join("disk").exists());
    let pax = meta("späť/with\nline");
    assert_eq!((pax.mtime(), pax.mtime_nsec(), pax.uid()), (1_234_567_890, 500_000_000, FIRST + 7));
    assert_eq!((meta("old").mtime(), meta("old").mtime_nsec()), (-2, 750_000_000));
    assert_eq!(meta("späť").mode() & 0o7777, 0o755, "a directory that no entry tells of");
    assert_eq!(meta("").mode() & 0o7777, 0o755);
}

#[test]
fn an_overlays_marks_are_not_the_archives_to_set() {
    if !root() {
        return;
    }
    let capability: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let place = place();
    let tree = place.unpack(|l| {
        l.pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.security.selinux", b"x"),
            ("SCHILY.xattr.user.note", b"two\nlines\n\n"),
        ]);
        l.dir("d");
        l.pax(&[("SCHILY.xattr.security.capability", capability)]);
        l.file("ping", "x");
    });
    let mut value = [0; 64];
    for name in ["trusted.overlay.opaque", "user.overlay.opaque", "trusted.overlay.redirect"] {
        assert!(getxattr(tree.join("d"), name, &mut value[..]).is_err(), "{name}");
    }
    let length = getxattr(tree.join("d"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"two\nlines\n\n");
    let length = getxattr(tree.join("ping"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..length], capability);
}

#[test]
fn sparse_files_have_their_holes() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("sparse");
    let file = fs::File::create(&name).unwrap();
    file.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"middle", 4 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"end", (8 << 20) - 3).unwrap();
    let content = fs::read(&name).unwrap();
    for format in
        [&["--format=gnu"][..], &["--format=pax", "--sparse-version=0.0"], &["--format=pax", "--sparse-version=0.1"], &["--format=pax"]]
    {
        let output = std::process::Command::new("tar")
            .args(["-S", "-C"])
            .arg(dir.path())
            .args(format)
            .args(["-cf", "-", "sparse"])
            .output()
            .unwrap();
        assert!(output.status.success() && output.stdout.len() < 1 << 20, "{format:?}");
        let place = place();
        let image = place.add("one", &[output.stdout]).unwrap();
        let unpacked = place.tree(&image.layers[0]).join("sparse");
        assert!(fs::read(&unpacked).unwrap() == content, "{format:?}");
        assert!(fs::metadata(&unpacked).unwrap().blocks() < 1024, "{format:?}");
    }
}

#[test]
fn a_layer_is_bounded() {
    if !root() {
        return;
    }
    let small = place_with(|settings| {
        settings.unpack.layer_bytes = 64 << 10;
        settings.unpack.layer_files = 20;
        settings.unpack.depth = 8;
    });
    let many = small.refused(|l| (0..30).for_each(|n| l.file(&format!("f{n}"), "")));
    assert!(many.contains("layer_files"), "{many}");
    let large = small.refused(|l| l.file("large", &"x".repeat(100 << 10)));
    assert!(large.contains("layer_bytes"), "{large}");
    let deep = small.refused(|l| l.file(&"d/".repeat(9), "x"));
    assert!(deep.contains("8 directories deep"), "{deep}");
    // A short name through a link is as deep as the link leads.
    let linked = small.refused(|l| {
        l.dir("a/b/c/d/e/f");
        l.symlink("s", "a/b/c/d/e/f");
        l.dir("s/g/h/i/j/k");
    });
    assert!(linked.contains("8 directories deep"), "{linked}");
    // A bomb: megabytes of zeros behind the archive's end.
    let mut bomb = layer(|l| l.file("x", "x"));
    bomb.resize(50 << 20, 0);
    let packed = zstd::encode_all(&bomb[..], 1).unwrap();
    let error = small.store.add("one", &offer(&[bomb]), &|_| Ok(Box::new(Cursor::new(packed.clone())))).unwrap_err();
    assert!(error.message.contains("layer_bytes"), "{}", error.message);
}

#[test]
fn names_and_extensions_are_bounded() {
    if !root() {
        return;
    }
    let long = place().refused(|l| {
        let mut long = header(EntryType::GNULongName, 0);
        long.set_size(2 << 20);
        l.raw(long, b"././@LongLink", b"", &vec![b'x'; 2 << 20]);
        l.file("x", "");
    });
    assert!(long.contains("extension header"), "{long}");
    let path = "x/".repeat(3000);
    let message = place().refused(|l| {
        l.pax(&[("path", path.as_bytes())]);
        l.file("x", "");
    });
    assert!(message.contains("4095"), "{message}");
    let message = place().refused(|l| {
        l.pax(&[("path", &[b'y'; 300])]);
        l.file("x", "");
    });
    assert!(message.contains("yyy") && message.len() < 500, "{message}");
}

#[test]
fn a_broken_archive_is_named_and_leaves_nothing() {
    if !root() {
        return;
    }
    let whole = layer(|l| l.file("file", &"content ".repeat(200)));
    let cut = |archive: &[u8]| archive[..700].to_vec();
    let flipped = |archive: &[u8]| {
        let mut bytes = archive.to_vec();
        bytes[600] ^= 1;
        bytes
    };
    let headless = |archive: &[u8]| {
        let mut bytes = archive.to_vec();
        bytes[0] ^= 1;
        bytes
    };
    for (served, part) in [(cut(&whole), "end of file"), (flipped(&whole), "digest"), (headless(&whole), "checksum")] {
        let place = place();
        let error =
            place.store.add("one", &offer(std::slice::from_ref(&whole)), &|_| Ok(Box::new(Cursor::new(served.clone())))).unwrap_err();
        assert_eq!(error.kind, Kind::ImagePull);
        assert!(error.message.contains(part) && error.message.contains("layer 1 of 1"), "{}", error.message);
        assert!(place.store.find("one").unwrap().is_none());
        assert_eq!(fs::read_dir(place.store.layers()).unwrap().count(), 0);
        // The same store takes the layer as soon as it comes whole.
        add(&place.store, "one", std::slice::from_ref(&whole)).unwrap();
    }
}

#[test]
fn sizes_and_maps_that_lie_are_refused() {
    if !root() {
        return;
    }
    for size in [b"17777777777\0".to_vec(), [&[0x80][..], &[0xff; 11]].concat()] {
        let message = place().refused(|l| {
            let mut huge = header(EntryType::Regular, 0o644);
            huge.as_old_mut().name[0] = b'x';
            huge.as_old_mut().size.copy_from_slice(&size);
            huge.set_cksum();
            l.0.append(&huge, &b"short"[..]).unwrap();
        });
        assert!(!message.is_empty());
    }
    let message = place().refused(|l| {
        l.pax(&[("GNU.sparse.map", b"0,5,3,5"), ("GNU.sparse.size", b"8"), ("GNU.sparse.name", b"x")]);
        l.file("x", "0123456789");
    });
    assert!(message.contains("sparse"), "{message}");
    let message = place().refused(|l| l.raw(header(EntryType::XHeader, 0), b"x", b"", b"99 path=x\n"));
    assert!(message.contains("PAX"), "{message}");
}

#[test]
fn each_compression_is_known_by_its_bytes() {
    if !root() {
        return;
    }
    let plain = layer(|l| l.file("file", "content"));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain[..512]).unwrap();
    let mut gzip = gzip.finish().unwrap();
    // Parallel gzips write several members.
    let mut second = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut second, &plain[512..]).unwrap();
    gzip.extend(second.finish().unwrap());
    for served in [plain.clone(), gzip, zstd::encode_all(&plain[..], 3).unwrap()] {
        let place = place();
        let image = place.store.add("one", &offer(std::slice::from_ref(&plain)), &|_| Ok(Box::new(Cursor::new(served.clone())))).unwrap();
        assert_eq!(text(place.tree(&image.layers[0]).join("file")), "content");
        assert_eq!(image.layers[0], digest(&plain)["sha256:".len()..][..24]);
    }
    let place = place();
    let error = place.store.add("one", &offer(&[plain]), &|_| Ok(Box::new(Cursor::new(b"\xfd7zXZ\0...".to_vec())))).unwrap_err();
    assert!(error.message.contains("xz"), "{}", error.message);
}

#[test]
fn a_type_that_no_layer_has_is_refused() {
    if !root() {
        return;
    }
    let refused = |build: fn(&mut Layer)| place().refused(build);
    assert!(refused(|l| l.raw(header(EntryType::new(b'V'), 0), b"label", b"", b"")).contains("label"));
    assert!(refused(|l| l.file("d/.wh.", "")).contains("whiteout"));
    assert!(refused(|l| l.file("d/.wh...", "")).contains("whiteout"));
}
