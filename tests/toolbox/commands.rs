//! Running commands and carrying the session.

use super::harness::*;
use std::time::{Duration, Instant};
use sweroll::toolbox::client::ToolboxError;
use sweroll::toolbox::protocol::{Answer, End, Op, Run};

#[tokio::test]
async fn a_command_s_output_and_exit_code_come_back() {
    let bench = start().await;
    let (ran, out) = bench.run(shell("echo out; echo err >&2; exit 3")).await;
    assert_eq!((ran.end, out.as_slice(), ran.total, ran.head), (End::Exited(3), &b"out\nerr\n"[..], 8, 8));
    assert_eq!(ran.cwd, bench.work().to_str().unwrap());
    let (ran, out) = bench.run(exec(&["printf", "%s|", "a b", "$HOME"])).await;
    assert_eq!((ran.end, out.as_slice()), (End::Exited(0), &b"a b|$HOME|"[..]));
    assert_eq!(bench.run(shell("kill -9 $$")).await.0.end, End::Signaled(9));
}

#[tokio::test]
async fn bytes_that_are_not_utf8_cross_as_they_are() {
    let bench = start().await;
    let (_, out) = bench.run(shell(r"printf '\000\377\200a\r\n\303'")).await;
    assert_eq!(out, b"\0\xff\x80a\r\n\xc3");
    let input: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let (_, out) = bench.run_with(exec(&["cat"]), &input).await.unwrap();
    assert_eq!(out, input);
}

#[tokio::test]
async fn no_input_is_the_null_device() {
    let bench = start().await;
    assert_eq!(bench.sh("readlink /proc/self/fd/0; cat").await, "/dev/null\n");
}

#[tokio::test]
async fn a_background_child_that_holds_the_pipe_does_not_hold_the_call() {
    let bench = start().await;
    let begun = Instant::now();
    assert_eq!(bench.sh("sleep 100 & echo hi").await, "hi\n");
    assert_eq!(bench.sh("(while :; do echo flood; done) & echo hi").await.lines().filter(|l| *l == "hi").count(), 1);
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    assert!(bench.sh("jobs; pgrep sleep | wc -l").await.trim().parse::<u32>().unwrap() >= 1);
}

#[tokio::test]
async fn a_background_child_that_goes_on_writing_neither_blocks_nor_dies() {
    let bench = start().await;
    bench.sh("(sleep 0.2; head -c 1000000 /dev/zero; echo $? > done) & ").await;
    assert!(eventually(|| bench.path("done").exists()).await);
    assert!(eventually(|| bench.bytes("done") == b"0\n").await);
}

#[tokio::test]
async fn a_flood_is_kept_as_head_and_tail_in_constant_memory() {
    let bench = start().await;
    let run = Run { output_cap: 32 << 10, ..shell("echo first; head -c 200000000 /dev/zero | tr '\\0' x; echo last") };
    let (ran, out) = bench.run(run).await;
    assert_eq!((ran.end, ran.total, ran.head, out.len()), (End::Exited(0), 200_000_011, 16 << 10, 32 << 10));
    assert!(out.starts_with(b"first\nxxx") && out.ends_with(b"xxxlast\n"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", bench.process.id())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    assert!(peak < 60_000, "{peak} kB");
}

#[tokio::test]
async fn at_the_deadline_everything_the_call_started_is_killed_and_its_output_comes_back() {
    let bench = start().await;
    let script = "echo partial
        echo $$ > pid.shell
        sleep 1000 & echo $! > pid.child
        setsid sh -c 'echo $$ > pid.setsid; sleep 1000; :' &
        (setsid sh -c 'sh -c \"echo \\$\\$ > pid.double; sleep 1000; :\" & ' &)
        (env -i setsid sh -c '(echo $PPID; sh -c \"echo \\$\\$ > pid.unmarked; exec sleep 1000\") & ' &)
        trap '' TERM INT HUP
        while ! [ -s pid.unmarked -a -s pid.double -a -s pid.setsid ]; do sleep 0.02; done
        echo ready > ready
        sleep 1000";
    let (ran, out) = bench.run(Run { deadline_ms: 3 * SECOND, ..shell(script) }).await;
    assert_eq!(ran.end, End::TimedOut);
    assert!(out.starts_with(b"partial\n"), "{:?}", String::from_utf8_lossy(&out));
    assert!(bench.path("ready").exists(), "the machine was too slow for the script");
    for name in ["pid.shell", "pid.child", "pid.setsid", "pid.double", "pid.unmarked"] {
        let pid = String::from_utf8(bench.bytes(name)).unwrap();
        assert!(eventually(|| !is_alive(&pid)).await, "{name} survived");
    }
    assert_eq!(bench.sh("echo still here").await, "still here\n");
}

#[tokio::test]
async fn an_earlier_server_survives_a_later_timeout() {
    let bench = start().await;
    bench.sh("sleep 1000 & echo $! > plain; setsid sleep 1001 & echo $! > session; (env -i setsid sh -c 'echo $$ > orphan; exec sleep 1002' &); while ! [ -s orphan ]; do sleep 0.01; done").await;
    let (ran, _) = bench.run(Run { deadline_ms: 300, ..shell("sleep 1000") }).await;
    assert_eq!(ran.end, End::TimedOut);
    for name in ["plain", "session", "orphan"] {
        assert!(is_alive(&String::from_utf8(bench.bytes(name)).unwrap()), "{name} was killed");
    }
}

#[tokio::test]
async fn directory_and_exported_variables_are_carried() {
    let bench = start().await;
    bench
        .sh("mkdir -p 'a b'; cd 'a b'; export KEPT=\"x 'y' \\\"z\\\" \\$HOME\nline\ttwo\" ; NOT_EXPORTED=1; f() { :; }; export -f f")
        .await;
    assert_eq!(
        bench.sh("pwd; printf %s \"$KEPT|$NOT_EXPORTED\"; type f 2>/dev/null || true").await,
        format!("{}\nx 'y' \"z\" $HOME\nline\ttwo|", bench.path("a b").display())
    );
    bench.sh("unset KEPT; cd ..").await;
    assert_eq!(bench.sh("echo \"${KEPT-unset}\"; cd - >/dev/null; basename \"$PWD\"").await, "unset\na b\n");
}

#[tokio::test]
async fn the_session_is_carried_however_the_script_ends() {
    for shell_name in ["bash", "sh"] {
        let bench = with_shell(shell_name).await;
        for (script, code) in [
            ("cd /usr; export A=exit; exit 3", 3),
            ("cd /tmp; export A=errexit; set -e; false; cd /", 1),
            ("cd /usr; export A=nounset; set -u; : $UNSET_VARIABLE_", if shell_name == "bash" { 127 } else { 2 }),
            ("cd /tmp; export A=trap; trap 'true' EXIT", 0),
            ("cd /usr; export A=closed; for i in 3 4 5 6 7 8 9; do eval \"exec $i>&-\"; done; exec >/dev/null 2>&1 </dev/null", 0),
            ("cd /tmp; export A=options; set -xvfC", 0),
            ("cd /usr; export A=last; (exit 7)", 7),
        ] {
            let (ran, out) = bench.run(shell(script)).await;
            assert_eq!(ran.end, End::Exited(code), "{shell_name}: {script}: {}", String::from_utf8_lossy(&out));
            let expected = script.split(['=', ';']).nth(2).unwrap();
            let dir = script.split([' ', ';']).nth(1).unwrap();
            assert_eq!(bench.sh("echo $A $PWD").await, format!("{expected} {dir}\n"), "{shell_name}: {script}");
        }
        let (ran, out) = bench.run(shell("export A=never; if then fi (")).await;
        assert!(matches!(ran.end, End::Exited(1 | 2)), "{ran:?}");
        assert!(String::from_utf8_lossy(&out).to_lowercase().contains("syntax error"), "{}", String::from_utf8_lossy(&out));
        assert_eq!(bench.sh("echo $A").await, "last\n", "{shell_name}");
        let (ran, _) = bench.run(Run { deadline_ms: 200, ..shell("cd /; export A=late; sleep 1000") }).await;
        assert_eq!(ran.end, End::TimedOut);
        assert_eq!(bench.sh("echo $A $PWD").await, "last /usr\n", "{shell_name}");
    }
}

async fn with_shell(name: &str) -> Bench {
    let path = format!("/bin/{name}");
    start_with(move |command| {
        command.args(["--shell", &path]);
    })
    .await
}

#[tokio::test]
async fn lent_variables_and_unordered_commands_leave_the_session_alone() {
    let bench = start().await;
    bench.sh("export A=mine; cd /usr").await;
    let lent = Run { env: vec![("A".into(), "lent".into()), ("B".into(), "lent".into())], ..shell("echo $A $B; export C=1") };
    assert_eq!(bench.run(lent).await.1, b"lent lent\n");
    assert_eq!(bench.run(unordered("echo ${A-none} $PWD; cd /; export D=1")).await.1, b"none /usr\n");
    assert_eq!(bench.sh("echo $A ${B-none} $C ${D-none} $PWD").await, "mine none 1 none /usr\n");
}

#[tokio::test]
async fn a_deleted_directory_is_left_with_a_note() {
    let bench = start().await;
    bench.sh("mkdir -p deep/er; cd deep/er").await;
    std::fs::remove_dir_all(bench.path("deep")).unwrap();
    let out = bench.sh("pwd").await;
    assert!(out.starts_with('[') && out.contains("no longer exists"), "{out}");
    assert!(out.ends_with(&format!("{}\n", bench.work().display())), "{out}");
    assert_eq!(bench.sh("pwd").await, format!("{}\n", bench.work().display()));
}

#[tokio::test]
async fn a_script_of_any_length_and_content_runs_unchanged() {
    let bench = start().await;
    let mut script = "x='".to_owned();
    script.extend(std::iter::repeat_n("0123456789 \"$a\" \\ `b` \u{1}\u{7f}\u{e9}\n", 40_000));
    script += "'\nprintf %s \"$x\" | wc -c; exit 9";
    assert!(script.len() > 1 << 20);
    let expected = script.find("'\nprintf").unwrap() - 3;
    let (ran, out) = bench.run(shell(&script)).await;
    assert_eq!((ran.end, String::from_utf8_lossy(&out).trim()), (End::Exited(9), expected.to_string().as_str()));
    assert_eq!(bench.sh("cat <<'EOF'\na $b \\c\nEOF").await, "a $b \\c\n");
    assert_eq!(bench.sh("# only a comment").await, "");
    assert_eq!(bench.sh("").await, "");
}

#[tokio::test]
async fn messages_name_the_script_s_own_lines_and_pkill_spares_its_shell() {
    let bench = start().await;
    let (_, out) = bench.run(shell("true\ntrue\nno_such_program_")).await;
    let out = String::from_utf8_lossy(&out).into_owned();
    assert!(out.contains("line 3: no_such_program_: command not found"), "{out}");
    assert_eq!(bench.sh("pkill -f unlikely_server_name_77; echo alive").await, "alive\n");
}

#[tokio::test]
async fn a_command_that_cannot_start_is_told_apart_from_one_that_fails() {
    let bench = start().await;
    assert!(bench.not_started(exec(&["/no/such/program"])).await.contains("not found"));
    assert!(bench.not_started(exec(&["/etc/passwd"])).await.contains("not executable"));
    assert!(bench.not_started(exec(&[])).await.contains("no program"));
    assert!(bench.not_started(Run { cwd: Some("/no/such/dir".into()), ..shell("true") }).await.contains("/no/such/dir"));
    assert!(bench.not_started(exec(&["echo", &"x".repeat(3 << 20)])).await.contains("too long"));
    assert!(bench.not_started(shell("echo \0")).await.contains("NUL"));
    assert_eq!(bench.run(shell("/no/such/program")).await.0.end, End::Exited(127));
    let long = Run { env: vec![("A".into(), "x".repeat(200_000))], ..exec(&["true"]) };
    assert!(bench.not_started(long).await.contains("too long"));
    assert_eq!(bench.sh("export LONG=$(head -c 200000 /dev/zero | tr '\\0' x)").await, "");
    let out = bench.sh("echo ${LONG-gone}").await;
    assert!(out.contains("LONG") && out.ends_with("gone\n"), "{out}");
}

#[tokio::test]
async fn calls_overlap_and_session_commands_keep_their_order() {
    let bench = start().await;
    let begun = Instant::now();
    let calls = (0..100).map(|i| {
        let toolbox = bench.toolbox.clone();
        tokio::spawn(async move { toolbox.call(Op::Run(unordered(&format!("sleep 1; echo {i}"))), b"").await.unwrap().1 })
    });
    for (i, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), format!("{i}\n").as_bytes());
    }
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..20 {
        let toolbox = bench.toolbox.clone();
        calls.spawn(async move { toolbox.call(Op::Run(shell(&format!("echo {i} >> order"))), b"").await.unwrap() });
        tokio::task::yield_now().await;
    }
    calls.join_all().await;
    let expected: String = (0..20).map(|i| format!("{i}\n")).collect();
    assert_eq!(String::from_utf8(bench.bytes("order")).unwrap(), expected);
}

#[tokio::test]
async fn a_dropped_call_disturbs_no_other() {
    let bench = start().await;
    for _ in 0..20 {
        let dropped = bench.toolbox.call(Op::Run(shell("sleep 0.05; echo dropped")), b"");
        assert!(tokio::time::timeout(Duration::from_millis(5), dropped).await.is_err());
    }
    assert_eq!(bench.sh("echo kept").await, "kept\n");
    assert!(matches!(bench.toolbox.call(Op::View { path: "/etc/hostname".into(), range: None }, b"").await, Ok((Answer::Done, _))));
}

#[tokio::test]
async fn the_end_of_the_stream_kills_everything_and_the_client_learns_of_a_dead_toolbox() {
    let mut bench = start().await;
    bench.sh("sleep 1000 & echo $! > a; setsid nohup sleep 1001 >/dev/null 2>&1 & echo $! > b; (env -i setsid sh -c 'echo $$ > c; exec sleep 1002' &); while ! [ -s c ]; do sleep 0.01; done").await;
    let pids: Vec<String> = ["a", "b", "c"].iter().map(|name| String::from_utf8(bench.bytes(name)).unwrap()).collect();
    assert!(pids.iter().all(|pid| is_alive(pid)));
    let other = start().await;
    bench.toolbox = other.toolbox.clone();
    assert!(eventually(|| pids.iter().all(|pid| !is_alive(pid))).await);

    let waiting = tokio::spawn({
        let toolbox = other.toolbox.clone();
        async move { toolbox.call(Op::Run(shell("sleep 1000")), b"").await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let toolbox = other.toolbox.clone();
    drop(other);
    assert!(matches!(waiting.await.unwrap(), Err(ToolboxError::Lost(_))));
    assert!(!toolbox.closed().await.is_empty());
    assert!(matches!(toolbox.call(Op::Usage, b"").await, Err(ToolboxError::Lost(_))));
}

#[tokio::test]
async fn a_child_starts_with_default_signals_and_three_descriptors() {
    let bench = start().await;
    let out = bench.sh("ls /proc/self/fd | wc -l; grep -E 'SigBlk|SigIgn' /proc/self/status").await;
    // The fourth is the directory that ls reads.
    let expected = "4\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    assert_eq!(out, expected);
}
