//! A manager's socket, played by a test.

use super::*;

struct Manager {
    socket: UnixDatagram,
    _directory: Option<tempfile::TempDir>,
}

impl Manager {
    fn at_path() -> (Manager, Notifier) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let settings = NotifySettings {
            socket: Some(path.to_str().unwrap().to_owned()),
            watchdog_timeout: Some(Duration::from_secs(10)),
        };
        (Manager { socket, _directory: Some(directory) }, Notifier::new(&settings).unwrap())
    }

    /// The next message, or nothing. A datagram to a local socket has arrived when `send` returns.
    fn next(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }
}

#[test]
fn the_life_of_a_service() {
    let (manager, mut notifier) = Manager::at_path();
    notifier.ready();
    notifier.reloading();
    notifier.ready();
    notifier.watchdog();
    notifier.extend_timeout(Duration::from_secs(3));
    notifier.stopping();
    assert_eq!(manager.next().unwrap(), "READY=1\n");
    let reloading = manager.next().unwrap();
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
    assert!(micros.parse::<u64>().unwrap() > 0);
    for expected in ["READY=1\n", "WATCHDOG=1\n", "EXTEND_TIMEOUT_USEC=3000000\n", "STOPPING=1\n"] {
        assert_eq!(manager.next().unwrap(), expected);
    }
    assert_eq!(manager.next(), None);
}

#[test]
fn an_abstract_socket_works() {
    let name = format!("ci-runner-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let manager = Manager { socket, _directory: None };
    let settings = NotifySettings { socket: Some(format!("@{name}")), watchdog_timeout: None };
    let mut notifier = Notifier::new(&settings).unwrap();
    notifier.ready();
    assert_eq!(manager.next().unwrap(), "READY=1\n");
}

#[test]
fn status_is_sent_on_change_at_most_once_a_second() {
    let (manager, mut notifier) = Manager::at_path();
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    notifier.status(at(0), "1 queued");
    assert_eq!(manager.next().unwrap(), "STATUS=1 queued\n");
    assert_eq!(notifier.next_due(at(1)), None);
    notifier.status(at(10), "2 queued");
    notifier.status(at(20), "3 queued\nREADY=1");
    assert_eq!(manager.next(), None);
    assert_eq!(notifier.next_due(at(20)), Some(at(1000)));
    notifier.tick(at(999));
    assert_eq!(manager.next(), None);
    notifier.tick(at(1000));
    assert_eq!(manager.next().unwrap(), "STATUS=3 queued READY=1\n", "only the newest, one line");
    notifier.status(at(5000), "3 queued READY=1");
    assert_eq!(manager.next(), None, "no change");
    notifier.status(at(5001), "x");
    notifier.status(at(5002), "y");
    notifier.status(at(5003), "x");
    assert_eq!(manager.next().unwrap(), "STATUS=x\n");
    notifier.tick(at(9000));
    assert_eq!(manager.next(), None, "back to what was sent");
}

#[test]
fn a_manager_that_does_not_read_never_blocks_us_and_gets_the_state_later() {
    let (manager, mut notifier) = Manager::at_path();
    // Its queue holds a bounded number of datagrams; a blocking send would hang here for ever.
    for _ in 0..2000 {
        notifier.watchdog();
    }
    notifier.stopping();
    notifier.status(Instant::now(), "bye");
    assert!(notifier.next_due(Instant::now()).is_some());
    let mut read = 0;
    while let Some(message) = manager.next() {
        assert_eq!(message, "WATCHDOG=1\n");
        read += 1;
    }
    assert!((1..2000).contains(&read), "the queue was never full: {read}");
    notifier.tick(Instant::now() + Duration::from_secs(2));
    assert_eq!(manager.next().unwrap(), "STOPPING=1\n");
    assert_eq!(manager.next().unwrap(), "STATUS=bye\n");
    assert_eq!(manager.next(), None);
}

#[test]
fn a_manager_that_went_away_gets_the_state_when_it_is_back() {
    let (manager, mut notifier) = Manager::at_path();
    let directory = manager._directory.unwrap();
    drop(manager.socket);
    std::fs::remove_file(directory.path().join("notify")).unwrap();
    for _ in 0..100 {
        notifier.reloading();
        notifier.ready();
    }
    assert_eq!(notifier.unsent.len(), UNSENT_MAX, "bounded");
    let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let manager = Manager { socket, _directory: Some(directory) };
    notifier.tick(Instant::now());
    let messages: Vec<String> = std::iter::from_fn(|| manager.next()).collect();
    assert_eq!(messages.last().unwrap(), "READY=1\n");
}

#[test]
fn without_a_manager_nothing_happens() {
    let mut notifier = Notifier::new(&NotifySettings::default()).unwrap();
    notifier.ready();
    notifier.status(Instant::now(), "x");
    notifier.watchdog();
    assert!(!notifier.is_connected() && notifier.unsent.is_empty());
    assert_eq!(notifier.watchdog_interval(), None);
    assert_eq!(Notifier::silent().next_due(Instant::now()), None);
    for odd in ["vsock:2:1", "relative", "@"] {
        let settings = NotifySettings { socket: Some(odd.to_owned()), watchdog_timeout: None };
        assert!(Notifier::new(&settings).is_err() || odd == "@", "{odd}");
    }
}

#[test]
fn the_environment_is_understood() {
    let read = |pairs: &[(&str, &str)]| {
        let find = |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        NotifySettings::read(find, 7)
    };
    let ten = Some(Duration::from_secs(10));
    assert_eq!(read(&[("WATCHDOG_USEC", "10000000")]).watchdog_timeout, ten);
    assert_eq!(read(&[("WATCHDOG_USEC", "10000000"), ("WATCHDOG_PID", "7")]).watchdog_timeout, ten);
    assert_eq!(read(&[("WATCHDOG_USEC", "10000000"), ("WATCHDOG_PID", "8")]).watchdog_timeout, None);
    assert_eq!(read(&[("WATCHDOG_USEC", "0")]).watchdog_timeout, None);
    assert_eq!(read(&[("WATCHDOG_USEC", "x")]).watchdog_timeout, None);
    assert_eq!(read(&[("NOTIFY_SOCKET", "")]).socket, None);
    assert_eq!(read(&[("NOTIFY_SOCKET", "/run/x")]).socket.as_deref(), Some("/run/x"));
    let (_manager, notifier) = Manager::at_path();
    assert_eq!(notifier.watchdog_interval(), Some(Duration::from_secs(5)));
}

#[test]
fn a_long_status_is_cut_between_characters() {
    let line = one_line(&"ä".repeat(1000));
    assert!(line.len() <= STATUS_BYTES_MAX + '…'.len_utf8() && line.ends_with('…'));
}
