//! How far the journal has come with each log, kept in a file: written aside and renamed, not flushed to the disk. A power cut
//! ends the jobs as well, and their logs are not flushed either.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Source;

/// One log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// Whose.
    #[serde(flatten)]
    pub source: Source,
    /// Bytes that were handed over.
    pub offset: u64,
    /// The log is complete.
    pub ended: bool,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Kept {
    store: String,
    logs: Vec<Cursor>,
}

/// What an earlier daemon of the same store left. One that cannot be read is as good as none: lines come twice.
pub(super) fn read(path: &Path, store: &str) -> io::Result<Vec<Cursor>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let kept: Kept = serde_json::from_slice(&text)?;
    Ok(if kept.store == store { kept.logs } else { Vec::new() })
}

/// Replaces the file.
pub(super) fn write(path: &Path, store: &str, logs: Vec<Cursor>) -> io::Result<()> {
    let text = serde_json::to_vec(&Kept { store: store.to_owned(), logs })?;
    let aside = path.with_extension("json.new");
    std::fs::write(&aside, text)?;
    std::fs::rename(&aside, path)
}
