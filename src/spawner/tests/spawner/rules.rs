//! Who may say what to a spawner, and what the others are told.

use std::fs;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use ci_runner_spawner::client::Client;
use ci_runner_spawner::protocol::{AttemptKey, ExitResult, PROTOCOL_VERSION, Reply, Request, Seen, names};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketType,
};

use crate::common::{Cgroup, Host, PATIENCE, executions, go, kill, state, wait_for, waiting_job};

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
    assert!(new.wait(PATIENCE).unwrap());
    assert!(matches!(new.recv().unwrap()[0], Reply::Welcome { .. }));
    let _ = old.send_start(host.request(1), &script, None);
    assert!(old.wait(PATIENCE).unwrap());
    assert_eq!(old.recv().unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    // A lower generation is told so, also by a successor of the spawner.
    for _ in 0..2 {
        let mut stale = Client::connect(&host.socket()).unwrap();
        stale.send(&[hello(&host, host.generation)]).unwrap();
        assert!(stale.wait(PATIENCE).unwrap());
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
fn whoever_asks_is_told_that_the_spawner_lives() {
    let mut host = Host::started(Cgroup::Auto);
    host.send(Request::Ping);
    host.reply("pong", |reply| (*reply == Reply::Pong).then_some(()));
    kill(host.spawner_pid, "STOP");
    wait_for("the spawner to stop", || (state(host.spawner_pid) == Some('T')).then_some(()));
    host.send(Request::Ping);
    let answered = host.client().wait(std::time::Duration::from_millis(200)).unwrap();
    assert!(!answered, "control: a stopped one does not answer");
    kill(host.spawner_pid, "CONT");
    host.reply("pong", |reply| (*reply == Reply::Pong).then_some(()));
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
        assert!(other.wait(PATIENCE).unwrap());
        replies.extend(other.recv().unwrap());
    }
    assert_eq!(replies.len(), 2, "{replies:?}");
    other.send(&[Request::Kill(host.key(1))]).unwrap();
    assert!(other.wait(PATIENCE).unwrap());
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
    // Made anew, not by replacing text: a store id may hold the digits of a generation.
    let of_generation = |number| serde_json::to_string(&[hello(&host, number)]).unwrap();
    let (hello, over) = (of_generation(99), of_generation(0));
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
        (&[&over], 0, "is over"),
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
