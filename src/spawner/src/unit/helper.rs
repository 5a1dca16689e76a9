//! The helper: what a unit executes, for the moment until it is the job.
//!
//! It runs as the job's user, inside the job's sandbox and cgroup. It takes the job from the shim over its standard input,
//! makes the workspace, and executes. So no word of the job stands in a unit's properties, and PID 1 is the parent of the
//! job itself. Whatever goes wrong is a number on the status pipe; without a shim it ends with 203 and nothing ran.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::handover::{self, Job};
use super::places;
use super::seals::{SEAL_NEEDED, SEAL_WANTED, Seal};
use crate::launch::{self, Program, Stage};
use crate::protocol::UNIT_WORKSPACE;
use crate::sys;

/// systemd's own status for "could not execute".
const EXIT_EXEC: i32 = 203;

/// The helper's whole life. Never returns: it becomes the job, or ends.
pub(super) fn main() -> i32 {
    let job = match handover::ask(rustix::stdio::stdin()) {
        Ok(job) => job,
        // Nobody is there (any more): this is a second start, or the shim died.
        Err(_) => return EXIT_EXEC,
    };
    let Job { mut program, output, status, checks } = job;
    complete(&mut program);
    let (stage, errno) = match prepare(&program, output.as_fd()) {
        Ok(()) => match check(&checks, &status) {
            Ok(()) => launch::become_program(&program),
            Err(word) => {
                let _ = rustix::io::write(&status, &word);
                return EXIT_EXEC;
            }
        },
        Err(error) => (Stage::Prepare, error.raw_os_error()),
    };
    let _ = rustix::io::write(&status, &handover::failure(stage, errno));
    EXIT_EXEC
}

/// Looks at what must hold in here. Err: what to tell, and the job does not run.
fn check(checks: &[CString], status: &OwnedFd) -> Result<(), [u8; 5]> {
    for word in checks {
        let text = word.to_string_lossy();
        let (is_needed, name) = match text.split_once(' ') {
            Some((SEAL_NEEDED, name)) => (true, name),
            Some((SEAL_WANTED, name)) => (false, name),
            // The one who owns a directory may have put a link in its place while the unit was set up.
            _ if places::is_same(word) => continue,
            _ => return Err(handover::failure(Stage::Place, Errno::NOENT.raw_os_error())),
        };
        match Seal::checked(name) {
            Some((seal, filters)) if seal.holds(filters) => {}
            Some((seal, _)) if is_needed => return Err(handover::missing(seal, false)),
            Some((seal, _)) => drop(rustix::io::write(status, &handover::missing(seal, true))),
            None => return Err(handover::failure(Stage::Prepare, Errno::INVAL.raw_os_error())),
        }
    }
    Ok(())
}

/// What only this process knows: who it is. The job's own words win.
fn complete(program: &mut Program) {
    for (name, value) in [
        ("HOME", Some(UNIT_WORKSPACE.into())),
        ("USER", std::env::var_os("USER")),
        ("LOGNAME", std::env::var_os("USER")),
    ] {
        let has = program
            .env
            .iter()
            .any(|word| word.to_bytes().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"=")));
        if let (false, Some(value)) = (has, value)
            && let Ok(word) = CString::new([name.as_bytes(), b"=", &value.into_vec()].concat())
        {
            program.env.push(word);
        }
    }
}

/// Workspace, descriptors, mask, signals. Descriptors from 3 on close when the job is executed.
fn prepare(program: &Program, output: impl AsFd) -> Result<(), Errno> {
    // Its /var/tmp is its own and new: a directory that is there means that it is not.
    rustix::fs::mkdirat(CWD, UNIT_WORKSPACE, Mode::RWXU)?;
    let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&output)?;
    rustix::stdio::dup2_stderr(&output)?;
    sys::close_at_exec_from(3);
    rustix::process::umask(Mode::from_raw_mode(program.umask));
    sys::job_signals();
    Ok(())
}
