//! From a shim to a running job: one child that shares the shim's memory until it executes.
//!
//! The child is made with `CLONE_VM | CLONE_VFORK`, as `posix_spawn` does: no page table is copied, the shim sleeps until
//! the child has executed or ended, and a failure comes back through memory. The child runs [`child`] on a stack of its own
//! and may only make system calls there: no allocation, no panic, no lock. With `clone3` it is born in the job's cgroup.
//!
//! Where `clone3` is refused (an old container's filter) or the machine is not an x86-64, the C library's `clone` makes the
//! child and it writes itself into `cgroup.procs`.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::cgroup::{Entry, Leaf, Parent};
use crate::sys::{self, OpenFiles};

/// `keyctl(2)`: a new session keyring, so that the job has not the spawner's.
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
/// The child's stack: it calls only thin wrappers of system calls.
const STACK_BYTES: usize = 32 * 1024;

/// All that a job's process needs, in the form the kernel takes.
pub(crate) struct Program {
    /// Program name and arguments.
    pub(crate) argv: Vec<CString>,
    /// The whole environment.
    pub(crate) env: Vec<CString>,
    /// Paths to try, in order.
    pub(crate) candidates: Vec<CString>,
    /// Working directory.
    pub(crate) dir: CString,
    /// File mode creation mask.
    pub(crate) umask: u32,
}

/// Where a child that did not execute stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Session, descriptors, cgroup: a fault of ours.
    Prepare,
    /// The working directory.
    Directory,
    /// `execve`.
    Execute,
    /// A directory of its pool is not the one that the policy names (any more). Units only.
    Place,
}

/// A job's process that was made; it may have failed to execute.
pub(crate) struct Launched {
    /// Its process id, to be reaped in either case.
    pub(crate) pid: i32,
    /// None: it runs the job.
    pub(crate) failed: Option<(Stage, io::Error)>,
}

/// What the child reads and writes; lives in the shim's frame, which waits.
#[repr(C)]
struct Orders {
    argv: *const *const c_char,
    env: *const *const c_char,
    candidates: *const *const c_char,
    dir: *const c_char,
    umask: libc::mode_t,
    output: c_int,
    lock: c_int,
    session_offset: libc::off_t,
    cgroup_procs: c_int,
    open_files: libc::rlimit,
    cores: libc::rlimit,
    /// -1: it stays who we are.
    uid: libc::c_long,
    gid: libc::c_long,
    stage: Stage,
    errno: c_int,
}

#[repr(C, align(16))]
struct Stack([MaybeUninit<u8>; STACK_BYTES]);

/// What a job's process is held to.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Limits of open files.
    pub(crate) open_files: OpenFiles,
    /// User and group that it becomes.
    pub(crate) user: Option<(u32, u32)>,
}

/// Starts the job. `output` becomes its standard output and error, its session is noted in `lock` at `session_offset`. Err:
/// no process of the job's was made.
pub(crate) fn launch(
    program: &Program,
    output: BorrowedFd<'_>,
    lock: (BorrowedFd<'_>, u64),
    cgroup: Option<(&Parent, &Leaf)>,
    limits: Limits,
) -> io::Result<Launched> {
    let Limits { open_files, user } = limits;
    let moves: Option<OwnedFd> = match cgroup {
        Some((parent, leaf)) if parent.entry() == Entry::Moves => Some(leaf.open_procs()?),
        _ => None,
    };
    let born_in = cgroup.filter(|(parent, _)| parent.entry() == Entry::Born).map(|(_, leaf)| leaf.dir());
    let (argv, env, candidates) = (pointers(&program.argv), pointers(&program.env), pointers(&program.candidates));
    let mut orders = Orders {
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        candidates: candidates.as_ptr(),
        dir: program.dir.as_ptr(),
        umask: program.umask as libc::mode_t,
        output: output.as_raw_fd(),
        lock: lock.0.as_raw_fd(),
        session_offset: libc::off_t::try_from(lock.1).unwrap_or(0),
        cgroup_procs: moves.as_ref().map_or(-1, |procs| procs.as_raw_fd()),
        open_files: libc::rlimit { rlim_cur: open_files.soft.min(open_files.hard), rlim_max: open_files.hard },
        cores: crate::cores::of_jobs(),
        uid: user.map_or(-1, |(uid, _)| libc::c_long::from(uid)),
        gid: user.map_or(-1, |(_, gid)| libc::c_long::from(gid)),
        stage: Stage::Prepare,
        errno: 0,
    };
    // SAFETY: `child` only makes system calls, and everything it points to lives in this frame or in `program`, both of
    // which outlive it: CLONE_VFORK returns here only after it has executed or ended.
    let pid = unsafe { spawn(child, (&raw mut orders).cast(), born_in)? };
    // The child has written through the pointer behind the compiler's back.
    // SAFETY: `orders` is initialised and nobody else runs on it any more.
    let (stage, errno) =
        unsafe { ((&raw const orders.stage).read_volatile(), (&raw const orders.errno).read_volatile()) };
    // A quota was used up before the job was there: that will pass, and is no fault of the job's.
    if (stage, errno) == (Stage::Prepare, libc::EDQUOT) {
        let _ = sys::wait_for(pid);
        return Err(io::Error::from_raw_os_error(errno));
    }
    let failed = (errno != 0).then(|| (stage, io::Error::from_raw_os_error(errno)));
    Ok(Launched { pid, failed })
}

/// Makes this process the program; comes back only with where that failed, and the error number.
pub(crate) fn become_program(program: &Program) -> (Stage, c_int) {
    let (argv, env, candidates) = (pointers(&program.argv), pointers(&program.env), pointers(&program.candidates));
    let orders = Orders {
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        candidates: candidates.as_ptr(),
        dir: program.dir.as_ptr(),
        umask: program.umask as libc::mode_t,
        output: -1,
        lock: -1,
        session_offset: 0,
        cgroup_procs: -1,
        open_files: libc::rlimit { rlim_cur: 0, rlim_max: 0 },
        cores: libc::rlimit { rlim_cur: 0, rlim_max: 0 },
        uid: -1,
        gid: -1,
        stage: Stage::Execute,
        errno: 0,
    };
    // SAFETY: every pointer leads to a string, or to a list that ends with null, which live in this frame or in `program`.
    unsafe {
        if libc::chdir(orders.dir) != 0 {
            return (Stage::Directory, *libc::__errno_location());
        }
        crate::cores::give_back();
        (Stage::Execute, execute(&orders))
    }
}

fn pointers(words: &[CString]) -> Vec<*const c_char> {
    words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
}

/// True when a process can be made inside the cgroup behind `dir`.
pub(crate) fn can_be_born_in(dir: BorrowedFd<'_>) -> bool {
    extern "C" fn end(_: *mut c_void) -> c_int {
        0
    }
    // SAFETY: `end` touches nothing.
    let made = cfg!(target_arch = "x86_64").then(|| unsafe { spawn(end, std::ptr::null_mut(), Some(dir)) });
    made.and_then(Result::ok).is_some_and(ended_well)
}

/// True when a process can move itself by writing to `procs`.
pub(crate) fn can_move_to(procs: BorrowedFd<'_>) -> bool {
    extern "C" fn enter(fd: *mut c_void) -> c_int {
        // SAFETY: one system call on a constant.
        let written = unsafe { libc::write(fd as usize as c_int, c"0".as_ptr().cast(), 1) };
        if written == 1 { 0 } else { 1 }
    }
    let fd = procs.as_fd().as_raw_fd() as usize as *mut c_void;
    // SAFETY: `enter` makes one system call on its argument, which is a number.
    unsafe { spawn(enter, fd, None) }.is_ok_and(ended_well)
}

fn ended_well(pid: i32) -> bool {
    sys::wait_for(pid).is_ok_and(|status| status == 0)
}

/// Makes a child that shares memory, runs `entry(arg)` on its own stack and then ends with what that returns.
///
/// # Safety
/// `entry` may only make system calls and write to what `arg` points to; that must stay valid until this returns.
unsafe fn spawn(
    entry: extern "C" fn(*mut c_void) -> c_int,
    arg: *mut c_void,
    born_in: Option<BorrowedFd<'_>>,
) -> io::Result<i32> {
    let mut stack = Stack([MaybeUninit::uninit(); STACK_BYTES]);
    // SAFETY: the caller's promises; the stack lives until the child has executed or ended.
    let pid = match born_in {
        Some(cgroup) => unsafe { clone3_into(entry, arg, &mut stack, cgroup) },
        None => unsafe {
            let top = stack.0.as_mut_ptr().add(STACK_BYTES).cast();
            libc::clone(entry, top, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, arg)
        },
    };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

/// `clone3` with CLONE_INTO_CGROUP. The C library has no wrapper, and a child on another stack cannot return through
/// compiled code, so the first instructions of the child are written out. Returns -1 with errno set on failure.
///
/// # Safety
/// As [`spawn`].
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_into(
    entry: extern "C" fn(*mut c_void) -> c_int,
    arg: *mut c_void,
    stack: &mut Stack,
    cgroup: BorrowedFd<'_>,
) -> c_int {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: clone_args is plain numbers, all of which may be zero.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP | libc::CLONE_VM as u64 | libc::CLONE_VFORK as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = stack.0.as_mut_ptr() as u64;
    args.stack_size = STACK_BYTES as u64;
    args.cgroup = cgroup.as_raw_fd() as u64;
    let result: i64;
    // SAFETY: in the parent this is a system call that clobbers rax, rcx and r11 only. The child has rax = 0 and an aligned,
    // empty stack of its own; it calls `entry(arg)` and ends, never reaching the code after the block.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "mov edi, eax",
            "mov eax, 60", // exit
            "syscall",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") arg,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if result >= 0 {
        return result as c_int;
    }
    // SAFETY: errno of this thread.
    unsafe { *libc::__errno_location() = -result as c_int };
    -1
}

/// Elsewhere the probe says no, so that this is never called.
///
/// # Safety
/// None needed.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone3_into(
    _: extern "C" fn(*mut c_void) -> c_int,
    _: *mut c_void,
    _: &mut Stack,
    _: BorrowedFd<'_>,
) -> c_int {
    // SAFETY: errno of this thread.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

/// The job's process before it executes. Only system calls: it runs on the shim's memory.
extern "C" fn child(orders: *mut c_void) -> c_int {
    let orders = orders.cast::<Orders>();
    // SAFETY: `launch` passes a valid pointer and sleeps meanwhile; all pointers in it are valid until we execute or end.
    unsafe {
        (*orders).errno = prepare(&*orders);
        if (*orders).errno != 0 {
            return 127;
        }
        (*orders).stage = Stage::Directory;
        if libc::chdir((*orders).dir) != 0 {
            (*orders).errno = *libc::__errno_location();
            return 127;
        }
        (*orders).stage = Stage::Execute;
        (*orders).errno = execute(&*orders);
        127
    }
}

/// Session, cgroup, descriptors and their limit, umask, signals; the error number, or 0.
///
/// # Safety
/// Only in the child.
unsafe fn prepare(orders: &Orders) -> c_int {
    // SAFETY: system calls on valid pointers; `mask` is initialised before use.
    unsafe {
        let session = libc::setsid();
        let mut number = [0_u8; 12];
        let digits = decimal(session, &mut number);
        if session < 0
            || libc::pwrite(orders.lock, digits.as_ptr().cast(), digits.len(), orders.session_offset) < 0
            || (orders.cgroup_procs >= 0 && libc::write(orders.cgroup_procs, c"0".as_ptr().cast(), 1) < 0)
            || libc::dup2(orders.output, 1) < 0
            || libc::dup2(orders.output, 2) < 0
            || libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) < 0
            || libc::setrlimit(libc::RLIMIT_NOFILE, &orders.open_files) < 0
            || libc::setrlimit(libc::RLIMIT_CORE, &orders.cores) < 0
        {
            return *libc::__errno_location();
        }
        // The C library's own would tell all threads of the shim, whose memory this is. The keyring comes first: it counts
        // against the quota of who makes it, and an earlier job of the user may have used up the user's.
        if orders.uid >= 0
            && ((libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0_usize) < 0 && !no_keyrings())
                || libc::syscall(libc::SYS_setgroups, 0_usize, 0_usize) < 0
                || libc::syscall(libc::SYS_setresgid, orders.gid, orders.gid, orders.gid) < 0
                || libc::syscall(libc::SYS_setresuid, orders.uid, orders.uid, orders.uid) < 0)
        {
            return *libc::__errno_location();
        }
        libc::umask(orders.umask);
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(mask.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, mask.as_ptr(), std::ptr::null_mut());
        0
    }
}

/// True when the kernel, or a filter that holds for the job too, has just refused keyrings: then there is none to share.
fn no_keyrings() -> bool {
    // SAFETY: errno of this thread.
    matches!(unsafe { *libc::__errno_location() }, libc::ENOSYS | libc::EPERM | libc::EACCES)
}

/// `number` and a newline, without allocation.
fn decimal(number: i32, buffer: &mut [u8; 12]) -> &[u8] {
    let mut rest = number.unsigned_abs();
    let mut at = buffer.len() - 1;
    buffer[at] = b'\n';
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 || at == 0 {
            return &buffer[at..];
        }
    }
}

/// Tries the candidates as `execvp` does; returns the error that says most.
///
/// # Safety
/// Only in the child, with all pointers valid.
unsafe fn execute(orders: &Orders) -> c_int {
    let mut denied = false;
    let mut at = orders.candidates;
    // SAFETY: the lists end with null; a successful execve does not return.
    unsafe {
        while !(*at).is_null() {
            libc::execve(*at, orders.argv, orders.env);
            match *libc::__errno_location() {
                libc::EACCES => denied = true,
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                errno => return errno,
            }
            at = at.add(1);
        }
    }
    if denied { libc::EACCES } else { libc::ENOENT }
}

#[cfg(test)]
mod tests {
    #[test]
    fn decimal_writes_what_display_writes() {
        for number in [0, 1, 9, 10, 99_999, 4_194_304, i32::MAX] {
            assert_eq!(super::decimal(number, &mut [0; 12]), format!("{number}\n").as_bytes());
        }
    }
}
