//! Where a new job may go: pools of people are for their submitters, and a sandbox is chosen among those of its pool.
//!
//! This says no at once and in words. What must not be is refused by the spawner, whatever the daemon says.

use super::{Engine, PoolHost};
use crate::config::Executor;
use crate::daemon::handle::{NewJob, Submitter};
use ci_runner_core::job::Fault;
use ci_runner_core::labels;
use ci_runner_core::policy::DEFAULT_POOL;
use std::path::{Component, Path};

fn fault<T>(field: &str, why: String) -> Result<T, Fault> {
    Err(Fault { field: field.to_owned(), why })
}

impl Engine {
    /// Gives a job its pool where who submits it, its directory or its sandbox decide that, and refuses what cannot be.
    pub(super) fn settle(&self, mut job: NewJob, submitter: &Submitter) -> Result<NewJob, Fault> {
        job.spec.work.submitter_uid = submitter.uid;
        if job.spec.terms.pool.is_none() {
            self.find_home(&mut job, submitter)?;
        }
        let Some(name) = job.spec.terms.pool.clone() else { return Ok(job) };
        let Some(pool) = self.host.pools.get(&name) else { return self.settle_profile(&name, None, job) };
        if !pool.takes_jobs_of(submitter) {
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
    fn find_home(&self, job: &mut NewJob, submitter: &Submitter) -> Result<(), Fault> {
        let wanted = &job.spec.terms.labels;
        let fits = |name: &str| {
            let pool = self.record.settings().pools.iter().find(|pool| pool.name == name);
            pool.is_some_and(|pool| labels::missing(wanted, &pool.labels).is_empty())
        };
        let dir = job.spec.work.dir.as_deref().or(job.caller_dir.as_deref());
        let own = self.host.pools.iter().filter(|(name, pool)| fits(name) && pool.takes_jobs_of(submitter));
        let depth = |pool: &PoolHost| pool.person.as_ref()?.depth(dir?);
        let own = own.filter_map(|(name, pool)| Some((depth(pool)?, name)));
        // The innermost tree; among equals the first by name.
        let own = own.max_by(|(one, a), (other, b)| one.cmp(other).then(b.cmp(a))).map(|(_, name)| name);
        if let Some(name) = own {
            job.spec.terms.pool = Some(name.clone());
            return Ok(());
        }
        let open = |pool: &PoolHost| pool.submitters.is_none();
        if !self.host.pools.is_empty() && !self.host.pools.values().any(open) {
            return self.only_restricted(job, submitter);
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
    fn only_restricted(&self, job: &mut NewJob, submitter: &Submitter) -> Result<(), Fault> {
        if self.host.pools.get(DEFAULT_POOL).is_some_and(|pool| pool.takes_jobs_of(submitter)) {
            job.spec.terms.pool = Some(DEFAULT_POOL.to_owned());
            return Ok(());
        }
        let why =
            format!("is missing, and every pool here is for jobs of certain users; {} names none", submitter.name);
        fault("pool", why)
    }
}

impl PoolHost {
    fn takes_jobs_of(&self, submitter: &Submitter) -> bool {
        let Some(allowed) = &self.submitters else { return true };
        let Some(uid) = submitter.uid else { return false };
        uid == 0
            || allowed
                .iter()
                .any(|name| *name == submitter.name || name.parse() == Ok(uid) || user_id(name) == Some(uid))
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

/// The number of a user, of whom a name or `uid 1234` was recorded.
pub(super) fn user_id(name: &str) -> Option<u32> {
    if let Some(number) = name.strip_prefix("uid ") {
        return number.parse().ok();
    }
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}
