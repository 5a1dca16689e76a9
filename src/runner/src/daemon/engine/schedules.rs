//! Schedules: when one is due, its job is queued and the schedule moves on, in one commit.

mod by_hand;
mod declared;
mod paused;
mod runs;
mod weight;

pub use declared::DECLARED;

use super::*;
use crate::api::{GroupField, GroupParts, JobRequest};
use crate::cron::{self, CronSchedule, Missed, Overlap, ScheduleState};
use crate::daemon::handle::{Refusal, Submitter};
use crate::daemon::schedule_deeds::ScheduleDeed;
use crate::request::new_job;
use crate::store::{RefusedRun, ScheduleRow, StoreError, Write};
use ci_runner_core::change::{self, Change};
use ci_runner_core::outcome::By;
use ci_runner_core::time::WallTime;

/// Who submits the jobs of a schedule, with its name; the group of its runs, where they go one after the other, has the same name.
pub(super) const SUBMITTER: &str = "schedule";
/// With so many nobody may add another one, but the configuration, which has a limit of its own: each turn of the loop looks at all of
/// them, and all may be due in the same second.
pub const SCHEDULES_MAX: usize = 4_000;
/// What the requests of all schedules may have together, beside which nobody may add another one: all are read at a start, and a list
/// shows them all.
pub const REQUESTS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Whoever writes the configuration decides who may submit where: schedules in it count as root's.
const ROOT: u32 = 0;

/// A schedule with what its texts mean.
struct Live {
    row: ScheduleRow,
    cron: CronSchedule,
    missed: Missed,
    overlap: Overlap,
    /// Times up to this are dealt with, and when that was known: None before the first look of this daemon.
    state: ScheduleState,
    looked: Option<Instant>,
    next: Option<WallTime>,
    /// What each of its runs takes, in bytes.
    weight: usize,
}

/// One that is stored and cannot be run: its texts mean nothing on this host, which has lost a time zone, say.
struct Unread {
    row: ScheduleRow,
    why: String,
}

/// All schedules; no name is in both.
#[derive(Default)]
pub(super) struct Schedules {
    live: BTreeMap<String, Live>,
    unread: BTreeMap<String, Unread>,
}

impl Schedules {
    /// Those that cannot be run, or whose last run could not be queued, in words.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let active = self.live.values().filter(|live| live.row.paused.is_none());
        let refused = active.filter_map(|live| {
            let refused = live.row.refused.as_ref()?;
            Some(format!("schedule {:?}: its last run was refused: {}", live.row.name, refused.why))
        });
        let active = self.unread.values().filter(|unread| unread.row.paused.is_none());
        refused.chain(active.map(|unread| format!("schedule {:?} is not run: {}", unread.row.name, unread.why)))
    }

    /// Takes one in as it is stored.
    fn take(&mut self, row: ScheduleRow) {
        let name = row.name.clone();
        match Live::new(row.clone()) {
            Ok(live) => self.put(name, live),
            Err(why) => {
                log::error!("schedule {name:?} is not run: {why}");
                self.unread.insert(name, Unread { row, why });
            }
        }
    }

    fn put(&mut self, name: String, live: Live) {
        self.unread.remove(&name);
        self.live.insert(name, live);
    }

    /// As it is stored.
    fn row(&self, name: &str) -> Option<&ScheduleRow> {
        let live = self.live.get(name).map(|live| &live.row);
        live.or_else(|| self.unread.get(name).map(|unread| &unread.row))
    }

    fn rows(&self) -> impl Iterator<Item = &ScheduleRow> {
        self.live.values().map(|live| &live.row).chain(self.unread.values().map(|unread| &unread.row))
    }

    fn remove(&mut self, name: &str) {
        self.live.remove(name);
        self.unread.remove(name);
    }

    /// What the requests of all but this one have.
    fn request_bytes_beside(&self, name: &str) -> usize {
        self.rows().filter(|row| row.name != name).map(|row| row.request.len()).sum()
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<WallTime> {
        self.live.values().filter_map(|live| live.next).min()
    }
}

/// What became of a run that was due and not refused.
enum Run {
    Queued,
    /// The last one is not over, and the schedule's policy leaves this one out.
    LeftOut,
}

impl Live {
    fn new(row: ScheduleRow) -> Result<Self, String> {
        let cron = CronSchedule::parse(&row.calendar, Some(&row.timezone)).map_err(|error| error.to_string())?;
        let mut live = Self {
            missed: Missed::parse(&row.missed)?,
            overlap: Overlap::parse(&row.overlap)?,
            state: ScheduleState { until_ms: row.after.0 },
            looked: None,
            next: None,
            weight: weight::weight(&row.request),
            cron,
            row,
        };
        live.find_next();
        Ok(live)
    }

    /// The job of a run: called as its schedule unless it says otherwise.
    fn request(&self) -> Result<JobRequest, String> {
        let name = &self.row.name;
        let mut request: JobRequest = serde_json::from_str(&self.row.request).map_err(|error| error.to_string())?;
        request.name.get_or_insert_with(|| name.clone());
        if self.overlap == Overlap::Queue && request.group.is_none() {
            let group = GroupParts { name: format!("{SUBMITTER} {name}"), limit: Some(1), policy: None };
            request.group = Some(GroupField::Parts(group));
        }
        Ok(request)
    }

    /// What a run leaves in the store.
    fn ran(&self) -> Write {
        Write::ScheduleRan(self.row.ran())
    }

    /// Whether it has to be looked at.
    fn is_due(&self, now: WallTime) -> bool {
        // The first look of a daemon asks each schedule what was missed; and the next time that was found before the clock
        // was set back may be years away.
        let anew = self.looked.is_none() || cron::is_set_back(self.state, now.0);
        self.row.paused.is_none() && (anew || self.next.is_some_and(|next| next <= now))
    }

    fn find_next(&mut self) {
        let next = self.cron.next_after(self.state.until_ms).map(WallTime);
        self.next = next.filter(|_| self.row.paused.is_none());
    }
}

impl Engine {
    /// Takes those that are stored. Err: they cannot be read just now, and what was known stays.
    pub(super) fn load_schedules(&mut self) -> Result<(), StoreError> {
        let rows = match self.reader.schedules() {
            Ok(rows) => rows,
            // To wait for rows that never can be read would hold up everything else.
            Err(error @ (StoreError::Damaged { .. } | StoreError::Row { .. })) => {
                log::error!("schedules cannot be read: {}", chain(&error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut schedules = Schedules::default();
        for row in rows {
            schedules.take(row);
        }
        self.schedules = schedules;
        Ok(())
    }

    /// At the start: what is stored, made what the configuration says. Where that cannot be read, the store is read again before anything
    /// is taken in.
    pub(super) fn begin_schedules(&mut self) {
        let now = self.clock.now();
        match self.load_schedules() {
            Ok(()) => self.declare_schedules(now),
            Err(error) => self.read_again(&error, now.engine),
        }
    }

    /// The row as it is from now on; of one that is removed, as it was.
    pub(super) fn change_schedule(&mut self, deed: ScheduleDeed) -> Result<ScheduleRow, Refusal> {
        match deed {
            ScheduleDeed::Keep { row, replace } => self.add_schedule(*row, replace),
            ScheduleDeed::Pause { name, by } => self.pause_schedule(&name, Some(by)),
            ScheduleDeed::Resume { name } => self.pause_schedule(&name, None),
            ScheduleDeed::Remove { name } => self.remove_schedule(&name),
        }
    }

    fn add_schedule(&mut self, mut row: ScheduleRow, replace: bool) -> Result<ScheduleRow, Refusal> {
        if let Some(present) = self.schedules.row(&row.name) {
            if present.by == DECLARED && row.by != DECLARED {
                return Err(Refusal::ScheduleDeclared(row.name));
            }
            if !replace {
                return Err(Refusal::ScheduleExists(row.name));
            }
            // Whoever replaces it says what it is to do, not what it has done nor whether it is paused.
            row.last_job = present.last_job.max(row.last_job);
            row.timed_job = present.timed_job.max(row.timed_job);
            // And a time that came while it was under way is not run again.
            if (&row.calendar, &row.timezone) == (&present.calendar, &present.timezone) {
                row.after = row.after.max(present.after);
            }
            row.paused = present.paused.clone();
        } else if self.schedules.rows().count() >= SCHEDULES_MAX {
            return Err(Refusal::SchedulesFull { limit: SCHEDULES_MAX });
        }
        let grows = self.schedules.row(&row.name).is_none_or(|present| present.request.len() < row.request.len());
        let beside = self.schedules.request_bytes_beside(&row.name);
        if row.by != DECLARED && grows && beside + row.request.len() > REQUESTS_BYTES_MAX {
            return Err(Refusal::SchedulesLarge { limit: REQUESTS_BYTES_MAX });
        }
        let live = Live::new(row.clone()).map_err(|why| Refusal::Fault {
            index: 0,
            fault: ci_runner_core::job::Fault { field: "calendar".to_owned(), why },
        })?;
        self.schedules.put(row.name.clone(), live);
        self.batch.writes.push(Write::Schedule(row.clone()));
        Ok(row)
    }

    fn remove_schedule(&mut self, name: &str) -> Result<ScheduleRow, Refusal> {
        let row = self.schedules.row(name).cloned().ok_or_else(|| Refusal::NoSchedule(name.to_owned()))?;
        if row.by == DECLARED {
            return Err(Refusal::ScheduleDeclared(name.to_owned()));
        }
        self.schedules.remove(name);
        self.batch.writes.push(Write::ScheduleRemoved { name: name.to_owned() });
        Ok(row)
    }

    /// Err: why it is refused.
    fn queue_scheduled(&mut self, live: &mut Live) -> Result<Run, String> {
        let name = &live.row.name;
        // A run by hand is looked at beside the last of its times.
        let mut open: Vec<JobId> = [live.row.timed_job, live.row.last_job].into_iter().flatten().collect();
        open.dedup();
        open.retain(|last| self.record.phase(*last).is_some());
        if let Some(last) = open.first() {
            match live.overlap {
                Overlap::Skip => {
                    log::info!("schedule {name:?}: job {last} is not over, this run is left out");
                    return Ok(Run::LeftOut);
                }
                Overlap::CancelRunning | Overlap::Queue | Overlap::Allow => {}
            }
        }
        let request = live.request()?;
        let job = new_job(request, self.record.settings(), &jiff::Zoned::now()).map_err(|fault| fault.to_string())?;
        // In pools of people it counts as a job of whoever made the schedule.
        let uid = if live.row.by == DECLARED { Some(ROOT) } else { self.users.id_of(&live.row.by) };
        let submitter = Submitter { name: format!("{SUBMITTER} {name}"), uid };
        let after: Vec<JobId> = job.spec.terms.after.iter().map(|after| after.job).collect();
        let ends = self.reader.ended_among(&after).map_err(|error| chain(&error))?;
        let ids = self.submit(vec![job], ends, None, &submitter).map_err(|refusal| refusal.to_string())?;
        // Only for a run that was taken, and in the same batch: one that is refused leaves what runs alone.
        for id in open.into_iter().filter(|_| live.overlap == Overlap::CancelRunning) {
            let by = By::User(submitter.name.clone());
            self.record_change(Change::Wished { id, wish: change::Wish::Cancel { by } });
        }
        live.row.last_job = ids.first().copied();
        live.row.timed_job = live.row.last_job;
        Ok(Run::Queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

    /// The next time that had been found before the clock was set back was a year away, and so was the next run.
    #[test]
    fn a_schedule_is_looked_at_when_the_clock_was_set_back() {
        let then = WallTime(1_900_000_000_000);
        let row = ScheduleRow {
            name: "tick".into(),
            calendar: "* * * * *".into(),
            timezone: "UTC".into(),
            overlap: "skip".into(),
            missed: "all".into(),
            request: "{}".into(),
            by: "root".into(),
            paused: None,
            after: then,
            last_job: None,
            timed_job: None,
            refused: None,
        };
        let mut live = Live::new(row).unwrap();
        assert!(live.is_due(then), "the first look of a daemon");
        live.looked = Some(Instant(0));
        assert!(!live.is_due(then) && live.is_due(then.plus_ms(60_000)));
        assert!(!live.is_due(WallTime(then.0 - 60_000)), "a correction");
        assert!(live.is_due(WallTime(then.0 - YEAR_MS)));
        live.row.paused = Some("root".into());
        assert!(!live.is_due(WallTime(then.0 - YEAR_MS)));
    }
}
