//! Images from a registry that is slow, broken, forgetful or ill-meaning.

mod cli;
mod fake;

use fake::{CONFIG, Content, Fake, INDEX, LAYER, MANIFEST, Reply, Seen, descriptor, digest, manifest};
use serde_json::json;
use std::io::Read;
use std::path::Path;
use sweroll::domain::Kind;
use sweroll::images::ImageError;
use sweroll::images::registry::{Registries, Settings};

/// More than one read of a socket, and of no order that a wrong offset would leave whole.
fn layer(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..200_000).map(|_| next()).collect()
}

fn calm(_: &Seen) -> Option<Reply> {
    None
}

fn impatient() -> Settings {
    Settings { backoff_s: 0, tries: 3, silence_s: 10, auth_file: Some("/nonexistent/config.json".into()), ..Settings::default() }
}

/// Everything of an image: its id's text, its digest, its layers.
async fn pull(settings: &Settings, dir: &Path, name: &str) -> Result<(Vec<u8>, String, Vec<Vec<u8>>), ImageError> {
    let registries = Registries::new(settings.clone(), dir)?;
    let found = registries.find(name).await?;
    let mut layers = Vec::new();
    for n in 0..found.diff_ids.len() {
        registries.fetch(&found, n).await?;
        let mut bytes = Vec::new();
        found.open(n).unwrap().read_to_end(&mut bytes).unwrap();
        layers.push(bytes);
    }
    Ok((found.offer.config.clone(), found.offer.digest.clone(), layers))
}

async fn pull_new(name: &str) -> Result<Vec<Vec<u8>>, ImageError> {
    let dir = tempfile::tempdir().unwrap();
    pull(&impatient(), dir.path(), name).await.map(|(_, _, layers)| layers)
}

fn one_image() -> (Content, Vec<u8>) {
    let mut content = Content::default();
    let layer = layer(1);
    content.image("a/b", "1", &[&layer]);
    (content, layer)
}

fn is_blob(seen: &Seen, bytes: &[u8]) -> bool {
    seen.path.ends_with(&digest(bytes))
}

#[tokio::test]
async fn an_image_comes_whole_and_leaves_no_file() {
    let mut content = Content::default();
    let layers = [layer(1), layer(2)];
    let told = content.image("a/b", "1", &[&layers[0], &layers[1]]);
    let registry = content.start(calm).await;
    let dir = tempfile::tempdir().unwrap();
    let (config, name, found) = pull(&impatient(), dir.path(), &registry.name("a/b:1")).await.unwrap();
    assert_eq!(config, fake::config(&[&layers[0], &layers[1]]));
    assert_eq!(name, format!("{}@{told}", registry.name("a/b")));
    assert_eq!(found, layers);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let by_digest = registry.name(&format!("a/b@{told}"));
    assert_eq!(pull(&impatient(), dir.path(), &by_digest).await.unwrap().1, name);
}

#[tokio::test]
async fn a_layer_of_two_images_is_fetched_once() {
    let mut content = Content::default();
    let (shared, own) = (layer(1), layer(2));
    content.image("a/b", "1", &[&shared]);
    content.image("a/b", "2", &[&shared, &own]);
    let registry = content.start(calm).await;
    let dir = tempfile::tempdir().unwrap();
    let registries = Registries::new(impatient(), dir.path()).unwrap();
    let (one, two) = (registries.find(&registry.name("a/b:1")).await.unwrap(), registries.find(&registry.name("a/b:2")).await.unwrap());
    let (a, b, c) = tokio::join!(registries.fetch(&one, 0), registries.fetch(&two, 0), registries.fetch(&two, 1));
    a.and(b).and(c).unwrap();
    assert_eq!(registry.seen(&digest(&shared)).len(), 1);
    drop(one);
    let mut bytes = Vec::new();
    two.open(0).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, shared);
}

/// Two processes have two `Registries` over one directory.
#[tokio::test]
async fn two_processes_fetch_a_layer_once() {
    let (content, layer) = one_image();
    let registry = content.start(calm).await;
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (Registries::new(impatient(), dir.path()).unwrap(), Registries::new(impatient(), dir.path()).unwrap());
    let name = registry.name("a/b:1");
    let (a, b) = (one.find(&name).await.unwrap(), other.find(&name).await.unwrap());
    let (first, second) = tokio::join!(one.fetch(&a, 0), other.fetch(&b, 0));
    first.and(second).unwrap();
    assert_eq!(registry.seen(&digest(&layer)).len(), 1);
    drop(a);
    let mut bytes = Vec::new();
    b.open(0).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, layer);
}

fn login(dir: &Path, host: &str) -> Settings {
    let file = dir.join("login.json");
    // hunter:secret
    std::fs::write(&file, json!({"auths": {host: {"auth": "aHVudGVyOnNlY3JldA=="}}}).to_string()).unwrap();
    Settings { auth_file: Some(file), ..impatient() }
}

#[tokio::test]
async fn a_token_is_got_with_the_credentials_and_serves_for_all() {
    let (content, layer) = one_image();
    let registry = content
        .start(|seen| {
            match (seen.path.as_str(), seen.authorization.as_deref()) {
                ("/token", Some("Basic aHVudGVyOnNlY3JldA==")) => Some(Reply::status(200).body(json!({"token": "t0ken"}).to_string())),
                ("/token", _) => Some(Reply::status(401)),
                (_, Some("Bearer t0ken")) => None,
                _ => Some(Reply::status(401)),
            }
            .map(|reply| if reply.status == 401 { challenged(reply, seen) } else { reply })
        })
        .await;
    let dir = tempfile::tempdir().unwrap();
    let settings = login(dir.path(), &registry.addr.to_string());
    let (_, _, layers) = pull(&settings, &dir.path().join("d"), &registry.name("a/b:1")).await.unwrap();
    assert_eq!(layers, [layer]);
    let tokens = registry.seen("/token");
    assert_eq!(tokens.len(), 1);
    assert!(tokens[0].query.contains("service=s") && tokens[0].query.contains("scope=repository%3Aa%2Fb%3Apull"), "{tokens:?}");
    let error = pull(&impatient(), &dir.path().join("e"), &registry.name("a/b:1")).await.unwrap_err();
    assert_eq!(error.kind, Kind::ImageMissing);
    assert!(error.message.contains(&format!("docker login {}", registry.addr)), "{error}");
    assert!(error.message.contains("a/b:1"), "{error}");
}

/// The realm is where the request came to.
fn challenged(reply: Reply, seen: &Seen) -> Reply {
    let host = seen.host.clone();
    reply.with("www-authenticate", format!(r#"Bearer realm="http://{host}/token",service="s",scope="repository:a/b:pull""#))
}

#[tokio::test]
async fn a_token_that_has_expired_is_got_anew() {
    let (content, layer) = one_image();
    let blob = digest(&layer);
    let registry = content
        .start(move |seen| match (seen.path.as_str(), seen.authorization.as_deref()) {
            ("/token", _) => Some(Reply::status(200).body(json!({"access_token": format!("t{}", seen.earlier)}).to_string())),
            (path, Some("Bearer t0")) if !path.ends_with(&blob) => None,
            (path, Some("Bearer t1")) if path.ends_with(&blob) => None,
            _ => Some(challenged(Reply::status(401), seen)),
        })
        .await;
    assert_eq!(pull_new(&registry.name("a/b:1")).await.unwrap(), [layer]);
    assert_eq!(registry.seen("/token").len(), 2);
}

#[tokio::test]
async fn a_password_goes_to_its_registry_and_into_no_message() {
    let (content, layer) = one_image();
    let blob = digest(&layer);
    let registry = content
        .start(move |seen| match seen.authorization.as_deref() {
            Some("Basic aHVudGVyOnNlY3JldA==") if seen.path.ends_with(&blob) => Some(Reply::status(403)),
            Some("Basic aHVudGVyOnNlY3JldA==") => None,
            _ => Some(Reply::status(401).with("www-authenticate", "Basic realm=\"x\"")),
        })
        .await;
    let dir = tempfile::tempdir().unwrap();
    let settings = login(dir.path(), &registry.addr.to_string());
    let error = pull(&settings, &dir.path().join("d"), &registry.name("a/b:1")).await.unwrap_err();
    assert_eq!(error.kind, Kind::ImageMissing);
    assert!(!format!("{error} {error:?}").contains("aHVu"), "{error:?}");
    assert_eq!(registry.seen(&digest(&layer)).len(), 1);
}

#[tokio::test]
async fn a_busy_registry_is_waited_for_but_not_forever() {
    let (content, layer) = one_image();
    let registry = content.start(|seen| (seen.earlier < 2).then(|| Reply::status(429).with("retry-after", 0))).await;
    assert_eq!(pull_new(&registry.name("a/b:1")).await.unwrap(), [layer]);
    let closed = Content::default().start(|_| Some(Reply::status(503).with("retry-after", 0))).await;
    let error = pull_new(&closed.name("a/b:1")).await.unwrap_err();
    assert_eq!((error.kind, closed.seen("manifests").len()), (Kind::ImagePull, 3));
    assert!(error.message.contains("503") && error.message.contains("images.pull.mirrors"), "{error}");
    let away = pull_new("127.0.0.1:1/a/b").await.unwrap_err();
    assert_eq!(away.kind, Kind::ImagePull);
    assert!(away.message.contains("127.0.0.1:1") && away.message.contains("network"), "{away}");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let (content, layer) = one_image();
    let whole = layer.clone();
    let registry = content
        .start(move |seen| {
            // Every try brings some, so there are more of them than a registry that brings nothing would get.
            let from = seen.range.unwrap_or_default() as usize;
            let rest = whole.get(from..).filter(|rest| is_blob(seen, &whole) && rest.len() > 40_000)?;
            let reply = Reply { status: if from > 0 { 206 } else { 200 }, cut: Some(40_000), ..Reply::default() };
            Some(reply.with("content-range", format!("bytes {from}-{}/{}", whole.len() - 1, whole.len())).body(rest))
        })
        .await;
    assert_eq!(pull_new(&registry.name("a/b:1")).await.unwrap(), std::slice::from_ref(&layer));
    let ranges: Vec<u64> = registry.seen(&digest(&layer)).iter().filter_map(|seen| seen.range).collect();
    assert!(ranges.len() >= 4 && ranges.is_sorted() && ranges[0] > 0, "{ranges:?}");
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_begins_again() {
    let (content, layer) = one_image();
    let whole = layer.clone();
    let registry = content
        .start(move |seen| {
            let cut = (seen.earlier == 0).then_some(50_000);
            is_blob(seen, &whole).then(|| Reply { cut, ..Reply::status(200) }.body(whole.clone()))
        })
        .await;
    assert_eq!(pull_new(&registry.name("a/b:1")).await.unwrap(), std::slice::from_ref(&layer));
    let asked = registry.seen(&digest(&layer));
    assert!(asked.len() == 2 && asked[1].range.is_some_and(|from| from > 0), "{asked:?}");
}

#[tokio::test]
async fn a_server_that_breaks_off_at_the_same_byte_is_given_up() {
    let (content, layer) = one_image();
    let whole = layer.clone();
    let registry = content
        .start(move |seen| is_blob(seen, &whole).then(|| Reply { cut: Some(50_000), ..Reply::status(200) }.body(whole.clone())))
        .await;
    assert_eq!(pull_new(&registry.name("a/b:1")).await.unwrap_err().kind, Kind::ImagePull);
    assert!(registry.seen(&digest(&layer)).len() <= 4);
}

#[tokio::test]
async fn what_a_dead_process_left_is_taken_over_if_it_is_right() {
    let (content, layer) = one_image();
    let registry = content.start(calm).await;
    let dir = tempfile::tempdir().unwrap();
    let part = dir.path().join(digest(&layer).replace(':', "-"));
    std::fs::write(&part, &layer[..150_000]).unwrap();
    let name = registry.name("a/b:1");
    assert_eq!(pull(&impatient(), dir.path(), &name).await.unwrap().2, std::slice::from_ref(&layer));
    assert_eq!(registry.seen(&digest(&layer)).iter().map(|seen| seen.range).collect::<Vec<_>>(), [Some(150_000)]);
    for wrong in [vec![7; 1000], vec![7; layer.len()], vec![7; layer.len() + 1]] {
        std::fs::write(&part, wrong).unwrap();
        assert_eq!(pull(&impatient(), dir.path(), &name).await.unwrap().2, std::slice::from_ref(&layer));
    }
    std::fs::write(&part, &layer).unwrap();
    let before = registry.seen(&digest(&layer)).len();
    assert_eq!(pull(&impatient(), dir.path(), &name).await.unwrap().2, std::slice::from_ref(&layer));
    assert_eq!(registry.seen(&digest(&layer)).len(), before);
}

#[tokio::test]
async fn other_bytes_than_were_promised_are_refused() {
    let (content, layer) = one_image();
    let whole = layer.clone();
    let wrong = content.start(move |seen| is_blob(seen, &whole).then(|| Reply::status(200).body(vec![1; whole.len()]))).await;
    let error = pull_new(&wrong.name("a/b:1")).await.unwrap_err();
    assert_eq!((error.kind, wrong.seen(&digest(&layer)).len()), (Kind::ImagePull, 3));
    assert!(error.message.contains(&digest(&layer)), "{error}");
    for chunked in [false, true] {
        let (content, layer) = one_image();
        let whole = layer.clone();
        let larger = move |seen: &Seen| {
            is_blob(seen, &whole).then(|| Reply { chunked, ..Reply::status(200) }.body([whole.as_slice(), b"more"].concat()))
        };
        let registry = content.start(larger).await;
        let error = pull_new(&registry.name("a/b:1")).await.unwrap_err();
        assert_eq!((error.kind, registry.seen(&digest(&layer)).len()), (Kind::ImagePull, 1));
        assert!(error.message.contains("200000 bytes"), "{error}");
    }
}

#[tokio::test]
async fn a_manifest_or_configuration_is_what_its_digest_says_and_bounded() {
    let mut content = Content::default();
    let told = content.image("a/b", "1", &[&layer(1)]);
    let registry = content
        .start(|seen| seen.path.contains("manifests/sha256").then(|| Reply::status(200).with("content-type", MANIFEST).body("{}")))
        .await;
    let error = pull_new(&registry.name(&format!("a/b@{told}"))).await.unwrap_err();
    assert_eq!(error.kind, Kind::ImagePull);
    let endless = Content::default().start(|_| Some(Reply::status(200).with("content-type", MANIFEST).body(vec![b' '; 5 << 20]))).await;
    let error = pull_new(&endless.name("a/b:1")).await.unwrap_err();
    assert!(error.kind == Kind::ImageMissing && error.message.contains("4194304 bytes"), "{error}");
    let mut content = Content::default();
    let mut huge = manifest(&[]);
    huge["config"]["size"] = json!(9 << 20);
    content.manifest("a/b", "1", MANIFEST, &huge);
    let error = pull_new(&content.start(calm).await.name("a/b:1")).await.unwrap_err();
    assert!(error.kind == Kind::ImageMissing && error.message.contains("8388608"), "{error}");
    let mut content = Content::default();
    let mut huge = manifest(&[b"x"]);
    huge["layers"][0]["size"] = json!(1u64 << 60);
    content.manifest("a/b", "1", MANIFEST, &huge);
    let error = pull_new(&content.start(calm).await.name("a/b:1")).await.unwrap_err();
    assert!(error.message.contains("images.pull.max_bytes"), "{error}");
}

#[tokio::test]
async fn an_index_leads_to_our_platform_or_to_a_refusal() {
    let mut content = Content::default();
    let bytes = layer(1);
    let mine = content.image("a/b", "mine", &[&bytes]);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let entry = |digest: &str, architecture: &str| json!({"mediaType": MANIFEST, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture}});
    let other = entry(&digest(b"other"), "s390x");
    let top = content.manifest("a/b", "1", INDEX, &json!({"mediaType": INDEX, "manifests": [other, entry(&mine, architecture)]}));
    content.manifest("a/b", "2", INDEX, &json!({"mediaType": INDEX, "manifests": [other]}));
    let layers = json!([descriptor("application/vnd.example.model", b"x")]);
    content.manifest("a/b", "3", MANIFEST, &json!({"mediaType": MANIFEST, "config": descriptor(CONFIG, b"x"), "layers": layers}));
    content.manifest("a/b", "4", "text/html", &json!({"layers": [descriptor(LAYER, b"x")]}));
    let registry = content.start(calm).await;
    let dir = tempfile::tempdir().unwrap();
    let (_, name, layers) = pull(&impatient(), dir.path(), &registry.name("a/b:1")).await.unwrap();
    assert_eq!((name, layers), (format!("{}@{top}", registry.name("a/b")), vec![bytes]));
    for (tag, why) in [("2", "linux/s390x"), ("3", "application/vnd.example.model"), ("4", "text/html"), ("5", "404")] {
        let error = pull_new(&registry.name(&format!("a/b:{tag}"))).await.unwrap_err();
        assert!(error.kind == Kind::ImageMissing && error.message.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_password_does_not_follow_to_another_host_but_the_range_does() {
    let (content, layer) = one_image();
    let whole = layer.clone();
    let mut elsewhere = Content::default();
    elsewhere.blob("cdn", &layer);
    let elsewhere = elsewhere
        .start(move |seen| (seen.earlier == 0).then(|| Reply { cut: Some(50_000), ..Reply::status(200) }.body(whole.clone())))
        .await;
    let (blob, to) = (digest(&layer), elsewhere.addr);
    let registry = content
        .start(move |seen| match seen.authorization {
            None => Some(Reply::status(401).with("www-authenticate", "Basic realm=\"x\"")),
            _ if seen.path.ends_with(&blob) => Some(Reply::status(307).with("location", format!("http://{to}/v2/cdn/blobs/{blob}"))),
            _ => None,
        })
        .await;
    let dir = tempfile::tempdir().unwrap();
    let settings = login(dir.path(), &registry.addr.to_string());
    let (_, _, layers) = pull(&settings, &dir.path().join("d"), &registry.name("a/b:1")).await.unwrap();
    assert_eq!(layers, [layer]);
    let asked = elsewhere.seen("cdn");
    assert!(asked.len() == 2 && asked.iter().all(|seen| seen.authorization.is_none()), "{asked:?}");
    assert!(asked[1].range.is_some_and(|from| from > 0), "{asked:?}");
    let circle = Content::default().start(|seen| Some(Reply::status(302).with("location", &seen.path))).await;
    assert!(pull_new(&circle.name("a/b:1")).await.unwrap_err().message.contains("5 times"));
}

fn mirrored(registry: &Fake, mirrors: &[&Fake]) -> Settings {
    let mirrors = mirrors.iter().map(|mirror| mirror.addr.to_string()).collect();
    Settings { mirrors: [(registry.addr.to_string(), mirrors)].into(), ..impatient() }
}

#[tokio::test]
async fn a_mirror_comes_first_and_the_next_goes_on_where_it_failed() {
    let (content, layer) = one_image();
    let registry = content.start(calm).await;
    let absent = Content::default().start(calm).await;
    let busy = Content::default().start(|_| Some(Reply::status(429).with("retry-after", 3600))).await;
    let (content, whole) = one_image();
    let breaks = content
        .start(move |seen| is_blob(seen, &whole).then(|| Reply { cut: Some(50_000), ..Reply::status(200) }.body(whole.clone())))
        .await;
    let dir = tempfile::tempdir().unwrap();
    let settings = mirrored(&registry, &[&absent, &busy, &breaks]);
    let (_, name, layers) = pull(&settings, dir.path(), &registry.name("a/b:1")).await.unwrap();
    assert_eq!(layers, std::slice::from_ref(&layer));
    assert!(name.starts_with(&registry.addr.to_string()), "{name}");
    assert_eq!((absent.seen("").len(), busy.seen("").len(), registry.seen("manifests").len()), (1, 1, 0));
    let asked = registry.seen(&digest(&layer));
    assert!(asked.len() == 1 && asked[0].range.is_some_and(|from| from > 0), "{asked:?}");
    let (content, _) = one_image();
    let good = content.start(calm).await;
    pull(&mirrored(&registry, &[&good]), &dir.path().join("d"), &registry.name("a/b:1")).await.unwrap();
    assert_eq!(registry.seen("").len(), 1);
}
