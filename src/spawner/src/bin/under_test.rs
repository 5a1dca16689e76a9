//! The same as `ci-runner-spawner`, for the tests of this crate, which Cargo gives only binaries of their own package; and the
//! one hostile job that no shell can play: `fork-loop FILE MARKER CHAINS`, chains of processes that each live for one fork.

use std::io::Write;

fn main() -> std::process::ExitCode {
    let words: Vec<String> = std::env::args().collect();
    match words.as_slice() {
        [_, mode, file, _marker, chains] if mode == "fork-loop" => fork_loop(file, chains.parse().unwrap_or(1)),
        _ => ci_runner_spawner::main(),
    }
}

/// Every link makes the next, leaves its session every now and then, adds a byte to the file and ends. Never returns.
fn fork_loop(file: &str, chains: u32) -> ! {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).expect("a file");
    // SAFETY: there is one thread; fork, setsid, pause and _exit have no preconditions.
    unsafe {
        for _ in 0..chains {
            if libc::fork() == 0 {
                let mut link = 0_u64;
                loop {
                    match libc::fork() {
                        0 => link += 1,
                        -1 => continue,
                        _ => libc::_exit(0),
                    }
                    if link % 7 == 0 {
                        libc::setsid();
                    }
                    let _ = file.write_all(b"x");
                }
            }
        }
        loop {
            libc::pause();
        }
    }
}
