//! Tests of the job log.

mod defuse;
mod disk_full;
mod masker;
mod owner;
mod reader;
mod writer;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::joblog::{LogOptions, LogReader, LogWriter, Masker, log_path, times_path};

/// Wall clock of all attempts here, milliseconds.
const START: i64 = 1_700_000_000_000;
const STORE: &str = "0a1b2c3d";
const JOB: u64 = 12_345;
const ATTEMPT: u32 = 2;

/// A log directory that goes away with the test.
struct Logs(tempfile::TempDir);

impl Logs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> OwnedFd {
        open_dir(self.0.path())
    }

    fn writer(&self, bytes_max: u64) -> LogWriter {
        LogWriter::new(self.dir(), options(bytes_max, None))
    }

    fn masking_writer(&self, secret: &[u8]) -> LogWriter {
        let masker = Masker::new([("S", secret)]).unwrap();
        LogWriter::new(self.dir(), options(u64::MAX, masker))
    }

    fn reader(&self) -> LogReader {
        LogReader::new(self.dir(), JOB, ATTEMPT, START)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join(log_path(JOB, ATTEMPT))
    }

    fn times_path(&self) -> PathBuf {
        self.0.path().join(times_path(JOB, ATTEMPT))
    }

    fn log(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    fn log_text(&self) -> String {
        String::from_utf8(self.log()).unwrap()
    }
}

fn open_dir(path: &std::path::Path) -> OwnedFd {
    std::fs::File::open(path).unwrap().into()
}

fn options(bytes_max: u64, masker: Option<Masker>) -> LogOptions {
    LogOptions { store: STORE.to_owned(), job: JOB, attempt: ATTEMPT, start_wall_ms: START, bytes_max, masker }
}
