//! Kill means: nothing of the job is left. Hostile shapes, each ended in several ways, with and without cgroups, and each with
//! a control which shows that killing the main process alone leaves something.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Cgroup, Host, is_alive, kill, state, wait_for};
use ci_runner_spawner::protocol::{ExitResult, Reply, Request, Seen, Start};

/// Name, script and how many processes there are at least besides the main one. Each ends by saying `ready` to the file `$1`;
/// afterwards `$END` decides how the main process goes on.
const SHAPES: [(&str, &str, usize); 8] = [
    ("double fork", "(sleep 1000 & ); (sleep 1000 & )", 2),
    ("setsid", "setsid sleep 1000 & setsid -f sleep 1000", 2),
    ("double fork and setsid", "(setsid sh -c '(sleep 1000 &) ; exec sleep 1000' \"$0\" &)", 2),
    ("cleared environment", "setsid -f env -i PATH=$PATH tail -f /dev/null \"$2\"", 1),
    ("held pipe", "(exec 3>&1; setsid sleep 1000 >&3 &)", 1),
    (
        "ignored SIGTERM",
        "trap '' TERM HUP INT; (setsid sh -c \"trap '' TERM; while :; do sleep 0.05; done\" \"$0\" &)",
        1,
    ),
    ("stopped children", "sh -c 'kill -STOP $$' \"$0\" & setsid -f sh -c 'kill -STOP $$; sleep 1000' \"$0\"", 2),
    ("process group of its own", "bash -c 'set -m; sleep 1000 & sleep 1000 & disown -a' \"$0\"", 2),
];

fn script(shape: &str, end: &str) -> String {
    format!("{shape}\necho ready > \"$1\"\n{end}")
}

/// Makes the shape's job; its words are marker, ready file, and a file whose name holds the marker.
fn spec(host: &Host, job: u64, shape: &str, end: &str) -> ci_runner_spawner::protocol::Spec {
    let marked = host.path(&host.marker);
    fs::write(&marked, "").unwrap();
    let ready = host.path(&format!("ready-{job}"));
    host.spec(&["/bin/sh", "-c", &script(shape, end), &host.marker, ready.to_str().unwrap(), marked.to_str().unwrap()])
}

fn wait_ready(host: &Host, job: u64, besides: usize) {
    host.wait_file(&host.path(&format!("ready-{job}")));
    wait_for("the job's processes", || (host.survivors().len() > besides).then_some(()));
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// The daemon says kill.
    Kill,
    /// The daemon asks, and the grace passes.
    Stop,
    /// The deadline passes.
    Timeout,
    /// The main process ends by itself.
    Exit,
    /// The main process is killed by somebody.
    MainKilled,
}

/// Long enough for each shape to unfold, on a busy machine too.
const DEADLINE_MS: u64 = 1_500;

fn check_shape(cgroup: Cgroup, end: End) {
    let mut host = Host::started(cgroup);
    for (job, (name, shape, besides)) in SHAPES.into_iter().enumerate() {
        let job = job as u64 + 1;
        let last = match end {
            End::Exit => "while [ ! -e \"$1.go\" ]; do sleep 0.01; done; exit 0",
            _ => "while :; do sleep 1000; done",
        };
        let spec = spec(&host, job, shape, last);
        let mut request = Start { grace_ms: 50, ..host.request(job) };
        request.timeout_ms = matches!(end, End::Timeout).then_some(DEADLINE_MS);
        host.start_as(request, &spec, None);
        // A deadline may pass before anybody has looked.
        if !matches!(end, End::Timeout) {
            wait_ready(&host, job, besides);
        }
        let key = host.key(job);
        match end {
            End::Kill => host.send(Request::Kill(key)),
            End::Stop => host.send(Request::Signal { key, grace_ms: 50 }),
            End::MainKilled => kill(main_process(&host), "KILL"),
            End::Exit => fs::write(host.path(&format!("ready-{job}.go")), "").unwrap(),
            End::Timeout => {}
        }
        let record = host.record(job);
        host.assert_nothing_left();
        if matches!(end, End::Timeout) {
            assert!(
                host.path(&format!("ready-{job}")).exists(),
                "{name}: too slow to show anything in {DEADLINE_MS} ms"
            );
        }
        match (end, &record.result) {
            (End::Timeout, ExitResult::TimedOut) | (End::Exit, ExitResult::Exited { code: 0 }) => {}
            (End::Kill | End::MainKilled, ExitResult::Signaled { signal: 9 }) => {}
            (End::Stop, ExitResult::Signaled { signal: 9 | 15 }) => {}
            (end, result) => panic!("{name} ended by {end:?}: {result:?}"),
        }
        if matches!(end, End::Exit | End::MainKilled) {
            assert!(record.leftovers > 0, "{name}: {record:?}");
        }
        assert!(cgroups_of(&host).is_empty(), "{name}: the cgroup is removed");
    }
}

/// The living job's first process: the one with the marker whose parent is a shim.
fn main_process(host: &Host) -> i32 {
    let survivors = host.survivors();
    let parent = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
    };
    let session_leader = |pid: i32| -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(3)?.parse::<i32>().ok()) == Some(pid)
    };
    let of_shim = |pid: i32| {
        let comm = parent(pid).map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default());
        comm.as_deref() == Some("ci-shim\n") && session_leader(pid)
    };
    let words = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    survivors.into_iter().find(|&pid| of_shim(pid) && words(pid).contains("ready-")).expect("a main process")
}

fn cgroups_of(host: &Host) -> Vec<String> {
    let name = format!("ci-job-{}", host.store);
    let output = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("{name}*")]).output();
    String::from_utf8(output.unwrap().stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn killed_jobs_leave_nothing() {
    check_shape(Cgroup::Auto, End::Kill);
}

#[test]
fn killed_jobs_leave_nothing_without_cgroups() {
    check_shape(Cgroup::Off, End::Kill);
}

#[test]
fn killed_jobs_leave_nothing_where_they_move_into_their_cgroups() {
    check_shape(Cgroup::Moves, End::Kill);
}

#[test]
fn stopped_jobs_leave_nothing() {
    check_shape(Cgroup::Auto, End::Stop);
    check_shape(Cgroup::Off, End::Stop);
}

#[test]
fn timed_out_jobs_leave_nothing() {
    check_shape(Cgroup::Auto, End::Timeout);
    check_shape(Cgroup::Off, End::Timeout);
}

#[test]
fn ended_jobs_leave_nothing() {
    check_shape(Cgroup::Auto, End::Exit);
    check_shape(Cgroup::Off, End::Exit);
}

#[test]
fn jobs_whose_main_process_is_killed_leave_nothing() {
    check_shape(Cgroup::Auto, End::MainKilled);
    check_shape(Cgroup::Off, End::MainKilled);
}

/// Without the protection: the same shapes started and killed the plain way leave something, every one of them.
#[test]
fn control_plain_kill_leaves_something() {
    let host = Host::new(Cgroup::Off);
    for (job, (name, shape, besides)) in SHAPES.into_iter().enumerate() {
        let spec = spec(&host, job as u64, shape, "while :; do sleep 1000; done");
        let mut child = Command::new(&spec.argv[0])
            .args(&spec.argv[1..])
            .env_clear()
            .stdout(Stdio::null())
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .spawn()
            .unwrap();
        wait_ready(&host, job as u64, besides);
        child.kill().unwrap();
        child.wait().unwrap();
        let left = host.survivors();
        assert!(!left.is_empty(), "{name}: plain kill left nothing, so it proves nothing");
        wait_for("the control's leftovers to be gone", || {
            for pid in host.survivors() {
                kill(pid, "KILL");
            }
            host.survivors().is_empty().then_some(())
        });
    }
}

#[test]
fn a_held_pipe_does_not_hold_the_end_and_loses_no_output() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        let script = host.script("(setsid sh -c 'sleep 1000' \"$0\" &) ; seq 1 3000; echo last");
        host.start(1, &script);
        let record = host.record(1);
        assert_eq!(record.result, ExitResult::Exited { code: 0 });
        assert!(record.leftovers >= 1 && record.run_us < 10_000_000);
        assert!(host.log(1).contains("3000\nlast\n"));
        host.assert_nothing_left();
    }
}

#[test]
fn a_job_that_moves_out_of_its_cgroup_is_ended_all_the_same() {
    let mut host = Host::started(Cgroup::Auto);
    // Into the parent cgroup, where it may write; where there is none this is a plain background process.
    let script = host.script(
        "up=$(awk '$3 == \"cgroup2\" {print $2}' /proc/self/mounts)$(sed -n 's/^0:://p' /proc/self/cgroup)/..; \
         (setsid sh -c 'echo $$ > \"$1/cgroup.procs\"; exec sleep 1000' \"$0\" \"$up\" 2>/dev/null &); sleep 0.2; exit 5",
    );
    host.start(1, &script);
    let record = host.record(1);
    assert_eq!((record.result, record.leftovers), (ExitResult::Exited { code: 5 }, 1));
    host.assert_nothing_left();
}

#[test]
fn cgroups_made_by_a_job_are_removed_with_it() {
    let mut host = Host::started(Cgroup::Auto);
    let script = host.script(
        "own=$(awk '$3 == \"cgroup2\" {print $2}' /proc/self/mounts)$(sed -n 's/^0:://p' /proc/self/cgroup); \
         case $own in *ci-job-*) mkdir -p $own/a/b && (setsid sh -c 'echo $$ > $1/a/b/cgroup.procs; sleep 1000' \"$0\" $own &);; \
         esac; sleep 0.1",
    );
    assert_eq!(host.run(1, &script), ExitResult::Exited { code: 0 });
    host.assert_nothing_left();
    assert!(cgroups_of(&host).is_empty());
}

#[test]
fn a_second_stop_shortens_the_grace_and_never_lengthens_it() {
    let mut host = Host::started(Cgroup::Off);
    let script = host.script("trap '' TERM; echo ready > $TMPDIR/../ready; while :; do sleep 0.05; done");
    host.start(1, &script);
    host.wait_file(&host.path("tmp/ready"));
    let key = host.key(1);
    host.send(Request::Signal { key: key.clone(), grace_ms: 600_000 });
    assert!(host.read_for(Duration::from_millis(200)) && host.ended.is_empty());
    host.send(Request::Signal { key: key.clone(), grace_ms: 100 });
    host.send(Request::Signal { key, grace_ms: 600_000 });
    assert_eq!(host.record(1).result, ExitResult::Signaled { signal: 9 });
    host.assert_nothing_left();
}

#[test]
fn a_stop_that_the_job_obeys_is_its_own_result() {
    let mut host = Host::started(Cgroup::Auto);
    let script = host.script("trap 'exit 42' TERM; echo ready > $TMPDIR/../ready; while :; do sleep 0.01; done");
    host.start(1, &script);
    host.wait_file(&host.path("tmp/ready"));
    let key = host.key(1);
    host.send(Request::Signal { key, grace_ms: 20_000 });
    assert_eq!(host.record(1).result, ExitResult::Exited { code: 42 });
}

#[test]
fn kill_works_on_a_stopped_shim() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        let script = host.script("(setsid sleep 1000 &); echo ready > $TMPDIR/../ready; sleep 1000");
        host.start(1, &script);
        host.wait_file(&host.path("tmp/ready"));
        let shim = host.shim_pid(1);
        kill(shim, "STOP");
        wait_for("the shim to stop", || (state(shim) == Some('T')).then_some(()));
        let key = host.key(1);
        host.send(Request::Kill(key));
        // It is woken and does its work; a record is better than none.
        assert_eq!(host.record(1).result, ExitResult::Signaled { signal: 9 });
        host.assert_nothing_left();
        assert!(!is_alive(shim));
    }
}

#[test]
fn a_shim_that_is_stopped_again_and_again_is_killed() {
    let mut host = Host::started(Cgroup::Auto);
    let script = host.script("(setsid sleep 1000 &); echo ready > $TMPDIR/../ready; sleep 1000");
    host.start(1, &script);
    host.wait_file(&host.path("tmp/ready"));
    let shim = host.shim_pid(1);
    let key = host.key(1);
    kill(shim, "STOP");
    host.send(Request::Kill(key.clone()));
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    while !host.ended.contains_key(&key) {
        kill(shim, "STOP");
        assert!(host.read_for(Duration::from_micros(100)));
        assert!(std::time::Instant::now() < until, "a stopped shim is never ended");
    }
    host.assert_nothing_left();
    assert!(!is_alive(shim));
}

#[test]
fn a_killed_shim_leaves_nothing_and_no_record() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        for (job, (name, shape, besides)) in SHAPES.into_iter().enumerate() {
            let job = job as u64 + 1;
            let spec = spec(&host, job, shape, "while :; do sleep 1000; done");
            host.start(job, &spec);
            wait_ready(&host, job, besides);
            let shim = host.shim_pid(job);
            kill(shim, "KILL");
            assert_eq!(host.end(job), None, "{name}");
            host.assert_nothing_left();
            assert!(cgroups_of(&host).is_empty(), "{name}: the cgroup is removed");
        }
        let seen = host.list();
        assert!(seen.len() == SHAPES.len() && seen.values().all(|seen| *seen == Seen::Lost), "{seen:?}");
        // The slot of a killed shim can be used again, and finds an empty TMPDIR.
        let script = host.script("ls -A $TMPDIR");
        host.start_as(Start { slot: 1, ..host.request(50) }, &script, None);
        assert_eq!(host.record(50).result, ExitResult::Exited { code: 0 });
        assert_eq!(host.log(50), "");
    }
}

#[test]
fn one_killed_shim_does_not_hurt_its_neighbours() {
    let mut host = Host::started(Cgroup::Off);
    let script = host.script("(setsid sh -c 'sleep 1; echo grandchild' \"$0\" ); echo done");
    for job in 1..=4 {
        host.start(job, &script);
    }
    for job in 1..=4 {
        host.wait_started(job);
    }
    // `started` is said of a shim that may not have begun.
    let began = host.path(&format!("run/spawner/attempts/{}/began", host.key(2)));
    wait_for("its beginning", || began.exists().then_some(()));
    kill(host.shim_pid(2), "KILL");
    assert_eq!(host.end(2), None);
    for job in [1, 3, 4] {
        assert_eq!(host.record(job).result, ExitResult::Exited { code: 0 });
        assert_eq!(host.log(job), "grandchild\ndone\n");
    }
    assert!(host.replies.iter().all(|reply| !matches!(reply, Reply::Refused { .. })));
}

/// Nobody asks for a kill here: the daemon is gone, the shim is stopped, and only the spawner's backstop is left.
#[test]
fn a_deadline_holds_even_when_the_shim_is_stopped() {
    let mut host = Host::started(Cgroup::Off);
    let script = host.script("(setsid sleep 1000 &); echo ready > $TMPDIR/../ready; sleep 1000");
    host.start_as(Start { timeout_ms: Some(2000), grace_ms: 0, ..host.request(1) }, &script, None);
    host.wait_file(&host.path("tmp/ready"));
    let shim = host.shim_pid(1);
    kill(shim, "STOP");
    host.client = None;
    wait_for("the backstop", || host.survivors().is_empty().then_some(()));
    wait_for("the shim's end", || (!is_alive(shim)).then_some(()));
    host.connect();
    let Seen::Ended(record) = &host.list()[&host.key(1)] else { panic!("{:?}", host.list()) };
    assert!(matches!(record.result, ExitResult::TimedOut | ExitResult::Signaled { signal: 9 }), "{record:?}");
}
