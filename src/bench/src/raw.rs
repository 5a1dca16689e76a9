//! The machine's own limit: two processes with a loop of `posix_spawn`, two in flight each.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

/// `/bin/true` a second.
pub fn raw(jobs: usize) -> Result<f64> {
    raw_with(2, jobs)
}

/// The same with so many spawning processes.
pub fn raw_with(processes: usize, jobs: usize) -> Result<f64> {
    let me = std::env::current_exe()?;
    let each = jobs / processes;
    let mut loops = Vec::new();
    for _ in 0..processes {
        let mut child = Command::new(&me)
            .args(["spawn-loop", &each.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a spawning process")?;
        let out = child.stdout.take().context("its output is piped")?;
        BufReader::new(out).read_line(&mut String::new())?;
        loops.push(child);
    }
    let begin = Instant::now();
    for child in &mut loops {
        child.stdin.take().context("its input is piped")?.write_all(b"go\n")?;
    }
    for child in &mut loops {
        ensure!(child.wait()?.success(), "a spawning process failed");
    }
    Ok((each * processes) as f64 / begin.elapsed().as_secs_f64())
}
