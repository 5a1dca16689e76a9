//! What this program does when a measurement starts it: the machine's own limit, and jobs that tell the time.

use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

/// Each of the two spawning processes has so many in flight.
const IN_FLIGHT: usize = 2;
/// A ticking job prints a line so often.
pub const TICK: Duration = Duration::from_millis(10);

/// CLOCK_MONOTONIC, nanoseconds: the same for all processes of a host.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Runs a helper if these words ask for one.
pub fn run(words: &[String]) -> Option<ExitCode> {
    let done = match words {
        [mode, file] if mode == "stamp" => stamp(file),
        [mode, jobs] if mode == "spawn-loop" => spawn_loop(jobs.parse().ok()?),
        [mode, seconds] if mode == "tick" => tick(Duration::from_secs(seconds.parse().ok()?)),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ci-runner-bench: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Writes the time to a pipe, first of all.
fn stamp(file: &str) -> std::io::Result<()> {
    let now = monotonic_ns();
    std::fs::OpenOptions::new().write(true).open(file)?.write_all(format!("{now}\n").as_bytes())
}

/// `Command` is `posix_spawn` underneath, as long as nothing but program, words and environment is asked for.
fn spawn_loop(jobs: usize) -> std::io::Result<()> {
    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    let mut running: VecDeque<Child> = VecDeque::new();
    for _ in 0..jobs {
        if running.len() == IN_FLIGHT
            && let Some(mut oldest) = running.pop_front()
        {
            oldest.wait()?;
        }
        running.push_back(Command::new("/bin/true").spawn()?);
    }
    running.iter_mut().try_for_each(|child| child.wait().map(drop))
}

/// Prints the time, again and again.
fn tick(how_long: Duration) -> std::io::Result<()> {
    let until = Instant::now() + how_long;
    let mut out = std::io::stdout().lock();
    while Instant::now() < until {
        writeln!(out, "{}", monotonic_ns())?;
        out.flush()?;
        std::thread::sleep(TICK);
    }
    Ok(())
}
