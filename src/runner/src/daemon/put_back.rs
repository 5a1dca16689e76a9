//! Whether the state directory was put back from an older copy by hand: then the host has traces of a life that the store forgot.
//!
//! A spawner keeps the highest start number of a store that it has seen, and refuses daemons below it: a store that is behind would
//! start nothing until it was restarted often enough. Logs are named by the ids of their jobs: ids that the store would give again are
//! not given again where a log shows them. Ids of forgotten jobs that printed nothing cannot be told.

use crate::config::Config;
use crate::store::Loaded;
use ci_runner_core::record::Record;
use ci_runner_spawner::joblog::log_path;
use ci_runner_spawner::protocol::names;
use std::path::{Path, PathBuf};

/// What is there of a life that the store does not know.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Traces {
    /// The highest start number that a spawner has seen, where it is not below ours.
    pub(super) starts: Option<u64>,
    /// The highest id in the log directory, where the store has not given it.
    logged: Option<u64>,
    /// The highest id that the store gave.
    given: u64,
    /// The store was made by `ci-runner restore`, which says itself what is forgotten.
    is_restored: bool,
}

impl Traces {
    /// Looks where spawners note starts, as far as that may be read, and at the logs.
    pub(super) fn find(config: &Config, runtime_dir: &Path, log_dir: &Path, loaded: &Loaded) -> Self {
        let beside = |socket: &PathBuf| socket.parent().map(Path::to_owned);
        let services = [Some(&config.spawner_socket), config.jobs_socket.as_ref()];
        let homes = services.into_iter().flatten().filter_map(beside).chain([runtime_dir.join(names::SPAWNER_DIR)]);
        let note = |home: PathBuf| {
            let text = std::fs::read_to_string(home.join(names::GENERATIONS_DIR).join(&loaded.store_id)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        // A store that gave no id yet is new, and has nothing to forget.
        let is_new = loaded.last_id == 0;
        Self {
            starts: homes.filter_map(note).max().filter(|seen| *seen >= loaded.generation),
            logged: last_logged(log_dir).filter(|id| *id > loaded.last_id && !is_new),
            given: loaded.last_id,
            is_restored: !loaded.former.is_empty(),
        }
    }

    /// Tells people, and lets ids go on behind those that logs show.
    pub(super) fn tell_and_heed(&self, record: &mut Record) {
        if self.starts.is_none() && self.logged.is_none() {
            return;
        }
        let given = self.given;
        if let Some(logged) = self.logged {
            record.set_last_id(logged);
        }
        // Spawners know a restored store by its new id only: what they have seen of that one was no earlier life.
        if let (true, None, Some(logged)) = (self.is_restored, self.starts, self.logged) {
            log::warn!(
                "there are logs of an earlier life up to job {logged}, and this store gave ids up to {given}: new jobs get ids behind them"
            );
            return;
        }
        let ids = match self.logged {
            Some(logged) => format!("there are logs up to job {logged}: new jobs get ids behind them"),
            None => format!("ids above {given} may be given a second time"),
        };
        log::error!(
            "the state was put back from an older copy: it knows jobs up to {given}, and what was queued and what ended since is \
             forgotten; {ids}. `ci-runner restore` puts back a state without mixing it with what ran since"
        );
    }
}

/// No id comes near it, and numbers above it are not what they were in programs that read JSON.
const ID_MAX: u64 = 1 << 53;

/// The highest id that a log is named by. Ids rise from directory to directory. Whoever may write there could name a file as they
/// like: only what lies where the log of that job lies, and could be its id, is believed.
fn last_logged(log_dir: &Path) -> Option<u64> {
    let names = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let id_in = |shard: u64, name: &String| {
        let id = name.split_once('-')?.0.parse::<u64>().ok()?;
        if id <= ID_MAX && log_path(id, 1).parent() == Some(Path::new(&shard.to_string())) {
            return Some(id);
        }
        log::warn!(
            "{name:?} in {} is no log of ours: ids are not counted from it",
            log_dir.join(shard.to_string()).display()
        );
        None
    };
    let mut shards: Vec<u64> = names(log_dir).iter().filter_map(|name| name.parse().ok()).collect();
    shards.sort_unstable();
    shards.iter().rev().find_map(|shard| {
        let names = names(&log_dir.join(shard.to_string()));
        names.iter().filter_map(|name| id_in(*shard, name)).max()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_log_is_found_among_what_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(last_logged(dir.path()), None);
        for (shard, name) in
            [("0", "7-1.log"), ("2", "2003-1.log.zst"), ("2", "2017-2.times"), ("11", "x"), ("x", "9-1.log")]
        {
            std::fs::create_dir_all(dir.path().join(shard)).unwrap();
            std::fs::write(dir.path().join(shard).join(name), "").unwrap();
        }
        assert_eq!(last_logged(dir.path()), Some(2017));
        assert_eq!(last_logged(&dir.path().join("nowhere")), None);
    }

    /// With the highest number there is the daemon did not start; one less, and it could give no id any more.
    #[test]
    fn ids_are_believed_only_where_their_logs_lie() {
        let dir = tempfile::tempdir().unwrap();
        let log = |shard: u64, id: u64| {
            std::fs::create_dir_all(dir.path().join(shard.to_string())).unwrap();
            std::fs::write(dir.path().join(shard.to_string()).join(format!("{id}-1.log")), "").unwrap();
        };
        log(2, 2003);
        log(2, u64::MAX);
        log(9, i64::MAX.unsigned_abs());
        log(u64::MAX / 1000, u64::MAX);
        log((1 << 60) / 1000, 1 << 60);
        assert_eq!(last_logged(dir.path()), Some(2003));
        log(1_000_000, 1_000_000_007);
        assert_eq!(last_logged(dir.path()), Some(1_000_000_007), "the control");
    }
}
