//! Pausing schedules and letting them go on.

use super::*;

impl Engine {
    /// Pauses or resumes; runs that were missed meanwhile stay missed.
    pub(super) fn pause_schedule(&mut self, name: &str, by: Option<String>) -> Result<ScheduleRow, Refusal> {
        let now = self.clock.now().wall;
        let Some(live) = self.schedules.live.get_mut(name) else { return self.pause_unread(name, by) };
        if live.row.paused.is_some() == by.is_some() {
            return Ok(live.row.clone());
        }
        if by.is_none() {
            live.row.after = now;
            live.state = ScheduleState { until_ms: now.0 };
        }
        live.row.paused = by;
        live.find_next();
        let row = live.row.clone();
        self.batch.writes.push(Write::Schedule(row.clone()));
        Ok(row)
    }

    /// The same of one that means nothing on this host.
    fn pause_unread(&mut self, name: &str, by: Option<String>) -> Result<ScheduleRow, Refusal> {
        let unread = self.schedules.unread.get_mut(name).ok_or_else(|| Refusal::NoSchedule(name.to_owned()))?;
        if unread.row.paused.is_some() != by.is_some() {
            if by.is_none() {
                unread.row.after = self.clock.now().wall;
            }
            unread.row.paused = by;
            self.batch.writes.push(Write::Schedule(unread.row.clone()));
        }
        Ok(unread.row.clone())
    }
}
