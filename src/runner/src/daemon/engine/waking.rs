//! What wakes the loop, and when it wakes by itself.

use super::*;

/// Without anything to do the loop still looks this often, so that a lost wake-up costs latency only.
const IDLE_LOOK: Duration = Duration::from_secs(30);

/// What woke the loop.
pub(super) enum Woken {
    Wish(Wish),
    Answer(Answer),
    Heard(Way, Heard),
    Control(Control),
    News(u64, oneshot::Sender<Vec<Announcement>>),
    Time,
    Gone,
}

impl Engine {
    pub(super) async fn wait(&mut self, now: Now) -> Woken {
        let until = self.next_look(now);
        tokio::select! {
            biased;
            // None: the writer died. Without it nothing can be kept, so the loop ends and says so.
            answer = self.writer.answers.recv() => answer.map_or(Woken::Gone, Woken::Answer),
            Some(control) = self.control.recv() => Woken::Control(control),
            (way, heard) = self.sides.next() => Woken::Heard(way, heard),
            wish = self.wishes.recv() => wish.map_or(Woken::Gone, Woken::Wish),
            Some((told, reply)) = self.news_asked.recv() => Woken::News(told, reply),
            () = tokio::time::sleep_until(until) => Woken::Time,
        }
    }

    /// When something falls due by itself.
    fn next_look(&self, now: Now) -> tokio::time::Instant {
        let (engine, wall) = self.record.next_times();
        let chores = self.health == Health::Good && !self.stopping;
        let has_room = self.room_in_batch() > 0;
        let scheduled = self.schedules.next().filter(|_| chores && self.has_room_for_runs());
        let wall = [wall, scheduled].into_iter().flatten().min();
        let mut wait_ms = u64::try_from(IDLE_LOOK.as_millis()).unwrap_or(u64::MAX);
        // A slice that changed nothing brings no commit that would wake the loop for the next one.
        if !self.bulks.is_empty() && self.health == Health::Good && has_room {
            wait_ms = 0;
        }
        if let Some(wall) = wall {
            wait_ms = wait_ms.min(u64::try_from(wall.0.saturating_sub(now.wall.0)).unwrap_or(0));
        }
        let probe = match self.health {
            Health::Probing { at } | Health::Unread { at } => Some(at),
            Health::Good | Health::Reloading => None,
        };
        let collect = Some(self.next_collect).filter(|_| !self.stopping && !self.collecting);
        let host = self.next_host_look().filter(|_| chores);
        let due = [engine, self.record.next_stale(), probe, self.next_press(), collect, host];
        if let Some(due) = due.into_iter().flatten().min() {
            wait_ms = wait_ms.min(due.since_ms(now.engine));
        }
        // A due time that this turn could not serve (the store fails, the batch is full) must not spin the loop.
        let mut until = tokio::time::Instant::now() + Duration::from_millis(wait_ms.max(1));
        let others = [self.next_publish(), self.watchdog_at, self.next_status(), self.flush_due().map(Into::into)];
        for other in others.into_iter().flatten() {
            until = until.min(other);
        }
        until
    }
}
