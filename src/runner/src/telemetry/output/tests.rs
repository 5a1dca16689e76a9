//! Output into a journal that is a socket of the test's: complete, in order, once; over restarts, stalls and floods.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ci_runner_spawner::joblog::{come_after, log_path};

use super::budget::BURST;
use super::tail::PART_BYTES_MAX;
use super::{Options, Output, Source};

const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    dir: tempfile::TempDir,
    dropped: Arc<AtomicU64>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("logs/0")).unwrap();
        Self { dir, dropped: Arc::default() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn journal(&self) -> UnixDatagram {
        let socket = UnixDatagram::bind(self.path("journal")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn output(&self, store: &str) -> Output {
        let options = Options {
            log_dir: self.path("logs"),
            cursors: self.path("journal.json"),
            store: store.to_owned(),
            socket: self.path("journal"),
            dropped: self.dropped.clone(),
        };
        Output::start(options).unwrap()
    }

    fn print(&self, job: u64, bytes: &[u8]) {
        use std::io::Write;
        let path = self.path("logs").join(log_path(job, 1));
        std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
    }
}

fn source(job: u64) -> Source {
    Source { job, attempt: 1, pool: "default".to_owned(), correlation: "u-7".to_owned(), claimed_wall_ms: 0 }
}

/// Fields before the message, and the message.
fn next(journal: &UnixDatagram) -> (String, String) {
    let mut buffer = vec![0; 1 << 20];
    let length = journal.recv(&mut buffer).unwrap();
    let at = buffer[..length].windows(8).position(|window| window == b"MESSAGE\n").unwrap();
    let bytes = u64::from_le_bytes(buffer[at + 8..at + 16].try_into().unwrap()) as usize;
    assert_eq!(at + 16 + bytes + 1, length);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&buffer[..at]), text(&buffer[at + 16..at + 16 + bytes]))
}

fn message(journal: &UnixDatagram) -> String {
    next(journal).1
}

fn is_silent(journal: &UnixDatagram) -> bool {
    journal.set_nonblocking(true).unwrap();
    let silent = journal.recv(&mut [0; 16]).is_err();
    journal.set_nonblocking(false).unwrap();
    silent
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn cursors(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn each_line_comes_once_with_the_fields_of_its_attempt() {
    let bench = Bench::new();
    let (journal, output) = (bench.journal(), bench.output("a"));
    output.known();
    output.began(source(7));
    bench.print(7, b"one\r\ntwo \xff\n\x1b[1mbold\x1b[0m\nhalf");
    let (fields, line) = next(&journal);
    assert_eq!(line, "one");
    for field in [
        "PRIORITY=6\n",
        "SYSLOG_IDENTIFIER=ci-runner-job\n",
        "CI_RUNNER_JOB_ID=7\n",
        "CI_RUNNER_ATTEMPT=1\n",
        "CI_RUNNER_POOL=default\n",
        "CI_RUNNER_CORRELATION_ID=u-7\n",
        "CI_RUNNER_STREAM=output\n",
        "CI_RUNNER_LOG_OFFSET=0\n",
    ] {
        assert!(fields.contains(field), "{field} in {fields}");
    }
    assert_eq!([message(&journal), message(&journal)], ["two \u{fffd}", "\x1b[1mbold\x1b[0m"]);
    // A line whose end is not there yet waits for it.
    bench.print(7, b" and half\nno newline");
    assert_eq!(message(&journal), "half and half");
    output.ended(source(7), false);
    assert_eq!(message(&journal), "no newline");
    // One that nobody spoke of when it began, and one whose output is not wanted.
    bench.print(8, b"quick\n");
    bench.print(9, b"elsewhere\n");
    output.ended(source(9), false);
    output.ended(source(8), true);
    assert_eq!(message(&journal), "quick");
    wait_for("nothing is followed any more", || !cursors(&bench.path("journal.json")).contains("\"job\""));
    assert!(is_silent(&journal));
    assert_eq!(bench.dropped.load(Ordering::Relaxed), 0);
}

/// Where logs were before lies one of the same name, of a job of another life: it came as the output of one that prints nothing.
#[test]
fn what_another_job_of_the_same_id_printed_in_an_earlier_directory_does_not_come() {
    let bench = Bench::new();
    let (journal, output) = (bench.journal(), bench.output("a"));
    let before = bench.path("before");
    std::fs::create_dir(&before).unwrap();
    for job in [7, 8] {
        let path = before.join(log_path(job, 1));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("of {job} before\n")).unwrap();
    }
    come_after(&before, &bench.path("logs")).unwrap();
    let now_ms = jiff::Timestamp::now().as_millisecond();
    output.ended(Source { claimed_wall_ms: now_ms + 60_000, ..source(7) }, true);
    output.ended(Source { claimed_wall_ms: now_ms - 60_000, ..source(8) }, true);
    assert_eq!(message(&journal), "of 8 before", "the control: that one began where logs were before");
    wait_for("nothing is followed any more", || !cursors(&bench.path("journal.json")).contains("\"job\""));
    assert!(is_silent(&journal));
}

#[test]
fn a_long_line_comes_in_parts() {
    let bench = Bench::new();
    let (journal, output) = (bench.journal(), bench.output("a"));
    let line = "x".repeat(PART_BYTES_MAX * 2 + 5);
    bench.print(7, format!("{line}\nshort\n").as_bytes());
    bench.print(8, &vec![0xff; PART_BYTES_MAX]);
    output.ended(source(7), true);
    let parts = [message(&journal), message(&journal), message(&journal)];
    assert_eq!(parts.concat(), line);
    assert_eq!(message(&journal), "short");
    output.ended(source(8), true);
    assert_eq!(message(&journal), "\u{fffd}".repeat(PART_BYTES_MAX), "three times as long, and still one datagram");
}

#[test]
fn a_restart_neither_loses_nor_repeats_a_line() {
    let bench = Bench::new();
    let journal = bench.journal();
    let first = bench.output("a");
    for job in [7, 8] {
        bench.print(job, b"before\n");
        first.began(source(job));
    }
    assert_eq!([message(&journal), message(&journal)], ["before", "before"]);
    first.stop(PATIENCE);
    drop(first);
    // While no daemon runs: one goes on, one ends.
    bench.print(7, b"meanwhile\n");
    bench.print(8, b"last");
    let second = bench.output("a");
    second.began(source(7));
    second.known();
    let mut lines = [message(&journal), message(&journal)];
    lines.sort();
    assert_eq!(lines, ["last", "meanwhile"]);
    second.ended(source(7), true);
    wait_for("nothing is followed any more", || !cursors(&bench.path("journal.json")).contains("\"job\""));
    assert!(is_silent(&journal));
    // The control: without the cursors (they are another store's) everything comes again.
    first_of_another_store(&bench, &journal);
}

fn first_of_another_store(bench: &Bench, journal: &UnixDatagram) {
    let other = bench.output("b");
    other.began(source(7));
    assert_eq!([message(journal), message(journal)], ["before", "meanwhile"]);
}

#[test]
fn a_journal_that_is_away_or_hangs_holds_up_nobody_and_loses_nothing() {
    const LINES: usize = 1500;
    let bench = Bench::new();
    let output = bench.output("a");
    output.known();
    output.began(source(7));
    for number in 0..LINES {
        bench.print(7, format!("{number} {}\n", "x".repeat(100)).as_bytes());
    }
    // Nobody listens; then somebody does who reads nothing. The control is the socket itself, which is full.
    let journal = bench.journal();
    let probe = UnixDatagram::unbound().unwrap();
    probe.set_nonblocking(true).unwrap();
    wait_for("the socket is full", || probe.send_to(b"MESSAGE\n\0\0\0\0\0\0\0\0\n", bench.path("journal")).is_err());
    let begin = Instant::now();
    for job in 100..2100 {
        output.began(source(job));
        output.ended(source(job), true);
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "words do not wait");
    let seen: Vec<String> = std::iter::repeat_with(|| message(&journal))
        .filter(|line| !line.is_empty())
        .take(LINES)
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(seen, (0..LINES).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(bench.dropped.load(Ordering::Relaxed), 0);
}

#[test]
fn a_flood_goes_on_at_its_end_and_says_what_was_left_out() {
    const LINES: u64 = 100_000;
    let bench = Bench::new();
    let (journal, output) = (bench.journal(), bench.output("a"));
    let text: String = (0..LINES).map(|number| format!("{number:09}\n")).collect();
    bench.print(7, text.as_bytes());
    output.ended(source(7), true);
    let mut lines = 0;
    let left_out = loop {
        let (fields, line) = next(&journal);
        if fields.contains("PRIORITY=4\n") {
            break line;
        }
        assert_eq!(line, format!("{lines:09}"));
        lines += 1;
    };
    assert!(lines >= u64::from(BURST) && lines < u64::from(BURST) + 1000, "{lines}");
    wait_for("it is counted", || bench.dropped.load(Ordering::Relaxed) == LINES - lines);
    let words = format!("[ci-runner] {} lines are not in the journal", LINES - lines);
    assert!(left_out.starts_with(&words) && left_out.ends_with("ci-runner logs 7 --attempt 1"), "{left_out}");
    // Others are not left out for it.
    bench.print(8, b"small\n");
    output.ended(source(8), true);
    assert_eq!(message(&journal), "small");
}
