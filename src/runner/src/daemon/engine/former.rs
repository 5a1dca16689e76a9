//! Former spawners of native attempts: another one is configured by now (`jobs_socket`), and what they started goes on with them.
//!
//! Nothing is started there any more: a claim that was not is given back and made again for the configured one. The last of their
//! attempts lets them go.

use super::*;
use batch::Effect;

impl Engine {
    /// A former spawner is there and has not started all that was taken for its own: the others ask for the rest.
    pub(super) fn list_other_native(&mut self, not: Way) {
        let native = self.sides.iter().map(|side| side.way).filter(|way| way.executor() == Executor::Native);
        for way in native.filter(|way| *way != not).collect::<Vec<_>>() {
            self.list_side(way);
        }
    }

    /// Closes the way to those with which nothing is open, nothing is to be told and nothing is to be removed.
    pub(super) fn let_go_of_former(&mut self) {
        // After a failed commit the record is ahead of the store: what has ended in it may be open again.
        if self.health != Health::Good {
            return;
        }
        let idle: Vec<Way> =
            self.sides.former().filter(|side| side.listed && side.link.is_idle()).map(|s| s.way).collect();
        for way in idle {
            let open = self.record.leases().any(|(_, lease)| self.sides.way_of(&lease.epoch) == way);
            let strange = self.strangers.iter().any(|(of, ..)| *of == way);
            let in_flight = self.in_flight.iter().flat_map(|flight| &flight.effects);
            let to_remove =
                |effect: &Effect| matches!(effect, Effect::Forget(of, ..) | Effect::Sweep(of, ..) if *of == way);
            if open || strange || self.batch.effects.iter().chain(in_flight).any(to_remove) {
                continue;
            }
            self.sides.let_go(way);
            // Nobody tells any more of what it has of other lives of the store, and it starts nothing that would be in its way.
            self.beyond.forget_side(way);
            self.shut_slots();
            self.problems.remove(hearing::spawner_problem(way));
            self.changed = true;
            log::info!("no attempt is open with the {} spawner any more", way.name());
        }
    }
}
