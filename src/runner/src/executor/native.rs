//! The way to a spawner, which outlives the daemon: attempts are processes that it forks (executor `native`), or units that
//! it has started (executor `systemd`). The words are the same, so this side sees no difference but one: a spawner of units
//! is a service of root, which nobody here starts.
//!
//! This side only talks. It connects to the spawner of the runtime directory, starts one where none answers, and connects
//! again whenever the connection is lost; after each connection the loop asks for the list, so nothing that was missed
//! matters.

use super::connect::{Connected, connect};
pub use super::options::{Lifeline, NativeOptions};
use super::pulse::{PING_PATIENCE, Pulse};
use super::reply::event;
pub use super::reply::{Event, Up};
use ci_runner_core::outcome::AttemptResult;
use ci_runner_core::reconcile::Seen;
use ci_runner_spawner::client::Client;
use ci_runner_spawner::protocol::{Request, Secrets, Spec, Start};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// Pause before another try to connect, doubled each time.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
/// Longest pause before another try to connect.
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// An attempt to start, with all it needs.
pub struct StartOrder {
    /// What the shim needs.
    pub start: Start,
    /// What the job is.
    pub spec: Spec,
    /// Its secrets.
    pub secrets: Option<Vec<(String, String)>>,
}

/// Lets the event loop wait for a client's socket.
struct Watched(Client);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

enum Link {
    Down { at: tokio::time::Instant },
    Connecting(JoinHandle<io::Result<Connected>>),
    Up(AsyncFd<Watched>),
}

/// The connection to the spawner.
pub struct Native {
    options: NativeOptions,
    link: Link,
    pulse: Pulse,
    pause: Duration,
    events: VecDeque<Event>,
    requests: Vec<Request>,
}

impl Native {
    /// Not yet connected; [`Native::next`] connects.
    pub fn new(options: NativeOptions) -> Self {
        Self {
            options,
            link: Link::Down { at: tokio::time::Instant::now() },
            pulse: Pulse::new(0, false),
            pause: RECONNECT_MIN,
            events: VecDeque::new(),
            requests: Vec::new(),
        }
    }

    /// Sends a command with the next [`Native::flush`]. While there is no connection commands go nowhere: the list after
    /// the next connection shows what is still to be done.
    pub fn send(&mut self, request: Request) {
        if matches!(self.link, Link::Up(_)) {
            self.requests.push(request);
        }
    }

    /// Sends a start, after everything sent before.
    pub fn start(&mut self, order: StartOrder) {
        self.flush();
        let Link::Up(client) = &mut self.link else { return };
        let key = order.start.key.clone();
        let secrets = order.secrets.map(Secrets);
        match client.get_mut().0.send_start(order.start, &order.spec, secrets.as_ref()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let seen = Seen::Ended(AttemptResult::FailedToStart { cause: error.to_string() });
                self.events.push_back(Event::Seen { key, seen, slot: None, receipt: None });
            }
            Err(error) => self.lose(&error.to_string()),
        }
    }

    /// Hands collected commands to the socket.
    pub fn flush(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let requests = std::mem::take(&mut self.requests);
        let Link::Up(client) = &mut self.link else { return };
        if let Err(error) = client.get_mut().0.send(&requests) {
            self.lose(&error.to_string());
        }
    }

    /// True when nothing waits to be sent.
    pub fn is_idle(&self) -> bool {
        let sent = !matches!(&self.link, Link::Up(client) if client.get_ref().0.wants_write());
        sent && self.requests.is_empty()
    }

    fn lose(&mut self, why: &str) {
        self.link = Link::Down { at: tokio::time::Instant::now() + self.pause };
        self.pause = (self.pause * 2).min(RECONNECT_MAX);
        self.requests.clear();
        self.events.push_back(Event::Down { why: why.to_owned() });
    }

    /// What was told together with the last [`Native::next`], without waiting.
    pub fn buffered(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next thing to tell. May be dropped and called again at any time.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match &mut self.link {
                Link::Down { at } => {
                    tokio::time::sleep_until(*at).await;
                    let options = self.options.clone();
                    self.link = Link::Connecting(tokio::task::spawn_blocking(move || connect(&options)));
                }
                Link::Connecting(task) => {
                    let done = task.await.unwrap_or_else(|error| Err(io::Error::other(error)));
                    self.connected(done);
                }
                Link::Up(client) => {
                    let interest = if client.get_ref().0.wants_write() {
                        Interest::READABLE | Interest::WRITABLE
                    } else {
                        Interest::READABLE
                    };
                    let due = self.pulse.due();
                    let silence = async move {
                        match due {
                            Some(due) => tokio::time::sleep_until(due).await,
                            None => std::future::pending().await,
                        }
                    };
                    // What is there to be read comes first: after a sleep of this process the answer may be.
                    let done = tokio::select! {
                        biased;
                        guard = client.ready_mut(interest) => guard.and_then(|mut guard| {
                            let done = pump(&mut guard.get_inner_mut().0, &mut self.events);
                            guard.clear_ready();
                            done.map(Some)
                        }),
                        () = silence => Ok(None),
                    };
                    self.pumped(done);
                }
            }
        }
    }

    /// What came of waiting for the spawner: a look at the socket that read something or not, or nothing in all the time.
    fn pumped(&mut self, done: io::Result<Option<bool>>) {
        match done {
            Ok(Some(true)) => {
                if self.pulse.beat() {
                    self.events.push_front(Event::Answers);
                }
            }
            Ok(Some(false)) => {}
            Ok(None) if self.pulse.asked.is_some() => {
                self.pulse.silent = true;
                self.events.push_back(Event::Silent { pid: self.pulse.pid, waited: PING_PATIENCE });
            }
            Ok(None) => {
                self.pulse.asked = Some(tokio::time::Instant::now());
                self.requests.push(Request::Ping);
                self.flush();
            }
            Err(error) => self.lose(&error.to_string()),
        }
    }

    fn connected(&mut self, done: io::Result<Connected>) {
        let made = done.and_then(|Connected { client, epoch, cgroup, enforces, pulse, logs_elsewhere }| {
            // SAFETY: the client owns its socket and gives out the same one until it is dropped.
            let watched = unsafe { AsyncFd::register(Watched(client)) }?;
            Ok((watched, Event::Up(Up { epoch, cgroup, enforces, logs_elsewhere }), pulse))
        });
        match made {
            Ok((client, up, pulse)) => {
                self.link = Link::Up(client);
                self.pulse = pulse;
                self.pause = RECONNECT_MIN;
                self.events.push_back(up);
            }
            Err(error) => self.lose(&error.to_string()),
        }
    }
}

/// Sends what waits and reads until the socket is empty; true when there was something.
fn pump(client: &mut Client, events: &mut VecDeque<Event>) -> io::Result<bool> {
    client.flush()?;
    let mut any = false;
    loop {
        match client.recv() {
            Ok(replies) => {
                any = true;
                for reply in replies {
                    events.extend(event(reply)?);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
            Err(error) => return Err(error),
        }
    }
}
