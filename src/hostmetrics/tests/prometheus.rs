//! A real Prometheus reads both formats: it takes the same samples from the text format and from OpenMetrics, whose
//! parser is strict.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../skipped.rs"]
mod skipped;
#[path = "support/tree.rs"]
mod tree;

use ci_runner_hostmetrics::{Format, HostMetrics, Options};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The process, ended with the test.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers `/text` and `/openmetrics` with the tree's figures; only for the life of the test's process.
fn serve(listener: TcpListener, mut host: HostMetrics) {
    for stream in listener.incoming() {
        let (mut stream, mut request) = (stream.unwrap(), [0; 2048]);
        let length = stream.read(&mut request).unwrap();
        let text = request[..length].starts_with(b"GET /text");
        let format = if text { Format::Text } else { Format::OpenMetrics };
        let (kind, body) = (format.content_type(), host.collect_to_string(format));
        let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\n\r\n{body}");
    }
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The value of the only series that a query finds.
fn value(port: u16, query: &str) -> Option<String> {
    let answer = get(port, &format!("/api/v1/query?query={query}"))?;
    let (_, value) = answer.split_once("\"value\":[")?;
    Some(value.split('"').nth(1)?.to_owned())
}

#[test]
fn prometheus_takes_the_same_from_both_formats() {
    let dir = tempfile::tempdir().unwrap();
    tree::unpack("server", dir.path());
    let part = |name: &str| dir.path().join(name);
    let host = HostMetrics::new(Options {
        procfs: part("proc"),
        sysfs: part("sys"),
        rootfs: part("root"),
        udev_data: part("udev"),
        textfile_directories: vec![part("textfile")],
        ..Options::default()
    });
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = ours.local_addr().unwrap();
    std::thread::spawn(move || serve(ours, host.unwrap()));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let job = |name: &str| {
        format!("- {{job_name: {name}, metrics_path: /{name}, static_configs: [{{targets: ['{target}']}}]}}\n")
    };
    let config = format!("global: {{scrape_interval: 1s}}\nscrape_configs:\n{}{}", job("text"), job("openmetrics"));
    std::fs::write(part("prometheus.yml"), config).unwrap();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", part("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", part("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let Ok(child) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        skipped::tell(
            "prometheus_takes_the_same_from_both_formats",
            "Prometheus (Debian: prometheus) is not installed",
        );
        return;
    };
    let _prometheus = Prometheus(child);
    let deadline = Instant::now() + Duration::from_secs(60);
    let samples = |job: &str| value(port, &format!("scrape_samples_scraped{{job=%22{job}%22}}"));
    let both = loop {
        let both = (samples("text"), samples("openmetrics"));
        if both.0.is_some() && both.1.is_some() {
            break both;
        }
        assert!(Instant::now() < deadline, "Prometheus has not scraped");
        std::thread::park_timeout(Duration::from_millis(10));
    };
    let targets = get(port, "/api/v1/targets").unwrap();
    assert_eq!(targets.matches("\"health\":\"up\"").count(), 2, "{targets}");
    assert_eq!(both.0, both.1);
    assert!(both.0.unwrap().parse::<u32>().unwrap() > 400);
    for job in ["text", "openmetrics"] {
        let query =
            format!("node_hwmon_temp_celsius{{job=%22{job}%22,chip=%22platform_coretemp_0%22,sensor=%22temp1%22}}");
        assert_eq!(value(port, &query).as_deref(), Some("55"), "{job}");
        let query = format!("req_seconds_bucket{{job=%22{job}%22,le=%22%2BInf%22}}");
        assert_eq!(value(port, &query).as_deref(), Some("9"), "{job}");
    }
}
