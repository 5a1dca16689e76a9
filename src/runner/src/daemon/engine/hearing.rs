//! What the spawners say, and asking them what there is.

use super::*;
use crate::executor::native::Up;
use ci_runner_spawner::protocol::Request;

/// A spawner in messages.
fn spawner_of(way: Way) -> &'static str {
    match way {
        Way::Native => "the spawner",
        Way::Systemd => "the spawner of units",
        Way::Former(_) => "the former spawner of native attempts",
    }
}

/// Name of its troubles among the host's.
pub(super) fn spawner_problem(way: Way) -> &'static str {
    match way {
        Way::Native => "spawner",
        Way::Systemd => "systemd spawner",
        Way::Former(_) => "former spawner",
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
        for way in self.sides.iter().map(|side| side.way).collect::<Vec<_>>() {
            self.list_side(way);
        }
    }

    /// The same for one side: only what was seen of its attempts is forgotten.
    pub(super) fn list_side(&mut self, way: Way) {
        let (record, sides) = (&self.record, &self.sides);
        let of_side = |id: &JobId| record.lease(*id).is_some_and(|lease| sides.way_of(&lease.epoch) == way);
        self.watches.retain(|id, _| record.lease(*id).is_some() && !of_side(id));
        self.strangers.retain(|(side, ..)| *side != way);
        self.beyond.forget_side(way);
        let Some(side) = self.sides.get_mut(way) else { return };
        side.listed = false;
        if side.epoch.is_some() {
            side.lists += 1;
            if side.lists == 1 {
                side.link.send(Request::List);
            }
        }
    }

    fn tell_logs_elsewhere(&mut self, dir: Option<&std::path::Path>) {
        self.problems.remove(LOGS_PROBLEM);
        if let Some(dir) = dir {
            let text = logs_elsewhere_text(dir);
            log::warn!("{text}");
            self.problems.insert(LOGS_PROBLEM, text);
        }
    }

    /// A spawner is connected, perhaps another one than before.
    fn side_up(&mut self, way: Way, up: Up) {
        self.problems.remove(spawner_problem(way));
        if !way.is_former() {
            self.tell_logs_elsewhere(up.logs_elsewhere.as_deref());
        }
        let what = if up.cgroup { "cgroups" } else { "sessions only" };
        log::info!("{} spawner connected, attempts have {what}", way.name());
        let Some(side) = self.sides.get_mut(way) else { return };
        side.epoch = Some(side.named_epoch(&up.epoch));
        side.why_down = None;
        side.closed = None;
        side.lists = 0;
        side.enforces = Some(up.enforces);
        let others = side.narrow();
        let own = side.epoch.clone().filter(|_| way == Way::Native);
        for former in own.map(|epoch| self.sides.disown(&epoch)).unwrap_or_default() {
            self.problems.remove(spawner_problem(former));
        }
        self.tell_enforced();
        self.send_unrecorded_again();
        self.list_side(way);
        if others {
            self.list_other_native(way);
        }
    }

    /// Takes a word of a spawner.
    pub(super) fn heard(&mut self, way: Way, heard: Heard) {
        self.changed = true;
        let Some(side) = self.sides.get_mut(way) else { return };
        match heard {
            Heard::Up(up) => self.side_up(way, up),
            Heard::Down { why } => {
                let hint = match way {
                    Way::Native if self.host.jobs_have_users => "connecting again; see systemctl status ci-runner-jobs",
                    Way::Native => "it is started again",
                    Way::Former(_) => "connecting again",
                    Way::Systemd => "connecting again; see systemctl status ci-runner-spawner",
                };
                if side.why_down.as_ref() != Some(&why) {
                    log::warn!("the {} spawner is gone ({why}); jobs go on, {hint}", way.name());
                }
                self.problems.remove(spawner_problem(way));
                side.why_down = Some(why);
                side.epoch = None;
                side.listed = false;
            }
            Heard::Silent { pid, waited } => {
                let text = format!(
                    "{} (process {pid}) has not answered for {} s: it is stopped or hangs. Jobs go on, but none is \
                     started or told to end; `kill -CONT {pid}` wakes it if it is stopped",
                    spawner_of(way),
                    waited.as_secs()
                );
                log::error!("{text}");
                self.problems.insert(spawner_problem(way), text);
            }
            Heard::Answers => {
                log::info!("{} answers again", spawner_of(way));
                self.problems.remove(spawner_problem(way));
            }
            Heard::Listed => {
                // One list is on its way at a time. Where another was wanted meanwhile, what this one told was forgotten
                // half-way, so its end says nothing.
                if std::mem::take(&mut side.lists) > 1 {
                    self.list_side(way);
                    return;
                }
                side.listed = true;
                let of_side = self.record.leases().filter(|(_, lease)| self.sides.way_of(&lease.epoch) == way);
                let open: Vec<JobId> = of_side.map(|(id, _)| id).collect();
                self.shut_slots();
                self.count_adopted(way, &open);
                if !open.is_empty() {
                    log::info!("looking after {} open attempts of the {} spawner", open.len(), way.name());
                }
                self.consider_all(open);
            }
            Heard::Seen { key, seen, slot, receipt } => {
                self.saw(way, &key, seen, receipt.map(|receipt| *receipt));
                if let Some(slot) = slot {
                    self.place_beyond(&key, &slot);
                }
            }
            Heard::RefusedStart { key, why, closed } => {
                if closed && side.closed.is_none() {
                    log::warn!("the {} spawner starts nothing any more ({why}); jobs that run go on", way.name());
                    side.closed = Some(why.clone());
                }
                self.start_refused(&key, &why);
            }
        }
    }
}
