//! The checker of promises of memory and CPU, counted a second time from what is on disk.

use crate::check::Truth;
use crate::check_claim::{View, fits, order};
use crate::store::{Row, Store};
use ci_runner_core::id::JobId;
use ci_runner_core::limits::{Limits, Resource};
use ci_runner_core::policy::Settings;
use ci_runner_core::record::PASSED_MS_MAX;

/// What open attempts were promised.
pub(crate) fn promised(store: &Store, resource: Resource) -> u64 {
    store.rows.values().filter_map(|row| row.lease.as_ref()?.0.limits.get(resource)).sum()
}

fn budget(settings: &Settings, resource: Resource) -> Option<u64> {
    match resource {
        Resource::Memory => settings.budget.memory_bytes,
        Resource::Cpu => settings.budget.cpu_milli,
        Resource::Pids => None,
    }
}

/// What a job gets in a pool.
fn asked(settings: &Settings, row: &Row, pool: &str, resource: Resource) -> Option<u64> {
    let defaults = settings.pools.iter().find(|one| one.name == pool).map_or(Limits::NONE, |one| one.defaults);
    row.terms.limits.or(defaults).get(resource).filter(|_| budget(settings, resource).is_some())
}

/// Whether a job asks for nothing that is counted.
fn is_free(settings: &Settings, row: &Row, pool: &str) -> bool {
    Resource::ALL.into_iter().all(|resource| asked(settings, row, pool, resource).is_none())
}

/// Whether a job fits beside what was promised: alone it always does.
pub(crate) fn has_room(store: &Store, settings: &Settings, row: &Row, pool: &str) -> bool {
    Resource::ALL.into_iter().all(|resource| {
        let (Some(asked), Some(budget)) = (asked(settings, row, pool, resource), budget(settings, resource)) else {
            return true;
        };
        let promised = promised(store, resource);
        promised == 0 || promised + asked <= budget
    })
}

/// Whether a job fits nowhere now, of all places where it could be started.
fn is_blocked(view: View<'_>, row: &Row) -> bool {
    let View { store, settings, places, .. } = view;
    let pools = settings.pools.iter().filter(|pool| fits(view, row, &pool.name) && !places.down.contains(&pool.name));
    let mut room = pools.map(|pool| has_room(store, settings, row, &pool.name)).peekable();
    room.peek().is_some() && !room.any(|has| has)
}

/// Places of a pool that are taken, by claims too.
pub(crate) fn taken(store: &Store, pool: &str) -> usize {
    store.rows.values().filter(|row| row.lease.as_ref().is_some_and(|(_, name)| name == pool)).count()
}

/// Whether every place of a pool is taken: a claim there is made ahead.
fn is_full(view: View<'_>, pool: &str) -> bool {
    let slots = view.settings.pools.iter().find(|one| one.name == pool).map_or(0, |one| one.slots);
    taken(view.store, pool) >= view.places.usable(pool, slots)
}

/// Whether any pool that may take a job has a free place: room is of no use to one without.
fn has_place(view: View<'_>, row: &Row) -> bool {
    let is_free = |name: &str| fits(view, row, name) && !view.places.down.contains(name) && !is_full(view, name);
    view.settings.pools.iter().any(|pool| is_free(&pool.name))
}

impl Truth {
    /// A job that fits nowhere, and has let others pass for long enough. Where the date was set nobody knows whether one that
    /// has a date is due.
    fn is_late(&self, view: View<'_>, id: JobId, row: &Row) -> bool {
        self.claimable_but_date(id, row, view.at)
            && view.at.engine.since_ms(row.ready_at) >= PASSED_MS_MAX
            && is_blocked(view, row)
    }

    /// A job that might be waited for: it is late, and there is a place that room would let it take.
    pub(crate) fn is_waited_for(&self, view: View<'_>, id: JobId, row: &Row) -> bool {
        self.is_late(view, id, row) && has_place(view, row)
    }

    pub(crate) fn check_room(&mut self, view: View<'_>, (id, row): (JobId, &Row), pool: &str) {
        let View { store, settings, at, .. } = view;
        let room = has_room(store, settings, row, pool);
        self.require(room, "what_is_promised_can_be_had", || {
            format!("job {id} in {pool}: {:?}, promised {}", row.terms.limits, promised(store, Resource::Memory))
        });
        let (free, ahead) = (is_free(settings, row, pool), is_full(view, pool));
        // What it takes from a late job: room, where that has a place, or the next place.
        let takes = |late: &Row| match has_place(view, late) {
            true => !free,
            false => ahead && fits(view, late, pool),
        };
        let key = order(id, row);
        let class = |row: &Row| (row.terms.pool.clone(), row.terms.labels.clone(), row.terms.limits);
        // The first of its kind speaks for all; one of a group may wait for the group.
        let late = store.rows.iter().find(|(other, late)| {
            order(**other, late) < key
                && late.terms.group.is_none()
                && self.claimable(**other, late, at)
                && self.is_late(view, **other, late)
                && takes(late)
                && !store.rows.iter().any(|(before, row)| {
                    class(row) == class(late)
                        && order(*before, row) < order(**other, late)
                        && self.claimable_but_date(*before, row, at)
                })
        });
        if let Some((late, _)) = late {
            self.violate("who_waited_long_enough_goes_next", format!("job {id} takes what job {late} waits for"));
        }
    }
}
