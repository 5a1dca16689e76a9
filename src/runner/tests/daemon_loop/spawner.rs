//! A spawner of paper: says what the test says, and tells what it heard.

use ci_runner_spawner::protocol::{
    AttemptKey, Enforces, ExitRecord, ExitResult, PACKET_BYTES_MAX, PROTOCOL_VERSION, Reply, Request, Seen, names,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, recv, send,
    socket_with,
};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Nothing takes so long, unless it is broken.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// The life of its directory, unless it is told otherwise.
pub const EPOCH: &str = "boot/life";

pub struct Spawner {
    dir: tempfile::TempDir,
    listener: OwnedFd,
    connection: Option<OwnedFd>,
    pub key: Option<AttemptKey>,
}

impl Spawner {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join(names::SPAWNER_DIR);
        std::fs::create_dir(&own).unwrap();
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(own.join(names::SOCKET)).unwrap()).unwrap();
        listen(&listener, 8).unwrap();
        Self { dir, listener, connection: None, key: None }
    }

    pub fn runtime(&self) -> &Path {
        self.dir.path()
    }

    /// Takes the connection of a daemon.
    pub fn welcome(self) -> Self {
        self.welcome_with(Enforces { why_not: "a spawner of a test".to_owned(), ..Enforces::default() })
    }

    /// The same, and says which limits it can enforce.
    pub fn welcome_with(self, enforces: Enforces) -> Self {
        self.welcome_as(1, enforces)
    }

    /// The same, and says which process it is. It takes no `dirs`, as the first ones did.
    pub fn welcome_as(self, pid: u32, enforces: Enforces) -> Self {
        self.welcome_in(EPOCH, pid, enforces)
    }

    /// Takes the connection of a daemon, as one whose directory has this life.
    pub fn welcome_of(self, epoch: &str) -> Self {
        self.welcome_in(epoch, 1, Enforces::default())
    }

    fn welcome_in(mut self, epoch: &str, pid: u32, enforces: Enforces) -> Self {
        wait(&self.listener, "a daemon");
        self.connection = Some(accept(&self.listener).unwrap());
        assert!(matches!(&self.heard()[..], [Request::Hello { .. }]));
        let epoch = epoch.to_owned();
        let version = "test".to_owned();
        self.say(&[Reply::Welcome {
            protocol: PROTOCOL_VERSION,
            epoch,
            version,
            pid,
            cgroup: false,
            pings: false,
            dirs: false,
            enforces,
        }]);
        self
    }

    /// The next packet. Descriptors that ride on it are dropped.
    pub fn heard(&mut self) -> Vec<Request> {
        let connection = self.connection.as_ref().expect("connected");
        wait(connection, "a word of the daemon");
        let mut buffer = [0; PACKET_BYTES_MAX];
        let (bytes, _) = recv(connection, &mut buffer, RecvFlags::empty()).unwrap();
        assert!(bytes > 0, "the daemon hung up");
        serde_json::from_slice(&buffer[..bytes]).unwrap()
    }

    pub fn say(&self, replies: &[Reply]) {
        let connection = self.connection.as_ref().expect("connected");
        send(connection, &serde_json::to_vec(replies).unwrap(), SendFlags::empty()).unwrap();
    }

    pub fn attempt(&self, seen: Seen) -> Reply {
        Reply::Attempt { key: self.key.clone().expect("started"), seen, slot: None }
    }

    /// Asked for all that it has, it has nothing.
    pub fn has_nothing(&mut self) {
        assert_eq!(self.heard(), [Request::List]);
        self.say(&[Reply::Listed]);
    }

    /// Takes the start of a job, and has started it.
    pub fn starts(&mut self) {
        let key = match &self.heard()[..] {
            [Request::Start(start)] => start.key.clone(),
            other => panic!("{other:?}"),
        };
        self.key = Some(key.clone());
        self.say(&[Reply::Started { key }]);
    }

    /// The job exits with 0.
    pub fn end_well(&self) {
        let key = self.key.clone().expect("started");
        let record = ExitRecord {
            key: key.clone(),
            result: ExitResult::Exited { code: 0 },
            started_wall_ms: 0,
            ended_wall_ms: 1,
            run_us: 1000,
            cpu_user_us: 0,
            cpu_system_us: 0,
            peak_memory_bytes: 0,
            log_bytes: 0,
            log_dropped_bytes: 0,
            leftovers: 0,
            used: None,
            lacks: Vec::new(),
        };
        self.say(&[Reply::Ended { key, record: Some(record) }]);
    }
}

fn wait(socket: &OwnedFd, what: &str) {
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&PATIENCE)), Ok(1), "waited in vain for {what}");
}
