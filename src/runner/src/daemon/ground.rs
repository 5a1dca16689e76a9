//! What a daemon stands on before anybody is served: its directories, its store with what is in it, and the ways to its spawners.

use super::clock::Clock;
use super::engine::{self, HostSettings};
use super::log_dir;
use super::put_back;
use super::spawners::{Spawners, Whereabouts};
use crate::config::{Config, Source};
use crate::store::sqlite::SqliteStore;
use crate::store::{Loaded, Reader, Store, StoreError};
use anyhow::{Context, Result};
use ci_runner_core::policy::Settings;
use ci_runner_core::record::Record;
use std::cell::RefCell;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

/// All of it.
pub(super) struct Ground {
    pub(super) store: SqliteStore,
    pub(super) reader: Arc<dyn Reader>,
    /// With all open jobs.
    pub(super) record: Record,
    /// What else the store told.
    pub(super) loaded: Loaded,
    pub(super) clock: Clock,
    /// Not connected yet.
    pub(super) spawners: Spawners,
}

impl Ground {
    /// Makes what is missing and reads what is there.
    pub(super) fn prepare(config: &Config, host: &HostSettings, settings: Settings) -> Result<Self> {
        make_own_dir(&config.state_dir, 0o700, "--state-dir")?;
        // Whoever does not get the state directory changes nothing in it.
        let (mut store, reader) =
            SqliteStore::open(&config.state_dir).map_err(|error| with_advice(error, config, host))?;
        make_dirs(config, host)?;
        log_dir::note(&config.state_dir, &host.log_dir);
        let (mut record, mut loaded) = load(&mut store, settings).map_err(|error| if_full(error, config, host))?;
        log_dir::own(&host.log_dir, &loaded.store_id);
        let clock = Clock::resume(loaded.clock.as_ref(), loaded.last);
        let whereabouts = Whereabouts::find(config, &record)?;
        let traces = put_back::Traces::find(config, &whereabouts.runtime_dir.dir, &host.log_dir, &loaded);
        if let Some(seen) = traces.starts {
            loaded.generation = store.outnumber(seen).map_err(|error| if_full(error, config, host))?;
        }
        traces.tell_and_heed(&mut record);
        let spawners = Spawners::new(whereabouts, config, host, &record, &loaded)?;
        Ok(Self { store, reader: Arc::new(reader), record, loaded, clock, spawners })
    }
}

/// Job by job: a list of a million would take half a gigabyte beside the record.
fn load(store: &mut SqliteStore, settings: Settings) -> Result<(Record, Loaded), StoreError> {
    let record = RefCell::new(Record::new(settings));
    let pool_id = &mut |name: &str| record.borrow_mut().ensure_pool(name);
    let loaded = store.load(pool_id, &mut |job| engine::load_job(&mut record.borrow_mut(), &job))?;
    let mut record = record.into_inner();
    engine::load_rest(&mut record, &loaded);
    Ok((record, loaded))
}

/// All but the state directory.
fn make_dirs(config: &Config, host: &HostSettings) -> Result<()> {
    // Where none is named it may be in the state, and then that is what another is to be named for.
    let in_state = config.source("runtime_dir") == Source::Default && config.runtime_dir.starts_with(&config.state_dir);
    make_own_dir(&config.runtime_dir, 0o750, if in_state { "--state-dir" } else { "--runtime-dir" })?;
    for (dir, mode) in [(&host.log_dir, 0o750), (&host.tmp_dir, 0o700), (&host.secrets_dir, 0o700)] {
        make_dir(dir, mode)?;
    }
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// A directory that an option names.
fn make_own_dir(path: &Path, mode: u32, option: &str) -> Result<()> {
    anyhow::ensure!(
        path.is_dir() || !path.exists(),
        "{} is no directory, and cannot be made one; name another with {option}",
        path.display()
    );
    make_dir(path, mode).with_context(|| unusable(option))
}

fn unusable(option: &str) -> String {
    format!("{option} names no directory that can be used")
}

/// What to do where it is known: a directory of another kind is to be named, and on a full disk something is to go (`ci-runner gc`
/// needs a daemon).
fn with_advice(error: StoreError, config: &Config, host: &HostSettings) -> anyhow::Error {
    match error {
        StoreError::Full => {}
        StoreError::Io { .. } => return anyhow::Error::new(error).context(unusable("--state-dir")),
        _ => return error.into(),
    }
    let (state, logs) = (config.state_dir.display(), host.log_dir.display());
    let advice = format!(
        "no room in {state}: remove something there, logs of finished jobs in {logs} for one, and start again; nothing is lost meanwhile"
    );
    anyhow::Error::new(StoreError::Full).context(advice)
}

/// As [`with_advice`] for a store that is open already: its directory can be used, but the disk may be full.
fn if_full(error: StoreError, config: &Config, host: &HostSettings) -> anyhow::Error {
    match error {
        StoreError::Full => with_advice(StoreError::Full, config, host),
        other => other.into(),
    }
}
