//! Talking to the service manager: readiness, status, reload, stop and the watchdog (`sd_notify(3)`).
//!
//! A message is one datagram of `NAME=value` lines to `$NOTIFY_SOCKET`. Sending never blocks: the daemon's
//! loop must not stand still because PID 1 does. What changes the unit's state (READY, RELOADING, STOPPING)
//! and could not be sent is kept, in order, and sent before anything else later; a status text or a watchdog
//! ping that could not be sent is dropped, the next one says more.
//!
//! The environment is read once, by [`NotifySettings::of_process`]. Nothing is sent without a socket.
//! rustix and not a crate: the crates connect a blocking socket anew for each message.

use std::io::Read as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A status text is for `systemctl status`, one line of a terminal.
const STATUS_BYTES_MAX: usize = 512;
/// The status changes at most this often.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// State messages that wait for PID 1 to read again. More cannot sensibly differ: the oldest go.
const UNSENT_MAX: usize = 8;

/// What the service manager told this process at its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifySettings {
    /// `$NOTIFY_SOCKET`: a path, or `@name` in the abstract namespace.
    pub socket: Option<String>,
    /// How long the watchdog waits for a ping before it acts; `None` where it is off or not for us.
    pub watchdog_timeout: Option<Duration>,
}

impl NotifySettings {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` of this process.
    pub fn of_process() -> NotifySettings {
        let variable = |name: &str| std::env::var(name).ok();
        NotifySettings::read(variable, std::process::id())
    }

    fn read(variable: impl Fn(&str) -> Option<String>, own_pid: u32) -> NotifySettings {
        // A watchdog for another process (our parent) was inherited by mistake.
        let for_us = variable("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(own_pid));
        let micros = variable("WATCHDOG_USEC").and_then(|usec| usec.parse().ok()).filter(|usec| *usec > 0 && for_us);
        NotifySettings {
            socket: variable("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()),
            watchdog_timeout: micros.map(Duration::from_micros),
        }
    }
}

/// How long the service manager may take to say whether the system is going down.
const SYSTEM_STATE_PATIENCE: Duration = Duration::from_millis(300);

/// True when the service manager says that the whole system is going down (`SystemState=stopping`): a process that dies of a
/// signal then was not killed by its own fault. False where there is no systemd, or no answer in time. Blocks that long.
pub fn system_is_stopping() -> bool {
    if !std::path::Path::new("/run/systemd/system").is_dir() {
        return false;
    }
    let mut command = Command::new("systemctl");
    command.arg("is-system-running").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let mut word = [0; 16];
    let mut length = 0;
    if let Some(output) = &mut child.stdout {
        let patience = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: i64::try_from(SYSTEM_STATE_PATIENCE.as_nanos()).unwrap_or(i64::from(u32::MAX)),
        };
        let mut fds = [rustix::event::PollFd::new(output, rustix::event::PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&patience)).is_ok_and(|ready| ready > 0) {
            length = output.read(&mut word).unwrap_or(0);
        }
    }
    // It has answered, or never will.
    child.kill().ok();
    child.wait().ok();
    word[..length].starts_with(b"stopping")
}

/// The daemon's end of the notify socket. Owned by the one loop that knows the truth.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog_timeout: Option<Duration>,
    unsent: Vec<String>,
    status_sent: String,
    status_sent_at: Option<Instant>,
    status_waiting: Option<String>,
}

impl Notifier {
    /// Opens a socket; the manager's is found anew by each message, so that it may be replaced.
    ///
    /// # Errors
    /// `$NOTIFY_SOCKET` is neither a path nor an abstract name, or no socket can be made.
    pub fn new(settings: &NotifySettings) -> std::io::Result<Notifier> {
        let socket = match &settings.socket {
            None => None,
            Some(name) => {
                let address = match name.strip_prefix('@') {
                    Some(name) => SocketAddr::from_abstract_name(name)?,
                    None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
                    None => {
                        let text = format!("NOTIFY_SOCKET {name:?} is neither a path nor an abstract socket (@name)");
                        return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, text));
                    }
                };
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Some((socket, address))
            }
        };
        Ok(Notifier { socket, watchdog_timeout: settings.watchdog_timeout, ..Notifier::silent() })
    }

    /// A notifier that says nothing, for a daemon without a manager.
    pub fn silent() -> Notifier {
        Notifier {
            socket: None,
            watchdog_timeout: None,
            unsent: Vec::new(),
            status_sent: String::new(),
            status_sent_at: None,
            status_waiting: None,
        }
    }

    /// Whether a manager listens.
    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// Start-up is done, or the reload is.
    pub fn ready(&mut self) {
        self.state("READY=1\n".to_owned());
    }

    /// A reload begins (`Type=notify-reload`); [`Notifier::ready`] ends it.
    pub fn reloading(&mut self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000;
        self.state(format!("RELOADING=1\nMONOTONIC_USEC={micros}\n"));
    }

    /// The orderly stop begins.
    pub fn stopping(&mut self) {
        self.state("STOPPING=1\n".to_owned());
    }

    /// The line of `systemctl status`. Sent on a change, at most once a second; a change that comes sooner
    /// waits for [`Notifier::tick`].
    pub fn status(&mut self, now: Instant, text: &str) {
        let text = one_line(text);
        self.status_waiting = (text != self.status_sent).then_some(text);
        self.tick(now);
    }

    /// Sends what waits and is due. Call it when [`Notifier::next_due`] comes, and as often as one likes.
    pub fn tick(&mut self, now: Instant) {
        self.send_unsent();
        let due = self.status_sent_at.is_none_or(|sent| now.saturating_duration_since(sent) >= STATUS_INTERVAL);
        if due && let Some(text) = self.status_waiting.take() {
            self.status_sent_at = Some(now);
            if self.send(&format!("STATUS={text}\n")) {
                self.status_sent = text;
            } else {
                self.status_waiting = Some(text);
            }
        }
    }

    /// When [`Notifier::tick`] has something to do, not before `now`; `None` where nothing waits.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if !self.unsent.is_empty() {
            return Some(now + STATUS_INTERVAL);
        }
        self.status_waiting.as_ref()?;
        Some(self.status_sent_at.map_or(now, |sent| (sent + STATUS_INTERVAL).max(now)))
    }

    /// How often [`Notifier::watchdog`] is to be called: half the manager's patience. `None`: never.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.socket.as_ref().and(self.watchdog_timeout).map(|timeout| timeout / 2)
    }

    /// "The loop makes progress." Only the loop itself may say so.
    pub fn watchdog(&mut self) {
        self.send_unsent();
        self.send("WATCHDOG=1\n");
    }

    /// Asks for more time while starting or stopping takes longer than the unit allows.
    pub fn extend_timeout(&mut self, by: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}\n", by.as_micros()));
    }

    fn state(&mut self, message: String) {
        if self.socket.is_none() {
            return;
        }
        self.unsent.push(message);
        if self.unsent.len() > UNSENT_MAX {
            self.unsent.remove(0);
        }
        self.send_unsent();
    }

    fn send_unsent(&mut self) {
        while let Some(message) = self.unsent.first().cloned() {
            if !self.send(&message) {
                return;
            }
            self.unsent.remove(0);
        }
    }

    /// False where the manager could not take it now. A manager that is gone (no socket at its path) counts
    /// as "not now" too: PID 1 re-executes itself during upgrades.
    fn send(&self, message: &str) -> bool {
        match &self.socket {
            None => true,
            Some((socket, address)) => socket.send_to_addr(message.as_bytes(), address).is_ok(),
        }
    }
}

fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > STATUS_BYTES_MAX {
        let mut end = STATUS_BYTES_MAX;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests;
