//! The kernel's view of its own clock, for whoever shows it. Only read, never set.

use std::io;

/// adjtimex(2) without any change: what it returned (5 is a clock that nothing keeps right) and what it filled in.
///
/// # Errors
/// The system's; reading needs no privilege, but a system call filter may refuse it.
pub fn read_clock() -> io::Result<(i32, libc::timex)> {
    // SAFETY: every field of timex is a plain number, for which zeros are valid; `modes` 0 asks for no change.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the call and to a whole timex.
    let state = unsafe { libc::adjtimex(&mut clock) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok((state, clock)) }
}
