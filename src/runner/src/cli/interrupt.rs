//! Ctrl-C in verbs that wait: they end at once with 130. The jobs they wait for go on.

use super::fail::EXIT_INTERRUPTED;
use std::io::Write as _;

/// From now on Ctrl-C ends the program with 130; `reset` puts the terminal's colours back first.
///
/// Without it Ctrl-C ends the program as well, by the signal: so failing to start the thread is no error.
pub fn exit_on_ctrl_c(reset: bool) {
    // The handler must be there when this returns, not some time after.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else {
        return;
    };
    let Ok(mut pressed) =
        runtime.block_on(async { tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()) })
    else {
        return;
    };
    let wait = move || {
        runtime.block_on(pressed.recv());
        if reset {
            let _ = std::io::stderr().write_all(b"\x1b[0m");
        }
        std::process::exit(i32::from(EXIT_INTERRUPTED));
    };
    // Detached on purpose: it lives as long as the process.
    let _ = std::thread::Builder::new().name("ctrl-c".to_owned()).spawn(wait);
}
