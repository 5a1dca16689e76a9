//! The spawner's own directory: its lock, its epoch, its socket, the attempts and the daemons' generations.
//!
//! Root's alone but for the socket, which the policy's group may use; jobs cannot enter `attempts`.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::policy::Policy;
use crate::protocol::{is_store_id, names};
use crate::server::setup::{self, NoHome};
use crate::wire;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
/// The directory: to be passed through, not to be read.
const DIR_MODE: u32 = 0o711;
/// The attempts: for the group to look at, closed to jobs.
const ATTEMPTS_MODE: u32 = 0o750;

/// The directory, held.
pub(super) struct Home {
    pub(super) dir: OwnedFd,
    pub(super) path: PathBuf,
    /// `<boot id>/<random hex>`
    pub(super) epoch: String,
    /// The attempts that are there are of another boot.
    pub(super) other_boot: bool,
    _lock: OwnedFd,
}

/// Makes and enters the directory of a spawner that is a service of root, with `attempts` for this group to look at.
pub(crate) fn enter(path: &Path, group: u32) -> Result<setup::Home, String> {
    let fault = |what: &str, error: io::Error| format!("{}: {what}: {error}", path.display());
    let dir = own_dir(CWD, path, DIR_MODE, None).map_err(|error| fault("cannot make the directory", error))?;
    let lock = setup::open_lock(&dir).map_err(|error| fault("cannot open the lock", error))?;
    setup::take_lock(&lock, path).map_err(|error| match error {
        NoHome::Taken(pid) => format!("{}: another spawner holds it, process {pid}", path.display()),
        NoHome::Fault(why) => why,
    })?;
    rustix::fs::ftruncate(&lock, 0).map_err(|error| fault("cannot write the lock", error.into()))?;
    let pid = std::process::id().to_string();
    rustix::io::pwrite(&lock, pid.as_bytes(), 0).map_err(|error| fault("cannot write the lock", error.into()))?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|error| format!("cannot read the boot id: {error}"))?;
    let (epoch, other_boot) =
        setup::epoch(&dir, boot.trim()).map_err(|error| fault("cannot write the epoch", error))?;
    own_dir(&dir, Path::new(names::ATTEMPTS_DIR), ATTEMPTS_MODE, Some(group))
        .map_err(|error| fault("cannot make the attempts", error))?;
    Ok(setup::Home { dir, path: path.to_owned(), epoch, other_boot, lock })
}

/// Listens in such a directory: for root and the group.
pub(crate) fn listen(dir: &OwnedFd, path: &Path, group: u32) -> io::Result<OwnedFd> {
    match rustix::fs::unlinkat(dir, names::SOCKET, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let (address, _dir) = wire::address(&path.join(names::SOCKET))?;
    // Born for root alone; opened to the group when it is the group's.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(before);
    bound?;
    give_to_group(dir, Path::new(names::SOCKET), group)?;
    rustix::fs::chmodat(dir, names::SOCKET, Mode::from_raw_mode(0o660), AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

impl Home {
    /// Makes and enters it.
    pub(super) fn enter(policy: &Policy) -> Result<Self, String> {
        let setup::Home { dir, path, epoch, other_boot, lock } = enter(&policy.dir, policy.group)?;
        Ok(Self { dir, path, epoch, other_boot, _lock: lock })
    }

    /// Listens: for root and the policy's group.
    pub(super) fn listen(&self, group: u32) -> io::Result<OwnedFd> {
        listen(&self.dir, &self.path, group)
    }

    /// True while the path still leads to the directory that we hold.
    pub(super) fn is_there(&self) -> bool {
        let there = rustix::fs::statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        let ours = rustix::fs::fstat(&self.dir);
        let lock = rustix::fs::statat(&self.dir, names::SPAWNER_LOCK, AtFlags::SYMLINK_NOFOLLOW);
        lock.is_ok() && matches!((there, ours), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }

    /// What earlier spawners noted: the highest generation of each store. A file that says nothing counts as none; one that
    /// cannot be read does not: an older daemon could be heard again.
    pub(super) fn generations(&self) -> io::Result<HashMap<String, u64>> {
        let mut generations = HashMap::new();
        let entries = match std::fs::read_dir(self.path.join(names::GENERATIONS_DIR)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(generations),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Some(store) = entry.file_name().into_string().ok().filter(|name| is_store_id(name)) else { continue };
            let text = std::fs::read(entry.path())?;
            if let Some(number) = str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()) {
                generations.insert(store, number);
            }
        }
        Ok(generations)
    }

    /// How many stores those are.
    pub(super) fn stores(&self) -> io::Result<usize> {
        match std::fs::read_dir(self.path.join(names::GENERATIONS_DIR)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            entries => Ok(entries?.count()),
        }
    }

    /// Notes a higher one.
    pub(super) fn keep_generation(&self, store: &str, generation: u64) -> io::Result<()> {
        let dir = own_dir(&self.dir, Path::new(names::GENERATIONS_DIR), 0o700, None)?;
        setup::replace(&dir, store, generation.to_string().as_bytes())
    }
}

/// Makes and opens a directory of ours with this mode.
pub(crate) fn own_dir(at: impl std::os::fd::AsFd, path: &Path, mode: u32, group: Option<u32>) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(&at, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let dir = rustix::fs::openat(&at, path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&dir)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        let why = format!("it belongs to user {}", stat.st_uid);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if let Some(group) = group {
        give_to_group(&at, path, group)?;
    }
    if stat.st_mode & 0o7777 != mode {
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode))?;
    }
    Ok(dir)
}

/// Only where it is not the group's already: a service that runs with that group needs no capability for it.
fn give_to_group(at: impl std::os::fd::AsFd, path: &Path, group: u32) -> io::Result<()> {
    let stat = rustix::fs::statat(&at, path, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_gid != group {
        let group = Some(rustix::fs::Gid::from_raw(group));
        rustix::fs::chownat(&at, path, None, group, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_that_cannot_be_read_is_not_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("spawner");
        let setup::Home { dir, path, epoch, other_boot, lock } =
            enter(&path, rustix::process::getegid().as_raw()).expect("made");
        let home = Home { dir, path, epoch, other_boot, _lock: lock };
        assert!(home.generations().expect("none yet").is_empty());
        home.keep_generation("0123abcd", 7).expect("kept");
        let file = home.path.join(names::GENERATIONS_DIR);
        std::fs::write(file.join("0123abce"), "nonsense").expect("written");
        std::fs::write(file.join("0123abcf.tmp"), "9").expect("written");
        assert_eq!(home.generations().expect("read"), HashMap::from([("0123abcd".to_owned(), 7)]));
        std::fs::create_dir(file.join("0badcafe")).expect("made");
        assert!(home.generations().is_err());
    }
}
