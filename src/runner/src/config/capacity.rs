//! Resolving `[pools.NAME]` and `[groups.NAME]`.

use ci_runner_core::group;
use std::collections::BTreeMap;

use super::check;
use super::file::{GroupFile, PoolFile};
use super::resolve::{Resolver, out_of_range};
use super::{DEFAULT_POOL, Executor, POOLS_MAX, PoolConfig, SLOTS_MAX, Source};

/// As a job may ask for.
const GROUP_LIMIT_MAX: i64 = group::GROUP_LIMIT_MAX as i64;

/// What pools have that do not say otherwise.
pub(super) struct Above<'a> {
    /// Slots of the default pool.
    pub max_parallel_jobs: u32,
    /// How attempts run.
    pub executor: Executor,
    /// `PATH` of jobs.
    pub job_path: &'a str,
    /// Whether what they print goes into the journal.
    pub journal: bool,
}

impl Resolver<'_> {
    pub(super) fn pools(
        &mut self,
        mut files: BTreeMap<String, PoolFile>,
        above: &Above<'_>,
    ) -> BTreeMap<String, PoolConfig> {
        files.entry(DEFAULT_POOL.to_owned()).or_default();
        if files.len() > POOLS_MAX {
            let text =
                format!("{} pools are more than {POOLS_MAX}; merge some and tell jobs apart by labels", files.len());
            self.file_problem(&["pools"], text);
        }
        files
            .into_iter()
            .map(|(name, file)| {
                let pool = self.pool(&name, file, above);
                (name, pool)
            })
            .collect()
    }

    fn pool(&mut self, name: &str, file: PoolFile, above: &Above<'_>) -> PoolConfig {
        let Above { max_parallel_jobs, executor, job_path, journal } = *above;
        if let Err(problem) = check::pool_name(name) {
            self.file_problem(&["pools", name], problem);
        }
        let slots = match file.slots {
            Some(slots) if (1..=i64::from(SLOTS_MAX)).contains(&slots) => slots as u32,
            Some(slots) => {
                self.file_problem(&["pools", name, "slots"], out_of_range(slots, &(1..=i64::from(SLOTS_MAX))));
                1
            }
            None if name == DEFAULT_POOL => max_parallel_jobs,
            None => {
                self.file_problem(
                    &["pools", name, "slots"],
                    "is missing; say how many jobs may run here at once".to_owned(),
                );
                1
            }
        };
        let slots = if name == DEFAULT_POOL {
            self.default_slots(slots, file.slots.is_some(), max_parallel_jobs)
        } else {
            slots
        };
        let executor = match file.executor.as_deref().map(check::executor) {
            None => executor,
            Some(Ok(executor)) => executor,
            Some(Err(problem)) => {
                self.file_problem(&["pools", name, "executor"], problem);
                executor
            }
        };
        if let Some(Err(problem)) = file.path.as_deref().map(check::search_path) {
            self.file_problem(&["pools", name, "path"], problem);
        }
        let profile = match file.profile.as_deref().map(check::profile) {
            Some(Err(problem)) => {
                self.file_problem(&["pools", name, "profile"], problem);
                None
            }
            Some(Ok(_)) if executor == Executor::Native => {
                let text = "is for the systemd executor: native jobs have no sandbox; leave it out".to_owned();
                self.file_problem(&["pools", name, "profile"], text);
                None
            }
            other => other.and_then(Result::ok),
        };
        let own = self.own(name, &file, executor, profile.as_deref());
        PoolConfig {
            limits: self.limits(name, &file),
            slots,
            executor,
            profile,
            profiles: own.profiles,
            user: own.user,
            paths: own.paths,
            submitters: own.submitters,
            labels: self.labels(name, file.labels),
            path: file.path.unwrap_or_else(|| job_path.to_owned()),
            journal: file.journal.unwrap_or(journal),
        }
    }

    /// `max_parallel_jobs` and `pools.default.slots` are the same thing. The command line wins over both; two
    /// different numbers in the file are a mistake that only its author can settle.
    fn default_slots(&mut self, slots: u32, own: bool, max_parallel_jobs: u32) -> u32 {
        match self.sources.get("max_parallel_jobs") {
            Some(Source::Option) => max_parallel_jobs,
            Some(Source::File(_)) if own && slots != max_parallel_jobs => {
                let text = format!(
                    "{slots} differs from max_parallel_jobs, {max_parallel_jobs}: both are the slots of this pool; keep one"
                );
                self.file_problem(&["pools", DEFAULT_POOL, "slots"], text);
                slots
            }
            _ => slots,
        }
    }

    fn labels(&mut self, pool: &str, own: Vec<String>) -> Vec<String> {
        for problem in own.iter().filter_map(|label| check::label(label).err()) {
            self.file_problem(&["pools", pool, "labels"], problem);
        }
        let mut labels = own;
        for (key, value) in [("os", "linux"), ("arch", &self.host.architecture), ("host", &self.host.hostname)] {
            let own_value = labels.iter().any(|label| label.split_once('=').is_some_and(|(own, _)| own == key));
            // A name that is no label (an odd host name) is left out: it could not be asked for either.
            let implicit = format!("{key}={value}");
            if !own_value && check::label(&implicit).is_ok() {
                labels.push(implicit);
            }
        }
        labels.sort();
        labels.dedup();
        labels
    }

    pub(super) fn groups(&mut self, files: BTreeMap<String, GroupFile>) -> BTreeMap<String, u32> {
        let mut groups = BTreeMap::new();
        for (name, file) in files {
            if let Err(problem) = check::group_name(&name) {
                self.file_problem(&["groups", &name], problem);
            }
            match file.limit {
                Some(limit) if (1..=GROUP_LIMIT_MAX).contains(&limit) => {
                    groups.insert(name, limit as u32);
                }
                Some(limit) => {
                    self.file_problem(&["groups", &name, "limit"], out_of_range(limit, &(1..=GROUP_LIMIT_MAX)))
                }
                None => {
                    let text = "is missing; say how many jobs of the group may run at once".to_owned();
                    self.file_problem(&["groups", &name, "limit"], text);
                }
            }
        }
        groups
    }
}
