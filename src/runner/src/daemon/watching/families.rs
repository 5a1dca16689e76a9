//! Alarms and notices as figures. Labels: the watches, and the notifiers of the configuration, which are few.

use super::Watching;
use ci_runner_core::watch::Watch;
use ci_runner_hostmetrics::exposition::Families;

/// How a try or a delivery may end; each is shown from the start, so that rates can be made of them.
const RESULTS: [&str; 4] = ["delivered", "failed", "given_up", "dropped"];

impl Watching {
    /// Adds them.
    pub fn families(&self, families: &mut Families) {
        if !self.is_on() {
            return;
        }
        let board = self.board();
        for watch in Watch::ALL.map(Watch::word) {
            let active = board.active.iter().filter(|alarm| alarm.watch == watch).count();
            families
                .gauge("ci_runner_watch_active", "Alarms that are active, by watch.")
                .add(&[("watch", watch)], active as f64);
            families
                .counter("ci_runner_watch_events_total", "Alarms that started, by watch.")
                .add(&[("watch", watch)], board.started.get(watch).copied().unwrap_or(0) as f64);
        }
        for notifier in self.notifiers() {
            let name = notifier.name.as_str();
            families
                .gauge("ci_runner_notifications_waiting", "Notices that wait to be delivered, by notifier.")
                .add(&[("notifier", name)], notifier.waiting as f64);
            for result in RESULTS {
                let help = "Notices by notifier and result: delivered, given up, dropped because the queue was full; \
                            failed counts tries.";
                let count = notifier.counts.get(result).copied().unwrap_or(0);
                families
                    .counter("ci_runner_notifications_total", help)
                    .add(&[("notifier", name), ("result", result)], count as f64);
            }
        }
    }
}
