//! The exporter from outside: a port, plain sockets, scripted figures of a daemon, and a host made of few files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod client;
mod protection;
#[path = "../../../skipped.rs"]
mod skipped;

use ci_runner::config::{Config, ConfigOverrides, Host, Listen};
use ci_runner::exporter::{CONNECTIONS_MAX, DaemonPart, Exporter, SCRAPES_MAX, Settings};
use client::{Answer, ask, get};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Settings from a file's text; the port is any free one.
pub fn settings(dir: &Path, text: &str) -> Settings {
    let host = Host { current_dir: dir.to_owned(), ..Host::of_process() };
    let overrides = ConfigOverrides {
        state_dir: Some(dir.to_owned()),
        metrics: Some("127.0.0.1:0".to_owned()),
        ..ConfigOverrides::default()
    };
    let config = Config::resolve(&host, Some((&dir.join("c.toml"), text)), &overrides).unwrap();
    assert!(matches!(config.metrics, Listen::At(_)));
    Settings::of(&config)
}

/// A daemon with one figure.
pub fn daemon() -> DaemonPart {
    Arc::new(|format| {
        let text = "# HELP ci_runner_x X\n# TYPE ci_runner_x gauge\nci_runner_x 1\n".to_owned();
        Ok(if format == ci_runner_hostmetrics::Format::Text { text } else { format!("{text}# EOF\n") })
    })
}

const FEW: &str = "[metrics]\ncollectors = [\"loadavg\", \"uname\"]\n";

fn start(daemon: DaemonPart) -> (tempfile::TempDir, Exporter, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(settings(dir.path(), FEW), daemon).unwrap();
    let address = exporter.address().unwrap();
    (dir, exporter, address)
}

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn both_formats_are_whole_and_packed_where_that_is_wanted() {
    let (_dir, exporter, address) = start(daemon());
    let plain = get(address, &[]);
    assert_eq!((plain.status, plain.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let text = plain.text();
    for line in [
        "ci_runner_x 1\n",
        "ci_runner_up 1\n",
        "node_load1 ",
        "process_open_fds ",
        "node_scrape_collector_success{collector=\"uname\"} 1\n",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(!text.contains("# EOF"));
    let open = get(address, &[("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")]);
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(open.text().matches("# EOF\n").count(), 1, "one end:\n{}", open.text());
    assert!(open.text().ends_with("# EOF\n"));
    let packed = get(address, &[("Accept-Encoding", "gzip")]);
    assert_eq!(packed.header("content-encoding"), "gzip");
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_string(&mut unpacked).unwrap();
    assert!(unpacked.contains("ci_runner_x 1\n") && packed.body.len() < unpacked.len() / 2);
    exporter.stop();
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn the_host_goes_on_while_the_daemon_is_down() {
    let (_dir, exporter, address) = start(Arc::new(|_| Err("it is down".to_owned())));
    let text = get(address, &[]).text();
    assert!(
        text.contains("ci_runner_up 0\n") && text.contains("node_load1 ") && !text.contains("ci_runner_x"),
        "{text}"
    );
    exporter.stop();
}

#[test]
fn other_questions_have_other_answers_and_a_connection_serves_many() {
    let (_dir, exporter, address) = start(daemon());
    let mut stream = TcpStream::connect(address).unwrap();
    for (method, path, status) in [
        ("GET", "/metrics?x=1", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/", 200),
        ("GET", "/no", 404),
        ("POST", "/metrics", 405),
    ] {
        let answer = ask(&mut stream, method, path, &[]);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
    let long = "x".repeat(20_000);
    assert_eq!(ask(&mut stream, "GET", "/metrics", &[("X", &long)]).status, 400);
    for garbage in ["\x16\x03\x01 hello\r\n\r\n", "GET /metrics\r\n\r\n"] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(garbage.as_bytes()).unwrap();
        assert_eq!(Answer::read(&mut stream, false).status, 400, "{garbage:?}");
    }
    assert_eq!(get(address, &[]).status, 200, "and it goes on");
    exporter.stop();
}

/// A daemon's part that waits until it is let go.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    asked: AtomicU64,
}

impl Gate {
    fn part(self: &Arc<Self>) -> DaemonPart {
        let gate = self.clone();
        Arc::new(move |_| {
            gate.asked.fetch_add(1, Ordering::SeqCst);
            let open = gate.open.lock().unwrap();
            drop(gate.opened.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap());
            Ok("ci_runner_x 1\n".to_owned())
        })
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

#[test]
fn scrapes_at_once_are_bounded_and_share_a_collection() {
    let gate = Arc::new(Gate::default());
    let (_dir, exporter, address) = start(gate.part());
    let threads: Vec<_> = (0..SCRAPES_MAX).map(|_| std::thread::spawn(move || get(address, &[]).status)).collect();
    wait_for("a refusal", || {
        let answer = get_within(address, Duration::from_millis(300));
        answer.is_some_and(|answer| answer.status == 503 && answer.header("retry-after") == "1")
    });
    gate.open();
    let answered: Vec<u16> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(answered.iter().filter(|status| **status == 200).count() >= SCRAPES_MAX / 2, "{answered:?}");
    let collections = gate.asked.load(Ordering::SeqCst);
    assert!(collections <= 4, "{collections} collections for {SCRAPES_MAX} scrapes");
    let text = get(address, &[]).text();
    assert!(!text.contains("ci_runner_exporter_scrapes_total{result=\"refused\"} 0\n"), "{text}");
    exporter.stop();
}

/// The answer, where one comes so soon.
fn get_within(address: SocketAddr, time: Duration) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(time)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut first = [0];
    stream.read_exact(&mut first).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(Answer::read_after(&mut stream, &first))
}

#[test]
fn ten_slow_scrapers_and_a_crowd_that_says_nothing_harm_nobody() {
    let (_dir, exporter, address) = start(Arc::new(|_| Ok(format!("# {}\n", "x".repeat(8 << 20)))));
    let slow: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            // It has its answer, and does not read it.
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect();
    let dripping: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /met").unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(get(address, &[]).status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // More than there are places for: the last ones are told so, and none is left hanging.
    let crowd: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(address).unwrap()).collect();
    wait_for("a refusal", || get_within(address, PATIENCE).is_some_and(|answer| answer.status == 503));
    drop(crowd);
    wait_for("an answer", || get(address, &[]).status == 200);
    for mut stream in dripping {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "who drips is let go");
    }
    drop(slow);
    exporter.stop();
}

#[test]
fn a_collector_that_hangs_costs_itself_and_is_said() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("proc")).unwrap();
    let fifo = dir.path().join("proc/loadavg");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let text =
        format!("[metrics]\ncollectors = [\"loadavg\", \"uname\"]\nprocfs = \"{}/proc\"\n", dir.path().display());
    let mut settings = settings(dir.path(), &text);
    settings.exporter.options.collector_time_max = Duration::from_millis(300);
    let exporter = Exporter::start(settings, daemon()).unwrap();
    let text = get(exporter.address().unwrap(), &[]).text();
    for line in [
        "node_scrape_collector_success{collector=\"loadavg\"} 0\n",
        "node_scrape_collector_success{collector=\"uname\"} 1\n",
        "ci_runner_up 1\n",
        "node_scrape_collector_duration_seconds{collector=\"loadavg\"} ",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    // The thread that hangs ends with the other end of its pipe.
    drop(std::fs::File::options().read(true).write(true).open(&fifo).unwrap());
    exporter.stop();
}
