//! The signals that ask `run` to end: Ctrl-C, SIGTERM (`timeout`, a service manager) and SIGHUP (the terminal was closed).
//! Under `nohup`, SIGHUP is left ignored.

use super::Failure;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a shell adds to the number of the signal that ended a program.
const EXIT_BY_SIGNAL: i32 = 128;

/// Listens from when it is made.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Option<Signal>,
    first: Option<SignalKind>,
}

impl Signals {
    /// Must be called in the runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn listen() -> Result<Signals, Failure> {
        let listen = |kind, name: &str| {
            signal(kind).map_err(|error| Failure::Error(format!("cannot listen for {name}: {error}")))
        };
        let hang_up = SignalKind::hangup();
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt(), "Ctrl-C")?,
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            hang_up: (!is_ignored(hang_up)).then(|| listen(hang_up, "SIGHUP")).transpose()?,
            first: None,
        })
    }

    /// Waits for one of them.
    pub async fn next(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        let kind = tokio::select! {
            biased;
            _ = hang_up => SignalKind::hangup(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        self.first.get_or_insert(kind);
    }

    /// The exit code that goes with the first of them, if there was one.
    pub fn exit_code(&self) -> Option<u8> {
        self.first.and_then(|kind| u8::try_from(EXIT_BY_SIGNAL + kind.as_raw_value()).ok())
    }
}

/// True when whoever started us wants that signal ignored.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let word = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = word.and_then(|word| u64::from_str_radix(word.trim(), 16).ok()).unwrap_or(0);
    ignored >> (kind.as_raw_value() - 1) & 1 == 1
}
