//! The shim: one process per attempt, forked from the spawner without exec. It starts the job, keeps its log and its
//! deadlines, ends what is left of it and writes how it ended.
//!
//! It outlives the daemon and the spawner and asks neither for anything. While it lives it holds the attempt's start lock.
//! Whatever goes wrong before `began` is written is told as "refused": nothing ran. From `began` on there is either an exit
//! record or, if the shim itself dies, an attempt that is lost.
//!
//! Order: identity into the lock file → TMPDIR, specification, pipe, cgroup → `began` → the job runs → main process ends →
//! nothing of the job is left → log complete → TMPDIR wiped → exit record → lock free.

pub(crate) mod clock;
mod end;
pub(crate) mod receipt;
pub(crate) mod spec;
pub(crate) mod tell;
mod watch;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::attempts::{Attempts, Identity};
use crate::cgroup::{Leaf, Parent};
use crate::dirs::{Dirs, slot_place};
use crate::failpoint::{self, hit};
use crate::joblog::{LogOptions, LogWriter};
use crate::launch::{self, Launched, Program, Stage};
use crate::policy_file::User;
use crate::protocol::{AttemptKey, ExitRecord, Limits, Start, names};
use crate::sys::{self, OpenFiles};
use crate::tmpdir::SlotDir;
use crate::{record, remains};

pub(crate) use self::watch::{hard_timeout_text, soft_timeout_text};

/// Why nothing can be limited where jobs have no cgroups.
pub(crate) const NO_CGROUP: &str =
    "limits cannot be enforced: jobs have no cgroups of their own here (no writable cgroup v2)";

/// A specification larger than this has left holes in the heap that are worth giving back.
const LARGE_SPEC_BYTES: usize = 16 * 1024;

/// What every shim inherits from the spawner.
pub(crate) struct Shared {
    /// The attempt directories.
    pub(crate) attempts: Attempts,
    /// Where cgroups are made, if they can be.
    pub(crate) cgroup: Option<Parent>,
    /// A pipe to the spawner, for what cannot be written to the attempt's directory.
    pub(crate) notes: OwnedFd,
    /// The spawner's own directories, for stores whose daemon named none.
    pub(crate) dirs: Dirs,
    /// Limits of open files of jobs.
    pub(crate) job_open_files: OpenFiles,
}

impl Shared {
    /// Tells how the attempt ended.
    fn publish(&self, record: &ExitRecord) {
        tell::publish(&self.attempts, &self.notes, record, Note::Record);
    }
}

/// What this shim is for.
pub(crate) struct Order {
    /// The request.
    pub(crate) start: Start,
    /// The start lock, held.
    pub(crate) lock: OwnedFd,
    /// The specification.
    pub(crate) spec: OwnedFd,
    /// The secrets.
    pub(crate) secrets: Option<OwnedFd>,
    /// What to write into the lock file, but who we are.
    pub(crate) identity: Identity,
    /// Where its log goes.
    pub(crate) dirs: Dirs,
    /// Whom the job becomes; None: it stays who we are.
    pub(crate) user: Option<User>,
}

/// What a shim tells over the pipe, one line of JSON each, shorter than `PIPE_BUF`.
#[derive(Serialize, Deserialize)]
pub(crate) enum Note {
    /// The exit record: the attempt's directory is gone or full.
    Record(ExitRecord),
    /// Nothing ran, and why.
    Refused(AttemptKey, String),
}

/// The forked child's whole life.
pub(crate) fn run(shared: &Shared, order: Order) -> ! {
    let key = order.start.key.clone();
    // A panic must not unwind into the copy of the spawner's loop. What the job left is then the spawner's to end.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(shared, order)));
    match outcome {
        Ok(Ok(())) => sys::exit_now(0),
        Ok(Err(why)) => {
            tell::note(&shared.notes, &Note::Refused(key, record::shortened(&why)));
            sys::exit_now(1)
        }
        Err(_) => sys::exit_now(70),
    }
}

/// Err: nothing ran, and why.
fn attempt(shared: &Shared, order: Order) -> Result<(), String> {
    settle(shared, &order);
    let start = &order.start;
    hit(failpoint::SHIM_BEFORE_IDENTITY);
    let session_offset = identify(&order)?;
    let signals = sys::signal_fd(&[libc::SIGCHLD, sys::signal_stop(), sys::signal_kill()])
        .map_err(|error| format!("cannot receive signals: {error}"))?;
    let user = order.user.as_ref();
    let mut slot = open_slot(shared, &order.identity.slot, user)?;
    if let Some(user) = user {
        // An earlier job's end may not have come to it: a power cut, or something that could not be removed then.
        remains::remove(user).map_err(|error| error.to_string())?;
        slot = slot.renewed(user).map_err(|error| format!("cannot make TMPDIR anew: {error}"))?;
    }
    let loaded = spec::load(&order.spec, order.secrets.as_ref(), slot.path());
    let loaded = match loaded.map(|loaded| loaded.for_user(user, slot.path())) {
        Ok(loaded) => loaded,
        Err(cause) => {
            let now = clock::Started::now();
            let record = now.failed(&start.key, &cause);
            shared.publish(&record);
            return Ok(());
        }
    };
    let room = Room::make(shared, &order)?;
    if let Err(why) = limit(shared, room.leaf.as_ref(), &start.limits) {
        let _ = room.leaf.map(|leaf| leaf.remove());
        shared.publish(&clock::Started::now().failed(&start.key, &why));
        return Ok(());
    }
    hit(failpoint::SHIM_BEFORE_BEGAN);
    shared.attempts.mark(&start.key, names::BEGAN).map_err(|error| format!("cannot write `began`: {error}"))?;
    hit(failpoint::SHIM_AFTER_BEGAN);

    let started = clock::Started::now();
    let (launched, room) = room.launch(shared, &order, &loaded.program, session_offset)?;
    hit(failpoint::SHIM_AFTER_EXEC);
    let failed = launched.failed.map(|(stage, error)| cannot_start(&loaded.program, stage, &error));
    let masker = loaded.masker;
    let large = loaded.spec_bytes > LARGE_SPEC_BYTES;
    drop((loaded.program, order.spec, order.secrets));
    if large {
        sys::give_memory_back();
    }
    let options = LogOptions {
        store: start.key.store.clone(),
        job: start.key.job,
        attempt: start.key.attempt,
        start_wall_ms: started.wall_ms(),
        bytes_max: start.log_bytes_max,
        masker,
    };
    let job = watch::Job {
        main: launched.pid,
        failed,
        leaf: room.leaf,
        output: room.output,
        _writer: room.job_output,
        signals,
        log: LogWriter::new(room.log_dir, options),
        started,
        killed: false,
    };
    let record = job.watch(start);
    leave(shared, record, &slot, user);
    Ok(())
}

/// What is made for a job: where its output goes, and its cgroup.
struct Room {
    log_dir: OwnedFd,
    output: OwnedFd,
    /// The job's end of the pipe.
    job_output: OwnedFd,
    leaf: Option<Leaf>,
}

impl Room {
    /// Makes it, and room for the result.
    fn make(shared: &Shared, order: &Order) -> Result<Self, String> {
        let key = &order.start.key;
        let log_dir = &order.dirs.log_dir;
        let log_dir = open_dir(log_dir).map_err(|error| describe("open the log directory", log_dir, error))?;
        shared.attempts.reserve_exit(key).map_err(|error| format!("there is no room for its result: {error}"))?;
        crate::joblog::make_way(&log_dir, key.job, key.attempt);
        let (output, job_output) = output_pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
        let leaf = shared.cgroup.as_ref().map(|parent| Leaf::make(parent, key)).transpose();
        let leaf = leaf.map_err(|error| format!("cannot make a cgroup: {error}"))?;
        Ok(Self { log_dir, output, job_output, leaf })
    }

    /// Makes the job's process. Err: none was made, and so the attempt did not begin after all.
    fn launch(
        self,
        shared: &Shared,
        order: &Order,
        program: &Program,
        session_offset: u64,
    ) -> Result<(Launched, Self), String> {
        let cgroup = shared.cgroup.as_ref().zip(self.leaf.as_ref());
        let lock = (order.lock.as_fd(), session_offset);
        let user = order.user.as_ref().map(|user| (user.uid, user.gid));
        let limits = launch::Limits { open_files: shared.job_open_files, user };
        let launched = launch::launch(program, self.job_output.as_fd(), lock, cgroup, limits);
        // A child that changed its user took the right to be looked at from the memory that it shared with us.
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
        match launched {
            Ok(launched) => Ok((launched, self)),
            Err(error) => {
                let _ = self.leaf.map(|leaf| leaf.remove());
                let _ = shared.attempts.unmark(&order.start.key, names::BEGAN);
                Err(format!("cannot make a process: {error}"))
            }
        }
    }
}

/// Takes away what the job left where the next one works, then tells how it ended.
fn leave(shared: &Shared, mut record: ExitRecord, slot: &SlotDir, user: Option<&User>) {
    if let Some(used) = &mut record.used {
        used.disk_bytes = slot.disk_bytes();
    }
    if let Some(Err(error)) = user.map(remains::remove) {
        say!("{}: {error}", record.key);
    }
    if let Err(error) = slot.wipe() {
        say!("{}: cannot empty {}: {error}", record.key, slot.path().display());
    }
    hit(failpoint::SHIM_BEFORE_EXIT_RECORD);
    shared.publish(&record);
}

/// Err: the job cannot be made to keep to its limits, and so must not run.
fn limit(shared: &Shared, leaf: Option<&Leaf>, limits: &Limits) -> Result<(), String> {
    match (&shared.cgroup, leaf) {
        (Some(parent), Some(leaf)) => leaf.limit(limits, parent.enforces()),
        _ if limits.is_none() => Ok(()),
        _ => Err(NO_CGROUP.to_owned()),
    }
}

/// Own process group, own name, heir of all orphans; nothing open but what is needed. A session of its own would protect no
/// more (the spawner's has no terminal) and costs a scheduling group per job.
fn settle(shared: &Shared, order: &Order) {
    let mut keep = [
        shared.attempts.raw(),
        shared.notes.as_raw_fd(),
        shared.cgroup.as_ref().map_or(-1, Parent::raw),
        order.lock.as_raw_fd(),
        order.spec.as_raw_fd(),
        order.secrets.as_ref().map_or(-1, AsRawFd::as_raw_fd),
    ];
    sys::close_from_but(3, &mut keep);
    let _ = rustix::process::setpgid(None, None);
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let _ = rustix::thread::set_name(c"ci-shim");
}

/// Writes who we are into the lock file; tells where the job's session goes.
fn identify(order: &Order) -> Result<u64, String> {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let identity = Identity { pid, lock_fd: order.lock.as_raw_fd(), ..order.identity.clone() };
    let text = identity.encode();
    match rustix::io::pwrite(&order.lock, text.as_bytes(), 0) {
        Ok(written) if written == text.len() => Ok(identity.session_offset()),
        Ok(_) => Err("cannot write the lock file: no space".to_owned()),
        Err(error) => Err(format!("cannot write the lock file: {error}")),
    }
}

fn open_slot(shared: &Shared, slot: &str, user: Option<&User>) -> Result<SlotDir, String> {
    let (tmp_dir, name) = slot_place(&shared.dirs.tmp_dir, slot);
    let root =
        open_dir(&tmp_dir).map_err(|error| describe("open the directory for temporary files", &tmp_dir, error))?;
    SlotDir::prepare(root.as_fd(), &tmp_dir, &name, user)
        .map_err(|error| describe("prepare TMPDIR", &tmp_dir.join(&name), error))
}

/// Opened anew for each job, so that a directory which was replaced meanwhile is found; made if it is missing.
pub(crate) fn open_dir(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            std::fs::create_dir_all(path)?;
            Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
        }
        other => Ok(other?),
    }
}

fn describe(what: &str, path: &Path, error: std::io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

/// Our end does not block (a job can read its own pipe through /dev/stdout and leave us nothing), the job's end does.
pub(crate) fn output_pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (ours, jobs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    Ok((ours, jobs))
}

/// What a person reads when nothing ran.
pub(crate) fn cannot_start(program: &Program, stage: Stage, error: &std::io::Error) -> String {
    let text = system_text(error);
    match stage {
        Stage::Prepare => format!("cannot prepare the process: {text}"),
        Stage::Place => "a path of its pool leads to another directory than when it was checked".to_owned(),
        Stage::Directory => {
            let dir = record::shortened_name(&program.dir.to_string_lossy());
            format!("cannot enter directory `{dir}`: {text}")
        }
        Stage::Execute => {
            let name = program.argv.first().map_or("".into(), |name| name.to_string_lossy());
            let name = record::shortened_name(&name);
            let there = || program.candidates.iter().any(|path| exists(program.dir.as_c_str(), path));
            let hint = match error.raw_os_error() {
                Some(libc::ENOENT) if there() => " (it is there, but its interpreter is not)",
                Some(libc::ENOEXEC) => " (a script begins with a line like `#!/bin/sh`)",
                _ => "",
            };
            format!("cannot run `{name}`: {text}{hint}")
        }
    }
}

fn exists(dir: &std::ffi::CStr, path: &std::ffi::CStr) -> bool {
    let dir = rustix::fs::openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    dir.is_ok_and(|dir: OwnedFd| {
        let dir: BorrowedFd<'_> = dir.as_fd();
        rustix::fs::statat(dir, path, rustix::fs::AtFlags::empty()).is_ok()
    })
}

/// `No such file or directory`, without Rust's ` (os error 2)`.
fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
