//! Schedules that the configuration declares: the store has them as it has the others, marked as the configuration's own. At
//! each start and reload, and when the store takes commits again, what is stored becomes what is declared. A pause, the last job
//! and what was missed are remembered; a schedule that is declared no more goes.

use super::*;

/// Who added them; no user has such a name.
pub const DECLARED: &str = "the configuration";

impl Engine {
    /// Makes the stored schedules what the configuration says.
    pub(in crate::daemon::engine) fn declare_schedules(&mut self, now: Now) {
        let declared = self.host.schedules.clone();
        let gone: Vec<String> = self
            .schedules
            .rows()
            .filter(|row| row.by == DECLARED && !declared.iter().any(|declared| declared.name == row.name))
            .map(|row| row.name.clone())
            .collect();
        for name in gone {
            log::info!("schedule {name:?} is declared no more and was removed");
            self.schedules.remove(&name);
            self.batch.writes.push(Write::ScheduleRemoved { name });
        }
        for row in declared {
            self.declare(row, now);
        }
    }

    fn declare(&mut self, declared: ScheduleRow, now: Now) {
        let present = self.schedules.row(&declared.name).cloned();
        let row = merged(declared, present.as_ref(), now.wall);
        // One that meant nothing is tried again: its time zone may be there by now.
        if present.as_ref() == Some(&row) && self.schedules.live.contains_key(&row.name) {
            return;
        }
        if let Some(other) = present.filter(|present| present.by != DECLARED) {
            log::warn!(
                "schedule {:?} of {} was replaced by the one that the configuration declares",
                row.name,
                other.by
            );
        }
        match Live::new(row.clone()) {
            Ok(live) => {
                self.schedules.put(row.name.clone(), live);
                self.batch.writes.push(Write::Schedule(row));
            }
            // The configuration was checked; the time zone may have gone from this host since.
            Err(why) => {
                log::error!("schedule {:?} is not run: {why}", row.name);
                if !self.schedules.live.contains_key(&row.name) {
                    self.schedules.unread.insert(row.name.clone(), Unread { row, why });
                }
            }
        }
    }
}

/// What is declared, with what the stored one remembers. With new times runs are due from now on.
fn merged(declared: ScheduleRow, present: Option<&ScheduleRow>, now: WallTime) -> ScheduleRow {
    let Some(present) = present else { return ScheduleRow { after: now, ..declared } };
    let same_times = (&present.calendar, &present.timezone) == (&declared.calendar, &declared.timezone);
    ScheduleRow {
        paused: present.paused.clone(),
        last_job: present.last_job,
        timed_job: present.timed_job,
        refused: present.refused.clone(),
        after: if same_times { present.after } else { now },
        ..declared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_keeps_its_pause_its_last_job_and_what_was_missed() {
        let row = |calendar: &str, request: &str| ScheduleRow {
            name: "nightly".into(),
            calendar: calendar.into(),
            timezone: "UTC".into(),
            overlap: "skip".into(),
            missed: "once".into(),
            request: request.into(),
            by: DECLARED.into(),
            paused: None,
            after: WallTime(0),
            last_job: None,
            timed_job: None,
            refused: None,
        };
        let (now, before) = (WallTime(9000), WallTime(5000));
        let new = merged(row("daily", "{}"), None, now);
        assert_eq!(new, ScheduleRow { after: now, ..row("daily", "{}") });
        let stored = ScheduleRow {
            paused: Some("ada".into()),
            last_job: Some(JobId::new(7).unwrap()),
            after: before,
            by: "ada".into(),
            ..row("daily", "{}")
        };
        let kept = merged(row("daily", "{\"name\":\"x\"}"), Some(&stored), now);
        assert_eq!((kept.paused.as_deref(), kept.last_job, kept.after), (Some("ada"), stored.last_job, before));
        assert_eq!((kept.by.as_str(), kept.request.as_str()), (DECLARED, "{\"name\":\"x\"}"));
        let moved = merged(row("hourly", "{}"), Some(&stored), now);
        assert_eq!((moved.after, moved.paused.as_deref()), (now, Some("ada")));
    }
}
