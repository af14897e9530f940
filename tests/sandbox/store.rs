//! The images of native sandboxes: imported into a store of the tests' own, the big one once for this machine.

use crate::backend::Image;
use crate::daemon;
use crate::image::{self, DEBIAN};
use crate::support::toolbox_path;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use sweroll::images::{Settings, Store};
use tokio::sync::OnceCell;

pub fn settings() -> Settings {
    Settings { dir: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("images")), fetch: false, ..Settings::default() }
}

/// Why the image is not in the store.
pub async fn why_not(image: Image) -> Option<String> {
    static EMPTY: OnceCell<()> = OnceCell::const_new();
    static DEBIANS: OnceCell<Option<String>> = OnceCell::const_new();
    EMPTY.get_or_init(|| async { make() }).await;
    match image {
        Image::Empty => None,
        Image::Debian => DEBIANS.get_or_init(debian).await.clone(),
    }
}

/// One that an earlier version of the store wrote is begun anew.
fn make() {
    let readable = || Store::open(&settings())?.find(DEBIAN).and(Store::open(&settings())?.find(image::EMPTY)).map(drop);
    if readable().is_err() {
        std::fs::remove_dir_all(settings().dir.unwrap()).unwrap();
    }
    import(&image::empty());
}

/// From the daemon, where the store has another or none.
async fn debian() -> Option<String> {
    let present = Store::open(&settings()).unwrap().find(DEBIAN).unwrap().map(|image| image.id);
    let built = match daemon::why_not(Image::Debian).await {
        None => daemon::client().inspect_image(DEBIAN).await.unwrap().id,
        Some(why_not) if present.is_none() => return Some(format!("{DEBIAN} is not in the store, and {why_not}")),
        Some(_) => None,
    };
    if built.is_some() && built != present {
        let mut save = Command::new("docker").args(["save", DEBIAN]).stdout(Stdio::piped()).spawn().unwrap();
        let done = command().stdin(save.stdout.take().unwrap()).output().unwrap();
        assert!(save.wait().unwrap().success() && done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    None
}

/// An archive as `docker save` writes it.
pub fn import(archive: &[u8]) {
    let mut import = command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    import.stdin.take().unwrap().write_all(archive).unwrap();
    let done = import.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn command() -> Command {
    let mut command = Command::new(toolbox_path());
    command.args(["images", "import", "-", "--store"]).arg(settings().dir.unwrap());
    command
}
