//! Where a new job may go: pools of people are for their submitters, and a sandbox is chosen among those of its pool.
//!
//! This says no at once and in words. What must not be is refused by the spawner, whatever the daemon says.

use super::{Engine, PoolHost};
use crate::config::Executor;
use crate::daemon::handle::{NewJob, Submitter};
use ci_runner_core::job::Fault;
use ci_runner_core::labels;
use ci_runner_core::policy::DEFAULT_POOL;
use std::collections::{HashMap, HashSet};
use std::path::{Component, Path};

fn fault<T>(field: &str, why: String) -> Result<T, Fault> {
    Err(Fault { field: field.to_owned(), why })
}

/// Numbers of users, as the host's list says at this turn: it is read once, however many ask.
#[derive(Default)]
pub(super) struct Users {
    ids: Option<HashMap<String, u32>>,
    /// How often it was read.
    #[cfg(test)]
    pub reads: usize,
}

impl Users {
    /// It may have changed.
    pub fn forget(&mut self) {
        self.ids = None;
    }

    /// The number of a user, of whom a name or `uid 1234` was recorded.
    pub fn id_of(&mut self, name: &str) -> Option<u32> {
        if let Some(number) = name.strip_prefix("uid ") {
            return number.parse().ok();
        }
        self.ids().get(name).copied()
    }

    fn ids(&mut self) -> &HashMap<String, u32> {
        self.ids.get_or_insert_with(|| {
            #[cfg(test)]
            {
                self.reads += 1;
            }
            let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let mut ids = HashMap::new();
            for line in users.lines() {
                let mut fields = line.split(':');
                if let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) {
                    // The first of a name counts.
                    if let Ok(id) = id.parse() {
                        ids.entry(name.to_owned()).or_insert(id);
                    }
                }
            }
            ids
        })
    }
}

/// Which pools take the jobs of a submitter: decided once for all jobs of a submission.
pub(super) struct Taking {
    pools: HashSet<String>,
}

impl Taking {
    fn takes(&self, pool: &str) -> bool {
        self.pools.contains(pool)
    }
}

impl Engine {
    pub(super) fn taking(&mut self, submitter: &Submitter) -> Taking {
        let users = &mut self.users;
        let takes = self.host.pools.iter().filter(|(_, pool)| pool.takes_jobs_of(submitter, users));
        Taking { pools: takes.map(|(name, _)| name.clone()).collect() }
    }

    /// Gives a job its pool where who submits it, its directory or its sandbox decide that, and refuses what cannot be.
    pub(super) fn settle(&self, mut job: NewJob, submitter: &Submitter, taking: &Taking) -> Result<NewJob, Fault> {
        job.spec.work.submitter_uid = submitter.uid;
        if job.spec.terms.pool.is_none() {
            self.find_home(&mut job, submitter, taking)?;
        }
        let Some(name) = job.spec.terms.pool.clone() else { return Ok(job) };
        let Some(pool) = self.host.pools.get(&name) else { return self.settle_profile(&name, None, job) };
        if !taking.takes(&name) {
            let allowed = pool.submitters.as_deref().unwrap_or_default().join(", ");
            let why = format!("{name:?} is for jobs of {allowed}, and this one is of {}", submitter.name);
            return fault("pool", why);
        }
        if let Some(person) = &pool.person {
            let dir = job.caller_dir.take_if(|dir| person.has(dir));
            job.spec.work.dir = job.spec.work.dir.take().or(dir);
            if let Some(dir) = job.spec.work.dir.as_deref().filter(|dir| !person.has(dir)) {
                let why = format!("{dir:?} is not in the paths of the pool {name:?}: {}", person.names());
                return fault("dir", why);
            }
        }
        self.settle_profile(&name, Some(pool), job)
    }

    fn settle_profile(&self, name: &str, pool: Option<&PoolHost>, job: NewJob) -> Result<NewJob, Fault> {
        let Some(profile) = &job.spec.work.profile else { return Ok(job) };
        match pool {
            Some(pool) if pool.executor == Executor::Systemd && pool.offers(profile) => Ok(job),
            Some(pool) if pool.executor == Executor::Systemd => {
                fault("profile", format!("{profile:?} is not for the pool {name:?}, only {}", pool.profiles.join(", ")))
            }
            _ => fault("profile", format!("jobs of the pool {name:?} are native and have no sandbox; leave it out")),
        }
    }

    /// A pool for a job that names none, where any will not do.
    fn find_home(&self, job: &mut NewJob, submitter: &Submitter, taking: &Taking) -> Result<(), Fault> {
        let wanted = &job.spec.terms.labels;
        let fits = |name: &str| {
            let pool = self.record.settings().pools.iter().find(|pool| pool.name == name);
            pool.is_some_and(|pool| labels::missing(wanted, &pool.labels).is_empty())
        };
        let dir = job.spec.work.dir.as_deref().or(job.caller_dir.as_deref());
        let depth = |pool: &PoolHost| pool.person.as_ref()?.depth(dir?);
        let own = self.host.pools.iter().filter(|(name, _)| taking.takes(name));
        let own = own.filter_map(|(name, pool)| Some((depth(pool)?, name))).filter(|(_, name)| fits(name));
        // The innermost tree; among equals the first by name.
        let own = own.max_by(|(one, a), (other, b)| one.cmp(other).then(b.cmp(a))).map(|(_, name)| name);
        if let Some(name) = own {
            job.spec.terms.pool = Some(name.clone());
            return Ok(());
        }
        let open = |pool: &PoolHost| pool.submitters.is_none();
        if !self.host.pools.is_empty() && !self.host.pools.values().any(open) {
            return self.only_restricted(job, submitter, taking);
        }
        let Some(profile) = &job.spec.work.profile else { return Ok(()) };
        // It may go where its sandbox is, and nowhere else.
        let has = |pool: &PoolHost| open(pool) && pool.executor == Executor::Systemd && pool.offers(profile);
        let mut pools = self.host.pools.iter().filter(|(name, pool)| fits(name) && has(pool)).map(|(name, _)| name);
        let default = self.host.pools.get(DEFAULT_POOL).filter(|pool| fits(DEFAULT_POOL) && has(pool));
        match default.map(|_| DEFAULT_POOL).or_else(|| pools.next().map(String::as_str)) {
            Some(name) => job.spec.terms.pool = Some(name.to_owned()),
            None => return fault("profile", format!("no pool that could take the job has the profile {profile:?}")),
        }
        Ok(())
    }

    /// Every pool is for certain people: the default one takes those of its jobs that say nothing.
    fn only_restricted(&self, job: &mut NewJob, submitter: &Submitter, taking: &Taking) -> Result<(), Fault> {
        if taking.takes(DEFAULT_POOL) {
            job.spec.terms.pool = Some(DEFAULT_POOL.to_owned());
            return Ok(());
        }
        let why =
            format!("is missing, and every pool here is for jobs of certain users; {} names none", submitter.name);
        fault("pool", why)
    }
}

impl PoolHost {
    fn takes_jobs_of(&self, submitter: &Submitter, users: &mut Users) -> bool {
        let Some(allowed) = &self.submitters else { return true };
        let Some(uid) = submitter.uid else { return false };
        uid == 0
            || allowed
                .iter()
                .any(|name| *name == submitter.name || name.parse() == Ok(uid) || users.id_of(name) == Some(uid))
    }

    fn offers(&self, profile: &str) -> bool {
        self.profiles.is_empty() || self.profiles.iter().any(|known| known == profile)
    }
}

impl super::PersonHost {
    /// True when `dir` is one of the paths or below one.
    fn has(&self, dir: &str) -> bool {
        self.depth(dir).is_some()
    }

    /// How deep the path is that `dir` is in.
    fn depth(&self, dir: &str) -> Option<usize> {
        let dir = Path::new(dir);
        let plain = dir.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let paths = self.paths.iter().filter(|path| plain && dir.starts_with(path));
        paths.map(|path| path.components().count()).max()
    }

    fn names(&self) -> String {
        self.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PoolLimits;

    fn pool(submitters: &[&str]) -> PoolHost {
        PoolHost {
            path: String::new(),
            journal: false,
            executor: Executor::Systemd,
            profile: None,
            profiles: Vec::new(),
            person: None,
            submitters: Some(submitters.iter().map(|name| (*name).to_owned()).collect()),
            limits: PoolLimits::default(),
        }
    }

    /// It was read for each job, each pool and each name: an array of 100,000 held up the loop for half a minute.
    #[test]
    fn the_list_of_users_is_read_once_however_many_pools_ask() {
        let mut users = Users::default();
        let of = |name: &str, uid| Submitter { name: name.to_owned(), uid: Some(uid) };
        let pools: Vec<PoolHost> =
            (0..18).map(|number| pool(&["root", "nobody-of-here", &format!("p{number}")])).collect();
        assert!(pools.iter().all(|pool| !pool.takes_jobs_of(&of("ada", 4242), &mut users)));
        assert_eq!(users.reads, 1);
        assert_eq!(pools.iter().filter(|pool| pool.takes_jobs_of(&of("p7", 4242), &mut users)).count(), 1);
        assert!(pool(&["4242"]).takes_jobs_of(&of("ada", 4242), &mut users));
        assert!(pools[0].takes_jobs_of(&of("someone", 0), &mut users));
        assert_eq!(
            (users.id_of("root"), users.id_of("uid 77"), users.id_of("nobody-of-here")),
            (Some(0), Some(77), None)
        );
        assert_eq!(users.reads, 1, "and for schedules the same");
        users.forget();
        users.id_of("root");
        assert_eq!(users.reads, 2, "who was added meanwhile is known in the next turn");
    }
}
