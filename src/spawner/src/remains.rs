//! What a user's processes leave outside of their directory: processes, queues and shared memory, keyrings, files where
//! everybody may write. Only for users that have nothing but jobs.
//!
//! It is done by a child that has become that user: it can touch nothing that is not theirs, whatever they left there.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::keys;
use crate::policy_file::User;
use crate::sys::{self, IpcKind};

/// Where everybody may write.
const SHARED_DIRS: [&str; 4] = ["/dev/shm", "/dev/mqueue", "/tmp", "/var/tmp"];

/// Ends and removes it all. Err: it could not be done; something may be left.
pub(crate) fn remove(user: &User) -> io::Result<()> {
    let Some(pid) = sys::fork()? else { become_and_remove(user) };
    match sys::wait_for(pid)? {
        0 => {
            let _ = keys::clear_persistent(user.uid).inspect_err(|error| say!("keyrings of {}: {error}", user.name));
            Ok(())
        }
        status => Err(io::Error::other(format!("what {} left could not be removed (status {status})", user.name))),
    }
}

fn become_and_remove(user: &User) -> ! {
    let done = std::panic::catch_unwind(|| {
        sys::become_user(user.uid, user.gid)?;
        // Nobody of this user is left to make anything new.
        sys::kill_all_of_own_user()?;
        // What a hostile job has locked for good is nobody's secret but its own.
        let _ = keys::clear_own().inspect_err(|error| say!("keyrings of {}: {error}", user.name));
        remove_queues(user.uid);
        SHARED_DIRS.iter().for_each(|dir| remove_files(Path::new(dir), user.uid));
        io::Result::Ok(())
    });
    match done {
        Ok(Ok(())) => sys::exit_now(0),
        Ok(Err(error)) => say!("cannot become {}: {error}", user.name),
        Err(_) => {}
    }
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

fn remove_files(dir: &Path, uid: u32) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.path().symlink_metadata() else { continue };
        if metadata.uid() != uid {
            continue;
        }
        let path = entry.path();
        // Neither follows a link. What cannot be removed is the user's own still, and nobody else's.
        let _ = if metadata.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
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
