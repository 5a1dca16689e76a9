//! The real node_exporter, started by hand on a loopback port and ended with the test.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(20);

/// The program, where it is installed.
pub fn program() -> Option<PathBuf> {
    let named = |name: &str| {
        std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
    };
    named("prometheus-node-exporter").or_else(|| named("node_exporter"))
}

/// A running node_exporter.
pub struct Peer {
    child: Child,
    port: u16,
}

impl Peer {
    pub fn start(program: &PathBuf, arguments: &[String]) -> Self {
        // The port is free now; that another takes it before node_exporter does shows as a start that fails.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program)
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--web.disable-exporter-metrics", "--collector.disable-defaults", "--log.level=error"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut peer = Self { child, port };
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "node_exporter does not listen");
            assert!(peer.child.try_wait().unwrap().is_none(), "node_exporter ended: {arguments:?}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
        peer
    }

    /// The text of one scrape.
    pub fn scrape(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 200"), "{answer}");
        body.to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
