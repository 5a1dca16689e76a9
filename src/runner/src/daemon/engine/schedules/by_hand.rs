//! A run of a schedule that somebody asks for, beside its times: the same job, and the last one from then on. The last job of
//! its times stays known: overlap policies look at both.

use super::*;
use crate::daemon::handle::IdempotencyKey;
use ci_runner_core::job::Fault;

impl Engine {
    /// Queues the job now: no overlap policy leaves it out or cancels the last one for it. In pools of people it counts as that of
    /// whoever asks.
    pub(in crate::daemon::engine) fn run_by_hand(
        &mut self,
        name: &str,
        key: Option<&IdempotencyKey>,
        submitter: &Submitter,
    ) -> Result<Vec<JobId>, Refusal> {
        let live = self.schedules.live.get(name).ok_or_else(|| match self.schedules.unread.get(name) {
            Some(Unread { why, .. }) => Refusal::ScheduleUnread { name: name.to_owned(), why: why.clone() },
            None => Refusal::NoSchedule(name.to_owned()),
        })?;
        let request =
            live.request().map_err(|why| Refusal::Store(format!("the schedule's job cannot be read: {why}")))?;
        let job = new_job(request, self.record.settings(), &jiff::Zoned::now());
        let job = job.map_err(|fault: Fault| Refusal::Fault { index: 0, fault })?;
        let after: Vec<JobId> = job.spec.terms.after.iter().map(|after| after.job).collect();
        let ends = self.reader.ended_among(&after).map_err(|error| Refusal::Store(chain(&error)))?;
        let next = self.record.next_id();
        let ids = self.submit(vec![job], ends, key, submitter)?;
        // A key that was used before stands for the job of then.
        if let Some(live) = self.schedules.live.get_mut(name).filter(|_| ids.first() == Some(&next)) {
            live.row.last_job = Some(next);
            self.batch.writes.push(live.ran());
        }
        Ok(ids)
    }
}
