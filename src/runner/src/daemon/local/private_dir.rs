//! The directory in which a `run` lives. Only this user may look into it.

use anyhow::{Context, Result};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// A directory of our own, removed with everything in it.
pub(super) struct PrivateDir {
    pub(super) path: PathBuf,
}

impl PrivateDir {
    /// On a tmpfs where there is one for us: starts are several times faster there.
    pub(super) fn name() -> PathBuf {
        let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_dir());
        let base = base.unwrap_or_else(std::env::temp_dir);
        base.join(format!("ci-runner-run-{}", uuid::Uuid::now_v7().simple()))
    }

    pub(super) fn make(path: PathBuf) -> Result<Self> {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the directory {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("ci-runner: cannot remove {}: {error}", self.path.display());
        }
    }
}
