//! Values of secrets, outside the database and its backups: one 0600 file a job, removed when the job has finished.
//!
//! Format: the JSON of `[[name, value], …]`, as the spawner's protocol has it.

use ci_runner_core::id::JobId;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

fn file(dir: &Path, job: JobId) -> PathBuf {
    dir.join(job.to_string())
}

/// Keeps a job's secrets; durable on return.
pub fn keep(dir: &Path, job: JobId, secrets: &[(String, String)]) -> std::io::Result<()> {
    let text = serde_json::to_vec(secrets)?;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(file(dir, job))?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::File::open(dir)?.sync_all()
}

/// A job's secrets.
///
/// # Errors
/// `NotFound`: they are gone. `InvalidData`, without a word of the file: it is damaged. Anything else may pass.
pub fn read(dir: &Path, job: JobId) -> std::io::Result<Vec<(String, String)>> {
    let text = std::fs::read(file(dir, job))?;
    serde_json::from_slice(&text).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))
}

/// Forgets a job's secrets, if it has any.
pub fn remove(dir: &Path, job: JobId) {
    if let Err(error) = std::fs::remove_file(file(dir, job))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!(job = job.get(); "cannot remove the secrets of job {job}: {error}");
    }
}

/// Forgets the secrets of every job that is not open; for a start after an unclean stop.
pub fn sweep(dir: &Path, is_open: impl Fn(JobId) -> bool) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok()).and_then(JobId::new);
        if let Some(id) = id.filter(|id| !is_open(*id)) {
            remove(dir, id);
        }
    }
    Ok(())
}
