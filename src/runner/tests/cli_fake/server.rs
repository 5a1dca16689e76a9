//! A daemon of paper: answers on a Unix socket what a test says, and can go away and come back.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub headers: Vec<String>,
    pub body: String,
}

impl Asked {
    /// The value of a query's key.
    pub fn query(&self, key: &str) -> Option<String> {
        let (_, query) = self.path.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(&format!("{key}=")).map(str::to_owned))
    }

    pub fn route(&self) -> &str {
        self.path.split('?').next().unwrap()
    }
}

/// An answer.
pub enum Answer {
    /// Status and JSON.
    Json(u16, String),
    /// Headers and pieces of a chunked body.
    Stream { headers: Vec<String>, pieces: Vec<Vec<u8>>, then: Then },
    /// The connection is closed without a word.
    Nothing,
}

/// What becomes of a stream.
pub enum Then {
    /// It ends in order.
    End,
    /// The connection breaks.
    Break,
    /// It stays open and silent.
    Stay,
}

type Handler = Box<dyn FnMut(&Asked) -> Answer + Send>;

pub struct Fake {
    pub dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
    handler: Arc<Mutex<Handler>>,
    stop: Option<Arc<Mutex<bool>>>,
}

impl Fake {
    pub fn new(handler: impl FnMut(&Asked) -> Answer + Send + 'static) -> Fake {
        let mut fake = Fake {
            dir: tempfile::tempdir().unwrap(),
            asked: Arc::default(),
            handler: Arc::new(Mutex::new(Box::new(handler))),
            stop: None,
        };
        fake.come();
        fake
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Listens.
    pub fn come(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (asked, handler) = (self.asked.clone(), self.handler.clone());
        let stop = Arc::new(Mutex::new(false));
        self.stop = Some(stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if *stop.lock().unwrap() {
                    return;
                }
                let (asked, handler) = (asked.clone(), handler.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &asked, &handler));
            }
        });
    }

    /// Stops listening; the socket is gone.
    pub fn go(&mut self) {
        if let Some(stop) = self.stop.take() {
            *stop.lock().unwrap() = true;
            // Wakes the listener, which then closes.
            let _ = UnixStream::connect(self.socket());
            std::fs::remove_file(self.socket()).unwrap();
        }
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ci-runner"));
        command.args(words).env("CI_RUNNER_SOCKET", self.socket()).stdin(Stdio::null());
        command.env_remove("NO_COLOR").env("TERM", "xterm").env("TZ", "UTC");
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Waits until so many requests with this route came.
    pub fn until_asked(&self, route: &str, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.asked().iter().filter(|asked| asked.route() == route).count() < times {
            assert!(Instant::now() < deadline, "{route} was asked too rarely: {:?}", self.asked());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.go();
    }
}

fn serve(stream: UnixStream, asked: &Mutex<Vec<Asked>>, handler: &Mutex<Handler>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = lines[0].split(' ').map(str::to_owned);
    let request = Asked {
        method: words.next()?,
        path: words.next()?,
        headers: lines[1..].to_vec(),
        body: String::from_utf8(body).unwrap(),
    };
    asked.lock().unwrap().push(request.clone());
    let answer = (handler.lock().unwrap())(&request);
    reply(stream, answer)
}

fn reply(mut stream: UnixStream, answer: Answer) -> Option<()> {
    match answer {
        Answer::Nothing => None,
        Answer::Json(status, body) => {
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).ok()
        }
        Answer::Stream { headers, pieces, then } => {
            let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{headers}\r\n").as_bytes())
                .ok()?;
            for piece in pieces {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).ok()?;
                stream.write_all(&piece).ok()?;
                stream.write_all(b"\r\n").ok()?;
            }
            match then {
                Then::End => stream.write_all(b"0\r\n\r\n").ok(),
                Then::Break => None,
                Then::Stay => until_closed(stream),
            }
        }
    }
}

fn until_closed(mut stream: UnixStream) -> Option<()> {
    let _ = stream.read(&mut [0]);
    None
}

/// An event of the stream.
pub fn event(id: u64, state: &str) -> Vec<u8> {
    format!(
        "id: 1-1\nevent: job\ndata: {{\"seq\":1,\"id\":{id},\"state\":\"{state}\",\"attempt\":1,\"outcome\":null}}\n\n"
    )
    .into_bytes()
}

/// A job as the API shows it.
pub fn job(id: u64, state: &str, outcome: Option<&str>, attempts: u32) -> String {
    let attempt = |number: u32| {
        let ended = number < attempts || state == "finished";
        serde_json::json!({
            "number": number, "pool": "default", "slot": 0, "result": ended.then_some("exited"),
            "exit_code": ended.then_some(u8::from(number < attempts)), "signal": null, "cause": null,
            "started_at": "2026-11-21T11:58:00.000Z", "finished_at": null, "run_seconds": 1.0, "cpu_user_seconds": null,
            "cpu_system_seconds": null, "peak_memory_bytes": null, "log_bytes": null, "log_dropped_bytes": null,
            "leftover_processes": null
        })
    };
    serde_json::json!({
        "id": id, "name": null, "state": state, "outcome": outcome, "exit_code": null, "signal": null, "cause": null,
        "attempts": (1..=attempts).map(attempt).collect::<Vec<_>>(), "attempt_count": attempts, "priority": 0, "labels": [],
        "pool": "default", "group": null, "after": [], "summary": "make test", "command": ["make", "test"], "shell": null,
        "env_names": [], "dir": null, "timeout_seconds": null, "soft_timeout_seconds": null, "retry": 3,
        "correlation": "c", "submitter": "anna", "held_by": null, "submitted_at": "2026-11-21T11:57:00.000Z",
        "started_at": null, "finished_at": null, "queue_seconds": 1.0, "run_seconds": 1.5
    })
    .to_string()
}

pub fn problem(status: u16, detail: &str) -> Answer {
    let body = serde_json::json!({ "type": "about:blank", "title": "T", "status": status, "detail": detail });
    Answer::Json(status, body.to_string())
}
