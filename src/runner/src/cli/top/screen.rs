//! The terminal of `top`: taken at the start, given back however the program ends, short of SIGKILL.
//!
//! Ctrl-C is a key here. SIGTERM, SIGHUP and SIGINT of others are noted, and the loop ends in order within a moment; a second
//! one ends the program at once, after the terminal was given back. A panic gives it back before it is told.

use super::super::fail::Failure;
use ratatui::DefaultTerminal;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The terminal while it is ours.
pub struct Screen {
    /// To draw on.
    pub terminal: DefaultTerminal,
}

impl Screen {
    /// Takes it.
    ///
    /// # Errors
    /// There is none, or it can do nothing.
    pub fn take() -> Result<Screen, Failure> {
        let why = match std::env::var("TERM") {
            _ if !std::io::stdout().is_terminal() => "standard output is no terminal",
            Ok(term) if term == "dumb" => "TERM=dumb says that this terminal can do nothing but print",
            Ok(term) if !term.is_empty() => "",
            _ => "TERM is not set: nobody says what this terminal can do",
        };
        if !why.is_empty() {
            return Err(Failure::Usage(format!("top needs a terminal: {why}; `ci-runner top --once` prints one look")));
        }
        let terminal =
            ratatui::try_init().map_err(|error| Failure::Error(format!("cannot use this terminal: {error}")))?;
        Ok(Screen { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = ratatui::try_restore();
    }
}

/// The signal that told the program to end; 0: none yet.
#[derive(Clone, Default)]
pub struct Ended(Arc<AtomicI32>);

impl Ended {
    /// The signal's number, once one came.
    pub fn signal(&self) -> Option<i32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
    }
}

/// Notes signals from now on.
pub fn watch_signals() -> Ended {
    use tokio::signal::unix::{SignalKind, signal};
    let ended = Ended::default();
    // The handlers must be there when this returns; where they cannot be, signals do what they do.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return ended };
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = runtime.block_on(async { kinds.map(signal) }) else {
        return ended;
    };
    let noted = ended.clone();
    let wait = move || {
        loop {
            let number = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => libc::SIGINT,
                    _ = terminate.recv() => libc::SIGTERM,
                    _ = hangup.recv() => libc::SIGHUP,
                }
            });
            if noted.0.swap(number, Ordering::Relaxed) != 0 {
                let _ = ratatui::try_restore();
                std::process::exit(128 + number);
            }
        }
    };
    // Detached on purpose: it lives as long as the process.
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(wait);
    ended
}
