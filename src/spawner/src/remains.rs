//! What a user's processes leave outside of their directory: processes, queues and shared memory, keyrings, files where
//! everybody may write. Only for users that have nothing but jobs.
//!
//! Root removes what would start processes of the user's later and ends those there are. The rest is done by a child that has
//! become that user: it can touch nothing that is not theirs, whatever they left there. A user of whom something stays must
//! not be given to a job.

mod entries;
mod files;
#[cfg(test)]
pub(crate) mod hostile;
mod processes;
mod timers;

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use crate::keys;
use crate::policy_file::User;
use crate::sys::{self, IpcKind};

/// A child says no more about why it failed.
const WHY_BYTES_MAX: usize = 1024;

/// Ends and removes it all. Err: it could not be done; something may be left.
pub(crate) fn remove(user: &User) -> io::Result<()> {
    timers::remove(user).map_err(io::Error::other)?;
    processes::end_all(user)?;
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let parent = rustix::process::getpid();
    let Some(pid) = sys::fork()? else { become_and_remove(user, parent, &writer) };
    drop(writer);
    let mut why = Vec::new();
    let read = std::fs::File::from(reader).take(WHY_BYTES_MAX as u64).read_to_end(&mut why);
    let status = sys::wait_for(pid)?;
    if status == 0 {
        let _ = keys::clear_persistent(user.uid).inspect_err(|error| say!("keyrings of {}: {error}", user.name));
        return Ok(());
    }
    let why = match read {
        Ok(1..) => String::from_utf8_lossy(&why).into_owned(),
        _ => format!("status {status}"),
    };
    Err(io::Error::other(format!("what {} left cannot be removed: {why}", user.name)))
}

fn become_and_remove(user: &User, parent: rustix::process::Pid, writer: &OwnedFd) -> ! {
    let done = std::panic::catch_unwind(|| {
        sys::become_user(user.uid, user.gid)?;
        // Only who waits for us knows that the user is not to be used yet. Asked for now: a change of user takes it back.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::other("nobody waits for it"));
        }
        // Nobody of this user is left to make anything new.
        sys::kill_all_of_own_user()?;
        // What a hostile job has locked for good is nobody's secret but its own.
        let _ = keys::clear_own().inspect_err(|error| say!("keyrings of {}: {error}", user.name));
        remove_queues(user.uid);
        files::remove(user.uid).map_err(io::Error::other)
    });
    let why = match done {
        Ok(Ok(())) => sys::exit_now(0),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a fault of the runner's".to_owned(),
    };
    let why = why.as_bytes();
    let _ = rustix::io::write(writer, &why[..why.len().min(WHY_BYTES_MAX)]);
    sys::exit_now(1)
}

fn remove_queues(uid: u32) {
    for (kind, table) in [(IpcKind::Memory, "shm"), (IpcKind::Semaphores, "sem"), (IpcKind::Messages, "msg")] {
        let text = std::fs::read_to_string(format!("/proc/sysvipc/{table}")).unwrap_or_default();
        for id in own_ids(&text, uid) {
            sys::remove_ipc(kind, id);
        }
    }
}

/// Second column of the rows whose owner or maker is this user.
fn own_ids(table: &str, uid: u32) -> Vec<i32> {
    let mut lines = table.lines();
    let heads: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let column = |name: &str| heads.iter().position(|head| *head == name);
    let (Some(owner), Some(maker)) = (column("uid"), column("cuid")) else { return Vec::new() };
    let row = |line: &str| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let is = |at: usize| cells.get(at).and_then(|cell| cell.parse().ok()) == Some(uid);
        if is(owner) || is(maker) { cells.get(1)?.parse().ok() } else { None }
    };
    lines.filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::own_ids;

    #[test]
    fn rows_of_the_user_are_found_by_their_heads() {
        let table = "       key      shmid perms size  cpid  lpid nattch   uid   gid  cuid  cgid\n\
                     1516 5 1666 4096 1 1 0 900 900 900 900\n 0 6 600 1 1 1 0 0 0 900 0\n 0 7 600 1 1 1 0 1 1 1 1\n";
        assert_eq!(own_ids(table, 900), [5, 6]);
        assert!(own_ids("", 900).is_empty() && own_ids("key uid\n1 900\n", 900).is_empty());
    }
}
