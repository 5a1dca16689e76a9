//! What the host told the loop: where things are, signals, reloads; and the chores of a host: old jobs and logs.

use super::*;
use crate::config::{AdmissionConfig, PoolLimits};
use crate::daemon::archiving;
use crate::daemon::gauges::Look;
use crate::daemon::gc::{self, Trimmed};
use crate::daemon::job_env;
use crate::daemon::secrets;
use crate::store::{CollectLimits, FormerStore, ScheduleRow, StoreError};
use ci_runner_core::time::WallTime;
use ci_runner_spawner::joblog::earlier_dirs_of;

/// Old jobs are looked for this often.
const COLLECT_EVERY_MS: u64 = 10 * 60 * 1000;
/// Jobs removed in one go, so that a commit behind it waits little.
const COLLECT_MOST: usize = 1_000;
/// A configuration that was refused when it was read again.
const RELOAD_PROBLEM: &str = "configuration";

/// What a removal of old things did.
#[derive(Clone, Debug)]
pub struct Collected {
    /// Finished jobs that went.
    pub jobs: usize,
    /// Logs that went.
    pub trimmed: Trimmed,
    /// Why no finished jobs could be removed; they are, as soon as commits work.
    pub waiting: Option<String>,
}

/// How jobs of one pool run.
#[derive(Clone, Debug)]
pub struct PoolHost {
    /// `PATH`
    pub path: String,
    /// Whether what they print goes into the journal too.
    pub journal: bool,
    /// By whom.
    pub executor: Executor,
    /// In which sandbox; None: the spawner's policy says.
    pub profile: Option<String>,
    /// Sandboxes that jobs may choose; empty: whichever the spawner's policy allows.
    pub profiles: Vec<String>,
    /// As whom, and where they may write; None: nobody that exists elsewhere.
    pub person: Option<PersonHost>,
    /// Names or numbers of users who may submit, beside root; None: whoever may use the daemon.
    pub submitters: Option<Vec<String>>,
    /// What they may use.
    pub limits: PoolLimits,
}

/// A pool that runs as a person. What the spawner does is in its own policy: this only says no sooner, and in better words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonHost {
    /// User name.
    pub user: String,
    /// Directories in which its jobs work.
    pub paths: Vec<PathBuf>,
}

/// Where things are and what jobs find.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// Logs of jobs.
    pub log_dir: PathBuf,
    /// Temporary directories, one a place.
    pub tmp_dir: PathBuf,
    /// Secrets of open jobs.
    pub secrets_dir: PathBuf,
    /// How jobs run, by pool.
    pub pools: BTreeMap<String, PoolHost>,
    /// `PATH` of jobs elsewhere.
    pub job_path: String,
    /// Name of this host.
    pub name: String,
    /// `HOME` of jobs.
    pub home: String,
    /// User of jobs.
    pub user: String,
    /// Native jobs have users of their own: a service of root starts them.
    pub jobs_have_users: bool,
    /// Finished jobs older than this go, milliseconds.
    pub finished_max_age_ms: Option<u64>,
    /// Logs older than this go.
    pub log_max_age: Option<Duration>,
    /// Logs older than this are archived.
    pub log_archive_after: Option<Duration>,
    /// The oldest logs go when all together are larger.
    pub log_bytes_max: Option<u64>,
    /// Limits of the host beyond which nothing new starts.
    pub admission: AdmissionConfig,
    /// Schedules that the configuration declares.
    pub schedules: Vec<ScheduleRow>,
}

impl HostSettings {
    /// `PATH` of a pool's jobs.
    pub fn path_of(&self, pool: &str) -> &str {
        self.pools.get(pool).map_or(self.job_path.as_str(), |pool| pool.path.as_str())
    }

    /// Executor of a pool's jobs. A pool that is configured no more starts nothing.
    pub fn executor_of(&self, pool: &str) -> Executor {
        self.pools.get(pool).map_or(Executor::Native, |pool| pool.executor)
    }

    pub(super) fn job_host(&self, store: String, former: Vec<FormerStore>) -> job_env::Host {
        job_env::Host { runner: self.name.clone(), store, former, home: self.home.clone(), user: self.user.clone() }
    }
}

/// What signals and the rest of the daemon tell the loop.
pub enum Control {
    /// Sockets are open: tell the service manager.
    Ready,
    /// End: no claim, everything acknowledged is kept, jobs go on.
    Stop,
    /// Settings were read again.
    Reload(Box<(Settings, HostSettings)>),
    /// Settings could not be read; the old ones stay.
    ReloadFailed(String),
    /// Something outside the loop is wrong (or right again, when None), under a fixed name.
    Problem(&'static str, Option<String>),
    /// What a look at the host's gauges found.
    Looked(Look),
    /// Kill every attempt that was told to end, without waiting for its grace.
    KillAll,
    /// What the logs of jobs hold in all, bytes.
    LogsHold(u64),
    /// Remove old jobs and logs now; answers with what went.
    Collect(oneshot::Sender<Collected>),
}

/// A refused reload for `status`: all goes on as before, and the next start is what fails.
fn refused_reload(why: &str, at: WallTime) -> String {
    let more = why.lines().count().saturating_sub(1);
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    let (first, at) = (why.lines().next().unwrap_or_default(), crate::quantity::rfc3339_utc(at.0));
    format!("configuration: {first}{more}; refused at {at}, a restart would fail")
}

impl Engine {
    pub(super) fn control(&mut self, control: Control) {
        self.changed = true;
        match control {
            Control::Ready => self.notifier.ready(),
            Control::LogsHold(bytes) => self.figures.set_log_file_bytes(bytes),
            Control::Stop => {
                log::info!("stopping: nothing more is claimed, running jobs go on");
                self.stopping = true;
                self.notifier.stopping();
            }
            Control::Reload(settings) => {
                self.notifier.reloading();
                let (settings, host) = *settings;
                self.record.configure(settings.clone());
                let job_env::Host { store, former, .. } = &self.job_host;
                self.job_host = host.job_host(store.clone(), former.clone());
                // Writer and spawner keep their directories until a restart, so the loop does.
                let HostSettings { log_dir, tmp_dir, secrets_dir, jobs_have_users, .. } = self.host.clone();
                self.host = HostSettings { log_dir, tmp_dir, secrets_dir, jobs_have_users, ..host };
                self.settings.send_replace(Arc::new(settings));
                self.admission_reloaded();
                // Else what it writes would be lost with the commits that fail: it is done when one succeeds.
                if self.health == Health::Good {
                    self.declare_schedules(self.clock.now());
                }
                self.tell_enforced();
                self.tell_executors();
                // Of pools that were not known until now the record was not told.
                self.shut_slots();
                self.problems.remove(RELOAD_PROBLEM);
                log::info!("configuration reloaded");
                self.notifier.ready();
            }
            Control::ReloadFailed(why) => {
                self.notifier.reloading();
                for line in why.lines() {
                    log::error!("the configuration was not reloaded, the old one stays: {line}");
                }
                self.problems.insert(RELOAD_PROBLEM, refused_reload(&why, self.clock.now().wall));
                self.notifier.ready();
            }
            Control::Problem(name, Some(text)) => drop(self.problems.insert(name, text)),
            Control::Problem(name, None) => drop(self.problems.remove(name)),
            Control::Looked(look) => self.looked(look),
            Control::KillAll => self.kill_stopping(),
            Control::Collect(reply) => {
                self.next_collect = Instant(i64::MIN);
                self.collect_asked.push(reply);
            }
        }
    }

    /// Removes old jobs and logs, when it is time. Logs go without a commit: where the disk is full, that makes room for one.
    pub(super) fn collect(&mut self, now: Now) {
        if now.engine < self.next_collect || self.collecting {
            return;
        }
        self.next_collect = now.engine.plus_ms(COLLECT_EVERY_MS);
        if self.health != Health::Good {
            let why = self.trouble.as_ref().map_or("the store is being read again", |trouble| trouble.text.as_str());
            let waiting = Some(why.to_owned());
            self.trim(waiting);
            return;
        }
        let limits = CollectLimits::new(now.engine, self.host.finished_max_age_ms);
        self.collecting = true;
        self.writer.order(Order::Collect { limits, most: COLLECT_MOST });
    }

    pub(super) fn collected(&mut self, result: Result<Vec<JobId>, StoreError>) {
        self.collecting = false;
        match result {
            Err(error) => {
                let text = chain(&error);
                log::warn!("old jobs could not be removed, tried again later: {text}");
                self.trim(Some(text));
            }
            Ok(ids) => {
                let is_last = ids.len() < COLLECT_MOST;
                self.collected_jobs.extend(ids);
                if is_last {
                    self.trim(None);
                } else {
                    self.collect_soon();
                }
            }
        }
    }

    /// Removes the logs of collected jobs and those beyond the limits, and answers who asked.
    fn trim(&mut self, waiting: Option<String>) {
        let mut limits = gc::LogLimits { max_age: self.host.log_max_age, bytes_max: self.host.log_bytes_max };
        let (now, reader) = (self.clock.now().engine, self.common_reader.clone());
        let (dir, asked) = (self.host.log_dir.clone(), std::mem::take(&mut self.collect_asked));
        let running: Vec<JobId> = self.record.leases().map(|(id, _)| id).collect();
        let gone = std::mem::take(&mut self.collected_jobs);
        let (own_control, archive_after) = (self.own_control.clone(), self.host.log_archive_after);
        tokio::task::spawn_blocking(move || {
            let ends = |first, last| reader.ends(first, last);
            let dirs: Vec<PathBuf> = [dir.clone()].into_iter().chain(earlier_dirs_of(&dir)).collect();
            let mut trimmed = gc::Trimmed::default();
            for dir in &dirs {
                trimmed += gc::remove_logs(dir, &gone);
                trimmed += gc::trim_logs(dir, limits, &running, now, &ends);
                // What is in an earlier directory is older.
                limits.bytes_max = limits.bytes_max.map(|max| max.saturating_sub(gc::log_bytes(dir)));
            }
            let collected = Collected { jobs: gone.len(), trimmed, waiting };
            for reply in asked {
                drop(reply.send(collected.clone()));
            }
            for dir in archive_after.iter().flat_map(|_| &dirs) {
                let after = archive_after.unwrap_or_default();
                let archived = archiving::archive_logs(dir, after, &running, now, &ends);
                if archived.logs > 0 {
                    let archiving::Archived { logs, before_bytes, after_bytes } = archived;
                    log::info!("archived {logs} logs: {before_bytes} bytes became {after_bytes}");
                }
            }
            if let Some(control) = own_control.upgrade() {
                // A loop that is ending does not want to know.
                let bytes = dirs.iter().map(|dir| gc::log_bytes(dir)).sum();
                control.try_send(Control::LogsHold(bytes)).ok();
            }
        });
    }

    /// What had to wait for commits is done now.
    pub(super) fn collect_soon(&mut self) {
        self.next_collect = Instant(i64::MIN);
    }

    /// After an unclean stop secrets of finished jobs may be left, after a failed commit those of jobs that never were.
    pub(super) fn sweep_secrets(&self) {
        let swept = secrets::sweep(&self.host.secrets_dir, |id| self.record.phase(id).is_some());
        if let Err(error) = swept {
            log::warn!("old secrets could not be looked for in {}: {error}", self.host.secrets_dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_reload_names_its_first_problem_and_counts_the_others() {
        let at = WallTime(1_795_348_260_000);
        let told = refused_reload("n.toml:13: grace: 1x", at);
        assert_eq!(
            told,
            "configuration: n.toml:13: grace: 1x; refused at 2026-11-22T11:51:00.000Z, a restart would fail"
        );
        assert!(refused_reload("a\nb\nc", at).starts_with("configuration: a (and 2 more); refused"));
    }
}
