//! Runs of what is due, as many in one turn and one commit as others may wait for. What one schedule missed comes in pieces as well.

use super::*;
use crate::daemon::engine::telling::Telling;

/// Runs that take more than this together go to the disk in more than one commit; one that takes more has its own.
const RUN_BYTES_PER_COMMIT: usize = 4 * 1024 * 1024;
/// Runs of one turn, so that submissions, starts and ends do not wait for all that are due at a full hour, or that were missed.
const RUNS_PER_TURN: usize = 100;

impl Engine {
    /// Queues the jobs of what is due, the longest due first, as far as one turn and the batch have room; the rest in the next turns.
    pub(in crate::daemon::engine) fn run_schedules(&mut self, now: Now) {
        let due = self.schedules.live.iter().filter(|(_, live)| live.is_due(now.wall));
        let mut due: Vec<(Option<WallTime>, String)> = due.map(|(name, live)| (live.next, name.clone())).collect();
        due.sort_unstable();
        let mut left = RUNS_PER_TURN;
        for (_, name) in due {
            if left == 0 || !self.has_room_for_runs() {
                return;
            }
            if let Some(mut live) = self.schedules.live.remove(&name) {
                left -= self.run_schedule(&mut live, now, left).clamp(1, left);
                self.schedules.live.insert(name, live);
            }
        }
    }

    /// False while the batch is as large as a commit should be.
    pub(in crate::daemon::engine) fn has_room_for_runs(&self) -> bool {
        self.room_in_batch() > 0 && self.batch.run_bytes < RUN_BYTES_PER_COMMIT
    }

    /// Whether the batch takes another run of so many bytes. Once it does not, it takes no other either.
    fn takes_run(&mut self, weight: usize) -> bool {
        let run_bytes = self.batch.run_bytes;
        if run_bytes > 0 && run_bytes + weight > RUN_BYTES_PER_COMMIT {
            self.batch.run_bytes = run_bytes.max(RUN_BYTES_PER_COMMIT);
        }
        self.has_room_for_runs()
    }

    /// Tells how many times it dealt with: so many at most, and no more than the batch has room for.
    fn run_schedule(&mut self, live: &mut Live, now: Now, most: usize) -> usize {
        let elapsed_ms = live.looked.map(|looked| now.engine.since_ms(looked));
        let clock = cron::Clock { wall_ms: now.wall.0, elapsed_ms };
        let due = cron::due(&live.cron, live.missed, live.state, clock);
        let mut dealt = 0;
        while dealt < due.times.len().min(most) && self.takes_run(live.weight) {
            self.run_once(live, now);
            dealt += 1;
        }
        if dealt == due.times.len() {
            live.state = due.state;
            live.looked = Some(now.engine);
        } else if let Some(last) = due.times[..dealt].last() {
            // The others come in the next turns. Since when it was not looked at stays: they are missed as before.
            live.state.until_ms = *last;
        } else {
            return 0;
        }
        live.find_next();
        if due.skipped > 0 {
            log::info!("schedule {:?}: {} missed runs are left out", live.row.name, due.skipped);
        }
        if dealt > 0 || due.jumped {
            live.row.after = WallTime(live.state.until_ms);
            self.batch.writes.push(live.ran());
        }
        dealt
    }

    fn run_once(&mut self, live: &mut Live, now: Now) {
        match self.queue_scheduled(live) {
            Ok(Run::LeftOut) => return,
            Ok(Run::Queued) => live.row.refused = None,
            Err(why) => {
                self.batch.tell(Telling::Refused { schedule: live.row.name.clone(), why: why.clone() });
                live.row.refused = Some(RefusedRun { at: now.wall, why });
            }
        }
        // One that was refused was read too.
        self.batch.run_bytes += live.weight;
    }
}
