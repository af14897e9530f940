//! What the engine's process and its user have, looked for from inside.

use crate::support::*;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

/// The engine's key, as its user would give it.
const KEY: &str = "SWEROLL_ESCAPE_TEST_KEY";

/// Looks through every process and file for a text, which is given backwards so that the search does not find itself.
const SEARCH: &str = r"
wanted = BACKWARDS[::-1].encode()
places, found = glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'), []
for at, directories, files in os.walk('/'):
    if at == '/':
        directories[:] = [name for name in directories if name not in ('proc', 'sys')]
    places += [os.path.join(at, name) for name in files]
for path in places:
    try:
        if path.startswith('/proc/') or stat.S_ISREG(os.lstat(path).st_mode):
            with open(path, 'rb') as file:
                while chunk := file.read(1 << 24):
                    if wanted in chunk:
                        found.append(path)
    except OSError:
        pass
got = found or refuse('none')
";

fn search(text: &str) -> String {
    SEARCH.replace("BACKWARDS", &format!("{:?}", text.chars().rev().collect::<String>()))
}

/// As a process of its own, for a process is born with its environment.
#[test]
fn the_engines_secrets_stay_outside() {
    let key = format!("sk-{}", std::process::id());
    let mut command = Command::new(std::env::current_exe().unwrap());
    let command = command.args(["--exact", "secrets::an_engine_with_a_key", "--ignored", "--nocapture"]).env(KEY, &key);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the_engines_secrets_stay_outside with a key in its environment"]
async fn an_engine_with_a_key() {
    let Ok(key) = std::env::var(KEY) else { return };
    assert!(std::fs::read_to_string("/proc/self/environ").unwrap().contains(&key), "the key is where a thief would look");
    // A run's directory, with what only its user may read.
    let run_dir = tempfile::tempdir().unwrap();
    let path = run_dir.path().join("journal.jsonl");
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap().write_all(key.as_bytes()).unwrap();
    // What an engine may listen on.
    let abstract_name = format!("sweroll-escape-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
    let named = run_dir.path().join("socket");
    let _named = UnixListener::bind(&named).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let number = port.local_addr().unwrap().port();
    assert!(port.as_raw_fd() > 2);

    for place in places().await {
        let sandbox = place.start("secrets").await;
        let toolbox = sandbox.toolbox();

        let planted = format!("planted-{key}");
        let plant = format!("echo {planted} > /var/tmp/planted; SECRET={planted} sleep 600 >/dev/null 2>&1 &");
        output(toolbox, shell(&plant)).await;
        let found = make_one(toolbox, &search(&planted)).await;
        assert!(found.contains("/var/tmp/planted") && found.contains("/environ"), "the search finds what is there: {found}");
        output(toolbox, shell("rm /var/tmp/planted; pkill sleep || kill $(pidof sleep)")).await;

        let at = path.display();
        let attempts = [
            ("the key, in any process or file".to_owned(), search(&key), &["none"][..]),
            ("the run's directory, by its path".to_owned(), format!("got = read('{at}')"), &["ENOENT", "EACCES"]),
            (
                "the run's directory, from the roots and working directories of processes".to_owned(),
                format!(
                    "for base in glob.glob('/proc/[0-9]*/root') + glob.glob('/proc/[0-9]*/cwd') + ['/.sweroll', '/proc/self/root']:\n  \
                     for up in ('', '/..', '/../..', '/../../..', '/../../../..'):\n    \
                     try: got = read(base + up + '{at}')\n    except OSError: pass\n    except Refused: pass\n\
                     got or refuse('none')"
                ),
                &["none"],
            ),
            (
                "the run's directory, from descriptors of processes".to_owned(),
                format!(
                    "for path in glob.glob('/proc/[0-9]*/fd/*') + glob.glob('/proc/[0-9]*/map_files/*'):\n  \
                     for up in ('', '/..', '/../..', '/../../..'):\n    \
                     try: got = read(path + up + '{at}')\n    except OSError: pass\n    except Refused: pass\n\
                     got or refuse('none')"
                ),
                &["none"],
            ),
            (
                "the engine's port".to_owned(),
                format!("socket.create_connection(('127.0.0.1', {number}), 5)"),
                &["ECONNREFUSED", "ENETUNREACH"],
            ),
            (
                "the engine's abstract socket".to_owned(),
                format!("socket.socket(socket.AF_UNIX).connect('\\0{abstract_name}')"),
                &["ECONNREFUSED"],
            ),
            (
                "the engine's named socket".to_owned(),
                format!("socket.socket(socket.AF_UNIX).connect('{}')", named.display()),
                &["ENOENT", "EACCES"],
            ),
            (
                "directories of uppers and layers, by the paths that the mounts tell".to_owned(),
                "told = open('/proc/self/mountinfo').read()\n\
                 paths = {path for option in ('upperdir=', 'workdir=', 'lowerdir=') for part in told.split(option)[1:] \
                 for path in part.split()[0].split(',')[0].split(':') if path.startswith('/')}\n\
                 got = [path for path in paths if path not in ('', '/') and os.path.exists(path)] or refuse('none')"
                    .to_owned(),
                &["none"],
            ),
        ];
        let pairs: Vec<(&str, &str)> = attempts.iter().map(|(name, code, _)| (name.as_str(), code.as_str())).collect();
        let endings = make_all(toolbox, &pairs).await;
        for (name, _, wanted) in &attempts {
            let wanted: Vec<String> = wanted.iter().map(|&word| word.to_owned()).collect();
            assert!(is_one_of(&endings[name], &wanted), "{:?}: {name}: {}, wanted {wanted:?}", place.backend, endings[name]);
        }
        sandbox.destroy().await.unwrap();
    }
}
