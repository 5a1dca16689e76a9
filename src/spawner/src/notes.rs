//! The pipe over which shims tell their spawner what they cannot write down ([`crate::shim::tell`]).
//!
//! A service that executes its program anew keeps it: shims that were forked before have no other, and where somebody empties
//! the directory under them what they tell stands nowhere else.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::FdFlags;
use rustix::pipe::PipeFlags;

use crate::sys;

/// Names the descriptor, from one program to the next in the same process. No job sees it: its environment is the
/// specification's.
const VARIABLE: &str = "CI_RUNNER_SPAWNER_NOTES";

/// Both ends. Neither waits.
pub(crate) struct Notes {
    pub(crate) reader: OwnedFd,
    pub(crate) writer: OwnedFd,
}

impl Notes {
    /// A new one.
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { reader, writer })
    }

    /// The one that the program before left us, if it did. All other descriptors beyond the usual three are closed.
    pub(crate) fn left() -> Option<Self> {
        let left = std::env::var(VARIABLE).ok().and_then(|number| Self::at(number.parse().ok()?));
        let mut keep: Vec<RawFd> =
            left.iter().flat_map(|notes| [notes.reader.as_raw_fd(), notes.writer.as_raw_fd()]).collect();
        sys::close_from_but(3, &mut keep);
        left
    }

    /// Both ends of the pipe that is open under this number, opened anew; None where there is no pipe.
    fn at(number: u32) -> Option<Self> {
        let path = format!("/proc/self/fd/{number}");
        if FileType::from_raw_mode(rustix::fs::stat(&path).ok()?.st_mode) != FileType::Fifo {
            return None;
        }
        let open =
            |flags| rustix::fs::openat(CWD, &path, flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).ok();
        Some(Self { reader: open(OFlags::RDONLY)?, writer: open(OFlags::WRONLY)? })
    }
}

/// Leaves the pipe that this is an end of to the program that `command` is about to make of this process.
pub(crate) fn leave(reader: &OwnedFd, command: &mut std::process::Command) {
    match rustix::io::fcntl_setfd(reader, FdFlags::empty()) {
        Ok(()) => drop(command.env(VARIABLE, reader.as_raw_fd().to_string())),
        Err(error) => say!("what shims tell meanwhile is lost: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_before_is_read_after() {
        let notes = Notes::new().expect("a pipe");
        rustix::io::write(&notes.writer, b"before").expect("written");
        let number = u32::try_from(notes.reader.as_raw_fd()).expect("a number");
        let again = Notes::at(number).expect("found");
        rustix::io::write(&notes.writer, b" and after").expect("written");
        drop(notes);
        rustix::io::write(&again.writer, b".").expect("written");
        let mut text = [0; 64];
        let got = rustix::io::read(&again.reader, &mut text).expect("read");
        assert_eq!(&text[..got], b"before and after.");
        assert_eq!(rustix::io::read(&again.reader, &mut text), Err(rustix::io::Errno::AGAIN), "it does not wait");
    }

    #[test]
    fn what_is_no_pipe_is_not_taken() {
        let file = tempfile::tempfile().expect("a file");
        assert!(Notes::at(u32::try_from(file.as_raw_fd()).expect("a number")).is_none());
        assert!(Notes::at(u32::MAX).is_none());
    }
}
