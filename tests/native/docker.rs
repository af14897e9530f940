//! The filter that a Docker daemon gives to a container, read from the kernel.

use seccompiler::{BpfProgram, sock_filter};
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Set for this test binary where it is to print the filters of process 1.
const DUMP: &str = "SWEROLL_TEST_DUMP_FILTERS";
const IMAGE: &str = "sweroll-test/filter:1";
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;

fn docker(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).output().unwrap()
}

/// The filters of a container's first process, the newest first; none where there is no daemon.
pub fn filters(capabilities: &[&str]) -> Option<Vec<BpfProgram>> {
    let answers = Command::new("docker").arg("version").output().is_ok_and(|output| output.status.success());
    assert!(answers || std::env::var_os("CI").is_none(), "no Docker daemon answers, and CI is set");
    if !answers {
        eprintln!("skipped: no Docker daemon answers");
        return None;
    }
    import();
    let mount = format!("{}:/test:ro", std::env::current_exe().unwrap().display());
    let first = format!("sweroll-test-filter-{}", std::process::id());
    let mut arguments = vec!["run", "--detach", "--rm", "--name", &first, "--network", "none", "--cap-drop", "ALL"];
    arguments.extend(capabilities.iter().flat_map(|name| ["--cap-add", name]));
    arguments.extend(["--security-opt", "no-new-privileges", "-v", &mount, "-e", "SWEROLL_TEST_WAIT=1", IMAGE]);
    arguments.extend(["/test", "--exact", "docker::waits"]);
    let started = docker(&arguments);
    assert!(started.status.success(), "{started:?}");
    let pid = format!("container:{first}");
    let dump = format!("{DUMP}=1");
    let mut arguments = vec!["run", "--rm", "--cap-add", "SYS_PTRACE", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"];
    arguments.extend(["--network", "none", "--pid", &pid, "-v", &mount, "-e", &dump, IMAGE]);
    arguments.extend(["/test", "--exact", "docker::dumps", "--nocapture"]);
    let dumped = docker(&arguments);
    docker(&["rm", "--force", &first]);
    assert!(dumped.status.success(), "{dumped:?}");
    let text = String::from_utf8(dumped.stdout).unwrap();
    Some(text.lines().filter_map(|line| line.strip_prefix("filter ")).map(read).collect())
}

/// An image of one directory: this binary is static, and is mounted.
fn import() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o777);
    header.set_size(0);
    archive.append_data(&mut header, "tmp/", std::io::empty()).unwrap();
    let mut import = Command::new("docker").args(["import", "-", IMAGE]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    import.stdin.take().unwrap().write_all(&archive.into_inner().unwrap()).unwrap();
    assert!(import.wait().unwrap().success());
}

fn read(line: &str) -> BpfProgram {
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let step = |n: u64| sock_filter { code: (n >> 48) as u16, jt: (n >> 40) as u8, jf: (n >> 32) as u8, k: n as u32 };
    line.split(' ').map(|text| step(number(text))).collect()
}

/// Not a test: the first process of a container, until it is removed.
#[test]
fn waits() {
    if std::env::var_os("SWEROLL_TEST_WAIT").is_some() {
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}

/// Not a test: what a privileged process tells of process 1 of its namespace.
#[test]
fn dumps() {
    if std::env::var_os(DUMP).is_none() {
        return;
    }
    for index in 0.. {
        let mut program = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; 4096];
        // SAFETY: no program is longer; process 1 waits for its thread, and is stopped once only.
        let length = unsafe {
            if index == 0 {
                let null = std::ptr::null_mut::<libc::c_void>();
                assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, 1, null, null), 0, "{}", std::io::Error::last_os_error());
                assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, 1, null, null), 0);
                libc::waitpid(1, std::ptr::null_mut(), libc::__WALL);
            }
            libc::ptrace(PTRACE_SECCOMP_GET_FILTER as _, 1, index as usize, program.as_mut_ptr())
        };
        let Ok(length) = usize::try_from(length) else { break };
        let words = program[..length].iter().map(|step| {
            let jumps = u64::from(step.jt) << 8 | u64::from(step.jf);
            format!("{:x}", u64::from(step.code) << 48 | jumps << 32 | u64::from(step.k))
        });
        // Past the words that the test's own report has in the line.
        println!("\nfilter {}", words.collect::<Vec<_>>().join(" "));
    }
}
