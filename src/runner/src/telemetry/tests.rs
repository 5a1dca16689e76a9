//! Telemetry proven from outside: a pipe that nobody reads, and a real datagram socket where journald's is.

use crate::skipped;
use std::collections::HashMap;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Instant, SystemTime};

use log::Level;

use super::queue::{BYTES_MAX, RECORDS_MAX};
use super::record::journal_field;
use super::sink::line;
use super::*;

fn record(level: Level, message: &str) -> OwnedRecord {
    let fields = [("job", "7"), ("pool", "default"), ("why", "a b")];
    OwnedRecord {
        level,
        time: SystemTime::UNIX_EPOCH,
        target: "ci_runner".to_owned(),
        message: message.to_owned(),
        fields: fields.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
    }
}

#[test]
fn lines_look_as_documented() {
    let prefixed = |level| line(&record(level, "job 7 started"), &LineStyle::Prefixed);
    assert_eq!(
        prefixed(Level::Info),
        "<6>1970-01-01T00:00:00.000Z INFO job 7 started job=7 pool=default why=\"a b\"\n"
    );
    for (level, start) in [(Level::Error, "<3>"), (Level::Warn, "<4>"), (Level::Debug, "<7>"), (Level::Trace, "<7>")] {
        assert!(prefixed(level).starts_with(start));
    }
    let terminal = |colour| LineStyle::Terminal { colour, zone: jiff::tz::TimeZone::UTC };
    let plain = line(&record(Level::Warn, "x"), &terminal(false));
    assert_eq!(plain, "00:00:00  WARN x job=7 pool=default why=\"a b\"\n");
    let coloured = line(&record(Level::Warn, "x"), &terminal(true));
    assert!(coloured.contains("\x1b[33m WARN\x1b[0m x"), "{coloured:?}");
}

#[test]
fn a_message_cannot_forge_a_line_or_move_the_cursor() {
    let text = line(&record(Level::Info, "a\n<3>forged\x1b[2J\r\u{9b}1A"), &LineStyle::Prefixed);
    assert_eq!(text.matches('\n').count(), 1, "{text:?}");
    assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
}

#[test]
fn keys_become_the_documented_fields() {
    for (key, field) in [
        ("job", "CI_RUNNER_JOB_ID"),
        ("attempt", "CI_RUNNER_ATTEMPT"),
        ("pool", "CI_RUNNER_POOL"),
        ("correlation", "CI_RUNNER_CORRELATION_ID"),
        ("why", "CI_RUNNER_WHY"),
    ] {
        assert_eq!(journal_field(key), field);
    }
}

#[test]
fn an_endless_message_is_cut() {
    let text = "ä".repeat(1 << 20);
    let owned =
        OwnedRecord::of(&Record::builder().args(format_args!("{text}")).key_values(&("k", text.as_str())).build());
    assert!(owned.message.len() < 17_000 && owned.message.ends_with('…'));
    assert!(owned.cost() < 40_000);
}

#[test]
fn the_journal_is_recognised_by_device_and_inode() {
    let file = tempfile::tempfile().unwrap();
    let stat = rustix::fs::fstat(&file).unwrap();
    let matches = |text: String| is_journal_stream(&text, file.as_fd());
    assert!(matches(format!("{}:{}", stat.st_dev, stat.st_ino)));
    for wrong in [
        format!("{}:{}", stat.st_dev, stat.st_ino + 1),
        format!("{}:{}", stat.st_dev + 1, stat.st_ino),
        format!("{}{}", stat.st_dev, stat.st_ino),
        String::new(),
        ":".to_owned(),
        "x:y".to_owned(),
    ] {
        assert!(!matches(wrong.clone()), "{wrong}");
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

#[test]
fn a_pipe_that_nobody_reads_never_stops_the_caller() {
    let (reader, writer) = pipe();
    // The control: the same pipe, written directly, is full long before our records are through.
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    let text = line(&record(Level::Info, "control"), &LineStyle::Prefixed);
    let refused = (0..RECORDS_MAX).any(|_| rustix::io::write(&writer, text.as_bytes()).is_err());
    assert!(refused, "without the queue a caller would have been stopped");
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();

    let queue = Queue::start(Box::new(StderrSink::new(writer.into(), LineStyle::Prefixed))).unwrap();
    for _ in 0..3 * RECORDS_MAX {
        queue.push(record(Level::Info, "flood"));
    }
    assert!(queue.dropped() >= RECORDS_MAX as u64, "{}", queue.dropped());
    assert!(!queue.flush(Duration::from_millis(20)), "nothing reads");

    let (sender, lines) = mpsc::channel();
    let collector = std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(std::fs::File::from(reader))) {
            if sender.send(line.unwrap()).is_err() {
                break;
            }
        }
    });
    assert!(queue.flush(Duration::from_secs(30)), "all is written once somebody reads");
    let wait = Duration::from_secs(30);
    let report = std::iter::from_fn(|| lines.recv_timeout(wait).ok()).find(|line| line.contains("were dropped"));
    let report = report.unwrap();
    assert!(
        report.starts_with("<4>") && report.contains(&format!(" WARN {} log records", queue.dropped())),
        "{report}"
    );
    drop(lines);
    queue.push(record(Level::Info, "the collector ends with this"));
    collector.join().unwrap();
}

struct Gate(mpsc::Receiver<()>, mpsc::Sender<String>);

impl Sink for Gate {
    fn write(&mut self, record: &OwnedRecord) -> std::io::Result<()> {
        self.0.recv().map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        self.1.send(record.message.clone()).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

#[test]
fn the_queue_is_bounded_in_bytes_too_and_keeps_the_order() {
    let ((open, gate), (sender, written)) = (mpsc::channel(), mpsc::channel());
    let queue = Queue::start(Box::new(Gate(gate, sender))).unwrap();
    let large = "x".repeat(16_000);
    for number in 0..1000 {
        queue.push(record(Level::Info, &format!("{number} {large}")));
    }
    let kept = 1000 - queue.dropped();
    assert!((1..=BYTES_MAX as u64 / 16_000).contains(&kept), "{kept}");
    for _ in 0..=kept {
        open.send(()).unwrap();
    }
    assert!(queue.flush(Duration::from_secs(30)));
    for number in 0..kept {
        let message = written.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(message.starts_with(&format!("{number} x")), "{}", &message[..20]);
    }
    let report = written.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(report.starts_with(&format!("{} log records were dropped", queue.dropped())), "{report}");
    // A destination that is gone loses records, which are counted, and keeps nobody waiting.
    drop(open);
    let before = queue.dropped();
    queue.push(record(Level::Info, "lost"));
    assert!(queue.flush(Duration::from_secs(30)));
    assert!(queue.dropped() > before);
}

/// Runs the named test of this program again, alone, in a child. The child knows itself by the variable.
fn child_test(name: &str, wrapper: &[&str]) -> Command {
    let own = std::env::current_exe().unwrap();
    let arguments = ["--exact", name, "--nocapture", "--test-threads=1"];
    let mut command = match wrapper.split_first() {
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest).arg(own);
            command
        }
        None => Command::new(own),
    };
    command.args(arguments).env("CI_RUNNER_TEST_CHILD", name);
    command
}

fn is_child(name: &str) -> bool {
    std::env::var("CI_RUNNER_TEST_CHILD").is_ok_and(|child| child == name)
}

#[test]
fn a_process_logs_to_its_pipe_with_prefixes_and_levels() {
    const NAME: &str = "telemetry::tests::a_process_logs_to_its_pipe_with_prefixes_and_levels";
    if is_child(NAME) {
        let telemetry = Telemetry::init(LevelFilter::Info).unwrap();
        assert_eq!(telemetry.destination(), Destination::PrefixedStderr);
        log::info!(target: "ci_runner::x", job = 7, attempt = 1, pool = "default"; "job 7 started");
        log::debug!(target: "ci_runner::x", "hidden");
        telemetry.set_level(LevelFilter::Debug);
        log::debug!(target: "ci_runner::x", "shown");
        log::info!(target: "hyper::proto", "hidden");
        log::warn!(target: "hyper::proto", "shown too");
        assert!(telemetry.flush(Duration::from_secs(30)));
        assert_eq!(telemetry.dropped_records(), 0);
        assert!(Telemetry::init(LevelFilter::Info).is_err());
        return;
    }
    let output = child_test(NAME, &[]).env("JOURNAL_STREAM", "1:1").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    // `<6>DATE INFO …`, the tests' own lines before and behind left out.
    let dated = |line: &str| {
        let (start, rest) = line.split_once('>')?;
        let (date, rest) = rest.split_once(' ')?;
        date.parse::<jiff::Timestamp>().ok()?;
        Some(format!("{start}>{rest}"))
    };
    let lines: Vec<String> = text.lines().filter_map(dated).collect();
    let expected = ["<6>INFO job 7 started job=7 attempt=1 pool=default", "<7>DEBUG shown", "<4>WARN shown too"];
    assert_eq!(lines, expected, "{text}");
    assert!(!text.contains("hidden"), "{text}");
}

/// Reads one message of journald's native protocol.
fn journal_fields(mut message: &[u8]) -> HashMap<String, String> {
    let mut fields = HashMap::new();
    while !message.is_empty() {
        let end = message.iter().position(|byte| *byte == b'\n').unwrap();
        let (head, rest) = (&message[..end], &message[end + 1..]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match head.iter().position(|byte| *byte == b'=') {
            Some(equals) => {
                fields.insert(text(&head[..equals]), text(&head[equals + 1..]));
                message = rest;
            }
            None => {
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                fields.insert(text(head), text(&rest[8..8 + length]));
                message = &rest[8 + length + 1..];
            }
        }
    }
    fields
}

/// The child's part: a socket stands where journald's would, in a mount namespace of its own.
fn journal_child() {
    let socket = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
    let telemetry = Telemetry::init(LevelFilter::Debug).unwrap();
    assert_eq!(telemetry.destination(), Destination::Journal);
    let mut buffer = vec![0; 1 << 16];
    let mut next = || {
        let length = socket.recv(&mut buffer).unwrap();
        journal_fields(&buffer[..length])
    };
    assert!(next().is_empty(), "the logger first asks whether anybody listens");
    log::info!(target: "ci_runner::x", job = 7, attempt = 1, pool = "default", correlation = "u-1"; "job 7\nstarted");
    let fields = next();
    for (name, value) in [
        ("MESSAGE", "job 7\nstarted"),
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "ci-runner"),
        ("CI_RUNNER_JOB_ID", "7"),
        ("CI_RUNNER_ATTEMPT", "1"),
        ("CI_RUNNER_POOL", "default"),
        ("CI_RUNNER_CORRELATION_ID", "u-1"),
    ] {
        assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name} of {fields:?}");
    }
    log::error!(target: "ci_runner::x", "e");
    log::warn!(target: "ci_runner::x", "w");
    log::debug!(target: "ci_runner::x", "d");
    assert_eq!([next(), next(), next()].map(|fields| fields["PRIORITY"].clone()), ["3", "4", "7"]);

    // A stalled journald: its socket is not read any more. The control is the socket itself, soon full.
    let control = UnixDatagram::unbound().unwrap();
    control.set_nonblocking(true).unwrap();
    assert!((0..10_000).any(|_| control.send_to(b"X=1\n", "/run/systemd/journal/socket").is_err()));
    let start = Instant::now();
    for number in 0..3 * RECORDS_MAX {
        log::info!(target: "ci_runner::x", job = number; "flood");
    }
    let took = start.elapsed();
    assert!(!telemetry.flush(Duration::from_millis(20)));
    assert!(telemetry.dropped_records() >= RECORDS_MAX as u64);
    println!("{} records against a stalled journald in {took:?}", 3 * RECORDS_MAX);
    // It reads again: all that was kept arrives, then the report.
    let report = std::iter::from_fn(|| Some(next()))
        .find(|fields| fields.get("MESSAGE").is_some_and(|message| message.contains("were dropped")));
    assert_eq!(report.unwrap()["PRIORITY"], "4");
}

#[test]
fn a_process_logs_to_journald_and_survives_its_stall() {
    const NAME: &str = "telemetry::tests::a_process_logs_to_journald_and_survives_its_stall";
    if is_child(NAME) {
        return journal_child();
    }
    let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && exec \"$0\" \"$@\"";
    let unshare = |flags| ["unshare", flags, "sh", "-c", script];
    let works = |flags| {
        let mut probe = Command::new("unshare");
        probe.args([flags, "sh", "-c", "mount -t tmpfs tmpfs /run"]).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    let Some(flags) = ["-m", "-rm"].into_iter().find(|flags| works(flags)) else {
        skipped::tell(NAME, "no mount namespace can be had");
        return;
    };
    let (reader, writer) = pipe();
    let stat = rustix::fs::fstat(&writer).unwrap();
    let mut child = child_test(NAME, &unshare(flags))
        .env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino))
        .stderr(writer)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    std::fs::File::from(reader).read_to_string(&mut text).unwrap();
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert!(child.wait().unwrap().success(), "{text}\n{printed}");
    print!("{printed}");
}

#[test]
fn a_line_of_json_has_the_journals_names_and_is_one_line() {
    let record = OwnedRecord {
        level: log::Level::Warn,
        time: std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_250),
        target: "ci_runner::telemetry".to_owned(),
        message: "two\nlines \"quoted\"\x1b".to_owned(),
        fields: vec![("job".to_owned(), "7".to_owned()), ("correlation".to_owned(), "c".to_owned())],
    };
    let text = super::sink::line(&record, &super::sink::LineStyle::Json);
    assert!(text.ends_with('\n') && text.matches('\n').count() == 1 && !text.contains('\x1b'), "{text}");
    let object: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = serde_json::json!({
        "time": "1970-01-01T00:00:01.250Z", "level": "warn", "PRIORITY": "4", "MESSAGE": record.message,
        "TARGET": "ci_runner::telemetry", "CI_RUNNER_JOB_ID": "7", "CI_RUNNER_CORRELATION_ID": "c",
    });
    assert_eq!(object, expected);
}
