//! A file system that can be filled.

use crate::skipped;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A small file system of its own.
pub struct Small(TempDir);

impl Small {
    /// One of this size; None where mounting is not permitted, and then the test is said to be skipped.
    pub fn mount(test: &str, size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "ci-e2e"]).arg(dir.path()).output();
        if !done.is_ok_and(|done| done.status.success()) {
            skipped::tell(test, "mounting is not permitted");
            return None;
        }
        Some(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A place on it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Takes all that is free.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.join("ballast")).unwrap();
        for size in [65_536, 4_096, 512, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    /// Gives it back.
    pub fn free(&self) {
        fs::remove_file(self.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}
