//! What a sandbox may use up, and what becomes of it then.

use crate::backend::Backend;
use crate::host;
use crate::support::*;
use std::time::Duration;
use sweroll::sandbox::native::{self, Upper};
use sweroll::sandbox::{Limits, Provider};
use sweroll::toolbox::client::{Toolbox, ToolboxError};
use sweroll::toolbox::protocol::{Answer, End, Op, OpError, Run};

const TOO_MUCH: &str = "python3 -c 'x = bytearray(1 << 30)'; echo $?";

async fn oom_kills(toolbox: &Toolbox) -> u64 {
    match toolbox.call(Op::Usage, b"").await.unwrap() {
        (Answer::Usage(usage), _) => usage.oom_kills,
        other => panic!("{other:?}"),
    }
}

pub async fn memory_of_a_command_is_counted(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    assert_eq!(oom_kills(sandbox.toolbox()).await, 0);
    let (end, text) = output(sandbox.toolbox(), shell(TOO_MUCH)).await;
    assert!(end == End::Exited(0) && text.contains("137"), "{end:?} {text}");
    assert!(oom_kills(sandbox.toolbox()).await > 0);
    let (usage, _) = sandbox.toolbox().call(Op::Usage, b"").await.unwrap();
    let Answer::Usage(usage) = usage else { panic!("{usage:?}") };
    assert!((200 << 20..=256 << 20).contains(&usage.peak_memory) && usage.cpu_ms > 0, "{usage:?}");
    sandbox.destroy().await.unwrap();
}

pub async fn memory_of_everything_is_the_end(backend: &Backend) {
    let sandbox = backend.start(&backend.spec_with(Limits { memory: 64 << 20, shm: 1 << 30, ..backend.spec().limits })).await;
    let block = vec![1; 20 << 20];
    let mut outcome = Ok(());
    for n in 0..10 {
        let written = sandbox.toolbox().call(Op::Write { path: format!("/dev/shm/{n}"), mode: 0o644 }, &block).await;
        if let Err(error) = written {
            outcome = Err(error);
            break;
        }
    }
    assert!(matches!(outcome, Err(ToolboxError::Lost(_))), "{outcome:?}");
    let fate = sandbox.fate().await;
    assert!(fate.gone && fate.oom, "{fate:?}");
    sandbox.destroy().await.unwrap();
}

/// The end that has nothing to do with it is no fault of the model's.
pub async fn memory_survived_is_not_the_end(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let first = backend.first_process(&*sandbox).await;
    let (_, text) = output(sandbox.toolbox(), shell(TOO_MUCH)).await;
    assert!(text.contains("137"), "{text}");
    assert!(oom_kills(sandbox.toolbox()).await > 0);
    tokio::time::sleep(Duration::from_secs(3)).await;
    backend.kill(&backend.spec().run, first).await;
    sandbox.toolbox().closed().await;
    let fate = sandbox.fate().await;
    assert_eq!((fate.gone, fate.oom, fate.exit_code), (true, false, Some(137)));
    sandbox.destroy().await.unwrap();
}

/// Of a size that a host would survive without a limit too.
pub async fn a_fork_bomb_is_survived(backend: &Backend) {
    let sandbox = backend.sandbox().await;
    let mark = backend.mark();
    let fork = format!(
        "import os, time\n\
        try:\n\
        \x20   for n in range(300): os.fork() or os.execvp('sleep', ['sleep', '{mark}'])\n\
        except OSError as error: print(n, error.errno, flush=True)\n\
        time.sleep(1000)"
    );
    let Op::Run(run) = exec(&["python3", "-c", &fork]) else { unreachable!() };
    let (end, text) = output(sandbox.toolbox(), Op::Run(Run { deadline_ms: 3_000, ..run })).await;
    let (count, error) = text.trim().split_once(' ').unwrap_or_else(|| panic!("no limit: {text}"));
    let count: usize = count.parse().unwrap();
    assert!(end == End::TimedOut && error == "11" && (30..64).contains(&count), "{end:?} {text}");
    assert!(host::soon(async || host::running(&mark).is_empty()).await);
    let bomb = "b() { [ $1 -gt 0 ] && b $(($1 - 1)) | b $(($1 - 1)) & }; b 7; sleep 1000";
    output(sandbox.toolbox(), shell_for(3_000, bomb)).await;
    // What it left, if anything, can at most keep the next commands waiting.
    let answers = async || matches!(sandbox.toolbox().call(shell("echo alive"), b"").await, Ok((_, blob)) if blob.as_ref() == b"alive\n");
    assert!(host::soon(answers).await, "no command starts any more");
    assert!(sandbox.toolbox().call(Op::Usage, b"").await.is_ok());
    sandbox.destroy().await.unwrap();
}

pub async fn shared_memory_is_bounded(backend: &Backend) {
    let sandbox = backend.start(&backend.spec_with(Limits { shm: 8 << 20, ..backend.spec().limits })).await;
    let fill = "head -c 9000000 /dev/zero > /dev/shm/big; echo; stat -c %s /dev/shm/big; rm /dev/shm/big; echo again > /dev/shm/small && cat /dev/shm/small";
    let (end, text) = output(sandbox.toolbox(), shell(fill)).await;
    assert!(end == End::Exited(0) && text.contains("No space left on device"), "{text}");
    assert!(text.ends_with("\n8388608\nagain\n"), "{text}");
    sandbox.destroy().await.unwrap();
}

const UPPERS: [Upper; 2] = [Upper::Disk, Upper::Memory];

/// Where its writes are kept on disk that is its own, where in memory it counts to the sandbox's.
pub async fn a_full_disk_is_survived(backend: &Backend) {
    for upper in UPPERS {
        let native = backend.with_settings(native::Settings { upper, upper_bytes: 64 << 20, ..native::Settings::default() }).await;
        let sandbox = native.start(&backend.spec()).await.unwrap();
        let toolbox = sandbox.toolbox();
        let fill = "head -c 100000000 /dev/zero > /root/big; echo; stat -c %s /root/big";
        let (end, text) = output(toolbox, shell(fill)).await;
        assert!(end == End::Exited(0) && text.contains("No space left on device"), "{upper:?}: {text}");
        let kept: u64 = text.trim().lines().last().unwrap().parse().unwrap();
        assert!((40 << 20..=64 << 20).contains(&kept), "{upper:?}: {kept}");
        let write = |path: &str| Op::Write { path: path.into(), mode: 0o644 };
        let refused = toolbox.call(write("/root/more"), &vec![1; 1 << 20]).await;
        assert!(matches!(refused, Err(ToolboxError::Op(OpError::NoSpace { .. }))), "{upper:?}: {refused:?}");
        // Other places are not full, and this one is usable again once there is room.
        said(toolbox, "echo x > /tmp/x && echo x > /dev/shm/x && rm /root/big").await;
        toolbox.call(write("/root/more"), &vec![1; 1 << 20]).await.unwrap();
        assert_eq!(said(toolbox, "stat -c %s /root/more").await, "1048576\n");
        sandbox.destroy().await.unwrap();
    }
}

pub async fn files_are_counted(backend: &Backend) {
    for upper in UPPERS {
        let native = backend.with_settings(native::Settings { upper, upper_files: 4096, ..native::Settings::default() }).await;
        let sandbox = native.start(&backend.spec()).await.unwrap();
        let make = "import os\n\
            os.mkdir('/root/many')\n\
            try:\n\
            \x20   for n in range(20000): open('/root/many/%d' % n, 'w').close()\n\
            except OSError as error: print(n, error.errno)\n";
        let (end, text) = output(sandbox.toolbox(), exec(&["python3", "-c", make])).await;
        let (count, error) = text.trim().split_once(' ').unwrap_or_else(|| panic!("{upper:?}: no limit: {text}"));
        let count: u64 = count.parse().unwrap();
        assert!(end == End::Exited(0) && error == "28" && (2000..=8192).contains(&count), "{upper:?}: {text}");
        assert_eq!(said(sandbox.toolbox(), "rm -r /root/many && echo x > /root/x && cat /root/x").await, "x\n");
        sandbox.destroy().await.unwrap();
    }
}
