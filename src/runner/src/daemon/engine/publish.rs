//! What the loop shows: snapshots, news, the status line, the watchdog.

use super::sides::Side;
use super::*;
use ci_runner_core::announce::announce;

/// Snapshots are made at most this often, unless somebody waits for one.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// The next one is made when so many times the cost of the last one has passed since: however much there is to show, however
/// many ask, and however often, snapshots take a tenth of the loop's time at most.
const COST_TIMES: u32 = 9;
/// And not before this has passed, also where somebody waits: a snapshot that costs nothing still costs a turn.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(2);
/// But after this at last: what held up the making of one (a machine that stood still) must not keep the next away.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// While attempts are open a snapshot is not older, or by one idle look.
const STALE: Duration = Duration::from_secs(10);

impl Engine {
    /// Makes a snapshot when something changed and the last one is old enough, and answers those who wait for one.
    pub(super) fn publish(&mut self, now: Now) {
        let begin = std::time::Instant::now();
        // What is stuck becomes so by time alone.
        let stale = self.published.is_some_and(|at| begin >= at + STALE);
        self.changed |= stale && self.record.leases().next().is_some();
        if self.changed && self.published.is_none_or(|at| begin >= at + self.publish_pause()) {
            self.changed = false;
            let mut snapshot = self.make_snapshot(now);
            self.notifier.status(begin, &status_line(&snapshot));
            self.measure(&snapshot, now);
            snapshot.figures = Arc::new(self.figures.clone());
            self.snapshot.send_replace(Arc::new(snapshot));
            let end = std::time::Instant::now();
            self.published = Some(end);
            self.publish_cost = end - begin;
        }
        if !self.changed && !self.looks.is_empty() {
            let snapshot = self.snapshot.borrow().clone();
            for look in self.looks.drain(..) {
                // Who went away does not mind.
                drop(look.send(snapshot.clone()));
            }
        }
    }

    /// From the end of one snapshot to the next.
    fn publish_pause(&self) -> Duration {
        pause_after(self.publish_cost, !self.looks.is_empty())
    }

    pub(super) fn next_publish(&self) -> Option<tokio::time::Instant> {
        let at = self.published.map_or_else(std::time::Instant::now, |at| at + self.publish_pause());
        self.changed.then_some(at.into())
    }

    /// When the status line that waits may be sent.
    pub(super) fn next_status(&self) -> Option<tokio::time::Instant> {
        self.notifier.next_due(std::time::Instant::now()).map(Into::into)
    }

    /// Feeds the watchdog: this turn was made, and no commit hangs.
    pub(super) fn feed(&mut self) {
        self.notifier.tick(std::time::Instant::now());
        let Some(interval) = self.notifier.watchdog_interval() else { return };
        let now = tokio::time::Instant::now();
        if self.watchdog_at.is_some_and(|at| at > now) {
            return;
        }
        self.watchdog_at = Some(now + interval);
        if self.in_flight.as_ref().is_none_or(|flight| flight.since.elapsed() < self.commit_patience) {
            self.notifier.watchdog();
        }
    }

    fn make_snapshot(&self, now: Now) -> Snapshot {
        let leases = self.record.leases().map(|(id, lease)| LeaseView {
            job: id,
            attempt: lease.attempt.0,
            pool: self.record.pool_name(lease.pool).to_owned(),
            slot: lease.slot,
            phase: self.record.phase(id).unwrap_or(ci_runner_core::state::Phase::Queued),
            since: lease.started.unwrap_or(lease.claimed),
        });
        let mut problems: Vec<String> = self.problems.values().cloned().collect();
        if let Some(trouble) = &self.trouble {
            problems.push(format!("the store takes no commits: {}", trouble.text));
        }
        problems.extend(self.sides.iter().filter_map(Side::problem));
        problems.extend(self.schedules.problems());
        Snapshot {
            now,
            counts: self.record.counts(),
            finished: self.finished.clone(),
            pools: self.record.pools_in_use(),
            groups: self.record.groups().collect(),
            leases: leases.collect(),
            oldest_waiting: self.record.oldest_waiting(),
            paused: self.record.paused().cloned(),
            busy: self.record.busy().to_vec(),
            problems,
            stopping: self.stopping,
            executor_up: self.sides.all_up(),
            executors: self.executors(),
            sides: self.sides.iter().map(Side::view).collect(),
            troubles: self.problems.clone(),
            store_failing: self.health != Health::Good,
            figures: Arc::default(),
        }
    }

    /// By pool: who runs its jobs.
    fn executors(&self) -> BTreeMap<String, Executor> {
        self.record.pools().map(|pool| (pool.name.clone(), self.host.executor_of(&pool.name))).collect()
    }

    pub(super) fn tell_news(&mut self, told: u64, reply: oneshot::Sender<Vec<Announcement>>) {
        // A listener that went away does not mind.
        drop(reply.send(announce(&self.record, told, self.committed_news)));
    }
}

/// How long after a snapshot that cost so much the next one may be made.
fn pause_after(cost: Duration, is_waited_for: bool) -> Duration {
    let least = if is_waited_for { LOOK_EVERY_MIN } else { PUBLISH_EVERY };
    (cost * COST_TIMES).clamp(least, PAUSE_MAX)
}

/// The line of `systemctl status`.
fn status_line(snapshot: &Snapshot) -> String {
    let queued: usize = snapshot.counts.values().map(|counts| counts.queued).sum();
    let running: usize = snapshot.counts.values().map(|counts| counts.running + counts.stopping).sum();
    let starting: usize = snapshot.counts.values().map(|counts| counts.starting).sum();
    let of = |word: &str| snapshot.finished.get(word).copied().unwrap_or(0);
    let judged = of("succeeded") + of("failed") + of("timed_out");
    let mut line = format!("{queued} queued, {running} running");
    if starting > 0 {
        line.push_str(&format!(", {starting} starting"));
    }
    if let Some(rate) = (of("succeeded") * 100).checked_div(judged) {
        line.push_str(&format!(", {rate} % succeeded of {judged}"));
    }
    if let Some(pause) = &snapshot.paused {
        line.push_str(if pause.drain { "; draining" } else { "; paused" });
    }
    if !snapshot.busy.is_empty() {
        line.push_str("; the host is too busy for more");
    }
    if snapshot.stopping {
        line.push_str("; stopping");
    }
    if let Some(problem) = snapshot.problems.first() {
        line.push_str(&format!("; {problem}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With 100,000 groups one takes some 60 ms: made every 100 ms whatever it cost, it slowed everything.
    #[test]
    fn snapshots_take_a_tenth_of_the_time_at_most() {
        let ms = Duration::from_millis;
        for cost in [ms(0), ms(1), ms(20), ms(60), ms(500)] {
            for is_waited_for in [true, false] {
                let pause = pause_after(cost, is_waited_for);
                assert!(cost * 10 <= cost + pause, "{cost:?} {is_waited_for}: {pause:?}");
            }
        }
        assert_eq!((pause_after(ms(0), false), pause_after(ms(0), true)), (PUBLISH_EVERY, LOOK_EVERY_MIN));
        assert_eq!(pause_after(Duration::from_secs(3600), true), PAUSE_MAX, "once is no measure");
    }
}
