//! Processes that have a user as one of their four, and those that have not.

use super::*;
use crate::remains;
use crate::skipped;
use std::path::PathBuf;
use std::time::Duration;

/// A person, who is no slot's user, and a neighbour.
const PERSON: u32 = 1_900_000_001;
const NEIGHBOUR: u32 = 1_900_000_002;

/// Stack of the thread of a process that has no library any more.
const STACK_BYTES: usize = 64 * 1024;

fn user(uid: u32) -> User {
    User { name: format!("u{uid}"), uid, gid: uid, home: PathBuf::from("/") }
}

/// A process that waits until it is killed.
struct Waiter {
    pid: i32,
    pidfd: OwnedFd,
}

impl Waiter {
    /// Real, effective and saved user, the one for files, and what a second thread has as its effective one.
    fn start([real, effective, saved, files]: [u32; 4], thread: Option<u32>) -> Waiter {
        let (told, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let mut stack = vec![0_u8; STACK_BYTES];
        // SAFETY: the child only makes system calls, on memory that was made before.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "no process");
        if pid == 0 {
            // SAFETY: numbers; the thread has a stack of its own, which stays, and does nothing but wait.
            unsafe {
                if let Some(uid) = thread {
                    let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND;
                    let top = stack.as_mut_ptr().add(STACK_BYTES / 2).cast();
                    libc::clone(wait_as, top, flags | libc::CLONE_THREAD, uid as usize as *mut libc::c_void);
                }
                let done = libc::syscall(libc::SYS_setresuid, real, effective, saved);
                libc::setfsuid(files);
                let is_set = done == 0 && (files == effective || libc::setfsuid(u32::MAX) as u32 == files);
                let _ = rustix::io::write(&tell, &[u8::from(is_set)]);
                loop {
                    libc::pause();
                }
            }
        }
        drop(tell);
        let mut is_set = [0];
        assert_eq!(rustix::io::read(&told, &mut is_set), Ok(1));
        assert_eq!(is_set, [1]);
        Waiter { pid, pidfd: procs::pin(pid).expect("a handle") }
    }

    fn lives(&self) -> bool {
        !procs::has_ended(&self.pidfd)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = sys::wait_for(self.pid);
    }
}

extern "C" fn wait_as(uid: *mut libc::c_void) -> libc::c_int {
    // SAFETY: numbers; this thread alone becomes another user.
    unsafe {
        libc::syscall(libc::SYS_setresuid, -1, uid as usize as u32, -1);
        loop {
            libc::pause();
        }
    }
}

fn is_root(test: &str) -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        skipped::tell(test, "only root can make processes of other users");
    }
    is
}

fn has_uid(pid: i32, uid: u32) -> bool {
    Look::new(uid).and_then(|mut look| look.is_of_user(pid)).expect("a look")
}

/// One that was a person's but for its effective user outlived its job and read the secrets of the next ones.
#[test]
fn whoever_has_the_user_as_one_of_four_ends_and_nobody_else() {
    if !is_root("whoever_has_the_user_as_one_of_four_ends_and_nobody_else") {
        return;
    }
    let uid = 1_900_000_010;
    let mut all: Vec<Waiter> = Vec::new();
    for place in 0..4 {
        // The last one follows the second but where root says otherwise.
        let mut uids = [if place == 3 { 0 } else { PERSON }; 4];
        uids[place] = uid;
        all.push(Waiter::start(uids, None));
    }
    let others =
        [Waiter::start([PERSON; 4], None), Waiter::start([NEIGHBOUR; 4], Some(PERSON)), Waiter::start([0; 4], None)];
    // The control: what was done before leaves those that have it in neither of the two places.
    kill_as(&user(uid)).expect("killed");
    let deaths = || all.iter().map(Waiter::lives).collect::<Vec<_>>();
    let until = Instant::now() + Duration::from_secs(20);
    while deaths() != [false, true, false, true] {
        assert!(Instant::now() < until, "{:?}", deaths());
        std::thread::yield_now();
    }
    end_all(&user(uid)).expect("ended");
    assert_eq!(deaths(), [false; 4]);
    assert!(others.iter().all(Waiter::lives));
}

/// Its first thread had nothing of the user any more.
#[test]
fn a_thread_is_enough() {
    if !is_root("a_thread_is_enough") {
        return;
    }
    let uid = 1_900_000_020;
    let waiter = Waiter::start([PERSON; 4], Some(uid));
    let until = Instant::now() + Duration::from_secs(20);
    while !has_uid(waiter.pid, uid) {
        assert!(Instant::now() < until, "the thread never became that user");
        std::thread::yield_now();
    }
    end_all(&user(uid)).expect("ended");
    assert!(!waiter.lives());
}

/// As before a start and after an end: with what else a user leaves.
#[test]
fn remains_go_with_processes_of_others_that_have_the_user() {
    if !is_root("remains_go_with_processes_of_others_that_have_the_user") {
        return;
    }
    let uid = 1_900_000_030;
    let (waiter, other) = (Waiter::start([PERSON, uid, PERSON, PERSON], None), Waiter::start([PERSON; 4], None));
    remains::remove(&user(uid)).expect("removed");
    assert!(!waiter.lives() && other.lives());
}

/// A process that has been killed and waits for its parent does nothing any more, and nobody but that can take it away.
#[test]
fn the_dead_count_for_nothing_and_who_cannot_be_ended_is_named() {
    if !is_root("the_dead_count_for_nothing_and_who_cannot_be_ended_is_named") {
        return;
    }
    let uid = 1_900_000_040;
    let waiter = Waiter::start([PERSON, uid, PERSON, PERSON], None);
    let why = end_within(&user(uid), Duration::ZERO).expect_err("it is there").to_string();
    assert!(why.contains(&format!("process {} of u{uid}", waiter.pid)), "{why}");
    pidfd_send_signal(&waiter.pidfd, Signal::KILL).expect("killed");
    end_all(&user(uid)).expect("it is not reaped, and does nothing");
    assert!(end_all(&user(0)).is_err(), "root would be all");
}

#[test]
fn a_status_is_read_however_long_it_is() {
    let text = b"Name:\tUid:\\n\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t1\t2\t3\t4\nGid:\t9\t9\t9\t9\nThreads:\t1\n";
    let status = |alive, has_threads| Some(Status { uids: [1, 2, 3, 4], alive, has_threads });
    assert_eq!(parse(text), status(true, false));
    // Cut off among the groups.
    assert_eq!(parse(&text[..70]), status(true, true));
    assert_eq!(parse(b"State:\tZ (zombie)\nUid:\t1\t2\t3\t4\nThreads:\t7\n"), status(false, true));
    assert_eq!(parse(b"State:\tS\n"), None);
    assert_eq!(parse(b"Uid:\t1\t2\t3\n"), None);
}
