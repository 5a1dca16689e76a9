//! How a shim tells what became of its attempt: in the attempt's directory, else over the pipe to the spawner. The same for
//! shims of every kind.
//!
//! Nothing here blocks, and nobody is waited for: a spawner that is gone finds what it can in the directory.

use std::os::fd::OwnedFd;

use serde::Serialize;

use crate::attempts::Attempts;
use crate::failpoint::{self, hit};
use crate::protocol::ExitRecord;

/// Writes one line of JSON, shorter than `PIPE_BUF`, so that notes of several shims never mix. A full pipe drops it.
pub(crate) fn note(pipe: &OwnedFd, note: &impl Serialize) {
    if let Ok(mut line) = serde_json::to_vec(note) {
        line.push(b'\n');
        let _ = rustix::io::write(pipe, &line);
    }
}

/// Puts the record where every later spawner finds it or, if that cannot be, tells this one in its word for it.
pub(crate) fn publish<N: Serialize>(
    attempts: &Attempts,
    notes: &OwnedFd,
    record: &ExitRecord,
    word: impl FnOnce(ExitRecord) -> N,
) {
    let written = attempts.write_exit_aside(record).and_then(|()| {
        hit(failpoint::SHIM_AFTER_EXIT_TMP);
        attempts.publish_exit(&record.key)
    });
    if let Err(error) = written {
        say!("{}: cannot write the exit record: {error}; telling the spawner", record.key);
        note(notes, &word(record.clone()));
    }
    hit(failpoint::SHIM_AFTER_EXIT_RECORD);
}
