//! What is watched for: from figures to readings, from readings to alarms that start and end.
//!
//! Pure: figures, rules and the time come in, facts go out. An alarm has a *watch* (what is watched for) and a *subject*
//! (of what: a job's attempt, a job name, the host). Invariants: of one watch and subject starts and ends alternate, a start
//! comes first; an alarm starts only above its limit; it ends only after its reading has stayed at or below four fifths of
//! the limit (or was not there) for a while, so that a figure which swings around its limit does not start and end it
//! again and again; at most [`ALARMS_MAX`] of one watch are active at once.

use crate::time::Instant;
use std::collections::BTreeMap;

/// Active alarms of one watch: beyond this a person needs the first ones mended, not more of them.
pub const ALARMS_MAX: usize = 100;
/// Runs of a name below this tell nothing of how long it usually takes.
pub const RUNS_MIN: u64 = 5;
/// Runs shorter than this are neither slow nor stuck by their history: such jobs vary by more than any factor. Milliseconds.
pub const RUN_LEAST_MS: u64 = 60_000;

/// What is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Watch {
    /// An attempt runs much longer than its name usually does, or longer than a limit.
    StuckJob,
    /// An attempt runs longer than its name usually does.
    SlowJob,
    /// Too many jobs fail.
    FailureRate,
    /// A job that could run waits too long.
    QueueAge,
    /// Jobs of one name succeed and fail by turns.
    Flapping,
}

impl Watch {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::StuckJob, Self::SlowJob, Self::FailureRate, Self::QueueAge, Self::Flapping];

    /// The word in configuration, events and figures.
    pub fn word(self) -> &'static str {
        match self {
            Self::StuckJob => "stuck_job",
            Self::SlowJob => "slow_job",
            Self::FailureRate => "failure_rate",
            Self::QueueAge => "queue_age",
            Self::Flapping => "flapping",
        }
    }

    /// From its word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|watch| watch.word() == word)
    }

    /// Whether its subject is an attempt: when that is over, so is the alarm.
    pub fn is_of_attempt(self) -> bool {
        matches!(self, Self::StuckJob | Self::SlowJob)
    }
}

/// Limits of the watches. None: not watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// An attempt is stuck beyond so many hundredths of its name's 95th percentile.
    pub stuck_factor: Option<u64>,
    /// And beyond this, whatever its name, milliseconds.
    pub stuck_after_ms: Option<u64>,
    /// An attempt is slow beyond so many hundredths of its name's 95th percentile.
    pub slow_factor: Option<u64>,
    /// Most jobs that may fail, hundredths of a percent.
    pub failure_rate_max: Option<u64>,
    /// Fewer judged jobs than this have no failure rate.
    pub failure_jobs_min: u64,
    /// A job that could run may wait so long, milliseconds.
    pub queue_age_max_ms: Option<u64>,
    /// So many changes between success and failure are no flapping yet.
    pub flapping_changes_max: Option<u64>,
}

/// An attempt that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its subject.
    pub subject: String,
    /// How long it runs, milliseconds.
    pub run_ms: u64,
    /// What 95 % of its name's runs took at most, milliseconds, where there are enough of them.
    pub usual_ms: Option<u64>,
}

/// What is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Attempts that run.
    pub runs: Vec<Run>,
    /// Jobs of the window that succeeded, failed or timed out.
    pub judged: u64,
    /// Those that did not succeed.
    pub failed: u64,
    /// How long the job that could run waits, milliseconds.
    pub queue_age_ms: Option<u64>,
    /// By name: changes between success and failure in the window.
    pub changes: Vec<(String, u64)>,
}

/// A figure beside its limit; the unit is the watch's: milliseconds, hundredths of a percent, or a count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What is watched for.
    pub watch: Watch,
    /// Of what; empty: of the host.
    pub subject: String,
    /// The figure.
    pub measured: u64,
    /// Its limit.
    pub limit: u64,
}

/// The readings of some figures: each figure that has a limit.
pub fn readings(figures: &Figures, rules: &Rules) -> Vec<Reading> {
    let mut readings = Vec::new();
    let reading =
        |watch, subject: &str, measured, limit| Reading { watch, subject: subject.to_owned(), measured, limit };
    for run in &figures.runs {
        let by_history = |factor: Option<u64>| {
            let limit = factor?.saturating_mul(run.usual_ms?) / 100;
            Some(limit.max(RUN_LEAST_MS))
        };
        let stuck = [by_history(rules.stuck_factor), rules.stuck_after_ms].into_iter().flatten().min();
        let limits = [(Watch::StuckJob, stuck), (Watch::SlowJob, by_history(rules.slow_factor))];
        let limits = limits.into_iter().filter_map(|(watch, limit)| Some((watch, limit?)));
        readings.extend(limits.map(|(watch, limit)| reading(watch, &run.subject, run.run_ms, limit)));
    }
    if let Some(limit) = rules.failure_rate_max.filter(|_| figures.judged >= rules.failure_jobs_min.max(1)) {
        let rate = figures.failed.saturating_mul(10_000) / figures.judged.max(1);
        readings.push(reading(Watch::FailureRate, "", rate, limit));
    }
    if let (Some(age), Some(limit)) = (figures.queue_age_ms, rules.queue_age_max_ms) {
        readings.push(reading(Watch::QueueAge, "", age, limit));
    }
    if let Some(limit) = rules.flapping_changes_max {
        readings.extend(figures.changes.iter().map(|(name, count)| reading(Watch::Flapping, name, *count, limit)));
    }
    readings
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The reading that started it; the highest since, while it lasts.
    pub reading: Reading,
    /// The figure of the last look that had one; the same as in the reading where that is not known.
    pub latest: u64,
    /// Since when.
    pub since: Instant,
    /// Since when its reading is low enough.
    pub calm_since: Option<Instant>,
}

/// An alarm started or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It started.
    Started(Alarm),
    /// It ended.
    Ended(Alarm),
}

type Key = (Watch, String);

/// All active alarms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    active: BTreeMap<Key, Alarm>,
}

impl Alarms {
    /// Goes on with those that an earlier daemon left.
    pub fn resume(alarms: impl IntoIterator<Item = Alarm>) -> Self {
        let key = |alarm: Alarm| ((alarm.reading.watch, alarm.reading.subject.clone()), alarm);
        Self { active: alarms.into_iter().map(key).collect() }
    }

    /// Those that are active.
    pub fn active(&self) -> impl Iterator<Item = &Alarm> {
        self.active.values()
    }

    /// Takes all readings of one moment; tells what started and ended. `calm_ms`: so long a reading stays low before its
    /// alarm ends; an attempt that is over ends its alarms at once.
    pub fn look(&mut self, readings: &[Reading], calm_ms: u64, now: Instant) -> Vec<Turn> {
        let mut turns = Vec::new();
        let by_key: BTreeMap<Key, &Reading> =
            readings.iter().map(|reading| ((reading.watch, reading.subject.clone()), reading)).collect();
        let mut over = Vec::new();
        for (key, alarm) in &mut self.active {
            let reading = by_key.get(key);
            let high = reading.is_some_and(|reading| !is_low(reading));
            if let Some(reading) = reading {
                alarm.reading.limit = reading.limit;
                alarm.latest = reading.measured;
                alarm.reading.measured = alarm.reading.measured.max(reading.measured);
            }
            let calm_since = *alarm.calm_since.get_or_insert(now);
            if high {
                alarm.calm_since = None;
            } else if now.since_ms(calm_since) >= calm_ms || (reading.is_none() && key.0.is_of_attempt()) {
                over.push(key.clone());
            }
        }
        turns.extend(over.iter().filter_map(|key| self.active.remove(key)).map(Turn::Ended));
        for (key, reading) in by_key {
            let is_new = reading.measured > reading.limit && !self.active.contains_key(&key) && !over.contains(&key);
            if is_new && self.count(key.0) < ALARMS_MAX {
                let alarm = Alarm { reading: reading.clone(), latest: reading.measured, since: now, calm_since: None };
                turns.push(Turn::Started(alarm.clone()));
                self.active.insert(key, alarm);
            }
        }
        turns
    }

    fn count(&self, watch: Watch) -> usize {
        self.active.keys().filter(|key| key.0 == watch).count()
    }
}

/// Whether a reading is so low that its alarm may end: four fifths of the limit.
fn is_low(reading: &Reading) -> bool {
    reading.measured <= reading.limit - reading.limit / 5
}

#[cfg(test)]
mod tests;
