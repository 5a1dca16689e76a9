//! The few system calls that rustix does not wrap, each behind a safe function.
//!
//! May not decide anything. Everything here is for single-threaded processes.

pub(crate) mod inode;

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Size of the kernel's signal set: 64 signals.
const KERNEL_SIGSET_BYTES: usize = 8;

/// Spawner to shim: stop the job; the value is the grace in milliseconds. Queued, so none is merged away.
pub(crate) fn signal_stop() -> i32 {
    libc::SIGRTMIN() + 3
}

/// Spawner to shim: kill the job now.
pub(crate) fn signal_kill() -> i32 {
    libc::SIGRTMIN() + 4
}

/// Spawner to the shim of a unit: the verdict is written.
pub(crate) fn signal_finish() -> i32 {
    libc::SIGRTMIN() + 5
}

/// Spawner to the shim of a unit: no helper will come.
pub(crate) fn signal_give_up() -> i32 {
    libc::SIGRTMIN() + 6
}

/// Microseconds by which CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC: the time that the machine slept.
pub(crate) fn slept_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    boottime_us().saturating_sub(now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000)
}

/// Milliseconds of CLOCK_BOOTTIME, which also runs while the machine sleeps: all deadlines are on it.
pub(crate) fn boottime_ms() -> u64 {
    boottime_us() / 1000
}

/// Microseconds of CLOCK_BOOTTIME.
pub(crate) fn boottime_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Wall clock, milliseconds since 1970: only ever shown, never compared.
pub(crate) fn wall_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Every signal back to its default action (the Rust runtime ignores SIGPIPE, a caller like `nohup` SIGHUP), and all
/// blocked: from here on signals are read from a descriptor. A job's child unblocks them.
pub(crate) fn own_signals() {
    // The kernel's `struct sigaction` in zeros: SIG_DFL, no flags, empty mask. Not through the C library, which does not let
    // go of the two signals it uses itself; a caller may have left those ignored too.
    let default = [0_u64; 8];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the action runs no code of ours, and the buffer is longer than the kernel's struct on any machine. KILL and
        // STOP are refused, harmlessly.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                KERNEL_SIGSET_BYTES,
            );
        }
    }
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `all` is initialised by sigfillset before it is read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
    }
}

/// What a job finds: every signal at its default action, none blocked.
pub(crate) fn job_signals() {
    own_signals();
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `none` is initialised by sigemptyset before it is read.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Every descriptor from `first` on closes when a program is executed.
pub(crate) fn close_at_exec_from(first: libc::c_uint) {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: only flags of descriptors change.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
}

/// A non-blocking descriptor for blocked signals.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is initialised by sigemptyset first; the descriptor returned is new and ours.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        let fd = check(libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// PID 1 is `systemd-shutdown`: every unit has been stopped, and whoever does not end on its SIGTERM holds up the reboot for
/// a minute and a half.
pub(crate) fn host_goes_down() -> bool {
    // The kernel keeps fifteen bytes of the name.
    std::fs::read("/proc/1/comm").is_ok_and(|name| name.starts_with(b"systemd-shutdow"))
}

/// A signal that arrived.
pub(crate) struct Arrived {
    /// Number.
    pub(crate) signal: i32,
    /// What the sender queued with it.
    pub(crate) value: u64,
}

/// The next waiting signal, if any.
pub(crate) fn next_signal(fd: &OwnedFd) -> Option<Arrived> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is as long as we say; it is read only when the kernel has filled it.
    let info = unsafe {
        let got = libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size);
        if got != size as isize {
            return None;
        }
        info.assume_init()
    };
    Some(Arrived { signal: info.ssi_signo as i32, value: info.ssi_ptr })
}

/// What a look for dead children found.
pub(crate) enum Reaped {
    /// One child ended.
    Child(Dead),
    /// There are children, none has ended.
    Alive,
    /// There is no child at all: for a sub-reaper, nothing that descends from it lives.
    None,
}

/// A reaped child.
pub(crate) struct Dead {
    /// Its process id, free again now.
    pub(crate) pid: i32,
    /// As `wait` tells it.
    pub(crate) status: i32,
    /// What it and all it waited for have used.
    pub(crate) usage: libc::rusage,
}

/// Reaps at most one child, without waiting.
pub(crate) fn reap() -> Reaped {
    loop {
        let mut status = 0;
        // SAFETY: rusage is plain numbers, valid when zero; both pointers live through the call.
        let mut usage: libc::rusage = unsafe { zeroed() };
        // SAFETY: as above.
        let pid = unsafe { libc::wait4(-1, &mut status, libc::WNOHANG | libc::__WALL, &mut usage) };
        match pid {
            0 => return Reaped::Alive,
            pid if pid > 0 => return Reaped::Child(Dead { pid, status, usage }),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return Reaped::None,
        }
    }
}

/// `siginfo_t` of a queued signal, as the kernel lays it out (`include/uapi/asm-generic/siginfo.h`, `_rt`).
#[repr(C)]
struct QueuedSignal {
    signo: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    #[cfg(target_pointer_width = "64")]
    pad: libc::c_int,
    pid: libc::pid_t,
    uid: libc::uid_t,
    value: usize,
    rest: [usize; 12],
}

const _: () = assert!(size_of::<QueuedSignal>() <= size_of::<libc::siginfo_t>());

/// Queues `signal` with a value to the process behind `pidfd`.
pub(crate) fn queue_signal(pidfd: impl AsFd, signal: i32, value: u64) -> io::Result<()> {
    // SAFETY: siginfo_t is plain numbers; a prefix of it is overwritten by a struct that is not longer and has the
    // alignment of its members, which siginfo_t has too; the pointer lives through the call.
    unsafe {
        let mut info: libc::siginfo_t = zeroed();
        let queued = QueuedSignal {
            signo: signal,
            errno: 0,
            code: libc::SI_QUEUE,
            #[cfg(target_pointer_width = "64")]
            pad: 0,
            pid: libc::getpid(),
            uid: libc::getuid(),
            value: usize::try_from(value).unwrap_or(usize::MAX),
            rest: [0; 12],
        };
        std::ptr::write((&raw mut info).cast::<QueuedSignal>(), queued);
        let fd = pidfd.as_fd().as_raw_fd();
        let result = libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, &raw const info, 0);
        check(result as libc::c_int)?;
    }
    Ok(())
}

/// Closes every descriptor from `first` on that is not in `keep` (which it sorts).
pub(crate) fn close_from_but(first: RawFd, keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut from = first as libc::c_uint;
    for &fd in keep.iter() {
        let Ok(fd) = libc::c_uint::try_from(fd) else { continue };
        if fd < from {
            continue;
        }
        if fd > from {
            close_range(from, fd - 1);
        }
        from = fd + 1;
    }
    close_range(from, libc::c_uint::MAX);
}

fn close_range(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: the callers own all descriptors of this single-threaded process and use none of these again.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Limits of open files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFiles {
    /// The soft one that we were started with, or what jobs are to have.
    pub(crate) soft: u64,
    /// The hard one.
    pub(crate) hard: u64,
    /// Our own now.
    pub(crate) now: u64,
}

/// Raises our own soft limit of open files to the hard one: each shim of a predecessor takes a descriptor. Jobs get the old
/// one back, because some programs work through all numbers up to it.
pub(crate) fn raise_open_files() -> OpenFiles {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let (soft, hard) = (before.current.unwrap_or(libc::RLIM_INFINITY), before.maximum.unwrap_or(libc::RLIM_INFINITY));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum });
    OpenFiles { soft, hard, now: if raised.is_ok() { hard } else { soft } }
}

/// Forks this (single-threaded) process. None: this is the child.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: there is one thread, so the child's copy of all state is consistent.
    let pid = check(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid))
}

/// Waits for this child; what it exited with, or more than 255 for a signal.
pub(crate) fn wait_for(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: the pointer lives through the call.
    while let Err(error) = check(unsafe { libc::waitpid(pid, &mut status, libc::__WALL) }) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 256 + libc::WTERMSIG(status) })
}

/// Makes this process another user's, for ever, in no group but this one.
pub(crate) fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: numbers and a null pointer for an empty list.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    Ok(())
}

/// SIGKILL to every process that this one may signal, but itself: those of its own user, for one that is not root's. One
/// round is enough: the kernel takes all at once, and who has a SIGKILL waiting makes no child.
pub(crate) fn kill_all_of_own_user() -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Err(io::Error::other("root would kill everything"));
    }
    // SAFETY: numbers.
    match check(unsafe { libc::kill(-1, libc::SIGKILL) }) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// What System V has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IpcKind {
    /// Shared memory.
    Memory,
    /// Semaphores.
    Semaphores,
    /// Message queues.
    Messages,
}

/// Removes one, if this process may.
pub(crate) fn remove_ipc(kind: IpcKind, id: i32) {
    // SAFETY: IPC_RMID reads no memory.
    unsafe {
        match kind {
            IpcKind::Memory => libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()),
            IpcKind::Semaphores => libc::semctl(id, 0, libc::IPC_RMID),
            IpcKind::Messages => libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()),
        };
    }
}

/// What is asked of `keyctl(2)`; each takes numbers alone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keyctl {
    /// `KEYCTL_SETPERM`
    SetPermissions = 5,
    /// `KEYCTL_CLEAR`
    Clear = 7,
    /// `KEYCTL_GET_PERSISTENT`
    GetPersistent = 22,
}

/// Calls it with this keyring or user.
pub(crate) fn keyctl(what: Keyctl, of: libc::c_long, with: libc::c_long) -> io::Result<libc::c_long> {
    // SAFETY: none of these reads or writes our memory.
    match unsafe { libc::syscall(libc::SYS_keyctl, what as libc::c_long, of, with) } {
        ..0 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// A line into the spawner's log. Unlike `eprintln!` it never panics: a full disk must not end a shim.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    let line = format!("{line}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

/// Ends the process without running destructors or exit handlers: the way out of a forked shim.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Gives memory that was freed back to the system; for shims, which live long after they have read a large specification.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
