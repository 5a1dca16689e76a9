//! What a job gets, and how its end is told.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::common::{Cgroup, Host};
use ci_runner_spawner::protocol::{ExitResult, SPEC_BYTES_MAX, Secrets, Spec, Start, WORD_BYTES_MAX};

#[test]
fn exit_codes_and_signals_are_told() {
    for cgroup in [Cgroup::Auto, Cgroup::Moves, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        for (job, code) in [0, 1, 3, 127, 255].into_iter().enumerate() {
            let script = host.script(&format!("exit {code}"));
            assert_eq!(host.run(job as u64 + 1, &script), ExitResult::Exited { code });
        }
        for (job, signal) in [1, 6, 9, 13, 15].into_iter().enumerate() {
            let script = host.script(&format!("kill -{signal} $$"));
            assert_eq!(host.run(job as u64 + 11, &script), ExitResult::Signaled { signal });
        }
        host.assert_nothing_left();
    }
}

#[test]
fn what_cannot_start_says_why() {
    let mut host = Host::started(Cgroup::Auto);
    let plain = host.path("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    let orphan = host.path("orphan");
    fs::write(&orphan, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&orphan, fs::Permissions::from_mode(0o755)).unwrap();
    let no_header = host.path("no-header");
    fs::write(&no_header, "echo hello\n").unwrap();
    fs::set_permissions(&no_header, fs::Permissions::from_mode(0o755)).unwrap();
    let in_dir = |host: &Host, dir: &str| Spec { dir: Some(dir.to_owned()), ..host.spec(&["true"]) };
    let long_name = "n".repeat(5000);
    let cases = [
        (host.spec(&["no-such-program"]), "cannot run `no-such-program`: No such file or directory"),
        (host.spec(&["/no/such/program"]), "cannot run `/no/such/program`: No such file or directory"),
        (host.spec(&[plain.to_str().unwrap()]), "plain`: Permission denied"),
        (host.spec(&["/"]), "cannot run `/`: Permission denied"),
        (host.spec(&[orphan.to_str().unwrap()]), "its interpreter is not"),
        (host.spec(&[no_header.to_str().unwrap()]), "Exec format error (a script begins with"),
        (host.spec(&[&long_name]), "File name too long"),
        (in_dir(&host, "/no/such/dir"), "cannot enter directory `/no/such/dir`: No such file or directory"),
        (in_dir(&host, "/etc/passwd"), "cannot enter directory `/etc/passwd`: Not a directory"),
        (in_dir(&host, "relative"), "the directory `relative` is not absolute"),
        (host.spec(&[]), "the command is empty"),
        (host.spec(&["a\0b"]), "has a NUL"),
    ];
    for (job, (spec, want)) in cases.into_iter().enumerate() {
        match host.run(job as u64 + 1, &spec) {
            ExitResult::FailedToStart { cause } => assert!(cause.contains(want), "{cause}"),
            other => panic!("{other:?} instead of {want}"),
        }
    }
    host.assert_nothing_left();
}

#[test]
fn the_program_is_looked_up_in_the_jobs_own_path() {
    let mut host = Host::started(Cgroup::Auto);
    let bin = host.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("true"), "#!/bin/sh\necho mine\n").unwrap();
    fs::set_permissions(bin.join("true"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = host.spec(&["true"]);
    spec.env[0].1 = format!("/nowhere:{}", bin.display());
    assert_eq!(host.output(1, &spec), "mine\n");
    // Relative to the job's directory, and through an empty part of PATH.
    let relative = Spec { dir: Some(bin.to_str().unwrap().to_owned()), ..host.spec(&["./true"]) };
    assert_eq!(host.output(2, &relative), "mine\n");
    let mut empty = Spec { dir: relative.dir.clone(), ..host.spec(&["true"]) };
    empty.env[0].1 = ":/bin".to_owned();
    assert_eq!(host.output(3, &empty), "mine\n");
    let mut none = host.spec(&["true"]);
    none.env.remove(0);
    assert_eq!(host.output(4, &none), "");
}

/// The spawner is started the way nobody should start it.
const MESS: &str = "trap '' HUP PIPE TERM INT USR1 CHLD; umask 0777; export LEAK=1 NOTIFY_SOCKET=/x; \
                    exec 7</etc/passwd 9>/dev/null; exec \"$@\"";

#[test]
fn nothing_of_the_spawners_surroundings_leaks_in() {
    for cgroup in [Cgroup::Auto, Cgroup::Moves, Cgroup::Off] {
        let mut host = Host::new(cgroup);
        host.wrapper = Some(MESS);
        host.environment = vec![("CI_RUNNER_FAIL".to_owned(), "spawner-amid-forget:99".to_owned())];
        host.connect();
        let tmpdir = host.slot_dir(1);
        let environment = host.output(1, &host.spec(&["cat", "/proc/self/environ"]));
        let words: BTreeSet<&str> = environment.split_terminator('\0').collect();
        let marker = format!("MARKER={}", host.marker);
        let tmpdir_word = format!("TMPDIR={}", tmpdir.display());
        assert_eq!(words, ["PATH=/usr/local/bin:/usr/bin:/bin", &marker, &tmpdir_word].into_iter().collect());

        // `ls` itself has the directory open as 3.
        let fds = host.output(2, &host.spec(&["ls", "/proc/self/fd"]));
        assert_eq!(fds, "0\n1\n2\n3\n");
        let stdin = host.output(3, &host.spec(&["readlink", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"]));
        let ends: Vec<&str> = stdin.lines().collect();
        assert_eq!(ends[0], "/dev/null");
        assert!(ends[1].starts_with("pipe:") && ends[1] == ends[2], "{stdin}");

        let status = host.output(4, &host.spec(&["cat", "/proc/self/status"]));
        let wanted = ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd", "Umask"];
        for line in status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))) {
            let value = line.split_whitespace().nth(1).unwrap();
            let want = if line.starts_with("Umask") { "0022" } else { "0000000000000000" };
            assert_eq!(value, want, "{status}");
        }
        let spec = Spec { umask: 0o137, ..host.script("umask; touch f; stat -c %a f; pwd") };
        let text = host.output(5, &spec);
        assert_eq!(text, format!("0137\n640\n{}\n", host.slot_dir(5).display()));

        // Session leader, no terminal, not in the shim's process group.
        let ids = host.output(6, &host.script("echo $$ $(cut -d' ' -f5,6,7 /proc/$$/stat)"));
        let ids: Vec<&str> = ids.split_whitespace().collect();
        assert_eq!((ids[0], ids[0], "0"), (ids[1], ids[2], ids[3]));
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        assert_eq!(host.output(7, &host.spec(&["cat", "/proc/self/oom_score_adj"])), own);
    }
}

#[test]
fn a_broken_pipe_kills_as_it_should() {
    let mut host = Host::new(Cgroup::Auto);
    host.wrapper = Some(MESS);
    host.connect();
    // 141 = 128 + SIGPIPE; with an ignored SIGPIPE `yes` would complain and exit with 1.
    let text = host.output(1, &host.spec(&["bash", "-c", "yes | head -n 1; echo ${PIPESTATUS[0]}"]));
    assert_eq!(text, "y\n141\n");
}

#[test]
fn words_arrive_byte_for_byte() {
    let mut host = Host::started(Cgroup::Auto);
    let odd: String = (1..=0x7f_u8).map(char::from).chain("äß€😀\u{10ffff}\u{80}\u{feff}".chars()).collect();
    let long = "x".repeat(WORD_BYTES_MAX);
    let mut spec = host.spec(&["cat", "/proc/self/cmdline", "/dev/null"]);
    spec.argv[0] = "/bin/cat".to_owned();
    spec.argv.push("--".to_owned());
    let mut env = host.spec(&["sh", "-c", "printf %s \"$ODD\""]);
    env.env.push(("ODD".to_owned(), odd.clone()));
    assert_eq!(host.output(1, &env), odd);

    let argv = host.spec(&[
        "sh",
        "-c",
        "printf '%s\\n' \"$#\" \"$1\"; printf %s \"$2\" | wc -c; printf %s \"$3\"",
        "",
        "",
        &long,
        &odd,
    ]);
    let text = host.output(2, &argv);
    assert_eq!(text, format!("3\n\n{WORD_BYTES_MAX}\n{odd}"));

    let mut env = host.spec(&["sh", "-c", "printf %s \"$L\" | wc -c"]);
    env.env.push(("L".to_owned(), "x".repeat(WORD_BYTES_MAX - 2)));
    assert_eq!(host.output(3, &env), format!("{}\n", WORD_BYTES_MAX - 2));
    env.env[2].1.push('x');
    assert!(matches!(host.run(4, &env), ExitResult::FailedToStart { cause } if cause.contains("131072 bytes")));
}

#[test]
fn a_specification_of_the_largest_size_runs_and_a_larger_one_is_refused() {
    let mut host = Host::started(Cgroup::Auto);
    let size = |spec: &Spec| serde_json::to_vec(spec).unwrap().len();
    let mut spec = host.spec(&["sh", "-c", "env | wc -c"]);
    for i in 0..7 {
        spec.env.push((format!("L{i}"), "x".repeat(WORD_BYTES_MAX - 3)));
    }
    spec.env.push(("REST".to_owned(), String::new()));
    let rest = SPEC_BYTES_MAX - size(&spec);
    spec.env.last_mut().unwrap().1 = "x".repeat(rest);
    assert_eq!(size(&spec), SPEC_BYTES_MAX);
    assert!(host.output(1, &spec).trim().parse::<usize>().unwrap() > 7 * 131_071);
    spec.env.last_mut().unwrap().1.push('x');
    let start = host.request(2);
    let error = host.client().send_start(start, &spec, None).unwrap_err();
    assert!(error.to_string().contains("the limit is 1048576"), "{error}");
}

#[test]
fn secrets_reach_the_job_and_not_the_log() {
    let mut host = Host::started(Cgroup::Auto);
    let secrets = Secrets(vec![("TOKEN".to_owned(), "hunter2-is-a-long-secret".to_owned())]);
    let script = host.script("echo \"token: $TOKEN.\"; printf %s \"$TOKEN\" | wc -c");
    host.start_as(host.request(1), &script, Some(&secrets));
    assert_eq!(host.record(1).result, ExitResult::Exited { code: 0 });
    assert_eq!(host.log(1), "token: ***.\n24\n");
}

#[test]
fn tmpdir_is_private_and_wiped() {
    let mut host = Host::started(Cgroup::Auto);
    let precious = host.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    let request = |host: &Host, job| Start { slot: 3, ..host.request(job) };
    let script = host.script(&format!(
        "stat -c %a $TMPDIR; ls -A $TMPDIR; cd $TMPDIR && mkdir -p a/b/c && touch a/b/c/f && \
         ln -s {0} link && ln -s {0} a/b/link && ln {0}/file hard && mkfifo pipe && chmod 000 a/b/c a/b a .",
        precious.display()
    ));
    for job in 1..=3 {
        host.start_as(request(&host, job), &script, None);
        assert_eq!(host.record(job).result, ExitResult::Exited { code: 0 }, "{}", host.log(job));
        assert_eq!(host.log(job), "700\n", "wiped and private each time");
        let dir = host.slot_dir(3);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    }
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "x");
    // What is there before a job (a shim was killed) is not there for the job.
    fs::write(host.slot_dir(3).join("left"), "x").unwrap();
    host.start_as(request(&host, 4), &script, None);
    assert_eq!(host.record(4).result, ExitResult::Exited { code: 0 });
    assert_eq!(host.log(4), "700\n");
    // A job that removes it, or puts a link in its place.
    for (job, script) in [(5, "cd /; rm -r $TMPDIR"), (6, "cd /; rmdir $TMPDIR; ln -s / $TMPDIR")] {
        let script = host.script(script);
        host.start_as(request(&host, job), &script, None);
        assert_eq!(host.record(job).result, ExitResult::Exited { code: 0 });
        assert!(host.slot_dir(3).symlink_metadata().is_ok_and(|meta| meta.is_dir()));
    }
}

#[test]
fn a_slot_has_one_job_at_a_time() {
    let mut host = Host::started(Cgroup::Auto);
    let sleep = host.script("sleep 1000");
    host.start_as(Start { slot: 1, ..host.request(1) }, &sleep, None);
    host.wait_started(1);
    host.start_as(Start { slot: 1, ..host.request(2) }, &sleep, None);
    let why = host.reply("a refusal", |reply| match reply {
        ci_runner_spawner::protocol::Reply::RefusedStart { why, voided: false, .. } => Some(why.clone()),
        _ => None,
    });
    assert!(why.contains("slot default-1 is still in use"), "{why}");
}

#[test]
fn output_is_complete_in_order_and_capped() {
    let mut host = Host::started(Cgroup::Auto);
    let script = host.script("for i in 1 2 3; do echo out $i; echo err $i >&2; done");
    assert_eq!(host.output(1, &script), "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n");
    let flood = host.script("head -c 3000000 /dev/zero | tr '\\0' x");
    host.start_as(Start { log_bytes_max: 100_000, ..host.request(2) }, &flood, None);
    let record = host.record(2);
    assert_eq!(record.result, ExitResult::Exited { code: 0 });
    assert_eq!(record.log_dropped_bytes, 3_000_000 - 100_000);
    assert_eq!(record.log_bytes, host.log(2).len() as u64);
    let silent = host.spec(&["true"]);
    assert_eq!(host.run(3, &silent), ExitResult::Exited { code: 0 });
    let path = host.path("log").join(ci_runner_spawner::joblog::log_path(3, 1));
    assert!(!path.exists(), "a job without output leaves no file");
    // Everything written before the end is there, however the job ends.
    let script = host.script("seq 1 5000; kill -9 $$");
    assert_eq!(host.run(4, &script), ExitResult::Signaled { signal: 9 });
    assert!(host.log(4).ends_with("4999\n5000\n"));
}

#[test]
fn what_a_job_used_is_told() {
    let mut host = Host::started(Cgroup::Auto);
    // 40 MB in a grandchild whose parent does not wait for it; some CPU time.
    let script = host.script(
        "head -c 40000000 /dev/zero | tail -c 40000000 | wc -c; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done",
    );
    host.start(1, &script);
    let record = host.record(1);
    assert_eq!(record.result, ExitResult::Exited { code: 0 });
    assert!(record.peak_memory_bytes > 35_000_000, "{record:?}");
    assert!(record.cpu_user_us + record.cpu_system_us > 20_000, "{record:?}");
    assert!(record.run_us >= 20_000 && record.ended_wall_ms >= record.started_wall_ms, "{record:?}");
    assert_eq!(record.leftovers, 0);
}

#[test]
fn a_full_log_disk_neither_blocks_nor_kills_the_job() {
    let mut host = Host::started(Cgroup::Auto);
    // A log directory that cannot take a file: its shard is a plain file.
    fs::create_dir_all(host.path("log")).unwrap();
    fs::write(host.path("log/0"), "").unwrap();
    let script = host.script("head -c 300000 /dev/zero; exit 7");
    host.start(1, &script);
    let record = host.record(1);
    assert_eq!(record.result, ExitResult::Exited { code: 7 });
    assert_eq!((record.log_bytes, record.log_dropped_bytes), (0, 300_000));
}

#[test]
fn deadlines_end_a_job() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        let with = |host: &Host, job| Start {
            timeout_ms: Some(300),
            soft_timeout_ms: Some(50),
            grace_ms: 200,
            ..host.request(job)
        };
        let polite = host.script("trap 'echo bye; exit 0' TERM; while :; do sleep 0.01; done");
        host.start_as(with(&host, 1), &polite, None);
        let rude = host.script("trap '' TERM; echo rude; while :; do sleep 0.01; done");
        host.start_as(with(&host, 2), &rude, None);
        let stopped = host.script("trap 'exit 0' TERM; echo stopped; kill -STOP $$; echo continued; sleep 1000");
        host.start_as(with(&host, 3), &stopped, None);
        for job in 1..=3 {
            assert_eq!(host.record(job).result, ExitResult::TimedOut, "{}", host.log(job));
            let log = host.log(job);
            assert!(log.contains("soft timeout of 0.050 s passed"), "{log}");
            assert!(log.contains("timeout of 0.300 s passed"), "{log}");
        }
        assert!(host.log(1).contains("bye\n"));
        let (polite, rude) = (host.record(1), host.record(2));
        // Timers are late on a busy machine, but not by so much.
        assert!((300_000..10_000_000).contains(&polite.run_us), "{polite:?}");
        assert!((500_000..10_000_000).contains(&rude.run_us), "the grace is given in full: {rude:?}");
        host.assert_nothing_left();
        // The slots are free again, and a job that is quick enough is not touched.
        let quick = host.script("sleep 0.1; echo done");
        host.start_as(Start { slot: 1, ..with(&host, 4) }, &quick, None);
        assert_eq!(host.record(4).result, ExitResult::Exited { code: 0 });
    }
}

#[test]
fn a_long_socket_path_works() {
    let mut host = Host::new(Cgroup::Auto);
    let deep = host.dir.path().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    host.subdirectory = Some(deep);
    host.connect();
    assert_eq!(host.output(1, &host.script("echo far")), "far\n");
    assert!(host.socket().as_os_str().len() > 200);
}

#[test]
fn a_spawner_that_cannot_start_says_why() {
    let host = Host::new(Cgroup::Auto);
    fs::write(host.path("run"), "a file").unwrap();
    let output = host.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("ci-runner-spawner: ") && text.contains("/run/spawner"), "{text}");
    let output = host.command().arg("--nonsense").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let mut unknown = host.command();
    unknown.env("CI_RUNNER_FAIL", "no-such-point");
    assert_eq!(unknown.output().unwrap().status.code(), Some(3));
    let help = host.command().arg("--help").output().unwrap();
    assert!(help.status.success() && String::from_utf8(help.stdout).unwrap().contains("Example:"));
}

#[test]
fn a_second_spawner_leaves_at_once_and_the_first_ends_by_itself() {
    let mut host = Host::started(Cgroup::Auto);
    let output = host.command().output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("running already, process {}", host.spawner_pid)), "{text}");
    let sleep = host.script("sleep 0.4");
    host.start(1, &sleep);
    host.wait_started(1);
    host.client = None;
    let pid = host.spawner_pid;
    // It stays for the job, then goes.
    crate::common::wait_for("the job's end", || host.survivors().is_empty().then_some(()));
    crate::common::wait_for("the spawner's end", || (!crate::common::is_alive(pid)).then_some(()));
    assert!(!host.socket().exists());
    host.connect();
    assert_ne!(host.spawner_pid, pid);
    assert!(host.list().len() == 1 && host.read_for(Duration::ZERO));
}
