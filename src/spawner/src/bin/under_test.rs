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

/// A chain that nobody ends ends itself: it would take a machine's process ids and never be caught by hand.
const CHAIN_LASTS: std::time::Duration = std::time::Duration::from_secs(20);

/// Every link makes the next, leaves its session every now and then, adds a byte to the file and ends. Never returns. Ends when
/// `FILE.stop` is there.
fn fork_loop(path: &str, chains: u32) -> ! {
    let began = std::time::Instant::now();
    let stop = std::path::PathBuf::from(format!("{path}.stop"));
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).expect("a file");
    // SAFETY: there is one thread; fork, setsid, pause and _exit have no preconditions.
    unsafe {
        for _ in 0..chains {
            if libc::fork() == 0 {
                let mut link = 0_u64;
                while began.elapsed() < CHAIN_LASTS && !stop.exists() {
                    match libc::fork() {
                        0 => link += 1,
                        -1 => continue,
                        _ => libc::_exit(0),
                    }
                    if link.is_multiple_of(7) {
                        libc::setsid();
                    }
                    let _ = file.write_all(b"x");
                }
                libc::_exit(0);
            }
        }
        loop {
            libc::pause();
        }
    }
}
