//! What dies and what does not: daemon, spawner and shim killed, stopped and replaced under running jobs.

mod common;

use std::fs;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use ci_runner_spawner::client::Client;
use ci_runner_spawner::protocol::{AttemptKey, ExitResult, PROTOCOL_VERSION, Reply, Request, Seen, Start, names};
use common::{Cgroup, Host, is_alive, kill, state, wait_for};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketType,
};

/// A job that says it runs, waits for the file, and appends its number to another.
fn waiting_job(host: &Host, job: u64) -> ci_runner_spawner::protocol::Spec {
    let dir = host.dir.path().display();
    host.script(&format!(
        "echo ready > {dir}/ready-{job}; while [ ! -e {dir}/go ]; do sleep 0.01; done; echo {job} >> {dir}/ran; exit {job}"
    ))
}

fn go(host: &Host) {
    fs::write(host.path("go"), "").unwrap();
}

/// How often each job ran.
fn executions(host: &Host, job: u64) -> usize {
    let text = fs::read_to_string(host.path("ran")).unwrap_or_default();
    text.lines().filter(|line| *line == job.to_string()).count()
}

#[test]
fn jobs_do_not_notice_the_death_of_the_daemon() {
    let mut host = Host::started(Cgroup::Auto);
    for job in 1..=3 {
        let spec = waiting_job(&host, job);
        host.start(job, &spec);
        host.wait_started(job);
    }
    let pid = host.spawner_pid;
    host.client = None;
    for job in 1..=3 {
        host.wait_file(&host.path(&format!("ready-{job}")));
    }
    let rude = host.script("trap '' TERM; sleep 1000");
    host.connect();
    assert_eq!(host.spawner_pid, pid);
    host.start_as(Start { timeout_ms: Some(100), grace_ms: 50, ..host.request(4) }, &rude, None);
    host.wait_started(4);
    host.client = None;
    go(&host);
    wait_for("all jobs to end", || host.survivors().is_empty().then_some(()));
    host.connect();
    let seen = wait_for("all records", || {
        let seen = host.list();
        seen.values().all(|seen| matches!(seen, Seen::Ended(_))).then_some(seen)
    });
    for job in 1..=3 {
        let Seen::Ended(record) = &seen[&host.key(job)] else { panic!("{seen:?}") };
        assert_eq!(record.result, ExitResult::Exited { code: job as u8 });
        assert_eq!(executions(&host, job), 1);
    }
    let Seen::Ended(record) = &seen[&host.key(4)] else { panic!("{seen:?}") };
    assert_eq!(record.result, ExitResult::TimedOut);
}

#[test]
fn a_killed_spawner_hurts_nobody_and_its_successor_takes_over() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        let epoch = host.epoch.clone();
        for job in 1..=5 {
            let spec = waiting_job(&host, job);
            host.start(job, &spec);
            host.wait_started(job);
        }
        let rude = host.script("trap '' TERM; sleep 1000");
        host.start_as(Start { timeout_ms: Some(500), grace_ms: 50, ..host.request(6) }, &rude, None);
        host.wait_started(6);
        let sleeper = host.script("(setsid sleep 1000 &) ; echo ready > $TMPDIR/../ready-7; sleep 1000");
        host.start(7, &sleeper);
        host.wait_started(7);
        for job in [1, 2, 3, 4, 5] {
            host.wait_file(&host.path(&format!("ready-{job}")));
        }
        host.wait_file(&host.path("tmp/ready-7"));
        host.kill_spawner();
        let old = host.spawner_pid;
        host.connect();
        assert_ne!(host.spawner_pid, old);
        assert_eq!(host.epoch, epoch, "same directory, same epoch");
        let seen = host.list();
        assert_eq!(seen.len(), 7);
        assert!((1..=5).all(|job| seen[&host.key(job)] == Seen::Alive), "{seen:?}");
        // What the successor did not fork can be asked and killed all the same.
        let key = host.key(7);
        host.send(Request::Kill(key));
        assert_eq!(host.record(7).result, ExitResult::Signaled { signal: 9 });
        assert_eq!(host.record(6).result, ExitResult::TimedOut);
        // A repeated start of a running attempt says that it runs.
        let spec = waiting_job(&host, 1);
        host.start(1, &spec);
        host.wait_started(1);
        go(&host);
        for job in 1..=5 {
            assert_eq!(host.record(job).result, ExitResult::Exited { code: job as u8 });
            assert_eq!(executions(&host, job), 1);
        }
        host.assert_nothing_left();
        for job in 1..=7 {
            let key = host.key(job);
            host.send(Request::Forget(key));
        }
        assert!(host.list().is_empty());
        assert_eq!(fs::read_dir(host.path("run/spawner/attempts")).unwrap().count(), 0);
    }
}

#[test]
fn ends_while_no_spawner_is_there_are_found() {
    let mut host = Host::started(Cgroup::Auto);
    let spec = waiting_job(&host, 1);
    host.start(1, &spec);
    let other = waiting_job(&host, 2);
    host.start(2, &other);
    for job in [1, 2] {
        host.wait_file(&host.path(&format!("ready-{job}")));
    }
    let victim = host.shim_pid(2);
    host.kill_spawner();
    go(&host);
    kill(victim, "KILL");
    wait_for("the jobs to end", || (!is_alive(victim) && executions(&host, 1) == 1).then_some(()));
    host.connect();
    // The first may still be writing its record.
    wait_for("both ends", || {
        let seen = host.list();
        let first =
            matches!(&seen[&host.key(1)], Seen::Ended(record) if record.result == ExitResult::Exited { code: 1 });
        (first && seen[&host.key(2)] == Seen::Lost).then_some(())
    });
    host.assert_nothing_left();
}

#[test]
fn shim_and_spawner_killed_together_leave_nothing() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        let script = host.script(
            "(setsid sh -c 'sleep 1000' \"$0\" &); sh -c 'kill -STOP $$' & echo ready > $TMPDIR/../ready; sleep 1000",
        );
        host.start(1, &script);
        host.wait_file(&host.path("tmp/ready"));
        let shim = host.shim_pid(1);
        kill(host.spawner_pid, "STOP");
        kill(shim, "KILL");
        wait_for("the shim's death", || (!is_alive(shim)).then_some(()));
        host.kill_spawner();
        assert!(host.survivors().len() >= 2, "the job goes on without anyone");
        host.connect();
        wait_for("the attempt to be lost", || (host.list()[&host.key(1)] == Seen::Lost).then_some(()));
        host.assert_nothing_left();
    }
}

#[test]
fn an_adopted_shim_that_is_killed_leaves_nothing() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        let script = host.script("(setsid sh -c 'sleep 1000' \"$0\" &); echo ready > $TMPDIR/../ready; sleep 1000");
        host.start(1, &script);
        host.wait_file(&host.path("tmp/ready"));
        let shim = host.shim_pid(1);
        host.kill_spawner();
        host.connect();
        kill(shim, "KILL");
        assert_eq!(host.end(1), None);
        host.assert_nothing_left();
    }
}

#[test]
fn an_adopted_shim_that_is_stopped_is_killed() {
    let mut host = Host::started(Cgroup::Off);
    let script = host.script("(setsid sleep 1000 &); echo ready > $TMPDIR/../ready; sleep 1000");
    host.start(1, &script);
    host.wait_file(&host.path("tmp/ready"));
    let shim = host.shim_pid(1);
    kill(shim, "STOP");
    wait_for("the shim to stop", || (state(shim) == Some('T')).then_some(()));
    host.kill_spawner();
    host.connect();
    let key = host.key(1);
    host.send(Request::Kill(key));
    host.end(1);
    host.assert_nothing_left();
}

#[test]
fn a_repeated_start_never_runs_twice() {
    let mut host = Host::started(Cgroup::Auto);
    let dir = host.dir.path().display().to_string();
    let script = host.script(&format!("echo 1 >> {dir}/ran; while [ ! -e {dir}/go ]; do sleep 0.01; done"));
    for _ in 0..50 {
        host.start(1, &script);
    }
    for _ in 0..50 {
        host.wait_started(1);
    }
    host.connect();
    host.start(1, &script);
    host.wait_started(1);
    go(&host);
    let first = host.record(1);
    assert_eq!(first.result, ExitResult::Exited { code: 0 });
    for _ in 0..3 {
        host.ended.clear();
        host.start(1, &script);
        assert_eq!(host.record(1), first);
    }
    host.kill_spawner();
    host.connect();
    host.ended.clear();
    host.start(1, &script);
    assert_eq!(host.record(1), first);
    assert_eq!(executions(&host, 1), 1);
}

#[test]
fn what_was_voided_never_starts() {
    let mut host = Host::started(Cgroup::Auto);
    let voided = |reply: &Reply| matches!(reply, Reply::Voided { .. }).then_some(());
    let refused = |reply: &Reply| match reply {
        Reply::RefusedStart { voided, .. } => Some(*voided),
        _ => None,
    };
    let script = host.script(&format!("echo 1 >> {}/ran", host.dir.path().display()));
    let key = host.key(1);
    host.send(Request::Void(key.clone()));
    host.reply("voided", voided);
    host.start(1, &script);
    assert!(host.reply("a refusal", refused));
    host.send(Request::Void(key.clone()));
    host.reply("voided again", voided);
    host.kill_spawner();
    host.connect();
    assert_eq!(host.list()[&key], Seen::Voided);
    host.start(1, &script);
    assert!(host.reply("a refusal", refused));
    assert_eq!(executions(&host, 1), 0);
    // Void comes too late for what runs, and for what has ended.
    let spec = waiting_job(&host, 2);
    host.start(2, &spec);
    host.wait_started(2);
    let running = host.key(2);
    host.send(Request::Void(running.clone()));
    host.wait_started(2);
    go(&host);
    let record = host.record(2);
    host.ended.clear();
    host.send(Request::Void(running));
    assert_eq!(host.record(2), record);
    host.send(Request::Forget(key));
    assert_eq!(host.list().len(), 1);
}

#[test]
fn an_older_daemon_is_not_heard_any_more() {
    let mut host = Host::started(Cgroup::Auto);
    host.generation = 7;
    host.connect();
    let mut old = host.client.take().unwrap();
    // Stopped, the spawner reads nothing: the old daemon's start is still in its socket when the new daemon says hello.
    kill(host.spawner_pid, "STOP");
    let script = host.script(&format!("echo 1 >> {}/ran", host.dir.path().display()));
    let mut new = Client::connect(&host.socket()).unwrap();
    new.send(&[hello(&host, host.generation + 1)]).unwrap();
    kill(host.spawner_pid, "CONT");
    assert!(new.wait(common::PATIENCE).unwrap());
    assert!(matches!(new.recv().unwrap()[0], Reply::Welcome { .. }));
    let _ = old.send_start(host.request(1), &script, None);
    assert!(old.wait(common::PATIENCE).unwrap());
    assert_eq!(old.recv().unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    // A lower generation is told so, also by a successor of the spawner.
    for _ in 0..2 {
        let mut stale = Client::connect(&host.socket()).unwrap();
        stale.send(&[hello(&host, host.generation)]).unwrap();
        assert!(stale.wait(common::PATIENCE).unwrap());
        assert!(matches!(&stale.recv().unwrap()[0], Reply::Refused { why } if why.contains("9 was here")));
        host.generation += 1;
        if host.generation > 9 {
            break;
        }
        drop(stale);
        host.kill_spawner();
        host.generation = 8;
        host.connect();
        host.generation = 8;
    }
    assert_eq!(executions(&host, 1), 0);
}

fn hello(host: &Host, generation: u64) -> Request {
    Request::Hello { protocol: PROTOCOL_VERSION, store: host.store.clone(), generation }
}

#[test]
fn stores_do_not_see_each_other() {
    let mut host = Host::started(Cgroup::Auto);
    let spec = waiting_job(&host, 1);
    host.start(1, &spec);
    host.wait_started(1);
    let mut other = Client::connect(&host.socket()).unwrap();
    other.send(&[Request::Hello { protocol: PROTOCOL_VERSION, store: "00000000".to_owned(), generation: 1 }]).unwrap();
    other.send(&[Request::List]).unwrap();
    let mut replies = Vec::new();
    while !replies.contains(&Reply::Listed) {
        assert!(other.wait(common::PATIENCE).unwrap());
        replies.extend(other.recv().unwrap());
    }
    assert_eq!(replies.len(), 2, "{replies:?}");
    other.send(&[Request::Kill(host.key(1))]).unwrap();
    assert!(other.wait(common::PATIENCE).unwrap());
    assert!(
        matches!(&other.recv().unwrap()[0], Reply::Refused { why } if why.contains("not of this connection's store"))
    );
    assert_eq!(host.list()[&host.key(1)], Seen::Alive, "the first connection is untouched");
    go(&host);
    assert_eq!(host.record(1).result, ExitResult::Exited { code: 1 });
}

#[test]
fn a_list_of_many_attempts_is_complete() {
    let mut host = Host::started(Cgroup::Auto);
    let attempts = host.path("run/spawner/attempts");
    let script = host.spec(&["true"]);
    host.start(1, &script);
    host.record(1);
    host.kill_spawner();
    // As many as a spawner killed at the wrong moment could leave.
    for job in 2..=2500_u64 {
        let dir = attempts.join(host.key(job).to_string());
        fs::create_dir(&dir).unwrap();
        match job % 3 {
            0 => fs::write(dir.join(names::VOIDED), "").unwrap(),
            1 => fs::write(dir.join(names::BEGAN), "").unwrap(),
            _ => {}
        }
    }
    fs::write(attempts.join("no-attempt"), "").unwrap();
    fs::create_dir(attempts.join("0123abcd-01-1")).unwrap();
    host.connect();
    let seen = wait_for("all leftovers to be looked for", || {
        let seen = host.list();
        (!seen.values().any(|seen| *seen == Seen::Leftovers)).then_some(seen)
    });
    assert_eq!(seen.len(), 2500);
    for (key, seen) in &seen {
        let want = match (key.job, key.job % 3) {
            (1, _) => continue,
            (_, 0) => Seen::Voided,
            (_, 1) => Seen::Lost,
            _ => Seen::NotBegan,
        };
        assert_eq!(*seen, want, "{key}");
    }
    let forget: Vec<Request> = seen.into_keys().map(Request::Forget).collect();
    host.client().send(&forget).unwrap();
    assert!(host.list().is_empty());
    let names: Vec<_> = fs::read_dir(&attempts).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "what is no attempt is left alone: {names:?}");
}

#[test]
fn forget_spares_what_is_alive() {
    let mut host = Host::started(Cgroup::Auto);
    let spec = waiting_job(&host, 1);
    host.start(1, &spec);
    host.wait_started(1);
    let key = host.key(1);
    host.send(Request::Forget(key.clone()));
    assert_eq!(host.list()[&key], Seen::Alive);
    go(&host);
    assert_eq!(host.record(1).result, ExitResult::Exited { code: 1 });
    host.send(Request::Forget(key.clone()));
    host.send(Request::Forget(key));
    assert!(host.list().is_empty());
}

#[test]
fn a_removed_runtime_directory_loses_no_result() {
    for remove_all in [true, false] {
        let mut host = Host::started(Cgroup::Auto);
        for job in 1..=2 {
            let spec = waiting_job(&host, job);
            host.start(job, &spec);
            host.wait_file(&host.path(&format!("ready-{job}")));
        }
        let (epoch, pid) = (host.epoch.clone(), host.spawner_pid);
        if remove_all {
            fs::remove_dir_all(host.path("run")).unwrap();
        } else {
            fs::remove_dir_all(host.path("run/spawner")).unwrap();
        }
        // No start any more, and it is said why.
        let spec = host.spec(&["true"]);
        host.start(3, &spec);
        let why = host.reply("a refusal", |reply| match reply {
            Reply::RefusedStart { why, voided: false, .. } => Some(why.clone()),
            _ => None,
        });
        assert!(why.contains("runtime directory was removed"), "{why}");
        go(&host);
        for job in 1..=2 {
            assert_eq!(host.record(job).result, ExitResult::Exited { code: job as u8 });
            assert_eq!(executions(&host, job), 1);
        }
        for job in 1..=2 {
            let key = host.key(job);
            host.send(Request::Forget(key));
        }
        wait_for("the spawner's end", || (!is_alive(pid)).then_some(()));
        host.connect();
        assert_ne!(host.epoch, epoch);
        assert!(host.list().is_empty());
        assert_eq!(host.output(4, &spec), "");
    }
}

#[test]
fn attempts_of_another_boot_are_gone_but_for_their_records() {
    let mut host = Host::started(Cgroup::Auto);
    let spec = host.spec(&["true"]);
    host.start(1, &spec);
    let record = host.record(1);
    host.kill_spawner();
    let began = host.path("run/spawner/attempts").join(host.key(2).to_string());
    fs::create_dir(&began).unwrap();
    fs::write(began.join(names::BEGAN), "").unwrap();
    let epoch = host.epoch.clone();
    let other = epoch.replacen(|_: char| true, "x", 1);
    fs::write(host.path("run/spawner/epoch"), other).unwrap();
    host.connect();
    assert_ne!(host.epoch, epoch);
    let seen = host.list();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[&host.key(1)], Seen::Ended(record));
}

#[test]
fn an_asked_spawner_ends_when_its_jobs_have() {
    let mut host = Host::started(Cgroup::Auto);
    let spec = waiting_job(&host, 1);
    host.start(1, &spec);
    host.wait_started(1);
    let pid = host.spawner_pid;
    kill(pid, "TERM");
    let other = host.spec(&["true"]);
    wait_for("a refusal", || {
        host.start(2, &other);
        host.read_for(Duration::from_millis(50));
        let asked = |reply: &Reply| matches!(reply, Reply::RefusedStart { why, .. } if why.contains("asked to end"));
        host.replies.iter().any(asked).then_some(())
    });
    assert!(is_alive(pid));
    go(&host);
    assert_eq!(host.record(1).result, ExitResult::Exited { code: 1 });
    wait_for("the spawner's end", || (!is_alive(pid)).then_some(()));
}

#[test]
fn the_directory_and_the_socket_are_private() {
    let host = Host::started(Cgroup::Auto);
    let mode = |name: &str| fs::symlink_metadata(host.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("run/spawner"), 0o700);
    assert_eq!(mode("run/spawner/socket"), 0o600);
    assert_eq!(mode("run/spawner/attempts"), 0o700);
}

/// Packets that no client of ours would send.
#[test]
fn whoever_breaks_the_rules_is_told_and_dropped() {
    let mut host = Host::started(Cgroup::Auto);
    let hello = serde_json::to_string(&[hello(&host, 99)]).unwrap();
    let start = serde_json::to_string(&[Request::Start(host.request(1))]).unwrap();
    let list_and_start = format!("[\"list\",{}]", &start[1..start.len() - 1]);
    let bad_pool = start.replace("\"default\"", "\"../../etc\"");
    let bad_key = start.replace(&host.store, "0000000g");
    let memory = |sealed: bool| -> OwnedFd {
        let flags = rustix::fs::MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("spec", flags).unwrap();
        let spec = serde_json::to_vec(&host.spec(&["true"])).unwrap();
        fs::File::from(fd.try_clone().unwrap()).write_all(&spec).unwrap();
        if sealed {
            let seals = rustix::fs::SealFlags::WRITE | rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW;
            rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        }
        fd
    };
    let cases: [(&[&str], usize, &str); 10] = [
        (&["[\"list\"]"], 0, "the first message is not hello"),
        (&["{}"], 0, "does not parse"),
        (&["[\"nonsense\"]"], 0, "does not parse"),
        (&[&hello, &hello], 0, "a second hello"),
        (&[&hello.replace("99", "0")], 0, "is over"),
        (&[&hello, "[\"list\"]"], 1, "descriptors came with something else"),
        (&[&hello, &start], 0, "1 descriptors belong to it, 0 came"),
        (&[&hello, &start], 2, "1 descriptors belong to it, 2 came"),
        (&[&hello, &bad_pool], 1, "a pool name is"),
        (&[&hello, &bad_key], 1, "not of this connection's store"),
    ];
    for (packets, fds, want) in cases {
        let fds: Vec<OwnedFd> = (0..fds).map(|_| memory(true)).collect();
        let why = refusal(&host, packets, &fds);
        assert!(why.contains(want), "{why} instead of {want}");
    }
    assert!(refusal(&host, &[&hello, &list_and_start], &[]).contains("a start shares its packet"));
    let long = format!("[{}\"list\"]", " ".repeat(40_000));
    assert!(refusal(&host, &[&hello, &long], &[]).contains("longer than 32768"));
    // An unsealed specification is no breach, but does not start.
    let why = refusal(&host, &[&hello, &start], &[memory(false)]);
    assert!(why.contains("not sealed"), "{why}");
    host.generation = 100;
    host.connect();
    assert_eq!(host.output(2, &host.script("echo fine")), "fine\n");
}

/// Sends raw packets, the descriptors with the last, and gives the reason of the refusal.
fn refusal(host: &Host, packets: &[&str], fds: &[OwnedFd]) -> String {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(host.socket()).unwrap()).unwrap();
    for (at, packet) in packets.iter().enumerate() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if at + 1 == packets.len() && !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
        }
        let iov = [IoSlice::new(packet.as_bytes())];
        rustix::net::sendmsg(&socket, &iov, &mut control, SendFlags::NOSIGNAL).unwrap();
    }
    let mut buffer = vec![0; 65536];
    loop {
        let mut control = RecvAncillaryBuffer::default();
        let got = rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::empty());
        let bytes = got.unwrap().bytes;
        assert!(bytes > 0, "closed without a word");
        let replies: Vec<Reply> = serde_json::from_slice(&buffer[..bytes]).unwrap();
        for reply in replies {
            match reply {
                Reply::Refused { why } | Reply::RefusedStart { why, .. } => return why,
                Reply::Welcome { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_daemon_that_does_not_read_blocks_nobody() {
    let mut host = Host::started(Cgroup::Auto);
    let deaf_store = "deadbeef".to_owned();
    let mut deaf = Client::connect(&host.socket()).unwrap();
    deaf.send(&[Request::Hello { protocol: PROTOCOL_VERSION, store: deaf_store.clone(), generation: 1 }]).unwrap();
    // Every void is answered; nobody reads the answers.
    let voids: Vec<Request> =
        (1..=20).map(|job| Request::Void(AttemptKey { store: deaf_store.clone(), job, attempt: 1 })).collect();
    for _ in 0..500 {
        if deaf.send(&voids).is_err() {
            break;
        }
    }
    for job in 1..=5 {
        assert_eq!(host.output(job, &host.script("echo heard")), "heard\n");
    }
}
