//! Processes of a user that no job's cgroup has: ended before the user is given to a job, and after it.
//!
//! `kill(-1)` as that user reaches whoever has it as real or saved user. A person who ran a setuid program of the user's has
//! it as the effective one alone, and reads what later jobs are told as well as these can. So root looks at all four, of each
//! thread: threads may differ.

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use crate::policy_file::User;
use crate::{procs, sys};

/// What has not ended by then keeps the user from being used. The end of a job is told that much later at most.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait for a death between two looks.
const PAUSE_MS_MAX: u64 = 50;
/// What matters of a status comes well before; but for the number of threads, where a process is in hundreds of groups.
const STATUS_BYTES: usize = 4096;

/// Ends them all. Err: one is left, or it cannot be seen whether one is.
pub(super) fn end_all(user: &User) -> io::Result<()> {
    end_within(user, ENDS_WITHIN)
}

fn end_within(user: &User, patience: Duration) -> io::Result<()> {
    if user.uid == 0 {
        return Err(io::Error::other("root would end everything"));
    }
    let mut look = Look::new(user.uid)?;
    let until = Instant::now() + patience;
    let mut pause_ms = 1;
    loop {
        let found = look.all()?;
        let Some(first) = found.first() else { return Ok(()) };
        if Instant::now() >= until {
            return Err(io::Error::other(format!("process {first} of {} cannot be ended", user.name)));
        }
        // Takes all that it reaches at once, also those of which each lives only until it has made the next one.
        kill_as(user)?;
        let mut last = None;
        for pid in found {
            last = look.kill(pid)?.or(last);
        }
        wait_for_death(last.as_ref(), pause_ms);
        pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
    }
}

/// A child that has become the user kills whom it may.
fn kill_as(user: &User) -> io::Result<()> {
    let Some(child) = sys::fork()? else {
        let done = sys::become_user(user.uid, user.gid).and_then(|()| sys::kill_all_of_own_user());
        sys::exit_now(i32::from(done.is_err()));
    };
    sys::wait_for(child).map(drop)
}

fn wait_for_death(pidfd: Option<&OwnedFd>, pause_ms: u64) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: pause_ms as i64 * 1_000_000 };
    let mut fds: Vec<PollFd<'_>> = pidfd.into_iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let _ = rustix::event::poll(&mut fds, Some(&timeout));
}

/// Looks through /proc for one user.
struct Look {
    uid: u32,
    proc: OwnedFd,
    path: String,
    text: [u8; STATUS_BYTES],
}

/// Of a status: what counts here.
#[derive(Debug, PartialEq)]
struct Status {
    /// Real, effective, saved and the one for files.
    uids: [u32; 4],
    /// It can still do something.
    alive: bool,
    /// Or that cannot be told.
    has_threads: bool,
}

impl Look {
    fn new(uid: u32) -> io::Result<Self> {
        let proc = open_dir(CWD.as_fd(), "/proc")?.ok_or(Errno::NOENT)?;
        Ok(Self { uid, proc, path: String::new(), text: [0; STATUS_BYTES] })
    }

    /// All of that user.
    fn all(&mut self) -> io::Result<Vec<i32>> {
        let mut found = Vec::new();
        for pid in numbers(&self.proc)? {
            if self.is_of_user(pid)? {
                found.push(pid);
            }
        }
        Ok(found)
    }

    fn is_of_user(&mut self, pid: i32) -> io::Result<bool> {
        self.name(format_args!("{pid}/status"));
        let Some(status) = self.status()? else { return Ok(false) };
        if !status.has_threads {
            return Ok(status.alive && status.uids.contains(&self.uid));
        }
        // Nobody but root can have a process of root's with a thread that is another's: services have the most threads.
        if status.alive && status.uids == [0; 4] {
            return Ok(false);
        }
        self.name(format_args!("{pid}/task"));
        let Some(tasks) = open_dir(self.proc.as_fd(), &self.path)? else { return Ok(false) };
        for task in numbers(&tasks)? {
            self.name(format_args!("{pid}/task/{task}/status"));
            if self.status()?.is_some_and(|status| status.alive && status.uids.contains(&self.uid)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn name(&mut self, path: std::fmt::Arguments<'_>) {
        self.path.clear();
        // A `String` takes it all.
        let _ = self.path.write_fmt(path);
    }

    /// None: it is gone.
    fn status(&mut self) -> io::Result<Option<Status>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let read = rustix::fs::openat(&self.proc, &self.path, flags, Mode::empty())
            .and_then(|file| rustix::io::read(file, &mut self.text));
        match read {
            Ok(0) | Err(Errno::NOENT | Errno::SRCH) => Ok(None),
            Ok(length) => parse(&self.text[..length]).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills the process if, once it is pinned, it is still the user's; it may have given its number away before.
    fn kill(&mut self, pid: i32) -> io::Result<Option<OwnedFd>> {
        let Some(pinned) = procs::pin(pid) else { return Ok(None) };
        if !self.is_of_user(pid)? {
            return Ok(None);
        }
        let _ = pidfd_send_signal(&pinned, Signal::KILL);
        Ok(Some(pinned))
    }
}

fn open_dir(at: impl AsFd, path: &str) -> io::Result<Option<OwnedFd>> {
    match rustix::fs::openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Names in a directory that are numbers.
fn numbers(dir: &OwnedFd) -> io::Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in Dir::read_from(dir)? {
        match entry {
            Ok(entry) => numbers.extend(entry.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok())),
            // The process whose threads these were is gone.
            Err(Errno::NOENT | Errno::SRCH) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(numbers)
}

/// A name of a program has no line break in it here.
fn parse(text: &[u8]) -> Option<Status> {
    let mut status = Status { uids: [0; 4], alive: true, has_threads: true };
    let mut has_uids = false;
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(state) = line.strip_prefix(b"State:\t") {
            status.alive = !matches!(state.first()?, b'Z' | b'X' | b'x');
        } else if let Some(uids) = line.strip_prefix(b"Uid:\t") {
            let mut words = std::str::from_utf8(uids).ok()?.split_ascii_whitespace();
            for uid in &mut status.uids {
                *uid = words.next()?.parse().ok()?;
            }
            has_uids = true;
        } else if let Some(threads) = line.strip_prefix(b"Threads:\t") {
            status.has_threads = !matches!(threads, b"0" | b"1");
            // It comes last of them, and much comes after it.
            break;
        }
    }
    has_uids.then_some(status)
}

#[cfg(test)]
mod tests;
