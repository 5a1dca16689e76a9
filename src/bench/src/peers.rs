//! Programs that do a part of the same, where they are installed. None of them flushes anything before it acknowledges.

use crate::home::private_dir;
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whether a program is on `PATH`.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// `xargs -P4`, jobs a second.
pub fn xargs(jobs: usize) -> Result<f64> {
    fed("xargs", &["-P4", "-n1", "/bin/true"], jobs)
}

/// GNU parallel, jobs a second.
pub fn parallel(jobs: usize) -> Result<f64> {
    fed("parallel", &["-j4", "--will-cite", "/bin/true", "{}"], jobs)
}

/// A program that takes a line for each job.
fn fed(program: &str, words: &[&str], jobs: usize) -> Result<f64> {
    let begin = Instant::now();
    let mut child = Command::new(program).args(words).stdin(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let lines: String = (0..jobs).map(|number| format!("{number}\n")).collect();
    child.stdin.take().context("its input is piped")?.write_all(lines.as_bytes())?;
    ensure!(child.wait()?.success(), "{program} failed");
    Ok(jobs as f64 / begin.elapsed().as_secs_f64())
}

/// A task-spooler server of our own.
pub struct TaskSpooler {
    dir: PathBuf,
}

impl TaskSpooler {
    /// Starts one with so many slots; none where it is not installed.
    pub fn start(slots: u32) -> Result<Option<Self>> {
        if !installed("tsp") {
            return Ok(None);
        }
        let spooler = Self { dir: private_dir(&std::env::temp_dir())? };
        spooler.tsp(&["-S", &slots.to_string()])?;
        Ok(Some(spooler))
    }

    /// A call of the client.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("tsp");
        command.args(words).env("TS_SOCKET", self.dir.join("s")).env("TMPDIR", &self.dir).env("TS_MAXFINISHED", "10");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn tsp(&self, words: &[&str]) -> Result<()> {
        ensure!(self.command(words).status()?.success(), "tsp {words:?} failed");
        Ok(())
    }

    /// So many jobs that waited for a slot, jobs a second.
    pub fn dispatch(&self, jobs: usize) -> Result<f64> {
        let gate = self.dir.join("gate");
        make_fifo(&gate)?;
        let gate_word = gate.to_string_lossy().into_owned();
        for _ in 0..4 {
            self.tsp(&["/bin/cat", &gate_word])?;
        }
        for _ in 0..jobs {
            self.tsp(&["/bin/true"])?;
        }
        // All four have opened it once this returns and the pause is over; closing it lets them end together.
        let open = std::fs::OpenOptions::new().write(true).open(&gate)?;
        std::thread::sleep(Duration::from_millis(200));
        let begin = Instant::now();
        drop(open);
        self.tsp(&["-w"])?;
        let rate = jobs as f64 / begin.elapsed().as_secs_f64();
        std::fs::remove_file(gate)?;
        Ok(rate)
    }
}

impl Drop for TaskSpooler {
    fn drop(&mut self) {
        self.tsp(&["-K"]).ok();
    }
}

/// Makes a named pipe.
pub fn make_fifo(path: &Path) -> Result<()> {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
        .with_context(|| format!("cannot make the pipe {}", path.display()))
}
