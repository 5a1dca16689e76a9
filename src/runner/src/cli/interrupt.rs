//! Ctrl-C in verbs that wait: they end at once with 130. The jobs they wait for go on.

use super::fail::EXIT_INTERRUPTED;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// What the handler writes: set before the handler is there, and always a text that lives for ever.
static WORDS: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static WORDS_BYTES: AtomicUsize = AtomicUsize::new(0);

/// As long as it lives, Ctrl-C says a constant text and ends the program with 130.
///
/// A handler and no thread: `add` has 2.5 ms from start to exit, and this is three system calls of them.
pub struct LastWords {
    /// What was before; None: nothing was changed.
    before: Option<libc::sigaction>,
}

impl LastWords {
    /// From now on. Where whoever started us has Ctrl-C ignored, as a shell does behind `&`, it stays ignored.
    #[must_use]
    pub fn on_ctrl_c(words: &'static str) -> Self {
        WORDS.store(words.as_ptr().cast_mut(), Ordering::Relaxed);
        WORDS_BYTES.store(words.len(), Ordering::Release);
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: nothing is changed, and `before` has room for what is told.
        if unsafe { libc::sigaction(libc::SIGINT, std::ptr::null(), before.as_mut_ptr()) } != 0 {
            return Self { before: None };
        }
        // SAFETY: the call succeeded, so it is filled; of zeroes it would be valid, too.
        let before = unsafe { before.assume_init() };
        if before.sa_sigaction == libc::SIG_IGN {
            return Self { before: None };
        }
        let mut action = before;
        action.sa_sigaction = speak as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = 0;
        // SAFETY: `speak` does only what a handler may, and `action` is valid: what was there with another handler.
        let set = unsafe { libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut()) } == 0;
        Self { before: set.then_some(before) }
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // SAFETY: it was in force before, as the kernel told. Failing leaves the handler, which does no harm.
            unsafe { libc::sigaction(libc::SIGINT, before, std::ptr::null_mut()) };
        }
    }
}

/// The handler. It may only do what is safe in the middle of anything: load, write, end.
extern "C" fn speak(_: libc::c_int) {
    let bytes = WORDS_BYTES.load(Ordering::Acquire);
    let words = WORDS.load(Ordering::Relaxed);
    // SAFETY: both are of one text of static life, stored before this handler was in force. Both calls may be made in a handler.
    unsafe {
        libc::write(libc::STDERR_FILENO, words.cast(), bytes);
        libc::_exit(i32::from(EXIT_INTERRUPTED));
    }
}

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
