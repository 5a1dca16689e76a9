//! What is kept together in one commit, what leaves the process only once that is on disk, and how long it may wait for more.

use super::telling::Telling;
use super::*;
use crate::daemon::handle::{Acted, IdempotencyKey, Refusal};
use crate::store::{ScheduleRow, Write};
use ci_runner_core::change::{Change, Entry};
use ci_runner_core::state::Event;

/// How long a batch may wait for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Haste {
    Ride,
    Gather,
    Now,
}

/// What waits for a batch to be on disk.
pub(super) enum Effect {
    Submitted(Vec<JobId>, oneshot::Sender<Result<Vec<JobId>, Refusal>>),
    Acted {
        acted: Acted,
        /// Who, when it was a cancel.
        cancelled_by: Option<String>,
        reply: oneshot::Sender<Result<Acted, Refusal>>,
    },
    Done(oneshot::Sender<Result<(), Refusal>>),
    Scheduled(Box<ScheduleRow>, oneshot::Sender<Result<ScheduleRow, Refusal>>),
    /// An attempt's end is kept: its directory may go.
    Forget(Way, JobId, AttemptKey),
    /// An attempt of another epoch is over by the record: what may be left of it is killed, its directory may go.
    Sweep(Way, JobId, AttemptKey),
    /// A job is finished: its secrets may go.
    Finished(JobId),
    /// The log and the figures may tell of it.
    Tell(Box<Telling>),
}

/// What is collected for the next commit.
#[derive(Default)]
pub(super) struct Batch {
    pub writes: Vec<Write>,
    pub secrets: Vec<(JobId, Vec<(String, String)>)>,
    pub want: Vec<JobId>,
    pub effects: Vec<Effect>,
    pub jobs: Vec<JobId>,
    pub again: Vec<JobId>,
    /// What the requests of schedules that ran have, in bytes.
    pub run_bytes: usize,
    /// Idempotency keys of the batch, until readers can see them.
    pub keys: HashMap<String, (IdempotencyKey, Vec<JobId>)>,
    pub news: u64,
    /// When its first change was noted.
    pub since: Option<std::time::Instant>,
}

impl Batch {
    /// Somebody waits for an answer, or acts on what is kept: now. Nobody does for starts, ends and claims ahead.
    pub fn haste(&self) -> Haste {
        let answers = self
            .effects
            .iter()
            .any(|effect| !matches!(effect, Effect::Forget(..) | Effect::Finished(_) | Effect::Tell(_)));
        if answers || !self.again.is_empty() {
            return Haste::Now;
        }
        let haste_of = |write: &Write| match write {
            Write::Entry(Entry { change: Change::Job { event, .. }, .. }) => match event {
                Event::Started { .. } | Event::Refused { .. } | Event::Renewed { .. } => Haste::Ride,
                Event::Claimed { .. } | Event::Released { .. } | Event::Ended { .. } => Haste::Gather,
                Event::StopRequested { .. } | Event::Dropped { .. } => Haste::Now,
            },
            Write::Receipt { .. } => Haste::Ride,
            Write::Entry(_)
            | Write::Key(_)
            | Write::Schedule(_)
            | Write::ScheduleRan(_)
            | Write::ScheduleRemoved { .. }
            | Write::Clock { .. } => Haste::Now,
        };
        self.writes.iter().map(haste_of).max().unwrap_or(Haste::Now)
    }

    /// To be told once it is kept.
    pub fn tell(&mut self, telling: Telling) {
        self.effects.push(Effect::Tell(Box::new(telling)));
    }

    /// The beginning of an attempt, in the log and the figures, was none.
    pub fn take_back_beginning(&mut self, job: JobId) {
        self.effects.retain(|effect| {
            !matches!(effect, Effect::Tell(telling) if matches!(&**telling, Telling::Began { about, .. } if about.id == job))
        });
    }

    /// The commit looks at this job again although nothing of it changes.
    pub fn ask_again(&mut self, id: JobId) {
        self.again.push(id);
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.want.is_empty() && self.effects.is_empty()
    }
}

/// A batch at the writer.
pub(super) struct InFlight {
    pub since: std::time::Instant,
    pub effects: Vec<Effect>,
    pub jobs: Vec<JobId>,
    pub again: Vec<JobId>,
    pub keys: HashMap<String, (IdempotencyKey, Vec<JobId>)>,
    pub news: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use ci_runner_core::id::{AttemptNumber, Epoch, PoolId};
    use ci_runner_core::outcome::{AttemptResult, By, Outcome};
    use ci_runner_core::state::Next;
    use ci_runner_core::time::Now;

    fn batch(events: Vec<Event>) -> Batch {
        let id = JobId::new(1).unwrap();
        let entry = |event| Write::Entry(Entry { at: Now::default(), change: Change::Job { id, event } });
        Batch { writes: events.into_iter().map(entry).collect(), ..Batch::default() }
    }

    #[test]
    fn only_what_nobody_waits_for_shares_a_later_commit() {
        let attempt = AttemptNumber(1);
        let started = || Event::Started { attempt };
        let result = AttemptResult::Exited { code: 0 };
        let ended =
            || Event::Ended { attempt, result: result.clone(), next: Next::Finish { outcome: Outcome::Succeeded } };
        let limits = ci_runner_core::limits::Limits::NONE;
        let claimed = Event::Claimed { attempt, pool: PoolId(0), slot: 0, epoch: Epoch::new("e"), limits };
        let stop = Event::StopRequested { attempt, by: By::User("me".to_owned()), kill_at: Instant::default() };
        assert_eq!(batch(vec![started()]).haste(), Haste::Ride);
        assert_eq!(batch(vec![started(), ended(), claimed]).haste(), Haste::Gather);
        assert_eq!(batch(vec![started(), stop]).haste(), Haste::Now, "a kill waits for it");
        let mut told = batch(vec![ended()]);
        told.effects.push(Effect::Finished(JobId::new(1).unwrap()));
        assert_eq!(told.haste(), Haste::Gather);
        told.effects.push(Effect::Done(oneshot::channel().0));
        assert_eq!(told.haste(), Haste::Now, "somebody waits for an answer");
        let mut asked = batch(Vec::new());
        asked.ask_again(JobId::new(1).unwrap());
        assert_eq!(asked.haste(), Haste::Now, "a start waits for its specification");
    }
}
