//! What the spawners say, and asking them what there is.

use super::*;
use ci_runner_spawner::protocol::Request;

/// A spawner in messages.
fn spawner_of(executor: Executor) -> &'static str {
    match executor {
        Executor::Native => "the spawner",
        Executor::Systemd => "the spawner of units",
    }
}

/// Name of its troubles among the host's.
pub(super) fn spawner_problem(executor: Executor) -> &'static str {
    match executor {
        Executor::Native => "spawner",
        Executor::Systemd => "systemd spawner",
    }
}

/// The name of the problem that logs go elsewhere.
const LOGS_PROBLEM: &str = "logs elsewhere";

fn logs_elsewhere_text(dir: &std::path::Path) -> String {
    format!(
        "the spawner is of an earlier version and was started for other directories: output of jobs goes to {} until it ends, \
         which it does a moment after its last job when no daemon is connected; restart the daemon when no job runs",
        dir.display()
    )
}

impl Engine {
    /// Asks the spawner what there is; until it has told, nothing is claimed or commanded.
    pub(super) fn list_again(&mut self) {
        for executor in Executor::ALL {
            self.list_side(executor);
        }
    }

    /// The same for one side: only what was seen of its attempts is forgotten.
    fn list_side(&mut self, executor: Executor) {
        let record = &self.record;
        let of_side = |id: &JobId| record.lease(*id).is_some_and(|lease| executor_of(&lease.epoch) == executor);
        self.watches.retain(|id, _| record.lease(*id).is_some() && !of_side(id));
        self.strangers.retain(|(side, ..)| *side != executor);
        self.beyond.forget_side(executor);
        let Some(side) = self.sides.get_mut(executor) else { return };
        side.listed = false;
        if side.epoch.is_some() {
            side.lists += 1;
            if side.lists == 1 {
                side.link.send(Request::List);
            }
        }
    }

    /// Takes a word of a spawner.
    pub(super) fn heard(&mut self, executor: Executor, heard: Heard) {
        self.changed = true;
        let Some(side) = self.sides.get_mut(executor) else { return };
        match heard {
            Heard::Up { epoch, cgroup, enforces, logs_elsewhere } => {
                self.problems.remove(spawner_problem(executor));
                self.problems.remove(LOGS_PROBLEM);
                if let Some(dir) = logs_elsewhere {
                    let text = logs_elsewhere_text(&dir);
                    log::warn!("{text}");
                    self.problems.insert(LOGS_PROBLEM, text);
                }
                let what = if cgroup { "cgroups" } else { "sessions only" };
                log::info!("{} spawner connected, attempts have {what}", executor.name());
                side.epoch = Some(side.named_epoch(&epoch));
                side.why_down = None;
                side.closed = None;
                side.lists = 0;
                side.enforces = Some(enforces);
                self.tell_enforced();
                self.send_unrecorded_again();
                self.list_side(executor);
            }
            Heard::Down { why } => {
                let hint = match executor {
                    Executor::Native if self.host.jobs_have_users => {
                        "connecting again; see systemctl status ci-runner-jobs"
                    }
                    Executor::Native => "it is started again",
                    Executor::Systemd => "connecting again; see systemctl status ci-runner-spawner",
                };
                if side.why_down.as_ref() != Some(&why) {
                    log::warn!("the {} spawner is gone ({why}); jobs go on, {hint}", executor.name());
                }
                self.problems.remove(spawner_problem(executor));
                side.why_down = Some(why);
                side.epoch = None;
                side.listed = false;
            }
            Heard::Silent { pid, waited } => {
                let text = format!(
                    "{} (process {pid}) has not answered for {} s: it is stopped or hangs. Jobs go on, but none is \
                     started or told to end; `kill -CONT {pid}` wakes it if it is stopped",
                    spawner_of(executor),
                    waited.as_secs()
                );
                log::error!("{text}");
                self.problems.insert(spawner_problem(executor), text);
            }
            Heard::Answers => {
                log::info!("{} answers again", spawner_of(executor));
                self.problems.remove(spawner_problem(executor));
            }
            Heard::Listed => {
                // One list is on its way at a time. Where another was wanted meanwhile, what this one told was forgotten
                // half-way, so its end says nothing.
                if std::mem::take(&mut side.lists) > 1 {
                    self.list_side(executor);
                    return;
                }
                side.listed = true;
                let of_side = self.record.leases().filter(|(_, lease)| executor_of(&lease.epoch) == executor);
                let open: Vec<JobId> = of_side.map(|(id, _)| id).collect();
                self.count_adopted(executor, &open);
                if !open.is_empty() {
                    log::info!("looking after {} open attempts of the {} spawner", open.len(), executor.name());
                }
                self.consider_all(open);
            }
            Heard::Seen { key, seen, slot, receipt } => {
                self.saw(executor, &key, seen, receipt.map(|receipt| *receipt));
                if let Some(slot) = slot {
                    self.place_beyond(&key, &slot);
                }
            }
            Heard::RefusedStart { key, why, closed } => {
                if closed && side.closed.is_none() {
                    log::warn!("the {} spawner starts nothing any more ({why}); jobs that run go on", executor.name());
                    side.closed = Some(why.clone());
                }
                self.start_refused(&key, &why);
            }
        }
    }
}
