//! One look of the watches: figures of running jobs, of the queue and of what finished, held against the limits.

use super::words::{Facts, alarm_event, details, view};
use super::{Board, Shared, WatchSettings, key, lock, queue_max, told_of};
use crate::api::{AlarmView, SELFTEST_NAME, StatsView};
use crate::config::WatchConfig;
use crate::daemon::clock::Clock;
use crate::daemon::handle::{Handle, LeaseView, Snapshot};
use crate::notify::{Batch, KeptAlarm, Outbox, OutboxError};
use crate::stats::{By, KEYS_MAX, Range, Tally};
use crate::store::{EndedFilter, EndedJob, StoreError};
use anyhow::Result;
use ci_runner_core::state::Phase;
use ci_runner_core::time::{Now, WallTime};
use ci_runner_core::watch::{Alarms, Figures, RUNS_MIN, Run, Turn, Watch, readings};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Adding up takes at most this part of a processor: so many times its cost passes before the next time.
const COST_TIMES: u32 = 50;
/// How long jobs usually take changes slowly.
const HISTORY_EVERY: Duration = Duration::from_secs(60);

/// Figures of finished jobs that are made anew now and then.
struct Made<T> {
    value: T,
    /// Of the finished jobs then.
    finished: u64,
    again: Option<Instant>,
}

impl<T: Default> Default for Made<T> {
    fn default() -> Self {
        Self { value: T::default(), finished: 0, again: None }
    }
}

/// What the watches know.
pub(super) struct Look {
    state_dir: PathBuf,
    alarms: Alarms,
    kept: BTreeMap<(Watch, String), KeptAlarm>,
    started: BTreeMap<String, u64>,
    facts: HashMap<String, Facts>,
    /// By name: the 95th percentile of its runs, milliseconds.
    usual: Made<HashMap<String, u64>>,
    window: Made<Option<StatsView>>,
}

impl Look {
    /// With the alarms that an earlier daemon left.
    pub(super) fn resume(outbox: &Outbox, state_dir: PathBuf) -> Result<Self, OutboxError> {
        let kept = outbox.alarms(true)?;
        Ok(Self {
            state_dir,
            alarms: Alarms::resume(kept.iter().map(|kept| kept.alarm.clone())),
            kept: kept.into_iter().map(|kept| (key(&kept.alarm), kept)).collect(),
            started: outbox.alarms_started()?.into_iter().collect(),
            facts: HashMap::new(),
            usual: Made::default(),
            window: Made::default(),
        })
    }

    /// Looks once. What could not be kept is found again by the next look.
    pub(super) fn look(
        &mut self,
        handle: &Handle,
        settings: &WatchSettings,
        shared: &Shared,
        clock: &Clock,
    ) -> Result<()> {
        let snapshot = handle.snapshot();
        let now = clock.now();
        let figures = self.figures(handle, &snapshot, &settings.watch, now)?;
        let mut alarms = self.alarms.clone();
        let calm_ms = u64::try_from(settings.watch.calm.as_millis()).unwrap_or(u64::MAX);
        let turns = alarms.look(&readings(&figures, &settings.watch.rules), calm_ms, now.engine);
        let mut trouble = shared.outbox.trouble.clone();
        match self.keep(&turns, settings, shared, now) {
            Ok(()) => self.alarms = alarms,
            Err(error) => {
                trouble = Some(format!("{error}: alarms are told later"));
                log::warn!("{error}: alarms are told later");
            }
        }
        for alarm in self.alarms.active() {
            if let Some(kept) = self.kept.get_mut(&key(alarm)) {
                kept.alarm = alarm.clone();
            }
        }
        let mut active: Vec<AlarmView> = self.kept.values().map(view).collect();
        active.sort_by(|a, b| b.started_at.cmp(&a.started_at).then_with(|| a.id.cmp(&b.id)));
        let tallies = lock(&shared.couriers).tallies();
        // Health is told to everybody on the host, and what a program said may be secret: `notify list` tells it.
        let failing =
            tallies.iter().filter(|(_, tally)| tally.last_error.is_some()).map(|(name, _)| name.clone()).collect();
        let disk = rustix::fs::statvfs(&self.state_dir).ok();
        *lock(&shared.board) = std::sync::Arc::new(Board {
            active,
            started: self.started.clone(),
            looked: Some(Instant::now()),
            trouble,
            failing,
            disk_free_bytes: disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        });
        Ok(())
    }

    /// Into the outbox, then into the log: what is said was kept.
    fn keep(&mut self, turns: &[Turn], settings: &WatchSettings, shared: &Shared, now: Now) -> Result<(), OutboxError> {
        let mut batch = Batch::default();
        for turn in turns {
            let kept = match turn {
                Turn::Started(alarm) => KeptAlarm {
                    id: uuid::Uuid::now_v7().to_string(),
                    details: details(&alarm.reading, self.facts.get(&alarm.reading.subject)),
                    alarm: alarm.clone(),
                    since_ms: now.wall.0,
                    ended_ms: None,
                },
                Turn::Ended(alarm) => match self.kept.get(&key(alarm)) {
                    Some(kept) => KeptAlarm { alarm: alarm.clone(), ended_ms: Some(now.wall.0), ..kept.clone() },
                    None => continue,
                },
            };
            let event = alarm_event(&kept, &shared.source.host);
            let told = told_of(settings, kept.alarm.reading.watch);
            batch.deliveries.extend(told.map(|name| (name.clone(), event.clone())));
            batch.alarms.push(kept);
        }
        if batch.alarms.is_empty() {
            return Ok(());
        }
        let dropped = shared.outbox.commit(&batch, &queue_max(settings), now.wall.0)?;
        if !dropped.is_empty() {
            log::error!("{} notices of alarms did not fit into the queues of {dropped:?}", dropped.len());
        }
        for kept in batch.alarms {
            say(&kept);
            if kept.ended_ms.is_some() {
                self.kept.remove(&key(&kept.alarm));
            } else {
                *self.started.entry(kept.alarm.reading.watch.word().to_owned()).or_default() += 1;
                self.kept.insert(key(&kept.alarm), kept);
            }
        }
        Ok(())
    }

    fn figures(&mut self, handle: &Handle, snapshot: &Snapshot, watch: &WatchConfig, now: Now) -> Result<Figures> {
        let is_running = |lease: &&LeaseView| matches!(lease.phase, Phase::Running | Phase::Stopping);
        let running: Vec<&LeaseView> = snapshot.leases.iter().filter(is_running).collect();
        let finished = snapshot.finished.values().sum();
        if !running.is_empty() {
            self.learn(handle, watch, finished, now)?;
        }
        let mut figures = Figures::default();
        let mut facts = HashMap::new();
        for lease in running {
            let subject = format!("{}/{}", lease.job, lease.attempt);
            let known = match self.facts.remove(&subject) {
                Some(known) => known,
                None => read_facts(handle, lease)?,
            };
            let usual_ms = known.name.as_ref().and_then(|name| self.usual.value.get(name)).copied();
            figures.runs.push(Run { subject: subject.clone(), run_ms: now.engine.since_ms(lease.since), usual_ms });
            facts.insert(subject, known);
        }
        self.facts = facts;
        figures.queue_age_ms = snapshot.oldest_waiting.map(|since| now.engine.since_ms(since));
        self.add_up_window(handle, watch, finished, now)?;
        if let Some(stats) = &self.window.value {
            figures.judged = stats.total.succeeded + stats.total.failed + stats.total.timed_out;
            figures.failed = stats.total.failed + stats.total.timed_out;
            let named = stats.rows.iter().filter_map(|row| Some((row.key.clone()?, row.figures.changes)));
            figures.changes = named.filter(|(_, changes)| *changes > 0).collect();
        }
        Ok(figures)
    }

    /// How long jobs usually take, by name.
    fn learn(&mut self, handle: &Handle, watch: &WatchConfig, finished: u64, now: Now) -> Result<(), StoreError> {
        if self.usual.again.is_some_and(|again| self.usual.finished == finished || Instant::now() < again) {
            return Ok(());
        }
        let begin = Instant::now();
        let stats = add_up(handle, watch.history, now)?;
        let usual = stats.rows.into_iter().filter(|row| row.figures.jobs >= RUNS_MIN);
        let usual = usual.filter_map(|row| Some((row.key?, (row.figures.run_seconds?.p95 * 1e3) as u64)));
        let again = Instant::now() + HISTORY_EVERY.max(begin.elapsed() * COST_TIMES);
        self.usual = Made { value: usual.collect(), finished, again: Some(again) };
        Ok(())
    }

    fn add_up_window(
        &mut self,
        handle: &Handle,
        watch: &WatchConfig,
        finished: u64,
        now: Now,
    ) -> Result<(), StoreError> {
        let is_empty = self.window.value.as_ref().is_none_or(|stats| stats.total.jobs == 0);
        let is_idle = self.window.again.is_some() && is_empty && self.window.finished == finished;
        if is_idle || self.window.again.is_some_and(|again| Instant::now() < again) {
            return Ok(());
        }
        let begin = Instant::now();
        let stats = add_up(handle, watch.window, now)?;
        let again = Instant::now() + begin.elapsed() * COST_TIMES;
        self.window = Made { value: Some(stats), finished, again: Some(again) };
        Ok(())
    }
}

fn read_facts(handle: &Handle, lease: &LeaseView) -> Result<Facts, StoreError> {
    let row = handle.reader.job(lease.job)?;
    let (name, correlation) = row.map(|row| (row.spec.name, row.spec.correlation)).unwrap_or_default();
    Ok(Facts { job: lease.job.get(), attempt: lease.attempt, name, pool: lease.pool.clone(), correlation })
}

/// The same figures that `stats` shows, but for jobs of `selftest`: some of them fail on purpose.
fn add_up(handle: &Handle, time: Duration, now: Now) -> Result<StatsView, StoreError> {
    let until_ms = now.wall.0.saturating_add(1);
    let since_ms = until_ms.saturating_sub(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    let mut tally = Tally::new(By::Name, jiff::tz::TimeZone::UTC, Range { since_ms, until_ms });
    let filter =
        EndedFilter { since: Some(WallTime(since_ms)), until: Some(WallTime(until_ms)), ..EndedFilter::default() };
    let mut count = |job: EndedJob<'_>| job.name == Some(SELFTEST_NAME) || tally.add(job);
    handle.reader.each_ended(&filter, &mut count)?;
    Ok(tally.report(KEYS_MAX))
}

fn say(kept: &KeptAlarm) {
    let view = view(kept);
    let word = if kept.ended_ms.is_some() { "ended" } else { "started" };
    let (watch, text) = (view.watch.as_str(), view.text.as_str());
    let level = if kept.ended_ms.is_some() { log::Level::Info } else { log::Level::Warn };
    match (view.job, view.attempt) {
        (Some(job), Some(attempt)) => {
            let (pool, correlation) = (view.pool.unwrap_or_default(), view.correlation.unwrap_or_default());
            log::log!(level, job = job, attempt = attempt, pool = pool.as_str(), correlation = correlation.as_str(), watch = watch;
                "watch {watch} {word}: {text}");
        }
        _ => log::log!(level, watch = watch; "watch {watch} {word}: {text}"),
    }
}
