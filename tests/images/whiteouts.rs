//! What a layer hides of those below, as the overlay shows it.

use crate::support::{Place, layer, place, root};

/// The names of the files that are seen of an image of these layers.
fn seen(place: &Place, layers: &[Vec<u8>]) -> Vec<String> {
    let image = place.add("w", layers).unwrap();
    place.merged(&image).into_iter().filter(|(_, what)| what != "dir").map(|(path, what)| format!("{path}={what}")).collect()
}

fn base() -> Vec<u8> {
    layer(|l| {
        l.dir("d");
        l.file("d/a", "a");
        l.file("d/b", "b");
        l.dir("d/sub");
        l.file("d/sub/c", "c");
        l.file("top", "top");
    })
}

#[test]
fn a_whiteout_hides_one_name() {
    if !root() {
        return;
    }
    let place = place();
    let upper = layer(|l| {
        l.file(".wh.top", "");
        l.file("d/.wh.sub", "");
        l.file("d/new", "new");
        // Of other tools' own: no whiteout.
        l.file("d/.wh..wh.plnk", "");
        l.file(".wh..wh.aufs", "");
    });
    assert_eq!(seen(&place, &[base(), upper]), ["d/a=a", "d/b=b", "d/new=new"]);
}

#[test]
fn an_opaque_directory_hides_all_that_is_below_wherever_its_mark_stands() {
    if !root() {
        return;
    }
    for first in [true, false] {
        let place = place();
        let upper = layer(|l| {
            if first {
                l.file("d/.wh..wh..opq", "");
            }
            l.dir("d");
            l.file("d/new", "new");
            l.dir("d/sub");
            if !first {
                l.file("d/.wh..wh..opq", "");
            }
        });
        assert_eq!(seen(&place, &[base(), upper]), ["d/new=new", "top=top"]);
    }
}

#[test]
fn what_the_layer_has_itself_stays_and_hides_the_rest() {
    if !root() {
        return;
    }
    for whiteout_first in [true, false] {
        let place = place();
        let upper = layer(|l| {
            if whiteout_first {
                l.file(".wh.d", "");
                l.file(".wh.top", "");
            }
            l.dir("d");
            l.file("d/new", "new");
            l.file("top", "mine");
            if !whiteout_first {
                l.file(".wh.d", "");
                l.file(".wh.top", "");
            }
        });
        assert_eq!(seen(&place, &[base(), upper]), ["d/new=new", "top=mine"], "{whiteout_first}");
    }
    let place = place();
    let unnamed = layer(|l| {
        l.file(".wh.d", "");
        l.file("d/x/new", "its directories have no entries of their own");
    });
    assert_eq!(seen(&place, &[base(), unnamed]), ["d/x/new=its directories have no entries of their own", "top=top"]);
}

#[test]
fn a_directory_becomes_a_file_and_the_other_way() {
    if !root() {
        return;
    }
    let place = place();
    let upper = layer(|l| {
        l.file("d", "a file");
        l.dir("top");
        l.file("top/in", "in");
    });
    assert_eq!(seen(&place, &[base(), upper]), ["d=a file", "top/in=in"]);
}

#[test]
fn a_layer_that_comes_twice_counts_where_it_is_highest() {
    if !root() {
        return;
    }
    let place = place();
    let hiding = layer(|l| l.file(".wh.d", ""));
    let image = place.add("w", &[base(), hiding.clone(), base(), hiding, base()]).unwrap();
    assert_eq!(image.layers.len(), 2);
    assert_eq!(place.merged(&image).get("d/sub/c").map(String::as_str), Some("c"));
}

#[test]
fn an_image_without_layers_has_an_empty_one() {
    if !root() {
        return;
    }
    let place = place();
    let image = place.add("empty", &[]).unwrap();
    assert_eq!(image.layers.len(), 1);
    assert!(place.merged(&image).is_empty());
    assert_eq!(image.env, [("PATH", "/bin"), ("EMPTY", ""), ("A", "b=c")].map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(image.user, "1000:5");
}
