//! Counters that outlive the daemon: written down before they are shown.
//!
//! Invariant: no scrape shows a counter that a later daemon could show smaller. What is shown is a copy of the loop's figures;
//! when it differs from what the file holds, the file is replaced first (aside, synced, renamed). The next daemon begins with
//! the file. Outcomes of jobs that were recorded after the last scrape are taken from the store, which counts them itself;
//! other counts since then (commits, histograms) are missing from the sum, which is lower than the truth but never decreases.
//!
//! A file that cannot be written is said once; the figures are shown all the same.

use super::{Figures, JobOutcome};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The file in the state directory.
pub const FILE_NAME: &str = "counters.json";
/// A larger file is not ours: 64 pools with all their histograms and 200 names have a tenth of it.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Serialize, Deserialize)]
struct Kept<F> {
    /// Of which store; another one's counters begin anew.
    store: String,
    figures: F,
}

/// Writes figures down before they are shown. For those who scrape; the loop knows nothing of it.
pub struct Keeper {
    path: PathBuf,
    store: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// [`Figures::changes`] of what the file holds.
    kept: Option<u64>,
    told: bool,
}

impl Figures {
    /// The figures that the daemon before this one kept, brought up to what the store says of outcomes: `totals` by word.
    /// `pool` and `executor` are where outcomes go that nobody counted.
    pub fn resume(dir: &Path, store: &str, totals: &[(String, u64)], pool: &str, executor: &str) -> Self {
        let mut figures = match read(&dir.join(FILE_NAME)) {
            Ok(Some(kept)) if kept.store == store => kept.figures.sound(),
            Ok(_) => Self::default(),
            Err(error) => {
                log::warn!("{} cannot be read, counters begin anew: {error}", dir.join(FILE_NAME).display());
                Self::default()
            }
        };
        for (word, total) in totals {
            let Some(at) = JobOutcome::NAMES.iter().position(|name| name == word) else { continue };
            let outcome = JobOutcome::ALL[at];
            let counted = figures.finished_total(outcome);
            figures.ahead[outcome as usize] = counted.saturating_sub(*total);
            let missing = total.saturating_sub(counted);
            if missing > 0 {
                figures.add_finished(pool, executor, outcome, missing);
            }
        }
        figures
    }
}

impl Keeper {
    /// For a state directory and the store in it.
    pub fn new(dir: &Path, store: &str) -> Self {
        Self { path: dir.join(FILE_NAME), store: store.to_owned(), state: Mutex::default() }
    }

    /// Takes the latest figures and gives them when they are kept. Blocks as long as the disk does.
    pub fn keep(&self, latest: impl FnOnce() -> Arc<Figures>) -> Arc<Figures> {
        // Held over taking and writing: what is older can never replace what is newer. Only scrapes wait for each other.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = latest();
        if state.kept == Some(figures.changes) {
            return figures;
        }
        match self.write(&figures) {
            Ok(()) => *state = State { kept: Some(figures.changes), told: false },
            Err(error) => {
                if !std::mem::replace(&mut state.told, true) {
                    log::warn!("{} cannot be written, counters may begin anew: {error}", self.path.display());
                }
            }
        }
        figures
    }

    fn write(&self, figures: &Figures) -> std::io::Result<()> {
        let text = serde_json::to_vec(&Kept { store: self.store.clone(), figures })?;
        let aside = self.path.with_extension("json.new");
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(&text)?;
        file.sync_data()?;
        std::fs::rename(&aside, &self.path)
    }
}

fn read(path: &Path) -> std::io::Result<Option<Kept<Figures>>> {
    let text = match std::fs::metadata(path) {
        Ok(data) if data.len() <= FILE_BYTES_MAX => std::fs::read(path)?,
        Ok(data) => return Err(std::io::Error::other(format!("it has {} bytes", data.len()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(serde_json::from_slice(&text)?))
}
