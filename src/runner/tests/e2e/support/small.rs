//! A file system that can be filled.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A small file system for the state; None where mounting is not permitted.
pub struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    /// Mounts it there.
    pub fn mount(path: &'a Path, size: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "ci-e2e"]).arg(path).output();
        done.is_ok_and(|done| done.status.success()).then_some(Self(path))
    }

    /// Takes all that is free.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.0.join("ballast")).unwrap();
        for size in [65_536, 4_096, 512, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    /// Gives it back.
    pub fn free(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}
