//! The attempt directories: what is in them, in which order it is written and removed.
//!
//! ```text
//! attempts/<store>-<job>-<attempt>/   made by `start` or `void`
//!   lock    flock held = the shim lives; says who it is ([`Identity`])
//!   void    never starts
//!   began   the shim is about to let the job run
//!   exit    the record (`exit.tmp` before: room for it is taken when the attempt begins)
//!   verdict how its unit ended (kind `systemd` only)
//!   lost    it has no record, and nothing is left of it
//! ```
//!
//! Removal goes `lock`, `exit`, `began`, so that a removal cut short never leaves a directory that looks as if the attempt
//! could still start, nor one that looks lost before its record is gone.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::protocol::{AttemptKey, ExitRecord, names};
use crate::record;

/// Where an exit record is written before it is renamed.
const EXIT_ASIDE: &str = "exit.tmp";
/// Room that is taken for a record: more than one of usual size has.
const EXIT_BYTES: u64 = 4 * 1024;
/// Where a small file is written before it is renamed.
const SMALL_ASIDE: &str = "small.tmp";
/// An identity never exceeds this: its only long part is a cgroup's path.
const IDENTITY_BYTES_MAX: usize = 8 * 1024;

/// As long as any session.
const SESSION_ROOM: &str = "           ";

/// What the `lock` file says, for a spawner that did not fork this shim. Lines: `<shim pid> <descriptor of the lock>`, slot,
/// backstop deadline (CLOCK_BOOTTIME, ms) or `-`, parent cgroup or `-`, and, once the job's process is there, its
/// session. Where jobs have users, room for the session and a line `<user> <group>` after it: earlier spawners read
/// that as well, and what they wrote has neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Process id of the shim.
    pub(crate) pid: i32,
    /// The shim's descriptor of the lock: proves that a process with this id really is the shim.
    pub(crate) lock_fd: RawFd,
    /// Path of the slot's directory; of a service, and of older shims, its name.
    pub(crate) slot: String,
    /// When the spawner steps in, if the shim has not ended the job by then.
    pub(crate) backstop_ms: Option<u64>,
    /// Directory in which the job's cgroup is.
    pub(crate) cgroup_parent: Option<PathBuf>,
    /// Session of the job's first process.
    pub(crate) session: Option<i32>,
    /// Whom the job becomes, where jobs have users.
    pub(crate) owner: Option<Owner>,
}

/// User and group of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Identity {
    /// The lines but the session, which the job's process adds at [`Self::session_offset`].
    pub(crate) fn encode(&self) -> String {
        let mut text = self.head();
        if let Some(Owner { uid, gid }) = self.owner {
            text.push_str(&format!("{SESSION_ROOM}\n{uid} {gid}\n"));
        }
        text
    }

    /// Where the job's process writes its session.
    pub(crate) fn session_offset(&self) -> u64 {
        self.head().len() as u64
    }

    fn head(&self) -> String {
        let backstop = self.backstop_ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
        let parent = self.cgroup_parent.as_ref().map_or("-".into(), |path| path.to_string_lossy());
        format!("{} {}\n{}\n{backstop}\n{parent}\n", self.pid, self.lock_fd, self.slot)
    }

    fn decode(text: &str) -> Option<Self> {
        let mut lines = text.split_inclusive('\n').map(|line| line.strip_suffix('\n'));
        let mut line = || lines.next().flatten();
        let (pid, lock_fd) = line()?.split_once(' ')?;
        let slot = line()?.to_owned();
        let backstop_ms = line()?.parse().ok();
        let cgroup_parent = Some(line()?).filter(|&path| path != "-").map(PathBuf::from);
        let session = line().and_then(|word| word.parse().ok());
        let owner = std::iter::from_fn(line).find_map(|line| {
            let (uid, gid) = line.split_once(' ')?;
            Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        });
        let (pid, lock_fd) = (pid.parse().ok()?, lock_fd.parse().ok()?);
        Some(Self { pid, lock_fd, slot, backstop_ms, cgroup_parent, session, owner })
    }
}

/// Which file a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockFile {
    device: u64,
    inode: u64,
}

impl LockFile {
    fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }

    /// True when this process has it open where its identity says.
    pub(crate) fn is_open_in(&self, identity: &Identity) -> bool {
        self.is_at(Path::new(&format!("/proc/{}/fd/{}", identity.pid, identity.lock_fd)))
    }

    /// True when what this path leads to is the lock.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        rustix::fs::statat(CWD, path, AtFlags::empty()).is_ok_and(|there| Self::of(&there) == *self)
    }
}

/// What taking a start lock came to.
pub(crate) enum Locked {
    /// It is ours.
    Taken(OwnedFd),
    /// A shim holds it; here is the file, to read who.
    Held(OwnedFd),
}

/// The `attempts` directory.
pub(crate) struct Attempts {
    dir: OwnedFd,
}

impl Attempts {
    /// Opens `attempts` in the spawner's directory, making it if needed.
    pub(crate) fn open(home: impl AsFd) -> io::Result<Self> {
        match rustix::fs::mkdirat(&home, names::ATTEMPTS_DIR, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
        Ok(Self { dir: rustix::fs::openat(home, names::ATTEMPTS_DIR, flags, Mode::empty())? })
    }

    /// The descriptor that a shim must keep.
    pub(crate) fn raw(&self) -> RawFd {
        self.dir.as_raw_fd()
    }

    /// Makes the directory; true when it was not there.
    pub(crate) fn make(&self, key: &AttemptKey) -> io::Result<bool> {
        match rustix::fs::mkdirat(&self.dir, key.to_string(), Mode::RWXU) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the start lock, or finds it held.
    pub(crate) fn lock(&self, key: &AttemptKey) -> io::Result<Locked> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let lock = rustix::fs::openat(&self.dir, path(key, names::LOCK), flags, mode)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Locked::Taken(lock)),
            Err(Errno::WOULDBLOCK) => Ok(Locked::Held(lock)),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the start lock of an attempt that nobody may hold. Err: why not, in words.
    pub(crate) fn lock_free(&self, key: &AttemptKey) -> Result<OwnedFd, String> {
        match self.lock(key) {
            Ok(Locked::Taken(lock)) => Ok(lock),
            Ok(Locked::Held(_)) => Err("its lock is held by a process that this spawner does not know".to_owned()),
            Err(error) => Err(format!("cannot lock attempt {key}: {error}")),
        }
    }

    /// Who holds (or held) the lock; None while that is not (wholly) written.
    pub(crate) fn identity(lock: &OwnedFd) -> io::Result<Option<Identity>> {
        let mut text = vec![0; IDENTITY_BYTES_MAX];
        let got = rustix::io::pread(lock, &mut text, 0)?;
        Ok(std::str::from_utf8(&text[..got]).ok().and_then(Identity::decode))
    }

    /// True when the process `identity.pid` has this very lock open: it is the shim and not a later process with its id.
    pub(crate) fn is_holder(lock: &OwnedFd, identity: &Identity) -> bool {
        rustix::fs::fstat(lock).is_ok_and(|ours| LockFile::of(&ours).is_open_in(identity))
    }

    /// Which file the lock is, without opening it; None: there certainly is none.
    pub(crate) fn lock_file(&self, key: &AttemptKey) -> io::Result<Option<LockFile>> {
        match rustix::fs::statat(&self.dir, path(key, names::LOCK), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(LockFile::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// True when the file is there, false when it certainly is not.
    pub(crate) fn has(&self, key: &AttemptKey, name: &str) -> io::Result<bool> {
        match rustix::fs::statat(&self.dir, path(key, name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes an empty file, in one step.
    pub(crate) fn mark(&self, key: &AttemptKey, name: &str) -> io::Result<()> {
        let mode = Mode::RUSR | Mode::WUSR;
        match rustix::fs::mknodat(&self.dir, path(key, name), FileType::RegularFile, mode, 0) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a mark away again.
    pub(crate) fn unmark(&self, key: &AttemptKey, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.dir, path(key, name), AtFlags::empty())?)
    }

    /// Writes the exit record aside; [`Self::publish_exit`] makes it count.
    pub(crate) fn write_exit_aside(&self, record: &ExitRecord) -> io::Result<()> {
        let file = self.exit_aside(&record.key)?;
        let text = record::encode(record);
        if rustix::io::write(&file, &text)? != text.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(rustix::fs::ftruncate(&file, text.len() as u64)?)
    }

    /// Takes the room that the record will need, so that a disk which is full by then does not take the result.
    pub(crate) fn reserve_exit(&self, key: &AttemptKey) -> io::Result<()> {
        let file = self.exit_aside(key)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, EXIT_BYTES) {
            // A file system that cannot say so is written to; one that copies on write may still find no room at the end.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                match rustix::io::write(&file, &[b' '; EXIT_BYTES as usize])? == EXIT_BYTES as usize {
                    true => Ok(()),
                    false => Err(io::ErrorKind::StorageFull.into()),
                }
            }
            reserved => Ok(reserved?),
        }
    }

    fn exit_aside(&self, key: &AttemptKey) -> io::Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.dir, path(key, EXIT_ASIDE), flags, Mode::RUSR | Mode::WUSR)?)
    }

    /// Renames the record into place.
    pub(crate) fn publish_exit(&self, key: &AttemptKey) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.dir, path(key, EXIT_ASIDE), &self.dir, path(key, names::EXIT))?)
    }

    /// Writes a small file in one step.
    pub(crate) fn write_small(&self, key: &AttemptKey, name: &str, content: &[u8]) -> io::Result<()> {
        let aside = path(key, SMALL_ASIDE);
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, &aside, flags, Mode::RUSR | Mode::WUSR)?;
        if rustix::io::write(&file, content)? != content.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(rustix::fs::renameat(&self.dir, aside, &self.dir, path(key, name))?)
    }

    /// Reads a small file; None when there is certainly none.
    pub(crate) fn read_small(&self, key: &AttemptKey, name: &str, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.dir, path(key, name), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut content = vec![0; bytes_max];
        let got = rustix::io::read(&file, &mut content)?;
        content.truncate(got);
        Ok(Some(content))
    }

    /// The exit record; None when there is certainly no valid one.
    pub(crate) fn read_exit(&self, key: &AttemptKey) -> io::Result<Option<ExitRecord>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.dir, path(key, names::EXIT), flags, Mode::empty()) {
            Ok(file) => file,
            // A link is no record either.
            Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
            Err(_) if crate::failpoint::takes_blindness_for_absence() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut text = [0; record::RECORD_BYTES_MAX];
        let got = rustix::io::read(&file, &mut text)?;
        Ok(record::decode(key, &text[..got]))
    }

    /// Removes the directory with all that belongs in it.
    pub(crate) fn remove(&self, key: &AttemptKey) -> io::Result<()> {
        let unlink = |name| match rustix::fs::unlinkat(&self.dir, path(key, name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(io::Error::from(error)),
        };
        let remove_dir = || match rustix::fs::unlinkat(&self.dir, key.to_string(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(io::Error::from(error)),
        };
        unlink(names::LOCK)?;
        unlink(names::EXIT)?;
        crate::failpoint::hit(crate::failpoint::SPAWNER_AMID_FORGET);
        unlink(names::BEGAN)?;
        if remove_dir().is_ok() {
            return Ok(());
        }
        unlink(EXIT_ASIDE)?;
        unlink(SMALL_ASIDE)?;
        unlink(names::VERDICT)?;
        unlink(names::VOIDED)?;
        unlink(names::LOST)?;
        remove_dir()
    }

    /// All attempts that have a directory; entries that are no attempt's are left alone.
    pub(crate) fn all(&self) -> io::Result<Vec<AttemptKey>> {
        let mut keys = Vec::new();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, ".", flags, Mode::empty())?;
        for entry in rustix::fs::Dir::new(dir)? {
            let entry = entry?;
            if !matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                continue;
            }
            if let Ok(key) = entry.file_name().to_string_lossy().parse() {
                keys.push(key);
            }
        }
        Ok(keys)
    }
}

fn path(key: &AttemptKey, name: &str) -> String {
    format!("{key}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_whole_or_not_at_all() {
        let identity = Identity {
            pid: 12,
            lock_fd: 7,
            slot: "default-0".to_owned(),
            backstop_ms: Some(99),
            cgroup_parent: Some("/sys/fs/cgroup/a b".into()),
            session: None,
            owner: None,
        };
        let text = identity.encode();
        for end in 0..text.len() {
            assert_eq!(Identity::decode(&text[..end]), None, "cut at {end}");
        }
        assert_eq!(Identity::decode(&text), Some(identity.clone()));
        let with_session = Identity { session: Some(13), ..identity };
        assert_eq!(Identity::decode(&format!("{text}13\n")), Some(with_session.clone()));
        assert_eq!(Identity::decode(&format!("{text}13")).and_then(|identity| identity.session), None);
        let bare = Identity { backstop_ms: None, cgroup_parent: None, session: None, ..with_session };
        assert_eq!(Identity::decode(&bare.encode()), Some(bare));
    }

    #[test]
    fn a_user_is_read_with_and_without_a_session_and_does_not_confuse_earlier_spawners() {
        let owner = Some(Owner { uid: 900, gid: 901 });
        let identity = Identity { pid: 12, slot: "default-0".to_owned(), owner, ..Identity::default() };
        let text = identity.encode();
        assert_eq!(Identity::decode(&text), Some(identity.clone()));
        let at = identity.session_offset() as usize;
        for session in [7, 4_194_304, i32::MAX] {
            let mut written = text.clone();
            let line = format!("{session}\n");
            written.replace_range(at..at + line.len(), &line);
            let want = Identity { session: Some(session), ..identity.clone() };
            assert_eq!(Identity::decode(&written), Some(want));
            // An earlier spawner reads five lines.
            assert_eq!(written.lines().nth(4), Some(&*session.to_string()));
        }
        assert!(text.lines().nth(4).is_some_and(|line| line.parse::<i32>().is_err()));
    }
}
