//! Answers of the store in memory.

use super::{Shared, is_kept};
use crate::store::{
    AttemptRow, BackupFile, EndMark, EndedFilter, EndedJob, JobEnd, JobFilter, JobRow, KeyRow, Reader, ScheduleRow,
    StoreError,
};
use ci_runner_core::id::JobId;
use ci_runner_core::outcome::Outcome;
use ci_runner_core::time::Instant;
use std::collections::HashMap;

impl Reader for Shared {
    fn job(&self, id: JobId) -> Result<Option<JobRow>, StoreError> {
        Ok(self.lock().row(id))
    }

    fn attempts(&self, id: JobId) -> Result<Vec<AttemptRow>, StoreError> {
        Ok(self.lock().jobs.get(&id).map(|job| job.attempts.clone()).unwrap_or_default())
    }

    fn each_job(&self, filter: &JobFilter, each: &mut dyn FnMut(JobRow) -> bool) -> Result<(), StoreError> {
        let state = self.lock();
        let beyond =
            |id: &JobId| filter.cursor.is_none_or(|cursor| if filter.ascending { *id > cursor } else { *id < cursor });
        let mut give = |ids: &mut dyn Iterator<Item = &JobId>| {
            let rows = ids.filter(|id| beyond(id)).filter_map(|id| state.row(*id));
            let mut rows = rows.filter(|row| filter.matches(row)).take(filter.limit);
            while rows.next().is_some_and(&mut *each) {}
        };
        let mut ids = state.jobs.keys();
        if filter.ascending {
            give(&mut ids)
        } else {
            give(&mut ids.rev())
        }
        Ok(())
    }

    fn ends_since(&self, from: Instant, most: usize) -> Result<Vec<EndMark>, StoreError> {
        let state = self.lock();
        let mut marks: Vec<EndMark> = state.jobs.iter().filter_map(|(id, job)| job.as_mark(*id)).collect();
        marks.retain(|mark| mark.at >= from);
        marks.sort_by_key(|mark| (mark.at, mark.id));
        marks.truncate(most);
        Ok(marks)
    }

    fn each_ended(&self, filter: &EndedFilter, each: &mut dyn FnMut(EndedJob<'_>) -> bool) -> Result<(), StoreError> {
        let state = self.lock();
        let mut ended: Vec<EndedJob<'_>> = state.jobs.iter().filter_map(|(id, job)| job.as_ended(*id)).collect();
        ended.retain(|job| filter.matches(job));
        // Stable, so that of two with one time the higher id comes first, as in SQLite.
        ended.reverse();
        ended.sort_by_key(|job| std::cmp::Reverse(job.finished));
        for job in ended {
            if !each(job) {
                break;
            }
        }
        Ok(())
    }

    fn ended_among(&self, ids: &[JobId]) -> Result<HashMap<JobId, bool>, StoreError> {
        let ends = ids.iter().map(|id| Ok((*id, self.ended(*id)?)));
        let ends = ends.collect::<Result<Vec<_>, StoreError>>()?;
        Ok(ends.into_iter().filter_map(|(id, success)| Some((id, success?))).collect())
    }

    fn ended(&self, id: JobId) -> Result<Option<bool>, StoreError> {
        let state = self.lock();
        let finished = state.jobs.get(&id).and_then(|job| job.finished.as_ref());
        Ok(finished.map(|(_, outcome)| outcome.is_success()))
    }

    fn ends(&self, first: JobId, last: JobId) -> Result<Vec<JobEnd>, StoreError> {
        Ok(self.lock().jobs.range(first..=last).map(|(id, job)| (*id, job.ended)).collect())
    }

    fn key(&self, key: &str, now: Instant) -> Result<Option<KeyRow>, StoreError> {
        Ok(self.lock().keys.get(key).filter(|row| is_kept(row, now)).cloned())
    }

    fn totals(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let totals = self.lock().totals;
        Ok(Outcome::WORDS.iter().map(|word| (*word).to_owned()).zip(totals).collect())
    }

    fn schedules(&self) -> Result<Vec<ScheduleRow>, StoreError> {
        Ok(self.lock().schedules.values().cloned().collect())
    }

    fn schedule(&self, name: &str) -> Result<Option<ScheduleRow>, StoreError> {
        Ok(self.lock().schedules.get(name).cloned())
    }

    fn backup(&self, to: &std::path::Path, _: &[BackupFile]) -> Result<(), StoreError> {
        let source = std::io::Error::new(std::io::ErrorKind::Unsupported, "a store in memory has nothing to back up");
        Err(StoreError::Io { doing: "back up to", path: to.display().to_string(), source })
    }

    fn check(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}
